"""What checks report: places in texts, and what was done about them. Never the values themselves.

A recogniser is a function of a `FoldedText` that yields a `Span` for each value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import msgspec

from router.loop.checks.folding import FoldedText

DataKind = Literal["email", "phone", "iban", "card", "national_id", "ip", "secret", "media"]
PrankKind = Literal["duplicate", "near_duplicate", "too_short", "language", "injection", "toxicity"]
Action = Literal["placeholder", "mask", "drop", "keep", "flag", "unchecked"]


class CheckFinding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that a check noticed in a row.

    Attributes:
        kind: what it is.
        action: what was done: replaced by a placeholder, masked, kept, flagged for a person, or
            the row is to be left out (`drop`). Of `unchecked`, a check that could not be made,
            `detail` says why.
        place: the text, as `messages[0].content`; "" for the row as a whole.
        start, end: the characters of that text after the check, which replaced the value.
        detail: what a person needs to know besides, such as the language; never the value.
    """

    kind: DataKind | PrankKind
    action: Action
    place: str = ""
    start: int | None = None
    end: int | None = None
    detail: str = ""


class Span(NamedTuple):
    """A value in a folded text.

    Attributes:
        start, end: its characters.
        value: the value in one way of writing, so that others get the same placeholder.
    """

    start: int
    end: int
    value: str


Recogniser = Callable[[FoldedText], Iterator[Span]]

# A pattern is matched against so many characters at a time, so that neither a pattern's worst case
# nor the time in which nothing else runs grows with the text.
_WINDOW = 4096
_LONGEST = 512


def matches(
    pattern: re.Pattern[str], text: str, start: int = 0, end: int | None = None
) -> Iterator[re.Match[str]]:
    """Yield the matches of a pattern in `text[start:end]`; one is seen up to 512 characters."""
    end = len(text) if end is None else min(end, len(text))
    behind = start
    for place in range(start, end, _WINDOW):
        last = min(place + _WINDOW + _LONGEST, end)
        for match in pattern.finditer(text, max(place, behind), last):
            if match.start() >= place + _WINDOW:
                break
            behind = match.end()
            yield match
