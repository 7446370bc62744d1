"""Starts hosted models and keeps them running, on a Ray of this process or on another cluster.

with hosting(models, port=8000) as hosted:
    hosted.url                # http://127.0.0.1:8000/v1
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import ray
from ray import serve as ray_serve
from ray.exceptions import RayError

from providers.errors import ConfigError, EvalrouterError
from serve.config import ModelConfig
from serve.deployment.app import NAME, application

# Bodies go from process to process by value; the store of large objects stays nearly empty.
_OBJECT_STORE_BYTES = 100 * 1024 * 1024


class HostingError(EvalrouterError):
    """Ray or one of the models could not be started."""

    code = "hosting_failed"


class HostAddress(NamedTuple):
    """The address of the hosted models.

    Attributes:
        url: base URL of the API, up to and including `/v1`.
    """

    url: str


@contextmanager
def hosting(
    models: Mapping[str, ModelConfig],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    address: str = "",
    cpus: int | None = None,
    access_log: bool = False,
) -> Iterator[HostAddress]:
    """Host models on Ray Serve until the context ends; it begins once every model is ready.

    A Ray of our own reads two variables of the environment: `RAY_DASHBOARD_PORT` for the port of
    its dashboard and Jobs API, and `OTEL_EXPORTER_OTLP_ENDPOINT` for where its traces go.

    Args:
        models: what to host.
        host: address to listen on for HTTP.
        port: port to listen on.
        address: address of a running Ray cluster, or `auto`; "" starts a Ray of our own.
        cpus: cores of the Ray of our own; None for all of this machine.
        access_log: whether Ray's logs have a line for each request, with its id.

    Raises:
        ConfigError: a variable of the environment cannot be used.
        HostingError: Ray cannot be started or reached, or a model could not be started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    starts_ray = not address
    started: dict[str, Any] = {"address": address}
    if starts_ray:
        started = {
            "address": "local",
            "num_cpus": cpus,
            "object_store_memory": _OBJECT_STORE_BYTES,
            **_dashboard(),
        }
        _trace()
    try:
        ray.init(**started, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise HostingError(f"no Ray at {address or 'this machine'}: {_last_line(error)}") from error
    try:
        deploy(models, host=host, port=port, access_log=access_log)
        yield HostAddress(f"http://{host}:{port}/v1")
    finally:
        if starts_ray:
            ray_serve.shutdown()
        else:
            ray_serve.delete(NAME)
        ray.shutdown()


def _dashboard() -> dict[str, Any]:
    port = os.environ.get("RAY_DASHBOARD_PORT")
    if not port:
        return {"include_dashboard": False}
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"RAY_DASHBOARD_PORT is no port: {port!r}", param="RAY_DASHBOARD_PORT")
    return {"include_dashboard": True, "dashboard_port": int(port)}


def _trace() -> None:
    """Make Ray's processes send their spans, where the environment names a collector."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return
    # Without the exporter, Ray's processes would not start.
    with suppress(ModuleNotFoundError):
        importlib.import_module("serve.deployment.tracing")
        os.environ.setdefault(
            "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH", "serve.deployment.tracing:processors"
        )


def deploy(
    models: Mapping[str, ModelConfig], *, host: str, port: int, access_log: bool = False
) -> None:
    """Deploy models on the Ray that this process is connected to; return when they are ready.

    Models that ran there and are not among them are stopped.

    Raises:
        HostingError: a model could not be started.
    """
    try:
        ray_serve.start(
            http_options={"host": host, "port": port},
            logging_config={"enable_access_log": access_log},
        )
    except (RayError, RuntimeError) as error:
        raise HostingError(f"Ray Serve did not start: {_last_line(error)}") from error
    try:
        ray_serve.run(application(models), name=NAME)
    except RuntimeError as error:
        raise HostingError(_why() or _last_line(error)) from error


def _why() -> str:
    """Return the messages of the deployments that failed."""
    app = ray_serve.status().applications.get(NAME)
    deployments = app.deployments if app else {}
    return "; ".join(
        f"{name}: {_last_line(deployment.message)}"
        for name, deployment in deployments.items()
        if deployment.status in ("UNHEALTHY", "DEPLOY_FAILED")
    )


def _last_line(message: object) -> str:
    lines = [line.strip() for line in str(message).splitlines() if line.strip()]
    return lines[-1] if lines else type(message).__name__
