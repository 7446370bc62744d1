"""Levenshtein: how many characters, or words, have to change to get a reference, by rapidfuzz.

Levenshtein().score(sample, answer)  # levenshtein, cer and wer, in that order
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import Literal

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import references, unscored
from evaluators.text.normal_form import NormalForm, normalizer
from evaluators.text.words import SIGNATURE, is_unspaced
from evaluators.text.words import words as divided
from providers.errors import MissingExtraError

_WHOLE_SENTENCES = (
    "the text is in a script without blanks, so whole sentences count as words; "
    "use words: unicode, or cer"
)


def _rate(statistics: Sequence[float]) -> float:
    """Return edits over length, which is never 0: references are not blank."""
    return statistics[0] / statistics[1]


class Levenshtein:
    """Similarity, character error rate and word error rate.

    `levenshtein` is 1 minus the edits over the length of the longer text. `cer` and `wer` are edits
    over the reference's length, so they exceed 1 for an answer that is far too long; a route's are
    over all its answers together, as speech recognition reports them. With several references the
    nearest counts, for each output by itself. A blank answer has similarity 0 and rates of 1.
    Nothing is normalized but blank space at the ends, and between words for `wer`; both texts are
    brought into the normal form `unicode` first. The words of `wer` are what blank space separates,
    as speech recognition counts them; with `words` "unicode", scripts written without blanks are
    divided too (UAX #29), and otherwise their word error rate has a note.
    """

    name = "levenshtein"
    outputs = (
        Output(name="levenshtein", description="Similarity by edits of characters."),
        Output(
            name="cer",
            higher_is_better=False,
            high=None,
            corpus=_rate,
            description="Character error rate of all answers together.",
        ),
        Output(
            name="wer",
            higher_is_better=False,
            high=None,
            corpus=_rate,
            description="Word error rate of all answers together.",
        ),
    )
    needs_reference = True
    source = "Levenshtein 1966; computed by rapidfuzz"

    def __init__(
        self,
        *,
        words: Literal["whitespace", "unicode"] = "whitespace",
        unicode: NormalForm = "nfc",
    ) -> None:
        if find_spec("rapidfuzz") is None:
            raise MissingExtraError("The metric levenshtein", "metrics")
        self._form = normalizer(unicode)
        self._words = str.split if words == "whitespace" else divided
        self.signature = (
            "levenshtein|nrefs:var|multi:nearest|case:mixed|norm:strip"
            f"|words:{words if words == 'whitespace' else SIGNATURE}|unicode:{unicode}|blank:0,1,1"
            f"|v:2|rapidfuzz:{version('rapidfuzz')}"
        )

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return a similarity, and two rates with the edits and lengths that corpus rates need."""
        from rapidfuzz.distance import Levenshtein as Distance  # noqa: PLC0415  # an extra

        accepted = [self._form(reference).strip() for reference in references(sample)]
        if not accepted:
            return unscored(self.outputs)
        text = self._form(answer.text or "").strip()
        similarity = max(Distance.normalized_similarity(text, reference) for reference in accepted)
        characters = min(
            ((Distance.distance(text, reference), len(reference)) for reference in accepted),
            key=_rate,
        )
        spoken = self._words(text)
        expected = [self._words(reference) for reference in accepted]
        edits = min(
            ((Distance.distance(spoken, sequence), len(sequence)) for sequence in expected),
            key=_rate,
        )
        note = ""
        if self._words is str.split and any(map(is_unspaced, (text, *accepted))):
            note = _WHOLE_SENTENCES
        return (
            Score(output="levenshtein", value=similarity),
            Score(output="cer", value=_rate(characters), statistics=tuple(map(float, characters))),
            Score(
                output="wer",
                value=_rate(edits),
                statistics=tuple(map(float, edits)),
                note=note,
            ),
        )
