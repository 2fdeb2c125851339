"""Compare whole networks on one NVIDIA GPU: this repository's, ONNX Runtime's, PyTorch's.

Runs with any Python that has PyTorch and the packages of requirements.txt; a system whose package
is missing is left out, with the reason.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from harness.bench.gpu_cases import ARCHITECTURE, cases, half_weights
from harness.bench.gpu_chart import svg
from harness.bench.gpu_compare import compare, load
from harness.bench.gpu_report import markdown
from harness.bench.gpu_systems import GpuModel, systems
from harness.bench.kernel_card import card, pytorch_with_gpu, refuse_busy, uuid_of
from harness.bench.kernel_shapes import read_lengths
from harness.bench.publish import publish
from harness.bench.repeats import read_repeats
from harness.errors import OK, UserError, run_command
from harness.executor import LIBRARY
from harness.files import to_json
from harness.provenance import git_state, utc_now, versions

LEAST_REPEATS, MOST_REPEATS = 5, 99


def main() -> int:
    torch = pytorch_with_gpu()
    repeats, (lengths, source) = read_repeats(LEAST_REPEATS, MOST_REPEATS), read_lengths()
    known = systems()
    wanted = (os.environ.get("BENCH_SYSTEMS") or " ".join(s.key for s in known)).split()
    for key in wanted:
        if key not in {system.key for system in known}:
            raise UserError(
                f"no system {key!r}; BENCH_SYSTEMS lists some of {', '.join(s.key for s in known)}"
            )
    chosen = [system for system in known if system.key in wanted]
    properties = torch.cuda.get_device_properties(0)
    uuid = uuid_of(properties)
    before = card(uuid)
    refuse_busy(before)

    compared = cases(lengths)
    batches = [batch for case in compared for batch in case.batches]
    started = utc_now()
    with tempfile.TemporaryDirectory() as folder:
        model = GpuModel(
            half_weights(ARCHITECTURE),
            ARCHITECTURE,
            Path(folder),
            Path(os.environ.get("LIBRARY") or LIBRARY),
            max(len(batch.rows) for batch in batches),
            max(int(batch.input_mask.sum()) for batch in batches),
        )
        loaded, reasons = load(chosen, model)
        if not loaded:
            raise UserError(f"no system is here: {'; '.join(reasons.values())}")
        tolerances = {system.key: system.tolerance for system in chosen}
        results = []
        for case in compared:
            results.append(compare(loaded, tolerances, case, repeats, reasons))
            print(
                to_json({k: round(v["windows_per_s"]) for k, v in results[-1]["systems"].items()})
            )
    after = card(uuid)
    found = {
        "started": started,
        "finished": utc_now(),
        "device": str(properties.name),
        "driver": after.get("driver_version"),
        "card_before": before,
        "card_after": after,
        **git_state(),
        "versions": {
            "PyTorch": str(torch.__version__),
            "CUDA": str(torch.version.cuda),
            **versions(("onnxruntime-gpu", "nvidia-cublas")),
        },
        "architecture": asdict(ARCHITECTURE),
        "lengths": source,
        "repeats": repeats,
        "left_out": reasons,
        "cases": results,
    }
    name = str(properties.name)
    publish("gpu", name, found, markdown(found, chosen), svg(found, chosen))
    return OK


if __name__ == "__main__":
    run_command(main, __doc__)
