"""Computes what a call costs. An unknown price is None, never 0.

Where a price comes from, first found:
1. the config's `prices:`, by `provider/model`, as the user named the provider;
2. `prices.json` beside this file: list prices by provider kind and model, with their date and
   sources. They hold for a kind's own host only: with another `base_url`, another host is paid;
3. providers in this process (baselines, scripted answers) are free.

Own hardware (llamafile, ollama, vllm, Ray Serve) has no price per token unless the config says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import msgspec

from evaluators.base import Usage
from providers.base import ProviderConfig
from router.config.prices import Price, Rate
from router.config.routes import Route
from router.records import Target

FILE = Path(__file__).with_name("prices.json")

# These answer in this process; a call to them costs nothing.
_FREE_KINDS = frozenset({"baseline", "scripted"})

# `gpt-4o-mini-2024-07-18` costs as much as `gpt-4o-mini`, unless it has a row of its own. Shorter
# suffixes (`-2411`, `-0613`) stand for versions whose prices differ.
_DATED = re.compile(r"(.+)-\d{4}-?\d\d-?\d\d")

# Clients choose model names, so the number of prices that are remembered is bounded.
_REMEMBERED = 10_000


class ListPrices(msgspec.Struct, frozen=True, kw_only=True):
    """The built-in price book, as `prices.json` has it.

    Attributes:
        as_of: the day the prices were read.
        currency, unit: the currency of the numbers, and the tokens that they are for.
        sources: the page that lists the prices of each kind.
        read_from: how they were read.
        prices: the price of each `kind/model`.
    """

    as_of: str
    currency: str
    unit: str
    sources: dict[str, str]
    read_from: str
    prices: dict[str, Price]


@cache
def list_prices() -> ListPrices:
    """Return the built-in price book, which is read once."""
    return msgspec.json.decode(FILE.read_bytes(), type=ListPrices)


class PriceBook:
    """Prices by target.

    Args:
        prices: the config's price of each `provider/model`.
        providers: the configured providers.
    """

    def __init__(
        self,
        prices: Mapping[str, Price],
        providers: Mapping[str, ProviderConfig],
    ) -> None:
        self._hourly: dict[str, float] = {}
        self._machines = {name: config.price_per_hour for name, config in providers.items()}
        self._prices = dict(prices)
        self._free = frozenset(
            name for name, config in providers.items() if config.kind in _FREE_KINDS
        )
        # Azure's deployments are named by whoever makes them, so kinds without rows stay unknown.
        self._kinds = {
            name: config.kind for name, config in providers.items() if _is_kinds_host(config)
        }
        self._known: dict[Target, Price | None] = {}

    def follow_routes(self, routes: Mapping[str, Route]) -> None:
        """Take over the prices per hour of targets, from the routes as they stand."""
        self._hourly = {
            target.model: target.price_per_hour
            for route in routes.values()
            for target in route.targets
            if target.price_per_hour is not None
        }

    def listed(self) -> Iterator[tuple[str, str | None, Price]]:
        """Yield the prices that have a name: `provider/model`, the provider's kind, the price.

        Those of the config come first, with None for the kind.
        """
        for target, price in self._prices.items():
            yield target, None, price
        for listed, price in list_prices().prices.items():
            kind, _, model = listed.partition("/")
            for name, provider_kind in self._kinds.items():
                if provider_kind == kind and f"{name}/{model}" not in self._prices:
                    yield f"{name}/{model}", kind, price

    def is_free(self, target: Target) -> bool:
        """Return whether the target's provider charges nothing, whatever it counts."""
        return target.provider in self._free

    def price(self, target: Target) -> Price | None:
        """Return the target's price; None when it is unknown."""
        try:
            return self._known[target]
        except KeyError:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            price = self._known[target] = self._read(target)
            return price

    def _read(self, target: Target) -> Price | None:
        price = self._prices.get(str(target))
        if price is not None:
            return price
        kind = self._kinds.get(target.provider)
        if kind is None:
            return None
        known = list_prices().prices
        price = known.get(f"{kind}/{target.model}")
        dated = _DATED.fullmatch(target.model) if price is None else None
        return known.get(f"{kind}/{dated[1]}") if dated else price

    def cost(
        self, target: Target, usage: Usage, *, cached: int = 0, written: int = 0
    ) -> float | None:
        """Return the US dollars for one call; None when the price or the tokens are unknown.

        Args:
            target: the provider and model that answered.
            usage: the tokens as it counted them.
            cached: the tokens of the prompt that its own cache had, where it says so.
            written: the tokens that it put into its cache, where it says so.
        """
        price = self.price(target)
        if price is None:
            return 0.0 if target.provider in self._free else None
        prompt = usage.prompt_tokens
        # An embedding has no completion, and hosts leave the count out.
        completion = usage.completion_tokens if usage.completion_tokens or price.output else 0
        if prompt is None or completion is None:
            return None
        rate = _rate(price, prompt)
        dollars = prompt * rate.input + completion * rate.output
        if cached and rate.cached_input is not None:
            dollars -= min(cached, prompt) * (rate.input - rate.cached_input)
        if written and rate.cache_write is not None:
            dollars += min(written, prompt) * (rate.cache_write - rate.input)
        return dollars / 1_000_000

    def known(self, targets: Iterable[Target]) -> tuple[Price, ...]:
        """Return the prices of those targets that have one, without repeats."""
        prices = (self.price(target) for target in targets)
        return tuple({price: None for price in prices if price is not None})

    @property
    def has_hours(self) -> bool:
        """Whether any machine has a price per hour."""
        return bool(self._hourly) or any(self._machines.values())

    def per_hour(self, target: Target) -> float | None:
        """Return the dollars that the target's machine costs an hour; None without such a price."""
        return self._hourly.get(str(target), self._machines.get(target.provider))

    def per_million(self, target: Target) -> float | None:
        """Return the dollars for a million tokens each way, to order targets by."""
        price = self.price(target)
        if price is None:
            return 0.0 if self.is_free(target) else None
        return price.input + price.output


def highest_cost(prices: Iterable[Price], prompt: int, completion: int) -> float:
    """Return the US dollars for a call at the dearest of some prices; 0 without prices."""
    dearest = 0.0
    for price in prices:
        rate = _rate(price, prompt)
        dearest = max(dearest, prompt * rate.input + completion * rate.output)
    return dearest / 1_000_000


def _rate(price: Price, prompt: int) -> Rate:
    long = price.long
    return price if long is None or prompt <= long.above else long


def _is_kinds_host(config: ProviderConfig) -> bool:
    default = {field.name: field.default for field in msgspec.structs.fields(config)}
    return bool(getattr(config, "base_url", "") == default.get("base_url", ""))
