"""Off-policy estimates, against sums by hand and what must hold whatever the numbers are."""

from __future__ import annotations

import numpy as np
import pytest

from evaluators.stats.off_policy import (
    FEWEST_EFFECTIVE,
    Choices,
    effective_units,
    off_policy_value,
)


def drawn(n, *, share=0.5, seed=0, units=None, contexts=1):
    random = np.random.default_rng(seed)
    owners = np.arange(n) if units is None else units
    actions = (random.random(n) < share).astype(np.intp)
    if units is not None:
        actions = (random.random(int(units.max()) + 1) < share).astype(np.intp)[units]
    return Choices(
        owners.astype(np.intp),
        random.integers(0, contexts, n),
        actions,
        np.where(actions == 1, share, 1 - share),
    )


def test_the_inverse_propensity_score_is_the_weighted_mean():
    choices = drawn(4000, share=0.25)
    outcomes = np.random.default_rng(1).random(4000)
    value = off_policy_value(outcomes, choices, np.array([[0.3, 0.7]]))
    weights = np.where(choices.actions == 1, 0.7 / 0.25, 0.3 / 0.75)
    assert value.inverse_propensity.estimate == pytest.approx((weights * outcomes).mean())
    assert value.mean_weight == pytest.approx(weights.mean())
    assert value.effective_units == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert (value.cut, value.refused, value.requests_needed) == (0.0, "", None)


def test_the_policy_that_was_in_force_is_what_was_observed():
    choices = drawn(2000, share=0.3)
    outcomes = np.random.default_rng(1).random(2000)
    value = off_policy_value(outcomes, choices, np.array([[0.7, 0.3]]))
    assert value.inverse_propensity.estimate == pytest.approx(outcomes.mean())
    assert value.effective_units == 2000
    assert abs(value.difference.estimate) < 0.01
    assert value.difference.low < 0 < value.difference.high


def test_a_model_narrows_the_interval_and_moves_nothing():
    """Contexts explain nearly all of the outcomes, which weights alone do not know."""
    choices = drawn(4000, share=0.2, contexts=4)
    noise = np.random.default_rng(2).normal(0, 0.1, 4000)
    outcomes = 10.0 * choices.contexts + choices.actions + noise
    policy = np.array([[0.0, 1.0]] * 4)
    value = off_policy_value(outcomes, choices, policy)
    truth = 10.0 * choices.contexts.mean() + 1
    for interval in (value.doubly_robust, value.inverse_propensity):
        assert interval.low < truth < interval.high
    widths = [
        interval.high - interval.low for interval in (value.doubly_robust, value.inverse_propensity)
    ]
    assert widths[0] < 0.6 * widths[1]
    assert value.difference.low < 0.8 < value.difference.high


def test_requests_of_one_unit_count_as_one():
    units = np.repeat(np.arange(500), 20)
    choices = drawn(10_000, units=units)
    random = np.random.default_rng(3)
    outcomes = random.normal(0, 1, 500)[units] + random.normal(0, 0.1, 10_000)
    together = off_policy_value(outcomes, choices, np.array([[0.0, 1.0]]))
    apart = off_policy_value(
        outcomes, choices._replace(units=np.arange(10_000)), np.array([[0.0, 1.0]])
    )
    assert together.units == 500
    assert together.effective_units == pytest.approx(apart.effective_units / 20, rel=0.1)
    wide, narrow = (
        value.doubly_robust.high - value.doubly_robust.low for value in (together, apart)
    )
    assert wide > 3 * narrow


def test_too_few_effective_units_have_no_interval_and_how_many_are_needed():
    choices = drawn(1000, share=0.1)
    outcomes = np.random.default_rng(1).random(1000)
    value = off_policy_value(outcomes, choices, np.array([[0.0, 1.0]]))
    assert value.effective_units < FEWEST_EFFECTIVE
    assert "too few requests" in value.refused
    assert value.doubly_robust.low is None is value.difference.high
    assert value.requests_needed == pytest.approx(
        1000 * FEWEST_EFFECTIVE / value.effective_units, abs=1
    )
    # What was observed needs no weights.
    assert value.observed.low is not None


def test_wrong_probabilities_are_noticed():
    choices = drawn(4000, share=0.5)
    wrong = choices._replace(propensities=np.full(4000, 0.7))
    value = off_policy_value(np.ones(4000), wrong, np.array([[0.5, 0.5]]), low=0.0, high=1.0)
    assert "mean weight is 0.714" in value.refused
    right = off_policy_value(np.ones(4000), choices, np.array([[0.5, 0.5]]), low=0.0, high=1.0)
    assert right.refused == ""


def test_errors_that_never_came_may_still_come():
    choices = drawn(2000, share=0.5)
    value = off_policy_value(np.zeros(2000), choices, np.array([[0.0, 1.0]]), low=0.0, high=1.0)
    assert value.doubly_robust.estimate == value.doubly_robust.low == 0
    assert 0.002 < value.doubly_robust.high < 0.01


def test_a_weight_beyond_the_limit_is_cut_and_reported():
    choices = drawn(2000, share=0.5)
    propensities = choices.propensities.copy()
    propensities[0] = 1e-9
    value = off_policy_value(
        np.ones(2000), choices._replace(propensities=propensities), np.array([[0.5, 0.5]])
    )
    assert value.cut > 0.99
    assert value.refused


def test_nothing_is_said_of_no_requests():
    none = np.array([], dtype=np.intp)
    value = off_policy_value(
        np.array([]), Choices(none, none, none, np.array([])), np.zeros((0, 2))
    )
    assert (value.requests, value.refused) == (0, "no request has a value")


def test_weights_of_units_add_up_before_they_are_squared():
    assert effective_units(np.array([1.0, 1.0, 2.0]), np.array([0, 0, 1])) == 2
    assert effective_units(np.zeros(3), np.arange(3)) == 0


def test_the_model_that_scores_a_unit_has_not_seen_it():
    """One request alone in its context: by its outcome no prediction for it may change."""
    choices = drawn(4000, share=0.5)
    alone = int(np.flatnonzero(choices.actions == 1)[0])
    choices.contexts[alone] = 1
    outcomes = np.random.default_rng(1).random(4000)
    policy = np.array([[0.0, 1.0], [0.0, 1.0]])
    before = off_policy_value(outcomes, choices, policy).doubly_robust.estimate
    outcomes[alone] += 100.0
    after = off_policy_value(outcomes, choices, policy).doubly_robust.estimate
    # Its weight is 2; with a model that has seen it, it would count as 1.91.
    assert after - before == pytest.approx(2 * 100.0 / 4000, rel=0.01)


@pytest.mark.parametrize("effective", [True, False])
@pytest.mark.parametrize(
    ("outcome", "low", "high"), [(1.0, 0.0, 1.0), (0.0, 0.0, 1.0), (1e-9, 0.0, None)]
)
def test_no_estimate_is_beyond_what_is_possible(effective, outcome, low, high):
    """Also where it has no interval, and of each estimator."""
    n = 3000 if effective else 300
    past = False
    for seed in range(8):
        choices = drawn(n, share=0.3, seed=seed)
        # One action nearly always brings the same, the other something else.
        rare = np.random.default_rng(100 + seed).random(n) < 0.0002
        outcomes = np.where((choices.actions == 1) & ~rare, outcome, 0.5 if high else 5.0)
        policy = np.array([[0.0, 1.0]])
        free = off_policy_value(outcomes, choices, policy)
        value = off_policy_value(outcomes, choices, policy, low=low, high=high)
        smallest, largest = low, np.inf if high is None else high
        estimates = (free.doubly_robust.estimate, free.inverse_propensity.estimate)
        past |= not all(smallest <= estimate <= largest for estimate in estimates)
        for interval in (value.doubly_robust, value.inverse_propensity):
            ends = (interval.low, interval.estimate, interval.high)
            shown = [end for end in ends if end is not None]
            assert shown == sorted(shown)
            assert all(smallest <= end <= largest for end in shown)
        assert (value.doubly_robust.low is not None) == effective
    assert past, "else this tests nothing"
