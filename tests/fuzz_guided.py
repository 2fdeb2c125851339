"""Hostile files led by coverage: what reaches new lines of a reader is changed further.

    fuzz_guided.py TARGET FOLDER [libFuzzer's options, such as -runs=10000 -seed=1]

Needs atheris. The corpus, FOLDER/corpus, begins with the valid files of `fuzz_seeds`; whatever a
reader raises but a refusal ends the process and stays in FOLDER as crash-*.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

# What is written in Python, the readers' libraries included, is measured as it is loaded.
with atheris.instrument_imports(include=["harness", "yaml", "zipfile", "tarfile", "pickletools"]):
    from fuzz_targets import TARGETS

    from harness.errors import UserError
    from harness.fetch import SourceError


def main() -> None:
    name, folder, *options = sys.argv[1:]
    target, place = TARGETS[name], Path(folder)
    corpus = place / "corpus"
    corpus.mkdir(parents=True)
    for number, content in enumerate(target.corpus):
        (corpus / str(number)).write_bytes(content)
    path = place / target.file

    def read(content: bytes) -> None:
        path.write_bytes(content)
        try:
            target.read(path)
        except (UserError, SourceError):
            return

    limits = ["-timeout=5", "-rss_limit_mb=1500", f"-artifact_prefix={place}/"]
    atheris.Setup([sys.argv[0], str(corpus), *limits, *options], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
