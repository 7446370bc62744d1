"""The tables of shadows, of their pairs, and of the requests that never became one."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from evaluators.base import PRECOMPUTED, Answer, Cell, Sample
from router.store.columns.results import sample_values
from router.store.columns.traffic import FILTER_COLUMNS
from router.store.columns.values import json_text
from router.store.shadows import (
    PairState,
    SettledPairs,
    ShadowPair,
    ShadowRow,
    ShadowStore,
    TakenPairs,
)
from router.store.sql.connection import Connection, add_up, in_one_go, insert
from router.store.sql.database import SqlPart
from router.store.sql.filters import conditions_of
from router.store.sql.requeue import requeue
from router.store.sql.results import NewAnswer, answer_steps
from router.store.sql.runs import locked_run, run_number
from router.store.sql.samples import delete_samples_after, insert_samples
from router.store.traffic import TrafficFilter

_SHADOW_COLUMNS = ShadowRow.__struct_fields__
_ADD_SHADOW = insert("shadows", _SHADOW_COLUMNS)
_READ_SHADOW = f"SELECT {', '.join(_SHADOW_COLUMNS)} FROM shadows"
_PAIR_COLUMNS = (
    "number", "run", "id", "at", "key_id", "user_id", "target", "status", "request_id",
    "response_id", "conversation", "rollout", "arm", "state", "texts", "position", "tries",
    "taken_at", "content",
)  # fmt: skip
_ADD_PAIR = insert("shadow_pairs", _PAIR_COLUMNS) + " ON CONFLICT (run, id) DO NOTHING"
_COUNT = add_up("shadow_counts", ("run", "reason", "requests"), ("run", "reason"))
# A candidate answered, but with tool calls alone.
_NO_TEXT = "no_text"
# The texts of a request that was deleted while it was in flight.
_FORGOTTEN = "forgotten"
# What filters of requests select by here.
_OF_REQUEST = {field: f"shadow_pairs.{column}" for field, column in FILTER_COLUMNS.items()} | {
    "route": "shadows.route",
    "except_routes": "shadows.route",
}
# All pairs are of live requests.
_OF_CLASS = {"traffic_class": "'live' = :traffic_class"}
_UNSETTLED = frozenset({"waiting", "taken"})
_JUDGE_FAILED = (
    "SELECT 1 FROM judgements WHERE owner = ? AND {same_sample} AND answered = 0 LIMIT 1"
)


class _Content(msgspec.Struct):
    """What a pair that waits has of its request."""

    sample: Sample
    answer: Answer


_content = msgspec.json.Decoder(_Content)
_object = msgspec.json.Decoder(dict[str, Any])


class _Pair(NamedTuple):
    """A pair of a run, and where its sample is."""

    number: int
    id: str
    state: PairState
    texts: str
    position: int | None
    tries: int
    taken_at: float | None


_READ_PAIR = f"SELECT {', '.join(_Pair._fields)} FROM shadow_pairs"


class SqlShadows(SqlPart, ShadowStore):
    """Shadows, their pairs and their counts."""

    async def add_shadow(self, row: ShadowRow) -> None:
        await self._database.write("add a shadow", _add_shadow, row)

    async def end_shadow(self, run_id: str, now: float) -> None:
        await self._database.write("end a shadow", _end_shadow, run_id, now)

    async def change_shadow(self, run_id: str, **changes: Any) -> None:
        await self._database.write("change a shadow", _change_shadow, run_id, changes)

    async def shadows(self) -> list[ShadowRow]:
        return await self._database.read("list shadows", _shadows)

    async def add_pairs(self, run_id: str, pairs: Sequence[ShadowPair], *, max_waiting: int) -> int:
        return await self._database.write("add to a shadow", _add_pairs, run_id, pairs, max_waiting)

    async def count_shadow(self, run_id: str, counts: Mapping[str, int]) -> None:
        await self._database.write("count for a shadow", _count, run_id, counts)

    async def take_pairs(
        self,
        run_id: str,
        stale_after: float,
        *,
        new: int,
        again: int,
        max_tries: int,
        since: float,
        cost_usd: float | None = None,
    ) -> TakenPairs:
        return await self._database.write(
            "extend a shadow's run",
            _take_pairs,
            run_id,
            stale_after,
            numbers=(new, again),
            retry=(max_tries, since),
            now=self._database.clock(),
            cost_usd=cost_usd,
        )

    async def settle_pairs(self, run_id: str, *, max_tries: int, since: float) -> SettledPairs:
        return await self._database.write(
            "settle a shadow's requests", _settle_pairs, run_id, max_tries, since
        )

    async def drop_waiting(self, run_id: str, reason: str, *, before: float | None = None) -> int:
        return await self._database.write(
            "drop a shadow's requests", _drop_waiting, run_id, reason, before
        )

    async def shadow_funnel(self, run_id: str) -> dict[str, int]:
        return await self._database.read("count a shadow's requests", _funnel, run_id)

    async def shadow_spending(self, route: str, since: float) -> float:
        return await self._database.read("add up a shadow's spending", _spending, route, since)

    async def deleted_texts(self, run_id: str) -> int:
        return await self._database.read("count samples without texts", _deleted_texts, run_id)

    async def forget_shadowed(self, matching: TrafficFilter, limit: int) -> int:
        return await self._database.write("forget a shadow's requests", _forget, matching, limit)


# shadows


def _add_shadow(db: Connection, row: ShadowRow) -> None:
    for (run_id,) in db.execute(
        "SELECT run FROM shadows WHERE route = ? AND ended_at IS NULL", (row.route,)
    ).fetchall():
        _end_shadow(db, run_id, row.created_at)
    values = msgspec.structs.asdict(row) | {"config": json_text(row.config)}
    db.execute(_ADD_SHADOW, [values[name] for name in _SHADOW_COLUMNS])


def _end_shadow(db: Connection, run_id: str, now: float) -> None:
    db.execute("UPDATE shadows SET ended_at = ? WHERE run = ? AND ended_at IS NULL", (now, run_id))
    _drop_waiting(db, run_id, "stopped", None)


def _change_shadow(db: Connection, run_id: str, changes: dict[str, Any]) -> None:
    db.execute(
        f"UPDATE shadows SET {', '.join(f'{name} = ?' for name in changes)} WHERE run = ?",
        (*changes.values(), run_id),
    )


def _shadows(db: Connection) -> list[ShadowRow]:
    rows = db.execute(f"{_READ_SHADOW} WHERE ended_at IS NULL ORDER BY route")
    return [_shadow_of(row) for row in rows]


def _shadow_of(row: Sequence[Any]) -> ShadowRow:
    values = dict(zip(_SHADOW_COLUMNS, row, strict=True))
    return ShadowRow(**values | {"config": _object.decode(values["config"])})


def _count(db: Connection, run_id: str, counts: Mapping[str, int]) -> None:
    for reason, requests in sorted(counts.items()):
        if requests:
            db.execute(_COUNT, (run_id, reason, requests))


# pairs that wait


def _add_pairs(db: Connection, run_id: str, pairs: Sequence[ShadowPair], max_waiting: int) -> int:
    (ended,) = db.execute("SELECT count(*) FROM shadows WHERE run = ? AND ended_at IS NOT NULL",
                          (run_id,)).fetchone()  # fmt: skip
    if ended:
        # Another process has replaced it in this moment.
        _count(db, run_id, {"stopped": len(pairs)})
        return 0
    (waiting,) = db.execute(
        "SELECT count(*) FROM shadow_pairs WHERE run = ? AND state = 'waiting'", (run_id,)
    ).fetchone()
    fitting = pairs[: max(0, max_waiting - waiting)]
    added = 0
    for number, pair in zip(db.new_numbers("shadow_pairs", len(fitting)), fitting, strict=True):
        added += db.execute(_ADD_PAIR, _pair_values(number, run_id, pair)).rowcount
    _count(db, run_id, {"shed": len(pairs) - len(fitting)})
    return added


def _pair_values(number: int, run_id: str, pair: ShadowPair) -> tuple[Any, ...]:
    content = json_text(msgspec.to_builtins(_Content(pair.sample, pair.answer)))
    named = (pair.id, pair.at, pair.key_id, pair.user, pair.target, pair.status, pair.request_id,
             pair.response_id, pair.conversation, pair.rollout, pair.arm)  # fmt: skip
    texts = "keep" if pair.keep_texts else "drop"
    return (number, run_id, *named, "waiting", texts, None, 0, None, content)


def _drop_waiting(db: Connection, run_id: str, reason: str, before: float | None) -> int:
    dropped = db.execute(
        "DELETE FROM shadow_pairs WHERE run = :run AND state = 'waiting'"
        f"{'' if before is None else ' AND at < :before'}",
        {"run": run_id, "before": before},
    ).rowcount
    _count(db, run_id, {reason: dropped})
    return dropped


# pairs that become samples


def _take_pairs(
    db: Connection,
    run_id: str,
    stale_after: float,
    *,
    numbers: tuple[int, int],
    retry: tuple[int, float],
    now: float,
    cost_usd: float | None,
) -> TakenPairs:
    number = locked_run(db, run_id)
    new, again = numbers
    (rows,) = db.execute("SELECT dataset_rows FROM runs WHERE number = ?", (number,)).fetchone()
    delete_samples_after(db, number, rows)
    reopened = _reopen(db, run_id, number, again, retry)
    waiting = db.execute(
        "SELECT number, content FROM shadow_pairs WHERE run = ? AND state = 'waiting'"
        " ORDER BY number LIMIT ?",
        (run_id, new),
    ).fetchall()
    live_usd = 0.0
    for position, (pair, content) in enumerate(waiting, rows + 1):
        decoded = _content.decode(content)
        insert_samples(db, number, [sample_values(position, decoded.sample)])
        live = NewAnswer(Cell(PRECOMPUTED, decoded.sample.id, 0), "", decoded.answer, (), now)
        in_one_go(answer_steps(db, run_id, live, None))
        live_usd += decoded.answer.cost_usd or 0.0
        db.execute(
            "UPDATE shadow_pairs SET state = 'taken', position = ?, tries = 1, taken_at = ?,"
            " content = NULL WHERE number = ?",
            (position, now, pair),
        )
    (is_open,) = db.execute(
        "SELECT count(*) FROM shadow_pairs WHERE run = ? AND state = 'taken'", (run_id,)
    ).fetchone()
    if is_open:
        rows += len(waiting)
        document = _document(db, number)
        limit = None if cost_usd is None else cost_usd + live_usd
        changes = {
            "dataset_rows": rows,
            "cells": rows * len(document["routes"]),
            "document": document | {"limits": document.get("limits", {}) | {"cost_usd": limit}},
        }
        requeue(db, run_id, stale_after, changes=changes)
    return TakenPairs(new=len(waiting), again=reopened, open=is_open)


def _reopen(db: Connection, run_id: str, number: int, limit: int, retry: tuple[int, float]) -> int:
    """Empty what failed of some pairs, so that it is requested and scored once more."""
    max_tries, since = retry
    pairs = db.execute(
        "SELECT number, position FROM shadow_pairs WHERE run = ? AND state = 'error'"
        " AND tries < ? AND taken_at >= ? AND texts IN ('keep', 'drop')"
        " ORDER BY number LIMIT ?",
        (run_id, max_tries, since, limit),
    ).fetchall()
    for pair, position in pairs:
        at = (number, position)
        db.execute(
            "DELETE FROM answers WHERE run = ? AND position = ? AND state = 'failed'"
            " AND scored = 0",
            at,
        )
        of_sample = "SELECT id FROM answers WHERE run = ? AND position = ? AND state = 'answered'"
        missing = f"answer IN ({of_sample}) AND value IS NULL AND error IS NOT NULL"
        rows = db.execute(f"SELECT answer FROM scores WHERE {missing}", at)
        lacking = [answer for (answer,) in rows]
        db.execute(f"DELETE FROM scores WHERE {missing}", at)
        db.execute(
            f"UPDATE answers SET scored = 0 WHERE {db.any_of('id')} AND scored = 1",
            (db.array(lacking),),
        )
        db.execute(
            "UPDATE shadow_pairs SET state = 'taken', tries = tries + 1 WHERE number = ?", (pair,)
        )
    return len(pairs)


# what became of them


def _document(db: Connection, number: int) -> dict[str, Any]:
    """Return a run's document."""
    (document,) = db.execute("SELECT document FROM runs WHERE number = ?", (number,)).fetchone()
    return _object.decode(document)


def _settle_pairs(db: Connection, run_id: str, max_tries: int, since: float) -> SettledPairs:
    number = run_number(db, run_id)
    cells = len(_document(db, number)["routes"])
    settled: Counter[PairState] = Counter()
    for pair in _pairs(db, run_id, "state = 'taken'"):
        state = _state(db, run_id, number, pair, cells)
        if state is not None and pair.texts == _FORGOTTEN:
            _delete_texts(db, run_id, [pair])
            _delete_pairs(db, run_id, [pair])
        elif state is not None:
            settled[state] += 1
            db.execute("UPDATE shadow_pairs SET state = ? WHERE number = ?", (state, pair.number))
    for pair in _pairs(
        db,
        run_id,
        "texts = 'drop' AND (state IN ('scored', 'unjudgeable')"
        " OR (state = 'error' AND (tries >= ? OR taken_at < ?)))",
        max_tries,
        since,
    ):
        _delete_texts(db, run_id, [pair])
    return SettledPairs(
        scored=settled["scored"], error=settled["error"], unjudgeable=settled["unjudgeable"]
    )


def _pairs(db: Connection, run_id: str, where: str, *values: Any) -> list[_Pair]:
    rows = db.execute(f"{_READ_PAIR} WHERE run = ? AND {where}", (run_id, *values))
    return [_Pair(*row) for row in rows.fetchall()]


def _state(db: Connection, run_id: str, number: int, pair: _Pair, cells: int) -> PairState | None:
    """Return what became of a pair; None where something of it is open."""
    answers = db.execute(
        "SELECT state, scored, error_code FROM answers WHERE run = ? AND position = ?",
        (number, pair.position),
    ).fetchall()
    done = [state == "failed" or scored for state, scored, _ in answers]
    if len(answers) < cells or not all(done):
        return None
    failed = {code for state, _, code in answers if state == "failed"}
    judge_failed = db.execute(
        _JUDGE_FAILED.format(same_sample=db.is_text("sample_id")), (run_id, pair.id)
    ).fetchone()
    if failed - {_NO_TEXT} or judge_failed:
        return "error"
    return "unjudgeable" if failed else "scored"


def _delete_texts(db: Connection, run_id: str, pairs: Iterable[_Pair]) -> None:
    """Delete the texts of pairs and of what was answered to them; numbers and scores stay.

    No other run gets the empty answers from the run cache: they have no hash any more. Samples of
    one cluster stay in one, which has no longer the name that its user could be found by.
    """
    number = run_number(db, run_id)
    clusters: dict[str, str] = {}
    for pair in pairs:
        at = (number, pair.position)
        row = db.execute(
            f"SELECT {db.field('fields', 'cluster')} FROM samples WHERE run = ? AND position = ?",
            at,
        ).fetchone()
        fields = {}
        if row is not None and row[0] not in {None, "null"}:
            fields["cluster"] = clusters.setdefault(row[0], secrets.token_hex(8))
        db.execute(
            "UPDATE samples SET messages = '[]', refs = '[]', fields = ?, answer = NULL,"
            " parameters = NULL WHERE run = ? AND position = ?",
            (json_text(fields), *at),
        )
        db.execute(
            "UPDATE answers SET text = CASE WHEN text IS NULL THEN NULL ELSE '' END,"
            " whole_text = NULL, thinking = NULL, request_hash = '',"
            " error = CASE WHEN error IS NULL THEN NULL ELSE coalesce(error_code, 'error') END"
            " WHERE run = ? AND position = ?",
            at,
        )
        db.execute(
            "UPDATE scores SET verdicts = NULL, note = NULL,"
            " error = CASE WHEN error IS NULL THEN NULL ELSE 'the texts are deleted' END"
            " WHERE answer IN (SELECT id FROM answers WHERE run = ? AND position = ?)",
            at,
        )
        _delete_judgement_texts(db, run_id, pair.id)
        db.execute(
            "UPDATE shadow_pairs SET texts = 'deleted', content = NULL WHERE number = ?",
            (pair.number,),
        )


def _delete_judgement_texts(db: Connection, run_id: str, sample_id: str) -> None:
    for number, answer in db.execute(
        f"SELECT number, answer FROM judgements WHERE owner = ? AND {db.is_text('sample_id')}",
        (run_id, sample_id),
    ).fetchall():
        values = _object.decode(answer) | {"thinking": "", "whole_text": None}
        if values.get("text") is not None:
            values["text"] = ""
        if values.get("error") is not None:
            values["error"] = values.get("error_code") or "error"
        # Its number stands for the hash, which has to be one of its own.
        db.execute(
            "UPDATE judgements SET answer = ?, tokens = NULL, request_hash = ? WHERE number = ?",
            (json_text(values), f"deleted {number}", number),
        )


# counting


def _funnel(db: Connection, run_id: str) -> dict[str, int]:
    funnel = Counter(
        dict(
            db.execute(
                "SELECT reason, requests FROM shadow_counts WHERE run = ?", (run_id,)
            ).fetchall()
        )
    )
    for state, requests in db.execute(
        "SELECT state, count(*) FROM shadow_pairs WHERE run = ? GROUP BY state", (run_id,)
    ):
        funnel[state] += requests
    return dict(funnel)


def _spending(db: Connection, route: str, since: float) -> float:
    runs = [run for (run,) in db.execute("SELECT run FROM shadows WHERE route = ?", (route,))]
    (answered,) = db.execute(
        "SELECT coalesce(sum(answers.cost_usd), 0.0) FROM runs"
        " CROSS JOIN answers ON answers.run = runs.number"
        " CROSS JOIN routes ON routes.id = answers.route"
        f" WHERE {db.any_of('runs.id')} AND answers.answered_at >= ?"
        " AND answers.cached = 0 AND routes.name <> ?",
        (db.array(runs), since, PRECOMPUTED),
    ).fetchone()
    (judged,) = db.execute(
        f"SELECT coalesce(sum(cost_usd), 0.0) FROM judgements WHERE {db.any_of('owner')}"
        " AND at >= ? AND reused = 0",
        (db.array(runs), since),
    ).fetchone()
    return float(answered) + float(judged)


def _deleted_texts(db: Connection, run_id: str) -> int:
    (count,) = db.execute(
        "SELECT count(*) FROM samples WHERE run = ? AND messages = '[]'"
        " AND EXISTS (SELECT 1 FROM shadows WHERE run = ?)",
        (run_number(db, run_id), run_id),
    ).fetchone()
    return int(count)


# deletion


def _forget(db: Connection, matching: TrafficFilter, limit: int) -> int:
    conditions = conditions_of(db, matching, columns=_OF_REQUEST, others=_OF_CLASS)
    rows = db.execute(
        f"SELECT shadow_pairs.run, {', '.join(f'shadow_pairs.{name}' for name in _Pair._fields)}"
        " FROM shadow_pairs CROSS JOIN shadows ON shadows.run = shadow_pairs.run"
        f" WHERE shadow_pairs.texts <> '{_FORGOTTEN}' AND {conditions.where}"
        " ORDER BY shadow_pairs.number LIMIT :limit",
        conditions.values | {"limit": limit},
    ).fetchall()
    pairs: dict[str, list[_Pair]] = {}
    for run_id, *columns in rows:
        pairs.setdefault(run_id, []).append(_Pair(*columns))
    for run_id, those in pairs.items():
        if db.execute(
            "SELECT 1 FROM runs WHERE id = ? AND hidden_since IS NULL", (run_id,)
        ).fetchone():
            with_texts = [pair for pair in those if pair.position and pair.texts != "deleted"]
            _delete_texts(db, run_id, with_texts)
            for pair in those:
                if pair.state == "taken":
                    _close_cells(db, run_id, pair)
        _delete_pairs(db, run_id, [pair for pair in those if pair.state != "taken"])
        _hide_pairs(db, [pair for pair in those if pair.state == "taken"])
    return len(rows)


def _close_cells(db: Connection, run_id: str, pair: _Pair) -> None:
    """Let no request be sent any more for a sample whose texts are gone."""
    number = run_number(db, run_id)
    begun = {
        route
        for (route,) in db.execute(
            "SELECT routes.name FROM answers CROSS JOIN routes ON routes.id = answers.route"
            " WHERE run = ? AND position = ?",
            (number, pair.position),
        )
    }
    gone = Answer(text=None, error="the request was deleted", error_code="deleted", attempts=0)
    for route in _document(db, number)["routes"]:
        if route not in begun:
            new = NewAnswer(Cell(route, pair.id, 0), "", gone, (), db.now())
            in_one_go(answer_steps(db, run_id, new, None))


def _delete_pairs(db: Connection, run_id: str, pairs: Sequence[_Pair]) -> None:
    """Delete pairs; the counts go on counting them."""
    _count(
        db,
        run_id,
        Counter("deleted" if pair.state in _UNSETTLED else pair.state for pair in pairs),
    )
    db.execute(
        f"DELETE FROM shadow_pairs WHERE {db.any_of('number')}",
        (db.array([pair.number for pair in pairs]),),
    )


def _hide_pairs(db: Connection, pairs: Sequence[_Pair]) -> None:
    """Mark pairs whose requests may be in flight: they are deleted when those have ended."""
    db.execute(
        "UPDATE shadow_pairs SET texts = ?, key_id = '', user_id = '', request_id = '',"
        f" response_id = '', conversation = '' WHERE {db.any_of('number')}",
        (_FORGOTTEN, db.array([pair.number for pair in pairs])),
    )
