"""The transactions of a PostgreSQL database's writer.

Each begins with its number. Where the connection is lost while it commits, the server is asked by
that number whether it did: a write is neither lost nor done twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from providers.errors import EvalrouterError
from router.store.postgres.connection import PostgresConnection
from router.store.postgres.server import PostgresServer, is_away, is_conflict
from router.store.sql.connection import Connection, Steps
from router.store.sql.writer import Transactions

# A process that is stopped in a transaction, or whose host has vanished, keeps its rows locked for
# so long, and nobody can take over its runs. Less than a claim lasts.
IDLE_S = 10

# In one message: a transaction takes one round trip less.
_BEGIN = (
    "BEGIN ISOLATION LEVEL READ COMMITTED;"
    " SELECT pg_current_xact_id()::text, current_setting('transaction_read_only'),"
    f" set_config('idle_in_transaction_session_timeout', '{IDLE_S}s', true)"
)


class PostgresTransactions(Transactions):
    """Transactions on one connection, which is made again where it was lost.

    Args:
        server: the database.
        clock: what to use in place of the server's clock; None for the server's.
    """

    def __init__(self, server: PostgresServer, clock: Callable[[], float] | None) -> None:
        self._server = server
        self._clock = clock
        self._connection: psycopg.Connection | None = None
        self._number = ""

    def begin(self) -> Connection:
        return self._server.patiently(self._begin)

    def _begin(self) -> Connection:
        connection = self._connection
        if connection is not None:
            try:
                return self._begin_on(connection)
            except psycopg.Error as error:
                self.close()
                # It may have been idle for long, and a pooler or the server have ended it.
                if not is_away(error):
                    raise
        return self._begin_on(self._connected())

    def _begin_on(self, connection: psycopg.Connection) -> Connection:
        try:
            results = connection.execute(_BEGIN, prepare=False)
            results.nextset()
            self._number, read_only, _ = results.fetchone() or ("", "on", "")
            if read_only == "on":
                raise psycopg.errors.ReadOnlySqlTransaction("transactions are read-only")
        except psycopg.Error:
            self.close()
            raise
        return PostgresConnection(connection, self._clock)

    def _connected(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self._server.connect()
        return self._connection

    def in_step(self, operations: Sequence[Steps[Any]]) -> list[Any]:
        connection = self._connected()
        results: list[Any] = [None] * len(operations)
        going = list(enumerate(operations))
        # One round trip for a step of all of them, not for each.
        with connection.pipeline() as pipeline:
            while going:
                left = []
                for number, operation in going:
                    try:
                        next(operation)
                        left.append((number, operation))
                    except StopIteration as end:
                        results[number] = end.value
                pipeline.sync()
                going = left
        return results

    def commit(self) -> None:
        try:
            if self._connection is None:
                raise psycopg.OperationalError("the connection is lost")
            committed = self._connection.execute("COMMIT", prepare=False).statusmessage
            if committed != "COMMIT":
                raise psycopg.errors.InFailedSqlTransaction("the transaction has failed")
        except psycopg.Error as error:
            if not is_away(error):
                raise
            self.close()
            if not self._server.patiently(self._has_committed):
                raise

    def _has_committed(self) -> bool:
        """Return whether the last transaction is in the database; waits while it is under way."""
        try:
            row = (
                self._connected()
                .execute("SELECT pg_xact_status(%s::xid8)", (self._number,))
                .fetchone()
            )
        except psycopg.DataError:
            # A server that never got so far: a replica that has taken over.
            return False
        except psycopg.Error:
            self.close()
            raise
        if row == ("in progress",):
            raise psycopg.OperationalError("the server has not noticed yet")
        return row == ("committed",)

    def rollback(self) -> None:
        if self._connection is None:
            return
        if self.is_lost():
            self.close()
            return
        with contextlib.suppress(psycopg.Error):
            self._connection.execute("ROLLBACK", prepare=False)

    def is_lost(self, error: Exception | None = None) -> bool:
        connection = self._connection
        if error is not None and is_conflict(error):
            return True
        return connection is None or connection.info.transaction_status in {
            TransactionStatus.IDLE,
            TransactionStatus.UNKNOWN,
        }

    def is_passing(self, error: Exception) -> bool:
        return is_away(error) or is_conflict(error)

    def refusal(self, doing: str, error: Exception) -> EvalrouterError:
        return self._server.refusal(doing, error)

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
        self._connection = None
