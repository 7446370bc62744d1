"""TER: edits, shifts of phrases included, that turn an answer into a reference, by sacreBLEU.

Ter().score(sample, answer)  # (Score(output="ter", value=54.2, statistics=(edits, length)),)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import sacrebleu
from sacrebleu.metrics.ter import TER

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import references, unscored
from evaluators.text.language_names import LanguageName, language_code
from evaluators.text.normal_form import NormalForm, normalizer
from evaluators.text.words import is_unspaced, words

_WHOLE_SENTENCES = (
    "the text is in a script without blanks, which TER does not divide into words here; name the "
    "language (Chinese or Japanese), or use chrf"
)


class Ter:
    """Translation edit rate in percent: 0 is equal, and 100 or more is as good as nothing shared.

    A sample's value is its edits over the references' mean length; a route's score is corpus TER,
    which is not their mean. The edits are those of the nearest reference. A blank answer lacks
    the words of the shortest reference: 100 where there is one, less where there are several.

    Time grows with more than the square of the length, to seconds for a pair of 300 words. Where
    the answer or a reference is longer than `max_words`, the sample has no value and says why: an
    answer that was cut would have another TER.

    `normalized` and `asian_support` together divide Chinese and Japanese; they are on where the
    `language`, by default that of the run, is one of these. Without them, text in a script without
    blanks has a note. Both texts are brought into the normal form `unicode` first.
    """

    name = "ter"
    needs_reference = True
    source = "Snover et al. 2006, TER; Post 2018, sacreBLEU"

    def __init__(
        self,
        *,
        max_words: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 150,
        normalized: bool | None = None,
        no_punct: bool = False,
        asian_support: bool | None = None,
        case_sensitive: bool = False,
        language: LanguageName = "",
        unicode: NormalForm = "nfc",
    ) -> None:
        asian = language_code(language) in ("zh", "ja")
        normalized = asian if normalized is None else normalized
        asian_support = asian if asian_support is None else asian_support
        self._form = normalizer(unicode)
        self._divides = normalized and asian_support
        self._ter = TER(
            normalized=normalized,
            no_punct=no_punct,
            asian_support=asian_support,
            case_sensitive=case_sensitive,
        )
        self._max_words = max_words
        self.outputs = (
            Output(
                name="ter",
                higher_is_better=False,
                high=None,
                unit="%",
                corpus=self._from,
                description="Corpus TER of all answers together, in percent.",
            ),
        )
        self.signature = (
            f"ter|nrefs:var|case:{'mixed' if case_sensitive else 'lc'}|tok:tercom"
            f"|norm:{_yes(normalized)}|punct:{_yes(not no_punct)}|asian:{_yes(asian_support)}"
            f"|max-words:{max_words}|unicode:{unicode}|blank:insertions|version:{sacrebleu.__version__}"
        )

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return sentence TER with the edits and the length that corpus TER needs."""
        accepted = references(sample)
        if not accepted:
            return unscored(self.outputs)
        text = self._form(answer.text or "")
        accepted = tuple(map(self._form, accepted))
        if max(len(words(part)) for part in (text, *accepted)) > self._max_words:
            return unscored(
                self.outputs,
                f"longer than {self._max_words} words, for which TER takes too long (max_words)",
            )
        # sacreBLEU has no public way to the statistics; its significance tests take this one.
        [counts] = self._ter._extract_corpus_statistics(  # noqa: SLF001  # see above
            [text], [[reference] for reference in accepted]
        )
        note = ""
        if not self._divides and any(map(is_unspaced, (text, *accepted))):
            note = _WHOLE_SENTENCES
        return (
            Score(
                output="ter",
                value=self._from(counts),
                statistics=tuple(map(float, counts)),
                note=note,
            ),
        )

    def _from(self, statistics: Sequence[float]) -> float:
        compute = self._ter._compute_score_from_stats  # noqa: SLF001  # as in `score`
        return float(compute(list(statistics)).score)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
