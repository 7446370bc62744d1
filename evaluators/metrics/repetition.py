"""Repetition: how much of the answer repeats earlier parts of it.

Repetition().score(sample, answer)  # (Score(output="repetition", value=0.12),)
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from evaluators.base import Answer, Output, Sample, Score
from evaluators.text.normal_form import NormalForm, normalizer
from evaluators.text.words import SIGNATURE, letters_and_digits


class Repetition:
    """Share of the answer's n-grams (`n` is 4) that have occurred before in it.

    Words are runs of letters and digits, case-folded, and Unicode's (UAX #29) in scripts written
    without blanks; the text is brought into the normal form `unicode`. An answer with fewer than n
    words, a blank one among them, repeats nothing: 0.
    """

    name = "repetition"
    outputs = (
        Output(
            name="repetition",
            higher_is_better=False,
            description="Share of the answer's n-grams that repeat earlier ones.",
        ),
    )
    needs_reference = False
    source = "Welleck et al. 2020, Neural Text Generation with Unlikelihood Training (seq-rep-n)"

    def __init__(
        self,
        *,
        n: Annotated[int, msgspec.Meta(ge=1, le=20)] = 4,
        unicode: NormalForm = "nfc",
    ) -> None:
        self._form = normalizer(unicode)
        self._n = n
        self.signature = (
            f"repetition|n:{n}|tok:{SIGNATURE}|case:folded|unicode:{unicode}|blank:0|v:2"
        )

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return one minus different n-grams over all n-grams."""
        del sample
        words = letters_and_digits(self._form((answer.text or "").casefold()))
        ngrams = list(zip(*(words[start:] for start in range(self._n)), strict=False))
        repeated = 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
        return (Score(output="repetition", value=repeated),)
