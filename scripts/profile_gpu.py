"""Show where the executor's time goes on one NVIDIA GPU, kernel by kernel, by Nsight Compute.

Runs with any Python that has PyTorch and the packages of requirements.txt; `ncu` is CUDA's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from harness.bench.gpu_cases import ARCHITECTURE
from harness.bench.gpu_profile import METRICS, batches_of, read_kernels, steps
from harness.bench.gpu_roofline import markdown, step_times
from harness.bench.kernel_card import card, pytorch_with_gpu, refuse_busy, uuid_of
from harness.bench.kernel_shapes import LENGTH, WINDOWS, read_lengths
from harness.bench.publish import publish
from harness.errors import OK, UserError, one_line, run_command
from harness.executor import LIBRARY
from harness.files import to_json
from harness.paths import ROOT
from harness.provenance import git_state, utc_now

_PATIENCE_SECONDS = 540
# A side of the matrices whose product is the ceiling, and of the copy, in MiB.
_SIDE, _COPY_MIB = 8192, 512
_CALLS, _REPEATS = 10, 5


def main() -> int:
    torch = pytorch_with_gpu()
    profiler = shutil.which("ncu")
    if profiler is None:
        raise UserError("no ncu on the PATH; it is in CUDA's bin folder")
    lengths, source = read_lengths()
    properties = torch.cuda.get_device_properties(0)
    uuid = uuid_of(properties)
    refuse_busy(card(uuid))
    middle = len(lengths) // 2
    dev = lengths[middle : middle + 128]
    shapes = [
        (f"FP16, {WINDOWS} x {LENGTH}", "fp16", [LENGTH] * WINDOWS),
        (f"FP16, 1 x {LENGTH}", "fp16", [LENGTH]),
        ("FP16, dev's middle lengths, batch 32", "fp16", dev[:32]),
        ("FP16, dev's middle lengths, batch 128", "fp16", dev),
        ("FP8, dev's middle lengths, batch 128", "fp8", dev),
    ]
    started = utc_now()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asked = folder / "shapes.json"
        asked.write_text(to_json([{"precision": p, "lengths": own} for _, p, own in shapes]))
        log = folder / "kernels.csv"
        command = [
            sys.executable, "-m", "harness.bench.gpu_profiled",
            os.environ.get("LIBRARY") or str(LIBRARY), name, str(asked),
        ]  # fmt: skip
        _run(command, "the executor")  # builds the engines, which takes far longer under ncu
        watched = [
            profiler, "--csv", "--page", "raw", "--print-units", "base", "--log-file", str(log),
            "--profile-from-start", "off", "--clock-control", "none", "--metrics",
            ",".join(METRICS), *command,
        ]  # fmt: skip
        _run(watched, "ncu")
        if not log.exists():
            raise UserError("ncu wrote nothing; run it by hand to see why")
        batches = batches_of(read_kernels(log.read_text(encoding="utf-8").splitlines()))
    if len(batches) != len(shapes):
        raise UserError(f"ncu saw {len(batches)} batches of {len(shapes)}; run it by hand")
    peaks = _peaks(torch)
    after = card(uuid)
    found: dict[str, Any] = {
        "started": started,
        "finished": utc_now(),
        "device": str(properties.name),
        "driver": after.get("driver_version"),
        "profiler": _version(profiler),
        **git_state(),
        "lengths": source,
        "peaks": peaks,
        "batches": [
            {
                "title": title,
                "tokens": sum(own),
                "steps": step_times(
                    steps(kernels, ARCHITECTURE, own), peaks[precision], peaks["copy"]
                ),
            }
            for (title, precision, own), kernels in zip(shapes, batches, strict=True)
        ],
    }
    publish("gpu-steps", str(properties.name), found, markdown(found))
    return OK


def _run(command: list[str], what: str) -> None:
    """Raises UserError where it fails, or does not end."""
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": _python_path()},
            capture_output=True,
            text=True,
            timeout=_PATIENCE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{what} did not end in {_PATIENCE_SECONDS} s; is the GPU busy?") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise UserError(f"{what} failed: {one_line(said[-1] if said else 'it said nothing')}")


def _python_path() -> str:
    known = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(ROOT / "scripts"), *([known] if known else [])])


def _version(profiler: str) -> str:
    said = subprocess.run([profiler, "--version"], capture_output=True, text=True, check=True)
    return f"Nsight Compute {said.stdout.strip().splitlines()[-1].removeprefix('Version ')}"


def _peaks(torch: Any) -> dict[str, float]:
    """FLOP/s of a large product by precision, and bytes/s of a copy."""
    half = torch.randn(_SIDE, _SIDE, device="cuda", dtype=torch.float16)
    small = half.to(torch.float8_e4m3fn)
    one = torch.ones((), device="cuda")
    source = torch.zeros(_COPY_MIB << 20, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    flop, moved = 2.0 * _SIDE**3, 2.0 * (_COPY_MIB << 20)
    return {
        "fp16": flop / _seconds(torch, lambda: half @ half.t()),
        "fp8": flop
        / _seconds(
            torch,
            lambda: torch._scaled_mm(
                small, small.t(), scale_a=one, scale_b=one, out_dtype=torch.float16
            ),
        ),
        "copy": moved / _seconds(torch, lambda: target.copy_(source)),
    }


def _seconds(torch: Any, call: Any) -> float:
    """Of one call, the median of repeats."""
    found = []
    for _ in range(1 + _REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(_CALLS):
            call()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end) / 1e3 / _CALLS)
    return float(median(found[1:]))


if __name__ == "__main__":
    run_command(main, __doc__)
