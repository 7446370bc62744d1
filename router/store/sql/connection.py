"""What every part asks of a database's connection: statements, and what dialects write differently.

Statements are written once: parameters are `?` or `:name`, truth values are the integers 0 and 1, a
column to be set is named with its table where `excluded` has it too, and `CROSS JOIN ... ON` fixes
the order of a join where a database lets us.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol, TypeVar

_Result = TypeVar("_Result")

Values = Sequence[Any] | dict[str, Any]

# An operation in steps: it yields before it looks at what its statements have returned. So a
# database can be sent the statements of many operations at once.
Steps = Generator[None, None, _Result]


class Rows(Protocol):
    """What a statement returned: rows are tuples."""

    @property
    def rowcount(self) -> int:
        """How many rows were inserted, changed or deleted."""
        ...

    def fetchone(self) -> Any:
        """Return the next row; None behind the last."""
        ...

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """A connection inside a transaction.

    Attributes:
        for_update, for_share: what a SELECT of rows of `runs` ends with, to keep other processes
            from changing them until the transaction ends; `for_update` also from doing the same.
        insertion_order: the column of `datasets` that grows with every row.
        duplicate: what is raised where a row's key is taken.
    """

    for_update: ClassVar[str]
    for_share: ClassVar[str]
    insertion_order: ClassVar[str]
    duplicate: ClassVar[type[Exception]]

    def execute(self, sql: str, values: Values = (), /) -> Rows:
        """Execute a statement."""
        ...

    def executemany(self, sql: str, rows: Sequence[Values], /) -> None:
        """Execute a statement for each of the rows of values."""
        ...

    def insert_rows(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], /
    ) -> None:
        """Insert rows, in as few statements as is quickest."""
        ...

    def now(self) -> float:
        """Return the time that claims are compared with, in seconds since the epoch.

        Where several hosts share a database it is the database's, because their clocks differ.
        """
        ...

    def new_numbers(self, table: str, count: int) -> Sequence[int]:
        """Return numbers for new rows of `table`, ascending and greater than those given before."""
        ...

    def is_text(self, column: str) -> str:
        """Return the condition that a column of texts of any length, with an index, is a `?`."""
        ...

    def any_of(self, column: str, values: str = "?", *, long: bool = False) -> str:
        """Return the condition that `column` is one of `values`, a parameter `array(...)`.

        `long` is for columns of texts of any length, with an index.
        """
        ...

    def array(self, values: Sequence[str] | Sequence[int]) -> Any:
        """Return the parameter for `any_of`."""
        ...

    def contains(self, column: str, value: str) -> str:
        """Return the condition that a column's JSON array contains a string.

        A column that is not JSON contains nothing. `value` is a parameter whose value is the JSON
        text of the string.
        """
        ...

    def field(self, column: str, name: str) -> str:
        """Return the expression for the JSON text of a field of a column's JSON object.

        It is NULL or `null` where the object does not have the field.
        """
        ...

    def floor(self, expression: str) -> str:
        """Return the expression for the greatest whole number up to one that is not negative."""
        ...

    def lenient_text(self) -> AbstractContextManager[None]:
        """Read text that is not Unicode as far as it is, where the database may have such."""
        ...


def in_one_go(steps: Steps[_Result]) -> _Result:
    """Execute the steps of one operation, and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _Result = end.value
            return result


def upsert(table: str, columns: Sequence[str], key: Sequence[str]) -> str:
    """Return the statement that inserts a row, or replaces the one that has its key."""
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
    return f"{insert(table, columns)} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"


def add_up(table: str, columns: Sequence[str], key: Sequence[str]) -> str:
    """Return the statement that inserts a row, or adds its numbers to the one that has its key."""
    sums = ", ".join(
        f"{name} = {table}.{name} + excluded.{name}" for name in columns if name not in key
    )
    return f"{insert(table, columns)} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sums}"


def insert(table: str, columns: Sequence[str]) -> str:
    """Return the statement that inserts a row."""
    places = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"
