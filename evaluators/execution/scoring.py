"""Scores answers away from the event loop, and contains a metric that misbehaves.

    async with Scorer(document.metrics) as scorer:
        scores = await scorer.score(batch)

Where a metric is scored follows from what it is (see `evaluators/base.py`):

- a plain `Metric` in a thread of this process where the whole run takes less than half a second
  of scoring, going by its first answers; otherwise in worker processes, one per processor. A small
  run is over before a worker has started, and does not pay for one; a large one would make live
  requests wait for the interpreter's lock, up to three times as long at the 99th percentile.
- a `PreloadedMetric` in those worker processes from the start.
- an `IsolatedMetric` (a model, or a user's code) in a worker process of its own.
- an `EmbeddingMetric` or a `JudgeMetric` here, as it only waits for the router.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from evaluators.base import (
    AnyMetric,
    AskJudge,
    Embed,
    EmbeddingMetric,
    IsolatedMetric,
    JudgeMetric,
    PreloadedMetric,
    Scorable,
    Score,
)
from evaluators.execution.worker import checked, score, unscored
from evaluators.execution.worker_pool import (
    Scores,
    WorkerPool,
    WorkerSpec,
    available_processors,
    together,
)
from evaluators.metrics.registry import build
from providers.errors import RunDocumentError

__all__ = ["Scorable", "Scorer", "score"]

# Starting a worker costs about 0.4 s of a processor, so less scoring than this is not worth one.
HERE_S = 0.5

# The first answer pays for what is made on first use; the cheapest of so many tells the price.
_TRIALS = 3

# A model is given its batch whole, so that it can sort it by length.
_MODEL_BATCH = 64

_Table = dict[str, Score]


class Scorer:
    """Scores batches of answers with a run's metrics.

    Args:
        specs: the run document's metrics, their paths absolute.
        metrics: those that the specs describe; None to build them here.
        answers: the largest number of answers that may come; None when that is not known.
        embed: gets embeddings from a route; None where no metric needs them.
        judge: sends requests to judges; None where no metric needs them.
        processes: the largest number of worker processes for plain metrics.
        here_s: seconds of scoring that a whole run may spend in this process.
        pool: makes the pools that score elsewhere, called as `WorkerPool` is; with another one
            than `WorkerPool`, nothing is scored in this process.
        on_output: called with each line that a worker process writes, on another thread;
            returns it as it may be shown.
    """

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        *,
        metrics: Sequence[AnyMetric] | None = None,
        answers: int | None = None,
        embed: Embed | None = None,
        judge: AskJudge | None = None,
        processes: int | None = None,
        here_s: float = HERE_S,
        pool: Callable[..., Scores] = WorkerPool,
        on_output: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._metrics = [build(spec) for spec in specs] if metrics is None else list(metrics)
        self._order = [output.name for metric in self._metrics for output in metric.outputs]
        self._embed = embed
        self._judge = judge
        self._answers = answers
        self._left_s = here_s if pool is WorkerPool else 0.0
        self._cheapest_s = math.inf
        self._done_here = 0
        plain: list[WorkerSpec] = []
        self._plain: list[AnyMetric] = []
        self._embedding_metrics: list[EmbeddingMetric] = []
        self._judge_metrics: list[JudgeMetric] = []
        self._isolated: list[tuple[IsolatedMetric, Scores]] = []
        for metric, spec in zip(self._metrics, specs, strict=True):
            if isinstance(metric, EmbeddingMetric):
                self._embedding_metrics.append(metric)
            elif isinstance(metric, JudgeMetric):
                self._judge_metrics.append(metric)
            elif isinstance(metric, IsolatedMetric):
                isolated = pool(
                    [spec],
                    load_s=metric.load_s,
                    sample_s=metric.sample_s,
                    chunk=_MODEL_BATCH,
                    on_output=on_output,
                )
                self._isolated.append((metric, isolated))
            else:
                self._plain.append(metric)
                plain.append(spec)
                if isinstance(metric, PreloadedMetric):
                    self._left_s = 0.0
        self._pool = pool(plain, processes=processes or available_processors(), on_output=on_output)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scoring")

    async def __aenter__(self) -> Scorer:
        """Load the isolated metrics, so that one that cannot be loaded ends a run before a request.

        Raises:
            RunDocumentError: a metric cannot be loaded; the message says which and why.
        """
        try:
            reasons = await together(*(pool.start() for _, pool in self._isolated))
        except BaseException:
            await self._close()
            raise
        named = zip((metric.name for metric, _ in self._isolated), reasons, strict=True)
        failed = [f"{name}: {why}" for name, why in named if why]
        if failed:
            await self._close()
            raise RunDocumentError("; ".join(failed), param="metrics")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _close(self) -> None:
        pools = (self._pool, *(pool for _, pool in self._isolated))
        # The thread ends with the answer that it is at.
        ending = asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        await together(ending, *(pool.close() for pool in pools))

    async def score(self, batch: Sequence[Scorable]) -> list[tuple[Score, ...]]:
        """Return one tuple of scores per answer, in order, with every output of every metric."""
        if not batch:
            return []
        items = tuple(batch)
        tables = await together(
            self._score_plain(items),
            *(self._score_isolated(metric, pool, items) for metric, pool in self._isolated),
            *(self._score_with_embeddings(metric, items) for metric in self._embedding_metrics),
            *(self._score_with_judges(metric, items) for metric in self._judge_metrics),
        )
        rows = []
        for row in zip(*tables, strict=True):
            by_output = {score.output: score for scores in row for score in scores}
            rows.append(tuple(by_output[name] for name in self._order))
        return rows

    async def _score_plain(self, items: Sequence[Scorable]) -> list[tuple[Score, ...]]:
        if not self._plain:
            return [()] * len(items)
        done: list[tuple[Score, ...]] = []
        if self._left_s > 0:
            loop, stop = asyncio.get_running_loop(), threading.Event()
            try:
                done = await loop.run_in_executor(self._thread, self._here, items, stop)
            finally:
                stop.set()
        rest = items[len(done) :]
        if rest:
            done += _with_reasons(self._plain, await self._pool.score(rest))
        return done

    def _here(self, items: Sequence[Scorable], stop: threading.Event) -> list[tuple[Score, ...]]:
        """Score as many as time allows, until `stop` is set; at least one."""
        done = []
        for item in items:
            started = time.thread_time()
            done.append(score(self._plain, item))
            self._spent(time.thread_time() - started)
            if self._left_s <= 0 or stop.is_set():
                break
        return done

    def _spent(self, seconds: float) -> None:
        """Count the time of an answer; no time is left when the rest will take too long."""
        self._left_s -= seconds
        self._done_here += 1
        self._cheapest_s = min(self._cheapest_s, seconds)
        if self._answers is not None and self._done_here >= _TRIALS:
            rest = (self._answers - self._done_here) * self._cheapest_s
            if rest > self._left_s:
                self._left_s = 0.0

    async def _score_isolated(
        self, metric: IsolatedMetric, pool: Scores, items: Sequence[Scorable]
    ) -> list[tuple[Score, ...]]:
        return _with_reasons([metric], await pool.score(items))

    async def _score_with_embeddings(
        self, metric: EmbeddingMetric, items: Sequence[Scorable]
    ) -> list[tuple[Score, ...]]:
        if self._embed is None:
            return [unscored(metric, "no router is available here")] * len(items)
        rows = await metric.ask(items, self._embed)
        return [tuple(checked(metric, scores)) for scores in rows]

    async def _score_with_judges(
        self, metric: JudgeMetric, items: Sequence[Scorable]
    ) -> list[tuple[Score, ...]]:
        if self._judge is None:
            return [unscored(metric, "no router is available here")] * len(items)
        rows = await metric.judge(items, self._judge)
        return [tuple(checked(metric, scores)) for scores in rows]


def _with_reasons(
    metrics: Sequence[AnyMetric], results: Sequence[tuple[Score, ...] | str]
) -> list[tuple[Score, ...]]:
    """Return a pool's results, with each reason for a failure as scores without a value."""
    return [
        tuple(score for metric in metrics for score in unscored(metric, result))
        if isinstance(result, str)
        else result
        for result in results
    ]
