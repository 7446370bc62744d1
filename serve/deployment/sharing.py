"""One copy that several models share on Ray Serve: each is loaded when it is asked for.

Ray's own `serve.multiplexed` keeps the models of a copy, has the one asked longest ago leave when
there is no room, and tells Ray's router which copy has which model. What is added here: a model
leaves when nobody waits for its answer any more, and one that cannot be loaded leaves the others
alone.
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

# A model that could not be loaded is not tried again before.
_AGAIN_S = 30.0
_JSON = "application/json"


class ModelFailedError(EvalrouterError):
    """The model could not be started, or its copies died."""

    status = 503
    code = "model_failed"


class SharedReplica:
    """What Ray Serve makes copies of. The model of a request is Ray's multiplexed model id.

    Args:
        models: the models by name.
        keep: how many of them are kept loaded.
    """

    def __init__(self, models: Mapping[str, ModelConfig], keep: int) -> None:
        self._models = models
        self._kept: dict[str, SharedModel] = {}
        self._coming: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, tuple[float, str]] = {}
        self._room = asyncio.Lock()

        # Ray wants a function: it keeps what it needs as an attribute of it.
        async def fetch(name: str) -> SharedModel:
            return await self._load(name)

        self._fetch = ray_serve.multiplexed(fetch, max_num_models_per_replica=keep)

    async def stream(self, asked: EngineRequest) -> AsyncIterator[ResponseHead | bytes]:
        """How the answer begins, then its bytes; first of all, where it has to be, a loading."""
        name = ray_serve.get_multiplexed_model_id()
        if name not in self._kept:
            yield ResponseHead(102, "", "loading")
        try:
            kept = await self._get(name)
        except ModelFailedError as error:
            yield ResponseHead(error.status, _JSON, "failed")
            yield wire.encode(error.as_openai())
            return
        kept.enter()
        try:
            reply = await kept.engine.send(call_of(asked))
            try:
                yield head_of(reply)
                async for chunk in reply.chunks():
                    yield chunk
            finally:
                # Ray closes us when the client has left; this ends the work.
                await reply.aclose()
        finally:
            kept.exit()

    async def check_health(self) -> None:
        """Asked by Ray Serve; a process that answers is healthy."""

    async def _get(self, name: str) -> SharedModel:
        """The model, loaded; it stays at least until the caller waits for something.

        Raises:
            ModelFailedError: it cannot be loaded.
        """
        while name not in self._kept:
            when, why = self._failed.get(name, (0.0, ""))
            if why and time.monotonic() < when + _AGAIN_S:
                raise ModelFailedError(why)
            task = self._coming.get(name)
            if task is None:
                task = self._coming[name] = asyncio.create_task(self._bring(name))
                # Perhaps nobody waits for it any more when it fails.
                task.add_done_callback(lambda done: done.cancelled() or done.exception())
            # Whoever leaves does not end the loading: the next to ask finds it further.
            await asyncio.shield(task)
        # It was asked for just now.
        found: SharedModel = await self._fetch(name)
        return found

    async def _bring(self, name: str) -> None:
        why = ""
        try:
            async with self._room:
                # Whoever is asked longest ago is to leave: not one that still answers.
                for other, kept in list(self._kept.items()):
                    if kept.busy:
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
            del self._kept[name]

        kept = self._kept[name] = SharedModel(engine, left)
        return kept
