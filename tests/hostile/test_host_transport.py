"""Hosts that break HTTP, one row per fault: what the client gets, what the record says, whether a
retry and a fallback happened. Every body's fault in every framing it can have, whole and streamed.
"""

import asyncio
import gzip
import json
import re
import threading
import time
import zlib
from contextlib import ExitStack

import brotli
import pytest
import uvloop
from raw_host import (
    CLOSE,
    FRAMINGS,
    HOLD,
    READ,
    RESET,
    Repeat,
    Split,
    Wait,
    answer,
    by_model,
    chat,
    chat_stream,
    config,
    framed,
    raw_host,
    stream,
)
from servers import gateway

from providers.errors import UpstreamProtocolError
from providers.http.transport import HttpLimits, Transport

try:
    from compression import zstd
except ImportError:
    from backports import zstd

JSON = b"content-type: application/json\r\n"
SSE = b"content-type: text/event-stream\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
BODY = chat()
LENGTH = b"content-length: %d\r\n" % len(BODY)
EVENTS = chat_stream(usage=False)
INVALID, UNREACHABLE = "upstream_invalid_response", "upstream_unreachable"
TOO_LARGE = "upstream_answer_too_large"
MAX_ANSWER = 1_000_000

# Before the body: name to the bytes that stand for the answer. None is an answer.
HEADS = {
    "status-600": [b"HTTP/1.1 600 X\r\n" + LENGTH + b"\r\n" + BODY],
    "status-999": [b"HTTP/1.1 999 X\r\n" + LENGTH + b"\r\n" + BODY],
    "status-000": [b"HTTP/1.1 000 X\r\n" + LENGTH + b"\r\n" + BODY],
    "status-099": [b"HTTP/1.1 099 X\r\n" + LENGTH + b"\r\n" + BODY],
    "status-1000": [b"HTTP/1.1 1000 X\r\n" + LENGTH + b"\r\n" + BODY],
    "status-minus": [b"HTTP/1.1 -200 X\r\n" + LENGTH + b"\r\n" + BODY],
    "status-101": [b"HTTP/1.1 101 X\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n" + BODY],
    "status-204": [b"HTTP/1.1 204 No Content\r\n\r\n"],
    "status-205": [b"HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n"],
    "status-206": [b"HTTP/1.1 206 Partial Content\r\n" + LENGTH + b"\r\n" + BODY],
    "status-301": [
        b"HTTP/1.1 301 X\r\nlocation: http://127.0.0.1:1/\r\n" + LENGTH + b"\r\n" + BODY
    ],
    "status-302": [b"HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n"],
    "status-304": [b"HTTP/1.1 304 Not Modified\r\n\r\n"],
    "interim-storm": [Repeat(b"HTTP/1.1 102 Processing\r\n\r\n")],
    "interim-storm-bare": [Repeat(b"HTTP/1.1 100\r\n\r\n")],
    "garbage": [b"\x16\x03\x01\x02\x00\x01", CLOSE],
    "garbage-endless": [Repeat(b"\x00")],
    "line-ends-endless": [Repeat(b"\r\n")],
    "http-0.9": [BODY, CLOSE],
    "rtsp": [b"RTSP/1.0 200 OK\r\n" + LENGTH + b"\r\n" + BODY],
    "ice": [b"ICE/1.0 200 OK\r\n" + LENGTH + b"\r\n" + BODY],
    "http-2-preface": [b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", CLOSE],
    "reason-endless": [b"HTTP/1.1 200 ", Repeat(b"O")],
    "header-name-endless": [OK, Repeat(b"x")],
    "header-value-endless": [OK + b"x: ", Repeat(b"y")],
    "headers-endless": [OK, Repeat(b"a:\r\n")],
    "headers-large": [OK + b"x-flood: y\r\n" * 10_000 + LENGTH + b"\r\n" + BODY],
    "length-negative": [OK + b"content-length: -1\r\n\r\n" + BODY],
    "length-2^63": [OK + b"content-length: 9223372036854775808\r\n\r\n" + BODY],
    "length-2^64-1": [OK + b"content-length: 18446744073709551615\r\n\r\n" + BODY],
    "length-2^64": [OK + b"content-length: 18446744073709551616\r\n\r\n" + BODY],
    "length-word": [OK + b"content-length: ten\r\n\r\n" + BODY],
    "length-empty": [OK + b"content-length: \r\n\r\n" + BODY],
    "length-plus": [OK + b"content-length: +%d\r\n\r\n" % len(BODY) + BODY],
    "length-twice": [OK + LENGTH + b"content-length: 1\r\n\r\n" + BODY],
    "length-list": [OK + b"content-length: 2, 3\r\n\r\n" + BODY],
    "length-and-chunked": [OK + LENGTH + b"transfer-encoding: chunked\r\n\r\n" + BODY],
    "chunked-and-length": [OK + b"transfer-encoding: chunked\r\n" + LENGTH + b"\r\n" + BODY],
    "coding-gzip-chunked": [OK + b"transfer-encoding: gzip, chunked\r\n\r\n", b"0\r\n\r\n"],
    "coding-two-lines": [
        OK + b"transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    ],
    "coding-unknown": [OK + b"transfer-encoding: xchunked\r\n\r\n" + BODY, CLOSE],
    "nul-in-value": [OK + b"x: a\x00b\r\n" + LENGTH + b"\r\n" + BODY],
    "cr-in-value": [OK + b"x: a\rset-cookie: b\r\n" + LENGTH + b"\r\n" + BODY],
    "lf-in-value": [OK + b"x: a\nset-cookie: b\r\n" + LENGTH + b"\r\n" + BODY],
    "folded-value": [OK + b"x: a\r\n b\r\n" + LENGTH + b"\r\n" + BODY],
    "space-before-colon": [OK + b"x : a\r\n" + LENGTH + b"\r\n" + BODY],
    "name-empty": [OK + b": a\r\n" + LENGTH + b"\r\n" + BODY],
    "name-not-ascii": [OK + "ü: a\r\n".encode() + LENGTH + b"\r\n" + BODY],
    "coding-not-known": [OK + b"content-encoding: compress\r\n" + LENGTH + b"\r\n" + BODY],
    "codings-many": [OK + b"content-encoding: gzip\r\n" * 3 + LENGTH + b"\r\n" + BODY],
}
# The connection ends before there is an answer.
LOST = {
    "nothing": [CLOSE],
    "reset": [RESET],
    "half-a-status-line": [b"HTTP/1.1 200 O", CLOSE],
    "half-a-head": [OK + JSON, CLOSE],
    "reset-in-the-head": [OK + JSON, Wait(0.01), RESET],
    "interim-only": [b"HTTP/1.1 100 Continue\r\n\r\n", CLOSE],
}

CHUNKED = b"transfer-encoding: chunked\r\n\r\n"


def in_chunks(*parts):
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


def body_faults(head, parts, *pause):
    """Faults of a body whose head and parts these are: name to steps. After the first part, which
    is good, comes the pause.
    """
    first, rest = parts[0], b"".join(parts[1:])
    size = len(first) + len(rest)
    begun = [head + CHUNKED + in_chunks(first), *pause]
    return {
        "length-cut": [head + b"content-length: %d\r\n\r\n" % size + first, *pause, CLOSE],
        "length-reset": [
            head + b"content-length: %d\r\n\r\n" % size + first,
            *(pause or [Wait(0.01)]),
            RESET,
        ],
        "length-huge-cut": [
            head + b"content-length: 999999999999999\r\n\r\n" + first,
            *pause,
            CLOSE,
        ],
        "close-reset": [head + b"\r\n" + first, *(pause or [Wait(0.01)]), RESET],
        "chunked-cut-in-chunk": [*begun, b"ff\r\nab", CLOSE],
        "chunked-cut-in-size": [*begun, b"f", CLOSE],
        "chunked-no-last-chunk": [*begun, in_chunks(rest), CLOSE],
        "chunked-no-last-line": [*begun, in_chunks(rest) + b"0\r\n", CLOSE],
        "chunked-reset": [*begun, *([] if pause else [Wait(0.01)]), RESET],
        "chunked-size-word": [*begun, b"zz\r\n"],
        "chunked-size-negative": [*begun, b"-1\r\n"],
        "chunked-size-overflow": [*begun, b"fffffffffffffffff\r\n"],
        "chunked-size-endless": [*begun, Repeat(b"0")],
        "chunked-longer-than-its-size": [*begun, b"1\r\nabc\r\n"],
        "chunked-bare-lf": [*begun, b"1\na\n0\n\n"],
        "chunked-extension-endless": [*begun, b"1;", Repeat(b"x")],
        "chunked-extensions-large": [*begun, Repeat(b"1;" + b"x" * 60_000 + b"\r\n \r\n")],
        "trailers-endless": [*begun, b"0\r\n", Repeat(b"a:\r\n")],
        "trailer-name-endless": [*begun, b"0\r\n", Repeat(b"a")],
        "trailer-value-endless": [*begun, b"0\r\na: ", Repeat(b"a")],
        "trailer-bad": [*begun, b"0\r\na b: c\r\n\r\n"],
    }


def coded(body, coding, *, name=None, framing="length", head=JSON):
    encode = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "raw": lambda data: zlib.compress(data, wbits=-15),
        "br": brotli.compress,
        "zstd": zstd.compress,
    }[coding]
    name = name or {"raw": "deflate"}.get(coding, coding)
    return framed(encode(body), framing, headers=head + f"content-encoding: {name}\r\n".encode())


def flushed(coding, events):
    """The events in a coding, flushed after each: one piece for each, and one for the end."""
    if coding == "br":
        encoder = brotli.Compressor()
        return [*(encoder.process(e) + encoder.flush() for e in events), encoder.finish()]
    if coding == "zstd":
        encoder = zstd.ZstdCompressor()
        pieces = [encoder.compress(e, zstd.ZstdCompressor.FLUSH_BLOCK) for e in events]
        return [*pieces, encoder.flush()]
    encoder = zlib.compressobj(wbits={"gzip": 31, "deflate": 15, "raw": -15}[coding])
    pieces = [encoder.compress(e) + encoder.flush(zlib.Z_SYNC_FLUSH) for e in events]
    return [*pieces, encoder.flush()]


FLUSHED = {coding: flushed(coding, EVENTS[:3]) for coding in ("gzip", "deflate", "br", "zstd")}

WHOLE_FAULTS = {
    **body_faults(OK + JSON, [BODY[:50], BODY[50:]]),
    **{
        f"{framing}-large": [
            {
                "length": OK + JSON + b"content-length: 999999999\r\n\r\n",
                "chunked": OK + JSON + CHUNKED,
                "close": OK + JSON + b"\r\n",
            }[framing],
            Repeat(in_chunks(b" " * 100) if framing == "chunked" else b" "),
        ]
        for framing in FRAMINGS
    },
    "length-large-said": [OK + JSON + b"content-length: 100000000000000000\r\n\r\n{", HOLD],
    **{
        f"{coding}-bomb": coded(b" " * 5 * MAX_ANSWER, coding)
        for coding in ("gzip", "deflate", "raw", "br", "zstd")
    },
    "gzip-in-gzip-bomb": coded(gzip.compress(b" " * 5 * MAX_ANSWER), "gzip", name="gzip, gzip"),
    **{
        f"{coding}-that-is-not": framed(
            BODY, headers=JSON + f"content-encoding: {coding}\r\n".encode()
        )
        for coding in ("gzip", "deflate", "br", "zstd")
    },
    **{
        f"{coding}-cut": framed(
            encode(BODY)[:-5], headers=JSON + f"content-encoding: {coding}\r\n".encode()
        )
        for coding, encode in (
            ("gzip", gzip.compress),
            ("deflate", zlib.compress),
            ("br", brotli.compress),
            ("zstd", zstd.compress),
        )
    },
    "deflate-and-more": framed(
        zlib.compress(BODY) + b"more", headers=JSON + b"content-encoding: deflate\r\n"
    ),
    "zstd-window": framed(
        # A frame whose header has a window of 2 GB.
        b"\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00",
        headers=JSON + b"content-encoding: zstd\r\n",
    ),
}
# Set by a test when the first event has come.
GO_ON = threading.Event()
STREAM_FAULTS = {
    **body_faults(OK + SSE, EVENTS[:3], Wait(GO_ON)),
    **{
        f"{coding}-{what}": [
            OK + SSE + b"content-encoding: %b\r\n" % coding.encode() + CHUNKED,
            in_chunks(first),
            Wait(GO_ON),
            in_chunks(rest) + b"0\r\n\r\n",
        ]
        for coding, pieces in FLUSHED.items()
        for first, what, rest in [
            (pieces[0], "cut", pieces[1]),
            (pieces[0], "garbage", b"\xff" * 100),
        ]
    },
}

TOO_LONG = {*(f"{framing}-large" for framing in FRAMINGS), "length-large-said", "length-huge-cut"}
FAILURES = {
    **{name: (steps, INVALID) for name, steps in HEADS.items()},
    **{name: (steps, UNREACHABLE) for name, steps in LOST.items()},
    **{
        name: (steps, TOO_LARGE if name in TOO_LONG or name.endswith("-bomb") else INVALID)
        for name, steps in WHOLE_FAULTS.items()
    },
}


def route_of(name):
    return re.sub(r"[^A-Za-z0-9.-]", "-", name)


def model_of(name):
    return "m-" + route_of(name)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A gateway before a host that has every fault under a model's name of its own."""
    scripts = {"good": [answer()], "good-stream": [stream(*EVENTS)]}
    routes = {}
    tables = (("", FAILURES, answer()), ("s-", {n: (s, "") for n, s in STREAM_FAULTS.items()}, []))
    for prefix, table, good in tables:
        for name, (steps, _) in table.items():
            model = prefix + model_of(name)
            scripts[f"{model}-always"] = [steps]
            scripts[f"{model}-once"] = [steps, good]
            routes[f"{model}-single"] = (f"up/{model}-always", 1, "")
            routes[f"{model}-retry"] = (f"up/{model}-once", 2, "")
            routes[f"{model}-fallback"] = (f"up/{model}-always", 1, "up/good")
    with raw_host(by_model(scripts)) as host:
        settings = {
            "server": {"port": 0},
            "storage": {"database": f"sqlite:///{tmp_path_factory.mktemp('db')}/e.db"},
            "http": {"max_answer_bytes": MAX_ANSWER},
            "providers": {"up": {"kind": "compatible", "base_url": host.url}},
            "routes": {
                name: {
                    "targets": [{"model": target}],
                    "retries": {"attempts": attempts, "backoff": 0.001, "backoff_max": 0.002},
                    "fallback": [fallback] if fallback else [],
                }
                for name, (target, attempts, fallback) in routes.items()
            },
        }
        with gateway(json.dumps(settings)) as url:
            yield url


def post(http, url, model, **fields):
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}
    return http.post(f"{url}/v1/chat/completions", json=body)


def content_of(reply):
    """Return the text of a chat completion, whole or streamed."""
    if reply.headers["content-type"] == "application/json":
        return reply.json()["choices"][0]["message"]["content"]
    events = reply.text.removesuffix("data: [DONE]\n\n").split("\n\n")
    deltas = [json.loads(one.removeprefix("data: "))["choices"] for one in events if one]
    return "".join(one[0]["delta"].get("content") or "" for one in deltas if one)


def record(http, url, reply):
    """The record of an answer's request, once it has been written."""
    for _ in range(500):
        found = http.get(f"{url}/traffic/{reply.headers['x-request-id']}")
        if found.status_code == 200:
            return found.json()
        time.sleep(0.01)
    raise AssertionError("the request was not recorded")


@pytest.mark.parametrize("name", FAILURES)
def test_what_is_no_answer_is_a_failed_attempt(http, url, name):
    code = FAILURES[name][1]
    reply = post(http, url, f"{model_of(name)}-single")
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, code)
    assert "127.0.0.1" not in reply.text
    kept = record(http, url, reply)
    assert (kept["status"], kept["error_code"]) == (502, code)
    assert [one["result"] for one in kept["attempts"]] == [code]

    reply = post(http, url, f"{model_of(name)}-retry")
    if code == TOO_LARGE:
        # It would be as long the next time.
        assert [one["result"] for one in record(http, url, reply)["attempts"]] == [code]
    else:
        assert reply.json()["choices"][0]["message"]["content"] == "Hello"
        attempts = reply.headers["x-evalrouter-attempts"].split(", ")
        assert [one.split()[1] for one in attempts] == [code, "ok"]

    stream = name in HEADS
    reply = post(http, url, f"{model_of(name)}-fallback", stream=stream)
    assert content_of(reply) == "Hello"
    assert reply.headers["content-type"] == ("text/event-stream" if stream else "application/json")
    assert reply.headers["x-evalrouter-target"] == "up/good"


@pytest.mark.parametrize("name", STREAM_FAULTS)
def test_a_stream_that_breaks_ends_with_an_error_event(http, url, name):
    GO_ON.clear()
    body = {"model": f"s-{model_of(name)}-single", "messages": [], "stream": True}
    with http.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
        assert reply.status_code == 200
        chunks = reply.iter_bytes()
        content = next(chunks)
        assert content == EVENTS[0]
        GO_ON.set()
        content += b"".join(chunks)
    assert b"[DONE]" not in content
    last = json.loads(content.removesuffix(b"\n\n").split(b"\n\n")[-1].removeprefix(b"data: "))
    assert last["error"]["code"] == INVALID
    assert record(http, url, reply)["error_code"] == INVALID


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw", "br", "zstd"])
def test_every_coding_is_decoded_whole_and_event_by_event(http, tmp_path, coding, framing):
    go_on = threading.Event()
    pieces = flushed(coding, EVENTS)
    name = {"raw": "deflate"}.get(coding, coding)
    steps = framed(pieces, framing, headers=SSE + f"content-encoding: {name}\r\n".encode())
    scripts = {
        "m": [coded(BODY, coding, framing=framing)],
        "s": [[*steps[:2], Wait(go_on), *steps[2:]]],
    }
    with raw_host(by_model(scripts)) as host, gateway(config(host.url, tmp_path)) as url:
        for _ in range(2):
            reply = post(http, url, "up/m")
            assert reply.content == BODY
            assert "content-encoding" not in reply.headers
        assert host.requests[0].headers["accept-encoding"] == "identity"
        body = {"model": "up/s", "messages": [], "stream": True}
        with http.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
            chunks = reply.iter_bytes()
            content = next(chunks)
            # The first event is here before the host has sent the second.
            assert content == EVENTS[0]
            go_on.set()
            content += b"".join(chunks)
        assert content == b"".join(EVENTS)


# Answers that are odd and good: steps, and the number of connections that three requests take.
ODD = {
    "header-names": [b"HTTP/1.1 200 OK\r\nCONTENT-TYPE: application/json\r\nCoNtEnT-LeNgTh: ", 1],
    "http-1.0": [b"HTTP/1.0 200 OK\r\n" + JSON + LENGTH + b"\r\n" + BODY, 3],
    "http-1.0-until-close": [b"HTTP/1.0 200 OK\r\n" + JSON + b"\r\n" + BODY, 3],
    "http-1.0-keep-alive": [
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n" + JSON + LENGTH + b"\r\n" + BODY,
        1,
    ],
    "interim": [
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
        + OK
        + JSON
        + LENGTH
        + b"\r\n"
        + BODY,
        1,
    ],
    "line-ends-first": [b"\r\n\r\n" + OK + JSON + LENGTH + b"\r\n" + BODY, 1],
    "no-reason": [b"HTTP/1.1 200\r\n" + JSON + LENGTH + b"\r\n" + BODY, 1],
    "extensions": [OK + JSON + CHUNKED + b"%x;a=b;c\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n", 1],
    "trailers": [
        OK + JSON + CHUNKED + in_chunks(BODY) + b"0\r\ncontent-type: text/html\r\nx: y\r\n\r\n",
        1,
    ],
    "said-close-and-more": [
        OK + b"connection: close\r\n" + JSON + LENGTH + b"\r\n" + BODY + b"HTTP/1.1 500 X\r\n",
        3,
    ],
    "more-garbage": [OK + JSON + LENGTH + b"\r\n" + BODY + b"garbage", 3],
    "more-half-a-head": [OK + JSON + LENGTH + b"\r\n" + BODY + b"HTTP/1.1 5", 3],
    "more-half-a-head-chunked": [
        OK + JSON + CHUNKED + in_chunks(BODY) + b"0\r\n\r\nHTTP/1.1 500 X\r\n",
        3,
    ],
    "more-a-whole-answer": [
        OK + JSON + LENGTH + b"\r\n" + BODY + b"HTTP/1.1 500 X\r\ncontent-length: 2\r\n\r\n{}",
        3,
    ],
    "more-many-answers": [
        OK + JSON + LENGTH + b"\r\n" + BODY + b"HTTP/1.1 100\r\n\r\n" * 10_000,
        3,
    ],
    "more-after-chunks": [
        OK + JSON + CHUNKED + in_chunks(BODY) + b"0\r\n\r\n" + b"HTTP/1.1 100\r\n\r\n" * 10_000,
        3,
    ],
    "value-not-ascii": [
        OK + b"content-type: application/json; x=\xe9\xff\x80\r\n" + LENGTH + b"\r\n" + BODY,
        1,
    ],
    "value-not-latin": [
        OK + "content-type: application/json; x=ü嘊嘍\r\n".encode() + LENGTH + b"\r\n" + BODY,
        1,
    ],
    "identity": [OK + b"content-encoding: identity\r\n" + JSON + LENGTH + b"\r\n" + BODY, 1],
    "coding-empty": [OK + b"content-encoding: \r\n" + JSON + LENGTH + b"\r\n" + BODY, 1],
    "lines-of-one-header": [
        OK
        + b"content-encoding: gzip\r\ncontent-encoding: gzip\r\n"
        + JSON
        + b"content-length: %d\r\n\r\n" % len(gzip.compress(gzip.compress(BODY)))
        + gzip.compress(gzip.compress(BODY)),
        1,
    ],
    "gzip-members": [
        OK
        + b"content-encoding: X-GZip\r\n"
        + JSON
        + CHUNKED
        + in_chunks(gzip.compress(BODY[:20]), gzip.compress(BODY[20:]) + b"\0\0\0")
        + b"0\r\n\r\n",
        1,
    ],
}
ODD["header-names"][0] += b"%d\r\n\r\n" % len(BODY) + BODY


# Sent at once or byte by byte. What comes long after an answer meets a connection in use again.
ODD_ROWS = [*((name, 0) for name in ODD), *((name, 1) for name in ODD if "more" not in name)]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A gateway with a host for each row: its URL, and the hosts by row."""
    hosts = {}
    with ExitStack() as stack:
        for name, pieces in ODD_ROWS:
            data = ODD[name][0]
            send = Split(data, pieces, 0) if pieces else data
            ends = [CLOSE] if name.startswith("http-1.0-until") else []
            hosts[name, pieces] = stack.enter_context(raw_host([READ, send, *ends]))
        settings = {
            "server": {"port": 0},
            "storage": {"database": f"sqlite:///{tmp_path_factory.mktemp('db')}/e.db"},
            "providers": {
                f"p{number}": {"kind": "compatible", "base_url": host.url}
                for number, host in enumerate(hosts.values())
            },
            "routes": {
                f"{name}.{pieces}": {
                    "targets": [{"model": f"p{number}/m"}],
                    "retries": {"attempts": 1},
                }
                for number, (name, pieces) in enumerate(hosts)
            },
        }
        yield stack.enter_context(gateway(json.dumps(settings))), hosts


@pytest.mark.parametrize(("name", "pieces"), ODD_ROWS)
def test_an_odd_answer_is_an_answer_and_spoils_no_other(http, odd, name, pieces):
    url, hosts = odd
    host = hosts[name, pieces]
    for _ in range(3):
        reply = post(http, url, f"{name}.{pieces}")
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["content"] == "Hello"
        assert "set-cookie" not in reply.headers
        assert "content-encoding" not in reply.headers
        assert reply.headers["content-type"].isascii()
        assert reply.headers["content-type"].startswith("application/json")
    assert len(host.connections) == ODD[name][1] or pieces
    assert len(host.requests) == 3


@pytest.mark.parametrize(
    "kind", ["Text/Event-Stream", "TEXT/EVENT-STREAM; Charset=UTF-8", "text/event-stream ;x=y"]
)
def test_a_stream_is_one_in_any_case(http, tmp_path, kind):
    go_on = threading.Event()
    first, *rest = EVENTS
    script = stream(first, b"".join(rest), headers=f"Content-Type: {kind}\r\n".encode())
    steps = [READ, *script[:2], Wait(go_on), *script[2:]]
    with raw_host(steps) as host, gateway(config(host.url, tmp_path)) as url:
        body = {"model": "up/s", "messages": [], "stream": True}
        with http.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
            assert reply.headers["content-type"].startswith("text/event-stream")
            chunks = reply.iter_bytes()
            content = next(chunks)
            assert content == first
            go_on.set()
            content += b"".join(chunks)
    assert content == b"".join(EVENTS)


def test_an_answer_of_many_pieces_is_whole(http, tmp_path):
    text = "word " * 100_000
    steps = answer(chat(text), "chunked")
    body = chat(text)
    pieces = in_chunks(*(body[n : n + 3] for n in range(0, len(body), 3)))
    scripts = {
        "once": [answer(body)],
        "three": [[OK + JSON + CHUNKED + pieces + b"0\r\n\r\n"]],
        "one": [[OK + JSON + CHUNKED, Split(in_chunks(body), 4096, 0), b"0\r\n\r\n"]],
        "chunked": [steps],
        "close": [answer(body, "close")],
    }
    with raw_host(by_model(scripts)) as host, gateway(config(host.url, tmp_path)) as url:
        for _ in range(2):
            for name in scripts:
                assert post(http, url, f"up/{name}").content == body, name
        # Only what ends with its connection costs one.
        assert len(host.connections) == 2


async def turns_while(work):
    """The result of a coroutine and the event loop's turns until then, in which others run."""
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.create_task(count())
    try:
        return await work, turns
    finally:
        counter.cancel()


async def fetch(transport, host):
    """The pieces of an answer, as they are handed on."""
    reply = await transport.request(
        "POST", f"{host.url}/x", provider="up", headers={}, body=b"{}", connect_timeout=5.0
    )
    try:
        return [piece async for piece in reply.chunks()]
    finally:
        await reply.aclose()


@pytest.fixture
async def transport():
    one = Transport(HttpLimits())
    await one.open()
    yield one
    await one.close()


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_many_small_chunks_leave_others_their_turns(transport, size):
    count = 2_000_000 // (size + 5)
    steps = [READ, OK + CHUNKED, Repeat(in_chunks(b"x" * size), count), b"0\r\n\r\n"]
    with raw_host(steps) as host:
        pieces, turns = await turns_while(fetch(transport, host))
    assert sum(map(len, pieces)) == count * size
    # Of chunks of a byte, a slice has 2,731.
    assert turns > count / 3500


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw", "br", "zstd"])
async def test_what_expands_leaves_others_their_turns(transport, coding):
    size = 50_000_000
    with raw_host([READ, *coded(b" " * size, coding)]) as host:
        pieces, turns = await turns_while(fetch(transport, host))
    assert sum(map(len, pieces)) == size
    assert max(map(len, pieces)) < 300_000
    assert turns > size / 600_000


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("rest", [b"a:\r\n", b"a", b"\r\n"], ids=["headers", "name", "line-ends"])
def test_what_follows_a_body_for_ever_ends(loop, rest):
    async def play():
        one = Transport(HttpLimits())
        await one.open()
        try:
            await fetch(one, host)
        except UpstreamProtocolError:
            return "refused"
        finally:
            await one.close()
        return "over"

    steps = [READ, OK + CHUNKED + in_chunks(b"{}") + b"0\r\n", Repeat(rest)]
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with raw_host(steps) as host, asyncio.Runner(loop_factory=factory) as runner:
        # Line ends are the end of the trailers, and bytes after the answer.
        assert runner.run(play()) == ("over" if rest == b"\r\n" else "refused")
