"""`evalrouter key`: create, change, list and revoke clients' keys."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec
from msgspec import UNSET, UnsetType
from rich.table import Column, Table

from router.cli.commands import (
    Commands,
    config_option,
    counted,
    err,
    json_option,
    out,
    print_json,
    print_table,
    print_warning,
    with_services,
    with_store,
)
from router.config.loading import load
from router.gateway.key_administration import (
    MAX_LIMIT,
    ListedKey,
    change,
    check_routes,
    create,
    expiry,
    listed,
    revoke,
)
from router.store.keys import BudgetPeriod, KeyRow, Role

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services
    from router.store.protocol import Store


@click.group(cls=Commands)
def key() -> None:
    """Create, change, list and revoke clients' keys."""


@key.command("create")
@click.argument("name")
@click.option(
    "--route", "routes", multiple=True, help="A model that the key may use. Default: all."
)
@click.option("--rpm", type=click.IntRange(1, MAX_LIMIT), help="Requests per minute.")
@click.option("--tpm", type=click.IntRange(1, MAX_LIMIT), help="Tokens per minute.")
@click.option("--parallel", type=click.IntRange(1, MAX_LIMIT), help="Requests at a time.")
@click.option("--budget", type=float, help="US dollars per period.")
@click.option(
    "--per",
    type=click.Choice(get_args(BudgetPeriod)),
    default="total",
    show_default=True,
    help="The period of the budget, in UTC.",
)
@click.option("--expires", help="12h, 30d, 2w, or a date. Default: never.")
@click.option(
    "--role",
    type=click.Choice(get_args(Role)),
    help="client (the default) calls models, reviewer sees and labels runs, admin does everything, "
    "viewer sees what admin sees and changes nothing.",
)
@click.option("--admin", is_flag=True, help="The same as --role admin.")
@config_option
@json_option
def key_create(
    *,
    name: str,
    routes: tuple[str, ...],
    rpm: int | None,
    tpm: int | None,
    parallel: int | None,
    budget: float | None,
    per: BudgetPeriod,
    expires: str | None,
    role: Role | None,
    admin: bool,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Create a key and print it, this once: only its hash is stored."""
    if admin and role not in (None, "admin"):
        raise click.UsageError(f"--admin contradicts --role {role}")
    now = time.time()

    async def issue(services: Services) -> tuple[str, KeyRow]:
        known = services.routes.table.routes
        for warning in check_routes(routes, known, services.providers):
            print_warning(warning)
        return await create(
            services.store,
            name,
            now=now,
            routes=routes or None,
            rpm=rpm,
            tpm=tpm,
            parallel=parallel,
            budget_usd=budget,
            budget_period=per,
            expires_at=None if expires is None else expiry(expires, now),
            role="admin" if admin else role or "client",
        )

    secret, row = with_services(load(config_path), issue)
    if as_json:
        print_json({"key": secret, **msgspec.structs.asdict(row)})
        return
    err.print(f"{row.id} ({row.name}); it is not shown again:", highlight=False)
    sys.stdout.write(secret + "\n")


def _or_none(convert: Callable[..., Any]) -> Callable[..., Any]:
    """Return a callback of an option whose `none` is UNSET: a limit that is taken away."""

    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
        if value is None or value == "none":
            return None if value is None else UNSET
        return convert(value, param, ctx)

    return read


_LIMIT = _or_none(click.IntRange(1, MAX_LIMIT).convert)
_USD = _or_none(click.FLOAT.convert)


@key.command("set")
@click.argument("name")
@click.option("--name", "new_name", help="Another name.")
@click.option("--route", "routes", multiple=True, help="A model that the key may use.")
@click.option("--all-routes", is_flag=True, help="The key may use all models.")
@click.option(
    "--rpm", metavar="INTEGER|none", callback=_LIMIT, help="Requests per minute, or none."
)
@click.option("--tpm", metavar="INTEGER|none", callback=_LIMIT, help="Tokens per minute, or none.")
@click.option(
    "--parallel", metavar="INTEGER|none", callback=_LIMIT, help="Requests at a time, or none."
)
@click.option(
    "--budget", metavar="FLOAT|none", callback=_USD, help="US dollars per period, or none."
)
@click.option(
    "--per", type=click.Choice(get_args(BudgetPeriod)), help="The period of the budget, in UTC."
)
@click.option("--expires", help="12h, 30d, 2w, a date, or none.")
@click.option("--role", type=click.Choice(get_args(Role)), help="As for 'key create'.")
@config_option
@json_option
def key_set(
    *,
    name: str,
    new_name: str | None,
    routes: tuple[str, ...],
    all_routes: bool,
    rpm: int | UnsetType | None,
    tpm: int | UnsetType | None,
    parallel: int | UnsetType | None,
    budget: float | UnsetType | None,
    per: BudgetPeriod | None,
    expires: str | None,
    role: Role | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Change a key by its id or name; running servers follow within two seconds."""
    now = time.time()
    given = {
        "name": new_name,
        "role": role,
        "rpm": rpm,
        "tpm": tpm,
        "parallel": parallel,
        "budget_usd": budget,
        "budget_period": per,
    }
    fields: dict[str, Any] = {
        field: None if value is UNSET else value
        for field, value in given.items()
        if value is not None
    }
    if routes and all_routes:
        raise click.UsageError("--all-routes contradicts --route")
    if routes or all_routes:
        fields["routes"] = routes or None
    if expires is not None:
        fields["expires_at"] = None if expires == "none" else expiry(expires, now)
    if not fields:
        raise click.UsageError("say what to change; 'evalrouter key set --help' lists it")

    async def edit(services: Services) -> KeyRow:
        known = services.routes.table.routes
        for warning in check_routes(fields.get("routes") or (), known, services.providers):
            print_warning(warning)
        return await change(services.store, name, actor="evalrouter key set", now=now, **fields)

    row = with_services(load(config_path), edit)
    if as_json:
        print_json(row)
        return
    out.print(f"{row.id} ({row.name}) changed", highlight=False)


@key.command("list")
@config_option
@json_option
def key_list(config_path: Path | None, as_json: bool) -> None:
    """List keys, what they may do and what they spent in the current period."""
    now = time.time()

    async def read(store: Store) -> list[ListedKey]:
        return await listed(store, now)

    keys = with_store(load(config_path), read)
    if as_json:
        print_json(keys)
        return
    # Nothing is cut short: half an id or half a model's name is of no use.
    rest = (
        Column(name, overflow="fold")
        for name in ("name", "role", "models", "limits", "spent", "last used", "state")
    )
    table = Table(Column("key", no_wrap=True), *rest)
    for listed_key in keys:
        table.add_row(*_key_cells(listed_key))
    print_table(table, empty="No keys yet.")


def _key_cells(listed_key: ListedKey) -> tuple[str, ...]:
    key, spent = listed_key.key, listed_key.spent
    limits = [f"{key.rpm} rpm"] if key.rpm else []
    limits += [f"{key.tpm} tpm"] if key.tpm else []
    limits += [f"{key.parallel} parallel"] if key.parallel else []
    budget = "" if key.budget_usd is None else f" of ${key.budget_usd:g}"
    per = "" if key.budget_period == "total" else f" per {key.budget_period}"
    unpriced = f", {counted(spent.unpriced, 'request')} unpriced" if spent.unpriced else ""
    estimated = f", {counted(spent.estimated, 'request')} estimated" if spent.estimated else ""
    until = ""
    if listed_key.state == "active" and key.expires_at is not None:
        until = f" until {_utc(key.expires_at)}"
    return (
        key.id,
        key.name,
        key.role,
        ", ".join(key.routes or ("all",)),
        ", ".join(limits) or "none",
        f"${spent.usd:.4f}{budget}{per}{unpriced}{estimated}",
        "never" if listed_key.used_at is None else _utc(listed_key.used_at),
        listed_key.state + until,
    )


def _utc(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


@key.command("revoke")
@click.argument("name")
@config_option
def key_revoke(name: str, config_path: Path | None) -> None:
    """Revoke a key by its id or name; running servers refuse it within two seconds."""

    async def end(store: Store) -> KeyRow:
        return await revoke(store, name, time.time())

    row = with_store(load(config_path), end)
    out.print(f"{row.id} ({row.name}) revoked", highlight=False)
