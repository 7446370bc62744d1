r"""Counts the markdown of an answer: judges are known to like it, whatever the answer says.

elements("# Title\n- **one**\n- two")      -> 4
"""

from __future__ import annotations

import re

_ELEMENT = re.compile(
    r"^\s{0,3}#{1,6}\s"  # a heading
    r"|^\s*(?:[-*+]|\d{1,3}[.)])\s"  # an item of a list
    r"|\*\*(?=\S)[^*\n]+\*\*|__(?=\S)[^_\n]+__",  # bold words
    re.MULTILINE,
)


def elements(text: str) -> int:
    """Return the number of headings, items of lists and bold words in a text."""
    return sum(1 for _ in _ELEMENT.finditer(text))
