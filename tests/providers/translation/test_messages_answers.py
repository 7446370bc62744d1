"""Chat answers as messages of Anthropic's API."""

import json

import pytest
from message_streams import (
    NO_USAGE,
    accumulated,
    answers,
    call,
    chunk,
    completion,
    events_of,
    feed,
    outline,
    usage_chunk,
    whole,
)
from raw_host import DONE

from providers.errors import RateLimitError, UpstreamProtocolError, UpstreamTooLargeError
from providers.translation.messages_answers import PING, AnswerFacts, token_count

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
    assert accumulated(events)[1]["input"] == given


@pytest.mark.parametrize(
    ("pieces", "sent"),
    [
        (['"{\\"a\\"', ': 1}"'], ['{"a": 1}']),
        (["nu", "ll"], ["{}"]),
        (["[", "1]"], ['{"INVALID_JSON":"[1]"}']),
        ([" ", "\n"], []),
    ],
)
def test_arguments_that_do_not_begin_as_an_object_wait_for_their_end(pieces, sent):
    chunks = [chunk(call(0, "a", "f")), *(chunk(call(0, arguments=piece)) for piece in pieces)]
    assert outline(feed(*chunks))[1:-2] == [
        *("0 tool_use", *(f"0 input_json_delta {text}" for text in sent), "0 stop")
    ]


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
    assert accumulated(feed(chunk(message), chunk({}, "stop"))) == blocks
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
    with pytest.raises(UpstreamProtocolError, match="the answer "):
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
    assert token_count(7) == b'{"input_tokens":7}'


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
    assert [block["input"] for block in accumulated(events)] == [{"x": 1}, {"y": 2}, {}]


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
    assert [(block["name"], block["input"]) for block in accumulated(events)] == [
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
    with pytest.raises(UpstreamProtocolError, match="the answer "):
        feed(*chunks)


def test_white_space_after_a_call_is_no_fault():
    events = feed(
        chunk(call(0, "a", "f", "{}")), chunk(call(1, "b", "g")), chunk(call(0, arguments=" \n"))
    )
    assert len(accumulated(events)) == 2


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
