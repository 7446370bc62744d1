"""The pages of rollouts: what is under way, what was seen and decided, and what people may decide.

`/routes/NAME/rollout?rollout=ID`, which alerts link to, leads a browser to `/rollouts/ID`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import msgspec
from litestar import Request, Response, get
from litestar.params import FromPath, FromQuery
from litestar.response import Redirect, ServerSentEvent

from evaluators.reports.cells import ABSENT
from providers.errors import EvalrouterError, NotFoundError, RequestError
from router.api.access import Caller, InjectedCaller
from router.api.injection import Injected
from router.api.live import InjectedLiveParts
from router.api.page_layout import action, done_or_shown, number, page, part, utc
from router.api.page_tables import Export, TableColumn, TableView
from router.api.rollouts import begin_rollout, decide_rollout
from router.api.route_sections import section_page, section_table
from router.api.sign_in import read_fields
from router.config.documents import Document, as_stored, parse_yaml
from router.config.rollouts import DEFAULT_SIGNALS, RolloutSettings, RouteRollout
from router.loop.rollout_plan import settings_of
from router.loop.rollout_rules import SignalReading
from router.loop.rollout_statistics import statistics_of
from router.loop.rollouts import HOW_TO_FORCE, POSSIBLE, Action, RolloutAction
from router.services import Services
from router.store.rollouts import AssignedRequests, Rollout, RolloutDecision
from router.web.plots.evidence import EvidencePoint, EvidenceSeries, e_value_text, evidence_plot
from router.web.plots.figure import Plot
from router.web.plots.history import HistoryPoint, history

MAX_LISTED = 1000
MAX_DECISIONS = 200
# Of a rollout with more signals, the first ones are plotted.
MAX_PLOTS = 6
# Who stops a candidate in a hurry need not type why.
DEFAULT_REASON = "decided by hand"
# What a box of the form that starts a rollout says.
FORCE = "Start it although its goals cannot be shown with the route's traffic"

_COLUMNS = (
    TableColumn("id", "Rollout", sorts=True),
    TableColumn("route", "Route", sorts=True),
    TableColumn("candidate", "Candidate", sorts=True),
    TableColumn("state", "State", sorts=True),
    TableColumn("share", "Gets", sorts=True, number=True, value=attrgetter("weight")),
    TableColumn("step", "Stage", sorts=True, number=True),
    TableColumn("created_at", "Started (UTC)", sorts=True),
    TableColumn("started_by", "By", sorts=True),
    TableColumn("reason", "Why"),
)


@page("/pages/rollouts")
async def rollout_list(
    *,
    services: Injected,
    caller: InjectedCaller,
    route: FromQuery[str] = "",
    shown: FromQuery[Literal["", "active", "ended"]] = "",
    sort: FromQuery[str] = "-created_at",
    after: FromQuery[str] = "",
    export: FromQuery[Export] = "",
) -> Response[Any]:
    """Show the newest rollouts, of one route or all; `shown` says whether they have ended."""
    rollouts = await services.store.rollouts(
        route=route or None,
        active=None if not shown else shown == "active",
        limit=MAX_LISTED,
    )
    view = TableView(
        "/rollouts",
        _COLUMNS,
        sort=sort,
        filters={"route": route, "shown": shown},
        after=after,
        export=export,
    )
    return await section_table(
        "rollouts",
        caller,
        view,
        map(_cells, view.page_of(rollouts, lambda rollout: rollout.id)),
        route=route,
        shown=shown,
        routes=list(services.routes.table.routes)
        if caller.reach_of("GET /routes") == "all"
        else [],
    )


def _cells(rollout: Rollout) -> dict[str, Any]:
    return {
        "id": rollout.id,
        "route": rollout.route,
        "candidate": rollout.candidate,
        "state": rollout.state.replace("_", " "),
        "share": f"{100 * rollout.weight:g} %",
        "step": f"{rollout.step + 1} of {len(settings_of(rollout).steps)}",
        "created_at": utc(rollout.created_at),
        "started_by": rollout.started_by,
        "reason": rollout.reason,
    }


class SignalRow(NamedTuple):
    """What the tests say of a signal, as the page shows it.

    Attributes:
        signal: its name.
        candidate, control: the arms' means with how many requests have it.
        estimate: the candidate against the control, with its interval.
        worse: the evidence that the candidate is worse, and how much would roll it back.
        shown: the evidence that a goal is shown, and how much it needs; "" for a guardrail.
        words: what that means now.
        kind: `better`, `worse` or "".
    """

    signal: str
    candidate: str
    control: str
    estimate: str
    worse: str
    shown: str
    words: str
    kind: str


def _signal_row(reading: SignalReading, settings: RolloutSettings) -> SignalRow:
    limit = len(settings.signals) / settings.alpha
    words, kind = "nothing stands against it", ""
    if reading.harm >= limit:
        words, kind = "shown to be worse", "worse"
    elif reading.missing:
        words = f"needs {reading.missing:,} more requests of {_lacking(reading)}"
    elif reading.role == "goal":
        words, kind = ("shown", "better") if reading.passed else ("not shown yet", "")
    estimate = ABSENT
    if reading.estimate is not None:
        estimate = number(reading.estimate, sign=reading.scale == "difference")
        if reading.low is not None and reading.high is not None:
            low, high = (
                number(end, sign=reading.scale == "difference")
                for end in (reading.low, reading.high)
            )
            estimate += f" [{low}, {high}]"
        if reading.scale == "ratio":
            estimate += " times"
    shown = ""
    if reading.shown is not None:
        shown = f"{e_value_text(reading.shown)} of {1 / settings.alpha:.3g}"
    return SignalRow(
        signal=reading.signal,
        candidate=f"{number(reading.candidate.mean)} ({reading.candidate.requests:,})",
        control=f"{number(reading.control.mean)} ({reading.control.requests:,})",
        estimate=estimate,
        worse=f"{e_value_text(reading.harm)} of {limit:.3g}",
        shown=shown,
        words=words,
        kind=kind,
    )


def _lacking(reading: SignalReading) -> str:
    """Return which arm has too few requests with a signal, in words."""
    candidate, control = reading.candidate.requests, reading.control.requests
    if candidate == control:
        return "each arm"
    return "the candidate" if candidate < control else "the control"


class RolloutStage(NamedTuple):
    """A stage of a rollout: the candidate's share in percent, and whether it is over."""

    percent: float
    state: Literal["over", "now", "next"]


def _stages(rollout: Rollout, settings: RolloutSettings) -> list[RolloutStage]:
    stages: list[RolloutStage] = []
    for n, percent in enumerate(settings.steps):
        state: Literal["over", "now", "next"] = "next"
        if rollout.state == "promoted" or n < rollout.step:
            state = "over"
        elif n == rollout.step and rollout.is_active:
            state = "now"
        stages.append(RolloutStage(percent, state))
    return stages


def _standing(
    rollout: Rollout, readings: Sequence[SignalReading], assigned: Sequence[AssignedRequests]
) -> dict[str, Any]:
    """Return what the live part shows."""
    settings = settings_of(rollout)
    return {
        "rollout": rollout,
        "stages": _stages(rollout, settings),
        "signals": [_signal_row(reading, settings) for reading in readings],
        "assigned": {
            arm: sum(each.requests for each in assigned if each.arm == arm)
            for arm in ("candidate", "control")
        },
    }


async def _stored(services: Services, rollout_id: str) -> Rollout:
    rollout = await services.store.rollout(rollout_id)
    if rollout is None:
        raise NotFoundError(f"There is no rollout {rollout_id!r}.")
    return rollout


@page("/pages/rollouts/{rollout_id:str}")
async def rollout_page(
    services: Injected, caller: InjectedCaller, rollout_id: FromPath[str]
) -> Response[str]:
    """Show one rollout."""
    return await _page(services, caller, await _stored(services, rollout_id))


@get("/pages/live/rollouts/{rollout_id:str}", include_in_schema=False)
async def rollout_part(
    services: Injected,
    caller: InjectedCaller,
    parts: InjectedLiveParts,
    rollout_id: FromPath[str],
) -> ServerSentEvent:
    """Send how a rollout stands whenever that changes."""
    await _stored(services, rollout_id)

    async def make() -> str:
        rollout = await _stored(services, rollout_id)
        # Read often, so nothing is added up for it as for a report.
        text, waiting = await asyncio.gather(
            services.store.rollout_statistics(rollout_id), services.store.uncounted(rollout_id, 1)
        )
        statistics = await asyncio.to_thread(statistics_of, text)
        readings = () if statistics is None else statistics.readings
        return await part("rollout_part.html", **_standing(rollout, readings, waiting.assigned))

    return parts.stream(caller, ("rollout", rollout_id), make)


@action("/pages/rollouts/{rollout_id:str}")
async def change_rollout(
    services: Injected,
    caller: InjectedCaller,
    rollout_id: FromPath[str],
    request: Request[Any, Any, Any],
) -> Any:
    """Do what a person decided about a rollout; it is the route's newest."""
    fields = await read_fields(request)
    rollout = await _stored(services, rollout_id)
    reason = fields.get("reason", "")
    try:
        act = msgspec.convert(fields.get("do"), Action)
        revision = msgspec.convert(fields.get("revision"), int, strict=False)
        decided = msgspec.convert({"reason": reason, "revision": revision}, RolloutAction)
    except msgspec.ValidationError as error:
        raise RequestError(f"The form is not one of this page: {error}") from None

    async def change() -> str:
        newest = await services.rollouts.find(rollout.route)
        if newest.id != rollout.id:
            raise RequestError(
                f"{newest.id} is the newest rollout of {rollout.route}; decide about that one."
            )
        await decide_rollout(services, caller, rollout.route, act, decided)
        return f"/rollouts/{rollout.id}"

    async def shown(error: EvalrouterError) -> Response[str]:
        now = await _stored(services, rollout_id)
        return await _page(services, caller, now, error=error.message, act=act, reason=reason)

    return await done_or_shown(change(), shown)


async def _page(
    services: Services,
    caller: Caller,
    rollout: Rollout,
    *,
    error: str = "",
    act: Action | None = None,
    reason: str = "",
) -> Response[str]:
    report, newest = await asyncio.gather(
        services.rollouts.report(rollout.route, rollout.id),
        services.store.rollouts(route=rollout.route, limit=1),
    )
    settings = settings_of(rollout)
    plots = await asyncio.to_thread(_plots, report.decisions, report.signals, settings)
    is_newest = any(each.id == rollout.id for each in newest)
    may_decide = caller.reach_of("POST /routes/{name}/rollout/pause") == "all"
    return await section_page(
        "rollout.html",
        caller,
        title=f"Rollout of {rollout.candidate}",
        settings=_shown_settings(settings),
        forecast=rollout.forecast,
        totals={
            arm: (report.totals.get(arm), report.per_protocol.get(arm)) for arm in report.totals
        },
        judged=report.judged[-60:],
        decisions=report.decisions[: -MAX_DECISIONS - 1 : -1],
        left_out=max(0, len(report.decisions) - MAX_DECISIONS),
        plots=plots,
        e_value_text=e_value_text,
        actions=[act for act in POSSIBLE if is_newest and rollout.state in POSSIBLE[act]]
        if may_decide
        else [],
        sees_route=caller.reach_of("GET /pages/routes/{name}") == "all",
        error=error,
        act=act,
        reason=reason,
        default_reason=DEFAULT_REASON,
        **_standing(rollout, report.signals, report.assigned),
    )


def _shown_settings(settings: RolloutSettings) -> list[tuple[str, str]]:
    rows = [
        ("stages", ", ".join(f"{step:g} %" for step in settings.steps)),
        ("each stage lasts at least", _hours(max(settings.step_seconds, settings.cycle_seconds))),
        ("alpha", f"{settings.alpha:g}"),
        ("sticky", settings.sticky or "as the route, else by user or conversation"),
    ]
    if settings.max_requests is not None:
        rows.append(("at most so many requests to the candidate", f"{settings.max_requests:,}"))
    if settings.max_seconds is not None:
        rows.append(("at most so long", _hours(settings.max_seconds)))
    rows += [
        (signal.name, f"margin {signal.margin:g}, at least {signal.min_requests:,} requests")
        for signal in settings.signals
    ]
    return rows


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:g} hours"


def _plots(
    decisions: Sequence[RolloutDecision],
    readings: Sequence[SignalReading],
    settings: RolloutSettings,
) -> list[Plot]:
    """Plot the evidence over time as decisions have stored it, and each signal's estimates."""
    seen = [(decision.at, _signals_of(decision.seen)) for decision in decisions]
    series: list[EvidenceSeries] = []
    estimates: list[Plot] = []
    for reading in readings[:MAX_PLOTS]:
        name = reading.signal
        known = [(at, signals[name]) for at, signals in seen if name in signals]
        goal = reading.role == "goal"
        evidence = [
            EvidencePoint(at, each.shown if goal and each.shown is not None else each.harm)
            for at, each in known
        ]
        series.append(
            EvidenceSeries(name=f"{name}: {'shown' if goal else 'worse'}", points=evidence)
        )
        points = [
            HistoryPoint(at=at, estimate=each.estimate, low=each.low, high=each.high)
            for at, each in known
        ]
        if any(point.estimate is not None for point in points):
            axis = "times the control's" if reading.scale == "ratio" else "candidate minus control"
            estimates.append(history(name, points, axis_title=axis))
    limits = {
        "rolls back": len(settings.signals) / settings.alpha,
        "shows a goal": 1 / settings.alpha,
    }
    return [evidence_plot("Evidence (e-values) at each decision", series, limits), *estimates]


def _signals_of(seen: Mapping[str, Any]) -> dict[str, SignalReading]:
    """Return the readings of a decision by signal; none where they cannot be read."""
    try:
        readings = msgspec.convert(seen.get("signals") or [], list[SignalReading])
    except msgspec.ValidationError:
        return {}
    return {reading.signal: reading for reading in readings}


class StartForm(NamedTuple):
    """What the form that starts a rollout has in it: what was typed, or the route's defaults.

    Attributes:
        candidate, reason: texts.
        steps: shares in percent.
        margin: percentage points by which the share of errors may be larger; "" for the default.
        step_hours, cycle_hours: how long a stage lasts at least.
        force: whether it is started although its goals cannot be shown.
        rest: other settings, as YAML.
    """

    candidate: str = ""
    steps: str = ""
    margin: str = ""
    step_hours: str = ""
    cycle_hours: str = ""
    force: str = ""
    rest: str = ""
    reason: str = ""


@page("/pages/routes/{name:str}/rollout")
async def new_rollout(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    rollout: FromQuery[str | None] = None,
) -> Any:
    """Show the form that starts a rollout, and the route's rollouts; or lead to one of them."""
    if rollout is not None:
        stored = await _stored(services, rollout)
        return Redirect(f"/rollouts/{stored.id}", status_code=303)
    return await _start_page(services, caller, name, _defaults(services, name))


@action("/pages/routes/{name:str}/rollout")
async def start_rollout(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    request: Request[Any, Any, Any],
) -> Any:
    """Start a rollout as the form says."""
    fields = await read_fields(request)
    form = StartForm(**{each: fields.get(each, "") for each in StartForm._fields})

    async def change() -> str:
        document = await asyncio.to_thread(_document, form)
        return f"/rollouts/{(await begin_rollout(services, caller, name, document)).id}"

    async def shown(error: EvalrouterError) -> Response[str]:
        in_words = f" To start it all the same, tick “{FORCE}” below."
        message = error.message.replace(HOW_TO_FORCE, in_words)
        wrong = _wrong(error.param or "")
        return await _start_page(services, caller, name, form, error=message, wrong=wrong)

    return await done_or_shown(change(), shown)


def _defaults(services: Services, name: str) -> StartForm:
    route = services.routes.find(name).route
    settings = RouteRollout() if route is None or route.rollout is None else route.rollout
    return StartForm(
        candidate=settings.candidate or "",
        steps=", ".join(f"{step:g}" for step in settings.steps),
        step_hours=f"{settings.step_seconds / 3600:g}",
        cycle_hours=f"{settings.cycle_seconds / 3600:g}",
    )


def _document(form: StartForm) -> Document:
    """Return what a form requests, as the body of the API's operation.

    Raises:
        RequestError: a field has no number, or the rest is no YAML.
    """
    data: dict[str, Any] = {}
    if form.rest.strip():
        rest = parse_yaml(form.rest, "line", error=RequestError).data
        if not isinstance(rest, dict):
            raise RequestError("Other settings have the form `name: value`.", param="rest")
        data |= rest
    if form.candidate.strip():
        data["candidate"] = form.candidate.strip()
    if form.steps.strip():
        data["steps"] = [_number(text, "steps") for text in form.steps.split(",")]
    for field, key in (("step_hours", "step_seconds"), ("cycle_hours", "cycle_seconds")):
        text = getattr(form, field).strip()
        if text:
            data[key] = 3600 * _number(text, field)
    if form.margin.strip():
        if "signals" in data:
            raise RequestError(
                "The signals below have their own margins: leave this one out.", param="margin"
            )
        data["signals"] = [
            as_stored(signal)
            | ({"margin": _number(form.margin, "margin") / 100} if signal.role == "goal" else {})
            for signal in DEFAULT_SIGNALS
        ]
    data["reason"] = form.reason
    data["force"] = form.force == "yes"
    return Document.of(data)


_TITLES = {
    "steps": "Stages",
    "margin": "Errors may rise by",
    "step_hours": "Hours of a stage",
    "cycle_hours": "Hours of a full cycle",
}


def _number(text: str, field: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RequestError(f"{_TITLES[field]}: {text.strip()!r} is no number.", param=field)
    return value


async def _start_page(
    services: Services,
    caller: Caller,
    name: str,
    form: StartForm,
    *,
    error: str = "",
    wrong: str = "",
) -> Response[str]:
    view = services.routes.find(name)
    rollouts = await services.store.rollouts(route=name, limit=20)
    route = view.route
    targets = [] if route is None else [*(each.model for each in route.targets), *route.fallback]
    others = {
        target.model for other in services.routes.table.routes.values() for target in other.targets
    }
    serving = set() if route is None else set(route.weighted)
    sees_targets = caller.reach_of("GET /routes") == "all"
    return await section_page(
        "new_rollout.html",
        caller,
        title=f"Rollouts of {name}",
        name=name,
        rollouts=rollouts,
        active=next((each for each in rollouts if each.is_active), None),
        form=form,
        candidates=[
            each for each in dict.fromkeys([*targets, *sorted(others)]) if each not in serving
        ]
        if sees_targets
        else [],
        may_start=caller.reach_of("POST /routes/{name}/rollout") == "all",
        sees_route=sees_targets,
        force=FORCE,
        error=error,
        wrong=wrong,
    )


def _wrong(param: str) -> str:
    """Return the field of the form that an error is about."""
    first = param.partition(".")[0].partition("[")[0]
    named = {"step_seconds": "step_hours", "cycle_seconds": "cycle_hours"}.get(first, first)
    return named if named in StartForm._fields else "rest" if param else ""
