"""Compares a run with the one that was accepted before it, and checks the gates that name `last`.

    last = await compare_with_last(runs, store, run.id, reference.id, gates)
    last.gates, last.comparisons

Each route is compared with the same route of the accepted run, on the samples that both have with
the same texts, by the tests and gates of reports. What was not measured alike passes no gate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from evaluators.base import AnyMetric
from evaluators.judge.graded import raw_name
from evaluators.reports import gates as gate_rules
from evaluators.reports.accumulator import Measured, ScoreAccumulator
from evaluators.reports.gates import Gate, GateResult
from evaluators.reports.report import Report, summarise
from evaluators.stats.comparison import Comparison
from evaluators.stats.judge_errors import JudgeErrors
from router.evals.compare import (
    ComparedRun,
    Pairing,
    compared_run,
    differences_of,
    paired,
    same_judges,
)
from router.evals.judges.calibrated_shares import errors_elsewhere
from router.evals.judges.people_labels import withhold_uncorrected
from router.evals.runs import Runs
from router.store.protocol import Store
from router.store.results import ScoredAnswer


class LastComparison(NamedTuple):
    """A run beside the last accepted one.

    Attributes:
        gates: the results of the gates that name `last`.
        comparisons: the differences from the accepted run, by route and output.
        warnings: what differs between the runs beside their answers.
    """

    gates: tuple[GateResult, ...]
    comparisons: tuple[Comparison, ...]
    warnings: tuple[str, ...]

    @classmethod
    def impossible(cls, routes: Sequence[str], gates: Sequence[Gate], why: str) -> Self:
        """Return that of runs that cannot be compared: no gate that names `last` is passed."""
        named = [gate for gate in gates if gate.last]
        return cls(tuple(_failed(gate, route, why) for gate in named for route in routes), (), ())


async def compare_with_last(
    runs: Runs, store: Store, run_id: str, last_id: str, gates: Sequence[Gate]
) -> LastComparison:
    """Compare a run with an accepted one.

    Args:
        runs: finds the runs.
        store: has their rows.
        run_id: the run.
        last_id: the accepted run.
        gates: all gates of the run; those about coverage say how much may be missing.

    Raises:
        NotFoundError: a run is gone.
        RunDocumentError: a run's document or a metric of it cannot be read any more.
    """
    run = await compared_run(runs, store, run_id)
    last = await compared_run(runs, store, last_id)
    pairing = Pairing()
    if run.run.dataset_hash != last.run.dataset_hash:
        pairing = await paired(store, run, last, "id")
    metrics = [
        metric
        for metric in run.labels.metrics
        if last.run.metrics.get(metric.name) == run.run.metrics.get(metric.name)
    ]
    errors, reasons = await errors_elsewhere(store, same_judges(run, last), metrics)
    results: list[GateResult] = []
    comparisons: list[Comparison] = []
    for route in run.document.routes:
        if route == run.document.baseline:
            continue
        if route not in last.document.routes:
            why = f"{last_id} has no route {route!r}"
            results += [_failed(gate, route, why) for gate in gates if gate.last]
            continue
        beside = _Beside(run, last, route, metrics, pairing)
        scores = await beside.counted(store)
        report = await asyncio.to_thread(beside.summarised, scores, errors)
        comparisons += report.comparisons
        results += await asyncio.to_thread(_checked, beside, gates, scores, report)
    warnings = (*differences_of(last, run), *pairing.warnings, *reasons)
    return LastComparison(tuple(results), tuple(comparisons), warnings)


class _Beside(NamedTuple):
    """A route of two runs, whose second run's answers are the baseline."""

    run: ComparedRun
    last: ComparedRun
    route: str
    metrics: Sequence[Measured]
    pairing: Pairing

    @property
    def baseline(self) -> str:
        """The name of the accepted run's side."""
        return f"{self.route} of {self.last.run.id}"

    async def counted(self, store: Store) -> ScoreAccumulator:
        """Return the rows of both runs."""
        scores = ScoreAccumulator(
            routes=[self.route, self.baseline],
            metrics=self.metrics,
            expected={
                self.route: self.run.run.dataset_rows * self.run.document.repeats,
                self.baseline: self.last.run.dataset_rows * self.last.document.repeats,
            },
            baseline=self.baseline,
            clusters=self.run.labels.clusters,
            on_truncated=self.run.document.on_truncated,
            run=self.run.run.id,
        )
        known = {output.name for metric in self.metrics for output in metric.outputs}

        def add(side: ComparedRun, name: str, row: ScoredAnswer) -> None:
            if row.cell.route != self.route or row.answer is None:
                return
            sample = row.cell.sample_id
            if side is self.last:
                sample = self._sample(sample)
            # What another run has measured says nothing about this one.
            taken = row.answer.is_taken(side.run.id)
            measured = [] if taken else side.labels.scores(row)
            shared = [score for score in measured if score.output in known]
            scores.add(row.cell._replace(route=name, sample_id=sample), row.answer, shared)

        # On threads: a million rows would hold up everything else in this process.
        await store.each_result(self.run.run.id, lambda row: add(self.run, self.route, row))
        await store.each_result(self.last.run.id, lambda row: add(self.last, self.baseline, row))
        withhold_uncorrected(scores)
        return scores

    def _sample(self, name: str) -> str:
        """Return the name of a sample of the accepted run; its own where its texts differ."""
        names = self.pairing.names
        if names is None or (name in names and name not in self.pairing.changed):
            return name
        return f"{self.last.run.id} {name}"

    def summarised(self, scores: ScoreAccumulator, errors: Mapping[str, JudgeErrors]) -> Report:
        """Return the report of both sides."""
        document = self.run.document
        return summarise(
            scores,
            margins={raw_name(name): margin for name, margin in document.margins.items()},
            primary=None if document.deciding is None else raw_name(document.deciding),
            always_valid=bool(self.run.looks or self.last.looks),
            errors=errors,
        )


def _checked(
    beside: _Beside, gates: Sequence[Gate], scores: ScoreAccumulator, report: Report
) -> list[GateResult]:
    """Check the gates that name `last`."""
    measured = {output.name for metric in scores.metrics for output in metric.outputs}
    alike = [gate for gate in gates if not gate.output or gate.output in measured]
    results = gate_rules.check([gate for gate in alike if _is_checked(gate)], scores, report)
    texts = {gate.text for gate in gates if gate.last}
    checked = [result for result in results if result.gate in texts]
    others = [
        _failed(gate, beside.route, _unlike(beside, gate))
        for gate in gates
        if gate.last and gate not in alike
    ]
    return checked + others


def _is_checked(gate: Gate) -> bool:
    return gate.last or gate.kind == "coverage"


def _unlike(beside: _Beside, gate: Gate) -> str:
    """Say how an output was measured differently in both runs."""
    metric = next((metric for metric in beside.run.metrics if _has(metric, gate.output)), None)
    if metric is None:
        return "people have scored none of the run's answers"
    ours = beside.run.run.metrics.get(metric.name)
    theirs = beside.last.run.metrics.get(metric.name)
    if theirs is None:
        return f"{beside.last.run.id} does not have the metric {metric.name}"
    return (
        f"{metric.name} is measured by {ours} now, and was by {theirs} in {beside.last.run.id}; "
        "score that one again, or accept this run"
    )


def _has(metric: AnyMetric, output: str) -> bool:
    return any(each.name == output for each in metric.outputs)


def _failed(gate: Gate, route: str, why: str) -> GateResult:
    return GateResult(
        gate=gate.text,
        route=route,
        passed=False,
        found=None,
        bound=gate.bound,
        why=why,
        output=gate.output,
    )
