from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.errors import UpstreamProtocolError
from providers.http.sse import (
    DONE,
    Event,
    Parser,
    StreamEnd,
    encode,
    payloads,
    read_end,
    split_complete,
    split_end,
    split_error,
    without_bom,
    without_usage,
)

# Pieces of streams that matter to a parser, and any bytes at all between them.
WORDS = [
    "data",
    "data:",
    "data: ",
    ":",
    " ",
    "event: x",
    "error",
    "id: 1",
    "[DONE]",
    "\ufeff",
    "é€😀",
]
ENDS = [b"\r", b"\n", b"\r\n", b"\0", b"\xe2\x82", b'{"a": 1}']
PIECES = st.sampled_from(ENDS) | st.sampled_from(WORDS).map(str.encode)
STREAMS = st.lists(PIECES | st.binary(max_size=6), max_size=40).map(b"".join)


def parse(*chunks: bytes, limit: int = 1000) -> list[Event]:
    parser = Parser(limit=limit)
    return [event for chunk in chunks for event in parser.feed(chunk)]


def by_the_letter(stream: bytes) -> list[Event]:
    """The standard's text followed literally on the whole stream: the oracle.

    Lines `error: ...` are what older llama.cpp servers add to it.
    """
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
            elif name == b"error" and value:
                data, kind = data + value + b"\n", b"error"
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
        (b"data: a: b\n\n", [Event(b"a: b")]),
        (b"event: a\nevent: b: c\ndata: a\n\n", [Event(b"a", "b: c")]),
        (b"event: \xff\ndata: a\n\n", [Event(b"a", "\ufffd")]),
        (b"event:\ndata: a\n\n", [Event(b"a")]),
        (b"event: x\ndata: a\n\ndata: b\n\n", [Event(b"a", "x"), Event(b"b")]),
        (b"data: a\nevent: x\n\n", [Event(b"a", "x")]),
        (b"DATA: a\nEvent: x\nid: 1\nretry: 2\nother: 3\n\n", []),
        # As older llama.cpp servers say what went wrong.
        (b"error: boom\n\n", [Event(b"boom", "error")]),
        (b'error: {"a":\nerror: 1}\n\ndata: a\n\n', [Event(b'{"a":\n1}', "error"), Event(b"a")]),
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


@pytest.mark.parametrize(
    ("stream", "size"),
    [
        # What was read of an event and the line that follows, each line with its end.
        (b"data: 1234", 10),
        (b"data: 1234\n", 10),
        (b"data: 1\ndata: 2\n", 9),
        (b"data: 1\ndata: 2\ndata: 3\n", 11),
        (b"error: 12\n", 9),
        (b"error: 12\nerror: 3\n", 11),
        (b"error: 12\nerror: 3\nerror: 4\n", 13),
        (b"event: 12345678901\n", 18),
        (b"\n" * 50, 0),
        (b"data: 12\n\ndata: 34\n\n", 8),
    ],
)
def test_what_counts_towards_the_limit(stream, size):
    Parser(limit=size).feed(stream)
    with pytest.raises(UpstreamProtocolError) as caught:
        Parser(limit=size - 1).feed(stream)
    assert caught.value.message == f"an event of the stream is over {size - 1} bytes"


def test_an_event_has_16_mb_at_most():
    most = b"data: " + b"x" * (16 * 2**20 - 6)
    assert Parser().feed(most) == []
    with pytest.raises(UpstreamProtocolError):
        Parser().feed(most + b"x")


def test_the_first_line_only_may_begin_with_a_mark():
    parser = Parser()
    assert parser.feed(b"\xef\xbb\xbfdata: a\n\n") == [Event(b"a")]
    assert parser.feed(b"\xef\xbb\xbfdata: b\n\n") == []
    assert without_bom(b"\xef\xbb\xbfdata\xef\xbb\xbf") == b"data\xef\xbb\xbf"
    assert without_bom(b"data\xef\xbb\xbf") == b"data\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("data", "event", "encoded"),
    [
        (b"a", None, b"data: a\n\n"),
        (b"", None, b"data: \n\n"),
        (b"a\nb", None, b"data: a\ndata: b\n\n"),
        (b"a\r\nb\rc", None, b"data: a\ndata: b\ndata: c\n\n"),
        (b"a", "error", b"event: error\ndata: a\n\n"),
        (b"a", "\u00fc", b"event: \xc3\xbc\ndata: a\n\n"),
    ],
)
def test_an_event_as_bytes(data, event, encoded):
    assert encode(data, event) == encoded
    assert DONE == b"data: [DONE]\n\n"


# Errors within a stream.

BOOM = b'data: {"error": {"message": "boom"}}'
WORDS_BEFORE = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'


@pytest.mark.parametrize(
    ("before", "error", "data"),
    [
        (b"", BOOM + b"\n\n", b'{"error": {"message": "boom"}}'),
        (WORDS_BEFORE, BOOM + b"\n\n" + WORDS_BEFORE, b'{"error": {"message": "boom"}}'),
        (WORDS_BEFORE * 2, BOOM + b"\n\n" + DONE, b'{"error": {"message": "boom"}}'),
        # The end of the stream may leave out the blank line.
        (WORDS_BEFORE, BOOM, b'{"error": {"message": "boom"}}'),
        (b"data: 1\r\n\r\n", BOOM + b"\r\n\r\n", b'{"error": {"message": "boom"}}'),
        (b"data: 1\r\r", BOOM + b"\r\r", b'{"error": {"message": "boom"}}'),
        (b"", b"event: error\ndata: boom\n\n", b"boom"),
        (b"", b"event:error\ndata: boom\n\n", b"boom"),
        (b"", b"data: boom\nevent: error\n\n", b"boom"),
        (b"data: 1\r\r", b"data: boom\revent: error\r\r", b"boom"),
        (WORDS_BEFORE, b"error: boom\n\n", b"boom"),
        (b"", b'data: {"choices": [{}, {"error": "x"}]}\n\n', b'{"choices": [{}, {"error": "x"}]}'),
        (b"", b'data: [{"error": "x"}]\n\n', b'[{"error": "x"}]'),
        (b"", b'data: {"choices": null, "error": 1}\n\n', b'{"choices": null, "error": 1}'),
    ],
)
def test_an_error_is_split_from_the_events_before_it(before, error, data):
    assert split_error(before + error) == (before, data)


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        WORDS_BEFORE + DONE,
        b'data: {"error": null}\n\n',
        b'data: {"error": ""}\n\n',
        b'data: {"choices": [7, {"error": null}]}\n\n',
        b'data: [{"error": 1}, {"error": 1}]\n\n',
        b'data: "error"\n\n',
        b'data: ["error"]\n\n',
        b'data: {"error": \n\n',
        b'data: {"a": {"error": 1}}\n\n',
        # A text about events is no event.
        b'data: {"choices": [{"delta": {"content": "error: \\"error\\" event: error"}}]}\n\n',
    ],
)
def test_a_stream_without_an_error_is_left_as_it_is(stream):
    assert split_error(stream) == (stream, None)


def test_an_error_after_the_end_is_dropped():
    assert split_error(WORDS_BEFORE + DONE + BOOM + b"\n\n") == (WORDS_BEFORE + DONE, None)
    assert split_error(DONE + WORDS_BEFORE + BOOM) == (DONE + WORDS_BEFORE, None)


@pytest.mark.parametrize(
    ("stream", "before", "error", "ended"),
    [
        (b"", b"", None, False),
        (WORDS_BEFORE, WORDS_BEFORE, None, False),
        (WORDS_BEFORE + DONE, WORDS_BEFORE + DONE, None, True),
        (DONE, DONE, None, True),
        # What follows the end is no part of the answer, whatever it is.
        (WORDS_BEFORE + DONE + WORDS_BEFORE, WORDS_BEFORE + DONE, None, True),
        (WORDS_BEFORE + DONE + BOOM + b"\n\n", WORDS_BEFORE + DONE, None, True),
        (WORDS_BEFORE + DONE + DONE, WORDS_BEFORE + DONE, None, True),
        (b"data:[DONE]\r\n\r\ndata: 1\r\n\r\n", b"data:[DONE]\r\n\r\n", None, True),
        (WORDS_BEFORE + b"data: [DONE]", WORDS_BEFORE + b"data: [DONE]", None, True),
        # An error before it ends the answer first.
        (
            WORDS_BEFORE + BOOM + b"\n\n" + DONE,
            WORDS_BEFORE,
            b'{"error": {"message": "boom"}}',
            False,
        ),
        (WORDS_BEFORE + BOOM, WORDS_BEFORE, b'{"error": {"message": "boom"}}', False),
        # The word alone is no end.
        (b'data: "[DONE]"\n\n' + WORDS_BEFORE, b'data: "[DONE]"\n\n' + WORDS_BEFORE, None, False),
        (b"data: [done]\n\n", b"data: [done]\n\n", None, False),
        (b": [DONE]\n\n" + WORDS_BEFORE, b": [DONE]\n\n" + WORDS_BEFORE, None, False),
    ],
)
def test_where_an_answer_ends(stream, before, error, ended):
    assert split_end(stream) == (before, error, ended)


# Usage that the client did not ask for.

ONLY_USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 1}}\n\n'


@pytest.mark.parametrize(
    ("stream", "kept"),
    [
        (b"", b""),
        (ONLY_USAGE, b""),
        (WORDS_BEFORE + ONLY_USAGE + DONE, WORDS_BEFORE + DONE),
        (WORDS_BEFORE + ONLY_USAGE.replace(b"\n", b"\r\n") + DONE, WORDS_BEFORE + DONE),
        (WORDS_BEFORE + ONLY_USAGE.replace(b"\n", b"\r") + DONE, WORDS_BEFORE + DONE),
        (ONLY_USAGE.replace(b"[]", b"null"), b""),
        (ONLY_USAGE.replace(b'": []', b'" : [ ]'), b""),
        (b": ping\n\n" + ONLY_USAGE, b": ping\n\n"),
        # One that the end of the stream cuts off is not read.
        (ONLY_USAGE.removesuffix(b"\n\n"), ONLY_USAGE.removesuffix(b"\n\n")),
        (WORDS_BEFORE + DONE, WORDS_BEFORE + DONE),
    ],
)
def test_usage_alone_is_left_out(stream, kept):
    assert without_usage(stream) == kept


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"choices": [], "usage": null}\n\n',
        b'data: {"choices": []}\n\n',
        b'data: {"choices": [{}], "x": {"choices": []}, "usage": {"a": 1}}\n\n',
        b'data: {"choices": [], "usage": \n\n',
        b'data: [{"choices": []}]\n\n',
        b': {"choices": []}\n\n',
    ],
)
def test_an_event_with_anything_else_stays(event):
    assert without_usage(event) == event


# The end of a stream, one event at a time.

NOTHING = StreamEnd()


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (b"", NOTHING),
        (b"{}", NOTHING),
        (b"[]", NOTHING),
        (b"not json", NOTHING),
        (b"[DONE]", StreamEnd(done=True)),
        (b'{"model": "m"}', StreamEnd(model="m")),
        (b'{"model": 7, "system_fingerprint": null}', NOTHING),
        (b'{"system_fingerprint": "fp"}', StreamEnd(system_fingerprint="fp")),
        (b'{"choices": [{"finish_reason": "stop"}]}', StreamEnd(finish_reason="stop")),
        (
            b'{"choices": [{"finish_reason": "stop"}, {"finish_reason": "length"}]}',
            StreamEnd(finish_reason="length"),
        ),
        (
            b'{"choices": [{"finish_reason": "stop"}, {"finish_reason": null}, {}]}',
            StreamEnd(finish_reason="stop"),
        ),
        (b'{"choices": [{"finish_reason": 7}]}', NOTHING),
        (b'{"error": {"message": "boom"}}', StreamEnd(error="boom")),
        (b'{"error": {"message": ""}}', StreamEnd(error="{'message': ''}")),
        (b'{"error": {"code": 7}}', StreamEnd(error="{'code': 7}")),
        (b'{"error": "boom"}', StreamEnd(error="boom")),
        (b'{"error": ""}', NOTHING),
        (b'{"error": null}', NOTHING),
    ],
)
def test_what_one_last_event_says(data, end):
    assert read_end(encode(data)) == end
    assert (NOTHING.usage, NOTHING.model, NOTHING.system_fingerprint) == (None, "", "")
    assert (NOTHING.finish_reason, NOTHING.error, NOTHING.done) == ("", "", False)


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (b'event: error\ndata: {"message": "x"}\n\n', '{"message": "x"}'),
        (b'event: error\ndata: {"error": "y"}\n\n', "y"),
        (b'event: error\ndata: {"error": ""}\n\n', '{"error": ""}'),
        (b'event: other\ndata: {"message": "x"}\n\n', ""),
        (b'event: error\ndata: {"message": "\xff"}\n\n', '{"message": "\ufffd"}'),
        (b'error: {"code": 500}\n\n', '{"code": 500}'),
        (b'event: error\ndata: {"error": "first"}\n\ndata: {"error": "second"}\n\n', "second"),
        (b'event: error\ndata: {"error": "first"}\n\ndata: {}\n\n', "first"),
    ],
)
def test_the_error_of_a_stream(stream, error):
    assert read_end(stream).error == error


def test_a_later_event_says_more_and_takes_nothing_back():
    stream = (
        FINISH + b'data: {"model": "m-2", "system_fingerprint": ""}\n\n' + DONE + b"data: {}\n\n"
    )
    assert read_end(stream) == StreamEnd(
        model="m-2", system_fingerprint="fp", finish_reason="stop", done=True
    )


def test_an_event_that_cannot_be_read_hides_no_other():
    assert read_end(b"data: {\n\n" + FINISH + b"data: {\n\n" + DONE) == read_end(FINISH + DONE)


def test_the_end_of_a_stream_does_not_change():
    with pytest.raises(AttributeError):
        NOTHING.done = True
    with pytest.raises(TypeError):
        StreamEnd(None)


def test_what_follows_the_end_is_read_too():
    assert read_end(DONE + FINISH) == read_end(FINISH + DONE)


def test_usage_where_groq_puts_it():
    end = read_end(b'data: {"x_groq": {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}}\n\n')
    assert end.usage is not None
    assert (end.usage.prompt, end.usage.completion) == (3, 4)


def test_a_tail_of_any_length_is_read():
    long = b'data: {"model": "m", "x": "' + b"x" * 1000 + b'"}'
    assert read_end(long).model == "m"


@pytest.mark.parametrize(
    ("data", "complete"),
    [
        (b"data: 1\r\r: ping\r", 9),
        (b"data: 1\n\n: ping", 9),
        (b"data: 1\n\n: ping\ndata: 2\n", 9),
        (b"data: 1\n\n: data\n", 17),
        (b"data: 1\n\ndata: 2\r\n\r\ndata", 20),
        (b"data: 1\r\n\r\ndata: 2\n\ndata", 20),
        (b"data: 1\r\rdata: 2\n\nda", 18),
        (b"data: 1\n\ndata: 2\n\nda", 18),
    ],
)
def test_where_the_last_complete_event_ends(data, complete):
    assert split_complete(data) == (data[:complete], data[complete:])


@pytest.mark.parametrize(
    ("events", "datas"),
    [
        (b"", []),
        (b": keep-alive\n\n", []),
        (b"data: a\n\n", [b"a"]),
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data:a\n\n", [b"a"]),
        (b"data: a\n\n\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data: a\n\nid: 1\ndata: b\n\n", [b"a", b"b"]),
        (b"event: message\ndata: a\n\nevent: ping\ndata: b\n\ndata: c\n\n", [b"a", b"c"]),
        (b"data: a\n\n: keep-alive\n\ndata: b\n\n", [b"a", b"b"]),
    ],
)
def test_payloads_of_complete_events(events, datas):
    assert payloads(events) == datas
