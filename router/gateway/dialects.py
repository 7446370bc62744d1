"""Lists what differs between the paths that models are called by: one row each.

The hot path looks its row up once per request; nothing else there depends on the path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from providers.base import Path
from providers.errors import EvalrouterError, UpstreamProtocolError
from providers.http import sse
from router.gateway import answer_checks, responses_answers
from router.gateway.answer_content import AnswerContent
from router.gateway.error_bodies import event_of
from router.records import Target

# Bytes of an answer's end from which its record is made: of a chat, the last events; of a response,
# its last event, which has all of it.
TAIL_BYTES = 16 * 1024
MAX_LAST_EVENT_BYTES = 1024 * 1024


class Beginning(Protocol):
    """Reads a stream until it has begun to answer."""

    def feed(self, chunk: bytes) -> bool:
        """Return whether the stream has begun. Raises UpstreamError where it is no answer."""
        ...

    def empty(self) -> UpstreamProtocolError:
        """Return the error of a stream that ended before it began."""
        ...


class Dialect(NamedTuple):
    """What a path's requests and answers are like.

    Attributes:
        path: below `/v1`.
        required: the field that a request cannot do without, "" for none; its target checks others.
        turns: the field that has the turns of a conversation; "" for none.
        prompt: the fields that become the prompt.
        image: finds an image in them.
        format: the field that may ask for JSON by a schema.
        streams: whether an answer may be a stream.
        counts_on_request: whether a stream has its usage only where `stream_options` requests it.
        is_usual: whether every host has the path, or its provider makes up for it.
        uncached: fields of requests whose answers are never cached: they change something.
        whole: returns a whole answer as its body should be. Raises UpstreamError: it is none.
        as_events: returns the events that a whole answer becomes where a stream was requested.
        begins_plainly: whether the first bytes of a stream show that it has begun.
        beginning: makes what reads the other streams.
        end_mark: bytes without which a chunk does not have the stream's end.
        split_end: returns the events up to the end or an error, that error, and whether it ended.
        last_event: returns a last event without its blank line, or the error that it is.
        is_whole: whether a stream that ended with these chunks came to its end.
        is_done: whether what follows these chunks makes the answer no worse.
        read_end: returns what an answer's last bytes say of it.
        content_of: returns what an answer says; None for chunks of choices, which are read where
            they are used.
        error_event: returns the event that ends a stream which broke off after these chunks.
        tail_bytes: how many of an answer's last bytes `read_end` needs.
    """

    path: Path
    required: str
    turns: str
    prompt: tuple[str, ...]
    image: re.Pattern[bytes]
    format: str
    streams: bool
    counts_on_request: bool
    is_usual: bool
    uncached: frozenset[str]
    whole: Callable[[bytes, Path, Target], bytes]
    as_events: Callable[[bytes, Path, Target], bytes]
    begins_plainly: Callable[[bytes], bool]
    beginning: Callable[[Target], Beginning]
    end_mark: bytes
    split_end: Callable[[bytes], tuple[bytes, bytes | None, bool]]
    last_event: Callable[[bytes], tuple[bytes, bytes | None]]
    is_whole: Callable[[Sequence[bytes]], bool]
    is_done: Callable[[Sequence[bytes]], bool]
    read_end: Callable[[bytes], sse.StreamEnd]
    content_of: Callable[[bytes], AnswerContent] | None
    error_event: Callable[[EvalrouterError, Sequence[bytes]], bytes]
    tail_bytes: int = TAIL_BYTES


def _chunk_error(error: EvalrouterError, _tail: Sequence[bytes]) -> bytes:
    return event_of(error)


CHAT = Dialect(
    path="chat/completions",
    required="messages",
    turns="messages",
    prompt=("messages", "prompt"),
    image=re.compile(rb'"image_url"'),
    format="response_format",
    streams=True,
    counts_on_request=True,
    is_usual=True,
    uncached=frozenset(),
    whole=answer_checks.whole,
    as_events=answer_checks.events_of,
    begins_plainly=answer_checks.begins_plainly,
    beginning=answer_checks.ChatBeginning,
    end_mark=b"[DONE]",
    split_end=sse.split_end,
    last_event=answer_checks.last_event,
    is_whole=answer_checks.is_whole,
    is_done=answer_checks.is_done,
    read_end=sse.read_end,
    content_of=None,
    error_event=_chunk_error,
)

DIALECTS: Mapping[Path, Dialect] = {
    dialect.path: dialect
    for dialect in (
        CHAT,
        CHAT._replace(path="completions", required="prompt", turns=""),
        CHAT._replace(
            path="embeddings",
            required="input",
            turns="",
            streams=False,
            counts_on_request=False,
        ),
        Dialect(
            path="responses",
            # `input` may be missing beside a stored prompt, or after an earlier response.
            required="",
            turns="input",
            prompt=("instructions", "input"),
            image=re.compile(rb'"input_image"'),
            format="text",
            streams=True,
            counts_on_request=False,
            is_usual=False,
            uncached=frozenset({"background", "conversation"}),
            whole=responses_answers.whole,
            as_events=responses_answers.as_events,
            begins_plainly=responses_answers.begins_plainly,
            beginning=responses_answers.ResponseBeginning,
            end_mark=responses_answers.END_MARK,
            split_end=responses_answers.split_end,
            last_event=responses_answers.last_event,
            is_whole=responses_answers.is_whole,
            is_done=responses_answers.is_whole,
            read_end=responses_answers.read_end,
            content_of=responses_answers.content_of,
            error_event=responses_answers.error_event,
            tail_bytes=MAX_LAST_EVENT_BYTES,
        ),
    )
}
