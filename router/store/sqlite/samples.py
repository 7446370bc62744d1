"""The table of samples."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Sequence

import msgspec
from sqlite_utils import Database

from evaluators.base import Sample
from providers.errors import StoreError
from router.store.columns.results import SAMPLE_COLUMNS, SampleValues, sample_of

_COLUMNS = ", ".join(SAMPLE_COLUMNS)
_INSERT = (
    f"INSERT INTO samples (run, {_COLUMNS})"  # noqa: S608 - constants
    f" VALUES (?, {', '.join('?' * len(SAMPLE_COLUMNS))})"
)


def insert_samples(db: Database, number: int, chunk: Sequence[SampleValues]) -> None:
    """Insert samples of a run. Raises StoreError where two have the same id."""
    try:
        db.conn.executemany(_INSERT, [(number, *values) for values in chunk])
    except sqlite3.IntegrityError as error:
        raise StoreError(f"cannot add samples: two have the same id ({error})") from error


def delete_samples_after(db: Database, number: int, count: int) -> None:
    """Delete all samples of a run behind its first `count`."""
    db.execute("DELETE FROM samples WHERE run = ? AND position > ?", (number, count))


def samples_between(
    db: Database, number: int, after: int, until: int, without: Sequence[int] = ()
) -> dict[int, Sample]:
    """Return position to sample, in order, behind the first `after` and within the first `until`.

    The positions in `without` are left out.
    """
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM samples"  # noqa: S608 - constants
        " WHERE run = ? AND position > ? AND position <= ?"
        " AND position NOT IN (SELECT value FROM json_each(?)) ORDER BY position",
        (number, after, until, msgspec.json.encode(without).decode()),
    )
    return {row[0]: sample_of(row) for row in rows}


def clusters(db: Database, number: int) -> dict[str, str]:
    """Return sample id to cluster; without the samples whose row has none, or a blank one."""
    rows = db.execute(
        "SELECT sample_id, trim(json_extract(fields, '$.cluster')) FROM samples"
        " WHERE run = ? AND json_extract(fields, '$.cluster') IS NOT NULL",
        (number,),
    )
    return {sample_id: sys.intern(cluster) for sample_id, cluster in rows if cluster}
