"""Writes the entries of a bundle as files, and takes their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from router.loop.bundles.contents import BundleEntry, canonical

# The entry that is written, and how many rows it has so far.
ProgressCallback = Callable[[str, int], None]


class EntryWriter:
    """Writes the entries of a bundle into a folder, and counts their bytes and rows.

    Args:
        folder: an empty folder.
        progress: called with the entry that is written, and how many rows it has so far.
    """

    def __init__(self, folder: Path, progress: ProgressCallback) -> None:
        self.folder = folder
        self._progress = progress
        self._in_lines: dict[str, _EntryInLines] = {}
        self.entries: list[BundleEntry] = []

    def add(self, name: str, rows: Iterable[Any]) -> None:
        """Write rows to the end of an entry that is in lines. Blocks."""
        entry = self._in_lines.get(name)
        if entry is None:
            entry = self._in_lines[name] = _EntryInLines(self.folder / name)
        for row in rows:
            entry.write(canonical(row) + b"\n")
        self._progress(name, entry.rows)

    def whole(self, name: str, content: bytes) -> None:
        """Write an entry that is not in lines. Blocks."""
        (self.folder / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        self.entries.append(BundleEntry(name=name, size=len(content), sha256=digest))

    def close(self) -> None:
        """Complete the entries in lines."""
        self.entries += [entry.complete() for entry in self._in_lines.values()]
        self._in_lines.clear()


class _EntryInLines:
    """An entry in lines while it is written."""

    def __init__(self, path: Path) -> None:
        self.rows = 0
        self._path = path
        self._file = path.open("wb")
        self._digest = hashlib.sha256()

    def write(self, line: bytes) -> None:
        """Write a line. Blocks."""
        self._file.write(line)
        self._digest.update(line)
        self.rows += 1

    def complete(self) -> BundleEntry:
        """Close the file; return what the manifest says of it."""
        size = self._file.tell()
        self._file.close()
        return BundleEntry(
            name=self._path.name, size=size, sha256=self._digest.hexdigest(), rows=self.rows
        )
