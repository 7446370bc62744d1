"""A program that sends one run to MLflow: `tracking.py` starts it, and ends it when it takes long.

It reads a MlflowRun from its stdin, and writes a MlflowResult to its stdout. MLflow's import takes
seconds, it writes to both outputs, and it cannot be cancelled: none of that is the router's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import msgspec

# A server is given up after this many more requests, and after so many seconds without an answer.
_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
# The numbers that MLflow takes in one request.
_BATCH = 500


class MlflowRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run as MLflow has it.

    Attributes:
        address: MLflow's address.
        experiment: the experiment's name.
        name: the run's name.
        identity: the tags that tell it from all other runs; a run that has them is updated.
        tags: its other tags.
        params: what it was made with.
        metrics: its numbers.
        folder: the folder with its files.
        started_ms, ended_ms: milliseconds since the epoch, UTC.
        succeeded: whether it came to its end.
    """

    address: str
    experiment: str
    name: str
    identity: dict[str, str]
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    folder: str
    started_ms: int
    ended_ms: int
    succeeded: bool


class MlflowResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it: the ids of MLflow, or the reason why there are none."""

    run_id: str = ""
    experiment_id: str = ""
    error: str = ""


def main() -> None:
    """Send the run of stdin, and write the result to stdout."""
    result = os.fdopen(os.dup(1), "wb")
    # MLflow prints greetings.
    os.dup2(2, 1)
    for name, value in _LIMITS.items():
        os.environ.setdefault(name, value)
    run = msgspec.json.decode(sys.stdin.buffer.read(), type=MlflowRun)
    if run.address.startswith("file:"):
        # MLflow would rather have a database, and refuses folders without this.
        os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    try:
        sent = send(run)
    except Exception as error:  # noqa: BLE001  # its errors come from many packages
        sent = MlflowResult(error=f"{type(error).__name__}: {error}")
    result.write(msgspec.json.encode(sent))
    result.close()


def send(run: MlflowRun) -> MlflowResult:
    """Create the run in MLflow, or update it where it was sent before."""
    from mlflow import MlflowClient  # noqa: PLC0415  # takes seconds
    from mlflow.entities import Metric, Param, RunTag  # noqa: PLC0415

    client = MlflowClient(tracking_uri=run.address)
    experiment = client.get_experiment_by_name(run.experiment)
    experiment_id = (
        client.create_experiment(run.experiment) if experiment is None else experiment.experiment_id
    )
    run_id = _sent_before(client, experiment_id, run) or (
        client.create_run(
            experiment_id, start_time=run.started_ms, run_name=run.name, tags=run.identity
        ).info.run_id
    )
    metrics = [Metric(name, value, run.ended_ms, 0) for name, value in run.metrics.items()]
    params = [Param(*item) for item in run.params.items()]
    tags = [RunTag(*item) for item in run.tags.items()]
    for start in range(0, max(len(metrics), 1), _BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _BATCH])
    for start in range(0, max(len(params), len(tags), 1), 100):
        client.log_batch(run_id, params=params[start : start + 100], tags=tags[start : start + 100])
    if any(Path(run.folder).iterdir()):
        client.log_artifacts(run_id, run.folder)
    client.set_terminated(run_id, "FINISHED" if run.succeeded else "FAILED", run.ended_ms)
    return MlflowResult(run_id=run_id, experiment_id=experiment_id)


def _sent_before(client: Any, experiment_id: str, run: MlflowRun) -> str:
    """Return the id of the run that has this one's identity; "" for none."""
    quoted = (f"tags.`{name}` = '{value}'" for name, value in run.identity.items())
    known = client.search_runs([experiment_id], " and ".join(quoted), max_results=1)
    return str(known[0].info.run_id) if known else ""


if __name__ == "__main__":
    main()
