"""Time ort-cpu beside somebody else's work on the processor, by how much of a core that takes."""

import sys

from harness.bench.disturbance import PASS_SECONDS, Passes, as_json, measure, table
from harness.bench.foreign import PERIOD_SECONDS, Foreign
from harness.bench.publish import publish
from harness.bench.repeats import read_repeats
from harness.engine import checked_engine
from harness.errors import INCONCLUSIVE, OK, one_line, run_command
from harness.host import cores
from harness.inputs import Inputs
from harness.lock import device_lock
from harness.options import read_options
from harness.provenance import environment, git_state, utc_now
from harness.records import read_record, records_of
from harness.watch.processor import CORE_LIMIT, MACHINE_LIMIT
from harness.windows import cut_windows, load_tokenizer


def main() -> int:
    repeats = read_repeats(5, 100)
    options = read_options()
    inputs, backend = Inputs(options), options.backend
    engine = checked_engine(options, read_record(records_of(options).engine, "engine"))
    tokenizer = load_tokenizer(inputs.file("vocab").checked("assets"))
    windows = cut_windows(inputs.dataset.questions, tokenizer, options.profile.windows)
    with device_lock(backend.lock_name(options.device)):
        started = utc_now()
        session = backend.load(engine, options.engine)
        passes = Passes.warm(session, windows, options.batch, backend.token_budget, PASS_SECONDS)
        with Foreign() as foreign:
            levels = measure(passes.time, foreign.take, repeats)
        device, surroundings = backend.device(options.device), environment()
    # The variables and the command hold paths of this machine.
    surroundings = {k: v for k, v in surroundings.items() if k not in ("variables", "command")}
    limit = max(CORE_LIMIT, MACHINE_LIMIT * cores())
    busy = sorted({one_line(told) for told in levels[0].told if told})
    finished = utc_now()
    repeated = f", {passes.times} times over" if passes.times > 1 else ""
    found = {
        "profile": options.profile.name,
        "backend": backend.name,
        "precision": options.precision,
        "batch": options.batch,
        "repeats": repeats,
        "dataset": {"name": inputs.dataset.path.name, "sha256": inputs.dataset.sha256},
        "windows": len(passes.windows),
        "times": passes.times,
        "period_seconds": PERIOD_SECONDS,
        "limit_cores": limit,
        "idle": not busy,
        "levels": as_json(levels),
        "started": started,
        "finished": finished,
        "device": device,
        "git": git_state(),
        "environment": surroundings,
    }
    lines = [
        f"{device['name']}, {finished[:10]}. {options.profile.name} by {backend.name} in "
        f"{options.precision.upper()}, batch {options.batch}: {repeats} interleaved passes a line, "
        f"each of {len(passes.windows)} windows{repeated}. A process of its own "
        f"works for the asked share of one core, every {1e3 * PERIOD_SECONDS:.0f} ms; the loss of "
        "QPS is from the pass without it in the same round. The watch's limit here: "
        f"{limit:.2f} cores.",
        "",
        *table(levels),
    ]
    if busy:
        lines += ["", "The machine was not idle: quiet passes were disturbed too."]
    publish("disturbance", device["name"], found, "\n".join([*lines, ""]))
    for told in busy:
        print(f"bench: a quiet pass was disturbed: {told}; end it and run again", file=sys.stderr)
    return INCONCLUSIVE if busy else OK


run_command(main, __doc__)
