"""Metrics, judges above all, that gave no score, or failed for most answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from evaluators.reports.scores import OutputInfo, RouteScore


class MissingScores(NamedTuple):
    """Outputs of a metric of which most answers, over all routes, have no score.

    Attributes:
        metric: the metric's name.
        outputs: those of its outputs that lack the same scores.
        unscored, answered: how many answers have none, and how many there are.
        example: why one of them has none, "" if no reason is known.
    """

    metric: str
    outputs: tuple[str, ...]
    unscored: int
    answered: int
    example: str

    @property
    def sentence(self) -> str:
        """What there is to say of it, after the metric's name."""
        names = ", ".join(self.outputs)
        reason = f", for example: {self.example}" if self.example else ""
        if self.unscored == self.answered:
            return f"gave no score: all {self.answered:,} answers have no {names}{reason}"
        return (
            f"failed for most answers: {self.unscored:,} of {self.answered:,} answers have no "
            f"{names}{reason}"
        )


def missing_scores(
    outputs: Sequence[OutputInfo], scores: Iterable[RouteScore]
) -> list[MissingScores]:
    """Return the metrics that scored less than half of the answers, in the order of `outputs`.

    Args:
        outputs: of the report. Those that labels correct are left out: labels may be few.
        scores: of all routes.
    """
    by_output: dict[str, list[RouteScore]] = {}
    for score in scores:
        if not score.withheld:
            by_output.setdefault(score.output, []).append(score)
    grouped: dict[tuple[str, int, int], list[OutputInfo]] = {}
    for output in outputs:
        given = by_output.get(output.name, [])
        unscored = sum(score.unscored for score in given)
        answered = unscored + sum(score.scored for score in given)
        if not output.corrects and 2 * unscored > answered:
            grouped.setdefault((output.metric, unscored, answered), []).append(output)
    return [
        MissingScores(
            metric,
            tuple(output.name for output in lacking),
            unscored,
            answered,
            next((each.example for each in by_output[lacking[0].name] if each.example), ""),
        )
        for (metric, unscored, answered), lacking in grouped.items()
    ]
