"""The table of registered dataset versions."""

from __future__ import annotations

from typing import Any

from providers.errors import NotFoundError
from router.store.columns.datasets import dataset_columns, dataset_of
from router.store.columns.values import readable
from router.store.datasets import DatasetPage, DatasetRow, DatasetStore, VersionOrder
from router.store.sql.connection import Connection, insert
from router.store.sql.database import SqlPart
from router.store.sql.watches import forget_watched

_COLUMNS = DatasetRow.__struct_fields__
_ESCAPE = "!"


class SqlDatasets(SqlPart, DatasetStore):
    """Registered dataset versions."""

    async def add_dataset(self, row: DatasetRow) -> None:
        await self._database.write("register a dataset", insert_version, row)

    async def datasets(self, name: str | None = None) -> list[DatasetRow]:
        return await self._database.read("list datasets", _versions, name)

    async def dataset_page(self, page: DatasetPage) -> list[DatasetRow]:
        return await self._database.read("list datasets", _page, page)

    async def delete_dataset(self, name: str, hash: str) -> bool:  # noqa: A002  # the field's word
        return await self._database.write("delete a dataset", _delete, name, hash)


def insert_version(db: Connection, row: DatasetRow) -> None:
    """Register a version; one that is registered stays as it is."""
    columns = dataset_columns(row)
    db.execute(
        f"{insert('datasets', list(columns))} ON CONFLICT (name, hash) DO NOTHING",
        list(columns.values()),
    )


def _versions(db: Connection, name: str | None) -> list[DatasetRow]:
    with db.lenient_text():
        rows = db.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM datasets"
            f"{'' if name is None else ' WHERE name = ?'}"
            f" ORDER BY created_at DESC, {db.insertion_order} DESC",
            () if name is None else (name,),
        )
        return readable(
            (dict(zip(_COLUMNS, row, strict=True)) for row in rows),
            dataset_of,
            lambda row: f"the dataset {row['name']} (version {row['hash']})",
        )


# What decides the order of versions, the last ones where the first are the same.
_ORDERS: dict[VersionOrder, str] = {
    "created": "created_at, name, hash",
    "name": "name, created_at, hash",
    "rows": "rows, name, hash",
    "format": "format, name, hash",
}


def _page(db: Connection, page: DatasetPage) -> list[DatasetRow]:
    columns = _ORDERS[page.order]
    place: tuple[Any, ...] = (None, None, None)
    conditions = [f"lower(name) LIKE :part ESCAPE '{_ESCAPE}'"] if page.part else ["TRUE"]
    if page.after is not None:
        name, content = page.after
        row = db.execute(
            f"SELECT {columns} FROM datasets WHERE name = ? AND hash = ?", (name, content)
        ).fetchone()
        if row is None:
            raise NotFoundError(f"there is no version {content[:12]} of a dataset {name!r}")
        place = row
        conditions.append(
            f"({columns}) {'<' if page.descending else '>'} (:first, :second, :third)"
        )
    part = page.part.lower()
    for character in (_ESCAPE, "%", "_"):
        part = part.replace(character, _ESCAPE + character)
    values = dict(zip(("first", "second", "third"), place, strict=True))
    direction = "DESC" if page.descending else "ASC"
    order = ", ".join(f"{column} {direction}" for column in columns.split(", "))
    listed = [column for column in _COLUMNS if column != "statistics"]
    with db.lenient_text():
        rows = db.execute(
            f"SELECT {', '.join(listed)} FROM datasets WHERE {' AND '.join(conditions)}"
            f" ORDER BY {order} LIMIT {page.limit:d}",
            values | {"part": f"%{part}%"},
        )
        return readable(
            ({**dict(zip(listed, row, strict=True)), "statistics": "[]"} for row in rows),
            dataset_of,
            lambda row: f"the dataset {row['name']} (version {row['hash']})",
        )


def _delete(db: Connection, name: str, content: str) -> bool:
    deleted = db.execute("DELETE FROM datasets WHERE name = ? AND hash = ?", (name, content))
    if not deleted.rowcount:
        raise NotFoundError(f"there is no version {content[:12]} of a dataset {name!r}")
    if db.execute("SELECT 1 FROM datasets WHERE hash = ?", (content,)).fetchone() is not None:
        return True
    if db.execute("SELECT 1 FROM dataset_sources WHERE hash = ? LIMIT 1", (content,)).fetchone():
        # A later deletion of the requests would no longer find what watches have of them.
        forget_watched(db, content)
        forget_unused_sources(db, content)
    return False


def forget_unused_sources(db: Connection, content: str) -> None:
    """Forget where rows come from that neither a version nor the samples of a run have."""
    db.execute(
        "DELETE FROM dataset_sources WHERE hash = :content"
        " AND NOT EXISTS (SELECT 1 FROM datasets WHERE hash = :content)"
        " AND NOT EXISTS (SELECT 1 FROM runs WHERE dataset_hash = :content)",
        {"content": content},
    )
