"""Tables of pages: columns, sorting, filters, pages by key, and export as CSV.

All of it is in the address, so that a link shows others the same table, and works without
JavaScript.
"""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlencode

from litestar import Response

from providers.errors import RequestError
from router.api.access import Caller
from router.api.form_numbers import number_from_digits
from router.api.page_layout import rendered

ROWS_PER_PAGE = 100
# Rows of an export.
MAX_EXPORTED = 10_000
Export = Literal["", "csv"]
_Row = TypeVar("_Row")


class TableColumn(NamedTuple):
    """A column.

    Attributes:
        key: its name in addresses and exports.
        title: its heading.
        sorts: whether the table can be sorted by it.
        number: whether it has numbers.
        value: returns what a row is sorted by; None for the row's attribute that it is named after.
    """

    key: str
    title: str
    sorts: bool = False
    number: bool = False
    value: Callable[[Any], Any] | None = None


class TableView:
    """A table as one address shows it.

    Args:
        path: the page's path.
        columns: its columns.
        sort: the key of the column that it is sorted by, behind `-` where the last comes first;
            "" for a table of which no column sorts.
        filters: the parameters that say which rows it has; "" for those that say nothing.
        after: the key of the last row of the page before; "" for the first page.
        export: what it is saved as; "" for a page.

    Raises:
        RequestError: it cannot be sorted so.
    """

    def __init__(
        self,
        path: str,
        columns: Sequence[TableColumn],
        *,
        sort: str,
        filters: Mapping[str, str],
        after: str = "",
        export: Export = "",
    ) -> None:
        self.path = path
        self.columns = columns
        self.is_export = bool(export)
        self.size = MAX_EXPORTED if export else ROWS_PER_PAGE
        self.descending = sort.startswith("-")
        self.sort = sort.removeprefix("-")
        self.is_later = bool(after)
        self._after = after
        self._filters = {name: value for name, value in filters.items() if value}
        self._next_key: str | None = None
        sortable = [column.key for column in columns if column.sorts]
        if sortable and self.sort not in sortable:
            raise RequestError(
                f"This table is sorted by {', '.join(sortable)}, or by -{sortable[0]} and so on.",
                param="sort",
            )

    @property
    def order(self) -> str:
        """What addresses say that it is sorted by; "" where no column sorts."""
        return f"{'-' if self.descending else ''}{self.sort}"

    @property
    def is_filtered(self) -> bool:
        """Whether rows may be left out."""
        return bool(self._filters)

    @property
    def first(self) -> str:
        """The address of the first page."""
        return self._address()

    @property
    def next(self) -> str:
        """The address of the next page; "" on the last."""
        return "" if self._next_key is None else self._address(after=self._next_key)

    @property
    def exports(self) -> list[tuple[str, str]]:
        """What the table can be saved as, each with its address."""
        return [(f"Save as CSV (at most {MAX_EXPORTED:,} rows)", self._address(export="csv"))]

    @property
    def query(self) -> str:
        """What the address of a row's own page has, for the row after it in this table."""
        return self._address().removeprefix(self.path)

    def with_sort(self, sort: str) -> str:
        """Return the address of the table in an order: a column's key, `-` before it or not."""
        return self._address(sort=sort)

    def from_key(self, key: object) -> str:
        """Return the address of the rows behind the one with a key."""
        return self._address(after=str(key))

    def sorted_by(self, key: str) -> str:
        """Return the address of the table sorted by a column; the other way round if it is."""
        reverse = key == self.sort and not self.descending
        return self._address(sort=f"-{key}" if reverse else key)

    def _address(self, **changes: str) -> str:
        sort = {"sort": self.order} if self.order else {}
        return f"{self.path}?{urlencode({**self._filters, **sort, **changes})}"

    def page(self, rows: list[_Row], key: Callable[[_Row], str]) -> list[_Row]:
        """Return the rows of this page, given one more than `size` where another page follows.

        An export gets all that are given.
        """
        if not self.is_export and len(rows) > self.size:
            rows = rows[: self.size]
            self._next_key = key(rows[-1])
        return rows

    def go_on_after(self, key: object) -> None:
        """Set the key that the next page begins after; None where there is none."""
        self._next_key = None if key is None else str(key)

    def page_of(self, rows: Iterable[_Row], key: Callable[[_Row], str]) -> list[_Row]:
        """Return the rows of this page, given all of them; an export begins with the first.

        Rows are sorted by the values of the column, then by their keys; those without a value come
        first.
        """
        [column] = [column for column in self.columns if column.key == self.sort]
        value_of = column.value or attrgetter(self.sort)

        def place(row: _Row) -> tuple[bool, Any, str]:
            value = value_of(row)
            return value is not None, value, key(row)

        ordered = sorted(rows, key=place, reverse=self.descending)
        if self._after and not self.is_export:
            places = [number for number, row in enumerate(ordered) if key(row) == self._after]
            if not places:
                raise RequestError("The row that this page began after is gone.", param="after")
            ordered = ordered[places[0] + 1 :]
        return self.page(ordered, key)


def row_number(after: str) -> int:
    """Return the number of a row that a page begins after. Raises RequestError."""
    number = number_from_digits(after)
    if number is None:
        raise RequestError("after is the number of a row of this table.", param="after")
    return number


async def table_response(
    name: str,
    caller: Caller,
    view: TableView,
    rows: Iterable[Mapping[str, Any]],
    *,
    current: str = "",
    **values: Any,
) -> Response[Any]:
    """Return a table as its page, or as the file that it is to be saved as.

    Args:
        name: of the template in `router/web`, and of the file.
        caller: whose page it is.
        view: which page it is.
        rows: cells by the columns' keys.
        current: the entry of the navigation that it is under; "" for its own.
        values: what the template has besides.
    """
    if view.is_export:
        return await asyncio.to_thread(csv_response, name, view.columns, rows)
    return await rendered(
        f"{name}.html",
        caller,
        title=name.capitalize(),
        current=current or view.path,
        view=view,
        rows=list(rows),
        **values,
    )


def csv_response(
    name: str, columns: Sequence[TableColumn], rows: Iterable[Mapping[str, Any]]
) -> Response[bytes]:
    """Return rows as a file, whose name says so where MAX_EXPORTED are not all of them.

    A spreadsheet would take a text that begins with `=`, `+`, `-` or `@` for a formula, so those
    have an apostrophe in front.
    """
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow([column.key for column in columns])
    for number, row in enumerate(rows):
        if number == MAX_EXPORTED:
            name = f"{name}-first-{MAX_EXPORTED}-rows"
            break
        writer.writerow([_cell(row[column.key]) for column in columns])
    return Response(
        file.getvalue().encode(errors="replace"),
        media_type="text/csv",
        headers={
            "content-disposition": f'attachment; filename="{name}.csv"',
            "x-content-type-options": "nosniff",
            "cache-control": "private, no-cache",
        },
    )


def _cell(value: Any) -> Any:
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value
