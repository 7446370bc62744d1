"""`watches:` of the config: what is sent to a target again and again, to see whether it changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec

from evaluators.metrics.registry import build
from providers.base import Positive
from providers.errors import EvalrouterError, closest
from router.config.cron import CronLine, cron_problems
from router.config.documents import Document, DocumentPath, Problem
from router.config.providers import Providers
from router.config.routes import Route, target_problem
from router.config.section import NAME, Section

LiveSignal = Literal["refusals", "length", "language", "cost"]
LIVE_SIGNALS: tuple[LiveSignal, ...] = ("refusals", "length", "language", "cost")

# What a host claims to be; another name is a change.
VersionName = Literal["model", "system_fingerprint"]
VERSION_NAMES: tuple[VersionName, ...] = ("model", "system_fingerprint")

FEWEST_PROBES = 15
"""With fewer probes of reference even the largest change right after it may never be found."""

FEWEST_PERIODS = 12
"""Likewise of live signals; a reference of so many probes has so many that are compared."""

_Prompt = Annotated[str, msgspec.Meta(min_length=1, max_length=4000)]


class WatchLimits(Section, frozen=True, kw_only=True):
    """What a watch may use.

    Attributes:
        rows: the rows of a dataset that are sent, its first ones.
        concurrency: requests in flight at a time.
        seconds: how long one probe may take; what has no answer by then is missing from it.
        usd_per_day: US dollars that its probes may cost a day (UTC); afterwards none is sent.
            Requests of an unknown price cost nothing.
    """

    rows: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 300.0
    usd_per_day: Positive = 1.0


class LiveWatch(Section, frozen=True, kw_only=True):
    """What is watched of the target's live requests; they cost nothing.

    Attributes:
        signals: `refusals` (share of answers), `length` (tokens of an answer), `language` (share
            of a sample of the answers that is in the language most had; needs the extra
            `metrics`), `cost` (of a request).
        hours: a period, whose mean counts as one value. With less than 24 hours, nights are
            compared with days.
        periods: how many periods the reference has, besides those that say what is usual.
        min_requests: periods with fewer requests are left out.
    """

    signals: Annotated[tuple[LiveSignal, ...], msgspec.Meta(max_length=4)] = LIVE_SIGNALS
    hours: Annotated[int, msgspec.Meta(ge=1, le=168)] = 24
    periods: Annotated[int, msgspec.Meta(ge=6, le=1000)] = 14
    min_requests: Annotated[int, msgspec.Meta(ge=1, le=10**9)] = 30


class WatchSettings(Section, frozen=True, kw_only=True):
    """A target that gets the same requests again and again, and how its answers are compared.

    Attributes:
        target: `provider/model`, or a route that has one target.
        dataset: whose rows are sent, as in a run document; None for `prompts`.
        prompts: what is sent, each as a user's message. None, without a dataset, for a fixed set
            of short ones that ships with evalrouter.
        compare: `logprobs` compares the log probabilities of one token, which costs next to
            nothing; `text` compares answers at temperature 0 by `similarity`. None for `text`
            with a dataset and `logprobs` without.
        similarity: for `text`: a metric that compares an answer with a reference, with options as
            in a run document; its first output has to be from 0 to 1.
        max_tokens: for `text`: the longest answer.
        repeats: how often each request is sent in a probe; log probabilities are averaged, which
            lowers their noise.
        reference_probes: how many probes the reference is made of. The first fifth of them says
            what answers look like, and the rest how much they vary.
        cron: when probes are sent: minute, hour, day of the month, month, day of the week.
        timezone: of `cron`, as in `Europe/Berlin`.
        alpha: the chance that the watch ever reports a drift although nothing has changed, over
            its whole life and all its signals.
        limits: see WatchLimits.
        live: see LiveWatch; `live: null` watches no live requests.
    """

    target: str
    dataset: str | None = None
    prompts: Annotated[tuple[_Prompt, ...], msgspec.Meta(min_length=1, max_length=100)] | None = (
        None
    )
    compare: Literal["logprobs", "text"] | None = None
    similarity: str | dict[str, Any] = "f1"
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 200
    repeats: Annotated[int, msgspec.Meta(ge=1, le=20)] = 2
    reference_probes: Annotated[int, msgspec.Meta(ge=6, le=1000)] = 20
    cron: Annotated[str, msgspec.Meta(max_length=200)] = "17 * * * *"
    timezone: Annotated[str, msgspec.Meta(max_length=100)] = "UTC"
    alpha: Annotated[float, msgspec.Meta(ge=0.0001, le=0.5)] = 0.01
    limits: WatchLimits = WatchLimits()
    live: LiveWatch | None = LiveWatch()

    @property
    def line(self) -> CronLine:
        """When probes are sent."""
        return CronLine(self.cron, self.timezone)

    @property
    def compares(self) -> Literal["logprobs", "text"]:
        """What is compared."""
        return self.compare or ("logprobs" if self.dataset is None else "text")

    @property
    def tests(self) -> int:
        """How many tests share `alpha`: the probes' and one for each live signal."""
        return 1 + (0 if self.live is None else len(self.live.signals))


def watch_problems(
    document: Document,
    watches: Mapping[str, WatchSettings],
    providers: Providers | None,
    routes: Mapping[str, Route],
) -> Iterator[Problem]:
    """Yield what types cannot say; `providers` is None where they cannot be read."""
    for name, watch in watches.items():
        place: DocumentPath = ("watches", name)
        if not NAME.fullmatch(name):
            yield document.problem(place, "a watch's name has letters, digits and . _ : - only")
        if providers is not None and (why := _watched_problem(watch.target, providers, routes)):
            yield document.problem((*place, "target"), why)
        if watch.dataset is not None and watch.prompts is not None:
            yield document.problem((*place, "prompts"), "name a dataset or prompts, not both")
        if why := _similarity_problem(watch):
            yield document.problem((*place, "similarity"), why)
        yield from cron_problems(document, place, watch.cron, watch.timezone)
        if watch.live is not None and len(set(watch.live.signals)) < len(watch.live.signals):
            yield document.problem((*place, "live", "signals"), "a signal is named twice")


def small_references(watches: Mapping[str, WatchSettings]) -> list[str]:
    """Return a warning for each reference that is too small to find a change right after it."""
    warnings = []
    for name, watch in watches.items():
        periods = FEWEST_PERIODS if watch.live is None else watch.live.periods
        for setting, size, fewest in (
            ("reference_probes", watch.reference_probes, FEWEST_PROBES),
            ("live.periods", periods, FEWEST_PERIODS),
        ):
            if size < fewest:
                warnings.append(
                    f"watches.{name}.{setting}: with {size}, even a large change soon after the "
                    f"reference may never be found; {fewest} or more find it"
                )
    return warnings


def _watched_problem(target: str, providers: Providers, routes: Mapping[str, Route]) -> str:
    """Return why a name cannot be watched; "" where it can."""
    route = routes.get(target)
    if route is None:
        if "/" in target:
            return target_problem(target, providers)
        return f"{target!r} is neither a route nor provider/model.{closest(target, routes)}"
    return watched_route_problem(target, route)


def watched_route_problem(name: str, route: Route) -> str:
    """Return why a route cannot be watched; "" where all its requests go to one target."""
    if len(route.weighted) > 1:
        names = ", ".join(sorted(route.weighted))
        return f"the route {name} has several targets ({names}); watch each by its own name"
    return ""


def _similarity_problem(watch: WatchSettings) -> str:
    if watch.compares != "text":
        return ""
    try:
        metric = build(watch.similarity, param="similarity")
    except EvalrouterError as error:
        return error.message
    first = metric.outputs[0]
    if not metric.needs_reference or (first.low, first.high) != (0.0, 1.0):
        return f"{metric.name} does not compare an answer with a reference, from 0 to 1"
    if not hasattr(metric, "score"):
        return f"{metric.name} does not score one answer by itself"
    return ""
