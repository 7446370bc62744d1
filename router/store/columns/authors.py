"""The column `said_by` of rows that have feedback: the users who gave it, as JSON."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from router.store.columns.values import json_text

_users = msgspec.json.Decoder(frozenset[str]).decode

# Whether the parameter `:said_by`, made by `named_in_said_by`, is among the users.
SAID_BY = "said_by <> '' AND replace(said_by, :said_by, '') <> said_by"


def said_by_text(users: Collection[str]) -> str:
    """Return the value of the column; "" for nobody."""
    return json_text(sorted(users)) if users else ""


def said_by_of(text: str) -> frozenset[str]:
    """Read the column."""
    return _users(text) if text else frozenset()


def named_in_said_by(user: str | None) -> str | None:
    """Return what the column contains where a user is among those that it names.

    Quotes within a name are escaped there, so that no other name contains it.
    """
    return None if user is None else json_text(user)
