"""The table of experiments: which runs are in one, its tags and its notes."""

from __future__ import annotations

import math

import msgspec

from router.store.columns.experiments import StateCount, experiment_of
from router.store.columns.values import json_text, readable
from router.store.experiments import Experiment, ExperimentStore
from router.store.sql.connection import Connection
from router.store.sql.database import SqlPart

_RUNS = """
    SELECT experiment, state, count(*), min(created_at), max(created_at)
    FROM runs WHERE experiment <> '' AND hidden_since IS NULL{condition}
    GROUP BY experiment, state
"""


class SqlExperiments(SqlPart, ExperimentStore):
    """Tags and notes of experiments, and counts of their runs."""

    async def experiments(
        self, *, name: str | None = None, tag: str | None = None
    ) -> list[Experiment]:
        return await self._database.read("list experiments", _experiments, name, tag)

    async def set_experiment(self, name: str, *, tags: tuple[str, ...], notes: str) -> None:
        await self._database.write("describe an experiment", _set, name, tags, notes)

    async def forget_experiment(self, name: str) -> None:
        await self._database.write("forget an experiment", _forget, name)


def _experiments(db: Connection, name: str | None, tag: str | None) -> list[Experiment]:
    conditions = {"name = :name": name, db.contains("tags", ":tag"): tag}
    where = " AND ".join(text for text, value in conditions.items() if value is not None)
    values = {"name": name, "tag": json_text(tag)}
    described = {
        row[0]: row
        for row in db.execute(
            f"SELECT name, tags, notes FROM experiments{f' WHERE {where}' if where else ''}",
            values,
        )
    }
    counts: dict[str, list[StateCount]] = {}
    of_name = "" if name is None else " AND experiment = :name"
    for experiment, *count in db.execute(_RUNS.format(condition=of_name), values):
        counts.setdefault(experiment, []).append(StateCount(*count))
    # A name that has notes or tags but no run (any more) is an experiment, too; one that has only
    # runs has no tag.
    names = described.keys() if tag is not None else described.keys() | counts.keys()
    rows = [(*described.get(each, (each, "[]", "")), counts.get(each, [])) for each in names]
    experiments = readable(rows, experiment_of, lambda row: f"the experiment {row[0]}")
    return sorted(experiments, key=lambda each: (-(each.last_run_at or -math.inf), each.name))


def _set(db: Connection, name: str, tags: tuple[str, ...], notes: str) -> None:
    db.execute(
        "INSERT INTO experiments (name, tags, notes) VALUES (?, ?, ?) ON CONFLICT (name)"
        " DO UPDATE SET tags = excluded.tags, notes = excluded.notes",
        (name, msgspec.json.encode(tags).decode(), notes),
    )


def _forget(db: Connection, name: str) -> None:
    db.execute("DELETE FROM experiments WHERE name = ?", (name,))
    db.execute("UPDATE runs SET experiment = '' WHERE experiment = ?", (name,))
