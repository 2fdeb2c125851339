"""Print exact_match and F1 with one kind of linear in INT8 at a time, the rest in FP32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from harness import graph, model
from harness.answers import answer_texts
from harness.backends import EngineOptions
from harness.backends.ort import OrtCpu
from harness.batches import AUTO, plan_batches
from harness.errors import OK, UserError
from harness.files import TEMPORARY_PREFIX
from harness.inputs import Inputs
from harness.lock import run_stage
from harness.measure import run_windows
from harness.options import read_options
from harness.paths import BUILD
from harness.records import MadeFile, read_record, records_of
from harness.scales import Scales, read_scales
from harness.scoring import Score, score
from harness.squad import Dataset
from harness.weights import Architecture, Weights
from harness.windows import Windows, cut_windows, load_tokenizer

# What of a linear's name tells its kind: query, key and value take one input.
KINDS = {
    "nothing": (),
    "query, key, value": (".query", ".key", ".value"),
    "attention output": (".attention.output",),
    "ffn in": (".ffn.in",),
    "ffn out": (".ffn.out",),
    "qa head": ("qa",),
    "all": ("",),
}


def main() -> int:
    options = read_options()
    inputs, records = Inputs(options), records_of(options)
    if records.scales is None:
        raise UserError(f"PRECISION={options.precision} needs no scales; use PRECISION=int8")
    made = MadeFile.from_json(read_record(records.scales, "scales")["file"])
    found = read_scales(made.checked("scales"))
    weights = model.quantized_weights(inputs, found)
    dataset = inputs.dataset
    tokenizer = load_tokenizer(inputs.file("vocab").checked("assets"))
    windows = cut_windows(dataset.questions, tokenizer, options.profile.windows)

    table = Table(box=None, pad_edge=False)
    for heading in ("in INT8", "linears", "exact_match", "F1", "F1 lost"):
        table.add_column(heading, justify="left" if heading == "in INT8" else "right")
    whole: Score | None = None
    for kind, endings in KINDS.items():
        kept = {n: s for n, s in found.weights.items() if n.endswith(endings)} if endings else {}
        if kind not in ("nothing", "all") and not kept:
            continue  # A QAT checkpoint leaves the QA head in float.
        scored = measured(
            weights,
            options.profile.architecture,
            replace(found, weights=kept),
            replace(options.engine, batch=AUTO, precision="int8" if kept else "fp32"),
            dataset,
            windows,
            kind,
        )
        whole = whole or scored
        lost = f"{whole.f1 - scored.f1:.2f}"
        row = (kind, str(len(kept)), f"{scored.exact_match:.2f}", f"{scored.f1:.2f}", lost)
        table.add_row(*row)
    print(f"{options.profile.name}: {len(dataset.questions)} questions, {len(windows)} windows")
    Console(highlight=False).print(table)
    return OK


def measured(
    weights: Weights,
    architecture: Architecture,
    scales: Scales,
    options: EngineOptions,
    dataset: Dataset,
    windows: Windows,
    label: str,
) -> Score:
    """EM and F1 of the model whose linears with `scales` are quantized, through ort-cpu."""
    backend = OrtCpu()
    BUILD.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=BUILD, prefix=TEMPORARY_PREFIX) as folder:
        onnx_file, engine_file = Path(folder) / "model.onnx", Path(folder) / "engine.onnx"
        graph.save_graph(graph.build_graph(weights, architecture, "fp32", scales), onnx_file)
        backend.build(onnx_file, engine_file, options)
        session = backend.load(engine_file, options)
    plan = plan_batches(windows.lengths, AUTO, backend.token_budget)
    made = run_windows(session, windows, plan, label)
    texts = answer_texts(dataset.questions, windows, made.start_logits, made.end_logits)
    return score(dataset.questions, texts)


run_stage(main, __doc__)
