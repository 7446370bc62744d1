r"""Takes a whole Prometheus prompt apart: the files of the Prometheus repository are made of them.

    texts = split_prompt(row["instruction"])
    texts.instruction, texts.response, texts.reference, texts.rubric

Some of those files end each prompt with `",` and a line feed, which were meant as JSON and are
part of no prompt.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_BEGINNING = "###Task Description:"


class PromptTexts(NamedTuple):
    """The texts of an absolute prompt; without a reference, `reference` is None."""

    instruction: str
    response: str
    reference: str | None
    rubric: str


def split_prompt(prompt: str) -> PromptTexts | None:
    """Return the texts of a published absolute prompt; None for any other text."""
    match = _PROMPT.fullmatch(prompt) if is_prompt(prompt) else None
    if match is None:
        return None
    return PromptTexts(match["instruction"], match["response"], match["reference"], match["rubric"])


def is_prompt(text: str) -> bool:
    """Return whether a text begins as Prometheus' prompts do."""
    return text.startswith(_BEGINNING)


_PROMPT = re.compile(
    rf"{_BEGINNING}\n.*?"
    r"###The instruction to evaluate:\n(?P<instruction>.*?)\n\n"
    r"###Response to evaluate:\n(?P<response>.*?)\n\n"
    r"(?:###Reference Answer \(Score [+-]?\d+\):\n(?P<reference>.*?)\n\n)?"
    r"###Score Rubrics:\n(?P<rubric>.*?)\n\n"
    r"###Feedback: ?(?:\",)?\s*",
    re.DOTALL,
)
