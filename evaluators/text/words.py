"""The words of a text in any script, by Unicode's rules for word boundaries (UAX #29).

    words("Paris is big.")      # ["Paris", "is", "big."]
    words("北京 is big")         # ["北", "京", "is", "big"]

Blank space separates words, as the published metrics have it. Only a piece with letters of a script
that is written without blanks is divided further, so English words are those of the references.
"""

from __future__ import annotations

from importlib.metadata import version

import regex

_WITHOUT_BLANKS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Tibetan}\p{Line_Break=SA}"
_UNSPACED = regex.compile(f"[{_WITHOUT_BLANKS}]")
_BOUNDARY = regex.compile(r"\b", regex.WORD | regex.V1)
_RUN = regex.compile(r"\w+")
# Other symbols, emoji among them, are words.
_NO_WORD = regex.compile(r"[\p{P}\p{Z}\p{C}$+<=>^`|~＄＋＜＝＞＾｀｜～]*")  # noqa: RUF001  # full-width
# Zero-width spaces, soft hyphens and signs of direction. Joiners are no such characters: they
# change what is seen.
_INVISIBLE = regex.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
)
_PARTICLE = regex.compile(r"\p{Hangul}{2}")

# Part of the signatures of the metrics that use this module.
SIGNATURE = f"uax29|regex:{version('regex')}"


def words(text: str) -> list[str]:
    """Return the text's words.

    Punctuation stays attached to the words that blank space separates, and is dropped from the
    pieces that are divided.
    """
    pieces = text.split()
    if text.isascii() or not _UNSPACED.search(text):
        return pieces
    divided: list[str] = []
    for piece in pieces:
        if _UNSPACED.search(piece):
            divided += [part for part in _divided(piece) if not _NO_WORD.fullmatch(part)]
        else:
            divided.append(piece)
    return divided


def without_invisible(text: str) -> str:
    """Return the text without the characters that nobody sees, which copied texts are full of."""
    return text if text.isascii() else _INVISIBLE.sub("", text)


def is_blank(text: str) -> bool:
    """Return whether nothing of the text can be seen."""
    return not without_invisible(text).strip()


def letters_and_digits(text: str) -> list[str]:
    """Return the text's words without any punctuation, as runs of letters, marks and digits."""
    return [word for run in _RUN.findall(text) for word in words(run)]


def has_words(text: str, part: str) -> bool:
    """Return whether the text contains the part from one word boundary to another.

    Korean attaches particles to a word, so there the part may end inside one.
    """
    start = text.find(part)
    while start >= 0:
        end = start + len(part)
        if (part[0].isspace() or _is_boundary(text, start)) and (
            part[-1].isspace() or _is_boundary(text, end) or _PARTICLE.match(text, end - 1)
        ):
            return True
        start = text.find(part, start + 1)
    return False


def is_unspaced(text: str) -> bool:
    """Return whether more than half of the letters belong to scripts written without blanks."""
    return 2 * unspaced_letters(text) > sum(map(str.isalpha, text))


def unspaced_letters(text: str) -> int:
    """Count the letters that belong to scripts written without blanks."""
    return 0 if text.isascii() else len(_UNSPACED.findall(text))


def _divided(piece: str) -> list[str]:
    ends = [match.start() for match in _BOUNDARY.finditer(piece)]
    return [piece[start:end] for start, end in zip([0, *ends], [*ends, len(piece)], strict=True)]


def _is_boundary(text: str, at: int) -> bool:
    return at in (0, len(text)) or _BOUNDARY.match(text, at) is not None
