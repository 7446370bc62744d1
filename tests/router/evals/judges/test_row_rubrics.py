"""Rubrics of the rows, and the files of the Prometheus repository as runs."""

import json
import os
import time
from pathlib import Path

import httpx
import pytest
from oracle_data import vicuna_rows
from servers import gateway, scripted

from evaluators.judge import prometheus

KIND = (
    "[Is it kind?]\nScore 1: No.\nScore 2: Hardly.\nScore 3: So-so.\nScore 4: Yes.\nScore 5: Very."
)
SHORT = {"criteria": "Is it short?", "scores": {str(n): f"{n} of 5." for n in range(1, 6)}}
BIGGEN = {"criteria": "Is it apt?", **{f"score{n}_description": f"Level {n}." for n in range(1, 6)}}
VERDICT = "Feedback: It does what the rubric wants in most places. [RESULT] {}"
MODELS = {
    "echo": [{}],
    "judge": [
        {"match": r"\[Is it kind\?\]", "answer": VERDICT.format(2)},
        {"match": r"\[Is it short\?\]", "answer": VERDICT.format(3)},
        {"match": r"\[Is it apt\?\]", "answer": VERDICT.format(5)},
        {"answer": VERDICT.format(4)},
    ],
}
CONFIG = """
server: {{port: 0}}
providers:
  up: {{kind: compatible, base_url: "{url}", api_key: sk-secret-key}}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder, a scripted upstream, and a server in that folder."""
    folder = tmp_path_factory.mktemp("rubrics")
    before = Path.cwd()
    os.chdir(folder)
    try:
        with (
            scripted(MODELS) as upstream,
            gateway(CONFIG.format(url=upstream.url)) as url,
            httpx.Client(base_url=url, timeout=60) as http,
        ):
            yield folder, upstream, http
    finally:
        os.chdir(before)


@pytest.fixture
def folder(world):
    world[1].log.requests.clear()
    return world[0]


@pytest.fixture
def http(world):
    return world[2]


def create(http, metric, **document):
    metric = {"name": "prometheus", "judge": "up/judge", **metric}
    document = {"dataset": "data.jsonl", "routes": ["up/echo"], "metrics": [metric], **document}
    return http.post("/eval", json={"cache": False, **document})


def finished(http, created):
    assert created.status_code == 202, created.text
    while True:
        outcome = http.get(f"/eval/{created.json()['id']}").json()
        if outcome["run"]["state"] not in ("queued", "running"):
            assert outcome["run"]["state"] == "completed", outcome["run"]
            return outcome
        time.sleep(0.02)


def prompts(world):
    asked = [one for one in world[1].log.requests if one.model == "judge"]
    return [json.loads(bytes(one.body))["messages"] for one in asked]


def write(folder, rows, name="data.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def values(http, outcome, output="prometheus"):
    rows = http.get(f"/eval/{outcome['run']['id']}/samples").json()["data"]
    return {
        row["sample"]["id"]: score["value"]
        for row in rows
        for score in row["scores"]
        if score["output"] == output
    }


def test_each_row_is_judged_by_its_own_rubric(folder, http):
    rubrics = {
        "text": KIND,
        "mapping": SHORT,
        "json": json.dumps(SHORT),
        "biggen": BIGGEN,
        "stock": "honesty",
    }
    write(folder, [{"id": name, "input": "Hm", "r": rubric} for name, rubric in rubrics.items()])
    outcome = finished(http, create(http, {"rubric": {"column": "r"}}))
    assert values(http, outcome) == {"text": 2, "mapping": 3, "json": 3, "biggen": 5, "stock": 4}
    page = http.get(f"/eval/{outcome['run']['id']}/samples").json()["data"]
    [verdict] = next(
        score["verdicts"] for score in page[0]["scores"] if score["output"] == "prometheus"
    )
    assert (verdict["judge"], verdict["repeat"], verdict["value"]) == ("up/judge", 0, 2)
    exported = http.post(f"/eval/{outcome['run']['id']}/export").json()
    assert {file["name"]: file["rows"] for file in exported["files"]} == {
        f"{kind}.{extension}": 5
        for kind in ("rows", "judgements")
        for extension in ("jsonl", "csv", "parquet")
    }
    [warning] = [one for one in outcome["report"]["warnings"] if "calibrated" in one]
    assert "up/judge" in warning


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "no rubric in the column 'r'"),
        ({"r": "helpfulnes"}, "begins with its criteria in brackets"),
        ({"r": "/etc/passwd.yaml"}, "begins with its criteria in brackets"),
        ({"r": [1]}, "a rubric is a mapping"),
        ({"r": "{]"}, "not JSON"),
        ({"r": KIND.replace("Score 5: Very.", "")}, "has scores from 1 to 4, not from 1 to 5"),
        ({"r": KIND.replace("Score 4", "Score 3")}, "two meanings of score 3"),
    ],
)
def test_a_row_without_a_rubric_is_refused_before_any_request(world, folder, http, row, message):
    write(folder, [{"id": "fine", "input": "Hm", "r": KIND}, {"id": "bad", "input": "Hm", **row}])
    created = create(http, {"rubric": {"column": "r"}})
    assert created.status_code == 400
    error = created.json()["error"]
    assert "cannot score the sample bad" in error["message"]
    assert message in error["message"]
    assert not world[1].log.requests
    # Nor is it let in by scoring a finished run again.
    run = finished(http, create(http, {"rubric": "honesty"}))["run"]
    metric = {"name": "prometheus", "judge": "up/judge", "rubric": {"column": "r"}}
    again = http.post(f"/eval/{run['id']}/rescore", json={"metrics": [metric]})
    assert again.status_code == 400
    assert message in again.json()["error"]["message"]


def test_scores_of_another_range_are_named(folder, http):
    rubric = {"criteria": "Is it kind?", "scores": {"0": "No.", "1": "Half.", "2": "Yes."}}
    write(folder, [{"id": "a", "input": "Hm", "r": rubric}])
    outcome = finished(http, create(http, {"rubric": {"column": "r", "low": 0, "high": 2}}))
    assert values(http, outcome) == {"a": 2}
    for wrong, message in [
        ({"column": "r", "low": 2, "high": 2}, "low must be below high"),
        ({"column": "r", "high": 10**9}, "1000"),
        ({"column": "r", "hihg": 2}, "unknown field `hihg`"),
    ]:
        refused = create(http, {"rubric": wrong})
        assert refused.status_code == 400
        assert message in refused.json()["error"]["message"]
        assert refused.json()["error"]["param"] == "metrics[0].rubric"


@pytest.mark.parametrize("published", [True, False])
def test_the_vicuna_file_is_a_run_with_its_own_rubrics(world, folder, http, published):
    rows = vicuna_rows()[:12]
    if published:
        # The repository's files have one object per line, and prompts that end in this way.
        rows = [{**row, "instruction": f'{row["instruction"]}",\n'} for row in rows]
        write(folder, rows, "vicuna_eval.json")
    else:
        (folder / "vicuna_eval.json").write_text(json.dumps(rows))
    metric = {"rubric": {"column": "rubric"}, "style": "prometheus-1"}
    outcome = finished(
        http,
        create(
            http,
            metric,
            dataset="vicuna_eval.json",
            routes=["dataset/answer"],
            columns={"idx": "cluster"},
        ),
    )
    assert len(values(http, outcome)) == 12
    asked = {messages[1]["content"] for messages in prompts(world)}
    assert asked == {row["instruction"].removesuffix('",\n') for row in rows}


def test_a_route_answers_the_instructions_of_whole_prompts(world, folder, http):
    [row] = vicuna_rows()[:1]
    write(folder, [row], "one.jsonl")
    parts = prometheus.read_prompt(row["instruction"])
    # The rubric may be named by the prompt that has it, and so may the instruction.
    metric = {"rubric": {"column": "instruction"}, "instruction": "instruction"}
    finished(http, create(http, metric, dataset="one.jsonl"))
    [answered] = [one for one in world[1].log.requests if one.model == "echo"]
    assert json.loads(bytes(answered.body))["messages"][0]["content"] == parts.instruction
    [messages] = prompts(world)
    expected = prometheus.absolute(
        parts.rubric,
        instruction=parts.instruction,
        response=parts.instruction,
        reference=parts.reference,
    )
    assert messages == prometheus.messages(expected, "prometheus-2")


def test_a_prompt_of_another_column_is_mapped(folder, http):
    rows = [{"chosen_instruction": row["instruction"]} for row in vicuna_rows()[:2]]
    write(folder, rows)
    outcome = finished(
        http,
        create(
            http,
            {"rubric": {"column": "rubric"}},
            routes=["dataset/answer"],
            columns={"chosen_instruction": "instruction"},
        ),
    )
    assert values(http, outcome) == {"1": 4, "2": 4}
