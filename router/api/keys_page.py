"""The pages of clients' keys: what each may do and has spent, new ones, changes, and their end.

The secret of a new key is in the answer to the form, and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, get_args

import msgspec
from litestar import Request, Response
from litestar.params import FromPath, FromQuery
from litestar.response import Redirect

from providers.errors import ConflictError, EvalrouterError, NotFoundError, RequestError
from router.api.access import Caller, InjectedCaller
from router.api.form_numbers import whole_number
from router.api.injection import Injected
from router.api.keys import CreatedKey, KeyEdit, NewKey, edit_key, issue, withdraw
from router.api.page_layout import (
    action,
    as_json,
    done,
    done_or_shown,
    form_again,
    html_response,
    page,
    part,
    rendered,
    utc,
)
from router.api.page_tables import Export, TableColumn, TableView, table_response
from router.api.sent_forms import InjectedSentForms, new_form_id
from router.api.sign_in import InjectedSessions, read_fields
from router.config.documents import convert_data
from router.gateway.key_administration import ListedKey, listed
from router.gateway.limits import period_around
from router.gateway.sessions import Sessions
from router.services import Services
from router.store.keys import BudgetPeriod, KeyRow, KeyVersion, Role
from router.store.traffic import TrafficFilter
from router.web.plots.usage import UsedStretch, usage_plot

State = Literal["active", "expired", "revoked"]
Period = Literal["day", "week", "month"]

_HOUR, _DAY = 3600.0, 86400.0
# Its name for people, how many stretches it has, and how long each is in seconds.
_PERIODS: Mapping[Period, tuple[str, int, float]] = {
    "day": ("24 hours", 24, _HOUR),
    "week": ("7 days", 7, _DAY),
    "month": ("30 days", 30, _DAY),
}
# Stretches further back are not begun when adding up took so long.
_ADDING_UP_S = 3.0

_ROLE_WORDS: Mapping[Role, str] = {
    "client": "calls models, and sees its own requests, datasets and runs",
    "reviewer": "the same, and sees all runs, labels answers and decides about rows to review",
    "admin": "everything",
    "viewer": "sees everything, changes nothing, calls no models",
}
# As `NewKey` has them; the others are texts.
_INTEGERS = ("rpm", "tpm", "parallel")


class KeyLine(NamedTuple):
    """A key as its table shows it.

    Attributes:
        id, name, role, created_at, expires_at, budget_usd, budget_period: as in KeyRow.
        routes: what it may use.
        limits: its limits per minute and at a time, with commas between.
        state: whether it can be used.
        spent_usd: in the current budget period.
        unpriced: its requests in it without a known cost.
        period_ends: when the budget begins anew, seconds since the epoch; None for never.
        used_at: when it was used last, to about a minute, seconds since the epoch; None for never.
    """

    id: str
    name: str
    role: str
    routes: str
    limits: str
    state: str
    spent_usd: float
    unpriced: int
    budget_usd: float | None
    budget_period: str
    period_ends: float | None
    expires_at: float | None
    created_at: float
    used_at: float | None


_COLUMNS = (
    TableColumn("name", "Key", sorts=True),
    TableColumn("role", "Role", sorts=True),
    TableColumn("state", "State", sorts=True),
    TableColumn("routes", "Models"),
    TableColumn("limits", "Limits"),
    TableColumn("spent_usd", "Spent ($)", sorts=True, number=True),
    TableColumn("budget_usd", "Budget", sorts=True, number=True),
    TableColumn("expires_at", "Expires (UTC)", sorts=True),
    TableColumn("used_at", "Last used (UTC)", sorts=True),
    TableColumn("created_at", "Created (UTC)", sorts=True),
)
_EXPORTED = (
    *_COLUMNS,
    TableColumn("budget_period", "Budget per"),
    TableColumn("unpriced", "Without a price"),
    TableColumn("id", "Id"),
)


@page("/pages/keys")
async def key_list(
    *,
    services: Injected,
    caller: InjectedCaller,
    q: FromQuery[str] = "",
    role_is: FromQuery[Literal["", Role]] = "",
    state_is: FromQuery[Literal["", State]] = "",
    sort: FromQuery[str] = "-created_at",
    after: FromQuery[str] = "",
    export: FromQuery[Export] = "",
) -> Response[Any]:
    """Show the keys; `q` is a part of a name or an id."""
    filters = {"q": q, "role_is": role_is, "state_is": state_is}
    view = TableView(
        "/keys",
        _EXPORTED if export else _COLUMNS,
        sort=sort,
        filters=filters,
        after=after,
        export=export,
    )
    return await _list(services, caller, view, filters)


async def _list(
    services: Services,
    caller: Caller,
    view: TableView,
    filters: Mapping[str, str],
    *,
    typed: Mapping[str, str] | None = None,
    error: str = "",
    created: CreatedKey | None = None,
) -> Response[Any]:
    """Return the list, with the form as it was typed, or with a new key."""
    now = time.time()
    every = [_line(listed_key, now) for listed_key in await listed(services.store, now)]
    lines = [
        line
        for line in every
        if filters["q"].lower() in f"{line.name} {line.id}".lower()
        and filters["role_is"] in ("", line.role)
        and filters["state_is"] in ("", line.state)
    ]
    return await table_response(
        "keys",
        caller,
        view,
        (_cells(line) for line in view.page_of(lines, lambda line: line.id)),
        **filters,
        roles=get_args(Role),
        states=get_args(State),
        may_create=caller.reach_of("POST /keys") == "all",
        is_first=not every,
        is_only=created is not None and len(every) == 1,
        role_words=_ROLE_WORDS,
        periods=get_args(BudgetPeriod),
        typed=dict.fromkeys(NewKey.__struct_fields__, "")
        | dict(typed or {"role": "client" if every else "admin"}),
        error=error,
        created=created,
        form_id=new_form_id(),
    )


@action("/pages/keys")
async def create_key(
    services: Injected,
    caller: InjectedCaller,
    forms: InjectedSentForms,
    request: Request[Any, Any, Any],
) -> Response[Any]:
    """Create a key, and show it this once; or show the form again, with what is wrong."""
    typed = await read_fields(request)
    return await forms.once(caller.key_id, typed, lambda: _created(services, caller, typed))


async def _created(services: Services, caller: Caller, typed: Mapping[str, str]) -> Response[Any]:
    error, created = "", None
    try:
        created = await issue(services, _new_key(typed))
    except EvalrouterError as problem:
        error = problem.message
    filters = {"q": "", "role_is": "", "state_is": ""}
    view = TableView("/keys", _COLUMNS, sort="-created_at", filters=filters)
    response = await _list(
        services,
        caller,
        view,
        filters,
        typed=None if created else typed,
        error=error,
        created=created,
    )
    response.headers["cache-control"] = "no-store"
    return form_again(response, 400 if error else 200)


def _new_key(typed: Mapping[str, str]) -> NewKey:
    """Return what a form describes. Raises RequestError."""
    # What is empty is as for a key that says nothing of it.
    document = {name: value for name, value in _values(typed).items() if value is not None}
    return convert_data({"name": "", **document}, NewKey, error=RequestError)


def _values(typed: Mapping[str, str]) -> dict[str, Any]:
    """Return what a form says of a key, None for an empty field. Raises RequestError."""
    values: dict[str, Any] = {}
    for name in NewKey.__struct_fields__:
        text = typed.get(name, "").strip()
        if name == "routes":
            values[name] = text.replace(",", " ").split() or None
        elif text and name in _INTEGERS:
            values[name] = whole_number(text, name)
        elif text and name == "budget_usd":
            values[name] = _dollars(text)
        else:
            values[name] = text or None
    return values


def _texts(key: KeyRow) -> dict[str, str]:
    """Return a key as the fields of a form have it."""
    texts = {
        name: "" if value is None else str(value)
        for name, value in msgspec.structs.asdict(key).items()
        if name in NewKey.__struct_fields__
    }
    if key.budget_usd is not None:
        texts["budget_usd"] = f"{key.budget_usd:.15g}"
    expires = (
        "" if key.expires_at is None else datetime.fromtimestamp(key.expires_at, UTC).isoformat()
    )
    return texts | {"routes": "\n".join(key.routes or ()), "expires": expires}


def _dollars(text: str) -> float:
    try:
        return float(text.removeprefix("$"))
    except ValueError:
        raise RequestError(
            f"budget_usd: {text!r} is not a number of US dollars.", param="budget_usd"
        ) from None


@page("/pages/keys/{key_id:str}")
async def key_page(
    *,
    services: Injected,
    sessions: InjectedSessions,
    caller: InjectedCaller,
    key_id: FromPath[str],
    usage: FromQuery[Literal["", Period]] = "",
) -> Response[Any]:
    """Show one key by its id, and how it was used; a browser with scripts loads that later."""
    return await _page(services, sessions, caller, key_id, usage=usage)


async def _page(
    services: Services,
    sessions: Sessions,
    caller: Caller,
    key_id: str,
    *,
    usage: Literal["", Period] = "",
    typed: Mapping[str, str] | None = None,
    error: str = "",
) -> Response[str]:
    """Return the page of a key, with the form as it was typed."""
    listed_key = await _find(services, key_id)
    line = _line(listed_key, time.time())
    versions = await services.store.key_versions(key_id)
    is_in_use = line.state != "revoked"
    return await rendered(
        "key.html",
        caller,
        title=f"Key {line.name}",
        current="/keys",
        key=line,
        role_words=_ROLE_WORDS,
        created=utc(line.created_at),
        expires=utc(line.expires_at),
        used=utc(line.used_at),
        period_ends=utc(line.period_ends),
        is_own=caller.key_id == line.id,
        browsers=await sessions.count(line.id),
        may_revoke=caller.reach_of("DELETE /keys/{name}") == "all" and is_in_use,
        may_change=caller.reach_of("PATCH /keys/{name}") == "all" and is_in_use,
        sees_traffic=caller.reach_of("GET /traffic") == "all",
        period_names={name: words for name, (words, _, _) in _PERIODS.items()},
        chosen=usage,
        versions=[_shown_version(version) for version in versions],
        version=_latest(versions),
        roles=get_args(Role),
        periods=get_args(BudgetPeriod),
        typed=_texts(listed_key.key) | dict(typed or {}),
        error=error,
        **(await _usage_values(services, line.id, usage) if usage else {"plot": ""}),
    )


def _latest(versions: Sequence[KeyVersion]) -> int:
    return versions[0].number if versions else 0


def _shown_version(version: KeyVersion) -> dict[str, Any]:
    changes = [
        {"name": name, "before": _shown(name, before), "after": _shown(name, after)}
        for name, (before, after) in version.changes.items()
    ]
    return {"at": version.at, "actor": version.actor, "changes": changes}


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if name == "expires_at":
        return utc(value)
    if name == "routes":
        return ", ".join(value)
    return value if isinstance(value, str) else as_json(value)


@action("/pages/keys/{key_id:str}/change")
async def change_key(
    services: Injected,
    sessions: InjectedSessions,
    caller: InjectedCaller,
    request: Request[Any, Any, Any],
    key_id: FromPath[str],
) -> Response[Any]:
    """Change a key as its form says; or show the form again, with what is wrong."""
    typed = await read_fields(request)
    await _find(services, key_id)

    async def shown(error: EvalrouterError) -> Response[str]:
        return await _page(services, sessions, caller, key_id, typed=typed, error=error.message)

    return await done_or_shown(_changed(services, caller, key_id, typed), shown)


async def _changed(
    services: Services, caller: Caller, key_id: str, typed: Mapping[str, str]
) -> str:
    """Change a key as a form says, and return the path of its page."""
    row = (await _find(services, key_id)).key
    if typed.get("version") != str(_latest(await services.store.key_versions(key_id, limit=1))):
        raise ConflictError(
            "The key was changed meanwhile. Its page above shows it as it is now; what you typed "
            "is below."
        )
    values = _values(typed)
    # Its moment has more digits than the text, so that would be a change.
    if typed.get("expires", "").strip() == _texts(row)["expires"]:
        del values["expires"]
    edit = convert_data(values, KeyEdit, error=RequestError)
    await edit_key(services, key_id, edit, caller.actor)
    return f"/keys/{key_id}"


@page("/pages/keys/{key_id:str}/usage")
async def key_usage(
    services: Injected, key_id: FromPath[str], period: FromQuery[Period] = "day"
) -> Response[str]:
    """Show how a key was used, as a part of its page."""
    key = (await _find(services, key_id)).key
    return html_response(
        await part("key_usage_part.html", **await _usage_values(services, key.id, period))
    )


@action("/pages/keys/{key_id:str}/revoke")
async def revoke_key(services: Injected, key_id: FromPath[str]) -> Redirect:
    """Revoke a key, which ends its sessions as well."""
    await withdraw(services, key_id)
    return done("/keys")


@action("/pages/keys/{key_id:str}/sign-out")
async def sign_out_browsers(
    services: Injected, sessions: InjectedSessions, key_id: FromPath[str]
) -> Redirect:
    """Sign out every browser that is signed in with a key, which itself stays."""
    key = (await _find(services, key_id)).key
    await sessions.end_all(key.id)
    return done(f"/keys/{key.id}")


async def _find(services: Services, key_id: str) -> ListedKey:
    for listed_key in await listed(services.store, time.time()):
        if listed_key.key.id == key_id:
            return listed_key
    raise NotFoundError(f"There is no key with the id {key_id!r}.")


async def _usage_values(services: Services, key_id: str, period: Period) -> dict[str, Any]:
    words, count, step = _PERIODS[period]
    stretches = await used_stretches(services, key_id, count, step)
    return {
        "plot": usage_plot(f"Requests of the last {words}", stretches, step=step),
        "requests": sum(stretch.requests for stretch in stretches),
        "failures": sum(stretch.failures for stretch in stretches),
        "tokens": sum(stretch.tokens for stretch in stretches),
        "usd": sum(stretch.usd for stretch in stretches),
        "unpriced": sum(stretch.unpriced for stretch in stretches),
        "words": words,
        "cut_at": utc(stretches[0].since) if len(stretches) < count else "",
    }


async def used_stretches(
    services: Services, key_id: str, count: int, step: float
) -> list[UsedStretch]:
    """Return what a key used in the last hours or days, oldest first.

    The newest is read first. Of a key with very many requests, those are left out that are not
    begun after three seconds.
    """
    now, began = time.time(), time.monotonic()
    newest = now // step * step
    stretches: list[UsedStretch] = []
    for n in range(count):
        if stretches and time.monotonic() - began > _ADDING_UP_S:
            break
        since = newest - n * step
        matching = TrafficFilter(key_id=key_id, since=since, until=since + step)
        totals = await services.recorded.totals(matching, (), limit=1)
        stretches.append(
            UsedStretch(
                since=since,
                requests=sum(total.requests for total in totals),
                failures=sum(total.failures for total in totals),
                tokens=sum(total.prompt_tokens + total.completion_tokens for total in totals),
                usd=sum(total.cost_usd for total in totals),
                unpriced=sum(total.unpriced for total in totals),
            )
        )
    return stretches[::-1]


def _line(listed_key: ListedKey, now: float) -> KeyLine:
    key = listed_key.key
    limits = [
        f"{limit:,} {words}"
        for limit, words in (
            (key.rpm, "requests/min"),
            (key.tpm, "tokens/min"),
            (key.parallel, "at a time"),
        )
        if limit is not None
    ]
    _, until = period_around(key.budget_period, now)
    return KeyLine(
        id=key.id,
        name=key.name,
        role=key.role,
        routes="all" if key.routes is None else ", ".join(key.routes),
        limits=", ".join(limits),
        state=listed_key.state,
        spent_usd=listed_key.spent.usd,
        unpriced=listed_key.spent.unpriced,
        budget_usd=key.budget_usd,
        budget_period=key.budget_period,
        period_ends=None if key.budget_period == "total" else until,
        expires_at=key.expires_at,
        created_at=key.created_at,
        used_at=listed_key.used_at,
    )


def _cells(line: KeyLine) -> dict[str, Any]:
    return line._asdict() | {
        "expires_at": utc(line.expires_at),
        "created_at": utc(line.created_at),
        "used_at": utc(line.used_at),
    }
