"""Groups the rows of a dataset by the values of one column, each row into one group.

    values = ColumnValues()
    for row in rows:
        values.add(value_at(row.fields, "language", MISSING))
    grouping = values.grouped()
    grouping.groups[0].name, grouping.groups[0].rows       # "de", 120
    grouping.numbers                                       # shape (rows,): the group of each row

Of each value a number of eight bytes is stored, and its text once, cut: texts may be megabytes.
"""

from __future__ import annotations

import hashlib
import math
import re
from array import array
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from evaluators.data.rows import MISSING

MAX_GROUPS = 50
"""More different values are one group: those that are rarer than the others."""

MAX_NUMBERS = 20
"""So many different numbers are a group each; more are put into ranges."""

RANGES = 5
MAX_VALUES = 100_000
"""Different values whose texts are stored."""

NAME_LENGTH = 80
MISSING_KEY, OTHER_KEY = "missing", "other"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# Longer texts are no numbers, and a float has fewer digits.
_LONGEST_NUMBER = 40
_NO_VALUE = 0
_MAX_KNOWN = 1_000
_sorted_json = msgspec.json.Encoder(order="sorted")

GroupKind = Literal["value", "range", "other", "missing"]


class UnusableColumnError(ValueError):
    """The values of a column make no groups; the message is a sentence that says why."""


class RowGroup(msgspec.Struct, frozen=True, kw_only=True):
    """The rows that have one value, or values that belong together.

    Attributes:
        key: names the group in an address; the same value has the same in every dataset.
        kind: `value` for one value, `range` for numbers, `other` for all values that are rarer
            than those of the other groups, `missing` for rows without a value.
        name: for readers: the value's text (of lists and objects, their JSON), cut.
        low, high: of a range: the smallest and the largest number of it.
        values: how many different values it has.
        rows: how many rows.
    """

    key: str
    kind: GroupKind
    name: str
    low: float | None = None
    high: float | None = None
    values: int = 1
    rows: int = 0


class Grouping(NamedTuple):
    """The groups of a column, and the number of each row's group, shape (rows,)."""

    groups: tuple[RowGroup, ...]
    numbers: NDArray[np.int16]


class ColumnValues:
    """The values of a column, added row by row.

    Attributes:
        has_column: whether any row has the column, if only with null.
    """

    def __init__(self) -> None:
        self.has_column = False
        self._codes = array("Q")
        self._numbers = array("d")
        self._texts: dict[int, str] = {}
        self._known: dict[str, tuple[int, float]] = {}

    def add(self, value: Any) -> None:
        """Add the next row's value; MISSING where it does not have the column."""
        self.has_column = self.has_column or value is not MISSING
        if value is None or value is MISSING:
            self._codes.append(_NO_VALUE)
            self._numbers.append(math.nan)
            return
        # Most columns have few different texts, and a dictionary of texts alone is quicker.
        known = self._known.get(value) if type(value) is str else None
        if known is not None:
            self._codes.append(known[0])
            self._numbers.append(known[1])
            return
        text = _text(value)
        code, number = _code(text), _number(value)
        self._codes.append(code)
        self._numbers.append(number)
        if code not in self._texts and len(self._texts) < MAX_VALUES:
            self._texts[code] = cut(text)
        if type(value) is str and len(value) <= NAME_LENGTH and len(self._known) < _MAX_KNOWN:
            self._known[value] = code, number

    def grouped(self) -> Grouping:
        """Put each row into a group: numbers ascending, then others with the most frequent first.

        The rows without a value are one group, and so are values that are rarer than those of
        MAX_GROUPS groups.

        Raises:
            UnusableColumnError: there are more different values than groups, and none is there
                twice.
        """
        codes = np.array(self._codes, dtype=np.uint64)
        numbers = np.array(self._numbers, dtype=np.float64)
        has_value = codes != _NO_VALUE
        is_number = np.isfinite(numbers)
        of_rows = np.full(len(codes), -1, dtype=np.int16)
        groups: list[RowGroup] = []
        # The few texts among numbers ("n/a") stay groups of their own.
        binned = len(np.unique(numbers[is_number])) > MAX_NUMBERS and 2 * np.count_nonzero(
            is_number
        ) >= np.count_nonzero(has_value)
        if binned:
            for group, places in _ranges(numbers, np.nonzero(is_number)[0]):
                of_rows[places] = len(groups)
                groups.append(group)
        left = has_value & (of_rows < 0)
        for group, chosen in self._single(codes, numbers, left, MAX_GROUPS - len(groups)):
            of_rows[chosen] = len(groups)
            groups.append(group)
        if not has_value.all():
            of_rows[~has_value] = len(groups)
            groups.append(
                RowGroup(
                    key=MISSING_KEY,
                    kind="missing",
                    name="no value",
                    values=0,
                    rows=int(np.count_nonzero(~has_value)),
                )
            )
        return Grouping(tuple(groups), of_rows)

    def _single(
        self,
        codes: NDArray[np.uint64],
        numbers: NDArray[np.float64],
        left: NDArray[np.bool_],
        room: int,
    ) -> Iterable[tuple[RowGroup, NDArray[np.bool_]]]:
        """Yield a group for each value of the rows that are left, and one of those without room."""
        values, first, counts = np.unique(codes[left], return_index=True, return_counts=True)
        if not len(values):
            return
        chosen = np.argsort(-counts, kind="stable")
        if len(values) > room:
            chosen = chosen[: room - 1]
            chosen = chosen[counts[chosen] > 1]
            if not len(chosen):
                raise UnusableColumnError(
                    f"it has {len(values):,} different values and none of them twice, so its "
                    "slices would have one sample each"
                )
        known = [each for each in chosen.tolist() if int(values[each]) in self._texts]
        if len(known) < len(chosen):
            raise UnusableColumnError(f"it has more than {MAX_VALUES:,} different values")
        number_of = numbers[left][first]

        def place(each: int) -> tuple[bool, float, int, str]:
            number = float(number_of[each])
            text = self._texts[int(values[each])]
            if math.isfinite(number):
                return (False, number, 0, text)
            return (True, 0.0, -int(counts[each]), text)

        rest = left.copy()
        for each in sorted(known, key=place):
            code = int(values[each])
            rows = codes == values[each]
            rest &= ~rows
            yield (
                RowGroup(
                    key=f"{code:016x}",
                    kind="value",
                    name=self._texts[code],
                    rows=int(counts[each]),
                ),
                rows,
            )
        if rest.any():
            yield (
                RowGroup(
                    key=OTHER_KEY,
                    kind="other",
                    name="other",
                    values=len(values) - len(known),
                    rows=int(np.count_nonzero(rest)),
                ),
                rest,
            )


def cut(text: str) -> str:
    """Return the beginning of a long text."""
    return text if len(text) <= NAME_LENGTH else f"{text[: NAME_LENGTH - 1]}…"


def _ranges(
    numbers: NDArray[np.float64], places: NDArray[np.intp]
) -> Iterable[tuple[RowGroup, NDArray[np.intp]]]:
    """Yield RANGES groups of as equal sizes as can be; equal numbers are in the same one."""
    values = numbers[places]
    inner = np.quantile(values, np.arange(1, RANGES) / RANGES, method="inverted_cdf")
    # A number that is the end of a range belongs to it.
    number_of = np.searchsorted(np.unique(inner), values, side="left")
    for nth, number in enumerate(np.unique(number_of).tolist(), 1):
        chosen = number_of == number
        within = values[chosen]
        low, high = float(within.min()), float(within.max())
        yield (
            RowGroup(
                key=f"range-{nth}",
                kind="range",
                name=f"{low:,.6g}" if low == high else f"{low:,.6g} to {high:,.6g}",
                low=low,
                high=high,
                values=len(np.unique(within)),
                rows=int(np.count_nonzero(chosen)),
            ),
            places[chosen],
        )


def _text(value: Any) -> str:
    """Return a value as text: a whole number as one, lists and objects as JSON with sorted keys."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return _sorted_json.encode(value).decode()


def _code(text: str) -> int:
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) or 1


def _number(value: Any) -> float:
    """Return a number, or the number that a text is; NaN for anything else."""
    if isinstance(value, str):
        value = value.strip()
        if len(value) > _LONGEST_NUMBER or not _NUMBER.fullmatch(value):
            return math.nan
    elif isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan
