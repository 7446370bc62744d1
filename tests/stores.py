"""Rows for tests of the store, and SQLite stores that are open, or locked by another process."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing
from pathlib import Path

from evaluators.base import Answer, Cell, Sample, Score
from router.gateway.key_administration import create
from router.store.protocol import Store
from router.store.rollouts import RolloutBatch
from router.store.runs import Run
from router.store.sqlite import SqliteStore


def a_run(run_id: str = "run_1", **fields) -> Run:
    return Run(
        **{
            "id": run_id,
            "name": "a name",
            "state": "queued",
            "document": {"routes": ["r"], "parameters": {"temperature": 0.5, "stop": None}},
            "dataset": "d.jsonl",
            "dataset_hash": "ab" * 32,
            "dataset_rows": 3,
            "metrics": {"rouge": "rouge|v1"},
            "created_at": 12.5,
        }
        | fields
    )


def some_samples(count: int = 3, *, start: int = 0) -> list[Sample]:
    return [
        Sample(id=f"s{n}", messages=({"role": "user", "content": f"prompt {n}"},))
        for n in range(start, start + count)
    ]


async def everything(iterator) -> list:
    return [item async for item in iterator]


async def answered_cells(store: Store) -> set[Cell]:
    return {result.cell async for result in store.results("run_1") if result.answer is not None}


async def answered(
    store: Store, cell: Cell, *outputs: str, text: str = "text", run_id: str = "run_1", **fields
) -> None:
    """An answer in its cell, with a score of each output."""
    await store.begin(run_id, cell, "hash", "p/m")
    answer = Answer(text=text, target="p/m", **fields)
    await store.keep_answer(run_id, cell, "hash", answer, [])
    if outputs:
        scores = [Score(output=output, value=1.0) for output in outputs]
        await store.keep_scores(run_id, {cell: scores})


async def failed(store: Store, cell: Cell, run_id: str = "run_1") -> None:
    await store.begin(run_id, cell, "hash", "p/m")
    await store.keep_answer(run_id, cell, "hash", Answer(text=None, error="it is down"), [])


@asynccontextmanager
async def sqlite_store(path: Path, **options):
    store = SqliteStore(path, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def in_store(path: Path, action):
    """Run an action on the store of a file, and return its result."""

    async def run():
        async with sqlite_store(path) as store:
            return await action(store)

    return asyncio.run(run())


def add_keys(path: Path, *roles: str, **named: str) -> dict[str, str]:
    """Add keys to a file, and return them by their names.

    Args:
        path: the file, which may be a new one.
        roles: of keys that are named as their role.
        named: the roles of others, by name.
    """

    async def add(store):
        return {
            name: (await create(store, name, now=1.0, role=role))[0]
            for name, role in ({role: role for role in roles} | named).items()
        }

    return in_store(path, add)


@asynccontextmanager
async def locked(path: Path):
    """Another connection holds the write lock, as another process would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def a_batch(**fields) -> RolloutBatch:
    """What was counted of a rollout at a time."""
    return RolloutBatch(
        **{
            "number": 1,
            "began": 10.0,
            "until": 11.0,
            "state": "running",
            "step": 0,
            "sampled_candidate": 1.0,
            "sampled_control": 0.5,
            "candidate_requests": 3,
            "requests": 4,
            "scores": 0,
        }
        | fields
    )
