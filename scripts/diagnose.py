"""Find where in the network accuracy is lost, sub-layer by sub-layer against FP32."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.backends.ort import OrtSession
from harness.diagnose import choice, record, show
from harness.diagnose.diagnosis import diagnose
from harness.diagnose.reference import Reference, logits_apart, same_weights
from harness.diagnose.remedy import QUESTIONS, attempt
from harness.diagnose.taps import tapped_backend
from harness.engine import checked_engine
from harness.errors import OK
from harness.files import TEMPORARY_PREFIX
from harness.inputs import Inputs
from harness.lock import device_lock, run_stage
from harness.options import read_count, read_options
from harness.paths import BUILD, shown
from harness.provenance import git_state, utc_now
from harness.records import MadeFile, read_record, records_of
from harness.windows import cut_windows, load_tokenizer


def main() -> int:
    options = read_options()
    backend, count = tapped_backend(options.backend), read_count(os.environ, "WINDOWS", 32)
    inputs, records = Inputs(options), records_of(options)
    built = read_record(records.engine, "engine")
    engine_file = checked_engine(options, built)
    tested, plain = (MadeFile.from_json(built[k]).checked("onnx") for k in ("onnx", "reference"))
    questions = inputs.dataset.questions
    tokenizer = load_tokenizer(inputs.file("vocab").checked("assets"))
    windows = cut_windows(questions, tokenizer, options.profile.windows)
    engine = options.backend.load(engine_file, options.engine)

    worst = choice.worst_of_run(options.run_folder, built["onnx"], windows, count)
    chosen_by = "of the cross-check"
    if worst is None:
        reference_session = OrtSession(plain, optimized=False)
        worst = choice.search_worst(engine, reference_session, windows, count)
        chosen_by = "of a sample"
    random = choice.by_chance(len(windows), count, worst)
    with TemporaryDirectory(dir=BUILD, prefix=TEMPORARY_PREFIX) as folder:
        path = same_weights(inputs, records.scales, Path(folder))
        reference = Reference(path, windows, choice.mixed(worst + random))
        apart = logits_apart(reference, plain)
        found = diagnose(tested, reference, backend, options.engine, engine)
        some = choice.some_questions(questions, QUESTIONS)
        with device_lock(options.backend.lock_name(options.device)):
            remedy, no_remedy = attempt(found, tested, reference, options, some, tokenizer)
    made = record.document(
        found,
        remedy,
        no_remedy,
        {"worst": worst, "random": random, "seed": choice.SEED, "chosen_by": chosen_by},
        apart,
        {
            "options": options.as_json(),
            "onnx": built["onnx"],
            "engine": built["file"],
            "made": utc_now(),
            "git": git_state(),
            "device": options.backend.device(options.device)["name"],
        },
    )
    show.show(made)
    print(f"diagnose: {shown(record.write_diagnosis(options.run_folder, made))}")
    return OK


run_stage(main, __doc__)
