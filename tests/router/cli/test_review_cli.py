"""`evalrouter review`: by command, and by key in a terminal."""

import json
import os
import pty
import select
import subprocess
import sys

import click.testing
import pytest

from router.cli import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evalrouter.yaml").write_text(
        "storage: {database: 'sqlite:///a.db', artifacts: artifacts}\n"
    )
    rows = [
        {"messages": [{"role": "user", "content": f"{word} is it, ann@example.org?"}]}
        for word in ("Who", "What", "Where")
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def run(*args, code=0):
    result = click.testing.CliRunner().invoke(main, ["review", *args])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def test_rows_are_added_decided_and_published(folder):
    assert run() == "No row waits for a review.\n"
    assert run("add", "rows.jsonl") == "3 rows to review, 0 left out by checks\n"
    assert run("add", "rows.jsonl") == "0 rows to review, 3 left out by checks\n"
    assert "ann@" not in run()
    one, two, three = (row["id"] for row in json.loads(run("--json")))
    assert json.loads(run("accept", one, "--reference", "Me.", "--json"))["state"] == "accepted"
    assert run("reject", two, "--reason", "odd") == f"{two}: rejected\n"
    assert "rejected" in run("accept", two, code=2)
    assert run("undo", two) == f"{two}: waiting\n"
    assert "email" in run("show", three)
    assert run("publish").endswith(": 1 row, 1 of them new\n")
    assert "No accepted row" in run("publish", "reviewed", code=2)
    assert "rv_none" in run("show", "rv_none", code=2)


@pytest.mark.parametrize("line", ["{", "[]", '{"answer": "x"}', '{"messages": [1]}'])
def test_a_file_that_is_no_rows_is_refused_with_its_line(folder, line):
    (folder / "bad.jsonl").write_text(f'{{"messages": [{{"role": "user"}}]}}\n{line}\n')
    assert "bad.jsonl:2" in run("add", "bad.jsonl", code=2)


def test_a_key_decides_in_a_terminal(folder):
    run("add", "rows.jsonl")
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-E", "-X", "utf8", "-m", "router", "review"],
        stdin=follower, stdout=follower, stderr=follower, close_fds=True,
        env={**os.environ, "TERM": "dumb", "COLUMNS": "200"},
    )  # fmt: skip
    os.close(follower)
    shown = b""
    # What appears, and the key that answers it: reject, undo, accept the second, skip, publish.
    for word, key in [
        (b"1 of 3", b""), (b"uit", b"r"), (b"2 of 3", b""), (b"uit", b"u"), (b"again", b""),
        (b"uit", b"a"), (b"3 of 3", b""), (b"uit", b"s"), (b"Publish", b"y"), (b"1 row", b""),
    ]:  # fmt: skip
        while word not in shown:
            assert select.select([leader], [], [], 60)[0], (word, shown)
            try:
                shown += os.read(leader, 4096)
            except OSError:
                break
        assert word in shown, shown
        shown = shown.partition(word)[2]
        os.write(leader, key) if key else None
    assert process.wait(60) == 0
    os.close(leader)
    states = [row["state"] for row in json.loads(run("--json"))]
    assert states == ["waiting", "waiting"]
