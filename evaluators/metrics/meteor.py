"""METEOR: words shared with a reference, by stem and by synonym too, and how scattered they are.

Meteor().score(sample, answer)  # (Score(output="meteor", value=0.38),)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from typing import Literal

from evaluators.base import Answer, Output, Sample, Score
from evaluators.data import language_data, wordnet
from evaluators.metrics.reference import references, unscored
from evaluators.text.normal_form import NormalForm, normalizer
from evaluators.text.words import is_unspaced, letters_and_digits
from providers.errors import MissingExtraError, RunDocumentError

# Words of a language repeat: a run of any size looks up the same few ten thousand.
_REMEMBERED = 100_000

_WHOLE_SENTENCES = (
    "the text is in a script without blanks, in which this tokenizer finds hardly any words; "
    "use tokenizer: unicode"
)

# A position in the text, and the word there.
_Placed = tuple[int, str]
_ALPHA, _BETA, _GAMMA = 0.9, 3.0, 0.5


class Meteor:
    """METEOR from 0 to 1, the same numbers as NLTK's, best over the references.

    Words are lower case and aligned in three stages: equal, of equal Porter stem, and synonyms by
    WordNet. `tokenizer` decides what a word is, and much of the score: "nltk" is NLTKWordTokenizer
    over the whole text, "punkt" splits sentences first as nltk.word_tokenize does (needs
    `evalrouter data install punkt`), "whitespace" is what blank space separates, "unicode" divides
    scripts written without blanks too (UAX #29; without punctuation). `synonyms` "auto" uses
    WordNet where `evalrouter data install wordnet` has put it, and the signature says whether it
    did; "wordnet" insists on it, "none" does without. `unicode` is the normal form that both texts
    are brought into. A blank answer is 0.
    """

    name = "meteor"
    outputs = (
        Output(name="meteor", description="Recall-weighted F of aligned words, less a penalty."),
    )
    needs_reference = True
    source = "Lavie and Agarwal 2007, METEOR; nltk.translate.meteor_score"

    def __init__(
        self,
        *,
        tokenizer: Literal["nltk", "punkt", "whitespace", "unicode"] = "nltk",
        synonyms: Literal["auto", "wordnet", "none"] = "auto",
        unicode: NormalForm = "nfc",
    ) -> None:
        if find_spec("nltk") is None:
            raise MissingExtraError("The metric meteor", "metrics")
        self._tokenizer = tokenizer
        self._form = normalizer(unicode)
        self._wordnet = language_data.wordnet() if synonyms != "none" else None
        if synonyms == "wordnet" and self._wordnet is None:
            raise RunDocumentError(
                "synonyms: WordNet is not installed; run `evalrouter data install wordnet`",
                param="synonyms",
            )
        if tokenizer == "punkt" and language_data.punkt() is None:
            raise RunDocumentError(
                "tokenizer: punkt's data is not installed; run `evalrouter data install punkt`",
                param="tokenizer",
            )
        self._words: Callable[[str], Sequence[str]] | None = None
        self._stem: Callable[[str], str]
        self._synonyms: Callable[[str], frozenset[str]] | None = None
        known = "none"
        if self._wordnet is not None:
            known = f"wordnet-{wordnet.version(self._wordnet)}"
        self.signature = (
            f"meteor|nrefs:var|multi:max|case:lc|tok:{tokenizer}|stem:porter|synonyms:{known}"
            f"|alpha:{_ALPHA}|beta:{_BETA:g}|gamma:{_GAMMA}|unicode:{unicode}|blank:0|nltk:{version('nltk')}"
        )

    def load(self) -> None:
        """Read WordNet, where it is used."""
        from nltk.stem.porter import PorterStemmer  # noqa: PLC0415  # an extra

        self._stem = lru_cache(_REMEMBERED)(PorterStemmer().stem)
        if self._wordnet is not None:
            self._synonyms = lru_cache(_REMEMBERED)(wordnet.read(self._wordnet))
        self._words = self._tokenize()

    def _tokenize(self) -> Callable[[str], Sequence[str]]:
        if self._tokenizer == "whitespace":
            return str.split
        if self._tokenizer == "unicode":
            return letters_and_digits
        from nltk.tokenize import NLTKWordTokenizer  # noqa: PLC0415  # an extra

        words: Callable[[str], list[str]] = NLTKWordTokenizer().tokenize
        if self._tokenizer == "nltk":
            return words
        sentences = language_data.sentences()
        return lambda text: [word for sentence in sentences(text) for word in words(sentence)]

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return the best METEOR over the references."""
        accepted = references(sample)
        if not accepted:
            return unscored(self.outputs)
        if self._words is None:
            self.load()
        text = self._form(answer.text or "")
        accepted = tuple(map(self._form, accepted))
        words = self._lower(text)
        best = max(self._meteor(words, self._lower(reference)) for reference in accepted)
        divided = self._tokenizer == "unicode" or not any(map(is_unspaced, (text, *accepted)))
        return (Score(output="meteor", value=best, note="" if divided else _WHOLE_SENTENCES),)

    def _lower(self, text: str) -> list[_Placed]:
        assert self._words is not None
        return [(place, word.lower()) for place, word in enumerate(self._words(text))]

    def _meteor(self, words: list[_Placed], expected: list[_Placed]) -> float:
        pairs = self._align(words, expected)
        if not pairs:
            return 0.0
        precision, recall = len(pairs) / len(words), len(pairs) / len(expected)
        mean = precision * recall / (_ALPHA * precision + (1 - _ALPHA) * recall)
        chunks = 1 + sum(
            (later[0] - earlier[0], later[1] - earlier[1]) != (1, 1)
            for earlier, later in pairwise(pairs)
        )
        penalty = _GAMMA * (chunks / len(pairs)) ** _BETA
        return float((1 - penalty) * mean)

    def _align(self, words: list[_Placed], expected: list[_Placed]) -> list[tuple[int, int]]:
        """Return the positions of aligned words, in the answer's order."""
        equal, words, expected = _match(words, expected)
        # As in NLTK, what is left goes on as stems, so that synonyms are looked up for those.
        stems, words, expected = _match(self._stems(words), self._stems(expected))
        alike = self._match_synonyms(words, expected) if self._synonyms else []
        return sorted(equal + stems + alike)

    def _stems(self, words: list[_Placed]) -> list[_Placed]:
        return [(place, self._stem(word)) for place, word in words]

    def _match_synonyms(
        self, words: list[_Placed], expected: list[_Placed]
    ) -> list[tuple[int, int]]:
        """Pair each word, from the last, with the last free reference word that is a synonym."""
        assert self._synonyms is not None
        positions = _positions(expected)
        pairs = []
        for place, word in reversed(words):
            free = [synonym for synonym in self._synonyms(word) if positions.get(synonym)]
            if free:
                latest = max(free, key=lambda synonym: positions[synonym][-1])
                pairs.append((place, positions[latest].pop()))
        return pairs


def _match(
    words: list[_Placed], expected: list[_Placed]
) -> tuple[list[tuple[int, int]], list[_Placed], list[_Placed]]:
    """Pair equal words, each from the last with the last free one; return what is left too."""
    positions = _positions(expected)
    pairs, left = [], []
    for place, word in reversed(words):
        free = positions.get(word)
        if free:
            pairs.append((place, free.pop()))
        else:
            left.append((place, word))
    taken = {place for _, place in pairs}
    return pairs, left[::-1], [placed for placed in expected if placed[0] not in taken]


def _positions(words: list[_Placed]) -> dict[str, list[int]]:
    positions: dict[str, list[int]] = defaultdict(list)
    for place, word in words:
        positions[word].append(place)
    return positions
