"""OpenAI's wire types, as far as we read or write them ourselves.

Relayed bodies never pass through here: they stay bytes, and unknown fields survive. These types
read a request where its meaning matters (`read_request`), and are what a provider in this process
answers with. An answer that is to be scored is read by `completion.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from providers.errors import RequestError

_Request = TypeVar("_Request", bound=msgspec.Struct)

encode = msgspec.json.Encoder().encode

# All that msgspec raises over bytes that are not JSON of the expected shape: text that is not UTF-8
# and very deep nesting raise exceptions of Python's.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Part(msgspec.Struct):
    """One part of a message: text, or an image, a sound, a reference, which we do not read."""

    type: str = "text"
    text: str | None = None


Content = str | list[Part] | None


class CompletionUsage(msgspec.Struct, omit_defaults=True):
    """Tokens as an answer of ours reports them. What hosts report is read by `usage.py`."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: Any = None


# Requests


class Message(msgspec.Struct):
    """One message of a chat request."""

    role: str
    content: Content = None


class StreamOptions(msgspec.Struct):
    """`stream_options` of a request."""

    include_usage: bool | None = None


# No model has so much room, and sums of such numbers stay countable.
MAX_COUNT = 10_000_000
TokenBound = Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNT)]
Dimensions = Annotated[int, msgspec.Meta(ge=1, le=65_536)]
Texts = Annotated[list[str], msgspec.Meta(min_length=1)]
Choices = Annotated[int, msgspec.Meta(ge=1, le=128)]


class ChatCompletionRequest(msgspec.Struct):
    """A POST to `chat/completions`."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenBound | None = None
    max_completion_tokens: TokenBound | None = None
    n: Choices | None = None
    stop: str | list[str] | None = None


class CompletionRequest(msgspec.Struct):
    """A POST to `completions`. Prompts given as token numbers are not supported."""

    prompt: str | Texts
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenBound | None = None
    n: Choices | None = None
    stop: str | list[str] | None = None


class EmbeddingRequest(msgspec.Struct):
    """A POST to `embeddings`. Inputs given as token numbers are not supported."""

    input: str | Texts
    dimensions: Dimensions | None = None
    encoding_format: str | None = None


@cache
def _decoders(shape: type[msgspec.Struct]) -> dict[str, tuple[bool, msgspec.json.Decoder[Any]]]:
    """Return one decoder per field, so that an error names the field and others stay bytes."""
    return {
        field.name: (field.required, msgspec.json.Decoder(field.type))
        for field in msgspec.structs.fields(shape)
    }


def read_request(envelope: Mapping[str, msgspec.Raw], shape: type[_Request]) -> _Request:
    """Read the fields of `shape` out of a request's raw fields.

    Raises:
        RequestError: a required field is missing or a field has the wrong type; `param` names it.
    """
    values: dict[str, Any] = {}
    for name, (required, decoder) in _decoders(shape).items():
        raw = envelope.get(name)
        if raw is None:
            if required:
                raise RequestError(
                    f"{name} is required", param=name, code="missing_required_parameter"
                )
            continue
        try:
            values[name] = decoder.decode(raw)
        except UNREADABLE as error:
            raise RequestError(f"{name}: {error}", param=name, code="invalid_type") from error
    return shape(**values)


def count_of(value: Any) -> int | None:
    """Return a value that is a TokenBound; None for any other value."""
    return value if type(value) is int and 1 <= value <= MAX_COUNT else None


_decode_stream_options = msgspec.json.Decoder(StreamOptions | None).decode


def is_stored(envelope: Mapping[str, msgspec.Raw]) -> bool:
    """Return whether the client lets a request be stored: whether its `store` is not false."""
    store = envelope.get("store")
    return store is None or bytes(store) != b"false"


def wants_usage(envelope: Mapping[str, msgspec.Raw]) -> bool:
    """Return whether a request wants its stream's usage; one that cannot be read does not."""
    raw = envelope.get("stream_options")
    if raw is None:
        return False
    try:
        options = _decode_stream_options(raw)
    except UNREADABLE:
        return False
    return options is not None and bool(options.include_usage)


def message_text(content: Content, *, between: str = "") -> str:
    """Return the text of a message: the string itself, or its text parts joined; else ""."""
    if content is None or isinstance(content, str):
        return content or ""
    return between.join(part.text for part in content if part.type == "text" and part.text)


# Answers


class AnswerMessage(msgspec.Struct):
    """The message of a choice; content is None beside tool calls."""

    role: str | None = "assistant"
    content: Content = None


class Choice(msgspec.Struct, kw_only=True):
    """One choice of a chat completion."""

    index: int = 0
    message: AnswerMessage
    finish_reason: str | None = None


class ChatCompletion(msgspec.Struct, kw_only=True):
    """The answer of `chat/completions`."""

    id: str | None = None
    object: str = "chat.completion"
    created: int | float = 0
    model: str | None = None
    choices: list[Choice]
    system_fingerprint: str | None = None
    usage: CompletionUsage | UnsetType | None = UNSET


class TextChoice(msgspec.Struct, kw_only=True):
    """One choice of a text completion."""

    index: int = 0
    text: str
    logprobs: None = None
    finish_reason: str | None = None


class TextCompletion(msgspec.Struct, kw_only=True):
    """The answer of `completions`, and each chunk of it in a stream."""

    id: str | None = None
    object: str = "text_completion"
    created: int | float = 0
    model: str | None = None
    choices: list[TextChoice]
    system_fingerprint: str | None = None
    usage: CompletionUsage | UnsetType | None = UNSET


class Delta(msgspec.Struct, omit_defaults=True):
    """What a chunk adds to the message."""

    role: str | None = None
    content: Content = None


class ChunkChoice(msgspec.Struct, kw_only=True):
    """One choice of a chunk."""

    index: int = 0
    delta: Delta = msgspec.field(default_factory=Delta)
    finish_reason: str | None = None


class ChatChunk(msgspec.Struct, kw_only=True):
    """One event of a streamed chat completion; `choices` is empty in the one with the usage.

    Reads chunks of text completions too, all but their text.
    """

    id: str | None = None
    object: str = "chat.completion.chunk"
    created: int | float = 0
    model: str | None = None
    choices: list[ChunkChoice] = []
    system_fingerprint: str | None = None
    usage: CompletionUsage | UnsetType | None = UNSET


class Embedding(msgspec.Struct):
    """One vector: numbers, or base64 of little-endian float32 where the client requested that."""

    embedding: list[float] | str
    index: int = 0
    object: str = "embedding"


class EmbeddingList(msgspec.Struct):
    """The answer of `embeddings`."""

    data: list[Embedding]
    model: str
    usage: CompletionUsage | UnsetType = UNSET
    object: str = "list"


class Model(msgspec.Struct):
    """One row of `models`."""

    id: str
    object: str = "model"
    created: int | float = 0
    owned_by: str = ""


class ModelList(msgspec.Struct):
    """The answer of `models`."""

    data: list[Model]
    object: str = "list"


class HostModel(NamedTuple):
    """A model in a host's list.

    Attributes:
        id: its name.
        retires_at: when it will be shut down, seconds since the epoch; None where the host says
            nothing of it, or nothing that can be read.
        replacement: the model that the host names in its place; "" for none.
    """

    id: str
    retires_at: float | None
    replacement: str


class _Listed(msgspec.Struct):
    id: str
    # OpenAI, Mistral (Azure: an object), OpenRouter, and what others write for the same.
    shutdown_date: Any = None
    deprecation: Any = None
    expiration_date: Any = None
    deprecation_date: Any = None
    retirement_date: Any = None
    deprecation_replacement_model: Any = None


class _ListedModels(msgspec.Struct):
    data: list[_Listed]


_decode_models = msgspec.json.Decoder(_ListedModels).decode
# Hosts write dates of the years in which there is such a host.
_FIRST_S, _LAST_S = 946_684_800.0, 4_102_444_800.0


def read_models(body: bytes) -> list[str]:
    """Return the names in a host's list of models. Raises what UNREADABLE names."""
    return [row.id for row in _decode_models(body).data]


def read_listed(body: bytes) -> list[HostModel]:
    """Return a host's list of models with their ends. Raises what UNREADABLE names."""
    return [
        HostModel(
            row.id,
            next((at for value in _ends(row) if (at := moment_of(value)) is not None), None),
            row.deprecation_replacement_model
            if isinstance(row.deprecation_replacement_model, str)
            else "",
        )
        for row in _decode_models(body).data
    ]


def _ends(row: _Listed) -> Iterator[Any]:
    yield row.shutdown_date
    deprecation = row.deprecation
    yield deprecation.get("inference") if isinstance(deprecation, dict) else deprecation
    yield row.expiration_date
    yield row.retirement_date
    yield row.deprecation_date


def moment_of(value: Any) -> float | None:
    """Return a date, an ISO 8601 time or seconds since the epoch as seconds; None for others.

    A date is its beginning in UTC.
    """
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        value = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if _FIRST_S <= value <= _LAST_S else None
