"""Build the backend's engine from the ONNX graph."""

from harness.engine import engine_path, made_from
from harness.errors import OK
from harness.files import atomic_path, write_atomic
from harness.lock import run_stage
from harness.options import read_options
from harness.paths import shown
from harness.records import MadeFile, read_record, records_of, write_record


def main() -> int:
    options = read_options()
    records = records_of(options)
    backend = options.backend
    graphs = read_record(records.onnx, "onnx")
    onnx_file = MadeFile.from_json(graphs["file"])
    origin = made_from(options, onnx_file.sha256)
    path = engine_path(options, origin)
    if not path.is_file():
        source = onnx_file.checked("onnx")
        with atomic_path(path) as temporary:
            description = backend.build(source, temporary, options.engine)
            # First: whoever finds the engine takes it for whole, after a kill in between too.
            if description is not None:
                write_atomic(path.with_suffix(".json"), description)
    record = {
        "file": MadeFile.of(path).as_json(),
        "onnx": onnx_file.as_json(),
        "reference": graphs["reference"],
        "made_from": origin,
    }
    write_record(records.engine, record)
    print(f"engine: {shown(path)}")
    return OK


run_stage(main, __doc__)
