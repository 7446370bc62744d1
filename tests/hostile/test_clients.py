"""What clients may send, and what they get: a table of requests, odd, malformed and hostile.

Each row is sent over a raw socket. While its connection is open, another client must be answered.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any, NamedTuple

import pytest
from raw_client import RawClient, chat, request
from servers import gateway, scripted

MAX_BODY = 200_000
CHAT = "/v1/chat/completions"
MODELS: dict[str, list[dict[str, Any]]] = {
    "echo": [{}],
    "stream": [{"answer": "one two three", "chunks": 3}],
    "slow": [{"answer": "late", "delay_s": 0.3}],
}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    database = tmp_path_factory.mktemp("db") / "e.db"
    with (
        scripted(MODELS) as upstream,
        gateway(f"""
server: {{port: 0, max_body_bytes: {MAX_BODY}}}
storage: {{database: "sqlite:///{database}"}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}
""") as url,
    ):
        yield url


class Row(NamedTuple):
    """A case.

    Attributes:
        name: what it is about.
        sent: pieces, each sent by itself.
        responses: in order, each a status, with the error's code where it is an error's.
        open: whether the connection takes another request afterwards; else it ends without a reset.
    """

    name: str
    sent: tuple[bytes, ...]
    responses: tuple[tuple[int, str | None], ...]
    open: bool


OK = (200, None)
GOOD = chat("up/echo", "over here")
UPGRADE = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABk")
LIVE = request()


def refused(name: str, status: int, code: str, *sent: bytes) -> Row:
    """One error, and the end of the connection."""
    return Row(name, sent, ((status, code),), open=False)


def post(*headers: str, body: bytes = GOOD, **rest: Any) -> bytes:
    return request("POST", CHAT, *headers, body=body, **rest)


def head(*lines: str, first: str = f"POST {CHAT} HTTP/1.1") -> bytes:
    return "\r\n".join((first, *lines)).encode("latin-1") + b"\r\n\r\n"


def bytewise(data: bytes) -> tuple[bytes, ...]:
    return tuple(data[n : n + 1] for n in range(len(data)))


TINY = head("host: localhost", "transfer-encoding: chunked")
WEBSOCKET = (
    "connection: Upgrade",
    "upgrade: websocket",
    "sec-websocket-version: 13",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
)

ROWS = [
    # Upgrades are ignored, whatever they are to, and the body belongs to the request.
    Row("upgrade h2c", (post(*UPGRADE),), (OK,), open=True),
    Row("upgrade h2c, byte by byte", bytewise(post(*UPGRADE)), (OK,), open=True),
    Row("upgrade h2c, head and body apart", (post(*UPGRADE)[:-9], GOOD[-9:]), (OK,), open=True),
    Row("upgrade h2c, chunked", (post(*UPGRADE, chunks=[GOOD[:9], GOOD[9:]]),), (OK,), open=True),
    Row("upgrade h2c, pipelined", (post(*UPGRADE) * 3 + LIVE,), (OK,) * 4, open=True),
    Row(
        "upgrade h2c with a request for a body",
        (post(*UPGRADE, body=request("GET", "/health/live")),),
        ((400, "bad_json"),),
        open=True,
    ),
    Row("upgrade h2c, GET", (request("GET", "/health/live", *UPGRADE),), (OK,), open=True),
    Row(
        "upgrade in two Connection headers",
        (post("connection: keep-alive", "connection: upgrade", "upgrade: TLS/1.0, foo/2"),),
        (OK,),
        open=True,
    ),
    Row(
        "upgrade to websocket by POST",
        (post("connection: upgrade", "upgrade: websocket"),),
        (OK,),
        True,
    ),
    Row("upgrade without Connection", (post("upgrade: h2c"),), (OK,), open=True),
    Row(
        "upgrade and close",
        (post("connection: upgrade, close", "upgrade: h2c"),),
        (OK,),
        open=False,
    ),
    *(
        refused(
            f"websocket on {path}", 400, "websocket_unsupported", request("GET", path, *WEBSOCKET)
        )
        for path in (CHAT, "/v1/models", "/health/live", "/", "/no/such/path", "/eval/x/events")
    ),
    refused(
        "CONNECT", 405, "method_not_allowed", head("host: a:443", first="CONNECT a:443 HTTP/1.1")
    ),
    refused(
        "HTTP/2 with prior knowledge",
        505,
        "http_version_not_supported",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    ),
    refused("HTTP/2.0", 505, "http_version_not_supported", request(version="2.0")),
    refused("HTTP/0.9", 505, "http_version_not_supported", b"GET /health/live\r\n\r\n"),
    refused("HTTP/1.2", 400, "malformed_request", request(version="1.2")),
    # Sizes.
    refused("Content-Length too large", 413, "body_too_large", post(body=b"x" * (MAX_BODY + 1))),
    refused(
        "Content-Length too large, nothing sent",
        413,
        "body_too_large",
        head("host: localhost", "content-length: 9999999999"),
    ),
    refused(
        "Content-Length too large before 100 Continue",
        413,
        "body_too_large",
        head("host: localhost", "expect: 100-continue", "content-length: 9999999999"),
    ),
    refused(
        "chunked body that grows too large",
        413,
        "body_too_large",
        TINY + b"10000\r\n" + b"x" * 0x10000 + b"\r\n",
        *[b"10000\r\n" + b"x" * 0x10000 + b"\r\n"] * 60,
    ),
    refused(
        "Content-Length too large elsewhere",
        413,
        "body_too_large",
        request("POST", "/eval", "content-type: application/json", body=b"x" * (MAX_BODY + 1)),
    ),
    refused(
        "chunked body that grows too large elsewhere",
        413,
        "body_too_large",
        head(
            "host: localhost",
            "content-type: application/json",
            "transfer-encoding: chunked",
            first="POST /eval HTTP/1.1",
        ),
        *[b"10000\r\n" + b"x" * 0x10000 + b"\r\n"] * 60,
    ),
    refused(
        "body to a path without one",
        405,
        "method_not_allowed",
        head("host: localhost", "content-length: 3", first=f"PUT {CHAT} HTTP/1.1"),
    ),
    refused(
        "head too large", 431, "head_too_large", head("host: localhost", "x-a: " + "y" * 70_000)
    ),
    refused(
        "head too large, and no end",
        431,
        "head_too_large",
        b"GET / HTTP/1.1\r\nx: ",
        *[b"y" * 9000] * 40,
    ),
    refused(
        "head too large in many lines",
        431,
        "head_too_large",
        b"GET / HTTP/1.1\r\n",
        *[b"x: y\r\n" * 1000] * 40,
    ),
    refused(
        "head too large after a good request",
        431,
        "head_too_large",
        b"GET / HTTP/1.1\r\nx: " + b"y" * 90_000,
    )._replace(
        sent=(LIVE, b"GET / HTTP/1.1\r\nx: " + b"y" * 90_000),
        responses=(OK, (431, "head_too_large")),
    ),
    refused(
        "too many headers",
        431,
        "head_too_large",
        head("host: localhost", *["a: b"] * 300, first="GET / HTTP/1.1"),
    ),
    Row("many headers", (request("GET", "/health/live", *["a: b"] * 200),), (OK,), open=True),
    refused("target too long", 414, "uri_too_long", request("GET", "/" + "a" * 20_000)),
    refused("target too long, and no end", 414, "uri_too_long", b"GET /", *[b"a" * 9000] * 20),
    Row("long target", (request("GET", "/health/live?" + "a" * 15_000),), (OK,), open=True),
    refused(
        "trailers too large", 431, "head_too_large", TINY + b"0\r\n", *[b"x: y\r\n" * 1000] * 40
    ),
    refused("trailer without end", 431, "head_too_large", TINY + b"0\r\nx: ", *[b"y" * 9000] * 40),
    refused(
        "chunk extension without end", 431, "head_too_large", TINY + b"1;", *[b"y" * 9000] * 40
    ),
    # Framing.
    Row("chunked", (post(chunks=[GOOD]),), (OK,), open=True),
    Row("chunks of one byte", (post(chunks=bytewise(GOOD)),), (OK,), open=True),
    Row("chunked, byte by byte", bytewise(post(chunks=[GOOD])), (OK,), open=True),
    Row(
        "chunk extensions",
        (TINY + b"%x;a=b;c\r\n%b\r\n0;d\r\n\r\n" % (len(GOOD), GOOD),),
        (OK,),
        open=True,
    ),
    Row(
        "trailers change nothing",
        (
            TINY
            + b"%x\r\n%b\r\n0\r\n" % (len(GOOD), GOOD)
            + b"host: evil\r\norigin: http://evil\r\nauthorization: Bearer x\r\n"
            + b"x-request-id: trailer\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
        ),
        (OK,),
        open=True,
    ),
    Row(
        "a trailer that closes",
        (TINY + b"%x\r\n%b\r\n0\r\nconnection: close\r\n\r\n" % (len(GOOD), GOOD),),
        (OK,),
        open=False,
    ),
    *(
        refused(name, status, code, head("host: localhost", *lines) + b"0\r\n\r\n" + LIVE)
        for name, status, code, lines in [
            (
                "Content-Length twice",
                400,
                "malformed_request",
                ("content-length: 5", "content-length: 6"),
            ),
            ("the same Content-Length twice", 400, "malformed_request", ("content-length: 5",) * 2),
            ("a list for Content-Length", 400, "malformed_request", ("content-length: 5, 5",)),
            ("Content-Length with a sign", 400, "malformed_request", ("content-length: +5",)),
            ("a negative Content-Length", 400, "malformed_request", ("content-length: -5",)),
            ("an empty Content-Length", 400, "malformed_request", ("content-length: ",)),
            ("Content-Length in hex", 400, "malformed_request", ("content-length: 0x5",)),
            ("a huge Content-Length", 400, "malformed_request", ("content-length: " + "9" * 30,)),
            (
                "both framings",
                400,
                "malformed_request",
                ("content-length: 5", "transfer-encoding: chunked"),
            ),
            (
                "both framings, the other way",
                400,
                "malformed_request",
                ("transfer-encoding: chunked", "content-length: 5"),
            ),
            ("chunked within a list", 501, "bad_framing", ("transfer-encoding: gzip, chunked",)),
            ("chunked not last", 400, "malformed_request", ("transfer-encoding: chunked, gzip",)),
            ("chunked twice", 400, "malformed_request", ("transfer-encoding: chunked",) * 2),
            ("another coding", 501, "bad_framing", ("transfer-encoding: gzip",)),
            ("nearly chunked", 501, "bad_framing", ("transfer-encoding: xchunked",)),
            (
                "chunked behind a control character",
                400,
                "malformed_request",
                ("transfer-encoding: \vchunked",),
            ),
            ("identity", 501, "bad_framing", ("transfer-encoding: identity",)),
            ("blank before the colon", 400, "malformed_request", ("transfer-encoding : chunked",)),
            ("blank before the name", 400, "malformed_request", (" a: b",)),
            ("obs-fold", 400, "malformed_request", ("a: b", " c")),
            ("NUL in a value", 400, "malformed_request", ("a: b\0c",)),
            ("bare CR in a value", 400, "malformed_request", ("a: b\rc: d",)),
            ("bare LF in a value", 400, "malformed_request", ("a: b\nc: d",)),
            ("no name", 400, "malformed_request", (": b",)),
            ("no colon", 400, "malformed_request", ("abc",)),
            ("a control character in a name", 400, "malformed_request", ("a\x01: b",)),
            ("two hosts", 400, "bad_host", ("host: localhost:1",)),
        ]
    ),
    *(
        refused(name, 400, "malformed_request", TINY + rest)
        for name, rest in [
            ("chunk size that is none", b"zz\r\nab\r\n0\r\n\r\n"),
            ("chunk size in 0x", b"0x1\r\na\r\n0\r\n\r\n"),
            ("negative chunk size", b"-1\r\na\r\n0\r\n\r\n"),
            ("huge chunk size", b"fffffffffffffffff\r\na\r\n0\r\n\r\n"),
            ("bare LF after a chunk size", b"1\na\n0\n\n"),
            ("a chunk longer than its size", b"1\r\nabc\r\n0\r\n\r\n"),
            ("NUL in a trailer", b"0\r\na: b\0c\r\n\r\n"),
            ("Content-Length in a trailer", b"0\r\ncontent-length: 4\r\n\r\n"),
        ]
    ),
    # Heads.
    refused("TLS", 400, "malformed_request", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    refused("no HTTP at all", 400, "malformed_request", b"NONSENSE\r\n\r\n"),
    refused(
        "unknown method", 400, "malformed_request", head("host: localhost", first="FOO / HTTP/1.1")
    ),
    refused("only LF", 400, "malformed_request", b"GET / HTTP/1.1\nhost: localhost\n\n"),
    refused(
        "a blank in the target",
        400,
        "malformed_request",
        head("host: localhost", first="GET /a b HTTP/1.1"),
    ),
    refused(
        "bytes beyond ASCII in the target",
        400,
        "malformed_request",
        b"GET /v1/\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ),
    refused(
        "a target without a slash",
        400,
        "malformed_request",
        head("host: localhost", first="GET health/live HTTP/1.1"),
    ),
    refused(
        "another scheme",
        400,
        "bad_target",
        head("host: localhost", first="GET ftp://x/health/live HTTP/1.1"),
    ),
    refused("no Host", 400, "bad_host", b"GET /health/live HTTP/1.1\r\n\r\n"),
    Row("blank lines first", (b"\r\n\r\n" + LIVE,), (OK,), open=True),
    Row(
        "absolute target", (request("GET", "http://localhost:1/health/live?a=b"),), (OK,), open=True
    ),
    # It stands above the Host header, which named the site that the request comes from.
    Row(
        "absolute target of another host",
        (request("POST", f"http://127.0.0.1:9{CHAT}", "origin: http://localhost", body=b""),),
        ((403, "other_origin"),),
        open=True,
    ),
    Row(
        "absolute target in capitals",
        (request("GET", "HTTP://LOCALHOST/health/live"),),
        (OK,),
        open=True,
    ),
    Row("absolute target without a path", (request("GET", "http://localhost"),), (OK,), open=True),
    Row("a fragment in the target", (request("GET", "/health/live?a#b"),), (OK,), open=True),
    Row("OPTIONS *", (request("OPTIONS", "*"),), ((404, "not_found"),), open=True),
    # Order.
    Row("pipelined", (post() * 10,), (OK,) * 10, open=True),
    Row("2,000 pipelined", (LIVE * 2000,), (OK,) * 2000, open=True),
    Row("500 pipelined with bodies", (post() * 500,), (OK,) * 500, open=True),
    Row(
        "garbage behind a request",
        (post(body=chat("up/slow")) + b"garbage\r\n\r\n",),
        (OK, (400, "malformed_request")),
        open=False,
    ),
    Row(
        "garbage behind a stream",
        (post(body=chat("up/stream", stream=True)) + b"garbage\r\n\r\n",),
        (OK, (400, "malformed_request")),
        open=False,
    ),
    Row(
        "a request behind the last one",
        (post("connection: close") + LIVE,),
        (OK,),
        open=False,
    ),
    Row("100 Continue", (post("expect: 100-continue"),), (OK,), open=True),
    Row("100-CONTINUE", (post("expect: 100-CONTINUE"),), (OK,), open=True),
    Row("bad JSON", (post(body=b"{"),), ((400, "bad_json"),), open=True),
]


SHORT = [row for row in ROWS if sum(map(len, row.sent)) < 3000]


@pytest.mark.parametrize("row", SHORT, ids=lambda row: row.name)
def test_how_the_bytes_arrive_makes_no_difference(http, url, row):
    assert_gets(http, url, row._replace(sent=bytewise(b"".join(row.sent))))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_a_client_gets(http, url, row):
    assert_gets(http, url, row)


def assert_gets(http, url, row):
    with RawClient(url) as client:
        # A packet for each piece, rather than what the kernel makes of them.
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.send(*row.sent)
        assert_answers(http, url)
        for status, code in row.responses:
            response = client.response()
            assert (response.status, response.body[:500] if status != response.status else b"") == (
                status,
                b"",
            )
            if status >= 400:
                assert response.error["code"] == code
        if row.open:
            assert client.is_open()
        else:
            assert response.headers["connection"] == "close" or len(row.responses) == 2
            assert client.rest() == b""


@pytest.mark.parametrize(
    ("model", "fields"), [("up/stream", {"stream": True}), ("up/echo", {}), ("baseline/echo", {})]
)
@pytest.mark.parametrize("asked", [False, True])
def test_http_1_0_gets_no_chunks_and_keeps_the_connection_only_if_it_asks(
    url, model, fields, asked
):
    headers = ["connection: keep-alive"] if asked else []
    with RawClient(url) as client:
        client.send(
            request("POST", CHAT, *headers, body=chat(model, "x y", **fields), version="1.0")
        )
        response = client.response()
        assert response.status == 200
        assert b"y" in response.body or b"three" in response.body
        if fields or not asked:
            assert response.framing == ("close" if fields else "length")
            assert response.headers["connection"] == "close"
            assert client.rest() == b""
        else:
            assert response.headers["connection"] == "keep-alive"
            assert client.is_open()
    if fields:
        assert response.body.endswith(b"data: [DONE]\n\n")


def test_http_1_0_needs_no_host_and_has_no_chunked_requests(url):
    with RawClient(url) as client:
        client.send(b"GET /health/live HTTP/1.0\r\n\r\n")
        assert client.response().status == 200
        assert client.rest() == b""
    with RawClient(url) as client:
        client.send(post(chunks=[GOOD], version="1.0"))
        response = client.response()
        assert (response.status, response.error["code"]) == (400, "bad_framing")
        assert client.rest() == b""


@pytest.mark.parametrize("path", [CHAT, "/health/live", "/no/such/path"])
def test_a_response_to_head_has_no_body(url, path):
    with RawClient(url) as client:
        client.send(request("HEAD", path))
        response = client.response(to_head=True)
        assert response.status in (200, 404, 405)
        assert int(response.headers["content-length"]) > 0
        assert client.is_open()


@pytest.mark.parametrize("size", ["9999999999", str(MAX_BODY + 1)])
def test_100_continue_is_not_sent_before_413_or_401(url, size):
    with RawClient(url) as client:
        client.send(head("host: localhost", "expect: 100-continue", f"content-length: {size}"))
        response = client.response(skip_100=False)
        assert (response.status, response.error["code"]) == (413, "body_too_large")
        assert client.rest() == b""


def test_100_continue_comes_before_the_body_is_sent(url):
    with RawClient(url) as client:
        client.send(head("host: localhost", "expect: 100-continue", f"content-length: {len(GOOD)}"))
        assert client.response(skip_100=False).status == 100
        client.send(GOOD)
        assert client.response(skip_100=False).status == 200
        assert client.is_open()


def test_after_a_refusal_without_100_continue_no_body_is_taken_for_a_request(url):
    with RawClient(url) as client:
        client.send(
            head(
                "host: localhost", "expect: 100-continue", "content-length: 50", "origin: http://a"
            )
        )
        response = client.response(skip_100=False)
        assert response.status == 403
        # Whether the client sends the body now cannot be known.
        assert response.headers["connection"] == "close"


@pytest.mark.parametrize("path", [CHAT, "/eval", "/no/such/path", "/health/live"])
@pytest.mark.parametrize("piece", [b"10000\r\n" + b"x" * 65536 + b"\r\n", b"1\r\nx\r\n" * 9000])
def test_a_body_without_end_has_one(http, url, path, piece):
    with RawClient(url) as client:
        client.send(
            head(
                "host: localhost",
                "content-type: application/json",
                "transfer-encoding: chunked",
                first=f"POST {path} HTTP/1.1",
            )
        )
        with contextlib.suppress(ConnectionError):
            while True:
                client.send(piece)
        assert_answers(http, url)


def test_a_20_mb_body_in_chunks_of_a_byte_holds_nobody_up(tmp_path, http):
    with (
        gateway(f"""
server: {{port: 0}}
storage: {{database: "sqlite:///{tmp_path}/e.db"}}
""") as url,
        RawClient(url) as client,
    ):
        body = chat("baseline/echo", "x" * 2_000_000)
        sender = threading.Thread(target=client.send, args=(post(chunks=bytewise(body)),))
        sender.start()
        answered = 0
        while sender.is_alive():
            assert_answers(http, url)
            answered += 1
        sender.join()
        # Parsed in one go, all of it would hold up the first of them.
        assert answered > 5
        assert client.response().status == 200


def assert_answers(http, url):
    """Another client is answered."""
    reply = http.post(url + CHAT, content=chat("baseline/echo", "still here"))
    assert reply.json()["choices"][0]["message"]["content"] == "still here"
