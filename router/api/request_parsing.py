"""Reads a request to one of the model paths as far as the router needs it: the rest stays bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from providers.base import Path
from providers.errors import RequestError
from providers.names import MAX_NAME_BYTES, check_name
from providers.usage import ABSENT
from providers.wire import UNREADABLE, Message
from router.gateway.dialects import CHAT, DIALECTS, Dialect
from router.gateway.hooks import UnitKey
from router.gateway.routing import Needs
from router.records import key_of_user, stored_name

PATHS: Mapping[str, Path] = {
    "/v1/chat/completions": "chat/completions",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "messages/count_tokens",
}

# A larger body is not read again for halves of characters: it would hold up other requests.
MAX_SURROGATES_BYTES = 256 * 1024
# No identifier of a user is longer, as JSON.
MAX_USER_FIELD_BYTES = 8192
# Digits of a number that may limit an answer; longer ones are for the target to refuse.
MAX_DIGITS = 12

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_SPACE = re.compile(r"[ \t\r\n]*")
# Clients write these fields although they have no tools; `functions` is what `tools` was before.
_NO_TOOLS = re.compile(rb"null|\[[ \t\r\n]*\]")
_NO_CHOICE = re.compile(rb'null|"none"|"auto"')
_WITHOUT_TOOLS = {
    "tools": _NO_TOOLS,
    "functions": _NO_TOOLS,
    "tool_choice": _NO_CHOICE,
    "function_call": _NO_CHOICE,
}
_BRACKET, _QUOTE = ord("["), ord('"')

_encode = msgspec.json.Encoder().encode
_decode_envelope = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_messages = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_role = msgspec.json.Decoder(Message).decode


class _Turn(msgspec.Struct, gc=False):
    # Not all items of a response's input have one.
    role: str = ""
    content: msgspec.Raw = msgspec.Raw(b"")


class _Metadata(msgspec.Struct):
    user_id: msgspec.Raw = ABSENT


_decode_metadata = msgspec.json.Decoder(_Metadata).decode
_decode_turns = msgspec.json.Decoder(list[_Turn]).decode
_decode_user = msgspec.json.Decoder(str | int | float | None).decode
_decode_flag = msgspec.json.Decoder(bool | None).decode


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


# Python's reader takes halves of characters; NaN and the like are not JSON.
_scan = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode


def parse(body: bytes, path: Path) -> tuple[str, bool, dict[str, msgspec.Raw]]:
    """Return a request's `model`, whether it asks for a stream, and all its fields as bytes.

    Raises:
        RequestError: it is not a JSON object, or a field that is read is missing or ill-typed.
    """
    try:
        envelope = _decode_envelope(body)
    except UNREADABLE as error:
        lenient = _with_lone_surrogates(body)
        if lenient is None:
            raise RequestError(
                f"The request body is not a JSON object: {error}", code="bad_json"
            ) from None
        envelope = lenient
    model = _field(envelope, "model", _decode_text, "a string")
    if not model:
        raise _missing("model")
    if not (model.isascii() and len(model) <= MAX_NAME_BYTES and model.isprintable()):
        check_name(model, "model")
    needed = DIALECTS[path].required
    if needed and needed not in envelope:
        raise _missing(needed)
    if needed == "messages" and memoryview(envelope[needed])[0] != _BRACKET:
        # Hosts answer this in many ways, some by a status that speaks against the host.
        raise RequestError("messages must be an array.", param=needed, code="invalid_type")
    stream = _field(envelope, "stream", _decode_flag, "true or false")
    return model, bool(stream), envelope


def with_model(body: bytes, model: str) -> bytes:
    """Return a request's body with another `model`; as it is where it is no JSON object."""
    try:
        envelope = _decode_envelope(body)
    except UNREADABLE:
        lenient = _with_lone_surrogates(body)
        if lenient is None:
            return body
        envelope = lenient
    envelope["model"] = msgspec.Raw(_encode(model))
    return _encode(envelope)


def _with_lone_surrogates(body: bytes) -> dict[str, msgspec.Raw] | None:
    """Return the fields of an object that has halves of surrogate pairs; None for any other.

    JavaScript cuts emoji in two and sends such halves, escaped. They are JSON, although msgspec
    refuses them because they are not text, and they pass as the bytes they are.
    """
    if len(body) > MAX_SURROGATES_BYTES or _SURROGATE.search(body) is None:
        return None
    try:
        text = body.decode()
        fields: dict[str, msgspec.Raw] = {}
        at = _skip(text, 0, "{")
        while text[at] != "}":
            name, at = _scan(text, at)
            # A value may be anything; names are read, stored and shown.
            name.encode()
            start = _skip(text, at, ":")
            _, at = _scan(text, start)
            fields[str(name)] = msgspec.Raw(text[start:at].encode())
            at = _skip(text, at, "" if text[_skip(text, at, "")] == "}" else ",")
        return None if text[at + 1 :].strip() else fields
    except (AttributeError, IndexError, RecursionError, StopIteration, ValueError):
        return None


def _skip(text: str, at: int, mark: str) -> int:
    """Return the place of the first character after white space, a mark, and white space."""
    at = _SPACE.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing as well
    if not text.startswith(mark, at):
        raise ValueError(f"no {mark!r}")
    return _SPACE.match(text, at + len(mark)).end()  # type: ignore[union-attr]


def _missing(name: str) -> RequestError:
    return RequestError(
        f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter"
    )


def _field(
    envelope: Mapping[str, msgspec.Raw], name: str, decode: Callable[[Any], Any], what: str
) -> Any:
    raw = envelope.get(name)
    if raw is None:
        return None
    try:
        return decode(raw)
    except UNREADABLE:
        raise RequestError(f"{name} must be {what}.", param=name, code="invalid_type") from None


def sticky_key(
    sticky: str,
    envelope: Mapping[str, msgspec.Raw],
    headers: Mapping[bytes, bytes],
    dialect: Dialect = CHAT,
) -> str | None:
    """Return the value that keeps a client on one target; None for a request without it.

    Args:
        sticky: the route's setting: `user`, `conversation` or `header:NAME`.
        envelope: the request's fields.
        headers: the request's headers, names in lower case.
        dialect: what requests to its path are like.
    """
    if sticky == "user":
        raw = envelope.get("user")
        return None if raw is None else bytes(raw).decode("utf-8", "replace")
    if sticky == "conversation":
        opening = _opening(envelope, dialect)
        return None if opening is None else opening.decode("utf-8", "replace")
    value = _header(sticky, headers)
    return None if value is None else value.decode("latin-1")


def _header(sticky: str, headers: Mapping[bytes, bytes]) -> bytes | None:
    return headers.get(sticky.removeprefix("header:").lower().encode())


def unit_key(
    sticky: str,
    user: str,
    envelope: Mapping[str, msgspec.Raw],
    headers: Mapping[bytes, bytes],
    *,
    by_whole_message: bool,
    dialect: Dialect = CHAT,
) -> UnitKey | None:
    """Return what the choice of a rollout sticks to; None for a request without it.

    Args:
        sticky: `user`, `conversation` or `header:NAME`; "" for the user, or else the conversation.
        user: by `user_of`.
        envelope: the request's fields.
        headers: the request's headers, names in lower case.
        by_whole_message: what a conversation is known by, see RouteChooser.
        dialect: what requests to its path are like.
    """
    if user and sticky in ("", "user"):
        return key_of_user(user)
    if sticky in ("", "conversation"):
        if by_whole_message:
            return _opening(envelope, dialect, b"conversation ")
        return _first_text(envelope, dialect)
    if sticky == "user":
        return None
    value = _header(sticky, headers)
    return None if value is None else b"%b %b" % (sticky.encode(), value)


def user_of(envelope: Mapping[str, msgspec.Raw], dialect: Dialect = CHAT) -> str:
    """Return the client's identifier of its user, by `stored_name`; "" without one.

    OpenAI's `safety_identifier` counts before `user`, which it replaces. A number is taken as it
    is written; what is neither a number nor a string identifies nobody.
    """
    for name in dialect.user:
        if name not in envelope:
            continue
        raw = envelope[name]
        if name == "metadata":
            raw = _user_id(raw)
        field = bytes(raw)
        if len(field) > MAX_USER_FIELD_BYTES:
            continue
        try:
            value = _decode_user(field)
        except UNREADABLE:
            continue
        if value is not None and value != "":
            return stored_name(value if isinstance(value, str) else field.decode())
    return ""


def _user_id(metadata: msgspec.Raw) -> msgspec.Raw:
    """Return the user of Anthropic's `metadata`, null without one."""
    try:
        return _decode_metadata(metadata).user_id
    except UNREADABLE:
        return ABSENT


def conversation_of(headers: Mapping[bytes, bytes]) -> str:
    """Return the client's name of the conversation, by `stored_name`; "" without one.

    Portkey's clients and Claude Code have a header of their own for it.
    """
    value = (
        headers.get(b"x-evalrouter-conversation")
        or headers.get(b"x-portkey-trace-id")
        or headers.get(b"x-claude-code-session-id")
    )
    return "" if value is None else stored_name(value.decode("utf-8", "replace"))


def _opening(
    envelope: Mapping[str, msgspec.Raw], dialect: Dialect, prefix: bytes = b""
) -> bytes | None:
    """Return a prefix with the first message that is not a system message; None without one.

    The message is the same in every turn of a conversation.
    """
    try:
        turns = envelope[dialect.turns]
        if memoryview(turns)[0] == _QUOTE:
            return prefix + turns
        for raw in _decode_messages(turns):
            if _decode_role(raw).role not in ("system", "developer"):
                return prefix + raw
    except (KeyError, *UNREADABLE):
        pass
    return None


def _first_text(envelope: Mapping[str, msgspec.Raw], dialect: Dialect) -> msgspec.Raw | None:
    """Return the content of the user's first message, as JSON; None without one.

    It is the same in every turn of a conversation, also where assistants begin with a greeting.
    """
    try:
        turns = envelope[dialect.turns]
        if memoryview(turns)[0] == _QUOTE:
            return turns
        for turn in _decode_turns(turns):
            if turn.role == "user":
                return turn.content or None
    except (KeyError, *UNREADABLE):
        pass
    return None


def needs_of(envelope: Mapping[str, msgspec.Raw], dialect: Dialect = CHAT) -> Needs:
    """Return what the request needs of a target, by a look at its bytes; it is not decoded."""
    prompt = b"".join([envelope[name] for name in dialect.prompt if name in envelope])
    return Needs(
        vision=dialect.image.search(prompt) is not None,
        tools=any(
            name in envelope and without.fullmatch(envelope[name]) is None
            for name, without in _WITHOUT_TOOLS.items()
        ),
        json_schema=b'"json_schema"' in bytes(envelope.get(dialect.format) or b""),
        tokens=len(prompt) // 4 + answer_limit(envelope),
    )


def answer_limit(envelope: Mapping[str, msgspec.Raw]) -> int:
    """Return the largest number of tokens that an answer may have; 0 without a limit."""
    limit = 0
    if "max_completion_tokens" in envelope:
        limit = whole_number(envelope, "max_completion_tokens")
    elif "max_output_tokens" in envelope:
        limit = whole_number(envelope, "max_output_tokens")
    return limit or whole_number(envelope, "max_tokens")


def whole_number(envelope: Mapping[str, msgspec.Raw], name: str) -> int:
    """Return a field's value; 0 where it is not a whole number of a usual size."""
    field = envelope.get(name)
    if field is None:
        return 0
    raw = bytes(field)
    return int(raw) if len(raw) <= MAX_DIGITS and raw.isdigit() else 0
