"""`routes:` of the config: the models that clients name, and the targets behind them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Annotated, Any, Literal

import msgspec

from providers.base import NotNegative, Positive, Timeout
from providers.errors import ConfigError, RequestError, closest
from providers.names import check_name
from providers.yaml_documents import kind_of
from router.config.documents import MAX_PROBLEMS, Document, DocumentPath, Problem, refusal
from router.config.learned import LearnedRoute, PlainStrategy, learned_problems
from router.config.providers import KEY_VARIABLES, Providers, reasoning_problems
from router.config.rollouts import (
    JUDGE_SENDER,
    STICKY,
    RouteRollout,
    settings_problems,
)
from router.config.section import (
    IN_PLACE,
    MAX_NAMES,
    NAME,
    Count,
    Names,
    Section,
    SectionReader,
)
from router.config.shadow import (
    Shadow,
    answering,
    metric_problems,
    models_of,
    not_named,
    shadow_problems,
    sharing_problems,
)


class Supports(Section, frozen=True, kw_only=True):
    """What a target can do. A request that needs more is not sent to it.

    Attributes:
        vision, tools, json_schema: whether it takes images, tools, a JSON schema to answer in.
        context: tokens of prompt and answer together; None when it need not be watched. The
            prompt is estimated at four bytes of JSON per token.
    """

    vision: bool = True
    tools: bool = True
    json_schema: bool = True
    context: Count | None = None


class RouteTarget(Section, frozen=True, kw_only=True):
    """A model of a provider, as a route names it.

    Attributes:
        model: `provider/model`.
        weight: share of the route's requests, relative to the other targets'. 0 takes it out.
        max_concurrency: requests in flight at a time, per process; None for no limit.
        max_queue: requests that may wait for room; more are sent elsewhere or answered with 429.
        supports: see Supports.
        price_per_hour: US dollars that its machine costs an hour, instead of the provider's.
        reasoning: whether the model refuses what OpenAI's reasoning models refuse (`max_tokens`,
            sampling parameters), for a deployment whose name does not show it. None for what the
            provider's `reasoning` says, or else the name.
    """

    model: str
    weight: NotNegative = 1.0
    max_concurrency: Count | None = None
    max_queue: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 100
    supports: Supports = Supports()
    price_per_hour: Positive | None = None
    reasoning: bool | None = None


class Retries(Section, frozen=True, kw_only=True):
    """How often a request is sent to one target before it goes to the next one.

    Attributes:
        attempts: requests per target, the first included.
        backoff: seconds before the second attempt at most (full jitter); doubles each time.
        backoff_max: seconds that a wait is never longer than, `Retry-After` included.
        budget: retries a target may get per request it gets, on average; above it, failures go on
            to the next target at once, so that retries cannot multiply an overload.
    """

    attempts: Annotated[int, msgspec.Meta(ge=1, le=10)] = 3
    backoff: Positive = 0.5
    backoff_max: Positive = 8.0
    budget: NotNegative = 0.2


class Breaker(Section, frozen=True, kw_only=True):
    """When a target that keeps failing gets no more requests.

    Attributes:
        failures: the number of failures in a row that opens the breaker. A client's own mistakes
            (4xx) do not count.
        open: seconds until one request is let through to see whether the target is back.
    """

    failures: Count = 5
    open: Positive = 15.0


class Hedge(Section, frozen=True, kw_only=True):
    """A second attempt when the first one is unusually slow; the first to answer wins.

    Attributes:
        after: seconds without a byte; None means the 95th percentile of the target's own times.
        budget: share of requests that may be hedged.
    """

    after: Positive | None = None
    budget: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.05


KeepBodies = Literal["none", "metadata", "full"]
# How a target may refuse a request that another one can still answer: an error's code, as any host
# writes it, or a status.
FallbackOn = (
    Literal["context_length_exceeded", "content_filter"]
    | Annotated[int, msgspec.Meta(ge=400, le=499)]
)
Strategy = PlainStrategy | Literal["learned"]


class RouteCache(Section, frozen=True, kw_only=True):
    """Whether a route's answers are stored, to answer the same request of the same caller again.

    Attributes:
        ttl: seconds that an answer is good for.
    """

    ttl: Positive = 3600.0


class Route(Section, frozen=True, kw_only=True):
    """A model name that clients use, and the targets that answer its requests.

    Attributes:
        targets: one is chosen by the strategy; the others follow when it fails.
        strategy: `weighted` draws by weight; `round_robin` takes turns; `least_busy` takes the
            one with the fewest requests in flight; `lowest_latency` the quicker to a first byte
            of two drawn at random; `cheapest` the one with the lowest known price; `learned` the
            one that `learned` predicts to be the cheapest that is good enough for the prompt.
        sticky: what keeps a client on one target of a weighted route: `user` (the request's
            field), `conversation` (its first message that is not a system message) or
            `header:NAME`. None draws afresh each time.
        explore: the share of requests for which the route tries one of its targets with equal
            chances, whatever the strategy would choose; of a sticky route, the share of clients. So
            `what-if` can tell what another policy would do, also with strategies that leave nothing
            to chance. 0 never does.
        fallback: `provider/model` names to try, in order, when all targets failed.
        fallback_on: refusals of a request after which the next target is tried as well:
            `context_length_exceeded`, `content_filter` (the codes of errors, as hosts send them) or
            a status from 400 to 499, such as 422. Without it, only failures that are the target's
            own, and statuses 401, 402, 403, 404, 407, 408, 409 and 429, go on to the next target.
        retries, timeout, breaker: see their classes.
        hedge: see Hedge; None for no second attempts.
        record: what is stored of each request: `none`, `metadata` (whose key, the client's
            identifier of its user, when, which target, how long, how many tokens, at what cost), or
            `full` (its body and the answer's as well, secrets removed). None for the config's
            own `record`.
        record_sample: share of the requests whose bodies `full` stores; of the others, it stores
            metadata.
        traffic_days: how many days its requests stay on record; 0 for ever. None for the storage's
            own `traffic_days`.
        cache: see RouteCache; None for no cache unless a request asks for it.
        share_bodies_with: names of providers that may see what the route's users write although
            they do not answer them: those of a shadow's candidates, of judges of a shadow, a
            rollout or the review queue, and of a learned route's embeddings.
        shadow: see Shadow; None for no shadow.
        rollout: see RouteRollout; None for the defaults.
        learned: see LearnedRoute; for the strategy `learned`, and only for that.
    """

    targets: Annotated[tuple[RouteTarget, ...], msgspec.Meta(min_length=1, max_length=MAX_NAMES)]
    strategy: Strategy = "weighted"
    sticky: Annotated[str, msgspec.Meta(pattern=STICKY)] | None = None
    explore: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    fallback: Names = ()
    fallback_on: Annotated[tuple[FallbackOn, ...], msgspec.Meta(max_length=MAX_NAMES)] = ()
    retries: Retries = Retries()
    timeout: Timeout = Timeout()
    breaker: Breaker = Breaker()
    hedge: Hedge | None = None
    record: KeepBodies | None = None
    record_sample: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    traffic_days: NotNegative | None = None
    cache: RouteCache | None = None
    share_bodies_with: Names = ()
    shadow: Shadow | None = None
    rollout: RouteRollout | None = None
    learned: LearnedRoute | None = None

    @property
    def plain_strategy(self) -> PlainStrategy:
        """The strategy that chooses a target where nothing is predicted."""
        if self.strategy != "learned":
            return self.strategy
        return "weighted" if self.learned is None else self.learned.otherwise

    @property
    def named(self) -> Iterator[str]:
        """Yield the `provider/model` that may get the route's requests, a shadow's among them."""
        yield from self.models
        if self.shadow is not None:
            yield from self.shadow.targets
        if self.rollout is not None and self.rollout.candidate is not None:
            yield self.rollout.candidate

    @property
    def weighted(self) -> tuple[str, ...]:
        """The `provider/model` of the targets that have a weight, each once."""
        return tuple(dict.fromkeys(target.model for target in self.targets if target.weight))

    @property
    def models(self) -> tuple[str, ...]:
        """The `provider/model` that may answer the route's requests."""
        return (*(target.model for target in self.targets if target.weight), *self.fallback)


def parse_route(name: str, data: Any, providers: Providers) -> Route:
    """Return a route given while the server runs, checked as one of the config file is.

    Raises:
        ConfigError: naming what is wrong, each with its path within the route and the remedy.
    """
    check_name(name, "name", ConfigError)
    if not isinstance(data, dict):
        keys = ", ".join(field.name for field in msgspec.structs.fields(Route))
        raise ConfigError(f"a route must be an object (got {kind_of(data)}) with {keys}")
    reader = SectionReader(Document.of({"routes": {name: data}}), [])
    route = reader.convert(("routes", name), Route)
    if route is not None:
        reader.add(islice(route_problems(reader, name, route, providers), MAX_PROBLEMS))
    if reader.problems:
        raise refusal(reader.problems, ConfigError)
    assert route is not None, "a route without problems was read"
    return route


def route_problems(
    reader: SectionReader,
    name: str,
    route: Route,
    providers: Providers,
    routes: Mapping[str, Route] | None = None,
) -> Iterator[Problem]:
    """Yield what types cannot say: names that must exist, settings that must agree.

    `routes` are all of them, where they are known.
    """
    document = reader.document
    place: DocumentPath = ("routes", name)
    if not NAME.fullmatch(name):
        yield document.problem(place, "a route's name has letters, digits and . _ : - only")
    for n, target in enumerate(route.targets):
        at = (*place, "targets", n)
        yield from _target_problems(document, providers, (*at, "model"), target.model)
        provider = target.model.partition("/")[0]
        config = providers.get(provider)
        if target.reasoning is not None and config is not None:
            yield from reasoning_problems(document, at, provider, config)
    for n, model in enumerate(route.fallback):
        yield from _target_problems(document, providers, (*place, "fallback", n), model)
    yield from _learned_problems(reader, place, route, providers, routes)
    if route.rollout is not None:
        at = (*place, "rollout")
        yield from _rollout_problems(document, providers, at, route.rollout)
        yield from _judge_problems(document, place, route, routes)
    if not reader.is_wrong((*place, "targets")):
        yield from _contradictions(document, place, route)
        if not any(target.weight for target in route.targets):
            yield document.problem((*place, "targets"), "every weight is 0")
    at = (*place, "share_bodies_with")
    yield from sharing_problems(document, at, route.share_bodies_with, providers)
    if route.shadow is not None:
        for n, model in enumerate(route.shadow.targets):
            at = (*place, "shadow", "targets", n)
            yield from _target_problems(document, providers, at, model)
            if model in route.weighted:
                yield document.problem(
                    at,
                    f"{model} answers this route's requests already, so that it would be compared "
                    "with itself",
                )
        yield from shadow_problems(document, place, route, routes)


def _learned_problems(
    reader: SectionReader,
    place: DocumentPath,
    route: Route,
    providers: Providers,
    routes: Mapping[str, Route] | None,
) -> Iterator[Problem]:
    document, learned = reader.document, route.learned
    if reader.is_wrong((*place, "learned")) or reader.is_wrong((*place, "strategy")):
        return
    if learned is None:
        if route.strategy == "learned":
            at = (*place, "strategy")
            yield document.problem(at, "learned needs the settings `learned` of the route")
        return
    if route.strategy != "learned":
        yield document.problem((*place, "learned"), "is for the strategy learned")
    if not reader.is_wrong((*place, "targets")):
        for key, message in learned_problems(learned, route.weighted):
            yield document.problem((*place, "learned", *key), message)
    at = (*place, "learned", "embeddings")
    if "/" in learned.embeddings:
        yield from _target_problems(document, providers, at, learned.embeddings)
    elif routes is not None and learned.embeddings not in routes:
        remedy = closest(learned.embeddings, routes)
        yield document.problem(at, f"no route {learned.embeddings!r}.{remedy}")
        return
    elif learned.embeddings == place[-1]:
        yield document.problem(at, "a route cannot embed its own prompts")
        return
    for message in unshared_embeddings(route, routes or {}, providers):
        yield document.problem((*place, "share_bodies_with"), message)


def unshared_embeddings(
    route: Route, routes: Mapping[str, Route], providers: Providers
) -> Iterator[str]:
    """Yield a message for each provider that would embed users' texts and may not see them.

    Those that answer the route's requests may, and so may a model that runs on this machine.

    Args:
        route: a learned route.
        routes: all of them; those that are not known are not looked at.
        providers: the configured ones.
    """
    if route.learned is None:
        return
    trusted = {model.partition("/")[0] for model in route.models}
    trusted |= {
        name
        for name, config in providers.items()
        if config is not None and config.kind == "sentence_transformers"
    }
    models = answering([route.learned.embeddings], routes)
    yield from not_named(models, {*route.share_bodies_with, *trusted}, "learned route")


def _rollout_problems(
    document: Document, providers: Providers, place: DocumentPath, rollout: RouteRollout
) -> Iterator[Problem]:
    for key, message in settings_problems(rollout):
        yield document.problem((*place, *key), message)
    if rollout.candidate is not None:
        at = (*place, "candidate")
        yield from _target_problems(document, providers, at, rollout.candidate)


def _judge_problems(
    document: Document, place: DocumentPath, route: Route, routes: Mapping[str, Route] | None
) -> Iterator[Problem]:
    judge = None if route.rollout is None else route.rollout.judge
    if judge is None or routes is None:
        # Whoever starts the rollout looks at it, where no file may be opened yet.
        return
    at = (*place, "rollout", "judge", "metric")
    yield from metric_problems(document, at, judge.metric, routes)
    models = models_of(judge.metric, routes)
    for message in not_named(models, route.share_bodies_with, JUDGE_SENDER):
        yield document.problem((*place, "share_bodies_with"), message)


def _contradictions(document: Document, place: DocumentPath, route: Route) -> Iterator[Problem]:
    """Refuse two targets of a route that are one model and say different things of it."""
    settings: dict[str, bool | None] = {}
    for n, target in enumerate(route.targets):
        if settings.setdefault(target.model, target.reasoning) is not target.reasoning:
            yield document.problem(
                (*place, "targets", n),
                f"{target.model} is a target of this route twice, with different `reasoning`; "
                "write the same in both, or make two routes",
            )


def _target_problems(
    document: Document, providers: Providers, place: DocumentPath, model: str
) -> Iterator[Problem]:
    if problem := target_problem(model, providers):
        yield document.problem(place, problem)


def target_problem(model: str, providers: Providers) -> str:
    """Return why a model cannot be a target of routes, by the config; "" where it can."""
    try:
        check_name(model, "the name")
    except RequestError as error:
        return error.message
    provider, slash, rest = model.partition("/")
    if not slash or not rest:
        return f"{model!r} is not of the form provider/model"
    if provider == IN_PLACE:
        return (
            f"{model} is loaded within runs only; host it with 'evalrouter models serve', and name "
            "the provider that asks its host"
        )
    if provider in providers:
        config = providers[provider]
        models = None if config is None else config.all_models
        if models is None or rest in models:
            return ""
        return f"{provider} has no model {rest!r}.{closest(rest, models)}"
    remedy = closest(provider, providers)
    if provider in KEY_VARIABLES:
        remedy = f" Set {KEY_VARIABLES[provider]}, or name it under providers."
    return f"no provider {provider!r}.{remedy}"
