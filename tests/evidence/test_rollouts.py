"""A slice of `python -m evidence.rollouts`, which advances many rollouts by counts."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from evidence.rollouts import (
    BIN,
    CELLS,
    LEVELS,
    SMALL,
    USER_CELLS,
    Ends,
    Rollouts,
    Route,
    Truth,
    common_rule,
    row,
    users_day,
)
from router.loop.rollout_rules import Batch, Observation, RolloutPlan, RolloutRules, Signal

RULES = RolloutPlan(
    signals=(
        Signal(name="error_rate", min_values=1),
        Signal(name="errors", role="goal", margin=0.3, min_values=1),
        Signal(name="judge", kind="score", role="goal", margin=0.5, min_values=1),
    ),
    steps=(0.2, 0.5, 1.0),
    sticky=False,
    min_step_s=4 * BIN,
    cycle_s=4 * BIN,
)


def observations(drawn, plan, step, prefix):
    """Requests that add up to the counts of a look, of users who are compared.

    Of their names, no two have the same bit in the rules' set of units.
    """
    for arm, candidate in ((0, True), (1, False)):
        requests = int(drawn["requests"][arm][0, 1])
        errors = int(drawn["error_rate"][arm][0, 0])
        scores = np.repeat(LEVELS, drawn["judge"][arm][0]).tolist()
        for place in range(requests):
            error = float(place < errors)
            yield Observation(
                unit=f"{prefix}.{candidate}.{place}",
                candidate=candidate,
                step=step,
                position=plan.steps[step] - 1e-6 if candidate else plan.steps[step],
                values={
                    "error_rate": error,
                    "errors": error,
                    "judge": scores[place] if place < len(scores) else None,
                },
            )


@pytest.mark.parametrize(
    ("sticky", "first_step", "per_day"),
    [(False, 0.2, 20_000), (True, 0.2, 20_000), (True, 0.05, 60_000)],
)
def test_rollouts_by_counts_are_those_of_the_rules(sticky, first_step, per_day):
    # With no window, users' means count at once.
    plan = msgspec.structs.replace(
        RULES, steps=(first_step, 0.5, 1.0), sticky=sticky, unit_window_s=0
    )
    route = Route("few", per_day, plan)
    rollouts = Rollouts(route, Truth(), rollouts=1, seed=3)
    rules = RolloutRules(plan)
    for number in range(8):
        state = rules.state()
        step, state.sample = state.step, route.sample(plan.steps[state.step])
        rules = RolloutRules(plan, state)
        assert len(rollouts.number) == 1
        assert step == rollouts.step[0]
        before = {name: test.gains.copy() for name, test in rollouts.means.items()}
        drawn = rollouts.advance(number * BIN)
        rules.observe(
            Batch(
                began=number * BIN,
                until=(number + 1) * BIN,
                observations=list(observations(drawn, plan, step, number)),
            )
        )
        state = rules.state()
        decision = rules.decide()
        if decision.action == "promote":
            break
        assert rollouts.ratios["error_rate"][0] == pytest.approx(
            state.signals["error_rate"].ratio.logs
        )
        for name, test in rollouts.means.items():
            assert test.losses[0] == pytest.approx(state.signals[name].mean.losses)
            if decision.action == "step_up":
                assert (test.gains == 0).all()
            else:
                assert test.gains[0] == pytest.approx(state.signals[name].mean.gains)
            assert not np.array_equal(before[name], test.gains)
        rules.apply(decision)
    assert rules.decide().action == "promote"
    assert len(rollouts.number) == 0  # it was promoted by counts too


def test_twice_the_margin_is_rolled_back_within_the_forecast():
    by_title = {(cell.route, cell.title): cell for cell in CELLS}
    worse = by_title[SMALL, "judge worse by twice the margin (-.2)"]
    ends = Rollouts(SMALL, worse.truth, 40, 1).run(worse.limit_s / 86_400)
    assert worse.faults(ends) == []
    slow = Rollouts(SMALL, Truth(slower=2.0), 30, 1).run(0.2)
    assert slow.share("rolled back") == 1


def test_broken_promises_are_shown():
    equal = CELLS[0]
    never = Ends(np.full(100, ""), np.full(100, np.inf), np.zeros(100, dtype=np.int64))
    assert equal.faults(never) == ["promoted in only 0.0%"]
    backs = Ends(
        np.array(["promoted"] * 85 + ["rolled back"] * 15),
        np.full(100, equal.limit_s),
        np.full(100, 7),
    )
    assert equal.faults(backs) == ["rolled back in 15.0%"]
    columns = row(equal, backs)
    assert columns[2:6] == ("85.0", "85.0", "15.0", "0.0")
    assert columns[7] == "7"
    assert "**rolled back in 15.0%**" in columns[8]
    late = backs._replace(seconds=np.full(100, equal.limit_s + 1))
    assert "promoted in only 0.0%" in equal.faults(late)


def test_the_common_rule_misfires():
    ends = common_rule(20_000, 0.1, 1.0, 30, seed=0)
    assert np.isfinite(ends).mean() > 0.38
    assert (common_rule(20_000_000, 0.5, 1.3, 5, seed=0) == BIN).all()


def test_users_with_many_requests_do_not_roll_back():
    equal = USER_CELLS[0]
    days = [users_day(equal, number) for number in range(12)]
    assert sum(outcome == "rolled back" for outcome, _ in days) <= 3
