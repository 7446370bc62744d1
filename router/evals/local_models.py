"""Loads models of the config's section `models:` in actors of one run, without HTTP between.

    in_place = InPlace(config.models)
    await in_place.load(cluster, ["bart"])
    response = await in_place.open(plan, upstream)     # as from a Dispatcher

A run names them as `models/<name>` and says `execution: ray`. Requests, attempts, records and
answers are what they are over HTTP. A request whose worker dies is sent to another one; the last
try goes alone, so that a request which kills its workers costs itself only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from evaluators.execution.worker_pool import together
from providers.base import BytesReply, Call, Reply
from providers.errors import ConfigError, UpstreamProtocolError, WorkerLostError
from providers.translation.compose import model_list
from router.config.section import IN_PLACE
from router.evals.cluster import Cluster
from router.gateway.dispatch import Dispatcher
from router.gateway.routing import Plan
from router.gateway.upstream import UpstreamRequest, UpstreamResponse
from router.records import Attempt
from serve.config import ModelConfig, VllmModel
from serve.engines.messages import EngineRequest, LoadModel, decode_response, encode

# Workers that may die of one request.
_TRIES = 3
_ENGINE = "serve.batch.inplace:Engine"
# Where and how often a model is loaded has no part in what it answers.
_PLACEMENT = frozenset({"cpus", "gpus", "replicas", "concurrency", "queue", "cold_start", "share"})

_encode_body = msgspec.json.Encoder().encode


def names_of(models: Mapping[str, ModelConfig]) -> list[str]:
    """Return the names that may stand after `models/`."""
    return [
        callable_name
        for name, model in models.items()
        for callable_name in (name, *(f"{name}:{adapter}" for adapter in model.adapters))
    ]


def entry_of(models: Mapping[str, ModelConfig], name: str) -> dict[str, Any]:
    """Return the settings that a model's answers depend on, for the hash of its requests."""
    entry = msgspec.to_builtins(models[_base(name, models)])
    return {key: value for key, value in entry.items() if key not in _PLACEMENT}


def _base(name: str, models: Mapping[str, ModelConfig]) -> str:
    """Return the model that a name's adapter belongs to."""
    return name if name in models else name.rpartition(":")[0]


class InPlace:
    """The models of one run: a Provider, with the dispatcher that sends it requests.

    Args:
        models: the config's.

    Attributes:
        names: the names that may stand after `models/`.
    """

    name = IN_PLACE

    def __init__(self, models: Mapping[str, ModelConfig]) -> None:
        self.names = names_of(models)
        self._models = models
        self._cluster: Cluster | None = None
        self._dispatcher = Dispatcher({IN_PLACE: self})
        self._last_try = asyncio.Lock()

    async def load(self, cluster: Cluster, names: Iterable[str]) -> None:
        """Start workers for these models: `replicas.max` each, as far as the cluster has room.

        Raises:
            ConfigError: one of them cannot be loaded.
            ClusterError: the cluster cannot be reached.
        """
        self._cluster = cluster
        models = sorted({_base(name, self._models) for name in names})
        reasons = await together(*(self._crew(cluster, name) for name in models))
        named = zip(models, reasons, strict=True)
        if failed := [f"models.{name}: {why}" for name, why in named if why]:
            raise ConfigError("; ".join(failed), param="models")

    async def _crew(self, cluster: Cluster, name: str) -> str:
        model = self._models[name]
        # vLLM has Ray reserve what its own workers take.
        reserves = isinstance(model, VllmModel)
        return await cluster.crew(
            name=f"{IN_PLACE}/{name}",
            make=_ENGINE,
            argument=encode(LoadModel(name, msgspec.to_builtins(model))),
            workers=model.replicas.max_copies,
            cpus=0.0 if reserves else model.cpus,
            gpus=0.0 if reserves else model.gpus or 0.0,
            at_once=model.concurrency,
        )

    async def open(self, plan: Plan, upstream: UpstreamRequest) -> UpstreamResponse:
        """Send a request to one of these models, as `Dispatcher.open` does."""
        lost: tuple[Attempt, ...] = ()
        while True:
            try:
                if len(lost) + 1 < _TRIES:
                    response = await self._dispatcher.open(plan, upstream)
                else:
                    async with self._last_try:
                        response = await self._dispatcher.open(plan, upstream)
            except WorkerLostError as error:
                lost += error.attempts
                if len(lost) >= _TRIES:
                    error.attempts = lost
                    raise
            else:
                response.attempts[:0] = lost
                return response

    async def send(self, call: Call) -> Reply:
        """Send a request to a worker that has the model.

        Raises:
            WorkerLostError: the worker died.
            UpstreamProtocolError: the engine failed.
            ClusterError: the cluster was lost.
        """
        if call.path == "models":
            return BytesReply(model_list(self.names))
        assert self._cluster is not None, "loaded before any request"
        request = EngineRequest(
            path=call.path,
            model=call.model,
            body=_encode_body(call.envelope),
            request_id=call.request_id,
            on_unsupported=call.on_unsupported,
        )
        crew = f"{IN_PLACE}/{_base(call.model, self._models)}"
        done = await self._cluster.call(crew, "send", encode(request))
        if done.died:
            raise WorkerLostError(f"{IN_PLACE}/{call.model}: the worker that had the request died")
        if done.error:
            raise UpstreamProtocolError(f"{IN_PLACE}/{call.model}: {done.error}")
        response = decode_response(done.payload)
        return BytesReply(
            response.body,
            status=response.status,
            headers={"content-type": response.content_type},
            translation=response.translation,
        )
