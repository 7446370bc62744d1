"""Makes a run's outcome: its report, and the results of its gates."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from evaluators.base import AnyMetric, JudgeMetric
from evaluators.document import RunDocument
from evaluators.judge.graded import raw_name
from evaluators.reports import gates as gate_rules
from evaluators.reports.accumulator import ScoreAccumulator
from evaluators.reports.gates import GateResult
from evaluators.reports.report import Report, summarise
from evaluators.reports.stopping import stop_reason
from evaluators.stats.judge_errors import JudgeErrors
from evaluators.stats.sequential import check_stop
from evaluators.text.language_names import language_code
from router.evals.hardware_cost import HardwareCost
from router.evals.judges.calibrated_shares import errors_elsewhere
from router.evals.judges.people_labels import RunLabels, withhold_uncorrected
from router.evals.judges.report import JudgeReport, judge_reports
from router.evals.looks import looked_at_warning, looks_at
from router.evals.shared_reads import Lasting, SharedReads
from router.evals.stored_runs import stored_document
from router.evals.unpredicted_routes import unpredicted_warnings
from router.evals.validation import build_metrics, outputs_of, parse_gates
from router.store.protocol import Store
from router.store.reports import ReportStore
from router.store.results import ScoredAnswer
from router.store.runs import ENDED, Run
from router.store.usage import EmbeddingUse

_MAX_CACHED = 64


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


class _Reported(NamedTuple):
    """A run's rows, their report, and the known errors of its judges."""

    scores: ScoreAccumulator
    report: Report
    errors: Mapping[str, JudgeErrors]


class Outcomes:
    """Outcomes of runs, cached where reading a run's rows again would give the same.

    Two callers at once wait for the same reading. A run that is under way is read again only after
    a while that grows with how long reading took, so that it takes a fifth of the time at most.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reads = SharedReads[Outcome](max_cached=_MAX_CACHED)

    async def of(self, run: Run) -> Outcome:
        """Return a run with its report as far as it has got, and its gates."""
        # What its numbers depend on, once it has ended.
        version = (run.state, run.finished_at)
        read = await self._reads.of(run.id, version, partial(self._read, run))
        # Its name and the like may have changed.
        return msgspec.structs.replace(read, run=run)

    async def _read(self, run: Run) -> Lasting[Outcome]:
        clock = asyncio.get_running_loop().time
        began = clock()
        document = stored_document(run)
        metrics = build_metrics(document)
        looks = await looks_at(self._store, run, document)
        read = await outcome(self._store, run, document, metrics, looks)
        # What is known of judges grows after a run has ended: calibrations, and people's labels.
        if any(isinstance(metric, JudgeMetric) for metric in metrics):
            return Lasting(read, 0.0)
        return Lasting(read) if run.state in ENDED else Lasting(read, 4 * (clock() - began))


def _language_warnings(document: RunDocument) -> list[str]:
    if not document.language or language_code(document.language):
        return []
    return [
        f"The language {document.language!r} is not known, so metrics score as without one; write "
        "its ISO 639 code, for example de."
    ]


async def outcome(
    store: ReportStore,
    run: Run,
    document: RunDocument,
    metrics: Sequence[AnyMetric],
    looks: tuple[str, ...],
) -> Outcome:
    """Return a run with its report as far as it has got, and its gates.

    Args:
        store: has the run.
        run: the run.
        document: the run's.
        metrics: the document's, built.
        looks: why its numbers have to hold whenever one looks; see `looks_at`.
    """
    scores, report, errors = await _reported(store, run, document, metrics, looks)
    # The scores were made by what was installed then, not by what is now.
    judges, warnings = await judge_reports(store, run, metrics, report.routes)
    report = msgspec.structs.replace(
        report,
        signatures=run.metrics,
        warnings=(
            *report.warnings,
            *warnings,
            *_language_warnings(document),
            *unpredicted_warnings(run.versions),
        ),
    )
    gates = await _gates(store, run, document, metrics, _Reported(scores, report, errors))
    embeddings = await store.embedding_use(run.id)
    return Outcome(run, report, gates, judges, embeddings)


async def stop_reason_of(
    store: Store, run: Run, document: RunDocument, metrics: Sequence[AnyMetric]
) -> str:
    """Return how the report of a run under way answers its `stop_when`; "" where it does not.

    Args:
        store: has the run.
        run: the run, which is executed.
        document: the run's, with a `stop_when`.
        metrics: the document's, built.
    """
    when = document.stop_when
    assert when is not None, "there is a rule"
    output = check_stop(when, outputs_of(metrics), baseline=document.baseline)
    looks = await looks_at(store, run, document)
    _, report, _ = await _reported(store, run, document, metrics, looks)
    return stop_reason(report, when, output.name)


async def _reported(
    store: ReportStore,
    run: Run,
    document: RunDocument,
    metrics: Sequence[AnyMetric],
    looks: tuple[str, ...],
) -> _Reported:
    """Return the run's rows and their report, with what there is to say of looks and judges."""
    scores = await _accumulated(store, run, document, metrics)
    errors, reasons = await errors_elsewhere(store, metrics, scores.metrics)
    report = await asyncio.to_thread(
        _summarised, scores, document, errors, always_valid=bool(looks)
    )
    warnings = (*report.warnings, *reasons, *looked_at_warning(looks))
    return _Reported(scores, msgspec.structs.replace(report, warnings=warnings), errors)


def _summarised(
    scores: ScoreAccumulator,
    document: RunDocument,
    errors: Mapping[str, JudgeErrors],
    *,
    always_valid: bool,
) -> Report:
    return summarise(
        scores,
        margins={raw_name(name): margin for name, margin in document.margins.items()},
        primary=None if document.deciding is None else raw_name(document.deciding),
        always_valid=always_valid,
        errors=errors,
    )


async def _accumulated(
    store: ReportStore,
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
    store: ReportStore,
    run: Run,
    document: RunDocument,
    metrics: Sequence[AnyMetric],
    counted: _Reported,
) -> list[GateResult]:
    """Check the run's gates on what the run itself has measured."""
    gates = parse_gates(document, metrics)
    scores, report, errors = counted
    if gates and any(route.cached_from for route in report.routes):
        scores = await _accumulated(store, run, document, metrics, only_measured=True)
        report = await asyncio.to_thread(
            _summarised, scores, document, errors, always_valid=report.always_valid
        )
    return await asyncio.to_thread(gate_rules.check, gates, scores, report)
