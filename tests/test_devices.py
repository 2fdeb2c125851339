"""Accelerators as the vendors' tools list them: facts, order, what is hidden, tools that fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.backends.accelerated import OnAccelerator
from harness.devices import Accelerator, devices_of, find_accelerators, visible
from harness.errors import UserError

FACTS = "index,uuid,memory.total,compute_cap,power.limit,clocks.max.sm,clocks.max.memory"
FIRST = "NVIDIA H100 80GB HBM3, 570.1, 0, GPU-aa1, 81559 MiB, 9.0, 700.00 W, 1980 MHz, 2619 MHz"
SECOND = FIRST.replace("0, GPU-aa1", "1, GPU-ab2")


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH that has the tests' tools alone."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def two_gpus(folder: Path) -> None:
    query = f"--query-gpu=name,driver_version,{FACTS}"
    tool(
        folder,
        "nvidia-smi",
        f'[ "$1" = "{query}" ] && [ "$2" = --format=csv,noheader ] || exit 3\n'
        f'echo "{FIRST}"\necho "{SECOND}"',
    )


def test_facts_of_each_device(tools: Path) -> None:
    two_gpus(tools)
    first, second = devices_of("nvidia")
    assert (first.name, first.driver) == ("NVIDIA H100 80GB HBM3", "570.1")
    assert first.facts["compute_cap"] == "9.0"
    assert first.facts["clocks.max.sm"] == "1980 MHz"
    assert second.facts["index"] == "1"
    assert find_accelerators() == [first, second]


def test_a_tool_that_knows_fewer_facts_still_names_its_devices(tools: Path) -> None:
    tool(
        tools,
        "ixsmi",
        '[ "$1" = --query-gpu=name,driver_version ] || { echo unknown field; exit 2; }\n'
        'echo "Iluvatar MR-V100, 4.3.0"',
    )
    assert find_accelerators() == [Accelerator("iluvatar", "Iluvatar MR-V100", "4.3.0")]


@pytest.mark.parametrize(
    "script",
    ["exit 9", "echo No devices were found", "exit 0", "kill -9 $$", ""],
)
def test_a_tool_without_a_driver_shows_no_device(tools: Path, script: str) -> None:
    tool(tools, "nvidia-smi", script)
    assert find_accelerators() == []


def test_no_tool_no_device(tools: Path) -> None:
    assert not any(tools.iterdir())
    assert find_accelerators() == []


GPUS = [Accelerator("nvidia", "A", "1", {"uuid": uuid}) for uuid in ("GPU-aa1", "GPU-ab2")]


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        (None, [0, 1]),
        ("0", [0]),
        ("1,0", [1, 0]),
        (" 1 ", [1]),
        ("GPU-ab", [1]),
        ("GPU-a", []),
        ("0,7,1", [0]),
        ("-1", []),
        ("", []),
        ("MIG-1", []),
    ],
)
def test_cuda_visible_devices(chosen: str | None, left: list[int]) -> None:
    assert visible(GPUS, chosen) == [GPUS[i] for i in left]


class OnNvidia(OnAccelerator):
    name, vendor = "some", "nvidia"


def test_a_backend_names_its_device_and_lock(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_gpus(tools)
    backend = OnNvidia()
    assert backend.no_device() is None
    assert backend.device(1)["uuid"] == "GPU-ab2"
    # A hidden device keeps its lock: another process may count in another way.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert backend.device(0)["name"] == "NVIDIA H100 80GB HBM3"
    assert backend.lock_name(0) == "nvidia-1"
    with pytest.raises(UserError, match="no device 1 of 1; `make doctor`"):
        backend.device(1)


def test_without_a_device_the_reason_is_one_line(tools: Path) -> None:
    reason = OnNvidia().no_device()
    assert reason is not None and "nvidia-smi" in reason and "\n" not in reason
