"""How a run is queued once more, and how scores and samples change with that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from evaluators.base import Sample
from evaluators.data.dataset_process import in_thread
from providers.errors import ConflictError
from router.store.columns.results import SampleValues, sample_chunk
from router.store.requeue import RequeueStore
from router.store.sql.claims import FREE
from router.store.sql.connection import Connection
from router.store.sql.database import SqlPart
from router.store.sql.results import forget_answers
from router.store.sql.runs import check_owner, locked_run, run_number, update_run
from router.store.sql.samples import delete_samples_after, insert_samples

CHUNK = 1000  # samples whose scores are deleted in one transaction

# How far the deletion of scores has got, in samples, and the outputs whose scores stay.
_Rescoring = tuple[int, tuple[str, ...]]
_rescoring = msgspec.json.Decoder(_Rescoring)


class SqlRequeue(SqlPart, RequeueStore):
    """Runs that are executed once more."""

    async def requeue_run(
        self,
        run_id: str,
        stale_after: float,
        *,
        retry_failed: bool = False,
        **changes: Any,
    ) -> None:
        await self._database.write(
            "queue a run",
            requeue,
            run_id,
            stale_after,
            changes=changes,
            retry_failed=retry_failed,
        )

    async def rescore_run(
        self,
        run_id: str,
        stale_after: float,
        *,
        keep_outputs: Sequence[str],
        **changes: Any,
    ) -> None:
        await self._database.write(
            "score a run again",
            _begin_rescore,
            run_id,
            stale_after,
            changes=changes,
            keep_outputs=tuple(keep_outputs),
        )

    async def unscore_some(self, run_id: str) -> bool:
        return await self._database.write(
            "forget scores", _unscore_some, run_id, self._owners.get(run_id)
        )

    async def extend_run(
        self,
        run_id: str,
        stale_after: float,
        *,
        samples: Iterable[Sample],
        **changes: Any,
    ) -> None:
        write = self._database.write
        remaining = iter(samples)
        count = await write("extend a run", _begin_extension, run_id)
        while chunk := await in_thread(sample_chunk, remaining, count + 1):
            await write("add samples", _add_samples, run_id, chunk)
            count += len(chunk)
        await write("extend a run", _extend, run_id, stale_after, changes)


def requeue(
    db: Connection,
    run_id: str,
    stale_after: float,
    *,
    changes: dict[str, Any],
    retry_failed: bool = False,
) -> None:
    """Queue a run. Arguments and errors as for `RequeueStore.requeue_run`."""
    number = locked_run(db, run_id)
    free = db.execute(
        f"SELECT 1 FROM runs WHERE number = :number AND {FREE}",
        {"number": number, "now": db.now(), "stale_after": stale_after},
    ).fetchone()
    if free is None:
        raise ConflictError(f"{run_id} is being executed by another process")
    update_run(
        db,
        run_id,
        {"state": "queued", "wish": "", "error": "", "stopped": "", "finished_at": None}
        | {"deaths": 0}
        | {"owner": "", "heartbeat_at": None, "only_scores": False}
        | changes,
    )
    if retry_failed:
        forget_answers(db, number, "failed")


# scoring again


def _begin_rescore(
    db: Connection,
    run_id: str,
    stale_after: float,
    *,
    changes: dict[str, Any],
    keep_outputs: tuple[str, ...],
) -> None:
    """Queue a run with other metrics, and note which scores stay for `_unscore_some`."""
    requeue(db, run_id, stale_after, changes=changes | {"only_scores": True})
    number = run_number(db, run_id)
    # A rescore that a crash cut off continues with this one, from the start.
    (before,) = db.execute("SELECT rescoring FROM runs WHERE number = ?", (number,)).fetchone()
    if before:
        stayed = _rescoring.decode(before)[1]
        keep_outputs = tuple(output for output in keep_outputs if output in stayed)
    _set_rescoring(db, number, (0, keep_outputs))


def _unscore_some(db: Connection, run_id: str, owner: str | None) -> bool:
    check_owner(db, run_id, owner)
    number, last, rescoring = db.execute(
        "SELECT number, dataset_rows, rescoring FROM runs WHERE number = ?",
        (run_number(db, run_id),),
    ).fetchone()
    if rescoring is None:
        return False
    after, keep_outputs = _rescoring.decode(rescoring)
    until = after + CHUNK
    within = "SELECT id FROM answers WHERE run = ? AND position > ? AND position <= ?"
    values = (number, after, until)
    db.execute(
        f"DELETE FROM scores WHERE answer IN ({within}) AND NOT ({db.any_of('output')})",
        (*values, db.array(keep_outputs)),
    )
    db.execute(
        f"UPDATE answers SET scored = 0 WHERE id IN ({within}) AND scored = 1",
        values,
    )
    more = bool(until < last)
    _set_rescoring(db, number, (until, keep_outputs) if more else None)
    return more


def _set_rescoring(db: Connection, number: int, value: _Rescoring | None) -> None:
    text = None if value is None else msgspec.json.encode(value).decode()
    db.execute("UPDATE runs SET rescoring = ? WHERE number = ?", (text, number))


# more samples


def _begin_extension(db: Connection, run_id: str) -> int:
    """Delete what an extension that was cut off left; return how many samples the run has."""
    number, count = _counted(db, run_id)
    delete_samples_after(db, number, count)
    return count


def _add_samples(db: Connection, run_id: str, chunk: Sequence[SampleValues]) -> None:
    """Insert samples behind the run's own. They are not its own until `_extend` counts them."""
    insert_samples(db, _counted(db, run_id)[0], chunk)


def _extend(db: Connection, run_id: str, stale_after: float, changes: dict[str, Any]) -> None:
    """Queue a run with the `dataset_rows` that `changes` contains."""
    requeue(db, run_id, stale_after, changes=changes)
    number, count = _counted(db, run_id)
    (stored,) = db.execute("SELECT count(*) FROM samples WHERE run = ?", (number,)).fetchone()
    if count != stored:
        raise ConflictError(f"{run_id} was changed by another process meanwhile; try again")


def _counted(db: Connection, run_id: str) -> tuple[int, int]:
    """Return the run's number and how many samples are counted as its own."""
    number, count = db.execute(
        "SELECT number, dataset_rows FROM runs WHERE number = ?", (run_number(db, run_id),)
    ).fetchone()
    return number, count
