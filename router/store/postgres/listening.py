"""One connection that listens for what other processes announce (`NOTIFY evalrouter`).

It is all that is kept in a session, and may be missing: a pooler would give the session to others.
It takes no thread, but for connecting.
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor

import psycopg

from router.store.postgres.server import PostgresServer
from router.store.sql.changes import Changes

# After the connection was lost; meanwhile, everybody looks for changes in intervals.
AGAIN_S = 2.0


class Listener:
    """Announces changes until it is closed. Construct it on the event loop that waits for them.

    Args:
        server: the database.
        changes: those who wait.
    """

    def __init__(self, server: PostgresServer, changes: Changes) -> None:
        self._server = server
        self._changes = changes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="evalrouter-store-listen")
        self._task = asyncio.create_task(self._run(), name="evalrouter-store-listen")

    async def close(self) -> None:
        """Stop listening."""
        self._task.cancel()
        await asyncio.wait([self._task])
        await asyncio.to_thread(self._thread.shutdown)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connecting = loop.run_in_executor(self._thread, self._connect)
            try:
                connection = await asyncio.shield(connecting)
            except asyncio.CancelledError:
                connecting.add_done_callback(_close)
                raise
            if connection is not None:
                with contextlib.closing(connection):
                    # What came before this connection was not heard.
                    self._changes.announce_all()
                    await self._listen(connection)
            elif self._server.has_pooler:
                return
            await asyncio.sleep(AGAIN_S)

    def _connect(self) -> psycopg.Connection | None:
        """Return a connection that listens; None where a pooler is between, or nobody is there."""
        try:
            connection = self._server.connect()
        except psycopg.Error:
            return None
        if not self._server.has_pooler:
            with contextlib.suppress(psycopg.Error):
                connection.execute("LISTEN evalrouter")
                return connection
        connection.close()
        return None

    async def _listen(self, connection: psycopg.Connection) -> None:
        """Announce what is heard until the connection is lost."""
        loop = asyncio.get_running_loop()
        lost = asyncio.Event()

        def hear() -> None:
            try:
                connection.pgconn.consume_input()
                while notice := connection.pgconn.notifies():
                    self._changes.announce(notice.extra.decode())
            except psycopg.Error:
                lost.set()

        descriptor = connection.fileno()
        loop.add_reader(descriptor, hear)
        try:
            await lost.wait()
        finally:
            loop.remove_reader(descriptor)


def _close(connecting: asyncio.Future[psycopg.Connection | None]) -> None:
    if not connecting.cancelled() and (connection := connecting.result()) is not None:
        connection.close()
