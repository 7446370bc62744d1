"""The requests that are stored, live and sealed, as one.

    recorded = RecordedTraffic(store, files)
    rows = await recorded.page(TrafficFilter(route="chat"), limit=50)

What is live, and which files there are, is read in one state of the store. A file that another
process replaces in the meantime is gone then, and everything is read again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Sequence
from functools import partial
from heapq import merge, nsmallest
from itertools import islice
from typing import Any, TypeVar

from providers.errors import ArtifactError, NotFoundError
from router.sealing import value_filter
from router.sealing.deletion import Deletion
from router.sealing.files import SealedFiles
from router.sealing.queries import Row
from router.store.columns.traffic import TRAFFIC_COLUMNS, traffic_of, with_bodies
from router.store.sealed_traffic import FilteredColumn, IndexPart, SealedFile, SealedTrafficStore
from router.store.traffic import TotalsBy, TrafficFilter, TrafficRow, TrafficTotal

_Result = TypeVar("_Result")

# Live requests that are read with their bodies at a time: 2 MiB each at most.
_BODIES_AT_ONCE = 32
# How often everything is read again because a file was replaced.
_ATTEMPTS = 5
# Filters of files that are remembered, and read at a time: about 160 KB each for ids.
_FILTERS = 64
_FILTERS_AT_ONCE = 8
# Columns that the files of earlier versions do not have.
_LATER: frozenset[FilteredColumn] = frozenset({"request_id", "response_id", "conversation"})
# Files that one query of a page reads at most.
_FILES_AT_ONCE = 16
# Files that one call of `delete` replaces at most.
FILES_AT_ONCE = 20


class RecordedTraffic:
    """Reads and deletes requests, whether they are live or sealed.

    Args:
        store: has the live ones, and a row for each file.
        files: the sealed ones.
        delete_live: deletes requests that match from the table, at most so many; returns how many.
    """

    def __init__(
        self,
        store: SealedTrafficStore,
        files: SealedFiles,
        delete_live: Callable[[TrafficFilter, int | None], Awaitable[int]],
    ) -> None:
        self._store = store
        self._files = files
        self._delete_live = delete_live
        self._filters: OrderedDict[tuple[str, FilteredColumn], bytes] = OrderedDict()

    async def page(
        self, matching: TrafficFilter, *, limit: int = 50, before: int | None = None
    ) -> list[TrafficRow]:
        """List requests, newest first; `before` is the number of the previous page's last row."""
        return await self._settled(partial(self._page, matching, limit, before))

    async def with_bodies(self, numbers: Sequence[int]) -> AsyncGenerator[list[TrafficRow]]:
        """Yield requests by their numbers, with their bodies, some megabytes at a time.

        Those that have been deleted meanwhile are left out. Live ones come first, then sealed ones.
        """
        left: set[int] = set()
        ascending = sorted(numbers)
        for start in range(0, len(ascending), _BODIES_AT_ONCE):
            some = ascending[start : start + _BODIES_AT_ONCE]
            live = await self._store.traffic_columns(some)
            left.update(some)
            left.difference_update(row[0] for row in live)
            if live:
                yield await self._files.on_thread(_decoded, live)
        attempts = 0
        while left and (files := await self._sealed_with(left)):
            attempts += 1
            try:
                for file in files:
                    reader = (await self._files.engine()).reader
                    groups = reader.rows(file, sorted(left))
                    while (rows := await self._files.on_thread(next, groups, None)) is not None:
                        left.difference_update(row[0] for row in rows)
                        yield await self._files.on_thread(_decoded, rows)
            except NotFoundError as error:
                # Another process has replaced the file.
                if attempts == _ATTEMPTS:
                    raise ArtifactError(f"sealed requests cannot be read: {error}") from error
            else:
                return

    async def _sealed_with(self, numbers: Collection[int]) -> list[SealedFile]:
        """Return the files that may have a visible request with one of some numbers."""
        lowest, highest = min(numbers), max(numbers)
        return [
            file
            for file in await self._store.sealed_files()
            if file.first <= highest and min(file.last, file.visible_to) >= lowest
        ]

    async def newest(self, matching: TrafficFilter) -> TrafficRow | None:
        """Return the newest request that matches, with its bodies; None without one."""
        return await self._settled(partial(self._newest_request, matching))

    async def request(
        self, name: str, *, key_id: str | None = None, named_by: str | None = None
    ) -> TrafficRow | None:
        """Return the request of a record's id, else the newest that a client gave a name.

        Args:
            name: the id of its record, or its `x-request-id`.
            key_id: selects requests of one key; None selects all.
            named_by: the key that has sent `x-request-id`, because others may have sent the same;
                None for `key_id`.
        """
        row = await self.newest(TrafficFilter(id=name, key_id=key_id))
        if named_by is None:
            named_by = key_id
        if row is not None or named_by is None:
            return row
        return await self.newest(TrafficFilter(request_id=name, key_id=named_by))

    async def totals(
        self, matching: TrafficFilter, by: Sequence[TotalsBy], *, limit: int
    ) -> list[TrafficTotal]:
        """Add up requests in groups, the largest first; it reads all of the filter's time."""
        return await self._settled(partial(self._totals, matching, by, limit))

    async def delete(self, matching: TrafficFilter, *, at_most: int | None = None) -> Deletion:
        """Delete requests that match, with their bodies, everywhere.

        Live ones first: while a file is made of them, those that are gone do not become visible.

        Args:
            matching: which requests.
            at_most: how many live ones; the files are for the next call then. None for all of it.
        """
        deleted = await self._delete_live(matching, at_most)
        if at_most is not None and deleted >= at_most:
            return Deletion(deleted=deleted, complete=False)
        in_files = await self.delete_sealed(
            matching, max_files=None if at_most is None else FILES_AT_ONCE
        )
        return Deletion(deleted=deleted + in_files.deleted, complete=in_files.complete)

    async def delete_sealed(
        self, matching: TrafficFilter, *, max_files: int | None = None
    ) -> Deletion:
        """Delete requests that match from the files, each of which is replaced or dropped.

        Raises:
            ArtifactError: a file cannot be read; the others have been gone through.
        """
        deleted = replaced = 0
        done: set[int] = set()
        failure: ArtifactError | None = None
        while True:
            # Again after each file, because others may have been added or replaced meanwhile.
            files = [file for file in await self._store.sealed_files() if file.number not in done]
            files = [file for file in files if file.when_visible().may_have(matching)]
            file = next(iter(await self._possible(files, matching, 1)), None)
            if file is None:
                if failure is not None:
                    raise failure
                return Deletion(deleted=deleted)
            if replaced == max_files:
                return Deletion(deleted=deleted, complete=False)
            done.add(file.number)
            try:
                visible, changed = await self._delete_from(file, matching)
            except NotFoundError as error:
                # What it was replaced by is looked at next.
                if await self._files.stored(file.number) is not None:
                    failure = ArtifactError(f"cannot delete requests: {error.message}")
                continue
            except ArtifactError as error:
                failure = error
                continue
            deleted += visible
            replaced += changed

    async def _delete_from(self, file: SealedFile, matching: TrafficFilter) -> tuple[int, bool]:
        """Return how many visible requests went, and whether the file was changed."""
        queries = (await self._files.engine()).queries
        if not await self._files.on_thread(queries.count, file.when_visible(), matching):
            return 0, False
        visible = await self._files.on_thread(queries.count, file, matching)
        if await self._files.delete(file, matching):
            return visible, True
        raise NotFoundError(f"{file.key} was replaced")

    # reading

    async def _settled(self, read: Callable[[], Awaitable[_Result]]) -> _Result:
        """Read again where a file is gone because another process has replaced it."""
        for _ in range(_ATTEMPTS):
            try:
                return await read()
            except NotFoundError as error:
                missing = error.message
        raise ArtifactError(f"sealed requests cannot be read: {missing}")

    async def _page(
        self, matching: TrafficFilter, limit: int, before: int | None
    ) -> list[TrafficRow]:
        live, files = await self._store.traffic_and_sealed(matching, limit=limit, before=before)
        rows = await self._newest(files, matching, limit, before)
        sealed = await self._files.on_thread(_decoded, rows) if rows else []
        return list(islice(merge(live, sealed, key=lambda row: -row.number), limit))

    async def _newest(
        self,
        files: Sequence[SealedFile],
        matching: TrafficFilter,
        limit: int,
        before: int | None = None,
        *,
        bodies: bool = False,
    ) -> list[Row]:
        """Return the newest rows of files, of which as few as possible are read."""
        selected: list[Row] = []
        done: set[int] = set()
        # Usually the newest has enough; where it has not, each query costs as much as many files.
        at_once = 1
        while True:
            lowest = selected[-1][0] if len(selected) == limit else -1
            left = [file for file in files if file.number not in done and file.last > lowest]
            some = await self._possible(left, matching, at_once)
            at_once = min(2 * at_once, _FILES_AT_ONCE)
            if not some:
                return selected
            done.update(file.number for file in some)
            engine = await self._files.engine()
            rows: list[Row] = []
            if not matching.names_few and not bodies:
                indexed, some = await self._with_index(some, matching)
                rows += await self._files.on_thread(
                    engine.strips.page, engine.artifacts, indexed, matching,
                    limit=limit, before=before, above=lowest,
                )  # fmt: skip
            if some:
                rows += await self._files.on_thread(
                    engine.queries.page, some, matching, limit=limit, before=before, bodies=bodies
                )
            selected = sorted([*selected, *rows], key=lambda row: -row[0])[:limit]

    async def _with_index(
        self, files: Sequence[SealedFile], matching: TrafficFilter
    ) -> tuple[list[Any], list[SealedFile]]:
        """Return the files in which their indexes find something, with those; those without one."""
        strips = (await self._files.engine()).strips
        kinds = await self._store.sealed_filters([file.number for file in files], "kinds")
        known, possible = await self._files.on_thread(strips.indexes, kinds, matching)
        parts: dict[int, dict[IndexPart, bytes]] = {number: {} for number in possible}
        for part in {part for _, needed in possible.values() for part in needed}:
            numbers = [number for number, (_, needed) in possible.items() if part in needed]
            for number, data in (await self._store.sealed_filters(numbers, part)).items():
                parts[number][part] = data
        indexed = []
        without = []
        for file in files:
            if file.number in possible:
                index, needed = possible[file.number]
                if parts[file.number].keys() == needed:
                    indexed.append(strips.IndexedFile(file, index, parts[file.number]))
                    continue
            elif file.number in known:
                continue
            # An earlier version wrote it, or the index has gone with the file.
            without.append(file)
        return indexed, without

    async def _newest_request(self, matching: TrafficFilter) -> TrafficRow | None:
        live, files = await self._store.request_and_sealed(matching)
        if live is not None:
            files = [file for file in files if file.last > live.number]
        rows = await self._newest(files, matching, 1, bodies=True)
        if not rows or (live is not None and live.number > rows[0][0]):
            return live
        [request] = await self._files.on_thread(_decoded, rows)
        return request

    async def _totals(
        self, matching: TrafficFilter, by: Sequence[TotalsBy], limit: int
    ) -> list[TrafficTotal]:
        live, files = await self._store.totals_and_sealed(matching, by, limit=limit)
        if not files:
            return live
        files = await self._possible(files, matching, len(files))
        queries = (await self._files.engine()).queries
        rows = await self._files.on_thread(queries.totals, files, matching, by)
        return await self._files.on_thread(_merged, live, rows, by, limit)

    async def _possible(
        self, files: Iterable[SealedFile], matching: TrafficFilter, limit: int
    ) -> list[SealedFile]:
        """Return the first files that may have the names, the key and the user of the filter."""
        values: dict[FilteredColumn, str | None] = {
            "id": matching.id,
            "key_id": matching.key_id,
            "user_id": matching.user,
            "request_id": matching.request_id,
            "response_id": matching.response_id,
            "conversation": matching.conversation,
        }
        selected: list[SealedFile] = []
        left = list(files)
        while left and len(selected) < limit:
            some, left = left[:_FILTERS_AT_ONCE], left[_FILTERS_AT_ONCE:]
            for column, value in values.items():
                if value is not None:
                    some = await self._possible_by(column, value, some)
            selected += some
        return selected[:limit]

    async def _possible_by(
        self, column: FilteredColumn, value: str, files: Sequence[SealedFile]
    ) -> list[SealedFile]:
        """Return the files that may have a value. Without filters, reading finds out.

        A file has none where it is gone. One that an earlier version sealed has none of columns
        that were not there yet: no request in it has such a name, other than its record's id.
        """
        bits = await self._bits(files, column)
        ids = await self._bits(files, "id") if column in _LATER else {}
        possible = []
        for file in files:
            relevant = [bits[file.key]] if file.key in bits else []
            unknown = file.key not in (ids if column in _LATER else bits)
            if column == "request_id" and file.key in ids:
                relevant.append(ids[file.key])
            if unknown or any(value_filter.may_have(some, value) for some in relevant):
                possible.append(file)
        return possible

    async def _bits(self, files: Sequence[SealedFile], column: FilteredColumn) -> dict[str, bytes]:
        """Return filters by the keys of files; SQLite may give the number of a file again."""
        keys = {file.number: file.key for file in files}
        known = {
            key: self._filters[key, column]
            for key in keys.values()
            if (key, column) in self._filters
        }
        missing = [number for number, key in keys.items() if key not in known]
        if missing:
            for number, bits in (await self._store.sealed_filters(missing, column)).items():
                known[keys[number]] = self._filters[keys[number], column] = bits
            while len(self._filters) > _FILTERS:
                self._filters.popitem(last=False)
        return known


def _decoded(rows: Sequence[Row]) -> list[TrafficRow]:
    """Return the requests of rows, with their bodies where the rows have them."""
    columns = len(TRAFFIC_COLUMNS)
    return [
        with_bodies(traffic_of(row), row[columns:]) if len(row) > columns else traffic_of(row)
        for row in rows
    ]


def _merged(
    live: Sequence[TrafficTotal], rows: Sequence[Row], by: Sequence[TotalsBy], limit: int
) -> list[TrafficTotal]:
    """Add totals of files to those of live requests; return the largest groups."""
    groups = {tuple(total.group[name] for name in by): total for total in live}
    for requests, failures, prompt, completion, cost, unpriced, *group in rows:
        sealed = TrafficTotal(
            group=dict(zip(by, group, strict=True)),
            requests=requests,
            failures=failures,
            prompt_tokens=int(prompt or 0),
            completion_tokens=int(completion or 0),
            cost_usd=cost or 0.0,
            unpriced=unpriced,
        )
        key = tuple(group)
        groups[key] = groups[key].plus(sealed) if key in groups else sealed
    selected = nsmallest(limit, groups.items(), key=lambda item: (-item[1].requests, item[0]))
    return [total for _, total in selected]
