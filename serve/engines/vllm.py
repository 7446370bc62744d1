"""vLLM as an engine, through Ray's own `ray.serve.llm`.

Ray places the engine's workers (tensor and pipeline parallel ones too), and answers as vLLM's own
server does. What is said here and not left to Ray: streams are not held back
for batches, and sampling defaults are the engine's and not the model's, so that two hosts of one
model do not differ.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
from pydantic import ValidationError
from ray.serve import Application
from ray.serve.llm import LLMConfig, LLMServer, build_llm_deployment
from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest
from vllm.config.lora import MaxLoRARanks
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.openai.models.protocol import LoRAModulePath

from providers import wire
from providers.base import BytesReply, Call, Reply
from providers.errors import ConfigError, RequestError, closest
from serve.config import VllmModel, adapter_of
from serve.engines.messages import EngineRequest, ResponseHead
from serve.engines.model_files import fetch, fetch_folder

_REQUESTS: Mapping[str, tuple[str, Any]] = {
    "chat/completions": ("chat", ChatCompletionRequest),
    "completions": ("completions", CompletionRequest),
}
# What the entry says elsewhere, under our own names.
_OURS = {
    "model": "source",
    "served_model_name": "its name",
    "revision": "revision",
    "lora_modules": "adapters",
}
_ADAPTERS_TOGETHER = 8
# Arguments of vLLM's server, not of its engine, which Ray passes on to it.
_SERVERS = (
    "chat_template",
    "chat_template_content_format",
    "enable_auto_tool_choice",
    "reasoning_parser",
    "response_role",
    "return_tokens_as_token_ids",
    "tool_call_parser",
)


def llm_config(name: str, model: VllmModel, options: Mapping[str, Any]) -> LLMConfig:
    """What `ray.serve.llm` is told of a model.

    Args:
        name: the model's.
        model: its entry.
        options: of its deployment on Ray Serve.

    Raises:
        ConfigError: vLLM has no such argument, or Ray refuses the whole.
    """
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)} | set(_SERVERS)
    for key in model.options:
        if key in _OURS:
            raise ConfigError(f"models.{name}.options.{key}: say it with {_OURS[key]}")
        if key not in known:
            raise ConfigError(
                f"models.{name}.options.{key}: vLLM has no such argument.{closest(key, known)}"
            )
    engine: dict[str, Any] = {"generation_config": "vllm", **model.options}
    if model.revision:
        engine["revision"] = model.revision
    gpus = model.gpus or 0
    if model.adapters:
        # As many in one batch as may be asked for, within reason: each has its room on the GPU.
        together = min(len(model.adapters), _ADAPTERS_TOGETHER)
        if not gpus:
            # vLLM's kernels for CPUs give rows without an adapter, place -1, the last one's: it has
            # to stay empty.
            together = len(model.adapters) + 1
            if engine.get("max_loras", together) < together:
                raise ConfigError(
                    f"models.{name}.options.max_loras: at least {together} on a CPU, one more than "
                    "there are adapters: vLLM would use the last of them for the model itself"
                )
        engine = {"enable_lora": True, "max_loras": together, **engine}
    workers = engine.get("tensor_parallel_size", 1) * engine.get("pipeline_parallel_size", 1)
    bundle = {"CPU": max(model.cpus, 1)} | ({"GPU": min(gpus, 1)} if gpus else {})
    # So many GPUs as the engine's workers take, whatever part of one each of them has.
    count = max(workers, math.ceil(gpus))
    try:
        return LLMConfig(
            model_loading_config={"model_id": name, "model_source": fetch(model.source)},
            engine_kwargs=engine,
            accelerator_type=model.accelerator or None,
            accelerator_config={"kind": "gpu" if gpus else "cpu"},
            placement_group_config={"bundles": [bundle] * count},
            deployment_config=dict(options),
            experimental_configs={"stream_batching_interval_ms": 0},
        )
    except (ValidationError, ValueError) as error:
        told = " ".join(str(error).split())[:500]
        raise ConfigError(f"models.{name}: {told}") from error


def deployment(name: str, model: VllmModel, options: dict[str, Any]) -> Application:
    """The deployment of a model.

    Raises:
        ConfigError: see `llm_config`.
    """
    config = llm_config(name, model, options)
    named = {"name": options["name"]}
    return build_llm_deployment(
        config,
        deployment_cls=VllmServer,
        override_serve_options=named,
        bind_kwargs={"adapters": model.adapters},
    )


class VllmServer(LLMServer):  # type: ignore[misc]  # its types are not installed everywhere
    """Ray's server of one model, asked in the way of all our copies.

    Ray's own way with adapters finds them in a bucket by the names that clients say. Ours are
    named in the config and may be anywhere, so that vLLM is told of them when it starts.

    Args:
        llm_config: see `llm_config`.
        adapters: name to where it comes from.
    """

    # Ray awaits it.
    async def __init__(  # type: ignore[misc]
        self, llm_config: LLMConfig, *, adapters: Mapping[str, str]
    ) -> None:
        self._name = llm_config.model_id
        self._adapters = adapters
        if adapters:
            await asyncio.to_thread(_add_adapters, llm_config, adapters)
        await super().__init__(llm_config)

    async def _results(self, asked: EngineRequest) -> AsyncIterator[Any]:
        if asked.path not in _REQUESTS:
            raise RequestError(
                f"{asked.model} writes text; it has no embeddings",
                param="model",
                code="unsupported_model",
            )
        method, kind = _REQUESTS[asked.path]
        try:
            fields = msgspec.json.decode(asked.body)
        except wire.UNREADABLE as error:
            raise RequestError(f"The request cannot be read: {error}", code="bad_json") from None
        # The client may have named the source, which vLLM does not know.
        adapter = adapter_of(asked.model, self._adapters)
        fields["model"] = f"{self._name}:{adapter}" if adapter else self._name
        try:
            request = kind(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise RequestError(
                f"{where}: {first['msg']}", param=where or None, code="invalid_type"
            ) from error
        results: AsyncIterator[Any] = await getattr(self, method)(request)
        return results

    async def whole(self, asked: EngineRequest) -> tuple[ResponseHead, bytes]:
        """The whole answer."""
        try:
            results = await self._results(asked)
        except RequestError as error:
            return ResponseHead(error.status, "application/json"), wire.encode(error.as_openai())
        found = await anext(results)
        if (refused := _error(found)) is not None:
            return refused
        return ResponseHead(200, "application/json"), found.model_dump_json().encode()

    async def stream(self, asked: EngineRequest) -> AsyncIterator[ResponseHead | bytes]:
        """How the answer begins, then its events as they are made."""
        try:
            results = await self._results(asked)
        except RequestError as error:
            yield ResponseHead(error.status, "application/json")
            yield wire.encode(error.as_openai())
            return
        begun = False
        async for batch in results:
            for one in batch if isinstance(batch, list) else [batch]:
                if not begun and (refused := _error(one)) is not None:
                    for part in refused:
                        yield part
                    return
                if not begun:
                    begun = True
                    yield ResponseHead(200, "text/event-stream; charset=utf-8")
                yield one.encode() if isinstance(one, str) else one.model_dump_json().encode()


class VllmEngine:
    """A model in an actor of its own, asked there: what a run loads itself. See `inplace.py`.

    Its engine's workers take what Ray reserves for them beside the actor.

    Args:
        name: the model's.
        model: its entry.

    Raises:
        ConfigError: see `llm_config`.
    """

    def __init__(self, name: str, model: VllmModel) -> None:
        self.name = name
        self._config = llm_config(name, model, {})
        self._adapters = model.adapters
        self._server: Any = None

    async def open(self) -> None:
        """Start the engine; returns once the model is loaded."""
        server: Any = VllmServer.__new__(VllmServer)
        # As Ray Serve does it: a constructor that is awaited.
        made: Any = VllmServer.__init__
        await made(server, self._config, adapters=self._adapters)
        self._server = server

    async def close(self) -> None:
        """End the engine."""
        server, self._server = self._server, None
        if server is not None:
            await server.engine.shutdown()

    async def send(self, call: Call) -> Reply:
        """The whole answer."""
        body = wire.encode(call.envelope)
        asked = EngineRequest(call.path, call.model, body, call.request_id, call.traceparent)
        head, answer = await self._server.whole(asked)
        return BytesReply(answer, status=head.status, headers={"content-type": head.content_type})


def _add_adapters(config: LLMConfig, adapters: Mapping[str, str]) -> None:
    """Tell vLLM where the adapters are, and how wide the widest is."""
    folders = {name: Path(fetch_folder(source)) for name, source in adapters.items()}
    engine = config.get_engine_config()
    engine.frontend_kwargs["lora_modules"] = [
        LoRAModulePath(f"{config.model_id}:{name}", str(folder)) for name, folder in folders.items()
    ]
    if "max_lora_rank" not in config.engine_kwargs:
        ranks = [_rank(folder) for folder in folders.values()]
        # vLLM has room for some widths only.
        room = [one for one in get_args(MaxLoRARanks) if one >= max(ranks)]
        config.update_engine_kwargs(max_lora_rank=min(room, default=max(ranks)))


def _rank(folder: Path) -> int:
    try:
        told = msgspec.json.decode((folder / "adapter_config.json").read_bytes())
        return int(told["r"])
    except (OSError, KeyError, TypeError, ValueError, msgspec.DecodeError) as error:
        raise ConfigError(f"{folder}: is no LoRA adapter: {error}") from error


def _error(found: Any) -> tuple[ResponseHead, bytes] | None:
    """The error object of vLLM, whose code is a status; OpenAI's is a string, or null."""
    error = getattr(found, "error", None)
    if error is None:
        return None
    told = {"message": error.message, "type": error.type, "param": error.param, "code": None}
    return ResponseHead(int(error.code), "application/json"), wire.encode({"error": told})
