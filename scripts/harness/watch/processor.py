"""The processor through /proc and /sys: who else ran on our cores, steal, clocks, throttling.

Foreign time is what is left of our cores' time after idling, this process and the hypervisor: it
needs two small files a sample, and sees what a container hides. Processes are looked through only
to name who it was: before and after the run, and while somebody is there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import Disturbance

# Other work disturbs when it takes, on average, more than a tenth of a core: the threads of a
# layer wait for the slowest, so what one core loses all of them lose. On many cores the limit is
# a hundredth of them: what a server's daemons need.
CORE_LIMIT, MACHINE_LIMIT = 0.1, 0.01
# A core that was slowed down for heat during a tenth of the run.
THROTTLED_LIMIT = 0.1
# Named is who took half of that, at most three of them.
_NAMED_CORES, _NAMED_MOST = 0.05, 3
# Looking through all processes takes some 50 µs each: no more than this part of the time.
_SCAN_SHARE = 0.01
# Each clock is a file: a few cores stand for all.
_CLOCKS_MOST = 8
_IDLE, _IOWAIT, _STEAL, _FIELDS = 3, 4, 7, 8
_PF_KTHREAD = 0x00200000


def own_seconds() -> float:
    """Processor time of this process and its finished children, in s."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


@dataclass(frozen=True)
class _Reading:
    """A moment's clock, and counters of our cores together, all in s."""

    at: float
    idle: float
    steal: float
    total: float
    own: float


@dataclass
class _Process:
    """A process and its processor time, in s: when first seen, and last."""

    name: str
    first: float
    last: float


@dataclass
class Processor:
    """The cores that this process may use; `affects` is the speed that depends on them."""

    affects: str
    proc: Path = Path("/proc")
    sys: Path = Path("/sys/devices/system/cpu")
    cores: frozenset[int] = field(default_factory=lambda: frozenset(os.sched_getaffinity(0)))
    own: Callable[[], float] = own_seconds
    clock: Callable[[], float] = time.perf_counter
    tick: float = field(default_factory=lambda: 1 / os.sysconf("SC_CLK_TCK"))
    pid: int = field(default_factory=os.getpid)
    name: str = "the processor"

    def begin(self) -> None:
        """Note all counters, and every process."""
        self._processes: dict[tuple[int, int], _Process] = {}
        self._throttled = self._throttle_counters()
        # Sorted, so that the same few cores are read each time.
        self._clock_files = [
            path
            for core in sorted(self.cores)[:_CLOCKS_MOST]
            if (path := self.sys / f"cpu{core}" / "cpufreq" / "scaling_cur_freq").is_file()
        ]
        self._scan(known=True)
        self._first = self._last = self._read()

    def sample(self) -> Mapping[str, float]:
        """`foreign_cores` and `steal_cores` since the last sample, `load`, `cpu_clock_mhz`."""
        now, before = self._read(), self._last
        found = {"load": os.getloadavg()[0]}
        # Counters move in ticks: over a shorter while they say nothing.
        if now.at - before.at >= 10 * self.tick:
            self._last = now
            if self._counts(before, now):
                found["foreign_cores"] = self._foreign(before, now)
                found["steal_cores"] = (now.steal - before.steal) / (now.at - before.at)
                busy = found["foreign_cores"] > self._limit(now.at - before.at)
                if busy and now.at >= self._scan_not_before:
                    self._scan()
        clocks = [float(path.read_text()) / 1e3 for path in self._clock_files]
        if clocks:
            found["cpu_clock_mhz"] = sum(clocks) / len(clocks)
        return found

    def end(self) -> list[Disturbance]:
        """Foreign work and steal over the limits, and throttling for heat."""
        first, now = self._first, self._read()
        self._last = now
        self._scan()
        seconds = now.at - first.at
        found = list(self._heat(seconds))
        if not self._counts(first, now):
            return found
        limit, all_cores = self._limit(seconds), len(self.cores)
        foreign, steal = self._foreign(first, now), (now.steal - first.steal) / seconds
        if foreign > limit:
            detail = f"{foreign:.2f} of {all_cores} cores: {self._who(foreign, seconds)}"
            found.append(Disturbance("other processes", detail, foreign / all_cores, self.affects))
        if steal > limit:
            detail = f"the hypervisor gave {steal:.2f} of {all_cores} cores to others"
            found.append(Disturbance("steal", detail, steal / all_cores, self.affects))
        return found

    def unseen(self) -> list[str]:
        """Cores whose counters do not count, and processes that hide."""
        lines = []
        if not self._counts(self._first, self._last):
            lines.append("other work on the processor (its counters do not tell)")
        elif not self._sees_all():
            lines.append("names of processes outside this container or of other users")
        return lines

    def _read(self) -> _Reading:
        fields = [0.0] * _FIELDS
        with (self.proc / "stat").open(encoding="ascii") as stream:
            for line in stream:
                if not line.startswith("cpu"):
                    break
                name, *counters = line.split()
                if name != "cpu" and int(name[3:]) in self.cores:
                    for place, value in enumerate(counters[:_FIELDS]):
                        fields[place] += int(value) * self.tick
        idle = fields[_IDLE] + fields[_IOWAIT]
        return _Reading(self.clock(), idle, fields[_STEAL], sum(fields), self.own())

    def _counts(self, before: _Reading, now: _Reading) -> bool:
        """Whether the counters are those of our cores: some sandboxes show zeros."""
        expected = (now.at - before.at) * len(self.cores)
        return expected > 0 and 0.5 < (now.total - before.total) / expected < 1.5

    def _foreign(self, before: _Reading, now: _Reading) -> float:
        """Cores' worth of work that was neither ours nor another guest's.

        Idle time is exact where work is counted by ticks, so work is what is not idle.
        """
        seconds = now.at - before.at
        left = seconds * len(self.cores) - (now.idle - before.idle)
        left -= (now.steal - before.steal) + (now.own - before.own)
        return max(0.0, left / seconds)

    def _limit(self, seconds: float) -> float:
        """What foreign work may take, in cores; in a short while, what rounding may make up."""
        count = len(self.cores)
        return max(CORE_LIMIT, MACHINE_LIMIT * count, 2 * self.tick * count / seconds)

    def _scan(self, known: bool = False) -> None:
        """Look through all processes; those not `known` before have used all their time since."""
        began = self.clock()
        for folder in self.proc.iterdir():
            if not folder.name.isdecimal() or int(folder.name) == self.pid:
                continue
            try:
                text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue  # It has ended since, or is hidden.
            # proc_pid_stat(5). A name stands in parentheses and may hold any character.
            head, _, tail = text.rpartition(")")
            name, fields, pid = head.partition("(")[2], tail.split(), int(folder.name)
            used = (int(fields[11]) + int(fields[12])) * self.tick
            shown = f"[{name}]" if int(fields[6]) & _PF_KTHREAD else name
            key = (pid, int(fields[19]))
            entry = self._processes.setdefault(key, _Process(shown, used if known else 0.0, used))
            entry.last = used
        now = self.clock()
        self._scan_not_before = now + (now - began) / _SCAN_SHARE

    def _who(self, foreign: float, seconds: float) -> str:
        """Who worked, with the cores that each took; what nobody here accounts for."""
        used = {key: (entry.last - entry.first) / seconds for key, entry in self._processes.items()}
        most = sorted(used, key=lambda key: -used[key])[:_NAMED_MOST]
        named = [key for key in most if used[key] >= _NAMED_CORES]
        words = [f"{self._processes[key].name} ({key[0]}) {used[key]:.2f}" for key in named]
        rest = foreign - sum(used[key] for key in named)
        if not words or rest > max(CORE_LIMIT, foreign / 4):
            words.append("short-lived ones" if self._sees_all() else "some not visible from here")
        return ", ".join(words)

    def _sees_all(self) -> bool:
        """Whether /proc holds all of the machine's processes: its second is the kernel's."""
        try:
            return (self.proc / "2" / "comm").read_text().strip() == "kthreadd"
        except OSError:
            return False

    def _throttle_counters(self) -> dict[int, tuple[int, int | None]]:
        """How often each core was slowed down for heat, and for how many ms where that is told."""
        counters = {}
        for core in self.cores:
            folder = self.sys / f"cpu{core}" / "thermal_throttle"
            try:
                count = int((folder / "core_throttle_count").read_text())
            except (OSError, ValueError):
                continue
            try:
                total = int((folder / "core_throttle_total_time_ms").read_text())
            except (OSError, ValueError):
                total = None
            counters[core] = (count, total)
        return counters

    def _heat(self, seconds: float) -> list[Disturbance]:
        now = self._throttle_counters()
        both = [(self._throttled[core], now[core]) for core in now if core in self._throttled]
        count = max((after[0] - before[0] for before, after in both), default=0)
        if count <= 0:
            return []
        times = [
            after[1] - before[1]
            for before, after in both
            if before[1] is not None and after[1] is not None
        ]
        share = max(times) / 1e3 / seconds if times else None
        if share is not None and share <= THROTTLED_LIMIT:
            return []
        detail = f"a core was slowed down {count} times for heat"
        return [Disturbance("throttling", detail, share, self.affects)]
