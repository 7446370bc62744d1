"""A connection to a SQLite file as the parts of the store use it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, ClassVar

import msgspec
from sqlite_utils import Database

from router.store.sql.connection import Connection, Rows, Values, insert

_ROWS_AT_ONCE = 64


class SqliteConnection(Connection):
    """A `Connection` to a SQLite file.

    Args:
        db: the connection itself.
        clock: seconds since the epoch; one machine has one clock.
    """

    # One process at a time writes to the file, from the first statement of its transaction on.
    for_update: ClassVar[str] = ""
    for_share: ClassVar[str] = ""
    insertion_order: ClassVar[str] = "rowid"
    duplicate: ClassVar[type[Exception]] = sqlite3.IntegrityError

    __slots__ = ("_clock", "_db")

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        self._db = db
        self._clock = clock

    def execute(self, sql: str, values: Values = (), /) -> Rows:
        return self._db.execute(sql, values)

    def executemany(self, sql: str, rows: Sequence[Values], /) -> None:
        self._db.conn.executemany(sql, rows)

    def insert_rows(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], /
    ) -> None:
        # sqlite3 lets go of the interpreter in every step of a statement, and `executemany` takes a
        # step for each row: the writing thread would wait for the event loop, and interrupt it, as
        # often.
        places = f"({', '.join('?' * len(columns))})"
        done = 0
        while done < len(rows):
            # Powers of two, because each number of rows is a statement of its own to prepare.
            count = min(_ROWS_AT_ONCE, 1 << (len(rows) - done).bit_length() - 1)
            values = tuple(chain.from_iterable(rows[done : done + count]))
            self._db.conn.execute(insert(table, columns) + f", {places}" * (count - 1), values)
            done += count

    def now(self) -> float:
        return self._clock()

    def new_numbers(self, table: str, count: int) -> Sequence[int]:
        # The greatest in the table may have been deleted.
        [(last,)] = self._db.execute(
            "INSERT INTO last_numbers (name, number)"
            f" VALUES (:name, coalesce((SELECT max(number) FROM {table}), 0) + :count)"
            " ON CONFLICT (name) DO UPDATE SET number = max(excluded.number, number + :count)"
            " RETURNING number",
            {"name": table, "count": count},
        ).fetchall()
        return range(last + 1 - count, last + 1)

    def is_text(self, column: str) -> str:
        return f"{column} = ?"

    def any_of(self, column: str, values: str = "?", *, long: bool = False) -> str:
        return f"{column} IN (SELECT value FROM json_each({values}))"

    def array(self, values: Sequence[str] | Sequence[int]) -> Any:
        return msgspec.json.encode(values).decode()

    def contains(self, column: str, value: str) -> str:
        # json_each() would give up the whole query where a single row is not JSON.
        array = f"CASE WHEN json_valid({column}) THEN {column} ELSE '[]' END"
        return (
            f"EXISTS (SELECT 1 FROM json_each({array})"
            f" WHERE json_each.value = json_extract({value}, '$'))"
        )

    def floor(self, expression: str) -> str:
        return f"CAST({expression} AS INTEGER)"

    def field(self, column: str, name: str) -> str:
        # Of two paths it makes the text of an array, "[FIELD,null]"; of one, a value that the
        # functions for JSON read up to its first NUL.
        array = f"json_extract({column}, '$.{name}', '$[0]')"
        return f"substr({array}, 2, length({array}) - 7)"

    @contextlib.contextmanager
    def lenient_text(self) -> Iterator[None]:
        """Read text that is not UTF-8 as far as it is: sqlite3 would give up the whole query."""
        self._db.conn.text_factory = _lenient
        try:
            yield
        finally:
            self._db.conn.text_factory = str


def _lenient(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")
