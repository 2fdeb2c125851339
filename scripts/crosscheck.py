"""Compare the run's logits with ONNX Runtime FP32 on the CPU, graph optimizations off."""

from harness.backends import ort
from harness.crosscheck import compare, compute_reference, document, reference_path
from harness.errors import OK
from harness.files import sha256_file, to_json, write_atomic
from harness.inputs import Inputs
from harness.lock import device_lock, run_stage
from harness.options import read_options
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
    path = reference_path(options, dataset, vocab, graph)
    record = path.with_suffix(".json")
    # Only what the record's hash vouches for is taken again.
    kept = read_record(record, "crosscheck").get("sha256") if record.is_file() else None
    if not MadeFile(path, str(kept)).intact:
        with device_lock(ort.OrtCpu().lock_name(0)):
            compute_reference(graph.checked("onnx"), windows, path)
        write_record(record, MadeFile.of(path).as_json())
    reference = MadeFile.of(path)
    found = compare(dataset, windows, read_logits(folder / LOGITS), read_logits(path))
    made = document(found, graph, reference, sha256_file(folder / RUN))
    write_atomic(folder / CROSSCHECK, to_json(made))
    print(
        f"crosscheck: largest difference {found.max_abs_difference:.3g}, "
        f"mean {found.mean_abs_difference:.3g}, smallest cosine {found.min_cosine:.6f}, "
        f"equal answers {found.equal_answers:.2f} %"
    )
    return OK


run_stage(main, __doc__)
