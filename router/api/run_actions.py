"""The forms of a run's page: pause, cancel, resume, rescore, extend, delete.

Each is as the operation of its name below `/eval/{run_id}`. What cannot be done comes back as the
page with what was typed, and why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from litestar import Request, Response
from litestar.params import FromPath

from providers.errors import EvalrouterError, RunDocumentError
from router.api.access import Caller, InjectedCaller
from router.api.evals import Extended, Rescored, Resumed
from router.api.injection import Injected
from router.api.page_layout import action, done_or_shown
from router.api.run_form import metrics_of_lines, numbers_of
from router.api.run_page import Shown, Typed, run_view
from router.api.sign_in import read_fields
from router.config.documents import convert_data
from router.services import Services


@action("/pages/eval/{run_id:str}/pause")
async def pause(services: Injected, caller: InjectedCaller, run_id: FromPath[str]) -> Response[Any]:
    """Pause the run."""
    return await _obeyed(services, caller, run_id, "pause", {}, lambda: services.jobs.pause(run_id))


@action("/pages/eval/{run_id:str}/cancel")
async def cancel(
    services: Injected, caller: InjectedCaller, run_id: FromPath[str]
) -> Response[Any]:
    """Cancel the run."""
    return await _obeyed(
        services, caller, run_id, "cancel", {}, lambda: services.jobs.cancel(run_id)
    )


@action("/pages/eval/{run_id:str}/resume")
async def resume(
    services: Injected,
    caller: InjectedCaller,
    request: Request[Any, Any, Any],
    run_id: FromPath[str],
) -> Response[Any]:
    """Resume the run, with other limits where the form has some."""
    fields = await read_fields(request)

    async def obey() -> None:
        limits = numbers_of(fields, ("cost_usd", "seconds", "tokens"))
        change = _read({"limits": limits}, Resumed)
        await services.runs.resume(
            run_id, runner="server", retry_failed="retry_failed" in fields, limits=change.limits
        )

    return await _obeyed(services, caller, run_id, "resume", fields, obey)


@action("/pages/eval/{run_id:str}/rescore")
async def rescore(
    services: Injected,
    caller: InjectedCaller,
    request: Request[Any, Any, Any],
    run_id: FromPath[str],
) -> Response[Any]:
    """Score the run's answers again, by the form's metrics or by all of the run's."""
    fields = await read_fields(request)

    async def obey() -> None:
        metrics = await asyncio.to_thread(metrics_of_lines, fields.get("metrics", ""))
        change = _read({"metrics": metrics}, Rescored)
        await services.runs.rescore(run_id, change.metrics, base=Path(), runner="server")

    return await _obeyed(services, caller, run_id, "rescore", fields, obey)


@action("/pages/eval/{run_id:str}/extend")
async def extend(
    services: Injected,
    caller: InjectedCaller,
    request: Request[Any, Any, Any],
    run_id: FromPath[str],
) -> Response[Any]:
    """Extend the run by samples, repeats or both."""
    fields = await read_fields(request)

    async def obey() -> None:
        change = _read(numbers_of(fields, ("limit", "repeats")), Extended)
        await services.runs.extend(
            run_id, runner="server", limit=change.limit, repeats=change.repeats
        )

    return await _obeyed(services, caller, run_id, "extend", fields, obey)


@action("/pages/eval/{run_id:str}/delete")
async def delete(
    services: Injected, caller: InjectedCaller, run_id: FromPath[str]
) -> Response[Any]:
    """Delete the run, and lead to those that are left."""
    return await _obeyed(
        services, caller, run_id, "delete", {}, lambda: services.runs.delete(run_id), then="/runs"
    )


def _read(written: dict[str, Any], kind: type[Any]) -> Any:
    return convert_data(written, kind, error=RunDocumentError)


async def _obeyed(  # noqa: PLR0917 - one argument for each thing that a form is
    services: Services,
    caller: Caller,
    run_id: str,
    name: str,
    fields: Mapping[str, str],
    obey: Callable[[], Awaitable[object]],
    *,
    then: str = "",
) -> Response[Any]:
    """Do what a form says and lead on; where that cannot be done, show the page and why."""

    async def change() -> str:
        await obey()
        return then or f"/runs/{run_id}"

    async def shown(error: EvalrouterError) -> Response[str]:
        typed = Typed(name, fields, error.message)
        return await run_view(services, caller, run_id, Shown(), typed)

    return await done_or_shown(change(), shown)
