"""The router itself as an application of Ray Serve, in as many copies as its clients need.

    serve run router.ray_app:build config=evalrouter.yaml replicas=2

Ray's HTTP proxy hands each request to one of the copies, which are all that `evalrouter serve`
runs, its workers included. What they share is a SQLite file, so all of them run on one machine:
the cluster's head, or the one named. No other module of `serve` knows the router.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import ray
import yaml
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from ray import serve as ray_serve
from ray.serve import Application

from providers.errors import ConfigError, closest
from router.app import create_app
from router.config.loading import load, parse
from router.config.schema import Config
from router.services import Services, create_first_key, refuse_open_door

# Ray's own mark of the machine that the cluster began with.
_HEAD = "node:__internal_head__"
# Enough to place a copy by, and little enough for any number of copies.
_A_BIT = 0.001


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The application's `args`.

    Attributes:
        config: the config file, on the machine that the copies run on; or the config itself, as a
            mapping. Its `${NAME}` are variables of the copies' environment.
        replicas: copies; each is a process.
        machine: address of the machine they run on, as `ray list nodes` shows it; "" for the head.
        folder: where the config's relative paths start; "" for the folder that `serve run` is
            called in. Whatever else starts the application has to name a folder.
        cpus: cores reserved per copy.
    """

    config: str | dict[str, Any]
    replicas: Annotated[int, msgspec.Meta(ge=1, le=10**9)] = 1
    machine: str = ""
    folder: str = ""
    cpus: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 1.0


class Start(NamedTuple):
    """What each copy starts from.

    Attributes:
        config: see `Settings.config`.
        folder: the absolute path that the config's paths start from.
        place: the Ray resource that only the copies' machine has.
        share: a folder in which copies find each other's counts.
    """

    config: str | dict[str, Any]
    folder: Path
    place: str
    share: Path

    def source(self) -> Path | None:
        """Return the path of the config file; None where the config is a mapping."""
        return self.folder / self.config if isinstance(self.config, str) else None

    def read(self) -> Config:
        """Return the config.

        Raises:
            ConfigError: naming what is wrong.
        """
        source = self.source()
        if source is not None:
            return load(source)
        return parse(yaml.safe_dump(self.config), "args.config", os.environ)

    def app(self) -> ASGIApp:
        """Return the app of one copy, in the process that Ray has started for it.

        Raises:
            ConfigError: the copy cannot be started like this, or must not be.
        """
        # A Serve config file may have changed what `build` requested.
        if self.place not in ray.get_runtime_context().get_assigned_resources():
            raise ConfigError(
                "the router's copies have to be on one machine, because they share a SQLite file: "
                f"'ray_actor_options' must keep 'resources': {{{self.place!r}: {_A_BIT}}}"
            )
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise ConfigError(f"folder: {self.folder}: {error.strerror}", param="folder") from None
        config = self.read()
        # It has an event loop of its own, and this thread is in one of Ray's. Which address Ray's
        # proxies listen on is not known here.
        with ThreadPoolExecutor(1) as thread:
            for prepare in (create_first_key, refuse_open_door):
                thread.submit(prepare, config, "0.0.0.0").result()  # noqa: S104
        self.share.mkdir(mode=0o700, exist_ok=True)
        return front(create_app(Services(config, self.source(), share=self.share)))


def build(args: Mapping[str, Any]) -> Application:
    """Return the application for the args that `Settings` describes.

    Raises:
        ConfigError: naming what cannot be used.
    """
    try:
        # On a command line, all values are text.
        settings = msgspec.convert(dict(args), Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"args: {error}") from None
    folder = Path(settings.folder or Path.cwd())
    by_hand = not (ray.is_initialized() and ray.get_runtime_context().get_task_id())
    if not folder.is_absolute() or not (settings.folder or by_hand):
        raise ConfigError(
            "folder: must name, in full, the folder that the config's paths start from",
            param="folder",
        )
    share = Path(tempfile.gettempdir(), f"evalrouter-{uuid.uuid4().hex}")
    start = Start(settings.config, folder, _place(settings.machine), share)
    if not settings.folder:
        # With a folder, the copies' files and environment need not be on this machine.
        start.read()

    def app() -> ASGIApp:
        return start.app()

    deployment = ray_serve.deployment(
        ray_serve.ingress(app)(),
        name="router",
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": settings.cpus, "resources": {start.place: _A_BIT}},
        # The router has limits of its own, and refuses with OpenAI's error object.
        max_ongoing_requests=10_000,
        max_constructor_retry_count=2,
        graceful_shutdown_timeout_s=30,
    )
    application: Application = deployment.bind()
    return application


def _place(machine: str) -> str:
    place = f"node:{machine}" if machine else _HEAD
    if machine and ray.is_initialized():
        prefix = "node:"
        machines = [
            name.removeprefix(prefix)
            for name in ray.cluster_resources()
            if name.startswith(prefix) and name != _HEAD
        ]
        if machine not in machines:
            raise ConfigError(
                f"machine: the cluster has no machine at {machine!r}.{closest(machine, machines)} "
                f"It has: {', '.join(sorted(machines))}",
                param="machine",
            )
    return place


def front(app: ASGIApp) -> ASGIApp:
    """Return the app for use behind Ray's proxy: below its prefix, and with one request id."""

    async def relay(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        # Ray leaves the application's prefix in the path.
        prefix = scope.get("root_path", "")
        path = scope["path"].removeprefix(prefix) or "/"
        below: Any = {**scope, "root_path": "", "path": path}
        raw: bytes | None = scope.get("raw_path")
        if raw is not None:
            below["raw_path"] = raw.removeprefix(prefix.encode()) or b"/"
        given = dict(scope["headers"]).get(b"x-request-id")

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Ray names the id too: the client's, or else one of its own.
                message["headers"] = [
                    (name, value)
                    for name, value in message["headers"]
                    if name.lower() != b"x-request-id" or value != given
                ]
            await send(message)

        await app(below, receive, answer)

    return relay
