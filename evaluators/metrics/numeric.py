"""Numeric: 1 where the answer's number equals the reference's, else 0.

Numeric().score(sample, answer)  # (Score(output="numeric", value=1.0),)
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

import msgspec

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import references, unscored

# A sign belongs to the number only where no digit or letter is before it: 3-4 is not 3 and -4.
_POINT = re.compile(
    r"(?<![\w.])[-+\u2212]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3})?"
)
_COMMA = re.compile(
    r"(?<![\w,])[-+\u2212]?(?:\d{1,3}(?:\.\d{3})+(?!\d)|\d+)(?:,\d+)?(?:[eE][-+]?\d{1,3})?"
)

Tolerance = Annotated[float, msgspec.Meta(ge=0)]


class Numeric:
    """Whether the last number (`pick`: or the first) of the answer is that of a reference.

    Numbers may have a sign, groups of thousands, decimals and an exponent; what is around them
    (a currency, a unit, a percent sign) does not count. `decimal` says which character begins the
    decimals, the other one groups thousands. Two numbers are equal within `rel_tol` of the larger
    or within `abs_tol`. An answer without a number, a blank one among them, is 0.
    """

    name = "numeric"
    outputs = (Output(name="numeric", description="Share of answers with the right number."),)
    needs_reference = True
    source = "last number of the answer, as evaluations of GSM8K take it (Cobbe et al. 2021)"

    def __init__(
        self,
        *,
        pick: Literal["last", "first"] = "last",
        decimal: Literal[".", ","] = ".",
        rel_tol: Tolerance = 1e-6,
        abs_tol: Tolerance = 0.0,
    ) -> None:
        self._at = -1 if pick == "last" else 0
        self._pattern = _POINT if decimal == "." else _COMMA
        self._decimal = decimal
        self._tolerances = (rel_tol, abs_tol)
        self.signature = (
            f"numeric|nrefs:var|multi:any|pick:{pick}|decimal:{decimal}|rel:{rel_tol:g}"
            f"|abs:{abs_tol:g}|blank:0|v:1"
        )

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return 1.0 or 0.0; no value where no reference has a number."""
        accepted = references(sample)
        if not accepted:
            return unscored(self.outputs)
        expected = [
            number for reference in accepted if (number := self._number(reference)) is not None
        ]
        if not expected:
            return unscored(self.outputs, "the reference has no number")
        parsed = self._number(answer.text or "")
        rel, absolute = self._tolerances
        equal = parsed is not None and any(
            math.isclose(parsed, value, rel_tol=rel, abs_tol=absolute) for value in expected
        )
        return (Score(output="numeric", value=float(equal)),)

    def _number(self, text: str) -> float | None:
        matches = self._pattern.findall(text)
        if not matches:
            return None
        plain = matches[self._at].replace("\u2212", "-")
        group = "," if self._decimal == "." else "."
        number = float(plain.replace(group, "").replace(self._decimal, "."))
        return number if math.isfinite(number) else None
