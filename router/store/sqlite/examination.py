"""What is known of a SQLite file without opening it as a store: nothing is created or migrated."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from providers.errors import StoreError
from router.store.readiness import DatabaseState
from router.store.sqlite.file import CHECK_BUSY_S, DatabaseFile, connect
from router.store.sqlite.migrations import applied_steps, missing_steps


def examine(path: Path) -> DatabaseState:
    """Return whether the file is there and what its schema lacks.

    Raises:
        StoreError: it cannot be used, and why.
    """
    place = path.absolute()
    if not os.path.lexists(place):
        folder = place.parent
        if not folder.is_dir():
            raise StoreError(f"{path}: its folder {folder} does not exist")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StoreError(f"{path}: its folder {folder} cannot be written to")
        return DatabaseState(exists=False, missing_steps=[])
    if place.is_dir():
        raise StoreError(f"{path} is a folder, not a file")
    try:
        with contextlib.closing(connect(place, "rw", CHECK_BUSY_S)) as db:
            # Fails while another process keeps it locked, or where it cannot be written to.
            db.execute("BEGIN IMMEDIATE")
            db.rollback()
            applied = applied_steps(db)
            tables = db.table_names()
    except (sqlite3.Error, UnicodeError) as error:
        raise DatabaseFile(path).refusal("use", error) from error
    if tables and not applied:
        raise StoreError(f"{path} is the database of another program")
    return DatabaseState(exists=True, missing_steps=missing_steps(applied))


def latest_runs(path: Path, prefix: str, limit: int = 50) -> list[tuple[str, str, str]]:
    """Return id, name and state of the newest runs whose ids begin so; only reads.

    Raises:
        sqlite3.Error: the file is not there, or is no database of this version.
    """
    with contextlib.closing(connect(path.absolute(), "ro", CHECK_BUSY_S)) as db:
        return list(
            db.execute(
                "SELECT id, name, state FROM runs WHERE hidden_since IS NULL"
                " AND substr(id, 1, length(?1)) = ?1 ORDER BY id DESC LIMIT ?2",
                (prefix, limit),
            )
        )
