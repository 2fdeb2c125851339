"""What a machine that measures every night needs: a history, and a judgement on it."""
