"""Survivors that are known, each with the reason why no test kills it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path

FILE = Path(__file__).with_name("survivors.toml")


def explained(module: str, file: Path = FILE) -> dict[str, str]:
    """Return the changes of a module that are known to survive, with their reasons.

    Raises:
        ValueError: an entry lacks its reason.
    """
    known: dict[str, str] = {}
    for entry in tomllib.loads(file.read_text()).get(module, ()):
        if not entry["reason"].strip():
            raise ValueError(f"{file.name}: a survivor of {module} lacks its reason")
        known |= dict.fromkeys((change.strip() for change in entry["changes"]), entry["reason"])
    return known


def modules(file: Path = FILE) -> set[str]:
    """Return the modules that have survivors."""
    return set(tomllib.loads(file.read_text()))


def may_exist(change: str, source: str) -> bool:
    """Whether the lines that a change replaces are still in the source."""
    lines = {line.strip() for line in source.splitlines()}
    return all(line[2:] in lines for line in change.splitlines() if line.startswith("- "))


def add(module: str, changes: Iterable[str], file: Path = FILE) -> None:
    """Add survivors, in one entry whose reason has to be written yet."""
    quoted = "".join(f"'''\n{change}''',\n" for change in changes)
    with file.open("a") as end:
        end.write(f'\n[[{module}]]\nreason = ""\nchanges = [\n{quoted}]\n')
