"""Sends requests to judges for a run, a calibration or a comparison, and stores every answer.

    judge = JudgeClient(store, requester, run.id, concurrency=16, share=True, pay=count_it)
    judgement = await judge(request)

The order is that of runs: a judge's answer is in the store before a verdict is read out of it. Its
key there is the SHA-256 of target and body with the number of the repeat and of the attempt, so
that a run that is resumed after a crash pays for no finished judgement twice. With `share` an
answer that another run has paid for counts as well; a calibration sends its own requests, because
it would otherwise measure an older one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from evaluators.base import Answer, Judgement, JudgeRequest
from router.evals.requests import EvalRequester, PreparedRequest
from router.records import Trace
from router.store.judgements import JudgementRow, JudgementStore

Pay = Callable[[Answer], None]


class _SharedTask:
    """One request that several callers may wait for."""

    def __init__(self, task: asyncio.Task[Judgement]) -> None:
        self._task = task
        self._waiting = 0

    @property
    def over(self) -> bool:
        """Whether the task has ended, or was cancelled with its last caller."""
        return self._task.done() or self._task.cancelling() > 0

    async def result(self) -> Judgement:
        """Wait for the judgement. The request is cancelled with the last caller that waits."""
        self._waiting += 1
        try:
            return await asyncio.shield(self._task)
        finally:
            self._waiting -= 1
            if not self._waiting and not self._task.done():
                self._task.cancel()
                await asyncio.wait({self._task})


class JudgeClient:
    """Sends requests to judges on behalf of one owner.

    Args:
        store: stores what they answer.
        requester: sends the requests.
        owner: the id of the run or study that the requests belong to.
        concurrency: requests in flight at a time, over all judges.
        share: whether an answer that another owner has paid for may be used.
        pay: called with each answer that was paid for.
        trace_of: returns the trace that a request is recorded in; None without one.
        clock: returns seconds since the epoch.
    """

    def __init__(
        self,
        store: JudgementStore,
        requester: EvalRequester,
        owner: str,
        *,
        concurrency: int,
        share: bool,
        pay: Pay,
        trace_of: Callable[[JudgeRequest], Trace | None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._requester = requester
        self._owner = owner
        self._share = share
        self._pay = pay
        self._trace_of = trace_of
        self._clock = clock
        self._slots = asyncio.Semaphore(concurrency)
        # Two answers of a run may be the same text: the second waits for the first one's verdict.
        self._shared: dict[tuple[str, int, int], _SharedTask] = {}

    async def __call__(self, request: JudgeRequest) -> Judgement:
        """Return the judge's answer, stored. A target's failure is one with `error`."""
        prepared = self._requester.prepare_judge_request(request)
        key = (prepared.hash, request.repeat, request.attempt)
        shared = self._shared.get(key)
        if shared is None or shared.over:
            task = asyncio.create_task(self._judgement(request, prepared))
            shared = self._shared[key] = _SharedTask(task)
        try:
            return await shared.result()
        finally:
            if shared.over and self._shared.get(key) is shared:
                del self._shared[key]

    async def _judgement(self, request: JudgeRequest, prepared: PreparedRequest) -> Judgement:
        stored = await self._stored(request, prepared.hash)
        if stored is not None:
            return stored
        async with self._slots:
            judgement = await self._requester.ask_judge(prepared, trace=self._trace_of(request))
        await self._store_judgement(request, prepared.hash, judgement)
        self._pay(judgement.answer)
        return judgement

    async def _stored(self, request: JudgeRequest, request_hash: str) -> Judgement | None:
        row = await self._store.judgement(
            self._owner, request_hash, request.repeat, request.attempt, any_owner=self._share
        )
        if row is None:
            return None
        if row.owner != self._owner:
            await self._store_judgement(request, request_hash, row.judgement, reused=True)
        return row.judgement

    async def _store_judgement(
        self,
        request: JudgeRequest,
        request_hash: str,
        judgement: Judgement,
        *,
        reused: bool = False,
    ) -> None:
        await self._store.keep_judgement(
            JudgementRow(
                owner=self._owner,
                metric=request.metric,
                judge=request.judge,
                sample_id=request.sample_id,
                repeat=request.repeat,
                attempt=request.attempt,
                request_hash=request_hash,
                at=self._clock(),
                judgement=judgement,
                reused=reused,
            )
        )
