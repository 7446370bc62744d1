"""Sealed files: opened, written and replaced, with what needs an extra imported only then."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple, ParamSpec, TypeVar

from providers.errors import MissingExtraError
from router.datasets.artifacts import Artifacts
from router.sealing.queries import Queries
from router.store.sealed_traffic import FileFacts, FileField, SealedFile, SealedTrafficStore
from router.store.traffic import TrafficFilter

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")

FOLDER = "traffic"


def require_parquet(doing: str) -> None:
    """Raise MissingExtraError where sealed files can be neither written nor read."""
    if find_spec("pyarrow") is None:
        raise MissingExtraError(doing, "parquet")


class SealedFilesEngine(NamedTuple):
    """What reads and writes files, once what it needs is imported.

    Attributes:
        artifacts: has the files.
        parquet, arrow, strips: the modules that know pyarrow.
        reader: a `FileReader` of `parquet`.
        queries: reads with DuckDB where it is installed and can, else with pyarrow.
    """

    artifacts: Artifacts
    parquet: Any
    arrow: Any
    strips: Any
    reader: Any
    queries: Queries


class SealedFiles:
    """The Parquet files of an artifact store.

    Args:
        artifacts: returns what has the files, once they are needed.
        store: has a row for each.
    """

    def __init__(self, artifacts: Callable[[], Artifacts], store: SealedTrafficStore) -> None:
        self._open = artifacts
        self._store = store
        self._engine: SealedFilesEngine | None = None
        # Two, so that a page need not wait for what adds up months.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="evalrouter-sealed")

    async def engine(self) -> SealedFilesEngine:
        """Return what reads and writes files; the first call imports it, on a thread.

        Raises:
            MissingExtraError: pyarrow is not installed.
        """
        if self._engine is None:
            self._engine = await self.on_thread(self._load)
        return self._engine

    def _load(self) -> SealedFilesEngine:
        require_parquet("Reading sealed requests")
        parquet = import_module("router.sealing.parquet_files")
        arrow = import_module("router.sealing.arrow_queries")
        strips = import_module("router.sealing.strips")
        artifacts = self._open()
        reader = parquet.FileReader(artifacts)
        queries: Queries = arrow.ArrowQueries(reader)
        if find_spec("duckdb") is not None:
            duckdb = import_module("router.sealing.duckdb_queries")
            if duckdb.is_readable(artifacts):
                queries = duckdb.DuckDbQueries(artifacts)
        return SealedFilesEngine(artifacts, parquet, arrow, strips, reader, queries)

    async def on_thread(
        self,
        function: Callable[_Args, _Result],
        *args: _Args.args,
        **kwargs: _Args.kwargs,
    ) -> _Result:
        """Call a function on a thread for files."""
        call = partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def write(
        self,
        day: float,
        fill: Callable[[Any], AsyncIterator[bytes]],
        keep: Callable[[int, FileFacts, dict[FileField, bytes]], Awaitable[_Result]],
    ) -> _Result | None:
        """Write a file and have its row stored; return what `keep` does, None for an empty one.

        Whatever happens, no file is left behind without a row.

        Args:
            day: a moment of its first request; names the folder.
            fill: adds rows to a FileWriter, and yields the bytes that come of it.
            keep: stores the row; what it returns is true where that succeeded.
        """
        name = datetime.fromtimestamp(day, UTC).strftime("%Y-%m-%d")
        key = f"{FOLDER}/{name}/{uuid.uuid4().hex}.parquet"
        number = await self._store.begin_file(key)
        stored_row = None
        try:
            engine = await self.engine()
            writer = await self.on_thread(engine.parquet.FileWriter)

            async def chunks() -> AsyncGenerator[bytes]:
                async for chunk in fill(writer):
                    yield chunk
                if writer.rows:
                    yield await self.on_thread(writer.close)

            stored = await engine.artifacts.put(key, chunks())
            if writer.rows:
                filters = await self.on_thread(writer.filters)
                stored_row = await keep(number, writer.facts(stored.size, stored.sha256), filters)
        finally:
            if not stored_row:
                await asyncio.shield(self.remove(number, key))
        return stored_row

    async def remove(self, number: int, key: str) -> None:
        """Delete a file that is not in use, then its row.

        A crash in between leaves the row, to be found. Where the row was stored after all, although
        storing it seemed to fail, nothing is deleted.
        """
        if await self._store.give_up_file(number):
            await (await self.engine()).artifacts.delete(key)
            await self._store.forget_file(number)

    async def stored(self, number: int) -> SealedFile | None:
        """Return the sealed file with a number as it is now; None where it was replaced."""
        files = await self._store.sealed_files()
        return next((file for file in files if file.number == number), None)

    async def numbers(self, file: SealedFile, above: int) -> list[int]:
        """Return the numbers of a file's requests above a number."""
        reader = (await self.engine()).reader
        numbers: list[int] = await self.on_thread(reader.numbers, file, above)
        return numbers

    async def delete(self, file: SealedFile, matching: TrafficFilter) -> bool:
        """Delete the requests that match from a file, also those that are not visible yet.

        Returns:
            Whether that was done; else another process has replaced the file meanwhile.
        """
        return await self._without(file, (await self.engine()).arrow.matches(matching, file))

    async def cut(self, file: SealedFile) -> bool:
        """Delete the requests that are not visible from a file; return whether that was done."""
        return await self._without(file, (await self.engine()).arrow.beyond(file.visible_to))

    async def _without(self, file: SealedFile, unwanted: Callable[[Any], Any]) -> bool:
        """Put a file without some of its rows in its place; drop it where none is left."""
        rows = 0
        engine = await self.engine()

        async def fill(writer: Any) -> AsyncIterator[bytes]:
            nonlocal rows
            groups = engine.reader.groups(file)
            while (table := await self.on_thread(next, groups, None)) is not None:
                yield await self.on_thread(engine.arrow.add_others, writer, table, unwanted)
            rows = writer.rows

        done = await self.write(file.earliest, fill, partial(self._store.replace_file, file))
        if not rows:
            done = await self._store.drop_file(file)
        if done:
            await self.remove(file.number, file.key)
        return bool(done)
