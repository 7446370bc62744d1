"""Learned routes in worlds whose truth is known: a slice of `make evidence-learned`."""

from __future__ import annotations

import numpy as np
import pytest

from evidence.learned_route import MARGIN, WORLDS, draw, logged, row, simulate
from router.loop.learned.held_out import held_out_report
from router.loop.learned.neighbours import Criterion

WITHIN = Criterion(within=0.1, reference=1, confidence=0.9)


def test_answers_without_a_known_chance_are_no_part_of_the_test():
    rng = np.random.default_rng(4)
    known, _ = draw(WORLDS[0], 600, rng)
    seen = logged(known, rng)
    unknown = seen.propensities.copy()
    unknown[::2] = np.nan
    report = held_out_report(
        seen._replace(propensities=unknown), WITHIN, neighbours=30, margin=0.02
    )
    assert (report.rows, report.excluded, report.paired) == (300, 300, 0)


def test_doubly_robust_estimates_are_those_of_full_scores_on_average():
    """What answers of one target tell is what the scores of all tell, but for chance."""
    rng = np.random.default_rng(5)
    known, _ = draw(WORLDS[0], 3000, rng)
    criterion = Criterion(at_least=0.8, confidence=0.9)
    whole = held_out_report(known, criterion, neighbours=50, margin=0.02)
    part = held_out_report(logged(known, rng), criterion, neighbours=50, margin=0.02)
    assert part.weighted == 3000
    assert whole.score_low is not None
    assert part.score_low < whole.score_difference < part.score_high
    assert part.saving == pytest.approx(whole.saving, abs=0.2)


def test_a_route_that_pays_and_worlds_where_none_does():
    """A slice of `make evidence-learned`, whose tables are in evidence/results."""
    pays = simulate(WORLDS[0], 3)
    assert pays.report.decision == "pays"
    assert pays.saving >= 0.3
    assert pays.loss <= 0.02
    assert pays.report.saving_low <= pays.saving <= pays.report.saving_high
    for world in WORLDS:
        if not world.pays and not world.logged:
            outcome = simulate(world, 3)
            assert outcome.report.decision == "does_not_pay", world.name
            assert outcome.report.reason


def test_a_broken_promise_is_named():
    """A world without a gain in which a route was switched on, and one where it never was."""
    good = simulate(WORLDS[0], 3)
    wrong = next(world for world in WORLDS if not world.pays)
    columns, faults = row(wrong, [good] * 20)
    assert faults == ["on in 100.0%"]
    assert "**on in 100.0%**" in columns[-1]
    never = good._replace(report=simulate(wrong, 3).report)
    assert row(WORLDS[0], [never] * 20)[1] == ["on in 0.0%"]
    assert row(WORLDS[0], [good] * 20)[1] == []
    late = good._replace(loss=MARGIN * 2)
    assert "too much worse" in row(WORLDS[0], [late] * 20)[1][0]
