"""What is below a request's top level: conversations that began on another host go on."""

import json

import msgspec
import pytest
from fake_hosts import AnthropicDialect, Dialect, GeminiDialect, GroqDialect, MistralDialect
from hosts import ask, call, open_host
from hypothesis import given
from hypothesis import strategies as st

from providers.compatible import CompatibleConfig
from providers.gemini import ToolCallsRewriter
from providers.http.sse import Event
from providers.kinds import KINDS
from providers.translation import reasoning
from providers.translation.nested import ToolCallIndexes

# A conversation with all that other hosts and SDKs put into one.
CONVERSATION = [
    {"role": "system", "content": "Be brief.", "cache_control": {"type": "ephemeral"}},
    {
        "role": "user",
        "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}],
    },
    {
        "role": "assistant",
        "content": "ok",
        "metadata": {"a": 1},
        "reasoning_content": "r",
        "reasoning_details": [{"type": "text"}],
        "annotations": [],
        "refusal": None,
        "provider_specific_fields": {"a": 1},
        "tool_calls": [
            {
                "id": "abcdefghi",
                "index": 0,
                "type": "function",
                "function": {"name": "f", "arguments": "{}", "parsed_arguments": {"b": 1}},
                "provider_specific_fields": {"a": 1},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "abcdefghi", "content": "r", "is_error": False},
    {"role": "user", "content": "go on"},
]
TOOLS = [
    {
        "type": "function",
        "cache_control": {"type": "ephemeral"},
        "function": {
            "name": "f",
            "parameters": {"type": "object", "properties": {"cache_control": {"type": "string"}}},
        },
    }
]
PLAIN = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    {
        "role": "assistant",
        "content": "ok",
        "tool_calls": [
            {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        ],
    },
    {"role": "tool", "tool_call_id": "abcdefghi", "content": "r"},
    {"role": "user", "content": "go on"},
]


class Anything(Dialect):
    """A host that takes every name and every model."""

    def check_common(self, body, headers):
        self.check(body)

    def check(self, body):
        pass


class Azure(Anything):
    root = "/openai/v1"


HOSTS = [("mistral", MistralDialect), ("groq", GroqDialect), ("gemini", GeminiDialect)]


@pytest.mark.parametrize(("kind", "dialect"), HOSTS)
async def test_a_conversation_of_another_host_goes_on(kind, dialect):
    async with open_host(kind, dialect()) as host:
        said = await ask(host, messages=CONVERSATION, tools=TOOLS)
        assert said.status == 200, said.body
        sent = host.server.received[-1]
        assert sent["messages"] == PLAIN
        assert sent["tools"] == [{"type": "function", "function": TOOLS[0]["function"]}]
        dropped = said.translation.dropped
        assert {
            "messages.cache_control",
            "messages.content.cache_control",
            "messages.metadata",
            "messages.reasoning_content",
            "messages.reasoning_details",
            "messages.provider_specific_fields",
            "messages.tool_calls.provider_specific_fields",
            "messages.tool_calls.function.parsed_arguments",
            "messages.is_error",
            "tools.cache_control",
        } == set(dropped)
        # Nothing is lost with these, so evaluations need not refuse them.
        assert {"messages.annotations", "messages.refusal", "messages.tool_calls.index"} <= set(
            said.translation.converted
        )


@pytest.mark.parametrize(("kind", "dialect"), HOSTS)
async def test_an_evaluation_refuses_and_names_the_place(kind, dialect):
    async with open_host(kind, dialect()) as host:
        said = await ask(host, messages=CONVERSATION[:2], on_unsupported="error")
        assert (said.status, host.server.received) == (400, [])
        assert said.json["error"]["param"] == "messages.cache_control"
        said = await ask(host, messages=PLAIN, on_unsupported="error")
        assert said.status == 200
        assert said.translation.dropped == said.translation.converted == {}


@pytest.mark.parametrize("messages", [7, None, "text", [7, None, []], [{"role": 7}], [{}], {}])
@pytest.mark.parametrize("kind", ["mistral", "groq", "gemini"])
async def test_what_is_no_conversation_is_the_hosts_to_refuse(kind, messages):
    class Refusing(Anything):
        def check(self, body):
            raise self.refuse(422, "not a conversation")

    async with open_host(kind, Refusing()) as host:
        said = await ask(host, messages=messages)
        assert said.status == 422
        assert host.server.received[-1]["messages"] == messages


async def test_openai_itself_gets_no_names_of_other_hosts():
    """Azure: the kind openai does the same at its own address only, which no test can reach."""
    async with open_host("azure", Azure()) as host:
        said = await ask(host, messages=CONVERSATION, tools=TOOLS)
        sent = host.server.received[-1]
    assert {"messages.cache_control", "tools.cache_control"} <= set(said.translation.dropped)
    text = json.dumps(sent["messages"])
    for name in ("cache_control", "reasoning_content", "reasoning_details", "metadata", "index"):
        assert f'"{name}"' not in text
    # OpenAI's own answers come back with these.
    assert "annotations" in text
    assert sent["tools"][0].keys() == {"type", "function"}
    assert sent["tools"][0]["function"] == TOOLS[0]["function"]


async def test_a_host_that_takes_strings_gets_strings():
    class Strings(Anything):
        def check(self, body):
            for message in body["messages"]:
                if not isinstance(message["content"], str):
                    raise self.refuse(422, "invalid type: sequence, expected a string")

    parts = [{"type": "text", "text": "Hi."}, {"type": "text", "text": "There."}]
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    async with open_host("compatible", Strings()) as host:
        assert (await ask(host, messages=[{"role": "user", "content": parts}])).status == 422
    async with open_host("compatible", Strings(), content_parts=False) as host:
        said = await ask(host, messages=[{"role": "user", "content": parts}])
        assert said.status == 200
        assert host.server.received[-1]["messages"] == [{"role": "user", "content": "Hi.\nThere."}]
        assert said.translation.converted == {"messages.content": "parts joined into one text"}
        said = await ask(host, messages=[{"role": "user", "content": [*parts, image]}])
        assert list(said.translation.dropped) == ["messages.content.image_url"]
        said = await ask(
            host, messages=[{"role": "user", "content": [*parts, image]}], on_unsupported="error"
        )
        assert (said.status, said.json["error"]["param"]) == (400, "messages.content.image_url")
        said = await ask(host, messages=[{"role": "user", "content": "plain"}])
        assert said.translation.converted == {}


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("o3-mini", True),
        ("openai/o3-mini", True),
        ("prod-o3-mini", True),
        ("my-gpt5", True),
        ("gpt-5.2", True),
        ("ft:gpt-5:acme::x", True),
        ("gpt-51", True),
        ("O1", True),
        ("gpt-35-turbo", False),
        ("gpt-4o", False),
        ("gpt-4.1", False),
        ("gpt-41", False),
        ("gpt-3.5-turbo", False),
        ("chatgpt-4o-latest", False),
        ("foo1", False),
        ("gpt-oss-20b", False),
        ("llama-3-o1x", False),
    ],
)
def test_reasoning_models_by_their_name(name, reasons):
    assert reasoning.is_named_so(name) is reasons


@pytest.mark.parametrize(
    ("kind", "fields", "model", "reasons"),
    [
        ("compatible", {}, "o3-mini", False),
        ("compatible", {"reasoning": True}, "anything", True),
        ("compatible", {"reasoning": ["mine"]}, "mine", True),
        ("compatible", {"reasoning": ["mine"]}, "other", False),
        ("openai", {}, "prod-o3-mini", True),
        ("openai", {"reasoning": False}, "o3-mini", False),
        ("openai", {"reasoning": True}, "gpt-4o", True),
        ("openai", {"reasoning": ["mine"]}, "o3-mini", True),
        ("azure", {"reasoning": ["mine"]}, "mine", True),
        ("azure", {}, "gpt-35-turbo", False),
    ],
)
async def test_reasoning_models_get_what_they_take(kind, fields, model, reasons):
    async with open_host(kind, Azure() if kind == "azure" else Anything(), **fields) as host:
        said = await ask(host, model=model, max_tokens=50, temperature=0)
        assert said.status == 200, said.body
        sent = host.server.received[-1]
    assert ("max_completion_tokens" in sent, "temperature" in sent) == (reasons, not reasons)
    assert list(said.translation.dropped) == (["temperature"] if reasons else [])


NAMED_SO, OTHER = "o3-mini", "my-deployment"


@pytest.mark.parametrize("kind", ["openai", "azure", "compatible", "vllm", "ray_serve"])
@pytest.mark.parametrize(
    ("target", "provider", "model", "reasons"),
    [
        (True, None, OTHER, True),
        (True, False, OTHER, True),
        (True, [NAMED_SO], OTHER, True),
        (False, None, NAMED_SO, False),
        (False, True, NAMED_SO, False),
        (False, [NAMED_SO], NAMED_SO, False),
        (None, True, OTHER, True),
        (None, False, NAMED_SO, False),
        (None, None, OTHER, False),
    ],
)
async def test_a_targets_reasoning_wins_over_its_providers_and_that_over_the_name(
    kind, target, provider, model, reasons
):
    fields = {} if provider is None else {"reasoning": provider}
    async with open_host(kind, Azure() if kind == "azure" else Anything(), **fields) as host:
        asked = call(model=model, max_tokens=50, temperature=0)
        reply = await host.provider.send(msgspec.structs.replace(asked, reasoning=target))
        await reply.read()
        sent = host.server.received[-1]
    assert ("max_completion_tokens" in sent, "temperature" in sent) == (reasons, not reasons)
    assert reply.translation.renamed == ({"max_tokens": "max_completion_tokens"} if reasons else {})
    assert list(reply.translation.dropped) == (["temperature"] if reasons else [])


async def test_groq_lacks_what_it_lacks_of_a_reasoning_model_too():
    async with open_host("groq", GroqDialect(), reasoning=True) as host:
        named = [{"role": "user", "name": "ada", "content": "hi"}]
        said = await ask(host, messages=named, n=2, temperature=0, max_tokens=5)
        assert said.status == 200, said.body
        sent = host.server.received[-1]
    assert sent["max_completion_tokens"] == 5
    assert {"messages.name", "n", "temperature"} == set(said.translation.dropped)


@pytest.mark.parametrize(
    "kind", sorted(name for name, one in KINDS.items() if issubclass(one.config, CompatibleConfig))
)
async def test_the_kinds_that_have_reasoning_rules_are_those_that_say_so(kind):
    dialect = {"anthropic": AnthropicDialect(), "azure": Azure()}.get(kind, Anything())
    async with open_host(kind, dialect, reasoning=True) as host:
        reply = await host.provider.send(call(max_tokens=5))
        assert await reply.read()
        sent = host.server.received[-1]
    assert ("max_completion_tokens" in sent) is KINDS[kind].reasoning


def call_of(**fields):
    return {"type": "function", "function": {"name": "f", "arguments": "{}"}, **fields}


def indexes(*deltas):
    numbers = ToolCallIndexes()
    for delta in deltas:
        numbers.fix(0, delta)
    return [one["index"] for delta in deltas for one in delta]


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        # One chunk, all of them 0; one chunk, none at all; a chunk for each.
        ([[call_of(id="a", index=0), call_of(id="b", index=0)]], [0, 1]),
        ([[call_of(id="a"), call_of(id="b")]], [0, 1]),
        ([[call_of(id="a")], [call_of(id="b")]], [0, 1]),
        ([[call_of(id="a", index=0)], [call_of(id="b", index=0)]], [0, 1]),
        # Without ids, each call comes whole.
        ([[call_of()], [call_of()]], [0, 1]),
        ([[call_of(id="", index=0)], [call_of(id="", index=0)]], [0, 1]),
        # A call in pieces belongs to the one before.
        ([[call_of(id="a")], [{"function": {"arguments": "x"}}], [call_of(id="b")]], [0, 0, 1]),
        (
            [[call_of(id="a", index=0)], [{"index": 0, "function": {"arguments": "x"}}]],
            [0, 0],
        ),
        # What is right stays.
        ([[call_of(id="a", index=0)], [call_of(id="b", index=1)]], [0, 1]),
        (
            [
                [call_of(id="a", index=0), call_of(id="b", index=1)],
                [{"index": 1, "function": {"arguments": "x"}}],
            ],
            [0, 1, 1],
        ),
        # Pieces of calls that are numbered rightly may come interleaved; of others they cannot.
        (
            [
                [call_of(id="a", index=0), call_of(id="b", index=1)],
                [{"index": 0, "function": {"arguments": "x"}}],
            ],
            [0, 1, 0],
        ),
        (
            [
                [call_of(id="a", index=0), call_of(id="b", index=0)],
                [{"index": 0, "function": {"arguments": "x"}}],
            ],
            [0, 1, 1],
        ),
        # The id repeated in every piece.
        ([[call_of(id="a", index=0)], [{"id": "a", "function": {"arguments": "x"}}]], [0, 0]),
        ([[call_of(id="a", index="x"), call_of(id="b", index=-1)]], [0, 1]),
    ],
)
def test_the_numbers_of_tool_calls(deltas, expected):
    assert indexes(*deltas) == expected


@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), st.booleans())
def test_calls_with_ids_never_share_a_number(sizes, zeros):
    names = iter(range(100))
    deltas = [
        [call_of(id=f"c{next(names)}", **({"index": 0} if zeros else {})) for _ in range(size)]
        for size in sizes
    ]
    assert indexes(*deltas) == list(range(sum(sizes)))


def test_choices_number_their_calls_apart():
    numbers = ToolCallIndexes()
    first, second = [call_of(id="a")], [call_of(id="b")]
    assert numbers.fix(0, first)
    assert numbers.fix(1, second)
    assert (first[0]["index"], second[0]["index"]) == (0, 0)


def test_a_stream_of_gemini_or_ollama_is_numbered():
    rewriter = ToolCallsRewriter()

    def event(*calls, finish=None):
        choice = {"index": 0, "delta": {"tool_calls": list(calls)}, "finish_reason": finish}
        return Event(json.dumps({"choices": [choice]}).encode())

    first = rewriter.event(event(call_of(id="a", index=0)))
    second = rewriter.event(event(call_of(id="b", index=0), finish="stop"))
    assert b'"index":0' in first.replace(b" ", b"")
    last = json.loads(second.removeprefix(b"data: "))["choices"][0]
    assert (last["delta"]["tool_calls"][0]["index"], last["finish_reason"]) == (1, "tool_calls")
