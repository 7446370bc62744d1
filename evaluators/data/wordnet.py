"""Synonyms by WordNet 3.0, read from its own files: the words that NLTK's `synsets` would give.

    synonyms = read(folder)        # a fifth of a second
    synonyms("cars")               # frozenset({"cars", "car", "auto", "automobile", ...})

NLTK's reader takes some seconds more, and loads data that METEOR does not use.
`language_data.py` says where the files come from; the manual pages wndb(5) and morphy(7) describe
their format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

_PARTS = ("noun", "verb", "adj", "adv")

# morphy(7): endings of inflected forms, and their replacements.
_ENDINGS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "noun": (
        ("s", ""),
        ("ses", "s"),
        ("ves", "f"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ),
    "verb": (
        ("s", ""),
        ("ies", "y"),
        ("es", "e"),
        ("es", ""),
        ("ed", "e"),
        ("ed", ""),
        ("ing", "e"),
        ("ing", ""),
    ),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}


class _Part(NamedTuple):
    """The files of one part of speech.

    Attributes:
        endings: those of inflected forms, with their replacements.
        lines: a word's line in the index file.
        irregular: the base forms of an inflected form.
        data: the data file, into which the index points.
    """

    endings: tuple[tuple[str, str], ...]
    lines: dict[bytes, bytes]
    irregular: dict[str, list[str]]
    data: bytes


def read(folder: Path) -> Callable[[str], frozenset[str]]:
    """Return a function from a lower-case word to it and the single words of its synonym sets."""
    parts = [_read(folder, part) for part in _PARTS]

    def synonyms(word: str) -> frozenset[str]:
        words = {word}
        for part in parts:
            for form in _forms(word, part):
                for offset in _offsets(part.lines.get(form.encode(), b"")):
                    words.update(_lemmas(part.data, offset))
        return frozenset(words)

    return synonyms


def version(folder: Path) -> str:
    """Return the version in WordNet's licence header, "?" for a header without one."""
    with (folder / "data.noun").open("rb") as file:
        licence = re.search(rb"WordNet (\d+(?:\.\d+)*) Copyright", file.read(4096))
    return licence[1].decode() if licence else "?"


def _read(folder: Path, part: str) -> _Part:
    index = (folder / f"index.{part}").read_bytes().splitlines()
    irregular = (folder / f"{part}.exc").read_text(encoding="utf-8").splitlines()
    return _Part(
        endings=_ENDINGS[part],
        lines={line.partition(b" ")[0]: line for line in index if not line.startswith(b" ")},
        irregular={words[0]: words[1:] for words in map(str.split, irregular) if words},
        data=(folder / f"data.{part}").read_bytes(),
    )


def _forms(word: str, part: _Part) -> list[str]:
    """Return the word and its possible base forms; only the irregular ones where it has any."""
    if word in part.irregular:
        return [word, *part.irregular[word]]
    return [word, *(word[: -len(old)] + new for old, new in part.endings if word.endswith(old))]


def _offsets(line: bytes) -> list[int]:
    """Return the offsets in a line of the index.

    Its fields: lemma, part of speech, n, pointers p, p symbols, n again, tagged, n offsets.
    """
    fields = line.split()
    return [int(offset) for offset in fields[-int(fields[2]) :]] if fields else []


def _lemmas(data: bytes, offset: int) -> list[str]:
    """Return the lemmas in the line at an offset.

    Its fields: offset, file, part, count (hex), then as many pairs of a word and a number.
    """
    fields = data[offset : data.index(b"|", offset)].split()
    words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
    # An adjective may carry where it stands, as in galore(ip). Several words are joined by _.
    return [word.decode().partition("(")[0] for word in words if b"_" not in word]
