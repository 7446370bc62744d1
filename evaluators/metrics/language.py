"""Language: 1 where the answer is in the expected language, else 0, by py3langid.

Language(expect="de").score(sample, answer)  # (Score(output="language", value=1.0),)
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from evaluators.base import Answer, Output, Sample, Score
from evaluators.data.rows import value_at
from evaluators.metrics.reference import last_user_text, unscored
from evaluators.text.words import unspaced_letters
from providers.errors import MissingExtraError, RunDocumentError

# Below so many letters a detector guesses.
_FEWEST = 12


class Language:
    """Whether the answer is in the expected language.

    That is `expect` (an ISO 639-1 code), or what the row's `column` says, or, when neither is
    named, the language of the last user message. The language of a text of fewer than 12 letters
    cannot be detected, so such an answer has no value; a blank one is 0. In scripts written without
    blanks a letter counts for three, as it says as much as a few letters do elsewhere.
    """

    name = "language"
    outputs = (Output(name="language", description="Share of answers in the expected language."),)
    needs_reference = False
    source = "Lui and Baldwin 2012, langid.py; computed by py3langid"

    def __init__(self, *, expect: str | None = None, column: str | None = None) -> None:
        if find_spec("py3langid") is None:
            raise MissingExtraError("The metric language", "metrics")
        if expect is not None and (
            len(expect) != 2 or not expect.isalpha() or expect != expect.lower()
        ):
            raise RunDocumentError(
                f"expect: {expect!r} is not a code of two letters, like 'de'", param="expect"
            )
        if expect is not None and column is not None:
            raise RunDocumentError("column: name a column or `expect`, not both", param="column")
        self._expect = expect
        self._column = column
        self._identify: Any = None
        what = expect or (f"column:{column}" if column else "of-last-user-message")
        self.signature = (
            f"language|expect:{what}|min-letters:{_FEWEST}|blank:0|v:2"
            f"|py3langid:{version('py3langid')}"
        )

    def load(self) -> None:
        """Load the detector's model, which ships with it."""
        import py3langid  # noqa: PLC0415  # an extra

        py3langid.classify("")
        self._identify = py3langid.classify

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return 1.0 or 0.0."""
        if self._identify is None:
            self.load()
        text = answer.text or ""
        if not text.strip():
            return (Score(output="language", value=0.0),)
        expected = self._expected(sample)
        if not expected:
            return unscored(self.outputs, "the expected language cannot be detected")
        detected = self._language(text)
        if not detected:
            why = f"the answer has fewer than {_FEWEST} letters, too few to detect its language"
            return unscored(self.outputs, why)
        return (Score(output="language", value=float(detected == expected)),)

    def _expected(self, sample: Sample) -> str:
        if self._expect is not None:
            return self._expect
        if self._column is not None:
            return str(value_at(sample.fields, self._column) or "").strip().lower()
        return self._language(last_user_text(sample))

    def _language(self, text: str) -> str:
        if sum(map(str.isalpha, text)) + 2 * unspaced_letters(text) < _FEWEST:
            return ""
        return str(self._identify(text.encode(errors="replace"))[0])
