"""Who executes a run: the columns of an owner, and what a claim changes of the run's cells."""

from __future__ import annotations

from typing import Any

from router.store.claims import ClaimStore
from router.store.runs import RequestedState, Run
from router.store.sql.connection import Connection
from router.store.sql.database import SqlPart
from router.store.sql.results import forget_answers
from router.store.sql.runs import UNFINISHED, find_run, locked_run, runs_where, update_run

# A process that was asleep for longer did not execute anything meanwhile.
_MAX_HEARTBEAT_S = 10.0

# Whether no living process owns a run.
FREE = "(owner = '' OR heartbeat_at IS NULL OR heartbeat_at <= :now - :stale_after)"


class SqlClaims(SqlPart, ClaimStore):
    """Owners of runs."""

    async def claim_run(self, run_id: str, owner: str, stale_after: float) -> bool:
        claimed = await self._database.write("claim a run", _claim, run_id, owner, stale_after)
        if claimed:
            self._owners[run_id] = owner
        return claimed

    async def heartbeat(self, run_id: str, owner: str) -> RequestedState | None:
        return await self._database.write("renew a claim", _heartbeat, run_id, owner)

    async def end_run(self, run_id: str, owner: str, **changes: Any) -> bool:
        try:
            return await self._database.write("end a run", _end, run_id, owner, changes)
        finally:
            self._owners.pop(run_id, None)

    async def request_state(self, run_id: str, state: RequestedState, stale_after: float) -> Run:
        return await self._database.write("stop a run", _request_state, run_id, state, stale_after)

    async def now(self) -> float:
        return await self._database.read("read the clock", lambda db: db.now())

    async def unfinished_runs(self) -> list[Run]:
        return await self._database.read("look for unfinished runs", _unfinished)


def _claim(db: Connection, run_id: str, owner: str, stale_after: float) -> bool:
    number = locked_run(db, run_id)
    (before,) = db.execute("SELECT owner FROM runs WHERE number = ?", (number,)).fetchone()
    claimed = db.execute(
        "UPDATE runs SET owner = :owner, heartbeat_at = :now WHERE number = :number"
        f" AND {UNFINISHED} AND (owner = :owner OR {FREE})",
        {"owner": owner, "now": db.now(), "number": number, "stale_after": stale_after},
    )
    if not claimed.rowcount:
        return False
    # An owner that is still named did not end the run: it died.
    _count_death(db, number, died=before not in {"", owner})
    _forget_in_flight(db, number)
    # Those of an extension that a crash cut off.
    db.execute(
        "DELETE FROM samples WHERE run = :run"
        " AND position > (SELECT dataset_rows FROM runs WHERE number = :run)",
        {"run": number},
    )
    return True


def _count_death(db: Connection, number: int, *, died: bool) -> None:
    """Count deaths in a row without progress; anything else begins a new row."""
    db.execute(
        "UPDATE runs SET done_at_claim = progress.done, deaths ="
        " CASE WHEN :died = 1 AND progress.done = done_at_claim THEN deaths + 1 ELSE 0 END"
        " FROM (SELECT answered + failed + scored AS done FROM counts WHERE run = :number)"
        " AS progress"
        " WHERE number = :number",
        {"died": died, "number": number},
    )


def _forget_in_flight(db: Connection, number: int) -> None:
    """Empty the cells in flight, and count it: a request that is sent once more may cost twice."""
    db.execute(
        "INSERT INTO interruptions (run, position, route, repeat, times)"
        " SELECT run, position, route, repeat, 1 FROM answers"
        " WHERE run = ? AND state = 'sent' AND scored = 0"
        " ON CONFLICT (run, position, route, repeat)"
        " DO UPDATE SET times = interruptions.times + 1",
        (number,),
    )
    interrupted = forget_answers(db, number, "sent")
    db.execute(
        "UPDATE runs SET interrupted = interrupted + ? WHERE number = ?", (interrupted, number)
    )


def _heartbeat(db: Connection, run_id: str, owner: str) -> RequestedState | None:
    row = db.execute(
        "SELECT number, wish FROM runs WHERE id = ? AND owner = ? AND hidden_since IS NULL",
        (run_id, owner),
    ).fetchone()
    if row is None:
        return None
    _renew(db, row[0])
    requested: RequestedState = row[1]
    return requested


def _renew(db: Connection, number: int) -> None:
    db.execute(
        "UPDATE runs SET heartbeat_at = :now,"
        " ran_s = ran_s + CASE WHEN heartbeat_at IS NULL OR heartbeat_at > :now THEN 0"
        " WHEN :now - heartbeat_at > :max_s THEN :max_s ELSE :now - heartbeat_at END"
        " WHERE number = :number",
        {"now": db.now(), "max_s": _MAX_HEARTBEAT_S, "number": number},
    )


def _end(db: Connection, run_id: str, owner: str, changes: dict[str, Any]) -> bool:
    number = locked_run(db, run_id)
    if db.execute("SELECT owner FROM runs WHERE number = ?", (number,)).fetchone()[0] != owner:
        return False
    _renew(db, number)
    update_run(db, run_id, changes | {"owner": "", "heartbeat_at": None, "wish": ""})
    return True


def _request_state(db: Connection, run_id: str, state: RequestedState, stale_after: float) -> Run:
    number, now = locked_run(db, run_id), db.now()
    values = {"number": number, "state": state, "now": now, "stale_after": stale_after}
    # A pause does not call a cancellation off.
    db.execute(
        "UPDATE runs SET wish = :state WHERE number = :number AND wish <> 'cancelled'", values
    )
    free = f"number = :number AND {FREE}"
    if db.execute(f"SELECT 1 FROM runs WHERE {free}", values).fetchone():
        ended = now if state == "cancelled" else None
        changes = {"state": state, "finished_at": ended, "owner": "", "heartbeat_at": None}
        update_run(db, run_id, changes | {"wish": ""})
    run = find_run(db, run_id)
    assert run is not None
    return run


def _unfinished(db: Connection) -> list[Run]:
    return runs_where(db, f"runner = 'server' AND {UNFINISHED}", order_by="id")
