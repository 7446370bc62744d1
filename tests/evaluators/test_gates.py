"""Gates: what they accept, what they hold against what, and that errors never pass one."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree as Xml

import msgspec
import pytest

from evaluators.base import Answer, Cell, Output, Score
from evaluators.gates import GateResult, check, parse
from evaluators.junit import to_junit
from evaluators.report import summarise
from evaluators.tally import Tally
from providers.errors import RunDocumentError

OUTPUTS = (
    Output(name="rougeL"),
    Output(name="latency_s", higher_is_better=False, high=None),
    Output(name="first_byte_s", higher_is_better=False, high=None),
    Output(name="words", higher_is_better=None, high=None),
)


class Declared(msgspec.Struct, frozen=True):
    name: str
    outputs: tuple[Output, ...]
    signature: str = "test"


METRICS = [Declared("rouge", OUTPUTS[:1]), Declared("latency", OUTPUTS[1:3])]
Value = Callable[[int], float | None]


def results(
    *gates: str, n: int = 40, new: Value, base: Value = lambda k: k / 100, failed: int = 0
) -> list[GateResult]:
    """Gates held against a route `new` with these values of rougeL, its last answers failed."""
    tally = Tally(
        routes=["base", "new"], metrics=METRICS, expected={"base": n, "new": n}, baseline="base"
    )
    for k in range(n):
        for route, value in (("base", base(k)), ("new", new(k))):
            cell = Cell(route, str(k), 0)
            if route == "new" and k >= n - failed:
                tally.add(cell, Answer(text=None, error="broke", error_code="upstream_500"))
                continue
            scores = [
                Score(output="rougeL", value=value),
                Score(output="latency_s", value=(k + 1) / 10),
                Score(output="first_byte_s", value=0.1),
            ]
            tally.add(cell, Answer(text="words"), scores)
    outputs = [one for metric in METRICS for one in metric.outputs]
    parsed = [parse(gate, outputs, has_baseline=True, param="gates[0]") for gate in gates]
    found = check(parsed, tally, summarise(tally))
    assert {one.route for one in found} <= {"new"}
    return found


def passed(gate: str, **options: object) -> bool:
    [found] = results(gate, **options)  # type: ignore[arg-type]
    return found.passed


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        ("rougeL >= 0.2", True),
        ("rougeL >= 0.3", False),
        ("rougeL > baseline", True),
        ("rougeL <= baseline", False),
        ("latency_s<=baseline", True),
        ("latency <= 2.05", True),
        ("latency < 2.05", False),
        ("p50(latency_s) <= 2", True),
        ("p95(latency_s) <= 3.8", True),
        ("p95(latency_s) < 3.8", False),
        ("p99(latency) < 2", False),
        ("p95(latency) <= baseline", True),
        ("p10(rougeL) >= 0.07", True),
        ("p10(rougeL) >= 0.08", False),
        ("coverage >= 0.99", True),
        ("coverage(rougeL) >= 1", True),
    ],
)
def test_gates_hold_or_do_not(gate, expected):
    assert passed(gate, new=lambda k: (k + 4) / 100) is expected


def test_percentiles_are_of_the_answers():
    [found] = results("p95(latency_s) < 2", new=lambda k: k / 100)
    assert (found.found, found.bound) == (3.8, 2)  # the 38th of 40


# non-inferiority


@pytest.mark.parametrize(
    ("shift", "spread", "expected"),
    [
        (0.0, 0.001, True),
        (-0.005, 0.001, True),  # worse, and shown to be, but by less than the margin
        (-0.02, 0.001, False),
        (0.0, 0.2, False),  # nothing is shown
        (0.05, 0.001, True),
    ],
)
def test_non_inferior_needs_the_whole_interval_above_the_margin(shift, spread, expected):
    [found] = results(
        "rougeL non_inferior baseline by 0.01",
        new=lambda k: 0.5 + shift + (spread if k % 2 else -spread),
        base=lambda k: 0.5,
    )
    assert found.passed is expected
    assert found.bound == -0.01


def test_non_inferior_of_what_should_be_low():
    outputs = [Output(name="errors", higher_is_better=False, high=None)]
    tally = Tally(
        routes=["base", "new"],
        metrics=[Declared("errors", tuple(outputs))],
        expected={"base": 30, "new": 30},
        baseline="base",
    )
    for k in range(30):
        tally.add(Cell("base", str(k), 0), Answer(text=""), [Score(output="errors", value=5.0)])
        score = Score(output="errors", value=5.0 + (k % 3) / 10)
        tally.add(Cell("new", str(k), 0), Answer(text=""), [score])
    report = summarise(tally)

    def holds(margin: float) -> bool:
        gate = f"errors non_inferior baseline by {margin}"
        return check([parse(gate, outputs, has_baseline=True, param="g")], tally, report)[0].passed

    assert holds(0.2)
    assert not holds(0.1)


# errors


@pytest.mark.parametrize(
    "gate",
    [
        "rougeL >= 0.0",
        "rougeL <= 1.0",
        "rougeL >= baseline",
        "rougeL non_inferior baseline by 0.5",
        "p95(latency_s) < 1000",
        "p5(rougeL) >= 0",
        "coverage >= 0.99",
        "latency < 1000",
    ],
)
def test_errors_fail_every_gate(gate):
    assert passed(gate, new=lambda k: 0.9)
    [found] = results(gate, new=lambda k: 0.9, failed=4)
    assert not found.passed


def test_a_coverage_gate_says_how_much_may_be_missing():
    tolerant = results("rougeL >= 0.5", "coverage >= 0.9", new=lambda k: 0.9, failed=4)
    assert [one.passed for one in tolerant] == [True, True]
    strict = results("rougeL >= 0.5", "coverage >= 0.95", new=lambda k: 0.9, failed=4)
    assert [one.passed for one in strict] == [False, False]
    assert "4 of 40 answers of new have no rougeL" in strict[0].why


def test_errors_of_one_metric_do_not_fail_the_gates_of_others():
    found = results(
        "rougeL >= 0.5", "latency <= 1000", new=lambda k: None if k == 3 else 0.9, failed=0
    )
    assert [one.passed for one in found] == [False, True]


def test_errors_of_the_baseline_do_not_make_the_others_better():
    [found] = results(
        "rougeL >= baseline", new=lambda k: 0.9, base=lambda k: None if k < 5 else 0.1
    )
    assert not found.passed
    assert "answers of base have no rougeL" in found.why


def test_percentiles_count_what_is_missing_as_the_worst():
    assert passed("p50(latency_s) <= 2", new=lambda k: 0.5, failed=4)
    assert not passed("p95(latency_s) <= 1000", new=lambda k: 0.5, failed=4)


def test_nothing_answered_fails():
    for gate in ("rougeL <= 1", "p50(latency_s) < 9", "coverage >= 0", "rougeL <= baseline"):
        [found] = results(gate, new=lambda k: 0.9, failed=40)
        assert found.passed is (gate == "coverage >= 0"), gate
        assert found.passed or found.why or found.found == 0.0


# what is not a gate


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        ("rougeL", "is not a gate"),
        ("rougeL == 1", "is not a gate"),
        ("rougel >= 1", "Did you mean 'rougeL'?"),
        ("p95(rogueL) < 2", "Did you mean 'rougeL'?"),
        ("coverage(rogueL) >= 0.9", "Did you mean 'rougeL'?"),
        ("rogueL non_inferior baseline by 0.01", "Did you mean 'rougeL'?"),
        ("rougeL non_inferior baseline by -1", "above 0"),
        ("rougeL non_inferior baseline by x", "not a number"),
        ("words non_inferior baseline by 3", "neither direction"),
        ("rougeL >= high", "neither a number nor 'baseline'"),
        ("rougeL >= nan", "neither a number"),
        ("p100(latency_s) < 2", "p50 to p99"),
        ("p95(latency_s < 2", "is not a gate"),
        ("coverage >= 99", "coverage is a share"),
        ("coverage <= 0.5", "coverage is a share"),
        ("coverage >= baseline", "coverage is a share"),
        ("p95(f) >= 1", "no metric of this run produces 'f'"),
    ],
)
def test_what_is_no_gate_is_told(gate, told):
    with pytest.raises(RunDocumentError) as caught:
        parse(gate, OUTPUTS, has_baseline=True, param="gates[2]")
    assert told in caught.value.message
    assert caught.value.message.startswith("gates[2]: ")
    assert caught.value.param == "gates[2]"


@pytest.mark.parametrize("gate", ["rougeL >= baseline", "rougeL non_inferior baseline by 0.1"])
def test_a_baseline_has_to_be_named(gate):
    with pytest.raises(RunDocumentError, match="names no baseline"):
        parse(gate, OUTPUTS, has_baseline=False, param="gates[0]")


def test_an_ambiguous_beginning_is_no_name():
    two = (Output(name="latency_s"), Output(name="latency_first_s"))
    with pytest.raises(RunDocumentError, match="latency_s"):
        parse("p95(latency) < 2", two, has_baseline=False, param="gates[0]")


# JUnit


def test_junit_has_a_case_for_the_run_and_one_for_each_gate():
    gates = results("rougeL >= 0.2", "rougeL >= 0.8", new=lambda k: 0.5)
    suite = Xml.fromstring(
        to_junit("nightly \x00<&>", gates, run="run_1", problem="", seconds=1.5)
    ).find("testsuite")
    assert suite.attrib["tests"] == "3"
    assert (suite.attrib["failures"], suite.attrib["errors"]) == ("1", "0")
    assert suite.attrib["time"] == "1.500"
    assert suite.attrib["name"] == "nightly \N{REPLACEMENT CHARACTER}<&>"
    cases = {case.attrib["name"]: case.find("failure") for case in suite.iter("testcase")}
    assert cases["run_1 completed"] is None
    assert cases["rougeL >= 0.2"] is None
    assert cases["rougeL >= 0.8"].attrib["message"] == "0.5 against 0.8"


def test_junit_tells_why_a_run_did_not_complete():
    text = to_junit("nightly", [], run="run_1", problem="failed: no space", seconds=None)
    suite = Xml.fromstring(text).find("testsuite")
    assert suite.attrib["errors"] == "1"
    assert suite.find("testcase/error").attrib["message"] == "failed: no space"
