"""Whole answers of hosts: what a large one may cost, and what of it is read."""

import tracemalloc

import pytest

from providers.errors import UpstreamProtocolError, UpstreamStatusError
from router.gateway.answer_checks import events_of, whole
from router.records import Target

TARGET = Target("host", "m")
CHAT, EMBEDDINGS = "chat/completions", "embeddings"
CHOICE = b'{"index":0,"message":{"role":"assistant","content":"yes"},"finish_reason":"stop"}'
VECTOR = b'{"object":"embedding","index":0,"embedding":[0.5]}'
TEXT = b'"%b"' % (b"a" * 100_000)


def peak_of(work, *arguments):
    tracemalloc.start()
    try:
        work(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("path", "head"),
    [(CHAT, b'{"choices":[%b,' % CHOICE), (EMBEDDINGS, b'{"data":[%b,' % VECTOR)],
)
def test_a_million_items_are_not_decoded(path, head):
    body = head + b"{}," * 1_000_000 + b'{}],"usage":null}'
    assert whole(body, path, TARGET) is body
    # 16 MB of empty objects at the very least.
    assert peak_of(whole, body, path, TARGET) < 1_000_000


LARGE = {
    "a choice": (CHAT, b'{"x":%b,"choices":[%b]}' % (TEXT, CHOICE), None),
    "a vector": (EMBEDDINGS, b'{"x":%b,"data":[%b]}' % (TEXT, VECTOR), None),
    "an empty choice": (CHAT, b'{"x":%b,"choices":[{}]}' % TEXT, "first choice is empty"),
    "no vector": (EMBEDDINGS, b'{"x":%b,"data":[{}]}' % TEXT, "first vector is missing"),
    "no choices": (CHAT, b'{"x":%b,"choices":[]}' % TEXT, "no choices"),
    "null": (CHAT, b'{"x":%b,"choices":null}' % TEXT, "no choices"),
    "no data": (EMBEDDINGS, b'{"x":%b}' % TEXT, "no data"),
    "a number": (CHAT, b'{"x":%b,"choices":[7]}' % TEXT, "not a completion"),
    "a number at last": (CHAT, b'{"x":%b,"choices":[%b,7]}' % (TEXT, CHOICE), "not a completion"),
    "an object": (CHAT, b'{"x":%b,"choices":{}}' % TEXT, "not a completion"),
    "half": (CHAT, b'{"choices":[%b],"x":%b' % (CHOICE, TEXT), "not a completion"),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_answer_is_checked_as_a_small_one(name):
    path, large, message = LARGE[name]
    for body in (large, large.replace(TEXT, b'"a"')):
        if message is None:
            assert whole(body, path, TARGET) is body
            continue
        with pytest.raises(UpstreamProtocolError, match=message):
            whole(body, path, TARGET)


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"message":"no"},"x":%b}' % TEXT,
        b'{"choices":[{"error":{"message":"no"},"x":%b}]}' % TEXT,
    ],
)
def test_an_error_in_a_large_answer_is_one(body):
    with pytest.raises(UpstreamStatusError, match="error in status 200"):
        whole(body, CHAT, TARGET)


def test_millions_of_values_are_not_unfolded_into_events():
    body = b'{"choices":[%b],"x":[%b[]]}' % (CHOICE, b"[]," * 1_000_000)
    assert whole(body, CHAT, TARGET) is body
    with pytest.raises(UpstreamProtocolError, match="cannot be read"):
        events_of(body, CHAT, TARGET)
