"""BERT-base's shapes, and the windows' lengths that ragged batches are taken from."""

from __future__ import annotations

import math
import os
import statistics
from pathlib import Path
from statistics import NormalDist

from ..errors import UserError
from ..files import read_json

HIDDEN, INNER, HEADS = 768, 3072, 12
VOCAB, SEGMENTS, POSITIONS = 30522, 2, 512
WINDOWS, LENGTH = 32, 384
TOKENS = WINDOWS * LENGTH
# (windows, quantile of the sorted lengths).
RAGGED = ((32, 0.1), (32, 0.5), (32, 0.9), (128, 0.5))
# SQuAD v1.1 dev has 10,570 questions, and windows of 175 tokens on average.
SYNTHETIC_COUNT, SYNTHETIC_MEDIAN, SYNTHETIC_SIGMA = 10570, 163.4, 0.37
SHORTEST = 41


def read_lengths() -> tuple[list[int], str]:
    """Windows' lengths in tokens, sorted, and where they come from: the file LENGTHS, or made."""
    path = os.environ.get("LENGTHS")
    if not path:
        spread = NormalDist(math.log(SYNTHETIC_MEDIAN), SYNTHETIC_SIGMA)
        made = (
            round(math.exp(spread.inv_cdf((i + 0.5) / SYNTHETIC_COUNT)))
            for i in range(SYNTHETIC_COUNT)
        )
        lengths = [min(max(length, SHORTEST), LENGTH) for length in made]
        source = "synthetic, lognormal"
    else:
        lengths = read_json(Path(path), "LENGTHS")
        least = max(windows for windows, _ in RAGGED)
        if not isinstance(lengths, list) or len(lengths) < least:
            raise UserError(f"LENGTHS holds no list of at least {least} lengths; check the file")
        if not all(type(length) is int and 1 <= length <= POSITIONS for length in lengths):
            raise UserError(f"LENGTHS holds something else than integers from 1 to {POSITIONS}")
        lengths.sort()
        source = Path(path).name
    return lengths, f"{source}, mean {statistics.mean(lengths):.1f}"
