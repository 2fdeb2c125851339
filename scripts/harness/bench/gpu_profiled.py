"""What `make profile-gpu` has Nsight Compute watch: each batch once, everything warm before.

Arguments: the executor's library, a folder for engines, and the file that says which batches, as
JSON: a list of {precision, lengths}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .gpu_cases import ARCHITECTURE, half_weights, random_batch
from .gpu_ours import Ours, OursFp8
from .gpu_systems import GpuModel

SYSTEMS = {"fp16": Ours, "fp8": OursFp8}


def main(library: str, folder: str, shapes: str) -> None:
    import torch

    runtime: Any = torch.cuda.cudart()
    wanted = json.loads(Path(shapes).read_text(encoding="utf-8"))
    most = max(sum(shape["lengths"]) for shape in wanted)
    model = GpuModel(
        half_weights(ARCHITECTURE),
        ARCHITECTURE,
        Path(folder),
        Path(library),
        max(len(shape["lengths"]) for shape in wanted),
        most,
    )
    random = np.random.default_rng(0)
    systems = {precision: SYSTEMS[precision](model) for precision in SYSTEMS}
    ready = [
        (system, system.prepare(random_batch(shape["lengths"], random)))
        for shape in wanted
        for system in [systems[shape["precision"]]]
    ]
    for system, batch in ready:
        system.run([batch])
    torch.cuda.synchronize()
    runtime.cudaProfilerStart()
    for system, batch in ready:
        system.run([batch])
    runtime.cudaProfilerStop()


if __name__ == "__main__":
    main(*sys.argv[1:])
