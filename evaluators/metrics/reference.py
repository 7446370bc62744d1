"""How metrics read a sample: its references, and the text that it was made from."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.base import Output, Sample, Score
from evaluators.data.rows import value_at
from evaluators.text.numerals import DecimalSign, Numeral, Pick, picked_numeral
from evaluators.text.words import is_blank

_NO_REFERENCE = "no reference"


def references(sample: Sample) -> tuple[str, ...]:
    """Return the sample's references that are not blank."""
    return tuple(reference for reference in sample.references if not is_blank(reference))


def unscored(outputs: Sequence[Output], why: str = _NO_REFERENCE) -> tuple[Score, ...]:
    """Return a score without a value for each output."""
    return tuple(Score(output=output.name, value=None, error=why) for output in outputs)


def reference_numbers(
    sample: Sample, *, pick: Pick, decimal: DecimalSign
) -> tuple[list[Numeral], str]:
    """Return the numbers of the references, and the reason where none has one.

    Args:
        sample: its references are texts.
        pick: as in `picked_numeral`.
        decimal: as in `picked_numeral`.
    """
    accepted = references(sample)
    numbers = [picked_numeral(text, pick=pick, decimal=decimal) for text in accepted]
    why = "the reference has no number" if accepted else _NO_REFERENCE
    return [number for number in numbers if number is not None], why


def last_user_text(sample: Sample) -> str:
    """Return the text of the last user message, "" for a sample without one."""
    for message in reversed(sample.messages):
        if message.get("role") == "user":
            return _text(message.get("content"))
    return ""


def source_text(sample: Sample, column: str | None) -> str:
    """Return the row's `column`, or the last user message where no column is named."""
    if column is None:
        return last_user_text(sample)
    value = value_at(sample.fields, column)
    return value if isinstance(value, str) else ""


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list | tuple) else ()
    texts = [part["text"] for part in parts if isinstance(part, dict) and "text" in part]
    return "\n".join(text for text in texts if isinstance(text, str))
