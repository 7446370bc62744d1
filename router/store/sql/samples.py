"""The table of samples."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec

from evaluators.base import Sample
from providers.errors import StoreError
from router.store.columns.results import SAMPLE_COLUMNS, SampleValues, sample_of
from router.store.sql.connection import Connection

_COLUMNS = ", ".join(SAMPLE_COLUMNS)
_INSERT = (
    f"INSERT INTO samples (run, {_COLUMNS}) VALUES (?, {', '.join('?' * len(SAMPLE_COLUMNS))})"
)


def insert_samples(db: Connection, number: int, chunk: Sequence[SampleValues]) -> None:
    """Insert samples of a run. Raises StoreError where two have the same id."""
    try:
        db.executemany(_INSERT, [(number, *values) for values in chunk])
    except db.duplicate as error:
        raise StoreError(f"cannot add samples: two have the same id ({error})") from error


def delete_samples_after(db: Connection, number: int, count: int) -> None:
    """Delete all samples of a run behind its first `count`."""
    db.execute("DELETE FROM samples WHERE run = ? AND position > ?", (number, count))


def samples_between(
    db: Connection, number: int, after: int, until: int, without: Sequence[int] = ()
) -> dict[int, Sample]:
    """Return position to sample, in order, behind the first `after` and within the first `until`.

    The positions in `without` are left out.
    """
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM samples"
        " WHERE run = ? AND position > ? AND position <= ?"
        f" AND NOT ({db.any_of('position')}) ORDER BY position",
        (number, after, until, db.array(without)),
    )
    return {row[0]: sample_of(row) for row in rows}


def clusters(db: Connection, number: int) -> dict[str, str]:
    """Return sample id to cluster; without the samples whose row has none, or a blank one."""
    rows = db.execute(
        f"SELECT sample_id, {db.field('fields', 'cluster')} FROM samples WHERE run = ?",
        (number,),
    )
    clustered = {sample_id: cluster_of(field) for sample_id, field in rows}
    return {sample_id: cluster for sample_id, cluster in clustered.items() if cluster}


def cluster_of(field: str | None) -> str:
    """Return the cluster that a field's JSON text names; "" for none."""
    value = None if field is None else msgspec.json.decode(field)
    if value is None:
        return ""
    return sys.intern((value if isinstance(value, str) else field or "").strip(" "))
