"""The process that talks to MLflow: what to log comes as JSON on standard input."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

# A run that was logged whole carries this tag; one that was interrupted does not.
_TAG = "bert_squad.fingerprint"


def main() -> int:
    request = json.load(sys.stdin)
    # The client's own patience is minutes, and seven tries.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    try:
        print(_log(request))
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _log(request: dict[str, Any]) -> str:
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient
    from mlflow.utils.time import get_current_time_millis

    client = MlflowClient(tracking_uri=request["uri"])
    found = client.get_experiment_by_name(request["experiment"])
    if found is None:
        experiment = client.create_experiment(request["experiment"])
    else:
        experiment = found.experiment_id
    there = client.search_runs([experiment], f"tags.`{_TAG}` = '{request['fingerprint']}'")
    if there:
        return f"run {there[0].info.run_id} is there already"
    now = get_current_time_millis()
    run = client.create_run(experiment, run_name=request["run"]).info.run_id
    client.log_batch(
        run,
        metrics=[Metric(key, value, now, 0) for key, value in request["metrics"].items()],
        params=[Param(key, value) for key, value in request["params"].items()],
        tags=[RunTag(key, value) for key, value in request["tags"].items()],
    )
    for file in request["artifacts"]:
        client.log_artifact(run, file)
    client.set_tag(run, _TAG, request["fingerprint"])
    client.set_terminated(run)
    return f"logged run {run}"


if __name__ == "__main__":
    sys.exit(main())
