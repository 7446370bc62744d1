"""`execution: ray`: runs scored on a real cluster of two machines, workers and a machine lost."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import aclosing

import pytest
from ray_runs import ended, finish, start

from router.store.sqlite import SqliteStore

pytestmark = pytest.mark.timeout(180)

# What a metric of a user's may do to its worker. Each call leaves a line with its process.
METRIC = """
import os, time
from pathlib import Path
here = Path(__file__).parent

def score(answer, references, row):
    with (here / "calls").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    if row["do"] == "die once" and not (here / "died").exists():
        (here / "died").touch()
        os._exit(9)
    if row["do"] == "die":
        os._exit(9)
    if row["do"] == "hang":
        time.sleep(60)
    time.sleep(row["takes"])
    return len(answer)
"""


def write(folder, rows, **more):
    folder.mkdir()
    (folder / "metric.py").write_text(METRIC)
    lines = [
        {"id": str(n), "input": "x" * (n + 1), "reference": "y", "do": "", "takes": 0.0, **row}
        for n, row in enumerate(rows)
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    document = {
        "dataset": "data.jsonl",
        "routes": ["baseline/echo"],
        "prompt": "{{ input }}",
        "metrics": [{"name": "file:metric.py", "timeout_s": 0.5}, "length"],
        **more,
    }
    (folder / "run.json").write_text(json.dumps(document))
    return folder


async def samples(folder, run_id):
    """The output `metric` of every sample: its value, and why there is none."""
    store = SqliteStore(folder / "evalrouter.db")
    await store.open()
    found = {}
    async with aclosing(store.results(run_id)) as results:
        async for one in results:
            assert one.cell.sample_id not in found, "a cell twice"
            [score] = [score for score in one.scores if score.output == "metric"]
            found[one.cell.sample_id] = (score.value, score.error or "")
    await store.close()
    return found


async def test_scores_are_those_of_one_machine(tmp_path, cluster):
    folder = write(tmp_path / "run", [{}] * 40)
    outcome = finish(start(folder, cluster))
    command = [sys.executable, "-m", "router", "eval", "run", "run.json", "--json"]
    local = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    here = json.loads(local.stdout)["run"]["id"]
    assert await samples(folder, outcome["run"]["id"]) == await samples(folder, here)
    assert len(set((folder / "calls").read_text().split())) > 1


async def test_a_worker_that_dies_has_its_answers_scored_by_another(tmp_path, cluster):
    rows = [{}] * 20 + [{"do": "die once"}] + [{}] * 20
    folder = write(tmp_path / "run", rows)
    outcome = finish(start(folder, cluster))
    found = await samples(folder, outcome["run"]["id"])
    assert (folder / "died").exists()
    assert found == {str(n): (n + 1.0, "") for n in range(41)}


async def test_an_answer_that_kills_or_hangs_costs_itself_only(tmp_path, cluster):
    folder = write(tmp_path / "run", [{}, {"do": "die"}, {"do": "hang"}, {}])
    outcome = finish(start(folder, cluster))
    found = await samples(folder, outcome["run"]["id"])
    assert found["0"] == (1.0, "")
    assert found["3"] == (4.0, "")
    for bad in ("1", "2"):
        assert found[bad][0] is None
        assert "3 workers died of it, or took too long" in found[bad][1]


def test_a_metric_that_cannot_be_loaded_is_told_first(tmp_path, cluster):
    folder = write(tmp_path / "run", [{}])
    (folder / "metric.py").write_text("import no_such_module\n")
    run = start(folder, cluster)
    _, errors = ended(run)
    assert run.returncode == 2
    assert "no_such_module" in errors


def test_a_cluster_that_is_not_there_is_told(tmp_path, cluster):
    folder = write(tmp_path / "run", [{}])
    run = start(folder, cluster._replace(address="127.0.0.1:1"))
    _, errors = ended(run)
    assert run.returncode == 1
    assert "no Ray at 127.0.0.1:1" in errors


# Last: the machine does not come back.


async def test_a_machine_that_is_lost_costs_nothing(tmp_path, cluster):
    folder = write(tmp_path / "run", [{"takes": 0.1}] * 150)
    run = start(folder, cluster)
    calls = folder / "calls"
    while run.poll() is None and (not calls.exists() or calls.read_text().count("\n") < 20):
        time.sleep(0.1)
    assert len(set(calls.read_text().split())) == 2, "both machines were at work"
    cluster.lose_a_machine()
    outcome = finish(run)
    found = await samples(folder, outcome["run"]["id"])
    assert found == {str(n): (n + 1.0, "") for n in range(150)}
