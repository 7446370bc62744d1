"""BLEU: n-gram precision against references, by sacreBLEU.

Bleu().score(sample, answer)  # (Score(output="bleu", value=31.2, statistics=(...)),)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import sacrebleu
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import references, unscored

_ORDERS = 4


class Bleu:
    """BLEU from 0 to 100.

    A sample's value is sentence BLEU with effective order; a route's score is corpus BLEU, which
    is not their mean. Statistics: 4 counts of matched n-grams, 4 of all n-grams, the answer's
    length, the closest reference's length. A blank answer is 0 and counts in the corpus's length.
    """

    name = "bleu"
    needs_reference = True
    source = "Papineni et al. 2002; Post 2018, sacreBLEU"

    def __init__(
        self,
        *,
        tokenize: Literal["13a", "intl", "zh", "char", "none"] = "13a",
        lowercase: bool = False,
    ) -> None:
        self._bleu = BLEU(tokenize=tokenize, lowercase=lowercase, effective_order=True)
        self.outputs = (
            Output(
                name="bleu",
                high=100.0,
                corpus=_corpus,
                description="Corpus BLEU of all answers together, 0 to 100.",
            ),
        )
        self.signature = (
            f"bleu|nrefs:var|case:{'lc' if lowercase else 'mixed'}|eff:no|tok:{tokenize}"
            f"|smooth:exp|sample-eff:yes|version:{sacrebleu.__version__}"
        )

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return sentence BLEU with the counts that corpus BLEU needs."""
        accepted = references(sample)
        if not accepted:
            return unscored(self.outputs)
        result = self._bleu.sentence_score(answer.text or "", accepted)
        self._forget()
        statistics = (*result.counts, *result.totals, result.sys_len, result.ref_len)
        return (Score(output="bleu", value=result.score, statistics=tuple(map(float, statistics))),)

    def _forget(self) -> None:
        """Drop the texts in the caches of sacreBLEU's tokenizers: 65,536 of any length."""
        for kind in (type(self._bleu.tokenizer), TokenizerRegexp):
            if hasattr(kind.__call__, "cache_clear"):
                kind.__call__.cache_clear()


def _corpus(sums: Sequence[float]) -> float:
    counts = [int(value) for value in sums]
    result = BLEU.compute_bleu(
        correct=counts[:_ORDERS],
        total=counts[_ORDERS : 2 * _ORDERS],
        sys_len=counts[-2],
        ref_len=counts[-1],
        smooth_method="exp",
    )
    return float(result.score)
