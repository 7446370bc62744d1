"""Shares of judges of 0 and 1 are corrected by what their calibrations found, over HTTP."""

import json
import os
import time
from pathlib import Path

import click.testing
import httpx
import pytest
from servers import gateway, scripted

from router.cli import main

JUDGE = [
    {"match": r"(?s)The answer:.*(sorry|perhaps)", "answer": "[RESULT] yes"},
    {"answer": "[RESULT] no"},
]
MODELS = {
    "echo": [{}],
    # Every other answer refuses nothing.
    "half": [{"match": r"[02468]$", "answer": "Sure."}, {}],
    "judge": JUDGE,
    "fresh": JUDGE,
    "coin": JUDGE,
}
CONFIG = """
server: {{port: 0}}
providers:
  up: {{kind: compatible, base_url: "{url}", api_key: sk-secret-key}}
"""
METRIC = {"name": "judge", "kind": "refusal", "judge": "up/judge"}
# The judge finds 9 of 10 refusals, and takes 3 of 10 other answers for one.
PEOPLE = [
    {"instruction": f"q{n}", "response": text, "score": score}
    for n, (text, score) in enumerate(
        [("sorry", 1)] * 90 + [("no way", 1)] * 10 + [("perhaps", 0)] * 30 + [("yes", 0)] * 70
    )
]
# So of 40% refusals it finds 54%.
TEXTS = ["sorry"] * 108 + ["yes"] * 92
ROWS = [{"id": f"s{n}", "input": f"{text} {n}", "part": n % 2} for n, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shares")
    for name, rows in (
        ("data", ROWS),
        ("grouped", [{**row, "cluster": n % 2} for n, row in enumerate(ROWS)]),
        ("people", PEOPLE),
        ("coin", [{**row, "score": n % 2} for n, row in enumerate(PEOPLE)]),
        (
            "clustered",
            [{**row, "id": f"c{n}", "question": f"{n // 10}"} for n, row in enumerate(PEOPLE)],
        ),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = Path.cwd()
    os.chdir(folder)
    try:
        with scripted(MODELS) as upstream:
            config = CONFIG.format(url=upstream.url)
            (folder / "evalrouter.yaml").write_text(config)
            with gateway(config) as url, httpx.Client(base_url=url) as http:
                calibrate("up/judge", "people")
                calibrate("up/coin", "coin")
                yield http
    finally:
        os.chdir(before)


def calibrate(judge, dataset):
    options = ["--kind", "refusal", "--judge", judge, "--dataset", f"{dataset}.jsonl"]
    done = click.testing.CliRunner().invoke(main, ["judge", "calibrate", *options])
    assert done.exit_code == 0, done.output


def evaluated(http, *metrics, routes=("up/echo",), **document):
    document = {
        "dataset": "data.jsonl",
        "routes": list(routes),
        "metrics": list(metrics),
    } | document
    created = http.post("/eval", json={"cache": False, **document})
    assert created.status_code == 202, created.text
    while True:
        outcome = http.get(f"/eval/{created.json()['id']}").json()
        if outcome["run"]["state"] not in ("queued", "running"):
            assert outcome["run"]["state"] == "completed", outcome["run"]
            return outcome
        time.sleep(0.02)


def scores(outcome, route="up/echo"):
    [report] = [one for one in outcome["report"]["routes"] if one["route"] == route]
    return {score["output"]: score for score in report["scores"]}


def warnings(outcome, word):
    return [text for text in outcome["report"]["warnings"] if word in text]


def test_a_share_is_corrected_by_the_judges_errors_in_its_calibration(http):
    outcome = evaluated(http, "length", METRIC)
    names = [output["name"] for output in outcome["report"]["outputs"]]
    assert names[-3:] == ["refusal_corrected", "refusal", "refusal_unparsed"]
    assert list(scores(outcome)) == names
    raw = scores(outcome)["refusal"]
    assert raw["estimate"] == 0.54
    assert outcome["report"]["outputs"][-2]["description"].startswith("Raw")
    assert [output["raw"] for output in outcome["report"]["outputs"][-3:]] == [False, True, False]
    corrected = scores(outcome)["refusal_corrected"]
    assert corrected["estimate"] == pytest.approx(0.4)
    assert corrected["low"] < 0.3
    assert corrected["high"] > 0.5
    assert corrected["n"] == raw["n"] == 200
    [told] = warnings(outcome, "refusal_corrected is corrected by that")
    assert "up/judge finds 90.0% [" in told
    assert "70.0% [" in told


def test_a_difference_is_corrected_and_has_the_verdict_of_the_raw_one(http):
    outcome = evaluated(http, METRIC, routes=["up/half", "up/echo"], baseline="up/half")
    corrected, raw, _ = outcome["report"]["comparisons"]
    assert (corrected["output"], raw["output"]) == ("refusal_corrected", "refusal")
    assert raw["difference"] == pytest.approx(0.27)
    assert corrected["difference"] == pytest.approx(0.45)
    assert corrected["low"] < 0.45 < corrected["high"]
    assert corrected["high"] - corrected["low"] > raw["high"] - raw["low"]
    assert corrected["p_value"] == raw["p_value"]


def test_slices_are_corrected_by_the_same_errors(http):
    outcome = evaluated(http, METRIC, routes=["up/half", "up/echo"], baseline="up/half")
    address = f"/eval/{outcome['run']['id']}/slices?column=part"
    report = http.get(f"{address}&output=refusal_corrected").json()
    for whole in report["whole"]:
        expected = scores(outcome, whole["route"])["refusal_corrected"]
        for name in ("estimate", "low", "high", "n", "method"):
            assert whole[name] == expected[name], name
    raw = http.get(f"{address}&output=refusal").json()
    for one, of_raw in zip(report["slices"], raw["slices"], strict=True):
        assert one["scores"][1]["estimate"] == pytest.approx(0.4)
        assert of_raw["scores"][1]["estimate"] == pytest.approx(0.54)
        [compared], [of_judge] = one["comparisons"], of_raw["comparisons"]
        assert compared["output"] == "refusal_corrected"
        assert compared["p_value"] == of_judge["p_value"]
        assert (compared["headline"], of_judge["headline"], of_judge["verdict"]) == (
            True,
            False,
            None,
        )
    assert any("is corrected by that" in text for text in report["warnings"])


def test_gates_and_margins_go_by_the_corrected_share(http):
    routes = ["up/echo", "up/half"]
    near, far = ("refusal equivalent baseline by 0.7", "refusal equivalent baseline by 0.5")
    below = "refusal <= 0.45"
    document = {"routes": routes, "baseline": "up/half", "gates": [near, far, below]}
    outcome = evaluated(http, METRIC, margins={"refusal": 0.7}, **document)
    corrected, raw, _ = outcome["report"]["comparisons"]
    assert (corrected["headline"], raw["headline"], raw["verdict"]) == (True, False, None)
    # The raw interval lies within 0.5, the corrected one does not.
    assert raw["high"] < 0.5 < corrected["high"] < 0.7
    assert corrected["margin"] == 0.7
    assert corrected["p_equivalence"] < 0.05
    results = {gate["gate"]: gate for gate in outcome["gates"]}
    assert [results[gate]["passed"] for gate in (near, far, below)] == [True, False, True]
    assert results[near]["found"] == corrected["high"]
    assert results[below]["found"] == scores(outcome)["refusal_corrected"]["estimate"]
    assert results[below]["output"] == "refusal_corrected"
    # Refusals have no better direction, so that equivalence alone is a verdict.
    assert corrected["verdict"] == "equivalent"


def contrasts(http, *outcomes):
    runs = ",".join(outcome["run"]["id"] for outcome in outcomes)
    compared = http.get("/eval/compare", params={"runs": runs})
    assert compared.status_code == 200, compared.text
    return compared.json()


def test_a_comparison_of_runs_is_corrected_where_one_judge_scored_both(http):
    first, second = (evaluated(http, METRIC, routes=[route]) for route in ("up/echo", "up/half"))
    compared = contrasts(http, first, second)
    corrected, raw, _ = compared["contrasts"]
    assert [output["name"] for output in compared["outputs"]][:2] == [
        "refusal_corrected",
        "refusal",
    ]
    assert (corrected["output"], raw["output"]) == ("refusal_corrected", "refusal")
    assert (raw["mean_a"], raw["mean_b"]) == (0.54, 0.27)
    assert (corrected["mean_a"], corrected["mean_b"]) == (pytest.approx(0.4), 0)
    assert corrected["difference"] == pytest.approx(0.45)
    assert corrected["low"] < 0.45 < corrected["high"]
    assert corrected["p_value"] == raw["p_value"]
    assert any("is corrected by that" in text for text in compared["warnings"])
    # Two judges may err in two ways.
    other = evaluated(http, {**METRIC, "judge": "up/fresh"}, routes=["up/half"])
    outputs = [one["output"] for one in contrasts(http, first, other)["contrasts"]]
    assert outputs == ["refusal", "refusal_unparsed"]


def test_nothing_is_corrected_without_a_calibration_that_found_a_use(http):
    outcome = evaluated(http, {**METRIC, "judge": "up/coin"})
    assert "refusal_corrected" not in scores(outcome)
    assert warnings(outcome, "not clearly better than chance, so its refusal says nothing")
    outcome = evaluated(http, {**METRIC, "judge": "up/fresh"})
    assert "refusal_corrected" not in scores(outcome)
    outcome = evaluated(http, {**METRIC, "judge": ["up/judge", "up/fresh"]})
    assert "refusal_corrected" not in scores(outcome)


def test_a_share_without_an_interval_is_corrected_without_one(http):
    outcome = evaluated(http, METRIC, dataset="grouped.jsonl")
    raw, corrected = (scores(outcome)[name] for name in ("refusal", "refusal_corrected"))
    assert (raw["estimate"], raw["low"], raw["high"]) == (0.54, None, None)
    assert corrected["estimate"] == pytest.approx(0.4)
    assert (corrected["low"], corrected["high"], corrected["method"]) == (None, None, "none")


def test_labels_of_the_runs_own_answers_come_before_a_calibration(http):
    outcome = evaluated(http, METRIC)
    run_id = outcome["run"]["id"]
    labels = [
        {"sample_id": row["id"], "answer": row["input"], "scores": int("sorry" in row["input"])}
        for row in ROWS[::4]
    ]
    assert http.put(f"/eval/{run_id}/labels", json={"labels": labels}).status_code == 200
    outcome = http.get(f"/eval/{run_id}").json()
    assert scores(outcome)["refusal_corrected"]["estimate"] == pytest.approx(0.54)
    assert not warnings(outcome, "is corrected by that")


def test_answers_to_one_question_count_as_fewer(http):
    before = scores(evaluated(http, METRIC))["refusal_corrected"]
    calibrate("up/judge", "clustered")
    after = scores(evaluated(http, METRIC))["refusal_corrected"]
    assert after["estimate"] == pytest.approx(before["estimate"])
    assert after["high"] - after["low"] > 1.2 * (before["high"] - before["low"])
