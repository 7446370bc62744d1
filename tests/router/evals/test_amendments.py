"""Scoring again, extending and resuming check what creating checks; a refusal changes nothing."""

import json
import sqlite3

import httpx
import pytest
from servers import evalrouter, gateway, scripted

MODELS = {"echo": [{}]}
ROWS = [{"input": f"Say {n}", "reference": "x", "answer": f"Say {n}"} for n in range(4)]


@pytest.fixture
def upstream():
    with scripted(MODELS) as server:
        yield server


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


@pytest.fixture
def config(folder, upstream):
    """The config's text, with the routes it is given."""

    def text(routes="{}"):
        return f"""
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db"}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}
routes: {routes}
"""

    return text


ROUTE = '{r: {targets: [{model: "up/echo"}]}, j: {targets: [{model: "up/echo"}]}}'


def begin(folder, config, **changes):
    """Carry a run out with a route `r` and a judge `j`, and return it with its scores."""
    (folder / "evalrouter.yaml").write_text(config(ROUTE))
    document = {"dataset": "data.jsonl", "routes": ["r"], "metrics": ["exact_match"]} | changes
    (folder / "run.json").write_text(json.dumps(document))
    return json.loads(evalrouter("eval", "run", "run.json", "--json", check=0).stdout)


def refused(url, run_id, action, body):
    """The error with which a change of a run is refused; the run is as it was."""
    before = httpx.get(f"{url}/eval/{run_id}").json()
    reply = httpx.post(f"{url}/eval/{run_id}/{action}", json=body)
    assert 400 <= reply.status_code < 500, reply.text
    assert httpx.get(f"{url}/eval/{run_id}").json() == before
    return reply.json()["error"]


METRICS_WITH_ROUTES = [
    {"name": "prometheus", "judge": "jugde", "rubric": "helpfulness"},
    {"name": "judge", "kind": "groundedness", "judge": ["j", "jugde"]},
    {"name": "rag", "judge": "jugde"},
    {"name": "embedding_similarity", "route": "jugde"},
]


@pytest.mark.parametrize("metric", METRICS_WITH_ROUTES, ids=lambda metric: metric["name"])
def test_a_route_that_a_new_metric_asks_must_exist(folder, config, upstream, metric):
    run_id = begin(folder, config)["run"]["id"]
    with gateway(config(ROUTE)) as url:
        document = {"dataset": str(folder / "data.jsonl"), "routes": ["r"], "metrics": [metric]}
        created = httpx.post(f"{url}/eval", json=document).json()["error"]
        error = refused(url, run_id, "rescore", {"metrics": ["length", metric]})
        assert "jugde" in error["message"]
        assert error["code"] == created["code"] == "model_not_found"
    assert upstream.log.total == len(ROWS)


def test_the_command_refuses_a_judge_that_does_not_exist(folder, config):
    judged = {"name": "prometheus", "judge": "j", "rubric": "helpfulness", "retries": 0}
    run_id = begin(folder, config, metrics=["exact_match", judged])["run"]["id"]
    (folder / "evalrouter.yaml").write_text(config(ROUTE.replace("j:", "other:")))
    # Without metrics, all of the run's are scored anew.
    stderr = evalrouter("eval", "rescore", run_id, check=2).stderr
    assert "'j'" in stderr
    shown = json.loads(evalrouter("eval", "show", run_id, "--json").stdout)
    assert shown["run"]["state"] == "completed"
    assert {score["scored"] for score in shown["report"]["routes"][0]["scores"]} != {0}
    # What asks nobody is scored again although the old judge is gone.
    evalrouter("eval", "rescore", run_id, "--metrics", "length")


def test_a_rescore_has_at_most_as_many_metrics_as_a_run(folder, config):
    paths = []
    for number in range(257):
        path = folder / f"metric_{number}.py"
        path.write_text("def score(*_):\n    return 1.0\n")
        paths.append(f"file:{path}")
    run_id = begin(folder, config)["run"]["id"]
    for metrics in (paths, paths[:256]):
        message = evalrouter("eval", "rescore", run_id, "--metrics", ",".join(metrics), check=2)
        assert "metrics" in message.stderr
        assert "256" in message.stderr
    with gateway(config(ROUTE)) as url:
        error = refused(url, run_id, "rescore", {"metrics": ["length"] * 257})
        assert error["param"] == "metrics"


def test_two_metrics_of_one_name_are_refused(folder, config):
    """A run has one signature for each name, so that the second could never be scored."""
    (folder / "evalrouter.yaml").write_text(config(ROUTE))
    (folder / "mine.py").write_text("def f(*_):\n    return 1.0\n\n\ndef g(*_):\n    return 2.0\n")
    metrics = [{"name": "file:mine.py", "function": name, "outputs": [name]} for name in "fg"]
    document = {"dataset": "data.jsonl", "routes": ["r"], "metrics": metrics}
    (folder / "run.json").write_text(json.dumps(document))
    stderr = evalrouter("eval", "run", "run.json", "--dry-run", check=2).stderr
    assert "metrics[1]: another metric is named 'file:mine.py' already" in stderr


def test_the_datasets_answers_have_no_repeats(folder, config):
    run_id = begin(folder, config, routes=["dataset/answer", "r"])["run"]["id"]
    with gateway(config(ROUTE)) as url:
        error = refused(url, run_id, "extend", {"repeats": 2})
        assert error["param"] == "repeats"


@pytest.mark.parametrize(
    ("action", "body"), [("extend", {"repeats": 2}), ("extend", {"limit": 4}), ("resume", {})]
)
def test_a_route_that_is_gone_is_not_asked_for_more(folder, config, action, body):
    run_id = begin(folder, config, limit=2)["run"]["id"]
    with gateway(config()) as url:
        error = refused(url, run_id, action, body)
        assert error["param"] == "routes[0]"
        assert "'r'" in error["message"]


def test_the_judge_of_more_samples_must_exist(folder, config):
    judged = {"name": "prometheus", "judge": "j", "rubric": "helpfulness", "retries": 0}
    run_id = begin(folder, config, metrics=[judged], limit=2)["run"]["id"]
    with gateway(config(ROUTE.replace("j:", "other:"))) as url:
        assert "'j'" in refused(url, run_id, "extend", {"limit": 4})["message"]
        assert "'j'" in refused(url, run_id, "resume", {})["message"]


def test_answers_of_a_route_that_is_gone_are_scored_again(folder, config, upstream):
    run_id = begin(folder, config, routes=["r", "dataset/answer"], repeats=1)["run"]["id"]
    (folder / "evalrouter.yaml").write_text(config())
    done = json.loads(evalrouter("eval", "rescore", run_id, "--metrics", "length", "--json").stdout)
    assert done["run"]["state"] == "completed"
    for route in done["report"]["routes"]:
        assert {score["scored"] for score in route["scores"]} == {len(ROWS)}
    assert upstream.log.total == len(ROWS)


def test_a_document_of_another_version_is_an_error_of_its_run_only(folder, config):
    ids = [begin(folder, config, experiment="e")["run"]["id"] for _ in range(2)]
    with sqlite3.connect(folder / "e.db") as database:
        database.execute(
            "UPDATE runs SET document = json_set(document, '$.colour', 'red') WHERE id = ?",
            (ids[0],),
        )
    with gateway(config(ROUTE)) as url, httpx.Client(base_url=url) as client:
        for method, path, body in (
            ("GET", f"/eval/{ids[0]}", None),
            ("GET", f"/eval/compare?runs={ids[0]},{ids[1]}", None),
            ("POST", f"/eval/{ids[0]}/resume", {}),
            ("POST", f"/eval/{ids[0]}/rescore", {}),
            ("POST", f"/eval/{ids[0]}/extend", {"repeats": 2}),
        ):
            reply = client.request(method, path, json=body)
            assert reply.status_code == 400, (path, reply.text)
            message = reply.json()["error"]["message"]
            assert message.startswith(f"{ids[0]}: this version of evalrouter cannot read")
            assert "colour" in message
        assert len(client.get("/eval").json()["data"]) == 2
        board = client.get("/experiments/e").json()
        [left_out] = board["left_out"]
        assert left_out["run_id"] == ids[0]
        assert "colour" in left_out["reason"]
        assert board["boards"][0]["entries"][0]["run_id"] == ids[1]
