"""Keys and their spend as columns of a table, and back.

A row that cannot be read never opens a door and never makes money free: such a key is refused, and
such a spend is more than any budget.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import msgspec

from providers.errors import StoreError
from router.store.columns.values import UNREADABLE
from router.store.keys import KeyRow, KeySpend, KeyVersion

log = logging.getLogger("evalrouter")

# More than any budget.
_ALL_USD = 1e300

# `admin` is what versions before roles read and write.
KEY_COLUMNS = (*KeyRow.__struct_fields__, "admin")
_texts = msgspec.json.Decoder(tuple[str, ...])


def key_columns(row: KeyRow) -> tuple[Any, ...]:
    """Return the values of KEY_COLUMNS."""
    values = msgspec.structs.asdict(row)
    if row.routes is not None:
        values["routes"] = msgspec.json.encode(row.routes).decode()
    return (*values.values(), int(row.role == "admin"))


def key_of(row: Sequence[Any]) -> KeyRow:
    """Read a key from KEY_COLUMNS."""
    values = dict(zip(KEY_COLUMNS, row, strict=True))
    is_admin = bool(values.pop("admin"))
    values["role"] = values["role"] or ("admin" if is_admin else "client")
    if values["routes"] is not None:
        values["routes"] = _texts.decode(values["routes"])
    return msgspec.convert(values, KeyRow)


def usable_key_of(row: Sequence[Any]) -> KeyRow:
    """Read a key from KEY_COLUMNS; one that cannot be read is revoked, because others can be."""
    try:
        return key_of(row)
    except UNREADABLE as error:
        log.error("the key %s cannot be read and is refused: %s", row[0], error)
        return KeyRow(id=str(row[0]), name=str(row[1]), created_at=0.0, revoked_at=0.0)


_changes = msgspec.json.Decoder(dict[str, tuple[Any, Any]])
VERSION_COLUMNS = KeyVersion.__struct_fields__


def version_of(row: Sequence[Any]) -> KeyVersion:
    """Read a key's change from VERSION_COLUMNS."""
    values = dict(zip(VERSION_COLUMNS, row, strict=True))
    return msgspec.convert(values | {"changes": _changes.decode(values["changes"])}, KeyVersion)


# The columns of a key's spend in one period, in the order of the fields of KeySpend.
SPEND_COLUMNS = ("key", *KeySpend.__struct_fields__[1:])


def spend_columns(spend: KeySpend) -> tuple[Any, ...]:
    """Return the values of SPEND_COLUMNS. Raises StoreError where `usd` is not finite."""
    if not math.isfinite(spend.usd):
        raise StoreError(f"cannot store {spend.usd} as a key's spend: it is not a finite number")
    return msgspec.structs.astuple(spend)


def spend_of(row: Sequence[Any]) -> KeySpend:
    """Read a key's spend from SPEND_COLUMNS; one that cannot be read is more than any budget."""
    try:
        spend = msgspec.convert(dict(zip(KeySpend.__struct_fields__, row, strict=True)), KeySpend)
    except UNREADABLE:
        since = row[1] if isinstance(row[1], float) else 0.0
        return KeySpend(key_id=str(row[0]), since=since, usd=_ALL_USD)
    return spend if math.isfinite(spend.usd) else msgspec.structs.replace(spend, usd=_ALL_USD)
