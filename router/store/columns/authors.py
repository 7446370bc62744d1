"""The column `authors` of rows that have feedback: the users who gave it, as JSON."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from router.store.columns.values import json_text

_users = msgspec.json.Decoder(frozenset[str]).decode

# Whether the parameter `:authors`, made by `author_text`, is among the users.
BY_AUTHOR = "authors <> '' AND replace(authors, :authors, '') <> authors"


def authors_text(users: Collection[str]) -> str:
    """Return the value of the column; "" without any users."""
    return json_text(sorted(users)) if users else ""


def authors_of(text: str) -> frozenset[str]:
    """Read the column."""
    return _users(text) if text else frozenset()


def author_text(user: str | None) -> str | None:
    """Return what the column contains where a user is among those that it names.

    Quotes within a name are escaped there, so that no other name contains it.
    """
    return None if user is None else json_text(user)
