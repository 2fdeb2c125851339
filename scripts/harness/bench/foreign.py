"""A process that takes a share of a core and does nothing else: somebody else's work, in doses.

Run as `python -m harness.bench.foreign`. Each line of its input is the duty cycle to keep up until
the next one, in 0..1; it is answered with the processor time that the one before took, in s. It
ends with its input.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from types import TracebackType

from ..paths import ROOT

# As often a share of it is worked off: about what a daemon's timer does, and short beside a pass.
PERIOD_SECONDS = 0.1


class Foreign:
    """The process, for the block that this is entered for; at first it does nothing."""

    def __enter__(self) -> Foreign:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C means what this process makes of it.
            start_new_session=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def take(self, duty: float) -> float:
        """From now on take `duty` of a core, 0 to 1; the seconds of processor time taken since the
        last call."""
        pipe_in, pipe_out = self._process.stdin, self._process.stdout
        assert pipe_in is not None and pipe_out is not None
        pipe_in.write(f"{duty!r}\n")
        pipe_in.flush()
        return float(pipe_out.readline())


def main() -> None:
    """Work and answer until the input ends."""
    duty, since = 0.0, time.process_time()
    while True:
        began, worked = time.perf_counter(), time.process_time()
        # By its own clock: a process that shares its core needs longer for the same work.
        while time.process_time() - worked < duty * PERIOD_SECONDS:
            continue
        rest = max(0.0, began + PERIOD_SECONDS - time.perf_counter()) if duty else None
        if select.select([sys.stdin], [], [], rest)[0]:
            line = sys.stdin.readline()
            if not line:
                return
            now = time.process_time()
            print(now - since, flush=True)
            duty, since = float(line), now


if __name__ == "__main__":
    main()
