"""What a run has found: its report and its gates."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import msgspec

from evaluators.document import RunDocument
from evaluators.reports import gates as gate_rules
from evaluators.reports.accumulator import ScoreAccumulator
from evaluators.reports.gates import GateResult
from evaluators.reports.report import Report, summarise
from router.evals.hardware_cost import HardwareCost
from router.evals.judges.report import JudgeReport, judge_reports
from router.evals.validation import build_metrics, parse_gates
from router.store.protocol import Store
from router.store.runs import ENDED, Run
from router.store.usage import EmbeddingUse

_MOST_KEPT = 64

# Run, state, when it ended: what a run's numbers depend on, once it has ended.
_Key = tuple[str, str, float | None]


class Outcome(msgspec.Struct, frozen=True):
    """A run with its report, what its gates found, and what judges, embeddings, machines took."""

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


class _Read(NamedTuple):
    outcome: Outcome
    until: float


class Outcomes:
    """Outcomes of runs, kept where reading a run's rows again would find the same.

    Two callers at once wait for the same reading. A run that is under way is read again only after
    a while that grows with how long reading took, so that it takes a fifth of the time at most.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[_Key, _Read] = {}
        self._reading: dict[_Key, asyncio.Task[Outcome]] = {}

    async def of(self, found: Run) -> Outcome:
        """A run with its report as far as it has got, and its gates."""
        key = (found.id, found.state, found.finished_at)
        clock = asyncio.get_running_loop().time
        kept = self._kept.get(key)
        if kept is not None and (found.state in ENDED or clock() < kept.until):
            # Its name and the like may have changed.
            return msgspec.structs.replace(kept.outcome, run=found)
        task = self._reading.get(key)
        if task is None:
            task = self._reading[key] = asyncio.create_task(self._read(key, found))
            task.add_done_callback(lambda _: self._reading.pop(key))
        # A caller that goes away must not take the others' answer with it.
        read = await asyncio.shield(task)
        return msgspec.structs.replace(read, run=found)

    async def _read(self, key: _Key, found: Run) -> Outcome:
        clock = asyncio.get_running_loop().time
        began = clock()
        read = await outcome(self._store, found)
        # What is known of judges grows after a run has ended.
        if not read.judges:
            for old in [one for one in self._kept if one[0] == found.id]:
                del self._kept[old]
            while len(self._kept) >= _MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = _Read(read, clock() + 4 * (clock() - began))
        return read


def _stopped_by_rule(found: Run, document: RunDocument) -> list[str]:
    if found.state != "completed" or not found.stopped or document.stop_when is None:
        return []
    return [
        "The run ended when its question was answered. The intervals and p-values above are for a "
        "number of samples fixed beforehand; what holds whenever one looks is the reason that it "
        f"gave: {found.stopped}."
    ]


async def outcome(store: Store, found: Run) -> Outcome:
    """A run with its report as far as it has got, and its gates."""
    document = msgspec.convert(found.document, RunDocument)
    metrics = build_metrics(document)
    tally = ScoreAccumulator(
        routes=document.routes,
        metrics=metrics,
        expected=dict.fromkeys(document.routes, found.dataset_rows * document.repeats),
        baseline=document.baseline,
        clusters=await store.clusters(found.id),
    )
    # On threads: a million rows would hold up everything else in this process.
    await store.each_result(found.id, lambda one: tally.add(one.cell, one.answer, one.scores))
    report = await asyncio.to_thread(summarise, tally)
    # The scores were made by what was installed then, not by what is now.
    judges, told = await judge_reports(store, found, metrics, report.routes)
    report = msgspec.structs.replace(
        report,
        signatures=found.metrics,
        warnings=(*report.warnings, *told, *_stopped_by_rule(found, document)),
    )
    results = await asyncio.to_thread(
        gate_rules.check, parse_gates(document, metrics), tally, report
    )
    embeddings = await store.embedding_use(found.id)
    return Outcome(found, report, results, judges, embeddings)
