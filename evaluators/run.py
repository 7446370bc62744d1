"""Replay and score: the one loop of an evaluation.

`await run(tasks, ...)` has every task's sample answered, scores the answers, and tells each result
as it comes. How an answer is obtained and kept (`complete`) and where scores go (`keep_scores`)
are injected; the router passes its own dispatcher and store.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence

import msgspec

from evaluators.base import Answer, Cell, Sample, Scorable, Score

# A batch amortises the hand-over to the scoring thread; more than this delays progress.
SCORING_BATCH = 64


class Task(msgspec.Struct, frozen=True):
    """A cell to fill. With an `answer` (kept by an earlier attempt) it only lacks scores.

    Attributes:
        cell: which.
        sample: what to ask.
        answer: what was answered.
        scores: those that the answer has already.
    """

    cell: Cell
    sample: Sample
    answer: Answer | None = None
    scores: tuple[Score, ...] = ()


class Result(msgspec.Struct, frozen=True):
    """A filled cell. `scores` is empty when the answer is an error."""

    cell: Cell
    answer: Answer
    scores: tuple[Score, ...]


class Answered(msgspec.Struct, frozen=True):
    """An answer with a text, to be scored, and the scores that it has already."""

    item: Scorable
    scores: tuple[Score, ...]


Complete = Callable[[Cell, Sample], Awaitable[Answer]]
KeepScores = Callable[[Cell, tuple[Score, ...]], Awaitable[None]]
Tell = Callable[[Result], None]
ScoreBatch = Callable[[Sequence[Answered]], Awaitable[list[tuple[Score, ...]]]]


async def run(
    tasks: AsyncIterable[Task],
    *,
    complete: Complete,
    score: ScoreBatch,
    keep_scores: KeepScores,
    tell: Tell,
    concurrency: int,
    halted: Callable[[], bool] = bool,
    batches: int = 1,
) -> None:
    """Fill every task's cell. Cancelling it cancels the requests in flight.

    Args:
        tasks: what to do; read only as fast as it is done.
        complete: asks a route and returns once the answer is safely kept, so that nothing is
            scored that a crash could lose. A target's failure is an Answer with `error`.
        score: scores a batch of answers, in order: the new scores, and the ones they had.
        keep_scores: keeps an answer's scores.
        tell: called with each result, in the order they finish.
        concurrency: how many `complete` may be under way at a time.
        halted: asked before each request; once it is true nothing more is asked, and what is in
            flight is finished, kept and scored.
        batches: how many batches may be scored at a time; more than one where scoring waits for
            judges, so that a slow verdict holds up its own batch only.

    Raises:
        Whatever an argument raises: a run that cannot keep its results stops.
    """
    waiting: asyncio.Queue[Task | None] = asyncio.Queue(concurrency)
    answered: asyncio.Queue[tuple[Task, Answer] | None] = asyncio.Queue(2 * SCORING_BATCH)

    async def feed() -> None:
        async for task in tasks:
            if halted():
                break
            await waiting.put(task)
        for _ in range(concurrency):
            await waiting.put(None)

    async def replay() -> None:
        while (task := await waiting.get()) is not None:
            answer = task.answer
            if answer is None:
                if halted():
                    continue
                answer = await complete(task.cell, task.sample)
            await answered.put((task, answer))
        await answered.put(None)

    async def grade() -> None:
        replaying = True
        room = asyncio.Semaphore(batches)
        async with asyncio.TaskGroup() as finishing:
            while replaying:
                await room.acquire()
                batch: list[tuple[Task, Answer]] = []
                while len(batch) < SCORING_BATCH:
                    if batch and answered.empty():
                        break
                    item = await answered.get()
                    if item is None:
                        replaying = False
                        break
                    batch.append(item)
                finishing.create_task(finish(batch)).add_done_callback(lambda _: room.release())

    async def finish(batch: list[tuple[Task, Answer]]) -> None:
        good = [(task, answer) for task, answer in batch if answer.text is not None]
        scored = await score(
            [Answered(Scorable(task.sample, answer), task.scores) for task, answer in good]
        )
        of = {task.cell: scores for (task, _), scores in zip(good, scored, strict=True)}
        await asyncio.gather(*(keep_scores(cell, scores) for cell, scores in of.items()))
        for task, answer in batch:
            tell(Result(task.cell, answer, of.get(task.cell, ())))

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(feed())
            group.create_task(grade())
            for _ in range(concurrency):
                group.create_task(replay())
    except BaseExceptionGroup as several:
        # One failure cancels the rest; the first is the cause.
        cause: BaseException = several
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        raise cause from None
