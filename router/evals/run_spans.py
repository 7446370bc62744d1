"""Makes the traces of a run: one for each sample on each route, linked with the run's own.

    spans = RunSpans(traces, run, document, metrics)
    spans.begin(cell, sample)
    await requester.ask(prepared, trace=spans.request_trace(cell))
    spans.answered(cell, answer)
    spans.ended(result)

A run of a hundred thousand samples in one trace could not be opened. A sample's trace has a span of
the sample, below it those of its requests and of the judges', and its scores as events; all traces
of a run are one session. Ids come from the run, the route, the sample and the repeat, so that a run
that another process goes on with, or that is scored again, stays in the same traces.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from evaluators.base import (
    PRECOMPUTED,
    Answer,
    AnyMetric,
    Cell,
    JudgeMetric,
    JudgeRequest,
    Sample,
    Score,
)
from evaluators.document import RunDocument
from evaluators.execution.evaluation import CellResult
from evaluators.metrics.reference import last_user_text
from router.gateway.spans import (
    AttributeValue,
    EvaluationResult,
    SpanSink,
    TraceSpan,
    bounded,
    evaluation_events,
    step_spans,
)
from router.gateway.trace_context import evaluation_ids
from router.records import Trace, new_span_id, span_id_of
from router.store.runs import Run
from router.store.shadows import SHADOW_DATASET

# The field of a sample that a live request became, with the id of the request's trace.
TRACE_FIELD = "trace_id"


class _SampleTrace:
    """The trace of a sample on a route while it is answered and scored.

    Attributes:
        trace: the sample's place.
        sample: the sample.
        began_at: seconds since the epoch.
        text: the answer's text, by which judges' requests are told apart; None before it.
        is_new: whether the sample's own span has not been sent yet.
        scored: the names of scores that it had before.
    """

    __slots__ = ("began_at", "is_new", "sample", "scored", "text", "trace")

    def __init__(self, trace: Trace, sample: Sample, began_at: float, *, is_new: bool) -> None:
        self.trace = trace
        self.sample = sample
        self.began_at = began_at
        self.text: str | None = None
        self.is_new = is_new
        self.scored: frozenset[str] = frozenset()


class RunSpans:
    """The traces of a run while a process executes it.

    Args:
        traces: get the spans.
        run: the run.
        document: the run's.
        metrics: the run's.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        traces: SpanSink,
        run: Run,
        document: RunDocument,
        metrics: Sequence[AnyMetric],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._traces = traces
        self._run = run
        self._now = now
        self._began_at = now()
        self._run_ids = evaluation_ids("run", run.id)
        self._is_shadow = run.dataset.startswith(SHADOW_DATASET)
        # Texts of live requests may not be stored.
        self._shows_content = traces.shows_content and not self._is_shadow
        self._samples: dict[Cell, _SampleTrace] = {}
        self._by_text: dict[tuple[str, str], Cell] = {}
        self._annotators = {
            output.name
            for metric in metrics
            if isinstance(metric, JudgeMetric)
            for output in metric.outputs
        }
        named = {"evalrouter.run": run.id, "evalrouter.run.name": bounded(run.name)}
        # The samples are the turns of a session; the run's own span would be one without a text.
        self._run_attributes: dict[str, AttributeValue] = {**named}
        self._attributes: dict[str, str | bool | int | float] = {"session.id": run.id, **named}
        self._dataset = bounded(run.dataset)
        self._routes = tuple(map(bounded, document.routes))

    def begin(self, cell: Cell, sample: Sample, *, is_new: bool = True) -> None:
        """Begin the trace of a sample on a route, unless it has begun."""
        if cell in self._samples:
            return
        trace = self._traces.contexts.of_evaluation("sample", self._run.id, *cell)
        if trace is not None:
            self._samples[cell] = _SampleTrace(trace, sample, self._now(), is_new=is_new)

    def rescored(self, cell: Cell, sample: Sample, answer: Answer, scores: Sequence[Score]) -> None:
        """Begin again with an answer that is stored, and lacks scores."""
        is_new = cell.route == PRECOMPUTED and not self._run.only_scores
        self.begin(cell, sample, is_new=is_new)
        self.answered(cell, answer)
        entry = self._samples.get(cell)
        if entry is not None:
            entry.scored = frozenset(score.output for score in scores)

    def forget(self, cell: Cell) -> None:
        """Drop the trace of a sample that is not answered now."""
        self._remove(cell)

    def cache_read(self, cell: Cell, *, hit: bool) -> None:
        """Add that the run cache was looked into since the sample's trace began.

        Once, although a sample that a rate limit has put off is looked up again.
        """
        entry = self._samples.get(cell)
        if entry is not None and not entry.trace.steps:
            attributes = {**self._attributes, "evalrouter.cache.hit": hit}
            entry.trace.add_step("run cache", entry.began_at, attributes)

    def request_trace(self, cell: Cell) -> Trace | None:
        """Return the trace for the request of a sample; None where it is not recorded."""
        entry = self._samples.get(cell)
        return None if entry is None else self._below(entry.trace)

    def answered(self, cell: Cell, answer: Answer) -> None:
        """Note the answer, by whose text the requests of judges are told apart."""
        entry = self._samples.get(cell)
        if entry is not None and answer.text is not None:
            entry.text = answer.text
            self._by_text[cell.sample_id, answer.text] = cell

    def judge_trace(self, request: JudgeRequest) -> Trace | None:
        """Return the trace for a request to a judge; None where it is not recorded."""
        cell = self._by_text.get((request.sample_id, request.answer))
        entry = None if cell is None else self._samples.get(cell)
        if entry is None:
            return None
        trace = self._below(entry.trace)
        trace.attributes["evalrouter.metric"] = bounded(request.metric)
        return trace

    def embedding_trace(self) -> Trace | None:
        """Return the trace for a request of embeddings, which is about several samples."""
        trace = self._traces.contexts.of_evaluation("embeddings", self._run.id, new_span_id())
        if trace is not None:
            trace.attributes.update(self._attributes)
            trace.links.append(self._run_ids)
        return trace

    def ended(self, result: CellResult) -> None:
        """Send the sample's span with its scores, or the new scores alone."""
        entry = self._remove(result.cell)
        if entry is None:
            return
        now = self._now()
        evaluations = [
            self._evaluation(score) for score in result.scores if score.output not in entry.scored
        ]
        if entry.is_new:
            self._traces.add(self._sample_spans(entry, result, evaluations, now))
            self._traces.annotate(entry.trace, evaluations)
        elif evaluations:
            self._traces.evaluate("scores", entry.trace, evaluations, now, self._attributes)
        live = _live_trace(entry.sample)
        if live is not None and evaluations and result.cell.route == PRECOMPUTED:
            # What clients got of a route with a shadow.
            self._traces.evaluate("shadow scores", live, evaluations, now, self._attributes)

    def run_ended(self, state: str, why: str, at: float, answered: int, failed: int) -> None:
        """Send the run's own span; a shadow's run never ends, and a rescore is no new one."""
        run = self._run
        if self._is_shadow or run.only_scores:
            return
        trace_id, span_id = self._run_ids
        attributes: dict[str, AttributeValue] = {
            "openinference.span.kind": "CHAIN",
            **self._run_attributes,
            "evalrouter.dataset": self._dataset,
            "evalrouter.run.routes": self._routes,
            "evalrouter.run.state": state,
            "evalrouter.run.cells": run.cells,
            "evalrouter.run.answered": answered,
            "evalrouter.run.failed": failed,
        }
        span = TraceSpan(
            name=bounded(f"evaluation {run.name}"),
            trace_id=trace_id,
            span_id=span_id,
            parent_id=None,
            kind="internal",
            began_at=run.started_at or self._began_at,
            ended_at=at,
            attributes=attributes,
            error=bounded(why or state) if state == "failed" else "",
        )
        self._traces.add([span])

    def _remove(self, cell: Cell) -> _SampleTrace | None:
        entry = self._samples.pop(cell, None)
        if entry is not None and entry.text is not None:
            key = (cell.sample_id, entry.text)
            if self._by_text.get(key) == cell:
                del self._by_text[key]
        return entry

    def _below(self, sample: Trace) -> Trace:
        trace = self._traces.contexts.below(sample, new_span_id())
        trace.attributes.update(self._attributes)
        trace.wants_bodies = self._shows_content
        return trace

    def _evaluation(self, score: Score) -> EvaluationResult:
        label = {True: "pass", False: "fail", None: ""}[score.passed]
        return EvaluationResult(
            score.output,
            score.value,
            label,
            explanation=score.note,
            annotator="LLM" if score.output in self._annotators else "CODE",
            error=score.error if score.value is None else "",
        )

    def _sample_spans(
        self,
        entry: _SampleTrace,
        result: CellResult,
        evaluations: Sequence[EvaluationResult],
        now: float,
    ) -> list[TraceSpan]:
        cell, answer, trace = result.cell, result.answer, entry.trace
        attributes: dict[str, AttributeValue] = {
            "openinference.span.kind": "CHAIN",
            **self._attributes,
            "evalrouter.dataset": self._dataset,
            "evalrouter.sample": bounded(cell.sample_id),
            "evalrouter.route": bounded(cell.route),
            "evalrouter.repeat": cell.repeat,
            "evalrouter.target": bounded(answer.target),
            "evalrouter.cached": answer.cached,
        }
        texts: dict[str, str] = {}
        if self._shows_content:
            texts = {"input.value": last_user_text(entry.sample), "output.value": answer.text or ""}
        links = [self._run_ids]
        live = _live_trace(entry.sample)
        if live is not None:
            links.append((live.trace_id, live.span_id))
        sample = TraceSpan(
            name=bounded(f"sample {cell.route}"),
            trace_id=trace.trace_id,
            span_id=trace.span_id,
            parent_id=None,
            kind="internal",
            began_at=entry.began_at,
            ended_at=now,
            attributes=attributes,
            events=evaluation_events(evaluations, now),
            links=links,
            error=(answer.error_code or "error") if answer.text is None else "",
            texts=texts,
        )
        return [sample, *step_spans(trace)]


def _live_trace(sample: Sample) -> Trace | None:
    """Return the trace of the live request that became a sample; None for another sample."""
    trace_id = sample.fields.get(TRACE_FIELD)
    if not isinstance(trace_id, str) or not sample.id.startswith("req_"):
        return None
    try:
        return Trace(int(trace_id, 16), span_id_of(sample.id))
    except ValueError:
        return None
