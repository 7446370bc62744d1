"""Novelty: how much of the answer is not copied from its source.

Novelty().score(sample, answer)  # novelty_1, novelty_2 and novelty_3, in that order
"""

from __future__ import annotations

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import source_text, unscored
from evaluators.text.normal_form import NormalForm, normalizer
from evaluators.text.words import SIGNATURE, letters_and_digits

_ORDERS = (1, 2, 3)


class Novelty:
    """Share of the answer's different n-grams that the source does not have, for n of 1, 2 and 3.

    The source is the row's `column`, or the last user message when no column is named. Words are
    runs of letters and digits, case-folded, and Unicode's (UAX #29) in scripts written without
    blanks; texts are brought into the normal form `unicode`. Neither direction is better: 0 is an
    extract. Where the answer has no n-gram (a blank one, for example) or the source no word, the
    sample has no value.
    """

    name = "novelty"
    outputs = tuple(
        Output(
            name=f"novelty_{n}",
            higher_is_better=None,
            description=f"Share of the answer's {n}-grams that are not in the source.",
        )
        for n in _ORDERS
    )
    needs_reference = False
    source = "See et al. 2017, Get To The Point (novel n-grams)"

    def __init__(self, *, column: str | None = None, unicode: NormalForm = "nfc") -> None:
        self._column = column
        self._form = normalizer(unicode)
        self.signature = (
            f"novelty|source:{column or 'last-user-message'}|tok:{SIGNATURE}"
            f"|case:folded|unicode:{unicode}|ngrams:types|blank:none|v:2"
        )

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return the three shares."""
        source = self._words(source_text(sample, self._column))
        if not source:
            return unscored(self.outputs, "no source text")
        words = self._words(answer.text or "")
        scores = []
        for n in _ORDERS:
            mine = _ngrams(words, n)
            if not mine:
                why = f"the answer has fewer than {n} words"
                scores.append(Score(output=f"novelty_{n}", value=None, error=why))
                continue
            novel = len(mine - _ngrams(source, n)) / len(mine)
            scores.append(Score(output=f"novelty_{n}", value=novel))
        return tuple(scores)

    def _words(self, text: str) -> list[str]:
        return letters_and_digits(self._form(text.casefold()))


def _ngrams(words: list[str], n: int) -> set[tuple[str, ...]]:
    return set(zip(*(words[start:] for start in range(n)), strict=False))
