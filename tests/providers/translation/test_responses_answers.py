"""OpenAI's Responses API as chat completions: the answers, whole and streamed."""

import json
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import get_args

import pytest
from chat_chunks import (
    HEAD,
    call,
    chunk,
    completion,
    envelope,
    numbered_ids,
    usage,
    with_odd_values,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent, ServiceTier

from providers.anthropic import request_of
from providers.anthropic_answers import MessagesRewriter
from providers.base import Call
from providers.errors import (
    RateLimitError,
    UpstreamProtocolError,
    UpstreamTooLargeError,
)
from providers.http import sse
from providers.translation import responses_answers
from providers.translation.fold import fold_stream
from providers.translation.responses_requests import to_chat
from providers.wire import encode

# OpenAI's types of events, by what they have as their type.
EVENTS = {
    get_args(event.model_fields["type"].annotation)[0]: event
    for event in get_args(get_args(ResponseStreamEvent)[0])
}

CUSTOM = {"tools": [{"type": "custom", "name": "patch"}]}


def answers(**fields):
    """What turns answers back, with ids that count and a clock that stands still."""
    fields = {"model": "route", "input": "Hi", **fields}
    request = to_chat(envelope(**fields), policy="drop", host="lab")
    return request.answers(new_id=numbered_ids(), clock=lambda: 1000.5)


def read(data):
    """The events of a stream; each one has the form that OpenAI's package expects."""
    events = []
    for event in sse.Parser().feed(data):
        fields = json.loads(event.data)
        assert event.event == fields["type"]
        EVENTS[fields["type"]].model_validate(fields, strict=True)
        events.append(fields)
    return events


def events_of(chunks, **fields):
    maker = answers(**fields)
    return b"".join(map(maker.feed, chunks)) + maker.finish()


def streamed(*chunks, **fields):
    events = read(events_of(chunks, **fields))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def whole(body, **fields):
    response = json.loads(answers(**fields).whole(body))
    Response.model_validate(response, strict=True)
    return response


def types(events):
    return [event["type"].removeprefix("response.") for event in events]


def without_ids(response):
    """A response without its ids and times."""
    left_out = ("id", "created_at", "completed_at")
    response = {name: value for name, value in response.items() if name not in left_out}
    response["output"] = [
        {name: value for name, value in item.items() if name != "id"} for item in response["output"]
    ]
    return response


TEXT = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "He"}),
    chunk({"content": "llo"}),
    chunk({}, "stop"),
    usage(3, 4),
    sse.DONE,
]


def test_a_text_in_the_documented_order():
    events = streamed(*TEXT)
    assert types(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    created, in_progress, added, part, first, second, done, part_done, item_done, last = events
    for event in (created, in_progress):
        assert event["response"]["status"] == "in_progress"
        assert (event["response"]["id"], event["response"]["model"]) == ("resp_0", "tiny")
        assert (event["response"]["output"], event["response"]["usage"]) == ([], None)
        assert event["response"]["completed_at"] is None
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    message = {"id": "msg_1", "type": "message", "role": "assistant"}
    empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    full = {**empty, "text": "Hello"}

    def fields(event):
        return {k: v for k, v in event.items() if k not in ("type", "sequence_number")}

    assert fields(added) == {
        "output_index": 0,
        "item": {**message, "status": "in_progress", "content": []},
    }
    assert fields(part) == {**place, "part": empty}
    assert fields(first) == {**place, "delta": "He", "logprobs": []}
    assert fields(second) == {**place, "delta": "llo", "logprobs": []}
    assert fields(done) == {**place, "text": "Hello", "logprobs": []}
    assert fields(part_done) == {**place, "part": full}
    item = {**message, "status": "completed", "content": [full]}
    assert fields(item_done) == {"output_index": 0, "item": item}
    assert last["response"]["output"] == [item]
    assert last["response"]["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 7,
    }
    assert (last["response"]["created_at"], last["response"]["completed_at"]) == (1000, 1000)


def test_a_whole_answer_has_openais_fields_and_defaults():
    body = completion({"content": "Hello"}, usage={"prompt_tokens": 3, "completion_tokens": 4})
    assert whole(body) == {
        "id": "resp_0",
        "object": "response",
        "created_at": 1000,
        "completed_at": 1000,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "background": False,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "model": "tiny",
        "output": [
            {
                "id": "msg_1",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [
                    {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
                ],
            }
        ],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "auto",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 3,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 4,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 7,
        },
        "user": None,
    }


def test_an_answer_repeats_the_request():
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
    tool = {"type": "function", "name": "f", "parameters": {}, "strict": True}
    sent = {
        "instructions": "Be brief.",
        "max_output_tokens": 9,
        "metadata": {"a": "b"},
        "reasoning": {"effort": "low"},
        "store": False,
        "temperature": 0.5,
        "text": {"format": schema, "verbosity": None},
        "tool_choice": {"type": "function", "name": "f"},
        "tools": [tool, {"type": "web_search"}],
        "top_p": None,
        "prompt_cache_retention": "24h",
        "service_tier": "flex",
        "user": "u",
    }
    shown = {
        **sent,
        "reasoning": {"effort": "low", "summary": None},
        "text": {"format": schema, "verbosity": "medium"},
        "top_p": 1.0,
    }
    response = whole(completion({"content": "Hello"}), **sent)
    assert {name: response[name] for name in shown} == shown
    first = streamed(*TEXT, **sent)[0]["response"]
    assert {name: first[name] for name in shown} == shown


def test_the_host_says_which_tier_served():
    body = completion({"content": "a"}, service_tier="default")
    assert whole(body, service_tier="flex")["service_tier"] == "default"
    for tier in get_args(get_args(ServiceTier)[0]):
        body = completion({"content": "a"}, service_tier=tier)
        assert whole(body)["service_tier"] == tier
    for odd in ("gold", 3, [], None):
        body = completion({"content": "a"}, service_tier=odd)
        assert whole(body, service_tier="flex")["service_tier"] == "flex"


def test_without_a_model_of_the_hosts_it_is_the_requests():
    for odd in ("", None, 5):
        assert whole(completion({"content": "a"}, model=odd))["model"] == "route"
    body = b'{"choices": [{"delta": {"content": "a"}}]}'
    assert {event["response"]["model"] for event in streamed(sse.encode(body))[:2]} == {"route"}


@pytest.mark.parametrize(
    ("message", "items"),
    [
        ({"content": ""}, [("message", "")]),
        ({"content": None}, [("message", "")]),
        ({}, [("message", "")]),
        ({"content": [{"type": "text", "text": "a"}, "b"]}, [("message", "ab")]),
        (
            {"content": [{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "a"}]},
            [("reasoning", "t"), ("message", "a")],
        ),
        ({"content": "a", "reasoning_content": "t"}, [("reasoning", "t"), ("message", "a")]),
        ({"content": "a", "reasoning": "t"}, [("reasoning", "t"), ("message", "a")]),
        ({"reasoning": "t"}, [("reasoning", "t"), ("message", "")]),
        ({"content": "a", "reasoning_content": 5, "refusal": {}}, [("message", "a")]),
        ({"content": "a", "tool_calls": []}, [("message", "a")]),
        ({"content": "a", "tool_calls": ["x"]}, [("message", "a")]),
        ({"content": 5}, [("message", "")]),
    ],
)
def test_what_a_message_says(message, items):
    output = whole(completion(message))["output"]
    assert [(item["type"], item["content"][0]["text"]) for item in output] == items
    delta = streamed(chunk(message), chunk({}, "stop"))[-1]["response"]["output"]
    assert [(item["type"], item["content"][0]["text"]) for item in delta] == items


def test_a_refusal_is_a_part_of_its_own():
    chunks = [chunk({"content": "a"}), chunk({"refusal": "N"}), chunk({"refusal": "o."}, "stop")]
    events = streamed(*chunks)
    assert types(events)[2:] == [
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "content_part.added",
        "refusal.delta",
        "refusal.delta",
        "refusal.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert events[7]["part"] == {"type": "refusal", "refusal": ""}
    assert (events[8]["content_index"], events[8]["delta"]) == (1, "N")
    assert events[10]["refusal"] == "No."
    assert events[11]["part"] == {"type": "refusal", "refusal": "No."}
    [item] = events[-1]["response"]["output"]
    assert [part["type"] for part in item["content"]] == ["output_text", "refusal"]
    assert whole(completion({"content": None, "refusal": "No."}))["output"][0]["content"] == [
        {"type": "refusal", "refusal": "No."}
    ]


THOUGHTS = [
    chunk({"reasoning_content": "a"}),
    chunk({"reasoning_content": "b"}),
    chunk({"content": "c"}),
    chunk({}, "stop"),
]


def test_thoughts_come_before_the_message():
    events = streamed(*THOUGHTS)
    assert types(events)[2:11] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
    ]
    thought = {"type": "reasoning_text", "text": "ab"}
    item = {"id": "rs_1", "type": "reasoning", "status": "completed", "summary": []}
    assert events[2]["item"] == {**item, "status": "in_progress", "content": []}
    assert events[3]["part"] == {"type": "reasoning_text", "text": ""}
    assert [event["delta"] for event in events[4:6]] == ["a", "b"]
    assert (events[6]["text"], events[7]["part"]) == ("ab", thought)
    assert (events[4]["item_id"], events[4]["content_index"]) == ("rs_1", 0)
    assert events[8]["item"] == {**item, "content": [thought]}
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["reasoning", "message"]


def test_thoughts_are_a_summary_where_one_was_requested():
    events = streamed(*THOUGHTS, reasoning={"summary": "auto"})
    assert types(events)[2:9] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ]
    assert (events[4]["item_id"], events[4]["summary_index"]) == ("rs_1", 0)
    assert events[6]["text"] == "ab"
    assert events[8]["item"] == {
        "id": "rs_1",
        "type": "reasoning",
        "status": "completed",
        "summary": [{"type": "summary_text", "text": "ab"}],
    }


def test_signed_thoughts_are_carried_to_the_next_request():
    blocks = [
        {"type": "thinking", "thinking": "a", "signature": "s"},
        {"type": "redacted_thinking"},
    ]
    message = {"content": "c", "reasoning_content": "a", "thinking_blocks": blocks}
    thought, said = whole(completion(message))["output"]
    events = streamed(
        chunk({"reasoning_content": "a"}),
        chunk({"thinking_blocks": blocks[:1]}),
        chunk({"thinking_blocks": blocks[1:]}),
        chunk({"content": "c"}, "stop"),
    )
    assert (
        without_ids(events[-1]["response"])["output"]
        == without_ids({"output": [thought, said]})["output"]
    )
    request = to_chat(
        envelope(model="m", input=[{"role": "user", "content": "Hi"}, thought, said]),
        policy="drop",
        host="lab",
        takes_reasoning=True,
    )
    [_, assistant] = json.loads(bytes(request.fields["messages"]))
    assert assistant["thinking_blocks"] == blocks
    # Only signed, and after the message, as some hosts stream them.
    [event] = [
        event
        for event in streamed(chunk({"content": "c"}), chunk({"thinking_blocks": blocks}, "stop"))
        if event["type"] == "response.output_item.done" and event["output_index"] == 1
    ]
    assert event["item"]["content"] == []
    assert event["item"]["encrypted_content"] == thought["encrypted_content"]


CLAUDES = [
    {"type": "message_start", "message": {"id": "m", "model": "claude", "usage": {}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking"}},
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "thinking_delta", "thinking": "a"},
    },
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "signature_delta", "signature": "s"},
    },
    {"type": "content_block_stop", "index": 0},
    {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "redacted_thinking", "data": "x"},
    },
    {"type": "content_block_stop", "index": 1},
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "c1", "name": "f"},
    },
    {
        "type": "content_block_delta",
        "index": 2,
        "delta": {"type": "input_json_delta", "partial_json": "{}"},
    },
    {"type": "content_block_stop", "index": 2},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {}},
    {"type": "message_stop"},
]


def test_claudes_signed_thoughts_are_with_it_again_when_its_call_is_answered():
    rewriter = MessagesRewriter("claude", created=1, include_usage=False)
    chat = b"".join(rewriter.event(sse.Event(json.dumps(event).encode())) for event in CLAUDES)
    events = streamed(chat)
    # The items as a client has them that reads their ends.
    items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [item["type"] for item in items] == ["reasoning", "function_call"]
    output = {"type": "function_call_output", "call_id": "c1", "output": "4"}
    history = [{"role": "user", "content": "Hi"}, *items, output]
    request = to_chat(
        envelope(model="claude", input=history), policy="error", host="a", takes_reasoning=True
    )
    again = Call(path="chat/completions", model="claude", envelope=request.fields)
    body, _ = request_of(again, provider="a", policy="error")
    assert body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "a", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "tool_use", "id": "c1", "name": "f", "input": {}},
    ]


# Tools


def test_a_call_of_a_function():
    events = streamed(
        chunk({"content": "a"}),
        chunk(call(0, "", identity="c1", name="f")),
        chunk(call(0, '{"a"')),
        chunk(call(0, ": 1}")),
        chunk({}, "tool_calls"),
    )
    assert types(events)[5:] == [
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    item = {
        "type": "function_call",
        "id": "fc_2",
        "status": "completed",
        "call_id": "c1",
        "name": "f",
        "arguments": '{"a": 1}',
    }
    assert events[8]["item"] == {**item, "status": "in_progress", "arguments": ""}
    assert (events[8]["output_index"], events[9]["output_index"]) == (1, 1)
    assert (events[9]["item_id"], events[9]["delta"]) == ("fc_2", '{"a"')
    assert (events[11]["arguments"], events[11]["name"]) == ('{"a": 1}', "f")
    assert events[12]["item"] == item
    assert events[-1]["response"]["output"][1] == item
    message = {
        "content": "a",
        "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": '{"a": 1}'}}],
    }
    assert whole(completion(message, "tool_calls"))["output"][1] == item


def test_calls_without_a_message_are_all_there_is():
    message = {"content": None, "tool_calls": [{"id": "c", "function": {"name": "f"}}]}
    [item] = whole(completion(message, "tool_calls"))["output"]
    assert (item["type"], item["arguments"]) == ("function_call", "")


def test_calls_that_come_one_after_the_other_end_one_after_the_other():
    events = streamed(
        chunk(call(0, "{}", identity="c1", name="f")),
        chunk(call(1, "{", identity="c2", name="g")),
        chunk(call(1, "}")),
        chunk({"content": "a"}, "tool_calls"),
    )
    places = [
        (name, event.get("output_index"))
        for name, event in zip(types(events), events, strict=True)
        if name.startswith("output_item")
    ]
    assert places == [
        ("output_item.added", 0),
        ("output_item.done", 0),
        ("output_item.added", 1),
        ("output_item.done", 1),
        ("output_item.added", 2),
        ("output_item.done", 2),
    ]


INTERLEAVED = [
    chunk(call(0, '{"a":', identity="c1", name="f")),
    chunk(call(1, '{"b":', identity="c2", name="g")),
    chunk(call(0, "1}")),
    chunk(call(1, "2}")),
    chunk({}, "tool_calls"),
]


def test_calls_whose_arguments_come_interleaved():
    events = streamed(*INTERLEAVED)
    deltas = [
        (event["item_id"], event["delta"])
        for event in events
        if event["type"].endswith("arguments.delta")
    ]
    assert deltas == [("fc_1", '{"a":'), ("fc_2", '{"b":'), ("fc_1", "1}"), ("fc_2", "2}")]
    output = events[-1]["response"]["output"]
    assert [(item["call_id"], item["arguments"]) for item in output] == [
        ("c1", '{"a":1}'),
        ("c2", '{"b":2}'),
    ]


def test_a_call_that_went_on_after_its_end():
    first = [
        chunk(call(0, "{}", identity="c1", name="f")),
        chunk(call(1, "{}", identity="c2", name="g")),
    ]
    maker = answers()
    for event in (*first, chunk(call(0, " \n")), chunk(call(0, ""))):
        maker.feed(event)
    with pytest.raises(UpstreamProtocolError, match="go on after their end"):
        maker.feed(chunk(call(0, "{}")))


def test_calls_of_odd_hosts():
    # The arguments come before the name, there is no id, and the arguments are an object.
    events = streamed(
        chunk(call(0, '{"a"')),
        chunk(call(0, ":1}", name="f")),
        chunk({"tool_calls": [{"function": {"name": "g", "arguments": {"b": 2}}}, "x"]}),
        chunk({"tool_calls": [{"index": 9, "id": "c9", "function": None}]}, "tool_calls"),
    )
    assert [
        (item["call_id"], item["name"], item["arguments"])
        for item in events[-1]["response"]["output"]
    ] == [("call_1", "f", '{"a":1}'), ("call_3", "g", '{"b":2}'), ("c9", "", "")]
    assert '{"a":1}' in [event.get("delta") for event in events]


def test_the_function_call_of_older_hosts():
    message = {"content": None, "function_call": {"name": "f", "arguments": "{}"}}
    [item] = whole(completion(message, "function_call"))["output"]
    assert (item["type"], item["name"], item["arguments"]) == ("function_call", "f", "{}")


def test_a_call_of_a_custom_tool():
    events = streamed(
        chunk(call(0, '{"inp', identity="c1", name="patch")),
        chunk(call(0, 'ut": "a\\nb"}')),
        chunk({}, "tool_calls"),
        **CUSTOM,
    )
    assert types(events)[2:] == [
        "output_item.added",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
        "output_item.done",
        "completed",
    ]
    item = {
        "type": "custom_tool_call",
        "id": "ctc_1",
        "status": "completed",
        "call_id": "c1",
        "name": "patch",
        "input": "a\nb",
    }
    assert events[2]["item"] == {**item, "status": "in_progress", "input": ""}
    assert (events[3]["delta"], events[4]["input"], events[4]["item_id"]) == (
        "a\nb",
        "a\nb",
        "ctc_1",
    )
    assert events[-1]["response"]["output"] == [item]


@pytest.mark.parametrize(
    ("arguments", "text"), [('{"input": "a', '{"input": "a'), ('{"x": 1}', '{"x": 1}'), ("a", "a")]
)
def test_a_custom_tools_input_that_cannot_be_read_is_what_came(arguments, text):
    message = {"tool_calls": [{"id": "c", "function": {"name": "patch", "arguments": arguments}}]}
    [item] = whole(completion(message, "tool_calls"), **CUSTOM)["output"]
    assert item["input"] == text


def test_too_many_calls():
    calls = [{"id": f"c{n}", "function": {"name": "f", "arguments": "{}"}} for n in range(1001)]
    with pytest.raises(UpstreamProtocolError, match="over 1000 tool calls"):
        answers().whole(completion({"tool_calls": calls}))
    assert len(whole(completion({"tool_calls": calls[:1000]}))["output"]) == 1000


# Log probabilities and citations

TOKEN = {"token": "a", "logprob": -0.5, "bytes": [97]}
SHOWN = {**TOKEN, "top_logprobs": [TOKEN]}
LOGPROBS = {"content": [{**TOKEN, "top_logprobs": [TOKEN]}]}


def test_log_probabilities_where_they_were_requested():
    chunks = [
        chunk({"content": "a"}, logprobs=LOGPROBS),
        chunk({"content": ""}, logprobs={"content": [{"token": "", "logprob": -1}]}),
        chunk({"content": "b"}),
        chunk({}, "stop", logprobs={"content": [{"token": "z", "logprob": 0, "bytes": None}]}),
    ]
    ends = [
        {"token": "", "logprob": -1, "bytes": [], "top_logprobs": []},
        {"token": "z", "logprob": 0, "bytes": [], "top_logprobs": []},
    ]
    events = streamed(*chunks, include=["message.output_text.logprobs"])
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [event["logprobs"] for event in deltas] == [[SHOWN], ends[:1]]
    assert [event["delta"] for event in deltas] == ["a", "b"]
    [item] = events[-1]["response"]["output"]
    assert item["content"][0]["logprobs"] == [SHOWN, *ends]
    [done] = [event for event in events if event["type"] == "response.output_text.done"]
    assert done["logprobs"] == [SHOWN, *ends]
    body = completion({"content": "a"}, logprobs=LOGPROBS)
    assert whole(body, top_logprobs=1)["output"][0]["content"][0]["logprobs"] == [SHOWN]
    # Not requested.
    assert whole(body)["output"][0]["content"][0]["logprobs"] == []
    assert all(event.get("logprobs") in (None, []) for event in streamed(*chunks))


@pytest.mark.parametrize("odd", [None, 3, [], {}, {"content": None}, {"content": [{"token": 1}]}])
def test_log_probabilities_that_cannot_be_read_cost_nothing(odd):
    body = completion({"content": "a"}, logprobs=odd)
    [part] = whole(body, top_logprobs=1)["output"][0]["content"]
    assert (part["text"], part["logprobs"]) == ("a", [])


CITED = {"start_index": 0, "end_index": 1, "url": "https://e.test", "title": "E"}


def test_citations():
    odd = [3, {"type": "x"}, {"type": "url_citation", "url_citation": {"url": 1}}]
    citation = {"type": "url_citation", "url_citation": {**CITED, "content": "x"}}
    events = streamed(
        chunk({"content": "a"}),
        chunk({"annotations": [*odd, citation]}),
        chunk({"annotations": [citation]}, "stop"),
    )
    shown = {"type": "url_citation", **CITED}
    added = [event for event in events if event["type"].endswith("annotation.added")]
    assert [event["annotation"] for event in added] == [shown, shown]
    assert [event["annotation_index"] for event in added] == [0, 1]
    assert added[0]["item_id"] == "msg_1"
    message = {"content": "a", "annotations": [*odd, citation, citation]}
    assert whole(completion(message))["output"] == events[-1]["response"]["output"]
    assert whole(completion(message))["output"][0]["content"][0]["annotations"] == [shown, shown]


# How answers end


@pytest.mark.parametrize(
    ("reason", "why"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_an_answer_that_is_incomplete(reason, why):
    chunks = [
        chunk(call(0, "{}", identity="c1", name="f")),
        chunk(call(1, "{", identity="c2", name="g")),
        chunk({}, reason),
    ]
    events = streamed(*chunks)
    assert types(events)[-1] == "incomplete"
    response = events[-1]["response"]
    assert (response["status"], response["completed_at"]) == ("incomplete", None)
    assert response["incomplete_details"] == {"reason": why}
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]
    response = whole(completion({"content": "Hel"}, reason))
    assert response["incomplete_details"] == {"reason": why}
    assert response["output"][0]["status"] == "incomplete"
    # Nothing but thoughts came: there is no message.
    response = whole(completion({"content": "", "reasoning": "t"}, reason))
    assert [item["type"] for item in response["output"]] == ["reasoning"]
    assert whole(completion({"content": ""}, reason))["output"] == []
    assert streamed(chunk({"content": ""}, reason))[-1]["response"]["output"] == []


@pytest.mark.parametrize("reason", ["stop", "tool_calls", "", None, "eos", 5])
def test_any_other_reason_is_completion(reason):
    assert whole(completion({"content": "a"}, reason))["status"] == "completed"
    assert types(streamed(chunk({"content": "a"}, reason)))[-1] == "completed"


def test_an_empty_stream_that_came_to_its_end_is_an_empty_message():
    events = streamed(chunk({"role": "assistant", "content": ""}), chunk({}, "stop"), sse.DONE)
    assert types(events)[2:] == [
        "output_item.added",
        "content_part.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert types(streamed())[:3] == ["created", "in_progress", "output_item.added"]


def test_items_end_with_the_finish_reason_and_the_response_with_the_stream():
    maker = answers()
    for event in TEXT[:3]:
        maker.feed(event)
    assert types(read(maker.feed(TEXT[3])))[-1] == "output_item.done"
    assert maker.feed(TEXT[4]) == b""
    assert maker.feed(TEXT[5]) == b""
    [last] = read(maker.finish())
    assert last["response"]["usage"]["total_tokens"] == 7


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (None, None),
        ({}, None),
        ({"prompt_tokens": 3}, None),
        ({"prompt_tokens": 3, "completion_tokens": "x"}, None),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, (0, 0, 0, 0, 0, 0)),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 5,
                "total_tokens": 14,
                "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            (9, 4, 2, 5, 3, 14),
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 5,
                "total_tokens": 14,
                "completion_tokens_details": {"reasoning_tokens": 7},
            },
            (9, 0, 0, 5, 5, 14),
        ),
        (
            {"prompt_tokens": 1, "completion_tokens": 2, "completion_tokens_details": 3},
            (1, 0, 0, 2, 0, 3),
        ),
        (
            {
                "prompt_tokens": 1,
                "completion_tokens": 2,
                "completion_tokens_details": {"reasoning_tokens": "many"},
            },
            (1, 0, 0, 2, 0, 3),
        ),
    ],
)
def test_usage(given, shown):
    response = whole(completion({"content": "a"}, usage=given))
    if shown is not None:
        prompt, cached, written, output, reasoning, total = shown
        shown = {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
            "output_tokens": output,
            "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": total,
        }
    assert response["usage"] == shown
    in_stream = streamed(chunk({"content": "a"}, usage=given), chunk({}, "stop", usage=None))
    assert in_stream[-1]["response"]["usage"] == shown


def test_the_usage_of_groqs_streams():
    counts = {"usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}
    events = streamed(chunk({"content": "a"}, "stop", x_groq=counts), chunk({}, x_groq=counts))
    assert events[-1]["response"]["usage"]["total_tokens"] == 3


# What breaks off


def test_a_stream_that_broke_off_in_a_message():
    maker = answers()
    data = maker.feed(chunk({"reasoning": "t"})) + maker.feed(chunk({"content": "Hel"}))
    data += maker.fail(UpstreamProtocolError("lab: the answer was cut off", code="cut"))
    events = read(data)
    assert types(events)[-2:] == ["error", "failed"]
    assert events[-2] == {
        "type": "error",
        "code": "cut",
        "message": "lab: the answer was cut off",
        "param": None,
        "sequence_number": len(events) - 2,
    }
    response = events[-1]["response"]
    assert (response["status"], response["completed_at"]) == ("failed", None)
    assert response["error"] == {"code": "server_error", "message": "lab: the answer was cut off"}
    thought, message = response["output"]
    assert (thought["status"], message["status"]) == ("completed", "incomplete")
    assert message["content"][0]["text"] == "Hel"


def test_a_stream_that_broke_off_in_calls():
    maker = answers(**CUSTOM)
    maker.feed(chunk(call(0, "{", identity="c1", name="f")))
    maker.feed(chunk(call(1, "{", identity="c2", name="patch")))
    maker.feed(chunk(call(2, "{", identity="c3")))
    events = read(maker.fail(RateLimitError("Slow down.", retry_after=None)))
    response = events[-1]["response"]
    assert [(item["call_id"], item["status"]) for item in response["output"]] == [
        ("c1", "incomplete"),
        ("c2", "incomplete"),
    ]
    assert response["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize("delta", [{"content": "a"}, {"refusal": "a"}, {"reasoning": "a"}, {}])
def test_a_stream_may_break_off_anywhere(delta):
    maker = answers(reasoning={"summary": "auto"})
    data = maker.feed(chunk(delta)) + maker.fail(UpstreamProtocolError("gone"))
    events = read(data)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert len(events[-1]["response"]["output"]) == len(delta)


def test_a_stream_that_broke_off_before_it_began():
    assert types(read(answers().fail(UpstreamProtocolError("gone")))) == [
        "created",
        "in_progress",
        "error",
        "failed",
    ]


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (b'data: {"error": {"message": "overloaded"}}\n\n', "overloaded"),
        (b'data: {"error": "overloaded"}\n\n', "overloaded"),
        (b'event: error\ndata: {"error": {"message": "overloaded"}}\n\n', "overloaded"),
        (b"event: error\ndata: overloaded\n\n", "overloaded"),
        (b"event: error\ndata: overloaded \xff\n\n", "overloaded"),
        (b"data: [1]\n\n", "not a chat completion"),
        (b"data: {\n\n", "not a chat completion"),
        (b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n', "not a chat completion"),
        (chunk({"content": "a"}, "error"), "ended with an error"),
        (chunk({"content": [3]}), "cannot be read"),
    ],
)
def test_events_that_are_no_chunks(event, why):
    maker = answers()
    before = maker.feed(TEXT[1])
    with pytest.raises(UpstreamProtocolError, match=why):
        maker.feed(TEXT[2] + event)
    # What came before is not lost, and the numbers go on.
    events = read(before + maker.fail(UpstreamProtocolError(why)))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"]["output"][0]["content"][0]["text"].startswith("Hello")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"{}", b'{"choices": []}', b'{"error": {"message": "x"}}']
)
def test_bodies_that_are_no_completions(body):
    with pytest.raises(UpstreamProtocolError):
        answers().whole(body)


def test_a_number_that_python_cannot_hold_costs_no_more_than_itself():
    body = completion({"content": "Hi"}).replace(b'"created": 7', b'"created": 1e400')
    odd = body.replace(b'"index": 0', b'"index": 1e400')
    assert whole(odd)["output"][0]["content"][0]["text"] == "Hi"


def test_further_choices_are_no_part_of_the_answer():
    event = chunk({"content": "b"}).replace(b'"index": 0', b'"index": 1')
    events = streamed(TEXT[1], event, chunk({}, "stop"))
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "He"


def test_a_stream_that_is_too_long():
    maker = answers()
    half = b":" + b" " * (responses_answers.MAX_STREAM_BYTES // 2) + b"\n\n"
    maker.feed(half)
    with pytest.raises(UpstreamTooLargeError):
        maker.feed(half)


def test_comments_keep_the_connection_alive():
    maker = answers()
    assert maker.feed(b": ping\n\n") == b": keep-alive\n\n"
    assert maker.feed(b": OPENROUTER PROCESSING\r\n\r\n") == b": keep-alive\n\n"
    assert maker.feed(b"event: ping\ndata: {}\n\n") == b""


@pytest.mark.parametrize("old", [b"data: ", b"\n\n"])
def test_events_in_other_spellings(old):
    new = {b"data: ": b"id: 1\ndata:", b"\n\n": b"\r\n\r\n"}[old]
    assert streamed(*(event.replace(old, new) for event in TEXT)) == streamed(*TEXT)


# Any stream

PIECES = st.lists(st.text(min_size=1, max_size=6), max_size=4)


@st.composite
def chat_streams(draw):
    """Events of a chat stream: thoughts, then a text or a refusal, then calls."""
    events = [chunk({"role": "assistant", "content": draw(st.sampled_from(["", None]))})]
    name = draw(st.sampled_from(["reasoning", "reasoning_content"]))
    events += [chunk({name: piece}) for piece in draw(PIECES)]
    events += [chunk({"content": piece}) for piece in draw(PIECES)]
    events += [chunk({"refusal": piece}) for piece in draw(PIECES)]
    count = draw(st.integers(0, 3))
    pieces = []
    for index in range(count):
        tool = draw(st.sampled_from(["f", "patch"]))
        arguments = json.dumps({"input": draw(st.text(max_size=8)), "n": index})
        arguments = arguments[: draw(st.sampled_from([0, 5, None]))]
        cut = draw(st.integers(0, len(arguments)))
        pieces.append(
            [
                chunk(call(index, arguments[:cut], identity=f"c{index}", name=tool)),
                chunk(call(index, arguments[cut:])),
            ]
        )
    if draw(st.booleans()):
        events += [piece for pair in pieces for piece in pair]
    else:
        events += [piece for half in zip(*pieces, strict=True) for piece in half]
    reason = draw(st.sampled_from(["stop", "tool_calls", "length", "content_filter"]))
    events.append(chunk({}, reason))
    if draw(st.booleans()):
        events.append(usage(draw(st.integers(0, 9)), draw(st.integers(0, 9))))
    return [*events, sse.DONE]


@given(chat_streams(), st.booleans(), st.data())
@settings(max_examples=30, deadline=None)
def test_any_stream_amounts_to_the_whole_answer(events, summaries, data):
    fields = {**CUSTOM, **({"reasoning": {"summary": "auto"}} if summaries else {})}
    got = streamed(*events, **fields)
    # Whatever events come together.
    groups, rest = [], events
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        groups.append(b"".join(rest[:size]))
        rest = rest[size:]
    assert events_of(groups, **fields) == events_of(events, **fields)
    # The whole answer is the last event's response.
    folded, is_done = fold_stream(b"".join(events))
    assert is_done
    assert without_ids(whole(encode(folded), **fields)) == without_ids(got[-1]["response"])
    check_order(got)


def check_order(events):
    """Each item begins, grows and ends once; its parts likewise within it, its texts add up."""
    texts, parts, items = {}, {}, {}
    assert types(events)[:2] == ["created", "in_progress"]
    for event in events[2:-1]:
        kind = event["type"].removeprefix("response.")
        index = event["output_index"]
        part = (index, event.get("content_index", event.get("summary_index")))
        if kind == "output_item.added":
            assert index == len(items)
            items[index] = "open"
            assert event["item"]["status"] == "in_progress"
            continue
        assert items[index] == "open"
        if kind == "output_item.done":
            items[index] = event["item"]
            assert all(state == "done" for place, state in parts.items() if place[0] == index)
        elif kind.endswith("part.added"):
            assert part not in parts
            parts[part] = "open"
            texts[part] = ""
        elif kind.endswith("part.done"):
            assert parts[part] == "whole"
            parts[part] = "done"
            assert texts[part] in event["part"].values()
        elif kind.endswith(".delta"):
            texts[part] = texts.get(part, "") + event["delta"]
        elif kind.endswith(".done"):
            parts[part] = "done" if "call" in kind else "whole"
            said = event.get("text", event.get("refusal", event.get("arguments")))
            assert texts.get(part, "") == event.get("input", said)
    assert list(items.values()) == events[-1]["response"]["output"]


FULL = {
    "content": "a",
    "refusal": "b",
    "reasoning_content": "c",
    "reasoning": "c",
    "thinking_blocks": [{"type": "thinking"}],
    "annotations": [{"type": "url_citation", "url_citation": CITED}],
    "tool_calls": [
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"index": 1, "id": "c2", "function": {"name": "patch", "arguments": "{}"}},
    ],
}
COUNTS = {
    "prompt_tokens": 1,
    "completion_tokens": 2,
    "total_tokens": 3,
    "completion_tokens_details": {"reasoning_tokens": 1},
}


def test_a_value_of_another_kind_is_an_answer_or_an_error():
    choice = {"index": 0, "delta": FULL, "logprobs": LOGPROBS, "finish_reason": "stop"}
    full = {**HEAD, "choices": [choice], "usage": COUNTS, "service_tier": "default", "error": None}
    refused = 0
    for fields in with_odd_values(full):
        maker = answers(top_logprobs=2, **CUSTOM)
        data = json.dumps(fields).encode()
        try:
            events = maker.feed(sse.encode(data)) + maker.feed(TEXT[1]) + maker.finish()
        except UpstreamProtocolError as error:
            refused += 1
            events = maker.fail(error)
        last = sse.Parser().feed(events)[-1]
        EVENTS[last.event].model_validate_json(last.data, strict=True)
        with suppress(UpstreamProtocolError):
            answers(top_logprobs=2, **CUSTOM).whole(data.replace(b'"delta"', b'"message"'))
    assert refused > 20


# OpenAI's own client reads the events


class _Host(BaseHTTPRequestHandler):
    """Answers each POST with the events of the server."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(self.server.events)))
        self.end_headers()
        self.wfile.write(self.server.events)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def host():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Host)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("chunks", "fields"),
    [
        (TEXT, {}),
        (THOUGHTS, {}),
        (THOUGHTS, {"reasoning": {"summary": "auto"}}),
        (INTERLEAVED, {}),
        (
            [chunk(call(0, '{"input": "x"}', identity="c1", name="patch")), chunk({}, "stop")],
            CUSTOM,
        ),
        ([chunk({"content": "a"}), chunk({"refusal": "No."}), chunk({}, "stop")], {}),
        ([chunk({}, "stop")], {}),
    ],
)
def test_openais_client_puts_the_same_response_together(host, chunks, fields):
    host.events = events_of(chunks, **fields)
    final = json.loads(sse.Parser().feed(host.events)[-1].data)["response"]
    client = OpenAI(base_url=f"http://127.0.0.1:{host.server_port}/v1", api_key="k")
    with client, client.responses.stream(model="route", input="Hi") as stream:
        seen = list(stream)
        got = stream.get_final_response()
    assert [event.type for event in seen][-1] == "response.completed"
    shown = got.model_dump(exclude_unset=True, by_alias=True, mode="json")
    for item in shown["output"]:
        item.pop("parsed_arguments", None)
        for part in item.get("content") or ():
            part.pop("parsed", None)
    assert shown == final
    # The snapshot that its accumulator has beside every piece grows to the text.
    snapshots = [event.snapshot for event in seen if event.type == "response.output_text.delta"]
    if snapshots:
        assert snapshots[-1] == got.output_text
