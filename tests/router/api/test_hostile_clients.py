"""Clients that misbehave: they must not harm the others, nor the process."""

import json
import os
import signal
import socket

import pytest
from servers import gateway, process, scripted

MODELS = {"echo": [{}], "long": [{"answer": "word " * 400_000, "chunks": 4000}]}


@pytest.fixture(scope="module")
def upstream():
    with scripted(MODELS) as server:
        yield server


@pytest.fixture(scope="module")
def url(upstream, tmp_path_factory):
    database = tmp_path_factory.mktemp("db") / "e.db"
    with gateway(f"""
server: {{port: 0}}
storage: {{database: "sqlite:///{database}"}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}
""") as url:
        yield url


def connect(url):
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)))


def fine(http, url):
    body = {"model": "baseline/echo", "messages": [{"role": "user", "content": "still here"}]}
    reply = http.post(f"{url}/v1/chat/completions", json=body)
    return reply.json()["choices"][0]["message"]["content"] == "still here"


def test_a_20_mb_body_passes_whole(http, url):
    text = "x" * 20_000_000
    body = {"model": "up/echo", "messages": [{"role": "user", "content": text}]}
    reply = http.post(f"{url}/v1/chat/completions", json=body)
    assert reply.status_code == 200
    assert reply.json()["choices"][0]["message"]["content"] == text


def test_slow_loris_clients_hold_nobody_up(http, url):
    clients = [connect(url) for _ in range(200)]
    try:
        for client in clients[:100]:
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-a: ")
        for client in clients[100:]:
            client.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\n"
                b"host: localhost\r\ncontent-length: 99\r\n\r\n{"
            )
        for _ in range(20):
            assert fine(http, url)
            for client in clients:
                client.sendall(b"y")
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize("line", [b"x-flood: " + b"y" * 1000 + b"\r\n", b"y" * 1000])
def test_a_flood_of_headers_is_refused(http, url, line):
    with connect(url) as client:
        client.settimeout(20)
        client.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nx-first: ")
        answer = b""
        try:
            for _ in range(2000):
                client.sendall(line)
            client.sendall(b"\r\n\r\n")
            answer = client.recv(65536)
        except (ConnectionResetError, BrokenPipeError):
            pass
    assert not answer.startswith(b"HTTP/1.1 200")
    assert fine(http, url)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"NONSENSE\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v1/\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_with_a_refusal(http, url, sent):
    with connect(url) as client:
        client.settimeout(20)
        client.sendall(sent)
        try:
            answer = client.recv(65536)
        except ConnectionResetError:
            answer = b""
    assert not answer.startswith(b"HTTP/1.1 200")
    assert fine(http, url)


def test_a_client_that_does_not_read_its_stream_fills_no_memory(http, url):
    body = json.dumps(
        {"model": "up/long", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    ).encode()
    before = resident()
    clients = [connect(url) for _ in range(20)]
    try:
        for client in clients:
            head = (
                b"POST /v1/chat/completions HTTP/1.1\r\n"
                b"host: localhost\r\ncontent-length: %d\r\n\r\n"
            )
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(head % len(body) + body)
        for _ in range(50):
            assert fine(http, url)
        # Each stream is about 3 MB with its JSON; 20 of them unread would be 60 MB and more.
        assert resident() - before < 45_000_000
    finally:
        for client in clients:
            client.close()


def resident():
    with open("/proc/self/statm") as file:  # noqa: PTH123  # a file of the kernel
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_whole_request_in_one_read_is_not_taken_for_headers(tmp_path):
    body = json.dumps(
        {"model": "baseline/echo", "messages": [{"role": "user", "content": "x" * 100_000}]}
    ).encode()
    with process(tmp_path, "--port", "0") as (server, url), connect(url) as client:
        client.settimeout(20)
        for _ in range(2):
            # Stopped, the server finds everything waiting when it goes on.
            server.send_signal(signal.SIGSTOP)
            client.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\n"
                b"host: localhost\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            )
            server.send_signal(signal.SIGCONT)
            assert client.recv(15) == b"HTTP/1.1 200 OK"
            answer = b""
            while b"x" * 100_000 not in answer or not answer.endswith(b"}"):
                answer += client.recv(1 << 20)


def asking(model, text="still here", *, method=b"POST", more=b""):
    """The bytes of a request."""
    message = {"role": "user", "content": text}
    body = json.dumps({"model": model, "messages": [message]}).encode()
    head = b"%b /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n%bcontent-length: %d\r\n\r\n"
    return head % (method, more, len(body)) + body


def answers(client, count):
    """So many whole answers off a connection: head and body of each."""
    file = client.makefile("rb")
    for _ in range(count):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = file.readline()
            assert line, f"the connection ended after {head!r}"
            head += line
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        yield head, file.read(length)


def test_requests_that_do_not_wait_for_each_other_are_answered_in_their_order(url):
    with connect(url) as client:
        client.sendall(b"".join(asking("baseline/echo", f"number {n}") for n in range(20)))
        for n, (head, body) in enumerate(answers(client, 20)):
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert json.loads(body)["choices"][0]["message"]["content"] == f"number {n}"


def test_a_client_that_asks_and_does_not_read_gets_all_of_it_later(http, url):
    with connect(url) as client:
        # The allocator takes what a few answers need, and holds on to it.
        client.settimeout(30)
        client.sendall(asking("up/long") * 5)
        assert len(list(answers(client, 5))) == 5
    before = resident()
    with connect(url) as client:
        client.settimeout(30)
        client.sendall(asking("up/long") * 40)
        for _ in range(800):
            assert fine(http, url)
        # Each answer has 2 MB: the next is not asked for before the last has left.
        assert resident() - before < 18_000_000
        for _, body in answers(client, 40):
            assert json.loads(body)["choices"][0]["message"]["content"] == "word " * 400_000


@pytest.mark.parametrize("model", ["baseline/echo", "no-such-route"])
def test_a_connection_is_closed_where_the_client_wants_it_closed(url, model):
    with connect(url) as client:
        client.sendall(asking(model, more=b"connection: close\r\n"))
        [(head, _)] = answers(client, 1)
        assert b"connection: close" in head.lower()
        assert client.recv(1) == b""


def test_an_answer_to_head_has_no_body(url):
    with connect(url) as client:
        client.sendall(b"HEAD /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n\r\n")
        client.settimeout(10)
        head = client.recv(65536)
        assert head.startswith(b"HTTP/1.1 405 ")
        assert head.endswith(b"\r\n\r\n")
        # The connection is still in step.
        client.sendall(asking("baseline/echo"))
        [(head, _)] = answers(client, 1)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
