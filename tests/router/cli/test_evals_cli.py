"""`evalrouter eval list` and `config check` in processes of their own, as people see them."""

import json
import os
import subprocess
from datetime import datetime, timedelta, timezone

from router_process import router_command

NEPAL = timezone(timedelta(hours=5, minutes=45))
RUN = """
dataset: data.jsonl
routes: [baseline/echo]
metrics: [exact_match]
name: NAME
"""


def evalrouter(folder, *args, code=0):
    done = subprocess.run(
        router_command(*args),
        cwd=folder,
        env={**os.environ, "TZ": "Asia/Kathmandu", "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def test_a_list_of_runs_says_when_they_began_and_ended_in_local_time(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"input": "a", "reference": "a"}\n')
    (tmp_path / "run.yaml").write_text(RUN)
    evalrouter(tmp_path, "eval", "run", "run.yaml")
    [run] = json.loads(evalrouter(tmp_path, "eval", "list", "--json").stdout)
    shown = evalrouter(tmp_path, "eval", "list").stdout
    header, row = (line for line in shown.splitlines() if "state" in line or run["id"] in line)
    assert [word for word in header.split() if word in ("created", "ended")] == ["created", "ended"]
    times = [
        f"{datetime.fromtimestamp(run[name], NEPAL):%Y-%m-%d %H:%M}"
        for name in ("created_at", "finished_at")
    ]
    assert row.count(times[0]) + row.count(times[1]) >= 2
    assert row.index(times[0]) < row.rindex(times[1])
    again = evalrouter(tmp_path, "eval", "resume", run["id"])
    assert f"{run['id']} is complete: no request is left to send." in again.stderr
    assert "data.jsonl, 1 sample, " in again.stdout
    sample = (run["id"], "1")
    evalrouter(tmp_path, "eval", "note", *sample, "Not so.", "--label", "wrong", "--before", "0")
    noted = evalrouter(tmp_path, "eval", "notes", *sample).stdout
    assert "[wrong] Not so." in noted
    late = evalrouter(tmp_path, "eval", "note", *sample, "Late.", "--before", "0", code=2)
    assert "another note on this sample meanwhile" in late.stderr
    assert "sample 2" in evalrouter(tmp_path, "eval", "notes", run["id"], "2", code=2).stderr
    evalrouter(tmp_path, "eval", "note", *sample, "--delete")
    assert json.loads(evalrouter(tmp_path, "eval", "notes", *sample, "--json").stdout) == []


def test_a_check_of_a_config_shows_every_mistake_with_its_path(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "server: {prot: 1}\nproviders: {a: {kind: opnai}}\nroutes: {r: {targets: [{model: b/x}]}}\n"
    )
    done = evalrouter(tmp_path, "config", "check", "c.yaml", code=2)
    assert done.stdout == ""
    assert [line.split(": ")[:2] for line in done.stderr.splitlines()] == [
        ["error", "c.yaml:1"],
        ["c.yaml:2", "providers.a.kind"],
        ["c.yaml:3", "routes.r.targets[0].model"],
    ]
