"""Prompt texts as files, and how they are filled.

    fill(text("prometheus-absolute"), response="...")

Values are put in in one pass, so that a value that contains `{response}` stays as it is.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).with_name("texts")

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


@cache
def text(name: str) -> str:
    """The file `texts/NAME.txt`, to the character."""
    return (FOLDER / f"{name}.txt").read_bytes().decode()


def fill(template: str, /, **values: object) -> str:
    """The template with its placeholders replaced; a placeholder without a value is a KeyError."""
    return _PLACEHOLDER.sub(lambda found: str(values[found[1]]), template)


def placeholders(template: str) -> set[str]:
    """The names that `fill` needs."""
    return set(_PLACEHOLDER.findall(template))


def fingerprint(*texts: str) -> str:
    """Twelve hexadecimal digits that change with the texts."""
    return hashlib.sha256("\0".join(texts).encode(errors="replace")).hexdigest()[:12]
