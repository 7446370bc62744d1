"""Reads whole numbers from the fields of forms, and from addresses."""

from __future__ import annotations

from providers.errors import RequestError

# All that databases and browsers tell apart, and few enough for int().
_MAX_DIGITS = 15


def number_from_digits(text: str, *, max_digits: int = _MAX_DIGITS) -> int | None:
    """Return the number that a text of digits is; None for another text, or one of more digits."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= max_digits
    return int(text) if is_number else None


def whole_number(text: str, field: str) -> int:
    """Return the number from 0 on that a field has. Raises RequestError where it has another text.

    Args:
        text: what was typed.
        field: its name.
    """
    digits = text.strip()
    if not digits.isascii() or not digits.isdecimal():
        shown = digits if len(digits) <= 100 else f"{digits[:100]}…"
        raise RequestError(f"{field}: {shown!r} is not a whole number.", param=field)
    if len(digits) > _MAX_DIGITS:
        raise RequestError(
            f"{field}: a number has at most {_MAX_DIGITS} digits; this one has {len(digits):,}.",
            param=field,
        )
    return int(digits)
