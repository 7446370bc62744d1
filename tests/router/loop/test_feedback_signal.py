"""Which feedback of a name counts, and as what."""

from __future__ import annotations

import random

import pytest

from router.loop.feedback_signal import FeedbackSignal, GivenScore, signal_of


def given(key: str, value: float, record: str = "", weight: float = 1.0) -> GivenScore:
    kind = "bool" if isinstance(value, bool) else "number"
    return GivenScore(record or f"req_{key}", 1.0, key, "", weight, float(value), kind)


def scores(signal: FeedbackSignal) -> list[float]:
    return sorted(each.score for some in signal.given.values() for each in some)


def many(key: str, *values: float) -> list[GivenScore]:
    return [given(key, value, f"req_{key}_{n}") for n, value in enumerate(values)]


@pytest.mark.parametrize("bad", [1e12, -1e12, 5.0, 1.0000001, -0.5])
def test_numbers_beyond_0_and_1_are_no_truth_values(bad):
    honest = many("app", *[n % 2 == 0 for n in range(50)])
    signal = signal_of([*honest, *many("bad", bad, bad)])
    assert (signal.kind, signal.left_out, scores(signal)) == ("bool", 2, [0.0] * 25 + [1.0] * 25)
    assert (signal.low, signal.high) == (0.0, 1.0)
    assert "2 that are numbers beyond 0 and 1 are left out" in signal.warnings("thumb")[0]


def test_numbers_from_0_to_1_are_shares_of_truth():
    signal = signal_of([*many("app", True, False, True), *many("other", 0.5, 0.0)])
    assert (signal.kind, signal.left_out, scores(signal)) == ("bool", 0, [0.0, 0.0, 0.5, 1.0, 1.0])


def test_truth_values_are_no_ratings():
    signal = signal_of([*many("app", 4.0, 5.0, 3.0, 4.0), *many("bad", True)])
    assert (signal.kind, signal.left_out, scores(signal)) == ("number", 1, [3.0, 4.0, 4.0, 5.0])


def test_a_key_that_sends_more_than_all_others_does_not_choose_the_kind():
    honest = [each for key in "abc" for each in many(key, True, False)]
    signal = signal_of([*honest, *many("bad", *[7.0] * 500)])
    assert (signal.kind, signal.left_out) == ("bool", 500)


def test_a_key_adds_no_more_than_its_share_of_the_feedback():
    draws = random.Random(1)
    honest = many("app", *[draws.choice([1.0, 2.0, 3.0, 4.0, 5.0]) for _ in range(990)])
    calm = signal_of(honest)
    assert calm.drawn_in == 0
    signal = signal_of([*honest, *many("bad", *[1e12] * 10)])
    assert (signal.drawn_in, signal.left_out) == (10, 0)
    moved = sum(scores(signal)) / 1000 - sum(scores(calm)) / 990
    # The fence is at 3 + 3 * 3.
    assert moved == pytest.approx(0.01 * (12 - sum(scores(calm)) / 990))
    assert "10 values of feedback stars are far from the others" in signal.warnings("stars")[0]


@pytest.mark.parametrize(
    "values",
    [
        [5.0] * 98 + [1.0, 2.0],
        [0.0] * 97 + [1.0] * 3,
        [0.0] * 97 + [1.0, 2.0, 3.0],
        [-10.0, 10.0] * 5,
        [0.0001, 0.0002, 0.0003],
        [0.0],
    ],
)
def test_ratings_of_few_stay_as_they_are(values):
    signal = signal_of(many("app", *values))
    assert (signal.drawn_in, scores(signal)) == (0, sorted(values))


def test_a_key_that_gives_most_is_named():
    signal = signal_of([*many("key_a", *[True] * 9), *many("key_b", False)])
    assert signal.warnings("thumb") == ["the key key_a gave 90% of the feedback thumb"]
    assert signal_of(many("key_a", True, False)).warnings("thumb") == []
    cut = signal_of(many("key_a", True), complete=False)
    assert "only the newest 200,000" in cut.warnings("thumb")[0]


def test_a_request_has_the_weighted_mean():
    rows = [given("a", True, "r"), given("b", False, "r", 0.5), given("a", True, "s", 0.0)]
    assert signal_of(rows).means() == {"r": pytest.approx(2 / 3)}


def test_nothing_says_nothing():
    signal = signal_of([])
    assert (signal.given, signal.low, signal.largest, signal.means()) == ({}, None, ("", 0.0), {})
    assert signal.warnings("thumb") == []
