"""The library the pipeline's commands share: BERT question answering, measured and judged."""

import os
import sys

# Vendors' runtimes are found by PYTHONPATH. Its folders come last, since what else lies there must
# not replace the packages that the requirements pin.
_named = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
_folders = [os.path.abspath(path) for path in _named]  # noqa: PTH100, as they stand in sys.path
sys.path[:] = [path for path in sys.path if path not in _folders] + _folders
