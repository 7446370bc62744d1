"""Models in a run's own actors: the same answers as over HTTP, a worker killed in mid-run."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from contextlib import aclosing, closing
from pathlib import Path

import pytest
from ray_runs import finish, start

from router.store.sqlite import SqliteStore

pytestmark = pytest.mark.timeout(180)

CONFIG = """\
models:
  llama: {{engine: transformers, source: {folder}/llama, cpus: 0.1, concurrency: 1}}
  bart:
    engine: transformers
    task: summarization
    source: {folder}/bart
    cpus: 0.1
    replicas: {{max: 2}}
  tiny-gguf: {{engine: llamacpp, source: {folder}/tiny.gguf, cpus: 0.1, options: {{context: 512}}}}
  broken: {{engine: transformers, source: {folder}/broken, cpus: 0.1}}
  sea:
    engine: transformers
    source: {folder}/sea
    cpus: 0.1
    adapters: {{pirate: {folder}/pirate}}
providers:
  host: {{kind: ray_serve, base_url: "{url}"}}
"""
TEXT = "the ferry was late because fog lay on the river and nobody knew when it would lift"


def write(folder, models, *, rows, url="http://127.0.0.1:1/v1", **document):
    folder.mkdir()
    (folder / "evalrouter.yaml").write_text(CONFIG.format(folder=models, url=url))
    lines = [
        {"id": str(n), "input": f"{TEXT[: 20 + n % 60]} {n}.", "reference": "fog"}
        for n in range(rows)
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    document = {"dataset": "data.jsonl", "prompt": "{{ input }}", "metrics": [], **document}
    (folder / "run.json").write_text(json.dumps(document))
    return folder


async def answers_of(folder, run_id):
    """Every answer by route and sample."""
    store = SqliteStore(folder / "evalrouter.db")
    await store.open()
    found = {}
    async with aclosing(store.results(run_id)) as results:
        async for one in results:
            key = (one.cell.route, one.cell.sample_id)
            assert key not in found, "a cell twice"
            found[key] = one.answer
    await store.close()
    return found


def engines(cluster):
    """Processes of this cluster's actors that work on several calls at a time."""
    token = cluster.environ["RAY_AUTH_TOKEN_PATH"].encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title = (process / "cmdline").read_bytes()
            ours = token in (process / "environ").read_bytes()
        except OSError:
            continue
        if ours and title.startswith(b"ray::AsyncWorker"):
            found.append(int(process.name))
    return found


def answered(folder):
    """How many answers of `models/bart` are kept."""
    with closing(sqlite3.connect(folder / "evalrouter.db", timeout=10)) as db:
        try:
            [(count,)] = db.execute(
                "SELECT count(*) FROM answers WHERE target = 'models/bart' AND state = 'answered'"
            )
        except sqlite3.OperationalError:
            return 0
        return count


async def test_answers_are_those_over_http(tmp_path, folder, hosted, cluster):
    names = ["llama", "bart", "tiny-gguf", "sea", "sea:pirate"]
    routes = [f"{host}/{name}" for name in names for host in ("models", "host")]
    greedy = {"temperature": 0, "max_tokens": 12}
    made = write(tmp_path / "run", folder, rows=10, url=hosted, routes=routes, parameters=greedy)
    outcome = finish(start(made, cluster), within=120)
    found = await answers_of(made, outcome["run"]["id"])
    assert len(found) == 100
    assert all(one.text and not one.error for one in found.values())
    for name in names:
        for n in range(10):
            here, there = found[f"models/{name}", str(n)], found[f"host/{name}", str(n)]
            assert here.text == there.text
            assert here.usage == there.usage
            assert here.system_fingerprint == there.system_fingerprint
    pirates = [found["models/sea:pirate", str(n)].text for n in range(10)]
    assert pirates != [found["models/sea", str(n)].text for n in range(10)]


async def test_a_worker_that_dies_has_its_requests_answered_by_another(tmp_path, folder, cluster):
    made = write(
        tmp_path / "run",
        folder,
        rows=400,
        routes=["models/bart", "baseline/lead-3"],
        baseline="baseline/lead-3",
        metrics=["rouge"],
        limits={"concurrency": 32},
    )
    run = start(made, cluster)
    while run.poll() is None and answered(made) < 60:
        time.sleep(0.02)
    pids = engines(cluster)
    os.kill(pids[0], signal.SIGKILL)
    outcome = finish(run, within=120)
    assert len(pids) == 2
    found = await answers_of(made, outcome["run"]["id"])
    assert len(found) == 800
    assert all(one.error is None for one in found.values())
    tries = {one.attempts for (route, _), one in found.items() if route == "models/bart"}
    assert tries == {1, 2}
    [row] = [one for one in outcome["report"]["routes"] if one["route"] == "models/bart"]
    assert row["failed"] == 0


def test_a_model_that_cannot_be_loaded_is_told_first(tmp_path, folder, cluster):
    made = write(tmp_path / "run", folder, rows=2, routes=["baseline/echo", "models/broken"])
    run = start(made, cluster)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 2
    assert "models.broken" in errors
    assert "no-such-model" in errors


async def test_a_judge_is_loaded_by_the_run_that_asks_it(tmp_path, folder, cluster):
    judge = {"name": "prometheus", "judge": "models/llama", "rubric": "helpfulness"}
    made = write(
        tmp_path / "run", folder, rows=3, routes=["baseline/echo"], metrics=[judge, "length"]
    )
    outcome = finish(start(made, cluster), within=120)
    with closing(sqlite3.connect(made / "evalrouter.db")) as db:
        told = db.execute("SELECT answer FROM judgements").fetchall()
    assert {json.loads(answer)["target"] for (answer,) in told} == {"models/llama"}
    found = await answers_of(made, outcome["run"]["id"])
    assert len(found) == 3


async def test_a_run_that_is_stopped_frees_its_actors_and_goes_on(tmp_path, folder, cluster):
    limits = {"concurrency": 1}
    made = write(tmp_path / "run", folder, rows=150, routes=["models/bart"], limits=limits)
    run = start(made, cluster)
    while run.poll() is None and answered(made) < 5:
        time.sleep(0.02)
    assert engines(cluster)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    before = answered(made)
    assert 5 <= before < 150
    until = time.monotonic() + 30
    while engines(cluster) and time.monotonic() < until:
        time.sleep(0.1)
    assert not engines(cluster)
    with closing(sqlite3.connect(made / "evalrouter.db")) as db:
        [(run_id,)] = db.execute("SELECT id FROM runs")
    outcome = finish(start(made, cluster, "resume", run_id), within=120)
    assert outcome["run"]["state"] == "completed"
    found = await answers_of(made, run_id)
    assert len(found) == 150
    assert all(one.text and not one.error for one in found.values())
