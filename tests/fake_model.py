"""A model that knows nothing but does as it is told, for the fake hosts of `fake_hosts.py`.

It answers an OpenAI chat request: text made of the last user message, calls of the tools it must
call, JSON that fits a schema, as many choices, tokens (words) and log probabilities as are asked.
"""

from __future__ import annotations

import json
import re
from typing import Any

Object = dict[str, Any]


def text_of(content: Any) -> str:
    """The text of a message's content."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content or () if isinstance(part, dict))


def count(text: str) -> int:
    """Its tokens: words with the space before them."""
    return len(re.findall(r"\s*\S+", text))


def instance(schema: Object) -> Any:
    """Return a value that fits a schema."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        return {name: instance(inner) for name, inner in schema.get("properties", {}).items()}
    return {"string": "x", "integer": 1, "number": 1.5, "boolean": True, "array": []}.get(kind)


def answer(request: Object, *, prefix: str = "You said") -> Object:
    """Return the chat completion for a request, without what a host adds to it."""
    messages = request["messages"]
    texts = [text_of(message.get("content")) for message in messages]
    users = [
        text for text, message in zip(texts, messages, strict=True) if message["role"] == "user"
    ]
    last = users[-1] if users else ""
    calls = _calls(request, last)
    choices = []
    written = 0
    for index in range(request.get("n") or 1):
        text = "" if calls else _text(request, f"{prefix}: {last} That is choice {index}.")
        text, reason = _end(request, text)
        message: Object = {"role": "assistant", "content": None if calls else text}
        if calls:
            message["tool_calls"] = calls
            reason = "tool_calls"
        choice = {"index": index, "message": message, "finish_reason": reason}
        if request.get("logprobs"):
            top = request.get("top_logprobs") or 0
            choice["logprobs"] = {"content": [_logprob(word, top) for word in text.split()]}
        choices.append(choice)
        written += count(text) + sum(count(call["function"]["arguments"]) for call in calls)
    prompt = sum(map(count, texts)) + 3
    return {
        "id": "answer-1",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": request["model"],
        "choices": choices,
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
        },
    }


def _text(request: Object, text: str) -> str:
    form = request.get("response_format") or {}
    if form.get("type") == "json_object":
        return '{"key": "value"}'
    if form.get("type") == "json_schema":
        return json.dumps(instance(form["json_schema"]["schema"]))
    return text


def _end(request: Object, text: str) -> tuple[str, str]:
    stop = request.get("stop") or []
    for end in [stop] if isinstance(stop, str) else stop:
        text = text.partition(end)[0]
    bound = request.get("max_completion_tokens") or request.get("max_tokens")
    words = re.findall(r"\s*\S+", text)
    if bound and len(words) > bound:
        return "".join(words[:bound]), "length"
    return text, "stop"


def _calls(request: Object, last: str) -> list[Object]:
    choice = request.get("tool_choice")
    tools = [tool["function"] for tool in request.get("tools") or ()]
    if isinstance(choice, dict):
        tools = [tool for tool in tools if tool["name"] == choice["function"]["name"]]
    elif choice not in ("required", "any"):
        return []
    times = 2 if "both" in last and request.get("parallel_tool_calls") is not False else 1
    return [
        {
            "id": f"Call{number:05}",
            "type": "function",
            "function": {
                "name": tools[0]["name"],
                "arguments": json.dumps(instance(tools[0].get("parameters") or {})),
            },
        }
        for number in range(times)
    ]


def _logprob(word: str, top: int) -> Object:
    token = {"token": word, "logprob": -0.5, "bytes": list(word.encode())}
    return {**token, "top_logprobs": [token] * top}
