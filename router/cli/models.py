"""`evalrouter models`: host local models on Ray Serve, and see which are hosted."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click
import msgspec
from rich.table import Column, Table

from providers.errors import ConfigError, MissingExtraError, UpstreamProtocolError
from providers.http.transport import Transport
from providers.wire import UNREADABLE, Model
from router.cli.commands import (
    Commands,
    config_option,
    err,
    escape,
    json_option,
    local_time,
    print_json,
    print_table,
    with_services,
)
from router.cli.hardware import count_cores, count_gpus
from router.cli.server_url import root_of
from router.config.loading import load
from serve.config import ModelConfig, missing_engine, reserved

if TYPE_CHECKING:  # see `commands.with_services`
    from router.api.versions import TargetVersions
    from router.services import Services

_LISTING_S = 5.0


class ListedModel(Model):
    """A row of the list, with the fields that our own hosts add.

    Attributes:
        state: `ready`, `starting`, `idle` or `failed`; "" from another host.
        replicas: the number of copies that run; None from another host.
    """

    state: str = ""
    replicas: int | None = None


class _Rows(msgspec.Struct):
    data: list[ListedModel]


_decode = msgspec.json.Decoder(_Rows).decode


@click.group("models", cls=Commands)
def models() -> None:
    """Host local models on Ray Serve, and see which versions of models answered."""


@models.command("serve")
@click.argument("config_path", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option(
    "--address", default="", help="A running Ray cluster, or 'auto'. Default: one of its own."
)
@click.option(
    "--cpus", type=click.IntRange(1, 10_000), help="Cores for a Ray of its own. Default: all."
)
@click.option("--access-log", is_flag=True, help="A line in Ray's logs for each request.")
def models_serve(
    config_path: Path, host: str, port: int, address: str, cpus: int | None, *, access_log: bool
) -> None:
    """Host the models of CONFIG's section `models:` until Ctrl-C."""
    config = load(config_path)
    if not config.models:
        raise ConfigError(f"{config_path}: has no models: to host", param="models")
    if not address:
        _refuse_what_is_not_here(config.models, cpus)
    try:
        from serve.deployment.host import hosting  # noqa: PLC0415  # imports Ray, an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError("hosting models", "ray") from error

    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    err.print("starting Ray and the models ...", highlight=False)
    where = hosting(
        config.models, host=host, port=port, address=address, cpus=cpus, access_log=access_log
    )
    with where as host_process:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, end)
        names = ", ".join(config.models)
        err.print(f"models on {host_process.url}: {names} (Ctrl-C stops)", highlight=False)
        stop.wait()
        err.print("stopping", highlight=False)


def _refuse_what_is_not_here(models: Mapping[str, ModelConfig], cpus: int | None) -> None:
    """Refuse models that a Ray of this machine could not start, before it takes its time to try.

    Raises:
        MissingExtraError: the extra with an engine is not installed.
        ConfigError: another engine is not, or this machine has too few cores or GPUs.
    """
    for name, model in models.items():
        if (error := missing_engine(f"models.{name}", model)) is not None:
            raise error
    needed = reserved(models)
    cores = count_cores() if cpus is None else cpus
    for what, number, available in (
        ("CPU", needed.cpus, cores),
        ("GPU", needed.gpus, count_gpus() if needed.gpus else 0),
    ):
        if number > available:
            has = f"--cpus allows {available}" if what == "CPU" and cpus else ""
            raise ConfigError(
                f"{_count(len(models), 'model')} {'need' if len(models) > 1 else 'needs'} "
                f"{_count(number, what)}, {has or f'this machine has {available}'}; give them less "
                f"with {what.lower()}s:, host fewer, or use a cluster with --address",
                param="models",
            )


def _count(number: float, what: str) -> str:
    return f"{number:g} {what}{'' if number == 1 else 's'}"


@models.command("list")
@click.option("--url", default="http://127.0.0.1:8000/v1", show_default=True, help="The host.")
@json_option
def models_list(url: str, as_json: bool) -> None:
    """List hosted models, whether they are ready, and their copies."""
    rows = asyncio.run(_list(f"{root_of(url)}/v1"))
    if as_json:
        print_json(rows)
        return
    table = Table("model", "engine", "state", "copies")
    for row in rows:
        copies = "" if row.replicas is None else str(row.replicas)
        table.add_row(row.id, row.owned_by, row.state, copies)
    print_table(table)


@models.command("versions")
@click.option("--target", help="Only this provider/model.")
@config_option
@json_option
def models_versions(target: str | None, config_path: Path | None, as_json: bool) -> None:
    """List the models and fingerprints that hosts named in their answers."""
    from router.api.versions import versions_of  # noqa: PLC0415  (see TYPE_CHECKING above)

    async def read(services: Services) -> list[TargetVersions]:
        return versions_of(await services.store.model_versions(target))

    targets: list[TargetVersions] = with_services(load(config_path), read)
    if as_json:
        print_json(targets)
        return
    share = Column("share", justify="right")
    table = Table("target", "model", "fingerprint", share, "first seen", "last seen")
    for each in targets:
        for version in each.versions:
            table.add_row(
                escape(each.target),
                escape(version.model),
                escape(version.system_fingerprint),
                f"{version.share:.0%}",
                local_time(version.first_at),
                local_time(version.last_at),
            )
    print_table(table, empty="No target has answered yet.")


async def _list(url: str) -> list[ListedModel]:
    transport = Transport()
    await transport.open()
    try:
        reply = await transport.request(
            "GET", f"{url}/models", provider=url, headers={}, body=None, connect_timeout=_LISTING_S
        )
        body = await reply.read()
        await reply.aclose()
    finally:
        await transport.close()
    try:
        return _decode(body).data
    except UNREADABLE:
        raise UpstreamProtocolError(f"{url}: its list of models is not OpenAI's") from None
