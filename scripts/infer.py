"""Run the engine over the dataset, timed, and write the run's folder."""

import time
from dataclasses import asdict

from rich.console import Console

from harness.engine import checked_engine
from harness.errors import OK
from harness.files import require_writable, to_json, write_atomic
from harness.inputs import Inputs
from harness.lock import device_lock, run_stage
from harness.measure import (
    NOISE_SPREAD,
    Pass,
    run_pass,
    steady,
    summarize,
    warm,
)
from harness.options import read_options
from harness.paths import shown
from harness.provenance import environment, git_state, utc_now
from harness.records import MadeFile, read_record, records_of
from harness.run import LOGITS, METRICS, PREDICTIONS, RUN, TIMINGS, Logits, write_logits
from harness.scoring import score
from harness.watch import END_TO_END, disturbed, watch_device
from harness.windows import cut_windows, load_tokenizer


def main() -> int:
    options = read_options()
    inputs = Inputs(options)
    engine = read_record(records_of(options).engine, "engine")
    dataset = inputs.dataset
    tokenizer = load_tokenizer(inputs.file("vocab").checked("assets"))
    profile, backend = options.profile, options.backend
    engine_file = checked_engine(options, engine)
    folder = options.run_folder
    require_writable(folder)

    with device_lock(backend.lock_name(options.device)):
        started, began = utc_now(), time.perf_counter()
        session = backend.load(engine_file, options.engine)
        windows = cut_windows(dataset.questions, tokenizer, profile.windows)
        watch = watch_device(backend.vendor, backend.device(options.device))
        warmup_seconds = warm(session, options, windows.lengths)
        passes: list[Pass] = []
        with watch:
            for repeat in range(profile.repeats):
                label = f"pass {repeat + 1} of {profile.repeats}"
                done = run_pass(
                    session,
                    dataset.questions,
                    tokenizer,
                    profile,
                    options.batch,
                    backend.token_budget,
                    label,
                )
                # One pass's logits are enough, and all of them would not fit a small machine.
                passes.append(done if not passes else done.without_logits())
        wall_seconds = time.perf_counter() - began
        device, surroundings = backend.device(options.device), environment()

    first = passes[0]
    timings = {
        "questions": len(dataset.questions),
        "windows": len(first.windows),
        "batch": options.batch,
        "warmup": len(warmup_seconds),
        "warmup_seconds": warmup_seconds,
        "warmup_steady": steady(warmup_seconds),
        "streams": session.streams,
        "shapes": first.execution.shapes,
        "seconds": [done.execution.seconds for done in passes],
        "execution_seconds": [done.execution.wall_seconds for done in passes],
        "wall_seconds": [done.wall_seconds for done in passes],
    }
    scored = score(dataset.questions, first.predictions)
    metrics = {
        **asdict(scored),
        "questions": timings["questions"],
        "windows": timings["windows"],
        "unstable_answers": sum(
            any(done.predictions[key] != text for done in passes)
            for key, text in first.predictions.items()
        ),
        **summarize(timings),
    }
    # Without run.json the folder is no run: nothing can mistake a half-replaced one for it.
    (folder / RUN).unlink(missing_ok=True)
    write_atomic(folder / PREDICTIONS, to_json(first.predictions))
    write_atomic(folder / METRICS, to_json(metrics))
    write_atomic(folder / TIMINGS, to_json(timings))
    write_logits(
        folder / LOGITS,
        Logits(first.execution.start_logits, first.execution.end_logits, first.windows.lengths),
    )
    files = (PREDICTIONS, METRICS, TIMINGS, LOGITS)
    run = {
        "options": options.as_json(),
        "profile_sha256": profile.sha256,
        "assets": inputs.assets,
        "dataset": {"path": shown(dataset.path), "sha256": dataset.sha256},
        "onnx": engine["onnx"],
        "reference": engine["reference"],
        "engine": engine["file"],
        "engine_made_from": engine["made_from"],
        "files": {name: MadeFile.of(folder / name).sha256 for name in files},
        "started": started,
        "finished": utc_now(),
        "wall_seconds": wall_seconds,
        "device": device,
        "git": git_state(),
        "environment": surroundings,
        **watch.as_json(),
    }
    write_atomic(folder / RUN, to_json(run))
    noise = ", which is noise" if metrics["qps_spread"] > NOISE_SPREAD else ""
    Console(highlight=False, soft_wrap=True).print(
        f"infer: {metrics['questions']} questions, {metrics['windows']} windows, "
        f"QPS {metrics['qps']:.2f} (spread {metrics['qps_spread']:.1%}{noise}), "
        f"end to end {metrics['qps_end_to_end']:.2f}"
    )
    if reason := disturbed(run, END_TO_END):
        speed = "QPS is" if disturbed(run) else "end-to-end QPS is"
        print(f"infer: disturbed, so {speed} inconclusive: {reason}")
    return OK


run_stage(main, __doc__)
