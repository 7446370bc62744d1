"""A rollout in a bundle: what it counted, batch by batch, makes its numbers and decisions anew.

replayed = replay(BundledRollout(archive), progress)
replayed.numbers, replayed.decisions, replayed.missing
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from providers.errors import EvidenceError
from router.config.rollouts import RolloutSettings
from router.loop.bundles.archive import Archive
from router.loop.bundles.bundled_run import decoded, rows
from router.loop.bundles.contents import (
    BATCHES,
    DECISIONS,
    LATER_VALUES,
    NUMBERS,
    REQUESTS,
    ROLLOUT,
    CountedRequest,
    LaterValue,
    RolloutNumbers,
)
from router.loop.rollout_counting import (
    audited,
    count_batch,
    is_change,
    observations_of,
    sample_of_rollout,
)
from router.loop.rollout_plan import plan_of, settings_of
from router.loop.rollout_rules import Decision, RolloutRules
from router.records import Arm
from router.store.rollouts import (
    ArmTotals,
    JudgedRequests,
    Rollout,
    RolloutBatch,
    RolloutDecision,
    RolloutRequest,
)

# What the rules decide; the others are decided by people, or are effects of decisions.
RULES = frozenset(
    {
        "guardrails",
        "imbalance",
        "exposure_budget",
        "time_limit",
        "min_time",
        "no_data",
        "goals",
        "passed",
    }
)
_ARMS: tuple[Arm, ...] = ("control", "candidate")
_EVERY = 1000

_Row = TypeVar("_Row", CountedRequest, LaterValue)


class BundledRollout:
    """The rollout of a bundle.

    Args:
        archive: the bundle's.

    Raises:
        EvidenceError: an entry cannot be read.
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self.rollout = decoded(archive, ROLLOUT, Rollout)
        try:
            self.settings: RolloutSettings = settings_of(self.rollout)
        except msgspec.ValidationError as error:
            raise EvidenceError(f"{ROLLOUT}: settings: {error}") from error
        self.decisions = list(rows(archive, DECISIONS, RolloutDecision))

    def batches(self) -> Iterator[RolloutBatch]:
        """Yield what was counted at a time, in that order."""
        return rows(self._archive, BATCHES, RolloutBatch)

    def requests(self) -> Iterator[CountedRequest]:
        """Yield the counted requests, by batch."""
        return rows(self._archive, REQUESTS, CountedRequest)

    def later_values(self) -> Iterator[LaterValue]:
        """Yield what came after the requests' answers, by batch."""
        return rows(self._archive, LATER_VALUES, LaterValue)

    def numbers(self) -> RolloutNumbers:
        """Return the numbers as they are stated."""
        return decoded(self._archive, NUMBERS, RolloutNumbers)


class Replayed(msgspec.Struct, kw_only=True):
    """What the batches of a rollout make.

    Attributes:
        numbers: the rollout's; what its judge did is as stated.
        decisions: what the rules decide: fields of `RolloutDecision` by name.
        missing: why the numbers are not those of all that was counted; "" where they are.
        batches: how many there are.
    """

    numbers: RolloutNumbers
    decisions: list[dict[str, Any]]
    missing: str
    batches: int


def replay(
    bundled: BundledRollout,
    judged: list[JudgedRequests],
    progress: Callable[[int], None],
) -> Replayed:
    """Let the rules observe and decide once more. Blocks.

    Args:
        bundled: the rollout.
        judged: has what its judge did.
        progress: called with how many batches are done.

    Raises:
        EvidenceError: a row is of no batch.
        ValueError: values that no rollout can have counted.
    """
    settings = bundled.settings
    rules = RolloutRules(plan_of(settings))
    requests = _Batched[CountedRequest](bundled.requests(), REQUESTS)
    values = _Batched[LaterValue](bundled.later_values(), LATER_VALUES)
    units = _Units()
    decisions: list[dict[str, Any]] = []
    decision: Decision | None = None
    rule, missing, number = "", "", 0
    for number, batch in enumerate(bundled.batches(), 1):
        if batch.number != number:
            missing = missing or "some of what was counted is older than its record"
        counted = [units.seen(row.request) for row in requests.of(batch.number)]
        scores = [
            msgspec.structs.replace(row.score, seen=units.arms(row.score.unit))
            for row in values.of(batch.number)
        ]
        if len(counted) > batch.requests or len(scores) > batch.scores:
            raise EvidenceError(
                f"{BATCHES}: batch {batch.number} counted fewer rows than there are"
            )
        if (len(counted), len(scores)) != (batch.requests, batch.scores):
            missing = missing or "requests that were counted have been deleted since"
        decision = count_batch(rules, batch, observations_of(counted, scores, settings))
        units.add(counted)
        if is_change(decision, batch.state, rule):
            decisions.append(_row(decision, batch))
        rule = decision.rule
        if number % _EVERY == 0:
            progress(number)
    requests.end()
    values.end()
    progress(number)
    totals, per_protocol = _totals(bundled, units)
    return Replayed(
        numbers=RolloutNumbers(
            signals=() if decision is None else decision.readings,
            imbalance=None if decision is None else decision.imbalance,
            e_value_limit=len(settings.signals) / settings.alpha,
            totals=totals,
            per_protocol=per_protocol,
            judged=judged,
        ),
        decisions=decisions,
        missing=missing,
        batches=number,
    )


def _row(decision: Decision, batch: RolloutBatch) -> dict[str, Any]:
    return {
        **audited(decision, sample_of_rollout(batch)),
        "from_state": batch.state,
        "to_state": decision.status,
        "from_weight": decision.from_weight,
    }


class _Batched(Generic[_Row]):
    """Gives the rows of one batch after the other."""

    def __init__(self, every: Iterator[_Row], name: str) -> None:
        self._rows: Iterator[_Row] = every
        self._name = name
        self._next: _Row | None = next(every, None)

    def of(self, batch: int) -> list[_Row]:
        """Return the rows of a batch. Raises EvidenceError where some are of an earlier one."""
        taken = []
        while self._next is not None and self._next.batch <= batch:
            if self._next.batch < batch:
                raise EvidenceError(f"{self._name}: batch {self._next.batch} is not in its order")
            taken.append(self._next)
            self._next = next(self._rows, None)
        return taken

    def end(self) -> None:
        """Check that no row is left."""
        if self._next is not None:
            raise EvidenceError(f"{self._name}: batch {self._next.batch} is not in {BATCHES}")


class _Units:
    """Remembers in which arms each unit has been seen, in a byte and its name."""

    def __init__(self) -> None:
        self._arms: dict[str, int] = {}

    def arms(self, unit: str) -> frozenset[Arm]:
        """Return the arms that a unit was seen in."""
        bits = self._arms.get(unit, 0)
        return frozenset(arm for n, arm in enumerate(_ARMS) if bits >> n & 1)

    def seen(self, request: RolloutRequest) -> RolloutRequest:
        """Return a request with the arms that its unit was seen in before."""
        arms = self.arms(request.unit)
        return msgspec.structs.replace(request, seen=arms) if arms else request

    def add(self, requests: Sequence[RolloutRequest]) -> None:
        """Remember the units of requests."""
        for request in requests:
            bit = 1 << _ARMS.index(request.arm)
            self._arms[request.unit] = self._arms.get(request.unit, 0) | bit


class _Sums:
    """Adds up the requests of one arm."""

    def __init__(self) -> None:
        self._units: set[str] = set()
        self._requests = self._failures = 0
        # Of each number, how many requests have it, and their sum.
        self._numbers = {name: [0, 0.0] for name in ("first_byte_s", "total_s", "cost_usd")}

    def add(self, request: RolloutRequest) -> None:
        """Add a request."""
        self._requests += 1
        self._failures += request.failed
        self._units.add(request.unit)
        for name, sums in self._numbers.items():
            value = getattr(request, name)
            if value is not None:
                sums[0] += 1
                sums[1] += value

    def totals(self) -> ArmTotals:
        """Return what they come to."""
        means = {
            name: total / count if count else None for name, (count, total) in self._numbers.items()
        }
        return ArmTotals(
            requests=self._requests,
            units=len(self._units),
            failures=self._failures,
            first_byte_s=means["first_byte_s"],
            total_s=means["total_s"],
            cost_usd=means["cost_usd"],
        )


_Totals = dict[str, ArmTotals]


def _totals(bundled: BundledRollout, units: _Units) -> tuple[_Totals, _Totals]:
    """Add up all requests by arm, and those of units that one arm alone has answered."""
    every: dict[str, _Sums] = {}
    per_protocol: dict[str, _Sums] = {}
    for row in bundled.requests():
        request = row.request
        every.setdefault(request.arm, _Sums()).add(request)
        is_own = (request.arm == "candidate") == (request.target == bundled.rollout.candidate)
        if is_own and len(units.arms(request.unit)) == 1:
            per_protocol.setdefault(request.arm, _Sums()).add(request)
    return _by_arm(every), _by_arm(per_protocol)


def _by_arm(sums: dict[str, _Sums]) -> _Totals:
    return {arm: of_arm.totals() for arm, of_arm in sums.items()}
