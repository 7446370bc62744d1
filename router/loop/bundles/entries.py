"""Writes the entries of a bundle as files, and takes their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from router.loop.bundles.contents import BundleEntry, canonical

# The entry that is written, and how many rows it has so far.
ProgressCallback = Callable[[str, int], None]


class EntryWriter:
    """Writes the entries of a bundle into a folder, and counts their bytes and rows.

    Args:
        folder: an empty folder.
        progress: is told how many rows an entry has.
    """

    def __init__(self, folder: Path, progress: ProgressCallback) -> None:
        self.folder = folder
        self._progress = progress
        self._files: dict[str, BinaryIO] = {}
        self._digests: dict[str, Any] = {}
        self._rows: dict[str, int] = {}
        self.entries: list[BundleEntry] = []

    def add(self, name: str, rows: Iterable[Any]) -> None:
        """Write rows to the end of an entry that is in lines. Blocks."""
        if name not in self._files:
            self._files[name] = (self.folder / name).open("wb")
            self._digests[name] = hashlib.sha256()
            self._rows[name] = 0
        for row in rows:
            line = canonical(row) + b"\n"
            self._files[name].write(line)
            self._digests[name].update(line)
            self._rows[name] += 1
        self._progress(name, self._rows[name])

    def whole(self, name: str, content: bytes) -> None:
        """Write an entry that is not in lines. Blocks."""
        (self.folder / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        self.entries.append(BundleEntry(name=name, size=len(content), sha256=digest))

    def close(self) -> None:
        """Complete the entries in lines."""
        for name, file in self._files.items():
            size = file.tell()
            file.close()
            self.entries.append(
                BundleEntry(
                    name=name,
                    size=size,
                    sha256=self._digests[name].hexdigest(),
                    rows=self._rows[name],
                )
            )
        self._files.clear()
