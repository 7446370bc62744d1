"""JSON valid: 1 where the whole answer is JSON, else 0.

JsonValid().score(sample, answer)  # (Score(output="json_valid", value=1.0),)
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from evaluators.base import Answer, Output, Sample, Score

_FENCE = re.compile(r"\s*```(?:json|JSON)?[ \t]*\n(?P<inside>.*?)\n?[ \t]*```\s*", re.DOTALL)


class JsonValid:
    """Whether the answer is one JSON value and nothing else (RFC 8259, so no NaN).

    With `fenced`, a JSON value in a single Markdown code block counts too, as most clients unwrap
    it. A blank answer is 0.
    """

    name = "json_valid"
    outputs = (Output(name="json_valid", description="Share of answers that are JSON."),)
    needs_reference = False
    source = "RFC 8259; msgspec's decoder"

    def __init__(self, *, fenced: bool = False) -> None:
        self._fenced = fenced
        self.signature = (
            f"json_valid|fenced:{'yes' if fenced else 'no'}|blank:0|v:1"
            f"|msgspec:{msgspec.__version__}"
        )

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return 1.0 or 0.0."""
        del sample
        try:
            read(answer.text or "", fenced=self._fenced)
        except ValueError:
            return (Score(output="json_valid", value=0.0),)
        return (Score(output="json_valid", value=1.0),)


def read(text: str, *, fenced: bool) -> Any:
    """Decode the JSON value that a text is, with `fenced` also in a code block.

    Raises:
        ValueError: the text is not one JSON value.
    """
    if fenced and (block := _FENCE.fullmatch(text)):
        text = block["inside"]
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        # A lone surrogate cannot be encoded; no parser follows nesting without end.
        raise ValueError(str(error)) from error
