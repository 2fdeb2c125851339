"""Compare the run's logits with ONNX Runtime FP32 on the CPU, graph optimizations off."""

from dataclasses import asdict

import onnxruntime

from harness import batches, crosscheck, measure
from harness import windows as windows_module
from harness.backends import ort
from harness.crosscheck import HISTOGRAM_EDGES, compare, compute_reference
from harness.errors import OK, run_command
from harness.files import fingerprint, sha256_file, to_json, write_atomic
from harness.inputs import Inputs
from harness.lock import device_lock
from harness.options import read_options
from harness.paths import BUILD
from harness.provenance import code_sha256
from harness.records import MadeFile, read_record, write_record
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
        "onnxruntime": onnxruntime.__version__,
        "code": code_sha256(crosscheck, measure, batches, windows_module, ort),
    }
    path = BUILD / "reference" / f"{options.profile.name}-{fingerprint(key)}.npz"
    record = path.with_suffix(".json")
    # Only what the record's hash vouches for is taken again.
    if not (record.is_file() and MadeFile.from_json(read_record(record, "crosscheck")).intact):
        with device_lock(ort.OrtCpu().lock_name(0)):
            compute_reference(graph.checked("onnx"), windows, path)
        write_record(record, MadeFile.of(path).as_json())
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
