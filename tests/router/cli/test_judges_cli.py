"""`evalrouter judge` in this process, with a scripted judge that needs no server."""

import csv
import json
import re

import click.testing
import pyarrow.parquet as parquet
import pytest

from evaluators.judge.family import family
from router.cli import main

CONFIG = """
providers:
  demo:
    kind: scripted
    script:
      kind: [{answer: "[RESULT] 5"}]
      first: [{answer: "[RESULT] A"}]
      moody: [{answers: ["Well done. [RESULT] 4", "No comment."]}]
      fair:
        - {match: "(?s)evaluate:\\n[^#]*good", answer: "[RESULT] 4"}
        - {answer: "[RESULT] 2"}
"""
ROWS = [
    {"instruction": f"q{n}", "answer": ("good", "bad")[n % 2], "human": (5, 1)[n % 2]}
    for n in range(12)
]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evalrouter.yaml").write_text(CONFIG)
    (tmp_path / "human.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def run(*args, code=0):
        done = click.testing.CliRunner().invoke(main, ["judge", *args])
        assert done.exit_code == code, done.output
        return done.output

    return run


DATA = ("--dataset", "human.jsonl", "--column", "human=score")


def test_every_judgement_is_exported(run, tmp_path):
    told = run("calibrate", "--judge", "demo/moody", *DATA, "--repeats", "2", "--retries", "1")
    study = re.search(r"cal_\w+", told)[0]
    rows = [json.loads(line) for line in run("export", study).splitlines()]
    # Every second answer says nothing that could be read, and is asked again.
    assert len(rows) > 24
    assert {row["study"] for row in rows} == {study}
    assert {(row["judge"], row["metric"]) for row in rows} == {
        ("demo/moody", "calibration:helpfulness")
    }
    assert len({(row["sample_id"], row["repeat"], row["attempt"]) for row in rows}) == len(rows)
    assert {row["repeat"] for row in rows} == {0, 1}
    read = [row for row in rows if row["verdict"] is not None]
    assert {(row["verdict"], row["feedback"], row["unparsed"]) for row in read} == {
        (4.0, "Well done. [RESULT] 4", "")
    }
    assert {(row["verdict"], row["unparsed"]) for row in rows if row not in read} == {
        (None, "no verdict")
    }
    shown = json.loads(run("show", study, "--json"))
    assert len(read) == sum(len(item["judge"]) for item in shown["detail"]["items"])
    run("export", study, "--output", "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["feedback"] for row in table] == [row["feedback"] for row in rows]
    assert table[0].keys() == rows[0].keys()
    assert run("export", study, "--format", "csv") == (tmp_path / "rows.csv").read_text()
    run("export", study, "--output", "rows.parquet")
    assert parquet.read_table("rows.parquet").to_pylist() == rows
    assert "--output" in run("export", study, "--format", "parquet", code=2)
    assert "nowhere/rows.csv" in run("export", study, "--output", "nowhere/rows.csv", code=2)
    assert "cal_none" in run("export", "cal_none", code=2)
    (tmp_path / "human.jsonl").write_text("{}")
    assert "human.jsonl" in run("export", study, code=2)


def evaluated(folder, metric, dataset, route):
    document = {"dataset": dataset, "routes": [route], "metrics": [metric]}
    (folder / "run.json").write_text(json.dumps(document))
    done = click.testing.CliRunner().invoke(main, ["eval", "run", "run.json", "--json"])
    assert done.exit_code == 0, done.output
    outcome = json.loads(done.output[done.output.index("{\n") :])
    [route] = outcome["report"]["routes"]
    return outcome["run"]["id"], {score["output"]: score for score in route["scores"]}


def test_people_label_what_the_plan_says_and_the_judge_is_corrected(run, tmp_path):
    # The judge gives 4 to what is good and 2 to what is not; people give 5 and 2.
    rows = [{"id": f"s{n}", "input": ("good", "bad")[n % 2]} for n in range(200)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metric = {"name": "prometheus", "judge": "demo/fair"}
    run_id, scores = evaluated(tmp_path, metric, "data.jsonl", "baseline/echo")
    assert scores["helpfulness"]["estimate"] == 3
    options = ("--width", "0.6", "--output", "labelled.jsonl")
    told = run("label-plan", run_id, *options)
    assert "helpfulness of baseline/echo: 0 of 200 answers have people's scores" in told
    plan = json.loads(run("label-plan", run_id, *options, "--json"))
    assert f"label next ({len(plan['label_next'])}," in told
    narrow = run("label-plan", run_id, "--width", "0.001")
    assert "even all of them" in narrow
    assert f"({len(rows)}, " in narrow
    assert plan["needed"] / 2 < len(plan["label_next"]) < 2 * plan["needed"] < 200
    labelled = [json.loads(line) for line in (tmp_path / "labelled.jsonl").read_text().splitlines()]
    assert [row["id"] for row in labelled if row["label_next"]] == plan["label_next"]
    for row in labelled:
        row["human"] = {"good": 5, "bad": 2}[row["answer"]] if row["label_next"] else None
    (tmp_path / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled))
    metric |= {"people": "human", "chance": "chance"}
    run_id, scores = evaluated(tmp_path, metric, "labelled.jsonl", "dataset/answer")
    corrected = scores["helpfulness_corrected"]
    assert scores["helpfulness"]["estimate"] == 3
    assert corrected["low"] < 3.5 < corrected["high"]
    assert corrected["high"] - corrected["low"] < 0.6
    # What the labels say of the judge's error makes the next plan cheaper.
    more = json.loads(run("label-plan", run_id, "--width", "0.6", "--json"))
    assert (more["measured"], more["labelled"]) == (True, len(plan["label_next"]))
    assert more["error"] < plan["error"]


def show(run_id):
    done = click.testing.CliRunner().invoke(main, ["eval", "show", run_id, "--json"])
    assert done.exit_code == 0, done.output
    [route] = json.loads(done.output)["report"]["routes"]
    return {score["output"]: score for score in route["scores"]}


def test_the_file_of_a_plan_comes_back_filled_in_and_corrects_its_run(run, tmp_path):
    rows = [{"id": f"s{n}", "input": ("good", "bad")[n % 2]} for n in range(200)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metric = {"name": "prometheus", "judge": "demo/fair"}
    run_id, _ = evaluated(tmp_path, metric, "data.jsonl", "baseline/echo")
    told = run("label-plan", run_id, "--width", "0.6", "--output", "plan.csv")
    assert f"judge labels {run_id} plan.csv --route baseline/echo" in told
    plan = json.loads(
        run("label-plan", run_id, "--width", "0.6", "--output", "plan.jsonl", "--json")
    )
    assert "no row has a score" in run("labels", run_id, "plan.jsonl", code=2)
    planned = [json.loads(line) for line in (tmp_path / "plan.jsonl").read_text().splitlines()]
    # People work with spreadsheets.
    with (tmp_path / "plan.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["label_next"] for row in table] == [
        str(row["label_next"]).lower() for row in planned
    ]
    for row in table:
        row["human"] = {"good": 5, "bad": 2}[row["answer"]] if row["label_next"] == "true" else ""
    labelled_first = next(row for row in table if row["human"])
    labelled_first["human"] = json.dumps([labelled_first["human"]] * 2)
    with (tmp_path / "plan.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    labelled = len(plan["label_next"])
    told = run("labels", run_id, "plan.csv")
    assert f"helpfulness of baseline/echo: {labelled} of 200 answers have people's scores" in told
    shown = click.testing.CliRunner().invoke(main, ["eval", "show", run_id]).output
    assert "helpfulness_corrected ↑" in shown
    assert "helpfulness (raw) ↑" in shown
    scores = show(run_id)
    corrected = scores["helpfulness_corrected"]
    assert list(scores)[:2] == ["helpfulness_corrected", "helpfulness"]
    assert scores["helpfulness"]["estimate"] == 3
    assert corrected["low"] < 3.5 < corrected["high"]
    assert corrected["high"] - corrected["low"] < 0.6
    # The next plan goes on from these labels, and its file has them all.
    more = json.loads(
        run("label-plan", run_id, "--width", "0.3", "--output", "more.jsonl", "--json")
    )
    assert (more["measured"], more["labelled"]) == (True, labelled)
    assert not set(more["label_next"]) & set(plan["label_next"])
    assert json.loads(run("labels", run_id, "more.jsonl", "--json"))["labels"] == labelled
    planned = [json.loads(line) for line in (tmp_path / "more.jsonl").read_text().splitlines()]
    # Two people scored one of the answers, and both scores come back with the next plan.
    planned[0]["human"] = [4, 5]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in planned))
    run("labels", run_id, "more.jsonl")
    run("label-plan", run_id, "--width", "0.3", "--output", "more.jsonl")
    assert json.loads((tmp_path / "more.jsonl").read_text().splitlines()[0])["human"] == [4, 5]
    (tmp_path / "part.jsonl").write_text(json.dumps(planned[0] | {"human": 5}) + "\n")
    assert "not among these" in run("labels", run_id, "part.jsonl", code=2)
    assert run("labels", run_id, "part.jsonl", "--replace", "--output-name", "helpfulness")
    assert "199 of 200 answers" in run("label-plan", run_id, "--width", "0.3", code=2)
    (tmp_path / "bad.jsonl").write_text(json.dumps(planned[0] | {"human": "great"}) + "\n")
    assert "'great' is no score" in run("labels", run_id, "bad.jsonl", code=2)
    assert "none.jsonl" in run("labels", run_id, "none.jsonl", code=2)
    assert "run_none" in run("labels", "run_none", "more.jsonl", code=2)


def test_a_plan_of_labels_names_what_it_cannot_find(run, tmp_path):
    (tmp_path / "data.jsonl").write_text(json.dumps({"input": "good"}) + "\n")
    run_id, _ = evaluated(tmp_path, "length", "data.jsonl", "baseline/echo")
    assert "no judge whose scores" in run("label-plan", run_id, "--width", "1", code=2)
    metric = {"name": "prometheus", "judge": "demo/fair"}
    run_id, _ = evaluated(tmp_path, metric, "data.jsonl", "baseline/echo")
    assert "'x' is not among baseline/echo" in run(
        "label-plan", run_id, "--width", "1", "--route", "x", code=2
    )
    assert "helpfulness" in run("label-plan", run_id, "--width", "1", "--output-name", "y", code=2)
    for width in ("0", "-1", "nan", "inf", "4", "much"):
        assert "width" in run("label-plan", run_id, f"--width={width}", code=2)
    assert "run_none" in run("label-plan", "run_none", "--width", "1", code=2)
    table = ("label-plan", run_id, "--width", "1", "--output", "plan.parquet")
    assert ".csv or .jsonl" in run(*table, code=2)


def test_judgements_of_pairs_are_exported_with_their_labels(run, tmp_path):
    pairs = [
        {"id": str(n), "instruction": f"q{n}", "response_a": "x", "response_b": "y", "label": "a"}
        for n in range(3)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    told = run("calibrate", "--judge", "demo/first", "--dataset", "pairs.jsonl")
    rows = [json.loads(line) for line in run("export", re.search(r"cal_\w+", told)[0]).splitlines()]
    assert sorted((row["sample_id"], row["metric"], row["verdict"]) for row in rows) == [
        (str(n), metric, "A") for n in range(3) for metric in ("pairwise", "swapped")
    ]
    run("export", rows[0]["study"], "--output", "rows.parquet")
    assert parquet.read_table("rows.parquet").to_pylist() == rows


def test_calibrate_show_list_and_diff(run, tmp_path):
    told = run("calibrate", "--judge", "demo/fair", *DATA, "--html", "r.html")
    one = re.search(r"cal_\w+", told)[0]
    assert "Pearson's correlation" in told
    assert "12 items are few" in told
    assert (tmp_path / "r.html").read_text().startswith('<section class="judge-study">')
    other = re.search(r"cal_\w+", run("calibrate", "--judge", "demo/kind", *DATA))[0]
    shown = json.loads(run("show", one, "--json"))
    assert shown["report"]["calibration"]["agreement"]["pearson"]["estimate"] == pytest.approx(1)
    assert [item["people"] for item in shown["detail"]["items"]] == [[5.0], [1.0]] * 6
    assert [study["id"] for study in json.loads(run("list", "--json"))] == [other, one]
    assert other not in run("list", "--judge", "demo/fair")
    diff = json.loads(run("diff", one, other, "--json"))
    assert (diff["n"], diff["difference"]["difference"]) == (12, 2)
    assert "mean of second - first" in run("diff", one, other)
    assert "completed" in run("resume", one, code=2)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("calibrate", "--judge", "demo/fair", "--dataset", "none.jsonl"), "none.jsonl"),
        (("calibrate", "--judge", "nobody", *DATA), "nobody"),
        (("calibrate", "--judge", "demo/fair", "--dataset", "human.jsonl"), "score is a number"),
        (("calibrate", "--judge", "demo/fair", *DATA, "--rubric", "honestly"), "honesty"),
        (("calibrate", "--judge", "demo/fair", *DATA, "--kind", "toxic"), "toxicity"),
        (
            ("calibrate", "--judge", "demo/fair", *DATA, "--column", "none=model"),
            "no column 'none'",
        ),
        (("show", "cal_0"), "there is no 'cal_0'"),
        (("compare", "run_0", "a", "b", "--judge", "demo/fair"), "run_0"),
        (("tournament", "run_0", "--judge", "demo/fair"), "run_0"),
    ],
)
def test_mistakes_are_one_line(run, args, message):
    told = " ".join(run(*args, code=2).split())
    assert message in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openai/gpt-4o-mini", "GPT"),
        ("openai/o3", "GPT"),
        ("anthropic/claude-sonnet-4", "Claude"),
        ("laptop/prometheus-7b-v2.0", "Mistral"),
        ("laptop/prometheus-13b-v1.0", "Llama"),
        ("hf/meta-llama/Llama-3.1-8B", "Llama"),
        ("mistral/open-mixtral-8x7b", "Mistral"),
        ("gemini/gemini-2.5-pro", "Gemini"),
        ("summarizer", ""),
        ("baseline/lead-3", ""),
    ],
)
def test_families(name, expected):
    assert family(name) == expected
