"""The table of registered dataset versions."""

from __future__ import annotations

from sqlite_utils import Database

from providers.errors import NotFoundError
from router.store.columns.datasets import dataset_columns, dataset_of
from router.store.columns.values import readable
from router.store.datasets import DatasetRow, DatasetStore
from router.store.sqlite.database import SqlitePart, lenient_text


class SqliteDatasets(SqlitePart, DatasetStore):
    """Registered dataset versions."""

    async def add_dataset(self, row: DatasetRow) -> None:
        await self._database.write("register a dataset", _insert, row)

    async def datasets(self, name: str | None = None) -> list[DatasetRow]:
        return await self._database.read("list datasets", _versions, name)

    async def delete_dataset(self, name: str, hash: str) -> bool:  # noqa: A002  # the field's word
        return await self._database.write("delete a dataset", _delete, name, hash)


def _insert(db: Database, row: DatasetRow) -> None:
    db.table("datasets").insert(dataset_columns(row), ignore=True)


def _versions(db: Database, name: str | None) -> list[DatasetRow]:
    with lenient_text(db):
        rows = db.table("datasets").rows_where(
            ":name IS NULL OR name = :name", {"name": name}, order_by="created_at DESC, rowid DESC"
        )
        return readable(
            rows, dataset_of, lambda row: f"the dataset {row['name']} (version {row['hash']})"
        )


def _delete(db: Database, name: str, content: str) -> bool:
    deleted = db.execute("DELETE FROM datasets WHERE name = ? AND hash = ?", (name, content))
    if not deleted.rowcount:
        raise NotFoundError(f"there is no version {content[:12]} of a dataset {name!r}")
    return db.execute("SELECT 1 FROM datasets WHERE hash = ?", (content,)).fetchone() is not None
