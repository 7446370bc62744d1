"""Ground truth from a route's answers, as a new version that says how it was made."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from servers import gateway, scripted

from router.cli import main
from router.client import AsyncClient, Client

ROWS = [{"q": f"ask {n}", "truth": "old", "n": n} for n in range(5)]
ROOT = Path(__file__).parents[3]
MODELS = {
    "good": [{"answer": "new"}],
    "empty": [{"answer": " ", "times": 1}, {"answer": "new"}],
    "short": [
        {"match": "ask 1$", "answer": "ne", "finish_reason": "length"},
        {"answer": "<think>hm</think>new"},
    ],
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
            "--prompt", "Tell: {{ q }}", "--overwrite", "--json",
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
    label = (
        "dataset",
        "label",
        "--route",
        "up/shaky",
        "--dataset",
        "news",
        "--name",
        "better",
        "--overwrite",
    )
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


# Only what is missing


GAPS = [
    {"q": "ask 0", "reference": "old"},
    {"q": "ask 1"},
    {"q": "ask 2", "reference": " "},
    {"id": "x3", "q": "ask 3"},
]


@pytest.fixture
def gaps(evalrouter, tmp_path):
    rows = [{"id": f"r{n}", **row} for n, row in enumerate(GAPS)]
    (tmp_path / "gaps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evalrouter("dataset", "add", "gaps.jsonl", "--column", "q=input")
    return evalrouter


def preview(run, name):
    return json.loads(run("dataset", "show", name, "--rows", "9", "--json").stdout)["preview"]


def test_rows_keep_the_references_that_they_have(gaps, upstream):
    label = ("dataset", "label", "--route", "up/good", "--dataset", "gaps", "--json")
    row = json.loads(gaps(*label).stdout)
    assert row["rows"] == 4
    assert [line["reference"] for line in preview(gaps, "gaps")] == ["old", "new", "new", "new"]
    assert row["provenance"]["kept"] == 1
    assert row["provenance"]["targets"] == {"up/good": 3}
    assert upstream.log.total == 3
    # Nothing is missing any more.
    told = gaps(*label, status=2).stderr
    assert "all 4 rows of gaps" in told
    assert "have a reference" in told
    assert upstream.log.total == 3
    again = json.loads(gaps(*label[:-1], "--overwrite", "--name", "all", "--json").stdout)
    assert again["provenance"]["targets"] == {"up/good": 4}
    assert "kept" not in again["provenance"]


def test_a_limit_counts_rows_with_a_reference_too(gaps, upstream):
    gaps("dataset", "label", "--route", "up/good", "--dataset", "gaps", "--limit", "2")
    assert [line["reference"] for line in preview(gaps, "gaps")] == ["old", "new"]
    assert upstream.log.total == 1


def test_an_answer_that_was_cut_off_is_no_label(gaps):
    label = ("dataset", "label", "--route", "up/short", "--dataset", "gaps", "--json")
    row = json.loads(gaps(*label).stdout)
    labels = [line.get("reference") for line in preview(gaps, "gaps")]
    # Nor are thoughts a part of one.
    assert labels == ["old", None, "new", "new"]
    assert row["provenance"]["left_out"] == {"truncated": 1}


def test_an_empty_answer_is_no_label(gaps):
    label = ("dataset", "label", "--route", "up/empty", "--dataset", "gaps", "--json")
    row = json.loads(gaps(*label).stdout)
    assert [line.get("reference") for line in preview(gaps, "gaps")].count(None) == 1
    assert row["provenance"]["left_out"] == {"empty": 1}
    # The row that was left out is one that lacks a reference.
    done = json.loads(gaps(*label[:2], "--route", "up/good", *label[4:]).stdout)
    assert [line["reference"] for line in preview(gaps, "gaps")] == ["old", "new", "new", "new"]
    assert done["provenance"]["targets"] == {"up/good": 1}


def test_a_file_that_changed_meanwhile_is_not_labelled(gaps, tmp_path):
    label = ("dataset", "label", "--route", "up/good", "--dataset", "gaps.jsonl")
    gaps(*label, "--column", "q=input", "--name", "first")
    run_id = json.loads(gaps("dataset", "show", "first", "--json").stdout)["dataset"]["provenance"][
        "run"
    ]
    with (tmp_path / "gaps.jsonl").open("a") as file:
        file.write('{"id": "x9", "q": "ask 9"}\n')
    told = gaps("dataset", "label", "--run", run_id, "--name", "first", status=2).stderr
    assert "has changed since" in told


def test_a_task_messages_and_parameters_are_sent_and_kept(gaps, upstream):
    label = ("dataset", "label", "--route", "up/good", "--dataset", "gaps", "--json")
    row = json.loads(
        gaps(
            *label, "--task", "translation", "--task-option", "to=German",
            "--parameter", "max_tokens=7", "--parameter", "user=me", "--overwrite",
        ).stdout
    )  # fmt: skip
    made = row["provenance"]
    assert (made["task"]["name"], made["task"]["to"]) == ("translation", "German")
    assert made["parameters"] == {"temperature": 0, "max_tokens": 7, "user": "me"}
    assert "into German" in made["messages"][0]["content"]
    sent = json.loads(bytes(upstream.log.requests[-1].body))
    assert "into German" in sent["messages"][0]["content"]
    assert (sent["max_tokens"], sent["user"]) == (7, "me")
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "{{ q }}!"}]
    row = json.loads(
        gaps(*label, "--messages", json.dumps(messages), "--overwrite", "--name", "kind").stdout
    )
    assert row["provenance"]["messages"] == messages
    assert "task" not in row["provenance"]
    told = gaps(*label, "--messages", "[1]", status=2).stderr
    assert "--messages: not a JSON list of chat messages" in told
    told = gaps(*label, "--task", "translate", status=2).stderr
    assert "Did you mean 'translation'" in told


def test_over_http_and_in_the_sdk(gaps, http, upstream, tmp_path):
    config = (tmp_path / "evalrouter.yaml").read_text() + "server: {port: 0}\n"
    with gateway(config) as url:
        body = {"dataset": "gaps", "route": "up/good", "parameters": {"max_tokens": 9}}
        begun = http.post(f"{url}/datasets/label", json=body)
        assert begun.status_code == 202, begun.text
        run_id = begun.json()["id"]
        http.get(f"{url}/eval/{run_id}/events")
        made = http.post(f"{url}/datasets/label/{run_id}", json={"name": "labelled"})
        assert made.status_code == 200, made.text
        assert (made.json()["name"], made.json()["rows"]) == ("labelled", 4)
        assert made.json()["provenance"]["parameters"] == {"max_tokens": 9}
        assert upstream.log.total == 3
        for wrong, status in (
            (body | {"dataset": "labelled"}, 400),
            (body | {"dataset": "gasp"}, 400),
            (body | {"route": "nobody"}, 400),
            (body | {"prompt": "{{ nothing }}"}, 400),
            (body | {"overwrites": True}, 400),
            (body | {"task": "../t.yaml"}, 400),
        ):
            refused = http.post(f"{url}/datasets/label", json=wrong)
            assert refused.status_code == status, refused.text
            assert set(refused.json()) == {"error"}
        assert http.post(f"{url}/datasets/label/run_no").status_code == 404
        with Client(url) as client:
            row = client.datasets.label(
                "gaps", "up/good", name="sdk", prompt="Say {{ q }}", overwrite=True, timeout=60
            )
            assert (row["name"], row["rows"]) == ("sdk", 4)
            assert row["provenance"]["prompt"] == "Say {{ q }}"
            assert client.datasets.show("sdk")["preview"][0]["reference"] == "new"

        async def asynchronous():
            async with AsyncClient(url) as client:
                return await client.datasets.label("gaps", "up/good", name="other")

        assert asyncio.run(asynchronous())["rows"] == 4
