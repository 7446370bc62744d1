"""Which database the config names: SQLite or PostgreSQL."""

from __future__ import annotations

from providers.errors import MissingExtraError
from router.config.storage import Storage
from router.store.protocol import Store
from router.store.sqlite import SqliteStore


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
        raise MissingExtraError("storage.database: a PostgreSQL database", "postgres") from None
    return PostgresStore(storage.database, storage.password)
