"""A process that runs a checkout's commands again and again, each as a process of its own would.

`python tamper_worker.py <checkout>` reads requests, a JSON object a line, and answers each with
one. A command's file is run from its first line to its exit code, its environment and its
standard streams are its own; only the modules that it imports stay loaded, which is what makes
a command cost milliseconds.
"""

from __future__ import annotations

import io
import json
import os
import runpy
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any


class Hung(BaseException):
    """The command took too long; no `except Exception` may take it for its own."""


def hung(number: int, frame: FrameType | None) -> None:
    raise Hung


def command(
    script: Path, argv: list[str], environment: dict[str, str], seconds: int
) -> dict[str, Any]:
    """Run `script` as its own process would: exit code, standard output and standard error.

    After `seconds` it is given up, and "hung" is its code.
    """
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    kept = dict(os.environ), sys.argv, sys.stdout, sys.stderr
    code: Any = 0
    try:
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = [str(script), *argv]
        sys.stdout, sys.stderr = streams
        signal.alarm(seconds)
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        code = end.code
    except Hung:
        code = "hung"
    finally:
        signal.alarm(0)
        os.environ.clear()
        os.environ.update(kept[0])
        sys.argv, sys.stdout, sys.stderr = kept[1:]
    for stream in streams:
        stream.flush()
    out, err = (stream.buffer.getvalue().decode() for stream in streams)  # type: ignore[attr-defined]
    return {"code": code, "out": out, "err": err}


def main() -> None:
    root = Path(sys.argv[1])
    # Whatever a library prints must not get among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.chdir(root)
    sys.path.insert(0, str(root / "scripts"))
    # What is timed here means nothing: nobody shall wait for it, nor it for anybody.
    from harness import lock

    lock.LOCKS = root
    signal.signal(signal.SIGALRM, hung)
    for line in sys.stdin:
        request = json.loads(line)
        script = root / request["script"]
        answer = command(script, request["argv"], request["environment"], request["seconds"])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
