"""What is read out of a completion that is to be scored, as hosts write them."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from providers.completion import Logprobs, read_completion
from providers.errors import UpstreamProtocolError
from providers.host_json import MAX_VALUES


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
    sent = body(message, usage=None, model=None, created=1.5, extra={"a": 1})
    assert read_completion(sent, chat=True).text == text


def test_what_else_is_read():
    completion = read_completion(
        body(
            {"content": "Hi."},
            model="m-1",
            system_fingerprint="fp",
            usage={"prompt_tokens": "odd", "completion_tokens": None, "cost": 0.1},
        ),
        chat=True,
    )
    assert (completion.model, completion.system_fingerprint) == ("m-1", "fp")
    assert read_completion(b'{"choices":[]}', chat=True).text is None


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (["a", {"type": "text", "text": "b"}], ("ab", "", "")),
        ([{"type": "refusal", "refusal": "No."}], ("", "No.", "")),
        ([{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "b"}], ("b", "", "hm")),
        (
            [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}, 5]}, {"text": "b"}],
            ("b", "", "hm"),
        ),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "other", "text": "b"}], ("", "", "hm")),
    ],
)
def test_parts_of_contents_say_what_hosts_write_beside_them_elsewhere(parts, said):
    completion = read_completion(body({"content": parts}), chat=True)
    assert (completion.text, completion.refusal, completion.thinking) == said


@pytest.mark.parametrize(
    ("message", "finish", "calls"),
    [
        ({"content": None}, "stop", False),
        ({"content": None, "tool_calls": None, "function_call": None}, "stop", False),
        ({"content": "", "tool_calls": [], "function_call": {}}, "stop", False),
        ({"content": "", "tool_calls": [{"id": "1"}]}, "stop", True),
        ({"content": None, "function_call": {"name": "f"}}, "stop", True),
        ({"content": None}, "tool_calls", True),
    ],
)
def test_calls_of_tools(message, finish, calls):
    sent = {"choices": [{"message": message, "finish_reason": finish}]}
    completion = read_completion(json.dumps(sent).encode(), chat=True)
    assert (completion.has_choice, completion.calls_tools) == (True, calls)
    assert not read_completion(b'{"choices":[]}', chat=True).has_choice


def test_a_text_completion_without_a_text_is_empty():
    assert read_completion(b'{"choices":[{"text":null}]}', chat=False).text is None


def test_a_text_completion_says_the_same():
    sent = {"choices": [{"text": "Hi.", "finish_reason": "length"}], "model": "m-1"}
    completion = read_completion(json.dumps(sent).encode(), chat=False)
    assert (completion.text, completion.finish_reason) == ("Hi.", "length")
    assert (completion.model, completion.system_fingerprint) == ("m-1", "")
    with pytest.raises(UpstreamProtocolError, match="text"):
        read_completion(body({"content": "Hi."}), chat=False)


@pytest.mark.parametrize(
    "odd",
    [
        {"created": "2024-05-01T00:00:00Z"},
        {"created": None, "object": None},
        {"id": 12345},
        {"system_fingerprint": 7},
        {"model": {"name": "m"}},
        {"usage": {"prompt_tokens": 10.0, "completion_tokens": "5"}},
        {"usage": "none", "extra": 1e300},
    ],
)
def test_odd_fields_beside_the_answer_are_read_as_left_out(odd):
    choice = {"index": None, "message": {"role": 7, "content": "Fine"}, "finish_reason": {"a": 1}}
    for extra in ({}, {"logprobs": 3}, {"finish_reason": None}, {"index": "0"}):
        sent = {"choices": [choice | extra, "no choice"], **odd}
        completion = read_completion(json.dumps(sent).encode(), chat=True)
        assert (completion.text, completion.finish_reason) == ("Fine", "")
        assert (completion.model, completion.system_fingerprint) == ("", "")
    text = {"choices": [{"text": "Fine", "index": [], "finish_reason": 3}], **odd}
    assert read_completion(json.dumps(text).encode(), chat=False).text == "Fine"


def test_thoughts_and_refusals_beside_the_text():
    message = {"content": None, "refusal": "I cannot.", "reasoning_content": "Should I?"}
    sent = {"choices": [{"message": message}]}
    completion = read_completion(json.dumps(sent).encode(), chat=True)
    assert (completion.text, completion.refusal) == (None, "I cannot.")
    assert completion.thinking == "Should I?"
    message = {"content": [{"text": "A"}, {"type": "text", "text": "B"}, {"type": "image"}]}
    sent = {"choices": [{"message": message | {"reasoning": "Hm", "refusal": 7}}]}
    completion = read_completion(json.dumps(sent).encode(), chat=True)
    assert (completion.text, completion.refusal, completion.thinking) == ("AB", "", "Hm")


def scored(logprobs) -> bytes:
    choice = {"message": {"content": "Hi."}, "logprobs": logprobs}
    return json.dumps({"choices": [choice]}).encode()


def token(text, logprob=-0.5, **fields):
    return {"token": text, "logprob": logprob, **fields}


TOP = {"top_logprobs": [{"token": "Ho", "logprob": -1.5}]}


def test_log_probabilities_of_too_many_tokens_are_not_read():
    # They would hold up every other thread for seconds.
    many = read_completion(scored({"content": [{}] * (MAX_VALUES + 1)}), chat=True)
    assert (many.text, many.logprobs) == ("Hi.", Logprobs())


@pytest.mark.parametrize(
    ("logprobs", "total", "last"),
    [
        (None, None, ()),
        ({}, None, ()),
        ({"content": []}, None, ()),
        ({"content": [token("H"), token("i")]}, (-1.0, 2), ()),
        ({"content": [token("H"), token("i", **TOP)]}, (-1.0, 2), (("i", {"Ho": -1.5}),)),
        ({"content": [token("H", top_logprobs=None)]}, (-0.5, 1), (("H", {}),)),
        # Alternatives, or a sum, that cannot be read cost the other one nothing.
        ({"content": [token("H", top_logprobs=[{"token": 1}])]}, (-0.5, 1), ()),
        ({"content": [token("H", None, **TOP)]}, None, (("H", {"Ho": -1.5}),)),
        ({"content": [token("H", -1e308)] * 9}, None, ()),
        ({"content": "odd"}, None, ()),
        ([1, 2], None, ()),
    ],
)
def test_log_probabilities_as_far_as_they_can_be_read(logprobs, total, last):
    completion = read_completion(scored(logprobs), chat=True)
    assert completion.text == "Hi."
    assert completion.logprobs.total() == total
    assert completion.logprobs.last(1) == last


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
        read_completion(sent, chat=True)


def test_choices_beyond_the_first_are_not_decoded():
    head = b'{"choices":[{"message":{"content":"yes"}},'
    sent = head + b'{"message":{}},' * 500_000 + b"{}]}"
    tracemalloc.start()
    try:
        assert read_completion(sent, chat=True).text == "yes"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Half a million objects of 16 bytes at the very least.
    assert peak < 1_000_000


def test_content_of_a_million_parts_is_no_answer():
    parts = b'{"type":"text"},' * 1_000_000
    sent = b'{"choices":[{"message":{"content":[%b{}]}}]}' % parts
    with pytest.raises(UpstreamProtocolError, match="over 1,000,000 lists, objects and keys"):
        read_completion(sent, chat=True)
