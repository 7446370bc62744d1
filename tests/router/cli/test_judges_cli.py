"""`evalrouter judge` in this process, with a scripted judge that needs no server."""

import json
import re

import click.testing
import pytest

from evaluators.judge.family import family
from router.cli import main

CONFIG = """
providers:
  demo:
    kind: scripted
    script:
      kind: [{answer: "[RESULT] 5"}]
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


def test_calibrate_show_list_and_diff(run, tmp_path):
    told = run("calibrate", "--judge", "demo/fair", *DATA, "--html", "r.html")
    one = re.search(r"cal_\w+", told)[0]
    assert "Pearson's correlation" in told
    assert "12 items are few" in told
    assert (tmp_path / "r.html").read_text().startswith('<section class="judge-study">')
    other = re.search(r"cal_\w+", run("calibrate", "--judge", "demo/kind", *DATA))[0]
    shown = json.loads(run("show", one, "--json"))
    assert shown["report"]["calibration"]["agreement"]["pearson"]["estimate"] == pytest.approx(1)
    assert shown["detail"] == {}
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
