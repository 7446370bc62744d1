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
    digits = "".join(group[0] for group in groups)
    sums = _luhn_sums(digits)
    start = 0
    for first, group in enumerate(groups):
        if _FIRST.match(text, group.start()):
            end = start
            for last in groups[first : first + _LENGTHS[-1]]:
                end += last.end() - last.start()
                if end - start > _LENGTHS[-1]:
                    break
                if end - start in _LENGTHS and _is_valid(digits, sums, start, end):
                    yield Span(group.start(), last.end(), digits[start:end])
        start += group.end() - group.start()


def _luhn_sums(digits: str) -> tuple[list[int], list[int]]:
    """Return Luhn's sums of the first digits, of none to all.

    Digits at odd places are doubled in the first list, those at even places in the other. So a
    number's sum is the difference of two of them, whatever stands before it.
    """
    odd, even = [0], [0]
    for place, digit in enumerate(map(int, digits)):
        doubled = _DOUBLED[digit]
        odd.append(odd[-1] + (doubled if place % 2 else digit))
        even.append(even[-1] + (digit if place % 2 else doubled))
    return odd, even


def _is_valid(digits: str, sums: tuple[list[int], list[int]], start: int, end: int) -> bool:
    """Return whether a number's last digit is the one that Luhn's formula gives."""
    # The last digit is not doubled.
    those = sums[(end - 1) % 2]
    is_right = (those[end] - those[start]) % 10 == 0
    return is_right and digits.count(digits[start], start, end) < end - start
