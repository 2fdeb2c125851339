"""All systems that are compared, in the order in which tables name them."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UserError
from .openvino_peers import NncfInt8, OpenVino
from .ort_peers import Optimum, OrtDynamicInt8, OrtPlain
from .ours import Ours, OursEndToEnd, cpu_precisions
from .system import System
from .torch_peers import TorchCompile, TransformersEager, TransformersPipeline

# What the others' logits are compared with: the model's own authors' code.
REFERENCE = TransformersEager().key


def execution_systems() -> list[System]:
    """Those that take batches of windows."""
    return [
        *(Ours(backend, precision) for backend, precision in cpu_precisions()),
        TransformersEager(),
        TorchCompile(),
        Optimum(),
        OrtPlain(),
        OrtDynamicInt8(),
        OpenVino("openvino-f32", "OpenVINO, FP32", precision="f32"),
        OpenVino("openvino-default", "OpenVINO, default precision"),
        NncfInt8(),
    ]


def end_to_end_systems() -> list[System]:
    """Those that go from text to answers."""
    ours = [OursEndToEnd(backend, precision) for backend, precision in cpu_precisions()]
    return [*ours, TransformersPipeline()]


def check_keys(keys: Sequence[str]) -> None:
    """Raise UserError for a key that is no system's."""
    known = dict.fromkeys(s.key for s in (*execution_systems(), *end_to_end_systems()))
    for key in keys:
        if key not in known:
            raise UserError(f"no system {key!r}; BENCH_SYSTEMS lists some of {', '.join(known)}")
