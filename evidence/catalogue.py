"""All cells, in the order of the table."""

from evidence import differences, gates, judges, looks, single
from evidence.cells import Cell

CELLS: tuple[Cell, ...] = (
    *single.CELLS,
    *differences.CELLS,
    *gates.CELLS,
    *looks.CELLS,
    *judges.CELLS,
)
