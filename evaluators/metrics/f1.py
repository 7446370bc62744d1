"""Token F1: how many words an answer shares with a reference, after SQuAD v1.1.

F1().score(sample, answer)  # (Score(output="f1", value=0.8),)
"""

from __future__ import annotations

from collections import Counter

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import references, unscored
from evaluators.text.normal_form import NormalForm
from evaluators.text.squad import AnswerRules, answer_words


class F1:
    """F1 of the normalized words, each counted as often as it occurs, 0 to 1.

    With several references the best counts. A blank answer is 0.

    Words are in lower case, without punctuation and articles. By the `rules` "unicode", texts whose
    punctuation is ASCII's give exactly the numbers of SQuAD's script. Beyond it, they drop the
    punctuation of all scripts (as MLQA does) and invisible characters, divide Chinese, Japanese,
    Thai and other scripts written without blanks at Unicode's word boundaries (UAX #29: a word for
    each character, except in runs of katakana), and bring texts into the normal form `unicode`. The
    rules "squad1.1" are the script to the letter; use them to repeat published numbers on texts
    with typographic quotes or dashes.
    """

    name = "f1"
    outputs = (Output(name="f1", description="F1 of the words shared with a reference."),)
    needs_reference = True
    source = "Rajpurkar et al. 2016, SQuAD v1.1 evaluation script; Lewis et al. 2020, MLQA"

    def __init__(self, *, rules: AnswerRules = "unicode", unicode: NormalForm = "nfc") -> None:
        self._words = answer_words(rules, unicode)
        self.signature = f"f1|nrefs:var|multi:max|{self._words.signature}|blank:0|v:2"

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return the best F1 over the references."""
        accepted = references(sample)
        if not accepted:
            return unscored(self.outputs)
        words = self._words(answer.text or "")
        best = max(_f1(words, self._words(reference)) for reference in accepted)
        return (Score(output="f1", value=best),)


def _f1(words: list[str], expected: list[str]) -> float:
    shared = (Counter(words) & Counter(expected)).total()
    return 2 * shared / (len(words) + len(expected)) if shared else 0.0
