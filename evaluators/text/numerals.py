"""The numbers in a text, in the digits and with the separators of any locale.

numerals("1 Mio. = 1.000.000,00", decimal=",")[-1].value     # 1000000.0
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import regex

DecimalSign = Literal[".", ","]
Pick = Literal["last", "first"]

COMMA_NOTE = "a decimal comma may have been read as one between numbers; see the option decimal"
"""The note of a metric on numbers that are `beside_comma`."""

_UNITS = {
    "十": 10,
    "拾": 10,
    "百": 100,
    "佰": 100,
    "백": 100,
    "千": 1000,
    "仟": 1000,
    "천": 1000,
    "万": 10**4,
    "萬": 10**4,
    "만": 10**4,
    "亿": 10**8,
    "億": 10**8,
    "억": 10**8,
    "兆": 10**12,
}
_DIGITS = {
    digit: value
    for value, digits in enumerate(
        ("〇零", "一壹", "二两兩贰貳", "三叁參", "四肆", "五伍", "六陆陸", "七柒", "八捌", "九玖")
    )
    for digit in digits
}
_NO_BREAK = "\u00a0\u2007\u2009\u202f"
_APOSTROPHES = "'\u2019"
_ARABIC_GROUP, _ARABIC_DECIMAL = "\u066c", "\u066b"

# A sign belongs to the number only where no digit or letter is before it: 3-4 is not 3 and -4.
# Scripts without blanks write letters next to digits, as Arabic and Korean do with particles.
_START = (
    r"(?<![[\w.DEC]--[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Arabic}\p{Line_Break=SA}--\p{N}]])"
    r"(?P<sign>[-+\u2212\uff0d\uff0b]?)"
)
_END = r"(?:[eE](?P<exponent>[-+]?\d{1,3}))?(?P<unit>[十百千백천]?[万萬만亿億억兆]|[百千백천])?"


def _pattern(decimal: str) -> regex.Pattern[str]:
    """Return the pattern of a number where the decimals begin with `decimal` unless it is clear."""
    other = "," if decimal == "." else "."
    dec, grp = regex.escape(decimal), regex.escape(other)
    # Blank space also separates two numbers: it groups where commas would, or when it repeats.
    blank = r"(?:\ \d{3})+" if decimal == "," else r"(?:\ \d{3}){2,}"
    decimals = rf"(?:[{dec}{_ARABIC_DECIMAL}](?P<decimals>\d+))?"
    forms = (
        # The separators' roles show: 1.234,5 and 1.234.567 where decimals begin with a full stop.
        rf"(?P<whole>\d{{1,3}}(?:{dec}\d{{3}})+){grp}(?P<decimals>\d{{1,2}}|\d{{4,}})(?!\d)",
        rf"(?P<whole>\d{{1,3}}(?:{dec}\d{{3}}){{2,}}){grp}(?P<decimals>\d+)(?!\d)",
        rf"(?P<whole>\d{{1,3}}(?:{dec}\d{{3}}){{2,}})(?![\d{dec}]|{grp}\d)",
        *((r"(?P<whole>\d{1,2}(?:,\d{2})+,\d{3})(?!\d)" + decimals,) if decimal == "." else ()),
        rf"(?P<whole>\d{{1,3}}(?:(?P<group>[{grp}{_APOSTROPHES}{_ARABIC_GROUP}{_NO_BREAK}])\d{{3}})"
        rf"(?:(?P=group)\d{{3}})*)(?!\d){decimals}",
        rf"(?P<whole>\d{{1,3}}{blank})(?!\d){decimals}",
        rf"(?P<whole>\d+){decimals}",
        # No group has a full stop before anything but three digits.
        *((r"(?P<whole>\d+)\.(?P<decimals>\d{1,2}|\d{4,})(?!\d)",) if decimal == "," else ()),
    )
    if decimal == ",":
        forms = (*forms[:-2], forms[-1], forms[-2])
    start = _START.replace("DEC", dec)
    return regex.compile(f"{start}(?:{'|'.join(forms)}){_END}", regex.V1)


_PATTERNS = {".": _pattern("."), ",": _pattern(",")}
_FULL_WIDTH = regex.compile(r"(?<=[０-９])[，．](?=[０-９])")  # noqa: RUF001  # of full-width numbers
_CHARACTERS = regex.compile(
    f"[負负]?[{''.join(_DIGITS)}十拾百佰千仟][{''.join(_DIGITS)}{''.join(_UNITS)}]*"
    f"(?:[点點][{''.join(_DIGITS)}]+)?"
)


class Numeral(NamedTuple):
    """A number of a text.

    Attributes:
        value: may be infinite.
        beside_comma: whether only a comma separates it from another digit, so that both may be one
            number with a decimal comma.
    """

    value: float
    beside_comma: bool = False


def numerals(text: str, *, decimal: DecimalSign) -> list[Numeral]:
    """Return the numbers of a text in order.

    Args:
        text: in any script.
        decimal: the character that begins decimals where a number may be read in two ways.
    """
    plain = _FULL_WIDTH.sub(lambda sign: "," if sign[0] == "，" else ".", text)  # noqa: RUF001
    numbers: list[Numeral] = []
    end, unit = -1, 0.0
    for match in _PATTERNS[decimal].finditer(plain):
        value, size = _value(match)
        if match.start() == end and abs(value) < unit:
            # 1億2000万 is one number.
            last = numbers[-1].value
            numbers[-1] = Numeral(last + value if last >= 0 else last - value)
        else:
            numbers.append(Numeral(value, _is_beside_comma(plain, match.start(), match.end())))
        end, unit = match.end(), size
    if numbers:
        return numbers
    return [Numeral(_characters(match[0])) for match in _CHARACTERS.finditer(plain)]


def picked_numeral(text: str, *, pick: Pick, decimal: DecimalSign) -> Numeral | None:
    """Return the last or first number of a text; None where it has none or a float cannot hold it.

    Args:
        text: in any script.
        pick: the place of the number.
        decimal: as in `numerals`.
    """
    numbers = numerals(text, decimal=decimal)
    number = numbers[-1 if pick == "last" else 0] if numbers else None
    return number if number is not None and math.isfinite(number.value) else None


def _value(match: regex.Match[str]) -> tuple[float, float]:
    """Return the number, and the unit that it is multiplied by (0 without one)."""
    whole = "".join(filter(str.isdigit, match["whole"]))
    exponent = f"e{match['exponent']}" if match["exponent"] else ""
    number = float(f"{whole}.{match['decimals'] or '0'}{exponent}")
    unit = 1.0
    for sign in match["unit"] or "":
        unit *= _UNITS[sign]
    if match["sign"] in ("-", "\u2212", "\uff0d"):
        number = -number
    return number * unit, unit if match["unit"] else 0.0


def _is_beside_comma(text: str, start: int, end: int) -> bool:
    before = start > 1 and text[start - 1] == "," and text[start - 2].isdigit()
    return before or (text[end : end + 1] == "," and text[end + 1 : end + 2].isdigit())


def _characters(text: str) -> float:
    """Return the value of a number in Chinese characters: 三百二十 and 二〇二四."""
    negative = text[0] in "負负"
    whole, _, decimals = text.strip("負负").replace("點", "点").partition("点")
    if not any(sign in _UNITS for sign in whole):
        value = float("".join(str(_DIGITS[sign]) for sign in whole) or "0")
    else:
        value = float(_with_units(whole))
    if decimals:
        value += float("0." + "".join(str(_DIGITS[sign]) for sign in decimals))
    return -value if negative else value


def _with_units(text: str) -> int:
    total = section = digit = 0
    for sign in text:
        unit = _UNITS.get(sign)
        if unit is None:
            digit = _DIGITS[sign]
        elif unit < 10**4:
            section, digit = section + (digit or 1) * unit, 0
        else:
            total, section, digit = total + (section + digit or 1) * unit, 0, 0
    return total + section + digit
