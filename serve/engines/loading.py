"""Loads the engine of a model, and gives it requests."""

from __future__ import annotations

import msgspec

from providers.base import Call, Provider, Reply
from serve.config import (
    LlamacppModel,
    LlamaCppPythonModel,
    ModelConfig,
    TransformersModel,
    VllmModel,
    missing_engine,
    not_installed,
)
from serve.engines.batching import batched
from serve.engines.messages import EngineRequest, ResponseHead

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def load(name: str, model: ModelConfig) -> Provider:
    """Load a model and return its engine.

    Args:
        name: the model's name.
        model: what to load.

    Raises:
        ConfigError: the model cannot be loaded.
        MissingExtraError: the extra with the engine is not installed.
    """
    try:
        if isinstance(model, TransformersModel):
            from serve.engines.transformers import Transformers  # noqa: PLC0415  # imports torch

            return Transformers(name, model, batch=batched)
        if isinstance(model, VllmModel):
            from serve.engines.vllm import VllmEngine  # noqa: PLC0415  # an extra

            return VllmEngine(name, model)
        if isinstance(model, LlamaCppPythonModel):
            if (error := missing_engine(name, model)) is not None:
                raise error
            from serve.engines.llama_cpp_python import LlamaCppPython  # noqa: PLC0415  # likewise

            return LlamaCppPython(name, model)
        assert isinstance(model, LlamacppModel)
        from serve.engines.llamacpp import Llamacpp  # noqa: PLC0415  # an extra

        return Llamacpp(name, model)
    except ModuleNotFoundError as error:
        raise not_installed(name, model) from error


def call_of(request: EngineRequest) -> Call:
    """Return a request as engines take it."""
    return Call(
        path=request.path,
        model=request.model,
        envelope=_decode(request.body),
        request_id=request.request_id,
        traceparent=request.traceparent,
        on_unsupported=request.on_unsupported,
    )


def head_of(reply: Reply) -> ResponseHead:
    """Return how an engine's answer begins."""
    return ResponseHead(reply.status, reply.headers.get("content-type", "application/json"))
