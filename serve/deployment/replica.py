"""One copy of a model on Ray Serve: an engine, and the two ways of asking it through Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal, NamedTuple

import msgspec

from providers.base import Call, Lifecycle, Provider, Reply
from providers.errors import MissingExtraError
from serve.batch.protocol import EngineRequest
from serve.config import LlamacppModel, ModelConfig, TransformersModel, VllmModel
from serve.engines.batching import batched

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class ResponseHead(NamedTuple):
    """How an answer begins.

    Attributes:
        status: of HTTP.
        content_type: of the body.
        load: `loading` where the copy has to load the model first (nothing of the answer yet,
            another ResponseHead follows), `failed` where it could not.
    """

    status: int
    content_type: str
    load: Literal["", "loading", "failed"] = ""


def load(name: str, model: ModelConfig) -> Provider:
    """The engine of a model, loaded.

    Args:
        name: the model's.
        model: what to load.

    Raises:
        ConfigError: the model cannot be loaded.
        MissingExtraError: the engine is not installed.
    """
    try:
        if isinstance(model, TransformersModel):
            from serve.engines.transformers import Transformers  # noqa: PLC0415  # imports torch

            return Transformers(name, model, batch=batched)
        if isinstance(model, VllmModel):
            from serve.engines.vllm import VllmEngine  # noqa: PLC0415  # an extra

            return VllmEngine(name, model)
        assert isinstance(model, LlamacppModel)
        from serve.engines.llamacpp import Llamacpp  # noqa: PLC0415  # an extra

        return Llamacpp(name, model)
    except ModuleNotFoundError as error:
        extra = "local" if isinstance(model, TransformersModel) else model.engine
        raise MissingExtraError(f"{name} (engine {model.engine})", extra) from error


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


def call_of(asked: EngineRequest) -> Call:
    """The request as engines take it."""
    return Call(
        path=asked.path,
        model=asked.model,
        envelope=_decode(asked.body),
        request_id=asked.request_id,
        traceparent=asked.traceparent,
        on_unsupported=asked.on_unsupported,
    )


def head_of(reply: Reply) -> ResponseHead:
    """How an engine's answer begins."""
    return ResponseHead(reply.status, reply.headers.get("content-type", "application/json"))
