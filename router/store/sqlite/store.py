"""The whole store in one SQLite file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from router.store.sql.store import SqlStore
from router.store.sqlite import traffic_index
from router.store.sqlite.database import SqliteDatabase


class SqliteStore(SqlStore):
    """A `Store` in one file.

    Args:
        path: the file; its folder must exist.
        create: whether it is made when it is not there.
        clock: seconds since the epoch; stamps answers, and claims are compared with it.
        room: how many writes may be on their way before the next one waits.

    Attributes:
        path: the file.
    """

    traffic_index = traffic_index

    def __init__(
        self,
        path: Path,
        *,
        create: bool = True,
        clock: Callable[[], float] = time.time,
        room: int = 1024,
    ) -> None:
        super().__init__(SqliteDatabase(path, create=create, clock=clock, room=room))
        self.path = path
