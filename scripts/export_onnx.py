"""Write the model's ONNX graph, and the FP32 one for the cross-check, from the weights."""

from harness.errors import OK
from harness.inputs import Inputs
from harness.lock import run_stage
from harness.model import export_graph
from harness.options import read_options
from harness.paths import shown
from harness.records import MadeFile, read_record, records_of, write_record


def main() -> int:
    options = read_options()
    records, inputs = records_of(options), Inputs(options)
    scales = None
    if records.scales is not None:
        scales = MadeFile.from_json(read_record(records.scales, "scales")["file"])
    path = export_graph(inputs, options.graph_precision, scales)
    checkpoint = inputs.file("weights")
    # A checkpoint that is an ONNX graph is its own reference: that tests our graph as well.
    is_graph = checkpoint.path.suffix == ".onnx"
    reference = checkpoint.path if is_graph else export_graph(inputs, "fp32")
    record = {"file": MadeFile.of(path).as_json(), "reference": MadeFile.of(reference).as_json()}
    write_record(records.onnx, record)
    print(f"onnx: {shown(path)}")
    return OK


run_stage(main, __doc__)
