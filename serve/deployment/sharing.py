"""One copy that several models share on Ray Serve: each is loaded when a request needs it.

Ray's own `serve.multiplexed` keeps the models of a copy, makes the one used longest ago leave when
room is needed, and reports to Ray's router which copy has which model. This module adds two things:
a model leaves only after its last answer, and a model that cannot be loaded does not disturb the
others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping

from ray import serve as ray_serve

from providers import wire
from providers.base import Lifecycle
from providers.errors import EvalrouterError
from serve.config import ModelConfig
from serve.deployment.shared_model import SharedModel
from serve.engines.loading import call_of, head_of, load
from serve.engines.messages import EngineRequest, ResponseHead

# A model that could not be loaded is tried again after this long.
_RETRY_AFTER_S = 30.0
_JSON = "application/json"


class ModelFailedError(EvalrouterError):
    """The model could not be started, or its copies died."""

    status = 503
    code = "model_failed"


class SharedReplica:
    """The class that Ray Serve makes copies of. A request's model is Ray's multiplexed model id.

    Args:
        models: the models by name.
        keep: how many of them are kept loaded.
    """

    def __init__(self, models: Mapping[str, ModelConfig], keep: int) -> None:
        self._models = models
        self._loaded: dict[str, SharedModel] = {}
        self._coming: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, tuple[float, str]] = {}
        self._room = asyncio.Lock()

        # Ray wants a function: it keeps what it needs as an attribute of it.
        async def fetch(name: str) -> SharedModel:
            return await self._load(name)

        self._fetch = ray_serve.multiplexed(fetch, max_num_models_per_replica=keep)

    async def stream(self, request: EngineRequest) -> AsyncIterator[ResponseHead | bytes]:
        """Yield how the answer begins, then its bytes; `loading` comes first if it takes time."""
        name = ray_serve.get_multiplexed_model_id()
        if name not in self._loaded:
            yield ResponseHead(102, "", "loading")
        try:
            model = await self._get(name)
        except ModelFailedError as error:
            yield ResponseHead(error.status, _JSON, "failed")
            yield wire.encode(error.as_openai())
            return
        model.enter()
        try:
            reply = await model.engine.send(call_of(request))
            try:
                yield head_of(reply)
                async for chunk in reply.chunks():
                    yield chunk
            finally:
                # Ray closes us when the client has left; this ends the work.
                await reply.aclose()
        finally:
            model.exit()

    async def check_health(self) -> None:
        """Answer Ray Serve, for which a process that answers is healthy."""

    async def _get(self, name: str) -> SharedModel:
        """Return the model, loaded; it stays at least until the caller waits for something.

        Raises:
            ModelFailedError: it cannot be loaded.
        """
        while name not in self._loaded:
            when, why = self._failed.get(name, (0.0, ""))
            if why and time.monotonic() < when + _RETRY_AFTER_S:
                raise ModelFailedError(why)
            task = self._coming.get(name)
            if task is None:
                task = self._coming[name] = asyncio.create_task(self._load_shared(name))
                # Every client may have left when it fails, and then asyncio would log the failure.
                task.add_done_callback(lambda done: done.cancelled() or done.exception())
            # A client that leaves does not end the loading: the next request finds it further.
            await asyncio.shield(task)
        # This also marks it as used just now.
        model: SharedModel = await self._fetch(name)
        return model

    async def _load_shared(self, name: str) -> None:
        why = ""
        try:
            async with self._room:
                # Ray makes the one used longest ago leave: let it not be one that still answers.
                for other, other_model in list(self._loaded.items()):
                    if other_model.busy:
                        await self._fetch(other)
                await self._fetch(name)
        except Exception as error:  # noqa: BLE001  # whatever an engine raises, the others stay
            lines = str(error).strip().splitlines() or [type(error).__name__]
            why = f"{name} could not be loaded: {lines[-1].strip()}"
        finally:
            del self._coming[name]
        if why:
            self._failed[name] = (time.monotonic(), why)
            # Not from the error, whose frames may hold half a model.
            raise ModelFailedError(why)
        self._failed.pop(name, None)

    async def _load(self, name: str) -> SharedModel:
        engine = await asyncio.to_thread(load, name, self._models[name])
        if isinstance(engine, Lifecycle):
            await engine.open()

        def left() -> None:
            del self._loaded[name]

        model = self._loaded[name] = SharedModel(engine, left)
        return model
