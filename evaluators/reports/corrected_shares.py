"""Puts shares that are corrected by a judge's known errors before the raw ones.

    share_infos(infos, {"refusal": errors})
    share_scores(scores, {"refusal": errors})
    share_comparisons(comparisons, {"refusal": errors}, {"refusal": 0.05})

Whether there is a difference, and in which direction, is the same question for corrected shares
and for raw ones, so the correction adds no test: a corrected difference has the p-value of the raw
one. A margin is one of the corrected difference, whose interval decides on equivalence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from evaluators.base import Output
from evaluators.judge.graded import corrected_name
from evaluators.reports.scores import OutputInfo, RouteScore
from evaluators.stats.comparison import Comparison
from evaluators.stats.intervals import Interval
from evaluators.stats.judge_errors import JudgeErrors, equivalence_of

_DESCRIPTION = (
    "The share that people would give, from the judge's share and its errors in a calibration "
    "(Rogan and Gladen)."
)


def share_interval(errors: JudgeErrors, raw: Interval) -> Interval:
    """Return the share that people would give, from the judge's."""
    share = errors.share(raw)
    return Interval(
        estimate=errors.estimate(raw.estimate),
        low=None if share is None else share.low,
        high=None if share is None else share.high,
        n=raw.n,
        method="none" if share is None else share.method,
    )


def share_outputs(
    outputs: Mapping[str, Output], errors: Mapping[str, JudgeErrors]
) -> dict[str, Output]:
    """Return the outputs with those of the corrected shares."""
    return {
        **outputs,
        **{
            corrected_name(name): msgspec.structs.replace(
                outputs[name], name=corrected_name(name), corrects=name
            )
            for name in errors
            if name in outputs
        },
    }


def share_infos(
    infos: Sequence[OutputInfo], errors: Mapping[str, JudgeErrors]
) -> tuple[OutputInfo, ...]:
    """Return descriptions in which a corrected output comes before each that is named."""
    return tuple(shown for info in infos for shown in _infos(info, errors))


def share_scores(
    scores: Sequence[RouteScore], errors: Mapping[str, JudgeErrors]
) -> tuple[RouteScore, ...]:
    """Return a route's scores in which a corrected one comes before each that is named."""
    return tuple(shown for score in scores for shown in _scores(score, errors))


def share_comparisons(
    comparisons: Sequence[Comparison],
    errors: Mapping[str, JudgeErrors],
    margins: Mapping[str, float],
) -> list[Comparison]:
    """Return comparisons in which a corrected one comes before each that is named.

    Args:
        comparisons: without verdicts.
        errors: output to the errors of its judge.
        margins: raw output to the largest difference that makes no difference to the user.
    """
    return [
        shown
        for compared in comparisons
        for shown in _comparisons(compared, errors, margins.get(compared.output))
    ]


def _infos(output: OutputInfo, errors: Mapping[str, JudgeErrors]) -> Iterator[OutputInfo]:
    if output.name not in errors:
        yield output
        return
    yield msgspec.structs.replace(
        output,
        name=corrected_name(output.name),
        description=f"{output.description} {_DESCRIPTION}",
        corrects=output.name,
    )
    yield msgspec.structs.replace(
        output, description=f"Raw, as the judge scores: {output.description}", raw=True
    )


def _scores(score: RouteScore, errors: Mapping[str, JudgeErrors]) -> Iterator[RouteScore]:
    if score.output in errors:
        raw = Interval(estimate=score.estimate, low=score.low, high=score.high, n=score.n)
        share = share_interval(errors[score.output], raw)
        yield msgspec.structs.replace(
            score,
            output=corrected_name(score.output),
            estimate=share.estimate,
            low=share.low,
            high=share.high,
            method=share.method,
            variance=None,
        )
    yield score


def _comparisons(
    compared: Comparison, errors: Mapping[str, JudgeErrors], margin: float | None
) -> Iterator[Comparison]:
    if compared.output in errors:
        yield _corrected(compared, errors[compared.output], margin)
    yield compared


def _corrected(compared: Comparison, errors: JudgeErrors, margin: float | None) -> Comparison:
    difference, low, high = compared.difference, compared.low, compared.high
    ends = None
    if difference is not None and low is not None and high is not None:
        ends = errors.difference(difference, low, high)
    return msgspec.structs.replace(
        compared,
        output=corrected_name(compared.output),
        difference=ends and ends[0],
        low=ends and ends[1],
        high=ends and ends[2],
        detectable=None,
        margin=margin,
        p_equivalence=None if ends is None or margin is None else equivalence_of(ends, margin),
    )
