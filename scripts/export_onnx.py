"""Write the model's ONNX graph, and the FP32 one for the cross-check, from the weights."""

from dataclasses import asdict
from pathlib import Path
from typing import cast

from harness import adapter, graph, torch_checkpoint, weights
from harness.errors import OK, run_command
from harness.files import atomic_path, fingerprint
from harness.graph import Precision
from harness.inputs import Inputs
from harness.options import read_options
from harness.paths import BUILD, shown
from harness.provenance import code_sha256
from harness.records import MadeFile, records_of, write_record
from harness.weights import Weights


def export(inputs: Inputs, precision: Precision) -> Path:
    """The graph's file, written unless one made from the same things is there."""
    profile, base = inputs.options.profile, inputs.file("weights")
    made_from = {
        "weights": base.sha256,
        "adapter": inputs.model["adapter"]["sha256"] if "adapter" in inputs.model else None,
        "architecture": asdict(profile.architecture),
        "precision": precision,
        # The graph's authors are inputs too: another graph.py may write another graph.
        "code": code_sha256(graph, weights, torch_checkpoint, adapter),
    }
    path = BUILD / "onnx" / f"{profile.model}-{precision}-{fingerprint(made_from)}.onnx"
    if not path.is_file():
        model = graph.build_graph(merged_weights(inputs), profile.architecture, precision)
        with atomic_path(path) as temporary:
            graph.save_graph(model, temporary)
    return path


def merged_weights(inputs: Inputs) -> Weights:
    """The model's weights, the adapter merged where the profile has one."""
    base = inputs.file("weights")
    merged = weights.read_weights(base.checked("assets"))
    if "adapter" in inputs.model:
        change = adapter.read_adapter(inputs.file("adapter").checked("assets"))
        merged = adapter.merge_adapter(merged, change, base_sha256=base.sha256)
    weights.check_weights(merged, inputs.options.profile.architecture, qa_head=True)
    return merged


def main() -> int:
    options = read_options()
    inputs = Inputs(options)
    precision = cast(Precision, options.backend.graph_precision(options.precision))
    path = export(inputs, precision)
    checkpoint = inputs.file("weights")
    # A checkpoint that is an ONNX graph is its own reference: that tests our graph as well.
    reference = checkpoint.path if checkpoint.path.suffix == ".onnx" else export(inputs, "fp32")
    record = {"file": MadeFile.of(path).as_json(), "reference": MadeFile.of(reference).as_json()}
    write_record(records_of(options).onnx, record)
    print(f"onnx: {shown(path)}")
    return OK


run_command(main, __doc__)
