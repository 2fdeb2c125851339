"""Drive the engine with MLPerf's load generator: accuracy, performance, and whether both agree."""

import importlib.util
import os
import sys
from dataclasses import asdict

from harness.engine import checked_engine
from harness.errors import CHECK_FAILED, INCONCLUSIVE, OK, UserError
from harness.files import to_json, write_atomic
from harness.inputs import Inputs
from harness.loadgen import (
    LOGS,
    OFFLINE,
    SCENARIOS,
    SINGLE_STREAM,
    System,
    check_compliance,
    read_performance,
    read_results,
    run_accuracy,
    run_performance,
    score_results,
)
from harness.lock import device_lock, run_stage
from harness.measure import steady, warm
from harness.options import Options, read_count, read_options
from harness.paths import shown
from harness.provenance import environment, git_state, utc_now, versions
from harness.records import MadeFile, read_record, records_of
from harness.watch import disturbed, watch_device
from harness.windows import cut_windows, load_tokenizer

RESULT = "loadgen.json"
# MLPerf's rules want ten minutes; one is enough to see a number.
SECONDS = 60


def read_scenario(options: Options) -> str:
    """SCENARIO, and whether the other options and this Python serve it."""
    scenario = os.environ.get("SCENARIO") or OFFLINE
    if scenario not in SCENARIOS:
        raise UserError(f"no scenario {scenario!r}; SCENARIO is one of {', '.join(SCENARIOS)}")
    if scenario == SINGLE_STREAM and options.batch != 1:
        raise UserError(f"SCENARIO={scenario} asks for one window at a time; use BATCH=1")
    if importlib.util.find_spec("mlperf_loadgen") is None:
        raise UserError(
            "package mlcommons-loadgen is missing; `make loadgen` installs it on x86-64 Linux"
        )
    return scenario


def main() -> int:
    options = read_options()
    scenario = read_scenario(options)
    seconds = read_count(os.environ, "LOADGEN_SECONDS", SECONDS)
    inputs = Inputs(options)
    engine = read_record(records_of(options).engine, "engine")
    dataset, backend = inputs.dataset, options.backend
    tokenizer = load_tokenizer(inputs.file("vocab").checked("assets"))
    windows = cut_windows(dataset.questions, tokenizer, options.profile.windows)
    engine_file = checked_engine(options, engine)
    folder = options.run_folder / "loadgen" / scenario
    logs = {mode: folder / mode for mode in ("accuracy", "performance")}
    # Without its result the folder is no run.
    (folder / RESULT).unlink(missing_ok=True)
    print(
        f"loadgen: {len(windows)} windows for accuracy, then {seconds} s or more for performance",
        file=sys.stderr,
    )
    with device_lock(backend.lock_name(options.device)):
        started = utc_now()
        session = backend.load(engine_file, options.engine)
        system = System(session, windows, options.batch, backend.token_budget)
        device = backend.device(options.device)
        warmup = warm(session, options, windows.lengths)
        speed = run_accuracy(system, scenario, logs["accuracy"])
        with watch_device(backend.vendor, device) as watch:
            run_performance(system, scenario, logs["performance"], seconds, speed)

    performance = read_performance(logs["performance"])
    results = read_results(logs["accuracy"], windows)
    scored = score_results(dataset, windows, results)
    logged = read_results(logs["performance"], windows)
    compliance = check_compliance(dataset, windows, results, logged)
    run = {
        "scenario": scenario,
        "seconds": seconds,
        "loadgen": versions(["mlcommons-loadgen"]),
        "options": options.as_json(),
        "profile_sha256": options.profile.sha256,
        "dataset": {"path": shown(dataset.path), "sha256": dataset.sha256},
        "engine": engine["file"],
        "engine_made_from": engine["made_from"],
        "questions": len(dataset.questions),
        "windows": len(windows),
        "accuracy": asdict(scored),
        "performance": asdict(performance),
        "compliance": compliance.as_json(),
        "warmup_steady": steady(warmup),
        "logs": {
            f"{mode}/{name}": MadeFile.of(path / name).sha256
            for mode, path in logs.items()
            for name in LOGS
        },
        "started": started,
        "finished": utc_now(),
        "device": device,
        "git": git_state(),
        "environment": environment(),
        **watch.as_json(),
    }
    write_atomic(folder / RESULT, to_json(run))
    latency = performance.latency_ms
    wait = f", p90 {latency['p90']:.2f} ms" if latency else ""
    print(
        f"loadgen: {scenario} {'valid' if performance.valid else 'invalid'}, "
        f"{performance.qps:.2f} windows/s{wait}; exact_match {scored.exact_match:.2f}, "
        f"f1 {scored.f1:.2f}; {compliance.equal_answers} of {compliance.compared} answers in "
        f"performance mode as in accuracy mode ({compliance.identical} bit by bit)"
    )
    for reason in performance.reasons:
        print(f"loadgen: invalid: {reason}")
    if reason := disturbed(run):
        print(f"loadgen: disturbed: {reason}")
    if not compliance.passed:
        print("loadgen: failed: performance mode gave other answers than accuracy mode")
        return CHECK_FAILED
    return OK if performance.valid else INCONCLUSIVE


run_stage(main, __doc__)
