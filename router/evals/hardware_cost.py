"""Computes what an evaluation costs on one's own machines, which are paid by the hour.

A target with a `price_per_hour` costs that for as long as at least one request of the run was under
way at it: 80 minutes at $2.21 an hour are $2.95, however many answers came of it. Pauses between
two attempts at a run are not counted; the time in which a machine stands idle beside a run is not
known here.
"""

from __future__ import annotations

import msgspec

from router.gateway.prices import PriceBook
from router.records import Target
from router.store.usage import TargetTime, UsageStore


class HardwareCost(msgspec.Struct, frozen=True, kw_only=True):
    """What one machine took for a run or a study.

    Attributes:
        target: `provider/model`.
        price_per_hour: US dollars.
        seconds: the time in which at least one request was under way.
        cost_usd: what that time costs.
        requests: how many requests it answered.
        cost_per_request_usd: cost_usd / requests.
        tokens_per_s: tokens that it generated, over those seconds; None where none were counted.
            Those of the prompts are read many at a time and say nothing of its speed.
    """

    target: str
    price_per_hour: float
    seconds: float
    cost_usd: float
    requests: int
    cost_per_request_usd: float
    tokens_per_s: float | None


def cost(served: TargetTime, price_per_hour: float) -> HardwareCost:
    """Return what a target's hours cost."""
    dollars = served.seconds / 3600 * price_per_hour
    return HardwareCost(
        target=served.target,
        price_per_hour=price_per_hour,
        seconds=served.seconds,
        cost_usd=dollars,
        requests=served.requests,
        cost_per_request_usd=dollars / served.requests if served.requests else 0.0,
        tokens_per_s=served.tokens / served.seconds if served.tokens and served.seconds else None,
    )


async def hardware_costs(store: UsageStore, owner: str, prices: PriceBook) -> list[HardwareCost]:
    """Return the cost of each target with a price per hour, of a run or a study with its judges."""
    costs: list[HardwareCost] = []
    if not prices.has_hours:
        # Reading the times of a million answers is not free.
        return costs
    for served in await store.served(owner):
        price = prices.per_hour(Target.parse(served.target))
        if price is not None:
            costs.append(cost(served, price))
    return costs
