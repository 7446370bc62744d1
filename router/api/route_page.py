"""The page of one route: what it does now, what a change would bring, and what it was before.

A change is saved by the function that the API uses. It names the version that the page showed:
if the route has changed since, the change is refused, and what was typed is still there.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import yaml
from litestar import Request, Response, get
from litestar.params import FromPath
from litestar.response import Redirect, ServerSentEvent

from evaluators.stats.intervals import Interval
from providers.errors import EvalrouterError, RequestError
from router.api.access import Caller, InjectedCaller
from router.api.form_numbers import number_from_digits
from router.api.injection import Injected
from router.api.live import InjectedLiveParts
from router.api.page_layout import action, done, done_or_shown, form_again, page, part
from router.api.route_sections import section_page
from router.api.routes import VersionNumber, set_route
from router.api.sign_in import read_fields
from router.config.documents import as_stored, parse_yaml, path_of, stated
from router.config.routes import Route
from router.gateway.route_table import RouteView
from router.gateway.targets import BreakerState
from router.loop.route_effect import RouteEffect, effect_of, first_shares
from router.loop.what_if import WhatIfMeasure
from router.services import Services
from router.store.routes import RouteVersion
from router.store.traffic import TrafficFilter, TrafficRow

HOUR_S = 3600.0
# Requests of the last hour that the page adds up, the newest.
MAX_RECENT = 500
# Weights that a form has room for; a route with more targets is edited as a document.
MAX_WEIGHTS = 40
MAX_SHOWN_VERSIONS = 20
PERIODS = {"1h": "hour", "1d": "day", "7d": "week"}


class TargetHealth(NamedTuple):
    """A target as this process sees it now.

    Attributes:
        target: `provider/model`.
        weight: as configured; None for a fallback.
        share: of the requests that it is tried first for; None where that depends on more.
        breaker: the state of its breaker; None before the first request.
        running, waiting: requests in flight, and in its queue.
        max_running: how many may be in flight; None for any number.
        first_byte_s: smoothed seconds to the first byte; None before the first answer.
    """

    target: str
    weight: float | None
    share: float | None
    breaker: BreakerState | None
    running: int
    waiting: int
    max_running: int | None
    first_byte_s: float | None


class TargetRequests(NamedTuple):
    """Requests of the last hour that one target answered, or was the last to fail.

    Attributes:
        target: `provider/model`; "" where a request reached none.
        requests, failures, cached: how many, how many failed, how many the cache answered.
        median_s, slow_s: the median and the 95th percentile of seconds to the last byte.
        usd_per_1000: US dollars per 1,000 requests with a known price; None without one.
    """

    target: str
    requests: int
    failures: int
    cached: int
    median_s: float | None
    slow_s: float | None
    usd_per_1000: float | None


class Recent(NamedTuple):
    """The requests of the last hour by target; `is_part` where they are only the newest."""

    rows: tuple[TargetRequests, ...]
    requests: int
    since: float
    is_part: bool


class RouteForms(NamedTuple):
    """What the forms of the page have in them: what was typed, or what is set.

    Attributes:
        version: of the route that was edited.
        weights: by target; None for those that are set.
        document: the route as YAML; None for what is set.
        reason: why.
        period: from which requests on the effect is estimated.
        error: what is wrong; "" for nothing.
        wrong: the target, or "document", that it is about.
        effect: what the change would bring.
        of: the form that was sent.
    """

    version: str = ""
    weights: Mapping[str, str] | None = None
    document: str | None = None
    reason: str = ""
    period: str = "1h"
    error: str = ""
    wrong: str = ""
    effect: RouteEffect | None = None
    of: Literal["", "weights", "document"] = ""


class ChangedSetting(NamedTuple):
    """One setting that two versions of a route have different values of; "" for none."""

    setting: str
    before: str
    after: str


@page("/pages/routes/{name:str}")
async def route_page(services: Injected, caller: InjectedCaller, name: FromPath[str]) -> Any:
    """Show one route."""
    view = services.routes.find(name)
    return await _page(services, caller, view, RouteForms(version=view.version))


@get("/pages/live/routes/{name:str}", include_in_schema=False)
async def route_part(
    services: Injected, caller: InjectedCaller, parts: InjectedLiveParts, name: FromPath[str]
) -> ServerSentEvent:
    """Send the health of a route's targets whenever it changes."""
    services.routes.find(name)

    async def make() -> str:
        return await part("route_part.html", health=health_of(services, services.routes.find(name)))

    return parts.stream(caller, ("route", name), make)


@action("/pages/routes/{name:str}")
async def change_route(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    request: Request[Any, Any, Any],
) -> Any:
    """Save a route's weights, its document, or that the config file's is back; or show what for."""
    fields = await read_fields(request)
    of, _, what = fields.get("do", "").partition(" ")
    view = services.routes.find(name)
    reason, version = fields.get("reason", "")[:2000], fields.get("version", "")
    if of == "undo":
        await services.routes.remove(name, actor=caller.actor, reason=reason, version=version)
        return done(_path(name))
    if of not in ("weights", "document") or what not in ("preview", "save"):
        raise RequestError("do: weights or document, preview or save", param="do")
    period = fields.get("period", "1h")
    forms = RouteForms(version, reason=reason, period=period if period in PERIODS else "1h")
    if of == "weights":
        forms = forms._replace(of="weights", weights=_typed_weights(fields))
    else:
        forms = forms._replace(of="document", document=fields.get("document", ""))

    async def change() -> str | Response[str]:
        data = await _edited(services, name, forms)
        if what == "save":
            await set_route(services, caller, name, data, version=version, reason=reason)
            return _path(name)
        effect = await effect_of(
            name,
            view.route,
            services.routes.read(name, data),
            services.what_ifs,
            services.prices.per_million,
            since=forms.period,
        )
        page = await _page(services, caller, view, forms._replace(effect=effect))
        return form_again(page)

    async def shown(error: EvalrouterError) -> Response[str]:
        if error.code != "route_changed":
            refused = forms._replace(error=error.message, wrong=_wrong_field(view, forms, error))
            return await _page(services, caller, view, refused)
        now = services.routes.find(name)
        newest = await services.routes.versions(name, limit=1)
        by = f" by {newest[0].actor}" if newest and newest[0].actor else ""
        message = (
            f"The route was changed{by} while you edited it. What you typed is still here; "
            "saving again replaces what the other one has saved."
        )
        # Who saves again has seen what the other one has saved.
        refused = forms._replace(
            version=now.version, error=message, wrong=_wrong_field(now, forms, error)
        )
        return await _page(services, caller, now, refused)

    return await done_or_shown(change(), shown)


def _typed_weights(fields: Mapping[str, str]) -> dict[str, str]:
    """Return the weights of a form by their targets."""
    return {
        fields[f"target.{n}"]: fields.get(f"weight.{n}", "").strip()
        for n in range(MAX_WEIGHTS)
        if f"target.{n}" in fields
    }


async def _edited(services: Services, name: str, forms: RouteForms) -> Any:
    """Return the document that a form makes of a route.

    Raises:
        RequestError: something in it is no weight, or no document.
    """
    if forms.of == "document":
        text = forms.document or ""
        return (await asyncio.to_thread(parse_yaml, text, "line", error=RequestError)).data
    document = services.routes.document(name)
    targets = None if document is None else document.get("targets")
    if document is None or not isinstance(targets, list):
        raise RequestError("The route cannot be read; edit its document.", param="document")
    assert forms.weights is not None, "a form of weights has some"
    weights = {}
    for target, text in forms.weights.items():
        try:
            weights[target] = float(text)
        except ValueError:
            weights[target] = math.nan
        if not 0 <= weights[target] < math.inf:
            raise RequestError(f"The weight of {target} is a number from 0 on.", param=target)
    changed = [
        {**target, "weight": weights.get(target["model"], target.get("weight", 1.0))}
        for target in targets
    ]
    return {**document, "targets": changed}


def _wrong_field(view: RouteView, forms: RouteForms, error: EvalrouterError) -> str:
    """Return the target whose weight an error is about, or "document"."""
    if forms.of == "document":
        return "document"
    if view.route is not None:
        for n, target in enumerate(view.route.targets):
            place = path_of(("routes", view.name, "targets", n, "weight"))
            if error.param in (target.model, place):
                return target.model
    return ""


async def _page(
    services: Services, caller: Caller, view: RouteView, forms: RouteForms
) -> Response[str]:
    name = view.name
    recent, versions, rollouts = await asyncio.gather(
        _recent(services, name),
        services.store.route_versions(name, limit=MAX_SHOWN_VERSIONS),
        services.store.rollouts(route=name, limit=5),
    )
    document = services.routes.document(name)
    measures = [] if forms.effect is None else _measures(forms.effect)
    return await section_page(
        "route.html",
        caller,
        title=name,
        view=view,
        route=view.route,
        settings=[] if view.route is None else _settings(view.route),
        health=health_of(services, view),
        recent=recent,
        versions=versions,
        rollouts=rollouts,
        active=next((each for each in rollouts if each.is_active), None),
        forms=forms,
        weights=_weights(view, forms),
        document=_as_yaml(document) if forms.document is None else forms.document,
        measures=measures,
        refusals=_refusals(measures),
        may_change=caller.reach_of("PUT /routes/{name}") == "all",
        can_undo=view.source == "override",
        periods=PERIODS,
        max_recent=MAX_RECENT,
    )


def _path(name: str) -> str:
    return f"/routes/{name}"


def health_of(services: Services, view: RouteView) -> list[TargetHealth]:
    """Return a route's targets, and its fallbacks, as this process sees them now."""
    route = view.route
    if route is None:
        return []
    now = asyncio.get_running_loop().time()
    states = {str(state.target): state for state in services.dispatcher.states()}
    shares = first_shares(view.name, route, services.prices.per_million)
    weights: dict[str, float | None] = {}
    limits = {target.model: target.max_concurrency for target in route.targets}
    for target in route.targets:
        weights[target.model] = (weights.get(target.model) or 0.0) + target.weight
    for model in route.fallback:
        weights.setdefault(model, None)
    rows = []
    for model, weight in weights.items():
        state = states.get(model)
        rows.append(
            TargetHealth(
                target=model,
                weight=weight,
                share=None if shares is None else shares.get(model, 0.0),
                breaker=None if state is None else state.state(now),
                running=0 if state is None else state.running,
                waiting=0 if state is None else state.waiting,
                max_running=limits.get(model),
                first_byte_s=None if state is None else state.load.latency,
            )
        )
    return rows


async def _recent(services: Services, name: str) -> Recent:
    now = time.time()
    matching = TrafficFilter(route=name, traffic_class="live", since=now - HOUR_S, until=now + 1)
    rows = await services.recorded.page(matching, limit=MAX_RECENT)
    return await asyncio.to_thread(_added_up, rows, now - HOUR_S)


def _added_up(rows: Sequence[TrafficRow], since: float) -> Recent:
    by_target: dict[str, list[TrafficRow]] = defaultdict(list)
    for row in rows:
        by_target[row.target].append(row)
    is_part = len(rows) == MAX_RECENT
    return Recent(
        rows=tuple(_of_target(target, by_target[target]) for target in sorted(by_target)),
        requests=len(rows),
        since=rows[-1].at if is_part else since,
        is_part=is_part,
    )


def _of_target(target: str, rows: Sequence[TrafficRow]) -> TargetRequests:
    times = sorted(row.total_s for row in rows if row.status < 400 and not row.cached)
    costs = [row.cost_usd for row in rows if row.cost_usd is not None]
    return TargetRequests(
        target=target,
        requests=len(rows),
        failures=sum(row.status >= 400 for row in rows),
        cached=sum(row.cached for row in rows),
        median_s=times[len(times) // 2] if times else None,
        slow_s=times[int(0.95 * (len(times) - 1))] if times else None,
        usd_per_1000=1000 * math.fsum(costs) / len(costs) if costs else None,
    )


class WeightField(NamedTuple):
    """A target's weight in the form: what is typed, and whether that is wrong."""

    target: str
    weight: str
    wrong: bool


def _weights(view: RouteView, forms: RouteForms) -> list[WeightField]:
    """Return the fields of the form of weights; none where a route has too many targets."""
    if view.route is None or len(view.route.targets) > MAX_WEIGHTS:
        return []
    models = [target.model for target in view.route.targets]
    if len(set(models)) < len(models):
        # A target's name does not say which of its two weights a field is for.
        return []
    typed = forms.weights or {}
    return [
        WeightField(
            target.model,
            typed.get(target.model, f"{target.weight:g}"),
            forms.wrong == target.model,
        )
        for target in view.route.targets
    ]


def _as_yaml(document: Mapping[str, Any] | None) -> str:
    if document is None:
        return ""
    text: str = yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True)
    return text


class MeasureText(NamedTuple):
    """What a change would bring in one respect, as the page shows it.

    Attributes:
        name: what is measured, with its unit.
        observed: what the same requests brought.
        expected: what the change would have brought, with its interval.
        difference: how much more that is.
        refused: why that cannot be said; "" where it can.
        needed: requests like these that would be enough to say it; None where that is not known.
    """

    name: str
    observed: str
    expected: str
    difference: str
    refused: str
    needed: int | None


# What a measure is called, what its numbers are multiplied by, and their decimal places.
_MEASURES = {
    "errors": ("Failed requests, of 1,000", 1000.0, 1),
    "cost_usd": ("US dollars per 1,000 requests", 1000.0, 4),
    "total_s": ("Seconds to the last byte, mean", 1.0, 3),
    "first_byte_s": ("Seconds to the first byte, mean", 1.0, 3),
}


def _measures(effect: RouteEffect) -> list[MeasureText]:
    if effect.what_if is None or effect.refused:
        return []
    return [_measure(measure) for measure in effect.what_if.measures]


def _measure(measure: WhatIfMeasure) -> MeasureText:
    name, factor, places = _MEASURES[measure.name]
    value = measure.value
    refused = value.refused
    return MeasureText(
        name=name,
        observed=_interval(value.observed, factor, places),
        expected="-" if refused else _interval(value.doubly_robust, factor, places),
        difference="-" if refused else _interval(value.difference, factor, places, sign=True),
        refused=refused,
        needed=value.requests_needed if refused else None,
    )


def _refusals(measures: Sequence[MeasureText]) -> list[str]:
    """Return what cannot be said of measures, a sentence for each reason."""
    by_reason: dict[str, list[MeasureText]] = defaultdict(list)
    for measure in measures:
        if measure.refused:
            by_reason[measure.refused].append(measure)
    sentences = []
    for reason, concerned in by_reason.items():
        names = "" if len(concerned) == len(measures) else "; ".join(m.name for m in concerned)
        enough = max((measure.needed or 0 for measure in concerned), default=0)
        sentences.append(
            "What to expect cannot be said"
            + (f" ({names})" if names else "")
            + f": {reason}"
            + (f"; about {enough:,} requests like these would be enough" if enough else "")
            + "."
        )
    return sentences


def _interval(interval: Interval, factor: float, places: int, *, sign: bool = False) -> str:
    if interval.estimate is None:
        return "-"
    plus = "+" if sign else ""
    text = f"{factor * interval.estimate:{plus},.{places}f}"
    if interval.low is not None and interval.high is not None:
        low, high = factor * interval.low, factor * interval.high
        if low == factor * interval.estimate == 0:
            # Nothing was seen, which many values would bring.
            return f"{text} (at most {high:,.{places}f})"
        text += f" [{low:{plus},.{places}f}, {high:{plus},.{places}f}]"
    return text


def _settings(route: Route) -> list[tuple[str, str]]:
    """Return what a route sets beyond defaults, without its targets, in the form `a.b`, `value`."""
    document = stated(route)
    document.pop("targets", None)
    return list(_flat(document).items())


def _flat(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a document by their paths, as texts."""

    def walk(value: Any, place: tuple[str | int, ...]) -> Iterable[tuple[str, str]]:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                yield from walk(item, (*place, str(key)))
        elif isinstance(value, list) and value and any(isinstance(i, dict | list) for i in value):
            for n, item in enumerate(value):
                yield from walk(item, (*place, n))
        elif isinstance(value, str):
            yield path_of(place), value
        elif isinstance(value, list):
            yield path_of(place), ", ".join(map(str, value))
        elif isinstance(value, float):
            yield path_of(place), f"{value:g}"
        else:
            yield path_of(place), msgspec.json.encode(value).decode()

    return dict(walk(document, ())) if document else {}


def _whole(version: RouteVersion | None, *, defaults: bool) -> dict[str, str]:
    """Return the settings of a version, with `defaults` those too; targets by their models."""
    if version is None or version.route is None:
        return {}
    try:
        route = msgspec.convert(version.route, Route)
        document = as_stored(route) if defaults else stated(route)
    except msgspec.ValidationError:
        # Of an earlier release.
        document = dict(version.route)
    targets = document.pop("targets", None) or []
    named: dict[str, Any] = {}
    for target in targets if isinstance(targets, list) else ():
        model = str(target.get("model", "")) if isinstance(target, dict) else str(target)
        again = sum(key.partition(" (")[0] == model for key in named)
        key = f"{model} ({again + 1})" if again else model
        named[f"target {key}"] = target if isinstance(target, dict) else {}
    for target in named.values():
        target.pop("model", None)
    return _flat(document | named)


def differences(before: RouteVersion | None, after: RouteVersion) -> list[ChangedSetting]:
    """Return the settings that two versions of a route have different values of.

    Where one of them has no route, these are the other's beyond the defaults.
    """
    both = before is not None and before.route is not None and after.route is not None
    old, new = _whole(before, defaults=both), _whole(after, defaults=both)
    return [
        ChangedSetting(name, old.get(name, ""), new.get(name, ""))
        for name in dict.fromkeys([*new, *old])
        if old.get(name) != new.get(name)
    ]


@page("/pages/routes/{name:str}/versions")
async def route_versions(
    *,
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    version: VersionNumber = None,
    against: VersionNumber = None,
    before: VersionNumber = None,
) -> Response[str]:
    """Show what a route was, and how one version differs from another (the one before it).

    Of a version that is not the newest, the page shows what going back to it would change.
    """
    rows, newest = await asyncio.gather(
        services.routes.versions(name, limit=MAX_SHOWN_VERSIONS + 1, before=before),
        services.routes.versions(name, limit=1),
    )
    chosen = earlier = None
    if version is not None:
        chosen = await _version(services, name, version)
        if against is None:
            previous = await services.routes.versions(name, limit=1, before=version)
            earlier = previous[0] if previous else None
        else:
            earlier = await _version(services, name, against)
    present = services.routes.find(name) if name in services.routes.names() else None
    is_past = chosen is not None and chosen.number != newest[0].number
    return await section_page(
        "route_versions.html",
        caller,
        title=f"Versions of {name}",
        name=name,
        rows=rows[:MAX_SHOWN_VERSIONS],
        next=rows[MAX_SHOWN_VERSIONS - 1].number if len(rows) > MAX_SHOWN_VERSIONS else None,
        is_later=before is not None,
        chosen=chosen,
        earlier=earlier,
        differences=[] if chosen is None else differences(earlier, chosen),
        newest=newest[0] if newest else None,
        is_past=is_past,
        back=differences(newest[0], chosen) if is_past and chosen is not None else [],
        version="" if present is None else present.version,
        is_known=present is not None,
        may_change=caller.reach_of("PUT /routes/{name}") == "all",
    )


async def _version(services: Services, name: str, number: int) -> RouteVersion:
    rows = await services.routes.versions(name, limit=1, before=number + 1)
    if not rows or rows[0].number != number:
        raise RequestError(f"The route {name!r} has no version {number}.", param="version")
    return rows[0]


@action("/pages/routes/{name:str}/versions")
async def restore_route(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    request: Request[Any, Any, Any],
) -> Redirect:
    """Set a route to what it was in one of its versions."""
    fields = await read_fields(request)
    number = number_from_digits(fields.get("number", ""), max_digits=9)
    if number is None:
        raise RequestError("number: that of a version", param="number")
    chosen = await _version(services, name, number)
    if chosen.route is None:
        raise RequestError(f"In version {number} there was no such route.", param="number")
    reason = fields.get("reason", "").strip()[:1900]
    await set_route(
        services,
        caller,
        name,
        chosen.route,
        version=fields.get("version", ""),
        reason=f"back to version {number}" + (f": {reason}" if reason else ""),
    )
    return done(_path(name))
