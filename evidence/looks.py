"""Runs that are looked at while they grow, or end early: numbers have to hold at every look."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evaluators.base import Answer, Output, Score
from evaluators.base import Cell as Place
from evaluators.stats.comparison import ALPHA, Comparison, SampleScores, comparison, shows
from evaluators.stats.intervals import t_quantile
from evaluators.stats.sequential import StopRule, StopWhen
from evidence.cells import ALPHA as NOMINAL
from evidence.cells import MARGIN_ALPHA, Cell, Data, Ends, Floats, Outcome, ends
from evidence.differences import SCORE, UNBOUNDED, Draw, margin_test_of
from evidence.runs import BASELINE, CANDIDATE
from evidence.shapes import EXPONENTIAL, NORMAL, beta, both, clustered_normal, clusters

LOOKS = 10


def _compare(data: Data, n: int, output: Output) -> Comparison:
    """Compare the first n samples, as the report of a run that was looked at does."""
    assert data.baseline is not None, "a difference has two sides"
    first, second = (
        SampleScores(side[:n], np.empty((n, 0)), np.ones(n, dtype=np.bool_))
        for side in (data.values, data.baseline)
    )
    index = None if data.clusters is None else np.asarray(data.clusters[:n])
    return comparison((CANDIDATE, output), first, second, index, seed=0, always_valid=True)


def _repeatedly(output: Output, truth: float) -> Callable[[Data], Outcome]:
    """Look ten times; an interval counts as a miss where one of the ten does not hold the truth."""

    def compute(data: Data) -> Outcome:
        n = len(data.values)
        reports = [_compare(data, n * number // LOOKS, output) for number in range(1, LOOKS + 1)]
        intervals = [ends(report.low, report.high) for report in reports]
        rejected = any(report.p_value is not None and report.p_value < ALPHA for report in reports)
        others = {} if data.clusters else {"t, corrected for ten looks": _corrected(data, truth)}
        return Outcome(
            _missing(intervals, truth),
            reports[-1].method,
            rejected if truth == 0 else None,
            candidates=others,
        )

    return compute


def _missing(intervals: list[Ends], truth: float) -> Ends:
    """Return the first interval that does not hold the truth; the last one where all hold it."""
    for interval in intervals:
        if interval is not None and not interval[0] <= truth <= interval[1]:
            return interval
    return intervals[-1]


def _corrected(data: Data, truth: float) -> Ends:
    """Return Student's interval at 99.5%, of a run that is known to be looked at ten times."""
    assert data.baseline is not None, "a difference has two sides"
    differences = data.values - data.baseline
    intervals: list[Ends] = []
    for number in range(1, LOOKS + 1):
        seen = differences[: len(differences) * number // LOOKS]
        if np.ptp(seen) == 0:
            return None
        error = float(seen.std(ddof=1)) / len(seen) ** 0.5
        half = t_quantile(1 - NOMINAL / 2 / LOOKS, len(seen) - 1) * error
        intervals.append((float(seen.mean() - half), float(seen.mean() + half)))
    return _missing(intervals, truth)


def draw_pairs(n: int, wins: float, losses: float) -> Draw:
    """Return a sampler of two routes that are right or wrong, in random order."""

    def draw(random: np.random.Generator) -> Data:
        signs = random.choice([1.0, -1.0, 0.0], n, p=[wins, losses, 1 - wins - losses])
        return Data((signs >= 0).astype(np.float64), (signs <= 0).astype(np.float64))

    return draw


def _clustered(k: int) -> Draw:
    def draw(random: np.random.Generator) -> Data:
        index = clusters("geometric", k, random)
        values = clustered_normal(index, k, random)
        return Data(values, np.zeros(len(index)), index.tolist())

    return draw


def _extended() -> list[Cell]:
    drawn: list[tuple[str, int, Draw, float, Output]] = [
        ("0 or 1, wins 20%, losses 20%", 300, draw_pairs(300, 0.2, 0.2), 0.0, SCORE),
        ("0 or 1, wins 35%, losses 10%", 300, draw_pairs(300, 0.35, 0.1), 0.25, SCORE),
        ("0 or 1, wins 5%, losses 5%", 10_000, draw_pairs(10_000, 0.05, 0.05), 0.0, SCORE),
        (
            "normal, without a range",
            10_000,
            both(NORMAL.sample, NORMAL.sample, 10_000),
            0.0,
            UNBOUNDED,
        ),
        ("0 or 1, wins 2%, losses 2%", 300, draw_pairs(300, 0.02, 0.02), 0.0, SCORE),
        ("beta(2, 6)", 300, both(beta(2, 6).sample, beta(2, 6).sample, 300), 0.0, SCORE),
        (
            "exponential, without a range",
            1000,
            both(EXPONENTIAL.sample, EXPONENTIAL.sample, 1000),
            0.0,
            UNBOUNDED,
        ),
        ("normal, clusters of geometric size", 200, _clustered(200), 0.0, UNBOUNDED),
    ]
    return [
        Cell(
            "ten looks",
            name,
            n,
            draw,
            _repeatedly(output, truth),
            truth,
            over="always-valid",
            sequential=True,
        )
        for name, n, draw, truth, output in drawn
    ]


def _stopped_at(data: Data, when: StopWhen, output: Output) -> int | None:
    """Return after how many samples a run ends early; None where it goes on to its end."""
    sides: dict[str, Floats] = {CANDIDATE: data.values}
    if data.baseline is not None:
        sides[BASELINE] = data.baseline
    rule = StopRule(
        when,
        routes=list(sides),
        outputs=[output],
        baseline=BASELINE if data.baseline is not None else None,
    )
    answer = Answer(text="words")
    rows = [(route, values.tolist()) for route, values in sides.items()]
    for n in range(len(data.values)):
        for route, values in rows:
            cell = Place(route, str(n), 0)
            rule.add(cell, answer, [Score(output=output.name, value=values[n])])
        if rule.may_stop():
            shown = _compare(data, n + 1, output).p_value
            if shown is not None and shown < ALPHA:
                return n + 1
            rule.postpone()
    return None


def _early(output: Output, truth: float) -> Callable[[Data], Outcome]:
    """End a run once it is decided; without a true difference that is wrong."""
    when = StopWhen(decided=output.name)

    def compute(data: Data) -> Outcome:
        stopped = _stopped_at(data, when, output)
        compared = _compare(data, stopped or len(data.values), output)
        wrong = stopped is not None if truth == 0 else None
        return Outcome(ends(compared.low, compared.high), compared.method, wrong)

    return compute


def _ended() -> list[Cell]:
    drawn: list[tuple[str, int, Draw, float, Output]] = [
        ("decided: 0 or 1, wins 20%, losses 20%", 300, draw_pairs(300, 0.2, 0.2), 0.0, SCORE),
        ("decided: 0 or 1, wins 35%, losses 10%", 300, draw_pairs(300, 0.35, 0.1), 0.25, SCORE),
        ("decided: beta(2, 6)", 300, both(beta(2, 6).sample, beta(2, 6).sample, 300), 0.0, SCORE),
        (
            "decided: exponential, without a range",
            400,
            both(EXPONENTIAL.sample, EXPONENTIAL.sample, 400),
            0.0,
            UNBOUNDED,
        ),
    ]
    return [
        Cell(
            "early stop",
            name,
            n,
            draw,
            _early(output, truth),
            truth,
            over="always-valid",
            sequential=True,
        )
        for name, n, draw, truth, output in drawn
    ]


def _gates() -> list[Cell]:
    """Gates of a run that is looked at four times: whether any of them passes at its margin."""

    def compute(data: Data) -> Outcome:
        assert data.baseline is not None, "a gate has two routes"
        passed = False
        for n in range(50, len(data.values) + 1, 50):
            seen = Data(data.values[:n], data.baseline[:n])
            passed = shows(margin_test_of(seen, SCORE, always_valid=True), 0.05, rises=True)
            if passed:
                break
        return Outcome(method="gate", wrong=passed)

    return [
        Cell(
            "gate: non-inferior, four looks",
            "0 or 1, wins 5%, losses 10%",
            200,
            draw_pairs(200, 0.05, 0.1),
            compute,
            nominal=MARGIN_ALPHA,
            sequential=True,
        )
    ]


CELLS = (*_extended(), *_ended(), *_gates())
