"""Makes the scores of a bundle again: of its texts, and of what judges answered.

    checked = await rescored(bundled, progress)
    checked.texts.alike, checked.texts.shown

Texts are scored by the metrics that ship with evalrouter, in the processes and within the times of
any run, because a pattern or a text may have been written to take for ever. A judge's scores are
made by the judge's metric, which gets the stored answers in place of new ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from evaluators.base import Answer, Judgement, JudgeRequest, Sample, Scorable, Score
from evaluators.execution.scoring import HERE_S, Scorer
from evaluators.judge.graded import Graded
from evaluators.judge.panel import combined
from evaluators.text.answers import read_for_scoring, reads_text
from router.loop.bundles.bundled_run import BundledRun
from router.loop.bundles.contents import RESULTS, BundledResult, BundledSample
from router.loop.bundles.differences import Compared, Difference, is_alike
from router.store.judgements import JudgementRow

_AT_ONCE = 500
# Characters. Some metrics take time by the square of it: a tenth of a second for so many.
_LONG = 10_000


class JudgementCounts:
    """Counts judgements by metric and judge, each once however many answers share it."""

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._counts: dict[tuple[str, str], list[int]] = {}

    def add(self, rows: Iterable[JudgementRow]) -> None:
        """Count judgements."""
        for row in rows:
            key = hash((row.request_hash, row.repeat, row.attempt))
            if key in self._known:
                continue
            self._known.add(key)
            counts = self._counts.setdefault((row.metric, row.judge), [0, 0, 0])
            answer = row.judgement.answer
            for n, counted in enumerate((True, row.attempt > 0, answer.error is not None)):
                counts[n] += counted

    def numbers(self) -> list[dict[str, Any]]:
        """Return the numbers of requests, of repeated ones, and of failed ones."""
        return [
            {
                "metric": metric,
                "judge": judge,
                **dict(zip(("calls", "asked_again", "failed"), counts, strict=True)),
            }
            for (metric, judge), counts in sorted(self._counts.items())
        ]


class RecomputedScores(msgspec.Struct):
    """What came of scoring a bundle's answers once more.

    Attributes:
        texts: the scores of texts.
        judges: the scores of judges.
        compared: how many answers have been compared.
        replaced: answers whose texts were replaced, so that no metric can read them.
        deleted: answers whose texts were deleted before the bundle was written, likewise.
        unscored: answers that were not compared, because the time was over.
        combined: scores of judges of which only the combination of the verdicts was checked.
        used: what judges took, by the judgements that are there.
    """

    texts: Compared = msgspec.field(default_factory=Compared)
    judges: Compared = msgspec.field(default_factory=Compared)
    compared: int = 0
    replaced: int = 0
    deleted: int = 0
    unscored: int = 0
    combined: int = 0
    used: JudgementCounts = msgspec.field(default_factory=JudgementCounts)


async def rescored(
    bundled: BundledRun, progress: Callable[[int], None], limit_s: float
) -> RecomputedScores:
    """Score every answer of a bundle that can be scored here, and compare.

    Args:
        bundled: the run.
        progress: called with how many answers have been compared.
        limit_s: seconds that it may take.

    Raises:
        EvidenceError: an answer is of no sample of the bundle.
    """
    made = RecomputedScores()
    try:
        async with asyncio.timeout(limit_s) as timeout, AsyncExitStack() as stack:
            await _compare_all(bundled, _Scorers(bundled, stack), made, progress)
    except TimeoutError:
        if not timeout.expired():
            raise
        answers = await asyncio.to_thread(lambda: sum(1 for _ in _answered(bundled)))
        made.unscored = answers - made.compared
    if not made.unscored:
        await asyncio.to_thread(made.used.add, bundled.judgements())
    return made


async def _compare_all(
    bundled: BundledRun,
    scorers: _Scorers,
    made: RecomputedScores,
    progress: Callable[[int], None],
) -> None:
    pairs = _answered(bundled)
    while batch := await asyncio.to_thread(_next, pairs):
        for _, result in batch:
            made.used.add(result.judgements)
        await _compare_judges(bundled, batch, made)
        made.deleted += sum(bundled.is_deleted(*pair) for pair in batch)
        made.replaced += sum(
            bundled.is_replaced(*pair) and not bundled.is_deleted(*pair) for pair in batch
        )
        # It may be the last thing that there is time for, and counts what it has done.
        await scorers.compare(batch, made)
        progress(made.compared)


_Pair = tuple[BundledSample, BundledResult]


def _answered(bundled: BundledRun) -> Iterator[_Pair]:
    """Yield every answer that has a text, with its sample. Raises EvidenceError."""
    for sample, result in bundled.pairs():
        if result.result.answer is not None and result.result.answer.text is not None:
            yield sample, result


def _next(pairs: Iterator[_Pair]) -> list[_Pair]:
    return list(islice(pairs, _AT_ONCE))


class _Group(NamedTuple):
    """Answers that are scored together.

    Attributes:
        indexes: of the metrics that score them.
        is_long: whether that may take seconds for one of them.
    """

    indexes: tuple[int, ...]
    is_long: bool


def _is_long(item: Scorable) -> bool:
    texts = (item.answer.text or "", *item.sample.references)
    return max(map(len, texts)) > _LONG


class _Scorers:
    """Scores texts with the metrics that can score them here."""

    def __init__(self, bundled: BundledRun, stack: AsyncExitStack) -> None:
        self._bundled = bundled
        self._document = bundled.document
        self._is_complete = bundled.run.state == "completed"
        self._metrics = bundled.metrics.metrics
        self._cells = bundled.run.cells
        self._stack = stack
        self._every = bundled.metrics.scored
        # What does not read texts can be scored although they were replaced or deleted.
        self._beside = tuple(n for n in self._every if not reads_text(self._metrics[n]))
        self._scorers: dict[_Group, Scorer] = {}

    async def compare(self, batch: Sequence[_Pair], made: RecomputedScores) -> None:
        """Score answers, and compare their scores with those of the bundle."""
        compared = made.texts
        groups: dict[_Group, list[tuple[BundledResult, Scorable]]] = {}
        for sample, result in batch:
            answer = result.result.answer
            assert answer is not None, "the pairs have answers"
            has_texts = self._bundled.has_texts(sample, result)
            if has_texts:
                answer = await asyncio.to_thread(
                    read_for_scoring, answer, self._document.answer, self._document.on_truncated
                )
            excluded = bool(answer.shortfall) and self._document.on_truncated == "exclude"
            indexes = self._beside if excluded or not has_texts else self._every
            if excluded:
                self._check_excluded(result, compared)
            item = Scorable(sample.sample, answer)
            groups.setdefault(_Group(indexes, _is_long(item)), []).append((result, item))
        for group, members in sorted(groups.items(), key=lambda group: group[0].is_long):
            if group.indexes:
                scorer = await self._scorer(group)
                scored = await scorer.score([item for _, item in members])
                for (result, _), scores in zip(members, scored, strict=True):
                    _compare(result, scores, compared, is_complete=self._is_complete)
            made.compared += len(members)

    def _check_excluded(self, result: BundledResult, compared: Compared) -> None:
        """Check that an answer which is left out has no scores of its text."""
        names = {
            output.name
            for n in self._every
            if n not in self._beside
            for output in self._metrics[n].outputs
        }
        for score in result.result.scores:
            if score.output not in names:
                continue
            if score.value is None:
                compared.alike += 1
                continue
            place = _place(result, score.output)
            compared.add(Difference(what=place, stated=score.value, recomputed=_EXCLUDED))

    async def _scorer(self, group: _Group) -> Scorer:
        if group not in self._scorers:
            self._scorers[group] = await self._stack.enter_async_context(
                Scorer(
                    [self._document.metrics[n] for n in group.indexes],
                    metrics=[self._metrics[n] for n in group.indexes],
                    answers=self._cells,
                    # A thread of this process could not be ended.
                    here_s=0.0 if group.is_long else HERE_S,
                )
            )
        return self._scorers[group]


_EXCLUDED, _NO_SCORE = "(excluded)", "(none)"


def _compare(
    result: BundledResult, made: Sequence[Score], compared: Compared, *, is_complete: bool
) -> None:
    """Compare scores of an answer with those of the bundle.

    Of a run that is not complete, some answers have not been scored.
    """
    stored = {score.output: score for score in result.result.scores}
    for score in made:
        before = stored.get(score.output)
        if before is None:
            if is_complete:
                place = _place(result, score.output)
                compared.add(Difference(what=place, stated=_NO_SCORE, recomputed=score.value))
            continue
        numbers = (before.value, *before.statistics), (score.value, *score.statistics)
        if len(numbers[0]) == len(numbers[1]) and all(map(is_alike, *numbers)):
            compared.alike += 1
            continue
        compared.add(
            Difference(
                what=_place(result, score.output),
                stated=before.value,
                recomputed=score.value if score.value is not None else score.error,
            )
        )


def _place(result: BundledResult, output: str) -> str:
    return f"{RESULTS}: {output} of {result.place}"


async def _compare_judges(
    bundled: BundledRun, batch: Sequence[_Pair], made: RecomputedScores
) -> None:
    """Let the judges' metrics read the stored answers of judges, and compare."""
    graded = [metric for metric in bundled.metrics.metrics if isinstance(metric, Graded)]
    for sample, result in batch if graded else ():
        if bundled.is_deleted(sample, result):
            # With the texts, what the judges said of them was deleted.
            continue
        for metric in graded:
            score = next(
                (each for each in result.result.scores if each.output == metric.score_name), None
            )
            if score is None:
                continue
            if metric.name in bundled.metrics.readable and not bundled.is_replaced(sample, result):
                scores = await _judged(metric, sample.sample, result, bundled)
                is_complete = bundled.run.state == "completed"
                _compare(result, scores, made.judges, is_complete=is_complete)
                continue
            made.combined += 1
            value = combined(_readings(score), metric.declaration().combine)
            if is_alike(value, score.value):
                made.judges.alike += 1
            else:
                made.judges.add(
                    Difference(
                        what=_place(result, score.output), stated=score.value, recomputed=value
                    )
                )


def _readings(score: Score) -> dict[str, list[float]]:
    readings: dict[str, list[float]] = {}
    for verdict in score.verdicts:
        if verdict.value is not None:
            readings.setdefault(verdict.judge, []).append(verdict.value)
    return readings


_GONE = "its answer is not in the bundle"


async def _judged(
    metric: Graded, sample: Sample, result: BundledResult, bundled: BundledRun
) -> Sequence[Score]:
    """Return the scores that a metric makes of the judges' stored answers to one answer."""
    of_answer = {
        (row.judge, row.repeat, row.attempt): row
        for row in result.judgements
        if row.metric == metric.name
    }

    async def ask(request: JudgeRequest) -> Judgement:
        row = of_answer.get((request.judge, request.repeat, request.attempt))
        if row is None:
            return Judgement(answer=Answer(text=None, error=_GONE))
        return row.judgement

    answer = result.result.answer
    assert answer is not None, "the pairs have answers"
    rules, on_truncated = bundled.document.answer, bundled.document.on_truncated
    item = Scorable(sample, read_for_scoring(answer, rules, on_truncated))
    [scores] = await metric.judge([item], ask)
    return scores
