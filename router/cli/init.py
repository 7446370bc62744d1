"""`evalrouter init`: a first config file, from the keys and servers that this machine has."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from pathlib import Path

import click
import msgspec

from providers.errors import ConfigError
from providers.local_servers.discovery import USUAL_PORTS, LocalServer, discover
from router.cli.commands import err, json_option, print_json, print_text
from router.config.loading import DEFAULT_FILE, parse
from router.config.template import first_config, first_model, key_variable, keys_in


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What `init` wrote, and from what.

    Attributes:
        path: the config file.
        keys: providers whose keys are in the environment, each with its variable.
        servers: what listens at the ports.
        model: a model to try first.
        next: commands to go on with.
    """

    path: str
    keys: dict[str, str]
    servers: list[LocalServer]
    model: str
    next: list[str]


def _read_ports(ctx: click.Context, option: click.Parameter, value: str) -> dict[str, int]:
    """Return `NAME=PORT,...` as ports by name; none for an empty text."""
    ports: dict[str, int] = {}
    for entry in filter(None, value.split(",")):
        name, _, port = entry.strip().partition("=")
        if name not in USUAL_PORTS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(USUAL_PORTS)}", ctx, option)
        is_number = port.isascii() and port.isdecimal() and len(port) <= 5
        if not is_number or not 0 < int(port) < 2**16:
            raise click.BadParameter(f"{port!r} is no port", ctx, option)
        ports[name] = int(port)
    return ports


@click.command()
@click.option(
    "--output",
    "path",
    type=click.Path(path_type=Path),
    default=DEFAULT_FILE,
    show_default=True,
    help="The file to write.",
)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the servers run.")
@click.option(
    "--ports",
    metavar="NAME=PORT,...",
    callback=_read_ports,
    default=",".join(f"{name}={port}" for name, port in USUAL_PORTS.items()),
    show_default=True,
    help="Where they may listen; '' for no search.",
)
@json_option
def init(path: Path, host: str, ports: dict[str, int], *, force: bool, as_json: bool) -> None:
    """Write a first config file, with the keys and model servers that this machine has.

    Keys are taken from the environment, by reference: their values are not written. Each port
    gets a request for the models that are served there.
    """
    if path.is_dir() and not path.is_symlink():
        raise ConfigError(f"{path} is a folder; name a file in it")
    # A link counts, wherever it leads.
    if not force and os.path.lexists(path):
        raise _exists(path)
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        raise ConfigError(f"--host: {host!r} does not resolve") from None
    servers = asyncio.run(discover(ports, host))
    text = first_config(path.name, servers, os.environ)
    # Refuses a key that cannot be sent, before anything is written.
    parse(text, str(path), os.environ)
    _write(path, text, force=force)
    model = first_model(servers, os.environ)
    option = "" if str(path) == DEFAULT_FILE else f" --config {path}"
    written = Written(
        path=str(path),
        keys=keys_in(os.environ),
        servers=servers,
        model=model,
        next=[
            f"evalrouter doctor{option}",
            f"evalrouter chat assistant{option}",
            f"evalrouter serve{option}",
        ],
    )
    if as_json:
        print_json(written)
    else:
        _print(written)


def _print(written: Written) -> None:
    for name, variable in written.keys.items():
        print_text(f"{name}: key in {variable}")
    for server in written.servers:
        print_text(f"{server.name}: {_described(server)}")
    if not written.keys and not any(server.kind for server in written.servers):
        print_text("no key of a provider in the environment, and no model server on this machine:")
        print_text("the models baseline/... answer all the same; add others when you have them")
    print_text(f"wrote {written.path}; its route `assistant` sends requests to {written.model}")
    err.print("next:", highlight=False)
    for command in written.next:
        print_text(f"  {command}", console=err)


def _described(server: LocalServer) -> str:
    if server.problem:
        return f"what listens at {server.base_url.removesuffix('/v1')} {server.problem}"
    models = ", ".join(server.models[:5]) + (", ..." if len(server.models) > 5 else "")
    if server.needs_key:
        served = f"; it serves {models}" if models else ""
        return f"{server.base_url} needs a key: set {key_variable(server)}{served}"
    return f"{server.base_url} serves {models or 'no model that it lists'}"


def _exists(path: Path) -> ConfigError:
    return ConfigError(f"{path} exists; --force replaces it, --output FILE writes another one")


def _write(path: Path, text: str, *, force: bool) -> None:
    """Write a file whole or not at all; never through a link.

    Raises:
        ConfigError: it exists and `force` is False, or it cannot be written.
    """
    target = path.with_name(f".{path.name}.{secrets.token_hex(8)}") if force else path
    try:
        # Exclusive: fails where anything has the name by now, a link included.
        file = target.open("x", encoding="utf-8")
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    try:
        with file:
            file.write(text)
        if force:
            target.replace(path)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
