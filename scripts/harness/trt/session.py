"""A loaded engine that runs batches, one after the other, timed on the device.

One stream alone: a second batch on the device would be in the first one's time, and a second
thread in Python would hold up the calls between the two events that take the time. Copies are
small, under 1 % of a batch's time, so there is nothing to gain from overlapping them.

No CUDA graphs: they spare launches, which at the protocol's batch run ahead of the device anyway,
and TensorRT wants an execution context for each captured shape, of which sorted batches bring a
hundred.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..backends import EngineOptions, Outputs
from ..errors import UserError
from ..plugin_network import INPUTS, OUTPUTS
from ..windows import Int32
from .api import Shape
from .cuda import Cuda, Stopwatch
from .library import Library
from .plan import PlanError, deserialize
from .plugins import load_plugins, plugin_library
from .tensors import Executor, executor


class TensorRtSession:
    """An engine on one device, with memory for its largest batch, allocated once.

    Windows are padded to a multiple of `multiple` tokens for runtimes that want it.
    """

    streams = 1

    def __init__(
        self, library: Library, cuda: Cuda, executor: Executor, *, multiple: int = 1
    ) -> None:
        self._library, self._cuda, self._executor = library, cuda, executor
        self._multiple = multiple
        batch, length = self._executor.largest
        count = batch * length
        kinds = {**dict.fromkeys(INPUTS, np.int32), **dict.fromkeys(OUTPUTS, np.float32)}
        self._host = {name: self._cuda.host_memory(kind, count) for name, kind in kinds.items()}
        self._device = {name: self._cuda.device_memory(4 * count) for name in kinds}
        self._stopwatch = Stopwatch(self._cuda)

    def run(self, input_ids: Int32, segment_ids: Int32, input_mask: Int32) -> Outputs:
        """Start and end logits, float32 (batch, seq), and their time."""
        batch, length = input_ids.shape
        shape = (batch, length + -length % self._multiple)
        most = self._executor.largest
        if batch > most[0] or shape[1] > most[1]:
            raise UserError(
                f"a batch of {batch}x{length} is beyond the engine's {_by(most)}; "
                "build one for it with BATCH="
            )
        count = batch * shape[1]
        given = (input_ids, segment_ids, input_mask)
        for name, array in zip(INPUTS, given, strict=True):
            padded = self._host[name][:count].reshape(shape)
            padded[:, :length] = array
            padded[:, length:] = 0
            self._cuda.to_device(self._host[name][:count], self._device[name])
        # The copies are over before the clock starts, and launches are in its time.
        self._cuda.synchronize()
        self._library.log.clear()
        self._stopwatch.start()
        if not self._executor.enqueue(shape, self._device, int(self._cuda.stream)):
            raise UserError(
                f"a batch of {batch}x{length} failed ({self._library.log.cause()}); "
                "try a smaller BATCH"
            )
        self._stopwatch.stop()
        for name in OUTPUTS:
            self._cuda.to_host(self._device[name], self._host[name][:count])
        self._cuda.synchronize()
        start, end = (
            self._host[name][:count].reshape(shape)[:, :length].copy() for name in OUTPUTS
        )
        return Outputs(start, end, self._stopwatch.seconds())


def load_session(
    library: Library, engine_file: Path, options: EngineOptions, *, multiple: int = 1
) -> TensorRtSession:
    """A session over the plan in `engine_file` on the options' device.

    Raises UserError for a file that is no plan, or one of another version, kind of device, model
    or batch, and when memory runs out.
    """
    if options.network == "plugin":
        load_plugins(library, plugin_library(library, options.plugin_library))
    cuda = Cuda(options.device)
    engine = deserialize(library, engine_file.read_bytes())
    try:
        if engine is None:
            cause = library.log.cause()
            if "memory" in cause.lower():
                raise UserError(
                    f"{engine_file.name} does not fit the device ({cause}); free its memory, or "
                    "use a smaller BATCH"
                )
            raise PlanError(f"{library.title} refuses it: {cause}")
        loaded = executor(library, engine)
        wanted = (int(options.batch), options.sequence_length)
        if loaded.largest < wanted:
            raise PlanError(f"it takes {_by(loaded.largest)} tokens at most, not {_by(wanted)}")
    except PlanError as error:
        raise UserError(
            f"{engine_file} cannot be loaded ({error}); delete it and build it again"
        ) from None
    return TensorRtSession(library, cuda, loaded, multiple=multiple)


def _by(shape: Shape) -> str:
    return "x".join(map(str, shape))
