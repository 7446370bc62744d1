"""What a change of a route would bring, before it is made.

    effect = await effect_of("summarizer", before, after, services.what_ifs, price_of)
    effect.shares                   # of each target, its share of the requests before and after
    effect.what_if.measures         # errors, cost and time, by the requests of the last hour

The shares are those by which the router itself chooses. What they would bring is estimated from
recorded requests as `evalrouter what-if` does, of which the newest are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from providers.errors import EvalrouterError
from router.config.routes import Route
from router.gateway.routing import Table
from router.loop.policies import STRATEGIES, RoutingPolicy
from router.loop.what_if import WhatIf, WhatIfRequest, WhatIfs
from router.records import Target

# Some ten thousand are read in a second.
NEWEST = 10_000


class TargetShares(NamedTuple):
    """A target's shares of the requests that it is tried first for, 0 to 1.

    Attributes:
        target: `provider/model`.
        before, after: by the two routes; None where that depends on more than the route.
        served: of the recorded requests; None where none were read.
    """

    target: str
    before: float | None
    after: float | None
    served: float | None


class RouteEffect(NamedTuple):
    """What a change would bring.

    Attributes:
        shares: of the targets, in the order of the new route.
        what_if: what is estimated from the requests of the time; None where nothing can be.
        refused: why nothing can be; "" where it is.
    """

    shares: tuple[TargetShares, ...]
    what_if: WhatIf | None
    refused: str


def first_shares(
    name: str, route: Route, price_of: Callable[[Target], float | None]
) -> Mapping[str, float] | None:
    """Return the share of the requests that each target is tried first for.

    None where the strategy chooses by more than the route: the load, times, or the prompt.
    """
    if route.strategy not in STRATEGIES:
        return None
    odds = Table({name: route}, (), price_of).plan(name, 0.0).odds
    assert odds is not None, "plans of routes have odds"
    return {str(target): share for target, share in odds.probabilities.items()}


async def effect_of(
    name: str,
    before: Route | None,
    after: Route,
    what_ifs: WhatIfs,
    price_of: Callable[[Target], float | None],
    *,
    since: str = "1h",
) -> RouteEffect:
    """Return what a route would bring in the place of another one.

    Args:
        name: of the route.
        before: as it is; None where it cannot be used.
        after: as it would be.
        what_ifs: estimate from recorded requests.
        price_of: returns the price of a target, for the strategy `cheapest`.
        since: how long ago the first of the requests came that the estimate is made from.
    """
    old = None if before is None else first_shares(name, before, price_of)
    new = first_shares(name, after, price_of)
    what_if: WhatIf | None = None
    refused = ""
    if new is None:
        refused = (
            f"{after.strategy} chooses by more than the route says, so its shares are not known in "
            "advance"
        )
    elif before is None:
        refused = "the route is not in use, so its requests do not show what a change brings"
    else:
        policy = RoutingPolicy(route=name, weights=dict(new))
        try:
            what_if = await what_ifs.estimate(
                WhatIfRequest(policy=policy, since=since), newest=NEWEST
            )
        except EvalrouterError as error:
            refused = error.message
        else:
            refused = what_if.refused
    served = {} if what_if is None else {each.target: each.served for each in what_if.targets}
    known = [target.model for route in (after, before) if route for target in route.targets]
    return RouteEffect(
        shares=tuple(
            TargetShares(
                target=target,
                before=None if old is None else old.get(target, 0.0),
                after=None if new is None else new.get(target, 0.0),
                served=served.get(target, 0.0) if what_if is not None else None,
            )
            for target in dict.fromkeys([*known, *served])
        ),
        what_if=what_if,
        refused=refused,
    )
