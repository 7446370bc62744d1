"""A run's rows as files: `/eval/{id}/rows.KIND`, and `/eval/{id}/export` in the artifact store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from litestar import Request, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Stream

from providers.errors import NotFoundError, RateLimitError, RunDocumentError
from router.api.bodies import check_no_options
from router.api.file_responses import file_response
from router.api.injection import Injected
from router.evals.export import EXPORT_FILES, Manifest, export_run, read_manifest, rows_of
from router.evals.tables import Format
from router.services import Services

MEDIA_TYPES: dict[str, str] = {
    # Litestar names the encoding of texts.
    "csv": "text/csv",
    "json": "application/json",
    "jsonl": "application/octet-stream",
    "parquet": "application/vnd.apache.parquet",
}
# Of tables that are written to disk before they are sent: downloads of one process, and how many of
# them are being written.
MAX_DOWNLOADS, MAX_WRITING = 16, 2
# A download whose client has taken nothing for so long ends when another one needs its place.
STALLED_S = 60.0


class _Download:
    """A download that is under way: who sends it, and since when its client has taken nothing."""

    def __init__(self, now: float) -> None:
        self.task = asyncio.current_task()
        self.waits_since = now
        self.is_written = False


class Downloads:
    """Bounds what downloads of tables take of the disk and of the processors.

    Args:
        clock: seconds, from any moment on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._under_way: list[_Download] = []
        self._writing = asyncio.Semaphore(MAX_WRITING)
        self._clock = clock

    async def bounded(self, chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        """Yield the chunks, the first of which comes once a file is written.

        Raises:
            RateLimitError: as many are under way as may be.
        """
        if len(self._under_way) >= MAX_DOWNLOADS and not self._end_stalled():
            raise RateLimitError(
                f"{MAX_DOWNLOADS} downloads of tables are under way already.", retry_after=10.0
            )
        download = _Download(self._clock())
        self._under_way.append(download)
        try:
            async with aclosing(chunks):
                async with self._writing:
                    chunk = await anext(chunks, b"")
                download.is_written = True
                while True:
                    download.waits_since = self._clock()
                    yield chunk
                    # It may be another task that sends than the one that waited for the file.
                    download.task = asyncio.current_task()
                    try:
                        chunk = await anext(chunks)
                    except StopAsyncIteration:
                        return
        finally:
            if download in self._under_way:
                self._under_way.remove(download)

    def _end_stalled(self) -> bool:
        """End the download that has waited longest for its client, if that is too long."""
        waiting = [download for download in self._under_way if download.is_written]
        if not waiting:
            return False
        longest = min(waiting, key=lambda download: download.waits_since)
        if self._clock() - longest.waits_since < STALLED_S:
            return False
        self._under_way.remove(longest)
        if longest.task is not None:
            longest.task.cancel()
        return True


InjectedDownloads = NamedDependency[Downloads]


@get("/eval/{run_id:str}/rows.csv", tags=["eval"], summary="Download a run's rows as CSV")
async def rows_as_csv(
    services: Injected, downloads: InjectedDownloads, run_id: FromPath[str]
) -> Stream:
    """Send a row for each cell: the sample, the answer, its scores, feedback and labels.

    The columns are those of an export, and the rows those that are there by now. Texts are as they
    are: a spreadsheet may take one that begins with `=`, `+`, `-` or `@` for a formula.
    """
    return await _rows(services, downloads, run_id, "csv")


@get("/eval/{run_id:str}/rows.jsonl", tags=["eval"], summary="Download a run's rows as JSON lines")
async def rows_as_jsonl(
    services: Injected, downloads: InjectedDownloads, run_id: FromPath[str]
) -> Stream:
    """Send a line for each cell, with all that is stored of it, as the rows are read."""
    return await _rows(services, downloads, run_id, "jsonl")


@get("/eval/{run_id:str}/rows.parquet", tags=["eval"], summary="Download a run's rows as parquet")
async def rows_as_parquet(
    services: Injected, downloads: InjectedDownloads, run_id: FromPath[str]
) -> Stream:
    """Send the table of `rows.csv` as parquet, which needs the extra of that name."""
    return await _rows(services, downloads, run_id, "parquet")


async def _rows(services: Services, downloads: Downloads, run_id: str, kind: Format) -> Stream:
    run = await services.runs.find(run_id)
    chunks = rows_of(services.store, run, kind)
    if kind != "jsonl":
        chunks = downloads.bounded(chunks)
    return await _download(chunks, f"{run.id}.{kind}")


async def _download(chunks: AsyncGenerator[bytes], filename: str) -> Stream:
    return await file_response(
        chunks,
        filename,
        {"x-content-type-options": "nosniff"},
        MEDIA_TYPES[filename.rpartition(".")[2]],
    )


@post("/eval/{run_id:str}/export", tags=["eval"], summary="Export a run", status_code=200)
async def export(
    services: Injected, request: Request[Any, Any, Any], run_id: FromPath[str]
) -> Manifest:
    """Write the run's rows and judgements, with a manifest, below `runs/{id}` there.

    They are written as JSON lines, CSV and parquet. `GET` on this path has the manifest again,
    and its files are below it.

    The body may be empty, or `{}`.
    """
    await check_no_options(request, error=RunDocumentError)
    run = await services.runs.find(run_id)
    return await export_run(services.store, run, services.datasets.artifacts, f"runs/{run.id}")


@get("/eval/{run_id:str}/export", tags=["eval"], summary="Show a run's last export")
async def show_export(services: Injected, run_id: FromPath[str]) -> Manifest:
    """Show the manifest of the last export into the artifact store: its files and their hashes."""
    run = await services.runs.find(run_id)
    try:
        return await read_manifest(services.datasets.artifacts, f"runs/{run.id}")
    except NotFoundError:
        raise NotFoundError(
            f"{run.id} was not exported yet. POST /eval/{run.id}/export does it."
        ) from None


@get("/eval/{run_id:str}/export/{name:str}", tags=["eval"], summary="Download an exported file")
async def download_export(services: Injected, run_id: FromPath[str], name: FromPath[str]) -> Stream:
    """Send a file of the last export by its name in the manifest, such as `rows.parquet`."""
    run = await services.runs.find(run_id)
    if name not in EXPORT_FILES:
        known = ", ".join(EXPORT_FILES)
        raise NotFoundError(f"An export has no file {name!r}. It may have {known}.")
    chunks = services.datasets.artifacts.get(f"runs/{run.id}/{name}")
    return await _download(chunks, f"{run.id}.{name}")
