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
    rf"{_UNQUOTED}(?:</\s?{_NAMES}\s?>|\[/THINK\]|\u25c1/think\u25b7"
    r"|<\|(?:/think(?:ing)?|end_of_thought|END_THINKING)\|>|<channel\|>|<unused95>"
    r"|<\|channel\|>final(?:\s?<\|constrain\|>\w{1,20})?<\|message\|>)",
    re.IGNORECASE,
)
THOUGHT_BEGIN = re.compile(
    rf"{_UNQUOTED}(?:<\s?{_NAMES}(?:\s[^<>]{{0,200}})?>|\[THINK\]|\u25c1think\u25b7"
    r"|<\|(?:think(?:ing)?|begin_of_thought|START_THINKING)\|>"
    r"|(?:<\|channel>|<unused94>)(?:thought)?"
    r"|<\|channel\|>(?:analysis|commentary)[^<]{0,200}<\|message\|>)",
    re.IGNORECASE,
)
# What templates write between thoughts and answers.
_MARKS = (
    "<|start|>assistant",
    "<|end|>",
    "<|return|>",
    "<|im_end|>",
    "<|begin_of_solution|>",
    "<|end_of_solution|>",
    "<|START_RESPONSE|>",
    "<|END_RESPONSE|>",
)


class Thoughts(NamedTuple):
    """An answer without its thoughts.

    Attributes:
        text: what follows the last thought; the whole text, unchanged, without any.
        thinking: the thoughts, without their tags.
        unfinished: whether nothing is left beside the thoughts.
    """

    text: str
    thinking: str = ""
    unfinished: bool = False


def split_thoughts(text: str, pattern: regex.Pattern[str] | None = None) -> Thoughts:
    """Split off everything up to the end of the last thought, and a thought without an end.

    Where nothing follows, the answer is what is written before the first thought.

    Args:
        text: as a model wrote it.
        pattern: what a thought is, instead of the usual tags; each match is one.

    Raises:
        TimeoutError: the pattern takes too long on this text.
    """
    if pattern is not None:
        return _by_pattern(text, pattern)
    ends = list(THOUGHT_END.finditer(text))
    begin = THOUGHT_BEGIN.search(text)
    if not ends and begin is None:
        return Thoughts(text)
    rest, thinking = text, ""
    if ends:
        thinking = THOUGHT_BEGIN.sub("", text[: ends[-1].start()], count=1)
        rest = text[ends[-1].end() :]
    last = THOUGHT_BEGIN.search(rest)
    if last is not None:
        thinking = f"{thinking}\n{rest[last.end() :]}"
        rest = rest[: last.start()]
    rest = _plain(rest)
    if not rest and ends and begin is not None and begin.start() < ends[0].start():
        # An answer may be written before the thoughts about it.
        rest = _plain(text[: begin.start()])
        thinking = thinking.strip().removeprefix(rest)
    return Thoughts(rest, _plain(thinking), unfinished=not rest)


def _plain(text: str) -> str:
    """Return the text without blank space and marks of templates at its ends."""
    start, end = 0, len(text)
    while start < end:
        mark = next((mark for mark in _MARKS if text.startswith(mark, start, end)), "")
        if not mark and not text[start].isspace():
            break
        start += len(mark) or 1
    while start < end:
        mark = next((mark for mark in _MARKS if text.endswith(mark, start, end)), "")
        if not mark and not text[end - 1].isspace():
            break
        end -= len(mark) or 1
    return text[start:end]


def _by_pattern(text: str, pattern: regex.Pattern[str]) -> Thoughts:
    spans = [
        match.span()
        for match in pattern.finditer(text, timeout=TIMEOUT_S, concurrent=True)
        if match.end() > match.start()
    ]
    if not spans:
        return Thoughts(text)
    starts, ends = zip(*spans, strict=True)
    pieces = zip((0, *ends), (*starts, len(text)), strict=True)
    rest = "".join(text[start:end] for start, end in pieces).strip()
    thinking = "\n".join(text[start:end] for start, end in spans)
    return Thoughts(rest, thinking, unfinished=not rest)
