"""Chat answers as messages of Anthropic's API; the anthropic package is the oracle."""

import json
from itertools import count

import anthropic
import hypothesis
import msgspec
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import strategies as st
from pydantic import TypeAdapter
from raw_host import DONE, READ, event, framed, raw_host

from providers.errors import RateLimitError, UpstreamProtocolError, UpstreamTooLargeError
from providers.http import sse
from providers.translation.fold import fold
from providers.translation.messages_answers import PING, AnswerFacts, MessageAnswers, token_count

EVENT = TypeAdapter(RawMessageStreamEvent)
SHOWN = AnswerFacts(model="m", shows_thoughts=True, stop_sequences=("END", "STOP"))
NO_USAGE = {
    "input_tokens": 0,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "output_tokens": 0,
}
EVENTS = b"content-type: text/event-stream\r\n"


def answers(facts=SHOWN, **more):
    """An attempt's, whose ids are numbered."""
    numbers = count(1)
    known = msgspec.structs.replace(facts, **more)
    return MessageAnswers(known, new_id=lambda prefix: f"{prefix}_{next(numbers)}")


def completion(message=None, **more):
    choice = {"index": 0, "message": message or {}, "finish_reason": more.pop("finish", "stop")}
    choice |= more.pop("choice", {})
    return json.dumps({"id": "chatcmpl-1", "model": "host", "choices": [choice], **more}).encode()


def whole(message=None, facts=SHOWN, **more):
    """The message of a whole answer, checked against Anthropic's type."""
    body = answers(facts).whole(completion(message, **more))
    Message.model_validate_json(body, strict=True)
    return json.loads(body)


def chunk(delta=None, finish=None, **more):
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish} | more.pop("choice", {})
    return event({"id": "chatcmpl-1", "model": "host", "choices": [choice], **more})


def usage_chunk(**usage):
    return event({"choices": [], "usage": usage})


def call(index=None, identity=None, name=None, arguments=None):
    function = {"name": name, "arguments": arguments}
    piece = {"index": index, "id": identity}
    piece["function"] = {key: value for key, value in function.items() if value is not None}
    return {"tool_calls": [{key: value for key, value in piece.items() if value is not None}]}


def events_of(out):
    """The events of a stream, each checked against Anthropic's types."""
    events = []
    for one in sse.Parser().feed(out):
        data = json.loads(one.data)
        assert one.event == data["type"]
        if data["type"] not in ("ping", "error"):
            EVENT.validate_json(one.data, strict=True)
        events.append(data)
    return events


def feed(*chunks, facts=SHOWN, finish=True):
    told = answers(facts)
    out = b"".join([told.feed(one) for one in chunks])
    return events_of(out + (told.finish() if finish else b""))


def outline(events):
    """The events in short, such as `1 text_delta a`."""
    lines = []
    for one in events:
        match one:
            case {"type": "content_block_start", "index": index, "content_block": block}:
                lines.append(f"{index} {block['type']}")
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                *_, value = delta.values()
                lines.append(f"{index} {delta['type']} {value}")
            case {"type": "content_block_stop", "index": index}:
                lines.append(f"{index} stop")
            case {"type": kind}:
                lines.append(kind)
    return lines


def accumulated(events):
    """The message that Anthropic's own accumulator makes of a stream's events."""
    snapshot, buffers = None, {}
    for one in events:
        if one["type"] != "ping":
            read = EVENT.validate_python(one)
            snapshot = accumulate_event(event=read, current_snapshot=snapshot, json_bufs=buffers)
    return snapshot


# Whole answers


def test_a_whole_answer():
    message = {
        "role": "assistant",
        "content": "Sun.",
        "reasoning_content": "Hm.",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"b": 1.0}'}}
        ],
    }
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert whole(message, usage=usage, finish="tool_calls") == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "host",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": ""},
            {"type": "text", "text": "Sun."},
            {"type": "tool_use", "id": "a", "name": "f", "input": {"b": 1.0}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 3,
            "cache_read_input_tokens": 4,
            "output_tokens": 5,
            "output_tokens_details": {"thinking_tokens": 2},
        },
    }


def test_what_a_host_leaves_out():
    body = answers().whole(b'{"choices":[{"message":{"content":"a"}}]}')
    read = json.loads(body)
    assert (read["id"], read["model"], read["stop_reason"]) == ("msg_1", "m", "end_turn")
    assert read["usage"] == NO_USAGE
    assert whole({"content": None})["content"] == []
    assert whole({"content": "a"}, id="msg_x")["id"] == "msg_x"
    assert whole({"content": "a"}, id=5, model=5)["id"] == "msg_1"


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ('{"a": {"b": [1, 2]}}', {"a": {"b": [1, 2]}}),
        (' {"a": 1}\n', {"a": 1}),
        ("", {}),
        ("  ", {}),
        (None, {}),
        ("null", {}),
        ({"a": 1}, {"a": 1}),
        ('"{\\"a\\": 1}"', {"a": 1}),
        ('{"a": 1', {"INVALID_JSON": '{"a": 1'}),
        ('{"a": 1}{"a": 1}', {"INVALID_JSON": '{"a": 1}{"a": 1}'}),
        ("[1]", {"INVALID_JSON": "[1]"}),
        ('"word"', {"INVALID_JSON": '"word"'}),
        ("{'a': 1}", {"INVALID_JSON": "{'a': 1}"}),
        ("[" * 3000, {"INVALID_JSON": "[" * 3000}),
    ],
)
def test_arguments_of_a_call(arguments, given):
    calls = [{"id": "a", "function": {"name": "f", "arguments": arguments}}]
    [block] = whole({"tool_calls": calls})["content"]
    assert block["input"] == given
    # Streamed after a call that is open, so that none of it has been sent before its end.
    events = feed(
        chunk(call(0, "z", "g")),
        *([chunk(call(1, "a", "f", arguments))] if arguments is not None else []),
        chunk(call(1, "a", "f")),
        DONE,
    )
    assert accumulated(events).content[1].input == given


def test_numbers_in_arguments_stay_as_they_are():
    calls = [
        {
            "id": "a",
            "function": {"name": "f", "arguments": '{"a": 1.50, "b": 12345678901234567890123}'},
        }
    ]
    body = answers().whole(completion({"tool_calls": calls}))
    assert b'{"a": 1.50, "b": 12345678901234567890123}' in body


@pytest.mark.parametrize(
    ("finish", "calls", "reason"),
    [
        ("stop", False, "end_turn"),
        ("stop", True, "tool_use"),
        ("length", False, "max_tokens"),
        ("length", True, "max_tokens"),
        ("tool_calls", True, "tool_use"),
        ("tool_calls", False, "end_turn"),
        ("function_call", True, "tool_use"),
        ("function_call", False, "end_turn"),
        ("content_filter", False, "refusal"),
        ("content_filter", True, "refusal"),
        (None, False, "end_turn"),
        (None, True, "tool_use"),
        ("eos", False, "end_turn"),
        (5, True, "tool_use"),
        ("tool_use", False, "end_turn"),
        ("stop_sequence", False, "end_turn"),
        ("pause_turn", False, "pause_turn"),
        ("model_context_window_exceeded", False, "model_context_window_exceeded"),
    ],
)
def test_reasons_to_stop(finish, calls, reason):
    message = {"content": "a"}
    tools = call(0, "a", "f", "{}") if calls else {}
    said = whole(message | tools, finish=finish)
    assert said["stop_reason"] == reason
    events = feed(chunk({"content": "a"}), chunk(tools), chunk({}, finish))
    assert events[-2]["delta"]["stop_reason"] == reason
    details = {"type": "refusal", "category": None, "explanation": None}
    for ending in (said, events[-2]["delta"]):
        assert ending.get("stop_details") == (details if reason == "refusal" else None)


@pytest.mark.parametrize("name", ["stop_reason", "matched_stop"])
@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("END", "stop", "stop_sequence"),
        ("END", "stop_sequence", "stop_sequence"),
        ("other", "stop", "end_turn"),
        (128, "stop", "end_turn"),
        (["END"], "stop", "end_turn"),
        ("END", "length", "max_tokens"),
    ],
)
def test_the_text_that_ended_an_answer(name, text, finish, reason):
    ended = (reason, "END" if reason == "stop_sequence" else None)
    choice = {name: text}
    said = whole({"content": "a"}, choice=choice, finish=finish)
    assert (said["stop_reason"], said["stop_sequence"]) == ended
    delta = feed(chunk({"content": "a"}), chunk({}, finish, choice=choice))[-2]["delta"]
    assert (delta["stop_reason"], delta["stop_sequence"]) == ended


@pytest.mark.parametrize(
    "refused", [{"refusal": "No."}, {"content": [{"type": "refusal", "refusal": "No."}]}]
)
def test_refusals(refused):
    said = whole(refused)
    assert said["content"] == [{"type": "text", "text": "No."}]
    assert said["stop_reason"] == "refusal"
    assert said["stop_details"]["explanation"] == "No."
    events = feed(chunk(refused), chunk({}, "stop"))
    assert outline(events)[1:4] == ["0 text", "0 text_delta No.", "0 stop"]
    assert events[-2]["delta"]["stop_details"]["explanation"] == "No."
    assert whole(refused, finish="length")["stop_reason"] == "max_tokens"
    assert whole({"refusal": 5, "content": "a"})["stop_reason"] == "end_turn"


SIGNED = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
REDACTED = {"type": "redacted_thinking", "data": "eHg="}


@pytest.mark.parametrize(
    ("message", "blocks"),
    [
        ({"reasoning_content": "Hm."}, [{**SIGNED, "signature": ""}]),
        ({"reasoning": "Hm."}, [{**SIGNED, "signature": ""}]),
        ({"reasoning_content": "Hm.", "reasoning": "Hm."}, [{**SIGNED, "signature": ""}]),
        ({"reasoning_content": "Hm.", "thinking_blocks": [SIGNED, REDACTED]}, [SIGNED, REDACTED]),
        (
            {"reasoning_content": "Hm.", "thinking_blocks": [REDACTED]},
            [{**SIGNED, "signature": ""}, REDACTED],
        ),
        (
            {"thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": None}]},
            [{**SIGNED, "signature": ""}],
        ),
        ({"thinking_blocks": [5, {"type": "text"}], "reasoning": 5}, []),
        ({"thinking_blocks": "Hm."}, []),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]},
            [{**SIGNED, "signature": ""}],
        ),
    ],
)
def test_thoughts(message, blocks):
    assert whole(message)["content"] == blocks
    assert whole(message, AnswerFacts())["content"] == []
    read = accumulated(feed(chunk(message), chunk({}, "stop"))).content
    assert [block.to_dict() for block in read] == blocks
    assert outline(feed(chunk(message), DONE, facts=AnswerFacts()))[2:] in (
        ["message_delta", "message_stop"],
        ["message_stop"],
    )


def test_hidden_thoughts_keep_the_stream_alive():
    events = feed(*[chunk({"reasoning": "."})] * 65, chunk({"content": "a"}), facts=AnswerFacts())
    assert outline(events) == [
        *("message_start", "ping", "ping", "0 text", "0 text_delta a", "0 stop"),
        *("message_delta", "message_stop"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"\xff"',
        b"{}",
        b'{"choices":[]}',
        b'{"choices":[{}]}',
        b'{"choices":[{"index":1,"message":{"content":"a"}}]}',
        b'{"choices":[{"message":{"content":5}}]}',
        b'{"choices":[{"message":{"content":[5]}}]}',
        b'{"choices":[{"message":{"tool_calls":[{"id":"a","function":{"arguments":"{}"}}]}}]}',
        b'{"choices":[{"message":{"tool_calls":[{"id":"a"}]}}]}',
        b'{"choices":[{"message":{"tool_calls":[{"function":{"name":5}}]}}]}',
        b'{"choices":[{"message":{"tool_calls":["a"]}}]}',
    ],
)
def test_answers_that_are_none(body):
    with pytest.raises(UpstreamProtocolError):
        answers().whole(body)


def test_only_the_first_choice_becomes_a_message():
    second = {"index": 1, "message": {"content": "b"}}
    first = {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}
    body = answers().whole(json.dumps({"choices": [second, first]}).encode())
    assert json.loads(body)["content"] == [{"type": "text", "text": "a"}]
    events = feed(
        chunk({"content": "b"}, choice={"index": 1}), chunk({"content": "a"}), chunk({}, "stop")
    )
    assert [line for line in outline(events) if "delta " in line] == ["0 text_delta a"]


def test_names_that_were_shortened_are_whole_again():
    facts = AnswerFacts(names={"short": "long"})
    assert whole(call(0, "a", "short", "{}"), facts)["content"][0]["name"] == "long"
    events = feed(chunk(call(0, "a", "short", "{}")), facts=facts)
    assert events[1]["content_block"]["name"] == "long"


def test_each_call_has_an_id_of_its_own():
    calls = [{"function": {"name": "f", "arguments": "{}"}} for _ in range(4)]
    calls[0]["id"] = calls[1]["id"] = "same"
    calls[2]["id"] = ""
    said = whole({"tool_calls": calls}, id=None)
    assert said["id"] == "msg_4"
    ids = [block["id"] for block in said["content"]]
    assert ids == ["same", "toolu_1", "toolu_2", "toolu_3"]


def test_a_count_of_tokens():
    read = anthropic.types.MessageTokensCount.model_validate_json(token_count(7), strict=True)
    assert read.input_tokens == 7


# Streams


def test_the_order_of_a_streams_events():
    events = feed(
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "H"}),
        chunk({"reasoning_content": "m."}),
        chunk({"content": "Su"}),
        chunk({"content": "n."}),
        chunk(call(0, "a", "f", "")),
        chunk(call(0, arguments='{"b"')),
        chunk(call(0, arguments=": 1}")),
        chunk(call(1, "b", "g", "{}")),
        chunk({}, "tool_calls"),
        usage_chunk(prompt_tokens=10, completion_tokens=5, total_tokens=15),
        DONE,
    )
    assert outline(events) == [
        "message_start",
        "0 thinking",
        "0 thinking_delta H",
        "0 thinking_delta m.",
        "0 signature_delta ",
        "0 stop",
        "1 text",
        "1 text_delta Su",
        "1 text_delta n.",
        "1 stop",
        "2 tool_use",
        '2 input_json_delta {"b"',
        "2 input_json_delta : 1}",
        "2 stop",
        "3 tool_use",
        "3 input_json_delta {}",
        "3 stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"] == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "host",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": NO_USAGE,
    }
    assert events[1]["content_block"] == {"type": "thinking", "thinking": "", "signature": ""}
    assert events[6]["content_block"] == {"type": "text", "text": ""}
    assert events[10]["content_block"] == {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    assert events[-2] == {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use", "stop_sequence": None},
        "usage": {**NO_USAGE, "input_tokens": 10, "output_tokens": 5},
    }


def test_a_piece_is_passed_on_at_once():
    told = answers()
    assert outline(events_of(told.feed(chunk({"content": "a"})))) == [
        *("message_start", "0 text", "0 text_delta a")
    ]
    assert outline(events_of(told.feed(chunk({"content": "b"})))) == ["0 text_delta b"]
    assert outline(events_of(told.feed(chunk(call(0, "x", "f", '{"'))))) == [
        *("0 stop", "1 tool_use", '1 input_json_delta {"')
    ]
    assert outline(events_of(told.feed(chunk(call(0, arguments='a"'))))) == [
        '1 input_json_delta a"'
    ]
    assert told.feed(chunk({})) == b""
    assert told.feed(b": keep-alive\n\n") == PING
    assert told.feed(b"") == b""


def test_the_usage_that_comes_first_or_all_the_time():
    usage = {"prompt_tokens": 10, "completion_tokens": 0, "total_tokens": 10}
    later = {"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17}
    events = feed(
        chunk({"content": "a"}, usage=usage),
        chunk({"content": "b"}, usage=None),
        chunk({}, "stop", usage=later),
    )
    assert events[0]["message"]["usage"]["input_tokens"] == 10
    assert events[-2]["usage"] == {**NO_USAGE, "input_tokens": 10, "output_tokens": 7}
    assert accumulated(events).usage.output_tokens == 7
    events = feed(chunk({"content": "a"}), chunk({}, "stop", x_groq={"usage": later}))
    assert events[-2]["usage"]["output_tokens"] == 7
    assert feed(chunk({"content": "a"}, usage="many"))[-2]["usage"] == NO_USAGE


def test_interleaved_calls_become_one_block_after_the_other():
    events = feed(
        chunk(call(0, "a", "f", '{"x"')),
        chunk(call(1, "b", "g", '{"y"')),
        chunk(call(0, arguments=": 1}")),
        chunk(call(1, arguments=": 2}")),
        chunk(call(2, "c", "h")),
        chunk({}, "tool_calls"),
    )
    assert outline(events)[1:-2] == [
        "0 tool_use",
        '0 input_json_delta {"x"',
        "0 input_json_delta : 1}",
        "0 stop",
        "1 tool_use",
        '1 input_json_delta {"y"',
        "1 input_json_delta : 2}",
        "1 stop",
        "2 tool_use",
        "2 stop",
    ]
    assert [block.input for block in accumulated(events).content] == [{"x": 1}, {"y": 2}, {}]


def test_what_waits_for_a_call_that_is_not_complete():
    events = feed(
        chunk(call(0, "a", "f", '{"x": {}')),
        chunk({"content": "Wait"}),
        chunk({"content": " a bit."}),
        chunk(call(1, "b", "g", '{"y": 2}')),
        chunk(call(0, arguments="}")),
        chunk({}, "tool_calls"),
    )
    assert outline(events)[1:-2] == [
        *("0 tool_use", '0 input_json_delta {"x": {}', "0 input_json_delta }", "0 stop"),
        *("1 text", "1 text_delta Wait a bit.", "1 stop"),
        *("2 tool_use", '2 input_json_delta {"y": 2}', "2 stop"),
    ]


@pytest.mark.parametrize(
    "pieces",
    [
        [call(None, "a", "f", '{"x":'), call(None, None, None, "1}"), call(None, "b", "g", "{}")],
        [call(0, "a", "f", '{"x":'), call(0, "a", "f", "1}"), call(0, "b", "g", "{}")],
        [
            call(0, "a", "f", '{"x":'),
            call(0, None, None, "1}"),
            call(0, "b", "g"),
            call(0, arguments="{}"),
        ],
        [call(0, None, "f", '{"x":1}'), call(1, None, "g", "{}")],
        [call(None, None, "f", '{"x":1}'), call(None, None, "g", "{}")],
        [call(7, "a"), call(7, None, "f", '{"x":'), call(7, None, None, "1}"), call(3, "b", "g")],
    ],
)
def test_hosts_that_number_their_calls_oddly(pieces):
    events = feed(*map(chunk, pieces), chunk({}, "stop"))
    assert [(block.name, block.input) for block in accumulated(events).content] == [
        *(("f", {"x": 1}), ("g", {}))
    ]


def test_arguments_that_break_off_with_the_answer():
    events = feed(chunk(call(0, "a", "f", '{"x": "ab')), chunk({}, "length"))
    assert events[-2]["delta"]["stop_reason"] == "max_tokens"
    assert outline(events)[1:4] == ["0 tool_use", '0 input_json_delta {"x": "ab', "0 stop"]
    told = answers()
    told.feed(chunk(call(0, "a", "f", '{"x": "ab')) + chunk({}, "tool_calls"))
    with pytest.raises(UpstreamProtocolError, match="calls the tool 'f' with arguments"):
        told.finish()


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(call(0, "a", "f", "{}")), chunk(call(1, "b", "g")), chunk(call(0, arguments="{}"))],
        [chunk(call(0, "a", None, "{}"))],
        [chunk({"content": 5})],
        [chunk({"tool_calls": "x"})],
        [b"data: {\n\n"],
        [b"data: []\n\n"],
        [b'data: "\xff"\n\n'],
    ],
)
def test_streams_that_are_none(chunks):
    with pytest.raises(UpstreamProtocolError):
        feed(*chunks)


def test_white_space_after_a_call_is_no_fault():
    events = feed(
        chunk(call(0, "a", "f", "{}")), chunk(call(1, "b", "g")), chunk(call(0, arguments=" \n"))
    )
    assert len(accumulated(events).content) == 2


def test_signed_thoughts_of_a_stream():
    """As LiteLLM streams them, and as this package's own provider does."""
    piece = {"type": "thinking", "thinking": "H", "signature": None}
    pieces = [
        {"reasoning_content": "H", "thinking_blocks": [piece]},
        {"reasoning_content": "m.", "thinking_blocks": [{**piece, "thinking": "m."}]},
        {"thinking_blocks": [{**piece, "thinking": "", "signature": "c2ln"}]},
        {"thinking_blocks": [REDACTED]},
        {"reasoning_content": "So."},
        {"thinking_blocks": [{**SIGNED, "thinking": "So.", "signature": "eHg="}]},
        {"content": "a"},
        {"thinking_blocks": [SIGNED]},
        {"content": "b"},
    ]
    events = feed(*map(chunk, pieces))
    assert outline(events)[1:-2] == [
        "0 thinking",
        "0 thinking_delta H",
        "0 thinking_delta m.",
        "0 signature_delta c2ln",
        "0 stop",
        "1 redacted_thinking",
        "1 stop",
        "2 thinking",
        "2 thinking_delta So.",
        "2 signature_delta eHg=",
        "2 stop",
        "3 text",
        "3 text_delta a",
        "3 text_delta b",
        "3 stop",
    ]
    hidden = {"type": "thinking", "thinking": "", "signature": "c2ln"}
    events = feed(chunk({"thinking_blocks": [hidden]}), chunk({"content": "a"}))
    assert outline(events)[1:4] == ["0 thinking", "0 signature_delta c2ln", "0 stop"]


PIECE = "x" * 2**20
BEGUN = call(0, "a", "f", '{"a":"')


@pytest.mark.parametrize(
    ("further", "times"),
    [
        (call(0, arguments=PIECE), 17),
        ({"content": PIECE}, 17),
        ({"tool_calls": call(0, arguments="-")["tool_calls"] * 999}, 270),
        ({"tool_calls": call(None, None, "f")["tool_calls"] * 999}, 17),
    ],
)
def test_what_is_held_of_a_stream_is_bounded(further, times):
    told = answers()
    told.feed(chunk(BEGUN))
    with pytest.raises(UpstreamTooLargeError):
        told.feed(chunk(further) * times)


def test_texts_of_a_stream_are_not_held():
    told = answers()
    for _ in range(17):
        assert told.feed(chunk({"content": PIECE}))


def test_a_message_ends_once():
    told = answers()
    out = told.feed(chunk({"content": "a"}) + DONE + chunk({"content": "b"}))
    assert outline(events_of(out))[-1] == "message_stop"
    assert told.finish() == b""
    assert told.feed(chunk({"content": "b"})) == b""
    assert outline(events_of(answers().finish())) == [
        *("message_start", "message_delta", "message_stop")
    ]


def test_a_stream_that_breaks_off():
    told = answers()
    told.feed(chunk({"content": "a"}))
    error = RateLimitError("Too much.", retry_after=1)
    assert events_of(told.fail(error)) == [
        {
            "type": "error",
            "error": {"type": "rate_limit_error", "message": "Too much."},
        }
    ]
    assert told.feed(chunk({"content": "b"})) == told.finish() == b""


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
INPUTS = st.dictionaries(
    st.text('abé\\"{}', max_size=4),
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | WORDS,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
        max_leaves=4,
    ),
    max_size=3,
)


@st.composite
def chat_streams(draw):
    """The deltas of an answer: thoughts, text, then calls whose pieces may be interleaved."""
    deltas = [{"reasoning_content": word} for word in draw(st.lists(WORDS, max_size=3))]
    deltas += [{"content": word} for word in draw(st.lists(WORDS, max_size=3))]
    queues = []
    for index, given in enumerate(draw(st.lists(INPUTS, max_size=3))):
        text = json.dumps(given, ensure_ascii=draw(st.booleans()))
        cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        first = call(index, f"call_{index}", f"tool_{index}", pieces[0])
        queues.append([first, *(call(index, arguments=piece) for piece in pieces[1:])])
    if draw(st.booleans()):
        while any(queues):
            # A call begins after those before it.
            begun = [queue for queue in queues if queue]
            fresh = (n for n, queue in enumerate(begun) if "id" in queue[0]["tool_calls"][0])
            turn = draw(st.integers(0, next(fresh, len(begun) - 1)))
            deltas.append(begun[turn].pop(0))
    else:
        deltas += [delta for queue in queues for delta in queue]
    finish = draw(st.sampled_from(["stop", "tool_calls", "content_filter"]))
    chunks = [chunk({"role": "assistant", "content": ""}), *map(chunk, deltas), chunk({}, finish)]
    if draw(st.booleans()):
        chunks.append(usage_chunk(prompt_tokens=9, completion_tokens=3, total_tokens=12))
    return [*chunks, DONE]


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(chat_streams(), st.data())
def test_a_stream_is_what_the_whole_answer_is(chunks, data):
    told = answers()
    out = b"".join([told.feed(one) for one in chunks])
    events = events_of(out)
    assert_documented_order(events)
    # However the host's bytes are cut, the events are the same.
    stream_bytes = b"".join(chunks)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream_bytes)), max_size=5)))
    again, held, cut_out = answers(), b"", b""
    for start, end in zip([0, *cuts], [*cuts, len(stream_bytes)], strict=True):
        complete, held = sse.split_complete(held + stream_bytes[start:end])
        cut_out += again.feed(complete)
    assert cut_out + again.finish() == out
    # And they amount to the whole answer.
    folded = fold([json.loads(one[6:]) for one in chunks[:-1]]) | {"object": "chat.completion"}
    for choice in folded["choices"]:
        choice["message"] = choice.pop("delta")
    said = json.loads(answers().whole(json.dumps(folded).encode()))
    streamed = accumulated(events).to_dict(exclude_none=True)
    assert streamed["content"] == said["content"]
    for name in ("id", "model", "role", "type", "stop_reason", "usage"):
        assert streamed[name] == said[name]


def assert_documented_order(events):
    kinds = [one["type"] for one in events if one["type"] != "ping"]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    opened = -1
    is_open = signed = False
    for one in events[1:-2]:
        kind = one["type"]
        if kind == "content_block_start":
            assert not is_open
            opened, is_open, signed = opened + 1, True, False
            block = one["content_block"]["type"]
        elif kind == "content_block_delta":
            assert is_open
            assert not signed
            signed = one["delta"]["type"] == "signature_delta"
        else:
            assert kind == "content_block_stop"
            assert is_open
            assert signed == (block == "thinking")
            is_open = False
        assert one["index"] == opened
    assert not is_open


async def test_anthropics_client_reads_the_stream_from_a_socket():
    chunks = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "Hm."}),
        chunk({"content": "Sün."}),
        chunk(call(0, "a", "f", '{"b": [1, ')),
        chunk(call(0, arguments='{"c": "d"}]}')),
        chunk({}, "tool_calls"),
        usage_chunk(prompt_tokens=10, completion_tokens=5, total_tokens=15),
        DONE,
    ]
    told = answers()
    out = [told.feed(one) for one in chunks]
    with raw_host([READ, *framed(out, "chunked", headers=EVENTS)]) as host:
        client = anthropic.AsyncAnthropic(base_url=host.url, api_key="k", max_retries=0)
        async with client.messages.stream(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
        ) as read:
            final = await read.get_final_message()
        await client.close()
    folded = {
        "content": "Sün.",
        "reasoning_content": "Hm.",
        "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": '{"b":[1,{"c":"d"}]}'}}],
    }
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    said = Message.model_validate(whole(folded, finish="tool_calls", usage=usage))
    assert final.to_dict(exclude_none=True) == said.to_dict(exclude_none=True)
