"""The rules by which a GPU's samples are judged, the same for every vendor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from . import QPS, Disturbance

# Seen in more than a tenth of the samples: less cannot move the median of five passes far.
SEEN_LIMIT = 0.1
# Why clocks are held down, by the bits of nvmlClocksEventReasons in NVIDIA's nvml.h. Left out is
# what belongs to the device as it is set up: idle, clocks that the owner chose, and the power cap,
# which a GPU at full work meets all the time.
REASONS = {
    0x08: "hardware slowdown",
    0x10: "held to another GPU's clocks",
    0x20: "hot, by the driver",
    0x40: "hot, by the hardware",
    0x80: "power brake",
    0x100: "display's clocks",
}


class Tally:
    """Counts what a GPU's samples show besides their numbers."""

    def __init__(self) -> None:
        self._reasons: Counter[str] = Counter()
        self._reason_samples = 0
        self._others: Counter[str] = Counter()
        self._other_samples = self._shared = 0

    def reasons(self, bits: int) -> None:
        """One sample's reasons for lower clocks."""
        self._reason_samples += 1
        self._reasons.update(word for bit, word in REASONS.items() if bits & bit)

    def others(self, names: Iterable[str]) -> None:
        """One sample's other processes on the device."""
        names = set(names)
        self._other_samples += 1
        self._shared += bool(names)
        self._others.update(names)

    def disturbances(self) -> list[Disturbance]:
        """What more than SEEN_LIMIT of the samples show."""
        found = []
        for word, count in sorted(self._reasons.items()):
            if (share := count / self._reason_samples) > SEEN_LIMIT:
                detail = f"{word}, in {share:.0%} of the samples"
                found.append(Disturbance("GPU throttling", detail, share, QPS))
        if self._shared:
            share = self._shared / self._other_samples
            if share > SEEN_LIMIT:
                detail = ", ".join(name for name, _ in self._others.most_common(3))
                found.append(Disturbance("GPU shared", detail, share, QPS))
        return found
