"""`evalrouter store migrate`."""

import asyncio
import json
import sqlite3
from contextlib import closing

import click.testing
import pytest
from postgres_server import GUARDED, PASSWORD
from stores import sqlite_store

from router.cli import main
from router.records import Record
from router.store.sql.copying import COUNTERS


async def fill(path):
    async with sqlite_store(path) as store:
        await store.keep_traffic([Record(id=f"req_{n}", at=2e9) for n in range(12)])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asyncio.run(fill(tmp_path / "a.db"))
    return tmp_path


def run(*args, code=0, **environ):
    runner = click.testing.CliRunner()
    result = runner.invoke(main, ["store", "migrate", *args], env=environ)
    assert result.exit_code == code, result.output
    assert PASSWORD not in result.output
    return result


def rows(path):
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT count(*) FROM traffic").fetchone()[0]


def test_a_copy_tells_what_it_did(folder):
    result = run("sqlite:///a.db", "sqlite:///b.db")
    # The requests, and what has a row from the start.
    copied = 12 + len(COUNTERS)
    assert f"{copied} rows copied from sqlite:///a.db to sqlite:///b.db in " in result.stdout
    assert "copy traffic\n" in result.stderr
    assert "compare traffic\n" in result.stderr
    told = result.stderr.splitlines()
    assert len(told) == len(set(told))
    printed = json.loads(run("sqlite:///b.db", "sqlite:///c.db", "--json").stdout)
    assert (printed["rows"], printed["written_meanwhile"]) == (copied, False)
    [traffic] = [table for table in printed["tables"] if table["table"] == "traffic"]
    assert traffic["rows"] == rows(folder / "c.db") == 12
    assert f"{traffic['hash']}\n" in result.stdout


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("sqlite:///none.db", "sqlite:///b.db", "none.db: there is no such file"),
        ("sqlite:///a.db", "sqlite:///./a.db", "the same database"),
        ("sqlite:///a.db", "b.db", "must begin with sqlite:/// or postgresql://"),
        ("sqlite:///a.db", "postgresql://u:p@ss@h/n", "has an @ or a / in its user or password"),
        ("sqlite:///a.db", "sqlite:///.", "cannot fill the database"),
    ],
)
def test_what_cannot_be_copied_is_one_line(folder, source, target, message):
    code = 1 if "cannot fill" in message else 2
    error = run(source, target, code=code).stderr
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "b.db").exists()


def test_passwords_come_from_the_environment_or_the_config(folder, postgres):
    with postgres.fresh_database() as address:
        guarded = address.replace("tests@", f"{GUARDED}@")
        without = run("sqlite:///a.db", guarded, code=1, POSTGRES_PASSWORD=None)
        assert "refuses the connection" in without.stderr
        run("sqlite:///a.db", guarded, POSTGRES_PASSWORD=PASSWORD)
        (folder / "evalrouter.yaml").write_text(
            f"storage: {{database: '{guarded}?connect_timeout=3', password: '{PASSWORD}'}}\n"
        )
        run(guarded, "sqlite:///b.db", POSTGRES_PASSWORD="not this one")
    assert rows(folder / "b.db") == 12
