"""The page of a run's log: the newest lines as they come, and all earlier ones."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Response, get
from litestar.params import FromPath, QueryParameter
from litestar.response import ServerSentEvent

from router.api.access import InjectedCaller
from router.api.injection import Injected
from router.api.live import InjectedLiveParts
from router.api.page_layout import page, part, rendered
from router.api.paging import MAX_OFFSET
from router.api.run_logs import masked_lines
from router.api.run_page import stream_of_run
from router.services import Services
from router.store.runs import STOPPED, Run

_PAGE = 100


@page("/runs/{run_id:str}/log")
async def run_log(
    services: Injected,
    caller: InjectedCaller,
    run_id: FromPath[str],
    after: Annotated[int | None, QueryParameter(ge=0, le=MAX_OFFSET)] = None,
) -> Response[str]:
    """Show lines of a run's log, oldest first: those after a number, or the newest."""
    run = await services.runs.find(run_id)
    values = await _values(services, run, after)
    lines = values["lines"]
    last = await services.store.last_logged(run.id)
    first = lines[0].number if lines else 0
    path = f"/runs/{run.id}/log"
    return await rendered(
        "run_log.html",
        caller,
        title=f"Log of {run.name}",
        current="/runs",
        **values,
        is_live=after is None and values["is_under_way"],
        earlier=f"{path}?after={max(0, first - 1 - _PAGE)}" if first > 1 else "",
        later=f"{path}?after={lines[-1].number}" if lines and lines[-1].number < last else "",
    )


@get("/pages/live/runs/{run_id:str}/log", include_in_schema=False)
async def run_log_part(
    services: Injected,
    caller: InjectedCaller,
    parts: InjectedLiveParts,
    run_id: FromPath[str],
) -> ServerSentEvent:
    """Send the newest lines of a run's log whenever there are others."""

    async def make(run: Run) -> str:
        return await part("run_log_part.html", **await _values(services, run, None))

    return await stream_of_run(services, caller, parts, run_id, make, name="run log")


async def _values(services: Services, run: Run, after: int | None) -> dict[str, Any]:
    if after is None:
        after = max(0, await services.store.last_logged(run.id) - _PAGE)
    return {
        "run": run,
        "lines": await masked_lines(services, run.id, after, _PAGE),
        "is_under_way": run.state not in STOPPED,
    }
