"""Responses and messages at llama.cpp's own server: relayed to it, and by way of chats."""

import pytest
import tiny_gguf
from anthropic import Anthropic
from openai import OpenAI
from servers import gateway
from tiny_llama_server import llama_server

pytest.importorskip("xllamacpp")

GREEDY = {"temperature": 0}
TURNS = [{"role": "user", "content": "hello there"}]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    model = tiny_gguf.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")
    database = tmp_path_factory.mktemp("db") / "e.db"
    with llama_server(model) as address:
        config = f"""
storage: {{database: "sqlite:///{database}"}}
providers:
  native: {{kind: llamafile, base_url: "{address}/v1"}}
  chats: {{kind: llamafile, base_url: "{address}/v1", speaks: []}}
"""
        with gateway(config) as url:
            yield url


@pytest.fixture
def openai_client(url):
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(url):
    with Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("model", ["native/tiny", "chats/tiny"])
def test_openais_client_reads_responses(model, openai_client):
    given = {"model": model, "input": "hello there", "max_output_tokens": 8, "temperature": 0}
    whole = openai_client.responses.create(**given)
    assert whole.object == "response"
    assert whole.usage.input_tokens > 0
    # Its events have no `output_index`, without which the client's accumulator cannot do.
    events = list(openai_client.responses.create(**given, stream=True))
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")
    texts = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(texts) == whole.output_text
    assert events[-1].response.usage.output_tokens == whole.usage.output_tokens


@pytest.mark.parametrize("model", ["native/tiny", "chats/tiny"])
def test_anthropics_client_reads_messages(model, anthropic_client):
    given = {"model": model, "messages": TURNS, "max_tokens": 8, "extra_body": GREEDY}
    whole = anthropic_client.messages.create(**given)
    assert whole.type == "message"
    with anthropic_client.messages.stream(**given) as events:
        final = events.get_final_message()
    assert final.content[0].text == whole.content[0].text
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_both_ways_give_the_same_text(anthropic_client):
    given = {"messages": TURNS, "max_tokens": 8, "extra_body": GREEDY}
    texts = {
        anthropic_client.messages.create(model=model, **given).content[0].text
        for model in ("native/tiny", "chats/tiny")
    }
    assert len(texts) == 1


def test_tokens_are_counted_by_the_server(anthropic_client):
    counted = anthropic_client.messages.count_tokens(model="native/tiny", messages=TURNS)
    given = {"messages": TURNS, "max_tokens": 1}
    used = anthropic_client.messages.create(model="native/tiny", **given).usage
    prompt = used.input_tokens + (used.cache_read_input_tokens or 0)
    assert counted.input_tokens == prompt
