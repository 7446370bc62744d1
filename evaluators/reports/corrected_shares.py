"""Puts shares that are corrected by a judge's known errors before the raw ones.

report = with_corrected_shares(report, {"refusal": errors})
comparisons = with_corrected_contrasts(comparisons, {"refusal": errors})

Whether there is a difference, and in which direction, is the same question for corrected shares
and for raw ones, so the correction adds no test: a corrected difference has the p-values and the
verdict of the raw one. A margin, and with it equivalence, is one of the raw difference alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

import msgspec

from evaluators.judge.graded import corrected_name
from evaluators.reports.compare import Comparisons, Contrast
from evaluators.reports.report import OutputInfo, Report, RouteScore
from evaluators.stats.comparison import Comparison
from evaluators.stats.intervals import Interval
from evaluators.stats.judge_errors import JudgeErrors

_Compared = TypeVar("_Compared", Comparison, Contrast)

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


def with_corrected_contrasts(
    comparisons: Comparisons, errors: Mapping[str, JudgeErrors]
) -> Comparisons:
    """Do as `with_corrected_shares` does, where both sides have the judge with these errors."""
    return msgspec.structs.replace(
        comparisons,
        outputs=tuple(info for output in comparisons.outputs for info in _infos(output, errors)),
        contrasts=tuple(
            shown for contrast in comparisons.contrasts for shown in _contrasts(contrast, errors)
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
        output, description=f"Raw, as the judge scores: {output.description}", raw=True
    )


def _scores(score: RouteScore, errors: Mapping[str, JudgeErrors]) -> Iterator[RouteScore]:
    if score.output in errors:
        raw = Interval(estimate=score.estimate, low=score.low, high=score.high, n=score.n)
        share = errors[score.output].share(raw)
        yield msgspec.structs.replace(
            score,
            output=corrected_name(score.output),
            estimate=errors[score.output].estimate(score.estimate),
            low=share and share.low,
            high=share and share.high,
            method="none" if share is None else share.method,
            variance=None,
        )
    yield score


def _comparisons(compared: Comparison, errors: Mapping[str, JudgeErrors]) -> Iterator[Comparison]:
    if compared.output in errors:
        yield _corrected(compared, errors[compared.output])
    yield compared


def _contrasts(contrast: Contrast, errors: Mapping[str, JudgeErrors]) -> Iterator[Contrast]:
    if contrast.output in errors:
        measured = errors[contrast.output]
        yield msgspec.structs.replace(
            _corrected(contrast, measured),
            mean_a=measured.estimate(contrast.mean_a),
            mean_b=measured.estimate(contrast.mean_b),
            cliffs_delta=None,
            moved=(),
        )
    yield contrast


def _corrected(compared: _Compared, errors: JudgeErrors) -> _Compared:
    difference, low, high = compared.difference, compared.low, compared.high
    ends = None
    if difference is not None and low is not None and high is not None:
        ends = errors.difference(difference, low, high)
    equivalent = compared.verdict == "equivalent"
    return msgspec.structs.replace(
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
