"""The pages of watches: whether models still answer as they did."""

from __future__ import annotations

import asyncio
from operator import attrgetter
from typing import Any

from litestar import Request, Response
from litestar.params import FromPath, FromQuery

from providers.errors import EvalrouterError, RequestError
from router.api.access import Caller, InjectedCaller
from router.api.injection import Injected
from router.api.page_layout import action, done_or_shown, money, page, utc
from router.api.page_tables import Export, TableColumn, TableView
from router.api.route_sections import section_page, section_table
from router.api.sign_in import read_fields
from router.api.watches import Before
from router.config.documents import convert_data
from router.loop.watches import WatchPin, WatchReport, WatchView
from router.services import Services
from router.web.plots.evidence import EvidencePoint, EvidenceSeries, e_value_text, evidence_plot
from router.web.plots.figure import Plot

MAX_PROBES = 100


def _evidence(watch: WatchView) -> float | None:
    """Return the strongest evidence of a change; None without any."""
    values = [signal.e_value for signal in watch.signals if signal.e_value is not None]
    return max(values, default=None)


def _last_at(watch: WatchView) -> float | None:
    """Return when the last value of a watch came; None before the first."""
    times = [signal.last_at for signal in watch.signals if signal.last_at is not None]
    return max(times, default=None)


_COLUMNS = (
    TableColumn("name", "Watch", sorts=True),
    TableColumn("target", "Target", sorts=True),
    TableColumn("state", "State", sorts=True),
    TableColumn("evidence", "Evidence of a change", sorts=True, number=True, value=_evidence),
    TableColumn("last", "Last value (UTC)", sorts=True, value=_last_at),
    TableColumn("next", "Next probe (UTC)", sorts=True, value=attrgetter("next_at")),
    TableColumn(
        "spent", "Spent today", sorts=True, number=True, value=attrgetter("spent_today_usd")
    ),
    TableColumn("why", "Why"),
)


@page("/pages/watches")
async def watch_list(
    services: Injected,
    caller: InjectedCaller,
    sort: FromQuery[str] = "name",
    after: FromQuery[str] = "",
    export: FromQuery[Export] = "",
) -> Response[Any]:
    """Show every watch with its verdict so far."""
    view = TableView("/watches", _COLUMNS, sort=sort, filters={}, after=after, export=export)
    watches = view.page_of(await services.watches.views(), lambda watch: watch.name)
    return await section_table("watches", caller, view, map(_cells, watches))


def _cells(watch: WatchView) -> dict[str, Any]:
    evidence = _evidence(watch)
    return {
        "name": watch.name,
        "target": watch.target,
        "state": watch.state.replace("_", " "),
        "evidence": ""
        if evidence is None
        else f"{e_value_text(evidence)} of {watch.threshold:,.0f}",
        "last": utc(_last_at(watch)),
        "next": utc(watch.next_at),
        "spent": money(watch.spent_today_usd),
        "why": watch.why,
    }


@page("/pages/watches/{name:str}")
async def watch_page(
    services: Injected, caller: InjectedCaller, name: FromPath[str], before: Before = None
) -> Response[str]:
    """Show one watch with its newest probes, or those with smaller numbers than `before`."""
    return await _page(services, caller, name, before=before)


@action("/pages/watches/{name:str}")
async def change_watch(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    request: Request[Any, Any, Any],
) -> Any:
    """Send a probe now, or begin a new reference."""
    fields = await read_fields(request)
    reason = fields.get("reason", "")

    async def change() -> str:
        if fields.get("do") == "probe":
            await services.watches.probe(name)
            return f"/watches/{name}"
        if fields.get("do") != "pin":
            raise RequestError("do: probe or pin", param="do")
        if not reason.strip():
            raise RequestError("Say why the new reference is right.", param="reason")
        pin = convert_data({"reason": reason}, WatchPin, error=RequestError)
        await services.watches.pin(name, pin, caller.actor)
        return f"/watches/{name}"

    async def shown(error: EvalrouterError) -> Response[str]:
        return await _page(services, caller, name, error=error.message, reason=reason)

    return await done_or_shown(change(), shown)


async def _page(
    services: Services,
    caller: Caller,
    name: str,
    *,
    before: int | None = None,
    error: str = "",
    reason: str = "",
) -> Response[str]:
    report = await services.watches.report(name, before=before, limit=MAX_PROBES)
    plot = await asyncio.to_thread(_plot, report)
    return await section_page(
        "watch.html",
        caller,
        title=f"Watch {name}",
        watch=report,
        plot=plot,
        e_value_text=e_value_text,
        next=report.probes[-1].number if len(report.probes) == MAX_PROBES else None,
        is_later=before is not None,
        may_change=caller.reach_of("POST /watches/{name}/pin") == "all",
        error=error,
        reason=reason,
    )


def _plot(report: WatchReport) -> Plot:
    """Plot the evidence of the shown probes that are compared with the present reference."""
    number = None if report.reference is None else report.reference.number
    series = [
        EvidenceSeries(
            signal.signal,
            [
                EvidencePoint(probe.at, probe.e_value)
                for probe in report.probes
                if probe.signal == signal.signal
                and probe.reference == number
                and probe.e_value is not None
            ],
        )
        for signal in report.signals
    ]
    return evidence_plot(
        "Evidence of a change (e-values)", series, {"reports a change": report.threshold}
    )
