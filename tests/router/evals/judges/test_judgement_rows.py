"""Judgements of a run as rows: what a judge wrote and what it was read as, beside each answer."""

import csv
import json
import sqlite3

import pytest
from click.testing import CliRunner
from oracle_data import vicuna_rows
from servers import scripted

from router.cli import main

parquet = pytest.importorskip("pyarrow.parquet", reason="the parquet extra is not installed")

GOOD = "Feedback: It says what was wanted. [RESULT] 4"
MODELS = {
    "echo": [{}],
    "judge": [{"answer": GOOD, "usage": {"prompt_tokens": 10, "completion_tokens": 5}}],
    "moody": [{"answers": ["[RESULT] 2", "Well, well.", "[RESULT] 5"]}],
    "down": [{"status": 500}],
    "rag": [
        {"match": "Break the text down", "answer": '{"claims": ["It says so."]}'},
        {"answer": '{"verdicts": ["yes"]}'},
    ],
}
CONFIG = """
providers: {{up: {{kind: compatible, base_url: "{url}", api_key: sk-secret-key}}}}
prices: {{up/judge: {{input: 1.0, output: 10.0}}}}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with scripted(MODELS) as upstream:
        (tmp_path / "evalrouter.yaml").write_text(CONFIG.format(url=upstream.url))
        yield tmp_path


def run(*arguments, code=0):
    result = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


def evaluated(folder, metrics, rows=("one", "two"), routes=("up/echo", "baseline/echo"), **more):
    lines = [json.dumps({"id": f"s{n}", "input": text}) for n, text in enumerate(rows)]
    (folder / "data.jsonl").write_text("\n".join(lines))
    document = {"dataset": "data.jsonl", "routes": list(routes), "metrics": metrics, **more}
    (folder / "run.json").write_text(json.dumps(document))
    outcome = json.loads(run("eval", "run", "run.json", "--json"))
    assert outcome["run"]["state"] == "completed"
    return outcome["run"]["id"]


def exported(folder, run_id, *options):
    run("eval", "export", run_id, "--to", "out", "--verify", *options)
    return folder / "out" / run_id


def jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_exports_each_repeats_score_and_feedback(folder):
    metric = {"name": "prometheus", "judge": "up/judge", "repeats": 2}
    out = exported(folder, evaluated(folder, [metric]))
    judgements = jsonl(out / "judgements.jsonl")
    # Two routes gave the same answer: the judgement is theirs, each has a row of it.
    assert len(judgements) == 2 * 2 * 2
    assert {(row["sample_id"], row["route"], row["repeat"]) for row in judgements} == {
        (sample, route, repeat)
        for sample in ("s0", "s1")
        for route in ("up/echo", "baseline/echo")
        for repeat in (0, 1)
    }
    row = judgements[0]
    assert row["verdict"] == 4
    assert row["feedback"] == GOOD
    assert (row["judge"], row["metric"]) == ("up/judge", "prometheus:helpfulness")
    assert row["completion_tokens"] == 5
    assert row["cost_usd"] == pytest.approx((10 + 50) / 1e6)

    # The same in the other formats.
    assert [
        (row["sample_id"], row["route"], int(row["repeat"]), float(row["verdict"]), row["feedback"])
        for row in table(out / "judgements.csv")
    ] == [
        (row["sample_id"], row["route"], row["repeat"], row["verdict"], row["feedback"])
        for row in judgements
    ]
    assert parquet.read_table(out / "judgements.parquet").to_pylist() == judgements

    # And beside each answer.
    cells = jsonl(out / "rows.jsonl")
    assert [[one["verdict"] for one in cell["judgements"]] for cell in cells] == [[4, 4]] * 4
    flat = parquet.read_table(out / "rows.parquet").to_pylist()
    comma = table(out / "rows.csv")
    for row in (*flat, *comma):
        assert float(row["score.helpfulness"]) == 4
        for repeat in (0, 1):
            assert float(row[f"score.helpfulness.up/judge.{repeat}"]) == 4
            feedback = row[f"feedback.helpfulness.up/judge.{repeat}"]
            assert feedback == GOOD
    assert "sk-secret-key" not in "".join(path.read_text() for path in out.glob("*.*l"))


def test_what_could_not_be_read_and_what_failed_are_rows(folder):
    metrics = [
        {"name": "prometheus", "judge": "up/moody", "repeats": 3, "retries": 1},
        {"name": "prometheus", "judge": "up/down", "output": "dead"},
    ]
    run_id = evaluated(folder, metrics, rows=["one"], routes=["up/echo"])
    rows = jsonl(exported(folder, run_id) / "judgements.jsonl")
    moody = [row for row in rows if row["judge"] == "up/moody"]
    read = [row["verdict"] for row in moody if row["verdict"] is not None]
    unread = [row for row in moody if row["verdict"] is None]
    assert len(read) == 3
    assert unread
    assert {row["feedback"] for row in unread} == {"Well, well."}
    assert all("no verdict" in row["unparsed"] for row in unread)
    [dead] = [row for row in rows if row["judge"] == "up/down"]
    assert (dead["verdict"], dead["unparsed"], dead["feedback"]) == (None, "", None)
    assert dead["error"]


def test_judgements_of_metrics_without_verdicts_are_rows(folder):
    metric = {"name": "rag", "judge": "up/rag", "context": "input"}
    run_id = evaluated(folder, [metric], rows=["one"], routes=["up/echo"])
    rows = jsonl(exported(folder, run_id) / "judgements.jsonl")
    assert rows
    assert {(row["sample_id"], row["route"], row["verdict"]) for row in rows} == {
        ("s0", None, None)
    }
    assert all(row["feedback"] for row in rows)


def test_each_judgement_of_each_cell_is_one_row_in_a_long_run(folder):
    # Three different answers to a sample, and more cells than are written at once.
    ends = ("here", "there", "far", "near")
    rows = ["".join(f"Number {n} is {end}. " for end in ends) for n in range(251)]
    # The last one's answers are judged already, for a sample that was written long before.
    rows.append(rows[0])
    routes = ("baseline/echo", "baseline/lead-1", "baseline/lead-3")
    metric = {"name": "prometheus", "judge": "up/judge"}
    run_id = evaluated(folder, [metric], rows=rows, routes=routes)
    cells = [
        (row["sample_id"], row["route"])
        for row in jsonl(exported(folder, run_id, "--jsonl-only") / "judgements.jsonl")
    ]
    assert len(cells) == 756
    assert set(cells) == {(f"s{n}", route) for n in range(252) for route in routes}


def test_samples_that_share_a_judgement_have_a_row_each(folder):
    metric = {"name": "prometheus", "judge": "up/judge"}
    run_id = evaluated(folder, [metric], rows=["same", "same"], routes=["up/echo"])
    rows = jsonl(exported(folder, run_id) / "judgements.jsonl")
    assert [(row["sample_id"], row["verdict"]) for row in rows] == [("s0", 4), ("s1", 4)]
    assert rows[0]["request_hash"] == rows[1]["request_hash"]


def test_scores_of_older_versions_say_nothing_of_their_judgements(folder):
    run_id = evaluated(folder, [{"name": "prometheus", "judge": "up/judge"}], rows=["one"])
    with sqlite3.connect("evalrouter.db") as db:
        db.execute("UPDATE scores SET verdicts = NULL")
    db.close()
    [row] = jsonl(exported(folder, run_id) / "judgements.jsonl")
    assert (row["sample_id"], row["route"], row["verdict"]) == ("s0", None, None)
    assert row["feedback"] == GOOD
    # Scored again, for nothing, they do.
    run("eval", "rescore", run_id)
    rows = jsonl(exported(folder, run_id) / "judgements.jsonl")
    assert {(row["route"], row["verdict"]) for row in rows} == {
        ("up/echo", 4),
        ("baseline/echo", 4),
    }
    assert len({row["at"] for row in rows} | {row["at"]}) == 1


def test_formats_are_chosen(folder):
    run_id = evaluated(folder, [{"name": "prometheus", "judge": "up/judge"}])
    out = exported(folder, run_id, "--format", "csv")
    assert {path.name for path in out.iterdir()} == {
        "manifest.json", "rows.csv", "rows.jsonl", "judgements.csv", "judgements.jsonl",
    }  # fmt: skip
    (plain,) = {evaluated(folder, ["length"], routes=["baseline/echo"], rows=["a"])}
    out = exported(folder, plain)
    assert {path.name for path in out.iterdir()} == {
        "manifest.json", "rows.csv", "rows.jsonl", "rows.parquet",
    }  # fmt: skip


def test_the_vicuna_file_with_its_feedback(folder):
    (folder / "vicuna_eval.json").write_text(json.dumps(vicuna_rows()[:8]))
    metric = {
        "name": "prometheus",
        "judge": "up/judge",
        "rubric": {"column": "rubric"},
        "style": "prometheus-1",
    }
    document = {
        "dataset": "vicuna_eval.json",
        "routes": ["dataset/answer"],
        "columns": {"idx": "cluster"},
        "metrics": [metric],
    }
    (folder / "run.json").write_text(json.dumps(document))
    people = ("--column", "gpt4_score=score", "--column", "idx=question")
    dataset = ("--dataset", "vicuna_eval.json", "--style", "prometheus-1")
    run("judge", "calibrate", "--judge", "up/judge", *dataset, *people)
    outcome = json.loads(run("eval", "run", "run.json", "--json"))
    # Calibration and run judge by the rows' own rubrics, so the one is of the other's grading.
    assert [judge["calibrated"] for judge in outcome["judges"]] == [True]
    out = exported(folder, outcome["run"]["id"])
    rows = table(out / "rows.csv")
    assert [row["feedback.prometheus.up/judge.0"] for row in rows] == [GOOD] * 8
    assert json.loads(rows[0]["fields"])["gpt4_feedback"] == vicuna_rows()[0]["gpt4_feedback"]
