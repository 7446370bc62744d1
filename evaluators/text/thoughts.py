r"""Splits the thoughts that a reasoning model writes into its answer off that answer.

split_thoughts("<think>Berlin?</think>\n\nParis")   # Thoughts("Paris", "Berlin?")
split_thoughts("<think>Berlin?")                    # Thoughts("", "Berlin?", unfinished=True)
"""

from __future__ import annotations

import re
from typing import NamedTuple

import regex

# Ordinary patterns take microseconds. One that backtracks without end must stop.
TIMEOUT_S = 1.0

_NAMES = r"(?:seed:)?(?:think(?:ing)?|thought)"
# Not in quotation marks: there the text speaks of a tag.
_UNQUOTED = r"(?<![\"'`\u201c\u2018])"
THOUGHT_END = re.compile(
    rf"{_UNQUOTED}(?:</{_NAMES}>|\[/THINK\]|\u25c1/think\u25b7|<\|channel\|>final<\|message\|>)",
    re.IGNORECASE,
)
THOUGHT_BEGIN = re.compile(
    rf"{_UNQUOTED}(?:<{_NAMES}>|\[THINK\]|\u25c1think\u25b7|<\|channel\|>analysis<\|message\|>)",
    re.IGNORECASE,
)


class Thoughts(NamedTuple):
    """An answer without its thoughts.

    Attributes:
        text: what follows the last thought; the whole text, unchanged, without any.
        thinking: the thoughts, without their tags.
        unfinished: whether the text ends within a thought, and nothing else is left of it.
    """

    text: str
    thinking: str = ""
    unfinished: bool = False


def split_thoughts(text: str, pattern: regex.Pattern[str] | None = None) -> Thoughts:
    """Split off everything up to the end of the last thought, and a thought without an end.

    Args:
        text: as a model wrote it.
        pattern: what a thought is, instead of the usual tags; each match is one. A search that
            takes too long finds none.
    """
    if pattern is not None:
        return _by_pattern(text, pattern)
    rest, thinking = text, ""
    ends = list(THOUGHT_END.finditer(text))
    if ends:
        thinking = THOUGHT_BEGIN.sub("", text[: ends[-1].start()], count=1)
        rest = text[ends[-1].end() :]
    begin = THOUGHT_BEGIN.search(rest)
    if begin is not None:
        thinking = f"{thinking}\n{rest[begin.end() :]}"
        rest = rest[: begin.start()]
    if not ends and begin is None:
        return Thoughts(text)
    return Thoughts(rest.strip(), thinking.strip(), begin is not None and not rest.strip())


def _by_pattern(text: str, pattern: regex.Pattern[str]) -> Thoughts:
    try:
        spans = [
            match.span()
            for match in pattern.finditer(text, timeout=TIMEOUT_S, concurrent=True)
            if match.end() > match.start()
        ]
    except TimeoutError:
        return Thoughts(text)
    if not spans:
        return Thoughts(text)
    starts, ends = zip(*spans, strict=True)
    pieces = zip((0, *ends), (*starts, len(text)), strict=True)
    return Thoughts(
        "".join(text[start:end] for start, end in pieces).strip(),
        "\n".join(text[start:end] for start, end in spans),
    )
