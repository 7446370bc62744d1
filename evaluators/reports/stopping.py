"""Says whether a report answers the question of a run that may end early, and how.

    why = stop_reason(report, when, output)      # "" while it does not

A run ends early only by what its report shows, so that the report can never say anything else.
"""

from __future__ import annotations

from evaluators.judge.graded import corrected_name
from evaluators.reports.report import Report, score_of
from evaluators.stats.sequential import StopWhen


def stop_reason(report: Report, when: StopWhen, output: str) -> str:
    """Return in a sentence how the report answers the question; "" where it does not.

    Args:
        report: with numbers that hold whenever one looks.
        when: of the run document.
        output: the output that it is about.
    """
    corrected = corrected_name(output)
    name = corrected if any(info.name == corrected for info in report.outputs) else output
    if when.half_width is not None:
        return _known(report, when.half_width, name)
    return _decided(report, name)


def _known(report: Report, half_width: float, name: str) -> str:
    parts = []
    for route in report.routes:
        score = score_of(route, name)
        if score.low is None or score.high is None or score.estimate is None:
            return ""
        half = (score.high - score.low) / 2
        if half > half_width:
            return ""
        parts.append(f"{route.route} {score.estimate:.4g} ± {half:.2g} (n {score.n:,})")
    return f"{name} is known to ±{half_width:g} for every route: {', '.join(parts)}"


def _decided(report: Report, name: str) -> str:
    parts = []
    for compared in report.comparisons:
        if compared.output != name:
            continue
        if compared.verdict not in {"better", "worse"} or compared.difference is None:
            return ""
        parts.append(
            f"{compared.route} is {compared.verdict} than {report.baseline} by "
            f"{abs(compared.difference):.3g} (n {compared.n:,}, always-valid p "
            f"{compared.p_holm:.2g})"
        )
    return f"{name} is decided: {', '.join(parts)}" if parts else ""
