"""Exact match: 1 where the answer is one of the references, else 0.

ExactMatch().score(sample, answer)  # (Score(output="exact_match", value=1.0),)
"""

from __future__ import annotations

import re
import string

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import references, unscored

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)

# Part of the signatures: change it with anything in `squad` that changes a score.
SQUAD = "norm:squad1.1|articles-only:kept"


def squad(text: str) -> str:
    """Return the text as SQuAD v1.1 compares it: lower case, no ASCII punctuation, no articles.

    A text of nothing but articles or punctuation keeps them. SQuAD's script would leave nothing,
    so that the answers "A" and "The" to a multiple choice were equal, and shared no token.
    """
    plain = " ".join(text.lower().translate(_PUNCTUATION).split())
    return " ".join(_ARTICLES.sub(" ", plain).split()) or plain or text.strip()


class ExactMatch:
    """Whether the answer equals a reference, 0 or 1.

    With `normalize` both sides are compared after SQuAD's normalization (case, punctuation and
    articles do not count), without it as they are except for blank space at their ends. A blank
    answer is 0.
    """

    name = "exact_match"
    outputs = (Output(name="exact_match", description="Share of answers that equal a reference."),)
    needs_reference = True
    source = "Rajpurkar et al. 2016, SQuAD v1.1 evaluation script"

    def __init__(self, *, normalize: bool = True) -> None:
        self._normal = squad if normalize else str.strip
        norm = SQUAD if normalize else "norm:strip"
        self.signature = f"exact_match|nrefs:var|multi:any|{norm}|blank:0|v:1"

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return 1.0 or 0.0."""
        accepted = references(sample)
        if not accepted:
            return unscored(self.outputs)
        text = self._normal(answer.text or "")
        equal = bool(text) and any(text == self._normal(reference) for reference in accepted)
        return (Score(output="exact_match", value=float(equal)),)
