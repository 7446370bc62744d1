"""One copy of a model on Ray Serve: an engine, and the two ways of asking it through Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator

from providers.base import Lifecycle, Reply
from serve.config import ModelConfig
from serve.engines.loading import call_of, head_of, load
from serve.engines.messages import EngineRequest, ResponseHead


class Replica:
    """What Ray Serve makes copies of.

    Args:
        name: the model's.
        model: what to load.
    """

    def __init__(self, name: str, model: ModelConfig) -> None:
        self._engine = load(name, model)
        self._opened = False

    async def _send(self, asked: EngineRequest) -> Reply:
        if isinstance(self._engine, Lifecycle) and not self._opened:
            # Here and not in the constructor, which has no event loop.
            self._opened = True
            await self._engine.open()
        return await self._engine.send(call_of(asked))

    async def whole(self, asked: EngineRequest) -> tuple[ResponseHead, bytes]:
        """The whole answer."""
        reply = await self._send(asked)
        try:
            return head_of(reply), await reply.read()
        finally:
            await reply.aclose()

    async def stream(self, asked: EngineRequest) -> AsyncIterator[ResponseHead | bytes]:
        """How the answer begins, then its bytes as they are made."""
        reply = await self._send(asked)
        try:
            yield head_of(reply)
            async for chunk in reply.chunks():
                yield chunk
        finally:
            # Ray closes us when the client has left; this ends the work.
            await reply.aclose()

    async def check_health(self) -> None:
        """Asked by Ray Serve; a process that answers is healthy."""
