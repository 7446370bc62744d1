"""Compares two runs, or several routes of one run, output by output.

    scores = ScoreAccumulator(routes=["a", "b"], metrics=metrics, expected=expected)
    ...                                  # rows of both, joined by sample id
    compare(scores, [(a, b)], joined="id").contrasts

What decides is the paired test that reports use, corrected by Holm over every contrast with a
direction. Where the two have no sample in common, the means are compared as they are, which needs
far more samples. The tests beside it are for readers who expect them; they are
not corrected and no verdict follows from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from evaluators.base import Output
from evaluators.reports.accumulator import ScoreAccumulator
from evaluators.reports.corrected_shares import share_comparisons, share_infos, share_outputs
from evaluators.reports.headlines import enough_labels, headline_warnings, judged_headlines
from evaluators.reports.interval_warnings import interval_warnings
from evaluators.reports.report import infos_of
from evaluators.reports.scores import OutputInfo
from evaluators.stats import differences, intervals
from evaluators.stats.comparison import Comparison, SampleScores, Verdict, comparison
from evaluators.stats.inversion import DifferenceMethod
from evaluators.stats.judge_errors import JudgeErrors
from evaluators.stats.resampling import Floats

METHOD = (
    "Difference a - b over the samples of both. Its 95% interval and p-value are of one paired "
    "test, as in reports: t, Tango's score test for scores of 0 and 1, the bootstrap's error for "
    "corpus scores. p_holm is corrected over all contrasts with a direction. Without common "
    "samples: Miettinen and Nurminen's score test for 0 and 1, else Welch. Not corrected, and no "
    "verdict: p_t, p_wilcoxon, p_mcnemar (paired), p_welch and p_mann_whitney (unpaired). "
    "The page Statistics of the documentation has the exceptions and sources."
)

METHOD_ALWAYS_VALID = (
    "Difference a - b over the samples of both. A run was looked at before it had all of its "
    "samples, so 95% intervals and p-values hold whenever one looks, and are wider: bets against "
    "each value for scores with a range, asymptotic confidence sequences from 100 samples (or "
    "clusters) on for others. p_holm is corrected over all contrasts with a direction. Not "
    "corrected, not always valid, and no verdict: p_t, p_wilcoxon, p_mcnemar, p_welch and "
    "p_mann_whitney. The page Statistics of the documentation has the exceptions and sources."
)

Join = Literal["id", "position"]


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a comparison: a route of a run.

    Attributes:
        run: the run's id.
        name: the run's name.
        route: the route's name.
    """

    run: str
    name: str
    route: str

    @property
    def key(self) -> str:
        """The side's name in the accumulator."""
        return f"{self.run} {self.route}"


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """A sample on which the two sides differ much; values are means over repeats."""

    sample_id: str
    a: float
    b: float
    difference: float


class Contrast(msgspec.Struct, frozen=True, kw_only=True):
    """One output of side a minus the same of side b.

    Attributes:
        a, b: the two sides.
        output: the compared output, see `Comparisons.outputs`.
        joined: whether samples were paired; False where the two have none in common.
        n: samples of both; 0 where nothing is paired.
        shared: samples left out because both sides have the same answer, which the run cache took
            from another run: nothing was measured on them, and without others there is no verdict.
        n_a, n_b: samples of each that have this score.
        mean_a, mean_b: of the samples that are compared; corpus scores where it is one.
        difference, low, high: mean_a - mean_b with its 95% interval.
        p_value: two-sided; of the paired test, or of `unpaired_test` where nothing is paired.
        p_holm: corrected over all contrasts; None for an output without direction.
        verdict: of a against b, by p_holm; None for an output without direction.
        wins, ties, losses: samples on which a is better, equal, worse (for an output without
            direction: larger, equal, smaller).
        detectable: the smallest true difference that the verdict finds 4 times in 5 with these
            samples; as in `Comparison`.
        effect_size: Cohen's d_z of the paired differences.
        cliffs_delta: Cliff's delta of the values, unpaired.
        clusters, effective_clusters, method, margin, gatekept, p_equivalence, labelled: as in
            `Comparison`, as is `headline`; without pairs, of `unpaired_test`.
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
    shared: int = 0
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
    effective_clusters: float | None = None
    method: DifferenceMethod = "none"
    margin: float | None = None
    gatekept: bool = False
    p_equivalence: float | None = None
    labelled: int | None = None
    headline: bool = True
    p_t: float | None = None
    p_wilcoxon: float | None = None
    p_mcnemar: float | None = None
    p_welch: float | None = None
    p_mann_whitney: float | None = None
    moved: tuple[Moved, ...] = ()


class SharedAnswers(msgspec.Struct, frozen=True, kw_only=True):
    """What both sides of a pair have of the same answers.

    Attributes:
        samples: ids of the samples on which the sides have the same answer, because the run cache
            took it from another run.
        compared: the outputs that are compared over them all the same, because the sides scored
            them differently.
    """

    samples: Set[str]
    compared: Set[str] = frozenset()


class Comparisons(msgspec.Struct, frozen=True, kw_only=True):
    """All contrasts of a comparison, and what a reader needs to know of them.

    Attributes:
        outputs: the compared outputs.
        contrasts: by pair, then output.
        joined_by: how samples were paired.
        warnings: what else differs between the two, in sentences.
        method: how the numbers were computed.
        always_valid: whether they hold although a run was looked at before it had all samples.
    """

    outputs: tuple[OutputInfo, ...]
    contrasts: tuple[Contrast, ...]
    joined_by: Join
    warnings: tuple[str, ...]
    method: str = METHOD
    always_valid: bool = False


def compare(
    accumulator: ScoreAccumulator,
    pairs: Sequence[tuple[Side, Side]],
    *,
    joined: Join,
    warnings: Sequence[str] = (),
    margins: Mapping[str, float] = {},
    primary: str | None = None,
    always_valid: bool = False,
    shared: Mapping[tuple[Side, Side], SharedAnswers] = {},
    errors: Mapping[str, JudgeErrors] = {},
    movers: int = 5,
    seed: int = 0,
) -> Comparisons:
    """Compare the first side of each pair with the second.

    Args:
        accumulator: rows of every side, under its `key`, samples of both sides under the same ids.
        pairs: the sides to compare.
        joined: how samples of the two sides were matched.
        warnings: known differences between the sides, in sentences.
        margins: output to the largest difference that makes no difference to the user.
        primary: the output that opens the gate for the others; None for one family of all.
        always_valid: whether a run was looked at before it had these samples, and went on or ended
            because of what there was to see.
        shared: what pairs have of the same answers; a pair that is not named has nothing.
        errors: output to the known errors of its judge, whose share is corrected by them.
        movers: the number of samples to name for each contrast.
        seed: of the resampling.
    """
    outputs = {output.name: output for metric in accumulator.metrics for output in metric.outputs}
    clusters = accumulator.cluster_numbers()
    samples = list(accumulator.samples)
    left_out = {pair: _left_out(samples, shared.get(pair)) for pair in pairs}

    def scores_of(pair: tuple[Side, Side], output: Output) -> _PairScores:
        return _pair_scores(accumulator, pair, output.name, shared.get(pair), left_out[pair])

    cells: list[tuple[tuple[Side, Side], Output]] = []
    comparisons: list[Comparison] = []
    for pair in pairs:
        for output in outputs.values():
            ours, theirs, same = scores_of(pair, output)
            compared = enough_labels(
                comparison(
                    (pair[0].key, output),
                    ours,
                    theirs,
                    clusters,
                    seed=seed,
                    margin=margins.get(output.name, margins.get(output.corrects)),
                    always_valid=always_valid,
                )
            )
            made = share_comparisons(
                [
                    compared
                    if compared.n or same or clusters is not None or always_valid
                    else _unpaired(compared, output, ours, theirs)
                ],
                errors,
                margins,
            )
            comparisons += made
            # A share that is corrected by known errors is of the same scores as the raw one.
            cells += [(pair, output)] * len(made)
    contrasts = []
    with_verdicts = judged_headlines(comparisons, share_outputs(outputs, errors), primary=primary)
    for (pair, output), compared in zip(cells, with_verdicts, strict=True):
        ours, theirs, same = scores_of(pair, output)
        contrast = _contrast(pair, output, compared, ours, theirs)
        contrast = msgspec.structs.replace(
            contrast, shared=same, n_a=contrast.n_a + same, n_b=contrast.n_b + same
        )
        if compared.output != output.name:
            contrast = _of_share(contrast, compared.output, errors[output.name])
        elif contrast.joined and not output.corrects:
            moved = _moved(ours, theirs, samples, movers)
            contrast = msgspec.structs.replace(contrast, moved=moved)
        contrasts.append(contrast)
    infos = share_infos(infos_of(accumulator.metrics), errors)
    return Comparisons(
        outputs=infos,
        contrasts=tuple(contrasts),
        joined_by=joined,
        warnings=(
            *warnings,
            *headline_warnings(
                {pair[0].key: _named(pair) for pair in pairs},
                with_verdicts,
                infos,
                _withheld(accumulator, outputs, pairs),
            ),
            *_warnings(contrasts),
            *_unmoved_warning(contrasts),
            *_interval_warnings(cells, with_verdicts),
        ),
        method=METHOD_ALWAYS_VALID if always_valid else METHOD,
        always_valid=always_valid,
    )


def sample_differences(
    accumulator: ScoreAccumulator,
    pair: tuple[Side, Side],
    output: str,
    shared: SharedAnswers | None = None,
) -> Floats:
    """Return the first side's score less the second's for each of the accumulator's samples.

    It is NaN where one of them has no score, and where `compare` leaves a sample out.

    Args:
        accumulator: as `compare` takes it.
        pair: the sides.
        output: one of the accumulator's outputs.
        shared: what the pair has of the same answers.
    """
    left_out = _left_out(list(accumulator.samples), shared)
    ours, theirs, _ = _pair_scores(accumulator, pair, output, shared, left_out)
    both = ours.present & theirs.present
    return np.where(both, ours.values - theirs.values, np.nan)


def _named(pair: tuple[Side, Side]) -> str:
    a, b = pair
    if a.run == b.run:
        return f"{a.route} against {b.route}"
    return f"{a.route} of {a.run} against {b.route} of {b.run}"


def _withheld(
    accumulator: ScoreAccumulator,
    outputs: Mapping[str, Output],
    pairs: Sequence[tuple[Side, Side]],
) -> dict[tuple[str, str], str]:
    """Return why sides have no corrected score, by the side's name and the output."""
    sides = dict.fromkeys(side for pair in pairs for side in pair)
    return {
        (f"{side.route} of {side.run}", name): why
        for side in sides
        for name in outputs
        if (why := accumulator.routes[side.key].columns[name].withheld)
    }


def _of_share(contrast: Contrast, output: str, errors: JudgeErrors) -> Contrast:
    """Return the contrast of the corrected shares; other tests are of the judge's own scores."""
    return msgspec.structs.replace(
        contrast,
        output=output,
        mean_a=errors.estimate(contrast.mean_a),
        mean_b=errors.estimate(contrast.mean_b),
        cliffs_delta=None,
    )


class _PairScores(NamedTuple):
    """The scores of a pair without those of shared answers, of `shared` samples."""

    ours: SampleScores
    theirs: SampleScores
    shared: int


def _pair_scores(
    accumulator: ScoreAccumulator,
    pair: tuple[Side, Side],
    output: str,
    shared: SharedAnswers | None,
    left_out: NDArray[np.bool_],
) -> _PairScores:
    """Return the scores of a pair; of shared answers only those that are compared all the same."""
    ours, theirs = (accumulator.per_sample(side.key, output) for side in pair)
    if shared is None or output in shared.compared:
        return _PairScores(ours, theirs, 0)
    return _measured(ours, theirs, left_out)


def _left_out(samples: Sequence[str], shared: SharedAnswers | None) -> NDArray[np.bool_]:
    chosen = frozenset[str]() if shared is None else shared.samples
    return np.array([sample in chosen for sample in samples], dtype=np.bool_)


def _measured(ours: SampleScores, theirs: SampleScores, left_out: NDArray[np.bool_]) -> _PairScores:
    """Leave out samples of both sides."""
    left_out = left_out & ours.present & theirs.present

    def rest(scores: SampleScores) -> SampleScores:
        values = np.where(left_out, np.nan, scores.values)
        return scores._replace(values=values, present=scores.present & ~left_out)

    return _PairScores(rest(ours), rest(theirs), int(np.count_nonzero(left_out)))


def _unpaired(
    compared: Comparison, output: Output, ours: SampleScores, theirs: SampleScores
) -> Comparison:
    """Compare two sides without a sample in common; n stays 0."""
    unpaired = None
    if output.corpus is None:
        unpaired = differences.unpaired_difference(
            *_values(ours, theirs), low=output.low, high=output.high, margin=compared.margin
        )
    if unpaired is None or min(unpaired.n_a, unpaired.n_b) < 2:
        return compared
    return msgspec.structs.replace(
        compared,
        difference=unpaired.difference,
        low=unpaired.low,
        high=unpaired.high,
        p_value=unpaired.p_value,
        method=unpaired.method,
        p_equivalence=unpaired.p_equivalence,
    )


def _values(ours: SampleScores, theirs: SampleScores) -> tuple[Floats, Floats]:
    return ours.values[ours.present], theirs.values[theirs.present]


def _contrast(
    pair: tuple[Side, Side],
    output: Output,
    compared: Comparison,
    ours: SampleScores,
    theirs: SampleScores,
) -> Contrast:
    both = ours.present & theirs.present
    paired = bool(compared.n)
    chosen = (both, both) if paired else (ours.present, theirs.present)
    contrast = Contrast(
        a=pair[0],
        b=pair[1],
        output=output.name,
        joined=paired,
        n=compared.n,
        n_a=int(np.count_nonzero(ours.present)),
        n_b=int(np.count_nonzero(theirs.present)),
        mean_a=_score(output, ours, chosen[0]),
        mean_b=_score(output, theirs, chosen[1]),
        difference=compared.difference,
        low=compared.low,
        high=compared.high,
        p_value=compared.p_value,
        p_holm=compared.p_holm,
        verdict=compared.verdict,
        wins=compared.wins,
        ties=compared.ties,
        losses=compared.losses,
        detectable=compared.detectable,
        effect_size=compared.effect_size,
        clusters=compared.clusters,
        effective_clusters=compared.effective_clusters,
        method=compared.method,
        margin=compared.margin,
        gatekept=compared.gatekept,
        p_equivalence=compared.p_equivalence,
        labelled=compared.labelled,
        headline=compared.headline,
    )
    if output.corpus is not None:
        return contrast
    # Every one of these takes samples for independent, which those of a cluster are not.
    if compared.clusters is not None:
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


def _score(output: Output, scores: SampleScores, chosen: NDArray[np.bool_]) -> float | None:
    if not chosen.any():
        return None
    if output.corpus is None:
        return float(scores.values[chosen].mean())
    return intervals.corpus_score(output.corpus, scores.statistics[chosen].sum(axis=0))


def _moved(
    ours: SampleScores, theirs: SampleScores, samples: Sequence[str], limit: int
) -> tuple[Moved, ...]:
    gaps = np.abs(ours.values - theirs.values)
    gaps[~np.isfinite(gaps)] = 0.0
    largest = np.argsort(-gaps, kind="stable")[:limit]
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


def _interval_warnings(
    cells: Sequence[tuple[tuple[Side, Side], Output]], comparisons: Sequence[Comparison]
) -> Iterable[str]:
    family = [
        (f"{output.name} of {pair[0].route}", compared)
        for (pair, output), compared in zip(cells, comparisons, strict=True)
        if compared.p_holm is not None
    ]
    yield from interval_warnings([name for name, _ in family], [compared for _, compared in family])


def _unmoved_warning(contrasts: Sequence[Contrast]) -> Iterable[str]:
    """Say why no smallest difference is known where all samples are alike."""
    unmoved = dict.fromkeys(
        contrast.output
        for contrast in contrasts
        if contrast.verdict == "no difference shown"
        and contrast.detectable is None
        and contrast.ties == contrast.n
    )
    if unmoved:
        yield (
            f"No sample differs in {', '.join(unmoved)}, so nothing says how small a difference "
            "would have been found."
        )


def _warnings(contrasts: Sequence[Contrast]) -> list[str]:
    sentences = []
    unpaired = sorted(
        {
            contrast.output
            for contrast in contrasts
            if not contrast.joined and not contrast.shared and contrast.n_a and contrast.n_b
        }
    )
    if any(contrast.difference is None for contrast in contrasts if contrast.output in unpaired):
        sentences.append(
            f"No sample is common to both for {', '.join(unpaired)}, so these are not compared: "
            "scores of a corpus, and samples in clusters, need common samples."
        )
    elif unpaired:
        sentences.append(
            f"No sample is common to both for {', '.join(unpaired)}: the means are compared as if "
            "of different questions, which takes far more samples to show a difference."
        )
    narrowed = [
        contrast
        for contrast in contrasts
        if contrast.joined and contrast.n + contrast.shared < max(contrast.n_a, contrast.n_b)
    ]
    if narrowed:
        contrast = min(narrowed, key=lambda contrast: contrast.n)
        sentences.append(
            f"Only the samples that both sides have a score for are compared: {contrast.output} on "
            f"{contrast.n:,} of {contrast.n_a:,} and {contrast.n_b:,}."
        )
    return sentences
