"""Every request that changes something tries to reach a file, a program and an address outside.

The server is a process whose working directory is `in`; everything beside it is out of bounds, and
Python itself logs what that process and its workers open there.
"""

import itertools
import json
import re
import socket
import sqlite3
import sys
import threading
import time
from contextlib import contextmanager
from urllib.parse import quote

import httpx
import pytest
from metric_options import NEEDED, declared, options
from servers import evalrouter, process

from evaluators.metrics import registry

CONFIG = """
server: {port: 0}
storage: {database: "sqlite:///runs.db"}
evaluation: {models: [some/model, models/mine]}
"""
# Of every process of the server, before anything else is imported.
AUDIT = """
import os, sys
_PLACE, _LOG = {place!r}, {log!r}

def _look(event, args):
    for one in args:
        if isinstance(one, (str, bytes, os.PathLike)) and _PLACE in os.fsdecode(one):
            with open(_LOG, "a") as file:
                print(event, os.fsdecode(one), file=file)

sys.addaudithook(_look)
"""
PROGRAM = "from pathlib import Path\nPath({marker!r}).touch()\ndef score(*_): return 1\n"
ROW = '{"id": "1", "input": "x", "reference": "x"}\n'
KIND = "description: x\nprompt: '{answer}'\n"


class World:
    """A server, what lies around it, and a run that it has."""

    def __init__(self, tmp_path):
        self.inside, self.outside = tmp_path / "in", tmp_path / "outside"
        self.log, self.marker = tmp_path / "opened.log", tmp_path / "ran"
        self.inside.mkdir()
        (self.outside / "model").mkdir(parents=True)
        for folder in (self.inside, self.outside):
            (folder / "rows.jsonl").write_text(ROW)
            (folder / "task.yaml").write_text("metrics: [length]\n")
            (folder / "kind.yaml").write_text(KIND)
            (folder / "rubric.yaml").write_text("criteria: x\nscores: {1: a, 2: b}\n")
            (folder / "notes.py").write_text(PROGRAM.format(marker=str(self.marker)))
        (self.inside / "notes").mkdir()
        (self.inside / "notes" / "notes.py").write_text(PROGRAM.format(marker=str(self.marker)))
        (self.inside / "models" / "mine").mkdir(parents=True)
        for name in ("rows.jsonl", "task.yaml", "kind.yaml", "rubric.yaml"):
            (self.inside / f"link-{name}").symlink_to(self.outside / name)
        (self.inside / "up").symlink_to(tmp_path)
        (self.inside / "evalrouter.yaml").write_text(CONFIG)
        audit = tmp_path / "audit"
        audit.mkdir()
        (audit / "sitecustomize.py").write_text(
            AUDIT.format(place=str(self.outside), log=str(self.log))
        )
        self.url = ""
        self.run = ""

    def names(self, name):
        """Ways to name a file outside."""
        full = str(self.outside / name)
        return [
            full, f"../outside/{name}", f"models/../../outside/{name}", f"up/outside/{name}",
            f"link-{name}", f"file://{full}", f"~/{name}", f"..\\outside\\{name}",
            f"{full}\0", f"\t{full}", f"/proc/self/cwd/../outside/{name}",
        ]  # fmt: skip

    def opened_files(self):
        return self.log.read_text() if self.log.exists() else ""


@contextmanager
def serving(world):
    path = [str(world.log.parent / "audit"), *filter(None, sys.path)]
    # Not of this process: the hub's library would stay offline in it for all tests that follow.
    environ = {"PYTHONPATH": ":".join(path), "HF_HUB_OFFLINE": "1"}
    with process(world.inside, environ=environ) as (_, url):
        world.url = url
        yield world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("confine"))
    with serving(world), httpx.Client(base_url=world.url, timeout=60) as http:
        made = http.post("/eval", json=document())
        assert made.status_code == 202, made.text
        world.run = made.json()["id"]
        ended(http, world.run)
        yield world


@pytest.fixture
def client(world):
    with httpx.Client(base_url=world.url, timeout=60) as http:
        yield http


def document(**changes):
    return {"dataset": "rows.jsonl", "routes": ["baseline/echo"], "metrics": ["length"], **changes}


def ended(http, run_id):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        run = http.get(f"/eval/{run_id}").json()["run"]
        if run["state"] in ("completed", "failed"):
            return run
        time.sleep(0.05)
    raise AssertionError("the run did not end")


def metrics(world):
    """Metrics whose declared options name what is outside, or a program."""
    for name, option in options():
        value = "../outside/x.yaml"
        if name.startswith(("hf:", "file:")) or not declared(name, option, value):
            continue
        files = ("model",) if option == "model" else ("kind.yaml", "rubric.yaml")
        for path in itertools.chain.from_iterable(map(world.names, files)):
            yield {"name": name, **NEEDED.get(name, {}), option: path}
    for path in world.names("notes.py"):
        yield f"file:{path}"
        yield f"hf:{path}"
        yield {"name": "hf:accuracy", "path": path}
    for here in ("notes.py", "./notes.py", "notes", "./notes", "somebody/theirs", "perplexity", ""):
        yield f"hf:{here}"
    yield "file:notes.py"
    yield {"name": "hf:accuracy", "path": "notes"}
    yield {"name": "bertscore", "model": "somebody/theirs"}
    yield {"name": "bertscore", "model": "models"}


def executions(port):
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "auto", "local", " "):
        yield {"address": address}


def run_documents(world, port):
    yield from (document(metrics=[spec]) for spec in metrics(world))
    yield from (document(dataset=path) for path in world.names("rows.jsonl"))
    yield from (document(task=path) for path in world.names("task.yaml"))
    yield from (document(execution=execution) for execution in executions(port))
    addresses = addresses_of(port)
    yield from (document(dataset=address) for address in addresses)


def addresses_of(port):
    return [
        f"http://127.0.0.1:{port}/x.csv", f"HTTP://localhost:{port}/x.csv",
        f"http://[::ffff:127.0.0.1]:{port}/x.csv", f"http://2130706433:{port}/x.csv",
        f"http://0.0.0.0:{port}/x.csv", f"http://public@127.0.0.1:{port}/x.csv",
        f"https://127.0.0.1:{port}/x.csv", "s3://bucket/x.csv", "S3://bucket/x.csv",
        "s3://buck\tet/x.csv", "file:///etc/x.csv", "gopher://127.0.0.1/x.csv",
        "http://127.0.0.1/%00.csv", "http://[/x.csv",
    ]  # fmt: skip


def creating(world, port):
    for body in run_documents(world, port):
        yield "/eval", body
        yield "/eval?dry_run=true", body


def rescoring(world, _port):
    for spec in metrics(world):
        yield f"/eval/{world.run}/rescore", {"metrics": ["length", spec]}


def registering(world, port):
    for source in (*world.names("rows.jsonl"), *addresses_of(port)):
        yield "/datasets", {"source": source}
        yield "/datasets", {"source": source, "name": "x"}
    for name in no_names(world):
        yield "/datasets", {"source": "rows.jsonl", "name": name}


def no_names(world):
    """Paths that cannot be a dataset's name."""
    return [*(name for name in world.names("rows.jsonl") if not name.startswith("link-")), ".."]


def uploading(world, _port):
    for name in no_names(world):
        yield f"/datasets/{quote(name, safe='')}?filename=x.jsonl", {"input": "x"}


def routing(world, port):
    models = [*world.names("model"), f"http://127.0.0.1:{port}/x", "models/../x"]
    for model in models:
        yield "/routes/r", {"targets": [{"model": model}]}
        yield "/routes/r", {"targets": [{"model": "baseline/echo"}], "fallback": [model]}
        yield "/routes/r", {"targets": [{"model": "baseline/echo", "base_url": model}]}
        yield "/routes/r", shadowed(targets=[model])
        yield "/routes/r", shadowed(judge=model)
    for path in world.names("rubric.yaml"):
        yield "/routes/r", shadowed(judge={"judge": "baseline/echo", "rubric": path})
        yield "/routes/r", shadowed(metrics=[f"file:{path}"])


def shadowed(**shadow):
    """A route that shares its users' texts with the baselines."""
    return {
        "targets": [{"model": "baseline/echo"}],
        "share_bodies_with": ["baseline"],
        "shadow": {"targets": ["baseline/lead-1"], **shadow},
    }


def supposing(world, port):
    for path in (*world.names("policy.yaml"), f"http://127.0.0.1:{port}/x"):
        yield "/what-if", {"policy": path}
        yield "/what-if", {"policy": {"weights": {path: 1}}, "route": "r"}
        yield "/what-if", {"policy": {"strategy": path}, "route": "r"}
        yield "/what-if", {"policy": {"strategy": "weighted"}, "route": path}
        yield "/what-if", {"policy": {"strategy": "weighted"}, "route": "r", "value": path}


def pausing(world, _port):
    for path in world.names("rows.jsonl"):
        yield f"/routes/{quote(path, safe='')}/shadow", {"action": "pause", "reason": path}


def rolling_out(world, port):
    for model in (*world.names("model"), f"http://127.0.0.1:{port}/x", "models/../x"):
        yield "/routes/r/rollout", {"candidate": model, "force": True}


def about_learned_routes(world, _port):
    """Names of routes that are paths."""
    for path in world.names("rows.jsonl"):
        yield f"/routes/{quote(path, safe='')}/learned", {}


def bundling(world, port):
    for name in (*world.names("rows.jsonl"), f"http://127.0.0.1:{port}/rows.jsonl"):
        yield "/evidence", {"subject": name}
        yield "/evidence", {"subject": f"ro_{name}"}


def about_rollouts(action):
    """Names of routes that are paths."""

    def requests(world, _port):
        for path in world.names("rows.jsonl"):
            yield f"/routes/{quote(path, safe='')}/rollout/{action}", {"reason": path}

    return requests


def about_watches(action, **body):
    """Names of watches that are paths."""

    def requests(world, _port):
        for path in world.names("rows.jsonl"):
            yield f"/watches/{quote(path, safe='')}/{action}", body

    return requests


def about_schedules(action):
    """Names of schedules that are paths."""

    def requests(world, _port):
        for path in world.names("run.yaml"):
            body = {"reason": path} | ({"run": path} if action == "accept" else {})
            yield f"/schedules/{quote(path, safe='')}/{action}", body

    return requests


def silencing(world, _port):
    for path in world.names("rows.jsonl"):
        yield f"/alerts/{quote(path, safe='')}/silence", {"reason": path, "seconds": 60}


def receivers_to_test(world, port):
    for name in (*world.names("rows.jsonl"), f"http://127.0.0.1:{port}/x"):
        yield "/alerts/test", {"receiver": name}


def adding_to_the_queue(world, _port):
    for path in world.names("rows.jsonl"):
        yield "/review", {"rows": path}
        yield "/review", {"rows": [{"messages": path}]}
        yield "/review", {"rows": [{"messages": MESSAGES}], "dataset": f"./{path}"}


def publishing(world, _port):
    for path in world.names("rows.jsonl"):
        yield "/review/publish", {"dataset": path}


def about_rows(ending):
    """Ids of rows to review that are paths."""

    def requests(world, _port):
        for path in world.names("rows.jsonl"):
            yield f"/review/{quote(path, safe='')}{ending}", {}

    return requests


def about_runs(ending):
    """Ids of runs that are paths, for requests whose body names nothing."""

    def requests(world, _port):
        for path in world.names("rows.jsonl"):
            yield f"/eval/{quote(path, safe='')}/{ending}", {}

    return requests


def labelling(world, port):
    label = {"dataset": "rows.jsonl", "route": "baseline/echo", "overwrite": True}
    for path in world.names("rows.jsonl"):
        yield "/datasets/label", label | {"dataset": path}
    for path in world.names("task.yaml"):
        yield "/datasets/label", label | {"task": path}
        yield "/datasets/label", label | {"task": {"name": path}}
    for model in (*world.names("model"), f"http://127.0.0.1:{port}/x"):
        yield "/datasets/label", label | {"route": model}


def copying_requests(world, port):
    selection = {"name": "n", "route": "baseline/echo"}
    for path in (*world.names("rows.jsonl"), f"http://127.0.0.1:{port}/x"):
        yield "/datasets/from-traffic", selection | {"name": path}
        yield "/datasets/from-traffic", selection | {"route": path}
        yield "/datasets/from-traffic", selection | {"where": path}


def about_labels(world, _port):
    for path in world.names("rows.jsonl"):
        yield f"/datasets/label/{quote(path, safe='')}", {}


def storing_labels(world, _port):
    for path in world.names("rows.jsonl"):
        label = {"sample_id": path, "answer": path, "scores": 1}
        yield f"/eval/{quote(path, safe='')}/labels", {"labels": [label]}
        yield "/eval/run_x/labels", {"labels": [label], "route": path, "output": path}


def writing_notes(world, _port):
    for path in world.names("rows.jsonl"):
        yield f"/eval/{quote(path, safe='')}/samples/1/notes", {"label": path[:60]}
        yield f"/eval/run_x/samples/{quote(path, safe='')}/notes", {"note": path}


def creating_keys(world, _port):
    for name in no_names(world):
        yield "/keys", {"name": name}
        yield "/keys", {"name": "x", "routes": [f"nobody/{name}"]}


def changing_keys(world, _port):
    for name in no_names(world):
        yield f"/keys/{quote(name, safe='')}", {"name": name}
        yield "/keys/key_nothing", {"routes": [f"nobody/{name}"]}


def changing(world, _port):
    for path in world.names("rows.jsonl"):
        yield f"/experiments/{quote(path, safe='')}", {"notes": path}


def giving_feedback(world, port):
    for path in (world.names("rows.jsonl")[0], f"http://127.0.0.1:{port}/x"):
        sent = {"messages": MESSAGES, "answer": path, "model": path, "consent": True}
        yield "/feedback", {"name": "x", "value": path, **sent}
    yield "/feedback", {"name": "x", "value": path, "request_id": path}


def giving_portkey_feedback(world, _port):
    yield "/v1/feedback", {"trace_id": world.names("rows.jsonl")[0], "value": 1}


def changing_feedback(world, _port):
    for path in world.names("rows.jsonl"):
        yield f"/v1/feedback/{quote(path, safe='')}", {"value": 1}


def scoring(world, _port):
    yield "/api/public/scores", {"name": "x", "value": 1, "traceId": world.names("rows.jsonl")[0]}


def ingesting(world, _port):
    for path in world.names("rows.jsonl"):
        yield "/api/public/ingestion", {"batch": path}


def naming_models(path, **body):
    def requests(world, port):
        for model in (*world.names("model"), f"http://127.0.0.1:{port}/x"):
            yield path, {"model": model, **body}

    return requests


def about_responses(world, port):
    for name in (*world.names("model"), f"http://127.0.0.1:{port}/x"):
        yield f"/v1/responses/{quote(name, safe='')}/cancel", {}


def about_conversations(below):
    def requests(world, port):
        for name in (*world.names("rows.jsonl"), f"http://127.0.0.1:{port}/x"):
            body = {"items": name, "metadata": {"file": name}}
            yield f"/v1/conversations{below.format(quote(name, safe=''))}", body

    return requests


MESSAGES = [{"role": "user", "content": "x"}]
ERROR_FIELDS = {"message", "type", "param", "code"}
REQUESTS = {
    ("POST", "/eval"): creating,
    ("POST", "/eval/{run_id}/rescore"): rescoring,
    ("POST", "/eval/{run_id}/resume"): about_runs("resume"),
    ("POST", "/eval/{run_id}/extend"): about_runs("extend"),
    ("POST", "/eval/{run_id}/pause"): about_runs("pause"),
    ("POST", "/eval/{run_id}/cancel"): about_runs("cancel"),
    ("POST", "/eval/{run_id}/export"): about_runs("export"),
    ("POST", "/eval/{run_id}/track"): about_runs("track"),
    ("PUT", "/eval/{run_id}/labels"): storing_labels,
    ("PUT", "/eval/{run_id}/samples/{position}/notes"): writing_notes,
    ("POST", "/datasets"): registering,
    ("POST", "/datasets/from-traffic"): copying_requests,
    ("POST", "/datasets/label"): labelling,
    ("POST", "/datasets/label/{run_id}"): about_labels,
    ("PUT", "/datasets/{name}"): uploading,
    ("PUT", "/routes/{name}"): routing,
    ("POST", "/what-if"): supposing,
    ("POST", "/routes/{name}/shadow"): pausing,
    ("POST", "/routes/{name}/rollout"): rolling_out,
    ("POST", "/routes/{name}/learned"): about_learned_routes,
    ("POST", "/routes/{name}/rollout/pause"): about_rollouts("pause"),
    ("POST", "/routes/{name}/rollout/resume"): about_rollouts("resume"),
    ("POST", "/routes/{name}/rollout/promote"): about_rollouts("promote"),
    ("POST", "/routes/{name}/rollout/rollback"): about_rollouts("rollback"),
    ("POST", "/evidence"): bundling,
    ("POST", "/watches/{name}/probe"): about_watches("probe"),
    ("POST", "/watches/{name}/pin"): about_watches("pin", reason="r"),
    ("POST", "/schedules/{name}/run"): about_schedules("run"),
    ("POST", "/schedules/{name}/pause"): about_schedules("pause"),
    ("POST", "/schedules/{name}/resume"): about_schedules("resume"),
    ("POST", "/schedules/{name}/accept"): about_schedules("accept"),
    ("POST", "/alerts/{alert_id}/silence"): silencing,
    ("POST", "/alerts/test"): receivers_to_test,
    ("POST", "/review"): adding_to_the_queue,
    ("POST", "/review/publish"): publishing,
    ("PATCH", "/review/{row_id}"): about_rows(""),
    ("POST", "/review/{row_id}/accept"): about_rows("/accept"),
    ("POST", "/review/{row_id}/reject"): about_rows("/reject"),
    ("POST", "/review/{row_id}/undo"): about_rows("/undo"),
    ("PATCH", "/experiments/{name}"): changing,
    ("POST", "/keys"): creating_keys,
    ("PATCH", "/keys/{name}"): changing_keys,
    ("POST", "/feedback"): giving_feedback,
    ("POST", "/v1/feedback"): giving_portkey_feedback,
    ("PUT", "/v1/feedback/{feedback_id}"): changing_feedback,
    ("POST", "/api/public/scores"): scoring,
    ("POST", "/api/public/ingestion"): ingesting,
    ("POST", "/v1/chat/completions"): naming_models("/v1/chat/completions", messages=MESSAGES),
    ("POST", "/v1/completions"): naming_models("/v1/completions", prompt="x"),
    ("POST", "/v1/embeddings"): naming_models("/v1/embeddings", input="x"),
    ("POST", "/v1/responses"): naming_models("/v1/responses", input="x"),
    ("POST", "/v1/messages"): naming_models("/v1/messages", messages=MESSAGES),
    ("POST", "/v1/messages/count_tokens"): naming_models(
        "/v1/messages/count_tokens", messages=MESSAGES
    ),
    ("POST", "/v1/responses/{response_id}/cancel"): about_responses,
    ("POST", "/v1/conversations"): about_conversations(""),
    ("POST", "/v1/conversations/{conversation_id}"): about_conversations("/{}"),
    ("POST", "/v1/conversations/{conversation_id}/items"): about_conversations("/{}/items"),
    # May be asked for by POST too: its model goes to a provider of the config.
    ("POST", "/providers/{name}/conformance"): naming_models("/providers/nobody/conformance"),
}


@pytest.fixture
def listener():
    """A port that notes who connects."""
    listener = socket.create_server(("127.0.0.1", 0))
    met = []

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            met.append(connection)

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1], met
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_every_request_that_changes_something_is_tried(client):
    """A new one needs a line in REQUESTS."""
    paths = client.get("/schema/openapi.json").json()["paths"]
    there = {
        (method.upper(), path)
        for path, methods in paths.items()
        for method in methods
        if method in ("post", "put", "patch")
    }
    assert there <= set(REQUESTS)


@pytest.mark.parametrize("which", REQUESTS, ids=" ".join)
def test_nothing_outside_is_reached(world, client, listener, which):
    port, met = listener
    tried = 0
    for url, body in REQUESTS[which](world, port):
        answer = client.request(which[0], url, json=body)
        assert 400 <= answer.status_code < 500, (url, body, answer.text)
        error = answer.json()["error"]
        assert error["message"], (url, body)
        fields = {"message", "type"} if url.startswith("/v1/messages") else ERROR_FIELDS
        assert set(error) == fields, (url, body)
        tried += 1
    assert tried
    assert world.opened_files() == ""
    assert not world.marker.exists()
    assert not met


def test_no_path_of_a_url_leads_outside(world, client):
    paths = client.get("/schema/openapi.json").json()["paths"]
    tried = [
        (method, re.sub(r"\{\w+\}", quote(name, safe=""), path))
        for path, methods in paths.items()
        for method in ("get", "delete")
        if method in methods and "{" in path
        for name in (*world.names("rows.jsonl"), "../runs.db", "%2e%2e%2fruns.db")
    ]
    assert len(tried) > 100
    for method, url in tried:
        answer = client.request(method, url)
        assert 400 <= answer.status_code < 500, (method, url, answer.text)
    assert world.opened_files() == ""


def test_refusals_are_the_same_whether_the_file_is_there(world, client):
    for metric, option, name in (
        ({"name": "judge", "judge": "baseline/echo"}, "kind", "kind.yaml"),
        ({"name": "prometheus", "judge": "baseline/echo"}, "rubric", "rubric.yaml"),
        ({"name": "bertscore", "model": "some/model"}, "baseline", "rubric.yaml"),
        ({"name": "bertscore"}, "model", "model"),
        ({"name": "hf:accuracy"}, "path", "notes.py"),
    ):
        refusals = []
        for path in (str(world.outside / name), str(world.outside / f"no-{name}")):
            answer = client.post("/eval", json=document(metrics=[{**metric, option: path}]))
            error = answer.json()["error"]
            refusals.append((error["message"].replace(path, "PATH"), error["param"], error["code"]))
        assert refusals[0] == refusals[1]
        assert refusals[0][1] == f"metrics[0].{option}"
        assert refusals[0][2] in ("outside_roots", "not_allowed")


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "judge", "judge": "baseline/echo", "kind": "kind.yaml"},
        {"name": "judge", "judge": "baseline/echo", "kind": "models/../kind.yaml"},
        {"name": "prometheus", "judge": "baseline/echo", "rubric": "rubric.yaml"},
        "prometheus",
    ],
)
def test_files_inside_are_read(world, client, spec):
    if spec == "prometheus":
        spec = {"name": spec, "judge": "baseline/echo"}
    answer = client.post("/eval?dry_run=true", json=document(metrics=[spec]))
    assert answer.status_code == 200, answer.text
    answer = client.post("/eval?dry_run=true", json=document(metrics=[], task="task.yaml"))
    assert answer.status_code == 200, answer.text


def test_models_that_the_config_lists(world, client):
    pytest.importorskip("sentence_transformers", reason="the extra 'local' is not installed")
    full = str(world.inside / "models" / "mine")
    for model in ("some/model", "models/mine", full):
        metric = {"name": "embedding_similarity", "model": model}
        answer = client.post("/eval?dry_run=true", json=document(metrics=[metric]))
        assert answer.status_code == 200, answer.text
    for name in ("bertscore", "embedding_similarity"):
        # Not even what a metric loads by default, where the config has a list of its own.
        metric = {"name": name, "model": "roberta-large"} if name != "bertscore" else name
        answer = client.post("/eval?dry_run=true", json=document(metrics=[metric]))
        assert answer.json()["error"]["param"] == "metrics[0].model"
        assert "evaluation.models" in answer.json()["error"]["message"]


def test_every_declared_option_was_tried(world):
    tried = {
        (spec["name"], option) for spec in metrics(world) if isinstance(spec, dict)
        for option in spec
    }  # fmt: skip
    for name in registry.METRICS:
        for option in registry._opening_options(registry._kind(name, "")[0]):
            assert (name, option) in tried


# Runs that were stored before, or that a command began


@pytest.fixture
def new_world(tmp_path):
    """A world of its own, whose server starts when it is entered."""
    return World(tmp_path)


def command(world, monkeypatch, **changes):
    """A run of a command, which may name anything; its id."""
    monkeypatch.chdir(world.inside)
    (world.inside / "run.json").write_text(json.dumps(document(**changes)))
    done = evalrouter("eval", "run", "run.json", "--json", "--config", "evalrouter.yaml")
    return json.loads(done.stdout)["run"]["id"]


def outside_rubric(world):
    path = str(world.outside / "rubric.yaml")
    return {"name": "prometheus", "judge": "baseline/echo", "rubric": path, "retries": 0}


def test_what_a_command_began_is_confined_once_a_client_asks_for_more(new_world, monkeypatch):
    judged = command(new_world, monkeypatch, metrics=["length", outside_rubric(new_world)])
    program = command(new_world, monkeypatch, metrics=[f"file:{new_world.outside / 'notes.py'}"])
    elsewhere = command(new_world, monkeypatch, dataset="../outside/rows.jsonl")
    assert new_world.marker.exists()
    new_world.marker.unlink()
    with serving(new_world), httpx.Client(base_url=new_world.url, timeout=60) as http:
        for run_id, param in ((judged, "metrics[1].rubric"), (program, "metrics[0]")):
            for ending, body in (
                ("resume", {}),
                ("rescore", {}),
                ("extend", {"repeats": 2}),
                ("extend", {"limit": 9}),
            ):
                answer = http.post(f"/eval/{run_id}/{ending}", json=body)
                assert answer.status_code == 400, (ending, answer.text)
                assert answer.json()["error"]["param"] == param
        answer = http.post(f"/eval/{elsewhere}/extend", json={"limit": 9})
        assert answer.json()["error"]["code"] == "outside_roots"
        assert new_world.opened_files() == ""
        # What is not read again may stay; what is refused may be replaced.
        written = {"criteria": "x", "scores": {"1": "a", "2": "b"}, "name": "rubric"}
        replaced = {**outside_rubric(new_world), "rubric": written}
        for run_id, ending, body in (
            (elsewhere, "extend", {"repeats": 2}),
            (judged, "rescore", {"metrics": [replaced]}),
        ):
            answer = http.post(f"/eval/{run_id}/{ending}", json=body)
            assert answer.status_code == 202, answer.text
            assert ended(http, run_id)["state"] == "completed"
    assert not new_world.marker.exists()


def test_what_was_stored_before_is_confined_when_it_is_carried_out(new_world, monkeypatch):
    """As an earlier version accepted it from a client, and left it when it was stopped."""
    ids = [
        command(new_world, monkeypatch, metrics=[outside_rubric(new_world)]),
        command(new_world, monkeypatch, metrics=[f"file:{new_world.outside / 'notes.py'}"]),
    ]
    new_world.marker.unlink()
    with sqlite3.connect(new_world.inside / "runs.db") as database:
        database.execute("UPDATE runs SET state = 'queued', runner = 'server', owner = ''")
        database.execute("DELETE FROM scores")
    with serving(new_world), httpx.Client(base_url=new_world.url, timeout=60) as http:
        until = time.monotonic() + 60
        for run_id in ids:
            while (run := listed(http, run_id))["state"] != "failed":
                assert time.monotonic() < until, run
                time.sleep(0.05)
            assert "requests may name" in run["error"] or "command line only" in run["error"]
        assert new_world.opened_files() == ""
    assert not new_world.marker.exists()


def listed(http, run_id):
    return next(run for run in http.get("/eval").json()["data"] if run["id"] == run_id)
