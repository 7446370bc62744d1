"""Ranking: precision and recall of the first k items of an answer that is a list.

Ranking(k=5).score(sample, answer)  # precision_at_5 and recall_at_5, in that order
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Annotated, Any

import msgspec
import regex

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.json_valid import read
from evaluators.metrics.reference import references, unscored
from evaluators.text.normal_form import NormalForm, normalizer
from providers.errors import RunDocumentError

Cutoff = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Cutoffs = Annotated[tuple[Cutoff, ...], msgspec.Meta(min_length=1, max_length=10)]

_MARKER = regex.compile(r"^(?:[-*+•‣–]|\(?\d{1,3}[.)])\s+")  # noqa: RUF001  # en dashes mark items
_QUOTED = regex.compile(
    r"(?P<mark>\*\*|__|[*_`\"'])(?P<inside>.+)(?P=mark)|[“«„](?P<inside>.+)[”»“]"
)
_ENDS = ",;. "
# Without a limit, a line of a million asterisks would be copied half a million times.
_MAX_MARKS = 3


class Ranking:
    """Share of the first `k` items that are relevant, and of the relevant ones that are among them.

    The answer is a list in JSON, also in a code block or as the only member of an object, or has an
    item on each line, where a marker (-, *, 1.) does not count. The references are the relevant
    items; a single reference is itself such a list. Items are equal without case, a full stop,
    comma or semicolon at the end, and quotation marks or Markdown's emphasis around them; `unicode`
    is their normal form.

    `k` may be several numbers: each has its own outputs. Precision is over k even where the answer
    has fewer items (as in trec_eval); recall is below 1 where k is less than the relevant items. An
    item that is repeated takes up a place each time and is relevant once. Every line that is not
    blank is an item, one of prose too. A blank answer, or an empty list, is 0.
    """

    name = "ranking"
    needs_reference = True
    source = "Manning, Raghavan, Schütze 2008, chapter 8; precision as in trec_eval's P_k"

    def __init__(self, *, k: Cutoff | Cutoffs = 10, unicode: NormalForm = "nfc") -> None:
        self._cutoffs = (k,) if isinstance(k, int) else k
        if len(set(self._cutoffs)) < len(self._cutoffs):
            raise RunDocumentError("k: a number occurs twice", param="k")
        self._form = normalizer(unicode)
        self.outputs = tuple(
            output
            for cutoff in self._cutoffs
            for output in (
                Output(
                    name=f"precision_at_{cutoff}",
                    description=f"Share of the first {cutoff} items that are relevant.",
                ),
                Output(
                    name=f"recall_at_{cutoff}",
                    description=f"Share of the relevant items that are among the first {cutoff}.",
                ),
            )
        )
        self.signature = (
            f"ranking|k:{','.join(map(str, self._cutoffs))}|refs:relevant|case:folded"
            f"|unicode:{unicode}|repeats:once|short:over-k|blank:0|v:1"
        )

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return precision and recall for each k."""
        accepted = references(sample)
        if not accepted:
            return unscored(self.outputs)
        relevant = {plain for item in _named(accepted) if (plain := self._plain(item))}
        if not relevant:
            return unscored(self.outputs, "the reference has no items")
        given = items(answer.text or "")[: max(self._cutoffs)]
        ranked = [self._ranked(item, relevant) for item in given]
        scores: list[Score] = []
        for cutoff in self._cutoffs:
            hits = len(relevant.intersection(ranked[:cutoff]))
            scores += (
                Score(output=f"precision_at_{cutoff}", value=hits / cutoff),
                Score(output=f"recall_at_{cutoff}", value=hits / len(relevant)),
            )
        return tuple(scores)

    def _ranked(self, item: str, relevant: Set[str]) -> str:
        """Return the item without a marker, unless it is relevant with it: "3. Liga"."""
        plain = self._plain(item)
        return plain if plain in relevant else self._plain(_MARKER.sub("", item))

    def _plain(self, item: str) -> str:
        plain = " ".join(self._form(item.casefold()).split()).rstrip(_ENDS)
        for _ in range(_MAX_MARKS):
            if not (match := _QUOTED.fullmatch(plain)):
                break
            plain = match["inside"].strip().rstrip(_ENDS)
        return plain


def _named(accepted: Sequence[str]) -> list[str]:
    """Return the items of the references; of a single one, those of its list."""
    if len(accepted) > 1:
        return list(accepted)
    named = items(accepted[0])
    # One number may belong to a name ("3. Liga"); a marker on every line is a list's.
    is_marked = len(named) > 1 and all(map(_MARKER.match, named))
    return [_MARKER.sub("", item) for item in named] if is_marked else named


def items(text: str) -> list[str]:
    """Return the items of a text in order: of its list in JSON, else one for each line."""
    try:
        value = read(text, fenced=True)
    except ValueError:
        value = None
    if isinstance(value, dict) and len(value) == 1:
        # Structured outputs of OpenAI are objects.
        [value] = value.values()
    if isinstance(value, list):
        return [_text(item) for item in value]
    return [line.strip() for line in text.splitlines() if line.strip()]


def _text(item: Any) -> str:
    """Return an item of a JSON list as a text, by its JSON where it is something else."""
    return item if isinstance(item, str) else msgspec.json.encode(item).decode()
