"""Time the plugin library's kernels on one NVIDIA GPU, beside ceilings and PyTorch's kernels.

FP16, shapes of BERT-base. Runs with any Python that has PyTorch; no other package is needed.
"""

from __future__ import annotations

import os
from pathlib import Path

from harness.bench.kernel_attention import time_attention
from harness.bench.kernel_card import card, pytorch_with_gpu, refuse_busy, uuid_of
from harness.bench.kernel_gpu import Gpu
from harness.bench.kernel_linear import LINEAR_RATIO, time_linear
from harness.bench.kernel_memory import COPY, COPY_SHARE, time_copy, time_memory
from harness.bench.kernel_shapes import read_lengths
from harness.bench.kernel_table import markdown
from harness.bench.kernels import Kernels
from harness.bench.publish import publish
from harness.bench.repeats import read_repeats
from harness.errors import INCONCLUSIVE, OK, run_command
from harness.paths import ROOT
from harness.provenance import git_state, utc_now
from harness.spread import NOISE_SPREAD

LIBRARY = ROOT / "build/plugin/plugin/lib/libbert_kernels.so"

# Fewer repeats give no median and spread worth writing down.
LEAST_REPEATS, MOST_REPEATS = 15, 999


def main() -> int:
    torch = pytorch_with_gpu(", whose kernels ours are timed beside")
    repeats, (lengths, source) = read_repeats(LEAST_REPEATS, MOST_REPEATS), read_lengths()
    gpu = Gpu(torch, repeats)
    name = str(gpu.properties.name)
    uuid = uuid_of(gpu.properties)
    before = card(uuid)
    refuse_busy(before)
    kernels = Kernels(
        Path(os.environ.get("LIBRARY") or LIBRARY), lambda: torch.cuda.current_stream().cuda_stream
    )

    started = utc_now()
    with torch.no_grad():
        memory = time_memory(gpu, kernels)
        attention = list(time_attention(gpu, kernels, lengths))
        linear = list(time_linear(gpu, kernels))
        again = time_copy(gpu)
    after = card(uuid)
    first = memory[0]["systems"][COPY]["us"]
    drift = abs(again["us"] / first - 1)
    # As a spread: what a copy takes at the end beside what it took at the start.
    if drift > NOISE_SPREAD:
        print(
            f"copy took {first:.1f} us at the start and {again['us']:.1f} us at the end: this card "
            "is not steady, so nothing is written; see what else runs on it, and its temperature"
        )
        return INCONCLUSIVE

    found = {
        "started": started,
        "finished": utc_now(),
        "device": name,
        "driver": after.get("driver_version"),
        "card_before": before,
        "card_after": after,
        "copy_drift": drift,
        "torch": str(torch.__version__),
        "cuda": str(torch.version.cuda),
        "cudnn": torch.backends.cudnn.version(),
        **git_state(),
        "repeats": repeats,
        "lengths": source,
        "attention_kernel": kernels.attention_kernel(),
        "targets": {"memory": COPY_SHARE, "linear": LINEAR_RATIO},
        "memory": memory,
        "attention": attention,
        "linear": linear,
    }
    publish("kernels", name, found, markdown(found))
    return OK


if __name__ == "__main__":
    run_command(main, __doc__)
