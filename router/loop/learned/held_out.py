"""Tests a learned route on prompts that it has not seen, against always taking one target.

    report = held_out_report(examples, criterion, neighbours=50, margin=0.02)
    report.decision       # "pays", "does_not_pay" or "untested"

Users (or conversations) are dealt out to FOLDS folds; the choice for a prompt is made by a model of
the other folds. Each prompt then gives one unbiased estimate of how much the route differs from the
one target, in score and in cost:

- where all targets have scores there, the difference itself;
- where only the target that answered has one, and the chance with which it was chosen is known, the
  doubly robust estimate (Robins, Rotnitzky and Zhao 1994, JASA 89:846-866; Dudik, Langford and Li
  2011, ICML): the difference that the model predicts, and what the answer differed from the
  prediction, divided by that chance.

Prompts of neither kind teach the model and are no part of the test. The means have intervals over
users. The route pays where its score is not lower by more than the margin, where its costs are
lower, and where it is better or cheaper than the same targets taken as often by chance: a margin
alone would let a route save money by a worse target for a few requests, whatever their prompts say.
All three hold at the level of the intervals, so a route that lacks one of them is said to pay in at
most 2.5 % of tests.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from evaluators.stats.intervals import Interval, mean_interval
from evaluators.stats.power import sample_size
from router.loop.learned.examples import Examples, Floats, Ints, column_means, filled
from router.loop.learned.neighbours import Criterion, NeighbourModel, choose

FOLDS = 5
LEVEL = 0.95
_HALF_LEVEL = 1 - (1 - LEVEL) / 2
FEWEST_ROWS = 100
"""A test has at least so many prompts."""

FEWEST_UNITS = 20
"""A test has prompts of at least so many users or conversations."""

FEWEST_TAUGHT = 10
"""A model has at least so many scores of each target."""

LOWEST_PROPENSITY = 0.01
"""Answers of targets that were chosen with a lower chance count as if they had this one."""

_MIXED = 0x9E3779B97F4A7C15  # Knuth's multiplicative hash, so that folds do not follow time

Decision = Literal["pays", "does_not_pay", "untested"]


class TargetShare(msgspec.Struct, frozen=True, kw_only=True):
    """A target in the test.

    Attributes:
        target: `provider/model`.
        rows: how many prompts have a score of it.
        score, cost_usd: the means over these; None without any.
        share: of the prompts of the test, those for which it was chosen.
    """

    target: str
    rows: int
    score: float | None
    cost_usd: float | None
    share: float


class HeldOutReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a route is worth on prompts that its model has not seen.

    Attributes:
        decision: `pays`, `does_not_pay`, or `untested` where there is too little to test.
        reason: why, in words.
        always: the target that it is compared with.
        margin: how much lower its score may be.
        rows, units: the prompts of the test, and of how many users or conversations they are.
        paired, weighted: the prompts with scores of all targets, and those that count by the chance
            with which their target was chosen.
        excluded: prompts with neither.
        score_difference, score_low, score_high: the route's score less that of `always`.
        cost_difference, cost_low, cost_high: the same of US dollars per request.
        cost_always: US dollars per request of `always`.
        by_chance_score, by_chance_cost: the route's score and cost less those of taking the same
            targets as often, but by chance.
        saving, saving_low, saving_high: the difference as a share of that; negative where the route
            costs more.
        rows_needed: about how many prompts it takes to show that a route with the same score as
            `always` is not worse by the margin; None where that is unknown.
        targets: the targets, and how often each was chosen.
    """

    decision: Decision
    reason: str
    always: str
    margin: float
    rows: int
    units: int
    paired: int
    weighted: int
    excluded: int
    score_difference: float | None = None
    score_low: float | None = None
    score_high: float | None = None
    cost_difference: float | None = None
    cost_low: float | None = None
    cost_high: float | None = None
    cost_always: float | None = None
    by_chance_score: float | None = None
    by_chance_cost: float | None = None
    saving: float | None = None
    saving_low: float | None = None
    saving_high: float | None = None
    rows_needed: int | None = None
    targets: tuple[TargetShare, ...] = ()


def fold_of(units: Ints) -> Ints:
    """Return the fold of each unit, from 0; prompts of one unit are in one fold."""
    mixed = units.astype(np.uint64) * np.uint64(_MIXED)
    return ((mixed >> np.uint64(32)) % np.uint64(FOLDS)).astype(np.int64)


def always_target(examples: Examples, criterion: Criterion) -> int:
    """Return the position of the one target that is good enough by its mean, and cheapest.

    It is the reference, or where no target is good enough the one with the highest mean.
    """
    if criterion.reference >= 0:
        return criterion.reference
    scores = column_means(examples.scores)
    costs = np.nan_to_num(column_means(examples.costs), nan=np.inf)
    assert criterion.at_least is not None, "else there is a reference"
    good = np.flatnonzero(scores >= criterion.at_least)
    if not len(good):
        return int(np.nanargmax(scores))
    return int(min(good, key=lambda n: (costs[n], -scores[n])))


def held_out_report(
    examples: Examples,
    criterion: Criterion,
    *,
    neighbours: int,
    margin: float,
    min_saving: float = 0.0,
) -> HeldOutReport:
    """Return what a route is worth on prompts that its model has not seen.

    Args:
        examples: what is known; every target has a score somewhere.
        criterion: when a target is good enough.
        neighbours: how many prompts a prediction is made of.
        margin: how much lower the route's score may be than that of always taking one target.
        min_saving: the share of that target's cost which it has to save at least.
    """
    always = always_target(examples, criterion)
    tested = _cross_fitted(examples, criterion, neighbours)
    k, m = len(examples.targets), len(tested.picks)
    shares = np.bincount(tested.picks, minlength=k) / max(1, m)
    scores, costs = column_means(examples.scores), column_means(examples.costs)
    report = HeldOutReport(
        decision="untested",
        reason="",
        always=examples.targets[always],
        margin=margin,
        rows=m,
        units=len(np.unique(tested.units)),
        paired=tested.paired,
        weighted=m - tested.paired,
        excluded=len(examples.scores) - m,
        targets=tuple(
            TargetShare(
                target=target,
                rows=examples.known[n],
                score=_or_none(scores[n]),
                cost_usd=_or_none(costs[n]),
                share=float(shares[n]),
            )
            for n, target in enumerate(examples.targets)
        ),
    )
    if report.rows < FEWEST_ROWS or report.units < FEWEST_UNITS:
        return msgspec.structs.replace(
            report,
            reason=(
                f"{report.rows} prompts of {report.units} users or conversations can be tested; "
                f"at least {FEWEST_ROWS} prompts of {FEWEST_UNITS} users or conversations are "
                "needed"
            ),
        )
    return _decided(report, tested, always, shares, min_saving)


def _decided(
    report: HeldOutReport, tested: _Tested, always: int, shares: Floats, min_saving: float
) -> HeldOutReport:
    width = max(1e-9, float(np.ptp(tested.scores)))
    only = np.eye(len(shares))[always]
    gaps = tested.gaps(tested.scores, only)
    score = _interval(gaps, tested.units, width)
    cost = _interval(tested.gaps(tested.costs, only), tested.units)
    # Each at half the level, as one of them is enough.
    better = _interval(tested.gaps(tested.scores, shares), tested.units, level=_HALF_LEVEL)
    cheaper = _interval(tested.gaps(tested.costs, shares), tested.units, level=_HALF_LEVEL)
    cost_always = float(tested.costs[:, always].mean())
    report = msgspec.structs.replace(
        report,
        score_difference=score.estimate,
        score_low=score.low,
        score_high=score.high,
        cost_difference=cost.estimate,
        cost_low=cost.low,
        cost_high=cost.high,
        cost_always=cost_always,
        saving=_share(cost.estimate, cost_always),
        saving_low=_share(cost.high, cost_always),
        saving_high=_share(cost.low, cost_always),
        by_chance_score=better.estimate,
        by_chance_cost=cheaper.estimate,
        rows_needed=_rows_needed(gaps, width, report.margin),
    )
    reason = _why_not(
        report,
        tells_more=(better.low or 0.0) > 0 or (cheaper.high or 0.0) < 0,
        min_saving=min_saving,
    )
    numbers = _numbers(report)
    return msgspec.structs.replace(
        report,
        decision="does_not_pay" if reason else "pays",
        reason=f"{reason}: {numbers}" if reason else numbers,
    )


def _share(difference: float | None, total: float) -> float | None:
    """Return what is saved as a share of a total."""
    return None if difference is None or total <= 0 else -difference / total


def _why_not(report: HeldOutReport, *, tells_more: bool, min_saving: float) -> str:
    """Return why a route does not pay; "" where it does."""
    always = f"always {report.always}"
    chosen = [share.target for share in report.targets if share.share]
    if chosen == [report.always]:
        return f"it would take {report.always} for every prompt"
    if report.score_low is None or report.score_low < -report.margin:
        needed = report.rows_needed
        more = needed is not None and needed > report.rows
        return f"it may be worse than {always} by more than the margin" + (
            f" (of a route that is not, about {needed:,} prompts show it)" if more else ""
        )
    if report.saving is None:
        return f"the cost of {always} is unknown or zero"
    if len(chosen) == 1:
        return f"always {chosen[0]} is as good and costs the same as it does"
    if (
        report.saving_low is None
        or report.saving_low < max(min_saving, 0.0)
        or (report.saving_low <= 0)
    ):
        return f"{always} costs about the same at the same quality"
    if not tells_more:
        return "the prompts do not tell which target to take: chance does as well"
    return ""


def _numbers(report: HeldOutReport) -> str:
    saving = "unknown savings"
    if report.saving is not None:
        word = "saves" if report.saving >= 0 else "costs more:"
        saving = f"{word} {abs(report.saving):.0%}"
        if report.saving_low is not None and report.saving_high is not None:
            saving += f" ({report.saving_low:.0%} to {report.saving_high:.0%})"
    return (
        f"{saving} against always {report.always}, at a score that differs by "
        f"{_end(report.score_difference)} ({_end(report.score_low)} to {_end(report.score_high)}; "
        f"margin {report.margin:g})"
    )


def _end(value: float | None) -> str:
    return "unknown" if value is None else f"{value:+.3f}"


def _interval(
    gaps: Floats, units: Ints, width: float | None = None, *, level: float = LEVEL
) -> Interval:
    """Return the mean of differences over units and its interval.

    Args:
        gaps: the differences.
        units: whose they are.
        width: how large they can be; None for the largest of them.
        level: of the interval.
    """
    scale = width or float(np.abs(gaps).max())
    if not scale:
        return Interval(estimate=0.0, low=0.0, high=0.0, n=len(gaps))
    # Dollars for one request are tiny numbers.
    interval = mean_interval(gaps / scale, clusters=units.tolist(), low=-1.0, high=1.0, level=level)
    ends = (interval.estimate, interval.low, interval.high)
    estimate, low, high = (None if end is None else end * scale for end in ends)
    return msgspec.structs.replace(interval, estimate=estimate, low=low, high=high)


def _rows_needed(gaps: Floats, width: float, margin: float) -> int | None:
    """Return about how many prompts show that a route without a difference is not worse."""
    if not margin:
        return None
    deviation = float(gaps.std())
    spread = sample_size(margin, sd=deviation) if deviation else 0
    # Where no difference is seen, one in so many may still be there.
    unseen = math.ceil(-math.log((1 - LEVEL) / 2) * width / margin)
    return None if spread is None else max(spread, unseen)


class _Tested(NamedTuple):
    """What the test knows of its m prompts.

    Attributes:
        picks: the positions of the chosen targets, shape (m,).
        scores, costs: an unbiased estimate of each target's score and cost, shape (m, k).
        units: of the prompts, shape (m,).
        paired: how many have scores of all targets.
    """

    picks: Ints
    scores: Floats
    costs: Floats
    units: Ints
    paired: int

    def gaps(self, values: Floats, other: Floats) -> Floats:
        """Return what the chosen targets have less what others have, shape (m,).

        `other` are the shares in which the others' values count, shape (k,).
        """
        gaps: Floats = values[np.arange(len(values)), self.picks] - values @ other
        return gaps


def _cross_fitted(examples: Examples, criterion: Criterion, neighbours: int) -> _Tested:
    """Choose a target for each prompt by a model that has not seen its unit."""
    folds = fold_of(examples.units)
    known = np.isfinite(examples.scores)
    complete: NDArray[np.bool_] = np.asarray(known.all(axis=1))
    usable = complete | (np.isfinite(examples.propensities) & known.any(axis=1))
    scores, costs = examples.scores.copy(), filled(examples.costs)
    picks = np.full(len(scores), -1, dtype=np.int64)
    for fold in range(FOLDS):
        rows = np.flatnonzero((folds == fold) & usable)
        training = examples.take(folds != fold)
        if not len(rows) or min(training.known) < FEWEST_TAUGHT:
            continue
        model = NeighbourModel(training, criterion, neighbours=neighbours)
        predicted = model.predict(examples.vectors[rows])
        picks[rows] = choose(predicted, criterion)
        some = ~complete[rows]
        weighted = rows[some]
        answered = known[weighted].argmax(axis=1)
        chances = np.maximum(examples.propensities[weighted], LOWEST_PROPENSITY)
        at = np.arange(len(weighted)), answered
        for values, guesses in ((scores, predicted.scores), (costs, predicted.costs)):
            estimates = guesses[some].copy()
            truth = values[weighted, answered]
            estimates[at] += (truth - estimates[at]) / chances
            values[weighted] = estimates
    tested = picks >= 0
    return _Tested(
        picks[tested],
        scores[tested],
        np.nan_to_num(costs[tested]),
        examples.units[tested],
        int((tested & complete).sum()),
    )


def _or_none(value: NDArray[np.float64] | float) -> float | None:
    return float(value) if np.isfinite(value) else None
