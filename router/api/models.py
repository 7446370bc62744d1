"""`/v1/models`: every route, and every model of every provider that can list its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import msgspec
from litestar import Request, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from providers.base import Call
from providers.errors import EvalrouterError, ModelNotFoundError
from providers.names import MAX_NAME_BYTES, check_name
from providers.wire import UNREADABLE, read_models
from router.api.guard import basic
from router.api.injection import Injected
from router.gateway.keys import presented
from router.services import Services

# Seconds that a host may take for its list, and that a client waits where no list has come yet.
LISTING_S = 10.0
FIRST_S = 0.5
# Seconds that a list is good for, and until one that could not be read is tried again.
FRESH_S = 60.0
RETRY_S = 10.0
# The models of one provider that are listed; a host may list any number.
MAX_LISTED = 10_000


class ModelRow(msgspec.Struct):
    """One model that a client may name.

    Attributes:
        id: the `model` of a request.
        owned_by: `evalrouter` for a route, else the provider's name.
    """

    id: str
    owned_by: str
    object: str = "model"
    created: int = 0


class Models(msgspec.Struct):
    """OpenAI's list object.

    Attributes:
        data: routes first, then the providers' models.
        unreachable: providers whose list could not be read, with the reason. Of their models, there
            are those of the last time and those that routes name.
    """

    data: list[ModelRow]
    unreachable: dict[str, str]
    object: str = "list"


class Listing(NamedTuple):
    """The list of a provider's models as it was last read.

    Attributes:
        models: the models' names at the provider; where the list could not be read, those of the
            last time that it could.
        why: why the list could not be read; "" when it could.
        read_at: when, seconds of the monotonic clock.
    """

    models: tuple[str, ...]
    why: str
    read_at: float


_NOT_YET = Listing((), "its list is still being read", 0.0)


class Listings:
    """The providers' lists of models, read in the background.

    A list is read when it is first needed, and again once it is older than `FRESH_S`. Meanwhile the
    last one is shown. Each provider gets one such request at a time, however many clients wait.

    Args:
        services: the process's parts.
        clock: tells the seconds of a monotonic clock.
    """

    def __init__(self, services: Services, clock: Callable[[], float] = time.monotonic) -> None:
        self._services = services
        self._clock = clock
        self._listings: dict[str, Listing] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Stop reading."""
        tasks = list(self._reading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def of(self, names: Collection[str]) -> dict[str, Listing]:
        """Return providers' lists; waits `FIRST_S` at most, and only for those never read."""
        for name in names:
            self._read_if_due(name)
        first = [self._reading[name] for name in names if name not in self._listings]
        if first:
            await asyncio.wait(first, timeout=FIRST_S)
        return {name: self._listings.get(name, _NOT_YET) for name in names}

    def _read_if_due(self, name: str) -> None:
        if name in self._reading:
            return
        known = self._listings.get(name)
        if known is not None:
            lasts = RETRY_S if known.why else FRESH_S
            if self._clock() - known.read_at < lasts:
                return
        task = self._reading[name] = asyncio.create_task(self._read(name))
        task.add_done_callback(lambda _: self._reading.pop(name))

    async def _read(self, name: str) -> None:
        names, why = await _read_list(self._services, name)
        known = self._listings.get(name)
        models = known.models if why and known is not None else tuple(names)
        self._listings[name] = Listing(models, why, self._clock())


ListingsHere = NamedDependency[Listings]
AnyRequest = Request[Any, Any, Any]


@get("/v1/models", tags=["models"], summary="List routes and models")
async def list_models(services: Injected, listings: ListingsHere, request: AnyRequest) -> Models:
    """List every name that `model` may have in a request with this key."""
    allowed = _allowed(services, request)
    if allowed is not None:
        permitted = (_row_of(services, name) for name in allowed)
        return Models([row for row in permitted if row is not None], {})
    rows = [ModelRow(name, "evalrouter") for name in services.routes.table.names]
    unreachable: dict[str, str] = {}
    for name, listing in (await listings.of(services.providers)).items():
        rows += [ModelRow(f"{name}/{model}", name) for model in _known(services, name, listing)]
        if listing.why:
            unreachable[name] = listing.why
    return Models(rows, unreachable)


@get("/v1/models/{model:path}", tags=["models"], summary="Look one model up")
async def show_model(
    services: Injected, listings: ListingsHere, request: AnyRequest, model: FromPath[str]
) -> ModelRow:
    """Show one route or `provider/model`, as OpenAI's client requests it."""
    name = model.lstrip("/")
    check_name(name, "model")
    allowed = _allowed(services, request)
    # Raises for names that no request could be sent to.
    [target, *_] = services.routes.table.plan(name, 0.0).targets
    row = _row_of(services, name)
    if row is None or (allowed is not None and name not in allowed):
        raise ModelNotFoundError(f"This key may not use the model {name!r}.", param="model")
    if allowed is not None or row.owned_by == "evalrouter":
        return row
    listing = (await listings.of([target.provider]))[target.provider]
    if target.model in _known(services, target.provider, listing):
        return row
    why = f": {listing.why}" if listing.why else ""
    raise ModelNotFoundError(
        f"{target.provider} does not list a model {target.model!r}{why}.", param="model"
    )


def _known(services: Services, provider: str, listing: Listing) -> Collection[str]:
    """Return a provider's models: while its list cannot be read, those of the routes as well."""
    if not listing.why:
        return listing.models
    models = dict.fromkeys(listing.models)
    for route in services.routes.table.routes.values():
        for name in (*(target.model for target in route.targets), *route.fallback):
            host, _, model = name.partition("/")
            if host == provider:
                models[model] = None
    return models


def _allowed(services: Services, request: AnyRequest) -> tuple[str, ...] | None:
    """Return the names that the request's key is confined to; None for any."""
    if not services.keys.required:
        return None
    headers = dict(request.scope["headers"])
    key = presented(headers)
    row = services.keys.identify(key or basic(headers.get(b"authorization")))
    return None if row.routes is None else tuple(row.routes)


def _row_of(services: Services, name: str) -> ModelRow | None:
    """Return the row of a route, or of a configured provider's model; None for other names."""
    if name in services.routes.table.routes:
        return ModelRow(name, "evalrouter")
    provider, slash, model = name.partition("/")
    return ModelRow(name, provider) if slash and model and provider in services.providers else None


async def _read_list(services: Services, name: str) -> tuple[list[str], str]:
    """Return a provider's models, and why they cannot be listed or ""."""
    configured = services.config.providers[name].models
    if configured:
        return list(configured), ""
    call = Call(path="models", model="", envelope={}, connect_timeout=LISTING_S)
    reply: Any = None
    try:
        async with asyncio.timeout(LISTING_S):
            reply = await services.providers[name].send(call)
            body = await reply.read()
        if reply.status != 200:
            return [], f"status {reply.status}"
        names = read_models(body)
    except TimeoutError:
        return [], f"no list within {LISTING_S:g} s"
    except EvalrouterError as error:
        return [], error.message
    except UNREADABLE:
        return [], "its list is not OpenAI's"
    finally:
        if reply is not None:
            await reply.aclose()
    return [model for model in names if len(model.encode()) <= MAX_NAME_BYTES][:MAX_LISTED], ""
