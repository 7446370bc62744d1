"""Numeric error: how far the answer's number is from the reference's.

NumericError().score(sample, answer)  # mae and rmse, in that order
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import reference_numbers, unscored
from evaluators.text.numerals import COMMA_NOTE, DecimalSign, Pick, picked_numeral

# Sums of squares and the moments that intervals need stay within what a float holds.
_MAX_ERROR = 1e50


def _rmse(statistics: Sequence[float]) -> float:
    """Return the root of squared errors over answers, of which a corpus score has at least one."""
    return math.sqrt(statistics[0] / statistics[1])


class NumericError:
    """Mean absolute error, and root of the mean squared error, of the answers' numbers.

    The number of a text is its last one (`pick`: or the first), read as by the metric `numeric`,
    with the same option `decimal`. With several references the nearest number counts. Errors are
    in the unit of the references: a currency or a percent sign does not count.

    `mae` is a mean over samples. `rmse` is over all answers together, so it is not the mean of the
    samples' values, which are absolute errors. An answer without a number, a blank one among them,
    has no value, because any error would be made up. The report counts such answers, and a gate on
    `mae` or `rmse` fails unless a `coverage` gate says how many there may be. The same holds for an
    error over 1e50.
    """

    name = "numeric_error"
    outputs = (
        Output(
            name="mae",
            higher_is_better=False,
            high=None,
            description="Mean absolute error of the answers' numbers.",
        ),
        Output(
            name="rmse",
            higher_is_better=False,
            high=None,
            corpus=_rmse,
            description="Root of the mean squared error of all answers' numbers together.",
        ),
    )
    needs_reference = True
    source = "mean_absolute_error and root_mean_squared_error of scikit-learn"

    def __init__(self, *, pick: Pick = "last", decimal: DecimalSign = ".") -> None:
        self._pick: Pick = pick
        self._decimal: DecimalSign = decimal
        self.signature = (
            f"numeric_error|nrefs:var|multi:nearest|pick:{pick}|decimal:{decimal}"
            "|corpus:micro|blank:none|v:1"
        )

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return the absolute error twice: as it is, and with the squared error for the corpus."""
        expected, why = reference_numbers(sample, pick=self._pick, decimal=self._decimal)
        if not expected:
            return unscored(self.outputs, why)
        parsed = picked_numeral(answer.text or "", pick=self._pick, decimal=self._decimal)
        if parsed is None:
            return unscored(self.outputs, "the answer has no number")
        error = min(abs(parsed.value - number.value) for number in expected)
        if error > _MAX_ERROR:
            return unscored(self.outputs, f"the error is over {_MAX_ERROR:g}")
        split = any(number.beside_comma for number in (*expected, parsed))
        note = COMMA_NOTE if split else ""
        return (
            Score(output="mae", value=error, note=note),
            Score(output="rmse", value=error, statistics=(error * error, 1.0), note=note),
        )
