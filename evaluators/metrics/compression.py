"""Compression: how many times shorter the answer is than its source.

Compression().score(sample, answer)  # (Score(output="compression", value=6.5),)
"""

from __future__ import annotations

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import source_text, unscored
from evaluators.text.words import SIGNATURE, words


class Compression:
    """Words of the source over words of the answer, as summarization papers report it.

    The source is the row's `column`, or the last user message when no column is named. Words are
    what blank space separates, in scripts written without blanks those of Unicode (UAX #29).
    Neither direction is better. A blank answer, or a blank source, has no value: nothing was
    compressed.
    """

    name = "compression"
    outputs = (
        Output(
            name="compression",
            higher_is_better=None,
            high=None,
            description="Words of the source over words of the answer.",
        ),
    )
    needs_reference = False
    source = "Grusky et al. 2018, Newsroom"

    def __init__(self, *, column: str | None = None) -> None:
        self._column = column
        self.signature = (
            f"compression|source:{column or 'last-user-message'}|words:{SIGNATURE}|blank:none|v:2"
        )

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return the ratio."""
        source = len(words(source_text(sample, self._column)))
        length = len(words(answer.text or ""))
        if not length or not source:
            return unscored(self.outputs, "no answer text" if source else "no source text")
        return (Score(output="compression", value=source / length),)
