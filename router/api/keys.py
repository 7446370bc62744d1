"""`/keys`: create, list and revoke clients' keys."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, post
from litestar.params import FromPath

from router.api.bodies import body_as
from router.api.injection import Injected
from router.config.section import Names
from router.gateway.key_administration import (
    MAX_LIMIT,
    ListedKey,
    check_routes,
    create,
    expiry,
    listed,
    revoke,
)
from router.services import Services
from router.store.keys import BudgetPeriod, KeyRow, Role

Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]


class NewKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to be created; the limits are as in `evalrouter key create`.

    Attributes:
        name: what people call it.
        role: what it may do besides calling models.
        routes: the values of `model` that its requests may have; None for all.
        rpm, tpm: requests and tokens per minute.
        parallel: requests at a time.
        budget_usd: US dollars per budget period.
        budget_period: when the budget begins anew.
        expires: `12h`, `30d`, `2w`, or a date; None for never.
    """

    name: str
    role: Role = "client"
    routes: Names | None = None
    rpm: Limit | None = None
    tpm: Limit | None = None
    parallel: Limit | None = None
    budget_usd: float | None = None
    budget_period: BudgetPeriod = "total"
    expires: str | None = None


class CreatedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A new key.

    Attributes:
        secret: the key itself, which is not shown again.
        key: its row.
        warnings: routes of it that do not exist yet.
    """

    secret: str
    key: KeyRow
    warnings: list[str]


class KeyList(msgspec.Struct):
    """All keys, oldest first, with what they spent; never the keys themselves."""

    data: list[ListedKey]
    object: str = "list"


@get("/keys", tags=["keys"], summary="List keys")
async def list_keys(services: Injected) -> KeyList:
    """List keys, revoked and expired ones included, and what each spent in its budget period."""
    return KeyList(await listed(services.store, time.time()))


@post("/keys", tags=["keys"], summary="Create a key")
async def create_key(services: Injected, request: Request[Any, Any, Any]) -> CreatedKey:
    """Create a key. Its secret is in this answer only: what is stored is its hash.

    As soon as the first key exists, every request needs one.
    """
    return await issue(services, await body_as(request, NewKey))


@delete("/keys/{name:str}", tags=["keys"], summary="Revoke a key", status_code=200)
async def revoke_key(services: Injected, name: FromPath[str]) -> KeyRow:
    """Revoke a key by its id or name; other processes refuse it within two seconds."""
    return await withdraw(services, name)


async def issue(services: Services, new: NewKey) -> CreatedKey:
    """Create a key, which this process knows before its client does.

    Raises:
        InputError: a field has a value that makes no sense.
        ConflictError: a key of that name is in use.
    """
    now = time.time()
    warnings = check_routes(new.routes or (), services.routes.table.routes, services.providers)
    fields = msgspec.structs.asdict(new)
    name, expires = fields.pop("name"), fields.pop("expires")
    if expires is not None:
        fields["expires_at"] = expiry(expires, now)
    secret, row = await create(services.store, name, now=now, **fields)
    await services.key_sync.refresh()
    return CreatedKey(secret=secret, key=row, warnings=warnings)


async def withdraw(services: Services, name: str) -> KeyRow:
    """Revoke a key by its id or name; this process refuses it at once.

    Raises:
        InputError: the key itself was given.
        NotFoundError: no key of that id or name is in use.
    """
    row = await revoke(services.store, name, time.time())
    await services.key_sync.refresh()
    return row
