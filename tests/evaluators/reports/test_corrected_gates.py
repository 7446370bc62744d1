"""Gates on a judge's score that people's labels or a calibration correct."""

from __future__ import annotations

import msgspec
import pytest

from evaluators.base import Answer, Cell, Output, Score
from evaluators.reports.accumulator import ScoreAccumulator
from evaluators.reports.corrected_shares import share_outputs
from evaluators.reports.gates import GateResult, check, parse
from evaluators.reports.report import summarise
from evaluators.stats.intervals import Interval
from evaluators.stats.judge_errors import JudgeErrors
from evaluators.stats.prediction_powered import ppi_of_sums, ppi_statistics
from providers.errors import RunDocumentError

RAW = Output(name="judge", raw=True)
CORRECTED = Output(name="judge_corrected", corpus=ppi_of_sums, corrects="judge")


class Declared(msgspec.Struct, frozen=True):
    name: str = "judge"
    outputs: tuple[Output, ...] = (CORRECTED, RAW)
    signature: str = "test"


def labelled(
    gate: str,
    *,
    n: int = 200,
    labels: int = 100,
    shift: float = 0.0,
    withheld: tuple[str, ...] = (),
    clusters: bool = False,
    known: bool = True,
) -> GateResult:
    """A gate on a judge that is 0.2 too kind to both routes; `new` is better by a shift."""
    tally = ScoreAccumulator(
        routes=["base", "new"],
        metrics=[Declared()],
        expected={"base": n, "new": n},
        baseline="base",
        **({"clusters": {str(k): str(k // 2) for k in range(n)}} if clusters else {}),
    )
    for k in range(n):
        for route, more in (("base", 0.0), ("new", shift)):
            people = 0.3 + more + 0.1 * (k % 3) + 0.01 * (k % 2 if route == "new" else 0)
            judge = people + 0.2 + 0.05 * (k % 2)
            statistics = ppi_statistics(judge, people if k < labels else None, k // 2)
            scores = [
                Score(output="judge_corrected", value=judge, statistics=statistics),
                Score(output="judge", value=judge),
            ]
            tally.add(Cell(route, str(k), 0), Answer(text="words"), scores)
    for route in withheld:
        tally.withhold(route, "judge_corrected", f"{route} has too few labels")
    parsed = parse(gate, Declared().outputs, has_baseline=True, param="g")
    report = summarise(tally)
    if not known:
        # As the results of a run whose answers nobody has scored.
        kept = tuple(one for one in report.outputs if not one.corrects)
        report = msgspec.structs.replace(report, outputs=kept)
    [result] = check([parsed], tally, report)
    return result


RATES = JudgeErrors(
    sensitivity=Interval(estimate=0.9, low=0.87, high=0.93, n=400),
    specificity=Interval(estimate=0.9, low=0.87, high=0.93, n=400),
)


def calibrated(gate: str, *, lost: int, n: int = 400, rises: bool = True) -> GateResult:
    """A gate on a judge of 0 and 1 with known errors, which finds so many answers worse."""
    output = Output(name="good", higher_is_better=rises)
    metric = Declared(outputs=(output,))
    tally = ScoreAccumulator(
        routes=["base", "new"], metrics=[metric], expected={"base": n, "new": n}, baseline="base"
    )
    for k in range(n):
        best = float(rises)
        for route, value in (("base", k % 4 > 0), ("new", k % 4 > 0 and k // 4 >= lost)):
            score = Score(output="good", value=best if value else 1 - best)
            tally.add(Cell(route, str(k), 0), Answer(text="words"), [score])
    errors = {"good": RATES}
    outputs = list(share_outputs({"good": output}, errors).values())
    parsed = parse(gate, outputs, has_baseline=True, param="g")
    [result] = check([parsed], tally, summarise(tally, errors=errors))
    return result


def near(number: float | None) -> object:
    return None if number is None else pytest.approx(number, rel=1e-4)


RAW_NOTE = "judge is raw, as the judge scores"


@pytest.mark.parametrize(
    ("gate", "options", "passed", "found", "bound", "output", "note"),
    [
        ("judge >= 0.4", {}, True, 0.4044542, 0.4, "judge_corrected", ""),
        ("judge >= 0.5", {}, False, 0.4044542, 0.5, "judge_corrected", ""),
        ("judge_corrected >= 0.5", {}, False, 0.4044542, 0.5, "judge_corrected", ""),
        ("judge >= baseline", {"shift": 0.1}, True, 0.5044542, 0.3994612, "judge_corrected", ""),
        ("judge non_inferior baseline by 0.1", {}, True, -0.0314112, -0.1, "judge_corrected", ""),
        # Percentiles and coverage are of single answers, of which only the judge's score is known.
        ("p50(judge) >= 0.5", {}, True, 0.6, 0.5, "judge", RAW_NOTE),
        ("coverage(judge) >= 0.5", {}, True, 1.0, 0.5, "judge", RAW_NOTE),
    ],
)
def test_a_gate_goes_by_the_corrected_score(gate, options, passed, found, bound, output, note):
    result = labelled(gate, **options)
    assert (result.passed, result.found, result.bound) == (passed, near(found), near(bound))
    assert (result.gate, result.why, result.output, result.note) == (gate, "", output, note)


@pytest.mark.parametrize("route", ["new", "base"])
@pytest.mark.parametrize(
    ("gate", "found", "bound"),
    [
        ("judge >= baseline", 0.6295, 0.6245),
        ("judge non_inferior baseline by 0.1", -0.0133789, -0.1),
    ],
)
def test_a_comparison_with_too_few_labels_on_one_side_is_raw(route, gate, found, bound):
    result = labelled(gate, withheld=(route,))
    assert (result.passed, result.found, result.bound) == (True, near(found), near(bound))
    note = f"{RAW_NOTE}: {route} has too few labels"
    assert (result.output, result.note) == ("judge", note)


def test_a_bound_needs_no_labels_of_the_baseline():
    result = labelled("judge >= 0.5", withheld=("base",))
    assert (result.passed, result.output, result.note) == (False, "judge_corrected", "")
    result = labelled("judge >= 0.5", withheld=("new",))
    assert (result.passed, result.output) == (True, "judge")
    result = labelled("judge_corrected >= 0.1", withheld=("new",))
    assert (result.passed, result.found) == (False, None)
    assert result.why == "new has too few labels"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "not shown with 100 labels; if others are alike, about 637 would be"),
        ({"clusters": True}, "not shown with 50 clusters with labels; if others are alike, about"),
        ({"labels": 19}, "19 labels are too few for a margin; 20 on each side are needed"),
        ({"labels": 20}, "not shown with 20 labels; if others are alike, about"),
    ],
)
def test_a_margin_needs_labels(options, why):
    result = labelled("judge non_inferior baseline by 0.001", **options)
    assert not result.passed
    assert result.why.startswith(why)


def test_scores_that_nobody_gave_pass_nothing():
    result = labelled("judge_corrected >= 0.1", known=False)
    assert result == GateResult(
        gate="judge_corrected >= 0.1",
        route="new",
        passed=False,
        found=None,
        bound=0.1,
        why="people have scored none of the run's answers",
        output="judge_corrected",
    )


def test_a_corrected_score_has_no_percentiles():
    with pytest.raises(RunDocumentError) as caught:
        labelled("p50(judge_corrected) >= 0.5")
    message = "g: only the mean of judge_corrected is known, so it has no percentiles"
    assert (str(caught.value), caught.value.param) == (message, "g")


@pytest.mark.parametrize("rises", [True, False])
@pytest.mark.parametrize("kind", ["non_inferior", "equivalent"])
@pytest.mark.parametrize(
    ("margin", "lost", "passed", "end"),
    [
        (0.1, 2, True, -0.0405037),
        (0.02, 2, False, -0.0405037),
        (0.3, 10, True, -0.1318292),
        (0.1, 10, False, -0.1318292),
    ],
)
def test_a_margin_of_a_share_with_known_errors(rises, kind, margin, lost, passed, end):
    result = calibrated(f"good {kind} baseline by {margin}", lost=lost, rises=rises)
    side = 1 if rises else -1
    assert (result.passed, result.output) == (passed, "good_corrected")
    assert (result.found, result.bound) == (near(side * end), -side * margin)


def test_a_share_with_known_errors_says_how_many_samples_would_be_enough():
    """The raw difference has to be within the margin over the stretch."""
    for kind, fewest, among in (
        ("non_inferior", "35,400", "76,000"),
        ("equivalent", "45,600", "92,000"),
    ):
        result = calibrated(f"good {kind} baseline by 0.1", lost=10)
        assert result.why == (
            f"not shown with 400 samples; if others are alike, about {fewest} would be enough "
            f"4 times in 5, or {among} with these among them"
        )


def test_answers_of_another_run_are_not_covered():
    output = Output(name="judge")
    tally = ScoreAccumulator(
        routes=["new"], metrics=[Declared(outputs=(output,))], expected={"new": 3}, run="tonight"
    )
    for k in range(3):
        answer = Answer(text="words", cached=k > 0, cached_from="yesterday" if k > 0 else None)
        scores = [Score(output="judge", value=0.5)] if k == 0 else []
        tally.add(Cell("new", str(k), 0), answer, scores)
    gates = [
        parse(gate, [output], has_baseline=False, param="g")
        for gate in ("coverage >= 0.9", "coverage >= 0.3", "judge >= 0.2")
    ]
    why = (
        "2 of 3 answers of new were not measured by this run: the run cache took them from "
        "yesterday; `cache: false` requests new ones"
    )
    results = check(gates[:1], tally, summarise(tally)) + check(gates[2:], tally, summarise(tally))
    assert [(one.passed, one.why) for one in results] == [(False, why)] * 2
    [result] = check(gates[1:2], tally, summarise(tally))
    assert (result.passed, result.why) == (True, "")
