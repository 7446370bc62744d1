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
from providers.translation import messages_errors
from router.gateway import answer_checks, messages_answers, responses_answers
from router.gateway.answer_content import AnswerContent
from router.gateway.error_bodies import error_answer, event_of
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
        user: the fields that may name the client's user, the first one that does counts.
        image: finds an image in them.
        format: the field that may ask for JSON by a schema.
        headers: the client's headers that are sent on to hosts, beside those of the config.
        streams: whether an answer may be a stream.
        generates: whether a model writes the answer; not where it is a vector or a count.
        is_free: whether a request costs nothing.
        counts_on_request: whether a stream has its usage only where `stream_options` requests it.
        is_usual: whether every host has the path, or its provider makes up for it.
        has_turns: whether a request may continue an earlier one of which the server knows.
        uncached: fields of requests whose answers are never cached: they change something.
        whole: returns a whole answer as its body should be. Raises UpstreamError: it is no answer.
        as_events: returns the events that a whole answer becomes where a stream was requested.
        begins_plainly: whether the first bytes of a stream show that it has begun.
        beginning: makes what reads the other streams.
        end_mark: bytes without which a chunk does not have the stream's end.
        split_end: returns the events up to the end or an error, that error, and whether it ended.
        last_event: returns a last event without its blank line, or the error that it is.
        is_whole: whether a stream that ended with these chunks came to its end.
        is_done: whether what follows these chunks makes the answer no worse.
        read_end: returns what an answer's last bytes say of it, and its first ones where they are
            not among those.
        reads_start: whether it needs the first ones.
        content_of: returns what an answer says; None for chunks of choices, which are read where
            they are used.
        error_answer: returns the status and the body for a request that failed, by its id.
        id_header: the header in which clients look for that id; b"" for `x-request-id`.
        error_event: returns the event that ends a stream which broke off after these chunks.
        tail_bytes: how many of an answer's last bytes `read_end` needs.
    """

    path: Path
    required: str
    turns: str
    prompt: tuple[str, ...]
    user: tuple[str, ...]
    image: re.Pattern[bytes]
    format: str
    headers: frozenset[bytes]
    streams: bool
    generates: bool
    is_free: bool
    counts_on_request: bool
    is_usual: bool
    has_turns: bool
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
    read_end: Callable[[bytes, bytes], sse.StreamEnd]
    reads_start: bool
    content_of: Callable[[bytes], AnswerContent] | None
    error_answer: Callable[[EvalrouterError, str], tuple[int, bytes]]
    id_header: bytes
    error_event: Callable[[EvalrouterError, Sequence[bytes]], bytes]
    tail_bytes: int = TAIL_BYTES

    @property
    def is_conversation(self) -> bool:
        """Whether a model answers the turns of a conversation."""
        return self.generates and bool(self.turns)


def _chunk_error(error: EvalrouterError, _tail: Sequence[bytes]) -> bytes:
    return event_of(error)


def _read_chunks(tail: bytes, _start: bytes) -> sse.StreamEnd:
    return sse.read_end(tail)


def _read_nothing(_tail: bytes, _start: bytes) -> sse.StreamEnd:
    return sse.StreamEnd(done=True)


def _no_content(_body: bytes) -> AnswerContent:
    return AnswerContent("")


# OpenAI's `safety_identifier` replaces `user`.
_USERS = ("safety_identifier", "user")
_OPENAIS = frozenset({b"openai-beta", b"openai-organization", b"openai-project"})

CHAT = Dialect(
    path="chat/completions",
    required="messages",
    turns="messages",
    prompt=("messages", "prompt"),
    user=_USERS,
    image=re.compile(rb'"image_url"'),
    format="response_format",
    headers=_OPENAIS,
    streams=True,
    generates=True,
    is_free=False,
    counts_on_request=True,
    is_usual=True,
    has_turns=False,
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
    read_end=_read_chunks,
    reads_start=False,
    content_of=None,
    error_answer=error_answer,
    id_header=b"",
    error_event=_chunk_error,
)
# Without the rows of the other paths, of which one depends on this one.
_MESSAGES = Dialect(
    path="messages",
    required="messages",
    turns="messages",
    prompt=("system", "messages"),
    user=("metadata",),
    image=re.compile(rb'"type"\s*:\s*"image"'),
    format="output_config",
    headers=frozenset({b"anthropic-beta", b"anthropic-version"}),
    streams=True,
    generates=True,
    is_free=False,
    counts_on_request=False,
    is_usual=False,
    has_turns=False,
    uncached=frozenset({"container"}),
    whole=messages_answers.whole,
    as_events=messages_answers.as_events,
    begins_plainly=messages_answers.begins_plainly,
    beginning=messages_answers.MessageBeginning,
    end_mark=messages_answers.END_MARK,
    split_end=messages_answers.split_end,
    last_event=messages_answers.last_event,
    is_whole=messages_answers.is_whole,
    is_done=messages_answers.is_whole,
    read_end=messages_answers.read_end,
    reads_start=True,
    content_of=messages_answers.content_of,
    error_answer=messages_errors.error_answer,
    id_header=b"request-id",
    error_event=messages_answers.error_event,
    tail_bytes=MAX_LAST_EVENT_BYTES,
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
            generates=False,
            counts_on_request=False,
        ),
        Dialect(
            path="responses",
            # `input` may be missing beside a stored prompt, or after an earlier response.
            required="",
            turns="input",
            prompt=("instructions", "input"),
            user=_USERS,
            image=re.compile(rb'"input_image"'),
            format="text",
            headers=_OPENAIS,
            streams=True,
            generates=True,
            is_free=False,
            counts_on_request=False,
            is_usual=False,
            has_turns=True,
            uncached=frozenset({"background"}),
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
            reads_start=False,
            content_of=responses_answers.content_of,
            error_answer=error_answer,
            id_header=b"",
            error_event=responses_answers.error_event,
            tail_bytes=MAX_LAST_EVENT_BYTES,
        ),
        _MESSAGES,
        _MESSAGES._replace(
            path="messages/count_tokens",
            streams=False,
            generates=False,
            is_free=True,
            whole=messages_answers.whole_count,
            read_end=_read_nothing,
            reads_start=False,
            content_of=_no_content,
        ),
    )
}


def dialect_of(path: str) -> Dialect:
    """Return the row of a stored record's path; that of chats for a path that is gone."""
    return _BY_NAME.get(path, CHAT)


_BY_NAME: Mapping[str, Dialect] = {str(path): dialect for path, dialect in DIALECTS.items()}
