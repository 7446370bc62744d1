"""What must hold of any bytes that reach us: one function for each parser, `bytes -> None`.

`make fuzz` runs each for minutes on inputs that atheris finds (`fuzzer.py`); `test_corpus.py` runs
those that were kept in `corpus/`. A property fails by raising what is not declared.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from providers.errors import ConfigError, RequestError, UpstreamError
from providers.http import sse
from providers.http.transport import HttpLimits, Transport
from router.api import request_parsing
from router.config.loading import parse as parse_config
from router.gateway import answer_checks
from router.gateway.keys import bearer
from router.records import Target

_TARGET = Target("up", "m")
_GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
_CAP = 100_000


def sse_events(data: bytes) -> None:
    """A stream is the same however it is cut; nothing that reads it raises anything else."""
    cut, stream = data[:1], data[1:]
    place = cut[0] % (len(stream) + 1) if cut else 0
    if sse.Parser().feed(stream) != _in_two(stream, place):
        raise AssertionError("a stream cut in two has other events")
    sse.read_end(stream)
    whole, rest = sse.split_complete(stream)
    if whole + rest != stream:
        raise AssertionError("split_complete loses bytes")
    before, wrong = sse.split_error(stream)
    # An error after [DONE] is none of the answer, and goes with what follows it.
    if not stream.startswith(before) or (
        wrong is None and before != stream and b"[DONE]" not in before
    ):
        raise AssertionError("split_error loses bytes of a stream without an error")
    if len(sse.without_usage(stream)) > len(stream):
        raise AssertionError("without_usage adds bytes")


def _in_two(stream: bytes, place: int) -> list[sse.Event]:
    parser = sse.Parser()
    return parser.feed(stream[:place]) + parser.feed(stream[place:])


def answer(data: bytes) -> None:
    """What is taken for an answer has choices, or vectors; the rest is an UpstreamError."""
    for path in ("chat/completions", "completions", "embeddings"):
        try:
            body = answer_checks.whole(data, path, _TARGET)
            answer_checks.events_of(body, path, _TARGET)
        except UpstreamError:
            continue
        said = json.loads(body)
        if not said["data" if path == "embeddings" else "choices"]:
            raise AssertionError("an empty answer passes for one")


def envelope(data: bytes) -> None:
    """A request is read or refused with an OpenAI error; what it needs can then be told."""
    bearer(data[:100])
    try:
        _, _, fields = request_parsing.parse(data, "chat/completions")
    except RequestError as error:
        if not error.message:
            raise AssertionError("a refusal without a message") from error
        return
    request_parsing.needs_of(fields)
    for sticky in ("user", "conversation", "header:x"):
        request_parsing.sticky_key(sticky, fields, {b"x": data[:50]})


def config(data: bytes) -> None:
    """A config is read or refused with the place and the remedy."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        parse_config(text, "fuzz.yaml", {"NAME": "value"})
    except ConfigError as error:
        if "fuzz.yaml" not in error.message:
            raise AssertionError(f"a refusal without its place: {error.message}") from error


def http_answer(data: bytes) -> None:
    """An answer is whole and clean or an UpstreamError, and never spills into the next one."""
    _loop().run_until_complete(_http_answer(data))


async def _http_answer(data: bytes) -> None:
    cut, answer_bytes = data[:1], data[1:]
    place = cut[0] * len(answer_bytes) // 256 if cut else 0
    seen = 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                seen += 1
                if seen > 1:
                    writer.write(_GOOD)
                    continue
                writer.write(answer_bytes[:place])
                await asyncio.sleep(0)
                writer.write(answer_bytes[place:])
                # Its end is the connection's, where the bytes say of no other.
                writer.write_eof()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(play, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    transport = Transport(HttpLimits(max_answer_bytes=_CAP))
    await transport.open()
    try:
        await _fetch(transport, url, strange=True)
        body = await _fetch(transport, url, strange=False)
        if body != b"ok":
            raise AssertionError("an answer spilled into the next one")
    finally:
        await transport.close()
        server.close()


async def _fetch(transport: Transport, url: str, *, strange: bool) -> bytes | None:
    try:
        async with asyncio.timeout(5):
            reply = await transport.request(
                "GET", url, provider="p", headers={}, body=None, connect_timeout=5.0
            )
            try:
                body = await reply.read()
            finally:
                await reply.aclose()
    except UpstreamError:
        if strange:
            return None
        raise
    _check_clean(reply.headers, body)
    return body


def _check_clean(headers: Mapping[str, str], body: bytes) -> None:
    for name, value in headers.items():
        if not (name + value).isascii() or not (name + value).isprintable():
            raise AssertionError(f"a header that cannot be passed on: {name!r}: {value!r}")
    if len(body) > _CAP:
        raise AssertionError("an answer over its limit")


_LOOPS: list[asyncio.AbstractEventLoop] = []


def _loop() -> asyncio.AbstractEventLoop:
    if not _LOOPS:
        _LOOPS.append(asyncio.new_event_loop())
    return _LOOPS[0]


PROPERTIES: dict[str, Callable[[bytes], Any]] = {
    "sse": sse_events,
    "answer": answer,
    "envelope": envelope,
    "config": config,
    "http": http_answer,
}
