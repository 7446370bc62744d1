"""`evalrouter traffic`: delete what is stored of requests, and move old ones into files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
import msgspec

from providers.errors import ConflictError, InputError
from router.cli.commands import (
    Commands,
    config_option,
    counted,
    json_option,
    out,
    print_json,
    print_warning,
    with_services,
)
from router.config.loading import load
from router.records import stored_name
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
@click.option(
    "--conversation", help="Requests of a conversation: their `x-evalrouter-conversation`."
)
@click.option("--route", help="Requests of a route, or for a model.")
@click.option("--target", help="Requests that a target answered.")
@config_option
@json_option
def traffic_delete(
    request_id: str | None,
    user: str | None,
    conversation: str | None,
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
    names = {"user": user, "conversation": conversation}
    for name, value in {**names, **selected}.items():
        if value == "":
            # A script's empty variable must not select everything without one.
            raise InputError(f"--{name.removesuffix('_id')} must not be empty")
    given: dict[str, Any] = {
        name: stored_name(value) for name, value in names.items() if value is not None
    }
    matching = TrafficFilter(**given, **cast("dict[str, Any]", selected))
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
