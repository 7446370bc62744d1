"""An engine within an actor of a run, asked through the driver: no HTTP and no Ray Serve.

The driver makes `Engine` in each worker of a crew (`protocol.Crew.make`) and calls `send`, several
at a time, so that the engine generates them together.
"""

from __future__ import annotations

import os

from providers.base import Lifecycle
from serve.config import read
from serve.engines.loading import call_of, load
from serve.engines.messages import EngineResponse, decode_asked, decode_load, encode


class Engine:
    """A loaded model.

    Args:
        argument: a LoadModel.

    Raises:
        ConfigError: the model cannot be loaded.
        MissingExtraError: the engine is not installed on this machine.
    """

    def __init__(self, argument: bytes) -> None:
        said = decode_load(argument)
        model = read({said.name: said.entry}, os.environ)[said.name]
        self._engine = load(said.name, model)

    async def open(self) -> None:
        """Before anything is sent. Not in the constructor, which has no event loop."""
        if isinstance(self._engine, Lifecycle):
            await self._engine.open()

    async def send(self, payload: bytes) -> bytes:
        """Have the engine answer an EngineRequest with an EngineResponse."""
        reply = await self._engine.send(call_of(decode_asked(payload)))
        try:
            content_type = reply.headers.get("content-type", "application/json")
            body = await reply.read()
        finally:
            await reply.aclose()
        return encode(EngineResponse(reply.status, content_type, body, reply.translation))
