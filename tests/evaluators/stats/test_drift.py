"""The test of drift: bets on ranks, and distances of tokens from their anchor."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from evaluators.stats.drift import (
    LEAST_LOG_PROBABILITY,
    MAX_TOKENS,
    SPREAD_FLOOR,
    DriftTest,
    alpha_of,
    readable_draw,
    token_anchor,
    token_distance,
    token_distances,
)


def last(distances, ties=None):
    test = DriftTest()
    ties = [0.5] * len(distances) if ties is None else ties
    for distance, tie in zip(distances, ties, strict=True):
        evidence = test.add(distance, tie=tie)
    return evidence


def test_the_evidence_is_one_on_average_over_all_orders():
    """Exactly, by enumeration: with and without equal distances."""
    for values in ([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 1.0, 1.0, 2.0, 2.0], [0.0] * 5):
        pairs = list(zip(values, [0.1, 0.3, 0.5, 0.7, 0.9], strict=True))
        orders = list(itertools.permutations(pairs))
        mean = math.fsum(last(*zip(*order, strict=True)).e_value for order in orders) / len(orders)
        assert mean == pytest.approx(1.0)


def test_evidence_grows_where_distances_become_larger_and_only_then():
    quiet = [random.Random(n).random() for n in range(30)]
    assert last(quiet).e_value < 20
    larger = [2.0 + random.Random(n).random() for n in range(12)]
    assert last(quiet + larger).e_value > 1e3
    # Shrinking ones are no evidence, and neither is one that is far off.
    assert last(quiet + [-1.0] * 50).e_value < 1.5
    assert last([*quiet, 9.0]).e_value < 20


def test_a_change_after_a_thousand_quiet_probes_takes_few_more():
    draws = random.Random(2)
    quiet = [draws.random() for _ in range(1000)]
    assert last(quiet + [2.0 + draws.random() for _ in range(8)]).e_value > 1000


def test_the_first_distance_says_nothing():
    assert last([5.0]) == (1.0, pytest.approx(1.0))
    assert last([5.0, 6.0]).p_value == 0.5
    assert last([5.0, 4.0]).p_value == 1.0
    assert last([5.0, 5.0], [0.5, 0.6]).p_value == 0.5


def test_evidence_stays_a_number():
    test = DriftTest()
    for number in range(3000):
        evidence = test.add(float(number), tie=0.5)
    assert evidence.e_value <= 2e301
    assert math.isfinite(evidence.e_value)


@pytest.mark.parametrize(("distance", "tie"), [(math.nan, 0.5), (math.inf, 0.5), (1.0, 1.5)])
def test_what_is_no_distance_is_refused(distance, tie):
    with pytest.raises(ValueError, match="must be finite"):
        DriftTest().add(distance, tie=tie)


def test_levels_of_references_add_up():
    assert alpha_of(0.01, 1) == 0.005
    assert math.fsum(alpha_of(0.01, n) for n in range(1, 10_000)) == pytest.approx(0.01, rel=1e-3)


def test_log_probabilities_that_are_none_are_left_out():
    given = {"a": -0.5, "b": math.nan, "c": math.inf, "d": 0.5, "e": -9999.0, "f": 0.0005}
    assert readable_draw(given) == {"f": 0.0, "a": -0.5, "e": LEAST_LOG_PROBABILITY}
    many = {f"t{n}": -float(n) / 1000 for n in range(500)}
    assert list(readable_draw(many)) == [f"t{n}" for n in range(MAX_TOKENS)]


def test_distances_of_tokens():
    draws = [[{"a": -1.0, "b": -2.0}], [{"a": -1.2, "b": -2.2}]]
    anchor = token_anchor(draws)
    assert anchor.tokens == pytest.approx({"a": -1.1, "b": -2.1})
    assert anchor.spread == pytest.approx(0.1)
    # Repeats are averaged first; a token that is not listed counts as the least likely one.
    [distance] = token_distances([anchor], [[{"a": -1.0, "b": -2.0}, {"a": -1.2, "b": -2.2}]])
    assert distance == pytest.approx(0.0)
    [distance] = token_distances([anchor], [[{"a": -1.1, "z": -3.1}]])
    assert distance == pytest.approx(0.5 * 1.0)
    total = token_distance([anchor, anchor], [0.12, 0.36])
    assert total == pytest.approx(0.24 / (0.1 + SPREAD_FLOOR))
