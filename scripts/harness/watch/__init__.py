"""What a timed run could not know otherwise: what else the machine did while it was measured.

A thread takes samples a few times a second: clocks, power, temperatures, load. What disturbed the
run, by the rules that each probe states, is named, so that a number made on a busy machine is
never mistaken for a slow model.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Protocol

from ..errors import UserError, one_line

# Two samples a second show any clock that a governor changes, and cost well under a thousandth.
INTERVAL_SECONDS = 0.5
# The processor's other work slows batches that run on it; beside a GPU it slows only the rest.
QPS, END_TO_END = "qps", "qps_end_to_end"


@dataclass(frozen=True)
class Disturbance:
    """Something else that took part of the device.

    what: its kind in a word or two. detail: who and how much, for people.
    share: of the device's time that it took, or of the samples that show it, in 0..1; None where
        only its presence is known.
    affects: the first speed that is wrong for it, QPS or END_TO_END (QPS affects both).
    """

    what: str
    detail: str
    share: float | None
    affects: str


class Probe(Protocol):
    """One source of samples. Any exception ends its part in the watch, never the run."""

    name: str

    def begin(self) -> None:
        """Get ready, just before the timed part."""
        ...

    def sample(self) -> Mapping[str, float]:
        """Numbers of this moment by name, the unit at the name's end."""
        ...

    def end(self) -> list[Disturbance]:
        """What disturbed the timed part, just after it."""
        ...

    def unseen(self) -> list[str]:
        """What it could not see, a line each."""
        ...


class Watch:
    """Watch the block that this is entered for, with `probes`.

    A sample is taken at its begin, every `interval` seconds, and at its end.
    """

    def __init__(self, probes: Sequence[Probe], interval: float = INTERVAL_SECONDS) -> None:
        self.disturbances: list[Disturbance] = []
        self._probes = list(probes)
        self._interval = interval
        self._values: dict[str, list[float]] = {}
        self._unseen: list[str] = []
        self._count = 0
        self._seconds = self._cost = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_sampling, daemon=True, name="watch")

    def __enter__(self) -> Watch:
        self._began = time.perf_counter()
        for probe in list(self._probes):
            self._guarded(probe, probe.begin)
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._sample()
        for probe in list(self._probes):
            self._guarded(probe, lambda probe=probe: self.disturbances.extend(probe.end()))
            self._unseen += probe.unseen()
        self._seconds = time.perf_counter() - self._began

    @property
    def samples(self) -> dict[str, Any]:
        """The samples as run.json holds them.

        `seconds` watched; `count` of samples; `cost_seconds`, the processor time that taking them
        needed; `values`, the min, median and max of each; `unseen`, what could not be watched.
        """
        return {
            "seconds": self._seconds,
            "count": self._count,
            "cost_seconds": self._cost,
            "values": {
                name: {
                    "min": min(found),
                    "median": statistics.median(found),
                    "max": max(found),
                }
                for name, found in self._values.items()
            },
            "unseen": self._unseen,
        }

    def as_json(self) -> dict[str, Any]:
        """`disturbances` and `samples`, as run.json holds them."""
        return {
            "disturbances": [asdict(found) for found in self.disturbances],
            "samples": self.samples,
        }

    def _keep_sampling(self) -> None:
        while not self._over.wait(self._interval):
            self._sample()

    def _sample(self) -> None:
        began = time.thread_time()
        for probe in list(self._probes):
            self._guarded(probe, lambda probe=probe: self._add(probe.sample()))
        self._count += 1
        self._cost += time.thread_time() - began

    def _add(self, found: Mapping[str, float]) -> None:
        for name, value in found.items():
            self._values.setdefault(name, []).append(value)

    def _guarded(self, probe: Probe, action: Any) -> None:
        try:
            action()
        except Exception as error:  # A watcher that fails must not take the run with it.
            self._probes.remove(probe)
            self._unseen.append(one_line(f"{probe.name} ({error or type(error).__name__})"))


def watch_device(vendor: str | None, device: Mapping[str, Any]) -> Watch:
    """A watch over the processor and, for a backend of `vendor`, its `device` (the facts that
    `Backend.device` gives)."""
    from .iluvatar import Iluvatar
    from .nvidia import Nvidia
    from .processor import Processor

    probes: list[Probe] = [Processor(affects=QPS if vendor is None else END_TO_END)]
    if vendor == "nvidia":
        probes.append(Nvidia(str(device.get("uuid", ""))))
    elif vendor == "iluvatar":
        probes.append(Iluvatar(str(device.get("uuid", ""))))
    return Watch(probes)


def disturbed(run: Mapping[str, Any], speed: str = QPS) -> str:
    """What disturbed `speed` of the run in run.json, in a line; "" if nothing is known to have.

    Raises UserError where the run was not watched, as before there was a watch, or where what it
    says of disturbances is malformed.
    """
    if "disturbances" not in run:
        raise UserError("nothing is known of what disturbed the run; run `make infer REMEASURE=1`")
    affecting = {QPS: (QPS,), END_TO_END: (QPS, END_TO_END)}[speed]
    try:
        found = [
            f"{entry['what']} ({entry['detail']})"
            for entry in run["disturbances"]
            if entry["affects"] in affecting
        ]
    except (LookupError, TypeError) as error:
        raise UserError(
            f"the run's disturbances are malformed ({error}); run `make infer REMEASURE=1`"
        ) from None
    return one_line("; ".join(found))
