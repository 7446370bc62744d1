"""The checks of the conformance suite, in the order in which they run.

Each is a function from an ExaminedHost to its evidence; it raises Failed or Unsupported. A check's
name is the function's with the first `_` as a dot: `tools_one` is `tools.one`.
"""

from __future__ import annotations

import asyncio
import base64
import struct
from typing import Any

import msgspec

from providers import wire
from providers.conformance.suite import (
    Check,
    ExaminedHost,
    Failed,
    StreamedAnswer,
    Unsupported,
    WholeAnswer,
    show,
)
from providers.translation.fold import fold

_FINISHES = {"stop", "length", "tool_calls", "content_filter", "function_call"}
# A white square of one pixel.
_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAF"
    "hQGAhKmMIQAAAABJRU5ErkJggg=="
)
_UNICODE = "Grüße, 世界! 👩‍👩‍👧 \U0001f1f3\U0001f1f4 ﷽ \u202eabc"
# Few answers are possible, so that even a model that knows nothing gives a valid one soon.
_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
_SCHEMA = {
    "name": "color",
    "strict": True,
    "schema": {
        "type": "object",
        "properties": {"color": {"type": "string", "enum": ["red", "blue"]}},
        "required": ["color"],
        "additionalProperties": False,
    },
}
# A model may be done in just as many tokens as are allowed, but not every time.
_BOUNDED_TRIES = 3
_FORCED = {"type": "function", "function": {"name": "get_weather"}}


def _user(text: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


_HELLO: dict[str, Any] = {"messages": _user("Say hello."), "max_tokens": 16}
_STORY: dict[str, Any] = {
    "messages": _user("Tell me about the sea."),
    "max_tokens": 48,
    "temperature": 0,
}


def _expect(good: object, evidence: str) -> None:
    if not good:
        raise Failed(evidence)


# models


async def models_list(host: ExaminedHost) -> str:
    """GET /v1/models gives a list of names."""
    return show(", ".join(await _names(host)))


async def models_named(host: ExaminedHost) -> str:
    """The requested model is in the list."""
    names = await _names(host)
    _expect(any(name.removeprefix("models/") == host.model for name in names), show(names))
    return host.model


async def _names(host: ExaminedHost) -> list[str]:
    answer = await host.ask("models", feature="models")
    names = [model["id"] for model in answer.body["data"]]
    _expect(names and all(isinstance(name, str) for name in names), show(answer.body))
    return names


# chat


async def chat_answer(host: ExaminedHost) -> str:
    """A user message is answered with text."""
    host.first = answer = await host.ask(**_HELLO)
    _expect(answer.message.get("role") == "assistant", f"role {answer.message.get('role')!r}")
    return show(answer.text)


async def chat_shape(host: ExaminedHost) -> str:
    """The answer has id, object, created and model."""
    body = (host.first or await host.ask(**_HELLO)).body
    head = {name: body.get(name) for name in ("id", "object", "created", "model")}
    _expect(head["object"] == "chat.completion", show(head))
    _expect(isinstance(head["id"], str) and isinstance(head["model"], str), show(head))
    _expect(isinstance(head["created"], int) and head["created"] > 0, show(head))
    return show(head)


async def chat_finish(host: ExaminedHost) -> str:
    """The finish reason is one of OpenAI's."""
    reason = (host.first or await host.ask(**_HELLO)).choice.get("finish_reason")
    _expect(reason in _FINISHES, f"finish_reason {reason!r}")
    return str(reason)


async def chat_usage(host: ExaminedHost) -> str:
    """Usage is there, and its parts add up."""
    return _usage((host.first or await host.ask(**_HELLO)).body.get("usage"))


def _usage(usage: Any) -> str:
    _expect(isinstance(usage, dict), f"usage is {show(usage)}")
    prompt, answer = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    _expect(isinstance(prompt, int) and prompt > 0, show(usage))
    _expect(usage.get("total_tokens") == prompt + answer, show(usage))
    return show(usage)


async def chat_parts(host: ExaminedHost) -> str:
    """Content may be a list of text parts."""
    parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "hello."}]
    return show((await host.ask(messages=_user(parts), max_tokens=16, feature="messages")).text)


async def chat_system(host: ExaminedHost) -> str:
    """A system message is taken, and counts."""
    return await _longer(host, "system")


async def chat_developer(host: ExaminedHost) -> str:
    """A developer message is taken, and counts."""
    return await _longer(host, "developer")


async def _longer(host: ExaminedHost, role: str) -> str:
    """Check that an instruction makes the prompt longer, or it was thrown away."""
    messages = [{"role": role, "content": "Answer in one short word. " * 4}, *_user("Say hello.")]
    answer = await host.ask(messages=messages, max_tokens=16, feature="messages")
    bare = host.first or await host.ask(**_HELLO)
    without, with_it = _prompt_tokens(bare), _prompt_tokens(answer)
    if without is None or with_it is None:
        return f"answered; no usage to see whether it counts: {show(answer.text)}"
    evidence = f"prompt tokens {without} without it, {with_it} with it"
    _expect(with_it > without, evidence)
    return evidence


def _prompt_tokens(answer: WholeAnswer) -> Any:
    return (answer.body.get("usage") or {}).get("prompt_tokens")


async def chat_turns(host: ExaminedHost) -> str:
    """A conversation of several turns is taken."""
    messages = [*_user("Hi."), {"role": "assistant", "content": "Hello!"}, *_user("And you?")]
    return show((await host.ask(messages=messages, max_tokens=16)).text)


async def chat_unicode(host: ExaminedHost) -> str:
    """Letters of every kind in the request are taken, and the answer is valid Unicode."""
    answer = await host.ask(messages=_user(_UNICODE), max_tokens=24)
    return show(answer.text.encode("utf-8").decode("utf-8"))


async def chat_name(host: ExaminedHost) -> str:
    """A message may carry a name."""
    messages = [{"role": "user", "name": "ada", "content": "Say hello."}]
    return show((await host.ask(messages=messages, max_tokens=16, feature="messages")).text)


async def chat_max_tokens(host: ExaminedHost) -> str:
    """`max_tokens` bounds the answer, and the finish reason says so."""
    return await _bounded(host, "max_tokens")


async def chat_max_completion_tokens(host: ExaminedHost) -> str:
    """`max_completion_tokens` does the same."""
    return await _bounded(host, "max_completion_tokens")


async def _bounded(host: ExaminedHost, name: str) -> str:
    bound: dict[str, Any] = {name: 3}
    evidence = ""
    for _ in range(_BOUNDED_TRIES):
        answer = await host.ask(messages=_user("Tell me a long story."), feature=name, **bound)
        used = (answer.body.get("usage") or {}).get("completion_tokens")
        reason = answer.choice.get("finish_reason")
        evidence = f"{used} tokens, finish_reason {reason!r}"
        _expect(used is None or used <= 3, evidence)
        # A model may be done in fewer tokens.
        if reason == "length" or used is None or used < 3:
            return evidence
    raise Failed(evidence)


async def chat_stop(host: ExaminedHost) -> str:
    """`stop` ends the answer before the given text."""
    return await _stopped(host, as_list=False)


async def chat_stop_list(host: ExaminedHost) -> str:
    """`stop` may be a list."""
    return await _stopped(host, as_list=True)


async def _stopped(host: ExaminedHost, *, as_list: bool) -> str:
    text = (await host.ask(**_STORY)).text
    middle = text[len(text) // 3 :]
    stop = next((word[:4] for word in middle.split() if word.isascii()), "")
    if not stop:
        raise Unsupported(f"the model's answer has no word to stop at: {show(text)}")
    answer = await host.ask(**_STORY, stop=[stop, "\u2603"] if as_list else stop, feature="stop")
    _expect(stop not in answer.text, f"{stop!r} is in {show(answer.text)}")
    reason = answer.choice.get("finish_reason")
    _expect(reason != "length" or stop not in text, f"finish_reason {reason!r}")
    return f"stopped before {stop!r}: {show(answer.text)}"


async def chat_deterministic(host: ExaminedHost) -> str:
    """Temperature 0 gives one answer twice."""
    first = await host.ask(**_STORY, feature="temperature")
    second = await host.ask(**_STORY, feature="temperature")
    return _same(first.text, second.text)


async def chat_seed(host: ExaminedHost) -> str:
    """One seed gives one answer twice, at temperature 1."""
    fields: dict[str, Any] = {**_STORY, "temperature": 1, "seed": 42}
    first = await host.ask(**fields, feature="seed")
    second = await host.ask(**fields, feature="seed")
    return _same(first.text, second.text)


def _same(first: str, second: str) -> str:
    _expect(first == second, f"{show(first[:100])} and {show(second[:100])}")
    return show(first)


async def chat_n(host: ExaminedHost) -> str:
    """`n: 2` gives two choices."""
    answer = await host.ask(**{**_HELLO, "n": 2, "temperature": 1}, feature="n")
    count = len(answer.body.get("choices") or ())
    _expect(count == 2, f"{count} choices")
    return show([choice["message"]["content"] for choice in answer.body["choices"]])


async def chat_logprobs(host: ExaminedHost) -> str:
    """`logprobs` and `top_logprobs` give log probabilities for every token."""
    answer = await host.ask(**_HELLO, logprobs=True, top_logprobs=2, feature="logprobs")
    tokens: Any = (answer.choice.get("logprobs") or {}).get("content")
    _expect(tokens, f"logprobs is {show(answer.choice.get('logprobs'))}")
    first = tokens[0]
    _expect(isinstance(first["logprob"], int | float) and first["logprob"] <= 0, show(first))
    _expect(len(first["top_logprobs"]) == 2, show(first))
    return show(first)


async def chat_logit_bias(host: ExaminedHost) -> str:
    """`logit_bias` is taken."""
    answer = await host.ask(**_HELLO, logit_bias={"10": -100}, feature="logit_bias")
    return show(answer.text)


async def chat_penalties(host: ExaminedHost) -> str:
    """`frequency_penalty` and `presence_penalty` are taken."""
    fields: dict[str, Any] = {"frequency_penalty": 0.5, "presence_penalty": 0.5}
    return show((await host.ask(**_HELLO, **fields, feature="frequency_penalty")).text)


async def chat_unknown_field(host: ExaminedHost) -> str:
    """An unknown field is refused or ignored, but does no harm."""
    try:
        answer = await host.ask(**_HELLO, evalrouter_no_such_field=1, feature="messages")
    except Unsupported as refused:
        return f"refused: {refused}"
    dropped = answer.translation.dropped.get("evalrouter_no_such_field")
    return f"not sent: {dropped}" if dropped else "ignored"


# formats


async def format_json_object(host: ExaminedHost) -> str:
    """`response_format: json_object` gives a JSON object."""
    answer = await host.ask(
        messages=_user("Give me a JSON object with one short key."),
        max_tokens=200,
        response_format={"type": "json_object"},
        feature="response_format",
    )
    if answer.choice.get("finish_reason") == "length":
        return f"cut off by max_tokens, as JSON so far: {show(answer.text)}"
    _expect(isinstance(_json(answer.text), dict), show(answer.text))
    return show(answer.text)


async def format_json_schema(host: ExaminedHost) -> str:
    """`response_format: json_schema` gives what the schema says."""
    answer = await host.ask(
        messages=_user("Name a color as JSON."),
        max_tokens=100,
        response_format={"type": "json_schema", "json_schema": _SCHEMA},
        feature="response_format",
    )
    color = _json(answer.text)
    _expect(isinstance(color, dict) and color.get("color") in ("red", "blue"), show(answer.text))
    return show(answer.text)


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text.strip())
    except wire.UNREADABLE:
        raise Failed(f"not JSON: {show(text)}") from None


# tools

_ASK_WEATHER: dict[str, Any] = {
    "messages": _user("What is the weather in Paris?"),
    "tools": [_WEATHER],
    "max_tokens": 200,
}


async def tools_one(host: ExaminedHost) -> str:
    """A tool that is named is called, with arguments that fit."""
    return _call(await host.ask(**_ASK_WEATHER, tool_choice=_FORCED, feature="tools"))


async def tools_required(host: ExaminedHost) -> str:
    """`tool_choice: required` calls a tool."""
    return _call(await host.ask(**_ASK_WEATHER, tool_choice="required", feature="tools"))


def _call(answer: WholeAnswer) -> str:
    calls: Any = answer.message.get("tool_calls")
    _expect(calls, f"no tool call: {show(answer.message)}")
    return _good_call(calls[0], answer.choice.get("finish_reason"))


def _good_call(call: dict[str, Any], reason: Any) -> str:
    _expect(isinstance(call.get("id"), str) and call["id"], f"no id: {show(call)}")
    _expect(call.get("type") == "function", show(call))
    _expect(call["function"]["name"] == "get_weather", show(call))
    arguments = call["function"]["arguments"]
    _expect(isinstance(arguments, str), f"arguments are no text: {show(call)}")
    given = _json(arguments)
    _expect(isinstance(given, dict) and given.get("city") in ("Paris", "Oslo"), show(call))
    # OpenAI says stop where the tool was named by the client.
    _expect(reason in ("tool_calls", "stop"), f"finish_reason {reason!r}")
    return f"{show(call)}, finish_reason {reason!r}"


async def tools_finish(host: ExaminedHost) -> str:
    """The finish reason of a tool call is `tool_calls`."""
    answer = await host.ask(**_ASK_WEATHER, tool_choice="required", feature="tools")
    _call(answer)
    reason = answer.choice.get("finish_reason")
    _expect(reason == "tool_calls", f"finish_reason {reason!r}")
    return str(reason)


async def tools_auto(host: ExaminedHost) -> str:
    """Tools are taken without a choice; the model may call them or answer."""
    answer = await host.ask(**_ASK_WEATHER, feature="tools")
    calls = answer.message.get("tool_calls")
    return f"called {show(calls)}" if calls else f"answered {show(answer.message.get('content'))}"


async def tools_parallel(host: ExaminedHost) -> str:
    """Two tools may be called in one answer."""
    answer = await host.ask(
        messages=_user("What is the weather in Paris, and what in Oslo? Ask for both at once."),
        tools=[_WEATHER],
        tool_choice="required",
        parallel_tool_calls=True,
        max_tokens=300,
        feature="tools",
    )
    calls = answer.message.get("tool_calls") or []
    if len(calls) < 2:
        raise Unsupported(f"the model made {len(calls)} call: {show(calls)}")
    ids = [call["id"] for call in calls]
    _expect(len(set(ids)) == len(ids), f"ids {show(ids)}")
    return show(calls)


async def tools_result(host: ExaminedHost) -> str:
    """The result of a call is taken, and answered."""
    return await _answered_result(host, "a1b2c3d4e")


async def tools_foreign_id(host: ExaminedHost) -> str:
    """A call's id may be another host's, so that a conversation can change hosts."""
    return await _answered_result(host, "call_" + "x1Y2" * 6)


async def _answered_result(host: ExaminedHost, identifier: str) -> str:
    function = {"name": "get_weather", "arguments": '{"city":"Paris"}'}
    call = {"id": identifier, "type": "function", "function": function}
    messages = [
        *_user("What is the weather in Paris?"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": identifier, "content": '{"sky": "blue"}'},
    ]
    answer = await host.ask(messages=messages, tools=[_WEATHER], max_tokens=32, feature="tools")
    return show(answer.message)


async def tools_stream(host: ExaminedHost) -> str:
    """A streamed call's arguments add up to JSON."""
    streamed = await host.stream(**_ASK_WEATHER, tool_choice=_FORCED, feature="tools")
    whole = fold(streamed.chunks)
    _expect(whole["choices"], "no choices")
    calls = whole["choices"][0]["message"].get("tool_calls")
    _expect(calls, f"no tool call: {show(whole['choices'][0])}")
    return _good_call(calls[0], whole["choices"][0]["finish_reason"])


# streams


async def stream_answer(host: ExaminedHost) -> str:
    """A stream is server-sent events that end with [DONE]."""
    streamed = await host.stream(**_HELLO)
    kind = streamed.content_type
    _expect(kind.startswith("text/event-stream"), f"content-type {kind!r}")
    _expect(streamed.done, "no [DONE]")
    return f"{len(streamed.chunks)} chunks: {show(streamed.text)}"


async def stream_shape(host: ExaminedHost) -> str:
    """Every chunk has id, model and the object `chat.completion.chunk`, one id throughout."""
    streamed = await host.stream(**_HELLO)
    for chunk in streamed.chunks:
        _expect(chunk.get("object") == "chat.completion.chunk", show(chunk))
        _expect(isinstance(chunk.get("model"), str), show(chunk))
    ids = {chunk.get("id") for chunk in streamed.chunks}
    _expect(len(ids) == 1, f"ids {show(sorted(map(str, ids)))}")
    return show(streamed.chunks[0])


async def stream_role(host: ExaminedHost) -> str:
    """The first chunk names the role."""
    streamed = await host.stream(**_HELLO)
    first = streamed.choices[0]
    _expect((first.get("delta") or {}).get("role") == "assistant", show(first))
    return show(first)


async def stream_finish(host: ExaminedHost) -> str:
    """One chunk has a finish reason, and no text follows it."""
    streamed = await host.stream(**_HELLO)
    finishes = [choice.get("finish_reason") for choice in streamed.choices]
    reasons = [reason for reason in finishes if reason is not None]
    _expect(len(reasons) == 1 and reasons[0] in _FINISHES, f"finish reasons {show(reasons)}")
    after = streamed.choices[finishes.index(reasons[0]) + 1 :]
    _expect(not any((choice.get("delta") or {}).get("content") for choice in after), show(after))
    return str(reasons[0])


async def stream_usage(host: ExaminedHost) -> str:
    """`include_usage` gives a last chunk with usage and without choices."""
    streamed = await host.stream(
        **_HELLO, stream_options={"include_usage": True}, feature="stream_options"
    )
    with_usage = [chunk for chunk in streamed.chunks if chunk.get("usage")]
    _expect(with_usage, "no chunk with usage")
    last = with_usage[-1]
    evidence = _usage(last["usage"])
    _expect(not last.get("choices"), f"usage beside choices: {show(last)}")
    return evidence + (" (estimated)" if last["usage"].get("estimated") else "")


async def stream_same(host: ExaminedHost) -> str:
    """At temperature 0, a stream says what a whole answer says."""
    answer = await host.ask(**_STORY, feature="temperature")
    streamed = await host.stream(**_STORY)
    return _same(answer.text, streamed.text)


async def stream_pieces(host: ExaminedHost) -> str:
    """A stream comes in pieces, not all at once."""
    streamed = await host.stream(**_STORY)
    pieces = _contents(streamed)
    # A quick host's pieces may come in one read.
    _expect(len(pieces) > 1, f"{len(pieces)} piece, {streamed.reads} reads")
    return f"{len(pieces)} pieces in {streamed.reads} reads"


async def stream_unicode(host: ExaminedHost) -> str:
    """No character is cut in two between chunks."""
    streamed = await host.stream(messages=_user(f"Repeat: {_UNICODE}"), max_tokens=48)
    # Each event was decoded by itself, so a cut character would be a replacement at its edges.
    pieces = _contents(streamed)
    edges = [piece for piece in pieces if "\ufffd" in (piece[0], piece[-1])]
    whole = (await host.ask(messages=_user(f"Repeat: {_UNICODE}"), max_tokens=48)).text
    _expect(not edges or "\ufffd" in whole, f"cut characters: {show(edges)}")
    return show(streamed.text)


def _contents(streamed: StreamedAnswer) -> list[str]:
    return [
        content
        for choice in streamed.choices
        if (content := (choice.get("delta") or {}).get("content"))
    ]


async def stream_n(host: ExaminedHost) -> str:
    """`n: 2` streams two choices."""
    streamed = await host.stream(**{**_HELLO, "n": 2}, feature="n")
    choices = [choice for chunk in streamed.chunks for choice in chunk.get("choices") or ()]
    indexes = {choice.get("index") for choice in choices}
    _expect(indexes == {0, 1}, f"indexes {show(sorted(map(str, indexes)))}")
    return "indexes 0 and 1"


async def stream_cancel(host: ExaminedHost) -> str:
    """A stream that is cut by the client does not keep the next request waiting."""
    reply = await host.begin(messages=_user("Tell me a very long story."), max_tokens=2000)
    chunks = reply.chunks()
    first = await anext(chunks, b"")
    await chunks.aclose()  # type: ignore[attr-defined]  # every reply's chunks are a generator
    await reply.aclose()
    _expect(first, "no first chunk")
    return f"then answered: {show((await host.ask(**_HELLO)).text)}"


# more


async def more_vision(host: ExaminedHost) -> str:
    """An image part is taken."""
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": _PIXEL}},
    ]
    try:
        answer = await host.ask(messages=_user(parts), max_tokens=16, feature="messages")
    except Failed as failure:
        # Servers of text models say it with 500.
        if "image" in str(failure).lower():
            raise Unsupported(str(failure)) from None
        raise
    return show(answer.text)


async def more_parallel(host: ExaminedHost) -> str:
    """Four requests at once are all answered."""
    answers = await asyncio.gather(*(host.ask(**_HELLO) for _ in range(4)))
    return show([answer.text[:20] for answer in answers])


async def more_completion(host: ExaminedHost) -> str:
    """/v1/completions continues a prompt."""
    answer = await host.ask("completions", prompt="Once upon", max_tokens=8, feature="completions")
    _expect(isinstance(answer.choice.get("text"), str), show(answer.body))
    return show(answer.choice["text"])


async def more_completion_stream(host: ExaminedHost) -> str:
    """/v1/completions streams."""
    streamed = await host.stream(
        "completions", prompt="Once upon", max_tokens=8, feature="completions"
    )
    _expect(streamed.done, "no [DONE]")
    return show(streamed.text)


async def more_embedding(host: ExaminedHost) -> str:
    """/v1/embeddings gives a vector of numbers."""
    answer = await host.ask("embeddings", input="hello", feature="embeddings")
    vector = answer.body["data"][0]["embedding"]
    _expect(vector and all(isinstance(number, int | float) for number in vector), show(vector))
    return f"{len(vector)} numbers"


async def more_embeddings(host: ExaminedHost) -> str:
    """Several inputs give as many vectors, in their order."""
    answer = await host.ask("embeddings", input=["a", "b", "a"], feature="embeddings")
    rows = answer.body["data"]
    _expect([row["index"] for row in rows] == [0, 1, 2], show([row["index"] for row in rows]))
    first, second, third = (row["embedding"] for row in rows)
    close = max(abs(a - b) for a, b in zip(first, third, strict=True))
    _expect(close < 1e-3, f"one text, two vectors; they differ by {close}")
    return f"3 vectors of {len(second)} numbers"


async def more_embedding_base64(host: ExaminedHost) -> str:
    """`encoding_format: base64` gives little-endian floats."""
    answer = await host.ask(
        "embeddings", input="hello", encoding_format="base64", feature="encoding_format"
    )
    packed = answer.body["data"][0]["embedding"]
    _expect(isinstance(packed, str), f"not a text: {show(packed)}")
    raw = base64.b64decode(packed)
    numbers = struct.unpack(f"<{len(raw) // 4}f", raw)
    plain = (await host.ask("embeddings", input="hello", feature="embeddings")).body["data"][0]
    _expect(len(numbers) == len(plain["embedding"]), f"{len(numbers)} numbers")
    return f"{len(numbers)} numbers"


# errors


async def error_unknown_model(host: ExaminedHost) -> str:
    """A model that does not exist is an error, not another model's answer."""
    error = await host.refused(model="evalrouter-no-such-model", **_HELLO)
    _expect(400 <= error.status < 500, f"status {error.status}: {_message(error)}")
    return f"status {error.status}: {_message(error)}"


async def error_bad_key(host: ExaminedHost) -> str:
    """A wrong key is refused with 401 or 403."""
    if host.wrong_key is None:
        raise Unsupported("there is no key in the config")
    error = await host.refused(by=host.wrong_key(), **_HELLO)
    _expect(error.status in (401, 403), f"status {error.status}: {_message(error)}")
    return f"status {error.status}: {_message(error)}"


async def error_no_messages(host: ExaminedHost) -> str:
    """A request without messages is refused with 400 or 422."""
    error = await host.refused(max_tokens=8)
    _expect(error.status in (400, 422), f"status {error.status}: {_message(error)}")
    return f"status {error.status}: {_message(error)}"


async def error_bad_type(host: ExaminedHost) -> str:
    """A bound that is a word is refused with 400 or 422."""
    error = await host.refused(**{**_HELLO, "max_tokens": "many"})
    _expect(error.status in (400, 422), f"status {error.status}: {_message(error)}")
    return f"status {error.status}: {_message(error)}"


async def error_shape(host: ExaminedHost) -> str:
    """An error body is OpenAI's object, with a message."""
    error = await host.refused(max_tokens=8)
    try:
        body = msgspec.json.decode(error.body)
    except wire.UNREADABLE:
        raise Failed(f"not JSON: {error.body[:100]!r}") from None
    error_object = body.get("error") if isinstance(body, dict) else None
    if not (isinstance(error_object, dict) and isinstance(error_object.get("message"), str)):
        raise Unsupported(f"its own form, which the router turns into OpenAI's: {show(body)}")
    return show(body)


async def error_long_prompt(host: ExaminedHost) -> str:
    """A prompt that is too long is refused, not cut."""
    if not host.long_words:
        raise Unsupported("left out, as it may cost money; --long includes it")
    error = await host.refused(messages=_user("sea " * host.long_words), max_tokens=8)
    _expect(400 <= error.status < 500, f"status {error.status}: {_message(error)}")
    return f"status {error.status}: {_message(error)}"


async def error_then_answer(host: ExaminedHost) -> str:
    """After all that, the host still answers."""
    return show((await host.ask(**_HELLO)).text)


def _message(error: Any) -> str:
    return show(error.as_openai()["error"]["message"])


_FUNCTIONS = (
    models_list,
    models_named,
    chat_answer,
    chat_shape,
    chat_finish,
    chat_usage,
    chat_parts,
    chat_system,
    chat_developer,
    chat_turns,
    chat_unicode,
    chat_name,
    chat_max_tokens,
    chat_max_completion_tokens,
    chat_stop,
    chat_stop_list,
    chat_deterministic,
    chat_seed,
    chat_n,
    chat_logprobs,
    chat_logit_bias,
    chat_penalties,
    chat_unknown_field,
    format_json_object,
    format_json_schema,
    tools_one,
    tools_required,
    tools_finish,
    tools_auto,
    tools_parallel,
    tools_result,
    tools_foreign_id,
    tools_stream,
    stream_answer,
    stream_shape,
    stream_role,
    stream_finish,
    stream_usage,
    stream_same,
    stream_pieces,
    stream_unicode,
    stream_n,
    stream_cancel,
    more_vision,
    more_parallel,
    more_completion,
    more_completion_stream,
    more_embedding,
    more_embeddings,
    more_embedding_base64,
    error_unknown_model,
    error_bad_key,
    error_no_messages,
    error_bad_type,
    error_shape,
    error_long_prompt,
    error_then_answer,
)

CHECKS: tuple[Check, ...] = tuple(
    Check(ask.__name__.replace("_", ".", 1), (ask.__doc__ or "").strip(), ask) for ask in _FUNCTIONS
)
