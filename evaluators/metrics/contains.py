"""Contains: 1 where the answer contains a text, else 0.

Contains(text="sorry").score(sample, answer)  # (Score(output="contains", value=0.0),)
"""

from __future__ import annotations

from operator import contains
from typing import Literal

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import references, unscored
from evaluators.text.normal_form import NormalForm, normalizer
from evaluators.text.words import SIGNATURE, has_words, is_blank, without_invisible
from providers.errors import RunDocumentError


class Contains:
    """Whether the answer contains `text`, or any of the references when no text is given.

    The text has to stand there as whole words, by Unicode's word boundaries (UAX #29): "4" is
    not in "42", nor "Berlin" in "Berliner", but "北京" is in "我在北京". In Korean a particle may
    follow it. With `match` "text" it may be a part of a word. Without `case_sensitive` both
    sides are case-folded. Invisible characters (zero-width spaces, signs of direction) are
    dropped. `unicode` is the normal form that both are brought into. The expected text is
    never blank, so a blank answer is 0.
    """

    name = "contains"
    outputs = (
        Output(name="contains", description="Share of answers that contain the expected text."),
    )
    source = "text search at word boundaries (Unicode UAX #29)"

    def __init__(
        self,
        *,
        text: str | None = None,
        case_sensitive: bool = False,
        match: Literal["word", "text"] = "word",
        unicode: NormalForm = "nfc",
    ) -> None:
        if text is not None and is_blank(text):
            raise RunDocumentError(
                "text: a blank text is contained in every answer; write what to look for, or "
                "leave it out to look for the references",
                param="text",
            )
        self.needs_reference = text is None
        self._text = text
        self._contains = has_words if match == "word" else contains
        self._folds = not case_sensitive
        self._form = normalizer(unicode)
        what = "references|multi:any" if text is None else f"text:{text!r}"
        case = "sensitive" if case_sensitive else "folded"
        by = f"word|{SIGNATURE}" if match == "word" else "text"
        self.signature = f"contains|{what}|case:{case}|match:{by}|unicode:{unicode}|blank:0|v:2"

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return 1.0 or 0.0."""
        expected = references(sample) if self._text is None else (self._text,)
        if not expected:
            return unscored(self.outputs)
        text = self._read(answer.text or "")
        contained = any(self._contains(text, self._read(part)) for part in expected)
        return (Score(output="contains", value=float(contained)),)

    def _read(self, text: str) -> str:
        # Folding may decompose a character, so it comes before the normal form.
        text = without_invisible(text)
        return self._form(text.casefold() if self._folds else text)
