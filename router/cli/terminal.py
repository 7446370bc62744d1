"""Text from outside, made harmless for a terminal.

A model's answer may hold anything: escape sequences that change the terminal's title, its clipboard
or what was printed before, and characters that reverse what is read.
"""

from __future__ import annotations

import re

# Control characters but for line feed and tab; those of C1, which some terminals obey; what changes
# the direction of text; and halves of surrogate pairs, which cannot be written.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


_LINE_ENDS = re.compile("[\n\t\u2028\u2029]")


def harmless(text: str) -> str:
    """Return the text with a visible sign for each character that a terminal would act on."""
    return _UNSAFE.sub(_sign, text.replace("\r\n", "\n"))


def single_line(text: str) -> str:
    """Return the text likewise, in which no line ends: others cannot write lines of their own."""
    return _LINE_ENDS.sub(_sign, harmless(text))


def _sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        # Unicode's pictures of control characters.
        return chr(0x2400 + code)
    return "\N{SYMBOL FOR DELETE}" if code == 0x7F else "\N{REPLACEMENT CHARACTER}"
