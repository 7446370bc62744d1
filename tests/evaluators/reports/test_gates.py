"""Gates: what they accept, what they hold against what, and that errors never pass one."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree as Xml

import msgspec
import numpy as np
import pytest

from evaluators.base import Answer, Cell, Output, Score
from evaluators.reports.accumulator import ScoreAccumulator
from evaluators.reports.gates import Gate, GateResult, check, parse
from evaluators.reports.junit import in_words, to_junit
from evaluators.reports.report import summarise
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
    *gates: str,
    n: int = 40,
    new: Value,
    base: Value = lambda k: k / 100,
    failed: int = 0,
    looked_at: bool = False,
) -> list[GateResult]:
    """Gates held against a route `new` with these values of rougeL, its last answers failed."""
    tally = ScoreAccumulator(
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
    found = check(parsed, tally, summarise(tally, always_valid=looked_at))
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
        n=800,
    )
    assert found.passed is expected
    assert found.bound == -0.01


EXACT = Declared("exact", (Output(name="exact"),))


def shares(gate: str, *, wins: int, losses: int, n: int, looked_at: bool = False) -> GateResult:
    """A gate on an output of 0 and 1, right in all but these samples."""
    tally = ScoreAccumulator(
        routes=["base", "new"], metrics=[EXACT], expected={"base": n, "new": n}, baseline="base"
    )
    for k in range(n):
        for route, wrong in (("base", k < wins), ("new", wins <= k < wins + losses)):
            score = Score(output="exact", value=float(not wrong))
            tally.add(Cell(route, str(k), 0), Answer(text="words"), [score])
    parsed = parse(gate, EXACT.outputs, has_baseline=True, param="g")
    [result] = check([parsed], tally, summarise(tally, always_valid=looked_at))
    return result


@pytest.mark.parametrize("margin", ["0.001", "0.02", "0.3"])
@pytest.mark.parametrize("kind", ["non_inferior", "equivalent"])
def test_two_right_answers_are_no_evidence(kind, margin):
    result = shares(f"exact {kind} baseline by {margin}", wins=0, losses=0, n=2)
    assert not result.passed
    assert abs(result.found) == pytest.approx(3.8415 / 5.8415, abs=1e-4)
    assert "would be enough 4 times in 5" in result.why


def test_a_gate_says_how_many_samples_would_be_enough():
    result = shares("exact non_inferior baseline by 0.02", wins=0, losses=0, n=10)
    assert (result.passed, result.why) == (
        False,
        "not shown with 10 samples; if others are alike, about 189 would be enough 4 times in 5, "
        "or 305 with these among them",
    )
    assert shares("exact non_inferior baseline by 0.02", wins=0, losses=0, n=189).passed
    assert not shares("exact non_inferior baseline by 0.02", wins=0, losses=0, n=187).passed
    # A run that goes on from this one was looked at.
    for n, passed in ((305, True), (300, False)):
        gone_on = shares(
            "exact non_inferior baseline by 0.02", wins=0, losses=0, n=n, looked_at=True
        )
        assert gone_on.passed is passed
        assert "with these among them" not in gone_on.why
    # 1 in 40 lost and none won: more samples of the same kind would show that it is within 0.05.
    result = shares("exact non_inferior baseline by 0.05", wins=0, losses=1, n=40)
    needed = int(result.why.split("about ")[1].split(" ")[0].replace(",", ""))
    assert shares(
        "exact non_inferior baseline by 0.05", wins=0, losses=needed // 40, n=needed
    ).passed


@pytest.mark.parametrize(("wins", "losses", "n"), [(1, 3, 10), (1, 3, 50), (2, 6, 100), (0, 2, 20)])
def test_a_gate_at_its_margin_passes_by_chance_in_a_fortieth_of_the_runs(wins, losses, n):
    """Of 100, `wins` and `losses`: the gate by the difference itself must not pass."""
    margin = (losses - wins) / 100
    draw = np.random.Generator(np.random.PCG64(n))
    tables = draw.multinomial(n, [wins / 100, losses / 100, 1 - (wins + losses) / 100], 2000)
    chances: dict[tuple[int, int], bool] = {}
    false_passes = 0
    for won, lost, _ in tables.tolist():
        if (won, lost) not in chances:
            gate = f"exact non_inferior baseline by {margin}"
            chances[won, lost] = shares(gate, wins=won, losses=lost, n=n).passed
        false_passes += chances[won, lost]
    assert false_passes / 2000 <= 0.025 + 3 * (0.025 * 0.975 / 2000) ** 0.5


def test_a_margin_needs_samples_that_would_show_rare_losses():
    """Two gains among ties say nothing of a rare large loss."""
    gate = "rougeL non_inferior baseline by 0.05"
    [result] = results(gate, new=lambda k: 0.5 + 0.01 * (k < 2), base=lambda k: 0.5)
    assert (result.passed, result.why) == (False, enough(72, among=119))
    assert passed(gate, new=lambda k: 0.5 + 0.01 * (k < 2), base=lambda k: 0.5, n=72)


@pytest.mark.parametrize("kind", ["non_inferior", "equivalent"])
def test_noise_is_no_evidence_against_rare_losses(kind):
    """Every sample differs by a little: 3% could be lost, and 20 show none in 54 of 100 runs."""
    noise = np.random.Generator(np.random.PCG64(3)).normal(0, 0.01, 20).tolist()
    gate = f"rougeL {kind} baseline by 0.03"
    [result] = results(gate, new=lambda k: 0.5 + noise[k], base=lambda k: 0.5, n=20)
    assert not result.passed
    # As much as the bound of a share of which 20 samples show nothing.
    assert abs(result.found) == pytest.approx(1 - 0.025 ** (1 / 20), abs=0.01)
    needed = int(result.why.split("about ")[1].split(" ")[0])
    assert 120 < needed < 140


@pytest.mark.parametrize("size", [1, 6])
def test_a_margin_counts_clusters(size):
    """However many samples a cluster has, its loss is one event."""
    gate = parse(
        "exact non_inferior baseline by 0.1", EXACT.outputs, has_baseline=True, param="gates[0]"
    )

    def outcome(k: int) -> GateResult:
        samples = range(k * size)
        tally = ScoreAccumulator(
            routes=["base", "new"],
            metrics=[EXACT],
            expected={"base": k * size, "new": k * size},
            baseline="base",
            clusters={str(sample): str(sample // size) for sample in samples},
        )
        for sample in samples:
            for route in ("base", "new"):
                tally.add(
                    Cell(route, str(sample), 0),
                    Answer(text="words"),
                    [Score(output="exact", value=1.0)],
                )
        [result] = check([gate], tally, summarise(tally))
        return result

    few = outcome(20)
    assert not few.passed
    # Clusters of one sample each are samples.
    among = 59 if size == 1 else None
    assert few.why == enough(36, of=20, units="clusters", among=among)
    assert few.found == pytest.approx(-(1 - 0.025 ** (1 / 20)))
    assert outcome(36).passed
    assert not outcome(34).passed


@pytest.mark.parametrize(
    ("n", "shifts", "needed"),
    # In one direction and without a range, less than 100 samples show nothing, else 50.
    [(120, (0.0, 0.1, 0.2), 0), (99, (0.0, 0.1, 0.2), 100), (49, (-0.1, 0.1, 0.2), 50)],
)
def test_non_inferior_of_what_should_be_low(n, shifts, needed):
    outputs = [Output(name="errors", higher_is_better=False, high=None)]
    tally = ScoreAccumulator(
        routes=["base", "new"],
        metrics=[Declared("errors", tuple(outputs))],
        expected={"base": n, "new": n},
        baseline="base",
    )
    for k in range(n):
        tally.add(Cell("base", str(k), 0), Answer(text=""), [Score(output="errors", value=5.0)])
        score = Score(output="errors", value=5.0 + shifts[k % 3])
        tally.add(Cell("new", str(k), 0), Answer(text=""), [score])
    report = summarise(tally)

    def outcome(margin: float) -> GateResult:
        gate = f"errors non_inferior baseline by {margin}"
        return check([parse(gate, outputs, has_baseline=True, param="g")], tally, report)[0]

    assert outcome(0.2).passed is not bool(needed)
    assert outcome(0.2).why == (enough(needed, of=n) if needed else "")
    assert not outcome(0.05).passed
    assert outcome(0.05).why == BEYOND


@pytest.mark.parametrize(
    ("gate", "end"),
    [
        ("rougeL non_inferior baseline by 0.01", "whenever one looks"),
        (
            "latency_s non_inferior baseline by 0.01",
            "whenever one looks (of a score without a range, from 100 samples on)",
        ),
    ],
)
def test_a_run_that_was_looked_at_says_which_interval_decided(gate, end):
    options = {"new": lambda k: 0.5 + (k % 2) / 10, "base": lambda k: 0.5}
    [fixed], [looked] = (results(gate, **options, looked_at=seen) for seen in (False, True))
    assert not looked.passed
    assert looked.why.endswith(
        "; the run was looked at before it had all samples, so the interval is one that holds "
        f"{end}"
    )
    assert "looked" not in fixed.why
    assert "with these among them" not in looked.why
    if gate.startswith("rougeL"):
        assert looked.found < fixed.found


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


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ("rougeL non_inferior baseline by 0.01", "at worst, with room for rare losses, against"),
        ("rougeL equivalent baseline by 0.01", "at worst, with room for rare differences, against"),
    ],
)
def test_the_number_of_a_margin_is_said_to_be_the_worst_case(gate, words):
    [result] = results(gate, new=lambda k: k / 100)
    assert f"difference of {result.found:.4g} {words} {result.bound:.4g}" in in_words(result)


def test_junit_tells_why_a_run_did_not_complete():
    text = to_junit("nightly", [], run="run_1", problem="failed: no space", seconds=None)
    suite = Xml.fromstring(text).find("testsuite")
    assert suite.attrib["errors"] == "1"
    assert suite.find("testcase/error").attrib["message"] == "failed: no space"


# What is read, whole


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("rougeL >= 0.2", {"kind": "score", "output": "rougeL", "sign": ">=", "bound": 0.2}),
        ("  rougeL<-1e3 ", {"kind": "score", "output": "rougeL", "sign": "<", "bound": -1000.0}),
        ("rougeL > baseline", {"kind": "score", "output": "rougeL", "sign": ">"}),
        ("latency <= 2", {"kind": "score", "output": "latency_s", "sign": "<=", "bound": 2.0}),
        (
            "p95(latency_s) < 2",
            {"kind": "quantile", "output": "latency_s", "sign": "<", "bound": 2.0,
             "quantile": 0.95},
        ),
        (
            " p99.5 ( latency )>=baseline ",
            {"kind": "quantile", "output": "latency_s", "sign": ">=", "quantile": 0.995},
        ),
        ("p1(rougeL) > 0", {"kind": "quantile", "output": "rougeL", "sign": ">", "bound": 0.0,
                            "quantile": 0.01}),
        ("coverage >= 0.99", {"kind": "coverage", "sign": ">=", "bound": 0.99}),
        ("coverage > 0", {"kind": "coverage", "sign": ">", "bound": 0.0}),
        ("coverage >= 1", {"kind": "coverage", "sign": ">=", "bound": 1.0}),
        (
            "coverage(latency) >= 0.5",
            {"kind": "coverage", "output": "latency_s", "sign": ">=", "bound": 0.5},
        ),
        (
            "rougeL non_inferior baseline by 0.01",
            {"kind": "non_inferior", "output": "rougeL", "bound": 0.01},
        ),
        (
            "latency  non_inferior  baseline  by  3",
            {"kind": "non_inferior", "output": "latency_s", "bound": 3.0},
        ),
    ],
)  # fmt: skip
def test_what_is_read_of_a_gate(text, fields):
    gate = parse(text, OUTPUTS, has_baseline=True, param="gates[0]")
    assert gate == Gate(text=text, **fields)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("rougeL >= last", {"kind": "score", "output": "rougeL", "sign": ">="}),
        (
            "p95(latency) < last",
            {"kind": "quantile", "output": "latency_s", "sign": "<", "quantile": 0.95},
        ),
        (
            "rougeL non_inferior last by 0.01",
            {"kind": "non_inferior", "output": "rougeL", "bound": 0.01},
        ),
        ("rougeL equivalent last by 1", {"kind": "equivalent", "output": "rougeL", "bound": 1.0}),
    ],
)
def test_the_gates_of_a_schedule_may_name_its_last_accepted_run(text, fields):
    gate = parse(text, OUTPUTS, has_baseline=False, has_last=True, param="g")
    assert gate == Gate(text=text, last=True, **fields)
    with pytest.raises(RunDocumentError, match="g: only the gates of a schedule compare with"):
        parse(text, OUTPUTS, has_baseline=True, param="g")


def test_other_words_are_neither_and_a_baseline_is_needed_beside_the_last_run():
    with pytest.raises(RunDocumentError, match="'Last' is neither a number nor 'baseline' nor"):
        parse("rougeL >= Last", OUTPUTS, has_baseline=False, has_last=True, param="g")
    with pytest.raises(RunDocumentError, match="the run names no baseline"):
        parse("rougeL >= baseline", OUTPUTS, has_baseline=False, has_last=True, param="g")
    with pytest.raises(RunDocumentError, match="coverage is a share"):
        parse("coverage >= last", OUTPUTS, has_baseline=False, has_last=True, param="g")


def test_what_is_not_said_of_a_gate():
    gate = Gate(text="t", kind="coverage")
    assert (gate.output, gate.sign, gate.bound, gate.quantile) == ("", "", None, 0.0)
    assert not gate.last
    assert GateResult(gate="t", route="r", passed=True, found=None, bound=None).why == ""
    padded = parse(" rougeL non_inferior baseline by 1 ", OUTPUTS, has_baseline=True, param="g")
    assert padded.text == "rougeL non_inferior baseline by 1"


def test_an_output_named_coverage_is_a_score():
    outputs = (Output(name="coverage"), *OUTPUTS)
    gate = parse("coverage <= 9", outputs, has_baseline=False, param="g")
    assert (gate.kind, gate.output) == ("score", "coverage")
    gate = parse("coverage(coverage) >= 0.9", outputs, has_baseline=False, param="g")
    assert (gate.kind, gate.output) == ("coverage", "coverage")


def test_a_name_in_full_goes_before_a_beginning():
    outputs = (Output(name="latency"), Output(name="latency_s"))
    gate = parse("latency < 1", outputs, has_baseline=False, param="g")
    assert gate.output == "latency"
    with pytest.raises(RunDocumentError, match="Did you mean"):
        parse("latenc < 1", outputs, has_baseline=False, param="g")


COVERAGE = "g: coverage is a share; write for example 'coverage >= 0.99'"
OF_THE_FORM = (
    "is not a gate; write for example 'rougeL >= 0.20', 'p95(latency_s) < 2', 'coverage >= 0.99' "
    "or 'rougeL non_inferior baseline by 0.01'"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rougeL", f"g: 'rougeL' {OF_THE_FORM}"),
        ("rougeL >= 1 2", f"g: 'rougeL >= 1 2' {OF_THE_FORM}"),
        ("x rougeL >= 1", f"g: 'x rougeL >= 1' {OF_THE_FORM}"),
        ("P95(rougeL) >= 1", f"g: 'P95(rougeL) >= 1' {OF_THE_FORM}"),
        ("rougeL >= Baseline", "g: 'Baseline' is neither a number nor 'baseline'"),
        ("rougeL >= inf", "g: 'inf' is neither a number nor 'baseline'"),
        ("coverage >= 1.01", COVERAGE),
        ("coverage >= -0.01", COVERAGE),
        ("coverage < 0.5", COVERAGE),
        ("coverage(rougeL) >= baseline", COVERAGE),
        ("p0(rougeL) >= 1", "g: 'p0' is not a percentile; write p50 to p99"),
        ("p100(rougeL) >= 1", "g: 'p100' is not a percentile; write p50 to p99"),
        ("p9.9.9(rougeL) >= 1", "g: '9.9.9' is not a percentile"),
        ("x >= 1", "g: no metric of this run produces 'x'. Known: first_byte_s, latency_s, rougeL, "
                   "words."),
        ("rougeL non_inferior baseline by 0", "g: the margin must be above 0"),
        ("rougeL non_inferior baseline by much", "g: 'much' is not a number"),
        (
            "words non_inferior baseline by 1",
            "g: neither direction of words is better, so nothing is inferior; write "
            "'words equivalent baseline by ...'",
        ),
    ],
)  # fmt: skip
def test_what_a_gate_that_is_none_is_told(text, message):
    with pytest.raises(RunDocumentError) as caught:
        parse(text, OUTPUTS, has_baseline=True, param="g")
    assert (caught.value.message, caught.value.param) == (message, "g")


@pytest.mark.parametrize(
    "text",
    [
        "rougeL >= baseline",
        "p9(rougeL) >= baseline",
        "rougeL non_inferior baseline by 1",
        "words equivalent baseline by 1",
    ],
)
def test_what_a_gate_without_a_baseline_is_told(text):
    with pytest.raises(RunDocumentError) as caught:
        parse(text, OUTPUTS, has_baseline=False, param="g")
    assert (caught.value.message, caught.value.param) == ("g: the run names no baseline", "g")


# What is found, whole


def found(gate: str, *more: str, **options: object) -> GateResult:
    [first, *_] = results(gate, *more, **options)  # type: ignore[arg-type]
    return first


def half(k: int) -> float:
    return 0.5


def missing(n: int, route: str = "new", output: str = "rougeL", of: int = 40) -> str:
    return (
        f"{n} of {of} answers of {route} have no {output}; a gate 'coverage >= ...' says how many "
        "may be missing"
    )


def but(*lost: int) -> Value:
    return lambda k: None if k in lost else 0.5


NO_INTERVAL = "no interval: fewer than two samples in common"
BEYOND = "the difference itself is beyond the margin, so more samples would not help"


def enough(n: int, *, of: int = 40, units: str = "samples", among: int | None = None) -> str:
    return (
        f"not shown with {of} {units}; if others are alike, about {n} would be enough 4 times in 5"
        + (f", or {among} with these among them" if among else "")
    )


NOTHING_COMMON = "the baseline has no samples in common with it"


@pytest.mark.parametrize(
    ("gate", "options", "expected"),
    [
        ("rougeL >= 0.5", {"new": half}, (True, 0.5, 0.5, "")),
        ("rougeL > 0.5", {"new": half}, (False, 0.5, 0.5, "")),
        ("rougeL <= 0.5", {"new": half}, (True, 0.5, 0.5, "")),
        ("rougeL < 0.5", {"new": half}, (False, 0.5, 0.5, "")),
        ("rougeL < 0.6", {"new": half}, (True, 0.5, 0.6, "")),
        ("rougeL > 0.4", {"new": half}, (True, 0.5, 0.4, "")),
        ("rougeL >= -1", {"new": lambda k: 0.0}, (True, 0.0, -1.0, "")),
        ("rougeL >= 0.4", {"new": but(1, 2)}, (False, 0.5, 0.4, missing(2))),
        ("rougeL >= 0.4", {"new": half, "failed": 3}, (False, 0.5, 0.4, missing(3))),
        ("rougeL >= 0.4", {"new": half, "failed": 40}, (False, None, 0.4, missing(40))),
        ("rougeL >= 0.4", {"new": half, "n": 0}, (False, None, 0.4, "new has no answers")),
        # Against the baseline: on what both have.
        ("rougeL >= baseline", {"new": half, "base": half}, (True, 0.5, 0.5, "")),
        ("rougeL > baseline", {"new": half, "base": half}, (False, 0.5, 0.5, "")),
        ("rougeL > baseline", {"new": half, "base": lambda k: 0.25}, (True, 0.5, 0.25, "")),
        ("rougeL < baseline", {"new": half, "base": lambda k: 0.25}, (False, 0.5, 0.25, "")),
        ("rougeL > baseline", {"new": half, "base": but(1)}, (False, 0.5, 0.5, missing(1, "base"))),
        ("rougeL > baseline", {"new": but(1, 2), "base": but(3)}, (False, 0.5, 0.5, missing(2))),
        (
            "rougeL >= baseline",
            {"new": half, "base": lambda k: None},
            (False, 0.5, None, missing(40, "base")),
        ),
        (
            "rougeL >= baseline",
            {"new": lambda k: None, "base": half},
            (False, None, None, missing(40)),
        ),
        # Percentiles: what is missing is the worst, whichever end that is.
        ("p50(latency_s) <= 2", {"new": half}, (True, 2.0, 2.0, "")),
        ("p50(latency_s) < 2", {"new": half}, (False, 2.0, 2.0, "")),
        ("p97.5(latency_s) <= 3.9", {"new": half}, (True, 3.9, 3.9, "")),
        ("p97.6(latency_s) <= 3.9", {"new": half}, (False, 4.0, 3.9, "")),
        ("p1(latency_s) >= 0.1", {"new": half}, (True, 0.1, 0.1, "")),
        ("p90(latency_s) <= 3.6", {"new": half, "failed": 4}, (True, 3.6, 3.6, "")),
        ("p91(latency_s) <= 9", {"new": half, "failed": 4}, (False, None, 9.0,
                                                              "4 answers are missing")),
        ("p10(latency_s) >= 0", {"new": half, "failed": 4}, (False, None, 0.0,
                                                              "4 answers are missing")),
        ("p11(latency_s) > 0", {"new": half, "failed": 4}, (True, 0.1, 0.0, "")),
        ("p50(latency_s) >= 1.6", {"new": half, "failed": 4}, (True, 1.6, 1.6, "")),
        ("p50(latency_s) <= 1", {"new": half, "n": 0}, (False, None, 1.0, "0 answers are missing")),
        ("p50(latency_s) <= 0.1", {"new": half, "n": 1}, (True, 0.1, 0.1, "")),
        ("p50(latency_s) >= 0.1", {"new": half, "n": 1}, (True, 0.1, 0.1, "")),
        ("p50(latency_s) <= baseline", {"new": half}, (True, 2.0, 2.0, "")),
        ("p50(latency_s) < baseline", {"new": half}, (False, 2.0, 2.0, "")),
        (
            "p50(rougeL) <= baseline",
            {"new": half, "base": lambda k: None},
            (False, 0.5, None, "the baseline has too few answers"),
        ),
        (
            "p50(rougeL) <= baseline",
            {"new": lambda k: None, "base": half},
            (False, None, 0.5, "40 answers are missing"),
        ),
        # Coverage: of all outputs, the one that is covered least.
        ("coverage >= 1", {"new": half}, (True, 1.0, 1.0, "")),
        ("coverage >= 0.95", {"new": but(1, 2)}, (True, 0.95, 0.95, "")),
        ("coverage > 0.95", {"new": but(1, 2)}, (False, 0.95, 0.95, "")),
        ("coverage(latency_s) >= 1", {"new": but(1, 2)}, (True, 1.0, 1.0, "")),
        ("coverage(rougeL) >= 1", {"new": but(1, 2)}, (False, 0.95, 1.0, "")),
        ("coverage >= 0", {"new": half, "n": 0}, (True, 0.0, 0.0, "")),
        # Not inferior: by the end of the interval, which allows for what 40 samples may not show.
        (
            "rougeL non_inferior baseline by 0.1",
            {"new": half, "base": half},
            (True, -0.0881, -0.1, ""),
        ),
        (
            "rougeL non_inferior baseline by 0.05",
            {"new": half, "base": half},
            (False, -0.0881, -0.05, enough(72, among=120)),
        ),
        (
            "rougeL non_inferior baseline by 0.25",
            {"new": half, "base": lambda k: 0.75},
            (False, -0.3161, -0.25, BEYOND),
        ),
        (
            "rougeL non_inferior baseline by 0.1",
            {"new": half, "base": half, "n": 1},
            (False, None, -0.1, NO_INTERVAL),
        ),
        (
            "rougeL non_inferior baseline by 0.1",
            {"new": but(1, 2), "base": but(3)},
            (False, -0.0949, -0.1, missing(2)),
        ),
        (
            "rougeL non_inferior baseline by 0.1",
            {"new": half, "base": but(3)},
            (False, -0.0903, -0.1, missing(1, "base")),
        ),
        (
            "latency_s non_inferior baseline by 0.1",
            {"new": half},
            (False, None, 0.1, "no interval: all samples differ alike, and the score has no range"),
        ),
        (
            "rougeL equivalent baseline by 0.1",
            {"new": half, "base": half},
            (True, 0.0881, 0.1, ""),
        ),
        (
            "rougeL equivalent baseline by 0.05",
            {"new": half, "base": half},
            (False, 0.0881, 0.05, enough(72, among=120)),
        ),
        (
            "rougeL equivalent baseline by 0.25",
            {"new": half, "base": lambda k: 0.75},
            (False, -0.3161, -0.25, BEYOND),
        ),
        (
            "rougeL equivalent baseline by 0.5",
            {"new": half, "base": lambda k: 0.25},
            (True, 0.3161, 0.5, ""),
        ),
    ],
)  # fmt: skip
def test_what_a_gate_finds(gate, options, expected):
    result = found(gate, **options)
    assert (result.gate, result.route) == (gate, "new")
    assert (result.passed, result.bound) == (expected[0], pytest.approx(expected[2]))
    assert result.found == pytest.approx(expected[1], abs=5e-5)
    assert result.why == expected[3]


@pytest.mark.parametrize(
    ("coverage", "why"),
    [
        (["coverage >= 0.95"], ""),
        (["coverage >= 0.96"], missing(2)),
        (["coverage(rougeL) >= 0.95"], ""),
        # The strictest of them counts; one of another output does not.
        (["coverage >= 0.1", "coverage(rougeL) >= 0.96"], missing(2)),
        (["coverage(latency_s) >= 0.1"], missing(2)),
        (["rougeL >= 0.1"], missing(2)),
    ],
)
def test_how_many_answers_may_be_missing(coverage, why):
    assert found("rougeL >= 0.5", *coverage, new=but(1, 2)).why == why


def test_thousands_are_set_apart():
    lost = set(range(1100))
    result = found("rougeL >= 0.5", new=lambda k: None if k in lost else 0.5, n=1200)
    assert result.why.startswith("1,100 of 1,200 answers of new have no rougeL; ")
    result = found("p99(rougeL) <= 0.5", new=lambda k: None if k in lost else 0.5, n=1200)
    assert result.why == "1,100 answers are missing"


def test_without_samples_in_common():
    tally = ScoreAccumulator(
        routes=["z", "base", "a"],
        metrics=METRICS[:1],
        expected={"base": 2, "a": 2, "z": 2},
        baseline="base",
    )
    for route, sample in (("base", "1"), ("base", "2"), ("a", "3"), ("a", "4"), ("z", "1")):
        score = Score(output="rougeL", value=0.5)
        tally.add(Cell(route, sample, 0), Answer(text="words"), [score])
    texts = ["rougeL >= baseline", "rougeL non_inferior baseline by 1", "rougeL >= 0.5"]
    gates = [parse(text, OUTPUTS, has_baseline=True, param="g") for text in texts]
    results_ = check(gates, tally, summarise(tally))
    # Gate by gate, and the routes by name.
    assert [(one.gate, one.route) for one in results_] == [
        (text, route) for text in texts for route in ("a", "z")
    ]
    assert [(one.passed, one.found, one.bound, one.why) for one in results_] == [
        (False, 0.5, None, NOTHING_COMMON),
        (True, 0.5, 0.5, ""),
        (False, None, -1.0, NO_INTERVAL),
        (False, None, -1.0, NO_INTERVAL),
        (True, 0.5, 0.5, ""),
        (True, 0.5, 0.5, ""),
    ]


def test_coverage_of_nothing_is_not_known():
    tally = ScoreAccumulator(routes=["new"], metrics=[], expected={"new": 1}, baseline=None)
    tally.add(Cell("new", "1", 0), Answer(text=""))
    [result] = check(
        [parse("coverage >= 0", [], has_baseline=False, param="g")], tally, summarise(tally)
    )
    assert (result.passed, result.found, result.bound) == (False, None, 0.0)


def test_gates_are_made_by_name_and_do_not_change():
    with pytest.raises(TypeError):
        Gate("t", "score")
    with pytest.raises(TypeError):
        GateResult("t", "r", True, None, None)
    with pytest.raises(AttributeError):
        Gate(text="t", kind="score").text = "u"
    with pytest.raises(AttributeError):
        found("rougeL >= 0.5", new=half).passed = False


def test_a_run_without_a_baseline_holds_every_route():
    tally = ScoreAccumulator(
        routes=["new"], metrics=METRICS[:1], expected={"new": 1}, baseline=None
    )
    tally.add(Cell("new", "1", 0), Answer(text=""), [Score(output="rougeL", value=0.5)])
    gates = [parse("rougeL >= 0.5", OUTPUTS, has_baseline=False, param="g")]
    assert [one.passed for one in check(gates, tally, summarise(tally))] == [True]
