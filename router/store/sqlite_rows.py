"""What each method of `SqliteStore` says to SQLite, and how its types become rows.

Every function takes the connection and runs inside a transaction that its caller holds; none keeps
anything between calls. See `migrations.py` for the tables.
"""

from __future__ import annotations

import math
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlite_utils import Database

from evaluators.base import Answer, Cell, Sample, Score, Usage
from providers.base import AS_IT_CAME, Translation
from providers.errors import NotFoundError, StoreError, closest
from router.store.results import ScoredAnswer
from router.store.runs import Progress, Run, RunFilter

PAGE = 500  # rows read at a time by the async iterators
CHUNK = 1000  # samples added, or answers deleted, in one transaction
CHUNK_BYTES = 8 * 1024 * 1024  # of samples added in one transaction, unless one is larger

RUN_FIELDS = {field.name: field.type for field in msgspec.structs.fields(Run)}
JSON_FIELDS = frozenset({"document", "metrics", "versions", "tags"})

_messages = msgspec.json.Decoder(tuple[dict[str, Any], ...])
_texts = msgspec.json.Decoder(tuple[str, ...])
_object = msgspec.json.Decoder(dict[str, Any])
_floats = msgspec.json.Decoder(tuple[float, ...])
_attempts = msgspec.json.Decoder(tuple[dict[str, Any], ...])
_translation = msgspec.json.Decoder(Translation)

# The columns of an Answer, in the order that `_answer` reads them.
_ANSWER = """
    answers.text, answers.error, answers.error_code, answers.target, answers.model,
    answers.system_fingerprint, answers.finish_reason, answers.prompt_tokens,
    answers.completion_tokens, answers.total_tokens, answers.cost_usd, answers.first_byte_s,
    answers.total_s, answers.attempt_count, answers.cached, answers.logprob_sum,
    answers.logprob_tokens, answers.translation, answers.estimated
"""


# runs


def insert_run(db: Database, run: Run, now: float) -> int:
    """A run without samples, hidden until `set_hidden(..., None)`; its number."""
    record = {name: _run_value(name, getattr(run, name)) for name in RUN_FIELDS}
    if db.execute("SELECT 1 FROM runs WHERE id = ?", (run.id,)).fetchone():
        raise StoreError(f"there is a run {run.id!r} already")
    number = db.table("runs").insert(record | {"hidden_since": now}).last_rowid
    assert number is not None
    db.table("counts").insert({"run": number})
    return number


def set_hidden(db: Database, number: int, now: float | None) -> None:
    """Hide a run while it is being added or deleted, or show it."""
    db.execute("UPDATE runs SET hidden_since = ? WHERE number = ?", (now, number))


def hide(db: Database, run_id: str, now: float) -> int:
    """Take a run out of sight before its rows are deleted; its number."""
    number = run_number(db, run_id)
    set_hidden(db, number, now)
    return number


def erase_some(db: Database, number: int, now: float) -> bool:
    """Whether there may be more to delete. Scores go with their answers."""
    for doomed in (
        "DELETE FROM answers WHERE id IN (SELECT id FROM answers WHERE run = ? LIMIT ?)",
        "DELETE FROM samples WHERE rowid IN (SELECT rowid FROM samples WHERE run = ? LIMIT ?)",
        "DELETE FROM judgements WHERE number IN (SELECT number FROM judgements"
        " WHERE owner = (SELECT id FROM runs WHERE number = ?) LIMIT ?)",
    ):
        if db.execute(doomed, (number, CHUNK)).rowcount:
            set_hidden(db, number, now)
            return True
    db.execute("DELETE FROM counts WHERE run = ?", (number,))
    db.execute("DELETE FROM runs WHERE number = ?", (number,))
    return False


def run_number(db: Database, run_id: str) -> int:
    """What stands for the run in the other tables. Raises NotFoundError."""
    row = db.execute(
        "SELECT number FROM runs WHERE id = ? AND hidden_since IS NULL", (run_id,)
    ).fetchone()
    if row is None:
        raise NotFoundError(f"there is no run {run_id!r}")
    number: int = row[0]
    return number


def find_run(db: Database, run_id: str) -> Run | None:
    """By id or by the beginning of one; an exact id wins over longer ones."""
    found = [
        _run(row)
        for row in db.table("runs").rows_where(
            "hidden_since IS NULL AND id >= :id AND substr(id, 1, length(:id)) = :id AND :id <> ''",
            {"id": run_id},
            order_by="id",
            limit=4,
        )
    ]
    if len(found) > 1 and found[0].id != run_id:
        names = ", ".join(run.id for run in found[:3])
        more = ", ..." if len(found) > 3 else ""
        raise NotFoundError(f"several runs begin with {run_id!r}: {names}{more}")
    return found[0] if found else None


def runs_page(db: Database, wanted: RunFilter, limit: int, before: str | None) -> list[Run]:
    """Newest first, older than `before`."""
    clauses = ["hidden_since IS NULL", "(:before IS NULL OR id < :before)"]
    if wanted.state is not None:
        clauses.append("state = :state")
    if wanted.experiment is not None:
        # The second says to SQLite that the index has it.
        clauses.append("experiment = :experiment")
        clauses += ["experiment <> ''"] if wanted.experiment else []
    if wanted.tag is not None:
        clauses.append("EXISTS (SELECT 1 FROM json_each(runs.tags) WHERE value = :tag)")
    return [
        _run(row)
        for row in db.table("runs").rows_where(
            " AND ".join(clauses),
            {"before": before, **msgspec.structs.asdict(wanted)},
            order_by="id DESC",
            limit=limit,
        )
    ]


def runs_where(db: Database, where: str, *, order_by: str) -> list[Run]:
    """Every run that is to be seen and fits."""
    found = db.table("runs").rows_where(f"hidden_since IS NULL AND {where}", order_by=order_by)
    return [_run(row) for row in found]


def _run(row: dict[str, Any]) -> Run:
    return msgspec.convert(
        {
            name: msgspec.json.decode(row[name]) if name in JSON_FIELDS else row[name]
            for name in RUN_FIELDS
        }
        | {"only_scores": bool(row["only_scores"])},
        Run,
    )


def _run_value(name: str, value: Any) -> Any:
    """A run's field as its column holds it."""
    try:
        value = msgspec.convert(value, RUN_FIELDS[name])
    except msgspec.ValidationError as error:
        raise StoreError(f"a run's {name!r} cannot be {value!r}: {error}") from error
    return _json(value) if name in JSON_FIELDS else _finite(value, name)


def update_run(db: Database, run_id: str, changes: dict[str, Any]) -> None:
    """Set checked fields of a run."""
    for name in changes:
        if name == "id" or name not in RUN_FIELDS:
            known = closest(name, RUN_FIELDS.keys() - {"id"})
            raise StoreError(f"a run has no field {name!r} that can be changed.{known}")
    values = {name: _run_value(name, value) for name, value in changes.items()}
    db.table("runs").update(run_number(db, run_id), values)


def abandoned(db: Database, before: float) -> list[int]:
    """The numbers of runs whose addition or deletion has not moved since `before`."""
    rows = db.execute("SELECT number FROM runs WHERE hidden_since < ?", (before,))
    return [number for (number,) in rows]


def progress(db: Database, run_id: str) -> Progress:
    """The run's counts, as the triggers keep them."""
    answered, failed, in_flight, scored = db.execute(
        "SELECT answered, failed, in_flight, scored FROM counts WHERE run = ?",
        (run_number(db, run_id),),
    ).fetchone()
    return Progress(answered=answered, failed=failed, in_flight=in_flight, scored=scored)


# answers and scores


class ResultsPosition(NamedTuple):
    """Where `results` goes on: behind this one."""

    position: int
    route: str
    repeat: int


# A cell's key: run, position, route, repeat.
_Key = tuple[int, int, int, int]


def _key(db: Database, run_id: str, cell: Cell) -> _Key:
    row = db.execute(
        "SELECT run, position, (SELECT id FROM routes WHERE name = ?) FROM samples"
        " WHERE sample_id = ?"
        " AND run = (SELECT number FROM runs WHERE id = ? AND hidden_since IS NULL)",
        (cell.route, cell.sample_id, run_id),
    ).fetchone()
    if row is None:
        run_number(db, run_id)
        raise NotFoundError(f"run {run_id!r} has no sample {cell.sample_id!r}")
    run, position, route = row
    if route is None:
        route = db.execute("INSERT INTO routes (name) VALUES (?)", (cell.route,)).lastrowid
    return run, position, route, cell.repeat


def begin(
    db: Database,
    run_id: str,
    cell: Cell,
    *,
    request_hash: str,
    target: str,
    now: float,
    unless_known: bool = False,
) -> Answer | None:
    """A row for the cell, in flight; refused when there is one. Or the known answer, and no row."""
    if unless_known:
        known = cached_answer(db, request_hash, cell.repeat)
        if known is not None:
            return known
    key = _key(db, run_id, cell)
    begun = db.execute(
        "INSERT INTO answers (run, position, route, repeat, state, asked_at, target, request_hash,"
        " interrupted) VALUES (?, ?, ?, ?, 'sent', ?, ?, ?, coalesce((SELECT times FROM"
        " interruptions WHERE run = ? AND position = ? AND route = ? AND repeat = ?), 0))"
        " ON CONFLICT DO NOTHING",
        (*key, now, target, request_hash, *key),
    )
    if not begun.rowcount:
        (state,) = db.execute(
            "SELECT state FROM answers WHERE run = ? AND position = ? AND route = ? AND repeat = ?",
            key,
        ).fetchone()
        raise StoreError(f"{_name(cell)} is {state} already")
    return None


def withdraw(db: Database, run_id: str, cell: Cell) -> None:
    """Delete the row of a cell in flight."""
    db.execute(
        "DELETE FROM answers WHERE run = ? AND position = ? AND route = ? AND repeat = ?"
        " AND state = 'sent'",
        _key(db, run_id, cell),
    )


class StoredAnswer(NamedTuple):
    """An answer on its way into the database."""

    cell: Cell
    request_hash: str
    answer: Answer
    attempts: Sequence[Any]
    now: float


def keep_answer(db: Database, run_id: str, kept: StoredAnswer) -> None:
    """Fill the begun cell; begin it first where it was not."""
    cell, request_hash, answer, attempts, now = kept
    values = (
        "answered" if answer.text is not None and answer.error is None else "failed",
        now,
        request_hash,
        _json(attempts),
        answer.text,
        answer.error,
        answer.error_code,
        answer.target,
        answer.model,
        answer.system_fingerprint,
        answer.finish_reason,
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
        answer.usage.total_tokens,
        _finite(answer.cost_usd, "cost_usd"),
        _finite(answer.first_byte_s, "first_byte_s"),
        _finite(answer.total_s, "total_s"),
        answer.attempts,
        answer.cached,
        _finite(answer.logprob_sum, "logprob_sum"),
        answer.logprob_tokens,
        None if answer.translation == AS_IT_CAME else _json(answer.translation),
        answer.estimated,
        *_key(db, run_id, cell),
    )

    def fill() -> bool:
        return bool(
            db.execute(
                "UPDATE answers SET state = ?, answered_at = ?, request_hash = ?, attempts = ?,"
                " text = ?, error = ?, error_code = ?, target = ?, model = ?,"
                " system_fingerprint = ?, finish_reason = ?, prompt_tokens = ?,"
                " completion_tokens = ?, total_tokens = ?, cost_usd = ?, first_byte_s = ?,"
                " total_s = ?, attempt_count = ?, cached = ?, logprob_sum = ?,"
                " logprob_tokens = ?, translation = ?, estimated = ?"
                " WHERE run = ? AND position = ? AND route = ? AND repeat = ? AND state = 'sent'",
                values,
            ).rowcount
        )

    if not fill():
        begin(db, run_id, cell, request_hash=request_hash, target=answer.target, now=now)
        fill()


def keep_scores(db: Database, run_id: str, cell: Cell, scores: Sequence[Score]) -> None:
    """Add or replace scores and mark the answer as scored."""
    row = db.execute(
        "SELECT id, state FROM answers WHERE run = ? AND position = ? AND route = ? AND repeat = ?",
        _key(db, run_id, cell),
    ).fetchone()
    if row is None or row[1] != "answered":
        state = "does not exist" if row is None else f"is {row[1]}"
        raise StoreError(f"{_name(cell)} has no answer that could be scored: it {state}")
    db.conn.executemany(
        "INSERT OR REPLACE INTO scores (answer, output, value, statistics, passed, error, note)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (
                row[0],
                score.output,
                _finite(score.value, score.output),
                _json([float(number) for number in score.statistics]) if score.statistics else None,
                score.passed,
                score.error or None,
                score.note or None,
            )
            for score in scores
        ],
    )
    db.execute("UPDATE answers SET scored = 1 WHERE id = ? AND scored = 0", (row[0],))


def keep_all_scores(db: Database, run_id: str, scored: Mapping[Cell, Sequence[Score]]) -> None:
    """Add or replace the scores of several answers."""
    for cell, scores in scored.items():
        keep_scores(db, run_id, cell, scores)


def forget_failed(db: Database, run_id: str) -> int:
    """Delete the run's errors; how many there were."""
    return forget(db, run_number(db, run_id), "failed")


def forget(db: Database, number: int, state: str) -> int:
    """Delete the run's cells in a state, `sent` or `failed`; how many there were."""
    # `scored = 0` always holds here; it lets SQLite use the small index.
    return db.execute(
        "DELETE FROM answers WHERE run = ? AND state = ? AND scored = 0", (number, state)
    ).rowcount


# What is known of a cell beside its answer, in the order that `_scored` reads it.
_CELL = """
    answers.id, answers.position, routes.name, samples.sample_id, answers.repeat, answers.state,
    answers.request_hash, answers.asked_at, answers.answered_at, answers.interrupted,
    answers.attempts
"""
_CELL_COLUMNS = 11
_RESULTS = f"""
    SELECT {_CELL}, {_ANSWER}
    FROM answers
    CROSS JOIN routes ON routes.id = answers.route
    CROSS JOIN samples ON samples.run = answers.run AND samples.position = answers.position
    WHERE answers.run = :run AND answers.position >= :position
        AND (answers.position > :position OR routes.name > :name
            OR (routes.name = :name AND answers.repeat > :repeat))
        AND (:route IS NULL OR routes.name = :route)
"""  # noqa: S608 - built from constants of this file
_RESULTS_ORDER = " ORDER BY answers.position, routes.name, answers.repeat LIMIT :page"


def results_page(
    db: Database, run_id: str, after: ResultsPosition, route: str | None
) -> tuple[list[ScoredAnswer], ResultsPosition | None]:
    """A page, and where the next one starts; None when this was the last."""
    rows = db.execute(
        _RESULTS + _RESULTS_ORDER,
        {
            "run": run_number(db, run_id),
            "position": after.position,
            "name": after.route,
            "repeat": after.repeat,
            "route": route,
            "page": PAGE,
        },
    ).fetchall()
    page = _scored(db, rows)
    if len(rows) < PAGE:
        return page, None
    return page, ResultsPosition(rows[-1][1], rows[-1][2], rows[-1][4])


def take_page(
    db: Database, run_id: str, after: ResultsPosition, take: Callable[[ScoredAnswer], None]
) -> ResultsPosition | None:
    """Hand over a page, one by one; where the next one starts."""
    page, place = results_page(db, run_id, after, None)
    for one in page:
        take(one)
    return place


_BY_NUMBER = f"""
    SELECT {_CELL}, {_ANSWER}
    FROM answers
    CROSS JOIN routes ON routes.id = answers.route
    CROSS JOIN samples ON samples.run = answers.run AND samples.position = answers.position
    WHERE answers.id IN (SELECT value FROM json_each(?)) ORDER BY answers.id
"""  # noqa: S608 - built from constants of this file


def answers_by_number(db: Database, numbers: Sequence[int]) -> list[tuple[int, ScoredAnswer]]:
    """The position of its sample, and the answer with its scores, for each `answers.id`."""
    if not numbers:
        return []
    rows = db.execute(_BY_NUMBER, (_json(numbers),)).fetchall()
    return [(row[1], one) for row, one in zip(rows, _scored(db, rows), strict=True)]


def _scored(db: Database, rows: Sequence[Sequence[Any]]) -> list[ScoredAnswer]:
    """Rows of `_CELL` and `_ANSWER` with their scores."""
    scores: dict[int, list[Score]] = {row[0]: [] for row in rows}
    for answer, output, value, statistics, passed, error, note in db.execute(
        "SELECT answer, output, value, statistics, passed, error, note FROM scores"
        " WHERE answer IN (SELECT value FROM json_each(?)) ORDER BY answer, output",
        (_json(list(scores)),),
    ):
        scores[answer].append(
            Score(
                output=output,
                value=value,
                statistics=_floats.decode(statistics) if statistics else (),
                passed=None if passed is None else bool(passed),
                error=error or "",
                note=note or "",
            )
        )
    return [
        ScoredAnswer(
            cell=Cell(row[2], row[3], row[4]),
            answer=None if row[5] == "sent" else _answer(row[_CELL_COLUMNS:]),
            scores=tuple(scores[row[0]]),
            request_hash=row[6],
            asked_at=row[7],
            answered_at=row[8],
            interrupted=row[9],
            attempts=_attempts.decode(row[10]) if row[10] else (),
        )
        for row in rows
    ]


_CACHED = f"""
    SELECT {_ANSWER} FROM answers
    WHERE request_hash = ? AND repeat = ? AND state = 'answered'
    ORDER BY answered_at DESC, id DESC LIMIT 1
"""  # noqa: S608 - built from constants of this file


def cached_answer(db: Database, request_hash: str, repeat: int) -> Answer | None:
    """The newest answer to the request."""
    row = db.execute(_CACHED, (request_hash, repeat)).fetchone()
    return None if row is None else _answer(row)


def _answer(row: Sequence[Any]) -> Answer:
    """An Answer from the columns of `_ANSWER`."""
    return Answer(
        text=row[0],
        error=row[1],
        error_code=row[2],
        target=row[3],
        model=row[4],
        system_fingerprint=row[5],
        finish_reason=row[6],
        usage=Usage(prompt_tokens=row[7], completion_tokens=row[8], total_tokens=row[9]),
        cost_usd=row[10],
        first_byte_s=row[11],
        total_s=row[12],
        attempts=row[13],
        cached=bool(row[14]),
        logprob_sum=row[15],
        logprob_tokens=row[16],
        translation=AS_IT_CAME if row[17] is None else _translation.decode(row[17]),
        estimated=bool(row[18]),
    )


# samples


# position, sample_id, refs, messages, fields, answer
SampleValues = tuple[int, str, str, str, str, str | None]


def sample_chunk(samples: Iterator[Sample], position: int) -> list[SampleValues]:
    """The next samples as columns hold them, from `position` on; a bounded number of bytes."""
    chunk: list[SampleValues] = []
    size = 0
    for at, sample in enumerate(samples, position):
        texts = _json(sample.references), _json(sample.messages), _json(sample.fields)
        chunk.append((at, sample.id, *texts, sample.answer))
        size += sum(map(len, texts))
        # Checked last, because what an iterator has given out cannot be put back.
        if len(chunk) == CHUNK or size > CHUNK_BYTES:
            break
    return chunk


def insert_samples(db: Database, number: int, chunk: Sequence[SampleValues], now: float) -> None:
    """The next samples of a run that is being added."""
    insert_sample_rows(db, number, chunk)
    set_hidden(db, number, now)


def insert_sample_rows(db: Database, number: int, chunk: Sequence[SampleValues]) -> None:
    """Samples of a run. Raises StoreError where two have the same id."""
    try:
        db.conn.executemany(
            "INSERT INTO samples (run, position, sample_id, refs, messages, fields, answer)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(number, *row) for row in chunk],
        )
    except sqlite3.IntegrityError as error:
        raise StoreError(f"cannot add samples: two have the same id ({error})") from error


def clusters(db: Database, run_id: str) -> dict[str, str]:
    """Sample id to cluster; without the samples whose row has none, or a blank one."""
    found = db.execute(
        "SELECT sample_id, trim(json_extract(fields, '$.cluster')) FROM samples"
        " WHERE run = ? AND json_extract(fields, '$.cluster') IS NOT NULL",
        (run_number(db, run_id),),
    )
    return {sample_id: sys.intern(cluster) for sample_id, cluster in found if cluster}


def samples_page(db: Database, run_id: str, after: int) -> list[Sample]:
    """The samples behind the first `after`, at most PAGE."""
    number = run_number(db, run_id)
    return list(samples_between(db, number, after, after + PAGE).values())


def samples_between(
    db: Database, number: int, after: int, until: int, without: Sequence[int] = ()
) -> dict[int, Sample]:
    """Position to sample, in order, behind the first `after` and not behind the first `until`."""
    return {
        position: Sample(
            id=sample_id,
            messages=_messages.decode(messages),
            references=_texts.decode(refs),
            fields=_object.decode(fields),
            answer=answer,
        )
        for position, sample_id, messages, refs, fields, answer in db.execute(
            "SELECT position, sample_id, messages, refs, fields, answer FROM samples"
            " WHERE run = ? AND position > ? AND position <= ?"
            " AND position NOT IN (SELECT value FROM json_each(?)) ORDER BY position",
            (number, after, until, _json(without)),
        )
    }


# values


def _json(value: Any) -> str:
    """`value` as JSON text; msgspec would write NaN as null, which is not what was measured."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, float):
            _finite(item, "a JSON value")
        elif isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, list | tuple):
            waiting.extend(item)
    return msgspec.json.encode(value).decode()


def _finite(value: Any, name: str) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise StoreError(f"cannot keep {value} as {name!r}: it is not a finite number")
    return value


def _name(cell: Cell) -> str:
    return f"cell ({cell.route}, {cell.sample_id}, repeat {cell.repeat})"


def set_route(db: Database, name: str, route: dict[str, Any] | None, now: float) -> None:
    """Set or remove the override of a route."""
    if route is None:
        db.execute("DELETE FROM route_overrides WHERE name = ?", (name,))
        return
    db.execute(
        "INSERT OR REPLACE INTO route_overrides (name, route, changed_at) VALUES (?, ?, ?)",
        (name, _json(route), now),
    )


def route_overrides(db: Database) -> dict[str, dict[str, Any]]:
    """Name to the overriding route's document."""
    found = db.execute("SELECT name, route FROM route_overrides ORDER BY name")
    return {name: msgspec.json.decode(route) for name, route in found}
