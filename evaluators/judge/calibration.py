"""Measures how far a judge can be trusted: against people, against itself, over time.

    report = calibrate(items, low=1, high=5)
    report.agreement["pearson"]                   # Interval(estimate=0.80, low=..., high=...)
    change(before_items, after_items)             # the same judge on two dates, or two judges

An item is one answer that was scored by the judge (once a repeat) and by one or more people (or by
a better judge). Correlations and the bias are of the means; kappas, exact agreement and the
confusion matrix are of the means rounded to the nearest possible score, and to the higher one of
two that are equally near. Items that belong together (answers to the same question) are resampled
together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import msgspec
import numpy as np

from evaluators.stats import intervals
from evaluators.stats.agreement import Pairs, krippendorff
from evaluators.stats.differences import Paired, paired_difference
from evaluators.stats.intervals import Interval

FEW = 30
"""With fewer items a calibration says little, and a warning says so."""

MEASURES = {
    "pearson": "Pearson's correlation",
    "spearman": "Spearman's rank correlation",
    "kendall": "Kendall's tau-b",
    "kappa": "Cohen's kappa",
    "kappa_quadratic": "Cohen's kappa, quadratic",
    "exact": "exact agreement",
    "within_one": "within one score",
    "pairwise": "pairwise accuracy",
    "bias": "bias (judge - people)",
}
"""The name in reports of each measure."""

Agreement: TypeAlias = dict[str, Interval]


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One answer with its scores.

    Attributes:
        id: unique among the items.
        judge: the judge's score of each repeat that could be read.
        people: the scores to compare with.
        question: the question of the answer; answers to the same question belong together.
        category: the kind of question, "" where it has none.
        model: the model that wrote the answer, "" when that is unknown.
        words: the number of words of the answer.
    """

    id: str
    judge: tuple[float, ...]
    people: tuple[float, ...]
    question: str = ""
    category: str = ""
    model: str = ""
    words: int = 0


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The items of one category, length or model.

    Attributes:
        name: the category, length or model.
        judge: the judge's mean score.
        people: people's mean score.
        bias: judge - people.
        pearson: correlation within the group.
    """

    name: str
    judge: Interval
    people: Interval
    bias: Interval
    pearson: Interval


class Repeats(msgspec.Struct, frozen=True, kw_only=True):
    """The agreement between several scores of the same items: a judge's repeats, or people's.

    Attributes:
        most: the largest number of scores that an item has.
        alpha: Krippendorff's alpha for intervals.
        deviation: mean standard deviation between an item's scores.
        exact: share of the items whose scores are all the same.
        pearson: correlation of the first with the second score.
    """

    most: int
    alpha: Interval
    deviation: Interval
    exact: Interval
    pearson: Interval


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a judge's scores.

    Attributes:
        items: the number of items.
        scored: the number of items with a score of the judge.
        unparsed: the number of items without one.
        low: the lowest possible score.
        high: the highest possible score.
        agreement: measure (see MEASURES) to its value.
        itself: the judge's repeats among each other, which is the ceiling; None without repeats.
        people: people's scores among each other; None where each item has one score.
        scores: the values of the confusion matrix.
        confusion: one row for each score people gave, one number for each that the judge gave.
        categories: one group for each category; empty where the items have no category.
        lengths: the shortest, the middle and the longest third of the answers.
        length_slope: how much judge - people grows with every 100 words.
        models: one group for each model; empty where the models are unknown.
        warnings: sentences that a reader has to know before believing the numbers.
    """

    items: int
    scored: int
    unparsed: int
    low: float
    high: float
    agreement: Agreement
    itself: Repeats | None
    people: Repeats | None
    scores: tuple[float, ...]
    confusion: tuple[tuple[int, ...], ...]
    categories: tuple[Group, ...]
    lengths: tuple[Group, ...]
    length_slope: Interval
    models: tuple[Group, ...]
    warnings: tuple[str, ...]


class JudgeChange(msgspec.Struct, frozen=True, kw_only=True):
    """Two judges, or one on two dates, over the items that both scored.

    Attributes:
        n: the number of those items.
        agreement: the agreement of the second with the first.
        difference: mean of second - first with its paired test; None when n is 0.
        pearson_first: the correlation of the first with people.
        pearson_second: the correlation of the second with people.
    """

    n: int
    agreement: Agreement
    difference: Paired | None
    pearson_first: Interval
    pearson_second: Interval


def calibrate(
    items: Sequence[Item], *, low: float, high: float, scores: Sequence[float] = ()
) -> Calibration:
    """Compare a judge with people.

    Args:
        items: answers with at least one score of people each.
        low: the lowest possible score.
        high: the highest possible score.
        scores: all possible scores, where they are not the whole numbers between those two.
    """
    scores = sorted(scores) or _whole(low, high)
    scored = [item for item in items if item.judge and item.people]
    values, counts = Pairs(
        [scores[_nearest(_mean(item.judge), scores)] for item in scored],
        [scores[_nearest(_mean(item.people), scores)] for item in scored],
    ).confusion()
    itself = repeats([item.judge for item in scored])
    people = repeats([item.people for item in scored])
    calibration = Calibration(
        items=len(items),
        scored=len(scored),
        unparsed=sum(not item.judge for item in items),
        low=low,
        high=high,
        agreement=agreement(
            [_mean(item.judge) for item in scored],
            [_mean(item.people) for item in scored],
            _clusters(scored),
            scores=scores,
        ),
        itself=itself,
        people=people,
        scores=tuple(values),
        confusion=tuple(map(tuple, counts)),
        categories=_groups([(item.category, item) for item in scored], low, high),
        lengths=_groups(_thirds(scored), low, high),
        length_slope=length_slope(
            [item.words for item in scored],
            [_mean(item.judge) - _mean(item.people) for item in scored],
        ),
        models=_groups([(item.model, item) for item in scored], low, high),
        warnings=(),
    )
    outside = sum(not low <= score <= high for item in scored for score in item.people)
    return msgspec.structs.replace(calibration, warnings=tuple(_warnings(calibration, outside)))


def agreement(
    judge: Sequence[float],
    people: Sequence[float],
    clusters: Sequence[str] | None = None,
    *,
    scores: Sequence[float] = (),
) -> Agreement:
    """Compute every measure of MEASURES for two scores an item; `scores` as for `calibrate`."""
    both = [*judge, *people]
    scores = scores or _whole(min(both, default=0), max(both, default=0))
    means = Pairs(judge, people, clusters=clusters)
    rounded = Pairs(
        [_nearest(score, scores) for score in judge],
        [_nearest(score, scores) for score in people],
        clusters=clusters,
    )
    return {
        "pearson": means.pearson(),
        "spearman": means.spearman(),
        "kendall": means.kendall(),
        "kappa": rounded.kappa(),
        "kappa_quadratic": rounded.kappa("quadratic"),
        "exact": rounded.within(),
        "within_one": rounded.within(1),
        "pairwise": pairwise_accuracy(judge, people, clusters),
        "bias": means.bias(),
    }


def pairwise_accuracy(
    judge: Sequence[float], people: Sequence[float], clusters: Sequence[str] | None = None
) -> Interval:
    """Compute the share of the pairs of answers that the judge orders as people do.

    A tie of the judge counts half. Pairs are of answers to the same question where `clusters` says
    which those are, else of all.
    """
    if clusters is None:
        return Pairs(judge, people).ordered()
    sums: dict[str, list[float]] = {}
    members: dict[str, list[int]] = {}
    for number, name in enumerate(clusters):
        members.setdefault(name, []).append(number)
    for name, numbers in members.items():
        credit, decided = sums.setdefault(name, [0.0, 0.0])
        for place, second in enumerate(numbers):
            for first in numbers[:place]:
                by_people = people[second] - people[first]
                if not by_people:
                    continue
                by_judge = judge[second] - judge[first]
                decided += 1
                credit += 0.5 if not by_judge else float((by_judge > 0) == (by_people > 0))
        sums[name] = [credit, decided]
    rows = np.array([row for row in sums.values() if row[1]]).reshape(-1, 2)
    if not len(rows):
        return Interval(estimate=None, low=None, high=None, n=0)
    return intervals.corpus_interval(rows, lambda total: total[0] / total[1])


def repeats(scores: Sequence[Sequence[float]]) -> Repeats | None:
    """Compute how far several scores of each item agree; None where no item has two."""
    several = [given for given in scores if len(given) > 1]
    if not several:
        return None
    longest = max(map(len, several))
    raters = [[given[n] if n < len(given) else None for given in several] for n in range(longest)]
    same = sum(len(set(given)) == 1 for given in several)
    return Repeats(
        most=longest,
        alpha=krippendorff(raters, level="interval"),
        deviation=intervals.mean_interval([float(np.std(given, ddof=1)) for given in several]),
        exact=intervals.wilson(same, len(several)),
        pearson=Pairs([given[0] for given in several], [given[1] for given in several]).pearson(),
    )


def length_slope(words: Sequence[int], gap: Sequence[float]) -> Interval:
    """Compute how much `gap` grows with every 100 words: least squares, bootstrap interval."""
    rows = [
        (1.0, length / 100, (length / 100) ** 2, value, value * length / 100)
        for length, value in zip(words, gap, strict=True)
    ]
    if len(set(words)) < 2:
        return Interval(estimate=None, low=None, high=None, n=len(rows))

    def slope(sums: Sequence[float]) -> float:
        n, x, xx, y, xy = sums
        spread = n * xx - x * x
        return (n * xy - x * y) / spread if spread > 1e-12 * max(1.0, n * xx) else 0.0

    return intervals.corpus_interval(rows, slope)


def change(first: Sequence[Item], second: Sequence[Item]) -> JudgeChange:
    """Compare a judge's scores on two dates, or the scores of two judges.

    Args:
        first: the earlier items, or those of the judge to compare with.
        second: the later items; items are matched by their id.
    """
    later = {item.id: item for item in second if item.judge}
    both = [(item, later[item.id]) for item in first if item.judge and item.id in later]
    before = [_mean(earlier.judge) for earlier, _ in both]
    after = [_mean(matching.judge) for _, matching in both]
    people = [(n, _mean(earlier.people)) for n, (earlier, _) in enumerate(both) if earlier.people]
    truth = [score for _, score in people]
    return JudgeChange(
        n=len(both),
        agreement=agreement(after, before, _clusters([earlier for earlier, _ in both])),
        difference=paired_difference(after, before),
        pearson_first=Pairs([before[n] for n, _ in people], truth).pearson(),
        pearson_second=Pairs([after[n] for n, _ in people], truth).pearson(),
    )


def _mean(scores: Sequence[float]) -> float:
    return math.fsum(scores) / len(scores)


def _whole(low: float, high: float) -> list[float]:
    return [float(score) for score in range(math.floor(low), math.ceil(high) + 1)]


def _nearest(score: float, scores: Sequence[float]) -> int:
    """Return the place of the nearest of the scores; of the higher of two equally near ones."""
    return min(range(len(scores)), key=lambda place: (abs(scores[place] - score), -scores[place]))


def _clusters(items: Sequence[Item]) -> list[str] | None:
    """Return each item's question; None where every question has one answer."""
    questions = [item.question for item in items]
    if not all(questions) or len(set(questions)) == len(questions):
        return None
    return questions


def _groups(named: Sequence[tuple[str, Item]], low: float, high: float) -> tuple[Group, ...]:
    groups: dict[str, list[Item]] = {}
    for name, item in named:
        if name:
            groups.setdefault(name, []).append(item)
    named_groups = []
    for name, items in groups.items():
        judge = [_mean(item.judge) for item in items]
        people = [_mean(item.people) for item in items]
        clusters = _clusters(items)
        named_groups.append(
            Group(
                name=name,
                judge=intervals.mean_interval(judge, clusters=clusters, low=low, high=high),
                people=intervals.mean_interval(people, clusters=clusters, low=low, high=high),
                bias=intervals.mean_interval(
                    np.subtract(judge, people), clusters=clusters, low=low - high, high=high - low
                ),
                pearson=Pairs(judge, people, clusters=clusters).pearson(),
            )
        )
    return tuple(named_groups)


def _thirds(items: Sequence[Item]) -> list[tuple[str, Item]]:
    """Return the items, each with the name of the third that its length belongs to."""
    if len({item.words for item in items}) < 3:
        return []
    low, high = np.quantile([item.words for item in items], [1 / 3, 2 / 3])
    named = []
    for item in sorted(items, key=lambda item: item.words):
        if item.words <= low:
            name = f"up to {int(low)} words"
        elif item.words <= high:
            name = f"up to {int(high)} words"
        else:
            name = f"more than {int(high)} words"
        named.append((name, item))
    return named


def _warnings(calibration: Calibration, outside: int) -> list[str]:
    warnings = []
    if outside:
        warnings.append(
            f"{outside:,} scores of people lie outside of {calibration.low:g} to "
            f"{calibration.high:g}, which is all the judge can say: kappas and the bias mean "
            "little. Are the scales the same?"
        )
    if calibration.scored < FEW:
        warnings.append(
            f"{calibration.scored} items are few: with fewer than {FEW} little can be said."
        )
    if calibration.unparsed:
        warnings.append(
            f"{calibration.unparsed:,} of {calibration.items:,} answers got no score that could be "
            "read; the numbers are of the others."
        )
    slope = calibration.length_slope
    if slope.low is not None and slope.high is not None and slope.low * slope.high > 0:
        verb = "prefers" if slope.low > 0 else "dislikes"
        warnings.append(f"The judge {verb} longer answers more than people do.")
    for group in calibration.categories:
        bias = group.bias
        if group.bias.n >= 5 and bias.low is not None and bias.high is not None:
            if bias.low > 0:
                warnings.append(f"The judge is kinder than people in the category {group.name}.")
            if bias.high < 0:
                warnings.append(f"The judge is stricter than people in the category {group.name}.")
    ceiling = calibration.itself.alpha.estimate if calibration.itself else None
    if ceiling is not None and ceiling < 0.667:
        warnings.append(
            f"The judge does not agree with itself (alpha {ceiling:.2f} over repeats); "
            "it cannot agree better with anybody else."
        )
    return warnings
