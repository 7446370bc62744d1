"""Runs submitted to a real cluster through Ray's Jobs API."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.timeout(180)

ROWS = """\
{"id": "1", "input": "The ferry was late. Fog lay on the river.", "reference": "Fog."}
{"id": "2", "input": "Prices rose in May. Milk did not.", "reference": "Prices rose."}
"""
DOCUMENT = """\
dataset: rows.jsonl
routes: [baseline/lead-1]
prompt: "{{ input }}"
metrics: ["file:seven.py"]
gates: ["seven >= 8"]
execution: {workers: 1, cpus: 0.1}
"""
CONFIG = "storage: {database: 'sqlite:///${WHERE}/runs.db'}\n"


def submit(cluster, folder, *options):
    command = [sys.executable, "-m", "router", "eval", "submit", "run.yaml", *options]
    return subprocess.Popen(
        [*command, "--config", "evalrouter.yaml", "--env", "WHERE"],
        cwd=folder,
        env={**cluster.environ, "WHERE": str(folder / "kept")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def written(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "rows.jsonl").write_text(ROWS)
    (tmp_path / "seven.py").write_text("def score(answer, references, row):\n    return 7\n")
    (tmp_path / "run.yaml").write_text(DOCUMENT)
    (tmp_path / "evalrouter.yaml").write_text(CONFIG)
    return tmp_path


def runs(written):
    with sqlite3.connect(written / "kept" / "runs.db") as database:
        if not database.execute("select 1 from sqlite_master where name = 'runs'").fetchone():
            return []
        return database.execute("select state, dataset_rows from runs").fetchall()


def test_a_run_is_carried_out_there_and_its_gate_is_the_exit_code(cluster, written):
    process = submit(cluster, written)
    log, told = process.communicate(timeout=120)
    assert process.returncode == 1, log + told
    assert told.startswith("job raysubmit_")
    assert "gate seven >= 8: baseline/lead-1 failed" in log
    assert runs(written) == [("completed", 2)]


def test_who_stops_following_does_not_stop_the_job(cluster, written):
    process = submit(cluster, written)
    job = process.stderr.readline().split()[1]
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "stop it: ray job stop --address http://127.0.0.1:" in told
    assert told.rstrip().endswith(job)
    while runs(written) != [("completed", 2)]:
        time.sleep(0.1)
