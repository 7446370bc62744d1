"""Slices of a run's score have the numbers that a run of their samples alone would have."""

import io

import msgspec
import numpy as np
import pytest
from rich.console import Console

from evaluators.base import Answer, Cell, Output, Score
from evaluators.reports.accumulator import ScoreAccumulator
from evaluators.reports.groups import ColumnValues
from evaluators.reports.report import infos_of, score_of, summarise
from evaluators.reports.slice_table import to_slice_table
from evaluators.reports.slices import SlicedOutput, sliced

ROUTES = ("base", "new")
BOUNDED = Output(name="f1")
EXACT = Output(name="exact")
# Where the topic is c, its repeats are the same, and its samples differ by little.
ALIKE = Output(name="alike")
SECONDS = Output(name="seconds", higher_is_better=False, high=None, unit="s")
WORDS = Output(name="words", higher_is_better=None, high=None)
RATIO = Output(name="ratio", high=100.0, corpus=lambda sums: 100 * sums[0] / sums[1])


class Declared(msgspec.Struct, frozen=True):
    """What a report reads of a metric."""

    outputs: tuple[Output, ...]
    name: str = "metric"
    signature: str = "sig"


def score(output, draw, sample, route):
    topic = topic_of(sample)
    better = 0.3 * (topic == "b") * (route == "new")
    level = draw.uniform(0, 0.6) + better
    if output is ALIKE and topic == "c":
        level = 0.5 + 0.01 * (sample % 9)
    if output is EXACT:
        return Score(output="exact", value=float(level > 0.45))
    if output is RATIO:
        return Score(output="ratio", value=level, statistics=(level * 9, 9.0))
    return Score(output=output.name, value=level)


def topic_of(sample):
    return ("a", "b", "b", "c", None)[sample % 5] if sample < 195 else "rare"


def observed(output, *, samples=200, clustered=False, repeats=1, only=None):
    """A run in which `new` is better where the topic is b, with the topic of each sample."""
    draw = np.random.Generator(np.random.PCG64(7))
    clusters = {str(n): f"c{n // 3}" for n in range(samples)} if clustered else {}
    chosen = [n for n in range(samples) if only is None or topic_of(n) == only]
    scores = ScoreAccumulator(
        routes=ROUTES,
        metrics=[Declared((output,))],
        expected=dict.fromkeys(ROUTES, len(chosen) * repeats),
        baseline="base",
        clusters=clusters,
    )
    values = ColumnValues()
    for sample in range(samples):
        values.add(topic_of(sample))
        for route in ROUTES:
            for repeat in range(repeats):
                of_cell = score(output, draw, sample, route)
                # One answer failed, and one has no score.
                answer = Answer(text=None if (sample, route) == (7, "new") else "text", target="t")
                if (sample, route) == (8, "base"):
                    of_cell = Score(output=output.name, value=None)
                if sample in chosen:
                    scores.add(Cell(route, str(sample), repeat), answer, [of_cell])
    return scores, values.grouped()


def slices_of(output, *, always_valid=False, info=None, **options):
    scores, grouping = observed(output, **options)
    columns = {route: scores.routes[route].columns[output.name] for route in ROUTES}
    measured = SlicedOutput(
        output=output,
        info=info or infos_of(scores.metrics)[0],
        baseline="base",
        clusters=scores.cluster_numbers(),
        always_valid=always_valid,
    )
    return sliced("topic", grouping, columns, measured), summarise(
        scores, always_valid=always_valid
    )


def numbers(one):
    return (
        one.estimate,
        one.low,
        one.high,
        one.method,
        one.n,
        one.clusters,
        one.effective_clusters,
    )


@pytest.mark.parametrize(
    ("output", "options"),
    [
        (BOUNDED, {}),
        (BOUNDED, {"clustered": True}),
        (BOUNDED, {"repeats": 3}),
        (ALIKE, {"repeats": 3}),
        (BOUNDED, {"always_valid": True}),
        (EXACT, {}),
        (EXACT, {"clustered": True}),
        (SECONDS, {}),
        (RATIO, {}),
        (RATIO, {"clustered": True}),
    ],
)
def test_the_numbers_are_those_of_a_run_of_the_samples_alone(output, options):
    report, whole = slices_of(output, **options)
    for one, route in zip(report.whole, whole.routes, strict=True):
        assert numbers(one) == numbers(score_of(route, output.name))
    assert [one.name for one in report.slices] == ["b", "a", "c", "rare", "no value"]
    always_valid = options.get("always_valid", False)
    options = {name: value for name, value in options.items() if name != "always_valid"}
    for one in report.slices:
        name = None if one.kind == "missing" else one.name
        if name is None:
            continue
        alone, _ = observed(output, only=name, **options)
        expected = summarise(alone, always_valid=always_valid)
        assert expected.samples == one.samples
        for of_slice, route in zip(one.scores, expected.routes, strict=True):
            assert numbers(of_slice) == pytest.approx(numbers(score_of(route, output.name)))
        [compared], [alone] = one.comparisons, expected.comparisons
        assert compared.difference == pytest.approx(alone.difference)
        assert (compared.low, compared.high) == pytest.approx((alone.low, alone.high))
        assert compared.p_value == pytest.approx(alone.p_value)


def test_the_slices_add_up_to_the_whole():
    report, _ = slices_of(BOUNDED, repeats=2)
    assert sum(one.samples for one in report.slices) == report.samples == 200
    for place, whole in enumerate(report.whole):
        parts = [one.scores[place] for one in report.slices]
        assert sum(part.n for part in parts) == whole.n
        mean = sum(part.n * part.estimate for part in parts) / whole.n
        assert mean == pytest.approx(whole.estimate)
    assert [one.n for one in report.whole] == [199, 199]


def test_verdicts_are_corrected_over_all_slices():
    report, _ = slices_of(BOUNDED)
    compared = {one.name: one.comparisons[0] for one in report.slices}
    assert compared["b"].verdict == "better"
    assert compared["b"].p_holm == pytest.approx(min(1.0, 5 * compared["b"].p_value))
    assert compared["a"].verdict == "no difference shown"
    assert "Slices are exploratory" in report.warnings[0]
    assert "corrected for the 5 comparisons of these slices" in report.warnings[0]


def test_a_judges_raw_score_and_one_without_direction_have_no_verdict():
    info = infos_of([Declared((BOUNDED,))])[0]
    report, _ = slices_of(BOUNDED, info=msgspec.structs.replace(info, raw=True))
    assert {each.verdict for one in report.slices for each in one.comparisons} == {None}
    assert not any(each.headline for one in report.slices for each in one.comparisons)
    report, _ = slices_of(WORDS)
    assert {each.verdict for one in report.slices for each in one.comparisons} == {None}


def test_slices_of_few_samples_or_clusters_are_marked():
    report, _ = slices_of(BOUNDED)
    few = {one.name: [score.few for score in one.scores] for one in report.slices}
    assert few["b"] == [False, False]
    assert few["rare"] == [True, True]
    assert "1 of 5 slices is of fewer than 20 samples" in report.warnings[1]
    # Enough samples, but in fewer clusters.
    report, _ = slices_of(BOUNDED, samples=60, clustered=True)
    of_b = report.slices[0].scores[0]
    assert (report.slices[0].name, of_b.n, of_b.clusters, of_b.few) == ("b", 24, 16, True)


def test_ranges_and_rare_values_are_named_in_warnings():
    scores, _ = observed(WORDS)
    columns = {route: scores.routes[route].columns["words"] for route in ROUTES}
    measured = SlicedOutput(output=WORDS, info=infos_of(scores.metrics)[0])
    values = ColumnValues()
    for sample in range(200):
        values.add(sample / 7 if sample % 2 else f"v{sample // 4}")
    report = sliced("x", values.grouped(), columns, measured, warnings=["One more."])
    assert report.warnings[-1] == "One more."
    assert any("100 different numbers" in warning for warning in report.warnings)
    assert any("`other` has the 6 values" in warning for warning in report.warnings)
    # Without a baseline, nothing is tested.
    assert "corrected" not in report.warnings[0]
    assert all(one.comparisons == () for one in report.slices)


def text_of(report, width=110):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(to_slice_table(report, width=width))
    return console.file.getvalue()


def test_the_table_has_a_row_for_each_slice_and_one_for_all():
    report, _ = slices_of(BOUNDED)
    text = text_of(report)
    first = report.whole[0]
    [row] = [line for line in text.splitlines() if line.startswith("all ")]
    assert row.split()[1:6] == [
        "200",
        f"{first.estimate:.3f}",
        f"[{first.low:.3f},",
        f"{first.high:.3f}]",
        "(199)",
    ]
    rare = report.slices[3].scores[0]
    assert f"{rare.estimate:.3f} [{rare.low:.3f}, {rare.high:.3f}] *" in text
    assert "Differences from base" in text
    assert "▲" in text
    narrow = text_of(report, 50)
    assert narrow.count("rare") == 3
    assert max(map(len, narrow.splitlines())) <= 50


def test_names_of_slices_bring_no_commands_to_the_terminal():
    scores, _ = observed(BOUNDED)
    columns = {route: scores.routes[route].columns["f1"] for route in ROUTES}
    measured = SlicedOutput(output=BOUNDED, info=infos_of(scores.metrics)[0])
    values = ColumnValues()
    for sample in range(200):
        values.add("\x1b[31mred\n[bold]x[/]" if sample % 2 else " ")
    text = text_of(sliced("\x1b[0m", values.grouped(), columns, measured))
    assert "\x1b" not in text
    assert "[31mred [bold]x[/]" in text
    assert "(blank)" in text
