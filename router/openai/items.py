"""Items of responses and conversations: read from requests, given ids, and made ready to be sent.

An item is a JSON object whose values stay as they came. What a client sends without an id gets one,
so that `input_items` can list it and `item_reference` can name it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from providers.errors import RequestError
from providers.translation.dialect import new_id
from router.store.responses import ConversationItem

Item = dict[str, msgspec.Raw]

MAX_ITEMS = 1000
MAX_ITEM_ID_CHARS = 256

_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}
# Hosts know these by their ids only, or want them back as they were.
_NAMED = frozenset({"reasoning", "item_reference"})
_STRING = msgspec.json.Decoder(str).decode
_decode_items = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_encode = msgspec.json.Encoder().encode


def text_of(item: Mapping[str, msgspec.Raw], field: str) -> str:
    """Return a field of an item that is a string; "" for any other."""
    try:
        return _STRING(item.get(field, b""))
    except msgspec.DecodeError:
        return ""


def type_of(item: Mapping[str, msgspec.Raw]) -> str:
    """Return an item's type; a message may leave it out."""
    return text_of(item, "type") or ("message" if "role" in item else "")


def read_items(value: msgspec.Raw, param: str, *, limit: int = MAX_ITEMS) -> list[Item]:
    """Return the items of a field that is an array of objects.

    Raises:
        RequestError: it is no such array, or has more than `limit`.
    """
    try:
        items = _decode_items(value)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise RequestError(f"`{param}` must be an array of items: {error}", param=param) from error
    if len(items) > limit:
        raise RequestError(f"`{param}` has {len(items)} items, over {limit}.", param=param)
    for number, item in enumerate(items):
        if "id" in item and len(item["id"]) > MAX_ITEM_ID_CHARS:
            raise RequestError(
                f"`{param}[{number}].id` has over {MAX_ITEM_ID_CHARS} characters.",
                param=f"{param}[{number}].id",
            )
    return items


def input_items(value: msgspec.Raw | None) -> list[Item]:
    """Return a request's `input` as items: a text is a message of the user.

    Raises:
        RequestError: it is neither a text nor an array of objects.
    """
    if value is None:
        return []
    if bytes(value).startswith(b'"'):
        content = [{"type": "input_text", "text": msgspec.Raw(value)}]
        return [_raw({"type": "message", "role": "user", "content": content})]
    return read_items(value, "input")


def _raw(fields: Mapping[str, object]) -> Item:
    return {name: msgspec.Raw(_encode(value)) for name, value in fields.items()}


def with_ids(items: Iterable[Item]) -> list[Item]:
    """Return the items, each with an id, and messages with their type."""
    named = []
    for item in items:
        kind = type_of(item)
        if not text_of(item, "id"):
            item_id = new_id(_PREFIXES.get(kind, "item"))
            item = {"id": msgspec.Raw(_encode(item_id))} | item  # noqa: PLW2901
        if kind == "message" and "type" not in item:
            item = {"type": msgspec.Raw(b'"message"')} | item  # noqa: PLW2901
        named.append(item)
    return named


def resolved(items: Sequence[Item], history: Sequence[Item]) -> list[Item]:
    """Return the items with references to items of the history replaced by those.

    Other references stay: a host may know them.
    """
    if all(type_of(item) != "item_reference" for item in items):
        return list(items)
    by_id = {text_of(item, "id"): item for item in history}
    return [
        by_id.get(text_of(item, "id"), item) if type_of(item) == "item_reference" else item
        for item in items
    ]


def to_send(items: Iterable[Item]) -> msgspec.Raw:
    """Return the items as a request's `input`, without ids that its target would not know."""
    sent = []
    for item in items:
        named = type_of(item) in _NAMED
        sent.append(
            item if named else {name: value for name, value in item.items() if name != "id"}
        )
    return msgspec.Raw(_encode(sent))


def array_of(items: Sequence[Item]) -> bytes:
    """Return the items as a JSON array."""
    return _encode(items)


def stored_items(items: Iterable[Item]) -> list[ConversationItem]:
    """Return items that have ids as a conversation stores them."""
    return [ConversationItem(text_of(item, "id"), _encode(item)) for item in items]
