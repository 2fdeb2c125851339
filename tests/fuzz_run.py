"""Give hostile files to the functions that read files, and tell what they made of them.

    fuzz_run.py FOLDER [--seed N] [--count N] [--targets NAME,...]     files drawn at random
    fuzz_run.py FOLDER --bombs [--targets NAME,...]                    files that stand for much

A target's inputs run in a process of its own that may have 1 GiB more than it began with. An input
may take 5 s of a processor, and a minute of anybody's time. Each is taken or refused in one line;
anything else ends with exit code 1, and the file that did it stays in FOLDER. So does a canary,
should an input have been run as a program. One line of JSON for each target or bomb goes to
standard output.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import hypothesis
from fuzz_targets import TARGETS, Target

from harness.errors import UserError
from harness.fetch import SourceError

MOST_SECONDS = 5.0
LONGEST_WAIT_SECONDS = 60.0
MOST_BYTES = 1 << 30
LONGEST_LINE = 1500
CANARY = "canary"


class Judge:
    """Reads inputs and counts what became of them."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.counts: Counter[str] = Counter()
        self.slowest = 0.0

    def __call__(self, path: Path) -> None:
        # Their default action ends the process: no C code outlasts it.
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, LONGEST_WAIT_SECONDS)
        began = time.process_time()
        try:
            self._target.read(path)
            self.counts["taken"] += 1
        except (UserError, SourceError) as error:
            self.counts["refused"] += 1
            text = str(error)
            assert "\n" not in text and len(text) <= LONGEST_LINE, text[:LONGEST_LINE]
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.slowest = max(self.slowest, time.process_time() - began)


def draw(target: Target, folder: Path, seed: int, count: int) -> Judge:
    """Read `count` inputs drawn by `seed`."""
    judge, path = Judge(target), folder / target.file

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(target.content)
    def read(content: bytes) -> None:
        path.write_bytes(content)
        judge(path)

    read()
    return judge


def apart(what: dict[str, Any], folder: Path, work: Callable[[Path], Judge]) -> bool:
    """Run `work` in a process of its own, in an empty folder; print what came of it."""
    place = folder / "".join(c if c.isalnum() else "-" for c in " ".join(map(str, what.values())))
    place.mkdir(parents=True)
    report = place / "report.json"
    sys.stdout.flush()
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(place)
            limit = _address_space() + MOST_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            judge = work(place)
            told = {**judge.counts, "slowest_s": round(judge.slowest, 2)}
            report.write_text(json.dumps(told), encoding="utf-8")
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status, usage = os.wait4(child, 0)
    # Before the child began anything, it had what this process has.
    grown = 1024 * usage.ru_maxrss - 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
    problems = []
    if os.WIFSIGNALED(status):
        problems.append(
            {
                signal.SIGPROF: f"over {MOST_SECONDS:g} s",
                signal.SIGALRM: f"waits over {LONGEST_WAIT_SECONDS:g} s",
            }.get(os.WTERMSIG(status), f"signal {os.WTERMSIG(status)}")
        )
    elif status:
        problems.append("failed, see above")
    if grown > MOST_BYTES:
        problems.append("over 1 GiB")
    if any(place.rglob(CANARY)):
        problems.append("ran as a program")
    print(json.dumps({
        **what, **told, "grown_mib": max(0, grown >> 20),
        "seconds": round(time.perf_counter() - began, 1),
        **({"problem": "; ".join(problems), "kept": str(place)} if problems else {}),
    }), flush=True)  # fmt: skip
    if not problems:
        shutil.rmtree(place)
    return not problems


def _address_space() -> int:
    """Bytes that this process has mapped."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--bombs", action="store_true")
    arguments = parser.parse_args()
    targets = arguments.targets.split(",")
    good = []
    if arguments.bombs:
        from fuzz_bombs import BOMBS

        for name, (target, write) in BOMBS.items():
            if target not in targets:
                continue

            def set_off(
                place: Path,
                target: Target = TARGETS[target],
                write: Callable[[Path], object] = write,
            ) -> Judge:
                judge, path = Judge(target), place / target.file
                write(path)
                judge(path)
                return judge

            good.append(apart({"bomb": name}, arguments.folder, set_off))
    else:
        for name in targets:
            what = {"target": name, "seed": arguments.seed}
            good.append(
                apart(
                    what,
                    arguments.folder,
                    lambda place, target=TARGETS[name]: draw(  # type: ignore[misc]
                        target, place, arguments.seed, arguments.count
                    ),
                )
            )
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
