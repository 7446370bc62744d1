"""Alerts, messages and silences as columns of tables, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from router.store.alerts import Alert, AlertMessage, Silence
from router.store.columns.values import column_of, fields_of

_Row = TypeVar("_Row", Alert, AlertMessage, Silence)

_JSON = frozenset({"labels", "notified", "alerts"})


ALERT_COLUMNS = Alert.__struct_fields__
MESSAGE_COLUMNS = AlertMessage.__struct_fields__
SILENCE_COLUMNS = Silence.__struct_fields__


def values_of(row: Alert | AlertMessage | Silence) -> tuple[Any, ...]:
    """Return the values of a row's columns, in the order of its fields."""
    return tuple(column_of(getattr(row, name), name, _JSON) for name in row.__struct_fields__)


def row_of(kind: type[_Row], values: Sequence[Any]) -> _Row:
    """Read a row from the values of its columns."""
    return msgspec.convert(fields_of(kind.__struct_fields__, values, _JSON), kind)
