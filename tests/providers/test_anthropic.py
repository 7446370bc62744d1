"""Anthropic's Messages API against a strict stand-in; the anthropic package is the oracle."""

import json

import pytest
from anthropic import types
from anthropic.types import RawMessageStreamEvent, message_create_params
from fake_hosts import KEY, AnthropicDialect
from hosts import ask, call, open_host, stream, texts
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from providers import wire
from providers.anthropic import request_of
from providers.anthropic_answers import MessagesRewriter, usage_of
from providers.base import AS_IT_CAME
from providers.errors import RequestError, UpstreamProtocolError
from providers.http import sse
from providers.translation.fold import fold

OLD = "claude-sonnet-4-5-20250929"
PIXEL = "data:image/png;base64,aGVsbG8="
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "It.",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Oslo"]}}},
    },
}
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Look:", "cache_control": {"type": "ephemeral"}},
            {"type": "image_url", "image_url": {"url": PIXEL}},
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,aGVsbG8="}},
        ],
    },
    {
        "role": "assistant",
        "content": "",
        "thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}],
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
            {"id": "b", "type": "function", "function": {"name": "weather", "arguments": ""}},
        ],
    },
    {"role": "tool", "tool_call_id": "a", "content": "sun"},
    {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "rain"}]},
    {"role": "user", "content": "Which?"},
    {"role": "developer", "content": "In English."},
]


@pytest.fixture
async def claude():
    async with open_host("anthropic", AnthropicDialect()) as host:
        yield host


def sent_for(policy="error", model="claude-next", **fields):
    body, done = request_of(call(model=model, **fields), provider="it", policy=policy)
    return json.loads(wire.encode(body)), done


def test_a_whole_conversation_is_what_anthropics_types_say():
    body, done = sent_for(
        messages=CONVERSATION,
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        parallel_tool_calls=False,
        max_completion_tokens=50,
        stop="END",
        user="ada",
        reasoning_effort="high",
        response_format={"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
    )
    kind = message_create_params.MessageCreateParamsNonStreaming
    TypeAdapter(kind).validate_python(body, extra="forbid")
    assert body["system"] == [
        {"type": "text", "text": "Be brief."},
        {"type": "text", "text": "In English."},
    ]
    assert [one["role"] for one in body["messages"]] == ["user", "assistant", "user"]
    seen, called, answered = (one["content"] for one in body["messages"])
    assert [one["type"] for one in seen] == ["text", "image", "image", "document"]
    assert seen[0]["cache_control"] == {"type": "ephemeral"}
    assert seen[1]["source"] == {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}
    assert seen[2]["source"] == {"type": "url", "url": "https://example.org/a.png"}
    assert [one["type"] for one in called] == ["thinking", "tool_use", "tool_use"]
    assert [one["type"] for one in answered] == ["tool_result", "tool_result", "text"]
    assert body["tool_choice"] == {
        "type": "tool",
        "name": "weather",
        "disable_parallel_tool_use": True,
    }
    assert body["output_config"] == {
        "effort": "high",
        "format": {"type": "json_schema", "schema": {"type": "object"}},
    }
    assert body["stop_sequences"] == ["END"]
    assert body["metadata"] == {"user_id": "ada"}
    assert body["max_tokens"] == 50
    assert done.renamed == {
        "max_completion_tokens": "max_tokens",
        "stop": "stop_sequences",
        "user": "metadata.user_id",
    }
    assert "moved to the front" in done.converted["messages.role"]
    assert done.dropped == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"logprobs": True},
        {"seed": 1},
        {"logit_bias": {"1": 1}},
        {"presence_penalty": 1},
        {"response_format": {"type": "json_object"}},
        {"temperature": 0.5},
        {"top_p": 0.5},
        {"messages": [{"role": "user", "name": "ada", "content": "hi"}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        {"metadata": {"project": "x"}},
        {"unheard_of": 1},
    ],
)
def test_what_the_messages_api_cannot_express(fields):
    name = next(iter(fields))
    with pytest.raises(RequestError) as refused:
        sent_for(**fields)
    assert refused.value.code == "unsupported_parameter"
    body, done = sent_for("drop", **fields)
    assert [one.split(".")[0] for one in done.dropped] == [name]
    if name != "messages":
        assert name not in body
    body, done = sent_for("pass", **fields)
    assert done.dropped == {}
    if name != "metadata":
        assert name in body


def test_older_models_still_take_sampling_parameters():
    body, done = sent_for(model="claude-sonnet-4-20250514", temperature=0.5, top_p=0.9)
    assert (body["temperature"], body["top_p"]) == (0.5, 0.9)
    assert done.dropped == {}
    with pytest.raises(RequestError, match="temperatures from 0 to 1"):
        sent_for(model=OLD, temperature=1.5)


@pytest.mark.parametrize("model", ["claude-sonnet-4-5", "claude-opus-4-1-20250805"])
def test_models_that_take_temperature_or_top_p(model):
    body, done = sent_for("drop", model=model, temperature=0.5, top_p=0.9)
    assert (body["temperature"], "top_p" in body) == (0.5, False)
    assert list(done.dropped) == ["top_p"]
    assert "top_p" not in done.passed
    with pytest.raises(RequestError, match="not both"):
        sent_for(model=model, temperature=0.5, top_p=0.9)
    body, _ = sent_for("pass", model=model, temperature=0.5, top_p=0.9)
    assert (body["temperature"], body["top_p"]) == (0.5, 0.9)


def test_the_published_sampling_of_prometheus_is_taken_whole():
    """Temperature 1.0 is what the host does anyway, so nothing is lost and nothing refused."""
    body, done = sent_for(model="claude-sonnet-4-5", temperature=1.0, top_p=0.9)
    assert (body["top_p"], "temperature" in body) == (0.9, False)
    assert done.dropped == {}


@pytest.mark.parametrize(
    ("stop", "sent"),
    [
        (["\n\n", "END"], ["END"]),
        ("\n", None),
        (["", " "], None),
        (["END"], ["END"]),
        ("END", ["END"]),
    ],
)
def test_a_stop_of_white_space_is_left_out(stop, sent):
    body, done = sent_for("drop", stop=stop)
    assert body.get("stop_sequences") == sent
    assert list(done.dropped) == ([] if sent == [stop] or sent == stop else ["stop"])
    assert ("stop" in done.renamed) == (sent is not None)


@pytest.mark.parametrize("stop", [7, ["a", 7], {"a": 1}])
def test_a_stop_that_is_no_text_is_the_clients_mistake(stop):
    with pytest.raises(RequestError) as refused:
        sent_for("drop", stop=stop)
    assert (refused.value.param, refused.value.code) == ("stop", "invalid_type")


def test_what_asks_for_nothing_is_left_out():
    _, done = sent_for(n=1, logprobs=False, temperature=1, store=False, response_format=None)
    assert done.dropped == {}


def test_the_bound_the_api_insists_on_is_told():
    body, done = sent_for()
    assert body["max_tokens"] == 4096
    assert "4096" in done.converted["max_tokens"]


@pytest.mark.parametrize(
    "messages",
    [
        "hi",
        ["hi"],
        [{"role": "king", "content": "hi"}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 5}}]}],
        [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "data:x;base64,%"}}],
            }
        ],
        [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
    ],
)
def test_messages_that_are_none_are_refused_before_they_are_sent(messages):
    with pytest.raises(RequestError) as refused:
        sent_for(messages=messages)
    assert refused.value.param == "messages"


async def test_whole_answers(claude):
    said = await ask(claude, max_tokens=50)
    assert said.status == 200, said.json
    read = ChatCompletion.model_validate_json(said.body)
    assert read.choices[0].message.content == "You said: hi That is choice 0."
    assert read.choices[0].finish_reason == "stop"
    assert read.usage.prompt_tokens_details.cached_tokens == 2
    assert read.usage.total_tokens == read.usage.prompt_tokens + read.usage.completion_tokens
    headers = claude.server.headers[-1]
    assert headers["x-api-key"] == KEY
    assert "authorization" not in headers


async def test_streams_say_what_whole_answers_say(claude):
    fields = {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 50}
    claude.server.dialect.thinks = True
    whole = (await ask(claude, **fields)).json
    streamed = await stream(claude, **fields, stream_options={"include_usage": True})
    for chunk in streamed.chunks:
        ChatCompletionChunk.model_validate(chunk)
    folded = fold(streamed.chunks)
    said, says = (one["choices"][0]["message"] for one in (folded, whole))
    assert (said.pop("content"), says.pop("content")) == ("", None), "as OpenAI does it"
    for one in (said, says):
        function = one["tool_calls"][0]["function"]
        function["arguments"] = json.loads(function["arguments"])
    assert said == says
    assert folded["choices"][0]["finish_reason"] == "tool_calls"
    assert folded["usage"] == whole["usage"]
    assert whole["choices"][0]["message"]["thinking_blocks"][0]["signature"] == "c2ln"
    assert streamed.done
    # A thought is signed before the answer goes on, so that the next API can say so in order.
    names = [
        name for chunk in streamed.chunks for choice in chunk["choices"] for name in choice["delta"]
    ]
    assert names.index("thinking_blocks") < names.index("tool_calls")


async def test_a_stream_without_usage_has_none(claude):
    streamed = await stream(claude, max_tokens=50)
    assert not any("usage" in chunk for chunk in streamed.chunks)
    assert texts(streamed) == "You said: hi That is choice 0."


async def test_an_answer_goes_back_as_the_next_turn(claude):
    claude.server.dialect.thinks = True
    fields = {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 50}
    message = (await ask(claude, **fields)).json["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "ok"}
    first = {"role": "user", "content": "hi"}
    said = await ask(
        claude, messages=[first, message, result], tools=[WEATHER], on_unsupported="error"
    )
    assert said.status == 200, said.json


async def test_models_and_other_paths(claude):
    assert (await ask(claude, "models")).json["data"][0]["id"] == "standing-1"
    assert (await ask(claude, "embeddings", input="a")).status == 400


async def test_native_requests_go_without_thoughts_of_other_models(claude):
    thoughts = [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "thinking", "thinking": "So.", "signature": ""},
    ]
    hi = {"role": "user", "content": "hi"}
    turns = [hi, {"role": "assistant", "content": [*thoughts, {"type": "text", "text": "a"}]}, hi]
    said = await ask(claude, "messages", messages=turns, max_tokens=5, on_unsupported="error")
    assert said.status == 200, said.json
    sent = claude.server.received[-1]["messages"][1]["content"]
    assert [block["type"] for block in sent] == ["thinking", "text"]
    assert set(said.translation.converted) == {"messages.content.thinking"}
    turns[1]["content"] = [thoughts[0], {"type": "text", "text": "a"}]
    said = await ask(claude, "messages", messages=turns, max_tokens=5)
    assert claude.server.received[-1]["messages"] == turns
    assert said.translation == AS_IT_CAME


async def test_errors_of_the_host_pass(claude):
    said = await ask(claude, model="nobody")
    assert said.status == 404
    assert said.json["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("pause_turn", "stop"),
    ],
)
def test_every_stop_reason_of_anthropics_types_has_a_finish_reason(reason, finish):
    message = types.Message(
        id="m",
        type="message",
        role="assistant",
        model="c",
        content=[types.TextBlock(type="text", text="x")],
        stop_reason=reason,
        stop_sequence=None,
        usage=types.Usage(input_tokens=1, output_tokens=2),
    )
    rewriter = MessagesRewriter("it", created=1, include_usage=False)
    read = ChatCompletion.model_validate_json(rewriter.whole(message.model_dump_json().encode()))
    assert read.choices[0].finish_reason == finish


def test_the_stand_ins_events_are_anthropics():
    dialect = AnthropicDialect()
    dialect.thinks = True
    body, _ = sent_for(tools=[WEATHER], tool_choice="required")
    for _, event in dialect.events(body, dialect.answer(body)):
        if event["type"] != "ping":
            TypeAdapter(RawMessageStreamEvent).validate_python(event)


def test_a_stream_that_breaks_off_or_reports_an_error_is_an_error():
    broken = MessagesRewriter("it", created=1, include_usage=False)
    broken.event(sse.Event(b'{"type":"message_start","message":{"id":"m"}}'))
    with pytest.raises(UpstreamProtocolError, match="ended before"):
        broken.end()
    with pytest.raises(UpstreamProtocolError, match="Overloaded"):
        broken.event(sse.Event(b'{"type":"error","error":{"message":"Overloaded"}}'))


def test_cached_tokens_are_part_of_the_prompt():
    found = usage_of(
        {
            "input_tokens": 5,
            "cache_read_input_tokens": 10,
            "cache_creation_input_tokens": 20,
            "output_tokens": 3,
            "output_tokens_details": {"thinking_tokens": 2},
        }
    )
    assert found["prompt_tokens"] == 35
    assert found["total_tokens"] == 38
    assert found["completion_tokens_details"] == {"reasoning_tokens": 2}
