"""A slice of `python -m evidence.drift`."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evaluators.base import Sample
from evidence.drift import CELLS, DAYS, DEFAULT, WORLDS, Cell, distances_of, row, simulate
from router.config.watches import WatchSettings
from router.loop.watch_comparison import anchors_of
from router.loop.watch_probes import WatchRequests, anchor_of, measure


def test_distances_are_those_of_a_watch():
    watch = WatchSettings(target="up/a", repeats=1)
    drawn = -np.abs(np.random.default_rng(1).normal(2, 0.3, size=(9, 3, 4)))
    tokens = [
        [[dict(zip("abcd", prompt.tolist(), strict=True))] for prompt in probe] for probe in drawn
    ]
    sent = WatchRequests(tuple(Sample(id=str(n), messages=()) for n in range(3)))
    anchors = anchors_of(watch.reference_probes)
    anchor = anchor_of(watch, tokens[:anchors])
    measured = [measure(watch, sent, anchor, probe).distance for probe in tokens[anchors:]]
    assert measured == pytest.approx(distances_of(drawn).tolist())


@pytest.mark.parametrize("world", WORLDS)
def test_few_watches_report_a_change_in_quiet_days(world):
    cell = Cell(WatchSettings(target="up/a", alpha=0.2, live=None), world, 120)
    found, common = simulate(cell, 25, 1)
    assert cell.faults(found) == []
    assert sum(each <= 0 for each in found) < 8
    if world not in ("logprobs, always the same",):
        assert common > 0.5


@pytest.mark.parametrize("world", ["logprobs", "texts"])
def test_changes_are_found_in_time(world):
    [cell] = [each for each in CELLS if each[1:4] == (world, 30, 1.0)]
    found, _ = simulate(cell, 12, 2)
    assert cell.faults(found) == []
    assert all(0 < each < 20 for each in found)


def test_broken_promises_are_shown():
    cell = Cell(DEFAULT, "logprobs", DAYS, 1.0, within=12)
    never = [math.inf] * 100
    assert cell.faults(never) == ["found in time in only 0.0%"]
    assert "over 100" in row(cell, never, 0.5)[6]
    early = [-3.0] * 6 + [4.0] * 94
    assert cell.faults(early) == ["reported without a change in 6.0%"]
    assert "**reported without" in row(cell, early, 0.5)[7]
