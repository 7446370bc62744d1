"""Reads messages out of bodies for spans, in the forms of the GenAI conventions. No IO.

The bodies have no secrets any more. Sizes are bounded: of a long conversation the first message
and the last ones are shown, and long texts are cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from providers.base import Path
from providers.shortening import shortened
from providers.translation.fold import fold_stream
from providers.wire import UNREADABLE
from router.gateway.dialects import DIALECTS

ContentAttributes = dict[str, str]

MAX_TEXT_CHARS = 16_384  # of a text
MAX_NAME_CHARS = 256  # of a function's name
MAX_MESSAGES = 64  # of a conversation
MAX_CONTENT_CHARS = 65_536  # of all messages of one side together, as JSON
# Bodies that are longer are not read.
MAX_BODY_BYTES = 2**20

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


def content_of(path: Path, request: bytes, response: bytes) -> ContentAttributes:
    """Return the attributes with the messages of a request and of its answer.

    Args:
        path: the endpoint of OpenAI's API.
        request: the request's body, without secrets; b"" where it is not to be shown.
        response: that of the answer, whole or a stream; b"" where it is not to be shown.
    """
    sent = _request(request) if 0 < len(request) <= MAX_BODY_BYTES else {}
    attributes = messages_attributes(path, sent)
    dialect = DIALECTS[path]
    if dialect.generates and 0 < len(response) <= MAX_BODY_BYTES:
        if dialect.content_of is None:
            choices = _choices(response)
        else:
            content = dialect.content_of(response)
            message = {"content": content.text, "tool_calls": list(content.tool_calls)}
            reason = dialect.read_end(response, b"").finish_reason
            choices = [{"message": message, "finish_reason": reason}]
        attributes |= answer_attributes(choices)
    return attributes


def messages_attributes(path: Path, request: Mapping[str, Any]) -> ContentAttributes:
    """Return the attributes with the messages of a request."""
    if path == "chat/completions":
        messages = request.get("messages")
    else:
        text = request.get("prompt" if path == "completions" else "input")
        messages = None if text is None else [{"role": "user", "content": text}]
        if path == "responses":
            messages = _of_input(text, request.get("instructions"))
        elif text is None:
            messages = _of_turns(request.get("messages"), request.get("system"))
    if not isinstance(messages, list) or not messages:
        return {}
    readable = [message for message in messages if isinstance(message, dict)]
    if not readable:
        return {}
    shown = readable
    if len(readable) > MAX_MESSAGES:
        shown = readable[:1] + readable[1 - MAX_MESSAGES :]
    last = _text(readable[-1].get("content"))
    return {
        "gen_ai.input.messages": _bounded_json([_message(message) for message in shown]),
        "input.value": shortened(last, MAX_TEXT_CHARS),
        "input.mime_type": "text/plain",
    }


def _of_input(given: Any, instructions: Any) -> list[Any]:
    """Return the messages of a response's input; its calls of tools in the form of chats."""
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    messages: list[Any] = []
    if isinstance(instructions, str):
        messages.append({"role": "system", "content": instructions})
    for item in items if isinstance(items, list) else ():
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            calls = [{"id": item.get("call_id"), "function": function}]
            messages.append({"role": "assistant", "tool_calls": calls})
        elif kind == "function_call_output":
            output = {"tool_call_id": item.get("call_id"), "content": item.get("output")}
            messages.append({"role": "tool", **output})
        elif kind in (None, "message"):
            messages.append(item)
    return messages


def _of_turns(turns: Any, system: Any) -> list[Any]:
    """Return the messages of a request to Anthropic's path; its blocks in the form of chats."""
    messages: list[Any] = [] if system is None else [{"role": "system", "content": system}]
    for turn in turns if isinstance(turns, list) else ():
        blocks = turn.get("content") if isinstance(turn, dict) else None
        if not isinstance(blocks, list):
            messages.append(turn)
            continue
        calls = []
        for block in blocks:
            kind = block.get("type") if isinstance(block, dict) else None
            if kind == "tool_use":
                arguments = _encode(block.get("input")).decode()
                function = {"name": block.get("name"), "arguments": arguments}
                calls.append({"id": block.get("id"), "function": function})
            elif kind == "tool_result":
                output = {"tool_call_id": block.get("tool_use_id"), "content": block.get("content")}
                messages.append({"role": "tool", **output})
        texts = [block for block in blocks if isinstance(block, dict) and "text" in block]
        if texts or calls:
            messages.append({"role": turn.get("role"), "content": texts, "tool_calls": calls})
    return messages


def answer_attributes(choices: Sequence[Mapping[str, Any]]) -> ContentAttributes:
    """Return the attributes with the choices of an answer."""
    messages: list[dict[str, Any]] = []
    texts: list[str] = []
    for choice in choices[:MAX_MESSAGES]:
        # A host may leave out by which a stream is known for a chat's.
        given = choice.get("message") or choice.get("delta")
        message = given if isinstance(given, dict) else {"content": choice.get("text")}
        reason = choice.get("finish_reason")
        messages.append(
            {
                **_message({"role": "assistant", **message}),
                "finish_reason": reason if isinstance(reason, str) else "",
            }
        )
        texts.append(_text(message.get("content")) or _text(message.get("refusal")))
    if not messages:
        return {}
    return {
        "gen_ai.output.messages": _bounded_json(messages),
        "output.value": shortened(texts[0], MAX_TEXT_CHARS),
        "output.mime_type": "text/plain",
    }


def _request(body: bytes) -> dict[str, Any]:
    try:
        return _decode(body)
    except UNREADABLE:
        return {}


def _choices(body: bytes) -> list[dict[str, Any]]:
    try:
        if body.lstrip().startswith(b"{"):
            whole = _decode(body)
        else:
            whole, _ = fold_stream(body)
    except (*UNREADABLE, AttributeError, TypeError, ValueError):
        return []
    choices = whole.get("choices")
    if not isinstance(choices, list):
        return []
    return [choice for choice in choices if isinstance(choice, dict)]


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message of OpenAI's API in the form of the conventions: a role and parts."""
    role = message.get("role")
    parts: list[dict[str, Any]] = []
    text = _text(message.get("content")) or _text(message.get("refusal"))
    if role == "tool":
        call = message.get("tool_call_id")
        parts.append(
            {
                "type": "tool_call_response",
                "id": call if isinstance(call, str) else None,
                "response": shortened(text, MAX_TEXT_CHARS),
            }
        )
    elif text:
        parts.append({"type": "text", "content": shortened(text, MAX_TEXT_CHARS)})
    calls = message.get("tool_calls")
    for call in calls[:MAX_MESSAGES] if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            parts.append(
                {
                    "type": "tool_call",
                    "id": call.get("id") if isinstance(call.get("id"), str) else None,
                    "name": str(function.get("name"))[:MAX_NAME_CHARS],
                    "arguments": shortened(_text(function.get("arguments")), MAX_TEXT_CHARS),
                }
            )
    return {"role": role if isinstance(role, str) else "user", "parts": parts}


def _text(content: Any) -> str:
    """Return the text of a message's content; other parts by their type, as `[image_url]`."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = []
    for part in content[:MAX_MESSAGES]:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict):
            text = part.get("text")
            texts.append(
                text if isinstance(text, str) else f"[{part.get('type')}]"[:MAX_NAME_CHARS]
            )
    return "\n".join(texts)


def _bounded_json(messages: Sequence[dict[str, Any]]) -> str:
    """Return messages as JSON: those before the last ones are left out where it is too long."""
    encoded = [_encode(message).decode() for message in messages]
    size = sum(map(len, encoded))
    first = 1 if len(encoded) > 1 else 0
    while size > MAX_CONTENT_CHARS and len(encoded) > first + 1:
        size -= len(encoded.pop(first))
    return f"[{','.join(encoded)}]"
