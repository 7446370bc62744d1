"""Mistral against a strict stand-in, with the mistralai package as oracle of both directions."""

import json

import msgspec
import pytest
from fake_hosts import KEY, MODEL, MistralDialect
from hosts import ask, call, config, open_host, stream, texts
from hypothesis import given
from hypothesis import strategies as st
from mistralai.client import models as sdk

from providers.errors import UpstreamProtocolError
from providers.mistral import tool_call_id

TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
}
FOREIGN = "call_" + "aB3d" * 6


@pytest.fixture
async def mistral():
    async with open_host("mistral", MistralDialect()) as host:
        yield host


def as_mistral_reads_it(body):
    """The request as Mistral's own types take it; what they do not know would be lost."""
    read = sdk.ChatCompletionRequest.model_validate(body)
    again = json.loads(read.model_dump_json(by_alias=True, exclude_unset=True))
    assert set(again) == set(body), set(body) ^ set(again)
    return read


async def test_seed_logprobs_and_max_completion_tokens_arrive_as_mistral_wants_them(mistral):
    """The demonstration of issue 4: what Mistral gets, and what the record says."""
    reply = await mistral.provider.send(
        call(seed=7, logprobs=True, max_completion_tokens=20, temperature=0.5)
    )
    assert reply.status == 200
    assert mistral.server.refusals == []
    sent = mistral.server.received[-1]
    assert sent == {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hi"}],
        "random_seed": 7,
        "max_tokens": 20,
        "temperature": 0.5,
    }
    as_mistral_reads_it(sent)
    done = reply.translation
    assert set(done.passed) == {"messages", "temperature"}
    assert done.renamed == {"seed": "random_seed", "max_completion_tokens": "max_tokens"}
    assert done.dropped == {"logprobs": "Mistral's API has no log probabilities"}
    assert done.converted == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": True},
        {"top_logprobs": 2},
        {"logit_bias": {"1": 1}},
        {"user": "u"},
        {"store": True},
        {"service_tier": "flex"},
        {"verbosity": "low"},
        {"web_search_options": {}},
        {"messages": [{"role": "user", "content": "hi", "name": "ada"}]},
    ],
)
async def test_what_mistral_cannot_express(mistral, fields):
    name = next(iter(fields))
    dropped = await ask(mistral, **fields)
    assert dropped.status == 200
    assert [one.split(".")[0] for one in dropped.translation.dropped] == [name]

    count = len(mistral.server.received)
    refused = await ask(mistral, on_unsupported="error", **fields)
    assert refused.status == 400
    error = refused.json["error"]
    assert error["code"] == "unsupported_parameter"
    assert error["param"].split(".")[0] == name
    assert len(mistral.server.received) == count, "a refused request must not be sent"

    passed = await ask(mistral, on_unsupported="pass", **fields)
    assert passed.status == 422, "Mistral's own refusal"
    assert passed.translation.dropped == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": False, "logit_bias": {}, "store": False, "service_tier": "auto"},
        {"logprobs": None, "user": None, "stream_options": None},
    ],
)
async def test_values_that_ask_for_nothing_are_left_out_in_every_policy(mistral, fields):
    said = await ask(mistral, on_unsupported="error", **fields)
    assert said.status == 200
    assert said.translation.dropped == {}
    assert set(said.translation.converted) == set(fields)


async def test_the_config_beats_the_call_and_supported_beats_the_rules():
    async with open_host("mistral", MistralDialect(), on_unsupported="error") as strict:
        assert (await ask(strict, logprobs=True)).status == 400
    async with open_host("mistral", MistralDialect(), supported=("logprobs",)) as knowing:
        said = await ask(knowing, logprobs=True)
        assert said.status == 422
        assert knowing.server.received[-1]["logprobs"] is True


async def test_tools_both_ways_and_across_turns(mistral):
    said = await ask(mistral, tools=[TOOL], tool_choice="required")
    sent = mistral.server.received[-1]
    assert sent["tool_choice"] == "any"
    as_mistral_reads_it(sent)
    assert said.translation.converted == {"tool_choice": "required to any, its name there"}
    message = said.json["choices"][0]["message"]
    assert message["tool_calls"][0]["type"] == "function"
    assert said.json["choices"][0]["finish_reason"] == "tool_calls"

    turn = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": FOREIGN, "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
            "refusal": None,
            "annotations": [],
        },
        {"role": "tool", "tool_call_id": FOREIGN, "content": "done"},
    ]
    said = await ask(mistral, messages=turn, tools=[TOOL], on_unsupported="error")
    assert said.status == 200, said.json
    sent = mistral.server.received[-1]
    as_mistral_reads_it(sent)
    mapped = sent["messages"][2]["tool_calls"][0]["id"]
    assert mapped == sent["messages"][3]["tool_call_id"] == tool_call_id(FOREIGN)
    assert sent["messages"][0]["role"] == "system"
    assert set(said.translation.converted) == {
        "messages.role",
        "messages.refusal",
        "messages.annotations",
        "messages.tool_calls.id",
    }


class Echoing(MistralDialect):
    """Says the ids it was given."""

    def answer(self, body):
        answer = super().answer(body)
        calls = [c for m in body["messages"] for c in m.get("tool_calls") or ()]
        answer["choices"][0]["message"] |= {
            "tool_calls": [
                {**c, "type": None, "function": {"name": "f", "arguments": {"a": 1}}} for c in calls
            ]
        }
        return answer


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_id_of_ours_that_comes_back_is_the_clients_again(streamed):
    function = {"name": "f", "arguments": "{}"}
    messages = [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "tool_calls": [{"id": FOREIGN, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": FOREIGN, "content": "done"},
    ]
    async with open_host("mistral", Echoing()) as host:
        if streamed:
            found = await stream(host, messages=messages)
            deltas = [c["choices"][0]["delta"] for c in found.chunks if c["choices"]]
            said = next(one["tool_calls"][0] for one in deltas if one.get("tool_calls"))
        else:
            answer = await ask(host, messages=messages)
            said = answer.json["choices"][0]["message"]["tool_calls"][0]
    assert said["id"] == FOREIGN
    assert said["type"] == "function"
    assert json.loads(said["function"]["arguments"]) == {"a": 1}


@given(st.text())
def test_ids_are_nine_letters_and_stable(client_id):
    found = tool_call_id(client_id)
    assert len(found) == 9
    assert found.isalnum()
    assert found.isascii()
    assert tool_call_id(client_id) == found == tool_call_id(found)


async def test_thinking_and_finish_reasons():
    dialect = MistralDialect()
    dialect.thinks = True
    async with open_host("mistral", dialect) as host:
        said = await ask(host, max_tokens=3)
        choice = said.json["choices"][0]
        assert choice["finish_reason"] == "length"
        assert choice["message"]["content"] == "You said: hi"
        assert choice["message"]["reasoning_content"] == "Hm."
        streamed = await stream(host, max_tokens=3)
        assert texts(streamed) == "You said: hi"
        assert texts(streamed, "reasoning_content") == "Hm."
        assert streamed.chunks[-1]["choices"][0]["finish_reason"] == "length"


class Failing(MistralDialect):
    def answer(self, body):
        answer = super().answer(body)
        answer["choices"][0]["finish_reason"] = "error"
        return answer


async def test_the_finish_reason_error_is_an_error():
    async with open_host("mistral", Failing()) as host:
        with pytest.raises(UpstreamProtocolError, match="ended with an error"):
            await ask(host)
        with pytest.raises(UpstreamProtocolError, match="ended with an error"):
            await stream(host)


async def test_usage_in_a_stream_comes_as_openai_sends_it(mistral):
    with_usage = await stream(mistral, stream_options={"include_usage": True})
    assert with_usage.translation.converted["stream_options"].startswith("left out")
    assert with_usage.chunks[-1]["choices"] == []
    assert with_usage.chunks[-1]["usage"]["total_tokens"] > 0
    assert not any(chunk.get("usage") for chunk in with_usage.chunks[:-1])
    assert with_usage.done


async def test_safe_prompt_of_the_config_unless_the_request_says():
    async with open_host("mistral", MistralDialect(), safe_prompt=True) as host:
        await ask(host)
        assert host.server.received[-1]["safe_prompt"] is True
        await ask(host, safe_prompt=False)
        assert host.server.received[-1]["safe_prompt"] is False


async def test_answers_built_by_mistrals_own_types_are_understood(mistral):
    """What the SDK can say, OpenAI's SDK can read after us."""
    from openai.types.chat import ChatCompletion

    built = sdk.ChatCompletionResponse(
        id="1",
        object="chat.completion",
        model="m",
        created=1,
        usage=sdk.UsageInfo(prompt_tokens=1, completion_tokens=1, total_tokens=2),
        choices=[
            sdk.ChatCompletionChoice(
                index=0,
                finish_reason="model_length",
                message=sdk.AssistantMessage(
                    content=[
                        sdk.ThinkChunk(thinking=[sdk.TextChunk(text="so")]),
                        sdk.TextChunk(text="yes"),
                    ],
                    tool_calls=[
                        sdk.ToolCall(
                            id="abcdefghi", function=sdk.FunctionCall(name="f", arguments={"a": 1})
                        )
                    ],
                ),
            )
        ],
    )
    rewriter = mistral.provider.rewriter(call())
    read = ChatCompletion.model_validate_json(
        rewriter.whole(built.model_dump_json(by_alias=True).encode())
    )
    message = read.choices[0].message
    assert message.content == "yes"
    assert message.tool_calls[0].function.arguments == '{"a":1}'
    assert read.choices[0].finish_reason == "length"


async def test_bytes_that_need_no_change_are_not_changed(mistral):
    body = b'{"choices": [ {"message":{"content":"\\u00fc"},"finish_reason":"stop"} ], "x":1.50}'
    assert mistral.provider.rewriter(call()).whole(body) is body


async def test_the_key_is_sent_and_a_wrong_one_is_told(mistral):
    await ask(mistral)
    assert mistral.server.headers[-1]["authorization"] == f"Bearer {KEY}"
    async with open_host("mistral", MistralDialect(), api_key="wrong") as host:
        assert (await ask(host)).status == 401


def test_secrets_stay_in_the_config():
    assert KEY not in repr(config("mistral", base_url="http://x", api_key=KEY))
    assert msgspec.structs.asdict(config("mistral"))["safe_prompt"] is False
