"""After a default run on a CPU: the one command that runs BERT-base here, and how long."""

import os

from harness.batches import AUTO
from harness.doctor import BERT_BASE
from harness.errors import OK, run_command
from harness.files import read_json
from harness.options import read_options
from harness.profile import Profile, load_profile
from harness.run import TIMINGS

# SQuAD dev's first windows, sorted and padded in batches of 32 (docs/protocol.md).
DEV_TOKENS = 1_851_200
DEV_MEAN_LENGTH = 175


def main() -> int:
    options = read_options()
    if os.environ.get("DEFAULTED") != "1" or options.backend.name != "ort-cpu":
        return OK
    # The command below runs FP32 in fixed batches: no other speed says how long it takes.
    if options.precision != options.backend.precisions[0] or options.batch == AUTO:
        return OK
    timings = read_json(options.run_folder / TIMINGS, "timings")
    work = sum(b * s * flops(options.profile, s) for b, s in timings["shapes"])
    rate = work * len(timings["seconds"]) / sum(timings["execution_seconds"])
    bert = load_profile(BERT_BASE)
    length = bert.windows.sequence_length
    # Every pass, the warm-up at full shape, and the cross-check's pass.
    needed = (bert.repeats + 1) * DEV_TOKENS * flops(bert, DEV_MEAN_LENGTH)
    needed += bert.warmup * bert.batch * length * flops(bert, length)
    minutes = needed / rate / 60
    print(
        f"\nBERT-base here: make all PROFILE={BERT_BASE} BACKEND=ort-cpu\n"
        f"(downloads 0.9 GB; runs about {duration(minutes)}, from the speed just measured)"
    )
    return OK


def flops(profile: Profile, length: int) -> float:
    """Multiply-adds a token in the encoder: 4 h² (attention's linear layers), 2 h f (FFN) and
    2 s h (scores and context) a layer."""
    a = profile.architecture
    return a.layers * (4 * a.hidden**2 + 2 * a.hidden * a.intermediate + 2 * length * a.hidden)


def duration(minutes: float) -> str:
    """Minutes up to two hours, then hours."""
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


run_command(main, __doc__)
