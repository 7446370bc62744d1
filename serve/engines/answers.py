"""Writes a model's text as OpenAI's bodies and events, log probabilities included."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from providers import wire
from providers.http import sse
from serve.engines.requests import TextEndpoint
from serve.engines.text_writer import Piece, TokenScore


class _ScoredChoice(wire.Choice, kw_only=True):
    logprobs: Any = None


class _ScoredText(msgspec.Struct, kw_only=True):
    index: int
    text: str
    logprobs: Any = None
    finish_reason: str | None = None


class _ScoredChunk(wire.ChunkChoice, kw_only=True):
    logprobs: Any = None


class GeneratedAnswer:
    """The answer to one request, whole or event by event.

    Args:
        path: the request's path, which decides the form of the answer.
        model: the model as the client named it.
        fingerprint: identifies the weights and software that answer.
        usage_events: whether a stream ends with its usage, which is null until then.
    """

    def __init__(
        self, path: TextEndpoint, model: str, fingerprint: str, *, usage_events: bool = False
    ) -> None:
        self._chat = path == "chat/completions"
        kind = "chatcmpl" if self._chat else "cmpl"
        self._head: dict[str, Any] = {
            "id": f"{kind}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._usage_events = usage_events
        # Where the next text of each choice begins, for the older form of log probabilities.
        self._offsets: dict[int, int] = {}

    def whole(self, choices: Sequence[Sequence[Piece]], usage: wire.CompletionUsage) -> bytes:
        """Return the body, from the pieces of each choice."""
        written = [self._choice(n, _joined(pieces)) for n, pieces in enumerate(choices)]
        kind: Any = wire.ChatCompletion if self._chat else wire.TextCompletion
        return wire.encode(kind(choices=written, usage=usage, **self._head))

    def _choice(self, index: int, piece: Piece) -> msgspec.Struct:
        finish = piece.finish or None
        if not self._chat:
            return self._text(index, piece)
        return _ScoredChoice(
            index=index,
            message=wire.AnswerMessage(content=piece.text),
            finish_reason=finish,
            logprobs={"content": piece.scores} if piece.scores else None,
        )

    def _text(self, index: int, piece: Piece) -> _ScoredText:
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + len(piece.text)
        return _ScoredText(
            index=index,
            text=piece.text,
            finish_reason=piece.finish or None,
            logprobs=_older_form(piece.scores, offset) if piece.scores else None,
        )

    def begin(self, index: int) -> bytes:
        """Return the first event of a choice; nothing for `completions`."""
        if not self._chat:
            return b""
        return self._event(wire.ChunkChoice(index=index, delta=wire.Delta("assistant", "")))

    def piece(self, index: int, piece: Piece) -> bytes:
        """Return the events of a piece; the last one's finish reason is an event of its own."""
        if not self._chat:
            return self._event(self._text(index, piece))
        events = b""
        if piece.text or piece.scores:
            delta = wire.Delta(content=piece.text)
            scores = {"content": piece.scores} if piece.scores else None
            events = self._event(_ScoredChunk(index=index, delta=delta, logprobs=scores))
        if piece.finish:
            events += self._event(wire.ChunkChoice(index=index, finish_reason=piece.finish))
        return events

    def end(self, usage: wire.CompletionUsage) -> bytes:
        """Return the usage, where the client requested it, and the end."""
        return (self._event(None, usage) if self._usage_events else b"") + sse.DONE

    def _event(
        self, choice: msgspec.Struct | None, usage: wire.CompletionUsage | None = None
    ) -> bytes:
        reported: wire.CompletionUsage | UnsetType | None = usage if self._usage_events else UNSET
        kind: Any = wire.ChatChunk if self._chat else wire.TextCompletion
        chunk = kind(choices=[] if choice is None else [choice], usage=reported, **self._head)
        return sse.encode(wire.encode(chunk))


def _joined(pieces: Sequence[Piece]) -> Piece:
    return Piece(
        "".join(piece.text for piece in pieces),
        tuple(score for piece in pieces for score in piece.scores),
        pieces[-1].finish if pieces else "stop",
    )


def _older_form(scores: Sequence[TokenScore], offset: int) -> dict[str, Any]:
    """Return log probabilities in the form that `completions` has."""
    offsets = []
    for score in scores:
        offsets.append(offset)
        offset += len(score.token)
    return {
        "tokens": [score.token for score in scores],
        "token_logprobs": [score.logprob for score in scores],
        "top_logprobs": [
            {other["token"]: other["logprob"] for other in score.top_logprobs} for score in scores
        ],
        "text_offset": offsets,
    }


def usage_of(prompt: int, completion: int, truncated: int) -> wire.CompletionUsage:
    """Return the usage of an answer.

    Args:
        prompt: tokens that the model read.
        completion: tokens that the model wrote.
        truncated: tokens of the prompt that were cut off, because the model has no room for them.
    """
    return wire.CompletionUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details={"truncated_tokens": truncated} if truncated else None,
    )
