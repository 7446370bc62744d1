"""The pages of schedules: what is executed at which times, and what came of it."""

from __future__ import annotations

import asyncio
from operator import attrgetter
from typing import Any, NamedTuple

from litestar import Request, Response
from litestar.params import FromPath, FromQuery

from providers.errors import EvalrouterError, RequestError
from router.api.access import Caller, InjectedCaller
from router.api.injection import Injected
from router.api.page_layout import action, done_or_shown, page, utc
from router.api.page_tables import Export, TableColumn, TableView
from router.api.route_sections import section_page, section_table
from router.api.sign_in import read_fields
from router.config.documents import Document, convert
from router.loop.schedule_results import ScheduledRun
from router.loop.schedules import (
    ScheduleAcceptance,
    ScheduleReport,
    ScheduleRequest,
    ScheduleRunRequest,
    ScheduleView,
)
from router.services import Services
from router.web.plots.figure import Plot
from router.web.plots.history import history_plot

MAX_TIMES = 50
# Of a schedule with more routes and scores, the first ones are plotted.
MAX_PLOTS = 6


def _state(schedule: ScheduleView) -> str:
    if schedule.running is not None:
        return "running"
    if schedule.paused is not None:
        return "paused"
    return "on" if schedule.enabled else "off"


_COLUMNS = (
    TableColumn("name", "Schedule", sorts=True),
    TableColumn("state", "State", sorts=True, value=_state),
    TableColumn("cron", "Times"),
    TableColumn("next", "Next (UTC)", sorts=True, value=attrgetter("next_due")),
    TableColumn(
        "last",
        "Last (UTC)",
        sorts=True,
        value=lambda schedule: None if schedule.last is None else schedule.last.due,
    ),
    TableColumn(
        "result",
        "Came of it",
        sorts=True,
        value=lambda schedule: None if schedule.last is None else schedule.last.state,
    ),
    TableColumn("gates", "Gates"),
)


@page("/pages/schedules")
async def schedule_list(
    services: Injected,
    caller: InjectedCaller,
    sort: FromQuery[str] = "name",
    after: FromQuery[str] = "",
    export: FromQuery[Export] = "",
) -> Response[Any]:
    """Show every schedule, when it is due next, and what came of the last time."""
    view = TableView("/schedules", _COLUMNS, sort=sort, filters={}, after=after, export=export)
    schedules = view.page_of(await services.schedules.views(), lambda schedule: schedule.name)
    return await section_table("schedules", caller, view, map(_cells, schedules))


def _cells(schedule: ScheduleView) -> dict[str, Any]:
    last = schedule.last
    return {
        "name": schedule.name,
        "state": _state(schedule),
        "cron": f"{schedule.cron} ({schedule.timezone})",
        "next": utc(schedule.next_due),
        "last": "" if last is None else utc(last.due),
        "result": "" if last is None else last.state,
        "gates": "" if last is None else ", ".join(mark.text for mark in gate_marks(last)),
    }


class GateMark(NamedTuple):
    """A gate and whether a run passed it: `✓ rougeL >= 0.2`, and why."""

    text: str
    passed: bool
    why: str


def gate_marks(run: ScheduledRun) -> list[GateMark]:
    """Return the gates of a run with their results; none before it has ended."""
    if run.result is None:
        return []
    marks = []
    for gate in run.result.gates:
        about = f" ({gate.route})" if gate.route else ""
        text = f"{'✓' if gate.passed else '✗'} {gate.gate}{about}"
        marks.append(GateMark(text, gate.passed, gate.why))
    return marks


@page("/pages/schedules/{name:str}")
async def schedule_page(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    before: FromQuery[float | None] = None,
) -> Response[str]:
    """Show one schedule with the times that it was due, or those due before a moment."""
    return await _page(services, caller, name, before=before)


@action("/pages/schedules/{name:str}")
async def change_schedule(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    request: Request[Any, Any, Any],
) -> Any:
    """Run a schedule now, pause it, resume it, or accept one of its runs."""
    fields = await read_fields(request)
    reason, schedules, actor = fields.get("reason", ""), services.schedules, caller.actor
    act, _, run_id = fields.get("do", "").partition(" ")
    data: dict[str, Any] = {"reason": reason}

    async def change() -> str:
        if act != "run" and not reason.strip():
            raise RequestError("Say why, for the record.", param="reason")
        document = Document.of(data | ({"run": run_id} if act == "accept" else {}))
        if act == "run":
            begun = convert(document, ScheduleRunRequest, error=RequestError)
            await schedules.begin(name, begun, actor=actor)
        elif act == "accept":
            accepted = convert(document, ScheduleAcceptance, error=RequestError)
            await schedules.accept(name, accepted, actor=actor)
        elif act in ("pause", "resume"):
            requested = convert(document, ScheduleRequest, error=RequestError)
            await getattr(schedules, act)(name, requested, actor=actor)
        else:
            raise RequestError("do: run, pause, resume or accept", param="do")
        return f"/schedules/{name}"

    async def shown(error: EvalrouterError) -> Response[str]:
        return await _page(services, caller, name, error=error.message, reason=reason)

    return await done_or_shown(change(), shown)


async def _page(
    services: Services,
    caller: Caller,
    name: str,
    *,
    before: float | None = None,
    error: str = "",
    reason: str = "",
) -> Response[str]:
    report = await services.schedules.report(name, before=before, limit=MAX_TIMES)
    plots = await asyncio.to_thread(_plots, report)
    return await section_page(
        "schedule.html",
        caller,
        title=f"Schedule {name}",
        schedule=report.schedule,
        state=_state(report.schedule),
        times=[(run, gate_marks(run)) for run in report.history],
        decisions=report.decisions,
        document_error=report.error,
        plots=plots,
        next=report.history[-1].due if len(report.history) == MAX_TIMES else None,
        is_later=before is not None,
        may_change=caller.reach_of("POST /schedules/{name}/run") == "all",
        error=error,
        reason=reason,
    )


def _plots(report: ScheduleReport) -> list[Plot]:
    """Plot the scores of the newest run that has some, over the times that are shown."""
    scores = next((run.result.scores for run in report.history if run.result), ())
    accepted = {each.run_id for each in report.decisions if each.action == "accept"}
    return [
        history_plot(report.history, score.route, score.output, accepted=accepted)
        for score in scores[:MAX_PLOTS]
    ]
