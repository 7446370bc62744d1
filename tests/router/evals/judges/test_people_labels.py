"""People's labels of a run's answers come back and correct the run's judges, over HTTP."""

import csv
import json
import os
import sqlite3
import time
from pathlib import Path

import click.testing
import httpx
import pyarrow.parquet
import pytest
from servers import gateway, scripted

from router.cli import main

WORDS = ["fine", "poor", "good"]
MODELS = {
    "echo": [{}],
    "poorly": [{"answer": "It is bad."}],
    "judge": [
        {"match": rf"(?s)evaluate:\n.*{word}", "answer": f"[RESULT] {value}"}
        for word, value in (("bad", 1), ("fine", 3), ("poor", 1), ("good", 4))
    ],
    "silent": [{"fault": "hang"}],
    "harsh": [{"answer": "[RESULT] 1"}],
}
CONFIG = """
server: {{port: 0}}
providers:
  up: {{kind: compatible, base_url: "{url}", api_key: sk-secret-key}}
"""
ROWS = [
    {"id": f"s{n}", "input": f"s{n} is {WORDS[n % 3]}.", "word": WORDS[n % 3], "half": n % 20 < 3}
    for n in range(60)
]
# People give a point more than the judge.
PEOPLE = {"bad": 2, "fine": 4, "poor": 2, "good": 5}
METRIC = {"name": "prometheus", "judge": "up/judge"}


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    before = Path.cwd()
    os.chdir(folder)
    try:
        with scripted(MODELS) as upstream:
            config = CONFIG.format(url=upstream.url)
            (folder / "evalrouter.yaml").write_text(config)
            with gateway(config) as url, httpx.Client(base_url=url) as http:
                yield http
    finally:
        os.chdir(before)


def ended(http, run_id):
    while True:
        outcome = http.get(f"/eval/{run_id}").json()
        if outcome["run"]["state"] not in ("queued", "running"):
            assert outcome["run"]["state"] == "completed", outcome["run"]
            return outcome
        time.sleep(0.02)


def evaluated(http, *, routes=("up/echo",), metrics=(METRIC,), **document):
    document = {
        "dataset": "data.jsonl",
        "routes": list(routes),
        "metrics": list(metrics),
    } | document
    created = http.post("/eval", json={"cache": False, **document})
    assert created.status_code == 202, created.text
    ended(http, created.json()["id"])
    return created.json()["id"]


def answers(http, run_id, route="up/echo"):
    rows = http.get(f"/eval/{run_id}/samples", params={"route": route, "limit": 500}).json()
    return {row["sample"]["id"]: row["answer"]["text"] for row in rows["data"] if row["answer"]}


def word(text):
    return next(word for word in PEOPLE if word in text)


def labels_of(texts, **fields):
    """Label every fourth answer."""
    return [
        {"sample_id": name, "answer": text, "scores": [PEOPLE[word(text)]], **fields}
        for name, text in list(texts.items())[::4]
    ]


def put(http, run_id, labels, **fields):
    return http.put(f"/eval/{run_id}/labels", json={"labels": labels, **fields})


def refusal(answer, status=400):
    assert answer.status_code == status, answer.text
    return answer.json()["error"]["message"]


def scores(outcome, route="up/echo"):
    [report] = [one for one in outcome["report"]["routes"] if one["route"] == route]
    return {score["output"]: score for score in report["scores"]}


def test_labels_of_a_runs_answers_correct_its_judge(http):
    run_id = evaluated(http)
    before = ended(http, run_id)
    assert "helpfulness_corrected" not in scores(before)
    stored = put(http, run_id, labels_of(answers(http, run_id)))
    assert stored.status_code == 200, stored.text
    expected = {"run": run_id, "route": "up/echo", "output": "helpfulness"}
    assert stored.json() == {**expected, "labels": 15, "answers": 60}
    outcome = ended(http, run_id)
    corrected, raw, *_ = outcome["report"]["outputs"]
    assert corrected["name"] == "helpfulness_corrected"
    assert (raw["name"], raw["description"][:3]) == ("helpfulness", "Raw")
    assert (corrected["raw"], raw["raw"]) == (False, True)
    page = http.get(f"/runs/{run_id}").text
    assert ">helpfulness_corrected</th>" in page
    assert ">helpfulness (raw)</th>" in page
    assert scores(outcome)["helpfulness"] == scores(before)["helpfulness"]
    score = scores(outcome)["helpfulness_corrected"]
    assert score["low"] < 11 / 3 < score["high"]
    assert score["estimate"] == pytest.approx(11 / 3, abs=0.1)
    assert score["n"] == 60
    assert not any("not scored by people" in text for text in outcome["report"]["warnings"])
    # Beside it stands what people and judge gave the labelled answers.
    assert score["labelled"] == 15
    assert score["people"] == pytest.approx(score["judge"] + 1)
    listed = http.get(f"/eval/{run_id}/labels").json()["data"]
    assert len(listed) == 15
    assert (listed[0]["scores"], listed[0]["chance"]) == ([4], None)


def test_slices_are_corrected_where_enough_of_their_answers_have_labels(http):
    run_id = evaluated(http)
    assert put(http, run_id, labels_of(answers(http, run_id))).status_code == 200
    whole = scores(ended(http, run_id))
    report = http.get(f"/eval/{run_id}/slices?column=half").json()
    assert report["output"]["name"] == "helpfulness_corrected"
    for name in ("estimate", "low", "high", "n", "labelled", "method"):
        assert report["whole"][0][name] == whole["helpfulness_corrected"][name], name
    most, few = report["slices"]
    assert (most["name"], few["name"]) == ("false", "true")
    [corrected], [withheld] = most["scores"], few["scores"]
    assert corrected["labelled"] == 12
    assert corrected["low"] < 11 / 3 < corrected["high"]
    # Without labels the estimate would be the judge's mean, by the name of a corrected one.
    assert (withheld["estimate"], withheld["n"]) == (None, 9)
    assert withheld["withheld"] == ("people have scored 3 of these answers; a correction needs 10")
    report = http.get(f"/eval/{run_id}/slices?column=word&output=helpfulness").json()
    assert report["output"]["raw"]
    assert report["whole"][0]["estimate"] == whole["helpfulness"]["estimate"]
    assert {one["name"]: one["scores"][0]["estimate"] for one in report["slices"]} == {
        "fine": 3,
        "poor": 1,
        "good": 4,
    }


def test_differences_are_corrected_where_both_routes_have_labels(http):
    routes = ["up/poorly", "up/echo"]
    run_id = evaluated(http, routes=routes, baseline="up/poorly")
    echo, poorly = (answers(http, run_id, route) for route in ("up/echo", "up/poorly"))
    assert "route: name one of up/poorly, up/echo" in refusal(put(http, run_id, labels_of(echo)))
    assert put(http, run_id, labels_of(echo), route="up/echo").status_code == 200
    outcome = ended(http, run_id)
    # Without labels the estimate would be the judge's mean, by the name of a corrected one.
    alone = scores(outcome, "up/poorly")["helpfulness_corrected"]
    assert (alone["estimate"], alone["n"]) == (None, 0)
    assert "people have scored 0 of the route's answers" in alone["withheld"]
    told = " ".join(outcome["report"]["warnings"])
    assert "up/poorly: helpfulness is raw, as the judge scores: people have scored 0" in told
    assert "up/echo against up/poorly: the difference of helpfulness is that of the judge's" in told
    raw = {one["output"]: one for one in outcome["report"]["comparisons"]}
    assert (raw["helpfulness"]["verdict"], raw["helpfulness"]["headline"]) == ("better", True)
    assert raw["helpfulness_corrected"]["headline"] is False
    # People find what the judge gives 1 worth 3, on this route alone.
    labels = [{**label, "scores": 3} for label in labels_of(poorly)]
    assert put(http, run_id, labels, route="up/poorly").status_code == 200
    outcome = ended(http, run_id)
    assert scores(outcome, "up/poorly")["helpfulness_corrected"]["estimate"] == 3
    differences = {one["output"]: one for one in outcome["report"]["comparisons"]}
    assert differences["helpfulness"]["difference"] == pytest.approx(8 / 3 - 1)
    assert differences["helpfulness_corrected"]["difference"] == pytest.approx(11 / 3 - 3, abs=0.1)
    assert differences["helpfulness_corrected"]["verdict"] == "better"
    # One truth: what stands beside it has no verdict of its own.
    assert (differences["helpfulness"]["verdict"], differences["helpfulness"]["p_holm"]) == (
        None,
        None,
    )
    page = http.get(f"/runs/{run_id}").text
    assert ">raw</td>" in page


def gates(outcome, route="up/echo"):
    return {one["gate"]: one for one in outcome["gates"] if one["route"] == route}


def test_gates_the_primary_output_and_margins_go_by_the_corrected_numbers(http):
    routes = ["up/poorly", "up/echo"]
    bar, near = "helpfulness >= 3.5", "helpfulness equivalent baseline by 1.5"
    covered = ["coverage >= 0.99", "helpfulness_corrected >= 3.5", "helpfulness >= baseline"]
    run_id = evaluated(
        http,
        routes=routes,
        baseline="up/poorly",
        gates=[bar, near, *covered],
        primary="helpfulness",
        margins={"helpfulness": 1.5},
    )
    found = gates(ended(http, run_id))
    assert (found[bar]["passed"], found[bar]["output"]) == (False, "helpfulness")
    assert found[bar]["found"] == pytest.approx(8 / 3)
    assert found[near]["passed"] is False
    assert "people have scored none of the run's answers" in found[covered[1]]["why"]
    echo, poorly = (answers(http, run_id, route) for route in ("up/echo", "up/poorly"))
    labels = [{**label, "scores": 3} for label in labels_of(poorly)]
    # Labels of the other route alone leave this one as it is, and say so.
    assert put(http, run_id, labels, route="up/poorly").status_code == 200
    found = gates(ended(http, run_id))
    assert (found[bar]["passed"], found[bar]["output"]) == (False, "helpfulness")
    assert "helpfulness is raw, as the judge scores: people have scored 0" in found[bar]["note"]
    assert "people have scored 0" in found[covered[1]]["why"]
    assert found[covered[0]]["passed"] is True
    # The bounds of the gate are of 15 labels, so these are too few for a margin.
    assert put(http, run_id, labels_of(echo), route="up/echo").status_code == 200
    outcome = ended(http, run_id)
    found = gates(outcome)
    assert (found[bar]["passed"], found[bar]["note"]) == (True, "")
    assert found[bar]["output"] == "helpfulness_corrected"
    assert found[bar]["found"] == scores(outcome)["helpfulness_corrected"]["estimate"]
    assert found[covered[1]]["passed"] is True
    assert found[covered[2]]["passed"] is True
    corrected, raw, *_ = outcome["report"]["comparisons"]
    assert found[covered[2]]["bound"] == found[bar]["found"] - corrected["difference"]
    assert "15 labels are too few for a margin; 20" in found[near]["why"]
    assert (corrected["labelled"], corrected["margin"]) == (15, 1.5)
    assert any("15 labels are too few to show" in text for text in outcome["report"]["warnings"])
    # With enough of them, gate and verdict go by the corrected interval, with room for rare errors.
    for route, texts in (("up/poorly", poorly), ("up/echo", echo)):
        every = [
            {
                "sample_id": name,
                "answer": text,
                "scores": 3 if route == "up/poorly" else 3 + (number % 5 == 0),
            }
            for number, (name, text) in enumerate(texts.items())
        ][::2]
        assert put(http, run_id, every, route=route, replace=True).status_code == 200
    outcome = ended(http, run_id)
    corrected, raw, *_ = outcome["report"]["comparisons"]
    near_one = gates(outcome)[near]
    assert near_one["passed"] is True
    assert 1.5 > abs(near_one["found"]) > max(abs(corrected["low"]), abs(corrected["high"]))
    assert raw["difference"] == pytest.approx(8 / 3 - 1)
    assert corrected["p_equivalence"] < 0.05
    assert corrected["verdict"] in {"better", "equivalent"}
    assert (corrected["p_value"] < 0.05) == (corrected["low"] > 0)
    refused = http.post(
        "/eval",
        json={
            "dataset": "data.jsonl",
            "routes": routes,
            "metrics": [METRIC],
            "gates": ["p95(helpfulness_corrected) > 3"],
        },
    )
    assert "has no percentiles" in refusal(refused)


def compared(http, *run_ids):
    answer = http.get("/eval/compare", params={"runs": ",".join(run_ids)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def contrasts(http, *run_ids):
    return {one["output"]: one for one in compared(http, *run_ids)["contrasts"]}


def test_a_comparison_of_runs_is_corrected_where_both_have_labels(http):
    first = evaluated(http)
    second = evaluated(http, routes=["up/poorly"])
    assert put(http, first, labels_of(answers(http, first))).status_code == 200
    alone = contrasts(http, first, second)
    assert alone["helpfulness_corrected"]["difference"] is None
    assert alone["helpfulness"]["verdict"] in {"better", "worse"}
    for runs in ((first, second), (second, first)):
        told = " ".join(compared(http, *runs)["warnings"])
        assert f"up/poorly of {second}: helpfulness is raw, as the judge scores" in told
        assert "the difference of helpfulness is that of the judge's raw scores" in told
    labels = [{**label, "scores": 3} for label in labels_of(answers(http, second, "up/poorly"))]
    assert put(http, second, labels).status_code == 200
    found = contrasts(http, first, second)
    assert abs(found["helpfulness"]["difference"]) == pytest.approx(8 / 3 - 1)
    assert abs(found["helpfulness_corrected"]["difference"]) == pytest.approx(2 / 3, abs=0.1)
    assert found["helpfulness"]["verdict"] is None
    assert found["helpfulness_corrected"]["verdict"] in {"better", "worse"}
    # Nine labels are too few to correct by.
    assert put(http, second, labels[:9], replace=True).status_code == 200
    assert contrasts(http, first, second)["helpfulness_corrected"]["difference"] is None


def test_a_label_never_counts_for_another_answer(http):
    run_id = evaluated(http)
    texts = answers(http, run_id)
    labels = labels_of(texts)
    other = [{**labels[0], "answer": "It was fine."}, *labels[1:]]
    told = refusal(put(http, run_id, other))
    assert "up/echo gave another answer" in told
    assert told.endswith("to s0")
    assert "no answer to s99" in refusal(put(http, run_id, [{**labels[0], "sample_id": "s99"}]))
    assert "no answer to s0" in refusal(put(http, run_id, [{**labels[0], "repeat": 1}]))
    assert http.get(f"/eval/{run_id}/labels").json()["data"] == []
    assert put(http, run_id, labels).status_code == 200
    with sqlite3.connect("evalrouter.db") as db:
        db.execute("UPDATE people_labels SET answer_hash = 'another' WHERE sample_id <> 's0'")
    score = scores(ended(http, run_id))["helpfulness_corrected"]
    assert score["estimate"] is None
    assert "people have scored 1 of" in score["withheld"]


def test_labels_are_columns_of_the_export(http, tmp_path):
    run_id = evaluated(http)
    labels = labels_of(answers(http, run_id), chance=0.25)
    labels[0]["scores"] = [4, 5]
    assert put(http, run_id, labels).status_code == 200
    command = ["eval", "export", run_id, "--to", str(tmp_path)]
    done = click.testing.CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    with (tmp_path / run_id / "rows.csv").open(newline="") as file:
        rows = {row["sample_id"]: row for row in csv.DictReader(file)}
    assert (rows["s0"]["people.helpfulness"], rows["s0"]["chance.helpfulness"]) == ("4.5", "0.25")
    assert json.loads(rows["s0"]["people_scores.helpfulness"]) == [4, 5]
    assert rows["s1"]["people.helpfulness"] == rows["s1"]["chance.helpfulness"] == ""
    lines = (tmp_path / run_id / "rows.jsonl").read_text().splitlines()
    first, second = (json.loads(line) for line in lines[:2])
    assert (first["labels"][0]["scores"], second["labels"]) == ([4, 5], [])
    table = pyarrow.parquet.read_table(tmp_path / run_id / "rows.parquet")
    assert sum(value is not None for value in table["people.helpfulness"].to_pylist()) == 15


def plan(http, run_id, **params):
    answer = http.get(f"/eval/{run_id}/label-plan", params=params)
    return answer.json() if answer.status_code == 200 else refusal(answer, answer.status_code)


def test_a_plan_says_which_answers_people_should_score(http):
    run_id = evaluated(http)
    planned = plan(http, run_id, width=1.2)
    expected = {"run": run_id, "route": "up/echo", "output": "helpfulness", "width": 1.2}
    assert {name: planned[name] for name in expected} == expected
    assert (planned["answers"], planned["labelled"], planned["measured"]) == (60, 0, False)
    assert planned["expected_width"] == pytest.approx(1.2, abs=0.2)
    assert 0.5 * planned["needed"] < len(planned["label_next"]) < 2 * planned["needed"]
    assert sum(label["chance"] for label in planned["labels"]) == pytest.approx(planned["needed"])
    assert planned == plan(http, run_id, width=1.2, seed=0)
    assert planned["label_next"] != plan(http, run_id, width=1.2, seed=1)["label_next"]
    # What comes back is what the plan gave, with people's scores.
    labels = [
        {**label, "scores": [PEOPLE[word(label["answer"])]]}
        if label["sample_id"] in planned["label_next"]
        else label
        for label in planned["labels"]
    ]
    stored = put(http, run_id, labels)
    assert stored.json()["labels"] == len(planned["label_next"])
    score = scores(ended(http, run_id))["helpfulness_corrected"]
    assert score["low"] < 11 / 3 < score["high"]
    more = plan(http, run_id, width=0.3)
    assert (more["measured"], more["labelled"]) == (True, len(planned["label_next"]))
    assert not set(more["label_next"]) & set(planned["label_next"])
    assert [label["scores"] for label in more["labels"]] == [label["scores"] for label in labels]


def test_a_plan_that_cannot_be_made_is_refused_with_the_reason(http):
    run_id = evaluated(http, routes=["up/echo", "up/poorly"])
    for width in (0, -1, "nan", "inf", 4, 100):
        told = plan(http, run_id, width=width, route="up/echo")
        assert "width:" in told, told
    assert "from 1 to 5" in plan(http, run_id, width=4, route="up/echo")
    assert "width" in plan(http, run_id, route="up/echo")
    assert "width" in plan(http, run_id, route="up/echo", width="wide")
    assert "seed" in plan(http, run_id, route="up/echo", width=1, seed=-1)
    assert "route: name one of" in plan(http, run_id, width=1)
    assert "'x' is not among helpfulness" in plan(
        http, run_id, width=1, route="up/echo", output="x"
    )
    assert "run_none" in plan(http, "run_none", width=1)
    assert "no judge" in plan(http, evaluated(http, metrics=["length"]), width=1)
    unfinished = http.post(
        "/eval",
        json={
            "dataset": "data.jsonl",
            "routes": ["up/silent"],
            "metrics": [METRIC],
            "cache": False,
        },
    ).json()["id"]
    http.post(f"/eval/{unfinished}/cancel")
    while http.get(f"/eval/{unfinished}").json()["run"]["state"] in ("queued", "running"):
        time.sleep(0.02)
    answer = http.get(f"/eval/{unfinished}/label-plan", params={"width": 1})
    assert f"{unfinished} is cancelled" in refusal(answer, 409)


def test_labels_that_cannot_be_ones_are_refused(http):
    run_id = evaluated(http)
    label, second, *_ = labels_of(answers(http, run_id))
    for change, told in (
        ({"scores": 50}, "labels[0]: sample s0: scores of helpfulness are from 1 to 5"),
        ({"scores": "good"}, "scores"),
        ({"chance": 0}, "no probability above 0"),
        ({"chance": 1.5}, "no probability above 0"),
        ({"score": 5}, "score"),
    ):
        assert told in refusal(put(http, run_id, [{**label, **change}]))
    assert "some have a chance" in refusal(put(http, run_id, [{**label, "chance": 0.5}, second]))
    assert "another label is of the same" in refusal(put(http, run_id, [label, label]))
    assert "'tone' is not among helpfulness" in refusal(put(http, run_id, [label], output="tone"))
    assert "not JSON" in refusal(http.put(f"/eval/{run_id}/labels", content=b"{"))
    refusal(put(http, "run_none", [label]), 404)
    refusal(http.get("/eval/run_none/labels"), 404)
    unjudged = evaluated(http, metrics=["length"])
    assert "no judge" in refusal(put(http, unjudged, [label]))


def test_labels_are_stored_all_at_once(http):
    run_id = evaluated(http)
    labels = labels_of(answers(http, run_id))
    assert put(http, run_id, labels).status_code == 200
    told = refusal(put(http, run_id, labels[1:]), 409)
    assert "labels of up/echo that are not among these: s0" in told
    assert put(http, run_id, labels[1:], replace=True).json()["labels"] == 14
    changed = [{**label, "scores": [3, 4]} for label in labels]
    assert put(http, run_id, changed).json()["labels"] == 15
    listed = http.get(f"/eval/{run_id}/labels").json()["data"]
    assert [one["scores"] for one in listed] == [[3, 4]] * 15


def test_another_judge_of_the_same_answers_is_corrected_by_the_same_labels(http):
    run_id = evaluated(http)
    assert put(http, run_id, labels_of(answers(http, run_id))).status_code == 200
    harsh = {**METRIC, "judge": "up/harsh"}
    assert http.post(f"/eval/{run_id}/rescore", json={"metrics": [harsh]}).status_code == 202
    found = scores(ended(http, run_id))
    assert found["helpfulness"]["estimate"] == 1
    # Nothing can be learned from a judge that always says 1: people's mean is all there is.
    assert found["helpfulness_corrected"]["estimate"] == pytest.approx(11 / 3, abs=0.1)


def test_labels_of_one_repeat_correct_the_mean_over_all(http):
    # Of texts that no other run has, whose answers would have been seen before.
    Path("other.jsonl").write_text(
        "".join(json.dumps({**row, "input": f"Now {row['input']}"}) + "\n" for row in ROWS)
    )
    run_id = evaluated(http, repeats=3, dataset="other.jsonl")
    assert put(http, run_id, labels_of(answers(http, run_id))).json()["answers"] == 180
    score = scores(ended(http, run_id))["helpfulness_corrected"]
    assert score["n"] == 60
    assert score["low"] < 11 / 3 < score["high"]
    assert score["estimate"] == pytest.approx(11 / 3, abs=0.1)
    drawn = labels_of(answers(http, run_id), chance=0.25)
    assert put(http, run_id, drawn).status_code == 200
    score = scores(ended(http, run_id))["helpfulness_corrected"]
    assert score["low"] < 11 / 3 < score["high"]
    assert score["estimate"] == pytest.approx(11 / 3, abs=0.1)
    # The same answers once more, of fewer samples, are a look at a part of them.
    run_id = evaluated(http, dataset="other.jsonl", limit=50)
    assert put(http, run_id, labels_of(answers(http, run_id))).status_code == 200
    outcome = ended(http, run_id)
    score = scores(outcome)["helpfulness_corrected"]
    assert (score["labelled"], score["low"]) == (13, None)
    told = (
        "helpfulness_corrected has no interval: one that holds whenever one looks needs 100 labels"
    )
    assert any(told in text for text in outcome["report"]["warnings"])


def test_a_run_that_is_deleted_takes_its_labels_with_it(http):
    run_id = evaluated(http)
    assert put(http, run_id, labels_of(answers(http, run_id))).status_code == 200
    count = "SELECT count(*) FROM people_labels WHERE run = (SELECT number FROM runs WHERE id = ?)"
    with sqlite3.connect("evalrouter.db") as db:
        assert db.execute(count, (run_id,)).fetchone() == (15,)
        before = db.execute("SELECT count(*) FROM people_labels").fetchone()[0]
    assert http.delete(f"/eval/{run_id}").status_code == 204
    until = time.monotonic() + 20
    left = before
    while left > before - 15 and time.monotonic() < until:
        with sqlite3.connect("evalrouter.db") as db:
            left = db.execute("SELECT count(*) FROM people_labels").fetchone()[0]
        time.sleep(0.05)
    assert left == before - 15
