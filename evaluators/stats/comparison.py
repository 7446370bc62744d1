"""One output of one route against another's: the numbers, and what may be said of them.

    one = comparison(("new", output), ours, baseline, clusters, seed=0)
    judged([one, ...], outputs)

Reports compare the routes of a run with its baseline, `evaluators/reports/compare.py` routes of two
runs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from evaluators.base import Output
from evaluators.stats import differences, intervals
from evaluators.stats.corrected_means import corrected_tests
from evaluators.stats.differences import PairedTests
from evaluators.stats.inversion import DifferenceMethod, DifferenceTest, rejects
from evaluators.stats.power import (
    MAX_SAMPLES,
    always_valid_effect,
    effect_of_verdict,
    minimum_detectable_effect,
    minimum_detectable_share,
)
from evaluators.stats.prediction_powered import labelled_rows
from evaluators.stats.sequential import LEVEL_OF_REPORTS


class SampleScores(NamedTuple):
    """The scores of one output and route, averaged over repeats: one row per sample, else NaN."""

    values: NDArray[np.float64]  # shape (samples,)
    statistics: NDArray[np.float64]  # shape (samples, k)
    present: NDArray[np.bool_]  # shape (samples,)


FEWEST_FOR_A_MARGIN = 20
"""Fewer labels of people carry no statement about a margin."""

ALPHA = LEVEL_OF_REPORTS
"""A difference is called one when its p-value, corrected by Holm over the report, is below this."""

_ONE_IN_FIVE, _ONE_IN_TEN = 0.95, 1.35
"""An estimate is unluckier by so many standard errors once in five times at most, and in ten.

For a normal one that is 0.84 and 1.28; the spread that comes with it varies as well.
"""

Clusters: TypeAlias = NDArray[np.intp] | None
Verdict = Literal["better", "worse", "equivalent", "no difference shown"]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One output of a route minus the same of the baseline, over samples both have it for.

    Attributes:
        route, output: names.
        n: samples that both have; when 0, every number is None and so is the verdict.
        difference, low, high: with its 95% interval; None where the data give no bound.
        p_value: of this comparison alone, by the test that the interval inverts.
        p_holm: corrected for all comparisons of the report; None for an output without direction.
        wins, ties, losses: samples on which the route is better, equal, worse (for an output
            without direction: larger, equal, smaller); None where samples have no own value.
        effect_size: Cohen's d_z, signed as the difference.
        detectable: the smallest true difference that a verdict finds 4 times in 5 with these
            samples, after its correction for other comparisons; with a primary output, where that
            has shown a difference.
        verdict: None for an output without direction.
        clusters: the number of clusters that the n samples are in; None when each stands alone.
        effective_clusters: as many clusters of equal size would weigh as much.
        method: the test.
        margin: the largest difference that makes no difference, as the user named it; None for
            none.
        gatekept: whether it has not been tested, because the primary output of its route shows no
            difference.
        p_equivalence: of a true difference of the margin or more, corrected by Holm over all
            comparisons with a margin; None without one.
        labelled: of a judge's mean that people's labels correct: how many samples have labels, of
            the side that has fewer; None for others.
        headline: whether this is what decides; False where a corrected number of the same score
            stands beside it, or where it could not be corrected itself.
    """

    route: str
    output: str
    n: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    wins: int | None = None
    ties: int | None = None
    losses: int | None = None
    effect_size: float | None = None
    detectable: float | None = None
    verdict: Verdict | None = None
    clusters: int | None = None
    effective_clusters: float | None = None
    method: DifferenceMethod = "none"
    margin: float | None = None
    gatekept: bool = False
    p_equivalence: float | None = None
    labelled: int | None = None
    headline: bool = True


def comparison(
    cell: tuple[str, Output],
    ours: SampleScores,
    baseline: SampleScores,
    clusters: Clusters,
    *,
    seed: int,
    margin: float | None = None,
    always_valid: bool = False,
    tests: PairedTests | None = None,
) -> Comparison:
    """Compute the numbers of one comparison; `judged` adds what depends on the others.

    Args:
        cell: the route's name and the output.
        ours: the route's, aligned with `baseline`.
        baseline: what is subtracted.
        clusters: which cluster each sample belongs to; None when each stands alone.
        seed: of the resampling.
        margin: the largest difference that makes no difference to the user; None for none.
        always_valid: whether the numbers have to hold although they were looked at before.
        tests: what `paired_tests` returned for these arguments; None where it was not called.
    """
    route, output = cell
    if tests is None:
        tests = paired_tests(output, ours, baseline, clusters, seed=seed, always_valid=always_valid)
    if tests is None:
        return Comparison(route=route, output=output.name, n=0)
    both = ours.present & baseline.present
    chosen = clusters_of(clusters, both)
    paired = tests.paired(margin=margin)
    wins, ties, losses = paired.wins, paired.ties, paired.losses
    first, second = ours.values[both], baseline.values[both]
    # A corrected mean's values are people's here and the judge's there.
    if (
        wins is None
        and not output.corrects
        and np.isfinite(first).all()
        and np.isfinite(second).all()
    ):
        wins, ties, losses = differences.outcomes(first, second)
    if output.higher_is_better is False:
        wins, losses = losses, wins
    return Comparison(
        route=route,
        output=output.name,
        n=paired.n,
        difference=paired.difference,
        low=paired.low,
        high=paired.high,
        p_value=paired.p_value,
        wins=wins,
        ties=ties,
        losses=losses,
        effect_size=paired.effect_size,
        detectable=paired.detectable,
        clusters=None if chosen is None else len(set(chosen)),
        effective_clusters=None if chosen is None else intervals.effective_clusters(chosen),
        method=paired.method,
        margin=margin,
        p_equivalence=paired.p_equivalence,
        labelled=_labelled(ours, baseline, both) if output.corrects else None,
    )


def _labelled(ours: SampleScores, baseline: SampleScores, both: NDArray[np.bool_]) -> int:
    return min(int(labelled_rows(side.statistics[both]).sum()) for side in (ours, baseline))


def _width(output: Output) -> float | None:
    return None if output.low is None or output.high is None else output.high - output.low


def clusters_of(clusters: Clusters, chosen: NDArray[np.bool_]) -> list[int] | None:
    """Return the clusters of the chosen samples."""
    return None if clusters is None else clusters[chosen].tolist()


def judged(
    comparisons: Sequence[Comparison],
    outputs: Mapping[str, Output],
    *,
    primary: str | None = None,
) -> tuple[Comparison, ...]:
    """Add corrected p-values and verdicts to the comparisons, as one family.

    With a primary output, each route has an equal part of the level. Its primary output is tested
    first and uses all of that; the others are tested, by Holm, only if it shows a difference, and
    have no verdict otherwise (gatekeeping; Dmitrienko and Tamhane 2007, Pharmaceutical Statistics
    6:171-180).

    A difference that is shown has precedence over equivalence: it can be both real and smaller than
    the margin, and the interval beside it says so.
    """
    directed = [
        index
        for index, compared in enumerate(comparisons)
        if compared.p_value is not None and outputs[compared.output].higher_is_better is not None
    ]
    p_holm = (
        _corrected(directed, [comparisons[index].p_value for index in directed])
        if primary is None
        else _gatekept(comparisons, directed, primary)
    )
    closed = set(directed) - set(p_holm)
    tests = _tests(comparisons, directed, primary)
    with_margin = [
        index for index, compared in enumerate(comparisons) if compared.p_equivalence is not None
    ]
    p_equivalence = _corrected(
        with_margin, [comparisons[index].p_equivalence for index in with_margin]
    )
    return tuple(
        msgspec.structs.replace(
            compared,
            p_holm=p_holm.get(index),
            p_equivalence=p_equivalence.get(index),
            detectable=_detectable(compared, outputs[compared.output], tests.get(index, 1)),
            gatekept=index in closed,
            verdict=None
            if index in closed
            else _verdict(
                compared,
                outputs[compared.output].higher_is_better,
                p_holm.get(index),
                p_equivalence.get(index),
            ),
        )
        for index, compared in enumerate(comparisons)
    )


def _tests(
    comparisons: Sequence[Comparison], directed: Sequence[int], primary: str | None
) -> dict[int, int]:
    """Return by how many tests the level of each comparison is divided, if all of them are made."""
    if primary is None:
        return dict.fromkeys(directed, len(directed))
    routes = Counter(comparisons[index].route for index in directed)
    first = Counter(
        comparisons[index].route for index in directed if comparisons[index].output == primary
    )
    tests = {}
    for index in directed:
        route = comparisons[index].route
        others = routes[route] - first[route]
        tests[index] = len(routes) * (1 if comparisons[index].output == primary else others)
    return tests


def _detectable(compared: Comparison, output: Output, tests: int) -> float | None:
    """Return the smallest difference that a verdict finds, from that of a single test."""
    n, effect, alpha = compared.n, compared.detectable, ALPHA / tests
    differing = None if compared.wins is None else (compared.wins + (compared.losses or 0)) / n
    # That none of them differ bounds how many would.
    if compared.method == "score" and differing is not None:
        return minimum_detectable_share(differing, n, alpha=alpha)
    if effect is None:
        return None
    units = compared.clusters or n
    if compared.method not in {"betting", "asymptotic"}:
        return effect_of_verdict(effect, units, tests=tests)
    sd = effect / (minimum_detectable_effect(1.0, units) or 1.0)
    width = None if compared.method == "asymptotic" else _width(output)
    squares = sd**2 * (n - 1) + n * (compared.difference or 0.0) ** 2
    whole = differing is not None and math.isclose(squares, differing * n, rel_tol=1e-6)
    return always_valid_effect(sd, units, width=width, whole=whole, alpha=alpha)


def _corrected(indices: Sequence[int], p_values: Sequence[float | None]) -> dict[int, float]:
    numbers = [p_value for p_value in p_values if p_value is not None]
    return dict(zip(indices, differences.holm(numbers), strict=True))


def paired_tests(
    output: Output,
    ours: SampleScores,
    baseline: SampleScores,
    clusters: Clusters,
    *,
    seed: int = 0,
    always_valid: bool = False,
) -> PairedTests | None:
    """Return the tests of a comparison, of the same arguments; None without samples in common."""
    both = ours.present & baseline.present
    if not both.any():
        return None
    chosen = clusters_of(clusters, both)
    if output.corpus is None:
        return differences.paired_tests(
            ours.values[both],
            baseline.values[both],
            clusters=chosen,
            low=output.low,
            high=output.high,
            always_valid=always_valid,
        )
    rows, width = (ours.statistics[both], baseline.statistics[both]), _width(output)
    if output.corrects:
        return corrected_tests(*rows, clusters=chosen, width=width, always_valid=always_valid)
    return differences.corpus_tests(
        *rows, output.corpus, clusters=chosen, width=width, always_valid=always_valid, seed=seed
    )


class MarginTest(NamedTuple):
    """The test of statements about a margin, and how many units it is of.

    Attributes:
        test: rejects differences too large for a margin.
        units: samples, or clusters where samples are in clusters; of a judge's corrected scores,
            those with labels.
    """

    test: DifferenceTest
    units: int


def margin_test(
    output: Output,
    ours: SampleScores,
    baseline: SampleScores,
    clusters: Clusters,
    *,
    always_valid: bool = False,
) -> MarginTest | None:
    """Return the test of statements about a margin; None without samples in common.

    The p-value of equivalence in `comparison`, of the same arguments, is of this test.
    """
    tests = paired_tests(output, ours, baseline, clusters, always_valid=always_valid)
    return None if tests is None else MarginTest(tests.margin, tests.units)


def shows(tested: MarginTest, margin: float, *, rises: bool | None) -> bool:
    """Say whether differences too large for a margin are excluded.

    Args:
        tested: the test.
        margin: above 0.
        rises: whether a difference of minus the margin has to be excluded, or one of the margin;
            None for both.
    """
    values = ((-margin, True), (margin, False))
    return all(
        rejects(tested.test, value, above=above, alpha=ALPHA / 2)
        for value, above in values
        if rises is None or rises is above
    )


def units_within(tested: MarginTest, margin: float, *, rises: bool | None) -> int | None:
    """Return how many samples (or clusters), alike to these, show a margin 4 times in 5.

    Args:
        tested: the test of these.
        margin: above 0.
        rises: whether a difference of minus the margin has to be excluded, or one of the margin;
            None for both.
    """
    luck = _ONE_IN_TEN if rises is None else _ONE_IN_FIVE

    def enough(units: int) -> bool:
        ratio = units / tested.units
        return all(
            shows(MarginTest(tested.test.scaled(ratio, turn * luck), units), margin, rises=side)
            for turn, side in ((-1, True), (1, False))
            if rises is None or rises is side
        )

    few, many = tested.units, tested.units * 2
    while not enough(many):
        few, many = many, many * 2
        if many > MAX_SAMPLES:
            return None
    while many - few > max(1, few // 100):
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def _gatekept(
    comparisons: Sequence[Comparison], directed: Sequence[int], primary: str
) -> dict[int, float]:
    """Return corrected p-values of the primary outputs, and of the others that they let through."""
    routes: dict[str, list[int]] = {}
    for index in directed:
        routes.setdefault(comparisons[index].route, []).append(index)
    corrected: dict[int, float] = {}
    for indices in routes.values():
        first = [index for index in indices if comparisons[index].output == primary]
        rest = [index for index in indices if comparisons[index].output != primary]
        # Without a score on the primary output nothing opens the gate.
        gate = 1.0
        for index in first:
            gate = min(1.0, len(routes) * (comparisons[index].p_value or 0.0))
            corrected[index] = gate
        if first and gate < ALPHA:
            others = _corrected(rest, [comparisons[index].p_value for index in rest])
            for index, p_holm in others.items():
                corrected[index] = max(gate, min(1.0, len(routes) * p_holm))
    return corrected


def _verdict(
    compared: Comparison,
    higher_is_better: bool | None,
    p_holm: float | None,
    p_equivalence: float | None,
) -> Verdict | None:
    if p_holm is not None and p_holm < ALPHA and compared.difference:
        return "better" if (compared.difference > 0) == higher_is_better else "worse"
    if p_equivalence is not None and p_equivalence < ALPHA:
        return "equivalent"
    return None if p_holm is None else "no difference shown"
