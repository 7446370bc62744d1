"""Ids and hashes that evalrouter makes, whose digits are no personal data: `req_18ecb50db5e9f…`."""

from __future__ import annotations

import re

_SHAPES = re.compile(
    r"(?:al|msg|rv)_[0-9a-f]{32}|req_[0-9a-f]{32}(?:\.[0-9]{1,9})?|(?:ev|eval|lm|ro)_[0-9a-f]{24}|"
    r"(?:cal|cmp|run|trn)_[0-9a-f]{19}|key_[0-9a-f]{16}|"
    # Of feedback, of a trace, of the content of a dataset.
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}|[0-9a-f]{64}|"
    # A cluster. A Belgian IBAN is as long and has two letters.
    r"(?=(?:[0-9]*[a-f]){3})[0-9a-f]{16}"
)


def is_own_id(text: str) -> bool:
    """Return whether a text is, as a whole, an id or a hash as evalrouter makes them."""
    return _SHAPES.fullmatch(text) is not None
