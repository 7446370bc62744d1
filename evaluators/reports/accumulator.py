"""A run's rows as columns of numbers, collected in any order.

    scores = ScoreAccumulator(
        routes=["a", "b"], metrics=metrics, expected={"a": 60, "b": 60}, baseline="a"
    )
    for row in rows:
        scores.add(row.cell, row.answer, row.scores)
    scores.per_sample("a", "rougeL").values

`report.summarise` turns it into a report.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from evaluators.base import Answer, Cell, Output, Score
from evaluators.stats.comparison import SampleScores, paired_tests
from evaluators.stats.differences import PairedTests
from evaluators.text.answers import OnTruncated, shortfall_of

_T = TypeVar("_T")

UNKNOWN_RUN = "unknown"
"""Stands for the run of a cached answer where nothing says which it was."""

EXAMPLE_LENGTH = 200
"""Enough to recognise an error; upstream bodies can be megabytes."""


class Measured(Protocol):
    """The part of a metric (or grader) that a report reads."""

    @property
    def name(self) -> str:
        """The metric's name in the run document."""
        ...

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The outputs that it produces."""
        ...

    @property
    def signature(self) -> str:
        """Its implementation, version and options."""
        ...


class ScoreColumn:
    """The scores of one output and route: sample numbers, and values or statistics, aligned."""

    def __init__(self, *, corpus: bool) -> None:
        self.corpus = corpus
        self.samples = array("i")
        self.values = array("d")
        self.statistics = array("d")
        self.width: int | None = None
        self.example = ""
        self.withheld = ""
        self.notes: Counter[str] = Counter()

    def add(self, sample: int, score: Score) -> None:
        """Store a score's numbers, or the reason for their absence."""
        if not self.put(sample, score.value, score.statistics):
            self.example = self.example or score.error[:EXAMPLE_LENGTH]
        elif score.note:
            self.notes[score.note[:EXAMPLE_LENGTH]] += 1

    def put(self, sample: int, value: float | None, statistics: Sequence[float]) -> bool:
        """Store a score's numbers; return whether it has those that are needed.

        Raises:
            ValueError: there are more or fewer statistics than those of the answers before.
        """
        number = math.nan if value is None else value
        numbers = statistics if self.corpus else ()
        # A corpus score needs the statistics; the answer's own value only says who won.
        needed = numbers if self.corpus else (number,)
        if not needed or not all(map(math.isfinite, needed)):
            return False
        if self.width is None:
            self.width = len(numbers)
        if len(numbers) != self.width:
            raise ValueError(f"{len(numbers)} statistics for one answer, {self.width} before")
        self.samples.append(sample)
        self.values.append(number)
        self.statistics.extend(numbers)
        return True


class RouteScores:
    """The counts of one route, and its columns by output."""

    def __init__(self, expected: int, columns: dict[str, ScoreColumn]) -> None:
        self.expected = expected
        self.columns = columns
        self.answered = 0
        self.failed = 0
        self.cached = 0
        self.taken: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.targets: Counter[str] = Counter()
        self.prompt_tokens = self.completion_tokens = self.total_tokens = self.tokens_unknown = 0
        self.cost_usd = 0.0
        self.cost_unknown = 0
        self.estimated = self.cost_estimated = 0
        self.seconds = array("d")
        self.dropped: Counter[str] = Counter()
        self.shortfalls: Counter[str] = Counter()

    def add(self, sample: int, answer: Answer, scores: Iterable[Score], *, run: str) -> None:
        """Count an answer of a run, and store its scores."""
        if answer.cost_usd is not None:
            self.cost_usd += answer.cost_usd
        if answer.text is None:
            code = answer.error_code or "unknown"
            self.failed += 1
            self.errors[code] += 1
            self.examples.setdefault(code, (answer.error or "")[:EXAMPLE_LENGTH])
            return
        self.answered += 1
        self.cached += answer.cached
        if answer.is_taken(run):
            self.taken[answer.cached_from or UNKNOWN_RUN] += 1
        self.cost_unknown += answer.cost_usd is None
        self.estimated += answer.estimated
        # A free answer has a cost that did not need an estimate.
        self.cost_estimated += answer.estimated and bool(answer.cost_usd)
        self.targets[answer.target] += 1
        if shortfall := answer.shortfall or shortfall_of(answer):
            self.shortfalls[shortfall] += 1
        self.dropped.update(answer.translation.dropped.keys())
        if answer.total_s is not None and not answer.cached:
            self.seconds.append(answer.total_s)
        usage = answer.usage
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        total = usage.total_tokens
        if total is None and prompt is not None and completion is not None:
            total = prompt + completion
        self.prompt_tokens += prompt or 0
        self.completion_tokens += completion or 0
        self.total_tokens += total or 0
        self.tokens_unknown += total is None
        for score in scores:
            if score.output not in self.columns:
                raise ValueError(f"no metric of this run has the output {score.output!r}")
            self.columns[score.output].add(sample, score)


class ScoreAccumulator:
    """Collects a run's rows in any order, keeping numbers only: 12 bytes a score and no texts.

    Args:
        routes: in the order of the report.
        metrics: all metrics of the run.
        expected: the number of cells that the run requests, by route.
        baseline: the route that differences are taken against, or None.
        clusters: sample id to the cluster it belongs to; samples that are not named stand alone.
        on_truncated: what became of answers that were cut off, filtered or refused.
        run: the id of the run that the rows are of: cached answers of others are counted as such.

    Raises:
        ValueError: the baseline is not a route, a route has no `expected`, or two metrics have
            an output of the same name.
    """

    def __init__(
        self,
        *,
        routes: Sequence[str],
        metrics: Sequence[Measured],
        expected: Mapping[str, int],
        baseline: str | None = None,
        clusters: Mapping[str, str] | None = None,
        on_truncated: OnTruncated = "score",
        run: str = "",
    ) -> None:
        if baseline is not None and baseline not in routes:
            raise ValueError(f"the baseline {baseline!r} is not one of the routes")
        if set(routes) - set(expected):
            raise ValueError(f"no expected cells for {sorted(set(routes) - set(expected))}")
        names = [output.name for metric in metrics for output in metric.outputs]
        if len(names) != len(set(names)):
            raise ValueError(f"two metrics have an output of the same name: {names}")
        self.baseline = baseline
        self.metrics = tuple(metrics)
        self.clusters = clusters or {}
        self.on_truncated = on_truncated
        self.run = run
        self.samples: dict[str, int] = {}
        self._derived: dict[Hashable, Any] = {}
        self.routes = {
            route: RouteScores(
                expected[route],
                {
                    output.name: ScoreColumn(corpus=output.corpus is not None)
                    for metric in metrics
                    for output in metric.outputs
                },
            )
            for route in routes
        }

    def add(self, cell: Cell, answer: Answer | None, scores: Iterable[Score] = ()) -> None:
        """Count one cell, once. An answer of None is in flight, so the cell stays missing.

        Raises:
            ValueError: the route is not of this run, or a score not of its metrics.
        """
        if cell.route not in self.routes:
            raise ValueError(f"{cell.route!r} is not a route of this run")
        if answer is None:
            return
        sample = self.samples.setdefault(cell.sample_id, len(self.samples))
        self.routes[cell.route].add(sample, answer, scores, run=self.run)
        self._derived.clear()

    def withhold(self, route: str, output: str, why: str) -> None:
        """Drop a route's scores of an output that is no estimate of anything, and say why."""
        column = ScoreColumn(corpus=self.routes[route].columns[output].corpus)
        column.withheld = why
        self.routes[route].columns[output] = column
        self._derived.clear()

    def per_sample(self, route: str, output: str) -> SampleScores:
        """Return one row per sample of the run, in the order of `samples`; repeats are averaged."""
        column = self.routes[route].columns[output]
        return self._once(("scores", route, output), lambda: averaged(column, len(self.samples)))

    def tests(
        self, route: str, output: Output, *, seed: int = 0, always_valid: bool = False
    ) -> PairedTests | None:
        """Return the tests of a route's scores against the baseline's; see `paired_tests`."""
        assert self.baseline is not None, "a test is of a difference from the baseline"
        ours, theirs = (self.per_sample(side, output.name) for side in (route, self.baseline))
        return self._once(
            ("tests", route, output.name, seed, always_valid),
            lambda: paired_tests(
                output, ours, theirs, self.cluster_numbers(), seed=seed, always_valid=always_valid
            ),
        )

    def cluster_numbers(self) -> NDArray[np.intp] | None:
        """Number each sample's cluster, shape (samples,); None when all samples stand alone."""
        return self._once(("clusters",), self._cluster_numbers)

    def _once(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """Return what is made of the rows, from the first call until there are more of them."""
        if key not in self._derived:
            self._derived[key] = make()
        made: _T = self._derived[key]
        return made

    def _cluster_numbers(self) -> NDArray[np.intp] | None:
        if not any(sample in self.clusters for sample in self.samples):
            return None
        number: dict[tuple[bool, str], int] = {}
        numbers = [
            number.setdefault(
                (True, self.clusters[sample]) if sample in self.clusters else (False, sample),
                len(number),
            )
            for sample in self.samples
        ]
        return np.array(numbers, dtype=np.intp)


def averaged(column: ScoreColumn, samples: int) -> SampleScores:
    """Return one row per sample, in the order of their numbers; repeats are averaged."""
    index = np.asarray(column.samples, dtype=np.intp)
    counts = np.bincount(index, minlength=samples)
    present = counts > 0

    def means(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.bincount(index, weights=numbers, minlength=samples)
        of_samples = np.full(samples, np.nan)
        of_samples[present] = sums[present] / counts[present]
        return of_samples

    statistics = np.asarray(column.statistics, dtype=np.float64)
    rows = statistics.reshape(len(index), column.width or 0)
    per_statistic = [means(numbers) for numbers in rows.T]
    return SampleScores(
        values=means(np.asarray(column.values, dtype=np.float64)),
        statistics=np.stack(per_statistic, axis=1) if per_statistic else np.empty((samples, 0)),
        present=present,
    )
