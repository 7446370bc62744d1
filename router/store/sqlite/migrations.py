"""The SQLite schema, as numbered steps that are never edited once released.

`migrate(db)` brings any file written by this version or an older one up to date. To change the
schema, append `m00N_what_it_does` to STEPS, at the end of this file; never change a step that has
been released, because files that have it will not run it again.

The tables are shaped so that a million answers stay small and the pages of a run stay quick:

    runs      one row per run; `number` stands for the run everywhere else
    counts    the run's progress, kept by triggers in the transaction that changes its answers
    samples   (run, position), position from 1 in dataset order
    routes    route names, once each
    answers   one row per cell, from `begin` on; `id` stands for the cell in `scores`
    scores    (answer, output)
    interruptions  how often a cell's request was in flight at a crash
    sample_notes  (run, position, key_id): what people say of samples
    run_logs  lines about a run, by `number`; see `run_logs.py`
    datasets  (name, hash); dataset_sources (hash, row_id): the requests that rows were copied from
    experiments  tags and notes of those that have any; runs.experiment names a run's experiment
    keys      one row per client's key (the key itself is not stored); key_changes counts changes
    key_spend (key, since): what a key spent in the budget period that began then; `changed` is the
              number of its last change
    key_versions (key, number): what was changed of keys, and by whom; key_uses: when keys were used
    route_overrides  (name): routes that were set while a server ran; route_changes counts changes
    route_versions (name, number): what routes were, and who changed them
    judgements  what judges answered, by their owner; judge_studies: calibrations and the like
    embeddings  (run, route, target): what embeddings for a run's metrics took
    traffic   one row per request; traffic_bodies (number) where bodies are stored;
              traffic_blocks, _kinds, _keys, _users, _by_kind, _by_key, _by_user: see
              `traffic_index.py`; traffic_deletions: how often requests were deleted on demand
    sealed_traffic  one row per file of old requests: see `store/sealed_traffic.py`;
              sealed_traffic_filters (file, field): which values a file may have
    evidence_bundles  (id): the bundles of evidence that were written
    leases    (name): which process does what one process does for all
    shadows   (run): shadows of routes; shadow_pairs: their requests; shadow_counts (run, reason):
              those that never became a pair; see `store/shadows.py`
    watch_references (watch, number), watch_probes: see `store/watches.py`
    model_versions (target, model, system_fingerprint): what hosts claimed to be
    live_hours (target, hour), live_languages: what live answers were like
    last_numbers  (name): the last `number` that rows of a table got
    review_rows  rows that wait for a person's decision; review_bands (band, row_number): what
              near duplicates have in common; review_keys: the key of placeholders, and how far
              feedback has been taken to the queue
    feedback  one row each; feedback_bodies (number): conversations that clients sent along
    rollouts  (id); rollout_changes counts changes of them; rollout_decisions (rollout, revision);
              rollout_requests: each request of one, by `number`; rollout_scores: values that
              came later; rollout_units (rollout, unit): the arms that a user was seen in;
              rollout_statistics (rollout), rollout_judging (rollout, day, outcome),
              rollout_assigned (rollout, step, arm) and rollout_batches (rollout, number): see
              `rollouts.py`
    learned_models  (id): models of learned routes; learned_changes counts changes of them;
              learned_sources: the requests that their rows were made of
    responses  (id): responses that clients may continue; conversations (id), conversation_items
              (conversation, position); response_keys (number): what response ids are sealed with

Times are seconds since the epoch; columns that hold JSON are text.
"""

from __future__ import annotations

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from providers.errors import StoreError
from router.store.sql.copying import UNFINISHED, UNFINISHED_COPY


def migrate(db: Database, *, stop_before: str | None = None) -> None:
    """Apply the missing steps, all or nothing; a file that is up to date is not changed.

    `stop_before` names the first step to leave out: that makes a file as an older version left it.

    Two processes may do this to the same file at once: the second waits and has nothing left to do.
    The connection must be in autocommit mode (`isolation_level=None`).

    Raises:
        StoreError: the file was written by a newer evalrouter.
        sqlite3.Error: SQLite refused; nothing was changed.
    """
    migrations = Migrations("evalrouter")
    for step in STEPS:
        migrations()(step)
    db.execute("BEGIN IMMEDIATE")
    try:
        _refuse_newer(applied_steps(db))
        migrations.apply(db, stop_before=stop_before)
    except BaseException:
        db.rollback()
        raise
    db.commit()


def is_known(db: Database) -> bool:
    """Return whether this evalrouter or an older one wrote the file; only reads."""
    applied = applied_steps(db)
    return bool(applied) and not _newer(applied)


def applied_steps(db: Database) -> list[str]:
    """Return the names of the steps that a file has; only reads."""
    return [step.name for step in Migrations("evalrouter").applied(db)]


def missing_steps(applied: list[str]) -> list[str]:
    """Return the steps of this version that are not among those applied.

    Raises:
        StoreError: others are, of a newer evalrouter.
    """
    _refuse_newer([name for name in applied if name != UNFINISHED])
    return [step.__name__ for step in STEPS if step.__name__ not in applied]


def mark_unfinished(db: Database, *, unfinished: bool) -> None:
    """Keep `migrate` from opening a file that is being filled, in whatever version; or no longer.

    In autocommit mode, or in a transaction.
    """
    table = Migrations.migrations_table
    db.execute(f"DELETE FROM {table} WHERE name = ?", (UNFINISHED,))
    if unfinished:
        db.execute(
            f"INSERT INTO {table} (migration_set, name, applied_at) VALUES ('evalrouter', ?, '')",
            (UNFINISHED,),
        )


def _newer(applied: list[str]) -> list[str]:
    known = {step.__name__ for step in STEPS}
    return [name for name in applied if name not in known]


def _refuse_newer(applied: list[str]) -> None:
    if UNFINISHED in applied:
        raise StoreError(UNFINISHED_COPY)
    newer = _newer(applied)
    if newer:
        raise StoreError(
            f"the database was written by a newer evalrouter (it has {', '.join(newer)}, "
            "which this version does not know); upgrade evalrouter or use another file"
        )


def m001_runs_and_samples(db: Database) -> None:
    """Runs, their progress, and their samples."""
    db.table("runs").create(
        {
            "number": int,
            "id": str,
            "name": str,
            "state": str,
            "dataset": str,
            "dataset_hash": str,
            "dataset_rows": int,
            "created_at": float,
            "started_at": float,
            "finished_at": float,
            "cells": int,
            "interrupted": int,
            "error": str,
            "owner": str,
            "heartbeat_at": float,
            # Set while the run is being added or deleted, which takes many transactions.
            "hidden_since": float,
            "metrics": str,
            "versions": str,
            "document": str,
        },
        pk="number",
        not_null={"id", "name", "state", "document", "created_at", "owner", "interrupted"},
    )
    db.table("runs").create_index(["id"], unique=True)
    db.table("counts").create(
        {"run": int, "in_flight": int, "answered": int, "failed": int, "scored": int},
        pk="run",
        foreign_keys=[("run", "runs", "number")],
        not_null={"in_flight", "answered", "failed", "scored"},
        defaults={"in_flight": 0, "answered": 0, "failed": 0, "scored": 0},
    )
    db.execute(
        """
        CREATE TABLE samples (
            run INTEGER NOT NULL REFERENCES runs (number),
            position INTEGER NOT NULL,
            sample_id TEXT NOT NULL,
            refs TEXT NOT NULL,
            messages TEXT NOT NULL,
            fields TEXT NOT NULL,
            PRIMARY KEY (run, position),
            UNIQUE (run, sample_id)
        )
        """
    )


def m002_answers_and_scores(db: Database) -> None:
    """Cells from the moment that their request is sent, and their scores."""
    db.table("routes").create({"id": int, "name": str}, pk="id", not_null={"name"})
    db.table("routes").create_index(["name"], unique=True)
    # Narrow columns first: SQLite reads a row from its front, and long texts spill to other pages.
    db.execute(
        """
        CREATE TABLE answers (
            id INTEGER PRIMARY KEY,
            run INTEGER NOT NULL REFERENCES runs (number),
            position INTEGER NOT NULL,
            route INTEGER NOT NULL REFERENCES routes (id),
            repeat INTEGER NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('sent', 'answered', 'failed')),
            scored INTEGER NOT NULL DEFAULT 0,
            asked_at REAL NOT NULL,
            answered_at REAL,
            target TEXT NOT NULL,
            request_hash TEXT NOT NULL,
            model TEXT,
            system_fingerprint TEXT,
            finish_reason TEXT,
            prompt_tokens INTEGER,
            completion_tokens INTEGER,
            total_tokens INTEGER,
            cost_usd REAL,
            first_byte_s REAL,
            total_s REAL,
            attempt_count INTEGER,
            cached INTEGER,
            error_code TEXT,
            error TEXT,
            text TEXT,
            attempts TEXT,
            UNIQUE (run, position, route, repeat),
            FOREIGN KEY (run, position) REFERENCES samples (run, position)
        )
        """
    )
    # For cells in flight, failed or unscored; small, as an answer leaves it when it is scored.
    db.execute(
        "CREATE INDEX answers_unscored ON answers (run, state, position) WHERE scored = 0",
    )
    db.execute(
        "CREATE INDEX answers_by_request ON answers (request_hash, repeat, answered_at)"
        " WHERE state = 'answered'"
    )
    db.execute(
        """
        CREATE TABLE scores (
            answer INTEGER NOT NULL REFERENCES answers (id) ON DELETE CASCADE,
            output TEXT NOT NULL,
            value REAL,
            statistics TEXT,
            passed INTEGER,
            error TEXT,
            PRIMARY KEY (answer, output)
        ) WITHOUT ROWID
        """
    )
    # Triggers, so that no statement that touches answers can forget to count.
    db.execute(
        """
        CREATE TRIGGER answers_count_insert AFTER INSERT ON answers BEGIN
            UPDATE counts SET
                in_flight = in_flight + (new.state = 'sent'),
                answered = answered + (new.state = 'answered'),
                failed = failed + (new.state = 'failed'),
                scored = scored + new.scored
            WHERE run = new.run;
        END
        """
    )
    db.execute(
        """
        CREATE TRIGGER answers_count_update AFTER UPDATE OF state, scored ON answers BEGIN
            UPDATE counts SET
                in_flight = in_flight + (new.state = 'sent') - (old.state = 'sent'),
                answered = answered + (new.state = 'answered') - (old.state = 'answered'),
                failed = failed + (new.state = 'failed') - (old.state = 'failed'),
                scored = scored + new.scored - old.scored
            WHERE run = new.run;
        END
        """
    )
    db.execute(
        """
        CREATE TRIGGER answers_count_delete AFTER DELETE ON answers BEGIN
            UPDATE counts SET
                in_flight = in_flight - (old.state = 'sent'),
                answered = answered - (old.state = 'answered'),
                failed = failed - (old.state = 'failed'),
                scored = scored - old.scored
            WHERE run = old.run;
        END
        """
    )


def m003_datasets(db: Database) -> None:
    """Registered dataset versions."""
    db.table("datasets").create(
        {
            "name": str,
            "hash": str,
            "path": str,
            "format": str,
            "rows": int,
            "columns": str,
            "created_at": float,
        },
        pk=("name", "hash"),
        not_null={"path", "format", "rows", "columns", "created_at"},
    )


def m004_logprobs_and_notes(db: Database) -> None:
    """The numbers that perplexity is computed from, and notes on scores."""
    db.execute("ALTER TABLE answers ADD COLUMN logprob_sum REAL")
    db.execute("ALTER TABLE answers ADD COLUMN logprob_tokens INTEGER")
    db.execute("ALTER TABLE scores ADD COLUMN note TEXT")


def m005_keys(db: Database) -> None:
    """Keys of clients, and the spend of each in each of its budget periods."""
    db.execute(
        """
        CREATE TABLE keys (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            hash BLOB NOT NULL UNIQUE,
            routes TEXT,
            admin INTEGER NOT NULL,
            rpm INTEGER,
            tpm INTEGER,
            parallel INTEGER,
            budget_usd REAL,
            budget_period TEXT NOT NULL CHECK (budget_period IN ('day', 'week', 'month', 'total')),
            expires_at REAL,
            created_at REAL NOT NULL,
            revoked_at REAL
        )
        """
    )
    # A new key may have the name of a revoked one.
    db.execute("CREATE UNIQUE INDEX keys_by_name ON keys (name) WHERE revoked_at IS NULL")
    db.execute(
        """
        CREATE TABLE key_spend (
            key TEXT NOT NULL REFERENCES keys (id) ON DELETE CASCADE,
            since REAL NOT NULL,
            usd REAL NOT NULL DEFAULT 0,
            tokens INTEGER NOT NULL DEFAULT 0,
            requests INTEGER NOT NULL DEFAULT 0,
            unpriced INTEGER NOT NULL DEFAULT 0,
            PRIMARY KEY (key, since)
        ) WITHOUT ROWID
        """
    )
    # Other processes poll this number to learn whether to read the keys again. Triggers, so that
    # no statement that touches keys can forget to count.
    db.execute("CREATE TABLE key_changes (version INTEGER NOT NULL)")
    db.execute("INSERT INTO key_changes (version) VALUES (0)")
    counted = " ON keys BEGIN UPDATE key_changes SET version = version + 1; END"
    db.execute("CREATE TRIGGER keys_insert AFTER INSERT" + counted)
    db.execute("CREATE TRIGGER keys_update AFTER UPDATE" + counted)
    db.execute("CREATE TRIGGER keys_delete AFTER DELETE" + counted)


def m006_route_overrides(db: Database) -> None:
    """Routes that were set while the server ran; they stand before the config file's."""
    db.execute(
        """
        CREATE TABLE route_overrides (
            name TEXT PRIMARY KEY,
            route TEXT NOT NULL,
            changed_at REAL NOT NULL
        ) WITHOUT ROWID
        """
    )


def m007_translations(db: Database) -> None:
    """How a request's fields were translated; NULL when all were sent as they came."""
    db.execute("ALTER TABLE answers ADD COLUMN translation TEXT")


def m008_traffic(db: Database) -> None:
    """One row per request that was answered or refused."""
    db.execute(
        """
        CREATE TABLE traffic (
            number INTEGER PRIMARY KEY,
            id TEXT NOT NULL,
            at REAL NOT NULL,
            key_id TEXT NOT NULL,
            path TEXT NOT NULL,
            route TEXT NOT NULL,
            target TEXT NOT NULL,
            status INTEGER NOT NULL,
            error_code TEXT NOT NULL,
            klass TEXT NOT NULL,
            stream INTEGER NOT NULL,
            cached INTEGER NOT NULL,
            finish_reason TEXT NOT NULL,
            prompt_tokens INTEGER,
            completion_tokens INTEGER,
            cost_usd REAL,
            first_byte_s REAL,
            total_s REAL NOT NULL,
            model TEXT NOT NULL,
            bodies INTEGER NOT NULL,
            detail TEXT NOT NULL
        )
        """
    )
    db.execute(
        "CREATE TABLE traffic_bodies (number INTEGER PRIMARY KEY, request BLOB, response BLOB)"
    )
    # Each index costs every request; targets and keys are found by reading newest rows first.
    db.execute("CREATE INDEX traffic_by_id ON traffic (id)")
    db.execute("CREATE INDEX traffic_by_time ON traffic (at)")
    db.execute("CREATE INDEX traffic_by_route ON traffic (route, number)")
    db.execute("CREATE INDEX traffic_failures ON traffic (number) WHERE status >= 400")


def m009_sample_answers(db: Database) -> None:
    """Answers that datasets bring along."""
    db.execute("ALTER TABLE samples ADD COLUMN answer TEXT")


def m010_dataset_sources(db: Database) -> None:
    """A dataset's source and provenance, and statistics of its columns."""
    db.execute("ALTER TABLE datasets ADD COLUMN size INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE datasets ADD COLUMN mapping TEXT NOT NULL DEFAULT '{}'")
    db.execute("ALTER TABLE datasets ADD COLUMN source TEXT NOT NULL DEFAULT ''")
    db.execute("ALTER TABLE datasets ADD COLUMN provenance TEXT NOT NULL DEFAULT '{}'")
    db.execute("ALTER TABLE datasets ADD COLUMN statistics TEXT NOT NULL DEFAULT '[]'")


def m012_run_life(db: Database) -> None:
    """A run's runner, the state requested of it, and its cells that were in flight at a crash."""
    # Runs of older versions are left to the commands that began them.
    for column in (
        "wish TEXT NOT NULL DEFAULT ''",
        "runner TEXT NOT NULL DEFAULT 'command'",
        "stopped TEXT NOT NULL DEFAULT ''",
        "ran_s REAL NOT NULL DEFAULT 0",
        "base TEXT NOT NULL DEFAULT ''",
        "only_scores INTEGER NOT NULL DEFAULT 0",
        # (samples done, outputs) while scores are being deleted, which takes many transactions.
        "rescoring TEXT",
    ):
        db.execute(f"ALTER TABLE runs ADD COLUMN {column}")
    db.execute("ALTER TABLE answers ADD COLUMN interrupted INTEGER NOT NULL DEFAULT 0")
    db.execute(
        """
        CREATE TABLE interruptions (
            run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
            position INTEGER NOT NULL,
            route INTEGER NOT NULL,
            repeat INTEGER NOT NULL,
            times INTEGER NOT NULL,
            PRIMARY KEY (run, position, route, repeat)
        ) WITHOUT ROWID
        """
    )
    # Every server polls for them every few seconds.
    db.execute("CREATE INDEX runs_unfinished ON runs (id) WHERE state IN ('queued', 'running')")


def m015_experiments(db: Database) -> None:
    """Runs of one name, with tags and notes."""
    for column in (
        "experiment TEXT NOT NULL DEFAULT ''",
        "tags TEXT NOT NULL DEFAULT '[]'",
        "notes TEXT NOT NULL DEFAULT ''",
    ):
        db.execute(f"ALTER TABLE runs ADD COLUMN {column}")
    db.execute("CREATE INDEX runs_by_experiment ON runs (experiment, id) WHERE experiment <> ''")
    db.execute(
        """
        CREATE TABLE experiments (
            name TEXT PRIMARY KEY,
            tags TEXT NOT NULL,
            notes TEXT NOT NULL
        ) WITHOUT ROWID
        """
    )


def m017_judgements(db: Database) -> None:
    """Requests to judges and their answers, for runs and studies."""
    db.execute(
        """
        CREATE TABLE judgements (
            number INTEGER PRIMARY KEY,
            owner TEXT NOT NULL,
            metric TEXT NOT NULL,
            judge TEXT NOT NULL,
            sample_id TEXT NOT NULL,
            repeat INTEGER NOT NULL,
            attempt INTEGER NOT NULL,
            request_hash TEXT NOT NULL,
            at REAL NOT NULL,
            answered INTEGER NOT NULL,
            reused INTEGER NOT NULL,
            cost_usd REAL,
            prompt_tokens INTEGER,
            completion_tokens INTEGER,
            total_s REAL,
            answer TEXT NOT NULL,
            tokens TEXT,
            UNIQUE (request_hash, repeat, attempt, owner)
        )
        """
    )
    db.execute("CREATE INDEX judgements_by_owner ON judgements (owner, number)")


def m018_judge_studies(db: Database) -> None:
    """Calibrations, comparisons and tournaments."""
    db.execute(
        """
        CREATE TABLE judge_studies (
            id TEXT PRIMARY KEY,
            kind TEXT NOT NULL CHECK (kind IN ('calibration', 'comparison', 'tournament')),
            judges TEXT NOT NULL,
            grading TEXT NOT NULL,
            name TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('running', 'completed', 'failed')),
            document TEXT NOT NULL,
            created_at REAL NOT NULL,
            finished_at REAL,
            error TEXT NOT NULL,
            report TEXT NOT NULL,
            detail TEXT NOT NULL
        ) WITHOUT ROWID
        """
    )


def m013_deaths(db: Database) -> None:
    """Counts of a run's deaths in a row, and its progress at the last claim."""
    db.execute("ALTER TABLE runs ADD COLUMN deaths INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE runs ADD COLUMN done_at_claim INTEGER NOT NULL DEFAULT -1")


def m021_estimated_spend(db: Database) -> None:
    """The number of a key's requests that were charged by an estimate."""
    db.execute("ALTER TABLE key_spend ADD COLUMN estimated INTEGER NOT NULL DEFAULT 0")


def m022_estimated_answers(db: Database) -> None:
    """Whether the tokens of an answer are an estimate; unknown, so false, for older answers."""
    db.execute("ALTER TABLE answers ADD COLUMN estimated INTEGER NOT NULL DEFAULT 0")


def m023_embeddings(db: Database) -> None:
    """Requests, tokens and cost of the embeddings that metrics of a run requested."""
    db.execute(
        """
        CREATE TABLE embeddings (
            run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
            route TEXT NOT NULL,
            target TEXT NOT NULL,
            requests INTEGER NOT NULL,
            failed INTEGER NOT NULL,
            tokens INTEGER NOT NULL,
            cost_usd REAL NOT NULL,
            unpriced INTEGER NOT NULL,
            estimated INTEGER NOT NULL,
            PRIMARY KEY (run, route, target)
        ) WITHOUT ROWID
        """
    )


def m024_thoughts(db: Database) -> None:
    """Thoughts beside an answer's text, and what it falls short of; unknown for older answers."""
    db.execute("ALTER TABLE answers ADD COLUMN whole_text TEXT")
    db.execute("ALTER TABLE answers ADD COLUMN thinking TEXT")
    db.execute("ALTER TABLE answers ADD COLUMN shortfall TEXT")


def m025_dataset_delimiters(db: Database) -> None:
    """The delimiter that a dataset was registered with; "" where it was not named."""
    db.execute("ALTER TABLE datasets ADD COLUMN delimiter TEXT NOT NULL DEFAULT ''")


def m026_cached_from(db: Database) -> None:
    """The run whose request got a cached answer; unknown where that run was deleted.

    A copy is of the newest answer before it, which is itself a copy or not: so it stems from the
    newest one before it that is no copy.
    """
    db.execute("ALTER TABLE answers ADD COLUMN cached_from TEXT")
    db.execute(
        """
        UPDATE answers SET cached_from = (
            SELECT runs.id FROM answers AS original JOIN runs ON runs.number = original.run
            WHERE original.request_hash = answers.request_hash
                AND original.repeat = answers.repeat AND original.state = 'answered'
                AND NOT original.cached AND original.answered_at <= answers.answered_at
            ORDER BY original.answered_at DESC, original.id DESC LIMIT 1
        )
        WHERE state = 'answered' AND cached
        """
    )


def m027_verdicts(db: Database) -> None:
    """What judges' answers were read as, with the scores; an index for the answers of a sample."""
    db.execute("ALTER TABLE scores ADD COLUMN verdicts TEXT")
    db.execute("CREATE INDEX judgements_by_sample ON judgements (owner, sample_id)")


def m028_labels(db: Database) -> None:
    """People's scores of runs' answers, each of the text that the answer had."""
    db.execute(
        """
        CREATE TABLE labels (
            run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
            output TEXT NOT NULL,
            route TEXT NOT NULL,
            sample_id TEXT NOT NULL,
            repeat INTEGER NOT NULL,
            answer_hash TEXT NOT NULL,
            score REAL,
            people INTEGER NOT NULL,
            chance REAL,
            at REAL NOT NULL,
            PRIMARY KEY (run, output, route, sample_id, repeat)
        ) WITHOUT ROWID
        """
    )


def m029_label_scores(db: Database) -> None:
    """What each person says, where labels had the mean and the number of people."""
    db.execute(
        """
        CREATE TABLE people_labels (
            run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
            output TEXT NOT NULL,
            route TEXT NOT NULL,
            sample_id TEXT NOT NULL,
            repeat INTEGER NOT NULL,
            answer_hash TEXT NOT NULL,
            scores TEXT NOT NULL,
            chance REAL,
            at REAL NOT NULL,
            PRIMARY KEY (run, output, route, sample_id, repeat)
        ) WITHOUT ROWID
        """
    )
    db.execute(
        """
        INSERT INTO people_labels
        SELECT run, output, route, sample_id, repeat, answer_hash,
            CASE WHEN score IS NULL THEN '[]' ELSE json_array(score) END, chance, at
        FROM labels
        """
    )
    db.execute("DROP TABLE labels")


def m030_traffic_index(db: Database) -> None:
    """An index of requests that is made block by block; the first is made after the start.

    Until it is, a filter reads the requests that are not in it.
    """
    for index in ("traffic_by_time", "traffic_by_route", "traffic_failures"):
        db.execute(f"DROP INDEX {index}")
    db.execute(
        """
        CREATE TABLE traffic_blocks (
            block INTEGER PRIMARY KEY, earliest REAL NOT NULL, latest REAL NOT NULL
        )
        """
    )
    db.execute(
        """
        CREATE TABLE traffic_kinds (
            kind INTEGER PRIMARY KEY,
            route TEXT NOT NULL,
            target TEXT NOT NULL,
            klass TEXT NOT NULL,
            status INTEGER NOT NULL,
            UNIQUE (route, target, klass, status)
        )
        """
    )
    db.execute("CREATE TABLE traffic_keys (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE)")
    db.execute(
        """
        CREATE TABLE traffic_by_kind (
            kind INTEGER NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (kind, number)
        ) WITHOUT ROWID
        """
    )
    db.execute(
        """
        CREATE TABLE traffic_by_key (
            key INTEGER NOT NULL,
            kind INTEGER NOT NULL,
            number INTEGER NOT NULL,
            PRIMARY KEY (key, kind, number)
        ) WITHOUT ROWID
        """
    )


def m031_changes(db: Database) -> None:
    """Numbers for processes that poll: of changes of keys' spend, and of route overrides.

    Triggers, so that older programs on the same file are counted too.
    """
    db.execute("ALTER TABLE key_changes ADD COLUMN spend INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE key_spend ADD COLUMN changed INTEGER NOT NULL DEFAULT 0")
    db.execute("CREATE INDEX key_spend_by_change ON key_spend (changed)")
    counted = """ ON key_spend BEGIN
        UPDATE key_changes SET spend = spend + 1;
        UPDATE key_spend SET changed = (SELECT spend FROM key_changes)
            WHERE key = NEW.key AND since = NEW.since;
    END"""
    db.execute("CREATE TRIGGER key_spend_insert AFTER INSERT" + counted)
    columns = "usd, tokens, requests, unpriced, estimated"
    db.execute(f"CREATE TRIGGER key_spend_update AFTER UPDATE OF {columns}" + counted)
    # No row is left to tell it, so everything is read again.
    db.execute(
        "CREATE TRIGGER key_spend_delete AFTER DELETE ON key_spend"
        " BEGIN UPDATE key_changes SET version = version + 1; END"
    )
    db.execute("CREATE TABLE route_changes (version INTEGER NOT NULL)")
    db.execute("INSERT INTO route_changes (version) VALUES (0)")
    for event in ("INSERT", "UPDATE", "DELETE"):
        db.execute(
            f"CREATE TRIGGER route_overrides_{event.lower()} AFTER {event} ON route_overrides"
            " BEGIN UPDATE route_changes SET version = version + 1; END"
        )


def m032_traffic_users(db: Database) -> None:
    """The user of a request, its place in the index, and a number for processes that poll.

    Requests that are stored already have no user, so the index of users begins empty.
    """
    db.execute("ALTER TABLE traffic ADD COLUMN user_id TEXT NOT NULL DEFAULT ''")
    db.execute("CREATE TABLE traffic_users (user INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE)")
    db.execute(
        """
        CREATE TABLE traffic_by_user (
            user INTEGER NOT NULL,
            kind INTEGER NOT NULL,
            number INTEGER NOT NULL,
            PRIMARY KEY (user, kind, number)
        ) WITHOUT ROWID
        """
    )
    db.execute("CREATE TABLE traffic_deletions (version INTEGER NOT NULL)")
    db.execute("INSERT INTO traffic_deletions (version) VALUES (0)")


def m033_roles(db: Database) -> None:
    """What a key may do, and the key that a run belongs to.

    An empty role is that of a key made by an older version: what its column `admin` says.
    """
    db.execute("ALTER TABLE keys ADD COLUMN role TEXT NOT NULL DEFAULT ''")
    db.execute("ALTER TABLE runs ADD COLUMN key_id TEXT NOT NULL DEFAULT ''")
    db.execute("CREATE INDEX runs_by_key ON runs (key_id, id) WHERE key_id <> ''")


def m034_run_logs(db: Database) -> None:
    """What happened to each run. Triggers write its states, whichever process changes them."""
    db.execute(
        """
        CREATE TABLE run_logs (
            number INTEGER PRIMARY KEY,
            run INTEGER NOT NULL REFERENCES runs (number),
            at REAL NOT NULL,
            kind TEXT NOT NULL,
            source TEXT NOT NULL,
            text TEXT NOT NULL,
            times INTEGER NOT NULL
        )
        """
    )
    db.execute("CREATE INDEX run_logs_by_run ON run_logs (run, number)")
    line = (
        "INSERT INTO run_logs (run, at, kind, source, text, times)"
        " VALUES (NEW.number, (julianday('now') - 2440587.5) * 86400.0, "
    )
    reason = "coalesce(nullif(NEW.error, ''), nullif(NEW.stopped, ''))"
    why = f"coalesce(': ' || substr({reason}, 1, 2000), '')"
    db.execute(
        "CREATE TRIGGER run_logs_begin AFTER INSERT ON runs"
        f" BEGIN {line} 'state', '', NEW.state, 1); END"
    )
    db.execute(
        "CREATE TRIGGER run_logs_state AFTER UPDATE OF state ON runs WHEN NEW.state <> OLD.state"
        f" BEGIN {line} 'state', '', NEW.state || {why}, 1); END"
    )
    db.execute(
        "CREATE TRIGGER run_logs_wish AFTER UPDATE OF wish ON runs"
        " WHEN NEW.wish <> OLD.wish AND NEW.wish <> ''"
        f" BEGIN {line} 'state', '', 'to be ' || NEW.wish, 1); END"
    )
    db.execute(
        "CREATE TRIGGER run_logs_interrupted AFTER UPDATE OF interrupted ON runs"
        " WHEN NEW.interrupted > OLD.interrupted"
        f" BEGIN {line} 'retry', '', 'in flight when the process ended; sent again',"
        " NEW.interrupted - OLD.interrupted); END"
    )


def m035_sealed_traffic(db: Database) -> None:
    """Files of old requests, and work that one process does for all."""
    db.execute(
        """
        CREATE TABLE sealed_traffic (
            number INTEGER PRIMARY KEY,
            file TEXT NOT NULL UNIQUE,
            state TEXT NOT NULL CHECK (state IN ('writing', 'sealed', 'removed')),
            changed_at REAL NOT NULL,
            visible_to INTEGER,
            requests INTEGER,
            size INTEGER,
            sha256 TEXT,
            first_number INTEGER,
            last_number INTEGER,
            earliest REAL,
            latest REAL,
            kinds TEXT
        )
        """
    )
    db.execute("CREATE INDEX sealed_traffic_by_last ON sealed_traffic (last_number)")
    db.execute(
        """
        CREATE TABLE sealed_traffic_filters (
            file INTEGER NOT NULL REFERENCES sealed_traffic (number),
            field TEXT NOT NULL,
            bits BLOB NOT NULL,
            PRIMARY KEY (file, field)
        )
        """
    )
    db.execute(
        "CREATE TABLE leases (name TEXT PRIMARY KEY, owner TEXT NOT NULL, ends_at REAL NOT NULL)"
    )


def m036_traffic_kinds(_: Database) -> None:
    """Another index of requests in PostgreSQL."""


def m037_last_numbers(db: Database) -> None:
    """The last number that rows of a table got, which stays when the row is deleted."""
    db.execute("CREATE TABLE last_numbers (name TEXT PRIMARY KEY, number INTEGER NOT NULL)")


def m038_feedback(db: Database) -> None:
    """Feedback about requests, with what a filter of requests selects them by."""
    db.execute(
        """
        CREATE TABLE feedback (
            number INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            at REAL NOT NULL,
            key_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            author TEXT NOT NULL,
            name TEXT NOT NULL,
            kind TEXT NOT NULL,
            value TEXT NOT NULL,
            score REAL,
            weight REAL NOT NULL,
            comment TEXT NOT NULL,
            metadata TEXT NOT NULL,
            source TEXT NOT NULL,
            subject TEXT NOT NULL,
            record_id TEXT NOT NULL,
            conversation TEXT NOT NULL,
            x_request_id TEXT NOT NULL,
            response_id TEXT NOT NULL,
            request_key TEXT NOT NULL,
            request_user TEXT NOT NULL,
            route TEXT NOT NULL,
            target TEXT NOT NULL,
            klass TEXT NOT NULL,
            status INTEGER NOT NULL,
            rollout TEXT NOT NULL,
            arm TEXT NOT NULL,
            request_at REAL NOT NULL,
            sent_along INTEGER NOT NULL,
            idempotency_key TEXT,
            digest TEXT NOT NULL,
            UNIQUE (key_id, idempotency_key)
        )
        """
    )
    for name, columns in (
        ("subject", "subject, name, author, number"),
        ("name", "name, number"),
        ("route", "route, number"),
        ("key", "key_id, number"),
        ("key_and_name", "key_id, name, number"),
        ("kind", "kind, number"),
        ("time", "at"),
        ("user", "user_id, number"),
        ("conversation", "conversation, number"),
        ("rollout", "rollout, arm, number"),
        ("request_key", "request_key"),
        ("request_user", "request_user"),
        ("request_time", "request_at"),
    ):
        db.execute(f"CREATE INDEX feedback_by_{name} ON feedback ({columns})")
    db.execute(
        "CREATE TABLE feedback_bodies (number INTEGER PRIMARY KEY, messages TEXT, answer TEXT)"
    )


def m039_lineage(db: Database) -> None:
    """Which rows of datasets were copied from which requests."""
    db.execute(
        """
        CREATE TABLE dataset_sources (
            hash TEXT NOT NULL,
            row_id TEXT NOT NULL,
            id TEXT NOT NULL,
            at REAL NOT NULL,
            key_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            route TEXT NOT NULL,
            target TEXT NOT NULL,
            klass TEXT NOT NULL,
            status INTEGER NOT NULL,
            PRIMARY KEY (hash, row_id)
        ) WITHOUT ROWID
        """
    )
    db.execute("CREATE INDEX dataset_sources_by_id ON dataset_sources (id)")
    db.execute("CREATE INDEX dataset_sources_by_user ON dataset_sources (user_id)")


def m040_shadows(db: Database) -> None:
    """Shadows of routes: live requests that are sent to candidates, too."""
    db.execute("ALTER TABLE samples ADD COLUMN parameters TEXT")
    db.execute(
        """
        CREATE TABLE shadows (
            run TEXT PRIMARY KEY,
            route TEXT NOT NULL,
            config TEXT NOT NULL,
            state TEXT NOT NULL,
            reason TEXT NOT NULL,
            changed_by TEXT NOT NULL,
            changed_at REAL NOT NULL,
            created_at REAL NOT NULL,
            ended_at REAL,
            blocked TEXT NOT NULL,
            retry_at REAL NOT NULL,
            failures INTEGER NOT NULL,
            day REAL NOT NULL,
            day_embeddings_usd REAL NOT NULL
        ) WITHOUT ROWID
        """
    )
    db.execute(
        """
        CREATE TABLE shadow_counts (
            run TEXT NOT NULL,
            reason TEXT NOT NULL,
            requests INTEGER NOT NULL,
            PRIMARY KEY (run, reason)
        ) WITHOUT ROWID
        """
    )
    db.execute(
        """
        CREATE TABLE shadow_pairs (
            number INTEGER PRIMARY KEY,
            run TEXT NOT NULL,
            id TEXT NOT NULL,
            at REAL NOT NULL,
            key_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            target TEXT NOT NULL,
            status INTEGER NOT NULL,
            request_id TEXT NOT NULL,
            response_id TEXT NOT NULL,
            conversation TEXT NOT NULL,
            rollout TEXT NOT NULL,
            arm TEXT NOT NULL,
            state TEXT NOT NULL,
            texts TEXT NOT NULL,
            position INTEGER,
            tries INTEGER NOT NULL,
            taken_at REAL,
            content TEXT,
            UNIQUE (run, id)
        )
        """
    )
    db.execute("CREATE INDEX shadow_pairs_by_state ON shadow_pairs (run, state, number)")
    db.execute("CREATE INDEX shadow_pairs_by_id ON shadow_pairs (id)")
    db.execute("CREATE INDEX shadow_pairs_by_time ON shadow_pairs (at)")


def m041_review(db: Database) -> None:
    """The review queue, what its rows are compared by, and the key of their placeholders."""
    db.execute(
        """
        CREATE TABLE review_rows (
            number INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            at REAL NOT NULL,
            expires_at REAL NOT NULL,
            dataset TEXT NOT NULL,
            origin TEXT NOT NULL,
            digest TEXT NOT NULL,
            sketch TEXT NOT NULL,
            state TEXT NOT NULL,
            version INTEGER NOT NULL,
            decided_at REAL,
            decided_by TEXT NOT NULL,
            reason TEXT NOT NULL,
            published TEXT NOT NULL,
            edited INTEGER NOT NULL,
            request_id TEXT NOT NULL,
            request_at REAL NOT NULL,
            key_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            route TEXT NOT NULL,
            target TEXT NOT NULL,
            klass TEXT NOT NULL,
            status INTEGER NOT NULL,
            feedback TEXT NOT NULL,
            content TEXT NOT NULL,
            findings TEXT NOT NULL
        )
        """
    )
    db.execute("CREATE INDEX review_rows_by_state ON review_rows (state, number)")
    db.execute("CREATE INDEX review_rows_by_expiry ON review_rows (expires_at)")
    db.execute("CREATE INDEX review_rows_by_request ON review_rows (request_id)")
    db.execute("CREATE INDEX review_rows_by_user ON review_rows (user_id)")
    db.execute(
        """
        CREATE TABLE review_bands (
            row_number INTEGER NOT NULL REFERENCES review_rows (number),
            band TEXT NOT NULL,
            PRIMARY KEY (band, row_number)
        ) WITHOUT ROWID
        """
    )
    db.execute("CREATE INDEX review_bands_by_row ON review_bands (row_number)")
    db.execute("CREATE TABLE review_keys (name TEXT PRIMARY KEY, value TEXT NOT NULL)")


def m042_rollouts(db: Database) -> None:
    """Rollouts: what was decided, and the requests by which it was."""
    db.execute(
        """
        CREATE TABLE rollouts (
            id TEXT PRIMARY KEY,
            route TEXT NOT NULL,
            candidate TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('running', 'holding', 'paused', 'promoting',
                'promoted', 'rolling_back', 'rolled_back', 'aborted')),
            reason TEXT NOT NULL,
            step INTEGER NOT NULL,
            weight REAL NOT NULL,
            revision INTEGER NOT NULL,
            settings TEXT NOT NULL,
            base TEXT NOT NULL,
            override TEXT NOT NULL,
            forecast TEXT NOT NULL,
            started_by TEXT NOT NULL,
            created_at REAL NOT NULL,
            step_at REAL NOT NULL,
            ended_at REAL,
            pause TEXT NOT NULL
        )
        """
    )
    db.execute("CREATE INDEX rollouts_by_route ON rollouts (route, id)")
    db.execute(
        "CREATE UNIQUE INDEX rollouts_active ON rollouts (route) WHERE state IN"
        " ('running', 'holding', 'paused', 'promoting', 'rolling_back')"
    )
    db.execute(
        """
        CREATE TABLE rollout_decisions (
            rollout TEXT NOT NULL REFERENCES rollouts (id),
            revision INTEGER NOT NULL,
            at REAL NOT NULL,
            rule TEXT NOT NULL,
            signal TEXT NOT NULL,
            seen TEXT NOT NULL,
            e_value REAL,
            low REAL,
            high REAL,
            from_state TEXT NOT NULL,
            to_state TEXT NOT NULL,
            from_weight REAL NOT NULL,
            to_weight REAL NOT NULL,
            route_version TEXT NOT NULL,
            actor TEXT NOT NULL,
            reason TEXT NOT NULL,
            PRIMARY KEY (rollout, revision)
        )
        """
    )
    db.execute(
        """
        CREATE TABLE rollout_requests (
            number INTEGER PRIMARY KEY,
            rollout TEXT NOT NULL,
            id TEXT NOT NULL,
            at REAL NOT NULL,
            unit TEXT NOT NULL,
            arm TEXT NOT NULL,
            step INTEGER NOT NULL,
            failed INTEGER NOT NULL,
            target TEXT NOT NULL,
            first_byte_s REAL,
            total_s REAL NOT NULL,
            cost_usd REAL,
            finish_reason TEXT NOT NULL,
            completion_tokens INTEGER,
            counted INTEGER NOT NULL DEFAULT 0
        )
        """
    )
    db.execute(
        "CREATE INDEX rollout_requests_uncounted ON rollout_requests (rollout, number)"
        " WHERE counted = 0"
    )
    db.execute("CREATE INDEX rollout_requests_by_id ON rollout_requests (id)")
    db.execute(
        """
        CREATE TABLE rollout_scores (
            number INTEGER PRIMARY KEY,
            rollout TEXT NOT NULL REFERENCES rollouts (id),
            request INTEGER NOT NULL,
            signal TEXT NOT NULL,
            source TEXT NOT NULL,
            value REAL NOT NULL,
            at REAL NOT NULL,
            counted INTEGER NOT NULL,
            UNIQUE (request, signal, source)
        )
        """
    )
    db.execute(
        "CREATE INDEX rollout_scores_uncounted ON rollout_scores (rollout, number)"
        " WHERE counted = 0"
    )
    db.execute(
        """
        CREATE TABLE rollout_units (
            rollout TEXT NOT NULL,
            unit TEXT NOT NULL,
            control INTEGER NOT NULL,
            candidate INTEGER NOT NULL,
            PRIMARY KEY (rollout, unit)
        ) WITHOUT ROWID
        """
    )
    db.execute(
        """
        CREATE TABLE rollout_statistics (
            rollout TEXT PRIMARY KEY REFERENCES rollouts (id),
            statistics TEXT NOT NULL,
            counted INTEGER NOT NULL
        )
        """
    )
    db.execute("CREATE TABLE rollout_changes (version INTEGER NOT NULL)")
    db.execute("INSERT INTO rollout_changes (version) VALUES (0)")
    for event in ("INSERT", "UPDATE", "DELETE"):
        db.execute(
            f"CREATE TRIGGER rollouts_{event.lower()} AFTER {event} ON rollouts"
            " BEGIN UPDATE rollout_changes SET version = version + 1; END"
        )


def m043_record_ids(db: Database) -> None:
    """The names that clients and targets have for a request, and the rollout that it was part of.

    "" stands for no name; in `request_id` for the record's own, as it was for all until now.
    """
    for column in ("request_id", "response_id", "conversation", "rollout", "arm", "unit"):
        db.execute(f"ALTER TABLE traffic ADD COLUMN {column} TEXT NOT NULL DEFAULT ''")
    db.execute("ALTER TABLE traffic ADD COLUMN stored INTEGER NOT NULL DEFAULT 1")
    for name in ("request_id", "response_id", "conversation"):
        # By blocks first, see traffic_index.py.
        columns = f"number >> 12, {name}"
        db.execute(f"CREATE INDEX traffic_by_{name} ON traffic ({columns}) WHERE {name} <> ''")
    db.execute("CREATE INDEX traffic_by_rollout ON traffic (rollout) WHERE rollout <> ''")
    for column in ("request_id", "response_id", "conversation", "rollout", "arm"):
        db.execute(f"ALTER TABLE dataset_sources ADD COLUMN {column} TEXT NOT NULL DEFAULT ''")
    db.execute("UPDATE dataset_sources SET request_id = id")
    for column in ("x_request_id", "response_id", "conversation"):
        db.execute(f"ALTER TABLE review_rows ADD COLUMN {column} TEXT NOT NULL DEFAULT ''")
    db.execute("UPDATE review_rows SET x_request_id = request_id")


def m044_authors(db: Database) -> None:
    """The users who gave the feedback that rows have."""
    for table in ("review_rows", "dataset_sources"):
        db.execute(f"ALTER TABLE {table} ADD COLUMN authors TEXT NOT NULL DEFAULT ''")
    db.execute(
        "UPDATE review_rows SET authors = coalesce((SELECT json_array(user_id) FROM feedback"
        " WHERE user_id <> '' AND review_rows.feedback = '[\"' || feedback.id || '\"]'), '')"
    )
    db.execute("CREATE INDEX review_by_author ON review_rows (authors) WHERE authors <> ''")
    db.execute(
        "CREATE INDEX dataset_sources_by_author ON dataset_sources (authors) WHERE authors <> ''"
    )


def m045_rollout_judging(db: Database) -> None:
    """Add what became of the requests that rollouts' judges were to score."""
    db.execute(
        """
        CREATE TABLE rollout_judging (
            rollout TEXT NOT NULL REFERENCES rollouts (id),
            day REAL NOT NULL,
            outcome TEXT NOT NULL,
            requests INTEGER NOT NULL,
            usd REAL NOT NULL,
            PRIMARY KEY (rollout, day, outcome)
        ) WITHOUT ROWID
        """
    )


def m046_review_pages(db: Database) -> None:
    """The review queue's filters are read from one index: rows are a kilobyte and more."""
    db.execute("DROP INDEX review_rows_by_state")
    db.execute(
        "CREATE INDEX review_rows_by_state ON review_rows (state, number, dataset, route, origin)"
    )


def m047_occurrences(db: Database) -> None:
    """What schedules and watches did, and since when their timetables are followed."""
    db.execute(
        """
        CREATE TABLE occurrences (
            kind TEXT NOT NULL,
            name TEXT NOT NULL,
            due REAL NOT NULL,
            cause TEXT NOT NULL,
            state TEXT NOT NULL,
            owner TEXT NOT NULL,
            lease_until REAL NOT NULL,
            started_at REAL,
            finished_at REAL,
            run_id TEXT NOT NULL,
            detail TEXT NOT NULL,
            PRIMARY KEY (kind, name, due)
        ) WITHOUT ROWID
        """
    )
    # One of each name is running at a time, and what is running is found at once.
    db.execute(
        "CREATE UNIQUE INDEX occurrences_running ON occurrences (kind, name)"
        " WHERE state = 'running'"
    )
    db.execute("CREATE INDEX occurrences_by_due ON occurrences (kind, due)")
    db.execute(
        """
        CREATE TABLE timetables (
            kind TEXT NOT NULL,
            name TEXT NOT NULL,
            line TEXT NOT NULL,
            since REAL NOT NULL,
            PRIMARY KEY (kind, name, line)
        ) WITHOUT ROWID
        """
    )


def m048_rollout_samples(db: Database) -> None:
    """Add which requests of rollouts are evidence, and how many there are of all."""
    for arm in ("candidate", "control"):
        db.execute(f"ALTER TABLE rollouts ADD COLUMN sampled_{arm} REAL NOT NULL DEFAULT 1")
    db.execute(
        """
        CREATE TABLE rollout_assigned (
            rollout TEXT NOT NULL,
            step INTEGER NOT NULL,
            arm TEXT NOT NULL,
            requests INTEGER NOT NULL,
            PRIMARY KEY (rollout, step, arm)
        ) WITHOUT ROWID
        """
    )
    db.execute(
        "INSERT INTO rollout_assigned (rollout, step, arm, requests)"
        " SELECT rollout, step, arm, count(*) FROM rollout_requests GROUP BY rollout, step, arm"
    )


def m049_watches(db: Database) -> None:
    """Add watches, the versions that hosts claim, and what live answers were like by the hour."""
    db.execute(
        """
        CREATE TABLE watch_references (
            watch TEXT NOT NULL,
            number INTEGER NOT NULL,
            target TEXT NOT NULL,
            made_for TEXT NOT NULL,
            dataset TEXT NOT NULL,
            dataset_hash TEXT NOT NULL,
            created_at REAL NOT NULL,
            created_by TEXT NOT NULL,
            reason TEXT NOT NULL,
            pinned_at REAL,
            drift_at REAL,
            drift_signal TEXT NOT NULL,
            anchor TEXT NOT NULL,
            PRIMARY KEY (watch, number)
        )
        """
    )
    db.execute(
        """
        CREATE TABLE watch_probes (
            number INTEGER PRIMARY KEY,
            watch TEXT NOT NULL,
            reference INTEGER NOT NULL,
            signal TEXT NOT NULL,
            kind TEXT NOT NULL,
            at REAL NOT NULL,
            distance REAL,
            p_value REAL,
            e_value REAL,
            value REAL,
            requests INTEGER NOT NULL,
            answered INTEGER NOT NULL,
            cost_usd REAL NOT NULL,
            model TEXT NOT NULL,
            system_fingerprint TEXT NOT NULL,
            why TEXT NOT NULL,
            detail TEXT NOT NULL
        )
        """
    )
    db.execute("CREATE INDEX watch_probes_by_watch ON watch_probes (watch, number)")
    db.execute(
        "CREATE INDEX watch_probes_by_signal ON watch_probes (watch, reference, signal, number)"
    )
    db.execute(
        """
        CREATE TABLE model_versions (
            target TEXT NOT NULL,
            model TEXT NOT NULL,
            system_fingerprint TEXT NOT NULL,
            first_at REAL NOT NULL,
            last_at REAL NOT NULL,
            requests INTEGER NOT NULL,
            PRIMARY KEY (target, model, system_fingerprint)
        ) WITHOUT ROWID
        """
    )
    db.execute(
        """
        CREATE TABLE live_hours (
            target TEXT NOT NULL,
            hour REAL NOT NULL,
            requests INTEGER NOT NULL,
            refusals INTEGER NOT NULL,
            tokens INTEGER NOT NULL,
            counted INTEGER NOT NULL,
            cost_usd REAL NOT NULL,
            priced INTEGER NOT NULL,
            PRIMARY KEY (target, hour)
        ) WITHOUT ROWID
        """
    )
    db.execute(
        """
        CREATE TABLE live_languages (
            target TEXT NOT NULL,
            hour REAL NOT NULL,
            language TEXT NOT NULL,
            answers INTEGER NOT NULL,
            PRIMARY KEY (target, hour, language)
        ) WITHOUT ROWID
        """
    )


def m050_schedule_decisions(db: Database) -> None:
    """What was decided about schedules."""
    db.execute(
        """
        CREATE TABLE schedule_decisions (
            number INTEGER PRIMARY KEY,
            name TEXT NOT NULL,
            at REAL NOT NULL,
            action TEXT NOT NULL,
            run_id TEXT NOT NULL,
            actor TEXT NOT NULL,
            reason TEXT NOT NULL
        )
        """
    )
    db.execute("CREATE INDEX schedule_decisions_by_name ON schedule_decisions (name, number)")


def m051_rollout_batches(db: Database) -> None:
    """Add when requests of rollouts were counted: `counted` is the number of a batch from now on.

    What was counted before is in batch 1, of which nothing is known.
    """
    db.execute(
        """
        CREATE TABLE rollout_batches (
            rollout TEXT NOT NULL REFERENCES rollouts (id),
            number INTEGER NOT NULL,
            began REAL NOT NULL,
            until REAL NOT NULL,
            state TEXT NOT NULL,
            step INTEGER NOT NULL,
            sampled_candidate REAL NOT NULL,
            sampled_control REAL NOT NULL,
            candidate_requests INTEGER NOT NULL,
            requests INTEGER NOT NULL,
            scores INTEGER NOT NULL,
            PRIMARY KEY (rollout, number)
        ) WITHOUT ROWID
        """
    )
    for table in ("rollout_requests", "rollout_scores"):
        db.execute(
            f"CREATE INDEX {table}_by_batch ON {table} (rollout, counted, number) WHERE counted > 0"
        )


def m052_learned(db: Database) -> None:
    """Add models of learned routes."""
    db.execute(
        """
        CREATE TABLE learned_models (
            id TEXT PRIMARY KEY,
            route TEXT NOT NULL,
            state TEXT NOT NULL,
            created_at REAL NOT NULL,
            created_by TEXT NOT NULL,
            error TEXT NOT NULL,
            settings TEXT NOT NULL,
            made_of TEXT NOT NULL,
            report TEXT NOT NULL,
            dimensions INTEGER NOT NULL,
            rows INTEGER NOT NULL,
            forgotten INTEGER NOT NULL,
            artifact TEXT NOT NULL,
            hash TEXT NOT NULL,
            size INTEGER NOT NULL
        ) WITHOUT ROWID
        """
    )
    db.execute("CREATE INDEX learned_models_by_route ON learned_models (route, id)")
    db.execute(
        """
        CREATE TABLE learned_sources (
            model TEXT NOT NULL REFERENCES learned_models (id),
            row_number INTEGER NOT NULL,
            id TEXT NOT NULL,
            at REAL NOT NULL,
            key_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            request_id TEXT NOT NULL,
            response_id TEXT NOT NULL,
            conversation TEXT NOT NULL,
            rollout TEXT NOT NULL,
            arm TEXT NOT NULL,
            route TEXT NOT NULL,
            target TEXT NOT NULL,
            klass TEXT NOT NULL,
            status INTEGER NOT NULL,
            author TEXT NOT NULL
        )
        """
    )
    db.execute("CREATE INDEX learned_sources_by_model ON learned_sources (model, row_number)")
    db.execute("CREATE INDEX learned_sources_by_id ON learned_sources (id)")
    db.execute("CREATE INDEX learned_sources_by_user ON learned_sources (user_id)")
    db.execute("CREATE TABLE learned_changes (version INTEGER NOT NULL)")
    db.execute("INSERT INTO learned_changes (version) VALUES (0)")
    for event in ("INSERT", "UPDATE", "DELETE"):
        db.execute(
            f"CREATE TRIGGER learned_{event.lower()} AFTER {event} ON learned_models"
            " BEGIN UPDATE learned_changes SET version = version + 1; END"
        )


def m053_alerts(db: Database) -> None:
    """Add alerts, the messages about them, silences, and what rules are measured by."""
    db.execute(
        """
        CREATE TABLE alerts (
            id TEXT PRIMARY KEY,
            fingerprint TEXT NOT NULL,
            rule TEXT NOT NULL,
            subject TEXT NOT NULL,
            labels TEXT NOT NULL,
            severity TEXT NOT NULL,
            state TEXT NOT NULL,
            summary TEXT NOT NULL,
            link TEXT NOT NULL,
            value REAL,
            threshold REAL,
            since REAL NOT NULL,
            held_s REAL NOT NULL,
            fired_at REAL,
            resolved_at REAL,
            unknown_since REAL,
            note TEXT NOT NULL,
            notified TEXT NOT NULL,
            notified_at REAL,
            updated_at REAL NOT NULL
        ) WITHOUT ROWID
        """
    )
    db.execute("CREATE UNIQUE INDEX alerts_open ON alerts (fingerprint) WHERE resolved_at IS NULL")
    db.execute("CREATE INDEX alerts_by_fingerprint ON alerts (fingerprint, id)")
    db.execute("CREATE INDEX alerts_notified ON alerts (id) WHERE notified <> '[]'")
    db.execute(
        """
        CREATE TABLE alert_messages (
            id TEXT PRIMARY KEY,
            receiver TEXT NOT NULL,
            event TEXT NOT NULL,
            alerts TEXT NOT NULL,
            body TEXT NOT NULL,
            state TEXT NOT NULL,
            attempts INTEGER NOT NULL,
            created_at REAL NOT NULL,
            next_at REAL NOT NULL,
            expires_at REAL NOT NULL,
            ended_at REAL,
            status INTEGER,
            error TEXT NOT NULL
        ) WITHOUT ROWID
        """
    )
    db.execute(
        "CREATE INDEX alert_messages_waiting ON alert_messages (receiver, id)"
        " WHERE state = 'waiting'"
    )
    db.execute(
        """
        CREATE TABLE alert_message_alerts (
            alert TEXT NOT NULL,
            message TEXT NOT NULL,
            PRIMARY KEY (alert, message)
        ) WITHOUT ROWID
        """
    )
    db.execute(
        """
        CREATE TABLE alert_silences (
            fingerprint TEXT PRIMARY KEY,
            until REAL NOT NULL,
            reason TEXT NOT NULL,
            author TEXT NOT NULL,
            created_at REAL NOT NULL
        ) WITHOUT ROWID
        """
    )
    db.execute(
        """
        CREATE TABLE alert_counts (
            counter TEXT NOT NULL,
            at REAL NOT NULL,
            labels TEXT NOT NULL,
            requests INTEGER NOT NULL,
            exceeded INTEGER NOT NULL,
            usd REAL NOT NULL,
            PRIMARY KEY (counter, at, labels)
        ) WITHOUT ROWID
        """
    )
    db.execute(
        """
        CREATE TABLE alert_counters (
            counter TEXT PRIMARY KEY,
            since REAL NOT NULL,
            has_earlier INTEGER NOT NULL
        ) WITHOUT ROWID
        """
    )


def m054_evidence(db: Database) -> None:
    """Add which bundles of evidence were written."""
    db.execute(
        """
        CREATE TABLE evidence_bundles (
            id TEXT PRIMARY KEY,
            kind TEXT NOT NULL,
            subject TEXT NOT NULL,
            name TEXT NOT NULL,
            bodies TEXT NOT NULL,
            changed_rows INTEGER NOT NULL,
            size INTEGER NOT NULL,
            sha256 TEXT NOT NULL,
            manifest TEXT NOT NULL,
            signed_by TEXT NOT NULL,
            location TEXT NOT NULL,
            stored INTEGER NOT NULL,
            key_id TEXT NOT NULL,
            created_at REAL NOT NULL,
            created_by TEXT NOT NULL
        )
        """
    )
    db.execute("CREATE INDEX evidence_by_subject ON evidence_bundles (subject)")


def m055_browser_sessions(db: Database) -> None:
    """Add the browsers that are signed in."""
    db.execute(
        """
        CREATE TABLE browser_sessions (
            digest BLOB PRIMARY KEY,
            id TEXT NOT NULL,
            key_id TEXT NOT NULL,
            csrf_token TEXT NOT NULL,
            issued_at REAL NOT NULL,
            expires_at REAL NOT NULL,
            ends_at REAL NOT NULL
        ) WITHOUT ROWID
        """
    )
    db.execute("CREATE INDEX browser_sessions_by_id ON browser_sessions (id)")
    db.execute("CREATE INDEX browser_sessions_of_key ON browser_sessions (key_id, issued_at)")


def m056_route_versions(db: Database) -> None:
    """What routes were, and who changed them."""
    db.execute(
        """
        CREATE TABLE route_versions (
            name TEXT NOT NULL,
            number INTEGER NOT NULL,
            at REAL NOT NULL,
            source TEXT NOT NULL,
            route TEXT NOT NULL,
            actor TEXT NOT NULL,
            reason TEXT NOT NULL,
            PRIMARY KEY (name, number)
        ) WITHOUT ROWID
        """
    )


def m057_sample_notes(db: Database) -> None:
    """Add people's notes on samples, and an index of the answers that are not whole."""
    db.execute(
        """
        CREATE TABLE sample_notes (
            run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
            position INTEGER NOT NULL,
            key_id TEXT NOT NULL,
            author TEXT NOT NULL,
            label TEXT NOT NULL,
            note TEXT NOT NULL,
            at REAL NOT NULL,
            PRIMARY KEY (run, position, key_id)
        ) WITHOUT ROWID
        """
    )
    db.execute("CREATE INDEX answers_short ON answers (run, position) WHERE shortfall IS NOT NULL")


def m058_rollout_placement(db: Database) -> None:
    """Add how users get their places in rollouts; those that there are go on as they began."""
    db.execute("ALTER TABLE rollouts ADD COLUMN placement TEXT NOT NULL DEFAULT 'message'")


def m059_changed_keys(db: Database) -> None:
    """Changes of keys, when each was used last, and the budget period that a change has begun."""
    db.execute("ALTER TABLE keys ADD COLUMN period_since REAL")
    db.execute("ALTER TABLE keys ADD COLUMN period_changed_at REAL")
    db.execute(
        """
        CREATE TABLE key_versions (
            key TEXT NOT NULL REFERENCES keys (id) ON DELETE CASCADE,
            number INTEGER NOT NULL,
            at REAL NOT NULL,
            actor TEXT NOT NULL,
            changes TEXT NOT NULL,
            PRIMARY KEY (key, number)
        ) WITHOUT ROWID
        """
    )
    # Apart from `keys`, whose changes make every process read all keys again.
    db.execute(
        """
        CREATE TABLE key_uses (
            key TEXT PRIMARY KEY REFERENCES keys (id) ON DELETE CASCADE,
            used_at REAL NOT NULL
        ) WITHOUT ROWID
        """
    )


def m060_sorted_runs(db: Database) -> None:
    """What a run took, and indexes of what lists of runs are sorted by."""
    db.execute("ALTER TABLE runs ADD COLUMN cost_usd REAL")
    for name, column in (
        ("name", "name"),
        ("state", "state"),
        ("finish", "coalesce(finished_at, -1.0)"),
        ("duration", "ran_s"),
        ("cost", "coalesce(cost_usd, -1.0)"),
        ("samples", "dataset_rows"),
    ):
        db.execute(f"CREATE INDEX runs_sorted_by_{name} ON runs ({column}, id)")


def m070_responses(db: Database) -> None:
    """Add responses that clients may continue, conversations, and the keys of ids."""
    db.execute(
        """
        CREATE TABLE responses (
            id TEXT PRIMARY KEY,
            key_id TEXT NOT NULL,
            record_id TEXT NOT NULL,
            request_id TEXT NOT NULL,
            route TEXT NOT NULL,
            target TEXT NOT NULL,
            user_id TEXT NOT NULL,
            created_at REAL NOT NULL,
            expires_at REAL NOT NULL,
            status TEXT NOT NULL,
            previous TEXT NOT NULL,
            conversation TEXT NOT NULL,
            input BLOB NOT NULL,
            response BLOB NOT NULL
        )
        """
    )
    db.execute("CREATE INDEX responses_by_end ON responses (expires_at)")
    db.execute("CREATE INDEX responses_by_record ON responses (record_id)")
    db.execute("CREATE INDEX responses_by_user ON responses (user_id) WHERE user_id <> ''")
    db.execute(
        """
        CREATE TABLE conversations (
            id TEXT PRIMARY KEY,
            key_id TEXT NOT NULL,
            created_at REAL NOT NULL,
            metadata TEXT NOT NULL
        ) WITHOUT ROWID
        """
    )
    db.execute(
        """
        CREATE TABLE conversation_items (
            conversation TEXT NOT NULL,
            position INTEGER NOT NULL,
            id TEXT NOT NULL,
            body BLOB NOT NULL,
            PRIMARY KEY (conversation, position)
        ) WITHOUT ROWID
        """
    )
    db.execute(
        "CREATE UNIQUE INDEX conversation_items_by_id ON conversation_items (conversation, id)"
    )
    db.execute(
        """
        CREATE TABLE response_keys (
            number INTEGER PRIMARY KEY, value BLOB NOT NULL, created_at REAL NOT NULL
        )
        """
    )


STEPS = (
    m001_runs_and_samples,
    m002_answers_and_scores,
    m003_datasets,
    m004_logprobs_and_notes,
    m005_keys,
    m006_route_overrides,
    m007_translations,
    m008_traffic,
    m009_sample_answers,
    m010_dataset_sources,
    m012_run_life,
    m013_deaths,
    m015_experiments,
    m017_judgements,
    m018_judge_studies,
    m021_estimated_spend,
    m022_estimated_answers,
    m023_embeddings,
    m024_thoughts,
    m025_dataset_delimiters,
    m026_cached_from,
    m027_verdicts,
    m028_labels,
    m029_label_scores,
    m030_traffic_index,
    m031_changes,
    m032_traffic_users,
    m033_roles,
    m034_run_logs,
    m035_sealed_traffic,
    m036_traffic_kinds,
    m037_last_numbers,
    m038_feedback,
    m039_lineage,
    m040_shadows,
    m041_review,
    m042_rollouts,
    m043_record_ids,
    m044_authors,
    m045_rollout_judging,
    m046_review_pages,
    m047_occurrences,
    m048_rollout_samples,
    m049_watches,
    m050_schedule_decisions,
    m051_rollout_batches,
    m052_learned,
    m053_alerts,
    m054_evidence,
    m055_browser_sessions,
    m056_route_versions,
    m057_sample_notes,
    m058_rollout_placement,
    m059_changed_keys,
    m060_sorted_runs,
    m070_responses,
)
