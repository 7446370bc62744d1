"""Turns tokens into text, one by one, and finds where the text ends.

A `TextWriter` takes the tokens of one choice and returns the text that became certain. It holds
back a letter whose bytes are not complete, and what may be the beginning of a stop string.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

# What a tokenizer shows for bytes that are not a whole letter yet.
_HALF = "\ufffd"


class TokenScore(msgspec.Struct):
    """A token's log probability, as OpenAI writes it."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[dict[str, Any]]


class Piece(msgspec.Struct, frozen=True):
    """What one token added to a choice.

    Attributes:
        text: the text that became certain; may be empty.
        scores: the scores of the tokens that wrote the text.
        finish: why the choice ended: `stop` or `length`; "" while it goes on.
    """

    text: str
    scores: tuple[TokenScore, ...] = ()
    finish: str = ""


class TextWriter:
    """The text of one choice.

    Args:
        decode: turns tokens into text, without special tokens.
        ends: tokens that end the text.
        stop: texts before which it ends.
        max_tokens: how many tokens the text may have.

    Attributes:
        max_tokens: as given.
        tokens: how many tokens were added, the one that ended the text included.
        finish: why the text ended; "" while it goes on.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        *,
        ends: Iterable[int] = (),
        stop: Sequence[str] = (),
        max_tokens: int,
    ) -> None:
        self.tokens = 0
        self.finish = ""
        self._decode = decode
        self._ends = frozenset(ends)
        self._stop = stop
        self.max_tokens = max_tokens
        # Text is decoded from a token whose text is known, as a tokenizer may treat the first
        # token of all in a way of its own (a leading space).
        self._ids: list[int] = []
        self._base = 0
        self._read = 0
        self._held = ""
        self._scores: list[TokenScore] = []

    def add(self, token: int, score: TokenScore | None = None) -> Piece:
        """Add the next token, and return what became certain."""
        self.tokens += 1
        if token in self._ends:
            return self._end("stop")
        self._ids.append(token)
        if score is not None:
            self._scores.append(score)
        self._held += self._fresh()
        at = _first(self._held, self._stop)
        if at is not None:
            self._held = self._held[:at]
            return self._end("stop")
        if self.tokens >= self.max_tokens:
            self._held += self._rest()
            return self._end("length")
        return self._show(len(self._held) - _may_begin(self._held, self._stop))

    def _fresh(self) -> str:
        known = self._decode(self._ids[self._base : self._read])
        now = self._decode(self._ids[self._base :])
        if now.endswith(_HALF) or len(now) <= len(known):
            return ""
        self._base, self._read = self._read, len(self._ids)
        return now[len(known) :]

    def _rest(self) -> str:
        """Return the half letter that no further token will complete."""
        known = self._decode(self._ids[self._base : self._read])
        return self._decode(self._ids[self._base :])[len(known) :]

    def _end(self, finish: str) -> Piece:
        self.finish = finish
        piece = self._show(len(self._held))
        return Piece(piece.text, piece.scores, finish)

    def _show(self, length: int) -> Piece:
        text, self._held = self._held[:length], self._held[length:]
        if not text and not self.finish:
            return Piece("")
        scores, self._scores = tuple(self._scores), []
        return Piece(text, scores)


def _first(text: str, stop: Sequence[str]) -> int | None:
    positions = [at for end in stop if (at := text.find(end)) >= 0]
    return min(positions, default=None)


def _may_begin(text: str, stop: Sequence[str]) -> int:
    """Return how many letters at the end of the text may begin a stop string."""
    longest = max(map(len, stop), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        tail = text[-length:]
        if any(end.startswith(tail) for end in stop):
            return length
    return 0
