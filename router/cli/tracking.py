"""`evalrouter eval track`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from router.cli.commands import config_option, json_option, out, print_json, with_services
from router.config.loading import load
from router.evals.tracking import TrackedRun

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services


@click.command("track")
@click.argument("run_id")
@click.option(
    "--mlflow",
    "address",
    help="MLflow's server, file:///folder or databricks. Default: the config's tracking.mlflow.",
)
@click.option("--experiment", help="MLflow's experiment. Default: the config's.")
@config_option
@json_option
def eval_track(
    run_id: str,
    address: str | None,
    experiment: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Send a run that has ended to MLflow, with its numbers and files.

    A run that was sent before is updated. Needs the extra mlflow.
    """

    async def track(services: Services) -> TrackedRun:
        return await services.tracker.send(run_id, address=address, experiment=experiment)

    tracked: TrackedRun = with_services(load(config_path), track)
    if as_json:
        print_json(tracked)
        return
    place = tracked.url or f"{tracked.mlflow}, experiment {tracked.experiment}"
    out.print(
        f"{tracked.run} is run {tracked.mlflow_run} of MLflow: {place}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
