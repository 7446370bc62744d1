"""Runs the app on uvicorn: sockets, signals, draining, workers."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import uvicorn
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from providers.errors import ConfigError
from router.api.connection import WHOLE
from router.app import create_app
from router.config import Config
from router.services import Services

log = logging.getLogger("evalrouter")

# What nginx and most others take is less.
MAX_HEAD_BYTES = 64 * 1024
# Bytes that a header may consist of: a line's end within one would begin another.
_IN_HEADERS = bytes([9, *range(32, 127), *range(128, 256)])
# By how many containers memory may grow before cycles are looked for, and how many of those looks
# go by until older objects are looked at as well.
GC_THRESHOLDS = (10_000, 10, 10)
# A worker that dies at once must not be restarted in a tight loop.
RESTART_AFTER_S = 1.0


class Setup(NamedTuple):
    """What a serving process starts from.

    Attributes:
        config: the config.
        source: the file it came from, watched for changed routes; None for the embedded default.
        share: a folder in which workers find each other's counts; None without workers.
    """

    config: Config
    source: Path | None = None
    share: Path | None = None


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return sock


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with two things that it lacks.

    A bound on what a request's headers may take, and the extension `connection.WHOLE`, by which an
    app hands over a whole answer in one call: in two messages it costs a tenth of a relay's time.
    """

    _head_bytes = 0
    _read_bytes = 0
    _in_body = False
    _all_head = True

    def data_received(self, data: bytes) -> None:
        """Parse; what comes without end before a body is not waited for any longer."""
        self._all_head = not self._in_body
        self._read_bytes = len(data)
        super().data_received(data)
        # One read can hold a whole request, body and all, and then says nothing of its head.
        if self._all_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The request's headers are too large.")

    def on_headers_complete(self) -> None:
        """Begin the request, unless its headers came in one piece and are too large."""
        if self._head_bytes + self._read_bytes > MAX_HEAD_BYTES:
            # The last read may hold a body as well, or a part of it.
            size = sum(len(name) + len(value) for name, value in self.headers)
            if size > MAX_HEAD_BYTES:
                # httptools makes a parser error of it, which uvicorn answers with 400.
                raise ValueError("headers too large")
        self._head_bytes = 0
        self._all_head = False
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next bytes are another request's head."""
        self._in_body = False
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        cycle.scope["extensions"] = {WHOLE: {"write": partial(_answer, cycle)}}
        super()._start_asgi_task(cycle, app)


def _answer(
    cycle: RequestResponseCycle, status: int, headers: list[tuple[bytes, bytes]], body: bytes
) -> bool:
    """What `RequestResponseCycle.send` does with an answer's two messages, in one go."""
    if cycle.response_started or cycle.flow.write_paused or not cycle.keep_alive:
        return False
    if cycle.scope["method"] == "HEAD":
        return False
    if cycle.disconnected:
        return True
    headers = cycle.default_headers + headers
    head = b"".join([b"%b: %b\r\n" % header for header in headers])
    if head.translate(None, _IN_HEADERS) != b"\r\n" * len(headers):
        # uvicorn says what is wrong with it.
        return False
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[status], head, body))
    cycle.message_event.set()
    cycle.on_response()
    return True


class Server(uvicorn.Server):
    """uvicorn, telling the app when it is to end and the routes when to be read again."""

    def __init__(self, setup: Setup) -> None:
        self.services = Services(setup.config, setup.source, share=setup.share)
        super().__init__(
            uvicorn.Config(
                create_app(self.services),
                loop="uvloop",
                interface="asgi3",
                http=Protocol,
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                # Who the client is plays no part in routing, and looking costs every request.
                proxy_headers=False,
                timeout_graceful_shutdown=round(setup.config.server.drain_seconds),
                # An idle connection costs nothing to keep and a handshake to reopen.
                timeout_keep_alive=75,
                backlog=4096,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, and to the signals that uvicorn leaves alone."""
        await super().startup(sockets)
        # What start-up made stays; the collector need not walk over it at every request again.
        gc.collect()
        gc.freeze()
        # Requests leave next to no cycles; 700 new objects, the default, are those of a few.
        gc.set_threshold(*GC_THRESHOLDS)
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(signal.SIGHUP, self._reload)
        parent = multiprocessing.parent_process()
        if parent is not None:
            # A worker outlives its supervisor by no more than its open requests.
            loop.add_reader(parent.sentinel, self._orphaned, parent.sentinel)

    def _reload(self) -> None:
        self._reloading = asyncio.create_task(self.services.routes.reload())

    def _orphaned(self, sentinel: int) -> None:
        asyncio.get_running_loop().remove_reader(sentinel)
        self.handle_exit(signal.SIGTERM, None)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to end: stop taking work, let what is open finish."""
        self.services.draining = True
        super().handle_exit(sig, frame)


def serve(setup: Setup, sock: socket.socket, workers: int = 1) -> bool:
    """Serve until SIGTERM or SIGINT, then let open requests finish; False if it never started.

    Args:
        setup: what to serve.
        sock: from `listen`; closed at the end.
        workers: processes that share the socket; a dead one is replaced.
    """
    if workers > 1:
        return _supervise(setup, sock, workers)
    return _work(setup, sock)


def _work(setup: Setup, sock: socket.socket) -> bool:
    server = Server(setup)
    # uvicorn raises the signal once more when it is done, so that the process would not end with 0.
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)
    server.run(sockets=[sock])
    return server.started


def _work_as_child(setup: Setup, sock: socket.socket, level: int) -> None:
    logging.basicConfig(level=level, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    if not _work(setup, sock):
        raise SystemExit(1)


def _supervise(setup: Setup, sock: socket.socket, workers: int) -> bool:
    with tempfile.TemporaryDirectory(prefix="evalrouter-") as folder:
        return _keep_working(setup._replace(share=Path(folder)), sock, workers)


def _keep_working(setup: Setup, sock: socket.socket, workers: int) -> bool:
    context = multiprocessing.get_context("spawn")
    level = logging.getLogger().level

    def start() -> BaseProcess:
        process = context.Process(target=_work_as_child, args=(setup, sock, level))
        process.start()
        return process

    processes = [start() for _ in range(workers)]
    stop = threading.Event()

    def forward(sig: int, _: FrameType | None) -> None:
        for process in processes:
            if process.is_alive() and process.pid:
                os.kill(process.pid, sig)

    def end(_: int, __: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGHUP, forward)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, end)
    while not stop.wait(RESTART_AFTER_S):
        for n, process in enumerate(processes):
            if not process.is_alive() and not stop.is_set():
                log.error(
                    "worker %s ended with %s; starting another", process.pid, process.exitcode
                )
                processes[n] = start()
    for process in processes:
        process.terminate()
    until = time.monotonic() + setup.config.server.drain_seconds + 5
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    sock.close()
    return True


@contextmanager
def background(config: Config, source: Path | None = None) -> Iterator[str]:
    """A server in a thread of its own, for as long as the block lasts; yields its base URL."""
    server = Server(Setup(config, source))
    sock = listen(config.server.host, config.server.port)
    thread = threading.Thread(target=server.run, args=([sock],), name="evalrouter-server")
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise ConfigError("the server did not start; its log says why")
            time.sleep(0.005)
        host, port = sock.getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()
