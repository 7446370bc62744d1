"""Finds the errors of a run's judges of 0 and 1 in their calibrations, to correct shares by them.

errors, reasons = await errors_elsewhere(store, metrics, scores.metrics)
report = summarise(scores, errors=errors)
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.base import AnyMetric
from evaluators.judge.calibration import errors_of
from evaluators.judge.graded import Graded, corrected_name
from evaluators.reports.accumulator import Measured
from evaluators.stats.intervals import Interval
from evaluators.stats.judge_errors import JudgeErrors
from router.evals.judges.report import newest_calibration
from router.evals.judges.studies import items_of
from router.store.reports import ReportStore


async def errors_elsewhere(
    store: ReportStore, metrics: Sequence[AnyMetric], shown: Sequence[Measured]
) -> tuple[dict[str, JudgeErrors], list[str]]:
    """Return the errors of judges whose shares can be corrected, and what a reader has to know.

    They are by output, and of the newest calibration for the grading. A share that people's labels
    of the run's own answers correct is left out, because those say more; so are several judges of
    one share, because a calibration is of one judge.

    Args:
        store: has the calibrations.
        metrics: the run's.
        shown: the same, as the report shows them.
    """
    names = {output.name for metric in shown for output in metric.outputs}
    errors: dict[str, JudgeErrors] = {}
    reasons = []
    for metric in metrics:
        if not isinstance(metric, Graded) or not metric.gives_shares or len(metric.judges) > 1:
            continue
        name, [judge] = metric.score_name, metric.judges
        if corrected_name(name) in names:
            continue
        known = await store.studies(kind="calibration", judge=judge)
        newest = newest_calibration(known, metric.grading)
        if newest is None or "calibration" not in newest.report:
            continue
        measured = errors_of(items_of(await store.study(newest.id)))
        rates = (
            f"{judge} finds {_share(measured.sensitivity)} of people's good answers good and "
            f"{_share(measured.specificity)} of the bad ones bad ({newest.id})"
        )
        if measured.youden is None:
            reasons.append(
                f"{rates}, which is not clearly better than chance, so its {name} says nothing of "
                "people's."
            )
            continue
        errors[name] = measured
        reasons.append(
            f"{rates}; {corrected_name(name)} is corrected by that, and right if it errs here as "
            "it did there."
        )
    return errors, reasons


def _share(share: Interval) -> str:
    if share.estimate is None:
        return "an unknown share"
    ends = "" if share.low is None else f" [{share.low:.1%}, {share.high:.1%}]"
    return f"{share.estimate:.1%}{ends}"
