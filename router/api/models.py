"""`/v1/models`: every route, and every model of every provider that can list its own."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import get
from litestar.params import FromPath

from providers.base import Call, Provider
from providers.errors import EvalrouterError, ModelNotFoundError
from providers.wire import UNREADABLE, ModelList
from router.api.injected import Injected
from router.services import Services

# A host that is down must not keep the list of the others from a client.
LISTING_S = 3.0

_decode = msgspec.json.Decoder(ModelList).decode


class ModelRow(msgspec.Struct):
    """One model a client may name.

    Attributes:
        id: what to put into `model`.
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
        unreachable: providers whose list could not be had, with the reason.
    """

    data: list[ModelRow]
    unreachable: dict[str, str]
    object: str = "list"


@get("/v1/models", tags=["models"], summary="List routes and models")
async def list_models(services: Injected) -> Models:
    """Every name that `model` may be."""
    return await _models(services)


async def _models(services: Services) -> Models:
    rows = [ModelRow(name, "evalrouter") for name in services.routes.table.names]
    unreachable: dict[str, str] = {}
    found = await asyncio.gather(
        *(_models_of(services, name, one) for name, one in services.providers.items())
    )
    for name, models, why in found:
        rows += [ModelRow(f"{name}/{model}", name) for model in models]
        if why:
            unreachable[name] = why
    return Models(rows, unreachable)


@get("/v1/models/{model:path}", tags=["models"], summary="Look one model up")
async def show_model(services: Injected, model: FromPath[str]) -> ModelRow:
    """One route or `provider/model`, as OpenAI's client asks for it."""
    name = model.lstrip("/")
    listed = {row.id: row for row in (await _models(services)).data}
    if name not in listed:
        # Raises for names no request could be sent to either.
        plan = services.routes.table.plan(name, 0.0)
        if name in services.routes.table.names:
            return ModelRow(name, "evalrouter")
        raise ModelNotFoundError(
            f"{plan.targets[0].provider} does not list a model {plan.targets[0].model!r}.",
            param="model",
        )
    return listed[name]


async def _models_of(
    services: Services, name: str, provider: Provider
) -> tuple[str, list[str], str]:
    configured = services.config.providers[name].models
    if configured:
        return name, list(configured), ""
    call = Call(path="models", model="", envelope={}, connect_timeout=LISTING_S)
    reply: Any = None
    try:
        async with asyncio.timeout(LISTING_S):
            reply = await provider.send(call)
            body = await reply.read()
        if reply.status != 200:
            return name, [], f"status {reply.status}"
        return name, [model.id for model in _decode(body).data], ""
    except TimeoutError:
        return name, [], f"no list within {LISTING_S:g} s"
    except EvalrouterError as error:
        return name, [], error.message
    except UNREADABLE:
        return name, [], "its list is not OpenAI's"
    finally:
        if reply is not None:
            await reply.aclose()
