"""Filters of requests as conditions of SQL, for all tables that have what they select by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from router.store.columns.traffic import FILTER_COLUMNS
from router.store.sql.connection import Connection
from router.store.traffic import TrafficFilter

# Of the fields that select more than one value.
_RANGES = {
    "status": "{} BETWEEN :low AND :high",
    "since": "{} >= :since",
    "until": "{} < :until",
}


class Conditions(NamedTuple):
    """A filter as conditions of SQL.

    Attributes:
        by_field: the condition of each field that does not select all.
        values: the parameters.
    """

    by_field: dict[str, str]
    values: dict[str, Any]

    def of(self, *fields: str) -> list[str]:
        """Return the conditions of some fields."""
        return [text for field, text in self.by_field.items() if field in fields]

    @property
    def where(self) -> str:
        """Return all as one condition."""
        return " AND ".join(self.by_field.values()) or "TRUE"


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
    given: dict[str, Any] = msgspec.structs.asdict(matching)
    others = others or {}
    texts = {
        field: others[field] if field in others else _condition(db, field, columns[field])
        for field in given
    }
    low, high = matching.status or (None, None)
    values = given | {
        "low": low, "high": high, "except_routes": db.array(matching.except_routes)
    }  # fmt: skip
    # No database has a type for it.
    del values["status"]
    return Conditions(
        {field: texts[field] for field, value in given.items() if value not in (None, ())}, values
    )


def _condition(db: Connection, field: str, column: str) -> str:
    if field == "except_routes":
        return f"NOT ({db.any_of(column, ':except_routes')})"
    return _RANGES.get(field, f"{{}} = :{field}").format(column)
