"""Filters as conditions of SQL: those of requests serve all tables that know their requests."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import msgspec

from router.store.columns.traffic import FILTER_COLUMNS, KIND_COLUMNS
from router.store.sql.connection import Connection
from router.store.traffic import SHARED_FIELDS, TrafficFilter

# Of the fields that select more than one value.
_RANGES = {
    "status": "{} BETWEEN :low AND :high",
    "since": "{} >= :since",
    "until": "{} < :until",
}
# What the indexes of requests have.
_KIND = frozenset(field for field, column in FILTER_COLUMNS.items() if column in KIND_COLUMNS)
_KEY = ("key_id",)
_USER = ("user",)
_TIME = ("since", "until")


class Conditions(NamedTuple):
    """A filter as conditions of SQL.

    Attributes:
        by_field: the condition of each field that does not select all.
        values: the parameters.
    """

    by_field: dict[str, str]
    values: dict[str, Any]

    @property
    def all(self) -> list[str]:
        """Return all conditions."""
        return list(self.by_field.values())

    @property
    def where(self) -> str:
        """Return all as one condition."""
        return " AND ".join(self.all) or "TRUE"

    @property
    def kind(self) -> list[str]:
        """Return those of KIND_COLUMNS."""
        return self._of(_KIND)

    @property
    def key(self) -> list[str]:
        """Return that of the key."""
        return self._of(_KEY)

    @property
    def user(self) -> list[str]:
        """Return that of the user."""
        return self._of(_USER)

    @property
    def time(self) -> list[str]:
        """Return those of the time."""
        return self._of(_TIME)

    @property
    def names(self) -> list[str]:
        """Return those of names that few requests have."""
        return self._of(self.by_field.keys() - SHARED_FIELDS)

    def _of(self, fields: Collection[str]) -> list[str]:
        return [text for field, text in self.by_field.items() if field in fields]


def conditions_of(
    db: Connection,
    matching: TrafficFilter,
    *,
    columns: Mapping[str, str] = FILTER_COLUMNS,
    others: Mapping[str, str] | None = None,
) -> Conditions:
    """Return a filter's conditions for a table.

    Args:
        db: the connection.
        matching: the filter.
        columns: what each of its fields selects by in the table.
        others: the conditions of fields for which a column is not enough.

    Raises:
        KeyError: a field of the filter has neither, and would select all.
    """
    fields: dict[str, Any] = msgspec.structs.asdict(matching)
    others = others or {}
    texts = {
        field: others[field] if field in others else _condition(db, field, columns[field])
        for field in fields
    }
    low, high = matching.status or (None, None)
    values = fields | {
        "low": low, "high": high, "except_routes": db.array(matching.except_routes)
    }  # fmt: skip
    # No database has a type for it.
    del values["status"]
    return Conditions(
        {field: texts[field] for field, value in fields.items() if value not in (None, ())}, values
    )


def given(conditions: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Return the conditions whose parameter is not None, and the parameters.

    A condition is a text that ends with its parameter, as `at >= :since`.
    """
    where = [text for text, value in conditions.items() if value is not None]
    return where, {text.rpartition(":")[2]: value for text, value in conditions.items()}


def _condition(db: Connection, field: str, column: str) -> str:
    if field == "except_routes":
        return f"NOT ({db.any_of(column, ':except_routes')})"
    return _RANGES.get(field, f"{{}} = :{field}").format(column)
