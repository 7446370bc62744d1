"""A process that spreads calls over a Ray cluster, for a parent that must not import Ray.

    python -m serve.driver

The parent writes frames (four bytes of length, then MessagePack) to its stdin: one Connect, then
Crews and Calls. Each is answered by one Done with its number, in whatever order they end. A call
whose worker dies, or whose machine does, is done again on another; the parent sees one answer.
It ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Coroutine
from importlib import import_module
from typing import Any, BinaryIO

import msgspec
import ray

LENGTH = struct.Struct(">I")
# How often one call is done again because its worker died: a call that kills every worker that
# takes it must not be tried for ever.
_TRIES_AGAIN = 2
# Models take their time to load.
_START_S = 600.0
_LOOK_EVERY_S = 0.5
_REACH_S = 10.0
_PR_SET_PDEATHSIG = 1
_OBJECT_STORE_BYTES = 100 * 1024 * 1024


class Connect(msgspec.Struct, frozen=True, tag=True):
    """Which cluster; `address` "" starts Ray on this machine, with `cpus` cores if not None."""

    address: str = ""
    cpus: int | None = None


class Crew(msgspec.Struct, frozen=True, tag=True):
    """Make workers. The answer is empty, or says why they cannot work.

    Attributes:
        number: of this message.
        name: by which calls name the crew.
        make: `module:name` of what is called with `argument` in each worker.
        argument: as it is.
        workers: how many.
        cpus, gpus: reserved for each.
    """

    number: int
    name: str
    make: str
    argument: bytes
    workers: int
    cpus: float
    gpus: float


class Call(msgspec.Struct, frozen=True, tag=True):
    """Call `method(payload)`, bytes to bytes, of what a crew's workers made.

    Attributes:
        number: of this message.
        crew: its name.
        method: its name.
        payload: as it is.
        limit_s: a worker that takes longer is ended, and the call done again on another.
    """

    number: int
    crew: str
    method: str
    payload: bytes
    limit_s: float


class Done(msgspec.Struct, frozen=True):
    """What became of a message; `error` is "" when all went well."""

    number: int
    payload: bytes = b""
    error: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Connect | Crew | Call).decode


class Worker:
    """One actor. What it makes is made before its first call, again after each restart."""

    def __init__(self, make: str, argument: bytes) -> None:
        module, _, name = make.partition(":")
        self.error = ""
        try:
            self._made = getattr(import_module(module), name)(argument)
        except Exception as error:  # noqa: BLE001  # whatever it is, the parent is told
            self.error = f"{type(error).__name__}: {error}"

    def ready(self) -> str:
        """Why it cannot work; "" when it can."""
        return self.error

    def call(self, method: str, payload: bytes, limit_s: float) -> bytes:
        """Do one call; ends this process when it takes too long."""
        alarm = threading.Timer(limit_s, os._exit, (1,))
        alarm.daemon = True
        alarm.start()
        try:
            found: bytes = getattr(self._made, method)(payload)
            return found
        finally:
            alarm.cancel()


class Workers:
    """The workers of a crew, each with one call at a time.

    Only workers that are up get calls: a cluster may have room for fewer than were wanted, and one
    whose machine is lost comes back when Ray finds room for it elsewhere.
    """

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        actor = ray.remote(Worker).options(
            num_cpus=crew.cpus,
            num_gpus=crew.gpus,
            max_restarts=-1,
            # A machine that is lost takes no more than its share.
            scheduling_strategy="SPREAD",
        )
        self._free: asyncio.Queue[Any] = asyncio.Queue()
        # Ray ends an actor that nobody holds.
        self._actors = [actor.remote(crew.make, crew.argument) for _ in range(crew.workers)]
        self._coming = {asyncio.create_task(self._await(one)) for one in self._actors}

    async def ready(self) -> str:
        """Why they cannot work; "" once one can."""
        try:
            async with asyncio.timeout(_START_S):
                first = await self._free.get()
        except TimeoutError:
            crew = self._crew
            return (
                f"no worker was ready within {_START_S:g} s; each needs {crew.cpus:g} CPUs and "
                f"{crew.gpus:g} GPUs of the cluster"
            )
        self._free.put_nowait(first)
        return str(await first.ready.remote())

    async def _await(self, actor: Any) -> None:
        """Have a worker take calls as soon as it is up."""
        while True:
            try:
                await actor.ready.remote()
            except ray.exceptions.RayActorError:
                # It is being started again, or there is no room for it.
                await asyncio.sleep(_LOOK_EVERY_S)
            else:
                self._free.put_nowait(actor)
                return

    async def call(self, call: Call) -> bytes:
        """One call, done again by another worker when its own dies.

        Raises:
            RayActorError: every worker that took it died.
        """
        tries = 0
        while True:
            actor = await self._free.get()
            try:
                work = actor.call.remote(call.method, call.payload, call.limit_s)
                found: bytes = await work
            except ray.exceptions.RayActorError:
                coming = asyncio.create_task(self._await(actor))
                self._coming.add(coming)
                coming.add_done_callback(self._coming.discard)
                tries += 1
                if tries > _TRIES_AGAIN:
                    raise
            except BaseException:
                self._free.put_nowait(actor)
                raise
            else:
                self._free.put_nowait(actor)
                return found


class _Driver:
    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._crews: dict[str, Workers] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, frame: bytes) -> None:
        """Begin what a frame asks for."""
        message = _decode(frame)
        if isinstance(message, Connect):
            _connect(message)
            return
        work = self._crew(message) if isinstance(message, Crew) else self._call(message)
        task = asyncio.get_running_loop().create_task(self._do(message.number, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _crew(self, crew: Crew) -> bytes:
        self._crews[crew.name] = workers = Workers(crew)
        return (await workers.ready()).encode()

    async def _call(self, call: Call) -> bytes:
        return await self._crews[call.crew].call(call)

    async def _do(self, number: int, work: Coroutine[Any, Any, bytes]) -> None:
        try:
            done = Done(number, await work)
        except ray.exceptions.RayActorError:
            done = Done(number, error=f"{_TRIES_AGAIN + 1} workers died of it, or took too long")
        except Exception as error:  # noqa: BLE001  # a call may raise anything
            cause = getattr(error, "cause", None) or error
            done = Done(number, error=f"{type(cause).__name__}: {cause}")
        body = _encode(done)
        self._out.write(LENGTH.pack(len(body)) + body)
        self._out.flush()


def _connect(to: Connect) -> None:
    host, _, port = to.address.rpartition(":")
    if port.isdecimal():
        # Ray itself would try for a minute.
        socket.create_connection((host, int(port)), timeout=_REACH_S).close()
    where: dict[str, Any] = {"address": to.address}
    if not to.address:
        where = {
            "address": "local",
            "num_cpus": to.cpus,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    ray.init(**where, logging_level=logging.WARNING, log_to_driver=False)


async def _serve(out: BinaryIO) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    driver = _Driver(out)
    while True:
        try:
            (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
            frame = await reader.readexactly(length)
        except asyncio.IncompleteReadError:
            return
        driver.take(frame)


def main() -> None:
    """Serve until stdin ends."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if sys.platform == "linux":
        # Also while Ray is connected to, when nobody reads stdin.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The frames' channel is ours alone: what others print goes to stderr.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        asyncio.run(_serve(out))
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
