"""Languages by code or English name: `language_code("Simplified Chinese")` is `zh`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

import msgspec

LanguageName = Annotated[str, msgspec.Meta(max_length=200)]

_NAMES: Mapping[str, str] = {
    "arabic": "ar",
    "bengali": "bn",
    "burmese": "my",
    "cantonese": "zh",
    "catalan": "ca",
    "chinese": "zh",
    "czech": "cs",
    "danish": "da",
    "dutch": "nl",
    "dzongkha": "dz",
    "english": "en",
    "finnish": "fi",
    "french": "fr",
    "german": "de",
    "greek": "el",
    "hebrew": "he",
    "hindi": "hi",
    "hungarian": "hu",
    "indonesian": "id",
    "italian": "it",
    "japanese": "ja",
    "khmer": "km",
    "korean": "ko",
    "lao": "lo",
    "mandarin": "zh",
    "myanmar": "my",
    "norwegian": "no",
    "persian": "fa",
    "polish": "pl",
    "portuguese": "pt",
    "romanian": "ro",
    "russian": "ru",
    "spanish": "es",
    "swedish": "sv",
    "thai": "th",
    "tibetan": "bo",
    "turkish": "tr",
    "ukrainian": "uk",
    "urdu": "ur",
    "vietnamese": "vi",
}
# ISO 639-3 codes and macrolanguages, as FLORES and others write them.
_CODES: Mapping[str, str] = {
    "bod": "bo",
    "cmn": "zh",
    "deu": "de",
    "dzo": "dz",
    "eng": "en",
    "fra": "fr",
    "jpn": "ja",
    "khm": "km",
    "kor": "ko",
    "lao": "lo",
    "lzh": "zh",
    "mya": "my",
    "spa": "es",
    "tha": "th",
    "yue": "zh",
    "zho": "zh",
}


def language_code(name: str) -> str:
    """Return the language's ISO 639-1 code, "" where the name is not known.

    Args:
        name: a code with or without script and region (`zh`, `zh-Hant-TW`, `zho_Hans`), or a text
            with the language's English name in it (`Simplified Chinese`).
    """
    plain = name.strip().casefold()
    if tag := re.fullmatch(r"([a-z]{2,3})(?:[-_][a-z0-9]+)*", plain):
        code = tag[1]
        return _CODES.get(code, code if len(code) == 2 else "")
    known = [_NAMES[word] for word in re.findall(r"[a-z]+", plain) if word in _NAMES]
    return known[-1] if known else ""
