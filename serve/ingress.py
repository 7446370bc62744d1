"""OpenAI's paths in front of all hosted models: finds the model, relays, waits for cold starts.

It decodes of a body what it needs to find the model, and relays bytes both ways. What it says by
itself are errors: no such model, model full, model still starting, model failed to start.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, Literal, TypeVar, cast

import msgspec
from ray import serve as ray_serve
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from providers import wire
from providers.base import Path
from providers.errors import (
    BodyTooLargeError,
    EvalrouterError,
    MethodNotAllowedError,
    ModelNotFoundError,
    NotFoundError,
    RateLimitError,
    RequestError,
    closest,
)
from serve.replica import Asked, Head

T = TypeVar("T")

MAX_BODY_BYTES = 32 * 1024 * 1024
# How often a request that waits for a copy looks whether one is still to be expected.
_LOOK_EVERY_S = 1.0
_PATHS: Mapping[str, Path] = {
    "/v1/chat/completions": "chat/completions",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
}

State = Literal["ready", "starting", "idle", "failed"]


class Hosted(msgspec.Struct, frozen=True):
    """What the ingress knows of a model.

    Attributes:
        deployment: its name on Ray Serve.
        engine: which engine runs it.
        source: where it came from; a name by which it is found too.
        cold_start: seconds a request waits for its first copy.
    """

    deployment: str
    engine: str
    source: str
    cold_start: float


class HostedModel(wire.Model):
    """A row of `/v1/models`, with what Ray Serve says of it.

    Attributes:
        state: `ready`, `starting`, `idle` (no copies, starts when asked) or `failed`.
        replicas: copies that run.
    """

    state: State = "ready"
    replicas: int = 0


class HostedList(msgspec.Struct):
    """The answer of `/v1/models`."""

    data: list[HostedModel]
    object: str = "list"


class ModelStartingError(EvalrouterError):
    """No copy of the model is ready yet. Nothing failed: asking again later may succeed."""

    status = 503
    code = "model_starting"


class ModelFailedError(EvalrouterError):
    """The model could not be started, or its copies died."""

    status = 503
    code = "model_failed"


class _Peek(msgspec.Struct):
    model: str
    stream: bool | None = None


_peek = msgspec.json.Decoder(_Peek).decode


class Ingress:
    """The deployment that HTTP comes to.

    Args:
        handles: model to the handle of its deployment.
        hosted: model to what is known of it.
    """

    def __init__(self, handles: Mapping[str, Any], hosted: Mapping[str, Hosted]) -> None:
        self._handles = handles
        self._hosted = hosted
        self._started = int(time.time())
        self._application = ray_serve.get_replica_context().app_name
        sources = [one.source for one in hosted.values()]
        # `hf/org/model` may name the source, where only one model comes from it.
        self._by_source = {
            one.source: name for name, one in hosted.items() if sources.count(one.source) == 1
        }

    async def __call__(self, request: Request) -> Response:
        """Answer one HTTP request."""
        try:
            return await self._answer(request)
        except EvalrouterError as error:
            headers = dict(getattr(error, "headers", {}))
            if isinstance(error, ModelStartingError):
                headers["retry-after"] = "2"
            return _json(error.as_openai(), error.status, headers)

    async def _answer(self, request: Request) -> Response:
        path = request.url.path.rstrip("/")
        if path in _PATHS:
            if request.method != "POST":
                raise MethodNotAllowedError(f"{path} takes POST")
            return await self._relay(_PATHS[path], request)
        if path in ("/health", "/v1/health"):
            return _json({"status": "ok"})
        if path == "/v1/models":
            return _json(HostedList(await self._listed()))
        if path.startswith("/v1/models/"):
            name = self._find(path.removeprefix("/v1/models/"))
            return _json(next(one for one in await self._listed() if one.id == name))
        raise NotFoundError(f"There is no {path}.")

    def _find(self, model: str) -> str:
        name = model if model in self._handles else self._by_source.get(model)
        if name is None:
            raise ModelNotFoundError(
                f"No model {model!r} is hosted here.{closest(model, self._handles)}", param="model"
            )
        return name

    async def _relay(self, path: Path, request: Request) -> Response:
        body = await _body(request)
        try:
            peek = _peek(body)
        except wire.UNREADABLE as error:
            raise RequestError(f"The body cannot be read: {error}", code="invalid_body") from error
        name = self._find(peek.model)
        asked = Asked(
            path,
            peek.model,
            body,
            # Ray Serve takes it for its own id of the request, and answers with it.
            request.headers.get("x-request-id", ""),
            request.headers.get("traceparent", ""),
        )
        if peek.stream and path != "embeddings":
            return await self._stream(name, asked)
        response = self._handles[name].whole.remote(asked)
        try:
            head, answer = await self._patiently(name, response)
        except BaseException:
            _cancel(response)
            raise
        return _response(answer, head)

    async def _stream(self, name: str, asked: Asked) -> Response:
        items = self._handles[name].options(stream=True).stream.remote(asked)
        try:
            head = cast("Head", await self._patiently(name, anext(items)))
        except BaseException:
            _cancel(items)
            raise
        if head.status != 200:
            return _response(b"".join([chunk async for chunk in items]), head)

        async def relay() -> AsyncIterator[bytes]:
            try:
                async for chunk in items:
                    yield chunk
            except BaseException:
                # The client has left, mostly: the copy is to do something else.
                _cancel(items)
                raise

        headers = {"cache-control": "no-cache"}
        return StreamingResponse(relay(), media_type=head.content_type, headers=headers)

    async def _patiently(self, name: str, answer: Awaitable[T]) -> T:
        """The answer, unless no copy of the model comes up to give it.

        Raises:
            ModelStartingError: a copy is on its way, and takes longer than the model's
                `cold_start`.
            ModelFailedError: none is.
            RateLimitError: too many requests wait already.
        """
        task = asyncio.ensure_future(answer)
        # Nobody asks a task for its failure that was given up.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        hosted = self._hosted[name]
        deadline = time.monotonic() + hosted.cold_start
        try:
            while not (await asyncio.wait({task}, timeout=_LOOK_EVERY_S))[0]:
                state, replicas, why = (await self._states())[name]
                if replicas:
                    # It works on it, or on others before it; how long that takes is not our matter.
                    deadline = time.monotonic() + hosted.cold_start
                elif state == "failed":
                    raise ModelFailedError(f"{name} could not be started: {why}")
                elif time.monotonic() > deadline:
                    raise ModelStartingError(
                        f"{name} is still starting after {hosted.cold_start:g} s; ask again."
                    )
            return await task
        except BackPressureError:
            raise RateLimitError(
                f"{name} is busy, and its queue is full", retry_after=1.0, code="target_busy"
            ) from None
        except DeploymentUnavailableError:
            why = (await self._states())[name][2]
            raise ModelFailedError(f"{name} could not be started: {why}") from None
        except ReplicaUnavailableError:
            raise ModelStartingError(f"{name} lost the copy that worked on this") from None
        finally:
            task.cancel()

    async def _listed(self) -> list[HostedModel]:
        states = await self._states()
        return [
            HostedModel(
                name,
                created=self._started,
                owned_by=one.engine,
                state=states[name][0],
                replicas=states[name][1],
            )
            for name, one in self._hosted.items()
        ]

    async def _states(self) -> dict[str, tuple[State, int, str]]:
        """Of each model its state, its copies that run, and why it failed."""
        status = await asyncio.to_thread(ray_serve.status)
        application = status.applications.get(self._application)
        found: Mapping[str, Any] = application.deployments if application else {}
        return {name: _state(found.get(one.deployment)) for name, one in self._hosted.items()}


def _state(found: Any) -> tuple[State, int, str]:
    if found is None:
        return "starting", 0, ""
    replicas = found.replica_states.get("RUNNING", 0)
    if replicas:
        return "ready", replicas, ""
    coming = sum(found.replica_states.get(name, 0) for name in ("STARTING", "RECOVERING"))
    if found.status in ("DEPLOY_FAILED", "UNHEALTHY"):
        # A traceback; its last line says what it came to.
        lines = [line for line in found.message.strip().splitlines() if line.strip()]
        return "failed", 0, lines[-1].strip() if lines else "Ray Serve does not say why"
    return "starting" if coming or found.status != "HEALTHY" else "idle", 0, ""


def _cancel(response: Any) -> None:
    # It raises what the request has failed with, which is known already.
    with contextlib.suppress(Exception):
        response.cancel()


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLargeError(f"A request body has at most {MAX_BODY_BYTES} bytes.")
    return bytes(body)


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(wire.encode(value), status, dict(headers or {}), "application/json")


def _response(body: bytes, head: Head) -> Response:
    return Response(body, head.status, media_type=head.content_type)
