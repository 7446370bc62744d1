"""Pooled connections that a host has closed are not used; no request is sent twice by chance."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import httpx
import pytest
from raw_host import CLOSE, READ, RESET, ReadBytes, answer, each, raw_host
from servers import gateway

from providers.errors import UpstreamConnectError
from providers.http.transport import HttpLimits, Transport

ENDS = {"fin": [CLOSE], "reset": [RESET], "stray-bytes": [b"HTTP/1.1 408 X\r\n\r\n", CLOSE]}


@asynccontextmanager
async def client():
    transport = Transport(HttpLimits())
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


async def fetch(transport, host, body=b"{}", *, resend=False):
    reply = await transport.request(
        "POST",
        f"{host.url}/chat/completions",
        provider="up",
        headers={},
        body=body,
        connect_timeout=5.0,
        resend=resend,
    )
    try:
        return await reply.read()
    finally:
        await reply.aclose()


@pytest.mark.parametrize("end", ENDS)
async def test_a_connection_that_ended_unnoticed_by_the_loop_is_not_used(end):
    with raw_host([READ, *answer(), *ENDS[end]]) as host:
        async with client() as transport:
            for number in range(1, 51):
                await fetch(transport, host)
                # Without a turn of the event loop, which has no way to learn of the end.
                host.wait_until(lambda host, last=number - 1: host.connections[last].ended)
        assert len(host.requests) == 50


@pytest.mark.parametrize("end", ["fin", "reset"])
def test_a_host_that_closes_after_every_answer_costs_no_request(tmp_path, end):
    text = """
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db"}}
providers: {{up: {{kind: compatible, base_url: "{url}", resend_on_stale: {resend}}}}}
routes: {{r: {{targets: [{{model: up/m}}], retries: {{attempts: 1}}}}}}
"""
    body = {"model": "r", "messages": [{"role": "user", "content": "hi"}]}
    with raw_host([READ, *answer(), *ENDS[end]]) as host:
        # One by one, each request after the close: none may fail, and none is sent twice.
        with (
            gateway(text.format(folder=tmp_path, url=host.url, resend="false")) as url,
            httpx.Client(base_url=url) as http,
        ):
            for number in range(1000):
                assert http.post("/v1/chat/completions", json=body).status_code == 200
                host.wait_until(lambda host, last=number: host.connections[last].ended)
        assert len(host.requests) == 1000
    with raw_host([READ, *answer(), *ENDS[end]]) as host:
        # Side by side, so that requests meet the close itself.
        (tmp_path / "2").mkdir()
        with (
            gateway(text.format(folder=tmp_path / "2", url=host.url, resend="true")) as url,
            httpx.Client(base_url=url) as http,
            ThreadPoolExecutor(8) as pool,
        ):
            statuses = list(
                pool.map(
                    lambda _: http.post("/v1/chat/completions", json=body).status_code, range(2000)
                )
            )
        assert statuses == [200] * 2000


@pytest.mark.parametrize("end", [CLOSE, RESET], ids=repr)
@pytest.mark.parametrize("resend", [False, True])
async def test_a_request_that_was_read_is_sent_again_only_if_allowed(end, resend):
    with raw_host(each([READ, *answer(), READ, end], [READ, *answer()])) as host:
        async with client() as transport:
            await fetch(transport, host)
            if resend:
                assert await fetch(transport, host, resend=True)
            else:
                with pytest.raises(UpstreamConnectError):
                    await fetch(transport, host)
        assert len(host.requests) == 2 + resend


@pytest.mark.parametrize(
    ("script", "requests"),
    [
        # On a fresh connection the host was there to get it.
        ([READ, RESET], 1),
        ([READ, CLOSE], 1),
        # It has begun to answer.
        ([READ, *answer(), READ, b"HTTP/1.1 ", RESET], 2),
        ([READ, *answer(), READ, b"HTTP/1.1 100 Continue\r\n\r\n", CLOSE], 2),
    ],
)
async def test_what_is_never_sent_again(script, requests):
    with raw_host(script) as host:
        async with client() as transport:
            for _ in range(requests - 1):
                await fetch(transport, host, resend=True)
            with pytest.raises(UpstreamConnectError):
                await fetch(transport, host, resend=True)
        assert len(host.requests) == requests


async def test_a_request_that_is_sent_again_is_so_once():
    scripts = [[READ, *answer(), READ, RESET]] * 2 + [[READ, RESET]]
    with raw_host(each(*scripts)) as host:
        async with client() as transport:
            # Two idle connections, and then nothing but resets.
            await asyncio.gather(fetch(transport, host), fetch(transport, host))
            with pytest.raises(UpstreamConnectError):
                await fetch(transport, host, resend=True)
        assert len(host.requests) == 4


async def test_a_request_that_has_not_left_whole_is_sent_again():
    script = [READ, *answer(), ReadBytes(100_000), RESET]
    with raw_host(each(script, [READ, *answer()])) as host:
        async with client() as transport:
            await fetch(transport, host)
            assert await fetch(transport, host, b" " * 50_000_000)
        assert [len(request.body) for request in host.requests] == [2, 50_000_000]


@pytest.mark.parametrize(
    ("kind", "more", "status"),
    [
        ("compatible", "", 502),
        ("openai", ", api_key: k", 502),
        ("compatible", ", resend_on_stale: true", 200),
        ("vllm", "", 200),
        ("ollama", "", 200),
        ("ray_serve", "", 200),
        ("vllm", ", resend_on_stale: false", 502),
    ],
)
def test_whether_a_kind_resends(http, tmp_path, kind, more, status):
    def steps(connection):
        # Whatever a kind requests before (lists of models), the second chat's connection breaks.
        chats = 0
        while True:
            request = connection.read_request()
            chats += request.target.endswith("/chat/completions")
            if chats == 2 and connection.number == first[0]:
                connection.end(reset=True)
            if chats == 1 and not first:
                first.append(connection.number)
            connection.play(answer())

    first = []
    with raw_host([steps]) as host:
        text = f"""
server: {{port: 0}}
storage: {{database: "sqlite:///{tmp_path}/e.db"}}
providers: {{up: {{kind: {kind}, base_url: "{host.url}"{more}}}}}
routes: {{r: {{targets: [{{model: up/m}}], retries: {{attempts: 1}}}}}}
"""
        with gateway(text) as url:
            body = {"model": "r", "messages": [{"role": "user", "content": "hi"}]}
            got = [http.post(f"{url}/v1/chat/completions", json=body).status_code for _ in range(2)]
    assert got == [200, status]
