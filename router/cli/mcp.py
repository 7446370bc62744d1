"""`evalrouter mcp`: tools for coding agents, over standard input and output."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from providers.errors import ConfigError
from router.cli.server_url import root_of
from router.config.environment import API_KEY, read_key_file
from router.mcp.loading import load


@click.command("mcp")
@click.option(
    "--url", default="http://127.0.0.1:4000", show_default=True, help="A running evalrouter."
)
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help=f"A file with the key that the tools use. Default: the key in {API_KEY}, if it is set.",
)
def mcp(url: str, key_file: Path | None) -> None:
    """Serve tools for coding agents over standard input and output (Model Context Protocol).

    An agent starts this command itself. Its tools call the server at --url with the key, and the
    list of tools has what the key may do: with a viewer's they only read.

    The server offers the same tools over HTTP, under /mcp.
    """
    protocol = load("protocol", "evalrouter mcp")
    from router.client import AsyncClient  # noqa: PLC0415  (takes its time to import)

    root = root_of(url)
    if key_file is not None and os.environ.get(API_KEY):
        raise ConfigError(f"both --key-file and {API_KEY} are given; give one of them")
    key = os.environ.get(API_KEY) if key_file is None else read_key_file(key_file, "--key-file")

    async def serve() -> None:
        async with AsyncClient(root, api_key=key or None) as client:
            await protocol.serve_stdio(client)

    asyncio.run(serve())
