"""A process that spreads calls over a Ray cluster, for a parent that must not import Ray.

    python -m serve.batch.driver

The parent writes frames (`protocol.py`) to its stdin: one Connect, then Crews, WorkerCalls and
Cancels. Each Crew and WorkerCall is answered by one Done with its number, in whatever order they
end. A call whose worker or machine dies is done again on another, as often as the call allows; the
parent sees one answer. The driver ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from importlib import import_module
from typing import Any, BinaryIO

import ray

from serve.batch.protocol import (
    LENGTH,
    Cancel,
    Connect,
    Crew,
    Done,
    WorkerCall,
    decode_message,
    framed,
)

# Models take their time to load.
_START_S = 600.0
_POLL_EVERY_S = 0.5
_REACH_S = 10.0
_PR_SET_PDEATHSIG = 1
_OBJECT_STORE_BYTES = 100 * 1024 * 1024


class Worker:
    """One actor, which makes what it calls when it starts, and again after each restart."""

    def __init__(self, make: str, argument: bytes) -> None:
        module, _, name = make.partition(":")
        self.error = ""
        try:
            self._made = getattr(import_module(module), name)(argument)
        except Exception as error:  # noqa: BLE001  # whatever it is, the parent gets it
            self.error = f"{type(error).__name__}: {error}"

    def ready(self) -> str:
        """Return why it cannot work; "" when it can."""
        return self.error

    def call(self, method: str, payload: bytes, limit_s: float | None) -> bytes:
        """Do one call; end this process when it takes too long."""
        alarm = None
        if limit_s is not None:
            alarm = threading.Timer(limit_s, os._exit, (1,))
            alarm.daemon = True
            alarm.start()
        try:
            result: bytes = getattr(self._made, method)(payload)
            return result
        finally:
            if alarm is not None:
                alarm.cancel()


class AsyncWorker(Worker):
    """A worker that does several calls at a time, in one event loop.

    What it makes has an `open` to await before the first call.
    """

    async def ready(self) -> str:  # type: ignore[override]
        """Return why it cannot work; "" when it can."""
        if not self.error:
            try:
                await self._made.open()
            except Exception as error:  # noqa: BLE001  # whatever it is, the parent gets it
                self.error = f"{type(error).__name__}: {error}"
        return self.error

    async def call(  # type: ignore[override]
        self, method: str, payload: bytes, limit_s: float | None
    ) -> bytes:
        """Do one call beside others. Ray cancels it when its caller has gone."""
        async with asyncio.timeout(limit_s):
            result: bytes = await getattr(self._made, method)(payload)
        return result


class _RunningWorker:
    """A worker that is up, and the number of calls that it works on; after a restart it is new."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.calls = 0


class Workers:
    """The workers of a crew. A call goes to the one that works on the fewest.

    Only workers that are up get calls: a cluster may have room for fewer than the crew names, a
    worker whose machine is lost comes back when Ray finds room for it elsewhere, and another
    machine may lack what the workers need.
    """

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._at_once = crew.at_once or 1
        options: dict[str, Any] = {}
        if crew.at_once is not None:
            # One more, so that `ready` never waits.
            options["max_concurrency"] = crew.at_once + 1
        actor = ray.remote(Worker if crew.at_once is None else AsyncWorker).options(
            num_cpus=crew.cpus,
            num_gpus=crew.gpus,
            max_restarts=-1,
            # A machine that is lost takes no more than its share.
            scheduling_strategy="SPREAD",
            **options,
        )
        self._up: list[_RunningWorker] = []
        self._failed = ""
        self._change = asyncio.Condition()
        # Ray ends an actor that is not referred to.
        self._actors = [actor.remote(crew.make, crew.argument) for _ in range(crew.workers)]
        self._coming = {asyncio.create_task(self._await(actor)) for actor in self._actors}

    async def ready(self) -> str:
        """Return why no worker can work; "" once one can."""
        try:
            async with asyncio.timeout(_START_S), self._change:
                await self._change.wait_for(lambda: self._up or self._failed)
        except TimeoutError:
            crew = self._crew
            return (
                f"no worker was ready within {_START_S:g} s; each needs {crew.cpus:g} CPUs and "
                f"{crew.gpus:g} GPUs of the cluster"
            )
        return "" if self._up else self._failed

    async def _await(self, actor: Any) -> None:
        """Let a worker take calls as soon as it is up."""
        while True:
            try:
                why = await actor.ready.remote()
            except ray.exceptions.RayActorError:
                # It is being started again, or waits for room in the cluster.
                await asyncio.sleep(_POLL_EVERY_S)
            else:
                async with self._change:
                    if why:
                        self._failed = why
                    else:
                        self._up.append(_RunningWorker(actor))
                    self._change.notify_all()
                return

    def _free(self) -> _RunningWorker | None:
        """Return the worker with the fewest calls; None when all are busy."""
        if not self._up:
            return None
        best = min(self._up, key=lambda worker: worker.calls)
        return best if best.calls < self._at_once else None

    async def _take(self) -> _RunningWorker:
        async with self._change:
            while (worker := self._free()) is None:
                await self._change.wait()
            worker.calls += 1
            return worker

    async def _release(self, worker: _RunningWorker, *, dead: bool) -> None:
        async with self._change:
            worker.calls -= 1
            # All its calls end with its death; the first of them has it started again.
            if dead and worker in self._up:
                self._up.remove(worker)
                coming = asyncio.create_task(self._await(worker.actor))
                self._coming.add(coming)
                coming.add_done_callback(self._coming.discard)
            self._change.notify()

    async def call(self, call: WorkerCall) -> bytes:
        """Do one call, again on another worker when its own dies.

        Raises:
            RayActorError: every worker that took it died.
        """
        tries = 0
        while True:
            worker = await self._take()
            dead = False
            result = worker.actor.call.remote(call.method, call.payload, call.limit_s)
            try:
                answer: bytes = await result
            except ray.exceptions.RayActorError:
                dead = True
                tries += 1
                if tries >= call.tries:
                    raise
            except asyncio.CancelledError:
                if self._crew.at_once is not None:
                    ray.cancel(result)
                raise
            else:
                return answer
            finally:
                await asyncio.shield(self._release(worker, dead=dead))


class _Driver:
    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._crews: dict[str, Workers] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def take(self, frame: bytes) -> None:
        """Begin the work of a frame."""
        message = decode_message(frame)
        if isinstance(message, Connect):
            _connect(message)
            return
        if isinstance(message, Cancel):
            if message.number in self._tasks:
                self._tasks[message.number].cancel()
            return
        task = asyncio.get_running_loop().create_task(self._do(message))
        self._tasks[message.number] = task
        task.add_done_callback(lambda _: self._tasks.pop(message.number))

    async def _do(self, message: Crew | WorkerCall) -> None:
        try:
            if isinstance(message, Crew):
                done = Done(message.number, await self._crew(message))
            else:
                done = Done(message.number, await self._crews[message.crew].call(message))
        except ray.exceptions.RayActorError:
            tries = message.tries if isinstance(message, WorkerCall) else 1
            died = f"{tries} workers died of it, or took too long" if tries > 1 else "worker died"
            done = Done(message.number, error=died, died=True)
        except Exception as error:  # noqa: BLE001  # a call may raise anything
            cause = getattr(error, "cause", None) or error
            done = Done(message.number, error=f"{type(cause).__name__}: {cause}")
        self._out.write(framed(done))
        self._out.flush()

    async def _crew(self, crew: Crew) -> bytes:
        self._crews[crew.name] = workers = Workers(crew)
        return (await workers.ready()).encode()


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
    """Run until stdin ends."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if sys.platform == "linux":
        # Also while the driver connects to Ray, when it does not read stdin yet.
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
