"""Traffic: one row for every request that was answered or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

from providers.base import Translation
from router.records import Attempt, LearnedChoice, Record
from router.store.changes import ChangeStore

# The fields of a filter that select by what many requests have in common.
SHARED_FIELDS = frozenset({
    "route", "except_routes", "target", "key_id", "user", "traffic_class", "status", "since",
    "until",
})  # fmt: skip


class TrafficFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Selects requests; a field that is None selects all.

    Attributes:
        id, route, target, key_id, user, traffic_class, response_id, conversation, rollout: as in
            TrafficRow.
        request_id: as in TrafficRow; only together with `key_id`, because clients choose it.
        arm: as in TrafficRow; only together with `rollout`.
        except_routes: routes that are left out.
        status: the lowest and the highest.
        since, until: seconds since the epoch; `until` itself is left out.
    """

    id: str | None = None
    request_id: str | None = None
    response_id: str | None = None
    conversation: str | None = None
    rollout: str | None = None
    arm: str | None = None
    route: str | None = None
    except_routes: tuple[str, ...] = ()
    target: str | None = None
    key_id: str | None = None
    user: str | None = None
    traffic_class: str | None = None
    status: tuple[int, int] | None = None
    since: float | None = None
    until: float | None = None

    def __post_init__(self) -> None:
        if self.request_id is not None and self.key_id is None:
            raise ValueError("a request_id is looked up together with its key only")
        if self.arm is not None and self.rollout is None:
            raise ValueError("an arm is one of a rollout")

    @property
    def names_few(self) -> bool:
        """Whether it has a name that few requests have, which an index of its own leads to."""
        names = (name for name in self.__struct_fields__ if name not in SHARED_FIELDS)
        return any(getattr(self, name) is not None for name in names)


class FeedbackSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What all authors say of one request under one name, by their last feedback.

    Attributes:
        name: what they say something about.
        count: how many said something.
        mean: the mean of truth values (as 0 and 1) and numbers, by weight; None without any.
    """

    name: str
    count: int
    mean: float | None


class TrafficRow(msgspec.Struct, frozen=True, kw_only=True, rename={"traffic_class": "class"}):
    """One request as it is stored.

    Attributes:
        number: grows with every row.
        request_id: the client's `x-request-id`, or `id` where it sent none.
        target: the target that answered, else the last that a request was sent to; "" without one.
        bodies: whether bodies were stored; `request` and `response` are only read with one row.
        trace_id: 32 hexadecimal digits, "" without a trace.
        first_target: the target that was tried first, "" where its probability is not known.
        choices: with which probability each target was the first, where there was a choice.
        learned: why a learned route chose its target; None for other routes.
        feedback: what is said of it; it is only read where a list is shown.

    The others are as in `router.records.Record`.
    """

    number: int
    id: str
    at: float
    key_id: str
    user: str
    request_id: str
    response_id: str
    conversation: str
    stored: bool
    rollout: str
    arm: str
    unit: str
    path: str
    route: str
    target: str
    status: int
    error_code: str
    traffic_class: str
    stream: bool
    cached: bool
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    total_tokens: int | None
    cached_tokens: int
    written_tokens: int
    lost_tokens: int
    estimated: bool
    cost_usd: float | None
    first_byte_s: float | None
    total_s: float
    model: str
    system_fingerprint: str
    attempts: tuple[Attempt, ...]
    translation: Translation | None
    trace_id: str
    request_bytes: int
    propensity: float | None
    first_target: str
    choices: Mapping[str, float]
    learned: LearnedChoice | None
    bodies: bool
    request: str | None = None
    response: str | None = None
    feedback: tuple[FeedbackSummary, ...] = ()


TotalsBy = Literal["route", "target", "key", "user", "class", "status"]


class TrafficTotal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the requests of one group took.

    Attributes:
        group: the values that its requests have in common, by what they are grouped by.
        requests, failures: how many there were, and how many had a status from 400 on.
        prompt_tokens, completion_tokens: as far as they are known.
        cost_usd: US dollars, of the requests with a known cost.
        unpriced: how many had none.
    """

    group: dict[str, str | int]
    requests: int
    failures: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    unpriced: int

    def plus(self, other: TrafficTotal) -> TrafficTotal:
        """Return what the requests of both took; the group is this one's."""
        return TrafficTotal(
            group=self.group,
            requests=self.requests + other.requests,
            failures=self.failures + other.failures,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cost_usd=self.cost_usd + other.cost_usd,
            unpriced=self.unpriced + other.unpriced,
        )


class AddedTotal(NamedTuple):
    """What requests took that were added to a stretch of time.

    Attributes:
        stretch: which one; the first began at the epoch.
        is_new: whether their numbers are above the one that was seen.
        total: what they took, of one route.
    """

    stretch: int
    is_new: bool
    total: TrafficTotal


class AddedTraffic(NamedTuple):
    """What requests took that were stored lately.

    Attributes:
        last: the number of the newest request, of any key; 0 where none is stored.
        deletions: as `TrafficStore.traffic_deletions` returns it.
        totals: by stretch, route and whether they are new, in no order.
    """

    last: int
    deletions: int
    totals: list[AddedTotal]


class TrafficStore(ChangeStore, Protocol):
    """Stores requests and lists them."""

    async def keep_traffic(self, records: Sequence[Record]) -> None:
        """Store requests, all or none."""
        ...

    async def traffic(
        self, matching: TrafficFilter, *, limit: int = 50, before: int | None = None
    ) -> list[TrafficRow]:
        """List requests, newest first; `before` is the number of the previous page's last row."""
        ...

    async def request(self, matching: TrafficFilter) -> TrafficRow | None:
        """Return the newest request that matches, with its bodies; None without one."""
        ...

    async def traffic_totals(
        self, matching: TrafficFilter, by: Sequence[TotalsBy], *, limit: int
    ) -> list[TrafficTotal]:
        """Add up requests in groups, the largest first; it reads all of the filter's time."""
        ...

    async def added_traffic(
        self, key_id: str | None, *, after: int, seen: int, since: float, stretch_s: float
    ) -> AddedTraffic:
        """Add up the live requests with numbers above `after`; it reads no others.

        Where several processes store requests, a number may appear after a higher one.

        Args:
            key_id: selects requests of one key; None selects all.
            after: 0 for all numbers.
            seen: the number up to which they are not new.
            since: selects requests that came from then on, in seconds since the epoch.
            stretch_s: the length of a stretch of time, in seconds.
        """
        ...

    async def answer_times(
        self, key_id: str | None, *, since: float, limit: int
    ) -> list[tuple[str, float]]:
        """Return route and seconds of answers, of the newest live requests since a moment.

        Failures are left out, and answers from the cache.

        Args:
            key_id: selects requests of one key; None selects all.
            since: seconds since the epoch.
            limit: how many requests it looks at.
        """
        ...

    async def forget_traffic(self, matching: TrafficFilter, limit: int) -> int:
        """Delete requests that match, at most `limit`; return how many it deleted."""
        ...

    async def announce_deletion(self) -> None:
        """Tell all processes that requests were deleted on demand, not because of their age."""
        ...

    async def traffic_deletions(self) -> int:
        """Return a number that grows with every such deletion: cheap enough for every second."""
        ...

    async def index_traffic(self) -> bool:
        """Enter a bounded number of requests into an index; return whether more may wait.

        A database whose indexes grow with every write has nothing to do here.
        """
        ...
