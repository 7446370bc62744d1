"""Keeps what has been counted in a file, so that a table that was interrupted goes on.

    journal = Journal(Path("counts.jsonl"), Draws(code(), 10_000, 0))
    journal.add(cell.title, counts)
    journal.counts()                     # title to counts

Each cell has random numbers of its own, so a table made in several goes is that of one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import msgspec

from evidence.measures import Counts

ROOT = Path(__file__).parents[1]
PRINTING = ("__main__.py", "journal.py", "simulation.py", "table.py")
"""The files of this package that no count depends on."""
LIVE = (
    "drift.py",
    "learned_route.py",
    "off_policy.py",
    "randomised.py",
    "recent_quantile.py",
    "rollouts.py",
    "what_if.py",
)
"""Statistics of live traffic and their tables, which no count of this table depends on."""


class Draws(NamedTuple):
    """What the counts of a cell depend on.

    Attributes:
        code: a digest of the files that count.
        replications: draws of most cells.
        seed: of the draws.
    """

    code: str
    replications: int
    seed: int


class Line(NamedTuple):
    """One line of the file, as JSON."""

    draws: Draws
    title: str
    counts: Counts


class Journal:
    """The counts in a file, one cell a line."""

    def __init__(self, path: Path, draws: Draws) -> None:
        self._path, self._draws = path, draws

    def counts(self) -> dict[str, Counts]:
        """Return the counts by the titles of their cells, without those of other code or draws."""
        if not self._path.exists():
            return {}
        lines = [
            msgspec.json.decode(line, type=Line) for line in self._path.read_bytes().splitlines()
        ]
        return {line.title: line.counts for line in lines if line.draws == self._draws}

    def add(self, title: str, counts: Counts) -> None:
        """Write a line."""
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(Line(self._draws, title, counts)) + b"\n")


def code() -> str:
    """Return a digest of the files that the counts depend on."""
    files = [*(ROOT / "evaluators" / "stats").glob("*.py"), *(ROOT / "evidence").glob("*.py")]
    digest = hashlib.sha256()
    for path in sorted(files):
        if path.name not in PRINTING + LIVE:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
