"""`evalrouter traffic`: list requests, delete what is stored of them, move old ones into files."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec
from rich.table import Column, Table

from providers.errors import ConflictError, InputError
from router.cli.commands import (
    Commands,
    config_option,
    counted,
    json_option,
    out,
    print_json,
    print_table,
    print_warning,
    with_services,
)
from router.config.loading import load
from router.gateway.key_administration import find_key
from router.loop.moments import period
from router.loop.request_search import request_query, statuses_of
from router.records import TrafficClass, stored_name
from router.sealing.deletion import Deletion
from router.sealing.job import SealingResult
from router.store.traffic import TrafficFilter, TrafficRow

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services


@click.group(cls=Commands)
def traffic() -> None:
    """List requests, delete what is stored of them, and move old ones into files."""


@traffic.command("list")
@click.option("--key", help="Requests of a key, by its name or id.")
@click.option("--user", help="Requests of a client's user: their `safety_identifier` or `user`.")
@click.option(
    "--conversation", help="Requests of a conversation: their `x-evalrouter-conversation`."
)
@click.option("--route", help="Requests of a route, or for a model.")
@click.option("--target", help="Requests that a target answered.")
@click.option("--status", help="A number, a class as 4xx, or error.")
@click.option(
    "--class",
    "traffic_class",
    type=click.Choice(get_args(TrafficClass)),
    help="Requests of clients (live), or of runs.",
)
@click.option("--since", help="7d, 12h, or a date or time in ISO 8601.")
@click.option("--until", help="As --since.")
@click.option("--where", default="", help="A condition, as for 'dataset from-traffic'.")
@click.option("--text", default="", help="A part of a message or the answer.")
@click.option("--metadata", default="", help="NAME=VALUE in the request's metadata, or NAME.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@config_option
@json_option
def traffic_list(
    *,
    key: str | None,
    status: str | None,
    since: str | None,
    until: str | None,
    where: str,
    text: str,
    metadata: str,
    limit: int,
    config_path: Path | None,
    as_json: bool,
    **selected: str | None,
) -> None:
    """List recorded requests, newest first.

    With --where, --text or --metadata, requests are looked through until there are enough; texts
    and metadata are found where bodies are stored.
    """
    first, last = period(since, until, time.time())
    query = request_query(where=where, text=text, metadata=metadata)

    names = _selected(selected)
    statuses = None if status is None else statuses_of(status)

    async def read(services: Services) -> list[TrafficRow]:
        matching = TrafficFilter(
            key_id=None if key is None else (await find_key(services.store, key)).id,
            status=statuses,
            since=first,
            until=last,
            **names,
        )
        rows: list[TrafficRow] = []
        before = None
        while True:
            page = await services.request_search.page(
                matching, query, only=None, limit=limit - len(rows), before=before
            )
            rows += page.rows
            before = page.next
            if not page.stopped:
                return rows

    rows = with_services(load(config_path), read)
    if as_json:
        print_json(rows)
        return
    columns = ("time (UTC)", "record", "route", "answered by", "status", "tokens", "cost", "time")
    table = Table(*(Column(name, overflow="fold") for name in columns))
    for row in rows:
        table.add_row(*_cells(row))
    print_table(table, empty="No request matches.")


def _cells(row: TrafficRow) -> tuple[str, ...]:
    return (
        f"{datetime.fromtimestamp(row.at, UTC):%Y-%m-%d %H:%M:%S}",
        row.id,
        row.route,
        row.target or "-",
        str(row.status),
        "-" if row.total_tokens is None else f"{row.total_tokens:,}",
        "-" if row.cost_usd is None else f"${row.cost_usd:.4f}",
        f"{row.total_s:.2f} s",
    )


@traffic.command("delete")
@click.argument("request_id", required=False)
@click.option("--key", "key_id", help="Requests of a key, by its id.")
@click.option("--user", help="Requests of a client's user: their `safety_identifier` or `user`.")
@click.option(
    "--conversation", help="Requests of a conversation: their `x-evalrouter-conversation`."
)
@click.option("--route", help="Requests of a route, or for a model.")
@click.option("--target", help="Requests that a target answered.")
@config_option
@json_option
def traffic_delete(
    request_id: str | None,
    config_path: Path | None,
    as_json: bool,
    **selected: str | None,
) -> None:
    """Delete the records of the request REQUEST_ID, or of all that the options select.

    REQUEST_ID is the id of a record, `x-evalrouter-record`; or an `x-request-id`, of the requests
    of --key or else of those without a key, because clients choose it.
    Their bodies are deleted with them. A running server need not be stopped; its response cache
    forgets all answers within a second.
    """
    matching = TrafficFilter(**_selected(selected))
    key_id = matching.key_id
    if request_id is not None and matching != TrafficFilter(key_id=key_id):
        raise InputError("beside REQUEST_ID, only --key selects")
    if request_id is None and matching == TrafficFilter():
        raise InputError(
            "say which requests to delete: REQUEST_ID, --key, --user, --conversation, --route or "
            "--target"
        )

    async def delete(services: Services) -> Deletion:
        if request_id is None:
            return await services.deletion.delete(matching)
        return await services.deletion.delete_named(
            request_id, key_id=key_id, named_by=key_id or ""
        )

    deletion: Deletion = with_services(load(config_path), delete)
    if as_json:
        counts = {"deleted": deletion.deleted, "related": deletion.related}
        print_json(counts | {"elsewhere": deletion.elsewhere})
        return
    related = f", and {counted(deletion.related, 'row')} about them" if deletion.related else ""
    out.print(f"{counted(deletion.deleted, 'request')} deleted{related}", highlight=False)
    for place in deletion.elsewhere:
        print_warning(f"texts of requests may also be in {place}")


def _selected(options: Mapping[str, str | None]) -> dict[str, Any]:
    """Return what options select as fields of a filter. Raises InputError."""
    for name, value in options.items():
        if value == "":
            # A script's empty variable must not select everything without one.
            raise InputError(f"--{name.removesuffix('_id')} must not be empty")
    return {
        name: stored_name(value) if name in {"user", "conversation"} and value else value
        for name, value in options.items()
    }


@traffic.command("seal")
@click.option(
    "--after-days",
    type=click.FloatRange(min=0, min_open=True),
    help="How many days requests stay in the database. Default: storage.seal_after_days.",
)
@config_option
@json_option
def traffic_seal(after_days: float | None, config_path: Path | None, *, as_json: bool) -> None:
    """Move old requests into compressed files now, and delete those that are too old to be stored.

    A server whose config has storage.seal_after_days does that every ten minutes. Whole days (UTC)
    are moved. Exit codes: 0 done, 1 not all of it, 2 where another process does it at the moment.
    """
    config = load(config_path)
    if after_days is not None:
        storage = msgspec.structs.replace(config.storage, seal_after_days=after_days)
        config = msgspec.structs.replace(config, storage=storage)
    if not config.storage.seal_after_days:
        raise InputError("say after how many days: --after-days, or storage.seal_after_days")

    async def seal(services: Services) -> SealingResult | None:
        return await services.sealing.run_once()

    result = with_services(config, seal)
    if result is None:
        raise ConflictError("another process is sealing requests")
    if as_json:
        print_json(result)
        return
    out.print(
        f"{counted(result.requests, 'request')} moved into {counted(result.files, 'file')} "
        f"({counted(result.size, 'byte')}), "
        f"{result.deleted} deleted from files",
        highlight=False,
    )
