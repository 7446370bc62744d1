"""vLLM as an engine, through Ray's own `ray.serve.llm`.

Ray places the engine's workers (tensor and pipeline parallel ones too), and answers as vLLM's own
server does. Two settings are ours: streams are not held back for batches, and sampling defaults
are the engine's and not the model's, so that two hosts of one model do not differ.
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
# Arguments that an entry sets under our own names.
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
    """Return the configuration of a model for `ray.serve.llm`.

    Args:
        name: the model's name.
        model: the model's entry.
        options: Ray Serve's options for its deployment.

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
        # As many in one batch as requests may name, within reason: each takes room on the GPU.
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
    # As many GPUs as the engine has workers, whatever part of one each of them uses.
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
        reason = " ".join(str(error).split())[:500]
        raise ConfigError(f"models.{name}: {reason}") from error


def deployment(name: str, model: VllmModel, options: dict[str, Any]) -> Application:
    """Return the deployment of a model.

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
    """Ray's server of one model, with the methods that all our copies have.

    Ray finds adapters in a bucket by the names in requests. Ours are named in the config and may
    be anywhere, so vLLM gets them when it starts.

    Args:
        llm_config: see `llm_config`.
        adapters: the source of each adapter by name.
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

    async def _results(self, request: EngineRequest) -> AsyncIterator[Any]:
        if request.path not in _REQUESTS:
            raise RequestError(
                f"{request.model} writes text; it has no embeddings",
                param="model",
                code="unsupported_model",
            )
        method, kind = _REQUESTS[request.path]
        try:
            fields = msgspec.json.decode(request.body)
        except wire.UNREADABLE as error:
            raise RequestError(f"The request cannot be read: {error}", code="bad_json") from None
        # The client may have named the source, which vLLM does not know.
        adapter = adapter_of(request.model, self._adapters)
        fields["model"] = f"{self._name}:{adapter}" if adapter else self._name
        try:
            parsed = kind(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise RequestError(
                f"{where}: {first['msg']}", param=where or None, code="invalid_type"
            ) from error
        results: AsyncIterator[Any] = await getattr(self, method)(parsed)
        return results

    async def whole(self, request: EngineRequest) -> tuple[ResponseHead, bytes]:
        """Return the whole answer."""
        try:
            results = await self._results(request)
        except RequestError as error:
            return ResponseHead(error.status, "application/json"), wire.encode(error.as_openai())
        result = await anext(results)
        if (refused := _error(result)) is not None:
            return refused
        return ResponseHead(200, "application/json"), result.model_dump_json().encode()

    async def stream(self, request: EngineRequest) -> AsyncIterator[ResponseHead | bytes]:
        """Yield how the answer begins, then its events as they are made."""
        try:
            results = await self._results(request)
        except RequestError as error:
            yield ResponseHead(error.status, "application/json")
            yield wire.encode(error.as_openai())
            return
        begun = False
        async for batch in results:
            for item in batch if isinstance(batch, list) else [batch]:
                if not begun and (refused := _error(item)) is not None:
                    for part in refused:
                        yield part
                    return
                if not begun:
                    begun = True
                    yield ResponseHead(200, "text/event-stream; charset=utf-8")
                yield item.encode() if isinstance(item, str) else item.model_dump_json().encode()


class VllmEngine:
    """A model that a run loads itself, in an actor of its own. See `inplace.py`.

    Its engine's workers take what Ray reserves for them beside the actor.

    Args:
        name: the model's name.
        model: the model's entry.

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
        # Ray Serve awaits the constructor too.
        made: Any = VllmServer.__init__
        await made(server, self._config, adapters=self._adapters)
        self._server = server

    async def close(self) -> None:
        """End the engine."""
        server, self._server = self._server, None
        if server is not None:
            await server.engine.shutdown()

    async def send(self, call: Call) -> Reply:
        """Return the whole answer."""
        body = wire.encode(call.envelope)
        request = EngineRequest(call.path, call.model, body, call.request_id, call.traceparent)
        head, answer = await self._server.whole(request)
        return BytesReply(answer, status=head.status, headers={"content-type": head.content_type})


def _add_adapters(config: LLMConfig, adapters: Mapping[str, str]) -> None:
    """Give vLLM the adapters' places, and the width of the widest."""
    folders = {name: Path(fetch_folder(source)) for name, source in adapters.items()}
    engine = config.get_engine_config()
    engine.frontend_kwargs["lora_modules"] = [
        LoRAModulePath(f"{config.model_id}:{name}", str(folder)) for name, folder in folders.items()
    ]
    if "max_lora_rank" not in config.engine_kwargs:
        ranks = [_rank(folder) for folder in folders.values()]
        # vLLM has room for some widths only.
        room = [width for width in get_args(MaxLoRARanks) if width >= max(ranks)]
        config.update_engine_kwargs(max_lora_rank=min(room, default=max(ranks)))


def _rank(folder: Path) -> int:
    try:
        config = msgspec.json.decode((folder / "adapter_config.json").read_bytes())
        return int(config["r"])
    except (OSError, KeyError, TypeError, ValueError, msgspec.DecodeError) as error:
        raise ConfigError(f"{folder} is no LoRA adapter: {error}") from error


def _error(result: Any) -> tuple[ResponseHead, bytes] | None:
    """Return vLLM's error as OpenAI's, whose code is a string or null; vLLM's is a status."""
    error = getattr(result, "error", None)
    if error is None:
        return None
    body = {"message": error.message, "type": error.type, "param": error.param, "code": None}
    return ResponseHead(int(error.code), "application/json"), wire.encode({"error": body})
