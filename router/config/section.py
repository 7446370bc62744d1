"""What every section of the config is made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from router.config.documents import (
    UNREAD,
    Document,
    DocumentPath,
    Problem,
    convert_or_collect,
    convert_rest,
)

S = TypeVar("S", bound=msgspec.Struct)

# `models/<name>` stands for a model of the section `models:`, where a run loads it itself.
IN_PLACE = "models"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")

# SQLite's integers, and a float's whole numbers, go further.
Count = Annotated[int, msgspec.Meta(ge=1, le=10**15)]

# Each is compared with the others, or tried in its turn.
MAX_NAMES = 256
Names = Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_NAMES)]
# Keys are as many as an organisation has teams and programs.
KeyNames = Annotated[tuple[str, ...], msgspec.Meta(max_length=1000)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything a config file may say."""


class SectionReader:
    """Reads the sections of a config, and collects everything that is wrong with them.

    Args:
        document: the config, an object.
        problems: what is known to be wrong with it.

    Attributes:
        document, problems: see above.
    """

    def __init__(self, document: Document, problems: list[Problem]) -> None:
        self.document = document
        self.problems = problems

    def refuse(self, place: DocumentPath, message: str) -> None:
        """Add a problem."""
        self.problems.append(self.document.problem(place, message))

    def add(self, problems: Iterable[Problem]) -> None:
        """Add problems, except those of a place where something else is wrong.

        They were looked for without the values that are wrong, and may only say that one lacks.
        """
        known = {problem.place for problem in self.problems}
        self.problems += [problem for problem in problems if problem.place not in known]

    def is_wrong(self, place: DocumentPath) -> bool:
        """Whether something is wrong at a place or within it."""
        return any(problem.place[: len(place)] == place for problem in self.problems)

    def convert(self, place: DocumentPath, kind: type[S]) -> S | None:
        """Return the Struct at a place, for further checks without what is wrong with it.

        None where nothing can be made of it.
        """
        value = convert_or_collect(self.document, kind, self.problems, place=place)
        if value is None:
            value = convert_rest(self.document, kind, self.problems, place=place)
        return value

    def section(self, name: str, kind: type[S]) -> S:
        """Return a section that is one Struct; defaults for what is absent or wrong."""
        section = self.convert((name,), kind) if name in self.document.data else None
        return kind() if section is None else section

    def scalar(self, name: str, kind: Any, default: Any) -> Any:
        """Return a section that is one value; the default where it is absent or wrong."""
        if name not in self.document.data:
            return default
        value = convert_or_collect(self.document, kind, self.problems, place=(name,))
        return default if value is None else value

    def named(self, section: str) -> Mapping[str, Any] | None:
        """Return the entries of a section that maps names to settings; None for another one."""
        entries = self.document.data.get(section, {})
        if isinstance(entries, dict):
            return entries
        if entries is not UNREAD:
            self.refuse((section,), "must map names to settings")
        return None

    def entries(self, section: str, kind: type[S]) -> dict[str, S]:
        """Return the entries of a section by name, as far as something can be made of them."""
        entries = {name: self.convert((section, name), kind) for name in self.named(section) or ()}
        return {name: entry for name, entry in entries.items() if entry is not None}
