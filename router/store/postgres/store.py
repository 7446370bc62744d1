"""The whole store in a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Callable

from providers.base import Secret
from router.store.postgres import traffic_index
from router.store.postgres.database import PostgresDatabase
from router.store.sql.store import SqlStore


class PostgresStore(SqlStore):
    """A `Store` in a PostgreSQL database.

    Args:
        address: `postgresql://user@host:port/name?sslmode=...`, without its password.
        password: the password; empty for none.
        clock: seconds since the epoch, in place of this host's clock, which stamps answers, and of
            the server's, which claims are compared with.
        room: how many writes may be on their way before the next one waits.

    Attributes:
        name: the address without names and passwords of users.
    """

    traffic_index = traffic_index

    def __init__(
        self,
        address: str,
        password: Secret = Secret(""),  # noqa: B008 - it cannot change
        *,
        clock: Callable[[], float] | None = None,
        room: int = 1024,
    ) -> None:
        database = PostgresDatabase(address, password, clock=clock, room=room)
        super().__init__(database)
        self.name = database.name
