"""Registers datasets: files in the artifact store under a name, with a version for each content.

    row = await datasets.add("news.csv", name="news", over_http=False)
    async with datasets.open("news@1a2b3c", base=Path(), over_http=False) as source: ...

A version is the SHA-256 of its bytes. A run stores its samples itself, so that nothing that happens
to a dataset changes a run.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from evaluators.data import dataset_process
from evaluators.data.columns import Column
from evaluators.data.dataset import MAX_LINE_BYTES, Dataset, open_beginning
from evaluators.data.dataset_process import describe, in_thread, open_dataset
from evaluators.data.formats import EXTENSIONS
from evaluators.data.paths import is_below
from evaluators.data.rows import PROMPTS, REFERENCES, Row
from providers.errors import (
    ArtifactError,
    ConflictError,
    DatasetError,
    NotFoundError,
    RequestError,
    closest,
)
from providers.names import MAX_ADDRESS_BYTES, check_name
from router.config.schema import Config
from router.datasets.artifacts import Artifacts, file_chunks, open_artifacts, temporary_folder
from router.datasets.cells import cut, cut_cell
from router.datasets.differences import VersionDifferences, differences
from router.datasets.row_index import RowIndex
from router.datasets.shipped import SHIPPED
from router.datasets.sources import Source, collect, fetched, is_address, to_jsonl
from router.store.datasets import DatasetRow
from router.store.lineage import LineageStore, RowSource

SHOWN_HASH = 12
ROWS_AT_ONCE = 500  # of a dataset that is read as a whole
READ_AT_ONCE = 2  # datasets that a program reads at a time; further ones wait

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSIONED = re.compile(rf"(?P<name>{_NAME.pattern})(@(?P<hash>[0-9a-f]{{4,64}}))?")
_MAX_INNER = 20  # columns within a column that a preview names
_MAX_PAGE_BYTES = 16 * 1024 * 1024


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """The requests that rows of a version were copied from.

    Attributes:
        sources: of each row that was copied from one.
        made_of: hashes of versions that rows were taken from, and with them their sources.
        registered: the one of these that is registered, or was; "" for none.
    """

    sources: Sequence[RowSource] = ()
    made_of: tuple[str, ...] = ()
    registered: str = ""


NO_LINEAGE = Lineage()


class _RowId(msgspec.Struct):
    id: str | int | float | None = None


_decode_id = msgspec.json.Decoder(_RowId).decode


class DatasetView(msgspec.Struct, frozen=True, kw_only=True):
    """A version, what its columns hold, and its first rows (texts cut at 500 characters).

    Attributes:
        dataset: the version.
        columns: see evaluators.data.columns.Column.
        preview: the first rows, with their own column names.
        versions: the hashes of all versions of the name, newest first.
    """

    dataset: DatasetRow
    columns: tuple[Column, ...]
    preview: list[dict[str, Any]]
    versions: list[str]


class NumberedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of a version.

    Attributes:
        number: its place, from 1.
        fields: its columns, mapped ones also under their known names.
    """

    number: int
    fields: dict[str, Any]


class DatasetRows(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of a version, in their order.

    Attributes:
        data: the rows; fewer than requested where they have more than 16 MiB.
        next: the number to go on after; None at the end.
    """

    data: list[NumberedRow]
    next: int | None
    object: str = "list"


class UploadPreview(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is not stored yet, as it would be read.

    Attributes:
        name: what the dataset would be called.
        format: the file's.
        rows: how many it has; None where only its beginning was looked at.
        columns: every column of those rows, mapped ones also under their known names.
        file_columns: the file's own columns, and one level of those within them, as `answers.text`.
        preview: the first rows (texts cut at 500 characters).
        has_prompt: whether rows have what is sent: `input`, `prompt` or `messages`.
        has_reference: whether rows have what answers are compared with.
        versions: the hashes of the versions that the name has.
        is_known: whether this content is registered under the name already.
    """

    name: str
    format: str
    rows: int | None
    columns: tuple[str, ...]
    file_columns: tuple[str, ...]
    preview: list[dict[str, Any]]
    has_prompt: bool
    has_reference: bool
    versions: tuple[str, ...]
    is_known: bool


class DatasetRegistry:
    """All registered datasets of a store. The artifact store is opened when it is first needed."""

    def __init__(
        self, store: LineageStore, config: Config, *, now: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._config = config
        self._now = now
        self._artifacts: Artifacts | None = None
        # Each takes a process, memory and a thread, which others need too.
        self._reading = asyncio.Semaphore(READ_AT_ONCE)
        self._index = RowIndex()

    @property
    def max_bytes(self) -> int:
        """Return the number of bytes that one dataset may have."""
        return self._config.datasets.max_bytes

    @property
    def artifacts(self) -> Artifacts:
        """Return the store of the files. Raises ConfigError, MissingExtraError."""
        if self._artifacts is None:
            storage = self._config.storage
            self._artifacts = open_artifacts(storage.artifacts, storage.s3)
        return self._artifacts

    # Registering

    async def add(
        self,
        named: str,
        *,
        name: str = "",
        columns: Mapping[str, str] | None = None,
        delimiter: str = "",
        base: Path | None = None,
        provenance: Mapping[str, Any] | None = None,
        over_http: bool,
    ) -> DatasetRow:
        """Register a file or an address as a dataset, or a new version of one.

        Args:
            named: a path, or an address with http(s)://, s3:// or hf://.
            name: the dataset's name; made of the file's name when empty.
            columns: the file's own column names to known ones.
            delimiter: what separates the cells of CSV and TSV; "" to find out.
            base: the folder that relative paths start from; None for the working directory.
            provenance: what is known of how it was made.
            over_http: whether a client named it; see `fetched`.

        Raises:
            DatasetError, NotFoundError, BodyTooLargeError: it cannot be fetched, or not be used.
            ConflictError: this content is registered under this name with other columns.
            ArtifactError, StoreError: it cannot be stored. Nothing is registered.
        """
        check_name(named, "source", DatasetError, max_bytes=MAX_ADDRESS_BYTES)
        _check_chosen(name)
        async with fetched(
            named, base=base or Path(), config=self._config, over_http=over_http
        ) as source:
            known = {**source.provenance, **(provenance or {})}
            source_of = msgspec.structs.replace(source, provenance=known)
            return await self._register(source_of, name, dict(columns or {}), delimiter)

    async def upload(
        self,
        chunks: AsyncIterable[bytes],
        *,
        filename: str,
        name: str = "",
        columns: Mapping[str, str] | None = None,
        delimiter: str = "",
    ) -> DatasetRow:
        """Register a client's upload. `filename` tells the format, and the name if `name` is empty.

        Raises:
            As `add` does, and whatever `chunks` raises.
        """
        async with self._collected(chunks, filename, name) as source:
            return await self._register(source, name, dict(columns or {}), delimiter)

    async def preview(
        self,
        chunks: AsyncIterable[bytes],
        *,
        filename: str,
        name: str = "",
        columns: Mapping[str, str] | None = None,
        delimiter: str = "",
        rows: int = 5,
        is_part: bool = False,
    ) -> UploadPreview:
        """Read a client's file as `upload` would, and store nothing.

        Args:
            chunks: as there.
            filename: as there.
            name: as there.
            columns: as there.
            delimiter: as there.
            rows: how many the preview has, at most.
            is_part: whether `chunks` are only the beginning of a file of lines. Then no other rows
                are read than those of the preview.

        Raises:
            As `upload` does.
        """
        async with self._collected(chunks, filename, name) as source, self._reading:
            mapping = dict(columns or {})
            called = name or _made_name(source.name)
            if is_part:
                dataset = await in_thread(
                    open_beginning, source.path, columns=mapping, delimiter=delimiter
                )
            else:
                dataset = await in_thread(_open, source.path, mapping, delimiter)
            first = await in_thread(lambda: list(dataset_process.rows(dataset, count=rows)))
        known = await self._store.datasets(called)
        fields = dict.fromkeys(name for row in first for name in row.fields)
        names = dataset.columns or tuple(fields)
        return UploadPreview(
            name=called,
            format=dataset.format,
            rows=None if is_part else dataset.row_count,
            columns=names,
            file_columns=tuple(_own_columns(first, names, mapping)),
            preview=[{key: cut(value) for key, value in row.fields.items()} for row in first],
            has_prompt=any(each in names for each in PROMPTS),
            has_reference=any(each in names for each in REFERENCES),
            versions=tuple(row.hash for row in known),
            is_known=not is_part and any(row.hash == dataset.hash for row in known),
        )

    @asynccontextmanager
    async def _collected(
        self, chunks: AsyncIterable[bytes], filename: str, name: str
    ) -> AsyncIterator[Source]:
        """Open a client's file, in a temporary folder; errors name it as the client does."""
        check_name(filename, "filename")
        _check_chosen(name)
        shown = Path(filename).name
        suffix = Path(shown).suffix.lower()
        if suffix not in EXTENSIONS:
            raise RequestError(
                f"filename: {filename!r} must end in one of {', '.join(EXTENSIONS)}",
                param="filename",
            )
        with temporary_folder() as folder:
            path = folder / f"upload{suffix}"
            await collect(chunks, path, self.max_bytes, shown)
            try:
                yield Source(path=path, name=Path(shown).stem, address=f"upload of {shown}")
            except DatasetError as error:
                # The client does not know our temporary file.
                raise DatasetError(
                    error.message.replace(str(path), shown), param=error.param
                ) from error

    async def derive(
        self,
        path: Path,
        *,
        name: str,
        source: str,
        provenance: Mapping[str, Any],
        lineage: Lineage = NO_LINEAGE,
    ) -> DatasetRow:
        """Register a file that evalrouter itself made of something it has.

        Args:
            path: the file, JSON lines where it has a lineage; its columns have known names.
            name: the dataset's name.
            source: what it was made of.
            provenance: how it was made; JSON types only.
            lineage: the requests that its rows were copied from.

        Raises:
            As `add` does.
            ConflictError: the registered version that rows were taken from is gone.
        """
        check_dataset_name(name)
        made = Source(path=path, name=name, address=source, provenance=dict(provenance))
        return await self._register(made, name, {}, "", lineage)

    async def _register(
        self,
        source: Source,
        name: str,
        columns: dict[str, str],
        delimiter: str,
        lineage: Lineage = NO_LINEAGE,
    ) -> DatasetRow:
        name = name or _made_name(source.name)
        async with self._reading:
            return await self._read_and_keep(source, name, columns, delimiter, lineage)

    async def _read_and_keep(
        self,
        source: Source,
        name: str,
        columns: dict[str, str],
        delimiter: str,
        lineage: Lineage,
    ) -> DatasetRow:
        with temporary_folder() as folder:
            path = source.path
            if await asyncio.to_thread(path.is_dir):
                path = folder / f"{name}.jsonl"
                await in_thread(to_jsonl, [source.path], path, self.max_bytes)
            dataset = await in_thread(_open, path, columns, delimiter)
            known = await self._known(name, dataset, columns)
            if known is not None:
                if lineage != NO_LINEAGE:
                    await self._add_sources(known.hash, lineage, None)
                return known
            row = DatasetRow(
                name=name,
                hash=dataset.hash,
                path=f"datasets/{dataset.hash}.{dataset.format}",
                format=dataset.format,
                rows=dataset.row_count,
                columns=dataset.columns,
                created_at=self._now(),
                size=(await asyncio.to_thread(path.stat)).st_size,
                mapping=columns,
                delimiter=dataset.delimiter,
                source=source.address,
                provenance=source.provenance,
                statistics=await in_thread(describe, dataset),
            )
            await self._keep(row, path, lineage)
        return row

    async def _known(
        self, name: str, dataset: Dataset, columns: dict[str, str]
    ) -> DatasetRow | None:
        for row in await self._store.datasets(name):
            if row.hash == dataset.hash:
                if row.mapping != columns or row.delimiter != dataset.delimiter:
                    raise ConflictError(
                        f"{version_name(row)} has the same rows with "
                        f"{_reading(row.mapping, row.delimiter)}, not with "
                        f"{_reading(columns, dataset.delimiter)}; delete it first, or take another "
                        "name"
                    )
                return row
        return None

    async def _keep(self, row: DatasetRow, path: Path, lineage: Lineage) -> None:
        """Store the file first, then its row, so that a listed dataset has its file."""
        stored_before = await self.artifacts.exists(row.path)
        try:
            if not stored_before:
                await self._put(row, path)
            if lineage == NO_LINEAGE:
                await self._store.add_dataset(row)
            else:
                # At once: rows that nobody could find to delete them must not be listed.
                await self._add_sources(row.hash, lineage, row)
        except BaseException:
            if not stored_before and not await asyncio.shield(self._in_use(row.hash)):
                with suppress(ArtifactError):
                    await asyncio.shield(self.artifacts.delete(row.path))
            raise

    async def _add_sources(
        self, content: str, lineage: Lineage, version: DatasetRow | None
    ) -> None:
        await self._store.add_sources(
            content,
            lineage.sources,
            made_of=lineage.made_of,
            registered=lineage.registered,
            version=version,
        )

    async def _put(self, row: DatasetRow, path: Path) -> None:
        stored = await self.artifacts.put(row.path, file_chunks(path))
        if stored.sha256 != row.hash:
            raise DatasetError(f"{path}: the file changed while it was read; start again")

    async def _in_use(self, hash_: str) -> bool:
        return any(row.hash == hash_ for row in await self._store.datasets())

    # Reading

    async def find(self, named: str) -> DatasetRow:
        """Return the newest version of `name`, or that of `name@hash` (its first digits).

        Raises:
            NotFoundError: no such name or version, or several versions begin so.
        """
        row = await self._lookup(named)
        if row is None:
            names = {known.name for known in await self._store.datasets()}
            raise NotFoundError(f"there is no dataset {named!r}.{closest(named, names)}")
        return row

    async def _lookup(self, named: str) -> DatasetRow | None:
        match = _VERSIONED.fullmatch(named)
        versions = await self._store.datasets(match["name"]) if match else []
        if not match or not versions:
            return None
        if match["hash"] is None:
            return versions[0]
        matching = [row for row in versions if row.hash.startswith(match["hash"])]
        if len(matching) != 1:
            known = ", ".join(row.hash[:SHOWN_HASH] for row in versions[:12])
            what = "several versions" if matching else "no version"
            raise NotFoundError(
                f"{match['name']!r} has {what} that begins with {match['hash']}. Known: {known}."
            )
        return matching[0]

    @asynccontextmanager
    async def file(self, row: DatasetRow) -> AsyncIterator[Path]:
        """Open a version's file on this machine; where it is in S3, fetch it for the while.

        Raises:
            NotFoundError, ArtifactError: the artifact store has lost it, or refuses.
        """
        path = self.artifacts.path(row.path)
        if path is not None:
            if not await asyncio.to_thread(path.is_file):
                raise NotFoundError(
                    f"the file of the dataset {row.name!r} is gone ({row.path} in the artifact "
                    "store); add it again"
                )
            with _named(row, path):
                yield path
            return
        with temporary_folder() as folder:
            path = folder / f"{row.name}.{row.format}"
            await collect(self.artifacts.get(row.path), path, row.size, row.name)
            with _named(row, path):
                yield path

    @asynccontextmanager
    async def open(self, named: str, *, base: Path, over_http: bool) -> AsyncIterator[Source]:
        """Open the dataset that a run document names: a registered one, else an address or a path.

        It is meant to be read inside; only a few are read at a time, and further ones wait.

        Args:
            named: the dataset as the document names it.
            base: the folder that relative paths start from.
            over_http: whether a client named it; see `fetched`.

        Raises:
            As `add` and `file` do.
        """
        opening = self._named(named, base=base, over_http=over_http)
        async with opening as source, self._reading:
            yield source

    @asynccontextmanager
    async def _named(self, named: str, *, base: Path, over_http: bool) -> AsyncIterator[Source]:
        if named in SHIPPED:
            yield Source(path=SHIPPED[named], name=named, address=named)
            return
        row = None if is_address(named) else await self._lookup(named)
        if row is not None:
            async with self.file(row) as path:
                yield Source(
                    path=path,
                    name=row.name,
                    address=version_name(row),
                    columns=row.mapping,
                    delimiter=row.delimiter,
                    registered=row.hash,
                )
            return
        fetching = fetched(named, base=base, config=self._config, over_http=over_http)
        async with fetching as source:
            if not is_address(named) and _NAME.fullmatch(named) and not source.path.exists():
                names = {known.name for known in await self._store.datasets()}
                if near := closest(named, names):
                    raise DatasetError(
                        f"{named}: neither a registered dataset nor a file.{near}", param="dataset"
                    )
            yield source

    async def show(self, named: str, *, rows: int = 5) -> DatasetView:
        """Return a version with its statistics and first rows.

        Raises:
            As `find` and `file` do.
        """
        row = await self.find(named)
        async with self.file(row) as path, self._reading:
            preview = await in_thread(_preview, path, row, rows)
        versions = [known.hash for known in await self._store.datasets(row.name)]
        plain = msgspec.structs.replace(row, statistics=())
        return DatasetView(
            dataset=plain, columns=row.statistics, preview=preview, versions=versions
        )

    async def rows(
        self, row: DatasetRow, *, after: int = 0, limit: int, longest: int | None = None
    ) -> DatasetRows:
        """Return rows of a version.

        Args:
            row: the version.
            after: the number of the row before the first of them.
            limit: how many, at most.
            longest: where texts are cut, in characters, as `cut_cell` does; None for whole ones.

        Raises:
            As `file` does.
        """
        async with self.file(row) as path, self._reading:
            dataset = _open_again(path, row)
            data = await in_thread(
                lambda: _numbered(
                    self._index.rows(dataset, after=after, limit=limit), after, longest
                )
            )
        last = data[-1].number if data else row.rows
        return DatasetRows(data=data, next=last if last < row.rows else None)

    async def all_rows(self, row: DatasetRow) -> AsyncGenerator[list[Row]]:
        """Yield all rows of a version in their order, some at a time.

        Raises:
            As `file` does.
        """
        async with self.file(row) as path, self._reading:
            rows = dataset_process.rows(_open_again(path, row))
            while some := await in_thread(lambda: list(islice(rows, ROWS_AT_ONCE))):
                yield some

    async def differences(self, older: DatasetRow, newer: DatasetRow) -> VersionDifferences:
        """Return what differs between two versions.

        Raises:
            As `file` does.
        """
        async with (
            self.file(older) as older_path,
            self.file(newer) as newer_path,
            self._reading,
        ):
            before, after = _open_again(older_path, older), _open_again(newer_path, newer)
            return await in_thread(
                differences,
                lambda: dataset_process.rows(before),
                lambda: dataset_process.rows(after),
                by_id="id" in older.columns and "id" in newer.columns,
            )

    # Deleting

    async def delete(self, named: str, *, every: bool = False) -> list[DatasetRow]:
        """Delete a version, or every version of a name, and return what was deleted.

        Runs have their own samples. The file goes with the last version that has its content.

        Raises:
            NotFoundError: no such dataset.
            ConflictError: the name has several versions, and neither one nor `every` was named.
        """
        doomed = [await self.find(named)]
        versions = await self._store.datasets(doomed[0].name)
        if "@" not in named and len(versions) > 1:
            if not every:
                known = ", ".join(map(version_name, versions[:12]))
                raise ConflictError(f"{named!r} has {len(versions)} versions: {known}; name one")
            doomed = versions
        for row in doomed:
            if not await self._store.delete_dataset(row.name, row.hash):
                await self.artifacts.delete(row.path)
        return doomed

    async def delete_rows(self, content: str, ids: Collection[str]) -> int:
        """Delete rows from all versions with a hash, which are replaced by versions without them.

        Args:
            content: the hash of versions that have a lineage.
            ids: the ids of the rows.

        Returns:
            How many rows there were.

        Raises:
            ArtifactError, StoreError: they cannot be read or written; nothing is replaced.
        """
        versions = [row for row in await self._store.datasets() if row.hash == content]
        if not versions:
            await self._store.replace_versions(content, (), ids)
            return 0
        with temporary_folder() as folder:
            left = folder / "left.jsonl"
            try:
                async with self.file(versions[0]) as path, self._reading:
                    deleted, rows = await asyncio.to_thread(_copy_without, path, left, ids)
            except NotFoundError:
                # Its file is gone, and so are the rows. Without the version, what a watch has in
                # flight of them is refused, and so is a copy of a run's samples.
                await self._store.replace_versions(content, (), ids)
                return 0
            if not deleted:
                await self._store.forget_sources(content, ids)
                return 0
            new = []
            if rows:
                async with self._reading:
                    new = [await self._without(row, left, deleted) for row in versions]
                if not await self.artifacts.exists(new[0].path):
                    await self._put(new[0], left)
            await self._store.replace_versions(content, new, ids)
        for path_of_old in {row.path for row in versions}:
            await self.artifacts.delete(path_of_old)
        return deleted

    async def _without(self, row: DatasetRow, path: Path, deleted: int) -> DatasetRow:
        """Return a version as it is once rows have been deleted, which a file is without."""
        dataset = await in_thread(_open, path, row.mapping, row.delimiter)
        provenance = dict(row.provenance)
        provenance["deleted_rows"] = provenance.get("deleted_rows", 0) + deleted
        return msgspec.structs.replace(
            row,
            hash=dataset.hash,
            path=f"datasets/{dataset.hash}.{dataset.format}",
            rows=dataset.row_count,
            columns=dataset.columns,
            size=(await asyncio.to_thread(path.stat)).st_size,
            provenance=provenance,
            statistics=await in_thread(describe, dataset),
        )

    # What a request over HTTP may name

    async def confine(self, named: str, *, base: Path | None = None) -> None:
        """Refuse a path or an S3 address that is not below one of `datasets.roots`.

        Registered datasets may be named by all clients.

        Args:
            named: the dataset as the request names it.
            base: the folder that a relative path starts from; None for the working directory.

        Raises:
            RequestError: it lies outside; `param` is `dataset`.
        """
        roots = self._config.datasets.roots
        if named in SHIPPED or await self._lookup(named) is not None:
            return
        scheme, _, rest = named.partition("://")
        if not is_address(named):
            folders = [root for root in roots if not is_address(root)]
            inside = await asyncio.to_thread(is_below, named, folders, base=base)
        elif not named.isprintable():
            # Whoever reads the address next may leave such characters out.
            inside = False
        elif scheme.lower() == "s3":
            buckets = [root.rstrip("/") + "/" for root in roots if root.startswith("s3://")]
            address = f"s3://{rest}"
            inside = ".." not in rest and any(address.startswith(bucket) for bucket in buckets)
        else:
            # Where http:// and hf:// may lead is checked where they are fetched.
            return
        if not inside:
            raise RequestError(
                f"dataset: {named!r} is outside what requests may name ({', '.join(roots)}; "
                "datasets.roots in the server's config)",
                param="dataset",
                code="outside_roots",
            )


def parse_columns(options: Sequence[str]) -> dict[str, str]:
    """Return `["article=input"]` as a mapping. Raises RequestError."""
    columns: dict[str, str] = {}
    for option in options:
        column, equals, known = option.rpartition("=")
        if not column or not equals or column in columns:
            raise RequestError(
                f"column: {option!r} must be of the form own=known, each column once",
                param="column",
            )
        columns[column] = known
    return columns


@contextmanager
def _named(row: DatasetRow, path: Path) -> Iterator[None]:
    """Have errors name the dataset, not the path that only the server knows."""
    try:
        yield
    except DatasetError as error:
        raise DatasetError(error.message.replace(str(path), row.name), param=error.param) from error


def _open(path: Path, columns: dict[str, str], delimiter: str) -> Dataset:
    # A dataset needs no prompt yet: a run may have a template.
    return open_dataset(path, columns=columns, delimiter=delimiter, needs_prompt=False)


def _copy_without(path: Path, left: Path, ids: Collection[str]) -> tuple[int, int]:
    """Write the rows of JSON lines that have none of the ids; return how many had, and had not."""
    deleted = rows = 0
    with path.open("rb") as lines, left.open("wb") as file:
        for line in lines:
            if str(_decode_id(line).id) in ids:
                deleted += 1
            else:
                rows += 1
                file.write(line)
    return deleted, rows


def _own_columns(
    rows: Sequence[Row], names: Sequence[str], mapping: Mapping[str, str]
) -> Iterator[str]:
    """Yield the columns that a file has itself, and what is in those that are objects."""
    for name in names:
        if name in mapping.values() and name not in mapping:
            continue
        yield name
        inner = dict.fromkeys(
            key
            for row in rows
            if isinstance(value := row.fields.get(name), dict)
            for key in list(value)[:_MAX_INNER]
        )
        yield from (f"{name}.{key}" for key in list(inner)[:_MAX_INNER])


def _numbered(rows: Iterator[Row], after: int, longest: int | None) -> list[NumberedRow]:
    numbered: list[NumberedRow] = []
    left = _MAX_PAGE_BYTES
    for number, line in enumerate(rows, after + 1):
        fields = line.fields
        if longest is not None:
            fields = {name: cut_cell(value, longest) for name, value in fields.items()}
        left -= len(msgspec.json.encode(fields))
        if numbered and left < 0:
            break
        numbered.append(NumberedRow(number=number, fields=fields))
    return numbered


def _preview(path: Path, row: DatasetRow, count: int) -> list[dict[str, Any]]:
    if count == 0:
        return []
    first = dataset_process.rows(_open_again(path, row), count=count)
    return [{name: cut(value) for name, value in line.fields.items()} for line in first]


def _open_again(path: Path, row: DatasetRow) -> Dataset:
    """Return a version as it was registered, without reading it to its end a second time."""
    return Dataset(
        name=row.name,
        path=path,
        format=row.format,
        hash=row.hash,
        row_count=row.rows,
        columns=row.columns,
        mapping=row.mapping,
        needs_prompt=False,
        max_line_bytes=MAX_LINE_BYTES,
        delimiter=row.delimiter,
    )


def _check_chosen(name: str) -> None:
    """Check a name before anything is fetched or read; "" stands for one made of the source's."""
    if name:
        check_dataset_name(name)


def check_dataset_name(name: str) -> None:
    """Refuse a name that no dataset can have. Raises DatasetError."""
    check_name(name, "name", DatasetError)
    if not _NAME.fullmatch(name):
        raise DatasetError(
            f"{name!r} cannot be a dataset's name: up to 128 letters, digits and . _ -, a letter "
            "or digit first",
            param="name",
        )


def version_name(row: DatasetRow) -> str:
    """Return what a version is called where people read it, and may be named by: `news@1a2b…`."""
    return f"{row.name}@{row.hash[:SHOWN_HASH]}"


def is_version(address: str, content: str) -> bool:
    """Return whether an address is that of a registered version with a hash, or was."""
    match = _VERSIONED.fullmatch(address)
    return match is not None and match["hash"] == content[:SHOWN_HASH]


def name_of(named: str) -> str:
    """Return the name of the dataset that a run document names so."""
    if _VERSIONED.fullmatch(named) and Path(named).suffix.lower() not in EXTENSIONS:
        return named.partition("@")[0]
    return _made_name(Path(urlsplit(named).path).stem)


def _made_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:128] or "dataset"


def _reading(columns: Mapping[str, str], delimiter: str) -> str:
    """Return how a file is read, in words."""
    pairs = ", ".join(f"{column} as {meaning}" for column, meaning in columns.items())
    words = f"the columns {pairs}" if pairs else "its columns as they are"
    return f"{words} between {delimiter!r}" if delimiter else words
