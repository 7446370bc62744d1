"""`evalrouter dataset from-traffic`."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from click.testing import CliRunner
from stores import sqlite_store

from router.cli import main
from router.records import Record, Target

CONFIG = """
providers: {{baseline: {{kind: baseline}}}}
routes: {{chat: {{targets: [{{model: baseline/echo}}], record: full}}}}
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
"""
REQUEST = b'{"model": "chat", "messages": [{"role": "user", "content": "mail ann@example.com"}]}'
ANSWER = b'{"choices": [{"message": {"content": "done"}, "finish_reason": "stop"}]}'


async def fill(path):
    now = time.time()
    async with sqlite_store(path) as store:
        await store.keep_traffic(
            [
                Record(id=f"req_{n}", at=now - 3600 * n - 60, route="chat", keep="full",
                       target=Target("baseline", "echo"), status=500 if n == 4 else 200,
                       request=REQUEST, response=ANSWER)
                for n in range(5)
            ]
        )  # fmt: skip


@pytest.fixture
def run(tmp_path):
    config = tmp_path / "evalrouter.yaml"
    config.write_text(CONFIG.format(folder=tmp_path))
    asyncio.run(fill(tmp_path / "e.db"))

    def run(*args):
        command = ["dataset", "from-traffic", *args, "--config", str(config)]
        return CliRunner().invoke(main, command)

    run.config = str(config)
    return run


def test_it_says_how_many_rows_there_are_and_why_not_more(run):
    outcome = run("hard", "--route", "chat", "--since", "1d")
    assert outcome.exit_code == 0, outcome.output
    assert "4 rows of 5 requests" in outcome.stdout
    assert outcome.stdout.startswith("hard@")
    assert "1  requests that failed" in outcome.stderr


def test_options_are_those_of_the_selection(run):
    outcome = run(
        "hard", "--route", "chat", "--since", "3h", "--where", "prompt contains 'mail'",
        "--sample", "5", "--stratify", "length, target", "--dedupe", "--no-mask", "--seed", "3",
        "--json",
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.output
    made = json.loads(outcome.stdout)
    assert made["funnel"]["records"] == 3
    assert made["dataset"]["rows"] == 1
    selected = made["dataset"]["provenance"]["from_traffic"]
    assert selected["stratify"] == ["length", "target"]
    assert (selected["seed"], selected["masked"], selected["dedupe"]) == (3, False, True)


def test_rows_can_wait_for_a_review(run):
    outcome = run("hard", "--route", "chat", "--review")
    assert outcome.exit_code == 0, outcome.output
    assert outcome.stdout.startswith("1 row of 5 requests, to be reviewed: evalrouter review")
    assert "3  requests with the same words as another row" in outcome.stderr
    listed = CliRunner().invoke(main, ["review", "--json", "--config", run.config])
    [row] = json.loads(listed.stdout)
    assert (row["origin"], row["dataset"]) == ("traffic", "hard")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--where", "sttus == 200"], "character 1"),
        (["--since", "soon"], "since is seconds since the epoch"),
        (["--stratify", "length"], "how many rows there are to be"),
        (["--review", "--no-mask"], "always replaced"),
        (["--sample", "0"], "0 is not in the range"),
        (["--until", "30d"], "No request of 'chat' is on record"),
    ],
)
def test_mistakes_end_with_one_line_and_exit_code_2(run, args, says):
    outcome = run("hard", "--route", "chat", *args)
    assert outcome.exit_code == 2
    assert says in " ".join(outcome.stderr.split())
    assert "Traceback" not in outcome.output
