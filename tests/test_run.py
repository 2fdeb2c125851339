"""A run's files: written and read back, and refused when they hold anything else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import UserError
from harness.run import Logits, read_logits, read_predictions, read_run, write_logits

LOGITS = Logits(
    start=np.linspace(-3, 3, 7, dtype=np.float32),
    end=np.full(7, np.nan, dtype=np.float32),
    lengths=np.asarray([3, 4], dtype=np.int32),
)


def test_logits_come_back_bit_by_bit(tmp_path: Path) -> None:
    path = tmp_path / "run" / "logits.npz"
    write_logits(path, LOGITS)
    found = read_logits(path)
    for name in ("start", "end", "lengths"):
        assert getattr(found, name).tobytes() == getattr(LOGITS, name).tobytes()
        assert getattr(found, name).dtype == getattr(LOGITS, name).dtype
    assert [p.name for p in path.parent.iterdir()] == ["logits.npz"]


@pytest.mark.parametrize(
    "changed",
    [
        {"start": None},
        {"lengths": None},
        {"start": LOGITS.start[:-1]},
        {"end": LOGITS.end.astype(np.float64)},
        {"end": LOGITS.end.astype(np.float16)},
        {"start": LOGITS.start.reshape(7, 1)},
        {"lengths": np.asarray([3, 5], dtype=np.int32)},
        {"lengths": np.asarray([[3, 4]], dtype=np.int32)},
        {"lengths": np.asarray([3.0, 4.0], dtype=np.float32)},
        {"lengths": np.asarray(["3", "4"])},
        {"lengths": np.asarray([3, 4], dtype=object)},
    ],
    ids=lambda changed: ",".join(f"{k}={getattr(v, 'dtype', v)}" for k, v in changed.items()),
)
def test_arrays_of_another_kind_are_an_error(tmp_path: Path, changed: dict[str, Any]) -> None:
    path = tmp_path / "logits.npz"
    arrays = {"start": LOGITS.start, "end": LOGITS.end, "lengths": LOGITS.lengths, **changed}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(UserError, match=r"logits\.npz cannot be read .* run `make infer` again"):
        read_logits(path)


def test_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "logits.npz"
    write_logits(path, LOGITS)
    whole = path.read_bytes()
    middle = whole.index(LOGITS.start.tobytes())
    for damaged in (
        b"",
        b"text",
        whole[:-20],
        whole[:40],
        whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be read"):
            read_logits(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_logits(tmp_path)
    with pytest.raises(UserError, match=r"gone\.npz is missing; run `make infer`"):
        read_logits(tmp_path / "gone.npz")


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_nothing_in_the_file_is_ever_run(tmp_path: Path) -> None:
    path = tmp_path / "logits.npz"
    trap = np.asarray([Trap(tmp_path / "sprung")], dtype=object)
    np.savez(path, start=trap, end=trap, lengths=trap)
    with pytest.raises(UserError, match="cannot be read"):
        read_logits(path)
    assert not (tmp_path / "sprung").exists()


def test_single_array_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "logits.npz"
    with path.open("wb") as stream:
        np.save(stream, LOGITS.start)
    with pytest.raises(UserError, match="cannot be read"):
        read_logits(path)


def test_run_record_is_an_object(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no run\.json; run `make infer`"):
        read_run(tmp_path)
    record = tmp_path / "run.json"
    record.write_text('{"a": {"b": 1}}')
    assert read_run(tmp_path) == {"a": {"b": 1}}
    for text in ("[]", "7", "null", '"text"'):
        record.write_text(text)
        with pytest.raises(UserError, match="no JSON object"):
            read_run(tmp_path)
    record.write_text('{"a": 1, "a": 2}')
    with pytest.raises(UserError, match="occurs twice"):
        read_run(tmp_path)


def test_predictions_map_ids_to_texts(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps({"q1": "ä", "": ""}), encoding="utf-8")
    assert read_predictions(path) == {"q1": "ä", "": ""}
    for value in ([], ["x"], {"q": 1}, {"q": None}, {"q": ["x"]}, {"q": {"text": "x"}}, "x"):
        path.write_text(json.dumps(value), encoding="utf-8")
        with pytest.raises(UserError, match="no map from question ids to texts"):
            read_predictions(path)
    path.write_text('{"q": "one", "q": "two"}')
    with pytest.raises(UserError, match="'q' occurs twice"):
        read_predictions(path)
    with pytest.raises(UserError, match="does not exist"):
        read_predictions(tmp_path / "gone.json")
