"""Which files the strings of a document name, and whether they may be opened.

    baseline: Annotated[str, Opens("file")] | None = None     # an option of a metric

A server that takes documents from others reads these declarations (`registry.openings`), so an
option that is used as a path must have one; `tests/evaluators/metrics/test_openings.py` finds
those that do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from providers.plugins import PluginGroup, find

OpenedKind = Literal["file", "model", "program", "hub_metric"]


class Opens(msgspec.Struct, frozen=True):
    """The declaration that an option's text names something to be opened.

    Attributes:
        what: `file` is read; `model` is a folder or a name on the Hugging Face hub, and is loaded;
            `program` is a Python file or a folder with one, and is run; `hub_metric` is a metric
            of the Hugging Face hub, and is run.
        names: texts that stand for something that ships with evalrouter, and open no other file.
        installed: the group of entry points whose names do the same for what packages install;
            None for none.
    """

    what: OpenedKind
    names: tuple[str, ...] = ()
    installed: PluginGroup | None = None

    def is_name(self, text: str) -> bool:
        """Return whether a text stands for something that ships, or that a package installs."""
        if text in self.names:
            return True
        return self.installed is not None and text in find(self.installed, built_in=()).usable


def is_file(path: Path) -> bool:
    """Return whether the path leads to a file; False where it cannot be a path at all."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Return whether the path leads to a folder; False where it cannot be a path at all."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_below(named: str, roots: Iterable[str | Path], *, base: Path | None = None) -> bool:
    """Return whether a path, links followed, leads to a place below one of the folders.

    A text that libraries might not read as a plain path is refused: a URL, a leading `~`,
    backslashes and control characters.

    Args:
        named: the path as the document has it.
        roots: folders.
        base: the folder that a relative path starts from; None for the working directory.
    """
    if not named.isprintable() or named.startswith("~") or "\\" in named or "://" in named:
        return False
    try:
        path = ((base or Path()) / named).resolve()
        return any(path.is_relative_to(Path(root).resolve()) for root in roots)
    except (OSError, ValueError, RuntimeError):
        # A circle of links is a RuntimeError before Python 3.13.
        return False
