"""`evalrouter feedback`: add and list."""

import asyncio
import json

import click.testing
import pytest
from stores import sqlite_store

from router.cli import main
from router.records import Record, Target


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evalrouter.yaml").write_text("storage: {database: 'sqlite:///a.db'}\n")

    async def fill():
        async with sqlite_store(tmp_path / "a.db") as store:
            await store.keep_traffic(
                [
                    Record(id=f"req_{n}", at=2e9, route="r", target=Target("p", "m"), status=200,
                           request_id=f"req_{n}", conversation="talk")
                    for n in range(2)
                ]
            )  # fmt: skip

    asyncio.run(fill())

    def run(*args, code=0):
        result = click.testing.CliRunner().invoke(main, ["feedback", *args])
        assert result.exit_code == code, result.output
        return result.stdout if code == 0 else result.stderr

    return run


def test_feedback_is_added_and_listed(run):
    assert "No feedback yet." in run("list")
    given = [
        ("req_0", "--name", "thumb", "--value", "true", "--user", "ann"),
        ("req_0", "--name", "thumb", "--value", "false", "--user", "ann", "--comment", "[why]"),
        ("req_1", "--name", "quality", "--value", "-0.5"),
        ("req_1", "--name", "tone", "--value", "rude"),
        ("req_1", "--name", "answer", "--correction", "In 1969."),
        ("--conversation", "talk", "--name", "solved", "--value", "true"),
    ]
    ids = [run("add", *args).strip() for args in given]
    rows = json.loads(run("list", "--json"))
    assert [(row["id"], row["name"], row["kind"], row["value"]) for row in rows] == [
        (ids[5], "solved", "bool", True),
        (ids[4], "answer", "correction", "In 1969."),
        (ids[3], "tone", "text", "rude"),
        (ids[2], "quality", "number", -0.5),
        (ids[1], "thumb", "bool", False),
    ]
    shown = run("list", "--request", "req_0", "--history")
    assert "true (superseded)" in shown
    assert "[why]" in shown
    assert ids[2] not in shown
    assert len(json.loads(run("list", "--name", "thumb", "--user", "ann", "--json"))) == 1
    assert len(json.loads(run("list", "--conversation", "talk", "--limit", "2", "--json"))) == 2


def test_what_is_wrong_is_one_line(run):
    assert "--value or --correction" in run("add", "req_0", "--name", "x", code=2)
    assert "There is no request 'req_9'" in run(
        "add", "req_9", "--name", "x", "--value", "1", code=2
    )
    assert "Say what the feedback is about" in run("add", "--name", "x", "--value", "1", code=2)
    assert "name must not be empty" in run("add", "req_0", "--name", "", "--value", "1", code=2)
    assert "value" in run("add", "req_0", "--name", "x", "--value", "inf", code=2)
