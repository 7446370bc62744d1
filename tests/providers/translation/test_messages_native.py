"""Our translation beside a host that speaks both APIs: llama.cpp's own server, with one model."""

import json

import pytest
import tiny_gguf
from chat_chunks import envelope
from tiny_llama_server import both_answers, data_of_events, llama_server, post

from providers.translation.messages_requests import to_chat

pytest.importorskip("xllamacpp")

HI = [{"role": "user", "content": "Tell me"}]
TEXT = {"messages": HI, "max_tokens": 6, "temperature": 0}
TOOL = {"name": "f", "input_schema": {"type": "object"}}
CALLS = {
    "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
    "max_tokens": 60,
    "temperature": 0,
    "tools": [TOOL],
    "tool_choice": {"type": "any"},
}
TURNS = {
    **TEXT,
    "system": [{"type": "text", "text": "Be brief."}],
    "messages": [
        *HI,
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I ask."},
                {"type": "tool_use", "id": "a", "name": "f", "input": {"b": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "c"},
                {"type": "text", "text": "So?"},
            ],
        },
    ],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model = tiny_gguf.write(tmp_path_factory.mktemp("native") / "tiny.gguf")
    with llama_server(model) as url:
        yield url


def shape(block):
    """What a block says, without its id."""
    return {name: value for name, value in block.items() if name not in ("id", "citations")}


def prompt_tokens(message):
    """All tokens of the prompt; the second of two requests finds most of them in the cache."""
    usage = message["usage"]
    return usage["input_tokens"] + usage.get("cache_read_input_tokens", 0)


@pytest.mark.parametrize("fields", [TEXT, CALLS, TURNS])
def test_a_whole_answer_is_that_of_a_native_host(server, fields):
    native, ours = map(json.loads, both_answers(server, "messages", to_chat, fields))
    assert list(map(shape, ours["content"])) == list(map(shape, native["content"])) != []
    for name in ("type", "role", "model", "stop_reason", "stop_sequence"):
        assert ours[name] == native[name]
    assert prompt_tokens(ours) == prompt_tokens(native) > 0
    assert ours["usage"]["output_tokens"] == native["usage"]["output_tokens"]


@pytest.mark.parametrize("fields", [TEXT, CALLS, TURNS])
def test_events_have_the_order_of_a_native_host(server, fields):
    native, ours = map(
        data_of_events, both_answers(server, "messages", to_chat, {**fields, "stream": True})
    )
    assert [event["type"] for event in ours] == [event["type"] for event in native]
    begun, our_begun = (
        [shape(event["content_block"]) for event in side if "content_block" in event]
        for side in (native, ours)
    )
    assert our_begun == begun != []
    deltas = [[e["delta"] for e in side if "delta" in e] for side in (native, ours)]
    assert deltas[0] == deltas[1]


def test_a_prompt_has_as_many_tokens_as_a_native_host_counts(server):
    asked = {"model": "tiny", **{name: TURNS[name] for name in ("system", "messages")}}
    native = json.loads(post(f"{server}/v1/messages/count_tokens", asked))
    chat = to_chat(envelope(**asked), policy="error", host="lab", counting=True)
    body = {name: json.loads(bytes(raw)) for name, raw in chat.fields.items()}
    answer = json.loads(post(f"{server}/v1/chat/completions", {**body, "max_tokens": 1}))
    assert answer["usage"]["prompt_tokens"] == native["input_tokens"]
