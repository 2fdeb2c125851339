"""Build the backend's engine from the ONNX graph."""

import sys
from types import ModuleType

from harness import backends
from harness.errors import OK, run_command
from harness.files import atomic_path, fingerprint
from harness.options import read_options
from harness.paths import BUILD, shown
from harness.provenance import code_sha256
from harness.records import MadeFile, read_record, records_of, write_record


def backend_modules() -> list[ModuleType]:
    """The modules that backends are written in, by name."""
    package = backends.__name__
    return [module for name, module in sorted(sys.modules.items()) if name.startswith(package)]


def main() -> int:
    options = read_options()
    records = records_of(options)
    backend = options.backend
    graphs = read_record(records.onnx, "onnx")
    onnx_file = MadeFile.from_json(graphs["file"])
    made_from = {
        "onnx": onnx_file.sha256,
        "backend": backend.name,
        "precision": options.precision,
        "options": backend.engine_inputs(options.engine),
        # The engine's authors are inputs too.
        "code": code_sha256(*backend_modules()),
    }
    name = f"{options.profile.model}-{options.precision}-{fingerprint(made_from)}"
    path = BUILD / "engine" / backend.name / (name + backend.engine_suffix())
    if not path.is_file():
        source = onnx_file.checked("onnx")
        with atomic_path(path) as temporary:
            backend.build(source, temporary, options.engine)
    record = {
        "file": MadeFile.of(path).as_json(),
        "onnx": onnx_file.as_json(),
        "reference": graphs["reference"],
        "made_from": made_from,
    }
    write_record(records.engine, record)
    print(f"engine: {shown(path)}")
    return OK


run_command(main, __doc__)
