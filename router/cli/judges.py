"""`evalrouter judge`: measure how far judges can be trusted, and let them compare."""

from __future__ import annotations

from evaluators.report import dollars
from router.judge_report import JudgeReport


def judge_line(judge: JudgeReport) -> str:
    """What a judge took, in one line."""
    parts = [f"judge {judge.judge} ({judge.metric}): {judge.calls:,} requests"]
    if judge.reused:
        parts.append(f"{judge.reused:,} paid for before")
    parts.append(f"{judge.tokens:,} tokens")
    parts.append("price unknown" if judge.unpriced else dollars(judge.cost_usd))
    if judge.requests_per_s is not None:
        parts.append(f"{judge.requests_per_s:.1f} requests/s")
    if judge.pearson is not None:
        parts.append(f"Pearson with people {judge.pearson:.2f} ({judge.calibration})")
    else:
        parts.append("calibrated" if judge.calibrated else "uncalibrated")
    return ", ".join(parts)
