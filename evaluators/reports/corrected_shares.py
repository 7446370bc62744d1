"""Puts shares that are corrected by a judge's known errors into a report, before the raw ones.

report = with_corrected_shares(report, {"refusal": errors})
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from evaluators.judge.graded import corrected_name
from evaluators.reports.report import OutputInfo, Report, RouteScore
from evaluators.stats.comparison import Comparison
from evaluators.stats.intervals import Interval
from evaluators.stats.judge_errors import JudgeErrors

_DESCRIPTION = (
    "The share that people would give, from the judge's share and its errors in a calibration "
    "(Rogan and Gladen)."
)


def with_corrected_shares(report: Report, errors: Mapping[str, JudgeErrors]) -> Report:
    """Return a report in which a corrected output comes before each output that is named.

    Args:
        report: the report; the outputs are shares.
        errors: output to the errors of its judge.
    """
    if not errors:
        return report
    return msgspec.structs.replace(
        report,
        outputs=tuple(info for output in report.outputs for info in _infos(output, errors)),
        routes=tuple(
            msgspec.structs.replace(
                route,
                scores=tuple(shown for score in route.scores for shown in _scores(score, errors)),
            )
            for route in report.routes
        ),
        comparisons=tuple(
            shown for compared in report.comparisons for shown in _comparisons(compared, errors)
        ),
    )


def _infos(output: OutputInfo, errors: Mapping[str, JudgeErrors]) -> Iterator[OutputInfo]:
    if output.name not in errors:
        yield output
        return
    yield msgspec.structs.replace(
        output,
        name=corrected_name(output.name),
        description=f"{output.description} {_DESCRIPTION}",
    )
    yield msgspec.structs.replace(
        output, description=f"Raw, as the judge scores: {output.description}"
    )


def _scores(score: RouteScore, errors: Mapping[str, JudgeErrors]) -> Iterator[RouteScore]:
    if score.output in errors:
        raw = Interval(estimate=score.estimate, low=score.low, high=score.high, n=score.n)
        share = errors[score.output].share(raw)
        yield msgspec.structs.replace(
            score,
            output=corrected_name(score.output),
            estimate=share and share.estimate,
            low=share and share.low,
            high=share and share.high,
            method="none" if share is None else share.method,
            variance=None,
        )
    yield score


def _comparisons(compared: Comparison, errors: Mapping[str, JudgeErrors]) -> Iterator[Comparison]:
    """Yield the corrected difference, with p and verdict of the raw one, before that.

    Both say whether there is a difference at all, and whether it is one in the same direction, so
    the correction adds no test. A margin is one of the raw difference alone.
    """
    if compared.output in errors:
        difference, low, high = compared.difference, compared.low, compared.high
        ends = None
        if difference is not None and low is not None and high is not None:
            ends = errors[compared.output].difference(difference, low, high)
        equivalent = compared.verdict == "equivalent"
        yield msgspec.structs.replace(
            compared,
            output=corrected_name(compared.output),
            difference=ends and ends[0],
            low=ends and ends[1],
            high=ends and ends[2],
            verdict="no difference shown" if equivalent else compared.verdict,
            detectable=None,
            margin=None,
            p_equivalence=None,
        )
    yield compared
