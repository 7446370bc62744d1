"""OpenAI's paths in front of all hosted models: finds the model, relays, waits for cold starts.

It decodes no more of a body than it needs to find the model, and relays bytes both ways. The only
answers of its own are errors: no such model, model full, model still starting, model failed to
start.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
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
from providers.base import ModelFacts, Path
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
from serve.config import adapter_of
from serve.deployment.sharing import ModelFailedError
from serve.engines.messages import EngineRequest, ResponseHead

T = TypeVar("T")

MAX_BODY_BYTES = 32 * 1024 * 1024
# How often a request that waits for a copy checks whether one is still on its way.
_POLL_EVERY_S = 1.0
_PATHS: Mapping[str, Path] = {
    "/v1/chat/completions": "chat/completions",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
}

ModelState = Literal["ready", "starting", "idle", "failed"]


class DeployedModel(msgspec.Struct, frozen=True):
    """What the ingress knows about a model.

    Attributes:
        deployment: the name of the model's deployment on Ray Serve.
        engine: which engine runs it.
        source: where the model came from, which requests may name too.
        cold_start: seconds a request waits for the model's first copy.
        adapters: names of the model's LoRA adapters.
        shared: whether the copies have other models too, and load this one when a request needs it.
    """

    deployment: str
    engine: str
    source: str
    cold_start: float
    adapters: tuple[str, ...] = ()
    shared: bool = False


class HostedModel(wire.Model):
    """A row of `/v1/models`, with the state that Ray Serve reports.

    Attributes:
        state: `ready`, `starting`, `idle` (without copies, starts with a request) or `failed`. A
            model that shares its copies is `starting` while a request waits for its loading.
        replicas: copies that run.
        parent: the model that an adapter changes; None for a model.
    """

    state: ModelState = "ready"
    replicas: int = 0
    parent: str | None = None


class HostedList(msgspec.Struct):
    """The answer of `/v1/models`."""

    data: list[HostedModel]
    object: str = "list"


class ModelStartingError(EvalrouterError):
    """No copy of the model is ready yet. Nothing failed: a later request may succeed."""

    status = 503
    code = "model_starting"


class _Peek(msgspec.Struct):
    model: str
    stream: bool | None = None


_peek = msgspec.json.Decoder(_Peek).decode


class Ingress:
    """The deployment that receives HTTP.

    Args:
        handles: the handle of each model's deployment.
        hosted: what is known about each model.
    """

    def __init__(self, handles: Mapping[str, Any], hosted: Mapping[str, DeployedModel]) -> None:
        self._handles = handles
        self._hosted = hosted
        self._started = int(time.time())
        self._application = ray_serve.get_replica_context().app_name
        # Of models that share copies: the requests that wait until one is loaded, and the models
        # that could not be loaded.
        self._loading: Counter[str] = Counter()
        self._failed: set[str] = set()
        sources = [model.source for model in hosted.values()]
        # `hf/org/model` may name the source, where only one model comes from it.
        self._by_source = {
            model.source: name for name, model in hosted.items() if sources.count(model.source) == 1
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
        # Ray leaves the application's prefix in it.
        prefix = request.scope.get("root_path", "")
        path = request.url.path.removeprefix(prefix).rstrip("/")
        if path in _PATHS:
            if request.method != "POST":
                raise MethodNotAllowedError(f"{path} takes POST", allowed=("POST",))
            return await self._relay(_PATHS[path], request)
        if path in ("/health", "/v1/health"):
            return _json({"status": "ok"})
        if path == "/v1/models":
            return _json(HostedList(await self._listed()))
        if path.startswith("/v1/models/") and path.endswith("/facts"):
            name, _ = self._find(path.removeprefix("/v1/models/").removesuffix("/facts"))
            return _json(await self._facts(name))
        if path.startswith("/v1/models/"):
            name, adapter = self._find(path.removeprefix("/v1/models/"))
            known = f"{name}:{adapter}" if adapter else name
            return _json(next(model for model in await self._listed() if model.id == known))
        raise NotFoundError(f"This server has no path {path}.")

    async def _facts(self, name: str) -> ModelFacts:
        """Return how a model is stored, and the memory that its copy took, if it has just one.

        A copy that several models share says nothing about one of them, and vLLM's copies are
        processes of its own.
        """
        hosted = self._hosted[name]
        _, replicas, _ = (await self._states())[name]
        if hosted.shared or hosted.engine == "vllm" or replicas != 1:
            return ModelFacts()
        facts: ModelFacts = await self._handles[name].facts.remote()
        return facts

    def _find(self, model: str) -> tuple[str, str]:
        """Return the hosted model and the adapter that a request names."""
        base = model.rpartition(":")[0]
        for candidate in (model, base):
            name = candidate if candidate in self._handles else self._by_source.get(candidate)
            if name is None:
                continue
            if candidate == model:
                return name, ""
            if adapter := adapter_of(model, self._hosted[name].adapters):
                return name, adapter
        listed = [known for name in self._hosted for known in self._names(name)]
        raise ModelNotFoundError(
            f"No model {model!r} is hosted here.{closest(model, listed)}", param="model"
        )

    def _names(self, name: str) -> list[str]:
        return [name, *(f"{name}:{adapter}" for adapter in self._hosted[name].adapters)]

    async def _relay(self, path: Path, request: Request) -> Response:
        body = await _body(request)
        try:
            peek = _peek(body)
        except wire.UNREADABLE as error:
            raise RequestError(f"The body cannot be read: {error}", code="invalid_body") from error
        name, _ = self._find(peek.model)
        engine_request = EngineRequest(
            path,
            peek.model,
            body,
            # Ray Serve uses it as its own id of the request, and answers with it.
            request.headers.get("x-request-id", ""),
            request.headers.get("traceparent", ""),
        )
        if peek.stream and path != "embeddings":
            return await self._stream(name, engine_request)
        if self._hosted[name].shared:
            head, items = await self._begin(name, engine_request)
            return await _collected(head, items)
        response = self._handles[name].whole.remote(engine_request)
        try:
            head, answer = await self._wait_for(name, response)
        except BaseException:
            _cancel(response)
            raise
        return _response(answer, head)

    async def _begin(self, name: str, request: EngineRequest) -> tuple[ResponseHead, Any]:
        """Send a request; return how the answer begins, and the stream of its bytes."""
        shared = self._hosted[name].shared
        more = {"multiplexed_model_id": name} if shared else {}
        items = self._handles[name].options(stream=True, **more).stream.remote(request)
        try:
            head = cast("ResponseHead", await self._wait_for(name, anext(items)))
            if head.load == "loading":
                self._loading[name] += 1
                try:
                    head = cast(
                        "ResponseHead", await self._wait_for(name, anext(items), loading=True)
                    )
                finally:
                    self._loading[name] -= 1
        except BaseException:
            _cancel(items)
            raise
        if shared:
            (self._failed.add if head.load == "failed" else self._failed.discard)(name)
        return head, items

    async def _stream(self, name: str, request: EngineRequest) -> Response:
        head, items = await self._begin(name, request)
        if head.status != 200:
            return await _collected(head, items)

        async def relay() -> AsyncIterator[bytes]:
            try:
                async for chunk in items:
                    yield chunk
            except BaseException:
                # Mostly the client has left: the copy need not go on.
                _cancel(items)
                raise

        headers = {"cache-control": "no-cache"}
        return StreamingResponse(relay(), media_type=head.content_type, headers=headers)

    async def _wait_for(self, name: str, answer: Awaitable[T], *, loading: bool = False) -> T:
        """Wait for an answer, unless no copy of the model comes up to give it.

        Args:
            name: the model's name.
            answer: what to wait for.
            loading: whether a copy has the request, and loads the model first.

        Raises:
            ModelStartingError: a copy is on its way, and takes longer than the model's
                `cold_start`.
            ModelFailedError: no copy is on its way.
            RateLimitError: too many requests wait already.
        """
        task = asyncio.ensure_future(answer)
        # Else asyncio would log the failure of a task that was given up.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        hosted = self._hosted[name]
        deadline = time.monotonic() + hosted.cold_start
        try:
            while not (await asyncio.wait({task}, timeout=_POLL_EVERY_S))[0]:
                state, replicas, why = (await self._states())[name]
                if replicas and not loading:
                    # A copy works on it, or on others before it. That may take any time.
                    deadline = time.monotonic() + hosted.cold_start
                elif state == "failed" and not replicas:
                    raise ModelFailedError(f"{name} could not be started: {why}")
                elif time.monotonic() > deadline:
                    raise ModelStartingError(
                        f"{name} is still starting after {hosted.cold_start:g} s; "
                        "send the request again."
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
                known,
                created=self._started,
                owned_by=model.engine,
                state=states[name][0],
                replicas=states[name][1],
                parent=None if known == name else name,
            )
            for name, model in self._hosted.items()
            for known in self._names(name)
        ]

    async def _states(self) -> dict[str, tuple[ModelState, int, str]]:
        """Return each model's state, the number of its running copies, and why copies failed."""
        status = await asyncio.to_thread(ray_serve.status)
        application = status.applications.get(self._application)
        deployments: Mapping[str, Any] = application.deployments if application else {}
        states = {
            name: _state(deployments.get(model.deployment)) for name, model in self._hosted.items()
        }
        for name, (state, replicas, why) in states.items():
            if state == "ready" and self._loading[name]:
                states[name] = "starting", replicas, why
            elif state == "ready" and name in self._failed:
                states[name] = "failed", replicas, why
        return states


def _state(deployment: Any) -> tuple[ModelState, int, str]:
    if deployment is None:
        return "starting", 0, ""
    replicas = deployment.replica_states.get("RUNNING", 0)
    if replicas:
        return "ready", replicas, ""
    coming = sum(deployment.replica_states.get(name, 0) for name in ("STARTING", "RECOVERING"))
    if deployment.status in ("DEPLOY_FAILED", "UNHEALTHY"):
        # A traceback, whose last line has the error.
        lines = [line for line in deployment.message.strip().splitlines() if line.strip()]
        return "failed", 0, lines[-1].strip() if lines else "Ray Serve does not say why"
    return "starting" if coming or deployment.status != "HEALTHY" else "idle", 0, ""


def _cancel(response: Any) -> None:
    # It raises the request's failure, which is known already.
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


async def _collected(head: ResponseHead, items: Any) -> Response:
    try:
        return _response(b"".join([chunk async for chunk in items]), head)
    except BaseException:
        _cancel(items)
        raise


def _response(body: bytes, head: ResponseHead) -> Response:
    return Response(body, head.status, media_type=head.content_type)
