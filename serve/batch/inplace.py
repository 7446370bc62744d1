"""Runs an engine within an actor of a run, without HTTP and Ray Serve: the driver calls it.

The driver makes `Engine` in each worker of a crew (`protocol.Crew.make`) and calls `send`, several
at a time, so that the engine generates them together.
"""

from __future__ import annotations

import os

from providers.base import Lifecycle
from serve.config import read
from serve.engines.loading import call_of, load
from serve.engines.messages import EngineResponse, decode_load, decode_request, encode


class Engine:
    """A loaded model that answers calls of the driver.

    Args:
        argument: a LoadModel, encoded.

    Raises:
        ConfigError: the model cannot be loaded.
        MissingExtraError: the engine is not installed on this machine.
    """

    def __init__(self, argument: bytes) -> None:
        message = decode_load(argument)
        model = read({message.name: message.entry}, os.environ)[message.name]
        self._engine = load(message.name, model)

    async def open(self) -> None:
        """Open the engine before the first call. The constructor has no event loop to do it in."""
        if isinstance(self._engine, Lifecycle):
            await self._engine.open()

    async def send(self, payload: bytes) -> bytes:
        """Answer an EngineRequest with an EngineResponse, both encoded."""
        reply = await self._engine.send(call_of(decode_request(payload)))
        try:
            content_type = reply.headers.get("content-type", "application/json")
            body = await reply.read()
        finally:
            await reply.aclose()
        return encode(EngineResponse(reply.status, content_type, body, reply.translation))
