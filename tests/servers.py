"""Real servers for tests: a scripted upstream over HTTP, and evalrouter in front of it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
from router_process import ForkedProcess, router_command

from providers.base import Secret
from providers.offline.scripted import Script, ScriptedServer
from router.config.loading import parse
from router.config.schema import Config
from router.config.storage import S3
from router.server import background

_Server = TypeVar("_Server", bound=AbstractAsyncContextManager[Any])


@contextmanager
def scripted(models: Mapping[str, list[dict[str, Any]]]) -> Iterator[ScriptedServer]:
    """A scripted upstream in a thread of its own; `server.log` is what it received."""
    with in_thread(ScriptedServer(msgspec.convert({"models": models}, Script))) as server:
        yield server


@contextmanager
def in_thread(server: _Server) -> Iterator[_Server]:
    """A server that `async with` starts and ends, in a thread of its own."""
    started, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def life() -> None:
        async with server:
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(life()))
    thread.start()
    try:
        assert started.wait(10)
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port of loopback where nothing listens, and that no other process is given meanwhile.

    A server that is told to listen on it can: the port is bound, and the kernel lets two sockets
    that both reuse addresses (or ports) share one while at most one of them listens.
    """
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@contextmanager
def gateway(config: Config | str, environ: Mapping[str, str] | None = None) -> Iterator[str]:
    """A server for a config, in a thread of its own, on a free port; yields its base URL."""
    if isinstance(config, str):
        config = parse(config, "test.yaml", environ or {})
    server = msgspec.structs.replace(config.server, port=0)
    with background(msgspec.structs.replace(config, server=server)) as url:
        yield url


def client_of(url: str, key: str, headers: Mapping[str, str] = {}) -> httpx.Client:
    """A client of a server that presents a key."""
    headers = {"authorization": f"Bearer {key}", **headers}
    return httpx.Client(base_url=url, headers=headers, timeout=60)


@contextmanager
def clients_of(
    url: str, keys: Mapping[str, str], headers: Mapping[str, str] = {}
) -> Iterator[dict[str, httpx.Client]]:
    """Clients of a server that present keys, by the keys' names."""
    with ExitStack() as clients:
        yield {
            name: clients.enter_context(client_of(url, key, headers)) for name, key in keys.items()
        }


def record_of(
    http: httpx.Client, url: str, reply: httpx.Response | str, headers: Mapping[str, str] = {}
) -> dict[str, Any]:
    """The record of an answer, or of an id; it comes a moment after the answer."""
    name = reply if isinstance(reply, str) else reply.headers["x-evalrouter-record"]
    while True:
        answer = http.get(f"{url}/traffic/{name}", headers=headers)
        if answer.status_code == 200:
            record: dict[str, Any] = answer.json()
            return record
        assert answer.status_code == 404, answer.text
        time.sleep(0.01)


def last_request(upstream: ScriptedServer, model: str) -> Any:
    """The last request that a scripted server had for a model."""
    return next(one for one in reversed(upstream.log.requests) if one.model == model)


def data_of(events: str) -> list[Any]:
    """The data of server-sent events, each of which has JSON in its last line."""
    blocks = [block.split("\n") for block in events.split("\n\n") if block]
    return [json.loads(lines[-1].removeprefix("data: ")) for lines in blocks]


def begun(http: httpx.Client, document: Mapping[str, Any]) -> str:
    """Begin a run and return its id."""
    answer = http.post("/eval", json=document)
    assert answer.status_code == 202, answer.text
    run_id: str = answer.json()["id"]
    return run_id


def finished(http: httpx.Client, run_id: str) -> dict[str, Any]:
    """Wait until a run has ended, and return it with its report."""
    while not (outcome := http.get(f"/eval/{run_id}").json())["run"]["finished_at"]:
        time.sleep(0.02)
    return outcome


@contextmanager
def s3_server(bucket: str) -> Iterator[S3]:
    """moto's S3 server on loopback with a bucket in it; yields how to reach it."""
    from botocore.session import Session
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        s3 = S3(
            endpoint_url=f"http://{host}:{port}",
            region="us-east-1",
            access_key_id=Secret("AKIATEST"),
            secret_access_key=Secret("not-a-secret"),
        )
        client = Session().create_client(
            "s3",
            endpoint_url=s3.endpoint_url,
            region_name=s3.region,
            aws_access_key_id=s3.access_key_id.reveal(),
            aws_secret_access_key=s3.secret_access_key.reveal(),
        )
        client.create_bucket(Bucket=bucket)
        client.close()
        yield s3
    finally:
        server.stop()


@contextmanager
def process(
    folder: Path, *args: str, environ: Mapping[str, str] = {}
) -> Iterator[tuple[ForkedProcess, str]]:
    """`evalrouter serve` in a process of its own, ready; yields it and its base URL."""
    server = ForkedProcess(
        "serve", *args, cwd=folder, env=os.environ | environ, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stderr is not None
        address = re.search(r"http://\S+", server.stderr.readline())
        assert address is not None
        url = address.group()
        with httpx.Client() as http:
            while True:
                try:
                    if http.get(f"{url}/health/ready").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.02)
        yield server, url
    finally:
        if server.poll() is None:
            server.kill()
        server.communicate()


def evalrouter(*args: object, check: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own; `check` is its exit code."""
    done = subprocess.run(
        router_command(*args), capture_output=True, text=True, env=os.environ | environ, check=False
    )
    assert done.returncode == check, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done
