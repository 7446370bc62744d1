"""What is known of a PostgreSQL database without opening it as a store: nothing is migrated."""

from __future__ import annotations

import contextlib

import psycopg

from providers.base import Secret
from router.store.postgres.migrations import applied_steps, missing_steps
from router.store.postgres.server import PostgresServer
from router.store.readiness import DatabaseState


def examine(address: str, password: Secret) -> DatabaseState:
    """Return what the database's schema lacks, and its server's time. Connects once.

    Raises:
        ConfigError: the address cannot be read.
        StoreError: it cannot be reached or used, and why.
    """
    server = PostgresServer(address, password)
    try:
        with contextlib.closing(server.connect()) as connection:
            missing = missing_steps(applied_steps(connection))
            [clock] = connection.execute(
                "SELECT CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)"
            ).fetchone() or [None]
    except psycopg.Error as error:
        raise server.refusal("connect", error) from error
    return DatabaseState(exists=True, missing_steps=missing, clock=clock)
