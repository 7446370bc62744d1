"""Telephone numbers, by the plans of all countries (phonenumbers, Google's libphonenumber).

Numbers with a country's code are recognised everywhere, others as they are written in the countries
that are named, or after a word such as "phone". Numbers after such a word need not be possible:
people who leave theirs mistype it, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache

from router.loop.checks.findings import Span, matches
from router.loop.checks.folding import FoldedText

_SEPARATORS = r"[ \t()./-]{0,3}"
_CANDIDATE = re.compile(rf"(?<![0-9])[+(]{{0,2}}[0-9](?:{_SEPARATORS}[0-9]){{6,16}}(?![0-9])")
_GROUP = re.compile(r"[+(]*[0-9]+")
_NO_DIGIT = re.compile(r"[^0-9]+")
_WORDS = re.compile(
    r"(?:phone|tele?fo\w{1,3}|tele?fax|fax|mobile?|cell|call|whatsapp|signal|sms|handy|"
    r"m[oó]vil|celular|cellulare|portable|telefono|тел(?:ефон)?|номер|电话|電話|手机|手機|携帯|"
    r"휴대폰|전화|फ़?ोन|मोबाइल|هاتف|جوال|טלפון|☎|📞|☏|📱|\btel)"
    r"[^0-9+\n]{0,16}\Z",
    re.IGNORECASE,
)
_CONTEXT = 32
_DATE = re.compile(
    r"(?:(?:19|20)[0-9]{2}[-./ ][0-9]{1,2}[-./ ][0-9]{1,2}|[0-9]{1,2}[-./ ][0-9]{1,2}[-./ ]"
    r"(?:19|20)[0-9]{2}|(?:19|20)[0-9]{2} ?[-/] ?(?:19|20)[0-9]{2})(?![0-9])"
)
# So many numbers of a text are looked up, which takes a tenth of a millisecond for each country.
# Of further ones all are taken for telephone numbers.
_LOOKED_UP = 200
# Countries where people leave out the 0 that begins a number in others.
_WITHOUT_ZERO = frozenset(["BR", "CN", "IN"])
_FEWEST, _MAX_DIGITS = 7, 15


def phone_numbers(folded: FoldedText, countries: Sequence[str]) -> Iterator[Span]:
    """Yield the telephone numbers of a text.

    Args:
        folded: the text.
        countries: ISO 3166 codes of those whose numbers are recognised without a country's code.
    """
    text, looked_up = folded.text, 0
    for match in matches(_CANDIDATE, text):
        for start, end in _parts(text, match):
            candidate = text[start:end]
            digits = _NO_DIGIT.sub("", candidate)
            if not _FEWEST <= len(digits) <= _MAX_DIGITS or _DATE.match(candidate):
                continue
            named = _WORDS.search(text, max(0, start - _CONTEXT), start) is not None
            if not named and not _looks_national(candidate, digits):
                continue
            looked_up += 1
            value = (
                _number(candidate, digits, tuple(countries)) if looked_up <= _LOOKED_UP else digits
            )
            if value or named:
                yield Span(start, end, value or digits)
                break


def _parts(text: str, match: re.Match[str]) -> Iterator[tuple[int, int]]:
    """Yield the whole match, then it without its first groups: numbers may stand before one."""
    yield match.span()
    for group, _ in zip(list(_GROUP.finditer(text, *match.span()))[1:], range(3), strict=False):
        yield group.start(), match.end()


def _looks_national(candidate: str, digits: str) -> bool:
    """Return whether digits are written as those of a telephone, and not as any other number."""
    return candidate[0] in "+(0" or (len(digits) < len(candidate) and "." not in candidate[:2])


@lru_cache(1024)
def _number(candidate: str, digits: str, countries: tuple[str, ...]) -> str | None:
    """Return a number with its country's code; None where it is no country's."""
    international = candidate.lstrip("(").startswith("+") or digits.startswith("00")
    if international:
        return _with_code(digits.removeprefix("00"))
    for country in countries:
        if not digits.startswith("0") and _begins_with_zero(country):
            continue
        value = _valid(digits, country)
        if value is not None:
            return value
    return None


def _with_code(digits: str) -> str | None:
    import phonenumbers  # noqa: PLC0415  # its import takes a tenth of a second

    try:
        number = phonenumbers.parse(f"+{digits}")
    except phonenumbers.NumberParseException:
        return None
    return f"+{digits}" if phonenumbers.is_possible_number(number) else None


def _valid(digits: str, country: str) -> str | None:
    import phonenumbers  # noqa: PLC0415  # its import takes a tenth of a second

    try:
        number = phonenumbers.parse(digits, country)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


@cache
def _begins_with_zero(country: str) -> bool:
    """Return whether numbers of a country begin with 0 where they have no country's code."""
    import phonenumbers  # noqa: PLC0415  # its import takes a tenth of a second

    metadata = phonenumbers.PhoneMetadata.metadata_for_region(country)
    return country not in _WITHOUT_ZERO and metadata is not None and metadata.national_prefix == "0"
