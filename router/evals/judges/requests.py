"""Asks judges for a run, a calibration or a comparison, and keeps every answer.

    judge = JudgeClient(store, requester, run.id, places=16, share=True, pay=count_it)
    judgement = await judge(request)

The order is that of runs: a judge's answer is in the store before anybody reads a verdict out of
it. It is found again by the SHA-256 of target and body, the number of the repeat and that of the
attempt, so that whoever goes on after a crash pays for no finished judgement twice. With `share` it
is also found where another run has paid for it; a calibration asks afresh, else it would measure
an older one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from evaluators.base import Answer, Judgement, JudgeRequest
from providers.wire import UNREADABLE
from router.evals.requests import EvalRequester
from router.store.base import JudgementRow, Store

# A verdict is among the last tokens; all alternatives of a whole answer would be megabytes.
_LAST_TOKENS = 32

Pay = Callable[[Answer], None]


class _Alternative(msgspec.Struct):
    token: str
    logprob: float


class _Token(msgspec.Struct):
    token: str
    top_logprobs: list[_Alternative] = []


class _Logprobs(msgspec.Struct):
    """Of a chat (`content`), or of a completion."""

    content: list[_Token] | None = None
    tokens: list[str] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(msgspec.Struct):
    logprobs: _Logprobs | None = None


class _Scored(msgspec.Struct):
    choices: list[_Choice]


_decode = msgspec.json.Decoder(_Scored).decode


class JudgeClient:
    """Asks judges on behalf of one owner.

    Args:
        store: keeps what they answer.
        asker: sends the requests.
        owner: the id of the run or study that asks.
        places: requests in flight at a time, over all judges.
        share: whether an answer that another owner has paid for may be used.
        pay: told of each answer that was paid for.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        asker: EvalRequester,
        owner: str,
        *,
        places: int,
        share: bool,
        pay: Pay,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._asker = asker
        self._owner = owner
        self._share = share
        self._pay = pay
        self._clock = clock
        self._places = asyncio.Semaphore(places)
        # Two answers of a run may be the same text: the second waits for the first one's verdict.
        self._asked: dict[tuple[str, int, int], asyncio.Future[Judgement]] = {}

    async def __call__(self, inquiry: JudgeRequest) -> Judgement:
        """What the judge says; kept when this returns. A target's failure has `error`."""
        prepared = self._asker.prepare_inquiry(inquiry)
        key = (prepared.hash, inquiry.repeat, inquiry.attempt)
        if key in self._asked:
            return await asyncio.shield(self._asked[key])
        future = self._asked[key] = asyncio.get_running_loop().create_future()
        try:
            found = await self._known(inquiry, prepared.hash)
            if found is None:
                async with self._places:
                    completed = await self._asker.ask(prepared)
                found = Judgement(answer=completed.answer, tokens=_tokens(completed.body))
                await self._keep(inquiry, prepared.hash, found)
                self._pay(found.answer)
            future.set_result(found)
        except Exception as error:
            future.set_exception(error)
            # Whether anybody else waits for it is not known; this is told here.
            future.exception()
            raise
        except BaseException:
            future.cancel()
            raise
        finally:
            del self._asked[key]
        return found

    async def _known(self, inquiry: JudgeRequest, request_hash: str) -> Judgement | None:
        row = await self._store.judgement(
            self._owner, request_hash, inquiry.repeat, inquiry.attempt, anybody=self._share
        )
        if row is None:
            return None
        if row.owner != self._owner:
            await self._keep(inquiry, request_hash, row.judgement, reused=True)
        return row.judgement

    async def _keep(
        self,
        inquiry: JudgeRequest,
        request_hash: str,
        judgement: Judgement,
        *,
        reused: bool = False,
    ) -> None:
        await self._store.keep_judgement(
            JudgementRow(
                owner=self._owner,
                metric=inquiry.metric,
                judge=inquiry.judge,
                sample_id=inquiry.sample_id,
                repeat=inquiry.repeat,
                attempt=inquiry.attempt,
                request_hash=request_hash,
                at=self._clock(),
                judgement=judgement,
                reused=reused,
            )
        )


def _tokens(body: bytes) -> tuple[tuple[str, dict[str, float]], ...]:
    """The last tokens with their alternatives; none where the host gave none."""
    if b'"top_logprobs"' not in body:
        return ()
    try:
        choices = _decode(body).choices
    except UNREADABLE:
        # Hosts that write them in a way of their own still gave a good answer.
        return ()
    logprobs = choices[0].logprobs if choices else None
    if logprobs is None:
        return ()
    if logprobs.content is not None:
        return tuple(
            (one.token, {other.token: other.logprob for other in one.top_logprobs})
            for one in logprobs.content[-_LAST_TOKENS:]
        )
    pairs: Any = zip(logprobs.tokens or (), logprobs.top_logprobs or (), strict=False)
    return tuple((token, others or {}) for token, others in pairs)[-_LAST_TOKENS:]
