from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.errors import UpstreamProtocolError
from providers.sse import DONE, Event, Parser, encode, read_end, split_complete

# Pieces of streams that matter to a parser, and any bytes at all between them.
WORDS = ["data", "data:", "data: ", ":", " ", "event: x", "id: 1", "[DONE]", "\ufeff", "é€😀"]
ENDS = [b"\r", b"\n", b"\r\n", b"\0", b"\xe2\x82", b'{"a": 1}']
PIECES = st.sampled_from(ENDS) | st.sampled_from(WORDS).map(str.encode)
STREAMS = st.lists(PIECES | st.binary(max_size=6), max_size=40).map(b"".join)


def parse(*chunks: bytes, limit: int = 1000) -> list[Event]:
    parser = Parser(limit=limit)
    return [event for chunk in chunks for event in parser.feed(chunk)]


def by_the_letter(stream: bytes) -> list[Event]:
    """The standard's text followed literally on the whole stream: the oracle."""
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events, data, kind = [], b"", b""
    for line in text.split(b"\n")[:-1]:
        if line == b"":
            if data:
                events.append(Event(data[:-1], kind.decode("utf-8", "replace") or "message"))
            data, kind = b"", b""
        elif not line.startswith(b":"):
            name, _, value = line.partition(b":")
            value = value[1:] if value.startswith(b" ") else value
            if name == b"data":
                data += value + b"\n"
            elif name == b"event":
                kind = value
    return events


@given(STREAMS, st.lists(st.integers(0, 250)))
def test_any_split_gives_the_same_events(stream, cuts):
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    chunks = [stream[a:b] for a, b in pairwise(edges)]
    assert parse(*chunks) == parse(stream) == by_the_letter(stream)


@given(STREAMS)
def test_byte_by_byte(stream):
    assert parse(*(bytes([byte]) for byte in stream)) == by_the_letter(stream)


@given(st.binary(), st.none() | st.just("error"))
def test_what_is_encoded_is_read_back(data, event):
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert parse(encode(data, event)) == [Event(lines, event or "message")]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [Event(b"a")]),
        (b"data:a\ndata:  b\n\n", [Event(b"a\n b")]),
        (b"data\n\n", [Event(b"")]),
        (b": keep-alive\n\ndata: a\n\n", [Event(b"a")]),
        (b"event: x\n\ndata: a\n\n", [Event(b"a")]),
        (b"event: error\ndata: a\n\n", [Event(b"a", "error")]),
        ("\ufeffdata: a\n\n".encode(), [Event(b"a")]),
        (b"\n\xef\xbb\xbfdata: a\n\n", []),
        (b"data: a\r\rdata: b\r\n\r\n", [Event(b"a"), Event(b"b")]),
        (b"data: a\n", []),
        (b"data: a\n\ndata: b", [Event(b"a")]),
    ],
)
def test_the_standard_s_cases(stream, events):
    assert parse(stream) == events


def test_an_empty_chunk_between_cr_and_lf():
    assert parse(b"data: a\r", b"", b"\ndata: b\r\n\r\n") == [Event(b"a\nb")]


@pytest.mark.parametrize(
    "stream", [b"data: 123456\n\n", b"data: 1234567", b"data: 1\n" * 7, b"data\n" * 17, b":" * 13]
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_an_event_over_the_limit_is_an_error_however_it_comes(stream, size):
    chunks = [stream[start : start + size] for start in range(0, len(stream), size)]
    with pytest.raises(UpstreamProtocolError):
        parse(*chunks, limit=11)


def test_the_limit_is_per_event():
    assert len(Parser(limit=11).feed(b"data: 12345\n\n: comment\n" * 9)) == 9


CHUNK = b'data: {"id":"c","model":"m-1","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
FINISH = b'data: {"model":"m-1","system_fingerprint":"fp","choices":[{"finish_reason":"stop"}]}\n\n'
USAGE = (
    b'data: {"model":"m-1","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5,'
    b'"total_tokens":12,"prompt_tokens_details":{"cached_tokens":3}}}\n\n'
)


def test_the_end_of_a_stream_from_any_point_in_it():
    stream = CHUNK * 3 + FINISH + USAGE + DONE
    for start in range(len(CHUNK) * 3):
        end = read_end(stream[start:])
        assert end.usage is not None
        assert (end.usage.prompt, end.usage.total) == (7, 12)
        assert (end.model, end.system_fingerprint) == ("m-1", "fp")
        assert (end.finish_reason, end.done, end.error) == ("stop", True, "")


def test_an_end_that_says_little():
    end = read_end(CHUNK + b'data: {"choices": null}\n\ndata: {"model":"m-2","cho')
    assert (end.usage, end.model, end.finish_reason, end.done) == (None, "m-1", "", False)
    assert read_end(b"").model == ""
    assert read_end(FINISH + b'data: {"model":"\xff"}\n\ndata: {"x":' + b"[" * 9999).model == "m-1"
    assert read_end(FINISH + b"data: [DONE]").done


def test_usage_beside_null_usage_and_in_the_last_chunk():
    stream = CHUNK.replace(b'"id":"c"', b'"usage":null') + USAGE.replace(
        b"[]", b'[{"delta":{"content":""},"finish_reason":"length"}]'
    )
    end = read_end(stream + CHUNK.replace(b'"id":"c"', b'"usage":null'))
    assert end.usage is not None
    assert end.usage.completion == 5
    assert end.finish_reason == "length"


@pytest.mark.parametrize(
    ("error", "text"),
    [(b'{"message":"overloaded","code":1}', "overloaded"), (b'"broken"', "broken")],
)
def test_an_error_in_mid_stream(error, text):
    assert read_end(CHUNK + encode(b'{"error":' + error + b"}", "error")).error == text


@pytest.mark.parametrize(
    ("data", "complete", "rest"),
    [
        (b"data: 1\n\n", b"data: 1\n\n", b""),
        (b"data: 1\n\ndata: 2", b"data: 1\n\n", b"data: 2"),
        (b"data: 1\r\n\r\ndata: 2\r\n", b"data: 1\r\n\r\n", b"data: 2\r\n"),
        (b"data: 1\r\rda", b"data: 1\r\r", b"da"),
        (b"data: 1", b"", b"data: 1"),
        (b": keep-alive\n", b": keep-alive\n", b""),
        (b"data: 1\n\n: ping\n", b"data: 1\n\n: ping\n", b""),
        (b": ping\ndata: 1\n", b"", b": ping\ndata: 1\n"),
        (b"", b"", b""),
    ],
)
def test_split_complete(data, complete, rest):
    assert split_complete(data) == (complete, rest)
