"""A connection to PostgreSQL as the parts of the store use it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import psycopg

from router.store.postgres.text import CSV_OPTIONS, csv_lines
from router.store.sql.connection import Connection, Rows, Values

_PARAMETER = re.compile(r"\?|(?<![:\w]):([a-z_]+)|%|CROSS JOIN")


class PostgresConnection(Connection):
    """A `Connection` to PostgreSQL.

    Args:
        connection: the connection itself, in autocommit mode.
        clock: what to use in place of the server's clock; None for the server's.
    """

    for_update: ClassVar[str] = " FOR UPDATE"
    for_share: ClassVar[str] = " FOR SHARE OF runs"
    insertion_order: ClassVar[str] = "number"
    duplicate: ClassVar[type[Exception]] = psycopg.errors.UniqueViolation

    __slots__ = ("_clock", "_connection")

    def __init__(
        self, connection: psycopg.Connection, clock: Callable[[], float] | None = None
    ) -> None:
        self._connection = connection
        self._clock = clock

    def execute(self, sql: str, values: Values = (), /) -> Rows:
        return self._connection.execute(_translated(sql), values or None, binary=True)

    def executemany(self, sql: str, rows: Sequence[Values], /) -> None:
        # In pipeline mode: it does not wait for each row.
        self._connection.cursor().executemany(_translated(sql), rows)

    def insert_rows(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], /
    ) -> None:
        if not rows:
            return
        statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
        lines = csv_lines(rows)
        if lines is not None:
            with self._connection.cursor().copy(statement + CSV_OPTIONS) as copy:
                copy.write(lines)
            return
        with self._connection.cursor().copy(statement) as copy:
            for row in rows:
                copy.write_row(row)

    def now(self) -> float:
        if self._clock is not None:
            return self._clock()
        now: float = self.execute(
            "SELECT CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)"
        ).fetchone()[0]
        return now

    def new_numbers(self, table: str, count: int) -> Sequence[int]:
        # One value for all: rows of a result cost more than the numbers in them.
        numbers: list[int] | None = self.execute(
            f"SELECT array_agg(nextval('{table}_number_seq')) FROM generate_series(1, ?)", (count,)
        ).fetchone()[0]
        return numbers or ()

    def is_text(self, column: str) -> str:
        return f"text_hash({column}) = text_hash(?)"

    def any_of(self, column: str, values: str = "?", *, long: bool = False) -> str:
        if long:
            hashes = f"SELECT text_hash(item) FROM unnest(CAST({values} AS text[])) AS item"
            return f"text_hash({column}) = ANY({hashes})"
        return f"{column} = ANY({values})"

    def array(self, values: Sequence[str] | Sequence[int]) -> Any:
        return list(values)

    def contains(self, column: str, value: str) -> str:
        return f"json_contains({column}, {value})"

    def floor(self, expression: str) -> str:
        return f"floor({expression})"

    def field(self, column: str, name: str) -> str:
        return f"json_field({column}, '{name}')"

    def lenient_text(self) -> contextlib.nullcontext[None]:
        # Text that is not UTF-8 cannot get in.
        return contextlib.nullcontext()


@lru_cache(512)
def _translated(sql: str) -> str:
    """Return a statement with psycopg's parameters; its planner orders joins by itself."""

    def replacement(parameter: re.Match[str]) -> str:
        match parameter[0]:
            case "?":
                return "%s"
            case "%":
                return "%%"
            case "CROSS JOIN":
                return "JOIN"
        return f"%({parameter[1]})s"

    return _PARAMETER.sub(replacement, sql)
