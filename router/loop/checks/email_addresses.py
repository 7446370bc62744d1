"""E-mail addresses, also as people hide them from robots: `ann (at) example (dot) org`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from router.loop.checks.findings import Span, matches
from router.loop.checks.folding import FoldedText

_AT = re.compile(r"@|%40|[ \t]?[\[({<][ \t]?(?:at|@)[ \t]?[\])}>][ \t]?", re.IGNORECASE)
_DOT = r"(?:\.|[ \t]?[\[({<][ \t]?(?:dot|\.)[ \t]?[\])}>][ \t]?)"
_DOMAIN = re.compile(rf"(?:[\w-]{{1,63}}{_DOT}){{1,8}}[\w-]{{2,63}}", re.IGNORECASE)
_DOTS = re.compile(_DOT, re.IGNORECASE)
_MAX_LOCAL = 64
_MAX_DOMAIN = 300
_MARKS = frozenset("._%+-'~")
# A quoted name may have anything before the @.
_QUOTED = re.compile(r'"[^"\n]{1,62}"\Z')


def email_addresses(folded: FoldedText) -> Iterator[Span]:
    """Yield the e-mail addresses of a text."""
    text = folded.text
    for match in matches(_AT, text):
        start = _start(text, match.start())
        domain = _DOMAIN.match(text, match.end(), match.end() + _MAX_DOMAIN)
        if start == match.start() or domain is None:
            continue
        end = _end(text, domain)
        if end:
            host = _DOTS.sub(".", text[match.end() : end])
            yield Span(start, end, f"{text[start : match.start()]}@{host}".casefold())


def _start(text: str, end: int) -> int:
    """Return where the name before an @ starts."""
    if text[end - 1 : end] == '"':
        quoted = _QUOTED.search(text, max(0, end - _MAX_LOCAL), end)
        return quoted.start() if quoted else end
    start, lowest = end, max(0, end - _MAX_LOCAL)
    unspaced = end > 0 and _is_unspaced(text[end - 1])
    while start > lowest:
        character = text[start - 1]
        # Words of scripts without blanks stand next to an address.
        if not (character.isalnum() or character in _MARKS) or (
            _is_unspaced(character) != unspaced and character not in _MARKS
        ):
            break
        start -= 1
    while start < end and text[start] in _MARKS:
        start += 1
    return start


def _end(text: str, domain: re.Match[str]) -> int:
    """Return where a domain ends; 0 where the text is no domain."""
    end = domain.end()
    dots = list(_DOTS.finditer(text, domain.start(), end))
    start = dots[-1].end()
    first = text[start]
    for place in range(start, end):
        if _is_unspaced(text[place]) != _is_unspaced(first):
            end = place
            break
    label = text[start:end].rstrip("-_")
    return start + len(label) if any(map(str.isalpha, label)) else 0


def _is_unspaced(character: str) -> bool:
    """Return whether a character is of a script whose words stand without blanks, or of Korean."""
    return character >= "\u2e80" or "\u0e00" <= character <= "\u0eff"
