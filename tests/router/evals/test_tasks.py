"""Tasks end to end: from the command line, from a document, over HTTP."""

# ruff: noqa: RUF001  # some texts are in other scripts on purpose

import json

import pytest
from servers import evalrouter, gateway, scripted

ROWS = [{"input": f"Text {n}. More.", "reference": f"Text {n}."} for n in range(4)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def run(*args):
    return json.loads(evalrouter("eval", "run", *args, "--json").stdout)["run"]


def test_a_task_a_dataset_and_routes_are_enough(folder):
    made = run(
        "--task", "summarization", "--dataset", "data.jsonl", "--routes", "baseline/lead-1",
        "--limit", 3, "--name", "first", "--tag", "a", "--tag", "b", "--notes", "why",
    )  # fmt: skip
    assert made["state"] == "completed"
    assert made["name"] == "first"
    document = made["document"]
    assert document["routes"] == ["baseline/lead-1", "baseline/lead-3"]
    assert document["baseline"] == "baseline/lead-3"
    assert document["limit"] == made["dataset_rows"] == 3
    assert document["tags"] == ["a", "b"]
    assert document["notes"] == "why"
    assert len(document["task"]["version"]) == 12
    # The document as it is kept can be run again, and does the same.
    (folder / "again.json").write_text(json.dumps(document))
    assert run("again.json")["document"] == document


def test_options_win_over_the_document_and_paths_start_where_they_are_written(folder):
    inner = folder / "inner"
    inner.mkdir()
    (inner / "nightly.yaml").write_text(
        "task: summarization\ndataset: own.jsonl\nroutes: [baseline/echo]\n"
        "tags: [nightly]\nsample: {n: 2}\n"
    )
    (inner / "own.jsonl").write_bytes((folder / "data.jsonl").read_bytes())
    document = run("inner/nightly.yaml")["document"]
    assert document["dataset"] == "own.jsonl"
    made = run(
        "inner/nightly.yaml", "--dataset", "data.jsonl", "--metrics", "length, chrf",
        "--limit", 1, "--tag", "tried", "--column", "input=prompt",
    )["document"]  # fmt: skip
    assert made["dataset"] == str(folder / "data.jsonl")
    assert made["metrics"] == ["length", "chrf"]
    assert (made["limit"], made["sample"]) == (1, None)
    assert made["tags"] == ["nightly", "tried"]
    assert made["columns"] == {"input": "prompt"}


def test_what_is_wrong_is_told_in_one_line_with_its_place(folder):
    def error_of(*args):
        return evalrouter("eval", "run", *args, check=2).stderr

    (folder / "bad.yaml").write_text("dataset: data.jsonl\nroutes: [a]\ntask: sumarization\n")
    assert error_of("bad.yaml") == (
        "error: bad.yaml:3: task: there is no task 'sumarization'. Did you mean 'summarization'?\n"
    )
    (folder / "bad.yaml").write_text("dataset: d\nroutes: [a]\ntask: {name: translation, tp: x}\n")
    assert "bad.yaml:3: task: translation has no option 'tp'. Known: to." in error_of("bad.yaml")
    assert "name a run document, or a task" in error_of()
    assert "--task-option needs a task" in error_of("--metrics", "rouge", "--task-option", "a=b")
    assert "'x' is not name=value" in error_of("--task", "summarization", "--column", "x")
    (folder / "done.yaml").write_text(
        "dataset: d\nroutes: [a]\nmetrics: [chrf]\ntask: {name: translation, version: abc}\n"
    )
    assert "filled in this document already" in error_of("done.yaml", "--task-option", "to=German")


def test_tasks_are_listed_for_people_and_programs(folder):
    assert "labels (needed)" in evalrouter("eval", "tasks").stdout
    tasks = json.loads(evalrouter("eval", "tasks", "--json").stdout)
    assert {"summarization", "classification"} <= {task["name"] for task in tasks}


def test_over_http(folder, http):
    (folder.parent / "outside.yaml").write_text("metrics: [length]")
    (folder / "program.py").write_text("def score(*_):\n    return 1\n")
    (folder / "program.yaml").write_text('metrics: ["file:program.py"]')
    models = {"m": [{"answer": "In German."}]}
    with scripted(models) as upstream:
        config = (
            "server: {port: 0}\n"
            f'providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}\n'
            "storage: {database: 'sqlite:///runs.db'}\n"
        )
        with gateway(config) as url:
            body = {
                "task": {"name": "translation", "to": "German"},
                "dataset": "data.jsonl",
                "routes": ["up/m"],
            }
            made = http.post(f"{url}/eval", json=body)
            assert made.status_code == 202, made.text
            http.get(f"{url}/eval/{made.json()['id']}/events")

            def refused(**changes):
                answer = http.post(f"{url}/eval", json=body | changes)
                assert answer.status_code == 400
                return answer.json()["error"]

            error = refused(task="translating")
            assert error["param"] == "task"
            assert "Did you mean 'translation'" in error["message"]
            assert refused(task={"name": "translation", "to": 3})["param"] == "task.to"
            assert "outside" in refused(task="../outside.yaml")["message"]
            assert "a metric that is a file" in refused(task="program.yaml")["message"]
            listed = http.get(f"{url}/eval/tasks").json()
            assert "translation" in {run["name"] for run in listed["data"]}
    messages = [json.loads(bytes(request.body))["messages"] for request in upstream.log.requests]
    assert len(messages) == 4
    assert all("into German" in chat[0]["content"] for chat in messages)


def test_bleu_divides_words_by_the_language_of_the_translation(folder, http):
    (folder / "zh.jsonl").write_text(
        json.dumps(
            {
                "input": "The weather is nice today.",
                "reference": "今天天气很好，我们去公园散步。",
                "answer": "今天天气很好，我们去公园跑步。",
            }
        )
    )
    made = run(
        "--task", "translation", "--task-option", "to=Chinese", "--dataset", "zh.jsonl",
        "--routes", "dataset/answer", "--metrics", "bleu,f1", "--name", "zh",
    )  # fmt: skip
    assert made["document"]["language"] == "Chinese"
    assert "|tok:zh|" in made["metrics"]["bleu"]
    # A metric that is added later follows it, too.
    again = evalrouter("eval", "rescore", made["id"], "--metrics", "bleu,ter", "--json")
    metrics = json.loads(again.stdout)["run"]["metrics"]
    assert "|tok:zh|" in metrics["bleu"]
    assert "|asian:yes|" in metrics["ter"]
    with gateway("server: {port: 0}\nstorage: {database: 'sqlite:///http.db'}\n") as url:
        body = {"dataset": "zh.jsonl", "routes": ["dataset/answer"], "metrics": ["bleu"]}
        plain = http.post(f"{url}/eval", json=body | {"name": "plain"}).json()
        named = http.post(f"{url}/eval", json=body | {"language": "zh", "name": "named"}).json()
        odd = http.post(f"{url}/eval", json=body | {"language": "Klingonish"}).json()
        assert "|tok:13a|" in plain["metrics"]["bleu"]
        assert "|tok:zh|" in named["metrics"]["bleu"]
        http.get(f"{url}/eval/{plain['id']}/events")
        notes = http.get(f"{url}/eval/{plain['id']}").text
        assert "without blanks" in notes
        assert "is not known" not in notes
        http.get(f"{url}/eval/{odd['id']}/events")
        warnings = http.get(f"{url}/eval/{odd['id']}").json()["report"]["warnings"]
        assert any("'Klingonish' is not known" in warning for warning in warnings)
