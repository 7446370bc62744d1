"""Holds a client's key: its limits, its budget and what requests in flight have reserved."""

from __future__ import annotations

from typing import NamedTuple

from providers.errors import PermissionDeniedError, RateLimitError
from router.gateway.limits import Bucket, in_words, period_around
from router.store.keys import KeyRow, KeySpend

# Tokens of an answer whose request sets no limit, until the key's own answers say better.
USUAL_COMPLETION = 1000
# More than anything costs, and sums of them are still exact enough and finite.
MAX_USD = 1e12
MAX_TOKENS = 2**53

RequestHeaders = list[tuple[bytes, bytes]]


class UnwrittenSpend:
    """What a key spent in a budget period and the store does not have yet."""

    __slots__ = ("estimated", "requests", "tokens", "unpriced", "usd")

    def __init__(self) -> None:
        self.usd = 0.0
        self.tokens = 0
        self.requests = 0
        self.unpriced = 0
        self.estimated = 0

    def add(self, other: UnwrittenSpend) -> None:
        """Count what was spent in the same period as well."""
        self.usd += other.usd
        self.tokens += other.tokens
        self.requests += other.requests
        self.unpriced += other.unpriced
        self.estimated += other.estimated

    def row(self, key_id: str, since: float) -> KeySpend:
        """Return the row to add in the store, within what it can take."""
        return KeySpend(
            key_id=key_id,
            since=since,
            usd=min(self.usd, MAX_USD),
            tokens=min(self.tokens, MAX_TOKENS),
            requests=self.requests,
            unpriced=self.unpriced,
            estimated=self.estimated,
        )


# Key id and beginning of the period.
UnwrittenSpends = dict[tuple[str, float], UnwrittenSpend]


class Holder:
    """A key, what is left of its limits, and what is reserved. It outlives changes of its row.

    Attributes:
        row: the key, as the store has it.
        requests, tokens: what is left of its limits per minute; None without a limit.
        in_flight: requests that were admitted and are not settled.
        reserved_tokens, reserved_usd: what those may take.
        usual_completion: tokens that an answer without a limit of its own is expected to have.
        stored: what the store says was spent in the latest period.
        since, until: the period of the budget that was current last.
        spent_usd: US dollars that all processes spent in that period.
        used_at: when a use of the key was last noted; 0 before.
    """

    __slots__ = (
        "in_flight",
        "requests",
        "reserved_tokens",
        "reserved_usd",
        "row",
        "since",
        "spent_usd",
        "stored",
        "tokens",
        "until",
        "used_at",
        "usual_completion",
    )

    def __init__(self, row: KeyRow, now: float) -> None:
        self.row = row
        self.requests = Bucket(row.rpm, now) if row.rpm else None
        self.tokens = Bucket(row.tpm, now) if row.tpm else None
        self.in_flight = 0
        self.reserved_tokens = 0
        self.reserved_usd = 0.0
        self.usual_completion = float(USUAL_COMPLETION)
        self.stored: KeySpend | None = None
        self.used_at = 0.0
        self.enter_period(now)

    def change(self, row: KeyRow, now: float) -> None:
        """Take over the key as it has become; what is used of its limits stays used."""
        before, self.row = self.row, row
        if row.rpm != before.rpm:
            self.requests = _bucket(self.requests, row.rpm, now)
        if row.tpm != before.tpm:
            self.tokens = _bucket(self.tokens, row.tpm, now)
        if row.budget_period != before.budget_period:
            self.enter_period(now)

    @property
    def is_metered(self) -> bool:
        """Whether what a request may take has to be reserved."""
        return self.tokens is not None or self.row.budget_usd is not None

    def enter_period(self, now: float) -> None:
        """Begin a new period of the budget."""
        self.since, self.until = period_around(self.row.budget_period, now)
        self.spent_usd = self._stored_usd()

    def _stored_usd(self) -> float:
        stored = self.stored
        return stored.usd if stored is not None and stored.since == self.since else 0.0

    def learn(self, stored: KeySpend | None, unwritten: UnwrittenSpends) -> None:
        """Set what all processes spent: the sum in the store, and what is not written down yet."""
        self.stored = stored
        spend = unwritten.get((self.row.id, self.since))
        self.spent_usd = self._stored_usd() + (spend.usd if spend else 0.0)

    def check(self, route: str, now: float) -> None:
        """Raise unless a request for the route may go ahead now."""
        row = self.row
        if row.routes is not None and route not in row.routes:
            raise PermissionDeniedError(
                f"This key may not use {route!r}.", param="model", code="model_not_allowed"
            )
        if row.budget_usd is not None:
            if not self.since <= now < self.until:
                self.enter_period(now)
            if self.spent_usd >= row.budget_usd:
                total = row.budget_period == "total"
                per = "" if total else f" per {row.budget_period}"
                raise self._refusal(
                    f"This key has spent its budget of ${row.budget_usd:g}{per}.",
                    None if total else self.until - now,
                    now,
                    code="insufficient_quota",
                )
            if self.reserved_usd and self.spent_usd + self.reserved_usd >= row.budget_usd:
                raise self._refusal(
                    f"What is left of this key's budget of ${row.budget_usd:g} may be needed for "
                    "its requests under way.",
                    1.0,
                    now,
                )
        if row.parallel is not None and self.in_flight >= row.parallel:
            raise self._refusal(
                f"This key may have {row.parallel} requests under way at a time.", 1.0, now
            )
        if self.requests is not None and self.requests.level(now) < 1:
            wait = self.requests.wait(1, now)
            raise self._refusal(f"This key may send {row.rpm} requests per minute.", wait, now)
        if self.tokens is not None and not self.tokens.has(1 + self.reserved_tokens, now):
            # A place that requests under way take may be free again soon.
            wait = max(1.0, self.tokens.wait(1, now))
            raise self._refusal(f"This key may use {row.tpm} tokens per minute.", wait, now)

    def _refusal(
        self, message: str, wait: float | None, now: float, *, code: str = "rate_limit_exceeded"
    ) -> RateLimitError:
        limits = {name.decode(): value.decode() for name, value in self.headers(now)}
        return RateLimitError(message, retry_after=wait, code=code, headers=limits)

    def headers(self, now: float) -> RequestHeaders:
        """Return OpenAI's `x-ratelimit-*` headers, as things stand at `now`; a new list."""
        headers: RequestHeaders = []
        if self.requests is not None:
            _describe(headers, _REQUESTS, self.requests, now)
        if self.tokens is not None:
            _describe(headers, _TOKENS, self.tokens, now, self.reserved_tokens)
        return headers


def _bucket(before: Bucket | None, limit: int | None, now: float) -> Bucket | None:
    if limit is None:
        return None
    return Bucket(limit, now) if before is None else before.with_limit(limit, now)


class _Names(NamedTuple):
    """OpenAI's headers of one kind of limit."""

    limit: bytes
    remaining: bytes
    reset: bytes

    @classmethod
    def of(cls, what: bytes) -> _Names:
        return cls(*(b"x-ratelimit-%b-%b" % (field.encode(), what) for field in cls._fields))


_REQUESTS = _Names.of(b"requests")
_TOKENS = _Names.of(b"tokens")


def _describe(
    headers: RequestHeaders, names: _Names, bucket: Bucket, now: float, reserved: int = 0
) -> None:
    level, until_full = bucket.state(now)
    left = int(level) - reserved
    limit, remaining, reset = names
    headers += (
        (limit, bucket.limit_text),
        (remaining, b"%d" % left if left > 0 else b"0"),
        (reset, in_words(until_full)),
    )
