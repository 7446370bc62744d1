"""What the metrics have in common in reading a sample."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.base import Output, Sample, Score


def references(sample: Sample) -> tuple[str, ...]:
    """The sample's references that say something; a blank one counts as none."""
    return tuple(one for one in sample.references if one.strip())


def unscored(outputs: Sequence[Output], why: str = "no reference") -> tuple[Score, ...]:
    """Scores without a value, one for each output."""
    return tuple(Score(output=one.name, value=None, error=why) for one in outputs)


def asked(sample: Sample) -> str:
    """The text of the last user message; "" when there is none."""
    for message in reversed(sample.messages):
        if message.get("role") == "user":
            return _text(message.get("content"))
    return ""


def source_text(sample: Sample, column: str | None) -> str:
    """What an answer was made from: the row's `column`, or the last user message without one."""
    if column is None:
        return asked(sample)
    value = sample.fields.get(column)
    return value if isinstance(value, str) else ""


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list | tuple) else ()
    texts = [part["text"] for part in parts if isinstance(part, dict) and "text" in part]
    return "\n".join(text for text in texts if isinstance(text, str))
