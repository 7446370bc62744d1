"""`evalrouter serve`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click
import msgspec

from providers.http.http1 import host_in_url
from router.cli.commands import (
    config_option,
    err,
)
from router.cli.containers import missing_volume
from router.config.loading import load, source_of, unread_variables
from router.config.watches import small_references
from router.services import check_schedules, create_first_key, refuse_open_door

log = logging.getLogger("evalrouter")


@click.command()
@config_option
@click.option("--host", default=None, help="Address to listen on. Default: 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), default=None, help="Default: 4000.")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes."
)
def serve(config_path: Path | None, host: str | None, port: int | None, workers: int) -> None:
    """Start the server."""
    from router.server import ServerSetup, listen, serve  # noqa: PLC0415  # Litestar takes long to import

    config = load(config_path)
    changes = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    server = msgspec.structs.replace(config.server, **changes)
    config = msgspec.structs.replace(config, server=server)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for warning in [
        *unread_variables(config_path),
        *missing_volume(config.storage),
        *small_references(config.watches),
    ]:
        log.warning("%s", warning)
    check_schedules(config, source_of(config_path))
    with listen(config.server.host, config.server.port) as sock:
        bound_host, bound_port = sock.getsockname()[:2]
        create_first_key(config, bound_host)
        refuse_open_door(config, bound_host)
        address = f"http://{host_in_url(bound_host)}:{bound_port}"
        err.print(f"evalrouter on {address} (Ctrl-C stops)", highlight=False)
        if not serve(ServerSetup(config, source_of(config_path)), sock, workers):
            sys.exit(1)
