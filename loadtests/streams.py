"""Streaming load: many streams side by side, or a thousand that are merely open.

    python -m loadtests.streams URL --streams 64 --rounds 3 --length 2.0
    python -m loadtests.streams URL --hold 1000

The first prints one JSON object (see Measured) when all streams have ended. Each of the 64 clients
asks for one stream after the other; their starts are spread over `--length`, the seconds one stream
takes, so that the time to the first byte is a stream's own and not that of a queue of 64. The
second prints `{"open": N}` when every stream has its first byte, and hangs up when its standard
input ends: in between, whoever started it looks at the gateway's memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import uvloop

from loadtests.client import (
    NOT_SUSTAINED,
    Answer,
    Connection,
    NotSustained,
    RequestFailed,
    connect,
    parse_header,
    request,
)

# Streams that --hold begins at once; the next begin as these get their first byte.
OPENING = 32
OPENING_S = 120


class Measured(msgspec.Struct, frozen=True):
    """What came of the streams.

    Attributes:
        streams: how many ended with `[DONE]`.
        failed, failures: how many did not, and why (the first few).
        events: SSE events received, `[DONE]` included.
        reads: reads from the socket that they took; fewer than `events` when a gateway joins some.
        first_byte_p50_ms, first_byte_p99_ms: from sending to the first byte of the body.
    """

    streams: int
    failed: int
    failures: list[str]
    events: int
    reads: int
    first_byte_p50_ms: float
    first_byte_p99_ms: float


async def measure(
    url: str, headers: Mapping[str, str], *, streams: int, rounds: int, length: float
) -> Measured:
    """Run `streams` clients, each reading `rounds` streams of about `length` seconds in turn.

    Raises:
        RequestFailed: not one stream came through.
    """
    parts, content = urlsplit(url), request(url, headers, stream=True)
    answers: list[Answer] = []
    first_bytes: list[float] = []
    failures: list[str] = []

    async def client(n: int) -> None:
        await asyncio.sleep(n * length / streams)
        connection = None
        for _ in range(rounds):
            try:
                if connection is None or not connection.open:
                    connection = await connect(parts)
                began = perf_counter()
                answer = await connection.send(content)
                _check_whole(answer.body)
            except RequestFailed as failure:
                failures.append(str(failure))
            else:
                answers.append(answer)
                first_bytes.append(answer.first_byte - began)
        if connection is not None:
            connection.close()

    async with asyncio.TaskGroup() as group:
        for n in range(streams):
            group.create_task(client(n))
    if not answers:
        raise RequestFailed(failures[0])
    p50, p99 = np.percentile(first_bytes, [50, 99]) * 1000
    return Measured(
        streams=len(answers),
        failed=len(failures),
        failures=failures[:3],
        events=sum(answer.body.count(b"data: ") for answer in answers),
        reads=sum(answer.reads for answer in answers),
        first_byte_p50_ms=float(p50),
        first_byte_p99_ms=float(p99),
    )


def _check_whole(body: bytes) -> None:
    if b"data: [DONE]" not in body:
        raise RequestFailed(f"no [DONE] at the end: {body[-200:]!r}")


async def hold(url: str, headers: Mapping[str, str], count: int) -> None:
    """Open `count` streams, say so on standard output, hang up when standard input ends.

    Raises:
        NotSustained: they do not open within two minutes.
        RequestFailed: a stream did not begin, or ended before its time.
    """
    loop = asyncio.get_running_loop()
    parts, content = urlsplit(url), request(url, headers, stream=True)
    opening = asyncio.Semaphore(OPENING)
    connections: list[Connection] = []
    streams: list[asyncio.Task[Answer]] = []

    async def begin() -> None:
        async with opening:
            connection = await connect(parts)
            connections.append(connection)
            begun: asyncio.Future[None] = loop.create_future()
            stream = asyncio.create_task(connection.send(content, begun))
            streams.append(stream)
            either: list[asyncio.Future[Any]] = [stream, begun]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if stream.done():
                _check_open(stream)

    try:
        async with asyncio.timeout(OPENING_S), asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(begin())
        print(json.dumps({"open": len(streams)}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for stream in streams:
            if stream.done():
                _check_open(stream)
    except TimeoutError:
        raise NotSustained(f"{len(streams)} of {count} open after {OPENING_S} s") from None
    finally:
        for stream in streams:
            stream.cancel()
        for connection in connections:
            connection.close()
        await asyncio.gather(*streams, return_exceptions=True)


def _check_open(ended: asyncio.Task[Answer]) -> None:
    # result() raises what the stream ended with, if that was an error.
    end = ended.result().body[-200:]
    raise RequestFailed(f"a stream ended while it should have been open: {end!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Streaming load.")
    parser.add_argument("url")
    parser.add_argument("--streams", type=int, default=64, help="clients side by side")
    parser.add_argument("--rounds", type=int, default=1, help="streams of each client")
    parser.add_argument("--length", type=float, default=2, help="seconds one stream takes")
    parser.add_argument("--hold", type=int, metavar="N", help="hold N streams open instead")
    parser.add_argument("--header", type=parse_header, action="append", default=[])
    options = parser.parse_args()
    headers = dict(options.header)
    try:
        if options.hold:
            uvloop.run(hold(options.url, headers, options.hold))
        else:
            measured = uvloop.run(
                measure(
                    options.url,
                    headers,
                    streams=options.streams,
                    rounds=options.rounds,
                    length=options.length,
                )
            )
            print(msgspec.json.encode(measured).decode())
    except* NotSustained as reasons:
        parser.exit(NOT_SUSTAINED, f"not sustained: {reasons.exceptions[0]}\n")
    except* RequestFailed as failures:
        parser.exit(1, f"failed: {failures.exceptions[0]}\n")


if __name__ == "__main__":
    main()
