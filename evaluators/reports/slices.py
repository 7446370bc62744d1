"""A run's score by the values of one column of its dataset.

    report = sliced("language", grouping, {"a": column, "b": column}, measure)
    report.slices[0].name, report.slices[0].scores[0].estimate       # "de", 0.71

Each slice is estimated as the whole run is: by the same estimators, over the same clusters. Slices
are looked through, so differences are corrected over all of them, and the report says that it shows
where to look rather than what is so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from evaluators.base import Output
from evaluators.reports.accumulator import ScoreColumn, averaged
from evaluators.reports.cells import plural
from evaluators.reports.corrected_shares import (
    share_comparisons,
    share_interval,
    share_outputs,
)
from evaluators.reports.estimates import FEW_SAMPLES, CellScores, score_estimate
from evaluators.reports.groups import Grouping, GroupKind, RowGroup
from evaluators.reports.headlines import enough_labels
from evaluators.reports.report import METHOD, METHOD_ALWAYS_VALID
from evaluators.reports.scores import OutputInfo
from evaluators.stats import intervals
from evaluators.stats.comparison import Clusters, Comparison, SampleScores, comparison, judged
from evaluators.stats.judge_errors import JudgeErrors
from evaluators.stats.prediction_powered import FEWEST_LABELS, labelled_rows


class SliceScore(msgspec.Struct, frozen=True, kw_only=True):
    """The score of one route over the samples of a slice.

    Attributes:
        route: the route.
        estimate, low, high, method, n, clusters, effective_clusters, labelled, withheld: as in
            `evaluators.reports.scores.RouteScore`.
        few: whether n, or the clusters of equal size that would weigh as much, are fewer than 20,
            so that the interval may be narrower than it should be.
    """

    route: str
    estimate: float | None
    low: float | None
    high: float | None
    method: intervals.Method
    n: int
    few: bool
    clusters: int | None = None
    effective_clusters: float | None = None
    labelled: int | None = None
    withheld: str = ""


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """The samples of one value of the column, or of values that belong together.

    Attributes:
        key: names the slice in addresses; the same value has the same in every run.
        kind: `value` for one value; `range` for numbers of which there are many; `other` for all
            values that are rarer than those that have a slice; `missing` for samples that do not
            have the column, or null in it.
        name: for readers, cut after 80 characters.
        low, high: the smallest and the largest number of a range; None for others.
        values: how many different values the samples have.
        samples: how many samples of the run, with scores or without.
        scores: of each route.
        comparisons: of each route with the baseline; verdicts are corrected over all slices.
    """

    key: str
    kind: GroupKind
    name: str
    low: float | None = None
    high: float | None = None
    values: int
    samples: int
    scores: tuple[SliceScore, ...]
    comparisons: tuple[Comparison, ...] = ()


class SliceReport(msgspec.Struct, frozen=True, kw_only=True):
    """A run's score by one column.

    Attributes:
        column: the column, or the path.
        output: the score.
        baseline: the route that differences are taken against, or None.
        samples: of the run.
        whole: the scores of each route over all samples, as in the run's report.
        slices: each sample is in one of them.
        warnings: what a reader has to know before believing the numbers, in sentences.
        method: how intervals and p-values were computed.
        always_valid: as in the run's report.
    """

    column: str
    output: OutputInfo
    baseline: str | None
    samples: int
    whole: tuple[SliceScore, ...]
    slices: tuple[Slice, ...]
    warnings: tuple[str, ...]
    method: str
    always_valid: bool


class SlicedOutput(NamedTuple):
    """What is estimated of each slice, and how.

    Attributes:
        output: the score as it was measured.
        info: the score as it is shown: of `errors`, the corrected share.
        baseline: the route that differences are taken against, or None.
        clusters: the cluster of each sample; None when each stands alone.
        margins: raw output to the largest difference that makes no difference.
        errors: of the judge, by which its share is corrected; None for other scores.
        always_valid: whether the run was looked at before it had these samples.
    """

    output: Output
    info: OutputInfo
    baseline: str | None = None
    clusters: Clusters = None
    margins: Mapping[str, float] = {}
    errors: JudgeErrors | None = None
    always_valid: bool = False


def sliced(
    column: str,
    grouping: Grouping,
    scores: Mapping[str, ScoreColumn],
    measured: SlicedOutput,
    *,
    warnings: Iterable[str] = (),
    seed: int = 0,
) -> SliceReport:
    """Estimate each slice.

    Args:
        column: the column's name.
        grouping: the group of each sample of the run.
        scores: the scores of each route, with the number of each one's sample.
        measured: the score.
        warnings: more of them.
        seed: of the resampling.
    """
    rows = len(grouping.numbers)
    parts = _Parts(scores, measured, rows, seed)
    everything = np.arange(rows)
    whole = parts.scores(everything, None)
    compared: list[Comparison] = []
    slices = []
    for number, group in enumerate(grouping.groups):
        chosen = np.nonzero(grouping.numbers == number)[0]
        of_slice = parts.comparisons(chosen)
        compared += of_slice
        slices.append(_slice(group, parts.scores(chosen, grouping.numbers == number), of_slice))
    # A judge's raw score decides nothing where the corrected one stands beside it.
    if not measured.info.raw:
        verdicts = iter(judged(compared, parts.outputs))
        slices = [
            msgspec.structs.replace(
                each, comparisons=tuple(next(verdicts) for _ in each.comparisons)
            )
            for each in slices
        ]
    return SliceReport(
        column=column,
        output=measured.info,
        baseline=measured.baseline,
        samples=rows,
        whole=whole,
        slices=tuple(slices),
        warnings=(*_warnings(slices, compared), *warnings),
        method=METHOD_ALWAYS_VALID if measured.always_valid else METHOD,
        always_valid=measured.always_valid,
    )


def _slice(
    group: RowGroup, scores: tuple[SliceScore, ...], comparisons: Sequence[Comparison]
) -> Slice:
    return Slice(
        key=group.key,
        kind=group.kind,
        name=group.name,
        low=group.low,
        high=group.high,
        values=group.values,
        samples=group.rows,
        scores=scores,
        comparisons=tuple(comparisons),
    )


class _Parts:
    """The scores of all routes, of which slices are taken."""

    def __init__(
        self, scores: Mapping[str, ScoreColumn], measured: SlicedOutput, rows: int, seed: int
    ) -> None:
        self._measured = measured
        self._seed = seed
        self._columns = scores
        self._cells = {
            route: CellScores(
                np.asarray(column.samples, dtype=np.intp),
                np.asarray(column.values, dtype=np.float64),
            )
            for route, column in scores.items()
        }
        self._averaged = {route: averaged(column, rows) for route, column in scores.items()}
        output, errors = measured.output, measured.errors
        self._errors = {} if errors is None else {output.name: errors}
        self.outputs = share_outputs({output.name: output}, self._errors)

    def scores(
        self, chosen: NDArray[np.intp], is_chosen: NDArray[np.bool_] | None
    ) -> tuple[SliceScore, ...]:
        """Estimate each route's score of the chosen samples; None for all of them."""
        return tuple(self._score(route, chosen, is_chosen) for route in self._columns)

    def _score(
        self, route: str, chosen: NDArray[np.intp], is_chosen: NDArray[np.bool_] | None
    ) -> SliceScore:
        measured = self._measured
        samples, values = (np.asarray(each) for each in self._cells[route])
        within = slice(None) if is_chosen is None else is_chosen[samples]
        of = score_estimate(
            measured.output,
            CellScores(samples[within], values[within]),
            self._chosen(route, chosen),
            self._clusters(chosen),
            seed=self._seed,
            always_valid=measured.always_valid,
        )
        interval = of.interval
        if measured.errors is not None:
            interval = share_interval(measured.errors, interval)
        withheld = self._withheld(route, within)
        if withheld:
            interval = intervals.Interval(estimate=None, low=None, high=None, n=0)
        weight = of.n if of.effective_clusters is None else of.effective_clusters
        return SliceScore(
            route=route,
            estimate=interval.estimate,
            low=interval.low,
            high=interval.high,
            method=interval.method,
            n=of.n,
            few=weight < FEW_SAMPLES,
            clusters=of.clusters,
            effective_clusters=of.effective_clusters,
            labelled=of.labelled,
            withheld=withheld,
        )

    def _withheld(self, route: str, within: slice | NDArray[np.bool_]) -> str:
        """Return why there is no corrected mean: hardly any answers of the slice have labels."""
        column = self._columns[route]
        if not self._measured.output.corrects or not len(column.samples):
            return column.withheld
        rows = np.asarray(column.statistics).reshape(len(column.samples), column.width or 0)
        labelled = int(labelled_rows(rows[within]).sum())
        if labelled >= FEWEST_LABELS:
            return ""
        return (
            f"people have scored {labelled:,} of these answers; a correction needs {FEWEST_LABELS}"
        )

    def comparisons(self, chosen: NDArray[np.intp]) -> list[Comparison]:
        """Compare the routes with the baseline over the chosen samples; without verdicts."""
        measured, output = self._measured, self._measured.output
        baseline = measured.baseline
        if baseline is None or baseline not in self._columns:
            return []
        theirs, clusters = self._chosen(baseline, chosen), self._clusters(chosen)
        margins = measured.margins
        made = [
            enough_labels(
                comparison(
                    (route, output),
                    self._chosen(route, chosen),
                    theirs,
                    clusters,
                    seed=self._seed,
                    margin=margins.get(output.name, margins.get(output.corrects)),
                    always_valid=measured.always_valid,
                )
            )
            for route in self._columns
            if route != baseline
        ]
        shown = share_comparisons(made, self._errors, margins)
        return [
            msgspec.structs.replace(each, headline=not measured.info.raw)
            for each in shown
            if each.output == measured.info.name
        ]

    def _chosen(self, route: str, chosen: NDArray[np.intp]) -> SampleScores:
        values, statistics, present = self._averaged[route]
        return SampleScores(values[chosen], statistics[chosen], present[chosen])

    def _clusters(self, chosen: NDArray[np.intp]) -> Clusters:
        clusters = self._measured.clusters
        return None if clusters is None else clusters[chosen]


def _warnings(slices: Sequence[Slice], compared: Sequence[Comparison]) -> Iterable[str]:
    tested = sum(each.p_value is not None for each in compared)
    corrected = (
        f" Verdicts are corrected for the {tested:,} comparisons of these slices, not for other "
        "columns and scores that were looked at."
        if tested > 1
        else ""
    )
    yield (
        "Slices are exploratory: among many, some differ from the whole by chance alone. What they "
        f"show is worth a run of its own on samples like these.{corrected}"
    )
    few = [each for each in slices if any(score.few for score in each.scores)]
    if few:
        are = "is" if len(few) == 1 else "are"
        yield (
            f"{len(few):,} of {len(slices):,} {plural('slice', len(slices))} {are} of fewer than "
            f"{FEW_SAMPLES} samples (or clusters of equal weight) and marked: their intervals tend "
            "to be narrower than they should be."
        )
    ranges = [each for each in slices if each.kind == "range"]
    if ranges:
        yield (
            f"The column has {sum(each.values for each in ranges):,} different numbers, so each "
            "slice is a range with about as many samples as the others."
        )
    for each in slices:
        if each.kind == "other":
            yield (
                f"The slice `other` has the {each.values:,} values that are rarer than those with "
                "a slice of their own."
            )
