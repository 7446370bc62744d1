"""Estimates what a request may take, so that a key's limits reserve it before it is sent."""

from __future__ import annotations

from router.api.request_context import RequestContext
from router.api.request_parsing import answer_limit, whole_number
from router.config.prices import Price
from router.gateway import tokens
from router.gateway.key_holder import Holder
from router.gateway.keys import NOTHING, ExpectedUsage
from router.gateway.prices import PriceBook, highest_cost
from router.gateway.routing import Table
from router.records import Target

# Bytes of a body up to which its tokens are not worth a closer look before it is let through.
MAX_COUNTED_BYTES = 64 * 1024
# Models whose prices are remembered; clients make names up.
MAX_PRICED = 1000


class Reservations:
    """Estimates tokens and cost of requests before they are sent."""

    def __init__(self, prices: PriceBook) -> None:
        self._prices = prices
        # The prices of models, as the routes of this table have them.
        self._table: Table | None = None
        self._by_model: dict[str, tuple[Price, ...]] = {}

    def expected(self, context: RequestContext, table: Table, holder: Holder) -> ExpectedUsage:
        """Return what the request may take, at the dearest of its route's targets."""
        if context.dialect.is_free:
            return NOTHING
        body, envelope = context.body, context.envelope
        # Only a large body may have pictures in it that a count of bytes would take for words.
        large = len(body) > MAX_COUNTED_BYTES
        prompt = tokens.of_request(body) if large else len(body) // tokens.BYTES_PER_TOKEN
        completion = 0
        if context.dialect.generates:
            choices = (whole_number(envelope, "n") or 1) if "n" in envelope else 1
            completion = choices * (answer_limit(envelope) or round(holder.usual_completion))
        if holder.row.budget_usd is None:
            return ExpectedUsage(prompt, completion)
        prices = self._prices_of(context.model, table)
        return ExpectedUsage(prompt, completion, highest_cost(prices, prompt, completion))

    def _prices_of(self, model: str, table: Table) -> tuple[Price, ...]:
        """Return the prices of all targets that may answer; remembered, as few models are."""
        if table is not self._table or len(self._by_model) >= MAX_PRICED:
            self._table, self._by_model = table, {}
        prices = self._by_model.get(model)
        if prices is None:
            route = table.routes.get(model)
            models = [model] if route is None else [entry.model for entry in route.targets]
            models += () if route is None else route.fallback
            targets = [Target.parse(name) for name in models if "/" in name]
            prices = self._by_model[model] = self._prices.known(targets)
        return prices
