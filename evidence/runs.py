"""Runs as reports and gates see them: rows of answers and scores, for two routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from evaluators.base import Answer, Cell, Output, Score
from evaluators.reports.accumulator import ScoreAccumulator
from evaluators.reports.gates import check, parse
from evaluators.reports.report import Report, summarise
from evidence.cells import Data, Floats

BASELINE, CANDIDATE = "old", "new"
_ANSWER = Answer(text="words")


class _Metric(msgspec.Struct, frozen=True):
    """A metric that only declares its output."""

    name: str
    outputs: tuple[Output, ...]
    signature: str = "evidence"


class Run(NamedTuple):
    """The rows of a run and their report."""

    accumulator: ScoreAccumulator
    report: Report

    def passes(self, gate: str) -> bool:
        """Say whether the run passes a gate."""
        outputs = [output for metric in self.accumulator.metrics for output in metric.outputs]
        parsed = parse(gate, outputs, has_baseline=True, param="gates[0]")
        [result] = check([parsed], self.accumulator, self.report)
        return result.passed


def run(data: Data, output: Output, *, always_valid: bool = False) -> Run:
    """Collect the scores of both routes, of shape (samples,) or (samples, repeats), and report.

    Args:
        data: of the candidate, with the baseline's.
        output: what is scored.
        always_valid: whether the run was looked at before.
    """
    assert data.baseline is not None, "a run of two routes"
    routes = {CANDIDATE: _rows(data.values), BASELINE: _rows(data.baseline)}
    index = data.clusters
    accumulator = ScoreAccumulator(
        routes=list(routes),
        metrics=[_Metric("metric", (output,))],
        expected={route: sum(map(len, rows)) for route, rows in routes.items()},
        baseline=BASELINE,
        clusters={str(n): str(cluster) for n, cluster in enumerate(index)} if index else None,
    )
    for route, rows in routes.items():
        for number, repeats in enumerate(rows):
            for repeat, value in enumerate(repeats):
                accumulator.add(
                    Cell(route, str(number), repeat),
                    _ANSWER,
                    [Score(output=output.name, value=value)],
                )
    return Run(accumulator, summarise(accumulator, always_valid=always_valid))


def _rows(values: Floats) -> Sequence[Sequence[float]]:
    rows: list[list[float]] = values.reshape(len(values), -1).tolist()
    return rows
