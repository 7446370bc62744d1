"""`/v1/models`: every route, and every model of every provider that can list its own."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.params import FromPath

from providers.errors import ModelNotFoundError
from providers.names import check_name
from providers.translation.messages_models import (
    DEFAULT_LIMIT,
    ModelEntry,
    model_info,
    model_page,
)
from router.api.access import Caller, InjectedCaller
from router.api.injection import Injected
from router.gateway.model_lists import Listing, retirement_of
from router.services import Services

# The header that tells clients of Anthropic's API from others.
ANTHROPIC_VERSION = "anthropic-version"
# A limit with more digits counts as absent.
MAX_DIGITS = 9


class ModelRow(msgspec.Struct):
    """One model that a client may name.

    Attributes:
        id: the `model` of a request.
        owned_by: `evalrouter` for a route, else the provider's name.
        shutdown_date: the day on which its host will shut it down, as YYYY-MM-DD; None where
            nothing is known of that.
        type, capabilities: what Mistral's client reads; of neither anything is known.
    """

    id: str
    owned_by: str
    object: str = "model"
    created: int = 0
    shutdown_date: str | None = None
    type: str = "base"
    capabilities: dict[str, bool] = {}


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


@get("/v1/models", tags=["models"], summary="List routes and models")
async def list_models(
    request: Request[Any, Any, Any], services: Injected, caller: InjectedCaller
) -> Response[Models]:
    """List every name that `model` may have in a request with this key.

    To a key that is confined to no models, `server.expose` may show routes or models alone. A
    client that sends `anthropic-version` gets Anthropic's page of them.
    """
    models = await _list(services, caller)
    if ANTHROPIC_VERSION not in request.headers:
        return Response(models)
    return _in_json(_anthropics_page(models, request))


def _in_json(body: bytes) -> Response[Any]:
    return Response(body, media_type="application/json")


def _anthropics_page(models: Models, request: Request[Any, Any, Any]) -> bytes:
    query = request.query_params
    limit = query.get("limit", str(DEFAULT_LIMIT))
    return model_page(
        [ModelEntry(row.id, row.created, row.shutdown_date) for row in models.data],
        limit=int(limit) if limit.isdecimal() and len(limit) <= MAX_DIGITS else 0,
        after_id=query.get("after_id", ""),
        before_id=query.get("before_id", ""),
    )


async def _list(services: Services, caller: Caller) -> Models:
    allowed = _allowed(caller)
    if allowed is not None:
        permitted = (_row_of(services, name) for name in allowed)
        return Models([row for row in permitted if row is not None], {})
    expose = services.config.server.expose
    rows: list[ModelRow] = []
    if expose != "models":
        rows += [ModelRow(name, "evalrouter") for name in services.routes.table.names]
    unreachable: dict[str, str] = {}
    if expose == "routes":
        return Models(rows, unreachable)
    for name, listing in (await services.model_lists.of(services.providers)).items():
        models = _known(services, name, listing)
        rows += [_listed(services, name, model, listing) for model in models]
        if listing.why:
            unreachable[name] = listing.why
    return Models(rows, unreachable)


@get("/v1/models/{model:path}", tags=["models"], summary="Look one model up")
async def show_model(
    request: Request[Any, Any, Any],
    services: Injected,
    caller: InjectedCaller,
    model: FromPath[str],
) -> Response[ModelRow]:
    """Show one route or `provider/model`, as OpenAI's client requests it, or Anthropic's."""
    row = await _show(services, caller, model)
    if ANTHROPIC_VERSION not in request.headers:
        return Response(row)
    info = model_info(ModelEntry(row.id, row.created, row.shutdown_date))
    return _in_json(msgspec.json.encode(info))


async def _show(services: Services, caller: Caller, model: str) -> ModelRow:
    name = model.lstrip("/")
    check_name(name, "model")
    allowed = _allowed(caller)
    # Raises for names that no request could be sent to.
    [target, *_] = services.routes.table.plan(name, 0.0).targets
    row = _row_of(services, name)
    if row is None or (allowed is not None and name not in allowed):
        raise ModelNotFoundError(f"This key may not use the model {name!r}.", param="model")
    if allowed is not None or row.owned_by == "evalrouter":
        return row
    listing = (await services.model_lists.of([target.provider]))[target.provider]
    if target.model in _known(services, target.provider, listing):
        return _listed(services, target.provider, target.model, listing)
    why = f": {listing.why}" if listing.why else ""
    raise ModelNotFoundError(
        f"{target.provider} does not list a model {target.model!r}{why}.", param="model"
    )


def names_of(services: Services, caller: Caller) -> list[str]:
    """Return the names that a key is confined to, or else those of the routes."""
    allowed = _allowed(caller)
    return list(services.routes.table.names if allowed is None else allowed)


def _listed(services: Services, provider: str, model: str, listing: Listing) -> ModelRow:
    """Return the row of a provider's model."""
    end = retirement_of(services.config.providers[provider].kind, model, listing)
    return ModelRow(
        f"{provider}/{model}", provider, shutdown_date=None if end is None else end.date
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


def _allowed(caller: Caller) -> tuple[str, ...] | None:
    """Return the names that the caller's key is confined to; None for any."""
    row = caller.key
    return None if row is None or row.routes is None else tuple(row.routes)


def _row_of(services: Services, name: str) -> ModelRow | None:
    """Return the row of a route, or of a configured provider's model; None for other names."""
    if name in services.routes.table.routes:
        return ModelRow(name, "evalrouter")
    provider, slash, model = name.partition("/")
    return ModelRow(name, provider) if slash and model and provider in services.providers else None
