"""Measures how far a judge can be trusted: against people, against itself, over time.

    report = calibrate(items, low=1, high=5)
    report.agreement["pearson"]                   # Interval(estimate=0.80, low=..., high=...)
    change(before_items, after_items)             # the same judge on two dates, or two judges

An item is one answer that was scored by the judge (once a repeat) and by one or more people (or by
a better judge). Correlations and the bias are of the means; kappas, exact agreement and the
confusion matrix are of the means rounded to the nearest possible score, and to the higher one of
two that are equally near. Items that belong together (answers to the same question) are resampled
together.

Whether the judge likes what it should not (long answers, a category, a model) is tested at equal
scores of people (`evaluators/stats/regression.py`), and all of these tests are corrected together:
a warning is one of a family of which 5% are false on average.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import msgspec
import numpy as np

from evaluators.stats import intervals
from evaluators.stats.agreement import (
    Pairs,
    krippendorff,
    ordered_pairs,
    weighted_share,
)
from evaluators.stats.differences import Paired, paired_difference, unpaired_difference
from evaluators.stats.false_discovery import benjamini_hochberg
from evaluators.stats.intervals import Interval
from evaluators.stats.judge_errors import JudgeErrors, judge_errors
from evaluators.stats.regression import Slope, partial_slope
from evaluators.stats.reliability import ceiling, icc, spearman_brown

FEW = 30
"""With fewer items a calibration says little, and a warning says so."""

POOR = 0.6
"""Below this correlation with people, a judge's scores say little about an answer."""

RELIABLE = 0.667
"""Below this alpha, Krippendorff (2004, Content Analysis, chapter 11) draws no conclusions."""

# With fewer items that several people scored, the error of people's scores is not known.
_ENOUGH = 10

MAX_BINS = 10
"""A judge's scores are grouped into at most so many bins."""

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
        answers: the number of items.
        excess: how much more the judge gives them than other items that people scored the same.
        p_value: for no such excess, corrected for all such tests of the calibration.
    """

    name: str
    judge: Interval
    people: Interval
    bias: Interval
    pearson: Interval
    answers: int = 0
    excess: Interval | None = None
    p_value: float | None = None


class Repeats(msgspec.Struct, frozen=True, kw_only=True):
    """The agreement between several scores of the same items: a judge's repeats, or people's.

    Attributes:
        most: the largest number of scores that an item has.
        alpha: Krippendorff's alpha for intervals.
        deviation: mean standard deviation between an item's scores.
        exact: share of the items whose scores are all the same.
        pearson: correlation of the first with the second score.
        icc_single: ICC(1,1), the reliability of one score.
        icc_mean: ICC(1,k), the reliability of the mean of an item's scores.
        k: the mean number of scores of an item.
    """

    most: int
    alpha: Interval
    deviation: Interval
    exact: Interval
    pearson: Interval
    icc_single: Interval | None = None
    icc_mean: Interval | None = None
    k: float | None = None


class Ceiling(msgspec.Struct, frozen=True, kw_only=True):
    """The highest correlation that the scores' reliabilities allow.

    Attributes:
        judge: the reliability of one score of the judge; 1 where it is unknown.
        people: the reliability of one person's score; 1 where it is unknown.
        single: the highest correlation of one score of each.
        means: the same of the means over repeats and people, which `agreement` compares.
    """

    judge: float
    people: float
    single: float
    means: float


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
        length_slope: how much the judge's score grows with every 100 words, people's being equal.
        models: one group for each model; empty where the models are unknown.
        warnings: sentences that a reader has to know before believing the numbers.
        units: for each measure, what its `n` counts.
        ceiling: the highest possible correlation; None without repeats and without several people.
        length_p_value: for no such slope, corrected as `Group.p_value` is.
        people_parsed: people's mean score of the items that the judge scored.
        people_unparsed: people's mean score of the others; None where the judge scored every item.
        biases: those of the warnings that are about what the judge likes or dislikes.
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
    units: dict[str, str] = {}
    ceiling: Ceiling | None = None
    length_p_value: float | None = None
    people_parsed: Interval | None = None
    people_unparsed: Interval | None = None
    biases: tuple[str, ...] = ()


class ScoreBin(msgspec.Struct, frozen=True, kw_only=True):
    """The answers that a judge gives about the same score.

    Attributes:
        low, high: the scores are from `low` on and below `high`; the last bin has `high`, too.
        judge: the judge's mean score of them.
        people: people's.
        answers: how many there are.
    """

    low: float
    high: float
    judge: float
    people: Interval
    answers: int


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
    measured = agreement(
        [_mean(item.judge) for item in scored],
        [_mean(item.people) for item in scored],
        _clusters(scored),
        scores=scores,
    )
    units = {name: "pairs" if name == "pairwise" else "answers" for name in MEASURES}
    if measured["bias"].n < len(scored):
        units["bias"] = "questions"
    itself = repeats([item.judge for item in scored])
    people = repeats([item.people for item in scored])
    suspects = _Suspects(scored)
    calibration = Calibration(
        items=len(items),
        scored=len(scored),
        unparsed=sum(not item.judge for item in items),
        low=low,
        high=high,
        agreement=measured,
        itself=itself,
        people=people,
        scores=tuple(values),
        confusion=tuple(map(tuple, counts)),
        categories=suspects.groups("category", (low, high)),
        lengths=_groups(_thirds(scored), low, high),
        length_slope=suspects.length.interval,
        models=suspects.groups("model", (low, high)),
        warnings=(),
        units=units,
        ceiling=_ceiling(itself, people),
        length_p_value=suspects.corrected("length", ""),
        people_parsed=_mean_of_people(scored, low, high),
        people_unparsed=_mean_of_people([item for item in items if not item.judge], low, high),
        biases=tuple(suspects.sentences()),
    )
    outside = sum(not low <= score <= high for item in scored for score in item.people)
    warnings = [*_warnings(calibration, items, outside), *calibration.biases]
    return msgspec.structs.replace(calibration, warnings=tuple(warnings))


def errors_of(items: Sequence[Item]) -> JudgeErrors:
    """Measure how often a judge of 0 and 1 is right about people's good and bad answers."""
    scored = [item for item in items if item.judge and item.people]
    return judge_errors(
        [_mean(item.judge) for item in scored],
        [_mean(item.people) for item in scored],
        _clusters(scored),
    )


def findings(calibration: Calibration) -> list[str]:
    """Return what a reader of the judge's scores has to know of its calibration, in clauses.

    Each clause has the judge as its subject: "agrees poorly with people (…)".
    """
    clauses = []
    pearson, bias = calibration.agreement["pearson"], calibration.agreement["bias"]
    over = f"over {calibration.scored:,} answers"
    if pearson.estimate is None:
        clauses.append(f"could not be compared with people {over}")
    elif pearson.estimate < POOR:
        clauses.append(f"agrees poorly with people (Pearson {_shown(pearson)} {over})")
    elif pearson.low is None or pearson.low < POOR:
        clauses.append(
            f"may agree poorly with people: {over}, Pearson {_shown(pearson)} is not exact enough"
        )
    if bias.low is not None and bias.high is not None and bias.low * bias.high > 0:
        more = "more" if bias.low > 0 else "less"
        size = msgspec.structs.replace(
            bias,
            estimate=abs(bias.estimate or 0.0),
            low=min(abs(bias.low), abs(bias.high)),
            high=max(abs(bias.low), abs(bias.high)),
        )
        clauses.append(
            f"gives {_shown(size)} {more} than people on average, so its mean is no estimate of "
            "people's"
        )
    if calibration.unparsed > 0.05 * calibration.items:
        clauses.append(
            f"left {calibration.unparsed:,} of {calibration.items:,} answers without a verdict"
        )
    return clauses


def score_bins(items: Sequence[Item], *, low: float, high: float) -> tuple[ScoreBin, ...]:
    """Group the answers by the judge's score; where that is whole, one bin has one score.

    Args:
        items: those without a score of the judge or of people are left out.
        low: the lowest possible score.
        high: the highest possible score.
    """
    span = high - low
    whole = float(low).is_integer() and float(high).is_integer() and 2 <= span < MAX_BINS
    count = round(span) + 1 if whole else MAX_BINS
    start, width = (low - 0.5, 1.0) if whole else (low, span / count)
    members: dict[int, list[Item]] = {}
    for item in items:
        if item.judge and item.people:
            place = math.floor((_mean(item.judge) - start) / width)
            members.setdefault(min(max(place, 0), count - 1), []).append(item)
    return tuple(
        ScoreBin(
            low=start + place * width,
            high=start + (place + 1) * width,
            judge=math.fsum(_mean(item.judge) for item in bin_items) / len(bin_items),
            people=intervals.mean_interval(
                [_mean(item.people) for item in bin_items],
                clusters=_clusters(bin_items),
                low=low,
                high=high,
            ),
            answers=len(bin_items),
        )
        for place, bin_items in sorted(members.items())
    )


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
    which those are, else of all. `n` counts the pairs that people set apart.
    """
    members: dict[str, list[int]] = {}
    for number, name in enumerate(clusters or [""] * len(judge)):
        members.setdefault(name, []).append(number)
    counts = [
        ordered_pairs([judge[number] for number in numbers], [people[number] for number in numbers])
        for numbers in members.values()
    ]
    rows = np.array([row for row in counts if row[1]]).reshape(-1, 2)
    accuracy = Pairs(judge, people).ordered() if clusters is None else weighted_share(rows)
    return msgspec.structs.replace(accuracy, n=int(rows[:, 1].sum()))


def repeats(scores: Sequence[Sequence[float]]) -> Repeats | None:
    """Compute how far several scores of each item agree; None where no item has two."""
    several = [given for given in scores if len(given) > 1]
    if not several:
        return None
    longest = max(map(len, several))
    raters = [[given[n] if n < len(given) else None for given in several] for n in range(longest)]
    same = sum(len(set(given)) == 1 for given in several)
    reliability = icc(several)
    return Repeats(
        most=longest,
        alpha=krippendorff(raters, level="interval"),
        deviation=intervals.mean_interval([float(np.std(given, ddof=1)) for given in several]),
        exact=intervals.wilson(same, len(several)),
        pearson=Pairs([given[0] for given in several], [given[1] for given in several]).pearson(),
        icc_single=reliability.single if reliability else None,
        icc_mean=reliability.mean if reliability else None,
        k=sum(map(len, several)) / len(several),
    )


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
    clusters = _clusters([earlier for earlier, _ in both])
    known = [(earlier, matching) for earlier, matching in both if earlier.people]
    return JudgeChange(
        n=len(both),
        agreement=agreement(after, before, clusters),
        difference=paired_difference(after, before, clusters=clusters),
        pearson_first=_with_people([(earlier, earlier) for earlier, _ in known]),
        pearson_second=_with_people(known),
    )


def _with_people(pairs: Sequence[tuple[Item, Item]]) -> Interval:
    """Correlate people's scores of the first items with the judge's of the second ones."""
    return Pairs(
        [_mean(judged.judge) for _, judged in pairs],
        [_mean(scored.people) for scored, _ in pairs],
        clusters=_clusters([scored for scored, _ in pairs]),
    ).pearson()


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
                answers=len(items),
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


def _warnings(calibration: Calibration, items: Sequence[Item], outside: int) -> Iterator[str]:
    if outside:
        yield (
            f"{outside:,} scores of people lie outside of {calibration.low:g} to "
            f"{calibration.high:g}, which is all the judge can say: kappas and the bias mean "
            "little. Are the scales the same?"
        )
    if calibration.scored < FEW:
        yield f"{calibration.scored} items are few: with fewer than {FEW} little can be said."
    if calibration.unparsed:
        yield _about_unparsed(calibration, items)
    itself, highest = calibration.itself, calibration.ceiling
    alpha = itself.alpha.estimate if itself else None
    if itself is not None and highest is not None and alpha is not None and alpha < RELIABLE:
        known = "" if calibration.people else " (people's scores taken as exact)"
        yield (
            f"The judge does not agree with itself (alpha {alpha:.2f} over repeats): one score of "
            f"it correlates with one person's score at most {highest.single:.2f}, the means that "
            f"are compared here at most {highest.means:.2f}{known}. More repeats raise that."
        )


def _about_unparsed(calibration: Calibration, items: Sequence[Item]) -> str:
    sentence = (
        f"{calibration.unparsed:,} of {calibration.items:,} answers got no score that could be "
        "read; the numbers are of the others."
    )
    without, others = calibration.people_unparsed, calibration.people_parsed
    if without is None or without.estimate is None or others is None or others.estimate is None:
        return sentence
    sentence += (
        f" People gave them {without.estimate:.2f} on average and the others {others.estimate:.2f}"
    )
    gap = unpaired_difference(
        [_mean(item.people) for item in items if item.people and not item.judge],
        [_mean(item.people) for item in items if item.people and item.judge],
    )
    if gap is not None and gap.p_mann_whitney <= 0.05:
        return f"{sentence}: leaving them out changes the judge's mean."
    return f"{sentence}."


def _mean_of_people(items: Sequence[Item], low: float, high: float) -> Interval | None:
    known = [item for item in items if item.people]
    if not known:
        return None
    means = [_mean(item.people) for item in known]
    return intervals.mean_interval(means, clusters=_clusters(known), low=low, high=high)


def _ceiling(itself: Repeats | None, people: Repeats | None) -> Ceiling | None:
    """Return the highest correlation by Spearman, for means by Spearman and Brown."""
    if itself is None and people is None:
        return None
    judge, several_judgements = _reliability(itself)
    person, several_people = _reliability(people)
    return Ceiling(
        judge=judge,
        people=person,
        single=ceiling(judge, person),
        means=ceiling(
            spearman_brown(judge, several_judgements), spearman_brown(person, several_people)
        ),
    )


def _reliability(repeated: Repeats | None) -> tuple[float, float]:
    """Return the reliability of one score, and how many scores a mean has."""
    if repeated is None or repeated.alpha.estimate is None:
        return 1.0, 1.0
    return max(0.0, repeated.alpha.estimate), repeated.k or 1.0


class _Suspects:
    """What the judge's scores should not depend on, tested at equal scores of people."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._judge = [_mean(item.judge) for item in items]
        self._people = [_mean(item.people) for item in items]
        self._clusters = _clusters(items)
        self._error = _error_of_people(items)
        self.length = self._slope([item.words / 100 for item in items])
        self._slopes = {("length", ""): self.length}
        for kind, names in (
            ("category", [item.category for item in items]),
            ("model", [item.model for item in items]),
        ):
            for name in dict.fromkeys(names):
                if name:
                    self._slopes[kind, name] = self._slope(
                        [float(name == other) for other in names]
                    )
        tested = {
            key: slope.p_value for key, slope in self._slopes.items() if slope.p_value is not None
        }
        self._corrected = dict(zip(tested, benjamini_hochberg(list(tested.values())), strict=True))

    def _slope(self, suspect: Sequence[float]) -> Slope:
        """Regress the judge's scores on a suspect and people's scores.

        People's scores miss a part of an answer's quality, so that whatever good answers have more
        of seems to please a judge who sees that part. Where the size of the part is known, the
        p-value is the larger one of both readings: that people's scores are the truth, and that
        they are the truth with an error.
        """
        slope = self._regressed(suspect, 0.0)
        if not self._error or slope.p_value is None:
            return slope
        other = self._regressed(suspect, self._error)
        estimates = slope.interval.estimate, other.interval.estimate
        if other.p_value is None or estimates[0] is None or estimates[1] is None:
            return msgspec.structs.replace(slope, p_value=1.0)
        p_value = max(slope.p_value, other.p_value) if estimates[0] * estimates[1] > 0 else 1.0
        return msgspec.structs.replace(slope, p_value=p_value)

    def _regressed(self, suspect: Sequence[float], error: float) -> Slope:
        return partial_slope(
            self._judge, suspect, self._people, clusters=self._clusters, control_error=error
        )

    def corrected(self, kind: str, name: str) -> float | None:
        """Return the p-value of a suspect, corrected for all of them."""
        return self._corrected.get((kind, name))

    def groups(
        self, kind: Literal["category", "model"], bounds: tuple[float, float]
    ) -> tuple[Group, ...]:
        """Return the groups of a kind with what the judge gives them in excess."""
        named = [
            (item.category if kind == "category" else item.model, item) for item in self._items
        ]
        return tuple(
            msgspec.structs.replace(
                group,
                excess=self._slopes[kind, group.name].interval,
                p_value=self.corrected(kind, group.name),
            )
            for group in _groups(named, *bounds)
        )

    def sentences(self) -> Iterator[str]:
        """Yield one sentence for each suspect that the judge's scores depend on."""
        for (kind, name), p_value in self._corrected.items():
            slope = self._slopes[kind, name].interval.estimate
            if p_value > 0.05 or slope is None:
                continue
            if kind == "length":
                verb = "prefers" if slope > 0 else "dislikes"
                yield (
                    f"The judge {verb} longer answers more than people do: {slope:+.2f} for every "
                    "100 words at equal scores of people."
                )
                continue
            what = f"in the category {name}" if kind == "category" else f"of the model {name}"
            more = "more" if slope > 0 else "less"
            yield (
                f"The judge gives answers {what} {abs(slope):.2f} {more} than others that people "
                "scored the same."
            )


def _error_of_people(items: Sequence[Item]) -> float:
    """Return the variance of the error of people's means, as far as their repeats show it."""
    several = [item.people for item in items if len(item.people) > 1]
    if len(several) < _ENOUGH:
        return 0.0
    squares = math.fsum(float(np.var(given)) * len(given) for given in several)
    of_one = squares / sum(len(given) - 1 for given in several)
    return of_one * math.fsum(1 / len(item.people) for item in items) / len(items)


def _shown(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.estimate:.2f}"
    return f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
