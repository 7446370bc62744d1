"""Runs the app on uvicorn: sockets, signals, draining, workers."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import resource
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from providers.errors import ConfigError, StoreError
from router.app import create_app
from router.config.schema import Config
from router.protocol import Connections, Protocol
from router.services import DatabaseAtStart, Services, prepare_database

log = logging.getLogger("evalrouter")

# The number of new containers after which cycles are looked for, and the number of those searches
# after which older objects are searched as well.
GC_THRESHOLDS = (10_000, 10, 10)
# A worker that dies at once must not be restarted in a tight loop.
RESTART_AFTER_S = 1.0
# What may pass between the end of the drain and the end of the process. Less than the 5 seconds
# that are promised, so that the promise holds on a busy machine.
END_S = 4.0
# Of those, what the last bytes to clients may take.
FLUSH_S = 0.5
# And what the last writes may take once a locked database is not waited for any more.
UNLOCKED_S = 1.5
# How often it is checked whether the end has come.
POLL_S = 0.05
WATCH_S = 0.25
SECOND_SIGNAL_S = 1.0
# More open files are of no use, and some systems have no limit at all.
MAX_OPEN_FILES = 65_536


class ServerSetup(NamedTuple):
    """What a serving process starts from.

    Attributes:
        config: the config.
        source: the file that it came from, watched for changed routes; None for the embedded
            default.
        share: a folder in which workers find each other's counts; None without workers.
        database: the database when their supervisor started; None without workers.
    """

    config: Config
    source: Path | None = None
    share: Path | None = None
    database: DatabaseAtStart | None = None


def listen(host: str, port: int) -> socket.socket:
    """Return a bound socket; port 0 takes a free one.

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
        raise ConfigError(
            f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}; choose "
            "another address with --host and --port, or end what listens there"
        ) from None
    return sock


class UvicornServer(uvicorn.Server):
    """uvicorn with connections of our own, and with a shutdown that always ends in time.

    Attributes:
        ends_by: when the process must have ended (seconds, monotonic); 0 until it has to end.
    """

    server_state: Connections

    def __init__(self, setup: ServerSetup) -> None:
        self.services = Services(
            setup.config, setup.source, share=setup.share, database=setup.database
        )
        self.ends_by = 0.0
        self._limits = setup.config.server
        self._drained_by = 0.0
        self._signalled_at = 0.0
        super().__init__(
            uvicorn.Config(
                create_app(self.services),
                loop="uvloop",
                interface="asgi3",
                http=Protocol,
                # Handshakes are refused by Protocol.
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                # Routing does not depend on who the client is, and finding out costs every request.
                proxy_headers=False,
                backlog=4096,
            )
        )
        self.server_state = Connections(self._limits)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on the sockets, and for the signals that uvicorn leaves alone."""
        self.server_state.open()
        await super().startup(sockets)
        # What start-up created stays; the collector need not walk over it again and again.
        gc.collect()
        gc.freeze()
        # Requests leave next to no cycles, and a few of them create 700 objects, the default.
        gc.set_threshold(*GC_THRESHOLDS)
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(signal.SIGHUP, self._reload)
        parent = multiprocessing.parent_process()
        if parent is not None:
            # A worker outlives its supervisor by no more than its open requests.
            loop.add_reader(parent.sentinel, self._orphaned, parent.sentinel)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let open requests finish, cut those that are left, close the app: each in its time."""
        self._end_within(self._limits.drain_seconds)
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        state = self.server_state
        state.stopping = True
        for connection in state.all_connections():
            connection.shutdown()
        # Runs get the same time for what they have in flight, and begin nothing new.
        self.services.shadows.drain()
        runs = asyncio.create_task(self.services.jobs.close(self._limits.drain_seconds))
        while time.monotonic() < self._drained_by:
            if not state.connections and not state.tasks and runs.done():
                break
            await asyncio.sleep(POLL_S)
        runs.cancel()
        if state.connections or state.tasks:
            log.warning("the drain is over: %d open request(s) are cut", len(state.tasks))
        for connection in state.all_connections():
            connection.cut()
        for task in tuple(state.tasks):
            task.cancel()
        # What was written last has to be sent; a client that reads nothing is not waited for.
        flushed_by = time.monotonic() + FLUSH_S
        while (state.connections or state.tasks) and time.monotonic() < flushed_by:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        for connection in state.all_connections():
            connection.transport.abort()
        left = max(FLUSH_S, self.ends_by - time.monotonic() - FLUSH_S)
        self.services.store.end_within(left - UNLOCKED_S)
        try:
            async with asyncio.timeout(left):
                await self.services.jobs.close(0)
                await self.lifespan.shutdown()
        except TimeoutError:
            log.error("the parts of the server did not close in time")

    def _end_within(self, drain_seconds: float) -> None:
        """Set when the drain is over and when the process ends, unless they are set already."""
        if not self.ends_by:
            self._drained_by = time.monotonic() + drain_seconds
            self.ends_by = self._drained_by + END_S

    def _reload(self) -> None:
        self._reloading = asyncio.create_task(self.services.routes.reload())

    def _orphaned(self, sentinel: int) -> None:
        asyncio.get_running_loop().remove_reader(sentinel)
        self.handle_exit(signal.SIGTERM, None)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take no new work and let open requests finish; after a second signal, cut them short.

        Ctrl-C reaches a worker twice, from the terminal and by way of the supervisor, so what
        comes at once after the first signal is not a second one.
        """
        now = time.monotonic()
        self.services.draining = True
        self.should_exit = True
        if not self._signalled_at:
            self._signalled_at = now
            # Before it serves there is nothing to drain.
            self._end_within(self._limits.drain_seconds if self.started else 0.0)
        elif now - self._signalled_at > SECOND_SIGNAL_S:
            self._drained_by = min(self._drained_by, now)
            self.ends_by = min(self.ends_by, now + END_S)


def serve(setup: ServerSetup, sock: socket.socket, workers: int = 1) -> bool:
    """Serve until SIGTERM or SIGINT, then let open requests finish; False if it never started.

    Args:
        setup: what to serve.
        sock: from `listen`; closed at the end.
        workers: processes that share the socket; a dead one is replaced.
    """
    if workers > 1:
        return _supervise(setup, sock, workers)
    return _serve(setup, sock)


def _serve(setup: ServerSetup, sock: socket.socket) -> bool:
    _raise_open_files()
    server = UvicornServer(setup)
    # uvicorn raises the signal once more when it is done, so that the process would not end with 0.
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, server.handle_exit)
    threading.Thread(
        target=_end_in_time, args=(server,), name="evalrouter-end", daemon=True
    ).start()
    try:
        server.run(sockets=[sock])
    except SystemExit as end:
        if end.code != STARTUP_FAILURE:
            raise
    return server.started


def _end_in_time(server: UvicornServer) -> None:
    """End the process when its time is over, whatever the event loop or a thread waits for."""
    while not server.ends_by or time.monotonic() < server.ends_by:
        time.sleep(WATCH_S)
    log.error("the server did not end in time and is ended now")
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(1)


def _raise_open_files() -> None:
    """Allow as many open files as the system does: each request may need two connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _serve_as_child(setup: ServerSetup, sock: socket.socket, level: int) -> None:
    logging.basicConfig(level=level, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    if not _serve(setup, sock):
        raise SystemExit(STARTUP_FAILURE)


def _supervise(setup: ServerSetup, sock: socket.socket, workers: int) -> bool:
    try:
        database = asyncio.run(prepare_database(setup.config))
    except StoreError as error:
        log.error("cannot start: %s", error.message)
        return False
    with tempfile.TemporaryDirectory(prefix="evalrouter-") as folder:
        return _supervise_workers(
            setup._replace(share=Path(folder), database=database), sock, workers
        )


def _supervise_workers(setup: ServerSetup, sock: socket.socket, workers: int) -> bool:
    context = multiprocessing.get_context("spawn")
    level = logging.getLogger().level

    def start() -> BaseProcess:
        process = context.Process(target=_serve_as_child, args=(setup, sock, level))
        process.start()
        return process

    processes: list[BaseProcess] = []
    # A handler may interrupt whatever holds a lock, so it only writes a byte.
    woken, wake = os.pipe()

    def forward(sig: int, _: FrameType | None) -> None:
        for process in processes:
            if process.is_alive() and process.pid:
                os.kill(process.pid, sig)

    def end(_: int, __: FrameType | None) -> None:
        os.write(wake, b".")

    signal.signal(signal.SIGHUP, forward)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, end)
    processes += [start() for _ in range(workers)]
    started = _replace_dead(processes, start, woken)
    if not started:
        log.error("no worker can start")
        for process in processes:
            process.terminate()
    # The first signal, and perhaps a second: a worker tells them apart by the time between them.
    until = time.monotonic() + setup.config.server.drain_seconds + END_S
    while running := [process for process in processes if process.is_alive()]:
        left = until - time.monotonic()
        if left <= 0:
            break
        ready = wait([woken, *(process.sentinel for process in running)], timeout=left)
        if woken in ready:
            os.read(woken, 1)
            for process in running:
                process.terminate()
    for process in processes:
        if process.is_alive():
            log.error("worker %s did not end in time and is killed", process.pid)
            process.kill()
        process.join()
    sock.close()
    return started


def _replace_dead(
    processes: list[BaseProcess], start: Callable[[], BaseProcess], woken: int
) -> bool:
    """Start a worker for each that has ended, until woken; return False if no worker can start.

    Args:
        processes: the workers; changed in place.
        start: starts one.
        woken: a file that can be read once the server is to end.
    """
    # The first workers that have not failed to start: if all have, others would as well.
    hopeful = {*processes}
    while not wait([woken], timeout=RESTART_AFTER_S):
        for n, process in enumerate(processes):
            if process.is_alive():
                continue
            if process.exitcode == STARTUP_FAILURE:
                hopeful.discard(process)
                if not hopeful:
                    return False
            log.error("worker %s ended with %s; starting another", process.pid, process.exitcode)
            processes[n] = start()
    return True


@contextmanager
def background(config: Config, source: Path | None = None) -> Iterator[str]:
    """Run a server in a thread, for as long as the block lasts; yield its base URL."""
    server = UvicornServer(ServerSetup(config, source))
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
