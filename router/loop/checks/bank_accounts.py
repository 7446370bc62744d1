"""International bank account numbers (ISO 13616), by their length and checksum."""

from __future__ import annotations

import re
from collections.abc import Iterator

from router.loop.checks.findings import Span, matches
from router.loop.checks.folding import FoldedText

_FIRST = re.compile(r"(?<![A-Z0-9])([A-Z]{2})[ -]?[0-9]{2}", re.IGNORECASE)
_CHARACTER = re.compile(r"[ .-]?([A-Z0-9])", re.IGNORECASE)

# SWIFT's registry of IBAN formats, and the countries that use the form without being in it.
_LENGTHS = {
    length: frozenset(countries.split())
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FK FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
}
_LENGTH_OF = {country: length for length, countries in _LENGTHS.items() for country in countries}


def bank_accounts(folded: FoldedText) -> Iterator[Span]:
    """Yield the account numbers of a text."""
    text = folded.text
    for match in matches(_FIRST, text):
        length = _LENGTH_OF.get(match[1].upper())
        if length is None:
            continue
        end = match.end()
        number = f"{match[1]}{match[0][-2:]}"
        while len(number) < length:
            character = _CHARACTER.match(text, end)
            if character is None:
                break
            number += character[1]
            end = character.end()
        if len(number) == length and _is_valid(number.upper()):
            yield Span(match.start(), end, number.upper())


def _is_valid(number: str) -> bool:
    digits = "".join(str(int(character, 36)) for character in number[4:] + number[:4])
    return int(digits) % 97 == 1
