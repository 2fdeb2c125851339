"""Whether answers have got worse between two runs: McNemar's exact test, and a loss that matters.

The same questions are asked every night, so two runs are compared question by question; a
change of the score that many changed answers in both directions could have made is no loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .binomial import fair_tail

# One false alarm in a thousand comparisons of runs whose answers change in both directions.
# Deterministic backends change none, and then there is nothing to test.
LEVEL = 0.001


@dataclass(frozen=True)
class Change:
    """Questions that only the earlier run (`lost`) or only the later one (`gained`) has right.

    `changed` names both kinds, in the order of the earlier run.
    """

    questions: int
    lost: int
    gained: int
    changed: tuple[str, ...]

    @property
    def points(self) -> float:
        """What exact_match has lost, in points (per cent of the questions); negative if gained."""
        return 100 * (self.lost - self.gained) / self.questions

    @property
    def p_worse(self) -> float:
        """The chance of as many losses if losing and gaining were equally likely (one-sided)."""
        return fair_tail(self.lost, self.lost + self.gained)

    @property
    def p_changed(self) -> float:
        """The two-sided p-value of McNemar's exact test (McNemar 1947; exact: Mosteller 1952)."""
        return min(1.0, 2 * fair_tail(max(self.lost, self.gained), self.lost + self.gained))

    def is_loss(self, allowed_points: float, level: float = LEVEL) -> bool:
        """Whether the loss is significant at `level` and larger than `allowed_points`.

        Both: three answers of three are significant of nothing that golden does not allow, and
        a loss of a point is chance where two hundred answers change each way.
        """
        return self.p_worse <= level and self.points > allowed_points


def compare(earlier: Mapping[str, bool], later: Mapping[str, bool]) -> Change:
    """What changed between two runs; each maps a question's id to whether its answer is right.

    Raises ValueError when the runs answer different questions, or none.
    """
    if earlier.keys() != later.keys() or not earlier:
        raise ValueError("the runs answer different questions or none")
    changed = tuple(key for key, right in earlier.items() if right != later[key])
    lost = sum(earlier[key] for key in changed)
    return Change(len(earlier), lost, len(changed) - lost, changed)
