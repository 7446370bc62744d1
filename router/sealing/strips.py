"""Rows of a sealed file in strips that are read one at a time, and an index that says which.

A strip is JSON of up to 256 requests without their bodies, column by column, packed with zstd. The
strips of a row group are in the file behind it, where readers of Parquet do not look. A page whose
requests are spread over a file unpacks the strips that have them, and not whole columns.

The index is stored beside the file's filters, in three parts:

    kinds   each combination of route, target, class, status and key; each strip's place in the
            file, its first number, and the first and the last of its moments
    rows    which of the combinations each request has
    users   two bytes of a hash of each request's user

So which requests have a kind and a key is known before the file is opened. A file that was sealed
by an earlier version has no index; neither has one whose rows JSON cannot express.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from router.datasets.artifacts import Artifacts
from router.sealing.queries import Row, damaged, newest_rows
from router.store.columns.traffic import FIRST_COLUMNS, KIND_COLUMNS, TRAFFIC_COLUMNS
from router.store.sealed_traffic import FileField, IndexPart, Kind, SealedFile, kind_matches
from router.store.traffic import TrafficFilter

STRIP_ROWS = 256
# What is longer is not packed, so a damaged file cannot ask for more memory than this.
_BYTES_AT_ONCE = 64 * 2**20
_PLACE = {name: place for place, name in enumerate(TRAFFIC_COLUMNS)}
_FRACTIONS = ("at", "cost_usd", "first_byte_s", "total_s")
_ORDINAL, _HASH = "<u4", "<u2"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[list[Any]]).decode


class _Kinds(msgspec.Struct, array_like=True):
    """The part `kinds` of an index; arrays of numbers are bytes.

    Attributes:
        kinds, keys: each once.
        kind_of, key_of: of each combination.
        offsets, sizes, lengths: of each strip: where it is in the file, its bytes, its requests.
        numbers, earliest, latest: of each strip: the first number, and the ends of its time.
    """

    kinds: list[Kind]
    keys: list[str]
    kind_of: bytes
    key_of: bytes
    offsets: bytes
    sizes: bytes
    lengths: bytes
    numbers: bytes
    earliest: bytes
    latest: bytes


_read_kinds = msgspec.msgpack.Decoder(_Kinds).decode
_UNREADABLE = (msgspec.MsgspecError, pa.ArrowException, OSError, ValueError, IndexError)


class StripWriter:
    """Makes the strips of a file, and its index."""

    def __init__(self) -> None:
        self._combinations: dict[tuple[Kind, str], int] = {}
        self._rows: list[int] = []
        self._users: list[int] = []
        self._strips: list[tuple[int, int, int, int, float, float]] = []
        self._expressible = True

    def add(self, table: Any, offset: int) -> bytes:
        """Return the strips of a row group, which begin at an offset of the file."""
        strips = bytearray()
        table = table.select(TRAFFIC_COLUMNS)
        for first in range(0, table.num_rows, STRIP_ROWS):
            # One strip at a time, because this keeps other threads from running.
            columns = [column.to_pylist() for column in table.slice(first, STRIP_ROWS).columns]
            data = _encode(columns)
            self._expressible = (
                self._expressible and len(data) <= _BYTES_AT_ONCE and _is_expressible(columns)
            )
            if not self._expressible:
                return b""
            strip = _packed(data)
            numbers, moments = columns[_PLACE["number"]], columns[_PLACE["at"]]
            place = offset + len(strips), len(strip), len(numbers)
            self._strips.append((*place, numbers[0], min(moments), max(moments)))
            strips += strip
            kinds = zip(*(columns[_PLACE[name]] for name in KIND_COLUMNS), strict=True)
            known = self._combinations
            self._rows += [
                known.setdefault(combination, len(known))
                for combination in zip(kinds, columns[_PLACE["key_id"]], strict=True)
            ]
            self._users += map(_hash, columns[_PLACE["user_id"]])
        return bytes(strips)

    def index(self) -> dict[FileField, bytes]:
        """Return the parts of the index; none where some row is not in a strip."""
        if not self._expressible or not self._strips:
            return {}
        kinds = {kind: n for n, kind in enumerate(dict.fromkeys(k for k, _ in self._combinations))}
        keys = {key: n for n, key in enumerate(dict.fromkeys(k for _, k in self._combinations))}
        offsets, sizes, lengths, numbers, earliest, latest = zip(*self._strips, strict=True)
        head = _Kinds(
            kinds=list(kinds),
            keys=list(keys),
            kind_of=_array([kinds[kind] for kind, _ in self._combinations], _ORDINAL),
            key_of=_array([keys[key] for _, key in self._combinations], _ORDINAL),
            offsets=_array(offsets, "<i8"),
            sizes=_array(sizes, _ORDINAL),
            lengths=_array(lengths, _ORDINAL),
            numbers=_array(numbers, "<i8"),
            earliest=_array(earliest, "<f8"),
            latest=_array(latest, "<f8"),
        )
        kinds_part = msgspec.msgpack.encode(head)
        if len(kinds_part) > _BYTES_AT_ONCE:
            return {}
        return {
            "kinds": _packed(kinds_part),
            "rows": _packed(_array(self._rows, _ORDINAL)),
            "users": _packed(_array(self._users, _HASH)),
        }


class FileIndex:
    """What an index says of a file.

    Args:
        kinds: its part of that name.

    Raises:
        ValueError: it cannot be read.
    """

    def __init__(self, kinds: bytes) -> None:
        try:
            head = _read_kinds(_unpacked(kinds))
        except _UNREADABLE as error:
            raise ValueError(str(error)) from error
        self._kinds, self._keys = head.kinds, head.keys
        self._kind_of = np.frombuffer(head.kind_of, _ORDINAL)
        self._key_of = np.frombuffer(head.key_of, _ORDINAL)
        self.offsets = np.frombuffer(head.offsets, "<i8").tolist()
        self.sizes = np.frombuffer(head.sizes, _ORDINAL).tolist()
        self.numbers = np.frombuffer(head.numbers, "<i8")
        self._lengths = np.frombuffer(head.lengths, _ORDINAL).astype(np.int64)
        self._earliest = np.frombuffer(head.earliest, "<f8")
        self._latest = np.frombuffer(head.latest, "<f8")
        self.starts = np.cumsum(self._lengths) - self._lengths

    def parts_for(self, matching: TrafficFilter) -> set[IndexPart]:
        """Return which other parts tell whether a request may match."""
        parts: set[IndexPart] = {"users"} if matching.user is not None else set()
        chosen = self._combinations(matching)
        return parts | {"rows"} if chosen.any() and not chosen.all() else parts

    def may_have(self, matching: TrafficFilter) -> bool:
        """Return whether a request may match, as far as this part says."""
        return bool(self._combinations(matching).any() and self._strips(matching, None).any())

    def places(
        self, matching: TrafficFilter, parts: dict[IndexPart, bytes], before: int | None
    ) -> Any:
        """Return which rows of the file may match, in their order, as an array."""
        chosen = np.repeat(self._strips(matching, before), self._lengths)
        if "rows" in parts:
            rows = np.frombuffer(_unpacked(parts["rows"]), _ORDINAL)
            chosen &= self._combinations(matching)[rows]
        if matching.user is not None and "users" in parts:
            chosen &= np.frombuffer(_unpacked(parts["users"]), _HASH) == _hash(matching.user)
        return np.flatnonzero(chosen)

    def _combinations(self, matching: TrafficFilter) -> Any:
        kinds = np.fromiter((kind_matches(kind, matching) for kind in self._kinds), bool)
        chosen = kinds[self._kind_of]
        if matching.key_id is not None:
            keys = np.fromiter((key == matching.key_id for key in self._keys), bool)
            chosen &= keys[self._key_of]
        return chosen

    def _strips(self, matching: TrafficFilter, before: int | None) -> Any:
        chosen = np.ones(len(self._lengths), bool)
        if matching.since is not None:
            chosen &= self._latest >= matching.since
        if matching.until is not None:
            chosen &= self._earliest < matching.until
        if before is not None:
            chosen &= self.numbers < before
        return chosen


def indexes(
    kinds: dict[int, bytes], matching: TrafficFilter
) -> tuple[set[int], dict[int, tuple[FileIndex, set[IndexPart]]]]:
    """Return of which files the index can be read, and which of those may have what matches.

    Args:
        kinds: that part of the files' indexes.
        matching: which requests.

    Returns:
        The files by the keys of `kinds`; the second with its index, and the parts that it needs.
    """
    known = set()
    possible = {}
    for number, data in kinds.items():
        try:
            index = FileIndex(data)
        except ValueError:
            continue
        known.add(number)
        if index.may_have(matching):
            possible[number] = index, index.parts_for(matching)
    return known, possible


class IndexedFile(msgspec.Struct, frozen=True):
    """A file, its index, and the other parts of that which the filter needs."""

    file: SealedFile
    index: FileIndex
    parts: dict[IndexPart, bytes]


def page(
    artifacts: Artifacts,
    files: Sequence[IndexedFile],
    matching: TrafficFilter,
    *,
    limit: int,
    before: int | None = None,
    above: int = -1,
) -> list[Row]:
    """Return the newest requests that match as TRAFFIC_COLUMNS, with numbers above `above`.

    The filter has no name that few requests have: of those there is no index.

    Raises:
        NotFoundError: a file is gone.
        ArtifactError: one cannot be read.
    """
    by_number = {indexed.file.number: indexed for indexed in files}

    def read(file: SealedFile, lowest: int) -> list[Row]:
        return _newest(artifacts, by_number[file.number], matching, limit, before, above=lowest)

    return newest_rows([indexed.file for indexed in files], limit, read, above)


def _newest(
    artifacts: Artifacts,
    indexed: IndexedFile,
    matching: TrafficFilter,
    limit: int,
    before: int | None,
    *,
    above: int,
) -> list[Row]:
    file, index = indexed.file, indexed.index
    before = file.visible_before(before)
    rows: list[Row] = []
    try:
        places = index.places(matching, indexed.parts, before)
        if not len(places):
            return rows
        with artifacts.open(file.key, file.size) as source:
            for strip, some in _by_strip(index, places):
                columns = _read(source, index, strip)
                for place in some:
                    row = tuple(column[place] for column in columns)
                    if row[0] <= above:
                        return rows
                    if _matches(row, matching, before):
                        rows.append(row)
                        if len(rows) == limit:
                            return rows
    except _UNREADABLE as error:
        raise damaged(file, error) from error
    return rows


def _by_strip(index: FileIndex, places: Any) -> Iterator[tuple[int, list[int]]]:
    """Yield strips with the places in them, both the last first."""
    end = len(places)
    while end:
        strip = int(np.searchsorted(index.starts, places[end - 1], "right")) - 1
        first = int(np.searchsorted(places, index.starts[strip]))
        yield strip, (places[first:end] - index.starts[strip])[::-1].tolist()
        end = first


def _read(source: Any, index: FileIndex, strip: int) -> list[list[Any]]:
    source.seek(index.offsets[strip])
    columns = _decode(_unpacked(source.read(index.sizes[strip])))
    later = len(TRAFFIC_COLUMNS) - len(columns)
    if later not in {0, len(TRAFFIC_COLUMNS) - FIRST_COLUMNS}:
        raise ValueError("it is not the file that was sealed")
    if columns[0][0] != index.numbers[strip]:
        raise ValueError("it is not the file that was sealed")
    return [*columns, *[[None] * len(columns[0])] * later]


def _matches(row: Row, matching: TrafficFilter, before: int | None) -> bool:
    """Check what the index does not know exactly."""
    moment = row[_PLACE["at"]]
    return (
        (before is None or row[0] < before)
        and (matching.since is None or moment >= matching.since)
        and (matching.until is None or moment < matching.until)
        and matching.user in {None, row[_PLACE["user_id"]]}
    )


def _is_expressible(columns: Sequence[list[Any]]) -> bool:
    """Return whether JSON has the fractions, and the index what it indexes."""
    indexed = (*KIND_COLUMNS, "key_id", "user_id", "at")
    return all(
        value is None or math.isfinite(value)
        for name in _FRACTIONS
        for value in columns[_PLACE[name]]
    ) and not any(None in columns[_PLACE[name]] for name in indexed)


def _hash(value: str) -> int:
    return zlib.crc32(value.encode("utf-8", "surrogatepass")) & 0xFFFF


def _array(values: Sequence[float], kind: str) -> bytes:
    return np.array(values, kind).tobytes()


def _packed(data: bytes) -> bytes:
    """Pack bytes; how many they are comes first."""
    packed: bytes = pa.compress(data, codec="zstd", asbytes=True)
    return len(data).to_bytes(4, "little") + packed


def _unpacked(data: bytes) -> bytes:
    size = int.from_bytes(data[:4], "little")
    if size > _BYTES_AT_ONCE:
        raise ValueError("it says that it is too long")
    unpacked: bytes = pa.decompress(
        memoryview(data)[4:], decompressed_size=size, codec="zstd", asbytes=True
    )
    return unpacked
