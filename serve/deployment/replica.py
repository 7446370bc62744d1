"""One copy of a model on Ray Serve: an engine, with a whole or a streamed answer through Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from providers.base import HasModelFacts, Lifecycle, ModelFacts, Reply
from providers.local_servers.peak_memory import process_peak
from serve.config import ModelConfig
from serve.engines.loading import call_of, head_of, load
from serve.engines.messages import EngineRequest, ResponseHead


class Replica:
    """The class that Ray Serve makes copies of.

    Args:
        name: the model's name.
        model: what to load.
    """

    def __init__(self, name: str, model: ModelConfig) -> None:
        self._name = name
        self._engine = load(name, model)
        self._is_open = False

    async def _send(self, request: EngineRequest) -> Reply:
        if isinstance(self._engine, Lifecycle) and not self._is_open:
            # Here and not in the constructor, which has no event loop.
            self._is_open = True
            await self._engine.open()
        return await self._engine.send(call_of(request))

    async def whole(self, request: EngineRequest) -> tuple[ResponseHead, bytes]:
        """Return the whole answer."""
        reply = await self._send(request)
        try:
            return head_of(reply), await reply.read()
        finally:
            await reply.aclose()

    async def stream(self, request: EngineRequest) -> AsyncIterator[ResponseHead | bytes]:
        """Yield how the answer begins, then its bytes as they are made."""
        reply = await self._send(request)
        try:
            yield head_of(reply)
            async for chunk in reply.chunks():
                yield chunk
        finally:
            # Ray closes us when the client has left; this ends the work.
            await reply.aclose()

    async def facts(self) -> ModelFacts:
        """Return how the model is stored, and the memory that this process has taken."""
        facts = ModelFacts()
        if isinstance(self._engine, HasModelFacts):
            facts = await self._engine.facts(self._name)
        memory = await asyncio.to_thread(process_peak)
        return msgspec.structs.replace(facts, peak_memory_bytes=memory)

    async def check_health(self) -> None:
        """Answer Ray Serve, for which a process that answers is healthy."""
