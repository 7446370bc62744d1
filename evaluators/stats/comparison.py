"""One output of one route against another's: the numbers, and what may be said of them.

    one = comparison(("new", output), ours, baseline, clusters, seed=0)
    judged([one, ...], outputs)

Reports compare the routes of a run with its baseline, `evaluators/reports/compare.py` routes of two
runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from evaluators.base import Output
from evaluators.stats import differences


class SampleScores(NamedTuple):
    """The scores of one output and route, averaged over repeats: one row per sample, else NaN."""

    values: NDArray[np.float64]  # shape (samples,)
    statistics: NDArray[np.float64]  # shape (samples, k)
    present: NDArray[np.bool_]  # shape (samples,)


ALPHA = 0.05
"""A difference is called one when its p-value, corrected by Holm over the report, is below this."""

Clusters: TypeAlias = NDArray[np.intp] | None
Verdict = Literal["better", "worse", "no difference shown"]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One output of a route minus the same of the baseline, over samples both have it for.

    Attributes:
        route, output: names.
        n: samples that both have; when 0, every number is None and so is the verdict.
        difference, low, high: with its 95% interval.
        p_value: of this comparison alone.
        p_holm: corrected for all comparisons of the report; None for an output without direction.
        wins, ties, losses: samples on which the route is better, equal, worse (for an output
            without direction: larger, equal, smaller); None where samples have no own value.
        effect_size: Cohen's d_z, signed as the difference.
        detectable: the smallest true difference found 4 times in 5 with these samples, by a single
            test without correction.
        verdict: None for an output without direction.
        clusters: how many clusters the n samples are in; None when each stands alone.
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


def comparison(
    cell: tuple[str, Output],
    ours: SampleScores,
    baseline: SampleScores,
    clusters: Clusters,
    seed: int,
) -> Comparison:
    """Compute the numbers of one comparison; `judged` adds what depends on the others.

    Args:
        cell: the route's name and the output.
        ours: the route's, aligned with `baseline`.
        baseline: what is subtracted.
        clusters: which cluster each sample belongs to; None when each stands alone.
        seed: of the resampling.
    """
    route, output = cell
    both = ours.present & baseline.present
    chosen = clusters_of(clusters, both)
    if output.corpus is None:
        paired = differences.paired_difference(
            ours.values[both], baseline.values[both], clusters=chosen, seed=seed
        )
    else:
        paired = differences.paired_corpus_difference(
            ours.statistics[both],
            baseline.statistics[both],
            output.corpus,
            clusters=chosen,
            seed=seed,
        )
    if paired is None:
        return Comparison(route=route, output=output.name, n=0)
    wins, ties, losses = paired.wins, paired.ties, paired.losses
    first, second = ours.values[both], baseline.values[both]
    if wins is None and np.isfinite(first).all() and np.isfinite(second).all():
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
    )


def clusters_of(clusters: Clusters, chosen: NDArray[np.bool_]) -> list[int] | None:
    """Return the clusters of the chosen samples."""
    return None if clusters is None else clusters[chosen].tolist()


def judged(
    comparisons: Sequence[Comparison], outputs: Mapping[str, Output]
) -> tuple[Comparison, ...]:
    """Add corrected p-values and verdicts to the comparisons, as one family."""
    family = [
        index
        for index, compared in enumerate(comparisons)
        if compared.p_value is not None and outputs[compared.output].higher_is_better is not None
    ]
    p_values = [comparisons[index].p_value for index in family]
    adjusted = differences.holm([p_value for p_value in p_values if p_value is not None])
    with_verdicts = list(comparisons)
    for index, p_holm in zip(family, adjusted, strict=True):
        compared = comparisons[index]
        verdict: Verdict = "no difference shown"
        if p_holm < ALPHA and compared.difference:
            rises = compared.difference > 0
            verdict = "better" if rises == outputs[compared.output].higher_is_better else "worse"
        with_verdicts[index] = msgspec.structs.replace(compared, p_holm=p_holm, verdict=verdict)
    return tuple(with_verdicts)
