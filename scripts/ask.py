"""Answer a question about a passage with the profile's engine."""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from harness.answers import Answer, best_answers
from harness.backends import Session
from harness.batches import assemble, scatter
from harness.engine import checked_engine
from harness.errors import OK, UserError, run_command
from harness.inputs import Inputs
from harness.options import read_options, read_path
from harness.records import read_record, records_of
from harness.squad import Question
from harness.windows import WindowOptions, cut_windows, load_tokenizer


def main() -> int:
    options = read_options()
    inputs = Inputs(options)
    tokenizer = load_tokenizer(inputs.file("vocab").checked("assets"))
    engine = checked_engine(options, read_record(records_of(options).engine, "engine"))
    passage = read_passage()
    session = options.backend.load(engine, options.engine)
    # Whoever asks wants the whole passage read, whatever the protocol keeps.
    cut = replace(options.profile.windows, first_only=False)
    for text in questions():
        began = time.perf_counter()
        question = Question("ask", text, passage, (), ())
        answers = answer(session, question, tokenizer, cut)
        milliseconds = 1e3 * (time.perf_counter() - began)
        if answers:
            print(f"{answers[0].text}  (probability {answers[0].probability:.2f}, ", end="")
        else:
            print("no answer found  (", end="")
        print(f"{milliseconds:.1f} ms)")
    return OK


def answer(
    session: Session, question: Question, tokenizer: Tokenizer, cut: WindowOptions
) -> list[Answer]:
    """The n best answers, each window run alone: no padding for a single question."""
    windows = cut_windows([question], tokenizer, cut)
    start, end = np.zeros((2, len(windows.tokens)), dtype=np.float32)
    for window in range(len(windows)):
        batch = assemble(windows, np.asarray([window]))
        start_logits, end_logits, _ = session.run(**batch.inputs)
        scatter(windows, batch, start_logits, start)
        scatter(windows, batch, end_logits, end)
    return best_answers(question, windows, start, end)


def read_passage() -> str:
    """PASSAGE, the file PASSAGE_FILE, or a line that is asked for."""
    path = read_path(os.environ, "PASSAGE_FILE")
    text = os.environ.get("PASSAGE") or ""
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"PASSAGE_FILE {path} is no UTF-8 text; convert it") from None
    if not text:
        text = prompt("passage (one line): ") or ""
    if not text.strip():
        raise UserError("no passage; give PASSAGE='...' or PASSAGE_FILE=path")
    return utf8(text)


def utf8(text: str) -> str:
    """`text`, unless it holds bytes of another encoding, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError("passage or question is no UTF-8 text; convert it") from None
    return text


def questions() -> Iterator[str]:
    """QUESTION, or the lines that are typed until an empty one."""
    given = os.environ.get("QUESTION")
    if given:
        yield utf8(given)
        return
    while line := prompt("question (empty line ends): "):
        yield utf8(line)


def prompt(text: str) -> str | None:
    """A line from standard input; the prompt is shown where someone can see it."""
    if sys.stdin.isatty():
        print(text, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.strip() or None


run_command(main, __doc__)
