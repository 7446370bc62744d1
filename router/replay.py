"""Carries a run out: asks what is not answered, scores what is not scored.

Read `Replay.carry_out`. Who owns the run and what state it ends in is `runs.py`'s.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from evaluators.base import Answer, Cell, Sample, Score
from evaluators.document import RunDocument
from evaluators.run import Result, Task, run
from evaluators.scoring import Scorer
from router.complete import Asker
from router.store.base import Run, Store


class Live(msgspec.Struct):
    """How far a run is that this process carries out. Changes as it goes.

    Attributes:
        cells: how many there are.
        answered: cells with an answer, earlier attempts included.
        failed: cells whose target failed, earlier attempts included.
        cached: answers taken from the run cache.
        cost_usd: what this attempt's answers cost, as far as prices are known.
    """

    cells: int = 0
    answered: int = 0
    failed: int = 0
    cached: int = 0
    cost_usd: float = 0.0

    @property
    def done(self) -> int:
        """Cells that need no more asking."""
        return self.answered + self.failed


class Replay:
    """One attempt at a run.

    Args:
        store: where the run is kept.
        asker: asks its routes.
        found: the run.
        document: its document.
        live: kept up to date on the way.
    """

    def __init__(
        self, store: Store, asker: Asker, found: Run, document: RunDocument, live: Live
    ) -> None:
        self._store = store
        self._asker = asker
        self._run = found
        self._document = document
        self._live = live

    async def carry_out(self) -> str:
        """Until every cell is done; why it stopped early, "" when it did not."""
        found, document, live = self._run, self._document, self._live
        unscored = {
            one.cell: one.answer
            async for one in self._store.results(found.id, unscored=True)
            if one.answer is not None
        }
        answered = await self._store.answered_cells(found.id)
        before = await self._store.progress(found.id)
        live.cells, live.failed = found.cells, before.failed
        live.answered = before.answered - len(unscored)
        limit = document.limits.cost_usd

        def over_limit() -> bool:
            return limit is not None and live.cost_usd >= limit

        async def tasks() -> AsyncIterator[Task]:
            async for sample in self._store.samples(found.id):
                for route in document.routes:
                    for repeat in range(document.repeats):
                        cell = Cell(route, sample.id, repeat)
                        if cell in unscored:
                            yield Task(cell, sample, unscored[cell])
                        elif cell not in answered:
                            if over_limit():
                                return
                            yield Task(cell, sample)

        async def complete(cell: Cell, sample: Sample) -> Answer:
            answer = await self._complete(cell, sample)
            # A cached answer keeps what it once cost, so that routes compare; it is not paid again.
            live.cost_usd += 0.0 if answer.cached else answer.cost_usd or 0.0
            return answer

        async def keep_scores(cell: Cell, scores: tuple[Score, ...]) -> None:
            await self._store.keep_scores(found.id, cell, scores)

        def tell(result: Result) -> None:
            if result.answer.text is None:
                live.failed += 1
            else:
                live.answered += 1
                live.cached += result.answer.cached

        async with Scorer(
            document.metrics, answers=found.cells - before.scored, embed=self._asker.embed
        ) as scorer:
            await run(
                tasks(),
                complete=complete,
                score=scorer.score,
                keep_scores=keep_scores,
                tell=tell,
                concurrency=document.limits.concurrency,
            )
        if over_limit() and live.done < live.cells:
            return f"stopped at its limit of {limit} USD; raise it and resume to go on"
        return ""

    async def _complete(self, cell: Cell, sample: Sample) -> Answer:
        """Ask, and keep the answer before anybody sees it."""
        run_id, document = self._run.id, self._document
        prepared = self._asker.prepare(
            cell.route, sample, document.parameters, fallback=document.fallback
        )
        if document.cache and not self._asker.is_free(prepared):
            known = await self._store.cached_answer(prepared.hash, cell.repeat)
            if known is not None:
                answer = msgspec.structs.replace(known, cached=True, attempts=0)
                await self._store.keep_answer(run_id, cell, prepared.hash, answer, ())
                return answer
        await self._store.begin(run_id, cell, prepared.hash, str(prepared.plan.targets[0]))
        completed = await self._asker.ask(prepared)
        attempts = msgspec.to_builtins(completed.attempts)
        await self._store.keep_answer(run_id, cell, prepared.hash, completed.answer, attempts)
        return completed.answer
