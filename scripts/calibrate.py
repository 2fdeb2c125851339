"""Write the model's quantization scales: from calibration text, or from a QAT checkpoint."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from harness import batches, calibrate, graph, model, qat, scales, squad, windows
from harness.errors import OK, UserError
from harness.files import atomic_path, fingerprint
from harness.inputs import Inputs
from harness.lock import run_stage
from harness.options import read_options
from harness.paths import BUILD, shown
from harness.profile import Calibration, Profile
from harness.provenance import code_sha256
from harness.records import MadeFile, records_of, write_record
from harness.scales import Scales
from harness.squad import read_dataset
from harness.windows import Windows, cut_windows, load_tokenizer


def main() -> int:
    options = read_options()
    profile, inputs = options.profile, Inputs(options)
    record = records_of(options).scales
    if record is None:
        raise UserError(f"PRECISION={options.precision} needs no scales; run `make onnx`")
    made_from = {
        **model.origin(inputs),
        "source": inputs.calibration.sha256,
        "calibration": None if profile.calibration is None else asdict(profile.calibration),
        "windows": asdict(profile.windows),
        "code": code_sha256(batches, calibrate, graph, model, qat, scales, squad, windows),
    }
    path = BUILD / "scales" / f"{profile.model}-{fingerprint(made_from)}.safetensors"
    if not path.is_file():
        found = quantize(inputs, profile)
        with atomic_path(path) as temporary:
            scales.save_scales(replace(found, origin={**found.origin, **made_from}), temporary)
    write_record(record, {"file": MadeFile.of(path).as_json()})
    print(f"scales: {shown(path)}")
    return OK


def quantize(inputs: Inputs, profile: Profile) -> Scales:
    """Scales from the QAT checkpoint, or measured over the calibration text."""
    source = inputs.calibration.checked("scales")
    if profile.calibration is None:
        return qat.read_qat(source, profile.architecture)[1]
    return calibrate.quantize(
        model.merged_weights(inputs),
        profile.architecture,
        calibration_windows(inputs, source, profile.calibration),
        calibrate.Method(profile.calibration.percentile),
    )


def calibration_windows(inputs: Inputs, source: Path, calibration: Calibration) -> Windows:
    """Windows of as many questions as the profile says, evenly spaced over the file."""
    questions = read_dataset(source, None).questions
    count = min(calibration.questions, len(questions))
    chosen = [questions[i] for i in np.linspace(0, len(questions) - 1, count).astype(int)]
    tokenizer = load_tokenizer(inputs.file("vocab").checked("assets"))
    return cut_windows(chosen, tokenizer, inputs.options.profile.windows)


run_stage(main, __doc__)
