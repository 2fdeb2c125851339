"""The nightly history: what is appended stays, damage is found, a crash costs no line."""

from __future__ import annotations

import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from history_builders import nights, write_history
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.files import sha256_bytes
from harness.nightly import history
from harness.nightly.detection import CONFIRMED, Verdict
from harness.nightly.history import TORN, append, changes, read
from harness.nightly.record import (
    CONCLUSIVE,
    INCONCLUSIVE,
    Cell,
    Record,
    keep,
    kept,
    record_of_run,
)
from harness.run import METRICS, PREDICTIONS, RUN, TIMINGS

CELL = Cell("mr-v100-a", "minilm-squad", "ixrt", "fp16", 32)
QUIET = (100.0, 101.0, 99.5, 100.5, 100.2)


def record(number: int = 0, **others: object) -> Record:
    fields = {
        "time": f"2026-11-{1 + number % 28:02d}T01:00:00Z",
        "cell": CELL,
        "repeats": QUIET,
        "exact_match": 77.8,
        "f1": 86.0,
        "predictions_sha256": "0" * 64,
        "provenance": {"device": {"driver": "4.1"}, "night": number},
        **others,
    }
    return Record(**fields)  # type: ignore[arg-type]


def filled(path: Path, count: int) -> Path:
    for number in range(count):
        append(path, record(number))
    return path


def head(path: Path) -> Path:
    return path.with_name(path.name + ".head")


def test_records_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "history.jsonl"
    assert read(path).records == ()
    written = [
        record(0),
        record(1, verdict=Verdict(CONFIRMED, 0.06), golden_sha256="1" * 64),
        record(2, repeats=(), failure="the engine did not build", exact_match=None, f1=None),
        record(3, provenance={"host": "ein \udc80 Byte, ein ü, eine\nZeile"}),
    ]
    for one in written:
        append(path, one)
    assert list(read(path).records) == written
    lines = path.read_bytes().splitlines(keepends=True)
    assert json.loads(lines[2])["previous"] == sha256_bytes(lines[1])


@pytest.mark.parametrize(
    ("repeats", "failure", "status", "reason"),
    [
        (QUIET, "", CONCLUSIVE, ""),
        (QUIET[:4], "", INCONCLUSIVE, "4 repeats, fewer than 5"),
        ((*QUIET[:4], 94.0), "", INCONCLUSIVE, "repeats spread by 7.0%, more than 5%: noise"),
        (QUIET, "answers changed between passes", INCONCLUSIVE, "answers changed between passes"),
    ],
)
def test_status_says_why(
    repeats: tuple[float, ...], failure: str, status: str, reason: str
) -> None:
    one = record(repeats=repeats, failure=failure)
    assert (one.status, one.reason) == (status, reason)
    assert (one.night.value is None) == (status == INCONCLUSIVE)
    assert Record.from_json(json.loads(json.dumps(one.as_json())), "it") == one


def test_a_median_that_its_repeats_do_not_give_is_refused() -> None:
    entry = {**record().as_json(), "median": 120.0}
    with pytest.raises(UserError, match="does not follow from its own repeats"):
        Record.from_json(entry, "it")


# One history for all examples: making it costs fsyncs.
@pytest.fixture(scope="module")
def bytes_of_five(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    path = filled(tmp_path_factory.mktemp("history") / "h.jsonl", 5)
    return path.read_bytes(), head(path).read_bytes()


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "h.jsonl"


many = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# Each example appends, and every append waits for the disk.
few = settings(many, max_examples=30)


def damaged(scratch: Path, content: bytes, top: bytes) -> None:
    scratch.write_bytes(content)
    head(scratch).write_bytes(top)
    with pytest.raises(UserError) as caught:
        read(scratch)
    assert "\n" not in str(caught.value)
    assert "restore" in str(caught.value)
    try:
        append(scratch, record())
    except UserError:
        assert scratch.read_bytes() == content, "where the end is damaged nothing is added"
    else:
        # Further up an append does not look, nor does it cover anything up.
        with pytest.raises(UserError):
            read(scratch)


@many
@given(data=st.data())
def test_any_changed_byte_is_found(
    scratch: Path, bytes_of_five: tuple[bytes, bytes], data: st.DataObject
) -> None:
    content, top = (bytearray(part) for part in bytes_of_five)
    target = data.draw(st.sampled_from([content, content, content, top]))
    place = data.draw(st.integers(0, len(target) - 1))
    target[place] ^= data.draw(st.integers(1, 255))
    damaged(scratch, bytes(content), bytes(top))


@many
@given(data=st.data())
def test_a_line_removed_repeated_or_moved_is_found(
    scratch: Path, bytes_of_five: tuple[bytes, bytes], data: st.DataObject
) -> None:
    lines = bytes_of_five[0].splitlines(keepends=True)
    order = data.draw(st.lists(st.integers(0, 4), max_size=8).filter(lambda o: o != [*range(5)]))
    damaged(scratch, b"".join(lines[i] for i in order), bytes_of_five[1])


def test_the_line_is_named(scratch: Path, bytes_of_five: tuple[bytes, bytes]) -> None:
    content, top = bytes_of_five
    lines = content.splitlines(keepends=True)
    for changed, number in (
        ([lines[0], lines[1].replace(b"77.8", b"78.8"), *lines[2:]], 3),
        ([*lines[:2], *lines[3:]], 3),
        ([*lines[:4], lines[4].replace(b"77.8", b"78.8")], 5),
        (lines[:4], 5),
        ([*lines[:2], lines[2].replace(b'"f1"', b'"f2"'), *lines[3:]], 3),
        ([*lines, b'{"hello":1}\n'], 6),
    ):
        scratch.write_bytes(b"".join(changed))
        head(scratch).write_bytes(top)
        with pytest.raises(UserError, match=f"line {number} "):
            read(scratch)


def test_missing_files_are_found(scratch: Path, bytes_of_five: tuple[bytes, bytes]) -> None:
    scratch.write_bytes(bytes_of_five[0])
    with pytest.raises(UserError, match="not in the head"):
        read(scratch)
    scratch.unlink()
    head(scratch).write_bytes(bytes_of_five[1])
    with pytest.raises(UserError, match="line 1 is missing"):
        read(scratch)


@few
@given(data=st.data())
def test_a_torn_write_is_told_healed_and_kept(
    scratch: Path, bytes_of_five: tuple[bytes, bytes], data: st.DataObject
) -> None:
    """A crash anywhere in an append: before any byte, within the line, before the head."""
    content = bytes_of_five[0]
    lines = content.splitlines(keepends=True)
    for path in (scratch, head(scratch)):
        path.unlink(missing_ok=True)
    filled(scratch, 4)
    crashes = data.draw(st.integers(1, 3))
    whole = b"".join(lines[:4])
    for _ in range(crashes):
        piece = lines[4][: data.draw(st.integers(1, len(lines[4]) - 1))]
        with scratch.open("ab") as stream:
            stream.write(piece)
        whole += piece
        found = read(scratch)
        assert len(found.records) == 4
        assert found.torn
        assert "kept" in found.notes[-1]
        # The next append crashes as well, after the mark that closes the torn line.
        if data.draw(st.booleans()):
            with scratch.open("ab") as stream:
                stream.write(TORN + b"\n")
            whole += TORN + b"\n"
            assert read(scratch).torn[-1] == found.torn[-1]
    append(scratch, record(4))
    append(scratch, record(5))
    after = read(scratch)
    assert [r.provenance["night"] for r in after.records] == [0, 1, 2, 3, 4, 5]
    assert after.torn
    assert scratch.read_bytes().startswith(whole), "the evidence stays where it was"
    # What was torn is now under the chain as well.
    kept_bytes = bytearray(scratch.read_bytes())
    kept_bytes[len(b"".join(lines[:4]))] ^= 1
    damaged(scratch, bytes(kept_bytes), head(scratch).read_bytes())


def test_a_torn_line_of_megabytes_is_closed_like_any_other(scratch: Path) -> None:
    filled(scratch, 2)
    with scratch.open("ab") as stream:
        stream.write(b"x" * (5 << 20))
    append(scratch, record(2))
    found = read(scratch)
    assert len(found.records) == 3 and found.torn


def test_a_crash_before_the_head_costs_nothing(
    scratch: Path, bytes_of_five: tuple[bytes, bytes]
) -> None:
    filled(scratch, 4)
    scratch.write_bytes(bytes_of_five[0])
    assert len(read(scratch).records) == 5
    append(scratch, record(5))
    assert len(read(scratch).records) == 6


@pytest.mark.parametrize("step", ["_write", "_sync_folder", "_write_head"])
@pytest.mark.parametrize("left", [b"", b'{"previous', b'{"previous' + TORN + b"\n", None])
def test_a_crash_between_two_steps_of_an_append_damages_nothing(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, left: bytes | None, step: str
) -> None:
    """`left` is what an earlier crash has left, None a whole record that its head does not know."""
    filled(scratch, 2)
    if left is None:
        top = head(scratch).read_bytes()
        append(scratch, record(2))
        head(scratch).write_bytes(top)
    else:
        with scratch.open("ab") as stream:
            stream.write(left)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(history, step, crash)
        append(scratch, record(3))
    there = len(read(scratch).records)
    append(scratch, record(4))
    assert len(read(scratch).records) == there + 1


def test_an_append_looks_at_the_end_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_history(tmp_path, nights(CELL, [100.0] * 300))
    taken = []

    def pread(handle: int, size: int, offset: int, real: Any = os.pread) -> bytes:
        taken.append(real(handle, size, offset))
        return bytes(taken[-1])

    monkeypatch.setattr(os, "pread", pread)
    append(path, record(1))
    assert 0 < sum(map(len, taken)) < path.stat().st_size / 2
    assert len(read(path).records) == 301
    # A line longer than what is read at once.
    long = record(2, provenance={"host": "x" * 200_000})
    append(path, long)
    append(path, record(3))
    assert read(path).records[-2:] == (long, record(3))


def test_what_is_altered_further_up_is_found_by_reading(
    scratch: Path, bytes_of_five: tuple[bytes, bytes]
) -> None:
    content, top = bytes_of_five
    scratch.write_bytes(content.replace(b"77.8", b"78.8", 1))
    head(scratch).write_bytes(top)
    append(scratch, record(5))
    for _ in range(2):
        with pytest.raises(UserError, match="line 2 "):
            read(scratch)


def test_truncation_at_any_byte_is_found_or_told(
    scratch: Path, bytes_of_five: tuple[bytes, bytes]
) -> None:
    content, top = bytes_of_five
    for length in range(0, len(content), 37):
        damaged(scratch, content[:length], top)


def add(path: Path, worker: int, count: int) -> None:
    for number in range(count):
        append(path, record(provenance={"worker": worker, "number": number}))


def test_processes_append_at_once(tmp_path: Path) -> None:
    path, workers, count = tmp_path / "h.jsonl", 4, 6
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=add, args=(path, w, count)) for w in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    found = [(r.provenance["worker"], r.provenance["number"]) for r in read(path).records]
    assert sorted(found) == [(w, n) for w in range(workers) for n in range(count)]
    for worker in range(workers):
        assert [n for w, n in found if w == worker] == [*range(count)], "each in its own order"


def test_changes_are_named() -> None:
    old = record(provenance={"device": {"driver": "4.1"}, "packages": {"onnx": "1.2"}})
    new = record(
        provenance={"device": {"driver": "4.2"}, "packages": {"onnx": "1.2", "torch": "2"}},
        golden_sha256="1" * 64,
    )
    assert [str(change) for change in changes(old, new)] == [
        "device.driver: 4.1 → 4.2",
        f"golden: none → {'1' * 64}",
        "packages.torch: none → 2",
    ]
    assert changes(old, replace(old, time="2026-12-01T00:00:00Z")) == []


def test_a_run_becomes_a_record(tmp_path: Path) -> None:
    run = {
        "finished": "2026-11-25T01:02:03Z",
        "options": {"profile": "minilm-sample", "backend": "ort-cpu", "precision": "fp32"},
        "git": {"commit": "a" * 40, "dirty": False},
        "device": {"name": "CPU", "clock_mhz": [1, 2]},
        "environment": {"python": "3.11.7", "load_average": [1, 2, 3]},
    }
    timings = {
        "windows": 4, "batch": 2, "seconds": [[0.1, 0.1]] * 5, "execution_seconds": [0.2] * 5,
    }  # fmt: skip
    metrics = {"exact_match": 50.0, "f1": 60.0}
    for name, value in ((RUN, run), (TIMINGS, timings), (METRICS, metrics), (PREDICTIONS, {})):
        (tmp_path / name).write_text(json.dumps(value))
    found = record_of_run(tmp_path, "here")
    assert found.repeats == pytest.approx((20.0,) * 5)
    assert found.cell == Cell("here", "minilm-sample", "ort-cpu", "fp32", 2)
    assert found.golden_sha256 is not None
    assert found.provenance["device"] == {"name": "CPU"}
    assert found.provenance["environment"] == {"python": "3.11.7"}
    (tmp_path / TIMINGS).write_text("{}")
    with pytest.raises(UserError, match="do not fit together"):
        record_of_run(tmp_path, "here")


def test_predictions_are_kept_once(tmp_path: Path) -> None:
    answers, store = tmp_path / "predictions.json", tmp_path / "store"
    answers.write_text('{"q": "a"}')
    name = keep(answers, store)
    assert keep(answers, store) == name
    assert kept(name, store).read_bytes() == answers.read_bytes()
    assert len([*store.iterdir()]) == 1
