"""Building an engine from the ONNX graph: parsed as it is, or as a network of plugins.

Both have the inputs `input_ids`, `segment_ids` and `input_mask`, int32 (batch, seq), and the
outputs `start_logits` and `end_logits`, float32 (batch, seq). One optimization profile reaches
from (1, 1) to the largest batch of the longest windows, and is tuned for that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..backends import EngineOptions
from ..errors import UserError, one_line
from ..files import write_atomic
from ..graph_reader import read_graph
from ..plugin_network import INPUTS, add_bert
from .api import Builder, Config
from .library import Library
from .plugins import load_plugins, plugin_library


def build_plan(
    library: Library, onnx_file: Path, options: EngineOptions, timing_cache: Path | None = None
) -> bytes:
    """The serialized engine of `onnx_file` for the current device.

    `timing_cache`, where the library has such, is read, and written again with what was timed.
    Raises UserError for a graph, plugin or device that the runtime refuses, and when the device
    has too little memory.
    """
    trt, log = library.module, library.log
    log.clear()
    try:
        builder = trt.Builder(log.logger)
        network = builder.create_network(_network_flags(library))
        config = builder.create_builder_config()
        if options.network == "plugin":
            # Its constants' memory has to last until the engine is built.
            keep = _add_plugins(library, network, onnx_file, options)
        else:
            keep = _parse(library, network, onnx_file)
        _configure(library, builder, config, options)
        if timing_cache is not None:
            _read_timing_cache(config, timing_cache)
        plan = builder.build_serialized_network(network, config)
        del keep
    # The bindings turn a null pointer into a TypeError and what C++ throws into a RuntimeError.
    except (RuntimeError, TypeError, MemoryError) as error:
        raise UserError(_failure(library, onnx_file, one_line(error))) from None
    if plan is None:
        raise UserError(_failure(library, onnx_file, log.cause()))
    if timing_cache is not None:
        found = config.get_timing_cache()
        if found is not None:
            write_atomic(timing_cache, bytes(memoryview(found.serialize())))
    return bytes(memoryview(plan))


def _network_flags(library: Library) -> int:
    flags = library.module.NetworkDefinitionCreationFlag
    name = "STRONGLY_TYPED" if library.typed else "EXPLICIT_BATCH"
    # A release that has only one kind of network may have dropped the flag for it.
    return 1 << int(getattr(flags, name)) if hasattr(flags, name) else 0


def _add_plugins(library: Library, network: Any, onnx_file: Path, options: EngineOptions) -> Any:
    load_plugins(library, plugin_library(library, options.plugin_library))
    model = read_graph(onnx_file)
    registry = library.module.get_plugin_registry()
    try:
        add_bert(
            network,
            library.module,
            registry,
            model.weights,
            model.architecture,
            model.scales,
            api=library.api,
        )
    except UserError as error:
        if not library.log.errors:
            raise
        raise UserError(f"{error} ({library.title}: {library.log.cause()})") from None
    return model


def _parse(library: Library, network: Any, onnx_file: Path) -> Any:
    parser = library.module.OnnxParser(network, library.log.logger)
    if not parser.parse(onnx_file.read_bytes()):
        first = one_line(parser.get_error(0)) if parser.num_errors else library.log.cause()
        raise UserError(
            f"{onnx_file} cannot be parsed by {library.title} ({first}); "
            "delete it and build it again"
        )
    return parser


def _configure(library: Library, builder: Builder, config: Config, options: EngineOptions) -> None:
    trt = library.module
    if not library.typed:
        for flag in {"int8": ("INT8", "FP16"), "fp16": ("FP16",)}.get(options.precision, ()):
            config.set_flag(getattr(trt.BuilderFlag, flag))
    # FP32 means FP32: TF32 has FP16's mantissa. ixRT has neither.
    if options.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)
    if hasattr(trt, "ProfilingVerbosity"):
        # The inspector's names and types; it costs no speed.
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # type: ignore[attr-defined]
    if options.compute_capability is not None:
        config.num_compute_capabilities = 1  # type: ignore[attr-defined]
        number = options.compute_capability.replace(".", "")
        capability = getattr(trt.ComputeCapability, f"SM{number}")
        config.set_compute_capability(capability, 0)  # type: ignore[attr-defined]
    profile = builder.create_optimization_profile()
    largest = (int(options.batch), options.sequence_length)
    for name in INPUTS:
        profile.set_shape(name, (1, 1), largest, largest)
    config.add_optimization_profile(profile)


def _read_timing_cache(config: Config, path: Path) -> None:
    """An empty cache where the file's is missing, damaged or of another device."""
    for data in (path.read_bytes() if path.is_file() else b"", b""):
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def _failure(library: Library, onnx_file: Path, cause: str) -> str:
    step = "use a smaller BATCH" if "memory" in cause.lower() else "`make doctor` shows the device"
    return f"{library.title} cannot build {onnx_file.name} ({cause}); {step}"
