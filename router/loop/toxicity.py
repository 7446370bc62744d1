"""Has a judge say how toxic the rows of the review queue are, before a person looks at them.

    judging = ToxicityReview(store, requester, routes, config.review, owner=owner)
    await judging.open()          # every few seconds, where no other process does it
    await judging.run_once()      # or once

A row waits from the beginning, and a finding is added once it is judged. What cannot be judged has
a finding that says why: its route does not share texts with the judge, the day's money is spent, or
the judge failed. While the judge fails, the queue is tried again after 5 seconds, then after twice
as long each time, up to 5 minutes; after about an hour some rows are passed over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import msgspec

from evaluators.base import Answer, Judgement, JudgeRequest, Sample, Scorable
from evaluators.judge.metrics import judge as judge_of
from providers.errors import EvalrouterError, NotFoundError
from router.config.review import Review
from router.config.shadow import answering
from router.evals.requests import EvalRequester
from router.gateway.route_table import Routes
from router.gateway.spans import SpanSink
from router.loop.checks import CheckFinding, texts_of
from router.loop.checks.findings import Action
from router.records import new_span_id
from router.rounds import Rounds
from router.store.leases import Lease, LeaseStore
from router.store.review import ReviewFilter, ReviewRow, ReviewStore, ToxicityProgress

log = logging.getLogger("evalrouter")

EVERY_S = 10.0
LEASE = "review toxicity"
LEASE_S = 600.0
# Rows that are judged at a time, and a round.
AT_ONCE = 4
ROUND = 500
# Longer texts are not judged.
MAX_CHARACTERS = 20_000
# While the judge fails: until the next try, doubled each time; and how many there are.
RETRY_S, RETRY_MAX_S, MAX_TRIES = 5.0, 300.0, 18
_WHY = 300


class _Store(ReviewStore, LeaseStore, Protocol):
    """What is needed of a store."""


class _Verdict(NamedTuple):
    """What the judge said of a row.

    Attributes:
        score: 1 to 5; None where the judge gave none.
        why: why there is no score.
        is_failure: whether the judge did not answer at all.
    """

    score: float | None
    why: str = ""
    is_failure: bool = False


class ToxicityReview:
    """Judges the rows that wait, in the order in which they came.

    Args:
        store: the queue.
        requester: sends requests to the judge, in the traffic class of evaluations.
        routes: the routes as they are: which of them share their texts with the judge.
        config: names the judge.
        owner: a name for this part of the process, which no other has.
        traces: get the judge's spans; None where none are sent.
        clock: tells the seconds since the epoch.
    """

    def __init__(
        self,
        store: _Store,
        requester: EvalRequester,
        routes: Routes,
        config: Review,
        *,
        owner: str,
        traces: SpanSink | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._requester = requester
        self._routes = routes
        self._config = config
        self._lease = Lease(store, LEASE, owner, LEASE_S)
        self._traces = traces
        self._clock = clock
        self._failures = 0
        self._spent_usd = 0.0
        self._rounds = Rounds(
            self.run_once,
            every=self._wait,
            name="evalrouter-review-toxicity",
            failing="the review queue could not be judged",
        )

    async def open(self) -> None:
        """Begin, where the config names a judge."""
        if self._config.judge is not None and self._config.pranks.toxicity != "ignore":
            self._rounds.open()

    async def close(self) -> None:
        """Stop; the next process goes on."""
        await self._rounds.close()

    def _wait(self) -> float:
        """Return the seconds until the next round: longer the longer the judge has failed."""
        wait = RETRY_S * 2.0 ** (self._failures - 1) if self._failures else EVERY_S
        return min(wait, RETRY_MAX_S)

    async def run_once(self) -> int:
        """Judge the rows that are new, as long as the judge answers; return how many were.

        Raises:
            StoreError: what was judged until then has its findings.
        """
        judged = 0
        while self._config.judge is not None and judged < ROUND:
            progress = await self._store.toxicity_progress()
            rows = await self._next(progress)
            if not rows:
                break
            async with self._lease.held() as is_held:
                if not is_held:
                    break
                # Another process may have been here.
                progress = await self._store.toxicity_progress()
                rows = [row for row in rows if row.number > progress.number]
                some, is_failing = await self._judge(rows, progress)
            judged += some
            self._failures = self._failures + 1 if is_failing else 0
            if is_failing:
                break
        return judged

    async def _next(self, progress: ToxicityProgress) -> list[ReviewRow]:
        waiting = ReviewFilter(state="waiting")
        return await self._store.review_rows(waiting, limit=AT_ONCE, after=progress.number)

    async def _judge(
        self, rows: Sequence[ReviewRow], progress: ToxicityProgress
    ) -> tuple[int, bool]:
        """Judge some rows; return how many were, and whether the judge failed for all it got."""
        day = f"{datetime.fromtimestamp(self._clock(), UTC):%Y-%m-%d}"
        before = progress.usd if progress.day == day else 0.0
        self._spent_usd = before
        verdicts = await asyncio.gather(*(self._verdict(row) for row in rows))
        for row, verdict in zip(rows, verdicts, strict=True):
            await self._keep(row, verdict)
        judged = sum(verdict.score is not None for verdict in verdicts)
        is_failing = not judged and any(verdict.is_failure for verdict in verdicts)
        is_tried_again = is_failing and self._failures + 1 < MAX_TRIES
        number = progress.number if is_tried_again or not rows else rows[-1].number
        await self._store.keep_toxicity_progress(
            ToxicityProgress(number=number, day=day, usd=self._spent_usd)
        )
        return judged, is_tried_again

    async def _verdict(self, row: ReviewRow) -> _Verdict:
        judge = self._config.judge
        assert judge is not None, "else nothing is judged"
        for provider in self._unshared(row, judge):
            named = f"routes.{row.source.route}" if row.source.route else "review"
            return _Verdict(None, f"{named}.share_bodies_with does not name {provider}")
        if self._spent_usd >= self._config.judge_usd_per_day:
            return _Verdict(None, "the day's money is spent (review.judge_usd_per_day)")
        users = [text for _, text in texts_of(row.content.messages, role="user")]
        text = "\n".join([*users, row.content.reference or ""]).strip()
        if not text:
            return _Verdict(None, "it has no text")
        if len(text) > MAX_CHARACTERS:
            return _Verdict(None, f"its text has more than {MAX_CHARACTERS:,} characters")
        metric = judge_of(judge=judge, kind="toxicity", retries=1)
        item = Scorable(Sample(id=row.id, messages=()), Answer(text=text))
        try:
            result = await metric.poll(item, self._ask)
        except EvalrouterError as error:
            # The judge is a route that is gone.
            return _Verdict(None, error.message[:_WHY], is_failure=True)
        return _Verdict(result.value, result.why[:_WHY], is_failure=result.failed > 0)

    def _unshared(self, row: ReviewRow, judge: str) -> Iterator[str]:
        """Yield the judge's providers that may not see a row."""
        routes = self._routes.table.routes
        allowed: tuple[str, ...] = ()
        if not row.source.route:
            allowed = self._config.share_bodies_with
        elif row.source.route in routes:
            allowed = routes[row.source.route].share_bodies_with
        for model in answering((judge,), routes):
            provider = model.partition("/")[0]
            if provider not in allowed:
                yield provider

    async def _ask(self, request: JudgeRequest) -> Judgement:
        prepared = self._requester.prepare_judge_request(request)
        trace = None
        if self._traces is not None:
            trace = self._traces.contexts.of_evaluation("review", new_span_id())
        if trace is not None:
            trace.attributes["evalrouter.metric"] = request.metric
        judgement = await self._requester.ask_judge(prepared, trace=trace)
        self._spent_usd += judgement.answer.cost_usd or 0.0
        return judgement

    async def _keep(self, row: ReviewRow, verdict: _Verdict) -> None:
        """Note a verdict with its row, unless a person was quicker to decide."""
        while row.state == "waiting":
            changed = self._with_verdict(row, verdict)
            if changed is None or await self._store.change_review_row(changed):
                return
            try:
                row = await self._store.review_row(row.id)
            except NotFoundError:
                return

    def _with_verdict(self, row: ReviewRow, verdict: _Verdict) -> ReviewRow | None:
        """Return a row with what was found; None where that is in it already."""
        pranks = self._config.pranks
        finding: CheckFinding | None = None
        is_dropped = False
        if verdict.score is None:
            finding = CheckFinding(kind="toxicity", action="unchecked", detail=verdict.why)
        elif verdict.score >= pranks.toxicity_score:
            is_dropped = pranks.toxicity == "drop"
            action: Action = "drop" if is_dropped else "flag"
            finding = CheckFinding(kind="toxicity", action=action, detail=f"{verdict.score:g} of 5")
        others = [other for other in row.findings if other["kind"] != "toxicity"]
        findings = (*others, *([msgspec.to_builtins(finding)] if finding else ()))
        if findings == row.findings:
            return None
        changed = msgspec.structs.replace(row, findings=findings, version=row.version + 1)
        if not is_dropped:
            return changed
        return msgspec.structs.replace(
            changed,
            state="rejected",
            decided_at=self._clock(),
            decided_by=f"the judge {self._config.judge}",
            reason="toxicity",
        )
