"""Clients that are slow, many, or do not read: limits of time and number."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import socket
import time

import httpx
import pytest
from raw_client import RawClient, chat, request
from server_process import serving, wait_for
from servers import gateway, scripted

CHAT = "/v1/chat/completions"
# More than the kernel takes on for a client that does not read: net.ipv4.tcp_wmem's maximum is
# 4 MB by default.
ANSWER_BYTES = 10_000_000
ANSWER = "word " * (ANSWER_BYTES // 5)
MODELS = {
    "echo": [{}],
    "endless": [{"answer": ANSWER, "chunks": 2000}],
    "whole": [{"answer": ANSWER}],
    "short": [{"answer": " ".join("word" for _ in range(60)), "chunk_delay_s": 0.05}],
    "slow": [{"answer": " ".join("word" for _ in range(2000)), "chunk_delay_s": 0.05}],
}


@pytest.fixture(scope="module")
def upstream():
    with scripted(MODELS) as server:
        yield server


def config_of(upstream, folder, server="", routes=""):
    return f"""
server: {{port: 0, {server}}}
storage: {{database: "sqlite:///{folder}/e.db"}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}
routes: {{{routes}}}
"""


def assert_answers(url):
    with httpx.Client(timeout=30) as http:
        reply = http.post(url + CHAT, content=chat("baseline/echo", "still here"))
        assert reply.json()["choices"][0]["message"]["content"] == "still here"


def streaming(model, **fields):
    return request("POST", CHAT, body=chat(model, stream=True, **fields))


# time


@pytest.mark.parametrize(
    "sent",
    [b"G", b"GET / HTTP/1.1\r\nhost: localhost\r\nx-a: ", request()[:-2]],
    ids=["a byte", "half", "nearly"],
)
def test_a_head_that_is_not_completed_gets_a_408(upstream, tmp_path, sent):
    with (
        gateway(config_of(upstream, tmp_path, "head_seconds: 0.4")) as url,
        RawClient(url) as client,
    ):
        client.send(request())
        assert client.response().status == 200
        client.send(sent)
        response = client.response()
        assert (response.status, response.error["code"]) == (408, "request_timeout")
        assert response.headers["connection"] == "close"
        assert client.rest() == b""


def test_bytes_that_trickle_do_not_put_the_end_of_a_head_off(upstream, tmp_path):
    with (
        gateway(config_of(upstream, tmp_path, "head_seconds: 0.4")) as url,
        RawClient(url) as client,
    ):
        client.send(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nx-a: ")
        trickle(client, b"y")
        assert b" 408 " in client.rest()


@pytest.mark.parametrize("framing", ["content-length: 5000", "transfer-encoding: chunked"])
@pytest.mark.parametrize("path", [CHAT, "/eval"])
def test_a_body_that_trickles_gets_a_408(upstream, tmp_path, framing, path):
    with (
        gateway(config_of(upstream, tmp_path, "body_seconds: 0.4")) as url,
        RawClient(url) as client,
    ):
        lines = (
            f"POST {path} HTTP/1.1",
            "host: localhost",
            "content-type: application/json",
            framing,
        )
        client.send("\r\n".join([*lines, "", ""]).encode())
        trickle(client, b"x" if "length" in framing else b"1\r\nx\r\n")
        response = client.response()
        assert (response.status, response.error["code"]) == (408, "request_timeout")
        assert client.rest() == b""
        assert_answers(url)


def trickle(client, data):
    """Send bit by bit until there is a response."""
    client.socket.settimeout(0.05)
    while True:
        client.send(data)
        try:
            if client.socket.recv(1, socket.MSG_PEEK):
                break
        except TimeoutError:
            continue
    client.socket.settimeout(30)


def test_a_large_body_may_take_longer_as_long_as_it_comes(upstream, tmp_path):
    body = chat("baseline/echo", "x" * 400_000)
    with (
        gateway(config_of(upstream, tmp_path, "body_seconds: 0.8")) as url,
        RawClient(url) as client,
    ):
        whole = request("POST", CHAT, body=body)
        for start in range(0, len(whole), 20_000):
            client.send(whole[start : start + 20_000])
            time.sleep(0.1)
        assert client.response().status == 200


def test_an_idle_connection_is_closed_and_a_busy_one_is_not(upstream, tmp_path):
    with (
        gateway(config_of(upstream, tmp_path, "idle_seconds: 0.4")) as url,
        RawClient(url) as silent,
        RawClient(url) as used,
        RawClient(url) as busy,
    ):
        busy.send(streaming("up/slow"))
        used.send(request())
        assert used.response().status == 200
        assert silent.rest() == b""
        assert used.rest() == b""
        assert busy.socket.recv(1 << 16)
        assert busy.socket.recv(1 << 16)


# clients that do not read


@pytest.mark.parametrize("model", ["endless", "whole"])
def test_a_client_that_does_not_read_is_cut_and_the_target_is_free(
    upstream, tmp_path, caplog, model
):
    caplog.set_level(logging.DEBUG, "evalrouter")
    route = f"one: {{targets: [{{model: up/{model}, max_concurrency: 1, max_queue: 1}}]}}"
    with (
        gateway(config_of(upstream, tmp_path, "send_seconds: 0.5", route)) as url,
        RawClient(url, receive_buffer=4096) as client,
        httpx.Client(timeout=60) as http,
    ):
        client.send(request("POST", CHAT, body=chat("one", stream=model == "endless")))
        # It gets its turn only when the place is free again.
        reply = http.post(url + CHAT, content=chat("one"))
        assert reply.status_code == 200
        # A whole answer frees the place before its client is cut. A client that begins to read
        # until then is not cut at all, so only the server can tell when it has happened.
        wait_for(lambda: "a connection was cut while reading" in caplog.text)
        assert client.is_cut()
        assert len(client.unread) < ANSWER_BYTES


def test_a_client_that_reads_slowly_gets_everything(upstream, tmp_path):
    with (
        gateway(config_of(upstream, tmp_path, "send_seconds: 1")) as url,
        RawClient(url, receive_buffer=1 << 16) as client,
    ):
        client.send(request("POST", CHAT, body=chat("up/whole")))
        client.socket.recv(1, socket.MSG_PEEK)
        got = b""
        for _ in range(60):
            got += client.socket.recv(1 << 16)
            time.sleep(0.05)
        client._buffer = got
        assert client.response().json["choices"][0]["message"]["content"] == ANSWER


def test_total_runs_on_while_a_client_does_not_read(upstream, tmp_path):
    route = (
        "one: {targets: [{model: up/endless, max_concurrency: 1}], "
        "retries: {attempts: 1}, timeout: {total: 4}}"
    )
    with (
        gateway(config_of(upstream, tmp_path, "", route)) as url,
        RawClient(url, receive_buffer=4096) as client,
        httpx.Client(timeout=60) as http,
    ):
        client.send(streaming("one"))
        wait_for(lambda: running(http, url) == 1)
        wait_for(lambda: running(http, url) == 0)
        assert client.is_cut()
        wait_for(lambda: '"client_too_slow"' in http.get(f"{url}/traffic").text)


def running(http, url):
    """How many requests are at targets."""
    metrics = http.get(f"{url}/metrics").text
    found = re.findall(r'requests_at_target\{[^}]*stage="running"[^}]*\} (\d+)', metrics)
    return sum(map(int, found))


# numbers


def test_connections_beyond_the_limit_get_a_503_and_idle_ones_make_room(upstream, tmp_path):
    with gateway(config_of(upstream, tmp_path, "max_connections: 8, idle_seconds: 60")) as url:
        with contextlib.ExitStack() as stack:
            busy_ones = [stack.enter_context(RawClient(url)) for _ in range(8)]
            for client in busy_ones:
                client.send(streaming("up/slow"))
            for client in busy_ones:
                assert client.socket.recv(1, socket.MSG_PEEK)
            late = stack.enter_context(RawClient(url))
            late.send(request("POST", CHAT, body=chat("up/echo", "x" * 500_000)))
            response = late.response()
            assert (response.status, response.error["code"]) == (503, "too_many_connections")
            assert response.headers["retry-after"] == "1"
            assert late.rest() == b""
            # Far more than that are not even answered, and change nothing.
            many = [stack.enter_context(RawClient(url)) for _ in range(200)]
            for client in many[-50:]:
                assert client.is_cut()
        until_answered(url)
        with contextlib.ExitStack() as stack:
            for _ in range(8):
                client = stack.enter_context(RawClient(url))
                client.send(request())
                assert client.response().status == 200
            until_answered(url)


def until_answered(url):
    with httpx.Client() as http:
        while http.get(f"{url}/health/live", headers={"connection": "close"}).status_code == 503:
            time.sleep(0.05)


def open_files(number):
    return ("sh", "-c", f'ulimit -n {number}; exec "$@"', "sh")


def test_when_descriptors_run_out_the_log_says_so_once_and_the_server_recovers(upstream, tmp_path):
    (tmp_path / "evalrouter.yaml").write_text(
        config_of(upstream, tmp_path, "max_connections: 5000, head_seconds: 60")
    )
    with serving(tmp_path, before=open_files(90)) as server:
        url = server.url
        with contextlib.ExitStack() as stack:
            for _ in range(200):
                client = stack.enter_context(RawClient(url))
                with contextlib.suppress(ConnectionError):
                    client.send(b"GET / HTTP/1.1\r\n")
            wait_for(lambda: "out of file descriptors" in server.log)
        wait_for(lambda: "file descriptors again" in server.log)
        assert_answers(url)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert server.log.count("out of file descriptors") == 1
    assert "Traceback" not in server.log


def test_without_a_limit_in_the_config_descriptors_do_not_run_out(upstream, tmp_path):
    (tmp_path / "evalrouter.yaml").write_text(config_of(upstream, tmp_path, "head_seconds: 60"))
    with serving(tmp_path, before=open_files(120)) as server:
        url = server.url
        with contextlib.ExitStack() as stack:
            idle = stack.enter_context(RawClient(url))
            idle.send(request())
            assert idle.response().status == 200
            clients = [stack.enter_context(RawClient(url)) for _ in range(200)]
            for client in clients:
                with contextlib.suppress(ConnectionError):
                    client.send(b"GET / HTTP/1.1\r\n")
            wait_for(lambda: "connections are in use" in server.log)
            # The walk that ends idle connections has looked for descriptors before.
            assert idle.is_cut()
        until_answered(url)
        # Each request needs a second connection, to the target.
        with httpx.Client() as http:
            assert http.post(url + CHAT, content=chat("up/echo")).status_code == 200
    assert "out of file descriptors" not in server.log
    assert server.log.count("connections are in use") == 1
