"""Rollouts: a candidate that gets a growing share of a route's requests, and what was decided.

A request of a rollout's sample leaves a row here, in the transaction that stores its record, which
also adds up how many requests of all went to each arm. One process at a time reads the rows that
have not been counted, and `count_requests` writes in one transaction that they are, the statistics
that they are in now, and what was decided. So nothing is counted twice, and nothing is missed,
wherever that process is killed, and in whatever order other processes commit.

Every change of a rollout is a decision, with a row. `revision` is their number: a change names the
revision that it is of, and is refused where another came first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from router.records import Arm
from router.store.changes import ChangeStore
from router.store.leases import LeaseStore
from router.store.routes import RouteStore

RolloutState = Literal[
    "running",
    "holding",
    "paused",
    "promoting",
    "promoted",
    "rolling_back",
    "rolled_back",
    "aborted",
]
Placement = Literal["message", "checksum"]
# A route has one rollout in these states at most.
ACTIVE: tuple[RolloutState, ...] = ("running", "holding", "paused", "promoting", "rolling_back")


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout as it stands.

    Attributes:
        id: `ro_...`.
        route: the route's name.
        candidate: `provider/model`.
        state: `running` and `holding` (a step has had its time, and its goals are not shown) and
            `paused` send requests to the candidate; `promoting` and `rolling_back` are decided, and
            take effect next; the others have ended. `aborted` is without a verdict: its time or
            its exposure budget was used up.
        reason: why it is in that state.
        step: the position in the steps, from 0.
        weight: the candidate's share of requests, 0 to 1.
        revision: the number of decisions so far.
        settings: what was requested, complete, as JSON types.
        base: the route's definition at the start: the control, as JSON types.
        override: the route as it had been set at run time before; None for that of the config file.
        forecast: what was expected at the start of how long it takes, as JSON types.
        started_by: who started it.
        created_at, step_at: when it was started, and when its step was; seconds since the epoch.
        ended_at: when it ended; None while it has not.
        pause: why it is paused: `person`, `route` where the route was changed, `imbalance` where
            users are not assigned as planned; "" otherwise.
        sampled_candidate, sampled_control: the shares of each arm's users whose requests are the
            evidence of this step, 0 to 1.
        placement: how a user's place is drawn: `checksum`, or `message` in rollouts that an earlier
            version has started, in which users must stay where they are. See
            `router/loop/assignment.py`.
    """

    id: str
    route: str
    candidate: str
    state: RolloutState
    reason: str
    step: int
    weight: float
    revision: int
    settings: dict[str, Any]
    base: dict[str, Any]
    override: dict[str, Any] | None
    forecast: dict[str, Any]
    started_by: str
    created_at: float
    step_at: float
    ended_at: float | None = None
    pause: Literal["", "person", "route", "imbalance"] = ""
    sampled_candidate: float = 1.0
    sampled_control: float = 1.0
    placement: Placement = "checksum"

    @property
    def is_active(self) -> bool:
        """Whether it has not ended."""
        return self.state in ACTIVE


class RolloutDecision(msgspec.Struct, frozen=True, kw_only=True):
    """One decision: a row of the audit.

    Attributes:
        rollout: the rollout's id.
        revision: the rollout's after it, from 1.
        at: when it was taken, seconds since the epoch.
        rule: what decided: a rule of `rollout_rules.py`, or `start`, `person`, `route` (it was
            changed) or `effect` (the decision before it has taken effect).
        signal: the signals that the rule is about; "" for none.
        seen: what was seen: for each signal both arms' numbers, e-values and intervals.
        e_value: the largest that decided; None where none did.
        low, high: the interval of the first of these signals; None without one.
        from_state, to_state, from_weight, to_weight: what changed; "" before the start.
        route_version: a hash of the route's definition.
        actor: who decided: `key NAME (ID)`, `a client without a key`, `command line (NAME)` or
            `server PROCESS`.
        reason: in words.
    """

    rollout: str
    revision: int
    at: float
    rule: str
    signal: str = ""
    seen: dict[str, Any] = {}
    e_value: float | None = None
    low: float | None = None
    high: float | None = None
    from_state: str = ""
    to_state: str = ""
    from_weight: float = 0.0
    to_weight: float = 0.0
    route_version: str = ""
    actor: str = ""
    reason: str = ""


class AssignedRequests(msgspec.Struct, frozen=True, kw_only=True):
    """How many requests a rollout has put into an arm in one of its steps, sampled or not.

    Attributes:
        step: the position in the steps.
        arm: the arm.
        requests: how many have ended and are stored.
    """

    step: int
    arm: Arm
    requests: int


class RolloutRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request of a rollout's sample, as it was when its answer ended.

    Attributes:
        number: of its row, which grows.
        id: of its record.
        at: when it came.
        unit: a hash of what keeps its user in one arm.
        arm: the arm that it was assigned to.
        step: the position in the steps when it was.
        failed: whether its arm did not answer it, by a fault that is not the client's.
        target: the target that answered, else the last that was tried.
        first_byte_s: seconds to the first byte of the answer; None without one.
        total_s: seconds to its last byte.
        cost_usd: US dollars; None where unknown.
        finish_reason: as the target reports it.
        completion_tokens: None where unknown.
        seen: the arms that its unit had been seen in before, in counted requests.
    """

    number: int
    id: str
    at: float
    unit: str
    arm: Arm
    step: int
    failed: bool
    target: str
    first_byte_s: float | None
    total_s: float
    cost_usd: float | None
    finish_reason: str
    completion_tokens: int | None
    seen: frozenset[Arm] = frozenset()


class RolloutScore(msgspec.Struct, frozen=True, kw_only=True):
    """A value of a request that came after its answer: of feedback, or of a judge.

    Attributes:
        request: the number of the RolloutRequest.
        signal: the signal that it is of.
        source: whose it is, so that it is stored once: the author of feedback.
        value: the number.
        at: when it came.
    """

    request: int
    signal: str
    source: str
    value: float
    at: float


class CountedScore(msgspec.Struct, frozen=True, kw_only=True):
    """A score that waits to be counted, with its request's arm.

    Attributes:
        number: of its row.
        signal, value, at: as in RolloutScore.
        unit, arm, step, seen: as in RolloutRequest; here `seen` has its own arm as well.
    """

    number: int
    signal: str
    value: float
    at: float
    unit: str
    arm: Arm
    step: int
    seen: frozenset[Arm] = frozenset()


class JudgedRequests(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of a rollout that its judge was to score, on one day, and what became of them.

    Attributes:
        day: when it began (UTC), seconds since the epoch.
        outcome: `scored`, or why not; see `router.loop.rollout_judge`.
        requests: how many.
        usd: what they cost, in US dollars; requests of an unknown price cost nothing.
    """

    day: float
    outcome: str
    requests: int
    usd: float = 0.0


class Uncounted(msgspec.Struct, frozen=True, kw_only=True):
    """What has not been counted yet, with what has.

    Attributes:
        requests: in the order of their numbers.
        scores: likewise.
        statistics: of what was counted before, as `count_requests` stored it; "" at first.
        batch: how often that was, so that two processes cannot both go on from there.
        revision: the rollout's.
        assigned: the requests of each step and arm so far, in this order, sampled or not. They are
            exact, and stay when the requests are deleted.
    """

    requests: tuple[RolloutRequest, ...]
    scores: tuple[CountedScore, ...]
    statistics: str
    batch: int
    revision: int
    assigned: tuple[AssignedRequests, ...] = ()


class RolloutBatch(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted at a time, so that everything that follows from it can be computed anew.

    Attributes:
        number: from 1; the requests and scores that were counted then have it, too.
        began, until: the stretch of time that it stands for, seconds since the epoch.
        state, step, sampled_candidate, sampled_control: the rollout's, as it was then.
        candidate_requests: those that had gone to the candidate since the start.
        requests, scores: how many were counted.
    """

    number: int
    began: float
    until: float
    state: RolloutState
    step: int
    sampled_candidate: float
    sampled_control: float
    candidate_requests: int
    requests: int
    scores: int


class ArmTotals(msgspec.Struct, frozen=True, kw_only=True):
    """What the requests of one arm came to.

    Attributes:
        requests, units, failures: how many requests, users, and failed requests.
        first_byte_s, total_s, cost_usd: means, over those that have one; None without any.
    """

    requests: int
    units: int
    failures: int
    first_byte_s: float | None
    total_s: float | None
    cost_usd: float | None


class FeedbackBaseline(msgspec.Struct, frozen=True, kw_only=True):
    """What the feedback of one name was like.

    Attributes:
        count: how much there was.
        mean, sd: of its scores.
    """

    count: int
    mean: float
    sd: float


class RouteBaseline(msgspec.Struct, frozen=True, kw_only=True):
    """What a route's recorded requests were like, for a forecast.

    Attributes:
        requests: how many there were.
        nameless: how many of them name no user.
        users: how many users the others name.
        user_days: how many users each day had, added up.
        seconds: from the first to the last.
        failures, truncations, refusals: how many failed, were cut at their limit, were refused.
        feedback: the feedback about them, by its name.
    """

    requests: int
    nameless: int
    users: int
    user_days: int
    seconds: float
    failures: int
    truncations: int
    refusals: int
    feedback: Mapping[str, FeedbackBaseline] = {}


class RolloutChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a rollout, and the decision that it is.

    Attributes:
        decision: its row; `revision` is the rollout's after it.
        changes: fields of Rollout to set.
        route: the route's document to set at run time; None leaves it as it is.
        drop_route: whether to drop what was set at run time.
        expected: what must be set at run time now, where `route` or `drop_route` is given.
        config: the config file's route then, for the record of versions; None without one.
    """

    decision: RolloutDecision
    changes: Mapping[str, Any]
    route: dict[str, Any] | None = None
    drop_route: bool = False
    expected: dict[str, Any] | None = None
    config: dict[str, Any] | None = None


class RolloutStore(RouteStore, LeaseStore, ChangeStore, Protocol):
    """Stores rollouts, their decisions, and what they have seen."""

    async def add_rollout(self, rollout: Rollout, decision: RolloutDecision) -> None:
        """Store a new rollout with its first decision.

        Raises:
            ConflictError: the route has one that has not ended.
        """
        ...

    async def rollout(self, rollout_id: str) -> Rollout | None:
        """Return a rollout."""
        ...

    async def rollouts(
        self, *, route: str | None = None, active: bool | None = None, limit: int = 50
    ) -> list[Rollout]:
        """List rollouts, newest first: of a route, only those that have (not) ended."""
        ...

    async def rollout_version(self) -> int:
        """Return a number that grows with every change: cheap enough for every second."""
        ...

    async def rollout_decisions(self, rollout_id: str) -> list[RolloutDecision]:
        """List a rollout's decisions, in their order."""
        ...

    async def change_rollout(self, change: RolloutChange) -> None:
        """Change a rollout, and the route where the change says so, in one transaction.

        Raises:
            NotFoundError: no such rollout.
            ConflictError: another decision came first, or the route is not as it was expected.
        """
        ...

    async def uncounted(self, rollout_id: str, limit: int) -> Uncounted:
        """Return the oldest requests and scores of a rollout that have not been counted."""
        ...

    async def count_requests(
        self,
        rollout_id: str,
        seen: Uncounted,
        statistics: str,
        change: RolloutChange | None,
        batch: RolloutBatch,
    ) -> None:
        """Store that requests and scores are counted, in which statistics, and what was decided.

        `batch` says when, and in which state of the rollout.

        Raises:
            ConflictError: another process has counted them, or decided meanwhile.
        """
        ...

    async def rollout_batches(
        self, rollout_id: str, *, after: int = 0, limit: int = 1000
    ) -> list[RolloutBatch]:
        """Return what was counted at a time, in that order, without the first `after`."""
        ...

    async def counted_requests(
        self, rollout_id: str, *, after: tuple[int, int] = (0, 0), limit: int = 1000
    ) -> list[tuple[int, RolloutRequest]]:
        """Return counted requests with the number of their batch, in the order of both numbers.

        `after` are those of the last one of the page before. Their `seen` is empty.
        """
        ...

    async def counted_scores(
        self, rollout_id: str, *, after: tuple[int, int] = (0, 0), limit: int = 1000
    ) -> list[tuple[int, CountedScore]]:
        """Return counted scores with the number of their batch, likewise."""
        ...

    async def rollout_statistics(self, rollout_id: str) -> str:
        """Return the statistics of what was counted; "" at first."""
        ...

    async def new_feedback_scores(
        self, rollout_id: str, names: Sequence[str], limit: int
    ) -> list[RolloutScore]:
        """Return scores of feedback of some names about requests of a rollout, not stored yet.

        An author's first about a request counts: later ones may depend on what has been decided.
        """
        ...

    async def keep_rollout_scores(self, rollout_id: str, scores: Sequence[RolloutScore]) -> None:
        """Store values of requests of a rollout; those that are there already are left out."""
        ...

    async def rollout_request_numbers(
        self, rollout_id: str, record_ids: Sequence[str]
    ) -> dict[str, int]:
        """Return the numbers of a rollout's requests by their records' ids; none for unknown ids.

        Requests are unknown until they are stored, and again once they are deleted.
        """
        ...

    async def add_judged(self, rollout_id: str, judged: Sequence[JudgedRequests]) -> None:
        """Add requests to the counts of what became of those that a judge was to score."""
        ...

    async def judged(self, rollout_id: str) -> list[JudgedRequests]:
        """Return these counts by day and outcome, in this order."""
        ...

    async def forget_rollout_requests(
        self, *, record_id: str | None = None, units: Sequence[str] = ()
    ) -> int:
        """Delete what there is of a request, or else of units; return how many requests.

        What was counted stays in the statistics. Requests whose records are deleted are deleted
        with them.
        """
        ...

    async def rollout_totals(
        self, rollout_id: str, *, per_protocol: bool = False
    ) -> dict[Arm, ArmTotals]:
        """Add up a rollout's counted requests by arm.

        `per_protocol` leaves out requests of users who were seen in both arms, and requests that
        another arm's target answered.
        """
        ...

    async def route_baseline(self, route: str, since: float) -> RouteBaseline:
        """Return what the requests of a route were like since a moment."""
        ...
