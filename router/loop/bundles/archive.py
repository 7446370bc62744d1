"""The archive of a bundle: a zip file that is the same for the same entries, read within bounds.

    write_archive(path, {"manifest.json": folder / "manifest.json"})

    with open_archive(path) as archive:
        archive.size("manifest.json")
        archive.read("manifest.json", MAX_MANIFEST)
        for line in archive.lines("samples.jsonl"): ...

Nothing is unpacked onto the disk, and no entry is read before the directory of the archive has been
checked: how many entries it has, what they are called and how large they say they are. What they
say is also the most that is read of them.
"""

from __future__ import annotations

import hashlib
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from providers.errors import EvidenceError
from providers.plain_files import open_plain_file

MAX_ENTRIES = 64
# What a zip file can hold without its extension for larger ones, which is not read here.
MAX_ARCHIVE_BYTES = 2**32 - 2
MAX_UNPACKED_BYTES = 64 * 2**30
# Bytes that one byte of an archive may become. Rows that are nearly alike come to a hundred.
MAX_RATIO = 400
MAX_LINE_BYTES = 64 * 2**20

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_END = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\x05\x06"
_LARGE_LOCATOR = b"PK\x06\x07"
_LARGE_LOCATOR_SIZE = 20
# Of an entry in the directory, with the longest name and no more than the fields that are written.
_MAX_DIRECTORY_BYTES = MAX_ENTRIES * 256
_CHUNK = 1 << 20
_ENCRYPTED = 0x1
# The oldest moment that a zip file can name: a bundle has none of its own.
_DATE = (1980, 1, 1, 0, 0, 0)
_MODE = stat.S_IFREG | 0o644


def write_archive(path: Path, entries: Mapping[str, Path]) -> None:
    """Write files as the entries of an archive, in their order. Blocks.

    Raises:
        EvidenceError: they are too large for one.
        OSError: a file cannot be read or written.
    """
    try:
        with zipfile.ZipFile(path, "x", allowZip64=False) as archive:
            for name, source in entries.items():
                info = zipfile.ZipInfo(name, _DATE)
                info.create_system = 3  # Unix, whatever this is
                info.external_attr = _MODE << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                info.file_size = source.stat().st_size
                with source.open("rb") as file, archive.open(info, "w") as entry:
                    while chunk := file.read(_CHUNK):
                        entry.write(chunk)
    except (zipfile.LargeZipFile, RuntimeError) as error:
        raise EvidenceError(
            f"the bundle is too large for a zip file (4 GiB): {error}; write it with hashes in "
            "place of texts (`hashes`)"
        ) from error


class Archive:
    """The entries of an archive whose directory has been checked.

    Args:
        file: the archive's.
        where: what errors call it.
    """

    def __init__(self, file: IO[bytes], where: str) -> None:
        self._where = where
        self.bytes = file.seek(0, 2)
        _check_end(file, self.bytes, where)
        try:
            self._zip = zipfile.ZipFile(file)
            infos = self._zip.infolist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError) as error:
            raise EvidenceError(f"{where}: not a bundle of evidence: {error}") from error
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            self._check(info)
            self._entries[info.filename] = info
        total = sum(info.file_size for info in infos)
        if total > MAX_UNPACKED_BYTES:
            raise EvidenceError(
                f"{where}: its entries say that they are {total:,} bytes; the limit is "
                f"{MAX_UNPACKED_BYTES:,}"
            )
        if sum(info.compress_size for info in infos) > self.bytes:
            raise EvidenceError(f"{where}: entries of the archive overlap")

    def _check(self, info: zipfile.ZipInfo) -> None:
        name, where = info.filename, self._where
        # The original is what the archive says; zipfile has cut it at a null byte.
        if not _NAME.fullmatch(name) or info.orig_filename != name:
            raise EvidenceError(f"{where}: an entry is named {info.orig_filename[:80]!r}")
        if name in self._entries:
            raise EvidenceError(f"{where}: two entries are named {name}")
        # Programs of other systems say nothing of the kind.
        if stat.S_IFMT(info.external_attr >> 16) not in {0, stat.S_IFREG}:
            raise EvidenceError(f"{where}: {name} is a link or a folder, and no file")
        if info.flag_bits & _ENCRYPTED:
            raise EvidenceError(f"{where}: {name} is encrypted")
        if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise EvidenceError(
                f"{where}: {name} is packed by method {info.compress_type}; a bundle's entries are "
                "stored or deflated"
            )
        if info.file_size > MAX_RATIO * max(info.compress_size, 1024):
            raise EvidenceError(
                f"{where}: {name} says that its {info.compress_size:,} bytes become "
                f"{info.file_size:,}, which is more than {MAX_RATIO} for each"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the entries, in their order."""
        return tuple(self._entries)

    def size(self, name: str) -> int:
        """Return how many bytes an entry has, as the archive says."""
        return self._entries[name].file_size

    def read(self, name: str, limit: int) -> bytes:
        """Return an entry of a limited size.

        Raises:
            EvidenceError: it is not there, larger, or damaged.
        """
        if name not in self._entries:
            raise EvidenceError(f"{self._where}: it has no {name}")
        if self.size(name) > limit:
            raise EvidenceError(
                f"{self._where}: {name} has {self.size(name):,} bytes, and {limit:,} is the limit"
            )
        return b"".join(self._chunks(name))

    def sha256(self, name: str, take: Callable[[bytes], None]) -> str:
        """Return the hash of an entry, hex; `take` is called with its bytes, piece by piece.

        Raises:
            EvidenceError: it is damaged.
        """
        digest = hashlib.sha256()
        for chunk in self._chunks(name):
            digest.update(chunk)
            take(chunk)
        return digest.hexdigest()

    def lines(self, name: str) -> Iterator[bytes]:
        """Yield the lines of an entry; none of one that is not there.

        Raises:
            EvidenceError: it is damaged, or a line is too long.
        """
        if name not in self._entries:
            return
        rest = b""
        for chunk in self._chunks(name):
            *lines, last = chunk.split(b"\n")
            if lines:
                lines[0] = rest + lines[0]
                rest = b""
                yield from lines
            rest += last
            if len(rest) > MAX_LINE_BYTES:
                raise EvidenceError(
                    f"{self._where}: a line of {name} has more than {MAX_LINE_BYTES:,} bytes"
                )
        if rest:
            raise EvidenceError(f"{self._where}: {name} ends within a line")

    def _chunks(self, name: str) -> Iterator[bytes]:
        """Yield an entry's bytes, as many as its size in the directory."""
        info = self._entries[name]
        left = info.file_size
        try:
            with self._zip.open(info) as entry:
                while left:
                    chunk = entry.read(min(_CHUNK, left))
                    if not chunk:
                        raise EvidenceError(f"{self._where}: {name} is shorter than it says")
                    left -= len(chunk)
                    yield chunk
                if entry.read(1):
                    raise EvidenceError(f"{self._where}: {name} is longer than it says")
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise EvidenceError(f"{self._where}: {name} is damaged: {error}") from error


def _check_end(file: IO[bytes], size: int, where: str) -> None:
    """Check the last record of the archive, which says how large its directory is."""
    if size > MAX_ARCHIVE_BYTES:
        raise EvidenceError(f"{where}: it has {size:,} bytes; {MAX_ARCHIVE_BYTES:,} is the limit")
    file.seek(max(0, size - _END.size - _LARGE_LOCATOR_SIZE))
    tail = file.read()
    end = tail[-_END.size :]
    if len(end) < _END.size or not end.startswith(_END_SIGNATURE):
        raise EvidenceError(
            f"{where}: not a bundle of evidence: it is no zip file, is cut off, or something was "
            "added to it"
        )
    _, disk, first_disk, here, entries, directory, offset, comment = _END.unpack(end)
    if comment or disk or first_disk or here != entries:
        raise EvidenceError(f"{where}: not a bundle of evidence: the archive has several parts")
    if tail[: -_END.size].startswith(_LARGE_LOCATOR) or entries > MAX_ENTRIES:
        raise EvidenceError(f"{where}: the archive has more than {MAX_ENTRIES} entries")
    if directory > _MAX_DIRECTORY_BYTES or offset + directory + _END.size != size:
        raise EvidenceError(f"{where}: not a bundle of evidence: the archive's directory is odd")


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an archive.

    Raises:
        EvidenceError: it is not there, or is no archive that a bundle can be.
    """
    try:
        file = open_plain_file(path)
    except OSError as error:
        raise EvidenceError(f"{path}: {error.strerror}") from error
    with file:
        try:
            yield Archive(file, path.name)
        except OSError as error:
            raise EvidenceError(f"{path}: {error.strerror}") from error
