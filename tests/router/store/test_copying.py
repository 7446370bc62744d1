"""Copies of a whole store: everything there and back, or nothing."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import msgspec
import psycopg
import pytest
from postgres_server import pooler
from sqlite_utils import Database
from stores import a_batch, a_run, answered, some_samples, sqlite_store

from evaluators.base import Answer, Cell, Judgement, Sample, Score
from providers.errors import ConflictError, InputError, StoreError
from router.config.storage import Storage
from router.records import AssignedArm, Record, Target
from router.store.alerts import Alert, AlertChanges, AlertCount, AlertMessage, Silence
from router.store.copying import copy, tables_in_order
from router.store.datasets import DatasetRow
from router.store.evidence import EvidenceBundle
from router.store.feedback import FeedbackRow, NewFeedback
from router.store.judgements import JudgementRow
from router.store.keys import KeyChange, KeyRow, KeySpend
from router.store.learned import LearnedModel, LearnedSource
from router.store.lineage import RowSource
from router.store.people_labels import PeopleLabel
from router.store.postgres import PostgresStore
from router.store.postgres import traffic_index as postgres_index
from router.store.responses import ConversationItem, StoredConversation, StoredResponse
from router.store.review import NewReviewRow, ReviewContent, ReviewRow, ReviewSource
from router.store.rollouts import JudgedRequests, Rollout, RolloutDecision, RolloutScore
from router.store.routes import RouteChange
from router.store.sample_views import SampleNote
from router.store.schedules import ScheduleDecision
from router.store.sealed_traffic import FileFacts
from router.store.sessions import BrowserSession
from router.store.shadows import ShadowPair, ShadowRow
from router.store.sqlite import SqliteStore, traffic_index
from router.store.sqlite.migrations import migrate
from router.store.studies import Study
from router.store.traffic import TrafficFilter
from router.store.usage import EmbeddingUse
from router.store.watches import (
    LanguageCount,
    LiveHour,
    ModelVersion,
    WatchProbe,
    WatchReference,
)

# As text may be: the escape of PostgreSQL's text, NUL, half a surrogate as JSON writes it.
ODD = 'é\0\x10@\x10\0 \U0001f600 "\\ud800" \\ \t\n'
VALUES = {str: ODD, int: 2**63 - 1, float: 5e-324, bytes: b"\0\xff\x10@"}
# What the schema restricts.
CHECKED = {("answers", "state"), ("keys", "budget_period"), ("judge_studies", "state"),
           ("judge_studies", "kind"), ("rollouts", "state"), ("runs", "state"),
           ("sealed_traffic", "state"), ("sealed_traffic", "kinds")}  # fmt: skip


def copied(source, target, *, stale_after=30.0):
    return copy(storage(source), storage(target), lambda *_: None, lambda _: stale_after)


def storage(place):
    return Storage(database=place if isinstance(place, str) else f"sqlite:///{place}")


async def fill(store):
    """Something in every table."""
    sent, scored = Cell("r", "s0", 0), Cell("r", "s1", 0)
    await store.add_run(a_run(runner="server", experiment="e"), some_samples())
    await store.begin("run_1", sent, "hash", "p/m")
    await store.claim_run("run_1", "gone", 30.0)
    await answered(store, scored, "o", text=ODD, cost_usd=0.1, total_s=1e-9)
    await store.keep_scores("run_1", {scored: [Score(output="o2", value=-1.5, note=ODD)]})
    await store.add_embedding_use(
        "run_1",
        EmbeddingUse(route="r", target="p/e", requests=1, failed=0, tokens=3, cost_usd=0.1,
                     unpriced=0, estimated=0),
    )  # fmt: skip
    label = PeopleLabel(output="o", cell=scored, answer_hash="h", scores=(1.0,), chance=0.5, at=2.0)
    await store.keep_labels("run_1", "o", "r", [label])
    note = SampleNote(position=1, key_id="key_1", author=ODD, label=ODD, note=ODD, at=1.5)
    await store.keep_note("run_1", note)
    await store.end_run("run_1", "gone", state="paused")
    for name in ("z", "a"):
        await store.add_dataset(
            DatasetRow(name=name, hash="h", path="p", format="csv", rows=1, columns=(),
                       created_at=1.0)
        )  # fmt: skip
    await store.add_sources("h", [RowSource(row="1", id="req_1", at=0.5, user=ODD)])
    await store.set_experiment("e", tags=("t",), notes=ODD)
    await store.add_key(KeyRow(id="key_1", name="k", created_at=1.0), b"\0" * 32)
    await store.add_key_spend([KeySpend(key_id="key_1", since=0.0, usd=0.1, tokens=3, requests=1)])
    key = KeyRow(id="key_1", name="k", created_at=1.0)
    changed = msgspec.structs.replace(key, budget_period="day")
    await store.change_key(KeyChange(key, changed, 2.0, ODD, 0.5))
    await store.add_key_uses({"key_1": 1.5})
    await store.set_route(RouteChange("r", {"targets": []}, 1.0))
    study = Study(id="cal_1", kind="calibration", judges=("j",), grading="", name="", created_at=1)
    await store.set_study(study)
    await store.keep_judgement(
        JudgementRow(owner="run_1", metric="m", judge="j", sample_id="s1", repeat=0, attempt=0,
                     request_hash="h", at=1.0, judgement=Judgement(answer=Answer(text=ODD)))
    )  # fmt: skip
    await store.keep_traffic(
        [
            Record(id=f"req_{n}", at=float(n), route="ab"[n % 2], key_id="key_1", keep="full",
                   user=["", f"user {n % 50}"][n % 2],
                   rollout="ro_1" if n == 7 else "", arm="control", unit="ab",
                   assigned=AssignedArm("ro_1", 0, "control") if n == 8 else None,
                   target=Target("p", "m"), request=b"\0\xff", status=200)
            for n in range(5000)
        ]
    )  # fmt: skip
    await store.announce_deletion()
    row = FeedbackRow(id="fb", at=1.0, key_id="key_1", user="", name="thumb", kind="bool",
                      value=True, score=1.0, subject="request:req_1", record_id="req_1",
                      request_key="key_1", request_user="", route="r", request_at=1.0,
                      sent_along=True, messages=[{"role": ODD}], answer=ODD)  # fmt: skip
    await store.add_feedback([NewFeedback(row, "idempotency", "digest")])
    reviewed = ReviewRow(id="rv_1", at=1.0, expires_at=2.0, dataset="d", origin="traffic",
                         source=ReviewSource(id="req_1", at=1.0), decided_at=1.0,
                         content=ReviewContent(messages=[{"role": ODD}], answer=ODD))  # fmt: skip
    await store.add_review_rows([NewReviewRow(reviewed, bands=["band"])], max_waiting=9)
    await store.review_key(b"key")
    await fill_rollouts(store)
    facts = FileFacts(requests=9, size=1, sha256="ab", first=9000, last=9100, earliest=0.5,
                      latest=1.5, kinds=(("r", "p/m", "live", 200),))  # fmt: skip
    file = await store.begin_file("traffic/2026-11-29/ab.parquet")
    assert await store.seal_file(file, facts, {"id": b"\0\xff"})
    assert await store.claim_lease("work", "gone", 30.0)
    shadow = ShadowRow(run="run_1", route="r", config={}, changed_at=1.0, created_at=1.0)
    await store.add_shadow(shadow)
    sample = Sample(id="req_1", messages=(), answer=ODD, parameters={"stop": ODD})
    pair = ShadowPair(id="req_1", at=1.0, keep_texts=True, sample=sample, answer=Answer(text=ODD))
    await store.add_pairs("run_1", [pair], max_waiting=1)
    await store.count_shadow("run_1", {"not_sampled": 3})
    await fill_alerts(store)


async def fill_alerts(store):
    alert = Alert(id="al_1", fingerprint="f", rule="r", subject="errors", labels={"route": ODD},
                  severity="info", state="firing", summary=ODD, since=1.0,
                  updated_at=1.0)  # fmt: skip
    message = AlertMessage(id="msg_1", receiver="ops", event="changes", alerts=("al_1",), body=ODD,
                           created_at=1.0, next_at=1.0, expires_at=2.0)  # fmt: skip
    await store.claim_lease("tell", "gone", 30.0)
    await store.change_alerts(
        AlertChanges(alerts=[alert], messages=[message]), lease="tell", owner="gone", max_waiting=9
    )
    await store.silence(Silence(fingerprint="f", until=9.0, reason=ODD, author="a", created_at=1.0))
    await store.begin_counter("c")
    await store.add_alert_counts([AlertCount(counter="c", slice_s=1.0, labels=(ODD,), usd=0.5)])


async def fill_rollouts(store):
    rollout = Rollout(id="ro_1", route="r", candidate="p/n", state="running", reason=ODD, step=0,
                      weight=0.1, revision=1, settings={"steps": [1]}, base={}, override=None,
                      forecast={}, started_by="a", created_at=1.0, step_at=1.0)  # fmt: skip
    decision = RolloutDecision(rollout="ro_1", revision=1, at=1.0, rule="start", reason=ODD)
    await store.add_rollout(rollout, decision)
    seen = await store.uncounted("ro_1", 9)
    await store.count_requests("ro_1", seen, "{}", None, a_batch())
    score = RolloutScore(request=seen.requests[0].number, signal="feedback:f", source="s",
                         value=1.0, at=1.0)  # fmt: skip
    await store.keep_rollout_scores("ro_1", [score])
    assert await store.timetable_since("schedule", "nightly", "0 2 * * * UTC") > 0
    night = ("schedule", "nightly", 7200.0)
    assert await store.claim_occurrence(*night, "a:1:2:3", 30.0, detail={"gate": "passed"})
    assert await store.extend_occurrence(*night, "a:1:2:3", 30.0, run_id="run_1")
    await store.add_schedule_decision(ScheduleDecision(name="nightly", at=1.5, action="pause"))
    await store.add_judged("ro_1", [JudgedRequests(day=0.0, outcome="scored", requests=2, usd=0.5)])
    await store.add_evidence(
        EvidenceBundle(id="ev_1", kind="rollout", subject="ro_1", name=ODD, bodies="masked",
                       changed_rows=1, size=2, sha256="a", manifest="b", signed_by="",
                       location=ODD, stored=True, key_id="", created_at=1.5, created_by=ODD)
    )  # fmt: skip
    await store.set_response(
        StoredResponse(id="resp_1", key_id="key_1", record_id="req_1", request_id=ODD, route=ODD,
                       target="p/m", user_id=ODD, created_at=1.0, expires_at=2.0,
                       status="completed", previous="", conversation="conv_1", input=b"[]",
                       response=ODD.encode())
    )  # fmt: skip
    conversation = StoredConversation(id="conv_1", key_id="key_1", created_at=1.0,
                                      metadata={ODD: ODD})  # fmt: skip
    await store.add_conversation(conversation, [ConversationItem("msg_1", ODD.encode())])
    await store.sealing_keys(b"key", 1.0, rotate_s=9.0)
    session = BrowserSession(id="ses_1", key_id="key_1", csrf_token=ODD, issued_at=1.0,
                             expires_at=2.0, ends_at=2.0)  # fmt: skip
    await store.add_session(session, b"digest", limit=1)
    await fill_watches(store)
    model = LearnedModel(id="lm_1", route="r", created_at=1.0, settings={"quality": ODD})
    await store.add_learned(model)
    await store.finish_learned(
        msgspec.structs.replace(model, state="ready", artifact="learned/lm_1/a.model"),
        [LearnedSource(row=0, id="req_1", user=ODD)],
        deletions=await store.traffic_deletions(),
    )


async def fill_watches(store) -> None:
    """Put rows into every table of watches."""
    await store.begin_reference(
        WatchReference(watch="w", number=1, target="up/a", made_for="m", created_at=1.0)
    )
    probe = WatchProbe(watch="w", reference=1, kind="probe", at=2.0, distance=0.5, detail={"a": []})
    await store.add_watch_probe(probe, counted=0)
    version = ModelVersion(
        target="up/a", model="m", system_fingerprint="f", first_at=1.0, last_at=2.0, requests=3
    )
    hour = LiveHour(target="up/a", hour=0.0, requests=3, cost_usd=0.5, priced=3)
    await store.count_answers([version], [hour], [LanguageCount("up/a", 0.0, "de", 1)])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.db"


@pytest.fixture
async def filled(path):
    async with sqlite_store(path) as store:
        await fill(store)
        while await store.index_traffic():
            pass
    return path


def contents(path):
    """All rows of a file, also those of its index, and what it has besides tables."""
    with closing(sqlite3.connect(path)) as db:
        made = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
        objects = sorted(db.execute(made), key=repr)
        tables = [name for kind, name, *_ in objects if kind == "table"]
        tables.remove("_sqlite_migrations")
        # The numbers of rows that are gone are free in a copy, which no process has read yet.
        tables.remove("last_numbers")
        rows = {name: sorted(db.execute(f"SELECT * FROM {name}"), key=repr) for name in tables}
        # Lists of datasets have the order in which they were added.
        rows["datasets"] = db.execute("SELECT * FROM datasets ORDER BY rowid").fetchall()
        return objects, rows


def make_odd(path, truths):
    """Put the oddest values wherever nothing else depends on them."""
    tables = tables_in_order()
    with closing(sqlite3.connect(path)) as db, db:
        triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        triggers = triggers.fetchall()
        for name, _ in triggers:
            db.execute(f"DROP TRIGGER {name}")
        references = {
            (name, column)
            for name in tables
            for _, _, _, column, *_ in db.execute(f"PRAGMA foreign_key_list({name})")
        }
        for name, table in tables.items():
            for column, kind in table.kinds.items():
                if {(name, column)} & (CHECKED | references | truths) or column in table.key:
                    continue
                # The last request is in no block of the index yet.
                key, last = ", ".join(table.key), ", ".join(f"{c} DESC" for c in table.key)
                row = f" WHERE ({key}) = (SELECT {key} FROM {name} ORDER BY {last} LIMIT 1)"
                values = (VALUES[kind],)
                db.execute(f"UPDATE {name} SET {column} = ?{row if key else ''}", values)
        for _, sql in triggers:
            db.execute(sql)


def columns_of(address):
    with psycopg.connect(address) as connection:
        return connection.execute(
            "SELECT table_name, column_name, data_type, is_identity"
            " FROM information_schema.columns WHERE table_schema = 'public'"
        ).fetchall()


def test_every_table_and_column_of_postgres_is_copied(postgres_address):
    columns = columns_of(postgres_address)
    known = {(name, column) for name, table in tables_in_order().items() for column in table.kinds}
    kept = {(name, column) for name, column, *_ in columns if name != "evalrouter_migrations"}
    kept -= {(name, column) for name, column in kept if name in postgres_index.TABLES}
    # It tells the order of datasets, which SQLite's own number of a row does.
    assert kept - known == {("datasets", "number")}
    assert known <= kept


async def test_everything_comes_there_and_back(filled, postgres_address, tmp_path):
    kinds = {(name, column): kind for name, column, kind, _ in columns_of(postgres_address)}
    make_odd(filled, {place for place, kind in kinds.items() if kind == "smallint"})
    before = contents(filled)
    assert all(rows for rows in before[1].values()), "fill() leaves a table empty"
    there = copied(filled, postgres_address)
    back = copied(postgres_address, tmp_path / "b.db")
    assert there.tables == back.tables
    assert {table.table: table.rows for table in there.tables} == {
        name: len(rows) for name, rows in before[1].items() if name not in traffic_index.TABLES
    }
    assert contents(tmp_path / "b.db") == before
    assert not there.written_meanwhile


async def test_everything_comes_from_server_to_server_through_a_pooler(
    filled, postgres, postgres_address, tmp_path
):
    before = contents(filled)
    with pooler(postgres) as through, postgres.fresh_database() as other:
        copied(filled, through(postgres_address))
        copied(through(postgres_address), through(other))
        copied(through(other), tmp_path / "b.db")
    assert contents(tmp_path / "b.db") == before


async def test_a_copy_goes_on_as_the_source_would(filled, postgres_address, tmp_path):
    copied(filled, postgres_address)
    copied(filled, tmp_path / "b.db")
    for store in (PostgresStore(postgres_address), SqliteStore(tmp_path / "b.db")):
        await store.open()
        try:
            await store.keep_traffic([Record(id="new", at=1.0, route="a")])
            rows = await store.traffic(TrafficFilter(route="a"), limit=2)
            assert [row.id for row in rows] == ["new", "req_4998"]
            assert rows[0].number > 9100, "the number of a sealed request is given again"
            version = (await store.key_state()).version
            await store.revoke_key("k", 3.0)
            assert (await store.key_state()).version > version
            await store.add_run(a_run("run_2"), some_samples())
            await answered(store, Cell("r", "s2", 0))
            progress = await store.progress("run_1")
            assert (progress.answered, progress.scored) == (2, 1)
            assert [row.name for row in await store.datasets()] == ["a", "z"]
            assert (await store.request(TrafficFilter(id="req_7"))).request == "\0\ufffd"
        finally:
            await store.close()


async def test_only_an_empty_database_is_filled(filled, postgres_address, tmp_path):
    copied(filled, postgres_address)
    copied(filled, tmp_path / "b.db")
    for target in (postgres_address, tmp_path / "b.db"):
        with pytest.raises(InputError, match="runs has rows; only a new or an empty database"):
            copied(filled, target)
    # And whatever was refused is as it was.
    assert contents(tmp_path / "b.db") == contents(filled)
    store = PostgresStore(postgres_address)
    await store.open()
    await store.close()


async def test_a_source_that_is_executed_is_refused(path, tmp_path):
    async with sqlite_store(path) as store:
        await store.add_run(a_run(), some_samples())
        await store.claim_run("run_1", "host:1:2:3", 30.0)
        with pytest.raises(ConflictError, match="run_1 is being executed by host; stop"):
            copied(path, tmp_path / "b.db")
        assert not (tmp_path / "b.db").exists()
        copied(path, tmp_path / "b.db", stale_after=0.0)


async def test_what_is_stored_during_a_copy_is_told_of_and_left_out(filled, tmp_path):
    def progress(doing, table, rows):
        if (doing, table, rows) == ("copy", "traffic", 1000):
            with closing(sqlite3.connect(filled)) as db, db:
                db.execute("UPDATE key_changes SET version = version + 1")
                db.execute("DELETE FROM traffic WHERE number > 4000")

    result = copy(storage(filled), storage(tmp_path / "b.db"), progress, lambda _: 30.0)
    assert result.written_meanwhile
    [traffic] = [table for table in result.tables if table.table == "traffic"]
    assert traffic.rows == 5000


async def test_what_is_sealed_during_a_copy_is_told_of(filled, tmp_path):
    def progress(doing, table, rows):
        if (doing, table, rows) == ("copy", "traffic", 1000):
            with closing(sqlite3.connect(filled)) as db, db:
                db.execute("UPDATE sealed_traffic SET state = 'removed', changed_at = 9e9")

    result = copy(storage(filled), storage(tmp_path / "b.db"), progress, lambda _: 30.0)
    assert result.written_meanwhile


def test_what_cannot_be_a_source_is_named(tmp_path, postgres):
    (tmp_path / "empty.db").touch()
    with closing(Database(tmp_path / "old.db")) as db:
        db.conn.isolation_level = None
        migrate(db, stop_before="m031_changes")
    with postgres.fresh_database("template1") as address:
        for source, message in [
            (tmp_path / "none.db", "there is no such file"),
            (tmp_path / "empty.db", "it is no database of evalrouter"),
            (tmp_path / "old.db", "an older evalrouter .m031_changes is missing.; start"),
            (address, "it is no database of evalrouter"),
            (tmp_path / "b.db", "the same database"),
        ]:
            with pytest.raises(InputError, match=message):
                copied(source, tmp_path / "b.db")
    assert not (tmp_path / "b.db").exists()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_copy_that_fails_leaves_nothing_and_can_be_started_again(
    filled, tmp_path, request, kind
):
    target = tmp_path / "b.db" if kind == "sqlite" else request.getfixturevalue("postgres_address")
    with closing(sqlite3.connect(filled)) as db, db:
        db.execute("UPDATE judgements SET at = 'late'")
    with pytest.raises(StoreError, match="judgements: where number 1, at is a text in place of a"):
        copied(filled, target)
    store = SqliteStore(target) if kind == "sqlite" else PostgresStore(target)
    with pytest.raises(StoreError, match=r"a copy into it .* was cut off; .* start it again"):
        await store.open()
    with pytest.raises(InputError, match="a copy into it"):
        copied(target, tmp_path / "c.db")
    with closing(sqlite3.connect(filled)) as db, db:
        db.execute("UPDATE judgements SET at = 1.0")
    copied(filled, target)
    await store.open()
    await store.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_target_that_changes_what_it_gets_is_found(filled, tmp_path, request, kind):
    """A column that takes some values for others, as a fault of a database would."""
    if kind == "sqlite":
        target = tmp_path / "b.db"
        async with sqlite_store(target):
            pass
        with closing(sqlite3.connect(target)) as db, db:
            db.execute("ALTER TABLE traffic DROP COLUMN model")
            db.execute("ALTER TABLE traffic ADD COLUMN model REAL")
    else:
        target = request.getfixturevalue("postgres_address")
        with psycopg.connect(target, autocommit=True) as connection:
            connection.execute("ALTER TABLE traffic ALTER COLUMN total_s TYPE real")
    with closing(sqlite3.connect(filled)) as db, db:
        db.execute("UPDATE traffic SET total_s = 0.1, model = '0.10' WHERE number IN (17, 4711)")
    message = (
        r"traffic is not the same in both: sqlite:///.*a.db has 5000 rows with the hash \w{32}, .*"
        r" has 5000 with \w{32}, from the row number 17 to number 4711; nothing was copied"
    )
    with pytest.raises(StoreError, match=message):
        copied(filled, target)


KILLED = """
import os, signal, sys
from router.config.storage import Storage
from router.store.copying import copy

def told(doing, table, rows):
    if (doing, table, rows) == ("copy", "traffic", 3000):
        os.kill(os.getpid(), signal.SIGKILL)

copy(Storage(database=sys.argv[1]), Storage(database=sys.argv[2]), told, lambda _: 30.0)
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_copy_that_is_killed_can_be_started_again(filled, tmp_path, request, kind):
    target = tmp_path / "b.db" if kind == "sqlite" else request.getfixturevalue("postgres_address")
    program = [sys.executable, "-E", "-c", KILLED]
    ends = [storage(end).database for end in (filled, target)]
    killed = subprocess.run([*program, *ends], check=False)
    assert killed.returncode == -signal.SIGKILL
    store = SqliteStore(target) if kind == "sqlite" else PostgresStore(target)
    with pytest.raises(StoreError, match="a copy into it"):
        await store.open()
    copied(filled, target)
    await store.open()
    try:
        assert len(await store.traffic(TrafficFilter(), limit=6000)) == 5000
    finally:
        await store.close()
