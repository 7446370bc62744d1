"""Numbers of payment cards, by their first digits, length and checksum (ISO/IEC 7812)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from router.loop.checks.findings import Span, matches
from router.loop.checks.folding import FoldedText

# Digits in groups; single blanks and dashes stand between them.
_GROUPS = re.compile(r"(?<![0-9])[0-9](?:[ .-]?[0-9]){12,400}")
_GROUP = re.compile(r"[0-9]+")
_LENGTHS = range(13, 20)
# Visa, Mastercard (two series), American Express, Diners, JCB, Discover, UnionPay, Maestro, Mir.
_FIRST = re.compile(
    r"4|5[0-8]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|3[47]|30[0-5]|309|3[689]|35|6|220[0-4]|81"
)
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def payment_cards(folded: FoldedText) -> Iterator[Span]:
    """Yield the card numbers of a text: whole groups of digits, also among others."""
    for match in matches(_GROUPS, folded.text):
        yield from _cards(folded.text, list(_GROUP.finditer(folded.text, *match.span())))


def _cards(text: str, groups: list[re.Match[str]]) -> Iterator[Span]:
    for first, group in enumerate(groups):
        if not _FIRST.match(text, group.start()):
            continue
        number = ""
        for last in groups[first:]:
            number += last[0]
            if len(number) > _LENGTHS[-1]:
                break
            if len(number) in _LENGTHS and _is_valid(number):
                yield Span(group.start(), last.end(), number)


def _is_valid(number: str) -> bool:
    """Return whether a number's last digit is the one that Luhn's formula gives."""
    if len(set(number)) == 1:
        return False
    digits = [int(digit) for digit in reversed(number)]
    return (sum(digits[::2]) + sum(_DOUBLED[digit] for digit in digits[1::2])) % 10 == 0
