"""The pages of judges: what is known of each, and the report of one study."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Literal, NamedTuple, get_args

import msgspec
from litestar import Response
from litestar.params import FromPath, FromQuery

from evaluators.judge.calibration import Calibration, findings, score_bins
from evaluators.judge.sheets import Sheet, interval
from evaluators.stats.intervals import Interval
from router.api.access import InjectedCaller
from router.api.injection import Injected
from router.api.page_layout import page, rendered, utc
from router.api.page_tables import Export, TableColumn, TableView, table_response
from router.evals.judges.studies import calibration_of, items_of
from router.evals.judges.study_report import sheets, warnings
from router.store.runs import Run, RunFilter
from router.store.studies import Study, StudyKind
from router.web.plots.figure import Plot
from router.web.plots.reliability import reliability_diagram

# Newest studies that the list is of, and newest runs in which judged ones are looked for.
MAX_STUDIES = 500
_RUNS = 100
_SHOWN_RUNS = 10


def _measured(study: Study, part: str, name: str) -> Interval | None:
    """Return a number of a calibration with its interval; None for a study without it."""
    calibration = study.report.get("calibration") or {}
    stored = (calibration.get(part) or {}).get(name)
    return None if stored is None else msgspec.convert(stored, Interval)


def _estimate(part: str, name: str) -> Callable[[Study], float | None]:
    def read(study: Study) -> float | None:
        measured = _measured(study, part, name)
        return None if measured is None else measured.estimate

    return read


_COLUMNS = (
    TableColumn("judges", "Judge", sorts=True),
    TableColumn("kind", "Study", sorts=True),
    TableColumn("name", "Of", sorts=True),
    TableColumn("state", "State", sorts=True),
    TableColumn(
        "pearson",
        "With people (Pearson)",
        sorts=True,
        number=True,
        value=_estimate("agreement", "pearson"),
    ),
    TableColumn(
        "bias", "Judge - people", sorts=True, number=True, value=_estimate("agreement", "bias")
    ),
    TableColumn(
        "itself", "With itself (alpha)", sorts=True, number=True, value=_estimate("itself", "alpha")
    ),
    TableColumn("created", "Made (UTC)", sorts=True, value=attrgetter("created_at")),
    TableColumn("id", "Id"),
)


class StudyRow(NamedTuple):
    """A study as its table shows it; the fields are those of the columns."""

    id: str
    judges: str
    kind: str
    name: str
    state: str
    pearson: str
    bias: str
    itself: str
    created: str


@page("/judges")
async def judge_list(
    *,
    services: Injected,
    caller: InjectedCaller,
    judge: FromQuery[str] = "",
    kind: FromQuery[Literal["", StudyKind]] = "",
    sort: FromQuery[str] = "-created",
    after: FromQuery[str] = "",
    export: FromQuery[Export] = "",
) -> Response[Any]:
    """Show the newest studies of judges; `judge` is a judge's whole name."""
    filters = {"judge": judge, "kind": kind}
    view = TableView("/judges", _COLUMNS, sort=sort, filters=filters, after=after, export=export)
    studies, runs = await asyncio.gather(
        services.store.studies(kind=kind or None, judge=judge or None, limit=MAX_STUDIES),
        services.store.runs(RunFilter(key_id=caller.only), limit=_RUNS),
    )
    rows = await asyncio.to_thread(
        lambda: [_row(study) for study in view.page_of(studies, attrgetter("id"))]
    )
    judged = [run for run in runs if has_judge(run)]
    return await table_response(
        "judges",
        caller,
        view,
        (row._asdict() for row in rows),
        **filters,
        kinds=get_args(StudyKind),
        is_part=len(studies) == MAX_STUDIES,
        max_studies=MAX_STUDIES,
        runs=judged[:_SHOWN_RUNS],
    )


def has_judge(run: Run) -> bool:
    """Return whether a metric of a run asks judges."""
    return any(
        isinstance(metric, dict) and ("judge" in metric or "judges" in metric)
        for metric in run.document.get("metrics") or ()
    )


def _row(study: Study) -> StudyRow:
    return StudyRow(
        id=study.id,
        judges=", ".join(study.judges),
        kind=study.kind,
        name=study.name,
        state=study.state,
        pearson=_interval(_measured(study, "agreement", "pearson")),
        bias=_interval(_measured(study, "agreement", "bias")),
        itself=_interval(_measured(study, "itself", "alpha")),
        created=utc(study.created_at),
    )


def _interval(measured: Interval | None) -> str:
    return "" if measured is None else interval(measured, 2)


class TrustReport(NamedTuple):
    """What the page of a study shows.

    Attributes:
        findings: clauses whose subject is the judge; none where nothing speaks against it.
        warnings: sentences that have to be known before the numbers are believed.
        plots: the reliability diagram, where there are scores of the judge and of people.
        sheets: the tables.
        calibration: the numbers; None where the study has no scores.
    """

    findings: Sequence[str]
    warnings: Sequence[str]
    plots: Sequence[Plot]
    sheets: Sequence[Sheet]
    calibration: Calibration | None


@page("/judges/studies/{study_id:str}")
async def study_page(
    services: Injected, caller: InjectedCaller, study_id: FromPath[str]
) -> Response[str]:
    """Show a study: how far its judge can be trusted, or what it says of routes."""
    study = await services.store.study(study_id)
    report = await asyncio.to_thread(_report, study)
    return await rendered(
        "study.html",
        caller,
        title=f"{study.kind.capitalize()} of {', '.join(study.judges)}",
        current="/judges",
        study=study,
        report=report,
    )


def _report(study: Study) -> TrustReport:
    if "calibration" not in study.report:
        return TrustReport((), warnings(study), (), sheets(study), None)
    calibration = calibration_of(study)
    low, high = calibration.low, calibration.high
    bins = score_bins(items_of(study), low=low, high=high)
    diagram = reliability_diagram(", ".join(study.judges), bins, low=low, high=high)
    return TrustReport(
        findings(calibration), warnings(study), (diagram,), sheets(study), calibration
    )
