"""Differences of two texts, word by word.

[DiffPiece(kind="same", text="It is "), DiffPiece(kind="removed", text="bad"), ...]
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

# Of each text; what comes behind them is not compared. They take some 30 ms at worst.
MAX_WORDS = 1_500
# Scripts that are written without spaces: each character is a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_WORD = re.compile(rf"[{_UNSPACED}]\s*|[^\s{_UNSPACED}]+\s*|\s+")

Kind = Literal["same", "added", "removed", "not compared"]


class DiffPiece(NamedTuple):
    """A part of a text.

    Attributes:
        kind: whether both texts have it, only the second or only the first; or that it is behind
            the words that are compared.
        text: the words, with the spaces behind them.
    """

    kind: Kind
    text: str


def word_diff(before: str, after: str) -> list[DiffPiece]:
    """Return the second text in pieces, with what only the first has between them.

    Words are the same that differ only in the spaces behind them.
    """
    old, _ = _words(before)
    new, rest = _words(after)
    return list(_joined([*_pieces(old, new), DiffPiece("not compared", rest)]))


def _words(text: str) -> tuple[list[str], str]:
    """Return the first MAX_WORDS words of a text, and what follows them."""
    words: list[str] = []
    end = 0
    for match in _WORD.finditer(text):
        if len(words) == MAX_WORDS:
            break
        words.append(match[0])
        end = match.end()
    return words, text[end:]


def _pieces(old: Sequence[str], new: Sequence[str]) -> Iterator[DiffPiece]:
    matcher = SequenceMatcher(
        None, [word.rstrip() for word in old], [word.rstrip() for word in new]
    )
    for _, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        removed, text = "".join(old[old_start:old_end]), "".join(new[new_start:new_end])
        if removed.split() == text.split():
            yield DiffPiece("same", text)
            continue
        yield DiffPiece("removed", removed)
        yield DiffPiece("added", text)


def _joined(pieces: Sequence[DiffPiece]) -> Iterator[DiffPiece]:
    """Yield the pieces that have a text, neighbours of a kind as one."""
    last: DiffPiece | None = None
    for piece in pieces:
        if not piece.text:
            continue
        if last is not None and last.kind == piece.kind:
            last = DiffPiece(last.kind, last.text + piece.text)
            continue
        if last is not None:
            yield last
        last = piece
    if last is not None:
        yield last
