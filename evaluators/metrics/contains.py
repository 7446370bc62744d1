"""Contains: 1 where the answer contains a text, else 0.

Contains(text="sorry").score(sample, answer)  # (Score(output="contains", value=0.0),)
"""

from __future__ import annotations

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import references, unscored
from providers.errors import RunDocumentError


class Contains:
    """Whether the answer contains `text`, or any of the references when no text is given.

    Without `case_sensitive` both sides are case-folded. The expected text is never blank, so a
    blank answer is 0.
    """

    name = "contains"
    outputs = (
        Output(name="contains", description="Share of answers that contain the expected text."),
    )
    source = "substring search"

    def __init__(self, *, text: str | None = None, case_sensitive: bool = False) -> None:
        if text is not None and not text.strip():
            raise RunDocumentError(
                "text: a blank text is contained in every answer; write what to look for, or "
                "leave it out to look for the references",
                param="text",
            )
        self.needs_reference = text is None
        self._text = text
        self._case = str if case_sensitive else str.casefold
        what = "references|multi:any" if text is None else f"text:{text!r}"
        case = "sensitive" if case_sensitive else "folded"
        self.signature = f"contains|{what}|case:{case}|blank:0|v:1"

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return 1.0 or 0.0."""
        expected = references(sample) if self._text is None else (self._text,)
        if not expected:
            return unscored(self.outputs)
        text = self._case(answer.text or "")
        contained = any(self._case(part) in text for part in expected)
        return (Score(output="contains", value=float(contained)),)
