"""Fuzzy: how alike two texts are when word order or extra words should not count, by rapidfuzz.

Fuzzy(method="token_sort_ratio").score(sample, answer)  # (Score(output="fuzzy", value=91.3),)
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from typing import Literal

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import references, unscored
from evaluators.text.normal_form import NormalForm, normalizer
from providers.errors import MissingExtraError


class Fuzzy:
    """Similarity from 0 to 100, the best over the references.

    `method` is rapidfuzz's: "ratio" compares the texts as they are, "partial_ratio" the shorter
    with the part of the longer that fits it best, "token_sort_ratio" with their words sorted,
    "token_set_ratio" with words that both share set aside, "WRatio" the best of these with weights.
    With `normalize`, both sides are lower case and without punctuation (rapidfuzz's
    `default_process`). `unicode` is the normal form that both are brought into. A blank answer is
    0.
    """

    name = "fuzzy"
    outputs = (Output(name="fuzzy", high=100.0, description="Similarity, 0 to 100."),)
    needs_reference = True
    source = "rapidfuzz.fuzz"

    def __init__(
        self,
        *,
        method: Literal[
            "ratio", "partial_ratio", "token_sort_ratio", "token_set_ratio", "WRatio"
        ] = "ratio",
        normalize: bool = True,
        unicode: NormalForm = "nfc",
    ) -> None:
        if find_spec("rapidfuzz") is None:
            raise MissingExtraError("The metric fuzzy", "metrics")
        self._method = method
        self._normalize = normalize
        self._form = normalizer(unicode)
        norm = "default_process" if normalize else "none"
        self.signature = (
            f"fuzzy|nrefs:var|multi:max|method:{method}|norm:{norm}|unicode:{unicode}|blank:0|v:2"
            f"|rapidfuzz:{version('rapidfuzz')}"
        )

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return the best similarity over the references."""
        from rapidfuzz import fuzz, utils  # noqa: PLC0415  # an extra

        accepted = references(sample)
        if not accepted:
            return unscored(self.outputs)
        text = self._form(answer.text or "")
        if not text.strip():
            return (Score(output="fuzzy", value=0.0),)
        compare = getattr(fuzz, self._method)
        processor = utils.default_process if self._normalize else None
        best = max(
            compare(text, self._form(reference), processor=processor) for reference in accepted
        )
        return (Score(output="fuzzy", value=float(best)),)
