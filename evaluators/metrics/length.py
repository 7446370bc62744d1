"""Length: words and characters of the answer.

Length().score(sample, answer)  # words and characters, in that order
"""

from __future__ import annotations

from evaluators.base import Answer, Output, Sample, Score
from evaluators.text.words import SIGNATURE, words


class Length:
    """Words, and characters as Unicode counts them.

    Words are what blank space separates; scripts written without blanks are divided at Unicode's
    word boundaries (UAX #29).

    Neither direction is better.
    """

    name = "length"
    outputs = (
        Output(
            name="words",
            higher_is_better=None,
            high=None,
            unit="words",
            description="Words of the answer.",
        ),
        Output(
            name="characters",
            higher_is_better=None,
            high=None,
            unit="characters",
            description="Characters of the answer.",
        ),
    )
    needs_reference = False
    signature = f"length|words:{SIGNATURE}|characters:code-points|v:2"
    source = "counting"

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return the two counts."""
        del sample
        text = answer.text or ""
        return (
            Score(output="words", value=float(len(words(text)))),
            Score(output="characters", value=float(len(text))),
        )
