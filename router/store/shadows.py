"""Shadows: live requests that wait to be sent to candidates, and what became of each.

A shadow of a route is a run whose dataset grows: `run` names it. A *pair* is a live request with
its answer. It waits here until `take_pairs` makes it a sample of the run, with the live answer as
the dataset's own; from then on the run has its texts, and the pair says what the request can be
found by, and what became of it.

Pairs go through these states: `waiting`, `taken` (a sample of the run), then `scored`, `error` (a
candidate or a judge failed; it may be tried once more) or `unjudgeable` (a candidate gave no text).
Requests that never became a pair are counted by their reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from evaluators.base import Answer, Sample
from router.store.traffic import TrafficFilter

ShadowState = Literal["running", "paused"]
# What the dataset of a shadow's run is called, with the name of its route.
SHADOW_DATASET = "shadow:"

PairState = Literal["waiting", "taken", "scored", "error", "unjudgeable"]


class ShadowRow(msgspec.Struct, frozen=True, kw_only=True):
    """A shadow of a route.

    Attributes:
        run: the id of its run.
        route: the name of the route.
        config: what the run was made for, JSON types; other settings than these begin another run.
        state: whether requests are sent to candidates.
        reason, changed_by, changed_at: why a person changed that, the id of their key, and when;
            "" and `created_at` before the first change.
        created_at: when it began.
        ended_at: when another run took its place; None for the route's present shadow.
        blocked: why it sends nothing at present although it is running, "" otherwise.
        retry_at: when it tries again, where candidates or judges failed; else 0.
        failures: how often in a row that was so.
        day: the day whose spending is counted, seconds since the epoch.
        day_embeddings_usd: what the run's embeddings had taken before that day.
    """

    run: str
    route: str
    config: dict[str, Any]
    state: ShadowState = "running"
    reason: str = ""
    changed_by: str = ""
    changed_at: float
    created_at: float
    ended_at: float | None = None
    blocked: str = ""
    retry_at: float = 0.0
    failures: int = 0
    day: float = 0.0
    day_embeddings_usd: float = 0.0


class ShadowPair(msgspec.Struct, frozen=True, kw_only=True):
    """A live request with its answer, ready to become a sample of the run.

    Attributes:
        id, at, key_id, user, target, status, request_id, response_id, conversation, rollout, arm:
            as in the request's record, which a deletion finds it by.
        keep_texts: whether the route keeps bodies; else the texts go once they are scored.
        sample: the request; its `answer` is the live one's text.
        answer: the live answer.
    """

    id: str
    at: float
    key_id: str = ""
    user: str = ""
    target: str = ""
    status: int = 200
    request_id: str = ""
    response_id: str = ""
    conversation: str = ""
    rollout: str = ""
    arm: str = ""
    keep_texts: bool
    sample: Sample
    answer: Answer


class TakenPairs(msgspec.Struct, frozen=True, kw_only=True):
    """What `take_pairs` has put into a run.

    Attributes:
        new: how many samples were added.
        again: how many are tried once more.
        open: how many samples of the run are to be requested or scored in all.
    """

    new: int
    again: int
    open: int


class SettledPairs(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the pairs that were settled: how many got each state."""

    scored: int = 0
    error: int = 0
    unjudgeable: int = 0


class ShadowStore(Protocol):
    """Stores shadows, their pairs, and counts of what was not judged."""

    async def add_shadow(self, row: ShadowRow) -> None:
        """Add a shadow; it takes the place of the route's present one."""
        ...

    async def end_shadow(self, run_id: str, now: float) -> None:
        """End a shadow: what waits is dropped and counted as `stopped`."""
        ...

    async def change_shadow(self, run_id: str, **changes: Any) -> None:
        """Set fields of a shadow that has not ended."""
        ...

    async def shadows(self) -> list[ShadowRow]:
        """Return the routes' present shadows, by route."""
        ...

    async def add_pairs(self, run_id: str, pairs: Sequence[ShadowPair], *, max_waiting: int) -> int:
        """Add pairs that wait, as far as no more than `max_waiting` do; the others count as `shed`.

        A pair that is there already changes nothing. Returns how many pairs were added.
        """
        ...

    async def count_shadow(self, run_id: str, counts: Mapping[str, int]) -> None:
        """Add to the counts of requests that never became a pair, by reason."""
        ...

    async def take_pairs(
        self,
        run_id: str,
        stale_after: float,
        *,
        new: int,
        again: int,
        max_tries: int,
        since: float,
        cost_usd: float | None = None,
    ) -> TakenPairs:
        """Make pairs samples of the run and queue it, all or nothing.

        Nothing is queued where no sample of the run is open.

        Args:
            run_id: the run.
            stale_after: seconds of silence after which its owner is taken for dead.
            new: at most so many pairs that wait, the oldest first.
            again: at most so many pairs that failed, the oldest first.
            max_tries: how often a pair is tried in all.
            since: pairs that were taken before are not tried again.
            cost_usd: the limit of the run's cost, without that of the live answers that are added;
                None for no limit.

        Raises:
            ConflictError: a living process executes the run.
            NotFoundError: no such run.
        """
        ...

    async def settle_pairs(self, run_id: str, *, max_tries: int, since: float) -> SettledPairs:
        """Note what became of the pairs that were taken, and delete the texts that are not kept.

        Texts of a pair that failed stay as long as it may be tried again: see `take_pairs`.
        """
        ...

    async def drop_waiting(self, run_id: str, reason: str, *, before: float | None = None) -> int:
        """Drop pairs that wait and count them by a reason; return how many.

        `before` selects those whose request came earlier; None selects all.
        """
        ...

    async def shadow_funnel(self, run_id: str) -> dict[str, int]:
        """Count all requests of a shadow: by reason, and its pairs by their state."""
        ...

    async def shadow_spending(self, route: str, since: float) -> float:
        """Return what candidates and judges of a route's shadows took since then, in US dollars.

        What embeddings took is not in it, because it is not stored by time.
        """
        ...

    async def deleted_texts(self, run_id: str) -> int:
        """Return how many samples of a run have no texts any more."""
        ...

    async def forget_shadowed(self, matching: TrafficFilter, limit: int) -> int:
        """Delete the texts of the requests that match, at most `limit`; return how many.

        What was scored stays as numbers. The counts go on counting them.
        """
        ...
