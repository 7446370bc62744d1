"""Unicode normalization of the texts that a metric compares.

    normalize = normalizer("nfc")
    normalize("e\u0301") == "\u00e9"

One character may be written as several code points; without normalization, texts that look the
same would be different.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Literal

NormalForm = Literal["nfc", "nfkc", "none"]


def normalizer(form: NormalForm) -> Callable[[str], str]:
    """Return a function that brings a text into the normal form.

    Args:
        form: `nfc` composes characters; `nfkc` also replaces compatibility characters, such as
            full-width letters, by plain ones; `none` leaves the text as it is.
    """
    if form == "none":
        return str
    name: Literal["NFC", "NFKC"] = "NFC" if form == "nfc" else "NFKC"
    return lambda text: text if text.isascii() else unicodedata.normalize(name, text)
