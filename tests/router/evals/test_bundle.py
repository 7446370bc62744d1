"""Runs packed for another machine: what goes along, and what the folder means there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from servers import evalrouter

from providers.errors import ConfigError
from router.evals.bundle import pack, read_config
from router.evals.run_document import complete_run, parse_run

ROWS = """\
{"id": "1", "input": "The ferry was late. Fog lay on the river.", "reference": "Fog."}
{"id": "2", "input": "Prices rose in May. Milk did not.", "reference": "Prices rose."}
"""
DOCUMENT = """\
dataset: rows.jsonl
routes: [baseline/lead-1, baseline/echo]
prompt: "{{ input }}"
metrics: [rouge, {name: "file:polite.py", high: 9.0}]
"""


@pytest.fixture
def written(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "rows.jsonl").write_text(ROWS)
    (folder / "polite.py").write_text("def score(answer, references, row):\n    return 7\n")
    (folder / "run.yaml").write_text(DOCUMENT)
    return folder


def packed(written, tmp_path, config=None, **changes):
    document = parse_run(written / "run.yaml")
    document = document._replace(data={**document.data, **changes})
    target = tmp_path / "packed"
    target.mkdir()
    config = config or {"storage": {"database": f"sqlite:///{tmp_path}/kept.db"}}
    command = pack(complete_run(document, base=written), written, config, target)
    return target, command


def test_a_packed_run_needs_nothing_of_where_it_was_written(written, tmp_path, monkeypatch):
    folder, command = packed(written, tmp_path)
    shutil.rmtree(written)
    there = tmp_path / "there"
    folder.rename(there)
    monkeypatch.chdir(there)
    assert command[0] == "evalrouter"
    done = evalrouter(*command[1:], "--json")
    outcome = json.loads(done.stdout)
    assert outcome["run"]["name"] == "rows"
    assert outcome["run"]["state"] == "completed"
    assert outcome["run"]["dataset_rows"] == 2
    assert str(written) not in (there / "run.json").read_text()
    assert (tmp_path / "kept.db").exists()


def test_names_and_addresses_stay(written, tmp_path):
    changes = {"dataset": "hf://org/name", "metrics": ["rouge", "bertscore"]}
    folder, _ = packed(written, tmp_path, **changes)
    document = json.loads((folder / "run.json").read_text())
    assert document["dataset"] == "hf://org/name"
    assert document["metrics"] == ["rouge", "bertscore"]
    assert sorted(path.name for path in folder.iterdir()) == ["evalrouter.yaml", "run.json"]


@pytest.mark.parametrize(
    ("execution", "meant"),
    [("local", "local"), ("ray", "auto"), ({"workers": 3}, "auto"), ({"address": "a:1"}, "a:1")],
)
def test_a_run_on_ray_is_on_the_jobs_cluster(written, tmp_path, execution, meant):
    folder, _ = packed(written, tmp_path, execution=execution)
    execution = json.loads((folder / "run.json").read_text())["execution"]
    assert (execution if meant == "local" else execution["address"]) == meant


def test_secrets_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    path = tmp_path / "evalrouter.yaml"
    path.write_text('providers:\n  openai: {kind: openai, api_key: "${OPENAI_API_KEY}"}\n')
    for database in ("sqlite:////data/runs.db", "postgresql://db/runs", "postgres://db/runs"):
        config = read_config(path, database)
        assert config["storage"] == {"database": database}
    assert "sk-secret" not in yaml.safe_dump(config)


@pytest.mark.parametrize("storage", ["", "storage: {database: 'sqlite:///runs.db'}"])
def test_a_database_that_would_go_with_the_job_is_refused(tmp_path, storage):
    path = tmp_path / "evalrouter.yaml"
    path.write_text(storage)
    with pytest.raises(ConfigError, match=r"storage\.database: the job's own folder"):
        read_config(path, None)


def test_a_config_that_is_not_there_is_told():
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file"):
        read_config(Path("none.yaml"), "sqlite:////data/runs.db")


def test_the_command_says_that_no_cluster_answers(written, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.chdir(written)
    options = ["--database", "sqlite:////data/runs.db", "--ray-jobs", "http://127.0.0.1:9"]
    done = evalrouter("eval", "submit", "run.yaml", *options, check=1)
    assert done.stderr.startswith("error: no job at http://127.0.0.1:9: ")
    missing = evalrouter("eval", "submit", "run.yaml", *options, "--env", "NOT_HERE", check=2)
    assert "--env: NOT_HERE is not set here" in missing.stderr
