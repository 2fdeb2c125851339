"""Compare the run's logits with ONNX Runtime FP32 on the CPU, graph optimizations off."""

from dataclasses import asdict
from importlib.metadata import version

from harness.crosscheck import HISTOGRAM_EDGES, compare, compute_reference
from harness.errors import OK, run_command
from harness.files import fingerprint, sha256_file, to_json, write_atomic
from harness.inputs import Inputs
from harness.options import read_options
from harness.paths import BUILD
from harness.records import MadeFile
from harness.run import CROSSCHECK, LOGITS, RUN, read_logits, read_run
from harness.windows import cut_windows, load_tokenizer


def main() -> int:
    options = read_options()
    inputs = Inputs(options)
    folder = options.run_folder
    run = read_run(folder)
    vocab = inputs.file("vocab")
    dataset = inputs.dataset
    windows = cut_windows(
        dataset.questions, load_tokenizer(vocab.checked("assets")), options.profile.windows
    )
    graph = MadeFile.from_json(run["reference"])
    key = {
        "graph": graph.sha256,
        "dataset": dataset.sha256,
        "limit": options.limit,
        "windows": asdict(options.profile.windows),
        "vocab": vocab.sha256,
        "onnxruntime": version("onnxruntime"),
    }
    path = BUILD / "reference" / f"{options.profile.name}-{fingerprint(key)}.npz"
    if not path.is_file():
        compute_reference(graph.checked("onnx"), windows, path)
    found = compare(dataset, windows, read_logits(folder / LOGITS), read_logits(path))
    document = {
        **asdict(found),
        "histogram_edges": HISTOGRAM_EDGES,
        "graph": graph.as_json(),
        "reference": MadeFile.of(path).as_json(),
        # Ties these numbers to one run: another run.json makes them stale.
        "run_sha256": sha256_file(folder / RUN),
    }
    write_atomic(folder / CROSSCHECK, to_json(document))
    print(
        f"crosscheck: largest difference {found.max_abs_difference:.3g}, "
        f"mean {found.mean_abs_difference:.3g}, smallest cosine {found.min_cosine:.6f}, "
        f"equal answers {found.equal_answers:.2f} %"
    )
    return OK


run_command(main, __doc__)
