"""Reads recorded requests as choices that were made with known probabilities.

    choices = await read_choices(recorded, matching, policy, outcomes.values)
    choices.estimate(choices.policy(weights), "cost_usd")      # an OffPolicyValue

A choice is which target a request's plan tried first, whoever answered in the end: so a target that
fails is charged with what followed. Memory is bounded: of more than `MAX_REQUESTS`, the requests of
a part of the users are taken, which is drawn by a hash of them.
"""

from __future__ import annotations

import asyncio
import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from evaluators.stats.intervals import Interval
from evaluators.stats.off_policy import (
    Choices,
    OffPolicyValue,
    off_policy_difference,
    off_policy_value,
)
from evaluators.stats.resampling import Floats
from providers.wire import UNREADABLE
from router.loop.conditions import RequestText, Subject
from router.loop.policies import PreparedPolicy
from router.loop.recorded_conversations import request_text
from router.sealing.traffic import RecordedTraffic
from router.store.columns.rollouts import CLIENT_LEFT
from router.store.traffic import TrafficFilter, TrafficRow

MAX_REQUESTS = 200_000
PAGE = 1000
# Requests whose bodies are read at a time.
_BODIES_AT_ONCE = 64
# How far recorded probabilities may be from adding up to 1.
_ROUNDING = 1e-6
# The sizes of requests in bytes from which the model of outcomes tells them apart.
_SIZES = (512, 2048, 8192, 32768)

MEASURES = ("value", "errors", "cost_usd", "total_s", "first_byte_s")

# Why a record is left out, in the order in which that is found out.
REASONS: Mapping[str, str] = {
    "cached": "answers of the response cache, for which nothing was chosen",
    "refused": "requests that were refused before a target was chosen",
    "not_recorded": "requests whose probabilities are not on record: those of an earlier version, "
    "or of routes with over 64 targets",
    "corrupt": "records whose probabilities cannot be: 0, over 1, or not adding up to 1",
    "no_bodies": "requests whose text a condition reads, and of which none is stored",
    "unsupported": "requests for which a target that the policy takes had no chance",
}

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class RequestValues(NamedTuple):
    """The value of requests.

    Attributes:
        values: by the record's id, of those that have one.
        low, high: the range of values; None where it has no end.
        warnings: what to bear in mind of them.
    """

    values: Mapping[str, float]
    low: float | None = None
    high: float | None = None
    warnings: Sequence[str] = ()

    def range_of(self, measure: str) -> tuple[float | None, float | None]:
        """Return the range of one of MEASURES: no cost and no time is below 0."""
        if measure == "value":
            return self.low, self.high
        return (0.0, 1.0) if measure == "errors" else (0.0, None)


NO_VALUES = RequestValues({})


class ExcludedRecords(msgspec.Struct, frozen=True, kw_only=True):
    """Records that were left out, and why; `reason` is one of REASONS."""

    reason: str
    count: int
    description: str


class RecordedChoices(NamedTuple):
    """Choices as arrays, one entry for each request that was taken.

    Attributes:
        units, contexts, actions, supports: numbers, shape (n,): of whom the choice stuck to, of
            what was known before, of the target, and of the targets that had a chance.
        propensities: of the targets, shape (n,).
        measures: what each request brought, NaN where that is not known, shape (n,) each.
        targets: the targets by their numbers.
        chances: the sets of targets by their numbers.
        rules: the number of the policy's rule that each context is of.
        excluded: how many records were left out, by the reason.
        records: how many were read.
        share: the share of users whose requests were taken.
        earliest: when the first of them came; None without one.
    """

    units: NDArray[np.intp]
    contexts: NDArray[np.intp]
    actions: NDArray[np.intp]
    supports: NDArray[np.intp]
    propensities: Floats
    measures: Mapping[str, Floats]
    targets: tuple[str, ...]
    chances: tuple[frozenset[str], ...]
    rules: tuple[int, ...]
    excluded: Mapping[str, int]
    records: int
    share: float
    earliest: float | None

    def possible(self, weights: Sequence[Mapping[str, float]]) -> NDArray[np.bool_]:
        """Return for which requests all targets that a policy takes had a chance.

        `weights` has the targets of each of its rules.
        """
        allowed = np.array(
            [[rule.keys() <= chances for rule in weights] for chances in self.chances], dtype=bool
        ).reshape(len(self.chances), len(weights))
        rules = np.array(self.rules, dtype=np.intp)[self.contexts]
        chosen: NDArray[np.bool_] = allowed[self.supports, rules]
        return chosen

    def known(self, measure: str) -> NDArray[np.bool_]:
        """Return of which requests a measure is known."""
        return ~np.isnan(self.measures[measure])

    def estimate(
        self,
        weights: Sequence[Mapping[str, float]],
        measure: str,
        chosen: NDArray[np.bool_],
        *,
        low: float | None = None,
        high: float | None = None,
    ) -> OffPolicyValue:
        """Estimate what a policy would have brought.

        Args:
            weights: the targets of each of its rules, with their probabilities.
            measure: one of MEASURES.
            chosen: the requests to use, for which the measure is known and the policy possible.
            low: the end of the measure's range; None without one.
            high: its other end.
        """
        return off_policy_value(
            self.measures[measure][chosen],
            self._choices(chosen),
            self._policy(weights),
            low=low,
            high=high,
        )

    def difference(
        self,
        first: Mapping[str, float],
        second: Mapping[str, float],
        measure: str,
        chosen: NDArray[np.bool_],
        *,
        level: float,
    ) -> Interval:
        """Return how much more one policy would have brought than another, both without rules."""
        rules = max(self.rules, default=0) + 1
        return off_policy_difference(
            self.measures[measure][chosen],
            self._choices(chosen),
            self._policy([first] * rules),
            self._policy([second] * rules),
            level=level,
        )

    def _choices(self, chosen: NDArray[np.bool_]) -> Choices:
        return Choices(
            self.units[chosen],
            self.contexts[chosen],
            self.actions[chosen],
            self.propensities[chosen],
        )

    def _policy(self, weights: Sequence[Mapping[str, float]]) -> Floats:
        number = {name: n for n, name in enumerate(self.targets)}
        policy = np.zeros((len(self.rules), max(1, len(self.targets))))
        for context, rule in enumerate(self.rules):
            for name, weight in weights[rule].items():
                # One that was never tried has no number; what it would bring is not known.
                if name in number:
                    policy[context, number[name]] = weight
        return policy


async def read_choices(
    recorded: RecordedTraffic,
    matching: TrafficFilter,
    policy: PreparedPolicy,
    values: Mapping[str, float],
    *,
    max_requests: int = MAX_REQUESTS,
    newest: int | None = None,
) -> RecordedChoices:
    """Read requests, a page at a time, beside the event loop.

    Args:
        recorded: reads the requests.
        matching: selects them.
        policy: whose rules tell contexts apart.
        values: the value of requests by their record's ids.
        max_requests: how many are taken at a time; of more, those of a part of the users.
        newest: how many are read, of the newest; None for all. Pages are read whole.
    """
    collector = _Collector(policy, max_requests)
    before: int | None = None
    while rows := await recorded.page(matching, limit=PAGE, before=before):
        before = rows[-1].number
        texts: dict[int, RequestText] = {}
        if policy.reads_text:
            numbers = [row.number for row in rows if row.bodies and _reason(row) is None]
            for start in range(0, len(numbers), _BODIES_AT_ONCE):
                some = numbers[start : start + _BODIES_AT_ONCE]
                async for batch in recorded.with_bodies(some):
                    texts |= await asyncio.to_thread(_texts, batch, language=policy.reads_language)
        await asyncio.to_thread(collector.add, rows, values, texts)
        if newest is not None and collector.records >= newest:
            break
    return await asyncio.to_thread(collector.choices)


class _Collector:
    """Turns records into arrays; of too many, it keeps the users with the lowest hashes."""

    def __init__(self, policy: PreparedPolicy, max_requests: int) -> None:
        self._policy = policy
        self._max_requests = max_requests
        self._excluded: Counter[str] = Counter()
        self.records = 0
        self._earliest: float | None = None
        self._limit = 2**64
        self._units = array("Q")
        self._contexts, self._actions, self._supports = array("q"), array("q"), array("q")
        self._propensities = array("d")
        self._measures = {name: array("d") for name in MEASURES}
        self._targets: dict[str, int] = {}
        self._chances: dict[frozenset[str], int] = {}
        self._known_contexts: dict[tuple[int, int, bool], int] = {}

    def add(
        self,
        rows: Sequence[TrafficRow],
        values: Mapping[str, float],
        texts: Mapping[int, RequestText],
    ) -> None:
        """Add records, with the value of each by its id, and its text by its number."""
        for row in rows:
            self._add(row, values.get(row.id, math.nan), texts.get(row.number))
        while len(self._units) > self._max_requests and self._limit > 1:
            self._limit //= 2
            self._keep(np.array(self._units, dtype=np.uint64) < self._limit)

    def _add(self, row: TrafficRow, value: float, text: RequestText | None) -> None:
        self.records += 1
        if self._earliest is None or row.at < self._earliest:
            self._earliest = row.at
        reason = _reason(row)
        if reason is None and text is None and self._policy.reads_text:
            reason = "no_bodies"
        if reason is not None:
            self._excluded[reason] += 1
            return
        unit = _unit_of(row)
        if unit >= self._limit:
            return
        assert row.propensity is not None, "a record without one has a reason"
        chances = frozenset(name for name, chance in _choices_of(row).items() if chance > 0)
        rule = self._rule_of(Subject(row, {}, text))
        size = sum(row.request_bytes >= least for least in _SIZES)
        context = self._known_contexts.setdefault(
            (rule, size, row.stream), len(self._known_contexts)
        )
        self._units.append(unit)
        self._contexts.append(context)
        self._actions.append(self._targets.setdefault(row.first_target, len(self._targets)))
        self._supports.append(self._chances.setdefault(chances, len(self._chances)))
        self._propensities.append(row.propensity)
        for name, measured in _measured(row, value).items():
            self._measures[name].append(measured)

    def _rule_of(self, subject: Subject) -> int:
        return next(
            n
            for n, rule in enumerate(self._policy.rules)
            if rule.condition is None or rule.condition.holds(subject)
        )

    def _keep(self, chosen: NDArray[np.bool_]) -> None:
        columns: list[array[Any]] = [
            self._units, self._contexts, self._actions, self._supports, self._propensities,
            *self._measures.values(),
        ]  # fmt: skip
        for column in columns:
            remaining = np.array(column)[chosen].tobytes()
            del column[:]
            column.frombytes(remaining)

    def choices(self) -> RecordedChoices:
        """Return what was added."""
        _, units = np.unique(np.array(self._units, dtype=np.uint64), return_inverse=True)
        return RecordedChoices(
            units.astype(np.intp),
            np.array(self._contexts, dtype=np.intp),
            np.array(self._actions, dtype=np.intp),
            np.array(self._supports, dtype=np.intp),
            np.array(self._propensities),
            {name: np.array(column) for name, column in self._measures.items()},
            tuple(self._targets),
            tuple(self._chances),
            tuple(rule for rule, _, _ in self._known_contexts),
            self._excluded,
            self.records,
            self._limit / 2**64,
            self._earliest,
        )


def _reason(row: TrafficRow) -> str | None:
    """Return why a record says nothing about a choice; None where it does."""
    if row.cached:
        return "cached"
    if row.propensity is None:
        return "not_recorded" if row.attempts else "refused"
    choices = _choices_of(row)
    if not choices:
        return "not_recorded" if 0 < row.propensity < 1 else "corrupt"
    right = (
        0 < row.propensity <= 1 + _ROUNDING
        and all(0 <= chance <= 1 + _ROUNDING for chance in choices.values())
        and abs(math.fsum(choices.values()) - 1) <= _ROUNDING
        and abs(choices.get(row.first_target, 0.0) - row.propensity) <= _ROUNDING
    )
    return None if right else "corrupt"


def _choices_of(row: TrafficRow) -> Mapping[str, float]:
    """Return with which probability each target was the first; {} where that is not on record."""
    if row.choices:
        return row.choices
    return {row.first_target: 1.0} if row.propensity == 1 else {}


def _unit_of(row: TrafficRow) -> int:
    """Return a hash of whom a request belongs to: what the choice stuck to, else its user.

    A request without either stands for its conversation, or else alone. The choices of one unit are
    one where they stick; where they do not, what one user brings is alike all the same.
    """
    name = row.unit or row.user or row.conversation or row.id
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _measured(row: TrafficRow, value: float) -> dict[str, float]:
    """Return what a request brought, NaN where that is not known."""
    # Whoever left has seen neither the end of an answer nor an error.
    left = row.status == 499 or row.error_code in CLIENT_LEFT
    failed = row.status >= 400 or bool(row.error_code)
    return {
        "value": value,
        "errors": math.nan if left else float(failed),
        "cost_usd": math.nan if row.cost_usd is None else row.cost_usd,
        "total_s": math.nan if left else row.total_s,
        "first_byte_s": math.nan if row.first_byte_s is None else row.first_byte_s,
    }


def _texts(rows: Sequence[TrafficRow], *, language: bool) -> dict[int, RequestText]:
    """Return what requests say, by their numbers, without those that cannot be read."""
    texts = {}
    for row in rows:
        try:
            messages = _decode(row.request or "").get("messages")
        except UNREADABLE:
            continue
        if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
            continue
        texts[row.number] = request_text(messages, language=language)
    return texts
