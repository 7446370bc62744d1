"""Our translation beside a host that speaks both APIs: llama.cpp's own server, with one model."""

import json

import pytest
import tiny_gguf
from tiny_llama_server import both_answers, data_of_events, llama_server

from providers.translation.responses_requests import to_chat

pytest.importorskip("xllamacpp")

TEXT = {"input": "Tell me", "max_output_tokens": 6, "temperature": 0, "seed": 1}
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
CALLS = {**TEXT, "input": "a", "max_output_tokens": 40, "tools": [TOOL], "tool_choice": "required"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model = tiny_gguf.write(tmp_path_factory.mktemp("native") / "tiny.gguf")
    with llama_server(model) as url:
        yield url


def shape(item):
    """What an item says, without ids."""
    texts = [part["text"] for part in item.get("content") or ()]
    return item["type"], item.get("name"), item.get("arguments"), texts


@pytest.mark.parametrize("fields", [TEXT, CALLS])
def test_events_have_the_order_of_a_native_host(server, fields):
    native, ours = map(
        data_of_events, both_answers(server, "responses", to_chat, {**fields, "stream": True})
    )
    # An answer that was cut off at its bound is complete to llama.cpp, and incomplete to OpenAI.
    assert [event["type"] for event in ours[:-1]] == [event["type"] for event in native[:-1]]
    pieces = [[e["delta"] for e in side if "delta" in e] for side in (native, ours)]
    assert pieces[0] == pieces[1] != []
    last, our_last = native[-1]["response"], ours[-1]["response"]
    assert list(map(shape, our_last["output"])) == list(map(shape, last["output"]))
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        assert our_last["usage"][name] == last["usage"][name]


@pytest.mark.parametrize("fields", [TEXT, CALLS])
def test_a_whole_answer_is_that_of_a_native_host(server, fields):
    native, ours = map(json.loads, both_answers(server, "responses", to_chat, fields))
    assert list(map(shape, ours["output"])) == list(map(shape, native["output"]))
    assert ours["usage"]["total_tokens"] == native["usage"]["total_tokens"]
    assert ours["model"] == native["model"]
