"""The table of the bundles of evidence that were written."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from router.store.evidence import EvidenceBundle, EvidenceStore
from router.store.sql.connection import Connection, insert
from router.store.sql.database import SqlPart
from router.store.sql.filters import given

_COLUMNS = EvidenceBundle.__struct_fields__
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM evidence_bundles"


class SqlEvidence(SqlPart, EvidenceStore):
    """Bundles of evidence that were written."""

    async def add_evidence(self, bundle: EvidenceBundle) -> None:
        await self._database.write("add a bundle of evidence", _add, bundle)

    async def note_stored(self, bundle_id: str) -> None:
        await self._database.write("note a bundle of evidence", _note_stored, bundle_id)

    async def evidence(self, bundle_id: str) -> EvidenceBundle | None:
        return await self._database.read("read a bundle of evidence", _find, bundle_id)

    async def evidence_bundles(
        self,
        *,
        subjects: Sequence[str] | None = None,
        key_id: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[EvidenceBundle]:
        return await self._database.read(
            "list bundles of evidence", _list, subjects, key_id, before, limit
        )

    async def delete_evidence(self, bundle_id: str) -> None:
        await self._database.write("delete a bundle of evidence", _delete, bundle_id)


def _add(db: Connection, bundle: EvidenceBundle) -> None:
    values = {**msgspec.structs.asdict(bundle), "stored": int(bundle.stored)}
    db.execute(insert("evidence_bundles", list(values)), list(values.values()))


def _note_stored(db: Connection, bundle_id: str) -> None:
    db.execute("UPDATE evidence_bundles SET stored = 1 WHERE id = ?", (bundle_id,))


def _of(row: Sequence[object]) -> EvidenceBundle:
    fields = dict(zip(_COLUMNS, row, strict=True))
    return msgspec.convert({**fields, "stored": bool(fields["stored"])}, EvidenceBundle)


def _find(db: Connection, bundle_id: str) -> EvidenceBundle | None:
    row = db.execute(f"{_SELECT} WHERE id = ?", (bundle_id,)).fetchone()
    return None if row is None else _of(row)


def _list(
    db: Connection,
    subjects: Sequence[str] | None,
    key_id: str | None,
    before: str | None,
    limit: int,
) -> list[EvidenceBundle]:
    where, values = given({"key_id = :key_id": key_id, "id < :before": before})
    if subjects is not None:
        where.append(db.any_of("subject", ":subjects"))
        values["subjects"] = db.array(subjects)
    rows = db.execute(
        f"{_SELECT} WHERE {' AND '.join(where) or 'TRUE'} ORDER BY id DESC LIMIT :limit",
        values | {"limit": limit},
    )
    return [_of(row) for row in rows]


def _delete(db: Connection, bundle_id: str) -> None:
    db.execute("DELETE FROM evidence_bundles WHERE id = ?", (bundle_id,))
