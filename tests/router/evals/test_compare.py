"""Comparing runs, from the command line and over HTTP, against numbers known from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as Xml

import httpx
import pytest
from oracle_data import between, vicuna_rows
from servers import evalrouter, gateway, scripted

MODELS = {
    "echo": [{}],
    "upper": [{"match": "Say (1|4)$", "answer": "SAY"}, {}],
    "half": [{"match": "Say [0-9]$", "answer": "nothing of the kind"}, {}],
    "some": [{"match": "Say (3|7)$", "status": 400}, {}],
}
ROWS = [{"id": f"s{n}", "input": f"Say {n}", "reference": f"Say {n}"} for n in range(30)]


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Server:
    """A server with a dataset in its working directory."""

    def __init__(self, url: str, http: httpx.Client, folder: Path) -> None:
        self.url = url
        self.http = http
        self.folder = folder

    def run(self, **changes: object) -> str:
        """Carry a document out; the run's id."""
        document = {"dataset": "data.jsonl", "routes": ["up/echo"], "metrics": ["exact_match"]}
        made = self.http.post(f"{self.url}/eval", json=document | changes)
        assert made.status_code == 202, made.text
        run_id: str = made.json()["id"]
        with self.http.stream("GET", f"{self.url}/eval/{run_id}/events") as events:
            assert "event: end" in list(events.iter_lines())
        return run_id

    def ask(self, **params: object) -> httpx.Response:
        return self.http.get(f"{self.url}/eval/compare", params=params)

    def compared(self, *runs: str, **params: object) -> dict:
        result = self.ask(runs=",".join(runs), **params)
        assert result.status_code == 200, result.text
        return result.json()


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "data.jsonl", ROWS)
    with scripted(MODELS) as upstream, httpx.Client(timeout=60) as http:
        config = f"""
server: {{port: 0}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}", api_key: sk-secret-key}}}}
"""
        (tmp_path / "evalrouter.yaml").write_text(config)
        with gateway(config) as url:
            yield Server(url, http, tmp_path)


# what it shows: the vicuna questions


@pytest.fixture
def vicuna(tmp_path, monkeypatch):
    """The answers of four models to 80 questions behind the provider `recorded`, with GPT-4's
    scores in the dataset."""
    monkeypatch.chdir(tmp_path)
    questions: dict[int, dict] = {}
    answers: dict[int, dict[str, str]] = {}
    for row in vicuna_rows():
        prompt = row["instruction"]
        answer = between(prompt, "###Response to evaluate:", "###Reference Answer (Score 5):")
        question = questions.setdefault(row["idx"], {"id": row["idx"], "rated": {}})
        question["input"] = between(
            prompt, "###The instruction to evaluate:", "###Response to evaluate:"
        )
        question["rated"][answer] = sum(row["gpt4_score"]) / 3
        answers.setdefault(row["idx"], {})[row["response_source"]] = answer
    write_rows(tmp_path / "questions.jsonl", list(questions.values()))
    rows = [{"input": questions[idx]["input"], **texts} for idx, texts in answers.items()]
    write_rows(tmp_path / "answers.jsonl", rows)
    (tmp_path / "gpt4.py").write_text(
        "def score(answer, references, row):\n    return row['rated'].get(answer)\n"
    )
    (tmp_path / "evalrouter.yaml").write_text(
        "server: {port: 0}\n"
        "providers: {vicuna: {kind: recorded, dataset: answers.jsonl, input: input}}\n"
    )
    (tmp_path / "vicuna.yaml").write_text("""
dataset: questions.jsonl
routes: [vicuna/llama-2-chat, vicuna/wizard]
metrics: [{name: "file:gpt4.py", low: 1, high: 5}]
""")
    return tmp_path


def test_pairing_on_the_vicuna_questions(vicuna):
    """llama-2 - wizard = +.1917: p = .0205 paired, .131 unpaired."""
    done = evalrouter("eval", "run", "vicuna.yaml", "--json")
    run_id = json.loads(done.stdout)["run"]["id"]
    done = evalrouter("eval", "compare", run_id, "--route-a", "vicuna/llama-2-chat", "--json")
    [contrast] = json.loads(done.stdout)["contrasts"]
    assert contrast["n"] == 80
    assert contrast["mean_a"] == pytest.approx(4.3208, abs=5e-5)
    assert contrast["mean_b"] == pytest.approx(4.1292, abs=5e-5)
    assert contrast["difference"] == pytest.approx(0.1917, abs=5e-5)
    assert contrast["p_t"] == pytest.approx(0.0205, abs=5e-5)
    assert contrast["p_value"] == pytest.approx(0.0205, abs=0.004)
    assert contrast["p_welch"] == pytest.approx(0.131, abs=5e-4)
    assert contrast["low"] > 0
    assert contrast["verdict"] == "better"


def test_clusters_on_the_vicuna_questions(vicuna):
    """Standard error of the grand mean, clustered by question: .0642."""
    by_model = [json.loads(line) for line in (vicuna / "answers.jsonl").read_text().splitlines()]
    questions = [json.loads(line) for line in (vicuna / "questions.jsonl").read_text().splitlines()]
    rows = [
        {"id": f"{question['id']} {model}", "input": answer, "topic": question["id"]}
        | {"rated": {answer: question["rated"][answer]}}
        for question, answers in zip(questions, by_model, strict=True)
        for model, answer in answers.items()
        if model != "input"
    ]
    write_rows(vicuna / "flat.jsonl", rows)
    document = {
        "dataset": "flat.jsonl",
        "routes": ["baseline/echo"],
        "metrics": [{"name": "file:gpt4.py", "low": 1, "high": 5}],
        "columns": {"topic": "cluster"},
    }
    (vicuna / "flat.json").write_text(json.dumps(document))
    done = evalrouter("eval", "run", "flat.json", "--json")
    [score] = json.loads(done.stdout)["report"]["routes"][0]["scores"]
    assert (score["n"], score["clusters"], score["method"]) == (320, 80, "clustered t")
    half = score["high"] - score["estimate"]
    assert half / 1.99045 == pytest.approx(0.0642, abs=5e-5)  # the t quantile of 79
    # Most answers are better than the middle of the scale, so the other end is further out.
    assert half < score["estimate"] - score["low"] < 1.15 * half


# two runs


def test_two_runs_of_one_route(server):
    old, new = server.run(routes=["up/half"]), server.run(routes=["up/echo"])
    result = server.compared(new, old, movers=3, route_a="up/echo", route_b="up/half")
    [contrast] = result["contrasts"]
    assert (contrast["n"], contrast["wins"], contrast["ties"], contrast["losses"]) == (
        30,
        10,
        20,
        0,
    )
    assert contrast["difference"] == pytest.approx(1 / 3)
    assert contrast["p_mcnemar"] == pytest.approx(2 * 0.5**10 - 0.5**10)
    assert contrast["verdict"] == "better"
    assert [(m["sample_id"], m["a"], m["b"]) for m in contrast["moved"]] == [
        ("s0", 1, 0), ("s1", 1, 0), ("s2", 1, 0),
    ]  # fmt: skip
    assert result["warnings"] == []
    assert result["joined_by"] == "id"
    # Each has one route, so they need not be named; and swapped, everything turns round.
    [other] = server.compared(old, new)["contrasts"]
    assert (other["difference"], other["verdict"]) == (pytest.approx(-1 / 3), "worse")


def test_several_routes_of_one_run_share_one_correction(server):
    run_id = server.run(routes=["up/echo", "up/half", "up/upper"], baseline="up/echo")
    contrasts = server.compared(run_id)["contrasts"]
    assert [(contrast["a"]["route"], contrast["b"]["route"]) for contrast in contrasts] == [
        ("up/half", "up/echo"), ("up/upper", "up/echo"),
    ]  # fmt: skip
    lowest = min(contrasts, key=lambda contrast: contrast["p_value"])
    assert lowest["p_holm"] == pytest.approx(2 * lowest["p_value"])
    [contrast] = server.compared(run_id, route_a="up/upper", route_b="up/half")["contrasts"]
    assert contrast["p_holm"] == contrast["p_value"]


def test_a_margin_makes_equivalence_a_verdict(server):
    document = {"routes": ["up/echo", "up/half"], "baseline": "up/echo"}
    first, again = server.run(**document, margins={"exact_match": 0.5}), server.run(cache=False)
    [same] = server.compared(first, again)["contrasts"]
    assert (same["verdict"], same["margin"], same["method"]) == ("equivalent", 0.5, "score")
    assert -0.5 < same["low"] <= 0 <= same["high"] < 0.5
    # 30 samples show no less than about 0.11.
    [same] = server.compared(first, again, margin="exact_match=0.1")["contrasts"]
    assert (same["verdict"], same["margin"]) == ("no difference shown", 0.1)
    shown = evalrouter("eval", "compare", first, again, "--margin", "exact_match=0.2").stdout
    assert "≈ equivalent" in shown
    assert "(±0.2)" in shown
    [half] = server.http.get(f"{server.url}/eval/{first}").json()["report"]["comparisons"]
    assert (half["margin"], half["verdict"]) == (0.5, "worse")
    for margins, message in (
        ({"exact_mtach": 0.1}, "Did you mean 'exact_match'?"),
        ({"exact_match": 0}, "margins"),
    ):
        refused = server.http.post(
            f"{server.url}/eval",
            json={"dataset": "data.jsonl", "metrics": ["exact_match"], **document}
            | {"margins": margins},
        )
        assert refused.status_code == 400
        assert message in refused.json()["error"]["message"]
    refused = server.http.post(
        f"{server.url}/eval",
        json={
            "dataset": "data.jsonl",
            "routes": ["up/echo"],
            "metrics": ["exact_match"],
            "margins": {"exact_match": 0.1},
        },
    )
    assert refused.json()["error"]["message"] == "margins: the run names no baseline"


def test_what_differs_is_told(server):
    first = server.run(parameters={"temperature": 0})
    second = server.run(
        routes=["up/echo"],
        prompt="{{ input }}",
        parameters={"temperature": 1, "max_tokens": 5},
        metrics=[{"name": "exact_match", "normalize": False}, "length"],
        repeats=2,
    )
    warnings = " ".join(server.compared(first, second)["warnings"])
    assert "The prompts differ" in warnings
    assert "The parameter temperature differs: 0 and 1" in warnings
    assert "The parameter max_tokens differs: not set and 5" in warnings
    assert "exact_match was measured differently" in warnings
    assert "Only the second run has the metric length" in warnings
    assert "The repeats differ: 1 and 2" in warnings


def test_failed_answers_are_left_out_and_told(server):
    first, second = server.run(routes=["up/some"]), server.run()
    result = server.compared(first, second, route_a="up/some", route_b="up/echo")
    [contrast] = result["contrasts"]
    assert (contrast["n"], contrast["n_a"], contrast["n_b"]) == (28, 28, 30)
    warnings = " ".join(result["warnings"])
    assert "2 answers failed" in warnings
    assert "exact_match on 28 of 28 and 30" in warnings


# different datasets


def test_different_datasets_are_refused_unless_told_how_to_join(server):
    first = server.run()
    rows = [row | {"reference": "other"} if n < 4 else row for n, row in enumerate(ROWS)]
    write_rows(server.folder / "other.jsonl", rows[:20])
    second = server.run(dataset="other.jsonl", cache=False)
    refused = server.ask(runs=f"{first},{second}")
    assert refused.status_code == 409
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("different_datasets", "join")
    assert "--join" in error["message"]

    result = server.compared(first, second, join="id")
    [contrast] = result["contrasts"]
    assert (contrast["n"], contrast["n_a"], contrast["n_b"]) == (20, 30, 20)
    assert contrast["wins"] == 4
    warnings = " ".join(result["warnings"])
    assert "4 of 20 pairs of samples have different" in warnings
    assert "20 samples are in both runs, of 30 and 20" in warnings


def test_samples_without_common_ids(server):
    write_rows(server.folder / "renamed.jsonl", [row | {"id": f"x{row['id']}"} for row in ROWS])
    first, second = server.run(), server.run(dataset="renamed.jsonl", routes=["up/half"])
    [contrast] = server.compared(first, second, join="id")["contrasts"]
    assert (contrast["joined"], contrast["n"]) == (False, 0)
    assert contrast["difference"] == pytest.approx(1 / 3)
    assert contrast["p_value"] == contrast["p_holm"] < contrast["p_welch"]
    assert contrast["method"] == "score"
    assert contrast["p_t"] is None
    result = server.compared(first, second, join="position")
    [paired] = result["contrasts"]
    assert (paired["joined"], paired["n"], paired["wins"]) == (True, 30, 10)
    assert result["joined_by"] == "position"
    assert not any("different" in warning for warning in result["warnings"])


# over HTTP


def test_what_cannot_be_compared_is_told(server):
    first, second = server.run(routes=["up/half"]), server.run()
    third = server.run(metrics=["length"])
    for params, status, param in (
        ({"runs": f"{first},run_nobody"}, 404, None),
        ({"runs": ""}, 400, "runs"),
        ({"runs": "a,b,c"}, 400, "runs"),
        ({}, 400, "runs"),
        ({"runs": first}, 400, "route_a"),
        ({"runs": f"{first},{second}", "route_a": "up/hlaf"}, 400, "route_a"),
        ({"runs": f"{first},{second}", "join": "guess"}, 400, "join"),
        ({"runs": f"{first},{second}", "movers": -1}, 400, "movers"),
        ({"runs": f"{second},{third}"}, 409, "runs"),
        ({"runs": f"{first},{second}", "margin": "exact_match"}, 400, "margin"),
        ({"runs": f"{first},{second}", "margin": "exact_match=much"}, 400, "margin"),
        ({"runs": f"{first},{second}", "margin": "exact_match=0"}, 400, "margin"),
        ({"runs": f"{first},{second}", "margin": "exact_match=nan"}, 400, "margin"),
        ({"runs": f"{first},{second}", "margin": "exact_match=inf"}, 400, "margin"),
        ({"runs": f"{first},{second}", "margin": "exact_mtach=0.1"}, 400, "margin"),
    ):
        answer = server.ask(**params)
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), params
    typo = server.ask(runs=f"{first},{second}", route_a="up/hlaf").json()["error"]["message"]
    assert "Did you mean 'up/half'?" in typo


# gates for continuous integration


def test_junit_is_written_whether_the_gates_hold_or_not(server):
    document = {
        "dataset": "data.jsonl",
        "routes": ["up/half"],
        "metrics": ["exact_match", "latency"],
        "gates": ["exact_match >= 0.9", "p95(latency) < 60", "coverage >= 0.99"],
    }
    (server.folder / "run.json").write_text(json.dumps(document))
    done = evalrouter("eval", "run", "run.json", "--junit", "run.xml", "--json", check=1)
    suite = Xml.parse("run.xml").find("testsuite")
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("4", "1")
    assert suite.find("testcase/failure").attrib["message"] == "0.6667 against 0.9"
    run_id = json.loads(done.stdout)["run"]["id"]
    rescore = ("eval", "rescore", run_id, "--metrics", "exact_match", "--junit", "again.xml")
    scored = evalrouter(*rescore, check=1)
    # Nothing is requested, so no line may say so.
    assert f"{run_id}: 30 answers\n" in scored.stderr
    assert "requests" not in scored.stderr
    assert Xml.parse("again.xml").find("testsuite").attrib["failures"] == "1"
    missing = evalrouter("eval", "show", run_id, "--junit", "no/such/folder.xml", check=2)
    assert "no/such/folder.xml cannot be written" in missing.stderr
