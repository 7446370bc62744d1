"""All cells, in the order of the table."""

from evidence import differences, gates, judges, looks, promises, single
from evidence.cells import Cell

CELLS: tuple[Cell, ...] = (
    *single.CELLS,
    *differences.CELLS,
    *gates.CELLS,
    *looks.CELLS,
    *promises.CELLS,
    *judges.CELLS,
)
