"""What a run has found: its report and its gates."""

from __future__ import annotations

import asyncio

import msgspec

from evaluators import gates as gate_rules
from evaluators.document import RunDocument
from evaluators.gates import GateResult
from evaluators.report import Report, Tally, summarise
from router.check import build_metrics, parse_gates
from router.judge_report import JudgeReport, judge_reports
from router.store.base import Run, Store


class Outcome(msgspec.Struct, frozen=True):
    """A run with its report, what its gates found, and what its judges took."""

    run: Run
    report: Report
    gates: list[GateResult]
    judges: list[JudgeReport] = []

    @property
    def passed(self) -> bool:
        """Whether the run completed and every gate held."""
        return self.run.state == "completed" and all(gate.passed for gate in self.gates)


async def outcome(store: Store, found: Run) -> Outcome:
    """A run with its report as far as it has got, and its gates."""
    document = msgspec.convert(found.document, RunDocument)
    metrics = build_metrics(document)
    tally = Tally(
        routes=document.routes,
        metrics=metrics,
        expected=dict.fromkeys(document.routes, found.dataset_rows * document.repeats),
        baseline=document.baseline,
        clusters=await store.clusters(found.id),
    )
    async for one in store.results(found.id):
        if one.answer is not None:
            tally.add(one.cell, one.answer, one.scores)
    report = await asyncio.to_thread(summarise, tally)
    # The scores were made by what was installed then, not by what is now.
    judges, told = await judge_reports(store, found, metrics, report.routes)
    report = msgspec.structs.replace(
        report, signatures=found.metrics, warnings=(*report.warnings, *told)
    )
    results = await asyncio.to_thread(
        gate_rules.check, parse_gates(document, metrics), tally, report
    )
    return Outcome(found, report, results, judges)
