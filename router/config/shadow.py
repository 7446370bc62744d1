"""`shadow:` of a route: which candidates get copies of its requests, and how they are compared."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Protocol

import msgspec

from evaluators.metrics.registry import MetricSpec, build, routes_of
from providers.base import Positive
from providers.errors import EvalrouterError, closest
from router.config.documents import Document, DocumentPath, Problem
from router.config.section import Count, KeyNames, Section

NO_REFERENCES = "compares with a reference, which live requests do not have"

_MAX_PARTS = 16
_Few = msgspec.Meta(max_length=_MAX_PARTS)


class ShadowLimits(Section, frozen=True, kw_only=True):
    """What a shadow may use. What is over a limit is counted, and never sent.

    Attributes:
        usd_per_day: US dollars that candidates, judges and embeddings may cost a day (UTC). What is
            in flight when it is reached is finished. Requests of an unknown price cost nothing.
        rps: live requests a second, on average, that are sent to the candidates.
        concurrency: requests in flight at a time, over all candidates; judges get as many.
        waiting: live requests that may wait to be sent.
    """

    usd_per_day: Positive = 1.0
    rps: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.0
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    waiting: Count = 1000


class Shadow(Section, frozen=True, kw_only=True):
    """Candidates that answer copies of a route's requests, after the client has its answer.

    Attributes:
        targets: the candidates, as `provider/model`.
        sample: share of the route's requests, drawn by their records' ids.
        limits: see ShadowLimits.
        metrics: as in a run document; `cost` and `latency` are always among them.
        judge: who decides in both orders which answer is better: a route or `provider/model`, or
            the options of the metric `pairwise`. None for no judge.
        exclude_keys: names of keys whose requests are never sent.
    """

    targets: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=_MAX_PARTS)]
    sample: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.01
    limits: ShadowLimits = ShadowLimits()
    metrics: Annotated[tuple[str | dict[str, Any], ...], _Few] = ()
    judge: str | dict[str, Any] | None = None
    exclude_keys: KeyNames = ()

    def all_metrics(self) -> tuple[str | dict[str, Any], ...]:
        """Return the metrics of the shadow's run, the judge's first."""
        judged: tuple[dict[str, Any], ...] = ()
        if self.judge is not None:
            options = {"judge": self.judge} if isinstance(self.judge, str) else self.judge
            judged = ({**options, "name": "pairwise"},)
        named = {spec if isinstance(spec, str) else spec.get("name") for spec in self.metrics}
        always = tuple(name for name in ("cost", "latency") if name not in named)
        return (*judged, *self.metrics, *always)


class ShadowedRoute(Protocol):
    """What a check of a shadow reads of its route, and of the routes of its judges."""

    @property
    def models(self) -> Iterable[str]:
        """The `provider/model` that may answer the route's requests."""
        ...

    @property
    def share_bodies_with(self) -> tuple[str, ...]:
        """The providers that may see what the route's users write."""
        ...

    @property
    def shadow(self) -> Shadow | None:
        """The shadow; None for none."""
        ...


def shadow_problems(
    document: Document,
    place: DocumentPath,
    route: ShadowedRoute,
    routes: Mapping[str, ShadowedRoute] | None,
) -> Iterator[Problem]:
    """Yield why a route's shadow cannot be, and which provider may not see its users' texts.

    Args:
        document: has the route.
        place: of the route.
        route: the route.
        routes: all routes, which a judge may be. None for a route that is set at run time, of
            which no file may be opened yet: metrics and judges are then left to whoever may
            (`router.loop.shadow.Shadows.check`).
    """
    shadow = route.shadow
    if shadow is None:
        return
    at = (*place, "shadow")
    for n, target in enumerate(shadow.targets):
        if target in shadow.targets[:n]:
            yield document.problem((*at, "targets", n), f"{target} is named twice")
    if routes is not None:
        yield from _metric_problems(document, at, shadow, routes)
    for message in unshared(route, routes):
        yield document.problem((*place, "share_bodies_with"), message)


def _metric_problems(
    document: Document,
    at: DocumentPath,
    shadow: Shadow,
    routes: Mapping[str, ShadowedRoute],
) -> Iterator[Problem]:
    for n, spec in enumerate(shadow.all_metrics()):
        is_judge = n == 0 and shadow.judge is not None
        yield from metric_problems(
            document, (*at, "judge" if is_judge else "metrics"), spec, routes
        )


def metric_problems(
    document: Document,
    at: DocumentPath,
    spec: MetricSpec,
    routes: Mapping[str, ShadowedRoute],
) -> Iterator[Problem]:
    """Yield why live answers cannot be scored by a metric, which is at a place of a document."""
    try:
        metric = build(spec, param=str(at[-1]))
    except EvalrouterError as error:
        yield document.problem(at, error.message)
        return
    if metric.needs_reference:
        yield document.problem(at, f"{metric.name} {NO_REFERENCES}")
    for name in routes_of(metric):
        if "/" not in name and name not in routes:
            yield document.problem(at, f"{name!r} is neither a route nor provider/model")


def unshared(route: ShadowedRoute, routes: Mapping[str, ShadowedRoute] | None) -> Iterator[str]:
    """Yield a message for each provider that would see the users' texts and is not named for it.

    Args:
        route: has a shadow that has no other problem.
        routes: all routes; None for leaving out the judges.
    """
    shadow = route.shadow
    assert shadow is not None, "else nothing is shared"
    yield from not_named(_models(shadow, routes), route.share_bodies_with, "shadow")


def sharing_problems(
    document: Document, place: DocumentPath, named: Sequence[str], providers: Collection[str]
) -> Iterator[Problem]:
    """Yield the providers of a `share_bodies_with` that do not exist."""
    for n, provider in enumerate(named):
        if provider not in providers:
            yield document.problem(
                (*place, n), f"no provider {provider!r}.{closest(provider, providers)}"
            )


def not_named(models: Iterable[str], named: Collection[str], sender: str) -> Iterator[str]:
    """Yield a message for each provider that would see users' texts and is not named for it.

    Args:
        models: that texts are sent to, as `provider/model`.
        named: the route's `share_bodies_with`.
        sender: what sends them, for the messages.
    """
    by_provider: dict[str, str] = {}
    for model in models:
        by_provider.setdefault(model.partition("/")[0], model)
    for provider, model in by_provider.items():
        if provider not in named:
            yield (
                f"the {sender} would send what this route's users write to {model}; name "
                f"{provider} here if its provider may see it"
            )


def _models(shadow: Shadow, routes: Mapping[str, ShadowedRoute] | None) -> Iterator[str]:
    """Yield every model that the shadow sends texts to."""
    yield from shadow.targets
    if routes is None:
        return
    for spec in shadow.all_metrics():
        yield from models_of(spec, routes)


def models_of(spec: MetricSpec, routes: Mapping[str, ShadowedRoute]) -> Iterator[str]:
    """Yield the `provider/model` that a metric may send texts to; none of one that is no metric."""
    try:
        requested = routes_of(build(spec))
    except EvalrouterError:
        return  # a problem of its own
    yield from answering(requested, routes)


def answering(names: Iterable[str], routes: Mapping[str, ShadowedRoute]) -> Iterator[str]:
    """Yield the `provider/model` that may answer requests to routes, or to models directly."""
    for name in names:
        if name in routes:
            yield from routes[name].models
        elif "/" in name:
            yield name
