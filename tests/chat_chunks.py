"""Requests and chat answers, for tests of translators between chat completions and other APIs."""

import json
from itertools import count

import msgspec

from providers.http import sse

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "tiny"}


def envelope(**fields):
    """A request's fields, as the server hands them on."""
    return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in fields.items()}


def numbered_ids():
    """A maker of ids that counts: `msg_3`."""
    numbers = count()
    return lambda prefix: f"{prefix}_{next(numbers)}"


def chunk(delta, finish_reason=None, **more):
    """An event of a chat stream; `logprobs` belongs to the choice."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    if "logprobs" in more:
        choice["logprobs"] = more.pop("logprobs")
    return sse.encode(json.dumps({**HEAD, "choices": [choice], **more}).encode())


def usage(prompt, completion, **details):
    """The last event of a chat stream, with its usage."""
    counts = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        **details,
    }
    return sse.encode(json.dumps({**HEAD, "choices": [], "usage": counts}).encode())


def call(index, arguments, *, identity=None, name=None):
    """The delta of a tool call's piece."""
    function = {"arguments": arguments} | ({"name": name} if name else {})
    begin = {"id": identity, "type": "function"} if identity else {}
    return {"tool_calls": [{"index": index, **begin, "function": function}]}


def completion(message, finish_reason="stop", **more):
    """A whole chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", **message}}
    choice["finish_reason"] = finish_reason
    if "logprobs" in more:
        choice["logprobs"] = more.pop("logprobs")
    head = {**HEAD, "object": "chat.completion"}
    return json.dumps({**head, "choices": [choice], **more}).encode()


ODD = (None, True, -1.5, "x", [1], {"a": 1}, [{}])


def with_odd_values(value):
    """Every document that is this one but for one value, at any depth, which is of another kind."""
    for odd in ODD:
        yield odd
    if isinstance(value, dict):
        for name, inner in value.items():
            for odd in with_odd_values(inner):
                yield {**value, name: odd}
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            for odd in with_odd_values(inner):
                yield [*value[:index], odd, *value[index + 1 :]]
