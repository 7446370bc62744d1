"""What a run has to say about its judges: what they took, and whether they can be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from evaluators.base import AnyMetric, JudgeMetric
from evaluators.judge.family import family
from evaluators.reports.report import RouteReport
from router.store.judgements import JudgeUse
from router.store.protocol import Store
from router.store.runs import Run
from router.store.studies import Study


class JudgeReport(JudgeUse, frozen=True, kw_only=True):
    """One judge of one metric.

    Attributes:
        calibrated: whether its agreement with people was ever measured for this grading.
        calibration: the id of the newest calibration, "" without one.
        pearson: its correlation with people there; None without one.
        requests_per_s: over the time between the first and the last verdict; None for fewer than
            two.
    """

    calibrated: bool = False
    calibration: str = ""
    pearson: float | None = None
    requests_per_s: float | None = None


async def judge_reports(
    store: Store, found: Run, metrics: Sequence[AnyMetric], routes: Sequence[RouteReport]
) -> tuple[list[JudgeReport], list[str]]:
    """The judges of a run, and what a reader has to know about them."""
    gradings = {one.name: one.grading for one in metrics if isinstance(one, JudgeMetric)}
    if not gradings:
        return [], []
    reports = []
    warnings: list[str] = []
    for use in await store.judge_use(found.id):
        known = await store.studies(kind="calibration", judge=use.judge)
        report = _report(use, gradings.get(use.metric, ""), known)
        reports.append(report)
        warnings += _warnings(report, known, routes)
    return reports, list(dict.fromkeys(warnings))


def _report(use: JudgeUse, grading: str, known: Sequence[Study]) -> JudgeReport:
    fitting = [one for one in known if one.grading == grading and one.state == "completed"]
    newest = fitting[0] if fitting else None
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
    found = study.report.get("calibration", {}).get("agreement", {}).get("pearson", {})
    estimate: float | None = found.get("estimate")
    return estimate


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
    own = family(report.model, report.target, report.judge)
    for route in routes:
        theirs = {family(target) for target in (*route.targets, route.route)} - {""}
        if own and own in theirs:
            yield (
                f"{report.judge} and {route.route} are both of the family {own}; judges tend to "
                "prefer their own family's answers."
            )
