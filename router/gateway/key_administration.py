"""Creates, changes, revokes and lists clients' keys, for `evalrouter key` and `/keys`."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from providers.errors import InputError, NotFoundError, closest
from providers.names import check_name
from router.config.section import IN_PLACE, NAME
from router.gateway.keys import digest_of
from router.gateway.limits import period_around
from router.store.keys import KeyChange, KeyRow, KeySpend, KeyStore

PREFIX = "er-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,63}")
_AFTER = re.compile(r"(\d{1,6})([hdw])")
_SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}
# Requests, tokens or dollars: more is no limit.
MAX_LIMIT = 10**9
# A date has four digits for its year.
MAX_YEARS = 1000


async def create(store: KeyStore, name: str, *, now: float, **fields: Any) -> tuple[str, KeyRow]:
    """Create a key; return the key itself, which is stored nowhere, and its row.

    Args:
        store: where its hash is stored.
        name: what people call it.
        now: seconds since the epoch.
        fields: further fields of KeyRow.

    Raises:
        InputError: a field has a value that makes no sense.
        ConflictError: a key of that name is in use.
    """
    key = new_key()
    return key, await add(store, name, key, now=now, **fields)


def new_key() -> str:
    """Return a random key, which is stored nowhere."""
    return PREFIX + secrets.token_urlsafe(32)


async def add(store: KeyStore, name: str, key: str, *, now: float, **fields: Any) -> KeyRow:
    """Store the hash of a key that its user has already, and return its row; see `create`."""
    row = KeyRow(id=f"key_{secrets.token_hex(8)}", name=name, created_at=now, **fields)
    _check(row)
    await store.add_key(row, digest_of(key.encode()))
    return row


async def find_key(store: KeyStore, name: str) -> KeyRow:
    """Return the key with an id, or the one in use that has a name.

    Raises:
        InputError: the key itself was given.
        NotFoundError: no key has this id, and none in use this name.
    """
    _refuse_secret(name)
    rows = (await store.keys()).by_hash.values()
    for row in rows:
        if row.id == name or (row.name == name and row.revoked_at is None):
            return row
    in_use = [row.name for row in rows if row.revoked_at is None]
    raise NotFoundError(f"There is no key {name!r}.{closest(name, in_use)}")


def _check_name(name: str) -> None:
    # A name that looks like an id or like a key would be taken for one.
    if not _NAME.fullmatch(name) or name.startswith(("key_", PREFIX)):
        raise InputError(
            f"a key's name has 1 to 64 letters, digits and . _ @ : - and does not begin with key_ "
            f"or {PREFIX}"
        )


def _check(row: KeyRow) -> None:
    _check_name(row.name)
    for route in row.routes or ():
        check_name(route, "routes", InputError)
    for name, limit in (("rpm", row.rpm), ("tpm", row.tpm), ("parallel", row.parallel)):
        if limit is not None and not 1 <= limit <= MAX_LIMIT:
            raise InputError(f"{name} must be from 1 to {MAX_LIMIT:,}; leave it out for no limit")
    if row.budget_usd is not None and not 0 < row.budget_usd <= MAX_LIMIT:
        raise InputError(f"a budget is a positive number of US dollars, at most {MAX_LIMIT:,}")
    if row.expires_at is not None and row.expires_at <= row.created_at:
        raise InputError("the key would have expired already")
    if row.expires_at is not None and row.expires_at > row.created_at + MAX_YEARS * 365 * 86400:
        raise InputError(
            f"the time must be within {MAX_YEARS} years; leave it out and the key never expires"
        )
    if row.role == "viewer" and row.routes is not None:
        raise InputError("a viewer's key calls no models, so it cannot be confined to routes")
    if row.role == "admin" and row.routes is not None:
        raise InputError(
            "a key for administration may evaluate any route, so it cannot be confined to some"
        )


def check_routes(
    names: Iterable[str], routes: Collection[str], providers: Collection[str]
) -> list[str]:
    """Check what a key is to be confined to; return a warning for each route that does not exist.

    A route may be set while the server runs, so the name of one that does not exist may be meant.
    Providers come from the config alone, so a model of an unknown one is a mistake.

    Args:
        names: routes, and `provider/model`.
        routes: the names of the routes as they stand.
        providers: the names of the configured providers.

    Raises:
        InputError: no request for one of these models can be answered, now or later.
    """
    warnings = []
    for name in names:
        check_name(name, "routes", InputError)
        provider, slash, model = name.partition("/")
        if slash:
            _check_model(name, provider, model, providers)
        elif not NAME.fullmatch(name):
            raise InputError(f"{name!r} cannot name a route: use letters, digits and . _ : - only")
        elif name not in routes:
            warnings.append(
                f"no route {name!r} exists, so the key cannot use it until one is set."
                f"{closest(name, routes)}"
            )
    return warnings


def _check_model(name: str, provider: str, model: str, providers: Collection[str]) -> None:
    if not provider or not model:
        raise InputError(f"{name!r} is neither a route nor of the form provider/model")
    if provider == IN_PLACE:
        raise InputError(f"{name!r} is loaded within runs only, so no key can use it")
    if provider not in providers:
        raise InputError(
            f"{name!r}: the config has no provider {provider!r}.{closest(provider, providers)}"
        )


async def change(store: KeyStore, key: str, /, *, actor: str, now: float, **fields: Any) -> KeyRow:
    """Change a key that is in use, by its id or name, and return its row.

    Args:
        store: where it is stored.
        key: its id or name.
        actor: who changes it.
        now: seconds since the epoch.
        fields: fields of KeyRow, with their new values.

    Raises:
        InputError: the key itself was given, or a field has a value that makes no sense.
        NotFoundError: no key of that id or name is in use.
        ConflictError: it was changed meanwhile, or another key in use has its new name.
    """
    if "name" in fields:
        # Wrong for any key, so it is refused where there is none, too.
        _check_name(fields["name"])
    before = await find_key(store, key)
    if before.revoked_at is not None:
        raise NotFoundError(f"The key {before.name!r} was revoked, so it cannot be changed.")
    after = msgspec.structs.replace(before, **fields)
    if after == before:
        return before
    _check(after)
    if after.expires_at != before.expires_at and not _is_later(after.expires_at, now):
        raise InputError("the key would have expired already; to end it, revoke it")
    since, _ = period_around(after.budget_period, now)
    await store.change_key(KeyChange(before, after, now, actor, since))
    return after


def _is_later(expires_at: float | None, now: float) -> bool:
    return expires_at is None or expires_at > now


def _refuse_secret(name: str) -> None:
    if name.startswith(PREFIX):
        raise InputError("give the key's id or name, as 'evalrouter key list' shows it")


async def revoke(store: KeyStore, name: str, now: float) -> KeyRow:
    """Revoke a key by its id or name.

    Raises:
        InputError: the key itself was given.
        NotFoundError: no key of that id or name is in use.
    """
    _refuse_secret(name)
    return await store.revoke_key(name, now)


def expiry(text: str, now: float) -> float:
    """Return the time that a text names, in seconds since the epoch.

    That is `12h`, `30d` or `2w` from now, or a date or a date and time in ISO 8601, in UTC unless
    it says otherwise.

    Raises:
        InputError: the text has another form.
    """
    after = _AFTER.fullmatch(text)
    if after is not None:
        return now + int(after[1]) * _SECONDS[after[2]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"{text!r} is not a time: write 12h, 30d, 2w, 2027-01-31 or 2027-01-31T12:00+01:00"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class ListedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as `evalrouter key list` shows it.

    Attributes:
        key: its row: what it may do.
        state: whether it can be used.
        spent: what it spent in the current budget period, as far as servers have written it down.
        used_at: when it was used last, to about a minute; None for never.
    """

    key: KeyRow
    state: Literal["active", "expired", "revoked"]
    spent: KeySpend
    used_at: float | None


async def listed(store: KeyStore, now: float) -> list[ListedKey]:
    """Return all keys, oldest first."""
    state = await store.key_state()
    uses = await store.key_uses()
    rows = []
    for key in (await store.keys()).by_hash.values():
        since, _ = period_around(key.budget_period, now)
        spent = state.spent.get(key.id)
        if spent is None or spent.since != since:
            spent = KeySpend(key_id=key.id, since=since)
        rows.append(
            ListedKey(key=key, state=state_of(key, now), spent=spent, used_at=uses.get(key.id))
        )
    return rows


def state_of(key: KeyRow, now: float) -> Literal["active", "expired", "revoked"]:
    """Return whether a key can be used."""
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "active"
