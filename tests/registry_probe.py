"""Load a plugin library into TensorRT-RTX's registry, and make plugins from fields in files.

Usage: registry_probe.py LIBRARY FOLDER, which holds NUMBER-KIND-VERSION.npz for each plugin.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from tensorrt_rtx import tensorrt


def main(library: str, folder: str) -> None:
    trt = tensorrt()
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    registry = trt.get_plugin_registry()
    assert registry.load_library(library) is not None
    creators = [creator for creator in registry.all_creators if creator.name.endswith("_IxRT")]
    types = {
        "float16": trt.PluginFieldType.FLOAT16,
        "float32": trt.PluginFieldType.FLOAT32,
        "int8": trt.PluginFieldType.INT8,
        "int32": trt.PluginFieldType.INT32,
    }

    def make(kind: str, version: str, fields: dict[str, Any]) -> Any:
        creator = registry.get_creator(f"Custom{kind}PluginDynamic_IxRT", version, "")
        assert isinstance(creator, trt.IPluginCreatorV3One), (kind, version)
        collection = trt.PluginFieldCollection(
            [
                trt.PluginField(name, value, types[str(value.dtype)])
                for name, value in fields.items()
            ]
        )
        return creator.create_plugin("layer", collection, trt.TensorRTPhase.BUILD)

    made = 0
    for path in sorted(Path(folder).glob("*.npz")):
        _, kind, version = path.stem.split("-")
        with np.load(path) as stored:
            fields = {name: np.atleast_1d(stored[name]) for name in stored}
        assert make(kind, version, fields) is not None, path.name
        made += 1
        if kind == "QKVToContext":
            refused = {**fields, "num_heads": np.zeros(1, np.int32)}
            assert make(kind, version, refused) is None
    print(len(creators), "creators,", made, "plugins")
    del builder


main(*sys.argv[1:])
