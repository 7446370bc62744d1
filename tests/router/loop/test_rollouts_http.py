"""Rollouts over HTTP and on the command line, with real requests."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager

import pytest
from click.testing import CliRunner
from servers import gateway

from providers.errors import ConflictError
from router.cli import main
from router.client import Client

CONFIG = """
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db"}}
cache: {{ttl: 60}}
providers:
  up:
    kind: scripted
    script:
      old: [{{answer: "old"}}]
      new: [{{answer: "new"}}]
      down: [{{status: 503}}]
routes:
  r: {{targets: [{{model: up/old}}], retries: {{attempts: 1}}}}
"""
SETTINGS = {
    "steps": [50],
    "step_seconds": 0,
    "cycle_seconds": 0,
    "unit_seconds": 0,
    "force": True,
    "signals": [
        {"measure": "errors", "min_requests": 5},
        {"measure": "errors", "role": "goal", "margin": 0.3, "min_requests": 5},
    ],
}
CHAT = "/v1/chat/completions"


def ask(http, url, user, text="hi", **more):
    body = {"model": "r", "messages": [{"role": "user", "content": text}], **more}
    body |= {"user": user} if user else {}
    return http.post(f"{url}{CHAT}", json=body)


def answer(response):
    return response.json()["choices"][0]["message"]["content"]


@contextmanager
def served(folder):
    config = CONFIG.format(folder=folder)
    (folder / "evalrouter.yaml").write_text(config)
    with gateway(config) as url:
        yield url


@pytest.fixture
def url(tmp_path):
    with served(tmp_path) as url:
        yield url


def ended(http, url):
    """Let users come until the rollout has ended; its report."""
    for number in range(100_000):
        ask(http, url, f"user {number}")
        report = http.get(f"{url}/routes/r/rollout").json() if number % 20 == 0 else None
        if report is not None and report["rollout"]["ended_at"] is not None:
            return report
    raise AssertionError("it never ended")


def test_a_candidate_that_is_down_is_rolled_back_and_no_client_notices(http, url):
    client = Client(url)
    started = client.rollouts.start("r", "up/down", reason="cheaper", **SETTINGS)
    assert started["weight"] == 0.5
    statuses = {ask(http, url, f"early {n}").status_code for n in range(20)}
    # The control answers where the candidate does not.
    assert statuses == {200}
    while len(rows := http.get(f"{url}/traffic", params={"route": "r"}).json()["data"]) < 20:
        time.sleep(0.01)
    firsts = {row["arm"]: (row["first_target"], row["propensity"]) for row in rows}
    assert firsts == {"control": ("up/old", 0.5), "candidate": ("up/down", 0.5)}
    report = ended(http, url)
    assert report["rollout"]["state"] == "rolled_back"
    assert report["decisions"][-2]["rule"] == "guardrails"
    assert report["totals"]["candidate"]["failures"] == report["totals"]["candidate"]["requests"]
    assert report["per_protocol"].keys() == {"control"}
    client.close()


def test_a_good_candidate_is_promoted(http, url):
    http.post(f"{url}/routes/r/rollout", json={"candidate": "up/new", **SETTINGS})
    assert ended(http, url)["rollout"]["state"] == "promoted"
    for user in range(20):
        while answer(ask(http, url, f"late {user}")) != "new":
            # Processes follow within a second.
            pass
    route = http.get(f"{url}/routes/r").json()
    assert route["source"] == "override"
    # What the server itself has set can be set by hand.
    assert http.put(f"{url}/routes/r", json=route["route"]).status_code == 200


def test_a_user_stays_in_one_arm_and_so_does_a_conversation(http, url):
    http.post(f"{url}/routes/r/rollout", json={"candidate": "up/new", **SETTINGS})
    by_user = {user: {answer(ask(http, url, user, text)) for text in "abc"} for user in "uvwxyz01"}
    assert all(len(answers) == 1 for answers in by_user.values())
    assert set().union(*by_user.values()) == {"old", "new"}
    openings = [f"question {n}" for n in range(12)]
    nameless = {text: {answer(ask(http, url, "", text)) for _ in range(3)} for text in openings}
    assert all(len(answers) == 1 for answers in nameless.values())
    assert set().union(*nameless.values()) == {"old", "new"}


def test_the_candidates_answers_are_not_cached_for_other_users(http, url):
    http.post(f"{url}/routes/r/rollout", json={"candidate": "up/new", **SETTINGS})
    use = {"headers": {"x-evalrouter-cache": "max-age=60"}}
    body = {"model": "r", "messages": [{"role": "user", "content": "hi"}], "user": ""}
    users = [f"user {n}" for n in range(20)]
    answers = [http.post(f"{url}{CHAT}", json={**body, "user": user}, **use) for user in users]
    candidates = [user for user, one in zip(users, answers, strict=True) if answer(one) == "new"]
    assert candidates
    http.post(f"{url}/routes/r/rollout/rollback", json={"reason": "why not"})
    for user in candidates:
        assert answer(http.post(f"{url}{CHAT}", json={**body, "user": user}, **use)) == "old"


def test_the_same_by_the_sdk_with_revisions(http, url):
    with Client(url) as client:
        # Nothing is decided by rule meanwhile.
        started = client.rollouts.start("r", "up/new", **SETTINGS | {"step_seconds": 3600})
        paused = client.rollouts.pause("r", "lunch", revision=started["revision"])
        assert paused["state"] == "paused"
        with pytest.raises(ConflictError) as refused:
            client.rollouts.promote("r", "late", revision=started["revision"])
        assert refused.value.code == "rollout_changed"
        client.rollouts.resume("r", "back")
        client.rollouts.promote("r", "we know")
        client.rollouts.rollback("r", "we do not")
        report = client.rollouts.show("r", rollout=started["id"])
        people = [row["to_state"] for row in report["decisions"] if row["rule"] == "person"]
        assert people == ["paused", "running", "promoting", "rolling_back"]
        assert [row["id"] for row in client.rollouts.list(route="r")] == [started["id"]]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"candidate": "up/old"}, 400, "candidate"),
        ({"candidate": "up/new", "steps": [5, 1]}, 400, "steps"),
        ({"candidate": "up/new", "steps": [0]}, 400, "steps[0]"),
        ({"candidate": "up/new", "signals": [{"measure": "luck"}]}, 400, "signals[0].measure"),
        ({"candidate": "up/new", "colour": 1}, 400, "colour"),
        ({}, 400, None),
        ({"candidate": "up/new"}, 409, None),
    ],
)
def test_bad_requests(http, url, body, status, param):
    response = http.post(f"{url}/routes/r/rollout", json=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["message"]
    assert param is None or error["param"] == param
    assert http.get(f"{url}/rollouts").json()["data"] == []


@pytest.mark.parametrize(
    ("rollout", "said"),
    [
        ({"candidate": "nowhere/new"}, "nowhere"),
        ({"judge": {"metric": {"name": "luck", "judge": "up/new"}}}, "luck"),
        ({"judge": {"metric": {"name": "prometheus", "judge": "up/new"}}}, "share_bodies_with"),
    ],
)
def test_a_route_whose_rollout_could_not_start_is_refused(http, url, rollout, said):
    route = {"targets": [{"model": "up/old"}], "rollout": rollout}
    response = http.put(f"{url}/routes/r", json=route)
    assert response.status_code == 400, response.text
    assert said in response.text
    assert http.get(f"{url}/routes/r").json()["source"] == "config"


def test_metrics_show_the_share_and_the_state(http, url):
    slow = SETTINGS | {"step_seconds": 3600}
    http.post(f"{url}/routes/r/rollout", json={"candidate": "up/new", **slow}).raise_for_status()
    text = http.get(f"{url}/metrics").text
    assert 'evalrouter_rollout_weight{route="r"} 0.5' in text
    assert 'evalrouter_rollout_state{route="r",state="running"} 1.0' in text


def test_commands(tmp_path):
    (tmp_path / "evalrouter.yaml").write_text(CONFIG.format(folder=tmp_path))
    (tmp_path / "settings.yaml").write_text(json.dumps({"cycle_seconds": 60}))
    (tmp_path / "misspelt.yaml").write_text("cycle_seconds: 60\nstepz: [2, 20]\n")

    def run(*args, code=0):
        command = ["rollout", *map(str, args), "--config", str(tmp_path / "evalrouter.yaml")]
        done = CliRunner().invoke(main, command)
        assert done.exit_code == code, done.output
        return done.output

    assert "use force" in run("start", "r", "up/new", code=2)
    for name, fault in (("misspelt", "misspelt.yaml:2: stepz"), ("no", "no.yaml: no such file")):
        settings = ("--settings", tmp_path / f"{name}.yaml")
        assert fault in run("start", "r", "up/new", *settings, code=2)
    settings = ("--settings", tmp_path / "settings.yaml", "--steps", "2,20")
    run("start", "r", "up/new", *settings, "--force")
    assert "● 2% ── ○ 20% ── ○ 100%" in run("status", "r")
    document = json.loads(run("status", "r", "--json"))
    assert document["rollout"]["settings"]["cycle_seconds"] == 60
    assert "is paused" in run("pause", "r", "lunch")
    title, share = run("list").splitlines()
    assert title.endswith(" up/new on r: paused")
    assert share.startswith("  2% since ")
    run("promote", "r", "we know")
    assert "is promoted" in run("promote", "r", "again", code=2)
    run("rollback", "r", "we do not")
    assert "rolled_back" in run("status", "r")
