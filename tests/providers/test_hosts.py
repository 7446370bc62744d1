"""Gemini, Groq, Ollama, OpenAI, Azure and Hugging Face: what differs, and only that."""

import msgspec
import pytest
from fake_hosts import KEY, MODEL, Dialect, GeminiDialect, GroqDialect, OllamaDialect, words
from hosts import ask, call, config, open_host, stream, transport
from servers import reserved_port

from providers.base import AS_IT_CAME
from providers.errors import ConfigError, UpstreamConnectError
from providers.kinds import KINDS, make

TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
}


class Anything(Dialect):
    """Takes every field, as OpenAI's own wire."""

    def check(self, body):
        pass


# Gemini


@pytest.mark.parametrize("streamed", [False, True])
async def test_gemini_says_tool_calls_where_it_says_stop(streamed):
    async with open_host("gemini", GeminiDialect()) as host:
        fields = {"tools": [TOOL], "tool_choice": "required"}
        if streamed:
            chunks = (await stream(host, **fields)).chunks
            assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
        else:
            said = await ask(host, **fields)
            assert said.json["choices"][0]["finish_reason"] == "tool_calls"


async def test_gemini_refuses_names_it_does_not_know():
    async with open_host("gemini", GeminiDialect()) as host:
        said = await ask(host, store=True, logit_bias={"1": 1}, verbosity="low", seed=1)
        assert said.status == 200
        assert set(said.translation.dropped) == {"store", "logit_bias", "verbosity"}
        assert host.server.received[-1]["seed"] == 1
        assert (await ask(host, store=True, on_unsupported="error")).status == 400
        assert (await ask(host, store=True, on_unsupported="pass")).status == 400


# Groq


async def test_groq_lacks_what_its_documentation_says():
    async with open_host("groq", GroqDialect()) as host:
        named = [{"role": "user", "name": "ada", "content": "hi"}]
        said = await ask(
            host,
            n=2,
            logprobs=True,
            top_logprobs=1,
            logit_bias={"1": 1},
            messages=named,
            seed=3,
            top_k=5,
        )
        assert said.status == 200, said.json
        assert set(said.translation.dropped) == {
            "n",
            "logprobs",
            "top_logprobs",
            "logit_bias",
            "messages.name",
            "top_k",
        }
        assert host.server.received[-1]["seed"] == 3
        assert (await ask(host, n=1, on_unsupported="error")).status == 200


# Ollama

LONG = "sea " * 5000


async def test_ollama_would_ignore_names_it_does_not_know():
    async with open_host("ollama", OllamaDialect()) as host:
        said = await ask(host, n=2, max_completion_tokens=3, logit_bias={"1": 1})
        assert set(said.translation.dropped) == {"n", "logit_bias"}
        assert said.translation.renamed == {"max_completion_tokens": "max_tokens"}
        assert host.server.dialect.ignored == []


async def test_ollama_cuts_a_long_prompt_and_we_say_so():
    async with open_host("ollama", OllamaDialect()) as host:
        messages = [{"role": "user", "content": LONG}]
        said = await ask(host, messages=messages)
        assert said.status == 200
        assert "context of 4096" in said.translation.dropped["messages"]
        refused = await ask(host, messages=messages, on_unsupported="error")
        assert refused.status == 400
        assert refused.json["error"]["param"] == "messages"
        short = await ask(host, messages=[{"role": "user", "content": "sea " * 3000}])
        assert short.translation.dropped == {}


@pytest.mark.parametrize("known_by", ["running", "parameters"])
async def test_ollama_is_asked_for_its_real_context(known_by):
    dialect = OllamaDialect()
    if known_by == "running":
        dialect.running = [{"name": MODEL, "model": MODEL, "context_length": 8192}]
    else:
        dialect.parameters = 'num_ctx                        8192\nstop "x"'
    async with open_host("ollama", dialect) as host:
        said = await ask(host, messages=[{"role": "user", "content": LONG}])
        assert said.translation.dropped == {}
        longer = await ask(host, messages=[{"role": "user", "content": LONG * 2}])
        assert "context of 8192" in longer.translation.dropped["messages"]


# OpenAI


def openai_rules(model, **fields):
    provider = KINDS["openai"].build("openai", config("openai"), None)
    return provider.rules(call(model=model, **fields))


@pytest.mark.parametrize(
    "model", ["gpt-4o-mini", "gpt-4.1", "gpt-3.5-turbo", "ft:gpt-4o:me:x:1", "chatgpt-4o-latest"]
)
def test_other_models_of_openai_are_relayed_untouched(model):
    assert openai_rules(model, temperature=0.5, max_tokens=5) is None


@pytest.mark.parametrize(
    ("model", "effort", "samples"),
    [
        ("o1", None, False),
        ("o3-mini", None, False),
        ("o4-mini-2025-04-16", None, False),
        ("ft:o4-mini:me:x:1", None, False),
        ("gpt-5", None, False),
        ("gpt-5-mini", "low", False),
        ("gpt-5-chat-latest", None, False),
        ("gpt-5.1", None, True),
        ("gpt-5.2", "none", True),
        ("gpt-5.2", "high", False),
        ("gpt-5.1-codex", None, False),
        ("gpt-5.2-pro", None, False),
    ],
)
async def test_openais_reasoning_models(model, effort, samples):
    async with open_host("openai", Anything()) as host:
        fields = {} if effort is None else {"reasoning_effort": effort}
        said = await ask(host, model=model, temperature=0.5, max_tokens=5, **fields)
        sent = host.server.received[-1]
        assert sent["max_completion_tokens"] == 5
        assert ("temperature" in sent) is samples
        assert ("temperature" in said.translation.dropped) is not samples
        neutral = await ask(
            host, model=model, temperature=1, logprobs=False, on_unsupported="error", **fields
        )
        assert neutral.translation.dropped == {}


async def test_what_passes_costs_no_record():
    async with open_host("openai", Anything()) as host:
        said = await ask(host, model="gpt-4o", temperature=0.5, unheard_of={"a": [1.50]})
        assert said.translation is AS_IT_CAME
        assert host.server.received[-1]["unheard_of"] == {"a": [1.5]}


async def test_openais_headers():
    async with open_host("openai", Anything(), organization="org-1", project="p-1") as host:
        await ask(host)
        headers = host.server.headers[-1]
        assert headers["openai-organization"] == "org-1"
        assert headers["openai-project"] == "p-1"


# Azure


@pytest.mark.parametrize(
    ("version", "path"),
    [
        ("", "/openai/v1/chat/completions"),
        ("2024-10-21", f"/openai/deployments/{MODEL}/chat/completions?api-version=2024-10-21"),
    ],
)
async def test_azures_two_forms(version, path):
    async with transport() as client:
        entry = config(
            "azure", base_url="https://me.openai.azure.com/", api_key=KEY, api_version=version
        )
        provider = make("azure", entry, client)
        assert str(provider.url(call())) == f"https://me.openai.azure.com{path}"
        assert provider._headers["api-key"] == KEY
        assert "authorization" not in provider._headers


def test_azure_needs_an_address():
    with pytest.raises(ConfigError, match="base_url"):
        make("azure", config("azure"), None)


# Hugging Face


async def test_hugging_face_says_how_to_start_its_engine():
    with reserved_port() as port:
        url = f"http://127.0.0.1:{port}/v1"
        async with transport() as client:
            hf = make("hf", config("huggingface", base_url=url), client)
            with pytest.raises(UpstreamConnectError, match="evalrouter models serve CONFIG"):
                await ask(hf, model="google/flan-t5-small")
            assert (await ask(hf, "models")).json["data"] == []


async def test_hugging_face_with_its_engine():
    async with open_host("huggingface", Anything()) as host:
        assert (await ask(host)).status == 200


# All


@pytest.mark.parametrize("kind", ["compatible", "vllm", "ray_serve", "together", "openrouter"])
async def test_rows_relay_every_field(kind):
    fields = {name: 1 for name in words("seed n logprobs top_k min_p unheard_of") if name != "n"}
    async with open_host(kind, Anything()) as host:
        said = await ask(host, **fields, reasoning={"effort": "low"})
        assert said.translation is AS_IT_CAME
        assert fields.items() <= host.server.received[-1].items()


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize("kind", ["compatible", "mistral", "gemini"])
async def test_reasoning_is_kept_under_either_name(kind, field):
    class Thinking(Anything):
        def answer(self, body):
            answer = super().answer(body)
            answer["choices"][0]["message"][field] = "Hm."
            return answer

    async with open_host(kind, Thinking()) as host:
        said = await ask(host, tools=[])
        assert said.json["choices"][0]["message"][field] == "Hm."


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_can_be_told_what_to_do_with_what_a_host_lacks(kind):
    names = {field.name for field in msgspec.structs.fields(KINDS[kind].config)}
    assert {"on_unsupported", "record", "models"} <= names
