"""Makes a run's outcome: its report, and the results of its gates."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from evaluators.base import AnyMetric, JudgeMetric
from evaluators.document import RunDocument
from evaluators.judge.graded import raw_name
from evaluators.reports import gates as gate_rules
from evaluators.reports.accumulator import ScoreAccumulator
from evaluators.reports.gates import GateResult
from evaluators.reports.report import Report, summarise
from evaluators.stats.judge_errors import JudgeErrors
from evaluators.text.language_names import language_code
from router.evals.hardware_cost import HardwareCost
from router.evals.judges.calibrated_shares import errors_elsewhere
from router.evals.judges.people_labels import RunLabels, withhold_uncorrected
from router.evals.judges.report import JudgeReport, judge_reports
from router.evals.stored_runs import stored_document
from router.evals.validation import build_metrics, parse_gates
from router.store.protocol import Store
from router.store.results import ScoredAnswer
from router.store.runs import ENDED, Run
from router.store.usage import EmbeddingUse

_MAX_CACHED = 64

# A run's id, its state and when it ended: what its numbers depend on, once it has ended.
_Key = tuple[str, str, float | None]


class Outcome(msgspec.Struct, frozen=True):
    """A run with its report, its gates' results, and what judges, embeddings, machines took."""

    run: Run
    report: Report
    gates: list[GateResult]
    judges: list[JudgeReport] = []
    embeddings: list[EmbeddingUse] = []
    hardware: list[HardwareCost] = []

    @property
    def passed(self) -> bool:
        """Whether the run completed and every gate held."""
        return self.run.state == "completed" and all(gate.passed for gate in self.gates)


class _Cached(NamedTuple):
    outcome: Outcome
    until: float


class Outcomes:
    """Outcomes of runs, cached where reading a run's rows again would give the same.

    Two callers at once wait for the same reading. A run that is under way is read again only after
    a while that grows with how long reading took, so that it takes a fifth of the time at most.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cached: dict[_Key, _Cached] = {}
        self._reading: dict[_Key, asyncio.Task[Outcome]] = {}

    async def of(self, run: Run) -> Outcome:
        """Return a run with its report as far as it has got, and its gates."""
        key = (run.id, run.state, run.finished_at)
        clock = asyncio.get_running_loop().time
        cached = self._cached.get(key)
        if cached is not None and (run.state in ENDED or clock() < cached.until):
            # Its name and the like may have changed.
            return msgspec.structs.replace(cached.outcome, run=run)
        task = self._reading.get(key)
        if task is None:
            task = self._reading[key] = asyncio.create_task(self._read(key, run))
            task.add_done_callback(lambda _: self._reading.pop(key))
        # A caller that goes away must not take the others' answer with it.
        read = await asyncio.shield(task)
        return msgspec.structs.replace(read, run=run)

    async def _read(self, key: _Key, run: Run) -> Outcome:
        clock = asyncio.get_running_loop().time
        began = clock()
        document = stored_document(run)
        metrics = build_metrics(document)
        read = await outcome(self._store, run, document, metrics)
        # What is known of judges grows after a run has ended: calibrations, and people's labels.
        if not any(isinstance(metric, JudgeMetric) for metric in metrics):
            for old in [known for known in self._cached if known[0] == run.id]:
                del self._cached[old]
            while len(self._cached) >= _MAX_CACHED:
                del self._cached[next(iter(self._cached))]
            self._cached[key] = _Cached(read, clock() + 4 * (clock() - began))
        return read


def looked_at(run: Run, document: RunDocument) -> bool:
    """Say whether a run's number of samples may have been chosen by looking at its scores.

    It may where the run was extended or ended early, and while it has not ended at all.
    """
    return bool(document.looks or run.stopped) or run.state != "completed"


def _peeking_warnings(run: Run, document: RunDocument) -> list[str]:
    if not looked_at(run, document):
        return []
    reasons = ["was extended after it could be read"] if document.looks else []
    reasons += [f"ended early ({run.stopped})"] if run.stopped else []
    if run.state != "completed" and not run.stopped:
        reasons.append(f"is {run.state}")
    return [
        f"The run {' and '.join(reasons)}, so intervals, p-values, verdicts and gates are those "
        "that hold whenever one looks; they are wider than those of a run that went as planned."
    ]


def _language_warnings(document: RunDocument) -> list[str]:
    if not document.language or language_code(document.language):
        return []
    return [
        f"The language {document.language!r} is not known, so metrics score as without one; write "
        "its ISO 639 code, for example de."
    ]


async def outcome(
    store: Store, run: Run, document: RunDocument, metrics: Sequence[AnyMetric]
) -> Outcome:
    """Return a run with its report as far as it has got, and its gates.

    Args:
        store: has the run.
        run: the run.
        document: the run's.
        metrics: the document's, built.
    """
    scores = await _accumulated(store, run, document, metrics)
    errors, reasons = await errors_elsewhere(store, metrics, scores.metrics)
    report = await asyncio.to_thread(_summarised, scores, run, document, errors)
    # The scores were made by what was installed then, not by what is now.
    judges, warnings = await judge_reports(store, run, metrics, report.routes)
    report = msgspec.structs.replace(
        report,
        signatures=run.metrics,
        warnings=(
            *report.warnings,
            *warnings,
            *reasons,
            *_language_warnings(document),
            *_peeking_warnings(run, document),
        ),
    )
    gates = await _gates(store, run, document, metrics, (scores, report, errors))
    embeddings = await store.embedding_use(run.id)
    return Outcome(run, report, gates, judges, embeddings)


def _summarised(
    scores: ScoreAccumulator, run: Run, document: RunDocument, errors: Mapping[str, JudgeErrors]
) -> Report:
    return summarise(
        scores,
        margins={raw_name(name): margin for name, margin in document.margins.items()},
        primary=None if document.primary is None else raw_name(document.primary),
        always_valid=looked_at(run, document),
        errors=errors,
    )


async def _accumulated(
    store: Store,
    run: Run,
    document: RunDocument,
    metrics: Sequence[AnyMetric],
    *,
    only_measured: bool = False,
) -> ScoreAccumulator:
    """Return the run's rows; with `only_measured`, answers of other runs have no scores."""
    clusters = await store.clusters(run.id)
    people = await RunLabels.of(store, run, metrics, clusters)
    scores = ScoreAccumulator(
        routes=document.routes,
        metrics=people.metrics,
        expected=dict.fromkeys(document.routes, run.dataset_rows * document.repeats),
        baseline=document.baseline,
        clusters=clusters,
        on_truncated=document.on_truncated,
        run=run.id,
    )

    def add(row: ScoredAnswer) -> None:
        taken = only_measured and row.answer is not None and row.answer.is_taken(run.id)
        scores.add(row.cell, row.answer, () if taken else people.scores(row))

    # On threads: a million rows would hold up everything else in this process.
    await store.each_result(run.id, add)
    withhold_uncorrected(scores)
    return scores


async def _gates(
    store: Store,
    run: Run,
    document: RunDocument,
    metrics: Sequence[AnyMetric],
    counted: tuple[ScoreAccumulator, Report, Mapping[str, JudgeErrors]],
) -> list[GateResult]:
    """Check the run's gates on what the run itself has measured."""
    gates = parse_gates(document, metrics)
    scores, report, errors = counted
    if gates and any(route.cached_from for route in report.routes):
        scores = await _accumulated(store, run, document, metrics, only_measured=True)
        report = await asyncio.to_thread(_summarised, scores, run, document, errors)
    return await asyncio.to_thread(gate_rules.check, gates, scores, report)
