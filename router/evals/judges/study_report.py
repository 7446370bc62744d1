"""What a study shows: its sheets, its warnings, and its change since an earlier one."""

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
from router.evals.judges.studies import board_of, items_of
from router.store.judgements import JudgeUse
from router.store.studies import Study


def sheets(study: Study) -> list[Sheet]:
    """All tables of a study; none while it has no report."""
    found: list[Sheet] = []
    if "calibration" in study.report:
        report = msgspec.convert(study.report["calibration"], Calibration)
        found += calibration_sheets(report)
    if "board" in study.report:
        found += board_sheets(board_of(study))
    if "pairwise" in study.report and study.kind != "tournament":
        found += pairwise_sheets(
            msgspec.convert(study.report["pairwise"], PairwiseReport),
            study.document.get("routes", ()),
        )
    if study.report:
        found.append(_use(study))
        machines = msgspec.convert(study.report["hardware"], list[HardwareCost])
        if machines:
            found.append(_hardware(machines))
    return found


def warnings(study: Study) -> list[str]:
    """What has to be known before believing the numbers."""
    told = list(study.report.get("calibration", {}).get("warnings", ()))
    own = family(*study.judges)
    models = [group["name"] for group in study.report.get("calibration", {}).get("models", ())]
    told += [
        f"{', '.join(study.judges)} and {other} are both of the family {own}; judges tend to "
        "prefer their own family's answers."
        for other in (*study.document.get("routes", ()), *models)
        if own and family(other) == own
    ]
    return told


def title(study: Study) -> str:
    """What it is, of whom, and when."""
    day = datetime.fromtimestamp(study.created_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{study.kind} {study.id}: {', '.join(study.judges)} on {study.name}, {day}"


def html(study: Study) -> str:
    """The study as a fragment of a page."""
    return fragment(title(study), sheets(study), warnings(study))


def compared(first: Study, second: Study) -> JudgeChange:
    """Two judges, or one on two dates.

    Raises:
        ConflictError: one has no scores, or they have no answer in common.
    """
    found = change(items_of(first), items_of(second))
    if not found.n:
        raise ConflictError(f"{first.id} and {second.id} have no scored answer in common")
    return found


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
                f"{sum(one.calls for one in own):,}",
                read,
                f"{sum(one.asked_again for one in own):,}",
                f"{sum(one.failed for one in own):,}",
                f"{sum(one.tokens for one in own):,}",
                _cost(own),
                _mean_s(own),
                last,
            )
            for judge in study.judges
            if (own := [one for one in uses if one.judge == judge])
        ],
    )


def _hardware(machines: Sequence[HardwareCost]) -> Sheet:
    return Sheet(
        "On one's own machines",
        ("target", "minutes", "per hour", "cost", "evaluations", "each", "tokens/s"),
        [
            (
                one.target,
                f"{one.seconds / 60:,.1f}",
                dollars(one.price_per_hour),
                dollars(one.cost_usd),
                f"{one.requests:,}",
                dollars(one.cost_per_request_usd),
                "-" if one.tokens_per_s is None else f"{one.tokens_per_s:,.0f}",
            )
            for one in machines
        ],
    )


def _cost(uses: Sequence[JudgeUse]) -> str:
    if any(one.unpriced for one in uses):
        return "unknown"
    estimated = any(one.estimated and one.cost_usd for one in uses)
    return dollars(sum(one.cost_usd for one in uses), estimated=estimated)


def _mean_s(uses: Sequence[JudgeUse]) -> str:
    known = [(one.mean_s, one.calls) for one in uses if one.mean_s is not None]
    calls = sum(count for _, count in known)
    return f"{sum(mean * count for mean, count in known) / calls:.3f}" if calls else "-"
