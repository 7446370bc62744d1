"""Numeric: 1 where the answer's number equals the reference's, else 0.

Numeric().score(sample, answer)  # (Score(output="numeric", value=1.0),)
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import reference_numbers, unscored
from evaluators.text.numerals import COMMA_NOTE, DecimalSign, Pick, picked_numeral

Tolerance = Annotated[float, msgspec.Meta(ge=0)]


class Numeric:
    """Whether the last number (`pick`: or the first) of the answer is that of a reference.

    Numbers may have a sign, groups of thousands, decimals and a power of ten (1e3, 1.5 x 10^3);
    what is around them (a currency, a unit, a percent sign) does not count. `decimal` says
    which character begins the decimals where that is open: 1,234 is a thousand by "." and 1.234
    by ",". Numbers that can be read in one way only are read so (1.234.567,89 and
    1,234,567.89), and groups may also be separated by an apostrophe, a no-break space or in the
    Indian way (12,34,567). 3/4, 2 1/2, ½, LaTeX's fractions and 三分之一 are fractions, and
    1/2/2024 is not. Digits may be of any script, with Arabic's own separators; Chinese,
    Japanese and Korean units of tens of thousands count (3.5万), and numbers written in Chinese
    characters (三十五) are read where the text has no digits. Two numbers are equal within
    `rel_tol` of the larger or within `abs_tol`. An answer without a number, a blank one among
    them, is 0.
    """

    name = "numeric"
    outputs = (Output(name="numeric", description="Share of answers with the right number."),)
    needs_reference = True
    source = "last number of the answer, as evaluations of GSM8K take it (Cobbe et al. 2021)"

    def __init__(
        self,
        *,
        pick: Pick = "last",
        decimal: DecimalSign = ".",
        rel_tol: Tolerance = 1e-6,
        abs_tol: Tolerance = 0.0,
    ) -> None:
        self._pick: Pick = pick
        self._decimal: DecimalSign = decimal
        self._tolerances = (rel_tol, abs_tol)
        self.signature = (
            f"numeric|nrefs:var|multi:any|pick:{pick}|decimal:{decimal}|rel:{rel_tol:g}"
            f"|abs:{abs_tol:g}|blank:0|v:2"
        )

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return 1.0 or 0.0; no value where no reference has a number."""
        expected, why = reference_numbers(sample, pick=self._pick, decimal=self._decimal)
        if not expected:
            return unscored(self.outputs, why)
        parsed = picked_numeral(answer.text or "", pick=self._pick, decimal=self._decimal)
        rel, absolute = self._tolerances
        equal = parsed is not None and any(
            math.isclose(parsed.value, number.value, rel_tol=rel, abs_tol=absolute)
            for number in expected
        )
        split = any(number.beside_comma for number in (*expected, parsed) if number is not None)
        return (Score(output="numeric", value=float(equal), note=COMMA_NOTE if split else ""),)
