"""Build the kernels, the plugin library and their tests into build/plugin."""

import os

from harness.errors import OK, run_command
from harness.paths import BUILD, shown
from harness.plugin_library import build


def main() -> int:
    folder = BUILD / "plugin"
    names = ("USE_TENSORRT", "TENSORRT_ROOT", "CUBLAS_ROOT", "BERT_PLUGIN_API")
    build(folder, {name: os.environ.get(name, "") for name in names})
    libraries = sorted((folder / "plugin" / "lib").glob("*.so"))
    for library in libraries:
        print(f"plugin: {shown(library)}")
    if not any(library.name == "libixrt_plugin.so" for library in libraries):
        print("plugin: no NvInfer.h, so no plugins; TENSORRT_ROOT= says where include/ is")
    return OK


run_command(main, __doc__)
