"""`evalrouter traffic`: delete what is stored of requests, and move old ones into files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from providers.errors import ConflictError, InputError
from router.cli.commands import (
    Commands,
    config_option,
    counted,
    err,
    escape,
    json_option,
    out,
    print_json,
    with_services,
)
from router.config.loading import load
from router.records import user_id
from router.sealing.deletion import Deletion
from router.sealing.job import SealingResult
from router.store.traffic import TrafficFilter

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services


@click.group(cls=Commands)
def traffic() -> None:
    """Delete what is stored of requests, and move old ones into files."""


@traffic.command("delete")
@click.argument("request_id", required=False)
@click.option("--key", "key_id", help="Requests of a key, by its id.")
@click.option("--user", help="Requests of a client's user: their `safety_identifier` or `user`.")
@click.option("--route", help="Requests of a route, or for a model.")
@click.option("--target", help="Requests that a target answered.")
@config_option
@json_option
def traffic_delete(
    request_id: str | None,
    user: str | None,
    config_path: Path | None,
    as_json: bool,
    **selected: str | None,
) -> None:
    """Delete the records of the request REQUEST_ID, or of all that the options select.

    Their bodies are deleted with them. A running server need not be stopped; its response cache
    forgets all answers within a second.
    """
    for name, value in {"user": user, **selected}.items():
        if value == "":
            # A script's empty variable must not select everything without one.
            raise InputError(f"--{name.removesuffix('_id')} must not be empty")
    matching = TrafficFilter(
        id=request_id,
        key_id=selected["key_id"],
        user=None if user is None else user_id(user),
        route=selected["route"],
        target=selected["target"],
    )
    if matching == TrafficFilter():
        raise InputError(
            "say which requests to delete: REQUEST_ID, --key, --user, --route or --target"
        )

    async def delete(services: Services) -> Deletion:
        return await services.deletion.delete(matching)

    deletion: Deletion = with_services(load(config_path), delete)
    if as_json:
        counts = {"deleted": deletion.deleted, "related": deletion.related}
        print_json(counts | {"elsewhere": deletion.elsewhere})
        return
    related = f", and {counted(deletion.related, 'row')} about them" if deletion.related else ""
    out.print(f"{counted(deletion.deleted, 'request')} deleted{related}", highlight=False)
    for place in deletion.elsewhere:
        err.print(
            f"[yellow]warning:[/] texts of requests may also be in {escape(place)}",
            soft_wrap=True,
            highlight=False,
        )


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
