"""Recorded requests to `/v1/responses` and `/v1/messages` as conversations of datasets."""

import json

import msgspec
import pytest

from router.loop.live_pairs import pair_of
from router.loop.recorded_conversations import read_conversation
from router.records import Record, Target
from router.store.traffic import TrafficRow

CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "id": "fc"}


def recorded(path, request, response):
    text = response if isinstance(response, str) else json.dumps(response)
    defaults = {
        field.name: field.default
        for field in msgspec.structs.fields(TrafficRow)
        if field.default is not msgspec.NODEFAULT
    }
    needed = {
        field.name: {str: "", int: 0, float: 0.0, bool: False}.get(field.type)
        for field in msgspec.structs.fields(TrafficRow)
        if field.required
    }
    fields = {"path": path, "request": json.dumps(request), "response": text}
    return TrafficRow(**needed | defaults | fields)


def response(*output, status="completed"):
    return {"id": "r", "object": "response", "status": status, "output": list(output)}


def said(text):
    part = {"type": "output_text", "text": text}
    return {"type": "message", "role": "assistant", "content": [part]}


def test_a_response_is_the_chat_that_it_would_be():
    request = {"model": "m", "instructions": "Be kind.", "input": "hi", "max_output_tokens": 9}
    row = recorded("responses", request, response(said("Hello.")))
    conversation = read_conversation(row)
    assert [turn["content"] for turn in conversation.messages] == ["Be kind.", "hi"]
    assert conversation.answer == "Hello."
    assert 9 in conversation.parameters.values()


def test_a_streamed_message_is_the_chat_that_it_would_be():
    request = {
        "model": "m",
        "max_tokens": 9,
        "system": "Be kind.",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "stream": True,
    }
    start = {"type": "message_start", "message": {"id": "m", "model": "c", "content": []}}
    delta = {"type": "text_delta", "text": "Hello."}
    events = [
        start,
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ]
    stream = [f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in events]
    conversation = read_conversation(recorded("messages", request, "".join(stream)))
    assert conversation.messages[0]["role"] == "system"
    assert conversation.users_texts() == ["hi"]
    assert conversation.answer == "Hello."
    assert read_conversation(recorded("messages", request, "".join(stream[:-1]))) == "unfinished"


@pytest.mark.parametrize(
    ("request_fields", "answer", "reason"),
    [
        ({"input": "hi"}, response(CALL), "no_text"),
        ({"input": "hi", "previous_response_id": "resp_1"}, response(said("x")), "unreadable"),
        ({"input": 5}, response(said("x")), "unreadable"),
    ],
)
def test_what_no_run_could_send_says_why(request_fields, answer, reason):
    row = recorded("responses", {"model": "m", **request_fields}, answer)
    assert read_conversation(row) == reason


def test_a_shadow_compares_a_response_as_the_chat_that_it_would_be():
    record = Record(
        id="req_1",
        at=1.0,
        path="responses",
        route="r",
        target=Target("up", "m"),
        status=200,
        request=json.dumps({"model": "r", "input": "hi"}).encode(),
        response=json.dumps(response(said("Hello."))).encode(),
    )
    pair = pair_of(record, candidates=(), keep_texts=True, salt="")
    assert [turn["content"] for turn in pair.sample.messages] == ["hi"]
    assert pair.answer.text == "Hello."
