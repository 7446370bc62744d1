"""Reports of hand-made observations with known outcomes, as numbers, JSON and text."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from evaluators.base import Answer, Cell, Output, Score, Usage
from evaluators.reports import report as reports
from evaluators.reports.accumulator import ScoreAccumulator
from evaluators.reports.missing_scores import missing_scores
from evaluators.reports.report import Report, summarise
from evaluators.reports.scores import RouteScore
from evaluators.reports.table import to_table
from evaluators.stats.comparison import Comparison, judged
from evaluators.stats.differences import holm
from evaluators.stats.power import always_valid_effect, minimum_detectable_share


class Declared(msgspec.Struct, frozen=True):
    """What a report reads of a metric."""

    name: str
    outputs: tuple[Output, ...]
    signature: str = "sig"


ROUGE = Declared("rouge", (Output(name="rougeL"),), "rouge|v1")
SPEED = Declared("latency", (Output(name="latency", higher_is_better=False, high=None, unit="s"),))
WORDS = Declared("length", (Output(name="words", higher_is_better=None, high=None),))
EXACT = Declared("exact_match", (Output(name="exact_match"),))
RATIO = Declared("ratio", (Output(name="ratio", high=100.0, corpus=lambda s: 100 * s[0] / s[1]),))


def answer(**changes: Any) -> Answer:
    return msgspec.structs.replace(
        Answer(text="fine", target="openai/small", cost_usd=0.001, total_s=0.5), **changes
    )


def failure(code: str | None = "upstream_timeout", message: str = "too slow") -> Answer:
    return Answer(text=None, error=message, error_code=code)


def scores(**values: float | None) -> tuple[Score, ...]:
    return tuple(Score(output=name, value=value) for name, value in values.items())


def tally(
    *metrics: Declared, expected: int, routes: Iterable[str] = ("base", "new"), **options: Any
) -> ScoreAccumulator:
    names = list(routes)
    options.setdefault("baseline", "base")
    return ScoreAccumulator(
        routes=names, metrics=metrics, expected=dict.fromkeys(names, expected), **options
    )


def score_of(report: Report, route: str, output: str) -> RouteScore:
    found = next(one for one in report.routes if one.route == route)
    return next(one for one in found.scores if one.output == output)


def compared(report: Report, route: str, output: str) -> Comparison:
    return next(one for one in report.comparisons if (one.route, one.output) == (route, output))


def text_of(report: Report, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(to_table(report, width=width))
    return console.file.getvalue()


@pytest.fixture(scope="module")
def typical() -> Report:
    """40 samples, three routes: `new` is better in quality and slower, `same` is as `base`."""
    draw = np.random.Generator(np.random.PCG64(1))
    collected = tally(ROUGE, SPEED, WORDS, expected=40, routes=("base", "new", "same"))
    for sample in range(40):
        level = draw.uniform(0.2, 0.5)
        for route, gain, delay in (("base", 0.0, 0.1), ("new", 0.1, 0.4), ("same", 0.0, 0.1)):
            if (route, sample) in {("new", 3), ("new", 5)}:
                collected.add(Cell(route, str(sample), 0), failure())
                continue
            seconds = delay + draw.exponential(0.05)
            found = scores(
                rougeL=level + gain + draw.normal(0, 0.05),
                latency=seconds,
                words=float(draw.integers(40, 60)),
            )
            collected.add(
                Cell(route, str(sample), 0),
                answer(
                    total_s=seconds,
                    target=f"host/{route}",
                    usage=Usage(prompt_tokens=10, completion_tokens=5),
                ),
                found,
            )
    return summarise(collected)


# numbers


def test_mean_difference_and_verdict_by_hand():
    collected = tally(ROUGE, expected=3)
    for sample, base, new in (("a", 0.1, 0.4), ("b", 0.2, 0.5), ("c", 0.9, 0.6)):
        collected.add(Cell("base", sample, 0), answer(), scores(rougeL=base))
        collected.add(Cell("new", sample, 0), answer(), scores(rougeL=new))
    report = summarise(collected)
    assert score_of(report, "base", "rougeL").estimate == pytest.approx(0.4)
    assert score_of(report, "new", "rougeL").estimate == pytest.approx(0.5)
    one = compared(report, "new", "rougeL")
    assert one.difference == pytest.approx(0.1)
    assert (one.wins, one.ties, one.losses, one.n) == (2, 0, 1, 3)
    # Student's t by hand: 0.1 over 0.2 with two degrees of freedom.
    assert one.p_value == one.p_holm == pytest.approx(2 / 3)
    assert one.method == "t"
    # 0.1 plus or minus 0.2 * 4.3027.
    assert (one.low, one.high) == pytest.approx((0.1 - 0.860531, 0.1 + 0.860531), abs=1e-6)
    assert one.verdict == "no difference shown"


def test_direction_decides_the_verdict(typical):
    assert compared(typical, "new", "rougeL").verdict == "better"
    assert compared(typical, "new", "rougeL").difference > 0
    slower = compared(typical, "new", "latency")
    assert slower.verdict == "worse"
    assert slower.difference > 0
    assert slower.wins < slower.losses
    assert compared(typical, "same", "rougeL").verdict == "no difference shown"
    undirected = compared(typical, "new", "words")
    assert (undirected.verdict, undirected.p_holm) == (None, None)
    assert undirected.p_value is not None


def test_holm_is_over_all_directed_comparisons(typical):
    family = [one for one in typical.comparisons if one.output != "words"]
    assert len(family) == 4
    assert [one.p_holm for one in family] == holm([one.p_value for one in family])
    assert any(one.p_holm > one.p_value for one in family)


def test_correction_can_take_a_verdict_away():
    # Six samples that only `new` gets right: p = 2/64 = 0.031 alone, 0.0625 as the smaller of two.
    def collect(*metrics: Declared) -> Report:
        collected = tally(*metrics, expected=20)
        for sample in range(20):
            for route in ("base", "new"):
                right = float(route == "new" and sample < 6)
                everything = {"exact_match": right, "latency": 0.3 + 0.01 * (-1) ** sample}
                names = [output.name for metric in metrics for output in metric.outputs]
                collected.add(
                    Cell(route, str(sample), 0),
                    answer(),
                    scores(**{name: everything[name] for name in names}),
                )
        return summarise(collected)

    assert compared(collect(EXACT), "new", "exact_match").verdict == "better"
    report = collect(EXACT, SPEED)
    with_two = compared(report, "new", "exact_match")
    assert with_two.p_value == pytest.approx(0.015625)
    assert with_two.p_holm == pytest.approx(0.03125)


def test_an_interval_without_zero_that_the_correction_does_not_confirm_is_explained():
    metrics = [EXACT, *(Declared(f"m{n}", (Output(name=f"m{n}"),)) for n in range(3))]
    collected = tally(*metrics, expected=30)
    for sample in range(30):
        for route in ("base", "new"):
            others = {f"m{n}": (sample * (n + 3) % 7) / 7 for n in range(3)}
            right = float(route == "new" and sample < 6)
            collected.add(
                Cell(route, str(sample), 0), answer(), scores(exact_match=right, **others)
            )
    report = summarise(collected)
    one = compared(report, "new", "exact_match")
    assert one.p_value < 0.05 < one.p_holm
    assert one.low > 0
    assert one.verdict == "no difference shown"
    [said] = [warning for warning in report.warnings if "verdicts are corrected for" in warning]
    assert "verdicts are corrected for 4: exact_match of new would be a difference" in said


def equal_routes(n: int, spread: float, margins: dict[str, float]) -> Report:
    """Two routes that differ by `spread`, up on one sample and down on the next."""
    collected = tally(ROUGE, expected=n)
    for sample in range(n):
        turn = spread if sample % 2 else -spread
        for route, value in (("base", 0.5), ("new", 0.5 + turn)):
            collected.add(Cell(route, str(sample), 0), answer(), scores(rougeL=value))
    return summarise(collected, margins=margins)


@pytest.mark.parametrize(
    ("n", "spread", "margins", "verdict", "words"),
    [
        (250, 0.01, {"rougeL": 0.02}, "equivalent", "≈ equivalent (±0.02)"),
        (40, 0.2, {"rougeL": 0.02}, "no difference shown", "not shown"),
        (40, 0.01, {}, "no difference shown", "not shown"),
        # Every sample differs, by next to nothing: losses of 1 in 20 need not be among 40.
        (40, 0.001, {"rougeL": 0.02}, "no difference shown", "not shown"),
    ],
)
def test_equivalence_is_a_verdict(n, spread, margins, verdict, words):
    report = equal_routes(n, spread, margins)
    one = compared(report, "new", "rougeL")
    assert one.verdict == verdict
    assert one.margin == margins.get("rougeL")
    assert (one.p_equivalence is None) is not bool(margins)
    if verdict == "equivalent":
        assert one.p_equivalence < 0.05
        assert -0.02 < one.low < one.high < 0.02
    assert words in text_of(report)


def test_a_difference_that_is_shown_goes_before_equivalence():
    collected = tally(ROUGE, expected=250)
    for sample in range(250):
        turn = 0.002 * (-1) ** sample
        for route, value in (("base", 0.5), ("new", 0.503 + turn)):
            collected.add(Cell(route, str(sample), 0), answer(), scores(rougeL=value))
    one = compared(summarise(collected, margins={"rougeL": 0.02}), "new", "rougeL")
    assert one.p_equivalence < 0.05
    assert one.verdict == "better"


def test_equivalence_is_corrected_for_all_margins():
    metrics = [Declared(f"m{n}", (Output(name=f"m{n}"),)) for n in range(12)]
    outputs = {output.name: output for metric in metrics for output in metric.outputs}
    one = Comparison(
        route="new",
        output="m0",
        n=100,
        difference=0.0,
        low=-0.015,
        high=0.015,
        p_value=1.0,
        wins=50,
        ties=0,
        losses=50,
        method="t",
        margin=0.02,
        p_equivalence=0.01,
    )
    assert judged([one], outputs)[0].verdict == "equivalent"
    twelve = [msgspec.structs.replace(one, output=name) for name in outputs]
    assert {found.verdict for found in judged(twelve, outputs)} == {"no difference shown"}


def family(*p_values: tuple[str, str, float]) -> tuple[list[Comparison], dict[str, Output]]:
    """Comparisons of (route, output, p), all with a difference above zero."""
    outputs = {name: Output(name=name) for _, name, _ in p_values}
    made = [
        Comparison(route=route, output=name, n=50, difference=0.1, low=0.0, high=0.2, p_value=p)
        for route, name, p in p_values
    ]
    return made, outputs


def test_the_primary_output_opens_the_gate():
    """Alone it is not corrected; the others are, by Holm, among themselves."""
    made, outputs = family(("new", "main", 0.04), ("new", "x", 0.02), ("new", "y", 0.03))
    found = judged(made, outputs, primary="main")
    assert [one.p_holm for one in found] == pytest.approx([0.04, 0.04, 0.04])
    assert {one.verdict for one in found} == {"better"}
    assert not any(one.gatekept for one in found)
    # As one family of three, none would be shown.
    assert {one.verdict for one in judged(made, outputs)} == {"no difference shown"}


def test_behind_a_closed_gate_outputs_have_no_verdict():
    made, outputs = family(("new", "main", 0.06), ("new", "x", 0.0001))
    main, other = judged(made, outputs, primary="main")
    assert (main.verdict, main.p_holm, main.gatekept) == ("no difference shown", 0.06, False)
    assert (other.verdict, other.p_holm, other.gatekept) == (None, None, True)
    assert (other.p_value, other.difference) == (0.0001, 0.1)


def test_each_route_has_a_gate_and_its_part_of_the_level():
    made, outputs = family(
        ("a", "main", 0.02), ("a", "x", 0.01), ("b", "main", 0.03), ("b", "x", 0.001)
    )
    found = judged(made, outputs, primary="main")
    assert [one.p_holm for one in found] == pytest.approx([0.04, 0.04, 0.06, None])
    assert [one.verdict for one in found] == ["better", "better", "no difference shown", None]


def test_a_primary_output_without_scores_opens_no_gate():
    made, outputs = family(("new", "x", 0.0001))
    outputs["main"] = Output(name="main")
    [other] = judged(made, outputs, primary="main")
    assert (other.verdict, other.gatekept) == (None, True)


def test_gatekeeping_holds_the_level_of_all_verdicts_together():
    """Two routes and four outputs without a difference, or with one of the primary only."""
    draw = np.random.Generator(np.random.PCG64(3))
    names = ["main", "x", "y", "z"]
    for strong in (False, True):
        wrong = 0
        for _ in range(4000):
            made, outputs = family(
                *(
                    (route, name, 1e-9 if strong and name == "main" else draw.random())
                    for route in "ab"
                    for name in names
                )
            )
            found = judged(made, outputs, primary="main")
            wrong += any(
                one.verdict == "better" for one in found if not (strong and one.output == "main")
            )
        assert wrong / 4000 <= 0.05 + 3 * (0.05 * 0.95 / 4000) ** 0.5


def test_what_is_not_tested_says_so():
    collected = tally(ROUGE, SPEED, expected=30)
    for sample in range(30):
        for route, gain in (("base", 0.0), ("new", 0.2)):
            collected.add(
                Cell(route, str(sample), 0),
                answer(),
                scores(rougeL=0.3 + 0.01 * (sample % 5) + gain, latency=1.0 + (sample % 7) / 10),
            )
    report = summarise(collected, primary="latency")
    assert compared(report, "new", "rougeL").verdict is None
    assert "not tested" in text_of(report)
    assert compared(summarise(collected, primary="rougeL"), "new", "rougeL").verdict == "better"


def test_few_samples_that_differ_are_named():
    """Without a range: a range bounds how far those that are not there can be."""
    seconds = Declared("seconds", (Output(name="seconds", high=None),))
    collected = tally(ROUGE, seconds, expected=40)
    for sample in range(40):
        for route in ("base", "new"):
            gain = {1: 0.1, 2: -0.2, 3: 0.1}.get(sample, 0.0) if route == "new" else 0.0
            both = scores(rougeL=0.5 + gain, seconds=0.5 + gain)
            collected.add(Cell(route, str(sample), 0), answer(), both)
    report = summarise(collected)
    [said] = [one for one in report.warnings if one.startswith("Few samples")]
    assert "3 of 40 (seconds of new)" in said
    assert "rougeL" not in said
    bounded = compared(report, "new", "rougeL")
    assert bounded.method == "bounded"
    assert bounded.low < -(1 - 0.025 ** (1 / 40)) < bounded.difference


def test_failures_are_counted_and_never_averaged():
    collected = tally(ROUGE, expected=4)
    for sample in "abcd":
        collected.add(Cell("base", sample, 0), answer(), scores(rougeL=0.5))
    collected.add(Cell("new", "a", 0), answer(), scores(rougeL=0.8))
    collected.add(Cell("new", "b", 0), failure(), scores(rougeL=0.0))
    collected.add(Cell("new", "c", 0), failure("upstream_500", "boom"))
    collected.add(Cell("new", "d", 0), failure(message="still too slow"))
    report = summarise(collected)
    new = report.routes[1]
    assert (new.answered, new.failed, new.missing, new.expected) == (1, 3, 0, 4)
    assert [(one.code, one.count, one.example) for one in new.errors] == [
        ("upstream_timeout", 2, "too slow"),
        ("upstream_500", 1, "boom"),
    ]
    score = score_of(report, "new", "rougeL")
    assert (score.estimate, score.n, score.coverage) == (0.8, 1, 0.25)
    one = compared(report, "new", "rougeL")
    assert (one.n, one.difference) == (1, pytest.approx(0.3))
    assert any("new: 1 of 4 answered (3 failed)" in warning for warning in report.warnings)


def test_differences_use_common_samples_only():
    collected = tally(ROUGE, expected=3)
    for sample, value in (("a", 0.1), ("b", 0.3)):
        collected.add(Cell("base", sample, 0), answer(), scores(rougeL=value))
    for sample, value in (("b", 0.4), ("c", 1.0)):
        collected.add(Cell("new", sample, 0), answer(), scores(rougeL=value))
    report = summarise(collected)
    one = compared(report, "new", "rougeL")
    assert (one.n, one.difference) == (1, pytest.approx(0.1))
    assert any("samples of both (n from 1)" in warning for warning in report.warnings)


def test_no_common_samples():
    collected = tally(ROUGE, expected=2)
    collected.add(Cell("base", "a", 0), answer(), scores(rougeL=0.1))
    collected.add(Cell("new", "b", 0), answer(), scores(rougeL=0.9))
    report = summarise(collected)
    one = compared(report, "new", "rougeL")
    assert (one.n, one.difference, one.p_holm, one.verdict) == (0, None, None, None)
    assert "no common samples" in text_of(report)


def test_repeats_are_averaged_within_their_sample():
    collected = tally(ROUGE, expected=4)
    for repeat, (a, b) in enumerate([(0.0, 1.0), (0.2, 1.0)]):
        collected.add(Cell("base", "a", repeat), answer(), scores(rougeL=a))
        collected.add(Cell("base", "b", repeat), answer(), scores(rougeL=b))
    # One of new's repeats failed: sample b still weighs as much as a.
    collected.add(Cell("new", "a", 0), answer(), scores(rougeL=0.3))
    collected.add(Cell("new", "a", 1), answer(), scores(rougeL=0.5))
    collected.add(Cell("new", "b", 0), answer(), scores(rougeL=0.6))
    collected.add(Cell("new", "b", 1), failure())
    report = summarise(collected)
    base, new = (score_of(report, route, "rougeL") for route in ("base", "new"))
    assert (base.estimate, base.n, base.scored) == (pytest.approx(0.55), 2, 4)
    assert (new.estimate, new.n, new.scored) == (pytest.approx(0.5), 2, 3)
    assert new.coverage == 0.75
    assert compared(report, "new", "rougeL").difference == pytest.approx(-0.05)


def test_samples_of_a_cluster_are_one_observation():
    draw = np.random.Generator(np.random.PCG64(4))
    clusters = {f"{text}-{n}": f"text {text}" for text in range(30) for n in range(10)}
    collected = {
        name: ScoreAccumulator(
            routes=["base", "new"],
            metrics=[ROUGE],
            expected={"base": 300, "new": 300},
            baseline="base",
            clusters=known,
        )
        for name, known in (("alone", None), ("clustered", clusters))
    }
    for sample, text in clusters.items():
        level = (int(text.split()[1]) * 37 % 100) / 200
        values = {"base": level, "new": level + level / 4 + float(draw.normal(0, 0.01))}
        for tallied in collected.values():
            for route, value in values.items():
                tallied.add(Cell(route, sample, 0), answer(), scores(rougeL=value))
    alone, clustered = summarise(collected["alone"]), summarise(collected["clustered"])
    ours, theirs = score_of(clustered, "new", "rougeL"), score_of(alone, "new", "rougeL")
    assert (ours.clusters, ours.n, ours.method) == (30, 300, "clustered t")
    assert (theirs.clusters, theirs.method) == (None, "hall")
    assert ours.estimate == pytest.approx(theirs.estimate)
    assert ours.high - ours.low > 2.5 * (theirs.high - theirs.low)
    one, other = compared(clustered, "new", "rougeL"), compared(alone, "new", "rougeL")
    assert (one.clusters, one.n, one.difference) == (30, 300, pytest.approx(other.difference))
    assert one.high - one.low > 2 * (other.high - other.low)
    assert one.detectable > 2 * other.detectable


def test_clusters_that_are_all_right_are_few_observations():
    clusters = {str(n): str(n % 5) for n in range(100)}
    collected = ScoreAccumulator(
        routes=["base"], metrics=[EXACT], expected={"base": 100}, clusters=clusters
    )
    for sample in clusters:
        collected.add(Cell("base", sample, 0), answer(), scores(exact_match=1.0))
    report = summarise(collected)
    score = score_of(report, "base", "exact_match")
    # The mid-p interval of 5, not of 100, beyond Student's quantile for 4 degrees of freedom,
    # 2.7764, of which a normal value is with a chance of 0.0027480.
    assert score.low == pytest.approx((2 * 0.0027480) ** (1 / 5), abs=5e-5)
    assert score.effective_clusters == pytest.approx(5)
    [said] = [warning for warning in report.warnings if "clusters" in warning]
    assert said.startswith(
        "With fewer than 20 clusters of equal weight (5 clusters, which weigh as much as 5.0 of "
        "equal size)"
    )


@pytest.mark.parametrize(
    ("largest", "effective", "caveat", "given"),
    [
        (4, 30.0, None, True),
        (60, 7.62, "With fewer than 20 clusters of equal weight (30 clusters", True),
        (200, 2.47, "Too few clusters for intervals and verdicts (30 clusters", False),
    ],
)
def test_one_giant_cluster_outweighs_the_others(largest, effective, caveat, given):
    """30 clusters, one of which may have most samples: their number alone says nothing."""
    sizes = [largest, *[4] * 29]
    names = [f"{cluster}-{n}" for cluster, size in enumerate(sizes) for n in range(size)]
    clusters = {name: name.split("-")[0] for name in names}
    collected = ScoreAccumulator(
        routes=["base", "new"],
        metrics=[ROUGE],
        expected={"base": len(names), "new": len(names)},
        baseline="base",
        clusters=clusters,
    )
    draw = np.random.Generator(np.random.PCG64(7))
    for name in names:
        for route, gain in (("base", 0.0), ("new", 0.3)):
            value = 0.2 + gain + draw.uniform(0, 0.4)
            collected.add(Cell(route, name, 0), answer(), scores(rougeL=value))
    report = summarise(collected)
    score, one = score_of(report, "new", "rougeL"), compared(report, "new", "rougeL")
    assert score.effective_clusters == pytest.approx(effective, abs=0.01)
    assert one.effective_clusters == score.effective_clusters
    assert (score.low is not None) is (one.low is not None) is given
    assert one.verdict == ("better" if given else "no difference shown")
    said = [warning for warning in report.warnings if "clusters" in warning]
    assert len(said) == (0 if caveat is None else 1)
    assert caveat is None or said[0].startswith(caveat)


def test_repeats_split_the_variance():
    collected = tally(ROUGE, expected=6, routes=("base",))
    for sample, values in (("a", (0.1, 0.2)), ("b", (0.5, 0.6)), ("c", (0.8, 0.9))):
        for repeat, value in enumerate(values):
            collected.add(Cell("base", sample, repeat), answer(), scores(rougeL=value))
    found = score_of(summarise(collected), "base", "rougeL").variance
    assert found.between_repeats == pytest.approx(0.005)
    assert (found.samples, found.repeats) == (3, 2)
    assert "base: rougeL 4%" in text_of(summarise(collected))


def test_an_interval_stays_in_the_range_of_its_output():
    collected = tally(ROUGE, expected=3, routes=("base",))
    for sample, value in enumerate((0.0, 0.9, 0.91, 0.92, 0.93, 0.94, 0.95, 1.0)):
        collected.add(Cell("base", str(sample), 0), answer(), scores(rougeL=value))
    score = score_of(summarise(collected), "base", "rougeL")
    assert score.method == "hall"
    assert 0 <= score.low < score.high <= 1


def test_a_difference_stays_within_what_is_possible():
    collected = tally(ROUGE, expected=2)
    for sample, (base, new) in enumerate([(0.1, 0.9), (0.4, 0.2)]):
        for route, value in (("base", base), ("new", new)):
            collected.add(Cell(route, str(sample), 0), answer(), scores(rougeL=value))
    one = compared(summarise(collected), "new", "rougeL")
    assert (one.difference, one.low, one.high) == (pytest.approx(0.3), -1.0, 1.0)


@pytest.mark.parametrize(("score", "low", "high"), [(1.0, 0.7225, 1.0), (0.75, 0.5186, 0.8271)])
def test_equal_scores_are_no_certainty(score, low, high):
    collected = tally(ROUGE, expected=10, routes=("base",))
    for sample in range(10):
        collected.add(Cell("base", str(sample), 0), answer(), scores(rougeL=score))
    found = score_of(summarise(collected), "base", "rougeL")
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_corpus_outputs_are_scored_over_summed_statistics():
    collected = tally(RATIO, expected=30)
    parts = np.random.Generator(np.random.PCG64(2)).integers(1, 16, 30).astype(float)
    for sample, hits in enumerate(parts):
        for route, bonus in (("base", 0.0), ("new", 4.0)):
            one = Score(output="ratio", value=0.0 if bonus else 1.0, statistics=(hits + bonus, 20))
            collected.add(Cell(route, str(sample), 0), answer(), [one])
    report = summarise(collected)
    base = score_of(report, "base", "ratio")
    assert base.estimate == pytest.approx(100 * parts.sum() / (20 * 30))
    assert base.method == "bootstrap t"
    assert base.low < base.estimate < base.high
    one = compared(report, "new", "ratio")
    assert one.difference == pytest.approx(20)
    assert one.verdict == "better"
    assert (one.wins, one.ties, one.losses) == (0, 0, 30)  # by the samples' own values


def test_corpus_scores_of_few_clusters_have_no_interval():
    sizes = [27, 1, 1, 1, 1, 1]
    names = [str(place) for place, size in enumerate(sizes) for _ in range(size)]
    clusters = {str(sample): name for sample, name in enumerate(names)}
    for given in (clusters, {sample: sample for sample in clusters}):
        collected = tally(RATIO, expected=32, routes=["new"], baseline=None, clusters=given)
        for sample in range(32):
            one = Score(output="ratio", value=1.0, statistics=(sample % 7, 9.0))
            collected.add(Cell("new", str(sample), 0), answer(), [one])
        score = score_of(summarise(collected), "new", "ratio")
        assert (score.low is None) is (given is clusters)
        assert score.method == ("none" if given is clusters else "bootstrap t")


@pytest.mark.parametrize("answered", ["base", "new"])
def test_a_route_without_any_answer_has_no_difference_of_corpus_scores(answered):
    collected = tally(RATIO, expected=2)
    for sample in ("a", "b"):
        scored = Score(output="ratio", value=None, statistics=(1.0, 2.0))
        collected.add(Cell(answered, sample, 0), answer(), (scored,))
        silent = "new" if answered == "base" else "base"
        collected.add(Cell(silent, sample, 0), failure(), ())
    report = summarise(collected)
    difference = compared(report, "new", "ratio")
    assert (difference.n, difference.difference, difference.verdict) == (0, None, None)
    assert score_of(report, answered, "ratio").estimate == 50.0
    assert "no common samples" in text_of(report)


def test_corpus_outputs_do_not_need_values_of_samples():
    collected = tally(RATIO, expected=2)
    for sample in "ab":
        for route in ("base", "new"):
            one = Score(output="ratio", value=None, statistics=(1.0, 2.0))
            collected.add(Cell(route, sample, 0), answer(), [one])
    report = summarise(collected)
    assert score_of(report, "new", "ratio").estimate == 50
    assert compared(report, "new", "ratio").wins is None


def test_all_right_is_not_certainty():
    collected = tally(EXACT, expected=5)
    for sample in "abcde":
        for route in ("base", "new"):
            collected.add(Cell(route, sample, 0), answer(), scores(exact_match=1.0))
    score = score_of(summarise(collected), "base", "exact_match")
    assert (score.estimate, score.high, score.method) == (1.0, 1.0, "wilson")
    assert score.low == pytest.approx(0.5493, abs=5e-5)


def test_scores_that_could_not_be_computed_lower_the_coverage():
    collected = tally(ROUGE, expected=3, routes=("base",))
    collected.add(Cell("base", "a", 0), answer(), scores(rougeL=0.5))
    collected.add(
        Cell("base", "b", 0), answer(), [Score(output="rougeL", value=None, error="no reference")]
    )
    collected.add(Cell("base", "c", 0), answer(), scores(rougeL=float("nan")))
    report = summarise(collected)
    score = score_of(report, "base", "rougeL")
    assert (score.estimate, score.n, score.unscored, score.example) == (0.5, 1, 2, "no reference")
    lacking = "2 of 3 answers have no rougeL, for example: no reference"
    assert report.warnings[0] == f"The metric rouge failed for most answers: {lacking}"
    assert f"base: {lacking}" in report.warnings


def test_a_metric_without_any_score_is_named_first_and_once():
    for total, lacking in ((2, 2), (3, 2), (4, 2)):
        collected = tally(ROUGE, expected=total)
        for n in range(total):
            error = Score(output="rougeL", value=None, error="no reference")
            given = [error] if n < lacking else scores(rougeL=0.5)
            for route in ("base", "new"):
                collected.add(Cell(route, f"s{n}", 0), answer(), given)
        report = summarise(collected)
        [missing] = missing_scores(report.outputs, [*report.routes[0].scores]) or [None]
        about = [warning for warning in report.warnings if "no rougeL" in warning]
        if total == 2:
            assert missing.unscored == missing.answered == 2
            assert about == [
                "The metric rouge gave no score: all 4 answers have no rougeL, for example: "
                "no reference"
            ]
        elif total == 3:
            assert about[0].startswith("The metric rouge failed for most answers: 4 of 6 answers")
            assert about[1].startswith("base, new, each: 2 of 3")
        else:
            assert missing is None
            assert about[0].startswith("base, new, each: 2 of 4")


def test_targets_tokens_cost_and_times():
    collected = tally(ROUGE, expected=4, routes=("base",))
    usage = Usage(prompt_tokens=100, completion_tokens=20)
    collected.add(Cell("base", "a", 0), answer(total_s=1.0, usage=usage), scores(rougeL=0.1))
    collected.add(Cell("base", "b", 0), answer(total_s=3.0, target="x/y"), scores(rougeL=0.2))
    collected.add(
        Cell("base", "c", 0), answer(total_s=99.0, cached=True, attempts=0), scores(rougeL=0.3)
    )
    collected.add(Cell("base", "d", 0), answer(cost_usd=None, total_s=None), scores(rougeL=0.4))
    base = summarise(collected).routes[0]
    assert base.targets == {"openai/small": 0.75, "x/y": 0.25}
    assert (base.tokens.prompt, base.tokens.total, base.tokens.unknown) == (100, 120, 3)
    assert base.cost.total_usd is None
    assert (base.cost.known_usd, base.cost.unknown) == (pytest.approx(0.003), 1)
    assert (base.times.p50_s, base.times.n) == (2.0, 2)
    assert base.times.p95_s == pytest.approx(2.9)
    assert base.cached == 1


def test_price_is_known_when_only_failures_have_none():
    collected = tally(ROUGE, expected=2, routes=("base",))
    collected.add(Cell("base", "a", 0), answer(), scores(rougeL=0.1))
    collected.add(Cell("base", "b", 0), failure())
    assert summarise(collected).routes[0].cost.total_usd == pytest.approx(0.001)


def test_in_flight_is_missing_not_failed():
    collected = tally(ROUGE, expected=3, routes=("base",))
    collected.add(Cell("base", "a", 0), answer(), scores(rougeL=0.1))
    collected.add(Cell("base", "b", 0), None)
    report = summarise(collected)
    base = report.routes[0]
    assert (base.answered, base.failed, base.missing) == (1, 0, 2)
    assert any("2 without an answer so far" in warning for warning in report.warnings)


def test_all_failed():
    collected = tally(ROUGE, RATIO, expected=2)
    for sample in "ab":
        collected.add(Cell("base", sample, 0), answer(), scores(rougeL=0.4))
        collected.add(Cell("new", sample, 0), failure(code=None))
    report = summarise(collected)
    score = score_of(report, "new", "rougeL")
    assert (score.estimate, score.low, score.n, score.coverage) == (None, None, 0, 0.0)
    assert report.routes[1].errors[0].code == "unknown"
    assert compared(report, "new", "ratio").n == 0
    assert "0 of 2" in text_of(report)


def test_nothing_happened_yet():
    report = summarise(tally(ROUGE, RATIO, expected=0))
    assert report.samples == 0
    assert score_of(report, "base", "rougeL").coverage == 0.0
    assert text_of(report)


def test_a_run_without_metrics_has_no_empty_table():
    text = text_of(summarise(tally(expected=1, routes=("base",))))
    assert "not scored" in text
    assert "Scores over" not in text


def test_single_sample_has_no_interval():
    collected = tally(ROUGE, expected=1)
    for route in ("base", "new"):
        collected.add(Cell(route, "a", 0), answer(), scores(rougeL=0.5))
    report = summarise(collected)
    score = score_of(report, "new", "rougeL")
    assert (score.estimate, score.low, score.high) == (0.5, None, None)
    assert any("single sample" in warning for warning in report.warnings)
    assert "[0." not in text_of(report)


@pytest.mark.parametrize(("n", "given"), [(9, False), (10, True)])
def test_few_samples_without_a_range_have_no_interval(n, given):
    collected = tally(ROUGE, SPEED, WORDS, RATIO, expected=n, routes=["new"], baseline=None)
    for sample in range(n):
        value = sample / 20
        found = scores(rougeL=value, latency=value, words=value)
        ratio = Score(output="ratio", value=value, statistics=(value, 1.0))
        collected.add(Cell("new", str(sample), 0), answer(), [*found, ratio])
    report = summarise(collected)
    assert score_of(report, "new", "rougeL").low is not None
    assert (score_of(report, "new", "latency").low is not None) is given
    caveat = "9 samples are too few for an interval of latency, words: without a range it takes 10."
    assert (caveat in report.warnings) is not given
    # What holds whenever one looks takes more.
    looked_at = summarise(collected, always_valid=True)
    assert score_of(looked_at, "new", "latency").low is None
    assert caveat not in looked_at.warnings


def test_samples_that_differ_no_more_than_their_repeats_are_alike():
    """Their values alone look like any others: without repeats, the interval is another one."""
    draw = np.random.Generator(np.random.PCG64(3))
    repeated = tally(ROUGE, expected=60, routes=["new"], baseline=None)
    single = tally(ROUGE, expected=20, routes=["new"], baseline=None)
    for sample, values in enumerate(draw.normal(0.8, 0.05, (20, 3))):
        for repeat, value in enumerate(values):
            repeated.add(Cell("new", str(sample), repeat), answer(), scores(rougeL=value))
        single.add(Cell("new", str(sample), 0), answer(), scores(rougeL=values.mean()))
    noisy, plain = (score_of(summarise(one), "new", "rougeL") for one in (repeated, single))
    assert noisy.estimate == pytest.approx(plain.estimate)
    assert (noisy.method, plain.method) == ("bounded", "hall")
    assert noisy.low < plain.low


@pytest.mark.parametrize(
    ("alike", "named"),
    [(2, "r0, r1, each"), (9, "r0, r1, r2, r3, r4, r5, r6, 2 others, each"), (1, "r0")],
)
def test_a_caveat_that_routes_have_in_common_is_there_once(alike, named):
    names = tuple(f"r{n}" for n in range(alike))
    collected = tally(ROUGE, expected=2, routes=(*names, "other"), baseline=None)
    for name in names:
        collected.add(Cell(name, "a", 0), answer(), scores(rougeL=0.5))
    collected.add(Cell("other", "a", 0), answer(), scores(rougeL=0.5))
    collected.add(Cell("other", "b", 0), failure())
    said = [warning for warning in summarise(collected).warnings if "answered" in warning]
    without = "1 of 2 answered (1 without an answer so far); scores are of the answered ones only."
    assert said == [
        f"{named}: {without}",
        "other: " + without.replace("without an answer so far", "failed"),
    ]


def test_no_baseline():
    collected = tally(ROUGE, expected=1, baseline=None)
    for route in ("base", "new"):
        collected.add(Cell(route, "a", 0), answer(), scores(rougeL=0.5))
    report = summarise(collected)
    assert report.comparisons == ()
    assert any("No baseline" in warning for warning in report.warnings)
    assert "Differences from" not in text_of(report)


def test_order_of_rows_and_runs_do_not_matter():
    def collect(order: Iterable[int]) -> Report:
        collected = tally(ROUGE, RATIO, expected=30)
        for sample in order:
            for route in ("base", "new"):
                quality = (sample * 7 % 11) / 11 if route == "base" else (sample % 5) / 5
                collected.add(
                    Cell(route, f"{sample}", 0),
                    answer(),
                    [
                        Score(output="rougeL", value=quality),
                        Score(output="ratio", value=None, statistics=(quality * 11, 11.0)),
                    ],
                )
        return summarise(collected)

    assert collect(range(30)) == collect(range(30))
    assert compared(collect(range(29, -1, -1)), "new", "rougeL").difference == pytest.approx(
        compared(collect(range(30)), "new", "rougeL").difference
    )


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="not one of the routes"):
        tally(ROUGE, expected=1, baseline="nobody")
    with pytest.raises(ValueError, match="same name"):
        tally(ROUGE, ROUGE, expected=1)
    with pytest.raises(ValueError, match="no expected cells"):
        ScoreAccumulator(routes=["a"], metrics=[ROUGE], expected={})
    collected = tally(ROUGE, expected=1)
    with pytest.raises(ValueError, match="not a route"):
        collected.add(Cell("elsewhere", "a", 0), answer())
    with pytest.raises(ValueError, match="'bleu'"):
        collected.add(Cell("base", "a", 0), answer(), scores(bleu=1.0))
    corpus = tally(RATIO, expected=2)
    corpus.add(
        Cell("base", "a", 0), answer(), [Score(output="ratio", value=None, statistics=(1.0, 2.0))]
    )
    with pytest.raises(ValueError, match="1 statistics for one answer, 2 before"):
        corpus.add(
            Cell("base", "b", 0), answer(), [Score(output="ratio", value=None, statistics=(1.0,))]
        )


def test_rows_can_be_added_after_a_report():
    collected = tally(ROUGE, expected=2, routes=("base",))
    collected.add(Cell("base", "a", 0), answer(), scores(rougeL=0.25))
    assert score_of(summarise(collected), "base", "rougeL").estimate == 0.25
    collected.add(Cell("base", "b", 0), answer(), scores(rougeL=0.75))
    assert score_of(summarise(collected), "base", "rougeL").estimate == 0.5


# warnings


def test_too_few_samples_for_any_verdict_is_said():
    collected = tally(ROUGE, expected=5)
    for sample in range(5):
        collected.add(Cell("base", str(sample), 0), answer(), scores(rougeL=0.1))
        collected.add(Cell("new", str(sample), 0), answer(), scores(rougeL=0.9 - sample / 10))
    report = summarise(collected)
    assert compared(report, "new", "rougeL").verdict == "no difference shown"
    said = " ".join(report.warnings)
    assert "the smallest p-value that the test can give is 0.062, which is not below" in said
    assert "fewer than 20 samples (here 5)" in said


def test_what_could_have_been_found_is_what_a_verdict_finds():
    """Corrected for the comparisons beside it; 0 and 1 by the test that decides."""

    def detectable(outputs: int, **how: object) -> float:
        names = [f"m{n}" for n in range(outputs)]
        metrics = [Declared(name, (Output(name=name),)) for name in names]
        collected = tally(*metrics, expected=200)
        for sample in range(200):
            for route in ("base", "new"):
                value = float(sample % 10 > 1) if route == "base" else float(sample % 10 < 8)
                collected.add(
                    Cell(route, str(sample), 0), answer(), scores(**dict.fromkeys(names, value))
                )
        return compared(summarise(collected, **how), "new", "m0").detectable

    for outputs in (1, 4, 12):
        promised = minimum_detectable_share(0.4, 200, alpha=0.05 / outputs)
        assert detectable(outputs) == pytest.approx(promised)
    assert detectable(4, primary="m0") == pytest.approx(detectable(1))
    assert detectable(4, primary="m1") == pytest.approx(detectable(3))
    # Whoever looks more than once finds less.
    looked = detectable(1, always_valid=True)
    assert looked == pytest.approx(
        always_valid_effect(0.4**0.5, 200, width=1, whole=True), rel=0.01
    )
    assert looked > 1.3 * detectable(1)


def test_what_could_have_been_found_is_said(typical):
    detectable = compared(typical, "same", "rougeL").detectable
    assert any(f"rougeL {detectable:.3f}" in warning for warning in typical.warnings)


def test_no_price_is_missed_where_the_dataset_brings_the_answers():
    route = "dataset/answer"
    collected = tally(WORDS, expected=2, routes=(route,), baseline=None)
    for sample in "ab":
        collected.add(Cell(route, sample, 0), answer(cost_usd=None), scores(words=12.0))
    report = summarise(collected)
    assert "price" not in " ".join(report.warnings)
    assert report.routes[0].cost.total_usd is None


def test_equal_scores_cached_answers_and_prices_are_said():
    collected = tally(WORDS, expected=2, routes=("base",), baseline=None)
    for sample in "ab":
        collected.add(
            Cell("base", sample, 0), answer(cost_usd=None, cached=sample == "a"), scores(words=12.0)
        )
    said = " ".join(summarise(collected).warnings)
    assert "all 2 samples have the same words" in said
    assert "price of 2 of 2 answers is unknown." in said
    assert "1 of 2 answers came from the run cache" in said


# JSON and text


def test_json_round_trip(typical):
    data = msgspec.json.encode(typical)
    assert msgspec.json.decode(data, type=Report) == typical
    assert b"NaN" not in data
    plain = msgspec.json.decode(data)
    assert plain["comparisons"][0]["verdict"] == "better"


@pytest.mark.parametrize("width", [80, 100, 120])
def test_text_fits_and_has_the_numbers(typical, width):
    text = text_of(typical, width)
    assert max(map(len, text.splitlines())) <= width
    for route in typical.routes:
        score = route.scores[0]
        assert f"{score.estimate:.3f} [{score.low:.3f}, {score.high:.3f}]" in text
    for one in typical.comparisons:
        if one.output == "rougeL":
            assert f"{one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}]" in text
    assert "38 of 40" in text
    assert "▲ better" in text
    assert "▼ worse" in text
    assert "…" not in text
    assert "rouge|v1" in text
    assert "new failed 2 times with upstream_timeout, for example: too slow" in text
    assert "better on rougeL; worse on latency" in " ".join(text.split())


def test_outputs_without_a_better_direction_have_no_verdict(typical):
    plain = [
        msgspec.structs.replace(each, verdict=None, p_holm=None) for each in typical.comparisons
    ]
    text = " ".join(text_of(msgspec.structs.replace(typical, comparisons=plain), 200).split())
    names = ", ".join(each.output for each in plain if each.route == plain[0].route)
    assert f"{plain[0].route} against {typical.baseline}: no verdict on {names}." in text
    assert "nothing could be compared" not in text


def test_marks_stand_in_the_score_table(typical):
    first_table = text_of(typical).split("What it took")[0]
    new = next(line for line in first_table.splitlines() if line.startswith("new"))
    assert "▲" in new
    assert "▼" in new
    for other in ("base", "same"):
        line = next(line for line in first_table.splitlines() if line.startswith(other))
        assert "▲" not in line
        assert "▼" not in line


def test_many_outputs_are_split_over_tables():
    outputs = tuple(Output(name=f"quality{number}") for number in range(12))
    collected = tally(Declared("many", outputs), expected=3)
    for sample in "abc":
        for route in ("base", "new"):
            values = {output.name: ord(sample) / 200 for output in outputs}
            collected.add(Cell(route, sample, 0), answer(), scores(**values))
    text = text_of(summarise(collected), 80)
    assert max(map(len, text.splitlines())) <= 80
    for output in outputs:
        assert f"{output.name} ↑" in text.split("What it took")[0]


def test_names_and_messages_cannot_command_the_terminal():
    collected = tally(ROUGE, expected=1, routes=("[red]base[/red]",), baseline=None)
    collected.add(Cell("[red]base[/red]", "a", 0), failure(message="\x1b[2Jgone\nsecond line"))
    text = text_of(summarise(collected))
    assert "[red]base[/red]" in text
    assert "\x1b" not in text
    assert "gone second line" in text


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0.0, "$0.00"),
        (0.0000312, "$0.000031"),
        (0.0421, "$0.042"),
        (3.14159, "$3.14"),
        (12345.6, "$12,346"),
    ],
)
def test_dollars(amount, shown):
    assert reports.dollars(amount) == shown


@pytest.mark.parametrize(
    ("low", "high", "value", "places"),
    [
        (0.0, 1.0, 0.5, 3),
        (0.0, 100.0, 10.787, 2),
        (0.0, None, 123.4, 0),
        (0.0, None, 0.00042, 6),
        (None, None, float("nan"), 0),
        (None, None, float("-inf"), 0),
    ],
)
def test_decimals(low, high, value, places):
    output = reports.OutputInfo(
        name="x",
        metric="x",
        higher_is_better=True,
        low=low,
        high=high,
        unit="",
        corpus=False,
        description="",
    )
    assert reports.decimals(output, value) == places
    if places == 6:
        assert reports.decimals(output, float("inf"), value, float("nan"), None) == 6
