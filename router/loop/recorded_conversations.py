"""What a recorded request and its answer say: the conversation, its parameters, the answer.

conversation = read_conversation(row)      # or the reason why it cannot be replayed
conversation.messages, conversation.parameters, conversation.answer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from providers.completion import Completion, read_completion
from providers.errors import RequestError, UpstreamError
from providers.translation.fold import fold_stream
from providers.wire import UNREADABLE
from router.gateway.dialects import dialect_of
from router.gateway.translated import chat_fields
from router.loop.checks.languages import language_of
from router.loop.conditions import RequestText
from router.store.traffic import TrafficRow

# Fields of a request that say where it goes, how it is answered and whose it is, but not what.
NO_PARAMETERS = frozenset(
    {
        "messages",
        "metadata",
        "model",
        "n",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "user",
    }
)

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_decode_value = msgspec.json.Decoder(Any).decode

Unusable = Literal["bodies_missing", "unreadable", "unfinished", "no_text"]


class RecordedConversation(NamedTuple):
    """A recorded request and its answer.

    Attributes:
        messages: as they were sent.
        parameters: the other fields of the request that a run can send.
        answer: the text of the first choice; the words of a refusal.
    """

    messages: list[dict[str, Any]]
    parameters: dict[str, Any]
    answer: str

    def users_texts(self) -> list[str]:
        """Return the text of each message of the user."""
        return users_texts(self.messages)


def read_conversation(row: TrafficRow) -> RecordedConversation | Unusable:
    """Return the conversation of a request, or the reason why a run cannot send it.

    `row` is a chat that was answered, read with its bodies; a response or a message is read as the
    chat that it would be at a host without its path. Bodies that were too long are not
    stored (`bodies_missing`). An answer that calls tools has no text to compare (`no_text`).
    """
    if row.request is None or row.response is None:
        return "bodies_missing"
    try:
        body = chat_request(row.path, row.request.encode("utf-8", "replace"))
        completion = completion_of(row.response.encode("utf-8", "replace"), row.path)
    except (*UNREADABLE, RequestError, ValueError):
        return "unreadable"
    if completion is None:
        return "unfinished"
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        return "unreadable"
    text = completion.text or ""
    if not text.strip():
        text = completion.refusal
    if not text.strip():
        return "no_text"
    parameters = {
        name: value
        for name, value in body.items()
        if name not in NO_PARAMETERS and value is not None
    }
    return RecordedConversation(messages, parameters, text)


def chat_request(path: str, request: bytes) -> dict[str, Any]:
    """Return a request to a path as a chat request; one to `chat/completions` is one.

    Raises:
        RequestError, msgspec.MsgspecError, UnicodeError, RecursionError: it cannot be read.
    """
    dialect = dialect_of(path)
    if dialect.is_usual:
        return _decode(request)
    return {name: _decode_value(raw) for name, raw in chat_fields(dialect.path, request).items()}


def request_text(
    messages: Sequence[Mapping[str, Any]], *, answer: str = "", language: bool
) -> RequestText:
    """Return what the messages of a request say, for conditions.

    Args:
        messages: of the request.
        answer: the text of the answer.
        language: whether the prompt's language is to be detected.
    """
    texts = users_texts(messages)
    prompt = texts[-1] if texts else ""
    length = sum(len(text_of(message)) for message in messages)
    code = (language_of(prompt) or "") if language else ""
    return RequestText(prompt, answer, len(texts), length, code)


def users_texts(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the text of each message of the user."""
    return [text_of(message) for message in messages if message.get("role") == "user"]


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a chat message: its content, or the text parts of it joined."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return "\n".join(text for text in texts if isinstance(text, str))


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and bool(value["role"])


def completion_of(body: bytes, path: str = "chat/completions") -> Completion | None:
    """Return the answer in the body of a chat, whole or streamed; None for a stream without an end.

    Raises:
        ValueError: it is no answer.
    """
    dialect = dialect_of(path)
    if dialect.content_of is not None:
        end, content = dialect.read_end(body, b""), dialect.content_of(body)
        calls = bool(content.tool_calls)
        if not (content.text or calls or end.finish_reason):
            raise ValueError("the body is no answer")
        completion = Completion(
            content.text, calls_tools=calls, finish_reason=end.finish_reason, model=end.model
        )
        return completion if end.done else None
    try:
        if body.lstrip().startswith(b"{"):
            return read_completion(body, chat=True)
        whole, is_done = fold_stream(body)
        completion = read_completion(msgspec.json.encode(whole), chat=True)
    except (*UNREADABLE, UpstreamError, AttributeError, TypeError) as error:
        raise ValueError(f"the body is no answer: {error}") from error
    return completion if is_done or completion.finish_reason else None
