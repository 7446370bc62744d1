"""Synonyms by WordNet 3.0, read from its own files: the words that NLTK's `synsets` would give.

    synonyms = read(folder)        # a fifth of a second
    synonyms("cars")               # frozenset({"cars", "car", "auto", "automobile", ...})

NLTK's reader takes some seconds more to load what METEOR never asks for. See `language_data.py` for
where the files come from; their format is described in the manual pages wndb(5) and morphy(7).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

_PARTS = ("noun", "verb", "adj", "adv")

# morphy(7): endings of inflected forms, and what they are replaced by.
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
    """One part of speech.

    Attributes:
        endings: how its words are inflected.
        lines: word to its line in the index file.
        irregular: inflected form to base forms.
        data: the data file, whose lines the index points into.
    """

    endings: tuple[tuple[str, str], ...]
    lines: dict[bytes, bytes]
    irregular: dict[str, list[str]]
    data: bytes


def read(folder: Path) -> Callable[[str], frozenset[str]]:
    """A function from a lower-case word to itself and the single words of its synonym sets."""
    parts = [_read(folder, part) for part in _PARTS]

    def synonyms(word: str) -> frozenset[str]:
        found = {word}
        for part in parts:
            for form in _forms(word, part):
                for offset in _offsets(part.lines.get(form.encode(), b"")):
                    found.update(_lemmas(part.data, offset))
        return frozenset(found)

    return synonyms


def version(folder: Path) -> str:
    """The version that WordNet's licence header names, "?" when it names none."""
    with (folder / "data.noun").open("rb") as file:
        found = re.search(rb"WordNet (\d+(?:\.\d+)*) Copyright", file.read(4096))
    return found[1].decode() if found else "?"


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
    """The word and what it may be an inflection of, irregular forms first and only."""
    if word in part.irregular:
        return [word, *part.irregular[word]]
    return [word, *(word[: -len(old)] + new for old, new in part.endings if word.endswith(old))]


def _offsets(line: bytes) -> list[int]:
    """Line: lemma, part of speech, n, pointers p, p symbols, n again, tagged, n offsets."""
    fields = line.split()
    return [int(one) for one in fields[-int(fields[2]) :]] if fields else []


def _lemmas(data: bytes, offset: int) -> list[str]:
    """Line at the offset: itself, file, part, count (hex), then as often a word and a number."""
    fields = data[offset : data.index(b"|", offset)].split()
    words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
    # An adjective may carry where it stands, as in galore(ip). Several words are joined by _.
    return [word.decode().partition("(")[0] for word in words if b"_" not in word]
