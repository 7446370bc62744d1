"""Secrets out of bodies: what is hidden, what is left alone, and that JSON stays JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.gateway.redact import redact

SECRET = "s3cr3t-Value_0123456789"


@pytest.mark.parametrize(
    "key",
    [
        "api_key",
        "apiKey",
        "x-api-key",
        "OPENAI_API_KEY",
        "Authorization",
        "password",
        "passwd",
        "client_secret",
        "access_token",
        "token",
        "private_key",
        "credentials",
        "Set-Cookie",
    ],
)
@pytest.mark.parametrize("nested", [0, 1], ids=["plain", "in a string"])
def test_strings_under_names_of_secrets_are_hidden(key, nested):
    value = {"before": 1, key: SECRET + ' "quoted" \\ end', "after": "kept"}
    body = {"arguments": json.dumps(value) if nested else value}
    hidden = redact(json.dumps(body).encode())
    assert b"s3cr3t" not in hidden
    assert b"quoted" not in hidden
    read = json.loads(hidden)["arguments"]
    read = json.loads(read) if nested else read
    assert read == {"before": 1, key: "***", "after": "kept"}


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        "curl -H 'authorization: basic dXNlcjpwYXNzd29yZA=='",
        "my key is sk-proj-abcdefghijklmnop1234",
        "sk-ant-api03-abcdefghijklmnop1234",
        "er-0123456789abcdef0123456789abcdef",
        "gsk_abcdefghijklmnopqrstuvwx",
        "hf_abcdefghijklmnopqrstuvwx",
        "ghp_abcdefghijklmnopqrstuvwxyz0123",
        "github_pat_11ABCDEFG0123456789_abcdef",
        "xoxb-123456789012-abcdef",
        "AKIAIOSFODNN7EXAMPLE",
        "AIza" + "a1B2c" * 7,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-DEF_123",
        "postgresql://user:hunter22@db/x",
    ],
)
def test_well_known_shapes_are_hidden(text):
    hidden = json.loads(redact(json.dumps({"content": text}).encode()))["content"]
    assert "***" in hidden
    words = [word for word in text.replace(":", " ").replace("@", " ").split() if len(word) > 7]
    assert words[-1] not in hidden


@pytest.mark.parametrize(
    "text",
    [
        "a token is about four characters; max_tokens: 200",
        "the password is what you make of it",
        "user-0123456789abcdef0123456789",
        "https://example.com:8080/a@b",
        "task-force risk-averse desk-lamp-with-a-long-name",
        "the bearer of bad news",
    ],
)
def test_plain_words_are_left_alone(text):
    body = json.dumps({"content": text}).encode()
    assert redact(body) == body


def test_numbers_and_texts_of_tokens_are_no_secrets():
    body = b'{"max_tokens":200,"usage":{"total_tokens":3},"logprobs":[{"token":"Hello"}]}'
    assert redact(body) == body


def test_streams_stay_streams():
    body = b'data: {"a":"Bearer ' + SECRET.encode() + b'"}\n\ndata: [DONE]\n\n'
    assert redact(body) == b'data: {"a":"Bearer ***"}\n\ndata: [DONE]\n\n'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text() | st.sampled_from(["api_key", "token"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(JSON)
def test_json_stays_json(value):
    body = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    json.loads(redact(body).decode("utf-8", "surrogatepass"))


@given(JSON)
def test_json_in_a_string_stays_json(value):
    body = json.dumps({"arguments": json.dumps(value)}).encode()
    json.loads(json.loads(redact(body))["arguments"])


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "piece",
    ["eyJ-", "sk-", '"', '\\"', '"token" ', "bearer ", "basic  ", "://a:", "AKIA", "aapi_ke", "a."],
)
def test_a_body_made_to_be_slow_is_not(piece):
    for body in (piece * 200_000, '"' + piece * 200_000):
        redact(body.encode())
