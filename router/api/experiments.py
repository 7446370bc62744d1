"""`/experiments`: runs under one name, with one leaderboard."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, delete, get, patch
from litestar.params import FromPath, FromQuery

from router.api.bodies import body_as
from router.api.injection import Injected
from router.evals.experiments import ExperimentChange, Leaderboard
from router.store.experiments import Experiment


class ExperimentList(msgspec.Struct):
    """Every experiment, the one with the newest run first."""

    data: list[Experiment]
    object: str = "list"


class DeletedExperiment(msgspec.Struct):
    """The experiment that was deleted, and the number of its runs that were."""

    name: str
    deleted_runs: int


@get("/experiments", tags=["experiments"], summary="List experiments")
async def list_experiments(services: Injected, tag: FromQuery[str | None] = None) -> ExperimentList:
    """List those with a run, tags or notes. A run joins one by its document's `experiment`."""
    return ExperimentList(await services.store.experiments(tag=tag))


@get("/experiments/{name:str}", tags=["experiments"], summary="Show an experiment's leaderboard")
async def show_experiment(services: Injected, name: FromPath[str]) -> Leaderboard:
    """Show tables of comparable scores, how to read them, and why some runs are in no table."""
    return await services.experiments.leaderboard(name)


@patch("/experiments/{name:str}", tags=["experiments"], summary="Set an experiment's tags or notes")
async def change_experiment(
    services: Injected, request: Request[Any, Any, Any], name: FromPath[str]
) -> Experiment:
    """Set what the body has: `{"tags": [...], "notes": "..."}`, or one of them."""
    change = await body_as(request, ExperimentChange, default=b"{}")
    return await services.experiments.change(name, change)


@delete(
    "/experiments/{name:str}", tags=["experiments"], summary="Delete an experiment", status_code=200
)
async def delete_experiment(
    services: Injected, name: FromPath[str], runs: FromQuery[bool] = False
) -> DeletedExperiment:
    """Delete the experiment. Its runs stay, in no experiment; `runs=true` deletes them too."""
    return DeletedExperiment(name, await services.experiments.delete(name, runs=runs))
