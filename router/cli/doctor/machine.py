"""Checks of this machine: versions, optional packages, disks, the port to listen on, GPUs."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from providers.errors import UpstreamError
from providers.http.http1 import host_in_url
from providers.http.transport import Transport
from router.cli.doctor.findings import Finding
from router.cli.hardware import count_cores, count_gpus
from router.config.schema import Config
from router.config.server import Server
from router.evals.extras import missing_packages
from router.evals.plugins import installed as installed_plugins
from serve.config import ENGINE_EXTRAS, ModelConfig, VllmModel, missing_engine, reserved

_MIB = 1024 * 1024
_LITTLE_MIB, _TOO_LITTLE_MIB = 1024, 100
_PROBE_S = 3.0


def versions() -> Iterator[Finding]:
    """Yield which evalrouter and Python run here."""
    try:
        version = importlib.metadata.version("evalrouter")
    except importlib.metadata.PackageNotFoundError:
        version = "(not installed as a package)"
    python = platform.python_version()
    yield Finding(
        "versions",
        "ok",
        f"evalrouter {version}, Python {python}, {platform.system()} {platform.machine()}, "
        f"{count_cores()} cores",
    )


# Extras


def extras(config: Config | None) -> Iterator[Finding]:
    """Yield which extras are installed, and a failure for each that the config needs and lacks."""
    missing = missing_packages()
    installed = [extra for extra, packages in missing.items() if not packages]
    absent = [extra for extra, packages in missing.items() if packages]
    yield Finding("extras", "ok", f"installed: {', '.join(installed) or 'none'}")
    if absent:
        remedy = f"where you want one: pip install 'evalrouter[{absent[0]}]'"
        yield Finding("extras", "note", f"not installed: {', '.join(absent)}", remedy)
    if config is not None:
        for extra, why in _needed(config).items():
            if extra in absent:
                packages = ", ".join(missing[extra])
                yield Finding(
                    "extras",
                    "failure",
                    f"{why} needs the extra {extra!r}, which lacks {packages}",
                    f"pip install 'evalrouter[{extra}]'",
                )


def _needed(config: Config) -> dict[str, str]:
    """Return the extras that a config needs, and the key that needs each."""
    needed: dict[str, str] = {}
    if config.storage.is_postgres:
        needed["postgres"] = "storage.database"
    if config.storage.artifacts.startswith("s3://"):
        needed["s3"] = "storage.artifacts"
    if config.telemetry.otlp_endpoint:
        needed["otel"] = "telemetry.otlp_endpoint"
    if config.tracking.mlflow:
        needed["mlflow"] = "tracking.mlflow"
    if config.review.pranks.languages:
        needed["metrics"] = "review.pranks.languages"
    for name, model in config.models.items():
        needed.setdefault("ray", f"models.{name}")
        needed.setdefault(ENGINE_EXTRAS[model.engine], f"models.{name}")
    return needed


# Plugins


def plugins() -> Iterator[Finding]:
    """Yield what installed packages add, and a failure for each thing that cannot be used."""
    for plugin in installed_plugins():
        shown = f"{plugin.group}: {plugin.name} of {plugin.package} {plugin.version}"
        if plugin.error:
            remedy = f"pip install --upgrade {plugin.package}, or remove it"
            yield Finding("plugins", "failure", f"{plugin.group}: {plugin.error}", remedy)
        else:
            yield Finding("plugins", "ok", shown)


# Disks


def disks(config: Config | None) -> Iterator[Finding]:
    """Yield the room on the disks that evalrouter writes to."""
    folders = {"working directory": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    if config is not None and not config.storage.is_postgres:
        folders["database"] = config.storage.sqlite_path().absolute().parent
    if config is not None and "://" not in config.storage.artifacts:
        folders["artifacts"] = Path(config.storage.artifacts).absolute()
    disks: dict[int, tuple[Path, list[str]]] = {}
    for use, folder in folders.items():
        place = next(path for path in (folder, *folder.parents) if path.is_dir())
        disks.setdefault(place.stat().st_dev, (place, []))[1].append(use)
    for place, uses in disks.values():
        yield _room(place, " and ".join(uses))


def _room(place: Path, uses: str) -> Finding:
    free = shutil.disk_usage(place).free // _MIB
    message = f"{free:,} MiB free for {uses}"
    if free < _TOO_LITTLE_MIB:
        return Finding("disk", "failure", message, f"free some space at {place}")
    if free < _LITTLE_MIB:
        return Finding("disk", "warning", message, f"free some space at {place}")
    return Finding("disk", "ok", message)


# The port


def port(server: Server) -> Iterator[Finding]:
    """Yield whether `evalrouter serve` could listen, or whether it does already."""
    where = f"{server.host}:{server.port}"
    if not server.port:
        yield Finding("port", "ok", "any free one (server.port: 0)")
        return
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((server.host, server.port))
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            yield Finding("port", "ok", f"{where} is free")
            return
    if asyncio.run(_is_evalrouter(server)):
        yield Finding("port", "ok", f"an evalrouter listens on {where}")
        return
    remedy = "choose another with server.port or --port, or end what listens there"
    yield Finding("port", "failure", f"cannot listen on {where}: {reason.lower()}", remedy)


async def _is_evalrouter(server: Server) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104
    transport = Transport()
    await transport.open()
    try:
        async with asyncio.timeout(_PROBE_S):
            reply = await transport.request(
                "GET",
                f"http://{host_in_url(host)}:{server.port}/health/live",
                provider="port",
                headers={},
                body=None,
                connect_timeout=_PROBE_S,
            )
            try:
                return await reply.read() == b'{"status":"alive"}'
            finally:
                await reply.aclose()
    except (TimeoutError, UpstreamError):
        return False
    finally:
        await transport.close()


# Models that Ray hosts


def models(config: Config) -> Iterator[Finding]:
    """Yield whether this machine has what the section `models` reserves, where a Ray of its own."""
    cores, gpus = count_cores(), count_gpus()
    cpus, needed_gpus = reserved(config.models)
    elsewhere = "lower cpus, or use a cluster with 'evalrouter models serve --address'"
    if cpus > cores:
        yield Finding(
            "models", "failure", f"they reserve {cpus:g} cores; this machine has {cores}", elsewhere
        )
    else:
        yield Finding("models", "ok", f"they reserve {cpus:g} of {cores} cores")
    if needed_gpus > gpus:
        message = f"they reserve {needed_gpus:g} GPUs; this machine has {gpus}"
        yield Finding("models", "failure", message, elsewhere.replace("cpus", "gpus"))
    for name, model in config.models.items():
        yield from _model(name, model, gpus)
    dashboard = os.environ.get("RAY_DASHBOARD_PORT", "")
    is_number = dashboard.isdecimal() and len(dashboard) <= 5
    if dashboard and not (is_number and 0 < int(dashboard) < 2**16):
        yield Finding("models", "failure", f"RAY_DASHBOARD_PORT is no port: {dashboard!r}")


def _model(name: str, model: ModelConfig, gpus: int) -> Iterator[Finding]:
    # What an extra brings is among the extras.
    if not ENGINE_EXTRAS[model.engine] and (error := missing_engine(f"models.{name}", model)):
        yield Finding("models", "failure", error.message)
    if model.source.startswith(("/", ".", "~")) and not Path(model.source).expanduser().exists():
        yield Finding("models", "failure", f"models.{name}.source: {model.source}: no such file")
    if isinstance(model, VllmModel) and not gpus:
        message = f"models.{name}: vLLM needs a GPU, and this machine has none"
        yield Finding("models", "warning", message)
