"""Checks of the database and of the place for artifacts; nothing in them is changed."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

from router.cli.doctor.findings import Finding
from router.config.storage import Storage
from router.datasets.artifacts import Artifacts, open_artifacts
from router.store.selection import examine


class Database:
    """The database that the config names.

    Attributes:
        clock_offset_s: how far its server's clock is ahead of ours; None where it has no server, or
            has not been checked.
    """

    def __init__(self, storage: Storage) -> None:
        self.clock_offset_s: float | None = None
        self._storage = storage

    def check(self) -> Iterator[Finding]:
        """Yield its state. Raises what `examine` does."""
        began = time.monotonic()
        state = examine(self._storage)
        took_ms = (time.monotonic() - began) * 1000
        where = self._storage.database
        if state.clock is not None:
            self.clock_offset_s = state.clock - time.time()
            where = f"{where}, in {took_ms:.0f} ms"
        if not state.exists:
            yield Finding("database", "ok", f"{where} is made when it is first used")
        elif state.missing_steps:
            message = (
                f"{where}: the next start brings it up to date ({len(state.missing_steps)} steps)"
            )
            yield Finding("database", "note", message, "make a backup before, if it matters")
        else:
            yield Finding("database", "ok", where)


def artifacts(storage: Storage) -> Iterator[Finding]:
    """Yield whether files can be stored. Raises what `open_artifacts` does, and ArtifactError."""
    place = storage.artifacts
    store = open_artifacts(place, storage.s3)
    if place.startswith("s3://"):
        asyncio.run(_first(store))
        yield Finding("artifacts", "ok", f"{store.root} can be read")
        return
    folder = Path(place)
    if not os.path.lexists(folder):
        existing = next(path for path in folder.absolute().parents if path.exists())
        if not os.access(existing, os.W_OK | os.X_OK):
            message = f"{folder} cannot be made: {existing} cannot be written to"
            yield Finding("artifacts", "failure", message, "correct storage.artifacts")
            return
        yield Finding("artifacts", "ok", f"{folder} is made when it is first used")
    elif not folder.is_dir():
        yield Finding("artifacts", "failure", f"{folder} is no folder", "correct storage.artifacts")
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield Finding("artifacts", "failure", f"{folder} cannot be written to", "change its rights")
    else:
        yield Finding("artifacts", "ok", str(folder))


async def _first(store: Artifacts) -> None:
    async with aclosing(store.list()) as listed:
        async for _ in listed:
            break
