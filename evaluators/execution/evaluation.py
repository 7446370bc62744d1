"""Replays and scores samples: the one loop of an evaluation.

`await run(lanes, ...)` has every task's sample answered, scores the answers, and reports each
result as it comes. The caller injects how an answer is obtained and stored (`complete`) and where
scores go (`store_scores`); the router passes its own dispatcher and store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum

import msgspec

from evaluators.base import Answer, Cell, Sample, Scorable, Score
from evaluators.execution.scheduler import Lane, LanePlace, work_through

# A batch amortises the hand-over to the scoring thread; more than this delays progress.
SCORING_BATCH = 64


class CellTask(msgspec.Struct, frozen=True):
    """A cell to fill. With an `answer` (stored by an earlier attempt) it only lacks scores.

    Attributes:
        cell: the cell.
        sample: the sample to send.
        answer: the stored answer, or None.
        scores: the scores that the answer has already.
    """

    cell: Cell
    sample: Sample
    answer: Answer | None = None
    scores: tuple[Score, ...] = ()


class CellResult(msgspec.Struct, frozen=True):
    """A filled cell. `scores` is empty when the answer is an error."""

    cell: Cell
    answer: Answer
    scores: tuple[Score, ...]


class AnsweredItem(msgspec.Struct, frozen=True):
    """An answer with a text, to be scored, and the scores that it has already."""

    item: Scorable
    scores: tuple[Score, ...]


class Unanswered(Enum):
    """The reason why a cell has no answer: its request was not sent, or was not finished."""

    LATER = "to be sent once the lane's gate opens again"
    DROPPED = "to be left out, because the run or the lane has ended"


Complete = Callable[[Cell, Sample, LanePlace], Awaitable[Answer | Unanswered]]
StoreScores = Callable[[Mapping[Cell, tuple[Score, ...]]], Awaitable[None]]
OnResult = Callable[[CellResult], None]
ScoreBatch = Callable[[Sequence[AnsweredItem]], Awaitable[list[tuple[Score, ...]]]]


async def run(
    lanes: Sequence[Lane[CellTask]],
    *,
    complete: Complete,
    score: ScoreBatch,
    store_scores: StoreScores,
    on_result: OnResult,
    concurrency: int,
    batches: int = 1,
    halted: Callable[[], bool] = bool,
) -> None:
    """Fill every task's cell. Cancelling it cancels the requests in flight.

    Args:
        lanes: streams of tasks, worked through side by side, each read only as fast as it is done.
        complete: sends a sample to a route and returns once the answer is stored, so that nothing
            is scored that a crash could lose. A target's failure is an Answer with `error`. It
            takes the place it is given before it sends, and leaves it as soon as the route has
            answered, so that the next request can be sent meanwhile.
        score: scores a batch of answers, in order, and returns the new scores with the earlier.
        store_scores: stores the scores of some answers.
        on_result: called with each result, in the order they finish.
        concurrency: the number of `complete` calls that may be under way at a time.
        batches: the number of batches that may be scored at a time; more than one where scoring
            waits for judges, so that a slow verdict holds up its own batch only.
        halted: called before each request; once it is true no more requests are sent, and those
            in flight are finished, stored and scored.

    Raises:
        Whatever an argument raises: a run that cannot keep its results stops.
    """
    answered: asyncio.Queue[tuple[CellTask, Answer] | None] = asyncio.Queue(2 * SCORING_BATCH)

    async def replay() -> None:
        await work_through(
            lanes,
            fill,
            concurrency=concurrency,
            gated=lambda task: task.answer is None,
            halted=halted,
        )
        await answered.put(None)

    async def fill(task: CellTask, place: LanePlace) -> bool:
        answer = task.answer
        if answer is None:
            if halted():
                return True
            outcome = await complete(task.cell, task.sample, place)
            if isinstance(outcome, Unanswered):
                return outcome is Unanswered.DROPPED
            answer = outcome
        await answered.put((task, answer))
        return True

    async def grade() -> None:
        replaying = True
        free = asyncio.Semaphore(batches)
        async with asyncio.TaskGroup() as finishing:
            while replaying:
                await free.acquire()
                batch: list[tuple[CellTask, Answer]] = []
                while len(batch) < SCORING_BATCH:
                    if batch and answered.empty():
                        break
                    item = await answered.get()
                    if item is None:
                        replaying = False
                        break
                    batch.append(item)
                finishing.create_task(finish(batch)).add_done_callback(lambda _: free.release())

    async def finish(batch: list[tuple[CellTask, Answer]]) -> None:
        good = [(task, answer) for task, answer in batch if answer.text is not None]
        scored = await score(
            [AnsweredItem(Scorable(task.sample, answer), task.scores) for task, answer in good]
        )
        scores_of = {task.cell: scores for (task, _), scores in zip(good, scored, strict=True)}
        if scores_of:
            await store_scores(scores_of)
        for task, answer in batch:
            on_result(CellResult(task.cell, answer, scores_of.get(task.cell, ())))

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(replay())
            group.create_task(grade())
    except BaseExceptionGroup as several:
        # One failure cancels the rest; the first is the cause.
        cause: BaseException = several
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        raise cause from None
