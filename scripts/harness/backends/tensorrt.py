"""TensorRT, ixRT and TensorRT-RTX: engines built from the ONNX graph or from plugins."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import graph_reader, plugin_network
from ..errors import UserError
from ..files import fingerprint, sha256_file
from ..paths import BUILD
from ..provenance import code_sha256
from ..trt import build, cuda, plugins
from ..trt.build import build_plan
from ..trt.cuda import Cuda, find_cuda
from ..trt.library import Library, find_ixrt, find_tensorrt, find_tensorrt_rtx
from ..trt.plan import describe
from ..trt.plugins import plugin_library
from ..trt.session import TensorRtSession, load_session
from . import EngineOptions
from .accelerated import OnAccelerator

# Times of kernels that builders have tried, by version and device.
TIMING_CACHES = BUILD / "timing-cache"


class _Family(OnAccelerator):
    """What the three have in common."""

    precisions: tuple[str, ...] = ("fp16", "fp32", "int8")
    engine_needs_batch = True
    # The largest batch is the engine's.
    token_budget = 0
    # Kernels are loaded, and by TensorRT-RTX made, when a shape first wants them.
    compiles_shapes = True

    @abstractmethod
    def library(self) -> Library:
        """The runtime; raises UserError where it is missing."""

    def graph_precision(self, options: EngineOptions) -> str:
        """A typed network has the graph's types; elsewhere flags ask for less than FP32.

        Plugins take weights in FP32, and round them themselves.
        """
        precision = options.precision
        if options.network == "plugin":
            if precision not in ("fp16", "int8"):
                raise UserError(f"no plugins compute in {precision}; use PRECISION=fp16 or int8")
        elif self.library().typed:
            return "int8-fp16" if precision == "int8" else precision
        return "int8" if precision == "int8" else "fp32"

    def unavailable(self) -> str | None:
        """None where the device, the runtime and cuda-python are."""
        return self.no_device() or _reason(self.library) or _reason(find_cuda)

    def engine_inputs(self, options: EngineOptions) -> dict[str, Any]:
        """The library and all that it builds for: shapes, the kind of device and its driver."""
        library = self.library()
        inputs = {
            "library": library.title,
            "network": options.network,
            "batch": options.batch,
            "sequence_length": options.sequence_length,
            **self._target(options),
            "builder": code_sha256(build, cuda, graph_reader, plugin_network, plugins),
        }
        if options.network == "plugin":
            inputs["plugin_library"] = sha256_file(plugin_library(library, options.plugin_library))
        return inputs

    def engine_suffix(self) -> str:
        """A plan, as the runtime serializes it."""
        return ".plan"

    def build(self, onnx_file: Path, engine_file: Path, options: EngineOptions) -> str | None:
        """Build on the options' device; what the runtime's inspector says is returned."""
        library = self.library()
        Cuda(options.device)
        cache = None
        if library.timed:
            name = fingerprint([library.title, self._target(options)])
            cache = TIMING_CACHES / f"{self.name}-{name}.cache"
        plan = build_plan(library, onnx_file, options, cache)
        engine_file.write_bytes(plan)
        return describe(library, plan)

    def load(self, engine_file: Path, options: EngineOptions) -> TensorRtSession:
        """A session on the options' device."""
        return load_session(self.library(), engine_file, options)

    def _target(self, options: EngineOptions) -> dict[str, Any]:
        """What the engine is for, as JSON: a plan runs on the kind of device it was built on."""
        found = self._found(options.device)
        return {
            "device": found.name,
            "driver": found.driver,
            "compute_capability": found.facts.get("compute_cap"),
        }


class TensorRt(_Family):
    """NVIDIA's TensorRT 8.6, 10 and 11."""

    name = "tensorrt"
    vendor = "nvidia"
    networks: tuple[str, ...] = ("onnx", "plugin")

    def library(self) -> Library:
        """Module `tensorrt`."""
        return find_tensorrt()


class IxRt(_Family):
    """Iluvatar's ixRT, by default with the plugins that are made for it."""

    name = "ixrt"
    vendor = "iluvatar"
    precisions: tuple[str, ...] = ("fp16", "int8")
    networks: tuple[str, ...] = ("plugin", "onnx")

    def library(self) -> Library:
        """Module `tensorrt` of the vendor's."""
        return find_ixrt()

    def load(self, engine_file: Path, options: EngineOptions) -> TensorRtSession:
        """As upstream does, INT8 pads windows to an even length."""
        multiple = 2 if options.precision == "int8" else 1
        return load_session(self.library(), engine_file, options, multiple=multiple)


class TensorRtRtx(_Family):
    """TensorRT-RTX: it builds anywhere, and runs on GeForce and workstation cards.

    A plan is for a compute capability and no particular device; kernels are made when it runs.
    """

    name = "tensorrt-rtx"
    vendor = "nvidia"

    def library(self) -> Library:
        """Module `tensorrt_rtx`, or its bindings over ONNX Runtime's copy of the library."""
        return find_tensorrt_rtx()

    def graph_precision(self, options: EngineOptions) -> str:
        """INT8 has one scale a GEMM, as its kernels want it."""
        precision = super().graph_precision(options)
        return "int8-fp16-rtx" if precision == "int8-fp16" else precision

    def unavailable(self) -> str | None:
        """None where the library is: building needs no device."""
        return _reason(self.library)

    def cannot_run(self) -> str | None:
        """None where a device that it knows and cuda-python are."""
        return self.no_device() or _reason(lambda: self._device_capability(0)) or _reason(find_cuda)

    def compute_capabilities(self) -> tuple[str, ...]:
        """Those of its enumeration: SM89 is 8.9."""
        names = self.library().module.ComputeCapability.__members__
        numbers = sorted(int(name[2:]) for name in names if name[:2] == "SM")
        return tuple(f"{number // 10}.{number % 10}" for number in numbers)

    def device(self, index: int) -> dict[str, Any]:
        """A device that it knows; raises UserError where there is none."""
        self._device_capability(index)
        return super().device(index)

    def build(self, onnx_file: Path, engine_file: Path, options: EngineOptions) -> str | None:
        """Build for COMPUTE_CAPABILITY, or for the device that is here."""
        library = self.library()
        target = replace(options, compute_capability=self._capability(options))
        plan = build_plan(library, onnx_file, target)
        engine_file.write_bytes(plan)
        # The inspector wants the device.
        return describe(library, plan) if options.compute_capability is None else None

    def _target(self, options: EngineOptions) -> dict[str, Any]:
        return {"compute_capability": self._capability(options)}

    def _capability(self, options: EngineOptions) -> str:
        return options.compute_capability or self._device_capability(options.device)

    def _device_capability(self, index: int) -> str:
        reason = self.no_device()
        if reason is not None:
            raise UserError(f"{reason}, or name a kind of device with COMPUTE_CAPABILITY=8.9")
        found = self._found(index)
        capability = str(found.facts.get("compute_cap"))
        known = self.compute_capabilities()
        if capability not in known:
            raise UserError(
                f"TensorRT-RTX does not run on {found.name} with compute capability {capability}, "
                f"only on {', '.join(known)}; use BACKEND=tensorrt or ort-cuda"
            )
        return capability


def _reason(find: Any) -> str | None:
    """Why something is not to be found; None if it is."""
    try:
        find()
    except UserError as error:
        return str(error)
    return None
