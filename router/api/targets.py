"""`/targets`: every target of the routes, its health in this process, and its price."""

from __future__ import annotations

import asyncio

import msgspec
from litestar import get

from router.api.injection import Injected
from router.config.prices import Price
from router.gateway.targets import BreakerState
from router.records import Target
from router.services import Services


class TargetRow(msgspec.Struct, frozen=True, kw_only=True):
    """A target of at least one route.

    Attributes:
        target: `provider/model`.
        routes: the routes that have it.
        fallback_of: the routes that try it after their own targets.
        breaker: the state of its breaker: requests go to an `open` one no more; None before the
            first request.
        running, waiting: requests in flight, and in its queue.
        first_byte_s: smoothed seconds to the first byte; None before the first answer.
        price: US dollars per million tokens; None where it is unknown, or the target is free.
        is_free: whether its provider charges nothing.
        per_hour: the US dollars that its machine costs an hour; None without such a price.
    """

    target: str
    routes: tuple[str, ...]
    fallback_of: tuple[str, ...]
    breaker: BreakerState | None
    running: int
    waiting: int
    first_byte_s: float | None
    price: Price | None
    is_free: bool
    per_hour: float | None


class TargetList(msgspec.Struct):
    """The targets of all routes, by name."""

    data: list[TargetRow]
    object: str = "list"


@get("/targets", tags=["routes"], summary="List targets with their health and prices")
async def list_targets(services: Injected) -> TargetList:
    """List every target that a route names, as this process sees it now.

    Breakers, requests in flight and times are those of the process that answers.
    """
    return TargetList(_rows(services))


def _rows(services: Services) -> list[TargetRow]:
    now = asyncio.get_running_loop().time()
    states = {str(state.target): state for state in services.dispatcher.states()}
    routes: dict[str, list[str]] = {}
    fallbacks: dict[str, list[str]] = {}
    for view in services.routes.view():
        if view.route is None:
            continue
        for name in dict.fromkeys(target.model for target in view.route.targets):
            routes.setdefault(name, []).append(view.name)
        for name in dict.fromkeys(view.route.fallback):
            fallbacks.setdefault(name, []).append(view.name)
    rows = []
    for name in sorted({*routes, *fallbacks}):
        state, target = states.get(name), Target.parse(name)
        rows.append(
            TargetRow(
                target=name,
                routes=tuple(routes.get(name, ())),
                fallback_of=tuple(fallbacks.get(name, ())),
                breaker=None if state is None else state.state(now),
                running=0 if state is None else state.running,
                waiting=0 if state is None else state.waiting,
                first_byte_s=None if state is None else state.load.latency,
                price=services.prices.price(target),
                is_free=services.prices.is_free(target),
                per_hour=services.prices.per_hour(target),
            )
        )
    return rows
