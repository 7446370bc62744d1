"""The table of experiments: which runs are in one, its tags and its notes."""

from __future__ import annotations

import msgspec
from sqlite_utils import Database

from router.store.columns.experiments import experiment_of
from router.store.columns.values import readable
from router.store.experiments import Experiment, ExperimentStore
from router.store.sqlite.database import SqlitePart, contains

# A name that has notes or tags but no run (any more) is an experiment, too.
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


class SqliteExperiments(SqlitePart, ExperimentStore):
    """Tags and notes of experiments, and counts of their runs."""

    async def experiments(
        self, *, name: str | None = None, tag: str | None = None
    ) -> list[Experiment]:
        return await self._database.read("list experiments", _experiments, name, tag)

    async def set_experiment(self, name: str, *, tags: tuple[str, ...], notes: str) -> None:
        await self._database.write("describe an experiment", _set, name, tags, notes)

    async def forget_experiment(self, name: str) -> None:
        await self._database.write("forget an experiment", _forget, name)


def _experiments(db: Database, name: str | None, tag: str | None) -> list[Experiment]:
    rows = db.execute(
        f"{_EVERY} WHERE (:name IS NULL OR names.name = :name)"
        f" AND (:tag IS NULL OR {contains('experiments.tags', ':tag')})"
        " ORDER BY last_at DESC NULLS LAST, names.name",
        {"name": name, "tag": tag},
    )
    return readable(rows, experiment_of, lambda row: f"the experiment {row[0]}")


def _set(db: Database, name: str, tags: tuple[str, ...], notes: str) -> None:
    db.execute(
        "INSERT INTO experiments (name, tags, notes) VALUES (?, ?, ?) ON CONFLICT (name)"
        " DO UPDATE SET tags = excluded.tags, notes = excluded.notes",
        (name, msgspec.json.encode(tags).decode(), notes),
    )


def _forget(db: Database, name: str) -> None:
    db.execute("DELETE FROM experiments WHERE name = ?", (name,))
    db.execute("UPDATE runs SET experiment = '' WHERE experiment = ?", (name,))
