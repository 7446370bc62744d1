"""Two sides held against each other: what decides, what stands beside it, how it is printed."""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO

import msgspec
import numpy as np
import pytest
from rich.console import Console
from scipy import stats as scipy_stats

from evaluators.base import Answer, Cell, Output, Score
from evaluators.reports.accumulator import ScoreAccumulator
from evaluators.reports.compare import Comparisons, Contrast, SharedAnswers, Side, compare
from evaluators.reports.compare_table import to_compare_table
from evaluators.stats.differences import holm

A = Side(run="run_a", name="today", route="summarizer")
B = Side(run="run_b", name="yesterday", route="summarizer")
GOOD = Answer(text="words")


class Declared(msgspec.Struct, frozen=True):
    name: str
    outputs: tuple[Output, ...]
    signature: str = "test"


METRICS = [
    Declared("rouge", (Output(name="rougeL"),)),
    Declared("right", (Output(name="exact_match"),)),
    Declared("latency", (Output(name="latency_s", higher_is_better=False, high=None, unit="s"),)),
    Declared("words", (Output(name="words", higher_is_better=None, high=None),)),
    Declared(
        "ratio",
        (Output(name="ratio", high=100.0, corpus=lambda sums: 100 * sums[0] / sums[1]),),
    ),
]
Values = Mapping[str, Mapping[str, float]]


def compared(
    a: Values,
    b: Values,
    clusters: Mapping[str, str] | None = None,
    shared: SharedAnswers | None = None,
    margins: Mapping[str, float] | None = None,
) -> Comparisons:
    """Sample to output to value, for both sides."""
    tally = ScoreAccumulator(
        routes=[A.key, B.key], metrics=METRICS, expected={A.key: 0, B.key: 0}, clusters=clusters
    )
    for side, values in ((A, a), (B, b)):
        for sample, outputs in values.items():
            scores = [
                Score(output=name, value=value, statistics=(value, 1.0) if name == "ratio" else ())
                for name, value in outputs.items()
            ]
            tally.add(Cell(side.key, sample, 0), GOOD, scores)
    answers = {} if shared is None else {(A, B): shared}
    return compare(tally, [(A, B)], joined="id", shared=answers, margins=margins or {})


def contrast(found: Comparisons, output: str) -> Contrast:
    return next(one for one in found.contrasts if one.output == output)


@pytest.fixture(scope="module")
def typical() -> Comparisons:
    draw = np.random.Generator(np.random.PCG64(3))
    level = draw.beta(2, 6, 60)
    sides = [
        {
            f"s{k}": {
                "rougeL": float(np.clip(level[k] + gain + draw.normal(0, 0.05), 0, 1)),
                "exact_match": float(draw.random() < 0.6 + gain),
                "latency_s": float(draw.exponential(1)),
                "words": float(draw.integers(20, 60)),
                "ratio": float(level[k] + gain),
            }
            for k in range(60)
        }
        for gain in (0.04, 0.0)
    ]
    return compared(*sides)


def test_the_numbers_are_those_of_scipy(typical):
    one = contrast(typical, "rougeL")
    assert one.n == one.n_a == one.n_b == 60
    assert one.mean_a - one.mean_b == pytest.approx(one.difference)
    assert one.low < one.difference < one.high
    assert one.verdict == "better"
    assert one.p_t == pytest.approx(one.p_value, abs=0.01)
    assert one.p_welch > one.p_t  # level varies more between samples than between sides
    assert one.p_mann_whitney > one.p_wilcoxon
    assert one.p_mcnemar is None
    assert -1 < one.cliffs_delta < 1
    assert (one.wins or 0) + (one.ties or 0) + (one.losses or 0) == 60


def test_where_no_sample_differs_a_number_or_a_reason_says_what_would_have_been_found():
    side = {f"s{k}": {"rougeL": k / 40, "exact_match": k % 2, "words": 9.0} for k in range(40)}
    found = compared(side, side)
    assert contrast(found, "exact_match").detectable == pytest.approx(0.2, abs=0.05)
    assert contrast(found, "rougeL").detectable is None
    [reason] = [text for text in found.warnings if "how small" in text]
    assert reason.startswith("No sample differs in rougeL, so nothing says")
    side["s1"] = side["s1"] | {"rougeL": 0.9}
    differing = compared(side, side | {"s1": side["s2"]})
    assert contrast(differing, "rougeL").detectable is not None
    assert not any("how small" in text for text in differing.warnings)


def test_zeros_and_ones_have_mcnemar(typical):
    one = contrast(typical, "exact_match")
    fewer = min(one.wins, one.losses)
    n = one.wins + one.losses
    expected = 2 * scipy_stats.binom.cdf(fewer, n, 0.5) - scipy_stats.binom.pmf(fewer, n, 0.5)
    assert one.p_mcnemar == pytest.approx(min(1.0, expected))


def test_holm_is_over_all_with_a_direction(typical):
    family = [one for one in typical.contrasts if one.output != "words"]
    assert len(family) == 4
    assert [one.p_holm for one in family] == holm([one.p_value for one in family])
    assert contrast(typical, "words").p_holm is None
    assert contrast(typical, "words").verdict is None


def test_corpus_scores_are_of_the_summed_statistics(typical):
    one = contrast(typical, "ratio")
    assert one.difference == pytest.approx(4.0)
    assert one.mean_a - one.mean_b == pytest.approx(4.0)
    assert one.p_t is None
    assert one.p_welch is None


def test_the_samples_that_moved_most_are_named(typical):
    one = contrast(typical, "rougeL")
    gaps = [abs(moved.difference) for moved in one.moved]
    assert len(gaps) == 5
    assert gaps == sorted(gaps, reverse=True)
    assert one.moved[0].a - one.moved[0].b == pytest.approx(one.moved[0].difference)


def test_samples_that_did_not_move_are_not_named():
    a = {"x": {"rougeL": 0.5}, "y": {"rougeL": 0.5}, "z": {"rougeL": 0.9}}
    b = {"x": {"rougeL": 0.5}, "y": {"rougeL": 0.5}, "z": {"rougeL": 0.1}}
    assert [one.sample_id for one in contrast(compared(a, b), "rougeL").moved] == ["z"]


def test_only_common_samples_are_compared():
    a = {str(k): {"rougeL": 0.5 + k / 100} for k in range(20)}
    b = {str(k): {"rougeL": 0.4 + k / 100} for k in range(10, 40)}
    found = compared(a, b)
    one = contrast(found, "rougeL")
    assert (one.n, one.n_a, one.n_b) == (10, 20, 30)
    assert one.difference == pytest.approx(0.1)
    assert any("rougeL on 10 of 20 and 30" in warning for warning in found.warnings)


def test_without_common_samples_welch_decides():
    draw = np.random.Generator(np.random.PCG64(5))
    a = {f"a{k}": {"rougeL": float(v)} for k, v in enumerate(draw.normal(0.6, 0.1, 40))}
    b = {f"b{k}": {"rougeL": float(v)} for k, v in enumerate(draw.normal(0.4, 0.1, 50))}
    found = compared(a, b)
    one = contrast(found, "rougeL")
    theirs = scipy_stats.ttest_ind(
        [v["rougeL"] for v in a.values()], [v["rougeL"] for v in b.values()], equal_var=False
    )
    assert (one.joined, one.n) == (False, 0)
    assert one.p_value == one.p_welch == pytest.approx(theirs.pvalue)
    assert one.verdict == "better"
    assert one.wins is None
    assert one.moved == ()
    assert any("No sample is common" in warning for warning in found.warnings)


def test_an_unpaired_difference_stays_within_what_is_possible():
    found = compared(
        {"a1": {"rougeL": 0.1}, "a2": {"rougeL": 0.9}},
        {"b1": {"rougeL": 0.2}, "b2": {"rougeL": 0.7}},
    )
    one = contrast(found, "rougeL")
    assert (one.method, one.low, one.high) == ("welch", -1.0, 1.0)


def test_intervals_that_could_be_taken_for_more_are_explained():
    """Six wins are a difference alone and none among four."""
    a = {f"s{k}": {"rougeL": 0.5 + 0.1 * (k < 3), "exact_match": float(k < 6)} for k in range(40)}
    b = {f"s{k}": {"rougeL": 0.5, "exact_match": 0.0} for k in range(40)}
    latencies = [{"latency_s": 1.0 + (k * turn % 7) / 10} for k in range(40) for turn in (3, 5)]
    for k in range(40):
        a[f"s{k}"] |= latencies[2 * k] | {"ratio": 0.5 + (k * 3 % 7) / 20}
        b[f"s{k}"] |= latencies[2 * k + 1] | {"ratio": 0.5 + (k * 5 % 7) / 20}
    found = compared(a, b)
    right = contrast(found, "exact_match")
    assert right.p_value < 0.05 < right.p_holm
    assert right.low > 0
    assert right.verdict == "no difference shown"
    text = " ".join(found.warnings)
    assert "corrected for 4: exact_match of summarizer would be a difference" in text
    assert contrast(found, "rougeL").method == "bounded"


def test_a_run_that_was_looked_at_has_other_numbers():
    draw = np.random.Generator(np.random.PCG64(9))
    tally = ScoreAccumulator(
        routes=[A.key, B.key], metrics=METRICS[:1], expected={A.key: 0, B.key: 0}
    )
    for k in range(60):
        for side, gain in ((A, 0.05), (B, 0.0)):
            score = Score(output="rougeL", value=float(draw.beta(2, 6)) + gain)
            tally.add(Cell(side.key, f"s{k}", 0), GOOD, [score])
    plain = compare(tally, [(A, B)], joined="id")
    looked = compare(tally, [(A, B)], joined="id", always_valid=True)
    assert (plain.always_valid, looked.always_valid) == (False, True)
    assert "hold whenever one looks" in looked.method
    [narrow], [wide] = plain.contrasts, looked.contrasts
    assert (narrow.method, wide.method) == ("t", "betting")
    assert wide.high - wide.low > narrow.high - narrow.low


def test_a_primary_output_keeps_the_others_closed(typical):
    tally = ScoreAccumulator(
        routes=[A.key, B.key], metrics=METRICS[:2], expected={A.key: 0, B.key: 0}
    )
    for k in range(60):
        for side, gain in ((A, 0.2), (B, 0.0)):
            scores = [
                Score(output="rougeL", value=0.3 + 0.01 * (k % 7) + gain + 0.001 * (k % 3) * gain),
                Score(output="exact_match", value=float(k % 2)),
            ]
            tally.add(Cell(side.key, f"s{k}", 0), GOOD, scores)
    found = compare(tally, [(A, B)], joined="id", primary="exact_match")
    rouge = contrast(found, "rougeL")
    assert (rouge.gatekept, rouge.verdict, rouge.p_holm) == (True, None, None)
    console = Console(file=StringIO(), width=130, color_system=None)
    console.print(to_compare_table(found, width=130))
    assert "not tested" in console.file.getvalue()
    opened = compare(tally, [(A, B)], joined="id", primary="rougeL")
    assert contrast(opened, "rougeL").verdict == "better"


def test_clusters_widen_the_interval_and_leave_out_tests_of_independent_samples():
    draw = np.random.Generator(np.random.PCG64(6))
    level = draw.normal(0.03, 0.05, 20)
    a = {f"{k}": {"rougeL": float(0.5 + level[k // 10])} for k in range(200)}
    b = {f"{k}": {"rougeL": 0.5} for k in range(200)}
    alone = contrast(compared(a, b), "rougeL")
    clustered = contrast(compared(a, b, {f"{k}": f"{k // 10}" for k in range(200)}), "rougeL")
    assert (clustered.clusters, clustered.n) == (20, 200)
    assert clustered.high - clustered.low > 2 * (alone.high - alone.low)
    assert clustered.p_t is None
    assert clustered.p_welch is None
    assert clustered.p_value > alone.p_value


def test_nothing_in_common_at_all():
    one = contrast(compared({"x": {"rougeL": 0.5}}, {}), "rougeL")
    assert (one.n_a, one.n_b, one.difference, one.p_holm, one.verdict) == (1, 0, None, None, None)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_table_fits_and_has_the_numbers(typical, width):
    console = Console(width=width, file=StringIO())
    console.print(to_compare_table(typical, width=width))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    one = contrast(typical, "rougeL")
    assert f"{one.difference:+.3f}" in text
    assert (f" {one.mean_a:.3f} " in text) == (width >= 90)
    assert one.moved[0].sample_id in text
    assert "summarizer in today (run_a)" in " ".join(text.split())
    assert "▲ better" in text


@pytest.mark.parametrize("width", [90, 100, 110])
def test_a_verdict_with_a_margin_is_never_cut(width):
    a = {f"{k}": {"rougeL": 0.5 + 0.001 * (-1) ** k, "exact_match": 0.0} for k in range(400)}
    b = {f"{k}": {"rougeL": 0.5, "exact_match": 0.0} for k in range(400)}
    found = compared(a, b, margins={"rougeL": 0.05, "exact_match": 0.05})
    assert contrast(found, "rougeL").verdict == "equivalent"
    console = Console(width=width, file=StringIO())
    console.print(to_compare_table(found, width=width))
    said = console.file.getvalue()
    assert max(map(len, said.splitlines())) <= width
    assert "equivalent" in said
    assert "(±0.05)" in said


def test_json_round_trip(typical):
    data = msgspec.json.encode(typical)
    assert msgspec.json.decode(data, type=Comparisons) == typical


# shared answers


def shared_half() -> tuple[Values, Values]:
    """Forty samples, of which the first twenty are the same on both sides; the others differ."""
    theirs = {f"s{k}": {"rougeL": k / 50, "ratio": k / 50} for k in range(40)}
    ours = {
        name: {output: value + (0.1 if int(name[1:]) >= 20 else 0) for output, value in row.items()}
        for name, row in theirs.items()
    }
    return ours, theirs


def test_samples_with_the_same_answer_are_left_out():
    ours, theirs = shared_half()
    same = frozenset(f"s{k}" for k in range(20))
    found = compared(ours, theirs, shared=SharedAnswers(samples=same))
    measured = compared(*({name: side[name] for name in side if name not in same}
                          for side in (ours, theirs)))  # fmt: skip
    for output in ("rougeL", "ratio"):
        left, alone = contrast(found, output), contrast(measured, output)
        assert (left.n, left.shared, left.n_a, left.n_b) == (20, 20, 40, 40)
        assert left == msgspec.structs.replace(alone, shared=20, n_a=40, n_b=40)
    assert not any("Only the samples" in warning for warning in found.warnings)


def test_without_other_samples_there_is_no_verdict_and_nothing_is_unpaired():
    ours, theirs = shared_half()
    ours = {name: ours[name] for name in list(ours)[:30]}
    theirs = {name: theirs[name] for name in [*list(theirs)[:20], *list(theirs)[30:]]}
    same = frozenset(f"s{k}" for k in range(20))
    [found] = [
        one
        for one in compared(ours, theirs, shared=SharedAnswers(samples=same)).contrasts
        if one.output == "rougeL"
    ]
    assert (found.n, found.shared, found.difference, found.verdict) == (0, 20, None, None)
    clustered = compared(ours, theirs, dict.fromkeys(ours, "c"), SharedAnswers(samples=same))
    assert contrast(clustered, "rougeL").verdict is None


def test_outputs_that_were_scored_differently_keep_all_samples():
    ours, theirs = shared_half()
    shared = SharedAnswers(samples=frozenset(ours), compared=frozenset({"rougeL"}))
    found = compared(ours, theirs, shared=shared)
    assert contrast(found, "rougeL").n == 40
    assert contrast(found, "rougeL").shared == 0
    assert (contrast(found, "ratio").n, contrast(found, "ratio").shared) == (0, 40)
