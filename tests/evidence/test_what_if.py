"""A slice of `python -m evidence.what_if`: a few logs of each kind."""

from __future__ import annotations

import numpy as np
import pytest

from evidence.what_if import LOGS, ROWS, Counts, columns, count, fault

SMALL = [
    number
    for number, row in enumerate(ROWS)
    if row.requests <= 2000 and not row.name.startswith("users")
]


@pytest.mark.parametrize("number", SMALL)
def test_intervals_hold_where_they_are_given_and_others_are_refused(number):
    counts = count(number, 60, seed=1)
    assert fault(ROWS[number], counts) == ""
    assert columns(ROWS[number], counts)[0] == ROWS[number].name


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_the_truth_of_a_log_is_what_its_policy_brings(number):
    """The mean outcome under the policy, by weights over many requests."""
    row = ROWS[number]
    if row.name == "wrong probabilities":
        return
    log = row.draw(np.random.default_rng(5), 200_000)
    choices = log.choices
    weights = log.policy[choices.contexts, choices.actions] / choices.propensities
    assert weights.mean() == pytest.approx(1, abs=0.05)
    scale = log.outcomes.std() * max(1.0, float(weights.std()))
    assert (weights * log.outcomes).mean() == pytest.approx(log.truth, abs=6 * scale / 300)


def test_a_promise_that_is_broken_is_named():
    counts = Counts(LOGS, 0, 1880, 1880, 500.0, 1.0, 0)
    plain = next(row for row in ROWS if not row.must_refuse)
    refused = next(row for row in ROWS if row.must_refuse)
    assert fault(plain, counts) == ""
    assert fault(plain, counts._replace(held=1850)) == "below 93%"
    assert fault(plain, counts._replace(too_few=1)) == "1 intervals below 200 effective units"
    assert "although enough" in fault(plain, counts._replace(refused=LOGS // 2))
    assert fault(refused, counts) == "not refused"
    assert fault(refused, counts._replace(refused=LOGS)) == ""
