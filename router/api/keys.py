"""`/keys`: create, change, list and revoke clients' keys; `/key`: what a request's own may do."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, delete, get, patch, post
from litestar.params import FromPath

from router.api.access import ACCESS, InjectedCaller
from router.api.bodies import body_as
from router.api.injection import Injected
from router.config.section import Names
from router.gateway.key_administration import (
    MAX_LIMIT,
    ListedKey,
    change,
    check_routes,
    create,
    expiry,
    find_key,
    listed,
    revoke,
)
from router.services import Services
from router.store.keys import BudgetPeriod, KeyRow, KeyVersion, Role

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


class KeyEdit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is changed of a key; what is left out stays as it is, and null takes a limit away.

    Attributes:
        name, role, routes, rpm, tpm, parallel, budget_usd, budget_period, expires: as in NewKey.
    """

    name: str | msgspec.UnsetType = msgspec.UNSET
    role: Role | msgspec.UnsetType = msgspec.UNSET
    routes: Names | msgspec.UnsetType | None = msgspec.UNSET
    rpm: Limit | msgspec.UnsetType | None = msgspec.UNSET
    tpm: Limit | msgspec.UnsetType | None = msgspec.UNSET
    parallel: Limit | msgspec.UnsetType | None = msgspec.UNSET
    budget_usd: float | msgspec.UnsetType | None = msgspec.UNSET
    budget_period: BudgetPeriod | msgspec.UnsetType = msgspec.UNSET
    expires: str | msgspec.UnsetType | None = msgspec.UNSET


class ChangedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it has become.

    Attributes:
        key: its row.
        warnings: routes of it that do not exist yet.
    """

    key: KeyRow
    warnings: list[str]


class ShownKey(ListedKey, frozen=True, kw_only=True):
    """A key, and what was changed of it.

    Attributes:
        versions: its latest changes, at most 50, the newest first.
    """

    versions: list[KeyVersion]


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


class KeyAccess(msgspec.Struct, frozen=True, kw_only=True):
    """What the key of a request is, and what it may do.

    Attributes:
        id, name: the key's; "" while no key is needed.
        role: its role; `admin` while no key is needed.
        required: whether requests need a key.
        operations: what it may request, pages apart, as `GET /eval`: `all` of it, or only what is
            the key's `own`.
    """

    id: str
    name: str
    role: Role
    required: bool
    operations: dict[str, Literal["own", "all"]]


@get("/key", tags=["keys"], summary="Show what the request's key may do")
async def show_own_key(caller: InjectedCaller) -> KeyAccess:
    """Show the name and the role of the key that the request presents, and what it may request."""
    key = caller.key
    return KeyAccess(
        id=caller.key_id,
        name="" if key is None else key.name,
        role="admin" if key is None else key.role,
        required=key is not None,
        operations={
            operation: reach
            for operation in ACCESS
            if "/pages/" not in operation and (reach := caller.reach_of(operation)) != "no"
        },
    )


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


@get("/keys/{name:str}", tags=["keys"], summary="Show a key")
async def show_key(services: Injected, name: FromPath[str]) -> ShownKey:
    """Show a key by its id or name, what it spent, and who changed it when."""
    return await shown_key(services, name)


@patch("/keys/{name:str}", tags=["keys"], summary="Change a key")
async def change_key(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    request: Request[Any, Any, Any],
) -> ChangedKey:
    """Change a key by its id or name; other processes follow within two seconds.

    What is used of a limit stays used. Where `budget_period` changes, what the key spent since the
    new period began is counted, as far as that is known: from a day to a month all days of it, from
    a month to a day nothing.
    """
    return await edit_key(services, name, await body_as(request, KeyEdit), caller.actor)


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


async def shown_key(services: Services, name: str) -> ShownKey:
    """Return a key by its id or name, with its changes. Raises NotFoundError."""
    key_id = (await find_key(services.store, name)).id
    [row] = [
        listed_key
        for listed_key in await listed(services.store, time.time())
        if listed_key.key.id == key_id
    ]
    versions = await services.store.key_versions(key_id)
    return ShownKey(**msgspec.structs.asdict(row), versions=versions)


async def edit_key(services: Services, name: str, edit: KeyEdit, actor: str) -> ChangedKey:
    """Change a key by its id or name, in this process at once.

    Raises:
        InputError: the key itself was given, or a field has a value that makes no sense.
        NotFoundError: no key of that id or name is in use.
        ConflictError: it was changed meanwhile, or another key in use has its new name.
    """
    now = time.time()
    fields = {
        field: value
        for field, value in msgspec.structs.asdict(edit).items()
        if value is not msgspec.UNSET
    }
    warnings = check_routes(
        fields.get("routes") or (), services.routes.table.routes, services.providers
    )
    if "expires" in fields:
        expires = fields.pop("expires")
        fields["expires_at"] = None if expires is None else expiry(expires, now)
    row = await change(services.store, name, actor=actor, now=now, **fields)
    await services.key_sync.refresh()
    return ChangedKey(key=row, warnings=warnings)


async def withdraw(services: Services, name: str) -> KeyRow:
    """Revoke a key by its id or name; this process refuses it at once.

    Raises:
        InputError: the key itself was given.
        NotFoundError: no key of that id or name is in use.
    """
    row = await revoke(services.store, name, time.time())
    await services.key_sync.refresh()
    return row
