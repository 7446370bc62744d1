"""What the dataset methods of `SqliteStore` say to SQLite; see `sqlite_rows.py`."""

from __future__ import annotations

import msgspec
from sqlite_utils import Database

from providers.errors import NotFoundError
from router.store.datasets import DatasetRow

_JSON = ("columns", "mapping", "provenance", "statistics")


def insert(db: Database, row: DatasetRow) -> None:
    """Register a version, unless it is there."""
    record = msgspec.structs.asdict(row)
    record |= {name: msgspec.json.encode(record[name]).decode() for name in _JSON}
    db.table("datasets").insert(record, ignore=True)


def versions(db: Database, name: str | None) -> list[DatasetRow]:
    """Newest first."""
    return [
        msgspec.convert(row | {name: msgspec.json.decode(row[name]) for name in _JSON}, DatasetRow)
        for row in db.table("datasets").rows_where(
            ":name IS NULL OR name = :name",
            {"name": name},
            order_by="created_at DESC, rowid DESC",
        )
    ]


def delete(db: Database, name: str, hash: str) -> bool:  # noqa: A002  # the field's word
    """Forget a version; whether its content is registered under another name."""
    gone = db.execute("DELETE FROM datasets WHERE name = ? AND hash = ?", (name, hash))
    if not gone.rowcount:
        raise NotFoundError(f"there is no version {hash[:12]} of a dataset {name!r}")
    return db.execute("SELECT 1 FROM datasets WHERE hash = ?", (hash,)).fetchone() is not None
