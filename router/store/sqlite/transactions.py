"""The transactions of a SQLite file's writer.

While another process keeps the database locked, a transaction is tried again for up to `BUSY_S`, or
until the moment that `end_within` sets; later ones are refused at once while the lock lasts.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlite_utils import Database

from providers.errors import EvalrouterError
from router.store.sql.connection import Connection, Steps, in_one_go
from router.store.sql.writer import Transactions
from router.store.sqlite.connection import SqliteConnection
from router.store.sqlite.file import BUSY_S, DatabaseFile


class SqliteTransactions(Transactions):
    """Transactions on the connection of a file's `open_for_writing`.

    Args:
        db: the connection.
        file: says whether `db` is still the database at its path.
        clock: seconds since the epoch.
    """

    def __init__(self, db: Database, file: DatabaseFile, clock: Callable[[], float]) -> None:
        self._db = db
        self._file = file
        self._clock = clock
        # When another process began to keep the database locked; 0 while none does.
        self._locked_at = 0.0
        self._give_up_at = math.inf

    @property
    def is_locked_out(self) -> bool:
        """Whether another process kept the thread from writing when it last tried."""
        return self._locked_at > 0

    def end_within(self, seconds: float) -> None:
        """Stop waiting for a locked database so long from now: each write tries once after that."""
        self._give_up_at = time.monotonic() + seconds

    def begin(self) -> Connection:
        self._db = self._file.current(self._db)
        self._lock()
        return SqliteConnection(self._db, self._clock)

    def _lock(self) -> None:
        """Begin, and wait up to `BUSY_S` in all for a lock; later transactions try once."""
        while True:
            try:
                self._db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                now = time.monotonic()
                self._locked_at = self._locked_at or now
                if now >= min(self._locked_at + BUSY_S, self._give_up_at):
                    raise
            else:
                self._locked_at = 0.0
                return

    def in_step(self, operations: Sequence[Steps[Any]]) -> list[Any]:
        # A statement has returned before the next one can be executed.
        return [in_one_go(operation) for operation in operations]

    def commit(self) -> None:
        self._db.execute("COMMIT")
        self._file.bound_log(self._db)

    def rollback(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._db.rollback()

    def is_lost(self, error: Exception) -> bool:
        return not self._db.conn.in_transaction

    def is_passing(self, _: Exception) -> bool:
        # A lock is waited for as the transaction begins.
        return False

    def refusal(self, doing: str, error: Exception) -> EvalrouterError:
        return self._file.refusal(doing, error)

    def close(self) -> None:
        self._db.close()
