"""Estimates of tokens, against counts by Mistral's tekken vocabulary (240911)."""

import json

import pytest

from router.gateway.tokens import MAX_BODY, of_answer, of_request, of_stream, of_text

COUNTED = {
    "english": (
        48,
        "The committee met on Thursday to discuss whether the new regulations should come into "
        "force before the end of the year. Several members argued that businesses would need more "
        "time to adapt, while others insisted that further delay would only make matters worse for "
        "consumers.",
    ),
    "german": (
        48,
        "Der Ausschuss traf sich am Donnerstag, um darüber zu beraten, ob die neuen Vorschriften "
        "noch vor Ende des Jahres in Kraft treten sollten. Mehrere Mitglieder meinten, die "
        "Unternehmen bräuchten mehr Zeit zur Anpassung.",
    ),
    "chinese": (
        65,
        "委员会于星期四开会，讨论新规定是否应在年底前生效。一些成员认为企业需要更多时间来适应，"  # noqa: RUF001
        "而其他人则坚持认为进一步拖延只会使消费者的处境更加恶化。",
    ),
    "japanese": (
        48,
        "委員会は木曜日に会合を開き、新しい規則を年内に施行すべきかどうかを議論した。"
        "企業には適応のための時間がもっと必要だと主張する委員もいた。",
    ),
}


@pytest.mark.parametrize("name", COUNTED)
def test_ordinary_text_is_within_a_quarter(name):
    counted, text = COUNTED[name]
    assert of_text(text) == pytest.approx(counted, rel=0.25)
    # A long text is like its beginning.
    assert of_text(text * 2000) == pytest.approx(counted * 2000, rel=0.25)


def request(**fields):
    return json.dumps({"model": "m", "max_tokens": 10**9, **fields}).encode()


@pytest.mark.parametrize(
    ("fields", "low", "high"),
    [
        ({"messages": [{"role": "user", "content": "word " * 100}]}, 100, 115),
        ({"messages": [{"role": "user", "content": "a"}] * 100}, 400, 600),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a b c"}]}]}, 5, 10),
        ({"prompt": "word " * 100}, 95, 105),
        ({"prompt": [list(range(100))]}, 100, 100),
        ({"input": ["word " * 50] * 2}, 95, 105),
        ({"input": "a", "tools": [{"type": "function", "function": {"name": "f"}}]}, 2, 6),
        ({"messages": None}, 0, 0),
        ({"messages": 7}, 1, 1),
        ({}, 0, 0),
    ],
)
def test_a_request_has_its_prompts_tokens(fields, low, high):
    assert low <= of_request(request(**fields)) <= high


@pytest.mark.parametrize("size", [1000, MAX_BODY + 1000])
def test_a_picture_is_not_read_as_text(size):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * size}}
    estimated = of_request(request(messages=[{"role": "user", "content": [image]}]))
    assert 800 <= estimated <= 900


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[" * 5000, b'{"messages": 1e400}', b"\xff"])
def test_what_cannot_be_read_is_counted_by_its_length(body):
    assert of_request(body) == len(body) // 4


def test_a_number_out_of_range_elsewhere_hides_nothing():
    assert of_request(b'{"temperature": 1e400, "prompt": "a b c"}') == 3
    assert of_answer(b'{"x": 1e400, "choices": [{"text": "a b c"}]}') == 3


def test_an_answer_has_the_tokens_of_all_its_choices():
    choice = {"message": {"role": "assistant", "content": "a b c", "reasoning_content": "d e"}}
    assert of_answer(json.dumps({"choices": [choice, choice]}).encode()) == 10
    call = {"function": {"name": "f", "arguments": '{"x": 1}'}}
    tools = {"choices": [{"message": {"content": None, "tool_calls": [call]}}]}
    assert 3 <= of_answer(json.dumps(tools).encode()) <= 9
    assert of_answer(b'{"data": [{"embedding": [1, 2]}]}') == 0


def event(text):
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


@pytest.mark.parametrize("last", [2, 8, 100])
def test_a_stream_is_estimated_from_its_end(last):
    events = [event("word ")] * 100
    body = b"".join([*events, b"data: [DONE]\n\n"])
    tail = b"".join([*events[-last:], b"data: [DONE]\n\n"])
    assert of_stream(tail, len(body)) == pytest.approx(100, abs=3)
    # A tail that begins in the middle of an event.
    assert of_stream(tail[3:], len(body)) == pytest.approx(100, abs=5)


def test_a_stream_without_text_has_no_tokens():
    assert of_stream(b"", 0) == 0
    assert of_stream(b"data: [DONE]\n\n", 14) == 0


def test_a_stream_that_cannot_be_read_is_counted_by_its_length():
    assert of_stream(b"x" * 1000, 64_000) == 63_000 // 64
