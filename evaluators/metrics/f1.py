"""Token F1: how many words an answer shares with a reference, after SQuAD v1.1.

F1().score(sample, answer)  # (Score(output="f1", value=0.8),)
"""

from __future__ import annotations

from collections import Counter

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.exact_match import SQUAD, squad
from evaluators.metrics.reference import references, unscored


class F1:
    """F1 of the normalized words, each counted as often as it occurs, 0 to 1.

    With several references the best counts. A blank answer is 0.
    """

    name = "f1"
    outputs = (Output(name="f1", description="F1 of the words shared with a reference."),)
    needs_reference = True
    signature = f"f1|nrefs:var|multi:max|tok:whitespace|{SQUAD}|blank:0|v:1"
    source = "Rajpurkar et al. 2016, SQuAD v1.1 evaluation script"

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return the best F1 over the references."""
        accepted = references(sample)
        if not accepted:
            return unscored(self.outputs)
        words = squad(answer.text or "").split()
        best = max(_f1(words, squad(reference).split()) for reference in accepted)
        return (Score(output="f1", value=best),)


def _f1(words: list[str], expected: list[str]) -> float:
    shared = (Counter(words) & Counter(expected)).total()
    return 2 * shared / (len(words) + len(expected))
