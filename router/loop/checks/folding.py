"""Texts in one way of writing, so that a recogniser needs to know one only.

    folded = fold("0171\u200b\u20102345678")    # folded.text == "0171-2345678"
    folded.original(0, 5)                      # the same characters in the text itself

Digits of all scripts become 0 to 9, full-width and other compatibility forms their plain ones, all
dashes and blanks `-` and ` `. Invisible characters are left out.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from functools import lru_cache
from typing import NamedTuple


class FoldedText(NamedTuple):
    """A text in one way of writing, and where its characters were.

    Attributes:
        text: the folded text.
        starts, origins: for each run of characters that stayed as they were or became others:
            where it starts in `text`, and where in the original. Two lists of the same length.
    """

    text: str
    starts: list[int]
    origins: list[int]

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Return the characters of the original text that became `text[start:end]`."""
        return self._original(start), self._original(end - 1) + 1

    def _original(self, place: int) -> int:
        run = bisect_right(self.starts, place) - 1
        following = self.origins[run + 1] if run + 1 < len(self.origins) else None
        origin = self.origins[run] + place - self.starts[run]
        # One character may have become several.
        return origin if following is None else min(origin, following - 1)


def fold(text: str) -> FoldedText:
    """Return the text in one way of writing; in linear time."""
    if text.isascii():
        return FoldedText(text, [0], [0])
    forms = {character: _folded(character) for character in set(text)}
    forms = {character: form for character, form in forms.items() if form != character}
    if not forms:
        return FoldedText(text, [0], [0])
    pieces: list[str] = []
    starts, origins = [0], [0]
    length = behind = 0
    for place, character in enumerate(text):
        form = forms.get(character)
        if form is None:
            continue
        piece = text[behind:place]
        pieces += (piece, form)
        length += len(piece)
        behind = place + 1
        if form:
            starts.append(length)
            origins.append(place)
        length += len(form)
        starts.append(length)
        origins.append(behind)
    pieces.append(text[behind:])
    return FoldedText("".join(pieces), starts, origins)


@lru_cache(4096)
def _folded(character: str) -> str:
    category = unicodedata.category(character)
    if character.isascii():
        return character
    if category == "Nd":
        return str(unicodedata.digit(character))
    if category == "Pd" or character in "\u2212\u2043":
        return "-"
    if category == "Zs":
        return " "
    # Signs of direction, zero-width blanks and joiners, soft hyphens, variation selectors.
    if category == "Cf" or 0xFE00 <= ord(character) <= 0xFE0F:
        return ""
    form = unicodedata.normalize("NFKC", character)
    # A form of several characters that begins with a blank is an accent on its own.
    return character if form.startswith(" ") else form
