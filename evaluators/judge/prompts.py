"""Keeps prompt texts in files, and fills them.

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
    """Return the text of the file `texts/NAME.txt`, to the character."""
    return (FOLDER / f"{name}.txt").read_bytes().decode()


def fill(template: str, /, **values: object) -> str:
    """Replace a template's placeholders. Raises KeyError for one without a value."""
    return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), template)


def placeholders(template: str) -> set[str]:
    """Return the names that `fill` needs for a template."""
    return set(_PLACEHOLDER.findall(template))


def fingerprint(*texts: str) -> str:
    """Return twelve hexadecimal digits that change with the texts."""
    return hashlib.sha256("\0".join(texts).encode(errors="replace")).hexdigest()[:12]
