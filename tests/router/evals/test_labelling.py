"""Ground truth from a route's answers, as a new version that says how it was made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from servers import scripted

from router.cli import main

ROWS = [{"q": f"ask {n}", "truth": "old", "n": n} for n in range(5)]
ROOT = Path(__file__).parents[3]
MODELS = {
    "good": [{"answer": "new"}],
    "slow": [{"answer": "new", "delay_s": 0.1}],
    # Fails until it has been asked often enough: the second attempt at the row gets an answer.
    "shaky": [{"match": "ask 3$", "status": 400, "times": 1}, {"answer": "new"}],
}


@pytest.fixture
def upstream():
    with scripted(MODELS) as server:
        yield server


@pytest.fixture
def evalrouter(tmp_path, upstream, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evalrouter.yaml").write_text(
        f'providers: {{up: {{kind: compatible, base_url: "{upstream.url}", api_key: sk-x}}}}\n'
    )
    (tmp_path / "news.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def run(*arguments: str, status: int = 0) -> Result:
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == status, done.output
        return done

    columns = ("--column", "q=input", "--column", "truth=reference")
    run("dataset", "add", "news.jsonl", *columns)
    return run


def test_a_new_version_with_the_routes_answers(evalrouter, upstream):
    before = json.loads(evalrouter("dataset", "show", "news", "--json").stdout)["dataset"]
    row = json.loads(
        evalrouter(
            "dataset", "label", "--route", "up/good", "--dataset", "news", "--limit", "4",
            "--prompt", "Tell: {{ q }}", "--json",
        ).stdout
    )  # fmt: skip
    assert (row["name"], row["rows"]) == ("news", 4)
    assert row["source"] == f"news@{before['hash'][:12]}, labelled by up/good"
    assert row["provenance"] == {
        "labelled_by": "up/good",
        "run": row["provenance"]["run"],
        "of": {"dataset": f"news@{before['hash'][:12]}", "hash": before["hash"]},
        "targets": {"up/good": 4},
        "models": {"good": 4},
        "prompt": "Tell: {{ q }}",
        "parameters": {},
    }
    shown = json.loads(evalrouter("dataset", "show", "news", "--rows", "9", "--json").stdout)
    assert shown["versions"] == [row["hash"], before["hash"]]
    assert shown["preview"] == [
        {"id": str(n + 1), **ROWS[n], "input": f"ask {n}", "reference": "new"} for n in range(4)
    ]
    assert upstream.log.total == 4
    # The run underneath is one like any other.
    assert "news@" in evalrouter("eval", "show", row["provenance"]["run"]).stdout


def test_what_failed_is_asked_again_and_nothing_else(evalrouter, upstream):
    label = ("dataset", "label", "--route", "up/shaky", "--dataset", "news", "--name", "better")
    stderr = evalrouter(*label, status=2).stderr
    assert "4 of 5 samples of run_" in stderr
    run_id = stderr.rstrip().rpartition(" ")[2]
    assert upstream.log.total == 5
    assert "no dataset 'better'" in evalrouter("dataset", "show", "better", status=2).stderr
    done = evalrouter("dataset", "label", "--run", run_id, "--name", "better")
    assert "5 rows" in done.stdout
    assert upstream.log.total == 6
    # Once more makes the same again, without a request.
    assert evalrouter("dataset", "label", "--run", run_id, "--name", "better").stdout == done.stdout
    assert upstream.log.total == 6


def test_labelling_that_was_killed_goes_on(evalrouter, upstream, tmp_path):
    rows = [{"input": f"ask {n}"} for n in range(60)]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    program = "from router.cli import main; main()"
    command = ("dataset", "label", "--route", "up/slow", "--dataset", "many.jsonl")
    labelling = subprocess.Popen(
        [sys.executable, "-c", program, *command],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert labelling.stderr is not None
    run_id = labelling.stderr.readline().partition(":")[0]
    while upstream.log.total < 20:
        time.sleep(0.01)
    labelling.kill()
    labelling.communicate()
    sent = upstream.log.total
    assert sent < 60
    done = evalrouter("dataset", "label", "--run", run_id)
    assert "many@" in done.stdout
    assert "60 rows" in done.stdout
    # What was in flight, or not stored yet, is sent once more, and nothing else.
    run = json.loads(evalrouter("eval", "show", run_id, "--json").stdout)["run"]
    assert 60 <= upstream.log.total <= 60 + run["interrupted"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name what to label with --route"),
        (("--route", "up/good"), "name what to label with --route"),
        (("--run", "x", "--limit", "3"), "--run continues a labelling run"),
        (("--route", "up/good", "--dataset", "nwes"), "Did you mean 'news'?"),
        (("--route", "up", "--dataset", "news"), "routes[0]: The model 'up' does not exist"),
        (
            ("--route", "up/good", "--dataset", "news", "--name", "a b"),
            "cannot be a dataset's name",
        ),
    ],
)
def test_refusals(evalrouter, upstream, arguments, message):
    assert message in evalrouter("dataset", "label", *arguments, status=2).stderr
    assert upstream.log.total == 0
