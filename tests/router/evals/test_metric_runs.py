"""Metrics in whole runs: users' own, by a route's embeddings, from log probabilities, resumed."""

import json
import subprocess
import sys

import pytest
from router_process import router_command
from servers import gateway, scripted

from evaluators.metrics.registry import resolve
from providers.errors import RunDocumentError
from router.evals.run_document import complete_run, parse_run

ROWS = [{"id": f"s{n}", "input": f"Say {n}", "reference": f"Say {n}"} for n in range(12)]
ODD = {"message": {"content": "a"}, "index": 0, "logprobs": {"logprob": 1}}
LOGPROBS = {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]}
MODELS = {
    "echo": [{}],
    "embedder": [{}],
    "broken": [{"status": 500}],
    "sure": [
        {"body": {"choices": [{"message": {"content": "a b"}, "index": 0, "logprobs": LOGPROBS}]}}
    ],
    "odd": [{"body": {"choices": [ODD]}}],
}


@pytest.fixture
def upstream():
    with scripted(MODELS) as server:
        yield server


@pytest.fixture
def folder(tmp_path, monkeypatch, upstream):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evalrouter.yaml").write_text(f"""
server: {{port: 0}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}", api_key: sk-secret-key}}}}
""")
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "data.jsonl").write_text(lines)
    return tmp_path


def evaluate(folder, document, *, where="."):
    path = folder / where / "run.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"dataset": str(folder / "data.jsonl"), **document}))
    command = router_command("eval", "run", path, "--json")
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def scores(done):
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["report"]
    [route] = report["routes"]
    return {score["output"]: score for score in route["scores"]}, report


def test_a_users_file_lies_beside_the_document(folder):
    (folder / "inner").mkdir()
    (folder / "inner" / "mine.py").write_text(
        "def score(answer, references, row):\n"
        "    if row['id'] == 's3': raise ValueError('no luck')\n"
        "    return answer == references[0]\n"
    )
    document = {"routes": ["up/echo"], "metrics": ["file:mine.py", "exact_match"]}
    by_output, report = scores(evaluate(folder, document, where="inner"))
    assert (
        by_output["mine"]["estimate"],
        by_output["mine"]["n"],
        by_output["mine"]["unscored"],
    ) == (1, 11, 1)
    assert "ValueError: no luck" in by_output["mine"]["example"]
    assert by_output["exact_match"]["n"] == 12
    assert any("1 of 12 answers have no mine" in warning for warning in report["warnings"])
    assert report["signatures"]["file:mine.py"].startswith("file:mine.py|function:score|sha256:")


def test_a_users_file_that_cannot_run_stops_the_run_before_any_request(folder, upstream):
    (folder / "mine.py").write_text("import no_such_module")
    done = evaluate(folder, {"routes": ["up/echo"], "metrics": ["file:mine.py"]})
    assert done.returncode == 2
    assert "file:mine.py: ModuleNotFoundError: No module named 'no_such_module'" in done.stderr
    done = evaluate(folder, {"routes": ["up/echo"], "metrics": ["file:other.py"]})
    assert done.returncode == 2
    assert "other.py: no such file" in done.stderr
    assert not upstream.log.requests


def test_a_function_behind_a_colon_is_said_to_be_an_option(folder):
    hint = r"no such file; a function is an option: \{name: file:mine.py, function: grade\}"
    with pytest.raises(RunDocumentError, match=hint):
        resolve("file:mine.py:grade", folder)


def test_a_document_without_metrics_is_told_of_tasks(folder):
    path = folder / "run.yaml"
    path.write_text("dataset: data.jsonl\nroutes: [up/echo]\n")
    with pytest.raises(RunDocumentError, match="`metrics`\nWhat is missing may come from a task"):
        complete_run(parse_run(path), base=folder)
    path.write_text("dataset: data.jsonl\nroutes: [up/echo]\nmetrics: 5\n")
    with pytest.raises(RunDocumentError) as refused:
        complete_run(parse_run(path), base=folder)
    assert "task" not in refused.value.message


def test_what_a_metric_prints_is_shown_without_secrets(folder):
    (folder / "mine.py").write_text(
        "def score(answer, references, row):\n"
        "    print('the key is sk-secret-key!')\n"
        "    return 1\n"
    )
    done = evaluate(folder, {"routes": ["up/echo"], "metrics": ["file:mine.py"]})
    assert done.returncode == 0
    assert "the key is ***!" in done.stderr
    assert "sk-secret-key" not in done.stderr


def test_a_changed_file_does_not_go_on_with_an_old_run(folder):
    mine = folder / "mine.py"
    mine.write_text("def score(*_): return 1")
    document = {"routes": ["up/echo"], "metrics": ["file:mine.py"]}
    first = json.loads(evaluate(folder, document).stdout)
    run_id, signatures = first["run"]["id"], first["report"]["signatures"]
    mine.write_text("def score(*_): return 2")
    command = router_command("eval", "extend", run_id, "--repeats", "2")
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert "scores of one run must have one signature" in " ".join(done.stderr.split())
    mine.unlink()
    command = router_command("eval", "show", run_id, "--json")
    shown = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    report = json.loads(shown.stdout)["report"]
    assert report["routes"][0]["scores"][0]["estimate"] == 1
    assert report["signatures"] == signatures


@pytest.mark.parametrize(
    ("metric", "param"),
    [
        ("file:mine.py", "metrics[1]"),
        ("hf:somebody/theirs", "metrics[1]"),
        ({"name": "hf:exact_match", "path": "somewhere"}, "metrics[1].path"),
    ],
)
def test_a_program_is_not_taken_over_http(folder, http, metric, param):
    (folder / "mine.py").write_text("def score(*_): return 1")
    config = (folder / "evalrouter.yaml").read_text()
    with gateway(config) as url:
        document = {"dataset": "data.jsonl", "routes": ["up/echo"], "metrics": ["f1", metric]}
        refused = http.post(f"{url}/eval", json=document)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param
    assert "run from the command line only" in refused.json()["error"]["message"]


def test_similarity_by_the_embeddings_of_a_route(folder, upstream):
    metric = {"name": "embedding_similarity", "route": "up/embedder"}
    by_output, report = scores(evaluate(folder, {"routes": ["up/echo"], "metrics": [metric]}))
    assert by_output["embedding_similarity"]["estimate"] == pytest.approx(1.0)
    assert by_output["embedding_similarity"]["n"] == 12
    assert "route:up/embedder" in report["signatures"]["embedding_similarity"]


def test_embeddings_that_fail_leave_no_score(folder):
    metric = {"name": "embedding_similarity", "route": "up/broken"}
    by_output, _ = scores(evaluate(folder, {"routes": ["up/echo"], "metrics": [metric, "f1"]}))
    assert by_output["embedding_similarity"]["unscored"] == 12
    assert by_output["embedding_similarity"]["example"].startswith("up/broken: ")
    assert by_output["f1"]["n"] == 12
    metric = {"name": "embedding_similarity", "route": "nowhere"}
    done = evaluate(folder, {"routes": ["up/echo"], "metrics": [metric]})
    assert done.returncode == 2
    assert "nowhere" in done.stderr


def test_perplexity_of_what_the_target_said(folder):
    document = {"routes": ["up/sure"], "metrics": ["perplexity"], "parameters": {"logprobs": True}}
    by_output, _ = scores(evaluate(folder, document))
    assert by_output["perplexity"]["estimate"] == pytest.approx(2.718281828)
    for route in ("up/odd", "up/echo"):
        by_output, _ = scores(
            evaluate(folder, {"routes": [route], "metrics": ["perplexity", "f1"]})
        )
        assert (by_output["perplexity"]["n"], by_output["perplexity"]["unscored"]) == (0, 12)
        assert by_output["f1"]["n"] == 12


def test_answers_without_a_number_are_counted_and_have_no_error(folder):
    pairs = [(f"{n}", f"{n + n % 3}") for n in range(10)] + [("none", "4"), ("no idea", "5")]
    rows = [{"input": text, "reference": due} for text, due in pairs]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = {
        "routes": ["up/echo"],
        "metrics": ["numeric_error"],
        "gates": ["mae < 100", "rmse < 100", "coverage >= 0.8"],
    }
    by_output, report = scores(evaluate(folder, document))
    # Four errors of 0, three of 1, three of 2.
    for output, estimate in [("mae", 0.9), ("rmse", 1.5**0.5)]:
        score = by_output[output]
        assert score["estimate"] == pytest.approx(estimate)
        assert 0 < score["low"] < estimate < score["high"] < 2.1
        assert (score["n"], score["unscored"]) == (10, 2)
        assert score["example"] == "the answer has no number"
    assert any("2 of 12 answers have no mae, rmse" in line for line in report["warnings"])
    document["gates"] = ["rmse < 100"]
    assert evaluate(folder, document).returncode == 1


def test_ranked_lists_by_precision_and_recall_at_k(folder):
    rows = [
        {"input": "1. Rome\n2. Oslo\n3. Bern", "references": ["Oslo", "Bern"]},
        {"input": '["Oslo", "Rome"]', "references": ["Oslo", "Bern"]},
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = {
        "routes": ["up/echo"],
        "metrics": [{"name": "ranking", "k": [1, 2]}],
        "gates": ["recall_at_2 >= 0.5"],
    }
    by_output, _ = scores(evaluate(folder, document))
    means = {output: score["estimate"] for output, score in by_output.items()}
    assert means == {
        "precision_at_1": 0.5,
        "recall_at_1": 0.25,
        "precision_at_2": 0.5,
        "recall_at_2": 0.5,
    }


def test_a_confusion_matrix_is_in_the_report(folder):
    rows = [{"input": text, "reference": due} for text, due in [("a", "a"), ("b", "a"), ("?", "b")]]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metric = {"name": "classification", "labels": ["a", "b"]}
    document = {"routes": ["up/echo"], "metrics": [metric]}
    by_output, report = scores(evaluate(folder, document))
    assert by_output["accuracy"]["estimate"] == pytest.approx(1 / 3)
    [matrix] = report["routes"][0]["confusions"]
    assert matrix["labels"] == ["a", "b", "(other)"]
    assert matrix["counts"] == [[1, 1, 0], [0, 0, 1]]


def test_text_that_rouge_erases_is_told(folder):
    rows = [{"input": "Погода 2024 хорошая", "reference": "Погода 2024 плохая"}] * 3
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    by_output, report = scores(evaluate(folder, {"routes": ["up/echo"], "metrics": ["rouge"]}))
    assert by_output["rouge1"]["estimate"] == 1.0
    [warning] = [warning for warning in report["warnings"] if "tokenizer" in warning]
    assert warning == (
        "up/echo: rouge1, rouge2, rougeL, rougeLsum of 3 of 3 answers: more than half of the "
        "answer or a reference is in letters this tokenizer drops; use tokenizer: unicode."
    )


# A user's metric reads its file when it is built, to name its content in its signature.
COUNT_BUILDS = """
import asyncio, json, sys
from pathlib import Path

import msgspec

from evaluators.document import RunDocument
from router.config.loading import load
from router.services import Services

builds, counts = 0, {}

def count(event, args):
    global builds
    builds += event == "open" and str(args[0]).endswith("mine.py")

sys.addaudithook(count)

async def counted(name, step):
    global builds
    builds = 0
    result = await step
    counts[name] = builds
    return result

async def main():
    async with Services(load(Path("evalrouter.yaml"))) as services:
        runs, jobs, here = services.runs, services.jobs, Path()
        document = msgspec.convert(json.loads(Path("run.json").read_text()), RunDocument)
        await counted("estimate", runs.estimate(document, base=here))
        run = await counted("create", runs.create(document, base=here))
        await counted("execute", jobs.execute(run.id))
        await counted("report", runs.outcome(run.id))
        await counted("rescore", runs.rescore(run.id, [], base=here, runner="command"))
        await counted("score again", jobs.execute(run.id))
        await counted("extend", runs.extend(run.id, runner="command", repeats=2))
        await counted("resume", runs.resume(run.id, runner="command"))

asyncio.run(main())
print(json.dumps(counts))
"""


def test_each_step_of_a_run_builds_its_metrics_once(folder):
    (folder / "mine.py").write_text("def score(*_): return 1")
    document = {"dataset": "data.jsonl", "routes": ["up/echo"], "metrics": ["file:mine.py"]}
    (folder / "run.json").write_text(json.dumps(document))
    done = subprocess.run(
        [sys.executable, "-c", COUNT_BUILDS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts == dict.fromkeys(counts, 1)
    assert len(counts) == 8
