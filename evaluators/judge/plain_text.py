"""Reduces a judge's answer to what it says for itself: no thoughts, no echo of its prompt.

    plain_text("<think>4?</think> Score\uff1a \uff15")         -> PlainText("Score: 5", "")
    plain_text("<think>maybe score 1")             -> PlainText("", "still thinking")
    plain_text("It deserves", finish_reason="length")
                                                   -> PlainText("It deserves", "cut off")

Reasoning models write their thoughts in front of their answer, where a host does not take them
off. Numbers in thoughts are no verdicts, and a judge that was stopped while it was thinking has
not answered at all.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from evaluators.base import Answer
from evaluators.text.thoughts import THOUGHT_BEGIN, THOUGHT_END

# Judges give a verdict in a few lines; a longer answer is cut at its front.
_MAX_CHARACTERS = 100_000
# A line of the prompt that is shorter may well be an answer of the judge's own.
_ECHO_LENGTH = 12

# What hosts call the end of an answer that was not the model's.
CUT_OFF = frozenset({"length", "max_tokens", "model_length", "content_filter"})

_SPACES = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"\n(?: ?\n)+")


class PlainText(NamedTuple):
    """What a judge says for itself.

    Attributes:
        text: its words, in characters of ordinary width, with digits from 0 to 9 and without runs
            of white space.
        unfinished: the reason why the answer has no end, "" for a whole answer.
    """

    text: str
    unfinished: str


class _Folding(dict[int, str]):
    """Maps a character to the ordinary one that it is a form of, as `str.translate` wants it."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if unicodedata.category(character) == "Cf":
            # Marks that nobody sees, such as zero-width spaces and those of direction.
            self[code] = ""
            return ""
        ordinary = unicodedata.normalize("NFKC", character)
        # Fractions and powers would become other numbers.
        if len(ordinary) != 1 or unicodedata.category(character) == "No":
            ordinary = character
        digit = unicodedata.decimal(ordinary, None)
        self[code] = ordinary if digit is None else str(digit)
        return self[code]


_folding = _Folding({ord("\u3010"): "[", ord("\u3011"): "]", ord("\u2212"): "-"})


def text_of(answer: Answer) -> str | None:
    """Return what a judge answered, "" for an answer without text; None for a failed request.

    A judge whose thoughts took all its tokens has answered, although some hosts then send null
    as its text and others an empty one.
    """
    return "" if answer.text is None and answer.error_code == "no_text" else answer.text


def plain_text(answer: str, *, prompt: str = "", finish_reason: str = "") -> PlainText:
    """Return what a judge says for itself, and whether its answer has an end.

    Args:
        answer: the text of the answer.
        prompt: the text of the request; lines of it in the answer are left out.
        finish_reason: why the answer ended, as the host reports it.
    """
    unfinished = "cut off" if finish_reason.lower() in CUT_OFF else ""
    ends = [match.end() for match in THOUGHT_END.finditer(answer)]
    text = answer[ends[-1] :] if ends else answer
    begin = THOUGHT_BEGIN.search(text)
    if begin is not None:
        text, unfinished = text[: begin.start()], "still thinking"
    text = _without_echo(_shortened(folded(text[-_MAX_CHARACTERS:])), _shortened(folded(prompt)))
    return PlainText(text, unfinished)


def folded(text: str) -> str:
    """Return the text with full-width characters, and digits of all scripts, as ordinary ones."""
    return text if text.isascii() else text.translate(_folding)


def _shortened(text: str) -> str:
    """Return the text with each run of white space as one space, or as one blank line."""
    return _BLANK_LINES.sub("\n\n", _SPACES.sub(" ", text))


def _without_echo(text: str, prompt: str) -> str:
    if prompt.strip():
        text = text.replace(prompt.strip(), "")
    echoes = {line.strip() for line in prompt.splitlines() if len(line.strip()) >= _ECHO_LENGTH}
    return "\n".join(line for line in text.splitlines() if line.strip() not in echoes)
