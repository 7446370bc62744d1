"""chrF2: F-score of character n-grams, by sacreBLEU.

Chrf().score(sample, answer)  # (Score(output="chrf", value=48.1, statistics=(...)),)
"""

from __future__ import annotations

from collections.abc import Sequence

import sacrebleu
from sacrebleu.metrics.chrf import CHRF

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import references, unscored
from evaluators.text.normal_form import NormalForm, normalizer


class Chrf:
    """chrF2 from 0 to 100.

    A sample's value is sentence chrF2; a route's score is corpus chrF2, which is not their mean.
    Statistics: for each order from 1 to 6 the n-grams of the answer, of the best reference, and
    those they share. Both texts are brought into the normal form `unicode` first; "none" gives
    sacreBLEU's numbers for texts in any other form too. A blank answer is 0.
    """

    name = "chrf"
    needs_reference = True
    source = "Popović 2015, chrF; Post 2018, sacreBLEU"

    def __init__(self, *, unicode: NormalForm = "nfc") -> None:
        self._form = normalizer(unicode)
        self._chrf = CHRF()
        self.outputs = (
            Output(
                name="chrf",
                high=100.0,
                corpus=self._from,
                description="Corpus chrF2 of all answers together, 0 to 100.",
            ),
        )
        self.signature = (
            "chrf|nrefs:var|case:mixed|eff:yes|nc:6|nw:0|space:no|beta:2"
            f"|unicode:{unicode}"
            f"|version:{sacrebleu.__version__}"
        )

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return sentence chrF2 with the counts that corpus chrF2 needs."""
        accepted = references(sample)
        if not accepted:
            return unscored(self.outputs)
        # sacreBLEU has no public way to the statistics; its significance tests take this one.
        [counts] = self._chrf._extract_corpus_statistics(  # noqa: SLF001  # see above
            [self._form(answer.text or "")], [[self._form(reference)] for reference in accepted]
        )
        return (
            Score(output="chrf", value=self._from(counts), statistics=tuple(map(float, counts))),
        )

    def _from(self, statistics: Sequence[float]) -> float:
        compute = self._chrf._compute_score_from_stats  # noqa: SLF001  # as in `score`
        return float(compute([int(value) for value in statistics]).score)
