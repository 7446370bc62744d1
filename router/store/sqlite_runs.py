"""Who carries a run out, what is left of it to do, and how it is made to do more.

As in `sqlite_rows.py`: every function runs inside a transaction that its caller holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlite_utils import Database

from providers.errors import ConflictError
from router.store import sqlite_rows as rows
from router.store.results import OpenSample, ScoredAnswer
from router.store.runs import RequestedState, Run
from router.store.usage import EmbeddingUse, Spent

# A process that was asleep was not carrying anything out.
_LONGEST_BEAT_S = 10.0

_FREE = "(owner = '' OR heartbeat_at IS NULL OR heartbeat_at <= :now - :stale_after)"
_UNFINISHED = "state IN ('queued', 'running')"

_rescoring = msgspec.json.Decoder(tuple[int, tuple[str, ...]])


def claim(db: Database, run_id: str, owner: str, now: float, stale_after: float) -> bool:
    """Take over a run that is to be done and is free, stale or one's own."""
    number = rows.run_number(db, run_id)
    (before,) = db.execute("SELECT owner FROM runs WHERE number = ?", (number,)).fetchone()
    claimed = db.execute(
        "UPDATE runs SET owner = :owner, heartbeat_at = :now WHERE number = :number"  # noqa: S608 - constants
        f" AND {_UNFINISHED} AND (owner = :owner OR {_FREE})",
        {"owner": owner, "now": now, "number": number, "stale_after": stale_after},
    )
    if not claimed.rowcount:
        return False
    # An owner that is still named did not end the run: it died.
    db.execute(
        "UPDATE runs SET done_at_claim = done,"
        " deaths = CASE WHEN :died AND done = done_at_claim THEN deaths + 1 ELSE 0 END"
        " FROM (SELECT answered + failed + scored AS done FROM counts WHERE run = :number)"
        " WHERE number = :number",
        {"died": before not in {"", owner}, "number": number},
    )
    # What is asked again may be paid for twice: each such cell says so.
    db.execute(
        "INSERT INTO interruptions (run, position, route, repeat, times)"
        " SELECT run, position, route, repeat, 1 FROM answers"
        " WHERE run = ? AND state = 'sent' AND scored = 0"
        " ON CONFLICT DO UPDATE SET times = times + 1",
        (number,),
    )
    interrupted = rows.forget(db, number, "sent")
    # Those of an extension that a crash cut off.
    db.execute(
        "DELETE FROM samples WHERE run = :run"
        " AND position > (SELECT dataset_rows FROM runs WHERE number = :run)",
        {"run": number},
    )
    db.execute(
        "UPDATE runs SET interrupted = interrupted + ? WHERE number = ?", (interrupted, number)
    )
    return True


def heartbeat(db: Database, run_id: str, owner: str, now: float) -> RequestedState | None:
    """What the owner is asked to do; None when the run is not its own any more."""
    row = db.execute(
        "SELECT number, wish FROM runs WHERE id = ? AND owner = ? AND hidden_since IS NULL",
        (run_id, owner),
    ).fetchone()
    if row is None:
        return None
    _beat(db, row[0], now)
    wish: RequestedState = row[1]
    return wish


def _beat(db: Database, number: int, now: float) -> None:
    db.execute(
        "UPDATE runs SET heartbeat_at = :now,"
        " ran_s = ran_s + max(0, min(:now - coalesce(heartbeat_at, :now), :most))"
        " WHERE number = :number",
        {"now": now, "most": _LONGEST_BEAT_S, "number": number},
    )


def end(db: Database, run_id: str, owner: str, now: float, changes: dict[str, Any]) -> bool:
    """Give the run up, with its last state; False when it was not the owner's any more."""
    number = rows.run_number(db, run_id)
    if db.execute("SELECT owner FROM runs WHERE number = ?", (number,)).fetchone()[0] != owner:
        return False
    _beat(db, number, now)
    rows.update_run(db, run_id, changes | {"owner": "", "heartbeat_at": None, "wish": ""})
    return True


def wish(db: Database, run_id: str, wanted: RequestedState, now: float, stale_after: float) -> Run:
    """Ask the owner to stop; without one, the run is stopped here. The run as it now is."""
    number = rows.run_number(db, run_id)
    values = {"number": number, "wish": wanted, "now": now, "stale_after": stale_after}
    free = f"number = :number AND {_FREE}"
    db.execute(
        "UPDATE runs SET wish = :wish WHERE number = :number AND wish <> 'cancelled'", values
    )
    if db.execute(f"SELECT 1 FROM runs WHERE {free}", values).fetchone():  # noqa: S608 - constants
        ended = now if wanted == "cancelled" else None
        changes = {"state": wanted, "finished_at": ended, "owner": "", "heartbeat_at": None}
        rows.update_run(db, run_id, changes | {"wish": ""})
    found = rows.find_run(db, run_id)
    assert found is not None
    return found


def requeue(
    db: Database,
    run_id: str,
    now: float,
    stale_after: float,
    *,
    changes: dict[str, Any],
    retry_failed: bool = False,
) -> None:
    """Have a run that nobody carries out done again. Raises ConflictError."""
    number = rows.run_number(db, run_id)
    free = db.execute(
        f"SELECT 1 FROM runs WHERE number = :number AND {_FREE}",  # noqa: S608 - constants
        {"number": number, "now": now, "stale_after": stale_after},
    ).fetchone()
    if free is None:
        raise ConflictError(f"{run_id} is being carried out by another process")
    rows.update_run(
        db,
        run_id,
        {"state": "queued", "wish": "", "error": "", "stopped": "", "finished_at": None}
        | {"deaths": 0}
        | {"owner": "", "heartbeat_at": None, "only_scores": False}
        | changes,
    )
    if retry_failed:
        rows.forget(db, number, "failed")


def unfinished(db: Database) -> list[Run]:
    """The runs of servers that are to be done, oldest first."""
    return rows.runs_where(db, f"runner = 'server' AND {_UNFINISHED}", order_by="id")


def spent(db: Database, run_id: str) -> Spent:
    """What the run's answers took that were asked for it."""
    cost_usd, tokens = db.execute(
        "SELECT sum(cost_usd),"
        # Not sum(), which fails where it leaves 64 bits.
        " total(coalesce(total_tokens, prompt_tokens + completion_tokens, 0)) FROM answers"
        " WHERE run = ? AND cached = 0",
        (rows.run_number(db, run_id),),
    ).fetchone()
    return Spent(cost_usd=cost_usd or 0.0, tokens=int(tokens))


def add_embedding_use(db: Database, run_id: str, use: EmbeddingUse) -> None:
    """Add to what the run's embeddings took."""
    db.execute(
        "INSERT INTO embeddings (run, route, target, requests, failed, tokens, cost_usd, unpriced,"
        " estimated) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " requests = requests + excluded.requests, failed = failed + excluded.failed,"
        " tokens = tokens + excluded.tokens, cost_usd = cost_usd + excluded.cost_usd,"
        " unpriced = unpriced + excluded.unpriced, estimated = estimated + excluded.estimated",
        (rows.run_number(db, run_id), *msgspec.structs.astuple(use)),
    )


def embedding_use(db: Database, run_id: str) -> list[EmbeddingUse]:
    """What the run's embeddings took, by route and target."""
    found = db.execute(
        "SELECT route, target, requests, failed, tokens, cost_usd, unpriced, estimated"
        " FROM embeddings WHERE run = ? ORDER BY route, target",
        (rows.run_number(db, run_id),),
    )
    names = EmbeddingUse.__struct_fields__
    return [EmbeddingUse(**dict(zip(names, row, strict=True))) for row in found]


# What is left to do


def open_samples(
    db: Database, run_id: str, after: int, most: int, cells: int
) -> tuple[list[OpenSample], int | None]:
    """Of the samples behind the first `after`, at most `most`, those with something left to do.

    Also where to go on; None after the last. `cells` is how many a sample has.
    """
    number, last = db.execute(
        "SELECT number, dataset_rows FROM runs WHERE number = ?", (rows.run_number(db, run_id),)
    ).fetchone()
    until = min(after + most, last)
    settled: dict[int, set[tuple[str, int]]] = {}
    unscored: list[int] = []
    for answer, position, route, repeat, to_score in db.execute(
        "SELECT answers.id, position, routes.name, repeat, state = 'answered' AND scored = 0"
        " FROM answers CROSS JOIN routes ON routes.id = answers.route"
        " WHERE run = ? AND position > ? AND position <= ? AND state <> 'sent'",
        (number, after, until),
    ):
        if to_score:
            unscored.append(answer)
        else:
            settled.setdefault(position, set()).add((route, repeat))
    done = [position for position, found in settled.items() if len(found) >= cells]
    samples = rows.samples_between(db, number, after, until, without=done)
    waiting: dict[int, list[ScoredAnswer]] = {}
    for position, one in rows.answers_by_number(db, unscored):
        waiting.setdefault(position, []).append(one)
    page = [
        OpenSample(
            sample=sample,
            settled=frozenset(settled.get(position, ())),
            unscored={(one.cell.route, one.cell.repeat): one for one in waiting.get(position, ())},
        )
        for position, sample in samples.items()
    ]
    return page, None if until >= last else until


# Scoring again


def begin_rescore(
    db: Database,
    run_id: str,
    now: float,
    stale_after: float,
    *,
    changes: dict[str, Any],
    kept: Sequence[str],
) -> None:
    """Requeue a run with other metrics; only the scores of the outputs `kept` stay."""
    requeue(db, run_id, now, stale_after, changes=changes | {"only_scores": True})
    number = rows.run_number(db, run_id)
    # One that a crash cut off goes on with this one, from the start.
    (before,) = db.execute("SELECT rescoring FROM runs WHERE number = ?", (number,)).fetchone()
    if before:
        stayed = _rescoring.decode(before)[1]
        kept = [output for output in kept if output in stayed]
    _set_rescoring(db, number, (0, tuple(kept)))


def unscore_some(db: Database, run_id: str) -> bool:
    """Take the scores that do not stay from some samples; whether there are more."""
    number, last, rescoring = db.execute(
        "SELECT number, dataset_rows, rescoring FROM runs WHERE number = ?",
        (rows.run_number(db, run_id),),
    ).fetchone()
    if rescoring is None:
        return False
    after, kept = _rescoring.decode(rescoring)
    until = after + rows.CHUNK
    within = "SELECT id FROM answers WHERE run = ? AND position > ? AND position <= ?"
    values = (number, after, until)
    db.execute(
        f"DELETE FROM scores WHERE answer IN ({within})"  # noqa: S608 - constants
        " AND output NOT IN (SELECT value FROM json_each(?))",
        (*values, msgspec.json.encode(kept).decode()),
    )
    db.execute(
        f"UPDATE answers SET scored = 0 WHERE id IN ({within}) AND scored = 1",  # noqa: S608 - constants
        values,
    )
    more = bool(until < last)
    _set_rescoring(db, number, (until, kept) if more else None)
    return more


def _set_rescoring(db: Database, number: int, value: tuple[int, tuple[str, ...]] | None) -> None:
    text = None if value is None else msgspec.json.encode(value).decode()
    db.execute("UPDATE runs SET rescoring = ? WHERE number = ?", (text, number))


# More samples


def extension(db: Database, run_id: str) -> int:
    """How many samples the run has; what an extension that was cut off left is forgotten."""
    number, count = _counted(db, run_id)
    db.execute("DELETE FROM samples WHERE run = ? AND position > ?", (number, count))
    return count


def insert_more_samples(db: Database, run_id: str, chunk: Sequence[rows.SampleValues]) -> None:
    """Samples behind the run's own. They are not its own until `extend` counts them."""
    rows.insert_sample_rows(db, _counted(db, run_id)[0], chunk)


def extend(
    db: Database, run_id: str, now: float, stale_after: float, changes: dict[str, Any]
) -> None:
    """Requeue a run with the `dataset_rows` that `changes` says. Raises ConflictError."""
    requeue(db, run_id, now, stale_after, changes=changes)
    number, count = _counted(db, run_id)
    (found,) = db.execute("SELECT count(*) FROM samples WHERE run = ?", (number,)).fetchone()
    if count != found:
        raise ConflictError(f"{run_id} was changed by another process meanwhile; try again")


def _counted(db: Database, run_id: str) -> tuple[int, int]:
    number, count = db.execute(
        "SELECT number, dataset_rows FROM runs WHERE number = ?", (rows.run_number(db, run_id),)
    ).fetchone()
    return number, count
