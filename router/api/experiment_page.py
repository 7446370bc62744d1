"""The page of an experiment: its leaderboard, and what its users say of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from litestar import Request, Response
from litestar.params import FromPath, FromQuery

from evaluators.reports.scores import OutputInfo, decimals
from providers.errors import EvalrouterError, RequestError
from router.api.access import Caller, InjectedCaller
from router.api.injection import Injected
from router.api.page_layout import (
    action,
    done,
    done_or_shown,
    html_response,
    page,
    part,
    rendered,
)
from router.api.run_page import score_text
from router.api.sign_in import read_fields
from router.config.documents import convert_data
from router.evals.experiments import ExperimentChange, LeaderboardEntry
from router.services import Services

# Runs whose leaderboard is there at once; that of more is sent when the page is.
AT_ONCE = 10


@page("/pages/experiments/{name:str}")
async def experiment_page(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    leaderboard: FromQuery[bool] = False,
) -> Response[str]:
    """Show an experiment; `leaderboard` has that of many runs in the page, without a script."""
    return await _page(services, caller, name, leaderboard=leaderboard)


async def _page(
    services: Services,
    caller: Caller,
    name: str,
    *,
    leaderboard: bool = False,
    typed: Mapping[str, str] | None = None,
    error: EvalrouterError | None = None,
) -> Response[str]:
    experiment = await services.experiments.find(name)
    has_board = leaderboard or experiment.runs <= AT_ONCE
    return await rendered(
        "experiment.html",
        caller,
        title=name,
        current="/experiments",
        experiment=experiment,
        has_board=has_board,
        **await _board(services, name, has_board=has_board),
        may_start=caller.reach_of("POST /eval") != "no",
        may_change=caller.reach_of("PATCH /experiments/{name}") != "no",
        typed=typed or {"tags": ", ".join(experiment.tags), "notes": experiment.notes},
        error=error,
    )


async def _board(services: Services, name: str, *, has_board: bool) -> dict[str, Any]:
    return {
        "board": await services.experiments.leaderboard(name) if has_board else None,
        "score": score_text,
        "difference": _difference,
    }


@page("/pages/experiments/{name:str}/leaderboard")
async def leaderboard_part(services: Injected, name: FromPath[str]) -> Response[str]:
    """Send the leaderboard alone, which takes a while where many runs have to be read."""
    values = await _board(services, name, has_board=True)
    return html_response(await part("leaderboard.html", **values))


@action("/pages/experiments/{name:str}/change")
async def change_experiment(
    services: Injected, caller: InjectedCaller, request: Request[Any, Any, Any], name: FromPath[str]
) -> Response[Any]:
    """Set an experiment's tags and notes."""
    fields = {"tags": "", "notes": "", **await read_fields(request)}
    tags = [tag.strip() for tag in fields["tags"].split(",") if tag.strip()]

    async def change() -> str:
        data = {"tags": tags, "notes": fields["notes"]}
        changed = convert_data(data, ExperimentChange, error=RequestError)
        await services.experiments.change(name, changed)
        return f"/experiments/{quote(name, safe='')}"

    async def shown(error: EvalrouterError) -> Response[str]:
        return await _page(services, caller, name, typed=fields, error=error)

    return await done_or_shown(change(), shown)


@action("/pages/experiments/{name:str}/delete")
async def delete_experiment(services: Injected, name: FromPath[str]) -> Response[Any]:
    """Delete an experiment's tags and notes; its runs stay, in no experiment."""
    await services.experiments.delete(name)
    return done("/experiments")


def _difference(info: OutputInfo, entry: LeaderboardEntry) -> str:
    low, high = entry.difference_low, entry.difference_high
    if entry.difference is None:
        return ""
    places = decimals(info, entry.difference, low, high)
    text = f"{entry.difference:+,.{places}f}"
    if low is not None and high is not None:
        text += f" [{low:,.{places}f}, {high:,.{places}f}]"
    return text
