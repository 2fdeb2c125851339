"""Score a predictions file as the official SQuAD v1.1 scorer does."""

import os
import sys

from harness.errors import OK, UserError, run_command
from harness.inputs import Inputs
from harness.options import read_options, read_path
from harness.run import PREDICTIONS, read_predictions
from harness.scoring import score
from harness.squad import read_dataset


def main() -> int:
    predictions_file = read_path(os.environ, "PREDICTIONS")
    if predictions_file is None:
        options = read_options()
        predictions_file = options.run_folder / PREDICTIONS
        dataset = Inputs(options).dataset
    else:
        dataset_file = read_path(os.environ, "DATASET")
        if dataset_file is None:
            raise UserError("PREDICTIONS needs DATASET, the SQuAD v1.1 file to score it over")
        dataset = read_dataset(dataset_file)
    predictions = read_predictions(predictions_file)
    missing = sum(question.id not in predictions for question in dataset.questions)
    if missing:
        print(f"{missing} questions have no prediction and count 0", file=sys.stderr)
    scored = score(dataset.questions, predictions)
    print(
        f"exact_match {scored.exact_match:.4f}  f1 {scored.f1:.4f}  "
        f"({len(dataset.questions)} questions)"
    )
    return OK


run_command(main, __doc__)
