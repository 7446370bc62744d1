"""Scores in worker processes: bounded, with time limits, restarted when one dies.

    async with WorkerPool([spec, ...], processes=2) as pool:
        scores = await pool.score(items)

Anything with these methods can take its place (a pool on a cluster, say): see `Scores`.

pebble's ProcessPool was tried instead. It takes less of this process per answer (25 to 45 µs
against 55), but its time limit is that of a task and not of each answer in it, so that one answer
that hangs would cost a model its whole batch; its workers outlive a parent that was killed; they
start over multiprocessing, which imports the parent's main module anew; and it does not tell the
time that loading takes from that of the first answer. To make up for all this would take most of
this module.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar, cast

import msgspec

from evaluators.base import Scorable, Score
from evaluators.execution.output import CapturedOutput
from evaluators.execution.worker import LENGTH, Ready, ScoringBatch, WorkerSetup, encode

LOAD_S = 120.0
SAMPLE_S = 120.0

# Answers sent to a worker at a time: enough to hide the way there and back, few enough that
# two workers finish a batch together.
_CHUNK = 8

# Fewer answers than this are scored by one worker: they keep up with a replay, and live requests
# should find a processor that is free.
_MANY = 32

# A metric that hangs costs its time limit for every answer. After so many in a row, no more.
_PATIENCE = 3

# A process that dies by itself closes its pipe a moment before it has a status to report.
_GRACE_S = 1.0

# Each worker holds about 100 MB, and the machine has other things to do.
_MAX_PROCESSES = 8

# The child has our import path, whatever ours came from, and nothing of ours has begun in it.
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[1:]; from evaluators.execution.worker import main; main()"
)

_scores = msgspec.json.Decoder(tuple[Score, ...])
_ready = msgspec.json.Decoder(Ready)

WorkerSpec = str | dict[str, Any]
_Result = TypeVar("_Result")


async def together(*awaitables: Awaitable[_Result]) -> list[_Result]:
    """Return all results. It ends when every awaitable has ended, cancelled or not."""
    results = await asyncio.gather(*awaitables, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return cast("list[_Result]", results)


class Scores(Protocol):
    """Scores batches away from the event loop."""

    async def start(self) -> str:
        """Get ready to score; return "", or the reason for a failure."""
        ...

    async def score(self, items: Sequence[Scorable]) -> list[tuple[Score, ...] | str]:
        """Return for each answer, in order, its scores, or the reason for a failure."""
        ...

    async def close(self) -> None:
        """Stop all processes; every one has ended when this returns."""
        ...


def available_processors() -> int:
    """Return the number of processors this process may use, at most 8."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on macOS
    return min(len(allowed(0)) if allowed else os.cpu_count() or 1, _MAX_PROCESSES)


class WorkerPool:
    """Scores with some metrics in worker processes, which start when they are first needed.

    Args:
        specs: the metrics, as the run document has them.
        processes: the largest number of processes.
        load_s: seconds a worker may take to load its metrics.
        sample_s: seconds one answer may take.
        chunk: the number of answers sent to a worker at a time.
        on_output: called with each line that a worker writes, on another thread;
            returns it as it may be shown.
    """

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        *,
        processes: int = 1,
        load_s: float = LOAD_S,
        sample_s: float = SAMPLE_S,
        chunk: int = _CHUNK,
        on_output: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._setup = WorkerSetup(tuple(specs))
        self._load_s = load_s
        self._sample_s = sample_s
        self._chunk = chunk
        self._on_output = on_output
        self._slots = [_Slot() for _ in range(processes)]
        self._given_up = ""
        self._lost = 0

    async def __aenter__(self) -> WorkerPool:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> str:
        """Start one worker and load its metrics; return "", or the reason for a failure."""
        slot = self._slots[0]
        async with slot.lock:
            await self._worker(slot)
        return self._given_up

    async def score(self, items: Sequence[Scorable]) -> list[tuple[Score, ...] | str]:
        """Return for each answer, in order, its scores, or the reason for a failure."""
        results: list[tuple[Score, ...] | str] = [""] * len(items)
        chunks = deque(range(0, len(items), self._chunk))

        async def drain(slot: _Slot) -> None:
            async with slot.lock:
                while chunks:
                    start = chunks.popleft()
                    some = items[start : start + self._chunk]
                    results[start : start + len(some)] = await self._with(slot, some)

        workers = len(chunks) if len(items) >= _MANY else 1
        await together(*map(drain, self._slots[:workers]))
        return results

    async def close(self) -> None:
        """Kill the workers and wait until they are gone."""
        await together(*(slot.stop() for slot in self._slots))

    async def _with(self, slot: _Slot, items: Sequence[Scorable]) -> list[tuple[Score, ...] | str]:
        """Score a chunk. An answer a worker dies on is tried once more; one it hangs on is not."""
        results: list[tuple[Score, ...] | str] = []
        died_on = -1
        while len(results) < len(items):
            worker = await self._worker(slot)
            if worker is None:
                return [*results, *[self._given_up] * (len(items) - len(results))]
            try:
                await worker.send(ScoringBatch(tuple(items[len(results) :])))
                while len(results) < len(items):
                    async with asyncio.timeout(self._sample_s):
                        results.append(_scores.decode(await worker.receive()))
                    self._lost = 0
            except TimeoutError:
                await slot.stop()
                results.append(f"took longer than {self._sample_s:g} s")
                self._lose(results[-1])
            except (EOFError, OSError):
                how = await slot.stop(_GRACE_S)
                if died_on == len(results):
                    results.append(f"the worker process died on it twice ({how})")
                    self._lose(results[-1])
                else:
                    died_on = len(results)
            except BaseException:
                # Answers we no longer wait for would be taken for those of the next batch.
                await slot.stop()
                raise
        return results

    def _lose(self, why: object) -> None:
        self._lost += 1
        if self._lost >= _PATIENCE:
            self._given_up = f"given up after {self._lost} answers in a row; the last {why}"

    async def _worker(self, slot: _Slot) -> _Worker | None:
        """Return the slot's worker, started if needed; None once the pool has given up."""
        if self._given_up:
            return None
        if slot.worker is None:
            starting = asyncio.ensure_future(_Worker.start(self._on_output))
            try:
                slot.worker = await asyncio.shield(starting)
            except asyncio.CancelledError:
                # asyncio would forget a process whose start is cancelled half-way.
                slot.worker = await starting
                await slot.stop()
                raise
            try:
                await slot.worker.send(self._setup)
                async with asyncio.timeout(self._load_s):
                    why = _ready.decode(await slot.worker.receive()).error
            except TimeoutError:
                why = f"was not loaded within {self._load_s:g} s"
            except (EOFError, OSError):
                why = f"the worker process died while it was loading ({await slot.stop(_GRACE_S)})"
            except BaseException:
                await slot.stop()
                raise
            if why:
                await slot.stop()
                self._given_up = why
                return None
        return slot.worker


class _Slot:
    """The place of one worker; its lock is held while a task talks to the worker."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.worker: _Worker | None = None

    async def stop(self, grace_s: float = 0.0) -> str:
        """End the worker, if one runs, and return how it ended."""
        worker, self.worker = self.worker, None
        return await worker.stop(grace_s) if worker else ""


def _spawn(stream: socket.socket, output: CapturedOutput | None) -> subprocess.Popen[bytes]:
    command = (sys.executable, "-c", _PROGRAM, *sys.path)
    end = stream.fileno()
    try:
        return subprocess.Popen(  # noqa: S603  # all of it is ours
            command, stdin=end, stdout=end, stderr=None if output is None else output.descriptor
        )
    finally:
        if output is not None:
            output.started()


class _Worker:
    """One process, and the frames to its stdin and from its stdout."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        output: CapturedOutput | None,
    ) -> None:
        self._process = process
        self._output = output
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, on_output: Callable[[bytes], bytes] | None) -> _Worker:
        """Start a process; its metrics are not loaded yet."""
        ours, its = socket.socketpair()
        with its:
            # In a thread: uvloop would stand still for 25 ms until the process has begun.
            output = None if on_output is None else CapturedOutput(on_output)
            process = await asyncio.to_thread(_spawn, its, output)
        return cls(process, *await asyncio.open_connection(sock=ours), output)

    async def send(self, message: msgspec.Struct) -> None:
        """Write a frame. Raises OSError when the process has ended."""
        body = encode(message)
        self._writer.write(LENGTH.pack(len(body)) + body)
        await self._writer.drain()

    async def receive(self) -> bytes:
        """Read a frame. Raises EOFError or OSError when the process has ended."""
        (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
        return await self._reader.readexactly(length)

    async def stop(self, grace_s: float) -> str:
        """Kill it after `grace_s` seconds, wait for its end, and return how it ended."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
        code = await asyncio.to_thread(self._wait, grace_s)
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def _wait(self, grace_s: float) -> int:
        try:
            return self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            if self._output is not None:
                self._output.join(_GRACE_S)
