"""The protocols of TensorRT's API against the type stubs that are published for TensorRT 10.

What a network of plugins calls takes tuples and numbers, which the bindings convert and the stubs
do not know of; the double has those calls, and its own tests compare them with the stubs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tensorrt_stubs import stubs_folder

from harness.paths import ROOT

PROBE = """
import tensorrt as trt
from harness import tensorrt_api
from harness.trt import api

logger = trt.Logger()
builder: api.Builder = trt.Builder(logger)
made = trt.Builder(logger)
config: api.Config = made.create_builder_config()
profile: api.Profile = made.create_optimization_profile()
cache: api.TimingCache = made.create_builder_config().get_timing_cache()
parser: api.Parser = trt.OnnxParser(made.create_network(0), logger)
runtime: api.Runtime = trt.Runtime(logger)
loaded: trt.ICudaEngine = trt.Runtime(logger).deserialize_cuda_engine(b"")
engine: api.NamedEngine = loaded
context: api.NamedContext = loaded.create_execution_context()
inspector: api.Inspector = loaded.create_engine_inspector()
registry: api.LibraryRegistry = trt.IPluginRegistry()
made.create_builder_config().profiling_verbosity = trt.ProfilingVerbosity.DETAILED
flags = (trt.BuilderFlag.TF32, trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
severities = (trt.ILogger.ERROR, trt.Logger.ERROR, trt.LayerInformationFormat.JSON)
types: tuple[tensorrt_api.DataType, ...] = (trt.float32, trt.float16, trt.int32, trt.int8)
fields = (trt.PluginFieldType.FLOAT32, trt.PluginFieldType.INT32, trt.PluginFieldType.INT8)
plugins = (trt.IPluginCreatorV3One, trt.TensorRTPhase.BUILD, trt.PluginField)
"""


def stubs(folder: Path) -> Path:
    """A copy of the stubs that mypy can read."""
    for package in ("tensorrt", "tensorrt_bindings"):
        shutil.copytree(stubs_folder() / package, folder / package)
    path = folder / "tensorrt_bindings" / "tensorrt.pyi"
    text = path.read_text(encoding="utf-8")
    # Not Python: parameters called `in`, and one without a default behind others with one.
    text = re.sub(r"\bin: ", "in_: ", text)
    text = re.sub(r"def add_scale_nd\(.*", lambda m: re.sub(r" = [^,)]*", "", m[0]), text)
    # A data type of that name hides the builtin's from every signature.
    text = re.sub(r"^bool: .*$", "", text, flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")
    return folder


def test_protocols_are_the_stubs(tmp_path: Path) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text(PROBE)
    config = tmp_path / "mypy.ini"
    config.write_text(
        f"[mypy]\nmypy_path = {stubs(tmp_path / 'stubs')}:{ROOT / 'scripts'}\nstrict = True\n"
        "explicit_package_bases = True\nfollow_imports = silent\nignore_missing_imports = True\n"
        "[mypy-tensorrt.*,tensorrt_bindings.*]\nignore_errors = True\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", config, "--cache-dir", tmp_path, probe],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.stdout.startswith("Success"), done.stdout + done.stderr
