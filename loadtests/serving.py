r"""Tokens per second of a hosted model: the bare engine, Ray Serve in front of it, and the router.

    python -m loadtests.serving MODEL --clients 8 --seconds 5 --rounds 5

MODEL is a causal model for the transformers engine: a folder, or a name on the hub. All three get
requests for the same streams on this machine, in turns, so that a noisy minute does not fall on one
of them alone; the table has the medians, and those of the ratios within a round. The bare engine
runs in a process of its own, the clients in this one, so the comparison is of what is between.
Needs the extras `ray` and `local`; the tests' tiny Llama will do for MODEL (extra `local-test`):

    PYTHONPATH=tests python -c \
      "import pathlib, tiny_models; tiny_models.llama(pathlib.Path('MODEL'))"
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import msgspec

from loadtests.processes import free_port, started

TOKENS = 64
PROMPT = "Tell me what the weather was like when the ships came home."


class Measured(msgspec.Struct, frozen=True):
    """What the clients saw.

    Attributes:
        place: `engine`, `serve` or `router`.
        tokens_per_second: over all clients.
        first_ms: median milliseconds to the first token.
        streams: how many came whole.
    """

    place: str
    tokens_per_second: float
    first_ms: float
    streams: int


def body(model: str) -> dict[str, Any]:
    """Return a request for as many tokens as fit, so that all streams are alike."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "temperature": 0,
        "max_tokens": TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


Stream = Callable[[], AsyncIterator[bytes]]


async def measure(place: str, stream: Stream, *, clients: int, seconds: float) -> Measured:
    """Send requests from some clients at a time, each again as soon as it was answered."""
    # What is made at the first request is not what is measured.
    await asyncio.gather(*(_read_stream(stream) for _ in range(clients)))
    began = time.perf_counter()
    seen: list[tuple[int, float]] = []

    async def client() -> None:
        while time.perf_counter() - began < seconds:
            seen.append(await _read_stream(stream))

    await asyncio.gather(*(client() for _ in range(clients)))
    took = time.perf_counter() - began
    firsts = sorted(first for _, first in seen)
    tokens = sum(tokens for tokens, _ in seen)
    return Measured(place, tokens / took, 1000 * firsts[len(firsts) // 2], len(seen))


async def _read_stream(stream: Stream) -> tuple[int, float]:
    """Return the tokens of one stream, and the seconds to its first text."""
    began = time.perf_counter()
    first = 0.0
    tail = b""
    async for chunk in stream():
        if not first and b'"content":"' in chunk and b'"content":""' not in chunk:
            first = time.perf_counter() - began
        tail = (tail + chunk)[-2000:]
    usage = re.search(rb'"completion_tokens":(\d+)', tail)
    if not usage or not tail.rstrip().endswith(b"[DONE]"):
        raise RuntimeError(f"a stream was cut off: {tail[-300:]!r}")
    return int(usage[1]), first


def over_http(client: httpx.AsyncClient, url: str, model: str) -> Stream:
    """Stream from a host."""

    async def stream() -> AsyncIterator[bytes]:
        async with client.stream("POST", f"{url}/chat/completions", json=body(model)) as reply:
            reply.raise_for_status()
            async for chunk in reply.aiter_raw():
                yield chunk

    return stream


async def bare(source: str, clients: int, seconds: float) -> Measured:
    """Measure the engine in this process."""
    # Torch is this process's only; the one that measures the others does without.
    from providers.base import Call  # noqa: PLC0415
    from serve.config import TransformersModel  # noqa: PLC0415
    from serve.engines.transformers import Transformers  # noqa: PLC0415

    model = TransformersModel(engine="transformers", source=source, concurrency=clients)
    engine = Transformers("m", model)
    envelope = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in body("m").items()}

    async def stream() -> AsyncIterator[bytes]:
        call = Call(path="chat/completions", model="m", envelope=envelope, stream=True)
        reply = await engine.send(call)
        async for chunk in reply.chunks():
            yield chunk

    return await measure("engine", stream, clients=clients, seconds=seconds)


@contextmanager
def command(folder: Path, *arguments: str) -> Iterator[str]:
    """Run an `evalrouter` command that serves until it is ended; yield its address."""
    log = folder / f"{arguments[0]}.log"
    with started([sys.executable, "-m", "router", *arguments], log=log, cwd=folder) as process:
        while not (address := re.search(r" on (http://[^\s:]+:\d+\S*)", log.read_text())):
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(arguments)}: {log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield address[1]


async def over_host(url: str, model: str, place: str, clients: int, seconds: float) -> Measured:
    """Measure the host itself, or the router in front of it."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=120, limits=limits) as client:
        stream = over_http(client, url, model)
        return await measure(place, stream, clients=clients, seconds=seconds)


def bare_elsewhere(source: str, clients: int, seconds: float) -> Measured:
    """Measure the bare engine in a process of its own."""
    again = [sys.executable, "-m", "loadtests.serving", source, "--bare"]
    again += ["--clients", str(clients), "--seconds", str(seconds)]
    done = subprocess.run(again, check=True, stdout=subprocess.PIPE)
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Measured)


def rounds(source: str, clients: int, seconds: float, count: int) -> list[list[Measured]]:
    """Measure the engine, Serve and the router in turns, `count` times."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = {"engine": "transformers", "source": source, "concurrency": clients}
        hosted = str(free_port())
        config = {
            "models": {"m": model},
            "providers": {
                "gpu": {"kind": "ray_serve", "base_url": f"http://127.0.0.1:{hosted}/v1"}
            },
        }
        (folder / "evalrouter.yaml").write_text(json.dumps(config))
        with (
            command(folder, "models", "serve", "evalrouter.yaml", "--port", hosted) as host,
            command(folder, "serve", "--port", str(free_port())) as router,
        ):
            targets = {"serve": (host.rstrip(":"), "m"), "router": (f"{router}/v1", "gpu/m")}
            return [
                [bare_elsewhere(source, clients, seconds)]
                + [
                    asyncio.run(over_host(url, model, place, clients, seconds))
                    for place, (url, model) in targets.items()
                ]
                for _ in range(count)
            ]


def table(rounds: list[list[Measured]]) -> str:
    """Return a row for each place: medians, and medians of the ratios within a round."""
    lines = [
        "| where | tokens/s | of the bare engine | of Ray Serve | first token, ms | streams |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for number, column in enumerate(zip(*rounds, strict=True)):
        rates = [measured.tokens_per_second for measured in column]
        ratios = [
            median(row[number].tokens_per_second / row[base].tokens_per_second for row in rounds)
            for base in (0, 1)
        ]
        first_ms = median(measured.first_ms for measured in column)
        lines.append(
            f"| {column[0].place} | {median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f}) | "
            f"{ratios[0]:.1%} | {ratios[1]:.1%} | {first_ms:.0f} | "
            f"{sum(measured.streams for measured in column)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        measured = asyncio.run(bare(given.source, given.clients, given.seconds))
        print(msgspec.json.encode(measured).decode())
        return
    print(table(rounds(given.source, given.clients, given.seconds, given.rounds)))


if __name__ == "__main__":
    main()
