"""Classification: accuracy, F1 and agreement of labels, over all answers together.

Classification(labels=("spam", "ham")).score(sample, answer)
# accuracy, macro_f1, micro_f1 and kappa, in that order
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Literal

import msgspec
import numpy as np
import regex
from numpy.typing import NDArray

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import references, unscored
from evaluators.text.normal_form import NormalForm, normalizer
from evaluators.text.words import SIGNATURE, has_words, is_unspaced, without_invisible
from providers.errors import RunDocumentError

Labels = Annotated[tuple[str, ...], msgspec.Meta(min_length=2, max_length=24)]
_Matrix = NDArray[np.float64]

# Punctuation of all scripts, and ASCII's symbols, which count as such.
_AROUND = regex.compile(r"^[\p{P}$+<=>^`|~\s]+|[\p{P}$+<=>^`|~\s]+$")

OTHER = "(other)"
"""The column of the confusion matrix for answers that are not a label."""


class Classification:
    """How well answers that are labels agree with the references' labels.

    A route's macro F1, micro F1 and kappa come from its confusion matrix over all answers; the
    report shows the matrix. Accuracy is also a mean over samples. An answer is a label where it
    equals one, without case, blank space and the punctuation of any script around it; with `match`
    "word", also where exactly one of the labels occurs in it as a word (in scripts written without
    blanks, at Unicode's word boundaries). `unicode` is the normal form of both. Any other answer, a
    blank one among them, is wrong and counted as "(other)". Kappa corrects agreement for chance;
    `weights` makes a near miss weigh less, for labels in order, where "(other)" is the farthest
    from all.

    With several references the first one that is a label counts, as a confusion matrix has one
    truth per sample; a sample has no value where none of its references is a label.
    """

    name = "classification"
    needs_reference = True
    source = "Cohen 1960 (kappa), Cohen 1968 (weights); definitions as in scikit-learn"

    def __init__(
        self,
        *,
        labels: Labels,
        match: Literal["exact", "word"] = "exact",
        weights: Literal["none", "linear", "quadratic"] = "none",
        unicode: NormalForm = "nfc",
    ) -> None:
        self._labels = labels
        self._form = normalizer(unicode)
        self._index = {self._plain(label): at for at, label in enumerate(labels)}
        if len(self._index) < len(labels) or "" in self._index:
            raise RunDocumentError(
                "labels: two are equal but for case and punctuation, or one has nothing else",
                param="labels",
            )
        self._by_word = match == "word"
        shape = (len(labels), len(labels) + 1)

        def over(score: Callable[[_Matrix], float]) -> Callable[[Sequence[float]], float]:
            return lambda sums: score(np.asarray(sums, dtype=np.float64).reshape(shape))

        self.outputs = (
            Output(name="accuracy", description="Share of answers with the right label."),
            Output(
                name="macro_f1",
                corpus=over(macro_f1),
                confusion=(*labels, OTHER),
                description="Mean over the labels of the F1 of each.",
            ),
            Output(
                name="micro_f1",
                corpus=over(micro_f1),
                description="F1 of all decisions together.",
            ),
            Output(
                name="kappa",
                low=-1.0,
                corpus=over(partial(kappa, weights=weights)),
                description="Cohen's kappa: agreement beyond chance.",
            ),
        )
        self.signature = (
            f"classification|labels:{','.join(labels)}|match:{match}|norm:strip-casefold"
            f"|words:{SIGNATURE}|unicode:{unicode}|kappa-weights:{weights}|blank:other|v:2"
        )

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return 1.0 or 0.0, with the cell of the confusion matrix that the answer adds to."""
        accepted = references(sample)
        if not accepted:
            return unscored(self.outputs)
        truths = [
            at
            for reference in accepted
            if (at := self._index.get(self._plain(reference))) is not None
        ]
        if not truths:
            return unscored(self.outputs, "the reference is not one of the labels")
        truth, label = truths[0], self._label(answer.text or "")
        width = len(self._labels) + 1
        cells = [0.0] * (len(self._labels) * width)
        cells[truth * width + label] = 1.0
        right = float(truth == label)
        return (
            Score(output="accuracy", value=right),
            *(
                Score(output=output.name, value=right, statistics=tuple(cells))
                for output in self.outputs[1:]
            ),
        )

    def _label(self, text: str) -> int:
        """Return the label's index, or the one behind the last for a text that is not a label."""
        other = len(self._labels)
        plain = self._plain(text)
        if plain in self._index or not self._by_word:
            return self._index.get(plain, other)
        spaced = f" {' '.join(self._plain(word) for word in text.split())} "
        inside = [
            at
            for label, at in self._index.items()
            if f" {label} " in spaced or (is_unspaced(label) and has_words(plain, label))
        ]
        return inside[0] if len(inside) == 1 else other

    def _plain(self, text: str) -> str:
        return _AROUND.sub("", " ".join(self._form(without_invisible(text).casefold()).split()))


def macro_f1(matrix: _Matrix) -> float:
    """Return the mean F1 of the labels that were due or given at least once.

    `matrix` has a row for each label that was due, and a column for each that was given and one
    more for all other answers.
    """
    hits, due, given = _margins(matrix)
    occurs = due + given > 0
    return float((2 * hits[occurs] / (due + given)[occurs]).mean()) if occurs.any() else 0.0


def micro_f1(matrix: _Matrix) -> float:
    """Return the F1 of all decisions: equal to accuracy when every answer is a label."""
    hits, due, given = _margins(matrix)
    total = float(due.sum() + given.sum())
    return 2 * float(hits.sum()) / total if total else 0.0


def kappa(matrix: _Matrix, *, weights: str = "none") -> float:
    """Return Cohen's kappa, and 0 where it is undefined: chance alone would agree fully."""
    size = matrix.shape[1]
    square = np.zeros((size, size))
    square[:-1] = matrix
    distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size))).astype(np.float64)
    if weights == "none":
        distance = (distance > 0).astype(np.float64)
    elif weights == "quadratic":
        distance **= 2
    total = square.sum()
    if not total:
        return 0.0
    chance = np.outer(square.sum(axis=1), square.sum(axis=0)) / total
    expected = float((distance * chance).sum())
    return 1.0 - float((distance * square).sum()) / expected if expected else 0.0


def _margins(matrix: _Matrix) -> tuple[_Matrix, _Matrix, _Matrix]:
    """Return how often each label was rightly given, was due, and was given."""
    return np.diagonal(matrix), matrix.sum(axis=1), matrix[:, :-1].sum(axis=0)
