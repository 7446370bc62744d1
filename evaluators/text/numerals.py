r"""The numbers in a text, in the digits and with the separators of any locale.

numerals("1 Mio. = 1.000.000,00", decimal=",")[-1].value     # 1000000.0
numerals(r"about 1.5 \times 10^3, or 3/4 of that", decimal=".")     # 1500.0 and 0.75
"""

from __future__ import annotations

import math
import unicodedata
from typing import Literal, NamedTuple

import regex

DecimalSign = Literal[".", ","]
Pick = Literal["last", "first"]

COMMA_NOTE = "a decimal comma may have been read as one between numbers; see the option decimal"
"""The note of a metric on numbers that are `beside_comma`."""

_UNITS = {
    "十": 10,
    "拾": 10,
    "廿": 20,
    "卅": 30,
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
_MINUS = "-\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"
_SLASH = "/\u2044\u2215"
_SUPERSCRIPTS = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
_FROM_SUPERSCRIPT = str.maketrans(f"\u207a\u207b{_SUPERSCRIPTS}", "+-0123456789")

# A sign belongs to the number only where no digit or letter is before it: 3-4 is not 3 and -4.
# Scripts without blanks write letters next to digits, as Arabic and Korean do with particles, and
# Markdown writes _ around a word.
_START = (
    r"(?:(?<![[\w.DEC]--[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Arabic}\p{Line_Break=SA}"
    r"--\p{N}]])|(?<=(?<![\w.DEC])_))"
    rf"(?:(?P<sign>[{_MINUS}+\uff0b])(?:\\?\p{{Sc}}\ ?)?)?"
)
_POWER_OF_TEN = (
    rf"10(?:(?:\^|\*\*)\{{?(?P<power>[{_MINUS}+]?\d{{1,3}})\}}?"
    rf"|(?P<power>[\u207a\u207b]?[{_SUPERSCRIPTS}]{{1,3}}))"
)
_END = (
    rf"(?:[eE](?P<power>[{_MINUS}+]?\d{{1,3}})"
    rf"|\ ?(?:[\u00d7xX*\u00b7\u22c5]|\\times|\\cdot)\ ?{_POWER_OF_TEN})?"
    r"(?P<unit>[十百千백천]?[万萬만亿億억兆]|[百千백천])?"
)
# Not a date: 1/2/2024.
_FRACTIONS = (
    rf"(?<!\d\ ?[{_SLASH}]\ ?)(?:(?P<mixed>\d{{1,9}})\ )?(?P<whole>\d{{1,9}})\ ?[{_SLASH}]\ ?"
    rf"(?P<below>\d{{1,9}})(?!\d|[.,]\d|\ ?[{_SLASH}]\ ?\d)",
    rf"(?:(?P<mixed>\d{{1,9}})[\ {_NO_BREAK}]?)?(?P<vulgar>[\u00bc-\u00be\u2150-\u215e\u2189])",
)


def _pattern(decimal: str) -> regex.Pattern[str]:
    """Return the pattern of a number where the decimals begin with `decimal` unless it is clear."""
    other = "," if decimal == "." else "."
    dec, grp = regex.escape(decimal), regex.escape(other)
    # Blank space also separates two numbers: it groups where commas would, or when it repeats.
    blank = r"(?:\ \d{3})+" if decimal == "," else r"(?:\ \d{3}){2,}"
    decimals = rf"(?:[{dec}{_ARABIC_DECIMAL}](?P<decimals>\d+))?"
    # What groups is neither a full stop nor a comma, so either begins the decimals.
    any_decimals = rf"(?:[.,{_ARABIC_DECIMAL}](?P<decimals>\d+))?"
    forms = [
        *_FRACTIONS,
        f"(?P<whole>){_POWER_OF_TEN}",
        # The separators' roles show: 1.234,5 and 1.234.567 where decimals begin with a full stop.
        rf"(?P<whole>\d{{1,3}}(?:{dec}\d{{3}})+){grp}(?P<decimals>\d{{1,2}}|\d{{4,}})(?!\d)",
        rf"(?P<whole>\d{{1,3}}(?:{dec}\d{{3}}){{2,}}){grp}(?P<decimals>\d+)(?!\d)",
        rf"(?P<whole>\d{{1,3}}(?:{dec}\d{{3}}){{2,}})(?![\d{dec}]|{grp}\d)",
        # In the Indian way.
        r"(?P<whole>\d{1,2}(?:,\d{2}){1,8},\d{3})(?!\d)(?:\.(?P<decimals>\d+))?",
        # No group follows a zero.
        rf"(?P<whole>0){grp}(?P<decimals>\d{{3}})(?!\d|[.,]\d)",
        rf"(?P<whole>\d{{1,3}}(?:(?P<group>[{_APOSTROPHES}{_ARABIC_GROUP}{_NO_BREAK}_])\d{{3}})"
        rf"(?:(?P=group)\d{{3}})*)(?!\d){any_decimals}",
        rf"(?P<whole>\d{{1,3}}(?:{grp}\d{{3}})+)(?!\d){decimals}",
        rf"(?P<whole>\d{{1,3}}(?:\ \d{{3}}){{2,}})(?!\d){any_decimals}",
        rf"(?P<whole>\d{{1,3}}{blank})(?!\d){decimals}",
    ]
    if decimal == ",":
        # No group has a full stop before anything but three digits, nor after more than three.
        forms += [
            r"(?P<whole>\d+)\.(?P<decimals>\d{1,2}|\d{4,})(?!\d)",
            r"(?P<whole>\d{4,})\.(?P<decimals>\d{3})(?!\d)",
        ]
    forms += [
        rf"(?P<whole>\d+){decimals}",
        rf"(?P<whole>)(?<!\d\ )[{dec}.](?P<decimals>\d+)",
    ]
    start = _START.replace("DEC", dec)
    return regex.compile(f"{start}(?:{'|'.join(forms)}){_END}", regex.V1)


_PATTERNS = {".": _pattern("."), ",": _pattern(",")}
_FULL_WIDTH = regex.compile(r"(?<=[０-９])[，．](?=[０-９])")  # noqa: RUF001  # of full-width numbers
_LATEX_FRACTION = regex.compile(
    r"(?<mixed>\d ?)?\\[dt]?frac ?(?:\{ ?(\d{1,9}) ?\} ?\{ ?(\d{1,9}) ?\}|(\d)(\d))"
)
_LATEX_GROUP = regex.compile(r"(?<=\d)(?:(\{,\}|,\\!)|\\,)(?=\d{3})")
_SPOKEN_FRACTION = regex.compile(r"(\d{1,9}) ?(?:分之|分の|분의) ?(\d{1,9})")
_SIGNED = "负負"
_CHARACTER = f"[{''.join(_DIGITS)}十拾廿卅百佰千仟][{''.join(_DIGITS)}{''.join(_UNITS)}]*"
_CHARACTERS = regex.compile(
    rf"[{_SIGNED}]?(?:(?:百分之|(?P<below>{_CHARACTER})分(?:之|の))"
    rf"(?P<above>{_CHARACTER}(?:[点點][{''.join(_DIGITS)}]+)?)"
    rf"|(?P<above>{_CHARACTER}(?:[点點][{''.join(_DIGITS)}]+)?))"
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
    plain = _plain(text)
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
    return [Numeral(_characters(match)) for match in _CHARACTERS.finditer(plain)]


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


def _plain(text: str) -> str:
    """Return the text with the signs of full-width numbers, LaTeX and spoken fractions as usual."""
    text = _FULL_WIDTH.sub(lambda sign: "," if sign[0] == "，" else ".", text)  # noqa: RUF001
    if "\\" in text or "{" in text:
        text = _LATEX_GROUP.sub(lambda sign: "," if sign[1] else "\u202f", text)
        text = _LATEX_FRACTION.sub(_fraction, text)
    return _SPOKEN_FRACTION.sub(r"\2/\1", text)


def _fraction(match: regex.Match[str]) -> str:
    whole = f"{match['mixed'].strip()} " if match["mixed"] else ""
    return f"{whole}{match[2] or match[4]}/{match[3] or match[5]}"


def _value(match: regex.Match[str]) -> tuple[float, float]:
    """Return the number, and the unit that it is multiplied by (0 without one)."""
    power = (match["power"] or "0").translate(_FROM_SUPERSCRIPT)
    power = power.replace(power[0], "-") if power[0] in _MINUS else power
    number = _unsigned(match, int(power))
    unit = 1.0
    for sign in match["unit"] or "":
        unit *= _UNITS[sign]
    if match["sign"] and match["sign"] in _MINUS:
        number = -number
    return number * unit, unit if match["unit"] else 0.0


def _unsigned(match: regex.Match[str], power: int) -> float:
    if match["vulgar"]:
        return int(match["mixed"] or 0) + unicodedata.numeric(match["vulgar"])
    whole = "".join(filter(str.isdigit, match["whole"]))
    if match["below"]:
        below = int(match["below"])
        # Nothing is divided by zero.
        return int(match["mixed"] or 0) + int(whole) / below if below else math.inf
    if not whole and not match["decimals"]:
        whole = "1"
    return float(f"{whole}.{match['decimals'] or '0'}e{power}")


def _is_beside_comma(text: str, start: int, end: int) -> bool:
    before = start > 1 and text[start - 1] == "," and text[start - 2].isdigit()
    return before or (text[end : end + 1] == "," and text[end + 1 : end + 2].isdigit())


def _characters(match: regex.Match[str]) -> float:
    """Return the value of a number in Chinese characters: 三百二十, 二〇二四 and 三分之一."""
    value = _in_characters(match["above"])
    if match["below"]:
        below = _in_characters(match["below"])
        value = value / below if below else math.inf
    return -value if match[0][0] in _SIGNED else value


def _in_characters(text: str) -> float:
    whole, _, decimals = text.replace("點", "点").partition("点")
    if not any(sign in _UNITS for sign in whole):
        value = float("".join(str(_DIGITS[sign]) for sign in whole) or "0")
    else:
        value = float(_with_units(whole))
    if decimals:
        value += float("0." + "".join(str(_DIGITS[sign]) for sign in decimals))
    return value


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
