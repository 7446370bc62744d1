"""Statistics of a dataset's columns, for people to read: `describe(dataset)`."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from evaluators.data.records import kind

if TYPE_CHECKING:  # needs NumPy, and the store reads columns without it
    from evaluators.data.dataset import Dataset

MAX_DISTINCT = 1000
_SHOWN = 5
_LONGEST = 80


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """The statistics of one column over all rows.

    Attributes:
        name: as the rows have it.
        kinds: how many rows have a `text`, `a number`, `a list`, ... there.
        missing: rows without it, or with null.
        blank: rows with a text of nothing but whitespace.
        distinct: different values; None where there are more than 1,000.
        common: the most frequent values and how many rows have them, where there are at most
            1,000 different ones and some repeat; texts are cut at 80 characters.
        shortest, longest, mean_length: of texts, in characters; None without texts.
        lowest, highest, mean: of numbers; None without numbers.
    """

    name: str
    kinds: dict[str, int]
    missing: int
    blank: int
    distinct: int | None
    common: tuple[tuple[str, int], ...] = ()
    shortest: int | None = None
    longest: int | None = None
    mean_length: float | None = None
    lowest: float | None = None
    highest: float | None = None
    mean: float | None = None


def describe(dataset: Dataset) -> tuple[Column, ...]:
    """Describe every column, in the order of `Dataset.columns`; reads the dataset to its end."""
    columns = {name: _Column() for name in dataset.columns}
    for row in dataset.rows():
        for name, value in row.fields.items():
            columns[name].add(value)
    return tuple(column.to_column(name, dataset.row_count) for name, column in columns.items())


class _Range:
    """Smallest, largest and mean of numbers."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.count, self.mean = 0, 0.0

    def add(self, value: float) -> None:
        self.low, self.high = min(self.low, value), max(self.high, value)
        self.count += 1
        # As a running mean, so that large numbers do not overflow a sum.
        self.mean += (value - self.mean) / self.count


class _Column:
    def __init__(self) -> None:
        self._kinds: Counter[str] = Counter()
        self._blank = 0
        self._values: Counter[str] | None = Counter()
        self._lengths, self._numbers = _Range(), _Range()

    def add(self, value: Any) -> None:
        if value is None:
            return
        self._kinds[kind(value)] += 1
        if isinstance(value, str):
            self._blank += not value.strip()
            self._lengths.add(len(value))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            self._add_number(value)
        if self._values is not None:
            # Cut where it is kept: a thousand long texts would not be small.
            text = value if isinstance(value, str) else str(value)
            self._values[text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… {hash(text)}"] += 1
            if len(self._values) > MAX_DISTINCT:
                self._values = None

    def _add_number(self, value: float) -> None:
        try:
            self._numbers.add(float(value))
        except OverflowError:
            # JSON's whole numbers have no bound; a float has.
            self._kinds["a number too large for statistics"] += 1

    def to_column(self, name: str, rows: int) -> Column:
        values, lengths, numbers = self._values, self._lengths, self._numbers
        common = [] if values is None else values.most_common(_SHOWN)
        repeated = common != [] and common[0][1] > 1
        return Column(
            name=name,
            kinds=dict(self._kinds),
            missing=rows - sum(self._kinds[json_kind] for json_kind in _KINDS),
            blank=self._blank,
            distinct=None if values is None else len(values),
            common=tuple((_cut(text), count) for text, count in common) if repeated else (),
            shortest=int(lengths.low) if lengths.count else None,
            longest=int(lengths.high) if lengths.count else None,
            mean_length=lengths.mean if lengths.count else None,
            lowest=numbers.low if numbers.count else None,
            highest=numbers.high if numbers.count else None,
            mean=numbers.mean if numbers.count else None,
        )


_KINDS = ("text", "a number", "a boolean", "a list", "an object")


def _cut(text: str) -> str:
    return text[: _LONGEST + 1] if len(text) > _LONGEST else text
