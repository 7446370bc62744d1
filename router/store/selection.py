"""Which database the config names, SQLite or PostgreSQL, and in which state it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from providers.errors import MissingExtraError
from router.config.storage import Storage
from router.store.protocol import Store
from router.store.readiness import DatabaseState
from router.store.sqlite import SqliteStore
from router.store.sqlite.examination import examine as examine_sqlite


def store_of(storage: Storage, *, create: bool = True) -> Store:
    """Return the store that the config names, not open yet.

    Args:
        storage: the section of the config.
        create: whether a SQLite file is made when it is not there.

    Raises:
        ConfigError: the address of a PostgreSQL database cannot be read.
        MissingExtraError: its driver is not installed.
    """
    if not storage.is_postgres:
        return SqliteStore(storage.sqlite_path(), create=create)
    try:
        # Only where it is used, because the driver is an extra.
        from router.store.postgres import PostgresStore  # noqa: PLC0415
    except ImportError:
        raise _without_driver() from None
    return PostgresStore(storage.database, storage.password)


@asynccontextmanager
async def open_store(storage: Storage, *, create: bool = True) -> AsyncIterator[Store]:
    """Open the store that the config names for as long as the block lasts; see `store_of`."""
    store = store_of(storage, create=create)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def examine(storage: Storage) -> DatabaseState:
    """Return the state of the database that the config names; nothing is created or migrated.

    Raises:
        ConfigError: the address of a PostgreSQL database cannot be read.
        MissingExtraError: its driver is not installed.
        StoreError: it cannot be used, and why.
    """
    if not storage.is_postgres:
        return examine_sqlite(storage.sqlite_path())
    try:
        # As above.
        from router.store.postgres.examination import examine as examine_postgres  # noqa: PLC0415
    except ImportError:
        raise _without_driver() from None
    return examine_postgres(storage.database, storage.password)


def _without_driver() -> MissingExtraError:
    return MissingExtraError("storage.database: a PostgreSQL database", "postgres")
