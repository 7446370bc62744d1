"""A slice of `make evidence`: cells that once failed, and bands that can fail."""

from __future__ import annotations

import numpy as np
import pytest

from evidence.cells import CELLS, Cell, Data
from evidence.measures import measure

SLICE = {
    ("difference", "0 or 1, wins 1%, losses 1%", 200),  # 82.5% by Hall's interval
    ("difference", "0 or 1, wins 5%, losses 5%", 50),  # 87.5%
    ("difference", "0 or 1, wins 1%, losses 3%", 10),  # the gate passed in 67%
    ("difference", "judge, 85% tied", 20),  # 91%
    ("mean", "judge, 98% fives", 10),  # 16% by an interval of width zero
    ("clusters", "normal, lognormal", 10),  # 86.5%
    ("clusters", "share of 95%, equal", 10),  # 74.7%
    ("clusters", "normal, one of 90%", 20),  # no method covers
    ("family", "4 comparisons, 0 or 1", 50),
}


@pytest.mark.parametrize(
    "cell",
    [cell for cell in CELLS if (cell.kind, cell.name, cell.n) in SLICE],
    ids=lambda cell: f"{cell.kind} {cell.name} {cell.n}",
)
def test_cells_are_within_their_bands(cell):
    finding = measure(cell, 1500)
    assert finding.faults == ()


def test_the_slice_is_of_cells_that_exist():
    assert len(SLICE) == sum((cell.kind, cell.name, cell.n) in SLICE for cell in CELLS)


def test_a_cell_outside_its_bands_is_a_fault():
    """Samples that belong together and do not say so: the interval is far too narrow."""

    def draw(random: np.random.Generator) -> Data:
        return Data(np.repeat(random.normal(0, 1, 5), 10))

    finding = measure(Cell("mean", "copies", 50, draw, 0.0), 200)
    assert finding.faults == ("covers too little",)
    refused = measure(Cell("mean", "copies", 50, draw, 0.0, refused=True), 50)
    assert refused.faults == ("an interval is given",)
