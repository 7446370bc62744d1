"""A run's rows as columns: what is counted, what is left out, what is averaged."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from evaluators.base import Answer, Cell, Output, Score, Usage
from evaluators.reports.accumulator import EXAMPLE_LENGTH, ScoreAccumulator
from providers.base import Translation


class Declared(msgspec.Struct, frozen=True):
    name: str
    outputs: tuple[Output, ...]
    signature: str = "sig"


ONE = Declared("one", (Output(name="one"),))
RATIO = Declared("ratio", (Output(name="ratio", corpus=lambda sums: sums[0] / sums[1]),))
LONG = "x" * (EXAMPLE_LENGTH + 1)


def tally(*metrics: Declared, **options) -> ScoreAccumulator:
    return ScoreAccumulator(
        routes=["r"], metrics=metrics or (ONE, RATIO), expected={"r": 9}, **options
    )


def add(
    collected: ScoreAccumulator, *scores: Score, sample: str = "s", repeat: int = 0, **answer
) -> None:
    fields = {"text": "fine", "target": "host/m"} | answer
    collected.add(Cell("r", sample, repeat), Answer(**fields), scores)


def one(value: float | None, **fields) -> Score:
    return Score(output="one", value=value, **fields)


def ratio(*statistics: float, value: float | None = None, **fields) -> Score:
    return Score(output="ratio", value=value, statistics=statistics, **fields)


# Scores


@pytest.mark.parametrize("statistics", [(), (1.0, math.inf), (math.nan, 1.0)])
def test_a_corpus_score_without_all_its_statistics_is_left_out_and_says_why(statistics):
    collected = tally()
    add(collected, ratio(*statistics, value=0.5, error="no tokens"))
    column = collected.routes["r"].columns["ratio"]
    assert (list(column.samples), column.example) == ([], "no tokens")
    assert not collected.per_sample("r", "ratio").present.any()


def test_tests_are_made_once_and_anew_for_more_rows():
    collected = ScoreAccumulator(
        routes=["r", "b"],
        metrics=[ONE],
        expected={"r": 9, "b": 9},
        baseline="b",
        clusters={"s": "c", "t": "c"},
    )
    output = ONE.outputs[0]
    assert collected.tests("r", output) is None
    for sample, value in (("s", 0.25), ("t", 0.5)):
        add(collected, one(value), sample=sample)
        collected.add(Cell("b", sample, 0), Answer(text="", target="host/m"), [one(0.125)])
    found = collected.tests("r", output)
    assert (found.n, found.units, found.difference) == (2, 1, 0.25)
    assert collected.tests("r", output) is found
    assert collected.tests("r", output, always_valid=True) is not found
    add(collected, one(1.0), sample="u")
    collected.add(Cell("b", "u", 0), Answer(text="", target="host/m"), [one(0.0)])
    more = collected.tests("r", output)
    assert (more.n, more.units, more.difference) == (3, 2, 0.5)
    assert len(collected.per_sample("r", "one").values) == 3
    collected.withhold("r", "one", "no labels")
    assert collected.tests("r", output) is None


def test_statistics_of_a_mean_are_not_kept():
    collected = tally()
    add(collected, one(0.25, statistics=(1.0, 2.0)))
    add(collected, one(0.75, statistics=(3.0,)), repeat=1)
    found = collected.per_sample("r", "one")
    assert found.values.tolist() == [0.5]
    assert found.statistics.shape == (1, 0)


def test_statistics_are_averaged_one_by_one():
    collected = tally()
    add(collected, ratio(1.0, 10.0), sample="a")
    add(collected, ratio(3.0, 30.0), sample="a", repeat=1)
    add(collected, ratio(5.0, 50.0), sample="b")
    found = collected.per_sample("r", "ratio")
    assert found.statistics.tolist() == [[2.0, 20.0], [5.0, 50.0]]
    assert np.isnan(found.values).all()


def test_a_sample_without_a_score_has_no_number():
    collected = tally()
    add(collected, one(0.5), sample="a")
    add(collected, one(None, error="first"), sample="b")
    add(collected, one(None, error="second"), sample="b", repeat=1)
    found = collected.per_sample("r", "one")
    assert found.present.tolist() == [True, False]
    np.testing.assert_array_equal(found.values, [0.5, np.nan])
    assert collected.routes["r"].columns["one"].example == "first"


def test_equal_notes_are_counted():
    collected = tally()
    for repeat in range(3):
        add(collected, one(0.5, note="cut" if repeat else ""), repeat=repeat)
    assert collected.routes["r"].columns["one"].notes == {"cut": 2}


def test_texts_are_kept_cut():
    collected = tally()
    add(collected, one(0.5, note=LONG), ratio(error=LONG))
    add(collected, text=None, error=LONG, error_code="e", repeat=1)
    counted = collected.routes["r"]
    assert list(counted.columns["one"].notes) == [LONG[:EXAMPLE_LENGTH]]
    assert counted.columns["ratio"].example == LONG[:EXAMPLE_LENGTH]
    assert counted.examples == {"e": LONG[:EXAMPLE_LENGTH]}


# Answers


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        (Usage(prompt_tokens=10, completion_tokens=3), (10, 3, 13, 0)),
        # Some hosts count more than the two: tokens of thinking, say.
        (Usage(prompt_tokens=10, completion_tokens=3, total_tokens=20), (10, 3, 20, 0)),
        (Usage(total_tokens=20), (0, 0, 20, 0)),
        (Usage(prompt_tokens=10), (10, 0, 0, 1)),
        (Usage(completion_tokens=3), (0, 3, 0, 1)),
        (Usage(), (0, 0, 0, 1)),
    ],
)
def test_tokens_of_answers_are_added_up(usage, counted):
    collected = tally()
    for repeat in range(2):
        add(collected, usage=usage, repeat=repeat)
    found = collected.routes["r"]
    tokens = (
        found.prompt_tokens,
        found.completion_tokens,
        found.total_tokens,
        found.tokens_unknown,
    )
    assert tokens == tuple(2 * number for number in counted)


def test_a_failure_costs_what_it_cost_and_counts_as_nothing_else():
    collected = tally()
    add(collected, one(0.5), cost_usd=0.25, total_s=1.0)
    add(collected, one(0.9), repeat=1, text=None, cost_usd=0.5, total_s=9.0, cached=True)
    add(collected, repeat=2, text=None)
    found = collected.routes["r"]
    assert (found.answered, found.failed, found.cached, found.cost_unknown) == (1, 2, 0, 0)
    assert found.cost_usd == 0.75
    assert (dict(found.errors), found.examples) == ({"unknown": 2}, {"unknown": ""})
    assert (list(found.seconds), dict(found.targets)) == ([1.0], {"host/m": 1})
    assert collected.per_sample("r", "one").values.tolist() == [0.5]


def test_an_answer_that_took_no_time_has_a_time_and_a_cached_one_has_none():
    collected = tally()
    add(collected, total_s=0.0)
    add(collected, total_s=3.0, cached=True, repeat=1)
    add(collected, repeat=2)
    assert list(collected.routes["r"].seconds) == [0.0]
    assert collected.routes["r"].cached == 1


def test_fields_that_hosts_did_not_take_are_counted():
    collected = tally()
    for repeat, names in enumerate((("seed",), ("seed", "top_k"), ())):
        dropped = dict.fromkeys(names, "not known there")
        add(collected, translation=Translation(dropped=dropped), repeat=repeat)
    assert collected.routes["r"].dropped == {"seed": 2, "top_k": 1}


def test_a_cell_in_flight_is_no_sample_yet():
    collected = tally()
    collected.add(Cell("r", "a", 0), None)
    assert collected.samples == {}
    add(collected, one(0.5), sample="b")
    assert collected.per_sample("r", "one").values.tolist() == [0.5]


# Clusters


def clusters_of(collected: ScoreAccumulator, *samples: str) -> list[int] | None:
    for sample in samples:
        add(collected, sample=sample)
    found = collected.cluster_numbers()
    return None if found is None else found.tolist()


def test_samples_without_a_cluster_stand_alone():
    assert clusters_of(tally(clusters={"a": "x", "c": "x"}), "a", "b", "c", "d") == [0, 1, 0, 2]


def test_a_sample_is_no_cluster_of_the_same_name():
    assert clusters_of(tally(clusters={"a": "b"}), "a", "b") == [0, 1]


@pytest.mark.parametrize("clusters", [None, {}, {"elsewhere": "x"}])
def test_without_clusters_there_are_no_numbers(clusters):
    assert clusters_of(tally(clusters=clusters), "a", "b") is None


def test_a_route_without_an_expected_number_of_cells_is_named():
    with pytest.raises(ValueError, match=r"no expected cells for \['q'\]"):
        ScoreAccumulator(routes=["r", "q"], metrics=(ONE,), expected={"r": 1, "other": 1})
