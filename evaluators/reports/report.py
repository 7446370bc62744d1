"""From a run's answers and scores to the numbers that people compare.

    scores = ScoreAccumulator(
        routes=["a", "b"], metrics=metrics, expected={"a": 60, "b": 60}, baseline="a"
    )
    for row in rows:
        scores.add(row.cell, row.answer, row.scores)
    report = summarise(scores)
    msgspec.json.encode(report)                    # or evaluators.reports.table.to_table(report)

A failed answer is counted, shown and never averaged in. A score is over the samples that have one,
a difference over the samples that both routes have one for, and `n` says how many those are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec
import numpy as np

from evaluators.base import PRECOMPUTED, Output
from evaluators.reports.accumulator import UNKNOWN_RUN, Measured, RouteScores, ScoreAccumulator
from evaluators.reports.corrected_shares import (
    share_comparisons,
    share_infos,
    share_outputs,
    share_scores,
)
from evaluators.reports.estimates import FEW_SAMPLES, CellScores, score_estimate
from evaluators.reports.headlines import enough_labels, headline_warnings, judged_headlines
from evaluators.reports.interval_warnings import interval_warnings
from evaluators.reports.missing_scores import missing_scores
from evaluators.reports.scores import Note, OutputInfo, RouteScore, decimals
from evaluators.stats import differences, intervals
from evaluators.stats.comparison import (
    ALPHA,
    Clusters,
    Comparison,
    SampleScores,
    comparison,
)
from evaluators.stats.judge_errors import JudgeErrors
from evaluators.stats.sequential import ASYMPTOTIC_MINIMUM
from evaluators.text.answers import SHORTFALLS, OnTruncated

NO_BASELINE = (
    "No baseline is named, so no differences are tested; whether intervals overlap does not decide "
    "it."
)

METHOD = (
    "95% intervals over samples: Student's t, Wilson's for scores of 0 and 1, a bootstrap for "
    "corpus scores. The interval and the p-value of a difference are of one paired test: t, "
    "Tango's score test for 0 and 1, the bootstrap's error for corpus scores; labels correct "
    "judges' means by PPI++. Samples in clusters: cluster-robust (CR2). Verdicts are corrected by "
    "Holm over all comparisons with a direction. The page Statistics of the documentation has the "
    "exceptions and sources."
)


METHOD_ALWAYS_VALID = (
    "This run was looked at before it had all of its samples, so its 95% intervals and p-values "
    "hold whenever one looks, and are wider: bets against each value for scores with a range, "
    "asymptotic confidence sequences from 100 samples (or clusters) on for others. Verdicts are "
    "corrected by Holm over all comparisons with a direction. The page Statistics of the "
    "documentation has the exceptions and sources."
)


class ErrorGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Failed answers with the same error code, and one of their messages, shortened."""

    code: str
    count: int
    example: str


class TokenSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens as the targets counted them, else as estimated.

    Attributes:
        prompt, completion, total: of the answers whose tokens are known.
        unknown: answers without a count.
        estimated: answers whose tokens are estimated, because their target did not count them.
    """

    prompt: int
    completion: int
    total: int
    unknown: int
    estimated: int = 0


class CostSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What the answers cost in US dollars; a cached answer costs what it cost when it was made.

    Attributes:
        total_usd: None when the price of any answer is unknown.
        known_usd: the part that is known, failed answers with a price included.
        unknown: answers (not failed ones) whose price is unknown.
        estimated: answers whose cost is known, and estimated because their tokens are.
    """

    total_usd: float | None
    known_usd: float
    unknown: int
    estimated: int = 0


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds to the last byte: median and 95th percentile of n answers that were not cached."""

    p50_s: float | None
    p95_s: float | None
    n: int


class Confusion(msgspec.Struct, frozen=True, kw_only=True):
    """A confusion matrix: how often each label was due and given; repeats of a sample are averaged.

    Attributes:
        output: the output that it belongs to.
        labels: of the columns; the rows are the same without the last (none of the labels).
        counts: one row for each label that was due, one number for each that was given.
    """

    output: str
    labels: tuple[str, ...]
    counts: tuple[tuple[float, ...], ...]


class RouteReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one route answered, what that took and how it scored.

    Attributes:
        route: the route's name.
        expected: cells that the run requests of it.
        answered: cells with an answer.
        failed: cells with an error instead.
        missing: cells with neither, because they were not requested or are in flight.
        cached: answers taken from the run cache.
        cached_from: of those, how many each other run got with its own requests; this run has
            measured none of them.
        errors: the failures by code, most frequent first.
        targets: target to its share of the answers.
        tokens, cost, times: what the answers took.
        scores: one per output, in the report's order.
        confusions: one per output that has such a matrix and a score.
        dropped: request field to how many answers were made without it, because the target cannot
            express it.
        shortfalls: how many answers were `truncated` (cut off at max_tokens), `unfinished`
            (thoughts alone), `unsplit` (the run's pattern of thoughts took too long), `filtered` by
            the host, or `refused` by the model.
    """

    route: str
    expected: int
    answered: int
    failed: int
    missing: int
    cached: int
    errors: tuple[ErrorGroup, ...]
    targets: dict[str, float]
    tokens: TokenSummary
    cost: CostSummary
    times: Times
    scores: tuple[RouteScore, ...]
    confusions: tuple[Confusion, ...] = ()
    cached_from: dict[str, int] = {}
    dropped: dict[str, int] = {}
    shortfalls: dict[str, int] = {}


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All numbers of a run.

    Attributes:
        baseline: the route that differences are taken against, or None.
        samples: different samples seen.
        outputs: in the metrics' order.
        routes: in the run's order.
        comparisons: by route, then output; empty without a baseline.
        warnings: what a reader has to know before believing the numbers, in sentences.
        signatures: metric to its signature.
        method: how intervals and p-values were computed.
        always_valid: whether they hold although the run was looked at before it had all samples.
    """

    baseline: str | None
    samples: int
    outputs: tuple[OutputInfo, ...]
    routes: tuple[RouteReport, ...]
    comparisons: tuple[Comparison, ...]
    warnings: tuple[str, ...]
    signatures: dict[str, str]
    method: str = METHOD
    always_valid: bool = False


def summarise(
    accumulator: ScoreAccumulator,
    *,
    margins: Mapping[str, float] = {},
    primary: str | None = None,
    always_valid: bool = False,
    errors: Mapping[str, JudgeErrors] = {},
    seed: int = 0,
) -> Report:
    """Turn the collected rows into a report; the same rows and seed give the same report.

    Args:
        accumulator: all rows of the run were added to it.
        margins: output to the largest difference that makes no difference to the user; one of a
            judge's raw score is that of the corrected one, too.
        primary: the output that opens the gate for the others; None for one family of all.
            Whichever of a judge's raw and corrected scores decides goes by the raw one's name.
        always_valid: whether the run was looked at before it had these samples, and went on or
            ended because of what there was to see.
        errors: output to the known errors of its judge, whose share is corrected by them.
        seed: of the resampling.
    """
    outputs = {output.name: output for metric in accumulator.metrics for output in metric.outputs}
    infos = share_infos(infos_of(accumulator.metrics), errors)
    per_sample = {
        (route, name): accumulator.per_sample(route, name)
        for route, counted in accumulator.routes.items()
        for name in counted.columns
    }
    clusters = accumulator.cluster_numbers()
    routes = tuple(
        _route_report(
            route,
            counted,
            share_scores(
                [
                    _route_score(
                        output,
                        counted,
                        per_sample[route, name],
                        clusters,
                        seed=seed,
                        always_valid=always_valid,
                    )
                    for name, output in outputs.items()
                ],
                errors,
            ),
            tuple(
                _confusion(output, per_sample[route, name])
                for name, output in outputs.items()
                if output.confusion and per_sample[route, name].present.any()
            ),
        )
        for route, counted in accumulator.routes.items()
    )
    baseline = accumulator.baseline
    comparisons: tuple[Comparison, ...] = ()
    if baseline is not None:
        made = [
            enough_labels(
                comparison(
                    (route, output),
                    per_sample[route, name],
                    per_sample[baseline, name],
                    clusters,
                    seed=seed,
                    margin=margins.get(name, margins.get(output.corrects)),
                    tests=accumulator.tests(route, output, seed=seed, always_valid=always_valid),
                )
            )
            for route in accumulator.routes
            if route != baseline
            for name, output in outputs.items()
        ]
        comparisons = judged_headlines(
            share_comparisons(made, errors, margins),
            share_outputs(outputs, errors),
            primary=primary,
        )
    return Report(
        baseline=baseline,
        samples=len(accumulator.samples),
        outputs=infos,
        routes=routes,
        comparisons=comparisons,
        warnings=(
            *_missing_warnings(infos, routes),
            *_shortfall_warnings(routes, accumulator.on_truncated),
            *_label_warnings(routes, always_valid=always_valid),
            *_warnings(baseline, infos, routes, comparisons),
            *(() if always_valid else _short_warnings(infos, routes)),
        ),
        signatures={metric.name: metric.signature for metric in accumulator.metrics},
        method=METHOD_ALWAYS_VALID if always_valid else METHOD,
        always_valid=always_valid,
    )


def infos_of(metrics: Iterable[Measured]) -> tuple[OutputInfo, ...]:
    """Describe each output of metrics for readers."""
    return tuple(
        OutputInfo(
            name=output.name,
            metric=metric.name,
            higher_is_better=output.higher_is_better,
            low=output.low,
            high=output.high,
            unit=output.unit,
            corpus=output.corpus is not None,
            description=output.description,
            corrects=output.corrects,
            raw=output.raw,
        )
        for metric in metrics
        for output in metric.outputs
    )


def score_of(route: RouteReport, output: str) -> RouteScore:
    """Return the route's score of an output of its run."""
    return next(score for score in route.scores if score.output == output)


def dollars(amount: float, *, estimated: bool = False) -> str:
    """Format US dollars to the cent, or to two digits below a dollar."""
    sign = "≈ $" if estimated else "$"
    if amount >= 1000:
        return f"{sign}{amount:,.0f}"
    if amount >= 1 or amount <= 0:
        return f"{sign}{amount:.2f}"
    return f"{sign}{amount:.{1 - math.floor(math.log10(amount))}f}"


def cost_text(cost: CostSummary) -> str:
    """Format what answers cost: at least what is known of it, where not all is."""
    if cost.total_usd is not None:
        return dollars(cost.total_usd, estimated=bool(cost.estimated))
    return f"≥ {dollars(cost.known_usd)}" if cost.known_usd else "unknown"


def _confusion(output: Output, scores: SampleScores) -> Confusion:
    sums = scores.statistics[scores.present].sum(axis=0)
    rows = sums.reshape(-1, len(output.confusion))
    counts = tuple(tuple(row) for row in rows.tolist())
    return Confusion(output=output.name, labels=output.confusion, counts=counts)


def _route_report(
    route: str,
    counted: RouteScores,
    scores: tuple[RouteScore, ...],
    confusions: tuple[Confusion, ...],
) -> RouteReport:
    seconds = np.asarray(counted.seconds, dtype=np.float64)
    p50, p95 = np.quantile(seconds, [0.5, 0.95]).tolist() if len(seconds) else (None, None)
    return RouteReport(
        route=route,
        expected=counted.expected,
        answered=counted.answered,
        failed=counted.failed,
        missing=max(0, counted.expected - counted.answered - counted.failed),
        cached=counted.cached,
        errors=tuple(
            ErrorGroup(code=code, count=count, example=counted.examples[code])
            for code, count in counted.errors.most_common()
        ),
        targets={name: count / counted.answered for name, count in counted.targets.most_common()},
        tokens=TokenSummary(
            prompt=counted.prompt_tokens,
            completion=counted.completion_tokens,
            total=counted.total_tokens,
            unknown=counted.tokens_unknown,
            estimated=counted.estimated,
        ),
        cost=CostSummary(
            total_usd=None if counted.cost_unknown else counted.cost_usd,
            known_usd=counted.cost_usd,
            unknown=counted.cost_unknown,
            estimated=counted.cost_estimated,
        ),
        times=Times(p50_s=p50, p95_s=p95, n=len(seconds)),
        scores=scores,
        confusions=confusions,
        cached_from=dict(counted.taken.most_common()),
        dropped=dict(counted.dropped.most_common()),
        shortfalls=dict(counted.shortfalls.most_common()),
    )


def _route_score(
    output: Output,
    counted: RouteScores,
    scores: SampleScores,
    clusters: Clusters,
    *,
    seed: int,
    always_valid: bool,
) -> RouteScore:
    column = counted.columns[output.name]
    scored = len(column.samples)
    of = score_estimate(
        output,
        CellScores(column.samples, column.values),
        scores,
        clusters,
        seed=seed,
        always_valid=always_valid,
    )
    return RouteScore(
        output=output.name,
        estimate=of.interval.estimate,
        low=of.interval.low,
        high=of.interval.high,
        method=of.interval.method,
        n=of.n,
        scored=scored,
        expected=counted.expected,
        coverage=scored / counted.expected if counted.expected else 0.0,
        unscored=counted.answered - scored,
        example=column.example,
        notes=tuple(Note(text=text, count=count) for text, count in column.notes.most_common()),
        clusters=of.clusters,
        effective_clusters=of.effective_clusters,
        variance=of.variance,
        labelled=of.labelled,
        people=of.people,
        judge=of.judge,
        withheld=column.withheld,
    )


def _warnings(
    baseline: str | None,
    outputs: Sequence[OutputInfo],
    routes: Sequence[RouteReport],
    comparisons: Sequence[Comparison],
) -> Iterable[str]:
    scores = [score for route in routes for score in route.scores]
    unscored = {
        output
        for missing in missing_scores(outputs, scores)
        if missing.unscored == missing.answered
        for output in missing.outputs
    }
    yield from _of_routes(
        (route.route, why) for route in routes for why in _route_warnings(route, unscored)
    )
    yield from headline_warnings(
        {route.route: f"{route.route} against {baseline}" for route in routes},
        comparisons,
        outputs,
        {
            (route.route, score.output): score.withheld
            for route in routes
            for score in route.scores
            if score.withheld
        },
    )
    yield from _parameter_warnings(routes)
    yield from _size_warnings([score for score in scores if score.n])
    if baseline is None:
        if len(routes) > 1:
            yield NO_BASELINE
    else:
        yield from _comparison_warnings(outputs, routes, comparisons)


# More routes with the same caveat are counted.
_NAMED_ROUTES = 8

_TREATED = {
    "score": "they are scored as far as they go",
    "exclude": "they have no scores",
    "zero": "they are scored as empty texts",
}


def _missing_warnings(
    outputs: Sequence[OutputInfo], routes: Sequence[RouteReport]
) -> Iterable[str]:
    """Warn of metrics that scored less than half of the answers, or none."""
    for missing in missing_scores(outputs, (score for route in routes for score in route.scores)):
        yield f"The metric {missing.metric} {missing.sentence}"


def _shortfall_warnings(routes: Sequence[RouteReport], on_truncated: OnTruncated) -> Iterable[str]:
    """Warn of answers that are not whole, and say how the run treats them."""
    treated = f"{_TREATED[on_truncated]} (on_truncated: {on_truncated})."
    yield from _of_routes(
        (route.route, f"{counted[:-1]}; {treated}")
        for route in routes
        for counted in shortfall_counts(route.route, route.shortfalls, route.answered)
    )


def _of_routes(warnings: Iterable[tuple[str, str]]) -> Iterable[str]:
    """Say once what several routes have in common: each warning begins with its route's name."""
    named: dict[str, list[str]] = {}
    for route, warning in warnings:
        named.setdefault(warning.removeprefix(f"{route}: "), []).append(route)
    for rest, routes in named.items():
        names = routes
        if len(routes) > _NAMED_ROUTES:
            names = [*routes[: _NAMED_ROUTES - 1], f"{len(routes) - _NAMED_ROUTES + 1:,} others"]
        each = ", each" if len(routes) > 1 else ""
        yield f"{', '.join(names)}{each}: {rest}"


def shortfall_counts(route: str, shortfalls: Mapping[str, int], answered: int) -> list[str]:
    """Return a sentence about each kind of answers that are not whole."""
    return [
        f"{route}: {count:,} of {answered:,} answers {SHORTFALLS[shortfall]}."
        for shortfall, count in shortfalls.items()
    ]


def _label_warnings(routes: Sequence[RouteReport], *, always_valid: bool) -> Iterable[str]:
    """Warn of corrected scores whose labels are too few for an interval."""
    for route in routes:
        for score in route.scores:
            if score.labelled is None or score.estimate is None or score.low is not None:
                continue
            needed = (
                f"one that holds whenever one looks needs {ASYMPTOTIC_MINIMUM} labels (or clusters "
                "with labels)"
                if always_valid
                else f"its labels are of fewer than {intervals.FEWEST_CLUSTERS} clusters of equal "
                "weight, or all alike"
            )
            yield (
                f"{route.route}: {score.output} has no interval: {needed}; here are "
                f"{score.labelled:,} labels."
            )


def _size_warnings(scores: Sequence[RouteScore]) -> Iterable[str]:
    """Warn of few samples, and of few clusters or clusters of which one outweighs the others."""
    if not scores:
        return
    fewest = min(scores, key=lambda score: score.effective_clusters or score.n)
    if fewest.effective_clusters is None:
        if fewest.n == 1:
            yield "A single sample has no interval: nothing can be said about other samples."
        elif fewest.n < FEW_SAMPLES:
            yield (
                f"With fewer than {FEW_SAMPLES} samples (here {fewest.n}), intervals tend to be "
                "narrower than they should be."
            )
        return
    weight = f"as much as {fewest.effective_clusters:.1f} of equal size"
    counted = f"{fewest.clusters:,} clusters, which weigh {weight}"
    if fewest.clusters == 1:
        yield "A single cluster has no interval: nothing can be said about other clusters."
    elif fewest.effective_clusters < intervals.FEWEST_CLUSTERS:
        yield (
            f"Too few clusters for intervals and verdicts ({counted}): below "
            f"{intervals.FEWEST_CLUSTERS} no method holds its level."
        )
    elif fewest.effective_clusters < FEW_SAMPLES:
        yield (
            f"With fewer than {FEW_SAMPLES} clusters of equal weight ({counted}), intervals tend "
            "to be narrower than they should be."
        )


def _parameter_warnings(routes: Sequence[RouteReport]) -> Iterable[str]:
    """Warn of routes that got another request, because some targets cannot express all of it."""
    for route in routes:
        alike = [
            other.route for other in routes if other.route != route.route and not other.dropped
        ]
        others = f" as {', '.join(alike)}" if alike else ""
        for name, count in route.dropped.items():
            yield (
                f"{route.route}: {count:,} of {route.answered:,} answers were made without {name}, "
                f"which the target cannot express; it did not get the same request{others}."
            )


def _short_warnings(outputs: Sequence[OutputInfo], routes: Sequence[RouteReport]) -> Iterable[str]:
    """Warn of samples that are too few for an interval of outputs without a range."""
    unbounded = {
        output.name
        for output in outputs
        if not output.corpus and (output.low is None or output.high is None)
    }
    short: dict[int, dict[str, None]] = {}
    for score in (score for route in routes for score in route.scores):
        if (
            score.output in unbounded
            and score.clusters is None
            and 1 < score.n < intervals.FEWEST_UNBOUNDED
            and score.method == "none"
        ):
            short.setdefault(score.n, {})[score.output] = None
    for n, names in short.items():
        yield (
            f"{n:,} samples are too few for an interval of {', '.join(names)}: without a range it "
            f"takes {intervals.FEWEST_UNBOUNDED}."
        )


def _route_warnings(route: RouteReport, known: Collection[str]) -> Iterable[str]:
    """Warn of what a route lacks; `known` are outputs that no answer of the run has."""
    if route.answered < route.expected:
        why = [f"{route.failed:,} failed"] if route.failed else []
        why += [f"{route.missing:,} without an answer so far"] if route.missing else []
        yield (
            f"{route.route}: {route.answered:,} of {route.expected:,} answered "
            f"({', '.join(why)}); scores are of the answered ones only."
        )
    unscored: dict[tuple[int, str], list[str]] = {}
    constant: dict[int, list[str]] = {}
    noted: dict[tuple[str, int], list[str]] = {}
    for score in route.scores:
        for note in score.notes:
            noted.setdefault((note.text, note.count), []).append(score.output)
        if score.unscored > 0 and not score.withheld and score.output not in known:
            unscored.setdefault((score.unscored, score.example), []).append(score.output)
        # All zero is what cost looks like where nothing is charged.
        if score.estimate and score.method == "constant":
            constant.setdefault(score.n, []).append(score.output)
    for (count, example), names in unscored.items():
        reason = f", for example: {example}" if example else ""
        yield (
            f"{route.route}: {count:,} of {route.answered:,} answers have no "
            f"{', '.join(names)}{reason}"
        )
    for (text, count), names in noted.items():
        yield (
            f"{route.route}: {', '.join(names)} of {count:,} of {route.answered:,} answers: {text}."
        )
    for n, names in constant.items():
        yield (
            f"{route.route}: all {n:,} samples have the same {', '.join(names)}; without a range, "
            "nothing says how far another sample may be from it, so no interval is given."
        )
    # What a dataset brings along costs the run nothing.
    if route.cost.unknown and route.route != PRECOMPUTED:
        known = f"; the others cost {dollars(route.cost.known_usd)}" if route.cost.known_usd else ""
        yield (
            f"{route.route}: the price of {route.cost.unknown:,} of {route.answered:,} answers is "
            f"unknown{known}."
        )
    if route.tokens.estimated:
        money = ", and so their cost," if route.cost.estimated else ""
        yield (
            f"{route.route}: the tokens of {route.tokens.estimated:,} of {route.answered:,} "
            f"answers{money} are estimated, because the target did not count them."
        )
    if route.cached:
        yield (
            f"{route.route}: {route.cached:,} of {route.answered:,} answers came from the run "
            "cache; their time is not counted, their first cost is."
        )
    if route.cached_from:
        taken = sum(route.cached_from.values())
        yield (
            f"{route.route}: {taken:,} of {route.answered:,} answers are of "
            f"{runs_in_words(route.cached_from)}, so this run shows nothing of how the route "
            "answers now; `cache: false` in the document requests new ones."
        )


def runs_in_words(runs: Iterable[str]) -> str:
    """Name the first of some runs, and count the others."""
    names = ["an unknown run" if name in {"", UNKNOWN_RUN} else name for name in runs]
    if len(names) == 1:
        return names[0]
    others = "another run" if len(names) == 2 else f"{len(names) - 1:,} other runs"
    return f"{names[0]} and {others}"


def _comparison_warnings(
    outputs: Sequence[OutputInfo],
    routes: Sequence[RouteReport],
    comparisons: Sequence[Comparison],
) -> Iterable[str]:
    sizes = {(route.route, score.output): score.n for route in routes for score in route.scores}
    narrowed = [
        compared
        for compared in comparisons
        if compared.headline and compared.n < sizes[compared.route, compared.output]
    ]
    if narrowed:
        yield (
            "The baseline lacks some samples that other routes have; differences are over the "
            f"samples of both (n from {min(compared.n for compared in narrowed):,})."
        )
    family = [compared for compared in comparisons if compared.p_holm is not None]
    smallest = max(
        (
            differences.smallest_p_value(compared.clusters or compared.n, compared.method)
            for compared in family
        ),
        default=0.0,
    )
    if smallest * len(family) >= ALPHA:
        corrected = f", corrected for {len(family):,} comparisons," if len(family) > 1 else ""
        yield (
            "Too few samples for any verdict: the smallest p-value that the test can "
            f"give{corrected} is {min(1.0, smallest * len(family)):.2g}, which is not below "
            f"{ALPHA}."
        )
    names = [f"{compared.output} of {compared.route}" for compared in family]
    yield from interval_warnings(names, family)
    detectable = []
    for output in outputs:
        sought = [
            compared.detectable
            for compared in family
            if compared.output == output.name
            and compared.verdict == "no difference shown"
            and compared.detectable is not None
        ]
        if sought:
            effect = max(sought)
            unit = f" {output.unit}" if output.unit not in {"", output.name} else ""
            limited = output.low is not None and output.high is not None
            if limited and effect > (output.high or 0.0) - (output.low or 0.0):
                detectable.append(f"{output.name} (more than its whole range)")
            else:
                detectable.append(f"{output.name} {effect:,.{decimals(output, effect)}f}{unit}")
    if detectable:
        several = f", corrected for {len(family):,} comparisons," if len(family) > 1 else ""
        yield (
            f"No difference shown is not equality: with these samples the verdict{several} finds a "
            f"true difference 4 times in 5 if it is at least about {', '.join(detectable)}."
        )
