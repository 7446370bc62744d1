from __future__ import annotations

import json

import msgspec
import pytest

from providers.errors import RequestError, UpstreamProtocolError
from providers.wire import (
    ChatRequest,
    EmbeddingRequest,
    Part,
    answer_text,
    message_text,
    read_completion,
    read_request,
)


def body(message: dict, **fields) -> bytes:
    return json.dumps({"choices": [{"message": message}], **fields}).encode()


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"role": "assistant", "content": "Hi."}, "Hi."),
        ({"content": ""}, ""),
        ({"content": None, "tool_calls": [{"id": "1", "function": {}}]}, None),
        ({"role": None, "reasoning_content": "hm"}, None),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "One"},
                    {"type": "reference", "reference_ids": [1]},
                    {"type": "text", "text": " two."},
                ]
            },
            "One two.",
        ),
    ],
)
def test_texts_of_answers_as_hosts_send_them(message, text):
    completion = read_completion(body(message, usage=None, model=None, created=1.5, extra={"a": 1}))
    assert answer_text(completion) == text


def test_what_else_is_read():
    completion = read_completion(
        body(
            {"content": "Hi."},
            model="m-1",
            system_fingerprint="fp",
            usage={"prompt_tokens": "odd", "completion_tokens": None, "cost": 0.1},
        )
    )
    assert (completion.model, completion.system_fingerprint) == ("m-1", "fp")
    assert not completion.usage
    assert answer_text(read_completion(b'{"choices":[]}')) is None


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"<html>",
        b'{"error":{"message":"no"}}',
        b'{"choices":null}',
        b'{"choices":[{"message":{"content":7}}]}',
        b'{"choices":[{"message":{"content":"\xe2\x82"}}]}',
        b'{"choices":[',
        b'{"choices":[],"extra":' + b"[" * 100_000,
    ],
)
def test_what_is_no_completion_is_an_error(sent):
    with pytest.raises(UpstreamProtocolError):
        read_completion(sent)


def test_only_text_parts_have_text():
    parts = [Part("text", "a"), Part("image_url"), Part("text"), Part("input_audio", "x")]
    assert message_text([*parts, Part("text", "b")], between="\n") == "a\nb"
    assert message_text(None) == message_text([]) == ""


def envelope(**fields) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in fields.items()}


def test_only_the_fields_read_are_decoded():
    request = read_request(
        {**envelope(messages=[{"role": "user"}], n=None), "tools": msgspec.Raw(b"[{]")}, ChatRequest
    )
    assert request.messages[0].content is None
    assert request.n is None


ASKED = envelope(messages=[{"role": "user"}])


@pytest.mark.parametrize(
    ("fields", "shape", "param", "code"),
    [
        (envelope(), ChatRequest, "messages", "missing_required_parameter"),
        (envelope(messages=[{"role": 1}]), ChatRequest, "messages", "invalid_type"),
        (envelope(messages=[{"role": "user"}], n=1e9), ChatRequest, "n", "invalid_type"),
        ({"stop": msgspec.Raw(b'"\xff"'), **ASKED}, ChatRequest, "stop", "invalid_type"),
        ({"stop": msgspec.Raw(b"[" * 100_000), **ASKED}, ChatRequest, "stop", "invalid_type"),
        (envelope(input=[[1, 2]]), EmbeddingRequest, "input", "invalid_type"),
        (envelope(input=[]), EmbeddingRequest, "input", "invalid_type"),
        (envelope(input="a", dimensions=10**6), EmbeddingRequest, "dimensions", "invalid_type"),
        *(
            ({name: msgspec.Raw(value), **ASKED}, ChatRequest, name, "invalid_type")
            for name in ("max_tokens", "max_completion_tokens", "n")
            for value in (b"10000001", b"1" + b"0" * 400, b"1e400", b"0", b"-1", b"true", b"1.0")
        ),
    ],
)
def test_a_wrong_field_is_named(fields, shape, param, code):
    with pytest.raises(RequestError) as raised:
        read_request(fields, shape)
    assert (raised.value.param, raised.value.code, raised.value.status) == (param, code, 400)
