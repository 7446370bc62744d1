"""Has work done on a Ray cluster, through a process that speaks to it (`serve/batch/driver.py`).

    async with Cluster(execution) as cluster:
        scorer = Scorer(metrics, pool=cluster.pool)

Ray is never imported here. Which worker scored an answer makes no difference to the run: its scores
come back and are stored once; when a worker dies, another one scores its answers. Requests to
models that a run loads itself go through here too (`local_models.py`).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Literal

import msgspec

from evaluators.base import Scorable, Score
from evaluators.document import RayExecution
from evaluators.execution.output import CapturedOutput
from evaluators.execution.worker import ScoringBatch, WorkerSetup, encode
from evaluators.execution.worker_pool import SAMPLE_S, Scores, WorkerSpec, together
from providers.errors import EvalrouterError, MissingExtraError
from serve.batch.protocol import (
    LENGTH,
    Cancel,
    Connect,
    Crew,
    Done,
    DriverMessage,
    WorkerCall,
    decode_done,
    framed,
)

# Answers that go to a worker at a time.
_CHUNK = 16
_SCORER = "evaluators.execution.remote:RemoteScorer"
# Workers that may die of one answer.
_TRIES = 3

_scores = msgspec.json.Decoder(list[tuple[Score, ...]])


class ClusterError(EvalrouterError):
    """The cluster cannot be reached, or was lost."""

    code = "cluster_error"


class Cluster:
    """One connection to a Ray cluster, for as long as the context lasts.

    Args:
        execution: which cluster, and how it is used.
        on_output: called with each line that the process writes, on another thread;
            returns it as it may be shown.
    """

    def __init__(
        self, execution: Literal["ray"] | RayExecution, *, on_output: Callable[[bytes], bytes]
    ) -> None:
        self._on_output = on_output
        self._output: CapturedOutput | None = None
        self._execution = RayExecution() if execution == "ray" else execution
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Done]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Cluster:
        """Start the process; the first crew is what connects to the cluster.

        Raises:
            MissingExtraError: Ray is not installed.
        """
        if find_spec("ray") is None:
            raise MissingExtraError("execution: ray", "ray")
        self._output = CapturedOutput(self._on_output)
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "serve.batch.driver",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=self._output.descriptor,
                # Ray's own processes are looked for in its folder of the environment.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        finally:
            self._output.started()
        self._reading = asyncio.create_task(self._read())
        await self._write(Connect(self._execution.address))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the process, its workers, and a Ray that was started for it."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(30):
                await self._process.wait()
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if self._reading is not None:
            await self._reading
        if self._output is not None:
            await asyncio.to_thread(self._output.join, 1.0)

    def pool(
        self,
        specs: Sequence[WorkerSpec],
        *,
        processes: int | None = None,
        sample_s: float = SAMPLE_S,
        **_: object,
    ) -> Scores:
        """Return a pool that scores with these metrics on the cluster; called as WorkerPool is."""
        # Models come one by one, without a number of processes.
        gpus = self._execution.gpus if processes is None else 0.0
        return _Scorers(self, self._execution, specs, gpus, sample_s)

    async def crew(
        self,
        *,
        name: str,
        make: str,
        argument: bytes,
        workers: int,
        cpus: float,
        gpus: float,
        at_once: int | None = None,
    ) -> str:
        """Start workers as `protocol.Crew` describes; return "" once one is ready, or why none is.

        Raises:
            ClusterError: the cluster cannot be reached.
        """
        number = next(self._numbers)
        done = await self._request(
            Crew(number, name, make, argument, workers, cpus, gpus, at_once=at_once)
        )
        return done.error or done.payload.decode()

    async def call(
        self,
        crew: str,
        method: str,
        payload: bytes,
        *,
        limit_s: float | None = None,
        tries: int = 1,
    ) -> Done:
        """Have a worker of a crew do what `protocol.WorkerCall` describes; it may be cancelled.

        Raises:
            ClusterError: the cluster was lost.
        """
        number = next(self._numbers)
        return await self._request(WorkerCall(number, crew, method, payload, limit_s, tries))

    async def _request(self, message: Crew | WorkerCall) -> Done:
        number = message.number
        future: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            if self._reading is not None and self._reading.done():
                raise self._lost()
            await self._write(message)
            return await future
        except asyncio.CancelledError:
            if not future.done():
                self._begin_write(Cancel(number))
            raise
        finally:
            self._waiting.pop(number, None)

    def _begin_write(self, message: DriverMessage) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        if not self._process.stdin.is_closing():
            self._process.stdin.write(framed(message))

    async def _write(self, message: DriverMessage) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(ConnectionError):
            self._begin_write(message)
            await self._process.stdin.drain()

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with suppress(asyncio.IncompleteReadError):
            while True:
                (length,) = LENGTH.unpack(await self._process.stdout.readexactly(LENGTH.size))
                done = decode_done(await self._process.stdout.readexactly(length))
                future = self._waiting.get(done.number)
                if future is not None and not future.done():
                    future.set_result(done)
        await self._process.wait()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self._lost())

    def _lost(self) -> ClusterError:
        where = self._execution.address or "this machine"
        return ClusterError(f"no Ray at {where}, or it was lost; resume the run when it is back")


class _Scorers:
    """Scores with some metrics, on the cluster's workers."""

    def __init__(
        self,
        cluster: Cluster,
        execution: RayExecution,
        specs: Sequence[WorkerSpec],
        gpus: float,
        limit_s: float,
    ) -> None:
        self._cluster = cluster
        self._execution = execution
        self._setup = encode(WorkerSetup(tuple(specs)))
        self._gpus = gpus
        self._limit_s = limit_s
        self._name = f"scorers-{id(self)}"
        self._made: asyncio.Task[str] | None = None

    async def start(self) -> str:
        """Start the workers, and return "" or why they cannot load their metrics."""
        if self._made is None:
            making = self._cluster.crew(
                name=self._name,
                make=_SCORER,
                argument=self._setup,
                workers=self._execution.workers,
                cpus=self._execution.cpus,
                gpus=self._gpus,
            )
            self._made = asyncio.create_task(making)
        return await asyncio.shield(self._made)

    async def score(self, items: Sequence[Scorable]) -> list[tuple[Score, ...] | str]:
        """Return for each answer, in order, its scores, or why it has none."""
        why = await self.start()
        if why:
            return [why] * len(items)
        chunks = [items[at : at + _CHUNK] for at in range(0, len(items), _CHUNK)]
        results = await together(*(self._chunk(chunk) for chunk in chunks))
        return [scores for result in results for scores in result]

    async def _chunk(self, items: Sequence[Scorable]) -> list[tuple[Score, ...] | str]:
        """Return the scores of a few answers, or the reason where one could not be scored."""
        done = await self._cluster.call(
            self._name,
            "score",
            encode(ScoringBatch(tuple(items))),
            limit_s=self._limit_s * len(items),
            tries=_TRIES,
        )
        if not done.error:
            return list(_scores.decode(done.payload))
        if len(items) == 1:
            return [done.error]
        # One answer must not cost the others of its batch.
        alone = await together(*(self._chunk([item]) for item in items))
        return [scores for [scores] in alone]

    async def close(self) -> None:
        """Wait for the workers no longer; they end with the cluster's process."""
        if self._made is not None:
            self._made.cancel()
