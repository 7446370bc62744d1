"""ROUGE: n-grams and longest common subsequences shared with a reference.

Rouge(stemmer=True).score(sample, answer)  # rouge1, rouge2, rougeL, rougeLsum, in that order
"""

from __future__ import annotations

import re
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Literal

import sentencex

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import references, unscored
from evaluators.text.language_names import LanguageName, language_code
from evaluators.text.normal_form import NormalForm, normalizer
from providers.errors import RunDocumentError

_TYPES = {
    "rouge1": "F1 of the words shared with a reference.",
    "rouge2": "F1 of the pairs of words shared with a reference.",
    "rougeL": "F1 of the longest common subsequence with a reference.",
    "rougeLsum": "rougeL by sentence: F1 of the union of the sentences' longest subsequences.",
}

_ERASED = (
    "more than half of the answer or a reference is in letters this tokenizer drops; "
    "use tokenizer: unicode"
)

_UNSEGMENTED = (
    "a text of several sentences has no newline and counts as one sentence; "
    "use lsum: segment, or preset: published"
)
_SENTENCE_END = re.compile(r"[.!?]['\")\]]*\s+\S|[。！？।؟]\s*\S")  # noqa: RUF001  # of other scripts


class Rouge:
    """F1 of four ROUGE variants, 0 to 1, the same numbers as Google's rouge-score.

    Without `stemmer` words count as they are. With `lsum` "newline", the default, a newline ends a
    sentence for rougeLsum, as there; a text of several sentences without a newline then has a note,
    as it counts as one. With "segment", sentences are found by sentencex for the given `language`
    (by default that of the run, else English); with "auto" only in texts without a newline.
    `preset` "published" is how papers compute ROUGE: with the stemmer, one sentence a line (`lsum`
    "auto"), where these options are not written. With several references each variant takes its
    best. A blank answer is 0.

    `tokenizer` "rouge-score" knows only the letters a to z and digits, so a reference in another
    script has no words, and a score of 0 would say nothing about the answer: it leaves no value,
    and a text that loses more than half of its letters has a note. "unicode" splits any text into
    words, "character" into characters; neither stems, and their scores do not compare with
    rouge-score's. `unicode` is the normal form that both texts are brought into; "none" gives
    rouge-score's numbers for texts in any other form too.

    `implementation` "rouge-score" computes the same numbers with Google's own package, a hundred
    times slower, for machines that rouge-score-rs has no build for.
    """

    name = "rouge"
    outputs = tuple(Output(name=name, description=text) for name, text in _TYPES.items())
    needs_reference = True
    source = "Lin 2004, ROUGE; rouge-score 0.1.2, computed by rouge-score-rs"

    def __init__(
        self,
        *,
        preset: Literal["published"] | None = None,
        stemmer: bool | None = None,
        tokenizer: Literal["rouge-score", "unicode", "character"] = "rouge-score",
        lsum: Literal["newline", "segment", "auto"] | None = None,
        language: LanguageName = "en",
        unicode: NormalForm = "nfc",
        implementation: Literal["rouge-score-rs", "rouge-score"] = "rouge-score-rs",
    ) -> None:
        published = preset == "published"
        stemmer = published if stemmer is None else stemmer
        lsum = lsum or ("auto" if published else "newline")
        if stemmer and tokenizer != "rouge-score":
            raise RunDocumentError(
                f"stemmer: the tokenizer {tokenizer!r} cannot stem; leave one of them out",
                param="stemmer",
            )
        self._scorer, self._tokenizer = _scorer(implementation, tokenizer, stemmer=stemmer)
        self._erases = tokenizer == "rouge-score"
        language = language_code(language) or "en"
        self._lsum = lsum
        self._form = normalizer(unicode)
        self._language = language
        split = lsum if lsum == "newline" else f"sentencex-{language}:{version('sentencex')}"
        split = f"auto-{split}" if lsum == "auto" else split
        self.signature = (
            f"rouge|nrefs:var|multi:max|measure:f1|stemmer:{'yes' if stemmer else 'no'}"
            f"|tok:{tokenizer}|lsum:{split}|unicode:{unicode}|blank:0|{implementation}:{version(implementation)}"
        )

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return four F1 scores, each the best over the references."""
        accepted = tuple(map(self._form, references(sample)))
        if not accepted:
            return unscored(self.outputs)
        if not any(self._tokenizer.tokenize(reference) for reference in accepted):
            return unscored(
                self.outputs,
                "the reference has no words this tokenizer knows; use tokenizer: unicode",
            )
        text = self._form(answer.text or "")
        erased = self._erases and any(map(_is_erased, (text, *accepted)))
        best = self._scorer.score_multi(
            [self._lines(reference) for reference in accepted], self._lines(text)
        )
        notes = dict.fromkeys(_TYPES, _ERASED if erased else "")
        if not erased and self._lsum == "newline" and any(map(_is_unsegmented, (text, *accepted))):
            notes["rougeLsum"] = _UNSEGMENTED
        return tuple(
            Score(output=name, value=best[name].fmeasure, note=notes[name]) for name in _TYPES
        )

    def _lines(self, text: str) -> str:
        if self._lsum == "newline" or (self._lsum == "auto" and "\n" in text.strip()):
            return text
        return "\n".join(sentencex.segment(self._language, text))


def _scorer(implementation: str, tokenizer: str, *, stemmer: bool) -> tuple[Any, Any]:
    """Return a scorer of the four variants, and its tokenizer."""
    if find_spec(implementation.replace("-", "_")) is None:
        raise RunDocumentError(
            f"implementation: {implementation} is not installed: pip install {implementation}",
            param="implementation",
        )
    package = implementation.replace("-", "_")
    if implementation == "rouge-score" and tokenizer != "rouge-score":
        raise RunDocumentError(
            f"implementation: rouge-score has no tokenizer {tokenizer!r}", param="implementation"
        )
    # Both packages have these modules; they say they are typed and leave functions without types.
    words: Any = import_module(f"{package}.tokenizers")
    scorers: Any = import_module(f"{package}.rouge_scorer")
    chosen = {
        "rouge-score": lambda: words.DefaultTokenizer(stemmer),
        "unicode": lambda: words.UnicodeTokenizer(),  # noqa: PLW0108  # rouge-score has none
        "character": lambda: words.CharacterTokenizer(),  # noqa: PLW0108  # rouge-score has none
    }[tokenizer]()
    return scorers.RougeScorer(list(_TYPES), tokenizer=chosen), chosen


def _is_unsegmented(text: str) -> bool:
    """Return whether a text has more than one sentence, and no newline between them."""
    return "\n" not in text.strip() and _SENTENCE_END.search(text.strip()) is not None


def _is_erased(text: str) -> bool:
    """Return whether fewer than half of the letters and digits are among a to z and 0 to 9."""
    if text.isascii():
        return False
    known = sum(character.isascii() and character.isalnum() for character in text)
    return 2 * known < sum(map(str.isalnum, text))
