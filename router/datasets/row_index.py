"""Rows from the middle of a file, without reading those before them.

    index = RowIndex()
    rows = index.rows(dataset, after=150_000, limit=50)

Where some hundred rows end is found out when a row far in a file is read for the first time.
From then on only the file's beginning is read, which has the header, and the rows around those that
are wanted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import msgspec

from evaluators.data import dataset_process
from evaluators.data.dataset import INDEXED_ROWS, Dataset, RowEnd
from evaluators.data.rows import Row
from router.datasets.artifacts import temporary_folder

# Datasets whose ends of rows are remembered; each has some kilobytes.
_REMEMBERED = 100


class _Known(NamedTuple):
    """What is known of a version's rows: their ends, and up to which row they were found."""

    ends: list[RowEnd]
    rows: int


class RowIndex:
    """Remembers where rows end, by the hash of the file that has them.

    Args:
        max_bytes: from the place where the first row of a page may begin; then the page ends.
    """

    def __init__(self, *, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._known: OrderedDict[tuple[str, str, str], _Known] = OrderedDict()

    def rows(self, dataset: Dataset, *, after: int, limit: int) -> Iterator[Row]:
        """Yield rows, fewer than `limit` at the end and where they are very large; this blocks.

        Args:
            dataset: the file.
            after: the number of the row before the first of them.
            limit: how many, at most.

        Raises:
            DatasetError: as `dataset_process.rows`.
        """
        if after <= INDEXED_ROWS:
            return dataset_process.rows(dataset, count=limit, skip=after)
        ends = self._ends(dataset, min(after + limit, dataset.row_count))
        place = bisect_right(ends, after, key=lambda end: end.row) - 1
        if place < 1:
            return dataset_process.rows(dataset, count=limit, skip=after)
        begin = ends[place]
        end = next(
            (
                end
                for end in ends[place + 1 :]
                if end.row >= after + limit or end.offset >= begin.offset + self._max_bytes
            ),
            ends[-1],
        )
        return self._cut(dataset, ends[0], begin, end, after=after, limit=limit)

    def _ends(self, dataset: Dataset, rows: int) -> list[RowEnd]:
        # The delimiter says what a row is.
        key = dataset.hash, dataset.format, dataset.delimiter
        known = self._known.pop(key, None)
        if known is None or known.rows < rows:
            # More than is wanted: those who turn pages would have it read again for each.
            rows = min(2 * rows, dataset.row_count)
            known = _Known(dataset_process.row_ends(dataset, rows), rows)
        self._known[key] = known
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return known.ends

    @staticmethod
    def _cut(
        dataset: Dataset, head: RowEnd, begin: RowEnd, end: RowEnd, *, after: int, limit: int
    ) -> Iterator[Row]:
        """Yield rows of a file that is made of the beginning and the rows around those."""
        with temporary_folder() as folder:
            path = folder / f"rows.{dataset.format}"
            content = _bytes(dataset.path, 0, head.offset)
            content += _bytes(dataset.path, begin.offset, end.offset)
            path.write_bytes(content)
            cut = msgspec.structs.replace(dataset, path=path, hash=sha256(content).hexdigest())
            skip = head.row + after - begin.row
            yield from dataset_process.rows(cut, count=limit, skip=skip)


def _bytes(path: Path, begin: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(begin)
        return file.read(end - begin)
