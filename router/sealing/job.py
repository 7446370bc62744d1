"""Seals old requests: the background job of one server for all of them.

    sealing = Sealing(store, files, recorded, days=7, outdated=traffic.outdated)
    await sealing.open()      # every ten minutes, where no other process does it
    await sealing.close()

    await sealing.run_once()  # or once

A day's requests, counted in UTC, go into files of their own when all of the day is old enough.
A request that is stored later than that goes into another file of its day. Each step is a short
transaction, with pauses in which others can write.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import msgspec

from providers.errors import ArtifactError, NotFoundError
from router.rounds import Rounds
from router.sealing.files import SealedFiles, require_parquet
from router.sealing.traffic import RecordedTraffic
from router.store.leases import Lease, LeaseStore
from router.store.sealed_traffic import LiveRequest, SealedFile, SealedTrafficStore, UnusedFile
from router.store.traffic import TrafficFilter

log = logging.getLogger("evalrouter")

DAY_S = 86400.0
EVERY_S = 600.0
LEASE = "seal traffic"
LEASE_S = 60.0
FILE_ROWS = 131_072
FILE_BODY_BYTES = 256 * 2**20
SLICE_ROWS = 512
SLICE_BODY_BYTES = 2**21
PAUSE = 4.0  # times as long as a step took, before the next one
ABANDONED_S = 3600.0  # a file that has been written for so long is given up


class SealingResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one round did.

    Attributes:
        files, requests, size: the files that were sealed, their requests, and their bytes.
        deleted: requests that were deleted from files because of their age.
    """

    files: int
    requests: int
    size: int
    deleted: int


class _Store(SealedTrafficStore, LeaseStore, Protocol):
    """What is needed of a store."""


class _LeaseLostError(Exception):
    """Another process does the work now."""


class Sealing:
    """Moves old requests into files, and old requests out of files.

    Args:
        store: has the live requests, and a row for each file.
        files: has the files.
        recorded: deletes from files.
        owner: a name for this part of the process, which no other has.
        days: how many days a request stays live; 0 seals nothing, and only looks after files.
        outdated: yields which requests are too old to be stored at all.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        store: _Store,
        files: SealedFiles,
        recorded: RecordedTraffic,
        *,
        owner: str,
        days: float,
        outdated: Callable[[], Iterable[TrafficFilter]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._files = files
        self._recorded = recorded
        self._lease = Lease(store, LEASE, owner, LEASE_S)
        self._days = days
        self._outdated = outdated
        self._clock = clock
        self._renew_at = 0.0
        self._rounds = Rounds(
            self.run_once,
            every=EVERY_S,
            name="evalrouter-seal",
            failing="old requests could not be sealed",
        )

    async def open(self) -> None:
        """Begin; what is needed is imported now, because that takes tenths of a second."""
        if self._days:
            require_parquet("storage.seal_after_days")
            await self._files.engine()
        self._rounds.open()

    async def close(self) -> None:
        """Stop; what is half done is taken up by the next process."""
        await self._rounds.close()

    async def run_once(self) -> SealingResult | None:
        """Seal what is old enough, and delete what is too old; None where another process does.

        Raises:
            StoreError: what was sealed until then stays so.
            ArtifactError: likewise; a file that cannot be read has not kept others from their turn.
        """
        async with self._lease.held() as is_held:
            return await self._round() if is_held else None

    async def _round(self) -> SealingResult:
        self._renewed()
        files = requests = size = deleted = 0
        failures: list[str] = []
        try:
            for unused in await self._store.unused_files(ABANDONED_S):
                async with self._turn_of(unused, failures):
                    await self._files.remove(unused.number, unused.key)
            for file in await self._store.sealed_files():
                if not file.is_visible:
                    async with self._turn_of(file, failures):
                        await self._empty(file, await self._files.numbers(file, file.visible_to))
            if self._days:
                async for file in self._seal_days():
                    files += 1
                    requests += file.requests
                    size += file.size
            deleted = await self._delete_outdated(failures)
        except _LeaseLostError:
            log.info("another process goes on sealing requests")
        if failures:
            more = f" (and {len(failures) - 1} more errors)" if len(failures) > 1 else ""
            raise ArtifactError(f"{failures[0]}{more}")
        return SealingResult(files=files, requests=requests, size=size, deleted=deleted)

    @asynccontextmanager
    async def _turn_of(
        self, file: SealedFile | UnusedFile, failures: list[str]
    ) -> AsyncGenerator[None]:
        """Note what is wrong with a file, so that the others get their turn."""
        try:
            yield
        except NotFoundError as error:
            # Another process may have replaced it.
            if await self._files.stored(file.number) is not None:
                failures.append(error.message)
        except ArtifactError as error:
            failures.append(error.message)

    def _renewed(self) -> None:
        self._renew_at = asyncio.get_running_loop().time() + LEASE_S / 4

    async def _renew(self) -> None:
        if asyncio.get_running_loop().time() >= self._renew_at:
            if not await self._lease.claim():
                raise _LeaseLostError
            self._renewed()

    # sealing

    async def _seal_days(self) -> AsyncIterator[SealedFile]:
        end = _day(self._clock() - self._days * DAY_S)
        since = float("-inf")
        # What cannot be sealed is left behind, so each day is looked at once.
        while (oldest := await self._store.oldest_traffic(since, end)) is not None:
            day = _day(oldest)
            async for file in self._seal_day(max(day, since), day + DAY_S):
                yield file
            since = day + DAY_S

    async def _seal_day(self, since: float, until: float) -> AsyncIterator[SealedFile]:
        after = -1
        while requests := await self._store.traffic_to_seal(
            since, until, after=after, limit=FILE_ROWS
        ):
            chosen = next(_cut(requests, len(requests), FILE_BODY_BYTES))
            after = chosen[-1].number
            file = await self._write(chosen, since)
            if file is not None:
                yield file

    async def _write(self, requests: Sequence[LiveRequest], since: float) -> SealedFile | None:
        numbers: list[int] = []

        async def fill(writer: Any) -> AsyncIterator[bytes]:
            for some in _cut(requests, SLICE_ROWS, SLICE_BODY_BYTES):
                await self._renew()
                rows = await self._store.traffic_columns([request.number for request in some])
                written, data = await self._files.on_thread(_add, writer, rows)
                numbers.extend(written)
                yield data

        file = await self._files.write(since, fill, self._store.seal_file)
        if file is not None:
            await self._empty(file, numbers)
        return file

    async def _empty(self, file: SealedFile, numbers: Sequence[int]) -> None:
        """Make the file's requests visible in place of the live ones, in small steps."""
        now = asyncio.get_running_loop().time
        for first in range(0, len(numbers), SLICE_ROWS):
            await self._renew()
            began = now()
            moved = await self._store.move_to_file(file, numbers[first : first + SLICE_ROWS])
            if moved is None:
                await self._cut(file)
                return
            file = moved
            await asyncio.sleep(PAUSE * (now() - began))

    async def _cut(self, file: SealedFile) -> None:
        """Take what is not visible out of a file, because some of it was deleted meanwhile.

        What is still live of it gets into another file.
        """
        current = await self._files.stored(file.number)
        if current is not None:
            await self._files.cut(current)

    # retention

    async def _delete_outdated(self, failures: list[str]) -> int:
        deleted = 0
        for old in self._outdated():
            assert old.until is not None
            for file in await self._store.sealed_files():
                # Once for each file, when the last of its requests is too old.
                if file.latest < old.until and file.is_visible and file.may_have(old):
                    await self._renew()
                    async with self._turn_of(file, failures):
                        deleted += await self._delete_from(file, old)
        return deleted

    async def _delete_from(self, file: SealedFile, old: TrafficFilter) -> int:
        """Delete what is too old from a file; return how many requests that were."""
        if file.has_only(old):
            if not await self._store.drop_file(file):
                return 0
            await self._files.remove(file.number, file.key)
            return file.requests
        queries = (await self._files.engine()).queries
        count = await self._files.on_thread(queries.count, file, old)
        return count if count and await self._files.delete(file, old) else 0


def _day(moment: float) -> float:
    return moment // DAY_S * DAY_S


def _cut(
    requests: Sequence[LiveRequest], rows: int, body_bytes: int
) -> Iterator[Sequence[LiveRequest]]:
    """Yield requests in slices of so many rows and bytes of bodies, but at least one request."""
    first = size = 0
    for n, request in enumerate(requests):
        if n - first == rows or (n > first and size + request.body_bytes > body_bytes):
            yield requests[first:n]
            first, size = n, 0
        size += request.body_bytes
    if first < len(requests):
        yield requests[first:]


def _add(writer: Any, rows: Sequence[tuple[Any, ...]]) -> tuple[list[int], bytes]:
    """Add rows to a file; return the numbers of those that fit, and what there is of the file.

    One that has a value of another type than its column, in a damaged database, stays live.
    """
    try:
        return [row[0] for row in rows], writer.add_rows(rows)
    except (ValueError, TypeError, OverflowError) as error:
        if len(rows) == 1:
            log.error("the request %s cannot be sealed: %s", rows[0][1], error)
            return [], b""
        written: list[int] = []
        data = bytearray()
        for row in rows:
            numbers, some = _add(writer, [row])
            written += numbers
            data += some
        return written, bytes(data)
