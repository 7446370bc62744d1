"""The table of runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from evaluators.base import Sample
from evaluators.data.dataset_process import in_thread
from providers.errors import ConflictError, NotFoundError, StoreError
from router.store.columns.results import SampleValues, sample_chunk
from router.store.columns.runs import RUN_FIELDS, changed_columns, run_columns, run_of
from router.store.columns.values import json_text
from router.store.runs import (
    ANY_RUN,
    NEWEST_FIRST,
    SORT_FIELDS,
    Progress,
    Run,
    RunFilter,
    RunOrder,
    RunSort,
    RunStore,
)
from router.store.sql.connection import Connection, insert
from router.store.sql.database import SqlPart
from router.store.sql.datasets import forget_unused_sources
from router.store.sql.samples import insert_samples

UNFINISHED = "state IN ('queued', 'running')"
CHUNK = 1000  # rows deleted in one transaction
# Below all moments and costs: those that are not known come first.
_NO_VALUE = -1.0
# As the indexes have it.
_SORTED_BY: Mapping[RunSort, str] = {
    sort: f"coalesce({field}, {_NO_VALUE})" if sort in {"finished", "cost"} else field
    for sort, field in SORT_FIELDS.items()
}
ABANDONED_S = 600.0  # after this without progress, an addition or deletion was cut off by a crash


class SqlRuns(SqlPart, RunStore):
    """Runs, added and deleted in chunks, so that other writes get their turn in between."""

    async def add_run(self, run: Run, samples: Iterable[Sample], *, registered: str = "") -> None:
        write = self._database.write
        remaining = iter(samples)
        number = await write("add a run", _insert_hidden, run)
        try:
            added = 0
            while chunk := await in_thread(sample_chunk, remaining, added + 1):
                await write("add samples", _add_samples, number, chunk)
                added += len(chunk)
            await write("add a run", _show_new, number, registered)
        except BaseException:
            # Where this fails too, erase_abandoned_runs() does it later.
            with contextlib.suppress(StoreError):
                await self._erase(number)
            raise

    async def run(self, run_id: str) -> Run | None:
        return await self._database.read("read a run", find_run, run_id)

    async def runs(
        self,
        matching: RunFilter = ANY_RUN,
        *,
        limit: int = 50,
        before: str | None = None,
        order: RunOrder = NEWEST_FIRST,
    ) -> list[Run]:
        place = None if before is None else order.place(before)
        return await self._database.read("list runs", page_of_runs, matching, limit, place, order)

    async def update_run(self, run_id: str, **changes: Any) -> None:
        await self._database.write(
            "update a run", _update, run_id, changes, self._owners.get(run_id)
        )

    async def count_runs(self) -> int:
        return await self._database.read("count the runs", _count)

    async def progress(self, run_id: str) -> Progress:
        return await self._database.read("count a run's rows", _progress, run_id)

    async def delete_run(self, run_id: str) -> None:
        await self._erase(await self._database.write("delete a run", _hide, run_id))

    async def erase_abandoned_runs(self) -> None:
        """Delete what is left of runs whose addition or deletion was cut off by a crash."""
        for number in await self._database.read("look for abandoned runs", _abandoned):
            await self._erase(number)

    async def _erase(self, number: int) -> None:
        """Delete what a hidden run left, chunk by chunk."""
        while await self._database.write("delete a run's rows", _erase_some, number):
            pass


# used by other tables of runs, too


def run_number(db: Connection, run_id: str) -> int:
    """Return the number that stands for the run in the other tables. Raises NotFoundError."""
    row = db.execute(
        "SELECT number FROM runs WHERE id = ? AND hidden_since IS NULL", (run_id,)
    ).fetchone()
    if row is None:
        raise NotFoundError(f"there is no run {run_id!r}")
    number: int = row[0]
    return number


def locked_run(db: Connection, run_id: str) -> int:
    """Return a run's number; no other process changes the run before the transaction has ended.

    Raises:
        NotFoundError: no such run.
    """
    number = run_number(db, run_id)
    db.execute(f"SELECT 1 FROM runs WHERE number = ?{db.for_update}", (number,))
    return number


def check_owner(db: Connection, run_id: str, owner: str | None) -> None:
    """Raise ConflictError where a run that `owner` has claimed is another process's now."""
    if owner is None:
        return
    row = db.execute(f"SELECT owner FROM runs WHERE id = ?{db.for_share}", (run_id,)).fetchone()
    if row is not None and row[0] != owner:
        raise taken_over(run_id)


def taken_over(run_id: str) -> ConflictError:
    """Return the error of an owner that another process has replaced."""
    return ConflictError(f"{run_id} was taken over by another process")


def find_run(db: Connection, run_id: str) -> Run | None:
    """Return the run by its id or a prefix of one; an exact id wins over longer ones."""
    matches = runs_where(
        db,
        "id >= :id AND substr(id, 1, length(:id)) = :id AND :id <> ''",
        {"id": run_id},
        order_by="id",
        limit=4,
    )
    if len(matches) > 1 and matches[0].id != run_id:
        names = ", ".join(run.id for run in matches[:3])
        more = ", ..." if len(matches) > 3 else ""
        raise NotFoundError(f"several runs begin with {run_id!r}: {names}{more}")
    return matches[0] if matches else None


def runs_where(
    db: Connection,
    where: str,
    values: dict[str, Any] | None = None,
    *,
    order_by: str,
    limit: int | None = None,
) -> list[Run]:
    """Return the runs that are not hidden and meet a condition."""
    with db.lenient_text():
        rows = db.execute(
            f"SELECT {', '.join(RUN_FIELDS)} FROM runs"
            f" WHERE hidden_since IS NULL AND {where} ORDER BY {order_by}"
            f"{'' if limit is None else f' LIMIT {limit:d}'}",
            values or {},
        )
        return [run_of(dict(zip(RUN_FIELDS, row, strict=True))) for row in rows]


def update_run(db: Connection, run_id: str, changes: dict[str, Any]) -> None:
    """Set fields of a run. Raises StoreError where one has a value of the wrong type."""
    columns = changed_columns(changes)
    number = run_number(db, run_id)
    if columns:
        # Not sqlite-utils' update(), which reads the whole row first.
        assignments = ", ".join(f"{name} = ?" for name in columns)
        db.execute(
            f"UPDATE runs SET {assignments} WHERE number = ?",
            (*columns.values(), number),
        )


def _update(db: Connection, run_id: str, changes: dict[str, Any], owner: str | None) -> None:
    check_owner(db, run_id, owner)
    update_run(db, run_id, changes)


# adding and deleting


def _insert_hidden(db: Connection, run: Run) -> int:
    """Insert a run that is hidden until `_show`; return its number."""
    columns = run_columns(run)
    if db.execute("SELECT 1 FROM runs WHERE id = ?", (run.id,)).fetchone():
        raise StoreError(f"there is a run {run.id!r} already")
    [number] = db.new_numbers("runs", 1)
    columns |= {"number": number, "hidden_since": db.now()}
    db.execute(insert("runs", list(columns)), list(columns.values()))
    db.execute("INSERT INTO counts (run) VALUES (?)", (number,))
    return number


def _add_samples(db: Connection, number: int, chunk: list[SampleValues]) -> None:
    insert_samples(db, number, chunk)
    _keep_hidden(db, number)


def _keep_hidden(db: Connection, number: int) -> None:
    """Hide a run while it is being added or deleted."""
    db.execute("UPDATE runs SET hidden_since = ? WHERE number = ?", (db.now(), number))


def _show_new(db: Connection, number: int, registered: str) -> None:
    """Show a run whose dataset is still as it was read; a deletion of its rows names the run."""
    if registered:
        # Written, so that a deletion that takes the version's place waits, and the other way round.
        there = db.execute("UPDATE datasets SET hash = hash WHERE hash = ?", (registered,))
        if not there.rowcount:
            raise ConflictError(
                "The dataset, or requests that rows of it are copies of, were deleted while the "
                "run was created; create it again.",
                code="requests_deleted",
            )
    _show(db, number)


def _show(db: Connection, number: int) -> None:
    db.execute("UPDATE runs SET hidden_since = NULL WHERE number = ?", (number,))


def _hide(db: Connection, run_id: str) -> int:
    number = locked_run(db, run_id)
    _keep_hidden(db, number)
    return number


def _erase_some(db: Connection, number: int) -> bool:
    """Delete a chunk of a run's rows; return whether more may be left."""
    # Scores go with their answers.
    for statement in (
        "DELETE FROM answers WHERE id IN (SELECT id FROM answers WHERE run = :run LIMIT :many)",
        "DELETE FROM samples WHERE run = :run"
        " AND position IN (SELECT position FROM samples WHERE run = :run LIMIT :many)",
        "DELETE FROM judgements WHERE number IN (SELECT number FROM judgements"
        " WHERE owner = (SELECT id FROM runs WHERE number = :run) LIMIT :many)",
        "DELETE FROM run_logs WHERE number IN"
        " (SELECT number FROM run_logs WHERE run = :run LIMIT :many)",
    ):
        if db.execute(statement, {"run": number, "many": CHUNK}).rowcount:
            _keep_hidden(db, number)
            return True
    db.execute("DELETE FROM counts WHERE run = ?", (number,))
    [content] = db.execute("SELECT dataset_hash FROM runs WHERE number = ?", (number,)).fetchone()
    db.execute("DELETE FROM runs WHERE number = ?", (number,))
    forget_unused_sources(db, content)
    return False


def _abandoned(db: Connection) -> list[int]:
    """Return the numbers of runs whose addition or deletion has not moved for `ABANDONED_S`."""
    before = db.now() - ABANDONED_S
    rows = db.execute("SELECT number FROM runs WHERE hidden_since < ?", (before,))
    return [number for (number,) in rows]


# listing and counting


def page_of_runs(
    db: Connection,
    matching: RunFilter,
    limit: int,
    place: tuple[Any, str] | None = None,
    order: RunOrder = NEWEST_FIRST,
) -> list[Run]:
    """List runs behind a place of their order; see `RunStore.runs`."""
    column = _SORTED_BY[order.by]
    conditions = []
    if place is not None and column == "id":
        conditions.append(f"id {'<' if order.descending else '>'} :before")
    elif place is not None:
        sign = "<" if order.descending else ">"
        # SQLite finds the place in an index of an expression only by the second condition.
        conditions.append(f"({column}, id) {sign} (:value, :before) AND {column} {sign}= :value")
    if matching.state is not None:
        conditions.append("state = :state")
        # SQLite takes the index of those that are not over only when it reads the second condition.
        conditions += [UNFINISHED] if matching.state in {"queued", "running"} else []
    if matching.experiment is not None:
        # SQLite takes the index of experiments only when it reads the second condition.
        conditions.append("experiment = :experiment")
        conditions += ["experiment <> ''"] if matching.experiment else []
    if matching.tag is not None:
        conditions.append(db.contains("runs.tags", ":tag"))
    if matching.dataset_hash is not None:
        conditions.append("dataset_hash = :dataset_hash")
    if matching.key_id is not None:
        # SQLite takes the index of keys only when it reads the second condition.
        conditions.append("key_id = :key_id")
        conditions += ["key_id <> ''"] if matching.key_id else []
    values = msgspec.structs.asdict(matching)
    value, before = place or (None, None)
    value = _NO_VALUE if value is None else value
    values |= {"value": value, "before": before, "tag": json_text(matching.tag)}
    way = " DESC" if order.descending else ""
    by = f"id{way}" if column == "id" else f"{column}{way}, id{way}"
    return runs_where(db, " AND ".join(conditions) or "TRUE", values, order_by=by, limit=limit)


def _count(db: Connection) -> int:
    count: int = db.execute("SELECT count(*) FROM runs WHERE hidden_since IS NULL").fetchone()[0]
    return count


def _progress(db: Connection, run_id: str) -> Progress:
    """Return the run's counts, as the triggers keep them."""
    answered, failed, in_flight, scored = db.execute(
        "SELECT answered, failed, in_flight, scored FROM counts WHERE run = ?",
        (run_number(db, run_id),),
    ).fetchone()
    return Progress(answered=answered, failed=failed, in_flight=in_flight, scored=scored)
