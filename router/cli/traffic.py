"""`evalrouter traffic`: delete what is stored of requests."""

from __future__ import annotations

from pathlib import Path

import click

from providers.errors import InputError
from router.cli.commands import Commands, config_option, json_option, out, print_json, with_services
from router.config.loading import load
from router.records import user_id
from router.services import Services
from router.store.traffic import TrafficFilter


@click.group(cls=Commands)
def traffic() -> None:
    """Delete what is stored of requests."""


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

    async def delete(services: Services) -> int:
        return (await services.recorded.delete(matching)).requests

    deleted: int = with_services(load(config_path), delete)
    if as_json:
        print_json({"deleted": deleted})
    else:
        out.print(f"{deleted} requests deleted", highlight=False)
