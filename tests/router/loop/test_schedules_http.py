"""Schedules over HTTP, in the SDK and on the command line."""

from __future__ import annotations

import json
import re
import time

import pytest
from click.testing import CliRunner
from servers import gateway

from providers.errors import ConflictError, NotFoundError
from router.cli import main
from router.client import Client

CONFIG = """
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}"}}
datasets: {{roots: ["{folder}"]}}
providers:
  up:
    kind: scripted
    script:
      m: [{{answer: "yes", times: 4}}, {{answer: "no"}}]
schedules:
  nightly:
    run: {{dataset: "{folder}/rows.jsonl", routes: [up/m], metrics: [exact_match]}}
    cron: "30 2 29 2 *"
    timezone: Europe/Berlin
    gates: ["exact_match >= last"]
"""


def write(folder):
    rows = [{"id": str(n), "input": "?", "reference": "yes"} for n in range(4)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = CONFIG.format(folder=folder)
    (folder / "evalrouter.yaml").write_text(config)
    return config


@pytest.fixture
def url(tmp_path):
    with gateway(write(tmp_path)) as url:
        yield url


def ended(client):
    """The last time of the history, once its run has ended."""
    while True:
        report = client.schedules.show("nightly")
        if report["schedule"]["running"] is None:
            return report
        time.sleep(0.02)


def test_a_schedule_is_run_compared_accepted_and_paused(http, url):
    client = Client(url)
    [listed] = client.schedules.list()
    assert (listed["cron"], listed["last"], listed["paused"]) == ("30 2 29 2 *", None, None)
    begun = client.schedules.run("nightly", "the first one")
    assert (begun["state"], begun["cause"]) == ("running", "person")
    first = ended(client)
    assert first["document"]["tags"] == ["schedule:nightly"]
    [row] = first["history"]
    assert (row["run_id"], row["reason"]) == (
        begun["run_id"],
        "a client without a key: the first one",
    )
    assert row["result"]["scores"][0]["estimate"] == 1.0
    client.schedules.run("nightly")
    second = ended(client)["history"][0]
    assert (second["result"]["gate"], second["result"]["last"]) == ("failed", row["run_id"])
    # A page before that one.
    before = client.schedules.show("nightly", before=second["due"], limit=1)
    assert [each["run_id"] for each in before["history"]] == [row["run_id"]]
    with pytest.raises(ConflictError, match="does not pass exact_match >= last"):
        client.schedules.accept("nightly", "a new prompt")
    view = client.schedules.accept("nightly", "a new prompt", run=second["run_id"])
    assert view["accepted"]["run_id"] == second["run_id"]
    assert (
        client.schedules.accept("nightly", "or not", run=row["run_id"])["accepted"]["run_id"]
        == (row["run_id"])
    )
    paused = client.schedules.pause("nightly", "a holiday")
    assert (paused["paused"]["reason"], paused["next_due"]) == ("a holiday", None)
    with pytest.raises(ConflictError):
        client.schedules.pause("nightly", "again")
    assert client.schedules.resume("nightly", "back")["paused"] is None
    text = http.get(f"{url}/metrics").text
    assert (
        'evalrouter_scheduled_total{gate="failed",schedule="nightly",state="completed"} 1' in text
    )
    client.close()


REFUSED = [
    ("pause", {}, 400, "reason"),
    ("pause", {"reason": ""}, 400, "reason"),
    ("pause", {"reason": "r", "more": 1}, 400, "more"),
    ("resume", {"reason": "r"}, 409, "nightly is not paused"),
    ("accept", {"reason": "r"}, 409, "no run of nightly has completed yet"),
    ("accept", {"reason": "r", "run": "run_1"}, 404, "nightly has no run 'run_1'"),
    ("run", {"reason": 5}, 400, "reason"),
    ("run", [], 400, "object"),
]


def test_what_cannot_be_done_is_said_in_openais_form(http, url):
    for action, body, status, words in REFUSED:
        response = http.post(f"{url}/schedules/nightly/{action}", json=body)
        assert response.status_code == status
        assert words in response.json()["error"]["message"]
    for before in ("nan", "inf", "x"):
        response = http.get(f"{url}/schedules/nightly", params={"before": before})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "before"
    client = Client(url)
    with pytest.raises(NotFoundError, match=r"There is no schedule 'nigtly'\. Did you mean"):
        client.schedules.show("nigtly")
    for action in ("run", "pause", "resume", "accept"):
        response = http.post(f"{url}/schedules/x/{action}", json={"reason": "r"})
        assert response.status_code == 404
    client.close()


@pytest.fixture
def command(tmp_path):
    """Runs a command where no server is."""
    write(tmp_path)
    runner = CliRunner()

    def command(*args, code=0):
        done = runner.invoke(main, ["schedule", *args, "--config", f"{tmp_path}/evalrouter.yaml"])
        assert done.exit_code == code, done.output
        return done.stdout

    return command


def test_a_command_runs_a_schedule_and_shows_its_history(command, tmp_path):
    assert "nightly" in command("list")
    assert "It has not been due yet." in command("show", "nightly")
    assert "up/m exact_match  1 [" in command("run", "nightly", "--reason", "the first")
    path = tmp_path / "evalrouter.yaml"
    path.write_text(path.read_text().replace('answer: "yes"', 'answer: "no"'))
    text = command("run", "nightly", "--reason", "to see it fail", code=1)
    assert "gate exact_match >= last: up/m failed (0 against 1)" in text
    text = command("show", "nightly")
    assert "█▁" in text
    assert "✗" in text
    assert re.search(r"exact_match >= last \(up/m\); command line.*: to see it fail", text)
    assert re.search(r"next: \d+-02-29 02:30\n", text)
    assert "times are in the schedule's time zone, Europe/Berlin" in text
    assert "is paused" in command("pause", "nightly", "a holiday")
    assert "paused by command line" in command("show", "nightly")
    command("pause", "nightly", "again", code=2)
    command("resume", "nightly", "back")
    assert "-02-29 02:30" in command("list")
    report = json.loads(command("show", "nightly", "--json"))
    run_id = report["history"][0]["run_id"]
    command("accept", "nightly", "as good", code=2)
    text = command("accept", "nightly", "as good", "--run", run_id)
    assert text.startswith(f"{run_id} is the last accepted run of nightly")
    [view] = json.loads(command("list", "--json"))
    assert view["last"]["state"] == "completed"
    assert json.loads(command("run", "nightly", "--json"))["result"]["gate"] == "passed"
    command("show", "nope", code=2)


def test_a_config_is_checked_with_its_schedules(tmp_path):
    path = tmp_path / "evalrouter.yaml"
    path.write_text(
        'schedules: {s: {run: {dataset: d, routes: [r], metrics: []}, cron: "0 2 * * *"}}'
    )
    for args in (["config", "check", str(path)], ["serve", "--config", str(path), "--port", "0"]):
        done = CliRunner().invoke(main, args)
        assert done.exit_code == 2
        assert "schedules.s: routes[0]: The model 'r' does not exist" in done.stderr
