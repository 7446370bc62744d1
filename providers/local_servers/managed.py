"""A model server as a subprocess: started on a free port, watched, restarted, and never orphaned.

    server = ManagedServer("laptop", ["llama-server", "-m", "x.gguf", "--port", "{port}"], ...)
    url = await server.ready()       # starts it; http://127.0.0.1:PORT, once it says it is healthy
    await server.close()

`guard.py` stands between us and the server, so that it ends with us however we end. What the server
prints goes to a log file.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess  # running the user's server is what this file is for
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from providers.errors import UpstreamConnectError, UpstreamError
from providers.http.transport import Transport
from providers.local_servers.peak_memory import session_peak

_GUARD = Path(__file__).with_name("guard.py")
# A server that ran at least this long is restarted quickly.
_STEADY_S = 60.0
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
_PROBE_EVERY_S = 0.05
PROBE_S = 2.0
"""The seconds that a server which starts has to answer in."""

# Whether the server at a base URL is ready to answer; raises UpstreamError while it is not there.
Probe = Callable[[str], Awaitable[bool]]


class ManagedServer:
    """One server process and its successors.

    Args:
        name: the provider's name, for messages.
        command: program and arguments; `{port}` and `{host}` are filled in.
        log: the file that takes what the server prints; appended to.
        probe: returns whether a server is ready.
        start_timeout: seconds a start may take before it is given up.
        sleep, clock: time, injectable.

    Attributes:
        starts: how often a process was started.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        probe: Probe,
        start_timeout: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.starts = 0
        self._name = name
        self._command = command
        self._log = log
        self._probe = probe
        self._start_timeout = start_timeout
        self._sleep = sleep
        self._clock = clock
        self._state: asyncio.Future[str] | None = None
        self._task: asyncio.Task[None] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    async def ready(self) -> str:
        """Return the server's base URL; start it the first time, and wait while it starts.

        Raises:
            UpstreamConnectError: its process ended, and the next start has not begun yet.
        """
        if self._state is None:
            self._state = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._supervise(), name=f"server of {self._name}")
        return await asyncio.shield(self._state)

    @property
    def runs(self) -> bool:
        """Whether a process is running and has said that it is ready."""
        state = self._state
        return state is not None and state.done() and state.exception() is None

    async def peak_memory(self) -> int | None:
        """Return the bytes of the peak resident memory of the process, from its start until now.

        Those of the processes that it has started and that still run are added. None where no
        process runs, and on systems without `/proc`.
        """
        guard = self._guard
        return None if guard is None else await asyncio.to_thread(session_peak, guard.pid)

    async def close(self) -> None:
        """End the process and everything it started; return when they are gone."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _supervise(self) -> None:
        wait = _FIRST_WAIT_S
        while True:
            began = self._clock()
            why = await self._run_once()
            if self._clock() - began >= _STEADY_S:
                wait = _FIRST_WAIT_S
            self._fail(f"{self._name}: {why}; see {self._log}. Next start in {wait:g} s")
            await self._sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_S)
            self._renew()

    def _fail(self, message: str) -> None:
        self._renew()
        assert self._state is not None
        self._state.set_exception(UpstreamConnectError(message))
        # Else asyncio would log the failure where no request waits for it.
        self._state.exception()

    def _renew(self) -> None:
        assert self._state is not None
        if self._state.done():
            self._state = asyncio.get_running_loop().create_future()

    async def _run_once(self) -> str:
        """Run one process to its end; return why it ended, in words."""
        host, port = "127.0.0.1", _free_port()
        command = [
            part.replace("{port}", str(port)).replace("{host}", host) for part in self._command
        ]
        try:
            process = self._start(command)
        except OSError as error:
            return f"its log file cannot be written ({error.strerror})"
        self.starts += 1
        self._guard = process
        ended = _when_ended(process)
        try:
            healthy = asyncio.create_task(self._until_healthy(f"http://{host}:{port}"))
            try:
                either: set[asyncio.Future[Any]] = {healthy, ended}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not ended.done():
                    if not healthy.result():
                        return f"not ready within {self._start_timeout:g} s"
                    assert self._state is not None
                    self._state.set_result(f"http://{host}:{port}")
                code = await asyncio.shield(ended)
            finally:
                healthy.cancel()
        finally:
            self._guard = None
            await _end(process, ended)
        return f"its process ended with code {code}"

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            log.write(f"\n--- {' '.join(command)}\n".encode())
            log.flush()
            return subprocess.Popen(  # noqa: S603  # the user's own command
                [sys.executable, "-I", "-S", str(_GUARD), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def _until_healthy(self, url: str) -> bool:
        deadline = self._clock() + self._start_timeout
        while self._clock() < deadline:
            with contextlib.suppress(UpstreamError):
                if await self._probe(url):
                    return True
            await asyncio.sleep(_PROBE_EVERY_S)
        return False


async def probed_status(
    transport: Transport, url: str, *, provider: str, headers: Mapping[str, str]
) -> int | None:
    """Return the status of the answer to a GET; None where none comes in time.

    Raises:
        UpstreamError: no server is there.
    """
    try:
        async with asyncio.timeout(PROBE_S):
            reply = await transport.request(
                "GET",
                url,
                provider=provider,
                headers=headers,
                body=None,
                connect_timeout=PROBE_S,
            )
    except TimeoutError:
        return None
    await reply.aclose()
    return reply.status


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _when_ended(process: subprocess.Popen[bytes]) -> asyncio.Future[int]:
    """Return a future of the exit code. A thread waits, which works on every event loop."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def set_code(code: int) -> None:
        if not ended.done():
            ended.set_result(code)

    def wait() -> None:
        code = process.wait()
        # The loop may be closed already at the end of the process.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(set_code, code)

    threading.Thread(target=wait, daemon=True).start()
    return ended


async def _end(process: subprocess.Popen[bytes], ended: asyncio.Future[int]) -> None:
    """Make the guard end the server, and wait until it has; it kills what does not stop."""
    assert process.stdin is not None
    process.stdin.close()
    while not ended.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(ended)
