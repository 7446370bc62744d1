"""What stands in the place of a value: `[EMAIL]`, or `[EMAIL_kdjfhgmnop]` for one value alone.

The letters are an HMAC of the value, so that only who has the key can tell whether a placeholder
stands for a value that they guess.
"""

from __future__ import annotations

import hashlib
import hmac
import re

_LETTERS = str.maketrans("0123456789abcdef", "ghijklmnopabcdef")
_SHOWN = 10

WRITTEN = re.compile(rf"\[[A-Z]+(?:_[A-Z]+)*(?:_[a-p]{{{_SHOWN}}})?\]")
"""A placeholder, as `placeholder` writes it."""


def placeholder(kind: str, value: str | None, key: bytes) -> str:
    """Return what is written in the place of a value.

    Args:
        kind: what the value is.
        value: the value; None for the same text for all values of the kind.
        key: what only those have who may link rows.
    """
    if value is None:
        return f"[{kind.upper()}]"
    text = f"{kind}:{value}".encode("utf-8", "surrogatepass")
    digest = hmac.new(key, text, hashlib.sha256).hexdigest()[:_SHOWN]
    return f"[{kind.upper()}_{digest.translate(_LETTERS)}]"
