"""Reports on the judges of a run: what they took, and whether they can be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from evaluators.base import AnyMetric, JudgeMetric
from evaluators.judge.calibration import Calibration, findings
from evaluators.judge.family import family
from evaluators.reports.report import RouteReport
from router.store.judgements import JudgeUse
from router.store.reports import ReportStore
from router.store.runs import Run
from router.store.studies import Study


class JudgeReport(JudgeUse, frozen=True, kw_only=True):
    """A report on one judge of one metric.

    Attributes:
        calibrated: whether its agreement with people was ever measured for this grading.
        calibration: the id of the newest calibration, "" without one.
        pearson: its correlation with people in that calibration; None without one.
        requests_per_s: the rate between the first and the last verdict; None for fewer than two
            verdicts.
    """

    calibrated: bool = False
    calibration: str = ""
    pearson: float | None = None
    requests_per_s: float | None = None


async def judge_reports(
    store: ReportStore, run: Run, metrics: Sequence[AnyMetric], routes: Sequence[RouteReport]
) -> tuple[list[JudgeReport], list[str]]:
    """Return the reports on a run's judges, and the warnings that a reader needs."""
    gradings = {
        metric.name: metric.grading for metric in metrics if isinstance(metric, JudgeMetric)
    }
    if not gradings:
        return [], []
    reports = []
    warnings: list[str] = []
    for use in await store.judge_use(run.id):
        known = await store.studies(kind="calibration", judge=use.judge)
        report = _report(use, gradings.get(use.metric, ""), known)
        reports.append(report)
        warnings += _warnings(report, known, routes)
        for study in known:
            if study.id == report.calibration:
                warnings += _caveats(report, study)
    return reports, list(dict.fromkeys(warnings))


def newest_calibration(known: Sequence[Study], grading: str) -> Study | None:
    """Return the newest of a judge's calibrations that holds for a grading."""
    fitting = [study for study in known if study.grading == grading and study.state == "completed"]
    return fitting[0] if fitting else None


def _report(use: JudgeUse, grading: str, known: Sequence[Study]) -> JudgeReport:
    newest = newest_calibration(known, grading)
    seconds = use.last_at - use.first_at
    return JudgeReport(
        **msgspec.structs.asdict(use),
        calibrated=newest is not None,
        calibration=newest.id if newest else "",
        pearson=_pearson(newest),
        requests_per_s=(use.calls - 1) / seconds if use.calls > 1 and seconds > 0 else None,
    )


def _pearson(study: Study | None) -> float | None:
    if study is None:
        return None
    calibration = _calibration(study)
    return calibration.agreement["pearson"].estimate if calibration else None


def _calibration(study: Study) -> Calibration | None:
    """Return the numbers of a calibration; None for one of pairs."""
    report = study.report.get("calibration")
    return None if report is None else msgspec.convert(report, Calibration)


def _caveats(report: JudgeReport, study: Study) -> Iterator[str]:
    """Yield what the judge's calibration found against it."""
    calibration = _calibration(study)
    if calibration is None:
        return
    against = findings(calibration)
    if against:
        yield f"{report.judge} {'; it '.join(against)}. See: evalrouter judge show {study.id}."
    for bias in calibration.biases:
        yield bias.replace("The judge", report.judge, 1)


def _warnings(
    report: JudgeReport, known: Sequence[Study], routes: Sequence[RouteReport]
) -> Iterator[str]:
    if not report.calibrated:
        other = " (it has for another)" if known else ""
        yield (
            f"{report.judge} has not been calibrated for this grading{other}, so how well its "
            "scores agree with people's is unknown. See: evalrouter judge calibrate."
        )
    if report.failed:
        yield f"{report.judge}: {report.failed:,} of {report.calls:,} requests failed."
    if report.asked_again:
        share = report.asked_again / report.calls
        yield (
            f"{report.judge}: {report.asked_again:,} of {report.calls:,} requests ({share:.0%}) "
            "were repeated, because the verdict could not be read."
        )
    if report.unpriced:
        yield f"{report.judge}: the price of {report.unpriced:,} judgements is unknown."
    family_of_judge = family(report.model, report.target, report.judge)
    for route in routes:
        families = {family(target) for target in (*route.targets, route.route)} - {""}
        if family_of_judge and family_of_judge in families:
            yield (
                f"{report.judge} and {route.route} are both of the family {family_of_judge}; "
                "judges tend to prefer their own family's answers."
            )
