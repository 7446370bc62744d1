"""Exact match: 1 where the answer is one of the references, else 0.

ExactMatch().score(sample, answer)  # (Score(output="exact_match", value=1.0),)
"""

from __future__ import annotations

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import references, unscored
from evaluators.text.normal_form import NormalForm, normalizer
from evaluators.text.squad import AnswerRules, answer_words


class ExactMatch:
    """Whether the answer equals a reference, 0 or 1.

    With `normalize`, both sides are compared word by word after SQuAD's normalization: case,
    punctuation and articles do not count. `rules` and the words are as in `f1`. Without
    `normalize`, they are compared as they are except for blank space at their ends. `unicode` is
    the normal form that both are brought into first (not by the rules `squad1.1`, which know none).
    A blank answer is 0.
    """

    name = "exact_match"
    outputs = (Output(name="exact_match", description="Share of answers that equal a reference."),)
    needs_reference = True
    source = "Rajpurkar et al. 2016, SQuAD v1.1 evaluation script; Lewis et al. 2020, MLQA"

    def __init__(
        self,
        *,
        normalize: bool = True,
        rules: AnswerRules = "unicode",
        unicode: NormalForm = "nfc",
    ) -> None:
        self._words = answer_words(rules, unicode) if normalize else None
        self._form = normalizer(unicode)
        norm = self._words.signature if self._words else f"norm:strip|unicode:{unicode}"
        self.signature = f"exact_match|nrefs:var|multi:any|{norm}|blank:0|v:2"

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return 1.0 or 0.0."""
        accepted = references(sample)
        if not accepted:
            return unscored(self.outputs)
        text = answer.text or ""
        compared = self._compared(text)
        equal = bool(text.strip()) and any(
            compared == self._compared(reference) for reference in accepted
        )
        return (Score(output="exact_match", value=float(equal)),)

    def _compared(self, text: str) -> str | list[str]:
        return self._words(text) if self._words else self._form(text).strip()
