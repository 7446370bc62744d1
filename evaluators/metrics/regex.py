r"""Regex: 1 where a regular expression is found in the answer, else 0.

Regex(pattern=r"^(yes|no)\b").score(sample, answer)  # (Score(output="regex", value=1.0),)
"""

from __future__ import annotations

from importlib.metadata import version

import regex

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import unscored
from evaluators.text.normal_form import NormalForm, normalizer
from providers.errors import RunDocumentError

# Ordinary patterns take microseconds. One that backtracks without end must stop.
TIMEOUT_S = 1.0


class Regex:
    """Whether `pattern` is found anywhere in the answer.

    Flags are written into the pattern, `(?i)` for example. `unicode` is the normal form of the
    pattern and of the answer. A blank answer is 0. A search that takes over a second of wall time
    leaves no value and says so.
    """

    name = "regex"
    outputs = (Output(name="regex", description="Share of answers in which the pattern is found."),)
    needs_reference = False
    source = "the regex package, search"

    def __init__(self, *, pattern: str, unicode: NormalForm = "nfc") -> None:
        if not pattern:
            raise RunDocumentError(
                "pattern: an empty pattern is found in every answer; write what to look for",
                param="pattern",
            )
        self._form = normalizer(unicode)
        try:
            self._pattern = regex.compile(self._form(pattern))
        except (regex.error, OverflowError, RecursionError) as error:
            raise RunDocumentError(
                f"pattern: {pattern!r} is not a regular expression: {error}", param="pattern"
            ) from error
        self.signature = (
            f"regex|pattern:{pattern!r}|unicode:{unicode}|blank:0|v:2|regex:{version('regex')}"
        )

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return 1.0 or 0.0."""
        del sample
        text = self._form(answer.text or "")
        if not text.strip():
            return (Score(output="regex", value=0.0),)
        try:
            # Concurrent: the event loop's thread must run on while this one searches.
            match = self._pattern.search(text, timeout=TIMEOUT_S, concurrent=True)
        except TimeoutError:
            return unscored(self.outputs, f"the pattern took longer than {TIMEOUT_S:g} s")
        return (Score(output="regex", value=float(match is not None)),)
