"""Puts providers in front of fake hosts, and sends them requests in a line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec
from fake_hosts import KEY, MODEL, Dialect, FakeHost

from providers import wire
from providers.base import Call, Provider, ProviderConfig, Secret, Translation
from providers.http import sse
from providers.http.transport import Transport
from providers.kinds import KINDS, make


class Host(NamedTuple):
    provider: Provider
    server: FakeHost


class HostAnswer(NamedTuple):
    status: int
    body: bytes
    translation: Translation

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Streamed(NamedTuple):
    chunks: list[dict[str, Any]]
    done: bool
    translation: Translation


def config(kind: str, **fields: Any) -> ProviderConfig:
    """Return a provider's entry as the config file would give it."""
    return msgspec.convert(
        {"kind": kind, **fields},
        KINDS[kind].config,
        dec_hook=lambda kind, value: Secret(value) if kind is Secret else value,
    )


@asynccontextmanager
async def transport() -> AsyncIterator[Transport]:
    client = Transport()
    await client.open()
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def open_host(kind: str, dialect: Dialect, **fields: Any) -> AsyncIterator[Host]:
    """Yield a provider of a kind in front of a fake host."""
    async with FakeHost(dialect) as server, transport() as client:
        entry = config(kind, **{"base_url": server.url, "api_key": KEY, **fields})
        yield Host(make(kind, entry, client), server)


def call(
    path: Any = "chat/completions",
    *,
    model: str = MODEL,
    on_unsupported: Any = "drop",
    **fields: Any,
) -> Call:
    """Return a call with these fields; a chat has a message of its own unless they have one."""
    if path == "chat/completions":
        fields.setdefault("messages", [{"role": "user", "content": "hi"}])
    return Call(
        path=path,
        model=model,
        envelope={
            name: msgspec.Raw(wire.encode(value))
            for name, value in {"model": "the client's name", **fields}.items()
        },
        stream=bool(fields.get("stream")),
        on_unsupported=on_unsupported,
    )


async def ask(host: Host | Provider, path: Any = "chat/completions", **fields: Any) -> HostAnswer:
    """Send a request and return the whole answer."""
    provider = host.provider if isinstance(host, Host) else host
    reply = await provider.send(call(path, **fields))
    try:
        return HostAnswer(reply.status, await reply.read(), reply.translation)
    finally:
        await reply.aclose()


async def stream(host: Host | Provider, path: Any = "chat/completions", **fields: Any) -> Streamed:
    """Send a request and return the streamed answer, read to its end."""
    provider = host.provider if isinstance(host, Host) else host
    reply = await provider.send(call(path, stream=True, **fields))
    try:
        assert reply.status == 200, await reply.read()
        body = b"".join([chunk async for chunk in reply.chunks()])
    finally:
        await reply.aclose()
    events = sse.Parser().feed(body)
    chunks = [msgspec.json.decode(event.data) for event in events if event.data != b"[DONE]"]
    return Streamed(chunks, events[-1].data == b"[DONE]", reply.translation)


def texts(streamed: Streamed, name: str = "content") -> str:
    """Return the joined texts of the first choice's deltas."""
    return "".join(
        (choice.get("delta") or {}).get(name) or ""
        for chunk in streamed.chunks
        for choice in chunk["choices"]
        if not choice["index"]
    )
