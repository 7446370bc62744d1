"""The HTTP client against real sockets: every way an answer can come, end, or not come."""

import asyncio
import shutil
import ssl
import subprocess
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.errors import (
    UpstreamConnectError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeoutError,
)
from providers.http.transport import HttpLimits, Transport

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@asynccontextmanager
async def host(handle, **options):
    """A server whose connections `handle(reader, writer)` plays; yields its base URL."""

    async def play(reader, writer):
        try:
            await handle(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(play, "127.0.0.1", 0, **options)
    scheme = "https" if options else "http"
    try:
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


@asynccontextmanager
async def client(**limits):
    transport = Transport(HttpLimits(**limits))
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


async def request(transport, url, body=b"{}", **options):
    options = {"connect_timeout": 5.0, "headers": {"x-a": "b"}} | options
    return await transport.request("POST", url, provider="p", body=body, **options)


async def fetch(transport, url, **options):
    reply = await request(transport, url, **options)
    try:
        return reply.status, await reply.read()
    finally:
        await reply.aclose()


async def read_request(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    return head, await reader.readexactly(length)


def says(*answers):
    """A handler that gives these answers in turn, on one connection after the other."""

    async def handle(reader, writer):
        for answer in answers:
            await read_request(reader)
            writer.write(answer)
            await writer.drain()

    return handle


async def test_what_is_sent():
    seen = []

    async def handle(reader, writer):
        seen.append(await read_request(reader))
        writer.write(OK)
        await writer.drain()

    async with host(handle) as url, client() as transport:
        assert await fetch(transport, f"{url}/chat?a=%20b", body=b'{"x": "\xc3\xbc"}') == (
            200,
            b"ok",
        )
    head, body = seen[0]
    assert head.startswith(b"POST /v1/chat?a=%20b HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"\r\nx-a: b\r\n" in head
    assert body == b'{"x": "\xc3\xbc"}'


async def test_a_connection_is_used_again_and_one_that_was_closed_is_replaced():
    connections = []

    async def handle(reader, writer):
        connections.append(writer)
        while True:
            await read_request(reader)
            writer.write(OK)
            await writer.drain()

    async with host(handle) as url, client() as transport:
        for _ in range(3):
            assert await fetch(transport, url) == (200, b"ok")
        assert len(connections) == 1
        connections[0].close()
        await asyncio.sleep(0.01)
        assert await fetch(transport, url) == (200, b"ok")
        assert len(connections) == 2


@pytest.mark.parametrize("resend", [False, True])
async def test_a_pooled_connection_that_ends_with_the_request_is_replaced_only_if_allowed(resend):
    count = 0

    async def handle(reader, writer):
        nonlocal count
        count += 1
        await read_request(reader)
        writer.write(OK)
        await writer.drain()
        if count == 1:
            # Closes without a word when the second request has come, as a host whose time is up.
            await reader.read(1)
            writer.close()

    async with host(handle) as url, client() as transport:
        assert await fetch(transport, url) == (200, b"ok")
        if resend:
            assert await fetch(transport, url, resend=True) == (200, b"ok")
        else:
            with pytest.raises(UpstreamConnectError):
                await fetch(transport, url)
    assert count == 1 + resend


async def test_an_answer_that_says_close_is_not_followed_on_the_same_connection():
    answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
    async with host(says(answer, b"poison")) as url, client() as transport:
        assert await fetch(transport, url) == (200, b"ok")
        assert await fetch(transport, url) == (200, b"ok")


async def test_bytes_after_the_answer_poison_no_other_answer():
    second = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
    async with host(says(OK + second)) as url, client() as transport:
        assert await fetch(transport, url) == (200, b"ok")
        assert await fetch(transport, url) == (200, b"ok")


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (CHUNKED + b"2\r\nok\r\n0\r\n\r\n", b"ok"),
        (CHUNKED + b"1;x=y\r\no\r\n1\r\nk\r\n0\r\ntrailer: 1\r\n\r\n", b"ok"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 203 OK\r\ncontent-length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nto the end", b"to the end"),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok"),
    ],
)
async def test_every_kind_of_body(answer, body):
    async with host(says(answer)) as url, client() as transport:
        assert (await fetch(transport, url))[1] == body


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", UpstreamConnectError),
        (b"HTTP/1.1 200 O", UpstreamConnectError),
        (b"NONSENSE\r\n\r\n", UpstreamProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: ten\r\n\r\n", UpstreamProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", UpstreamProtocolError),
        (CHUNKED + b"5\r\nab", UpstreamProtocolError),
        (CHUNKED + b"2\r\nab\r\n", UpstreamProtocolError),
        (CHUNKED + b"zz\r\nab\r\n", UpstreamProtocolError),
        (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", UpstreamError),
        (b"HTTP/1.1 200 OK\r\n" + b"x-flood: y\r\n" * 10_000 + b"\r\n", UpstreamProtocolError),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000, UpstreamProtocolError),
    ],
)
async def test_what_is_no_whole_answer_is_an_error(answer, error):
    async with host(says(answer)) as url, client() as transport:
        with pytest.raises(error) as caught:
            await fetch(transport, url)
        assert "127.0.0.1" not in caught.value.message
        assert caught.value.message.startswith("p: ")


async def test_a_reset_before_and_in_the_middle_of_an_answer():
    async def before(reader, writer):
        await read_request(reader)
        writer.transport.abort()

    async def midway(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.transport.abort()

    async with client() as transport:
        async with host(before) as url:
            with pytest.raises(UpstreamConnectError):
                await fetch(transport, url)
        async with host(midway) as url:
            reply = await request(transport, url)
            chunks = reply.chunks()
            assert await anext(chunks) == b"abc"
            with pytest.raises(UpstreamProtocolError):
                await anext(chunks)
            await reply.aclose()


async def test_no_such_host_no_such_port_no_answer_to_a_handshake():
    async def silent(reader, writer):
        await reader.read()

    async with host(silent) as url:
        port = url.split(":")[2]
        async with client() as transport:
            with pytest.raises(UpstreamTimeoutError) as caught:
                await request(transport, f"https://127.0.0.1:{port}", connect_timeout=0.05)
            assert caught.value.phase == "connect"
    async with client() as transport:
        with pytest.raises(UpstreamConnectError, match="refused"):
            await request(transport, url)
        with pytest.raises(UpstreamConnectError, match="resolve"):
            await request(transport, "http://does-not-exist.invalid/v1")


async def test_tls_that_fails():
    async def plain(reader, writer):
        writer.write(OK)
        await writer.drain()
        await reader.read()

    async with host(plain) as url, client() as transport:
        with pytest.raises(UpstreamConnectError, match="TLS"):
            await request(transport, url.replace("http:", "https:"))


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
async def test_a_certificate_that_nobody_vouches_for(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    command += ["-subj", "/CN=localhost", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with host(says(OK), ssl=context) as url, client() as transport:
        with pytest.raises(UpstreamConnectError, match="certificate"):
            await request(transport, url)


@pytest.mark.parametrize("phase", ["headers", "body"])
async def test_cancelling_closes_the_connection(phase):
    came, gone = asyncio.Event(), asyncio.Event()

    async def handle(reader, writer):
        await read_request(reader)
        if phase == "body":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
            await writer.drain()
        came.set()
        try:
            await reader.read()
        finally:
            gone.set()

    async with host(handle) as url, client() as transport:
        task = asyncio.create_task(fetch(transport, url))
        await came.wait()
        # Time to begin to read the body; earlier is no harm.
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gone.wait()


async def test_chunks_come_as_they_are_sent():
    go = asyncio.Event()

    async def handle(reader, writer):
        await read_request(reader)
        writer.write(CHUNKED + b"3\r\none\r\n")
        await writer.drain()
        await go.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")
        await writer.drain()

    async with host(handle) as url, client() as transport:
        reply = await request(transport, url)
        chunks = reply.chunks()
        assert await anext(chunks) == b"one"
        go.set()
        assert await anext(chunks) == b"two"
        assert [chunk async for chunk in chunks] == []
        await reply.aclose()


async def test_a_slow_reader_holds_the_sender_back():
    sent = 0

    async def handle(reader, writer):
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        for _ in range(1000):
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000

    async with host(handle) as url, client() as transport:
        reply = await request(transport, url)
        await asyncio.sleep(0.3)
        # What the kernel's and our own buffers take, far from the 100 MB there are.
        assert sent < 20_000_000
        size = 0
        async for chunk in reply.chunks():
            size += len(chunk)
        assert size == 100_000_000
        await reply.aclose()


async def test_connections_are_bounded():
    open_now, most = 0, 0

    async def handle(reader, writer):
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        try:
            while True:
                await read_request(reader)
                await asyncio.sleep(0.005)
                writer.write(OK)
                await writer.drain()
        finally:
            open_now -= 1

    async with host(handle) as url, client(connections=3) as transport:
        answers = await asyncio.gather(*(fetch(transport, url) for _ in range(20)))
    assert answers == [(200, b"ok")] * 20
    assert most == 3


async def test_names_in_urls_do_not_pile_up():
    async with host(says(*[OK] * 1100)) as url, client() as transport:
        for number in range(1100):
            assert await fetch(transport, f"{url}/deployments/{number}/chat") == (200, b"ok")
        assert len(transport._starts) <= 1000


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 400), max_size=12), st.binary(max_size=300))
def test_any_split_of_an_answer_gives_the_same_body(cuts, body):
    answer = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (1, body[n : n + 1]) for n in range(len(body)))
    answer += b"0\r\n\r\n"

    async def handle(reader, writer):
        await read_request(reader)
        rest = answer
        for cut in cuts:
            writer.write(rest[:cut])
            rest = rest[cut:]
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(rest)
        await writer.drain()
        await reader.read()

    async def play():
        async with host(handle) as url, client() as transport:
            assert await fetch(transport, url) == (200, body)

    asyncio.run(play())
