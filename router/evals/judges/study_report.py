"""Shows a study: its sheets, its warnings, and its change since an earlier study."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from evaluators.judge.calibration import Calibration, JudgeChange, change
from evaluators.judge.family import family
from evaluators.judge.pairwise import PairwiseReport
from evaluators.judge.sheets import (
    Sheet,
    board_sheets,
    calibration_sheets,
    fragment,
    pairwise_sheets,
)
from evaluators.reports.report import dollars
from providers.errors import ConflictError
from router.evals.hardware_cost import HardwareCost
from router.evals.judges.studies import board_of, items_of, style_of
from router.store.judgements import JudgeUse
from router.store.studies import Study


def sheets(study: Study) -> list[Sheet]:
    """Return all tables of a study; a study without a report has no tables yet."""
    tables: list[Sheet] = []
    if "calibration" in study.report:
        report = msgspec.convert(study.report["calibration"], Calibration)
        tables += calibration_sheets(report)
    if "board" in study.report:
        tables += board_sheets(board_of(study), style_of(study))
    if "pairwise" in study.report and study.kind != "tournament":
        tables += pairwise_sheets(
            msgspec.convert(study.report["pairwise"], PairwiseReport),
            study.document.get("routes", ()),
        )
    if study.report:
        tables.append(_use(study))
        machines = msgspec.convert(study.report["hardware"], list[HardwareCost])
        if machines:
            tables.append(_hardware(machines))
    return tables


def warnings(study: Study) -> list[str]:
    """Return the sentences that a reader has to know before believing the numbers."""
    sentences = list(study.report.get("calibration", {}).get("warnings", ()))
    family_of_judges = family(*study.judges)
    models = [group["name"] for group in study.report.get("calibration", {}).get("models", ())]
    sentences += [
        f"{', '.join(study.judges)} and {other} are both of the family {family_of_judges}; judges "
        "tend to prefer their own family's answers."
        for other in (*study.document.get("routes", ()), *models)
        if family_of_judges and family(other) == family_of_judges
    ]
    return sentences


def title(study: Study) -> str:
    """Return a study's title: its kind, its judges, its dataset or run, and its date."""
    day = datetime.fromtimestamp(study.created_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{study.kind} {study.id}: {', '.join(study.judges)} on {study.name}, {day}"


def html(study: Study) -> str:
    """Return the study as a fragment of a page."""
    return fragment(title(study), sheets(study), warnings(study))


def compared(first: Study, second: Study) -> JudgeChange:
    """Compare two calibrations: those of two judges, or of one judge on two dates.

    Raises:
        ConflictError: a study has no scores, or the two have no answer in common.
    """
    judge_change = change(items_of(first), items_of(second))
    if not judge_change.n:
        raise ConflictError(f"{first.id} and {second.id} have no scored answer in common")
    return judge_change


def _use(study: Study) -> Sheet:
    uses = msgspec.convert(study.report["use"], list[JudgeUse])
    attempt = study.report["this_attempt"]
    verdicts = study.report.get("verdicts")
    read = f"{verdicts['read']:,} of {verdicts['wanted']:,}" if verdicts else "-"
    rate = attempt["requests_per_s"]
    last = f"{rate:.1f}/s" if rate else "-"
    return Sheet(
        "What it took",
        (
            "judge",
            "requests",
            "verdicts read",
            "asked again",
            "failed",
            "tokens",
            "cost",
            "s each",
            "last attempt",
        ),
        [
            (
                judge,
                f"{sum(use.calls for use in by_judge):,}",
                read,
                f"{sum(use.asked_again for use in by_judge):,}",
                f"{sum(use.failed for use in by_judge):,}",
                f"{sum(use.tokens for use in by_judge):,}",
                _cost(by_judge),
                _mean_s(by_judge),
                last,
            )
            for judge in study.judges
            if (by_judge := [use for use in uses if use.judge == judge])
        ],
    )


def _hardware(machines: Sequence[HardwareCost]) -> Sheet:
    return Sheet(
        "On one's own machines",
        ("target", "minutes", "per hour", "cost", "evaluations", "each", "tokens/s"),
        [
            (
                machine.target,
                f"{machine.seconds / 60:,.1f}",
                dollars(machine.price_per_hour),
                dollars(machine.cost_usd),
                f"{machine.requests:,}",
                dollars(machine.cost_per_request_usd),
                "-" if machine.tokens_per_s is None else f"{machine.tokens_per_s:,.0f}",
            )
            for machine in machines
        ],
    )


def _cost(uses: Sequence[JudgeUse]) -> str:
    if any(use.unpriced for use in uses):
        return "unknown"
    estimated = any(use.estimated and use.cost_usd for use in uses)
    return dollars(sum(use.cost_usd for use in uses), estimated=estimated)


def _mean_s(uses: Sequence[JudgeUse]) -> str:
    known = [(use.mean_s, use.calls) for use in uses if use.mean_s is not None]
    calls = sum(count for _, count in known)
    return f"{sum(mean * count for mean, count in known) / calls:.3f}" if calls else "-"
