"""Real servers for tests: a scripted upstream over HTTP, and evalrouter in front of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from providers.scripted import Script, ScriptedServer
from router.config import Config, parse
from router.server import background


@contextmanager
def scripted(models: Mapping[str, list[dict[str, Any]]]) -> Iterator[ScriptedServer]:
    """A scripted upstream in a thread of its own; `server.log` is what it received."""
    server = ScriptedServer(msgspec.convert({"models": models}, Script))
    started, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def life() -> None:
        async with server:
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(life()))
    thread.start()
    try:
        assert started.wait(10)
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@contextmanager
def gateway(config: Config | str, environ: Mapping[str, str] | None = None) -> Iterator[str]:
    """A server for a config, in a thread of its own; yields its base URL."""
    if isinstance(config, str):
        config = parse(config, "test.yaml", environ or {})
    with background(config) as url:
        yield url
