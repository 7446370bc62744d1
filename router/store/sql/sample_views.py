"""Samples one by one, and the table of people's notes on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from evaluators.base import Sample
from evaluators.data.rows import value_at
from providers.errors import ConflictError, NotFoundError
from router.store.results import ScoredAnswer
from router.store.sample_views import (
    EXCERPT,
    CellScore,
    ListedSample,
    SampleFilter,
    SampleNote,
    SampleViewStore,
    field_text,
)
from router.store.sql.connection import Connection, upsert
from router.store.sql.database import SqlPart
from router.store.sql.results import CELLS, scored_rows
from router.store.sql.runs import run_number
from router.store.sql.samples import samples_between

# Samples whose texts are read at a time, of which each may have a megabyte.
_TEXTS_AT_ONCE = 200
# Longer messages are not read as a whole for an excerpt of them.
_LONG = 20_000

_object = msgspec.json.Decoder(dict[str, Any])
_messages = msgspec.json.Decoder(list[dict[str, Any]])
_KEEP = upsert(
    "sample_notes",
    ("run", *SampleNote.__struct_fields__),
    key=("run", "position", "key_id"),
)


class SqlSampleViews(SqlPart, SampleViewStore):
    """Samples one by one."""

    async def matching_positions(
        self,
        run_id: str,
        matching: SampleFilter,
        *,
        after: int,
        until: int,
        limit: int,
        backwards: bool = False,
        among: Sequence[int] | None = None,
    ) -> list[int]:
        return await self._database.read(
            "look for samples",
            _matching,
            run_id,
            matching,
            after=after,
            until=until,
            limit=limit,
            backwards=backwards,
            among=among,
        )

    async def listed_samples(
        self, run_id: str, positions: Sequence[int], *, output: str
    ) -> list[ListedSample]:
        return await self._database.read("list samples", _listed, run_id, positions, output)

    async def sample_at(self, run_id: str, position: int) -> Sample | None:
        return await self._database.read("read a sample", _sample_at, run_id, position)

    async def position_of(self, run_id: str, sample_id: str) -> int | None:
        return await self._database.read("look for a sample", _position_of, run_id, sample_id)

    async def results_at(
        self, run_id: str, position: int, *, routes: Sequence[str], repeat: int
    ) -> list[ScoredAnswer]:
        return await self._database.read(
            "read a sample's answers", _results_at, run_id, position, routes, repeat
        )

    async def sample_differences(
        self, run_id: str, a: str, b: str, output: str, *, until: int
    ) -> list[tuple[int, float]]:
        return await self._database.read(
            "read scores of samples", _differences, run_id, (a, b), output, until
        )

    async def keep_note(
        self, run_id: str, note: SampleNote, *, before: float | None = None
    ) -> None:
        await self._database.write("keep a note", _keep_note, run_id, note, before)

    async def notes(self, run_id: str, position: int) -> list[SampleNote]:
        return await self._database.read("read notes", _notes, run_id, position)


_FAILED = (
    "position IN (SELECT position FROM answers WHERE run = :run AND state = 'failed'"
    # It always holds here; it lets SQLite use the small index.
    " AND scored = 0 AND position > :after AND position <= :until)"
)
_SHORT = (
    "position IN (SELECT position FROM answers WHERE run = :run AND shortfall IS NOT NULL"
    " AND position > :after AND position <= :until)"
)
_NOTED = "position IN (SELECT position FROM sample_notes WHERE run = :run)"


def _matching(
    db: Connection,
    run_id: str,
    matching: SampleFilter,
    *,
    after: int,
    until: int,
    limit: int,
    backwards: bool,
    among: Sequence[int] | None,
) -> list[int]:
    number = run_number(db, run_id)
    conditions = ["run = :run", "position > :after", "position <= :until"]
    values: dict[str, Any] = {"run": number, "after": after, "until": until}
    if among is not None:
        conditions.append(db.any_of("position", ":among"))
        values["among"] = db.array(among)
    if matching.failed:
        conditions.append(_FAILED)
    if matching.shortfall:
        conditions.append(_SHORT)
    if matching.noted:
        conditions.append(_NOTED)
    sql = (
        f"SELECT position FROM samples WHERE {' AND '.join(conditions)}"
        f" ORDER BY position{' DESC' if backwards else ''}"
    )
    if not matching.reads_texts:
        return [at for (at,) in db.execute(f"{sql} LIMIT :limit", values | {"limit": limit})]
    candidates = [at for (at,) in db.execute(sql, values)]
    chosen: list[int] = []
    for start in range(0, len(candidates), _TEXTS_AT_ONCE):
        chosen += _with_texts(db, number, matching, candidates[start : start + _TEXTS_AT_ONCE])
        if len(chosen) >= limit:
            return chosen[:limit]
    return chosen


def _with_texts(
    db: Connection, number: int, matching: SampleFilter, candidates: Sequence[int]
) -> list[int]:
    """Return those of the candidates that have the texts which the filter names."""
    left = set(candidates)
    where = f"run = ? AND {db.any_of('position')}"
    if matching.column:
        rows = db.execute(
            f"SELECT position, fields FROM samples WHERE {where}", (number, db.array(candidates))
        )
        left = {at for at, fields in rows if _has_value(fields, matching.column, matching.value)}
    if matching.text:
        text = matching.text.casefold()
        of_left = (number, db.array(sorted(left)))
        rows = db.execute(f"SELECT position, messages, refs FROM samples WHERE {where}", of_left)
        # The texts of messages and references are JSON, which has some characters escaped.
        in_json = msgspec.json.encode(matching.text).decode()[1:-1].casefold()
        in_sample = {at for at, *texts in rows if any(in_json in each.casefold() for each in texts)}
        rows = db.execute(
            f"SELECT position, text FROM answers WHERE {where} AND text IS NOT NULL", of_left
        )
        left = in_sample | {at for at, answer in rows if text in answer.casefold()}
    return [at for at in candidates if at in left]


def _has_value(fields: str, column: str, value: str) -> bool:
    held = value_at(_object.decode(fields), column)
    return field_text(held) == value if held is not None else not value


_LISTED = f"""
    SELECT position, sample_id, CASE WHEN length(messages) <= {_LONG} THEN messages ELSE
        substr(messages, 1, {4 * EXCERPT}) END, length(messages) <= {_LONG}
    FROM samples WHERE run = ? AND {{chosen}}
"""
_LISTED_CELLS = """
    SELECT position, routes.name, repeat, state, shortfall, error_code, scores.value
    FROM answers CROSS JOIN routes ON routes.id = answers.route
    LEFT JOIN scores ON scores.answer = answers.id AND scores.output = ?
    WHERE run = ? AND {chosen} ORDER BY position, routes.name, repeat
"""


def _listed(
    db: Connection, run_id: str, positions: Sequence[int], output: str
) -> list[ListedSample]:
    number = run_number(db, run_id)
    chosen, values = db.any_of("position"), (number, db.array(positions))
    samples = {
        at: (sample_id, _excerpt(messages, is_whole=bool(is_whole)))
        for at, sample_id, messages, is_whole in db.execute(_LISTED.format(chosen=chosen), values)
    }
    cells: dict[int, list[CellScore]] = {}
    for at, route, repeat, state, shortfall, error_code, value in db.execute(
        _LISTED_CELLS.format(chosen=chosen), (output, *values)
    ):
        cell = CellScore(
            route=route,
            repeat=repeat,
            state=state,
            shortfall=shortfall or "",
            error_code=error_code or "",
            value=value,
        )
        cells.setdefault(at, []).append(cell)
    labels: dict[int, list[str]] = {}
    for at, label in db.execute(
        f"SELECT position, label FROM sample_notes WHERE run = ? AND {chosen} ORDER BY at", values
    ):
        labels.setdefault(at, []).append(label)
    return [
        ListedSample(
            position=at,
            id=samples[at][0],
            excerpt=samples[at][1],
            cells=tuple(cells.get(at, ())),
            labels=tuple(dict.fromkeys(filter(None, labels.get(at, ())))),
            notes=len(labels.get(at, ())),
        )
        for at in positions
        if at in samples
    ]


def _excerpt(messages: str, *, is_whole: bool) -> str:
    """Return the beginning of the last message's text; of long ones, that of their JSON."""
    if not is_whole:
        return messages[:EXCERPT]
    decoded = _messages.decode(messages)
    content = decoded[-1].get("content") if decoded else None
    if isinstance(content, list):
        content = " ".join(_part_texts(content))
    return content[:EXCERPT] if isinstance(content, str) else ""


def _part_texts(parts: Iterable[Any]) -> Iterable[str]:
    for part in parts:
        text = part.get("text") if isinstance(part, dict) else None
        if isinstance(text, str):
            yield text


def _sample_at(db: Connection, run_id: str, position: int) -> Sample | None:
    number = run_number(db, run_id)
    return samples_between(db, number, position - 1, position).get(position)


def _position_of(db: Connection, run_id: str, sample_id: str) -> int | None:
    row = db.execute(
        f"SELECT position FROM samples WHERE run = ? AND {db.is_text('sample_id')}",
        (run_number(db, run_id), sample_id),
    ).fetchone()
    return None if row is None else row[0]


def _results_at(
    db: Connection, run_id: str, position: int, routes: Sequence[str], repeat: int
) -> list[ScoredAnswer]:
    rows = db.execute(
        f"{CELLS} WHERE answers.run = ? AND answers.position = ? AND answers.repeat = ?"
        f" AND {db.any_of('routes.name')}",
        (run_number(db, run_id), position, repeat, db.array(list(routes))),
    ).fetchall()
    return scored_rows(db, rows)


# Both routes at once, and without the samples: half of the time.
_DIFFERENCES = """
    SELECT position, difference FROM (
        SELECT position, avg(CASE WHEN answers.route = :a THEN value END)
            - avg(CASE WHEN answers.route = :b THEN value END) AS difference
        FROM answers CROSS JOIN scores ON scores.answer = answers.id AND scores.output = :output
        WHERE run = :run AND position <= :until AND answers.route IN (:a, :b)
        GROUP BY position
    ) AS paired WHERE difference IS NOT NULL ORDER BY position
"""


def _differences(
    db: Connection, run_id: str, routes: tuple[str, str], output: str, until: int
) -> list[tuple[int, float]]:
    number = run_number(db, run_id)
    ids = [
        db.execute("SELECT id FROM routes WHERE name = ?", (name,)).fetchone() for name in routes
    ]
    if None in ids:
        return []
    [a], [b] = ids
    values = {"run": number, "a": a, "b": b, "output": output, "until": until}
    return db.execute(_DIFFERENCES, values).fetchall()


def _keep_note(db: Connection, run_id: str, note: SampleNote, before: float | None) -> None:
    number = run_number(db, run_id)
    there = db.execute(
        "SELECT 1 FROM samples WHERE run = ? AND position = ?", (number, note.position)
    )
    if there.fetchone() is None:
        raise NotFoundError(f"run {run_id!r} has no sample {note.position}")
    if before is not None:
        # Written, so that of two at once the second waits, and finds the first one's.
        marked = db.execute(
            "INSERT INTO sample_notes (run, position, key_id, author, label, note, at)"
            " VALUES (:run, :position, :key_id, '', '', '', 0)"
            " ON CONFLICT (run, position, key_id) DO UPDATE SET at = excluded.at"
            " WHERE sample_notes.at = :before",
            {
                "run": number,
                "position": note.position,
                "key_id": note.key_id,
                "before": before,
            },
        )
        if not marked.rowcount:
            raise ConflictError("You have written another note on this sample meanwhile.")
    if note.label or note.note:
        db.execute(_KEEP, (number, *msgspec.structs.astuple(note)))
    else:
        db.execute(
            "DELETE FROM sample_notes WHERE run = ? AND position = ? AND key_id = ?",
            (number, note.position, note.key_id),
        )


def _notes(db: Connection, run_id: str, position: int) -> list[SampleNote]:
    rows = db.execute(
        f"SELECT {', '.join(SampleNote.__struct_fields__)} FROM sample_notes"
        " WHERE run = ? AND position = ? ORDER BY at, key_id",
        (run_number(db, run_id), position),
    )
    return [SampleNote(**dict(zip(SampleNote.__struct_fields__, row, strict=True))) for row in rows]
