"""Time the backend ort-cuda beside the variants that it does not choose."""

import tempfile
from dataclasses import replace
from pathlib import Path

import onnxruntime

from harness.backends.ort_cuda import OrtCuda
from harness.bench.model import random_weights
from harness.bench.ort_cuda import compare, table, variants
from harness.bench.publish import publish
from harness.bench.repeats import read_repeats
from harness.errors import OK, UserError, run_command
from harness.graph import Precision, build_graph, save_graph
from harness.inputs import Inputs
from harness.lock import device_lock
from harness.measure import NOISE_SPREAD
from harness.options import Options, read_options
from harness.profile import load_profile
from harness.provenance import environment, git_state, utc_now
from harness.records import MadeFile, read_record, records_of
from harness.windows import cut_windows, load_tokenizer

PRECISION: Precision = "fp16"


def engines(options: Options, folder: Path) -> dict[str, Path]:
    """The profile's engine, and one of BERT-base's shape with random weights, by title."""
    trained = MadeFile.from_json(read_record(records_of(options).engine, "engine")["file"])
    base = load_profile("bert-base-squad").architecture
    graph, engine = folder / "base.onnx", folder / "base.engine.onnx"
    save_graph(build_graph(random_weights(base), base, PRECISION), graph)
    shape = replace(options.engine, hidden=base.hidden, heads=base.heads)
    OrtCuda().build(graph, engine, shape)
    return {options.profile.model: trained.checked("engine"), "BERT-base's shape": engine}


def main() -> int:
    repeats = read_repeats(5, 100)
    options = read_options()
    if options.precision != PRECISION:
        raise UserError(f"this bench is about {PRECISION}; leave PRECISION out")
    inputs = Inputs(options)
    tokenizer = load_tokenizer(inputs.file("vocab").checked("assets"))
    windows = cut_windows(inputs.dataset.questions, tokenizer, options.profile.windows)
    length = options.profile.windows.sequence_length
    backend, found = options.backend, {}
    with (
        device_lock(backend.lock_name(options.device)),
        tempfile.TemporaryDirectory() as temporary,
    ):
        folder, started = Path(temporary), utc_now()
        for title, engine in engines(options, folder).items():
            found[title] = compare(
                variants(engine, folder, options.device), windows, length, repeats
            )
        device = backend.device(options.device)
    finished, surroundings = utc_now(), environment()
    document = {
        "precision": PRECISION,
        "repeats": repeats,
        "dataset": {"name": inputs.dataset.path.name, "sha256": inputs.dataset.sha256},
        "windows": len(windows),
        "rates": found,
        "started": started,
        "finished": finished,
        "device": device,
        "git": git_state(),
        "environment": surroundings,
    }
    lines = [
        f"{device['name']}, driver {device['driver']}, ONNX Runtime {onnxruntime.__version__}, "
        f"{finished[:10]}. {PRECISION.upper()}, windows a second: median of "
        f"{repeats} interleaved passes and (max − min) / median, which is noise over "
        f"{NOISE_SPREAD:.0%}. {len(windows)} windows of `{inputs.dataset.path.name}`.",
        "",
    ]
    for title, rates in found.items():
        lines += [f"### {title}", "", *table(rates), ""]
    publish("ort-cuda", device["name"], document, "\n".join(lines))
    return OK


run_command(main, __doc__)
