from __future__ import annotations

import json

import msgspec
import pytest

from providers.errors import RequestError
from providers.wire import (
    ChatCompletionRequest,
    EmbeddingRequest,
    Part,
    message_text,
    read_request,
)


def test_only_text_parts_have_text():
    parts = [Part("text", "a"), Part("image_url"), Part("text"), Part("input_audio", "x")]
    assert message_text([*parts, Part("text", "b")], between="\n") == "a\nb"
    assert message_text(None) == message_text([]) == ""


def envelope(**fields) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in fields.items()}


def test_only_the_fields_read_are_decoded():
    request = read_request(
        {**envelope(messages=[{"role": "user"}], n=None), "tools": msgspec.Raw(b"[{]")},
        ChatCompletionRequest,
    )
    assert request.messages[0].content is None
    assert request.n is None


ASKED = envelope(messages=[{"role": "user"}])


@pytest.mark.parametrize(
    ("fields", "shape", "param", "code"),
    [
        (envelope(), ChatCompletionRequest, "messages", "missing_required_parameter"),
        (envelope(messages=[{"role": 1}]), ChatCompletionRequest, "messages", "invalid_type"),
        (envelope(messages=[{"role": "user"}], n=1e9), ChatCompletionRequest, "n", "invalid_type"),
        ({"stop": msgspec.Raw(b'"\xff"'), **ASKED}, ChatCompletionRequest, "stop", "invalid_type"),
        (
            {"stop": msgspec.Raw(b"[" * 100_000), **ASKED},
            ChatCompletionRequest,
            "stop",
            "invalid_type",
        ),
        (envelope(input=[[1, 2]]), EmbeddingRequest, "input", "invalid_type"),
        (envelope(input=[]), EmbeddingRequest, "input", "invalid_type"),
        (envelope(input="a", dimensions=10**6), EmbeddingRequest, "dimensions", "invalid_type"),
        *(
            ({name: msgspec.Raw(value), **ASKED}, ChatCompletionRequest, name, "invalid_type")
            for name in ("max_tokens", "max_completion_tokens", "n")
            for value in (b"10000001", b"1" + b"0" * 400, b"1e400", b"0", b"-1", b"true", b"1.0")
        ),
    ],
)
def test_a_wrong_field_is_named(fields, shape, param, code):
    with pytest.raises(RequestError) as raised:
        read_request(fields, shape)
    assert (raised.value.param, raised.value.code, raised.value.status) == (param, code, 400)
