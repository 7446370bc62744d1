"""Fields of another type than OpenAI's API gives them, at every depth of a chat request."""

import copy

import pytest
from hosts import call, config, transport
from raw_host import READ, answer, raw_host

from providers.kinds import make

REQUEST = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look:", "cache_control": {"type": "ephemeral"}},
                {"type": "image_url", "image_url": {"url": "https://a.org/b", "detail": "low"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}},
                {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
            ],
        },
        {"role": "user", "name": "ada", "content": [{"type": "text", "text": "Which?"}]},
        {
            "role": "assistant",
            "content": "x",
            "reasoning_content": "Hm.",
            "annotations": [{"type": "url_citation"}],
            "thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}],
            "tool_calls": [
                {"index": 0, "id": "a", "type": "function", "function": {"name": "f"}},
                {"id": "b", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "sun"}]},
    ],
    "tools": [
        {
            "type": "function",
            "function": {"name": "f", "description": "It.", "parameters": {"type": "object"}},
            "cache_control": {"type": "ephemeral"},
        }
    ],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
    "metadata": {"user_id": "ada"},
    "output_config": {"effort": "low"},
    "reasoning_effort": "high",
    "thinking": {"type": "enabled"},
    "stop": ["END"],
    "stream_options": {"include_usage": True},
    "logit_bias": {"1": 1},
    "modalities": ["text"],
    "parallel_tool_calls": False,
    "max_completion_tokens": 5,
    "max_tokens": 5,
    "temperature": 0.5,
    "top_p": 0.5,
    "n": 1,
    "seed": 1,
    "user": "ada",
}
ODD = (None, 5, True, "bad", [5], ["bad"], {"type": 5}, [[]])


def paths(value, above=()):
    """The path of everything within a value."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield (*above, key)
        yield from paths(inner, (*above, key))


def with_odd(path, odd):
    """A request whose field at a path is odd; what is at the top level besides it is left out."""
    fields = {"messages": REQUEST["messages"], path[0]: REQUEST[path[0]]}
    if path[0] == "output_config":
        fields["response_format"] = REQUEST["response_format"]
    fields = copy.deepcopy(fields)
    *above, last = path
    place = fields
    for key in above:
        place = place[key]
    place[last] = odd
    return fields


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("anthropic", {}),
        ("azure", {}),
        ("compatible", {"content_parts": False, "reasoning": True}),
        ("gemini", {}),
        ("groq", {}),
        ("llama_cpp", {}),
        ("llamafile", {}),
        ("mistral", {}),
        ("ollama", {}),
        ("openai", {"reasoning": True}),
    ],
)
async def test_a_field_of_another_type_is_refused_or_sent_as_it_is(kind, more):
    wrong = []
    with raw_host([READ, *answer(b'{"object": "list", "data": []}')]) as host:
        async with transport() as client:
            provider = make(kind, config(kind, base_url=f"{host.url}/v1", **more), client)
            for path in paths(REQUEST):
                for odd in ODD:
                    try:
                        reply = await provider.send(call(**with_odd(path, odd)))
                        assert reply.status in (200, 400)
                        await reply.aclose()
                    except Exception as error:  # noqa: BLE001  # what the test looks for
                        wrong.append((path, odd, repr(error)))
    assert wrong == []
