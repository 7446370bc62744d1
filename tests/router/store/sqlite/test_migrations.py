"""Files of older and newer versions."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import msgspec
import pytest
from sqlite_utils import Database
from stores import a_run, answered, everything, some_samples, sqlite_store

from evaluators.base import Cell
from providers.errors import StoreError
from router.store.keys import KeyRow
from router.store.rollouts import AssignedRequests, Rollout
from router.store.sqlite import SqliteStore
from router.store.sqlite.migrations import STEPS, migrate


async def test_an_empty_file_and_one_that_is_up_to_date(tmp_path):
    path = tmp_path / "a.db"
    path.touch()
    schemas = []
    for _ in range(2):
        async with sqlite_store(path) as store:
            await store.runs()
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            schemas.append(
                connection.execute("SELECT name, sql, rootpage FROM sqlite_schema").fetchall()
            )
            applied = connection.execute("SELECT name FROM _sqlite_migrations").fetchall()
            assert [name for (name,) in applied] == [step.__name__ for step in STEPS]
    assert schemas[0] == schemas[1]


@pytest.mark.parametrize("step", [step.__name__ for step in STEPS])
async def test_a_file_of_an_older_version_is_migrated_with_its_rows(tmp_path, step):
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        db = Database(connection)
        migrate(db, stop_before=step)
        has_runs = db.table("runs").exists()
        if has_runs:
            row = msgspec.to_builtins(a_run())
            columns = db.table("runs").columns_dict
            db.table("runs").insert(
                {name: value for name, value in row.items() if name in columns} | {"number": 1}
            )
            db.table("counts").insert({"run": 1})
    async with sqlite_store(path) as store:
        assert await store.runs() == ([a_run()] if has_runs else [])
        await store.add_run(a_run("run_2"), some_samples())
        await answered(store, Cell("r", "s0", 0), run_id="run_2")
        assert await store.datasets() == []


async def test_answers_of_an_older_version_are_no_estimates(tmp_path):
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        db = Database(connection)
        migrate(db, stop_before="m022_estimated_answers")
        row = msgspec.to_builtins(a_run(dataset_rows=1))
        columns = db.table("runs").columns_dict
        db.table("runs").insert(
            {name: row[name] for name in row if name in columns} | {"number": 1}
        )
        db.table("counts").insert({"run": 1})
        db.execute("INSERT INTO samples (run, position, sample_id, refs, messages, fields)"
                   " VALUES (1, 1, 's0', '[]', '[]', '{}')")  # fmt: skip
        db.execute("INSERT INTO routes (id, name) VALUES (1, 'r')")
        db.execute("INSERT INTO answers (run, position, route, repeat, state, asked_at, target,"
                   " request_hash, text, model, system_fingerprint, finish_reason, attempt_count,"
                   " cached) VALUES (1, 1, 1, 0, 'answered', 1.0, 'p/m', 'h', 'old', '', '', '', 1,"
                   " 0)")  # fmt: skip
    async with sqlite_store(path) as store:
        [result] = await everything(store.results("run_1"))
        assert (result.answer.text, result.answer.estimated) == ("old", False)
        assert await store.embedding_use("run_1") == []


async def test_copies_of_an_older_version_get_the_run_that_sent_their_request(tmp_path):
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        db = Database(connection)
        migrate(db, stop_before="m026_cached_from")
        db.execute("INSERT INTO routes (id, name) VALUES (1, 'r')")
        # Of the second request, the run that sent it was deleted.
        answers = {
            1: [("x", 1.0, 0)],
            2: [("x", 2.0, 1), ("y", 2.0, 1)],
            3: [("x", 3.0, 1)],
            4: [("x", 4.0, 0)],
            5: [("x", 5.0, 1), ("z", 5.0, 0)],
        }
        for number, those in answers.items():
            row = msgspec.to_builtins(a_run(f"run_{number}", dataset_rows=len(those)))
            columns = db.table("runs").columns_dict
            db.table("runs").insert(
                {name: row[name] for name in row if name in columns} | {"number": number}
            )
            db.table("counts").insert({"run": number})
            for position, (request, at, cached) in enumerate(those, 1):
                db.execute(
                    "INSERT INTO samples (run, position, sample_id, refs, messages, fields)"
                    " VALUES (?, ?, ?, '[]', '[]', '{}')",
                    (number, position, f"s{position}"),
                )
                db.execute(
                    "INSERT INTO answers (run, position, route, repeat, state, asked_at,"
                    " answered_at, target, request_hash, text, model, system_fingerprint,"
                    " finish_reason, attempt_count, cached) VALUES (?, ?, 1, 0, 'answered', ?, ?,"
                    " 'p/m', ?, 'old', '', '', '', 1, ?)",
                    (number, position, at, at, request, cached),
                )
    async with sqlite_store(path) as store:
        found = [await store.origins(f"run_{number}") for number in answers]
        assert found == [{}, {"run_1": 1, "": 1}, {"run_1": 1}, {}, {"run_4": 1}]
        [row, *_] = await everything(store.results("run_1"))
        assert row.answer.cached_from == ""


async def test_labels_with_a_mean_become_labels_with_scores(tmp_path):
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        db = Database(connection)
        migrate(db, stop_before="m029_label_scores")
        row = msgspec.to_builtins(a_run())
        columns = db.table("runs").columns_dict
        db.table("runs").insert(
            {name: row[name] for name in row if name in columns} | {"number": 1}
        )
        db.table("counts").insert({"run": 1})
        for sample, score, people in (("s0", 3.5, 2), ("s1", None, 0)):
            db.execute(
                "INSERT INTO labels VALUES (1, 'helpfulness', 'r', ?, 0, 'h', ?, ?, 0.5, 1.0)",
                (sample, score, people),
            )
    async with sqlite_store(path) as store:
        first, second = await store.labels("run_1")
        assert (first.cell, first.scores, first.chance) == (Cell("r", "s0", 0), (3.5,), 0.5)
        assert (second.scores, second.mean) == ((), None)


async def test_all_requests_of_an_older_rollout_are_its_sample(tmp_path):
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        db = Database(connection)
        migrate(db, stop_before="m048_rollout_samples")
        rollout = msgspec.to_builtins(a_rollout())
        for name in ("sampled_candidate", "sampled_control", "placement"):
            del rollout[name]
        for name in ("settings", "base", "override", "forecast"):
            rollout[name] = msgspec.json.encode(rollout[name]).decode()
        db.table("rollouts").insert(rollout)
        db.table("rollout_statistics").insert({"rollout": "ro_1", "statistics": "", "counted": 0})
        db.table("rollout_requests").insert_all(
            {"number": n, "rollout": "ro_1", "id": f"rec_{n}", "at": 1.0, "unit": "a", "step": 2,
             "arm": arm, "failed": 0, "target": "", "total_s": 1.0, "finish_reason": ""}
            for n, arm in enumerate(["control", "candidate", "control"])
        )  # fmt: skip
    async with sqlite_store(path) as store:
        # Its users stay where they are.
        stored = await store.rollout("ro_1")
        assert stored == msgspec.structs.replace(a_rollout(), placement="message")
        seen = await store.uncounted("ro_1", 9)
        assert seen.assigned == (
            AssignedRequests(step=2, arm="candidate", requests=1),
            AssignedRequests(step=2, arm="control", requests=2),
        )


def a_rollout():
    return Rollout(id="ro_1", route="r", candidate="p/n", state="running", reason="", step=2,
                   weight=0.1, revision=1, settings={"steps": [1]}, base={}, override=None,
                   forecast={}, started_by="a", created_at=1.0, step_at=1.0)  # fmt: skip


async def test_a_file_of_a_newer_version_is_refused_and_untouched(tmp_path):
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        db = Database(connection)
        migrate(db, stop_before=STEPS[-1].__name__)
        db.table("_sqlite_migrations").insert(
            {"migration_set": "evalrouter", "name": "m999_from_the_future", "applied_at": "x"}
        )
        before = db.schema
    with pytest.raises(StoreError, match=r"a\.db.*newer evalrouter.*m999_from_the_future"):
        await SqliteStore(path).open()
    with closing(sqlite3.connect(path)) as connection:
        assert Database(connection).schema == before


_OLD_KEY = (
    "INSERT INTO keys (id, name, hash, admin, budget_period, created_at)"
    " VALUES (?, ?, ?, ?, 'total', 1.0)"
)


async def test_keys_of_older_versions_keep_what_they_may_do(tmp_path):
    path = tmp_path / "e.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrate(Database(connection), stop_before="m033_roles")
        connection.execute(_OLD_KEY, ("key_1", "boss", b"1" * 32, 1))
        connection.execute(_OLD_KEY, ("key_2", "app", b"2" * 32, 0))
    store = SqliteStore(path)
    await store.open()
    try:
        # An older program that has the file open goes on adding keys.
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute(_OLD_KEY, ("key_3", "late", b"3" * 32, 1))
        roles = {row.name: row.role for row in (await store.keys()).by_hash.values()}
        assert roles == {"boss": "admin", "app": "client", "late": "admin"}
        await store.add_key(
            KeyRow(id="key_4", name="new", role="reviewer", created_at=2.0), b"4" * 32
        )
        await store.add_key(KeyRow(id="key_5", name="top", role="admin", created_at=2.0), b"5" * 32)
    finally:
        await store.close()
    with closing(sqlite3.connect(path)) as connection:
        read_by_older = "SELECT name, admin FROM keys WHERE id > 'key_3' ORDER BY id"
        assert connection.execute(read_by_older).fetchall() == [("new", 0), ("top", 1)]
