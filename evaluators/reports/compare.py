"""Two runs, or several routes of one, held against each other output by output.

    scores = ScoreAccumulator(routes=["a", "b"], metrics=metrics, expected=expected)
    ...                                  # rows of both, joined by sample id
    compare(scores, [(a, b)], joined="id").contrasts

What decides is the paired test that reports use, corrected by Holm over every contrast with a
direction. Where the two have no sample in common, the means are compared as they are, by Welch's
test, which needs far more samples. The tests beside it are for readers who expect them; they are
not corrected and no verdict follows from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from evaluators.base import Output
from evaluators.reports.accumulator import ScoreAccumulator
from evaluators.reports.report import OutputInfo, infos_of
from evaluators.stats import differences, intervals
from evaluators.stats.comparison import Comparison, SampleScores, Verdict, comparison, judged
from evaluators.stats.resampling import Floats

METHOD = (
    "Difference a - b over the samples of both, with its 95% interval and p-value as in reports: "
    "Student's t corrected for skew (Hall 1992) and a paired sign-flip permutation test; for "
    "corpus scores percentile bootstrap and approximate randomisation. p_holm is corrected over "
    "all contrasts with a direction. Without common samples: Welch. Not corrected, and no verdict: "
    "p_t (paired t), p_wilcoxon (signed ranks), p_mcnemar (mid-p, scores of 0 and 1), p_welch and "
    "p_mann_whitney (as if nothing were paired)."
)

Join = Literal["id", "position"]


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two.

    Attributes:
        run: the run's id.
        name: what people call the run.
        route: the route.
    """

    run: str
    name: str
    route: str

    @property
    def key(self) -> str:
        """What stands for it in the tally."""
        return f"{self.run} {self.route}"


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """A sample on which the two differ much; values are means over repeats."""

    sample_id: str
    a: float
    b: float
    difference: float


class Contrast(msgspec.Struct, frozen=True, kw_only=True):
    """One output of side a minus the same of side b.

    Attributes:
        a, b: the two.
        output: what is compared, see `Comparisons.outputs`.
        joined: whether samples were paired; False where the two have none in common.
        n: samples of both; 0 where nothing is paired.
        n_a, n_b: samples of each that have this score.
        mean_a, mean_b: of the samples that are compared; corpus scores where it is one.
        difference, low, high: mean_a - mean_b with its 95% interval.
        p_value: two-sided; of the paired test, or Welch's where nothing is paired.
        p_holm: corrected over all contrasts; None for an output without direction.
        verdict: of a against b, by p_holm; None for an output without direction.
        wins, ties, losses: samples on which a is better, equal, worse (for an output without
            direction: larger, equal, smaller).
        detectable: the smallest true difference found 4 times in 5 with these samples, by a single
            test without correction.
        effect_size: Cohen's d_z of the paired differences.
        cliffs_delta: Cliff's delta of the values, unpaired.
        clusters: how many clusters the n samples are in; None when each stands alone.
        p_t, p_wilcoxon, p_mcnemar, p_welch, p_mann_whitney: other tests, not corrected; None where
            one does not apply.
        moved: the samples with the largest differences, either way.
    """

    a: Side
    b: Side
    output: str
    joined: bool
    n: int
    n_a: int
    n_b: int
    mean_a: float | None = None
    mean_b: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    verdict: Verdict | None = None
    wins: int | None = None
    ties: int | None = None
    losses: int | None = None
    detectable: float | None = None
    effect_size: float | None = None
    cliffs_delta: float | None = None
    clusters: int | None = None
    p_t: float | None = None
    p_wilcoxon: float | None = None
    p_mcnemar: float | None = None
    p_welch: float | None = None
    p_mann_whitney: float | None = None
    moved: tuple[Moved, ...] = ()


class Comparisons(msgspec.Struct, frozen=True, kw_only=True):
    """All contrasts.

    Attributes:
        outputs: what is compared.
        contrasts: by pair, then output.
        joined_by: how samples were paired.
        warnings: what else differs between the two, in sentences.
        method: how the numbers were found.
    """

    outputs: tuple[OutputInfo, ...]
    contrasts: tuple[Contrast, ...]
    joined_by: Join
    warnings: tuple[str, ...]
    method: str = METHOD


def compare(
    tally: ScoreAccumulator,
    pairs: Sequence[tuple[Side, Side]],
    *,
    joined: Join,
    warnings: Sequence[str] = (),
    movers: int = 5,
    seed: int = 0,
) -> Comparisons:
    """Hold the first of each pair against the second.

    Args:
        tally: rows of every side, under its `key`, samples of both sides under the same ids.
        pairs: the sides to compare.
        joined: how the ids were made the same.
        warnings: what is already known to differ.
        movers: how many samples to name for each contrast.
        seed: of the resampling.
    """
    outputs = {output.name: output for metric in tally.metrics for output in metric.outputs}
    clusters = tally.cluster_numbers()
    samples = list(tally.samples)
    cells: list[tuple[tuple[Side, Side], Output]] = []
    found: list[Comparison] = []
    for pair in pairs:
        for output in outputs.values():
            ours, theirs = (tally.per_sample(side.key, output.name) for side in pair)
            one = comparison((pair[0].key, output), ours, theirs, clusters, seed)
            cells.append((pair, output))
            found.append(
                one if one.n or clusters is not None else _unpaired(one, output, ours, theirs)
            )
    contrasts = []
    for (pair, output), one in zip(cells, judged(found, outputs), strict=True):
        ours, theirs = (tally.per_sample(side.key, output.name) for side in pair)
        contrast = _contrast(pair, output, one, ours, theirs)
        moved = _moved(ours, theirs, samples, movers) if contrast.joined else ()
        contrasts.append(msgspec.structs.replace(contrast, moved=moved))
    return Comparisons(
        outputs=infos_of(tally),
        contrasts=tuple(contrasts),
        joined_by=joined,
        warnings=(*warnings, *_warnings(contrasts)),
    )


def _unpaired(
    one: Comparison, output: Output, ours: SampleScores, theirs: SampleScores
) -> Comparison:
    """The comparison of two sides without a sample in common; n stays 0."""
    found = None
    if output.corpus is None:
        found = differences.unpaired_difference(*_values(ours, theirs))
    if found is None or found.p_welch is None:
        return one
    return msgspec.structs.replace(
        one, difference=found.difference, low=found.low, high=found.high, p_value=found.p_welch
    )


def _values(ours: SampleScores, theirs: SampleScores) -> tuple[Floats, Floats]:
    return ours.values[ours.present], theirs.values[theirs.present]


def _contrast(
    pair: tuple[Side, Side],
    output: Output,
    one: Comparison,
    ours: SampleScores,
    theirs: SampleScores,
) -> Contrast:
    both = ours.present & theirs.present
    paired = bool(one.n)
    chosen = (both, both) if paired else (ours.present, theirs.present)
    contrast = Contrast(
        a=pair[0],
        b=pair[1],
        output=output.name,
        joined=paired,
        n=one.n,
        n_a=int(np.count_nonzero(ours.present)),
        n_b=int(np.count_nonzero(theirs.present)),
        mean_a=_score(output, ours, chosen[0]),
        mean_b=_score(output, theirs, chosen[1]),
        difference=one.difference,
        low=one.low,
        high=one.high,
        p_value=one.p_value,
        p_holm=one.p_holm,
        verdict=one.verdict,
        wins=one.wins,
        ties=one.ties,
        losses=one.losses,
        detectable=one.detectable,
        effect_size=one.effect_size,
        clusters=one.clusters,
    )
    if output.corpus is not None:
        return contrast
    # Every one of these takes samples for independent, which those of a cluster are not.
    if one.clusters is not None:
        return contrast
    return msgspec.structs.replace(contrast, **_other_tests(ours, theirs))


def _other_tests(ours: SampleScores, theirs: SampleScores) -> Mapping[str, float | None]:
    both = ours.present & theirs.present
    a, b = ours.values[both], theirs.values[both]
    tests: dict[str, float | None] = {}
    if len(a) > 1:
        gaps = a - b
        gaps[np.isclose(a, b, rtol=1e-9, atol=1e-12)] = 0.0
        tests |= {"p_t": differences.paired_t(gaps), "p_wilcoxon": differences.wilcoxon(gaps)}
        if np.isin(a, (0.0, 1.0)).all() and np.isin(b, (0.0, 1.0)).all():
            won = differences.outcomes(a, b)
            tests["p_mcnemar"] = differences.mcnemar(won.wins, won.losses).mid_p
    unpaired = differences.unpaired_difference(*_values(ours, theirs))
    if unpaired is not None:
        tests |= {
            "p_welch": unpaired.p_welch,
            "p_mann_whitney": unpaired.p_mann_whitney,
            "cliffs_delta": unpaired.cliffs_delta,
        }
    return tests


def _score(output: Output, found: SampleScores, chosen: NDArray[np.bool_]) -> float | None:
    if not chosen.any():
        return None
    if output.corpus is None:
        return float(found.values[chosen].mean())
    return intervals.corpus_score(output.corpus, found.statistics[chosen].sum(axis=0))


def _moved(
    ours: SampleScores, theirs: SampleScores, samples: Sequence[str], most: int
) -> tuple[Moved, ...]:
    gaps = np.abs(ours.values - theirs.values)
    gaps[~np.isfinite(gaps)] = 0.0
    largest = np.argsort(-gaps, kind="stable")[:most]
    return tuple(
        Moved(
            sample_id=samples[index],
            a=float(ours.values[index]),
            b=float(theirs.values[index]),
            difference=float(ours.values[index] - theirs.values[index]),
        )
        for index in largest.tolist()
        if gaps[index] > 0
    )


def _warnings(contrasts: Sequence[Contrast]) -> list[str]:
    told = []
    unpaired = sorted({one.output for one in contrasts if not one.joined and one.n_a and one.n_b})
    if any(one.difference is None for one in contrasts if one.output in unpaired):
        told.append(
            f"No sample is common to both for {', '.join(unpaired)}, so these are not compared: "
            "scores of a corpus, and samples in clusters, need common samples."
        )
    elif unpaired:
        told.append(
            f"No sample is common to both for {', '.join(unpaired)}: the means are compared as if "
            "of different questions, which takes far more samples to show a difference."
        )
    narrowed = [one for one in contrasts if one.joined and one.n < max(one.n_a, one.n_b)]
    if narrowed:
        one = min(narrowed, key=lambda one: one.n)
        told.append(
            f"Only the samples that both sides have a score for are compared: {one.output} on "
            f"{one.n:,} of {one.n_a:,} and {one.n_b:,}."
        )
    return told
