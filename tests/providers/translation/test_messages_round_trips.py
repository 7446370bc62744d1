"""Chat completions as messages and back, and messages as chat completions and back."""

import json

import msgspec
import pytest
from hosts import call

from providers import wire
from providers.anthropic import request_of
from providers.anthropic_answers import MessagesRewriter
from providers.http import sse
from providers.translation.messages_answers import AnswerFacts, MessageAnswers
from providers.translation.messages_requests import to_chat
from providers.translation.messages_terms import FINISH_REASONS, STOP_REASONS

SHOWN = AnswerFacts(model="m", shows_thoughts=True)
WEATHER = {
    "name": "weather",
    "description": "It.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
PDF = {"type": "base64", "media_type": "application/pdf", "data": "aGk="}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}


def to_chat_fields(message_fields):
    raw = {name: msgspec.Raw(wire.encode(value)) for name, value in message_fields.items()}
    chat = to_chat(raw, policy="error", host="lab", takes_reasoning=True)
    return {name: json.loads(bytes(value)) for name, value in chat.fields.items()}


def to_message_fields(chat_fields):
    fields = {name: value for name, value in chat_fields.items() if name != "model"}
    sent, _ = request_of(call(model="m", **fields), provider="it", policy="error")
    return json.loads(wire.encode(sent))


MESSAGES = [
    {"max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]},
    {
        "max_tokens": 50,
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look:"},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": "aGk="},
                    },
                    {"type": "image", "source": {"type": "url", "url": "https://x.org/a.png"}},
                    {
                        "type": "document",
                        "source": {
                            "type": "base64",
                            "media_type": "application/pdf",
                            "data": "aGk=",
                        },
                    },
                ],
            },
            {
                "role": "assistant",
                "content": [
                    THOUGHT,
                    {"type": "redacted_thinking", "data": "eHg="},
                    {"type": "text", "text": "I see."},
                    {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Oslo"}},
                    {"type": "tool_use", "id": "b", "name": "weather", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "a", "content": "sun"},
                    {"type": "tool_result", "tool_use_id": "b", "content": "rain"},
                    {"type": "text", "text": "Which?"},
                ],
            },
        ],
        "tools": [WEATHER],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "stop_sequences": ["END"],
        "metadata": {"user_id": "ada"},
        "output_config": {
            "effort": "xhigh",
            "format": {"type": "json_schema", "schema": {"type": "object"}},
        },
    },
    *(
        {
            "max_tokens": 1,
            "messages": [{"role": "user", "content": "hi"}],
            "tools": [WEATHER],
            "tool_choice": choice,
        }
        for choice in ({"type": "auto"}, {"type": "none"}, {"type": "tool", "name": "weather"})
    ),
]


@pytest.mark.parametrize("fields", MESSAGES)
def test_requests_return_as_they_were(fields):
    chat = to_chat_fields(fields)
    again = to_message_fields(chat)
    for message in fields["messages"]:
        if isinstance(message["content"], str):
            message["content"] = [{"type": "text", "text": message["content"]}]
    assert again.pop("model") == "m"
    assert again == fields
    # And from the other side.
    assert to_chat_fields(again) == chat


def test_efforts_return_as_they_were():
    for effort in ("low", "medium", "high", "xhigh", "max"):
        chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        chat["reasoning_effort"] = effort
        assert to_chat_fields(to_message_fields(chat))["reasoning_effort"] == effort


def test_reasons_return_as_they_were():
    for finish in set(FINISH_REASONS.values()):
        assert FINISH_REASONS[STOP_REASONS[finish]] == finish


MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [
        THOUGHT,
        {"type": "redacted_thinking", "data": "eHg="},
        {"type": "text", "text": "Sun."},
        {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Oslo"}},
        {"type": "tool_use", "id": "b", "name": "weather", "input": {}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 5,
        "cache_creation_input_tokens": 2,
        "cache_read_input_tokens": 3,
        "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 4},
    },
}


def rewriter():
    return MessagesRewriter("it", created=1, include_usage=True)


def test_whole_answers_return_as_they_were():
    chat = rewriter().whole(wire.encode(MESSAGE))
    message = MessageAnswers(SHOWN).whole(chat)
    assert json.loads(message) == MESSAGE
    assert rewriter().whole(message) == chat


def deltas(block):
    match block["type"]:
        case "text":
            return [{"type": "text_delta", "text": piece} for piece in ("Su", "n.")]
        case "thinking":
            return [
                {"type": "thinking_delta", "thinking": "H"},
                {"type": "thinking_delta", "thinking": "m."},
                {"type": "signature_delta", "signature": block["signature"]},
            ]
        case "tool_use":
            text = json.dumps(block["input"])
            return [
                {"type": "input_json_delta", "partial_json": piece}
                for piece in (text[:1], text[1:])
            ]
    return []


EMPTY = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
}


def message_events(message):
    start = {**message, "content": [], "stop_reason": None}
    yield {"type": "message_start", "message": start}
    for index, block in enumerate(message["content"]):
        begun = {**block, **EMPTY.get(block["type"], {})}
        yield {"type": "content_block_start", "index": index, "content_block": begun}
        for delta in deltas(block):
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ending = {name: message[name] for name in ("stop_reason", "stop_sequence")}
    yield {"type": "message_delta", "delta": ending, "usage": message["usage"]}
    yield {"type": "message_stop"}


def test_streams_return_as_they_were():
    host = rewriter()
    sent = list(message_events(MESSAGE))
    chat = b"".join(host.event(sse.Event(wire.encode(event), event["type"])) for event in sent)
    told = MessageAnswers(SHOWN)
    out = sse.Parser().feed(told.feed(chat) + told.finish())
    received = [json.loads(event.data) for event in out]
    # A chat stream has its usage at the end.
    usage = {name: 0 for name in MESSAGE["usage"] if name != "output_tokens_details"}
    sent[0]["message"]["usage"] = usage
    assert received == sent
    again = rewriter()
    assert b"".join(again.event(event) for event in out) == chat
