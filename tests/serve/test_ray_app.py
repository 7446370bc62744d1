"""The router as an application of Ray Serve, beside the hosted models on one real Ray."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time

import httpx
import openai
import pytest
from servers import scripted

from providers.errors import ConfigError

pytestmark = [
    pytest.mark.timeout(180),
    # Ray's own modules, when they are imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

ASKED = {"messages": [{"role": "user", "content": "tell me a story"}], "max_tokens": 8}
CONFIG = """\
server: {{allow_anonymous: true}}
providers:
  up: {{kind: compatible, base_url: '{up}'}}
  gpu: {{kind: ray_serve, base_url: '{models}'}}
"""
MODELS = {
    "quick": [{"answer": "yes it is"}],
    "slow": [{"answer": "one two three four five six", "chunk_delay_s": 0.3}],
    "hang": [{"fault": "hang"}],
}


@pytest.fixture(scope="module")
def upstream():
    with scripted(MODELS) as server:
        yield server


# As `serve run` does, which would end the models as well when it ends.
DEPLOY = """\
import json, sys
import ray
from ray import serve
from router.ray_app import build

address, name, args = sys.argv[1:]
ray.init(address, namespace="serve", log_to_driver=False, logging_level="WARNING")
try:
    serve.run(build(json.loads(args)), name=name, route_prefix=f"/{name}")
    print("ready", flush=True)
    sys.stdin.read()
except Exception as error:
    found = serve.status().applications.get(name)
    print(error, found and found.deployments["router"].message)
finally:
    serve.delete(name)
"""


def deploy(cluster, folder, name, **args):
    # What the copies have are the variables of the cluster's machines; none of this process.
    command = [sys.executable, "-c", DEPLOY, cluster.address, name]
    return subprocess.Popen(
        [*command, json.dumps({"cpus": 0.1, **args})],
        cwd=folder,
        env=cluster.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def router(cluster, hosted, upstream, tmp_path_factory):
    """Base URL of two copies."""
    folder = tmp_path_factory.mktemp("router")
    (folder / "evalrouter.yaml").write_text(CONFIG.format(up=upstream.url, models=hosted))
    process = deploy(cluster, folder, "router", config="evalrouter.yaml", replicas=2)
    try:
        assert process.stdout.readline() == "ready\n", process.stdout.read()
        yield hosted.removesuffix("/v1") + "/router"
    finally:
        process.communicate(timeout=60)
    # Paths of the config start where the command was given, and what was kept is kept.
    with sqlite3.connect(folder / "evalrouter.db") as database:
        assert database.execute("select count(*) from traffic").fetchone()[0]


@pytest.fixture
def client(router):
    with httpx.Client(base_url=router, timeout=60) as client:
        yield client


def outcome_of(upstream, model):
    return next(one for one in reversed(upstream.log.requests) if one.model == model).outcome


def until(found):
    while not found():
        time.sleep(0.02)


def test_the_router_and_the_models_are_on_one_ray(router):
    with openai.OpenAI(base_url=f"{router}/v1", api_key="none") as client:
        assert {"up/quick", "gpu/llama"} <= {model.id for model in client.models.list()}
        hosted = client.chat.completions.create(model="gpu/llama", temperature=0, **ASKED)
        assert hosted.usage.completion_tokens == 8
        stream = client.chat.completions.create(model="up/quick", stream=True, **ASKED)
        parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        assert "".join(parts) == "yes it is"
        with pytest.raises(openai.NotFoundError) as told:
            client.chat.completions.create(model="up/nope", **ASKED)
        assert told.value.code == "model_not_found"


def test_a_stream_is_passed_on_as_it_comes(client, upstream):
    body = {"model": "up/slow", "stream": True, **ASKED}
    with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        lines = reply.iter_lines()
        assert "one" in next(line for line in lines if '"content":"o' in line)
        assert outcome_of(upstream, "slow") == "open"
        assert [line for line in lines if line][-1] == "data: [DONE]"


def test_a_client_that_leaves_is_told_upstream(client, upstream):
    body = {"model": "up/slow", "stream": True, **ASKED}
    with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        next(reply.iter_raw())
    until(lambda: outcome_of(upstream, "slow") != "open")
    assert outcome_of(upstream, "slow") == "client_gone"


def test_a_client_that_leaves_before_the_answer_is_told_upstream(client, upstream):
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/chat/completions", json={"model": "up/hang", **ASKED}, timeout=1)
    until(lambda: outcome_of(upstream, "hang") != "open")
    assert outcome_of(upstream, "hang") == "client_gone"


def test_there_is_one_request_id(client):
    body = {"model": "up/quick", **ASKED}
    reply = client.post("/v1/chat/completions", json=body, headers={"x-request-id": "mine-7"})
    assert reply.headers.get_list("x-request-id") == ["mine-7"]
    given = client.post("/v1/chat/completions", json=body).headers.get_list("x-request-id")
    assert len(given) == 1

    def recorded():
        return {row["request_id"] for row in client.get("/traffic").json()["data"]}

    until(lambda: {"mine-7", *given} <= recorded())


def test_errors_and_pages_are_the_routers(client):
    missing = client.get("/v1/nothing")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert client.get("/").headers["content-type"].startswith("text/html")
    assert client.get("/health/ready").json() == {"status": "ready"}


def test_the_copies_count_together(client):
    def counted():
        text = client.get("/metrics").text
        found = re.search(r'evalrouter_requests_total\{.*target="up/quick"\} (\S+)', text)
        workers = set(re.findall(r'evalrouter_open_streams\{worker="(\d+)"\}', text))
        return float(found[1]) if found else 0.0, len(workers)

    until(lambda: counted()[1] == 2)
    before = counted()[0]
    for _ in range(10):
        client.post("/v1/chat/completions", json={"model": "up/quick", **ASKED})
    until(lambda: counted() >= (before + 10, 2))


def test_a_router_that_others_could_use_is_not_started(cluster, hosted, tmp_path):
    process = deploy(cluster, tmp_path, "open-door", config={"server": {"allow_anonymous": False}})
    assert "anybody who reaches" in process.communicate(timeout=120)[0]


def test_a_machine_that_is_not_there_is_told_at_once(cluster, hosted, tmp_path):
    process = deploy(cluster, tmp_path, "nowhere", config={}, machine="192.0.2.77")
    told = process.communicate(timeout=60)[0]
    assert "machine: the cluster has no machine at '192.0.2.77'" in told


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({}, "missing required field `config`"),
        ({"config": {}, "replicas": "0"}, "replicas"),
        ({"config": {}, "copies": 2}, "unknown field `copies`"),
        ({"config": {"servers": {}}}, "servers: unknown key. Did you mean 'server'"),
        ({"config": "none.yaml"}, "none.yaml: no such file"),
        ({"config": {}, "folder": "here"}, "folder: must name, in full"),
    ],
)
def test_args_that_cannot_be_used_are_told(args, told, tmp_path, monkeypatch):
    from router.ray_app import build

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(told)):
        build(args)


def test_a_config_in_the_args_takes_variables_of_the_copies(tmp_path, monkeypatch):
    from router.ray_app import Start

    monkeypatch.setenv("COPIES_DATABASE", str(tmp_path / "here.db"))
    config = {"storage": {"database": "sqlite:///${COPIES_DATABASE}"}}
    start = Start(config, tmp_path, "", tmp_path)
    assert start.read().storage.sqlite_path() == tmp_path / "here.db"
