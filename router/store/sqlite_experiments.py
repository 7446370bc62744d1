"""What is kept of experiments: which runs are in one, its tags and its notes.

As in `sqlite_rows.py`: every function runs inside a transaction that its caller holds.
"""

from __future__ import annotations

import msgspec
from sqlite_utils import Database

from router.store.experiments import Experiment

_texts = msgspec.json.Decoder(tuple[str, ...])
_counts = msgspec.json.Decoder(dict[str, int])

# One that has notes or tags and no run (any more) is an experiment, too.
_EVERY = """
    SELECT names.name, coalesce(experiments.tags, '[]'), coalesce(experiments.notes, ''),
        runs, states, first_at, last_at
    FROM (
        SELECT name FROM experiments
        UNION SELECT experiment FROM runs WHERE experiment <> '' AND hidden_since IS NULL
    ) AS names
    LEFT JOIN experiments ON experiments.name = names.name
    LEFT JOIN (
        SELECT experiment, sum(many) AS runs, json_group_object(state, many) AS states,
            min(first_at) AS first_at, max(last_at) AS last_at
        FROM (
            SELECT experiment, state, count(*) AS many, min(created_at) AS first_at,
                max(created_at) AS last_at
            FROM runs WHERE experiment <> '' AND hidden_since IS NULL GROUP BY experiment, state
        ) GROUP BY experiment
    ) ON experiment = names.name
"""


def experiments(db: Database, name: str | None, tag: str | None) -> list[Experiment]:
    """Those of that name or tag, the one with the newest run first."""
    rows = db.execute(
        f"{_EVERY} WHERE (:name IS NULL OR names.name = :name)"  # noqa: S608 - constants
        " AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(experiments.tags)"
        " WHERE json_each.value = :tag)) ORDER BY last_at DESC NULLS LAST, names.name",
        {"name": name, "tag": tag},
    )
    return [
        Experiment(
            name=row[0],
            tags=_texts.decode(row[1]),
            notes=row[2],
            runs=row[3] or 0,
            states=_counts.decode(row[4] or "{}"),
            first_run_at=row[5],
            last_run_at=row[6],
        )
        for row in rows
    ]


def set_experiment(db: Database, name: str, tags: tuple[str, ...], notes: str) -> None:
    """Its tags and notes, in place of those it had."""
    db.execute(
        "INSERT INTO experiments (name, tags, notes) VALUES (?, ?, ?) ON CONFLICT (name)"
        " DO UPDATE SET tags = excluded.tags, notes = excluded.notes",
        (name, msgspec.json.encode(tags).decode(), notes),
    )


def forget_experiment(db: Database, name: str) -> None:
    """Tags and notes are gone; its runs stay, in no experiment."""
    db.execute("DELETE FROM experiments WHERE name = ?", (name,))
    db.execute("UPDATE runs SET experiment = '' WHERE experiment = ?", (name,))
