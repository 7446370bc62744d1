"""Compares stated numbers with recomputed ones, and names those that differ.

    compared = differences(stated, recomputed)
    compared.alike           # how many numbers, texts and yes-or-nos agree
    compared.shown           # Difference(what="report.routes[a].scores[rougeL].low", ...)

Numbers agree where they differ by less than 1e-9 of their size: other processors and other versions
of numpy add up in another order.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec

RELATIVE, ABSOLUTE = 1e-9, 1e-12
MAX_SHOWN = 200
# An element of a list is called by these of its fields.
_NAMES = ("gate", "route", "output", "judge", "metric", "signal", "name", "code")


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A number that differs.

    Attributes:
        what: where it is.
        stated: as the bundle has it.
        recomputed: as it comes out here.
        is_text: whether it is one for people, such as a warning.
    """

    what: str
    stated: Any
    recomputed: Any
    is_text: bool = False


class Compared(msgspec.Struct):
    """What came of a comparison.

    Attributes:
        alike: how many values agree.
        differing: how many do not.
        shown: the first of these.
    """

    alike: int = 0
    differing: int = 0
    shown: list[Difference] = []

    def add(self, difference: Difference) -> None:
        """Count a difference, and keep it if it is one of the first."""
        self.differing += 1
        if len(self.shown) < MAX_SHOWN:
            self.shown.append(difference)


_TEXTS = frozenset({"warnings", "notes", "example", "method", "description", "why", "note"})


def differences(stated: Any, recomputed: Any, *, leave_out: Collection[str] = ()) -> Compared:
    """Compare two values of the same type; paths that `leave_out` has are left out."""
    compared = Compared()
    for path, ours, theirs, is_text in _leaves(
        msgspec.to_builtins(stated), msgspec.to_builtins(recomputed), "", is_text=False
    ):
        if path in leave_out:
            continue
        if is_alike(ours, theirs):
            compared.alike += 1
        else:
            compared.add(Difference(what=path, stated=ours, recomputed=theirs, is_text=is_text))
    return compared


def is_alike(ours: Any, theirs: Any) -> bool:
    """Return whether two numbers, texts, booleans or nulls are the same."""
    numbers = (int, float)
    if isinstance(ours, bool) or isinstance(theirs, bool):
        return ours is theirs
    if isinstance(ours, numbers) and isinstance(theirs, numbers):
        try:
            return math.isclose(ours, theirs, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
        except OverflowError:
            return ours == theirs
    return bool(ours == theirs)


_MISSING = "(missing)"


def _leaves(
    ours: Any, theirs: Any, path: str, *, is_text: bool
) -> Iterator[tuple[str, Any, Any, bool]]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for name in [*ours, *(name for name in theirs if name not in ours)]:
            inner = f"{path}.{name}" if path else str(name)
            yield from _leaves(
                ours.get(name, _MISSING),
                theirs.get(name, _MISSING),
                inner,
                is_text=is_text or name in _TEXTS,
            )
        return
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        for n in range(max(len(ours), len(theirs))):
            ourselves = ours[n] if n < len(ours) else _MISSING
            others = theirs[n] if n < len(theirs) else _MISSING
            yield from _leaves(
                ourselves, others, f"{path}[{_name(ourselves, others, n)}]", is_text=is_text
            )
        return
    yield path, ours, theirs, is_text


def _name(ours: Any, theirs: Any, number: int) -> str:
    """Return what an element of a list is called."""
    named = ours if isinstance(ours, Mapping) else theirs
    if isinstance(named, Mapping) and "revision" in named:
        return str(named["revision"])
    if isinstance(named, Mapping):
        names = [str(named[name]) for name in _NAMES if isinstance(named.get(name), str | int)]
        if names:
            return ", ".join(names)
    return str(number)
