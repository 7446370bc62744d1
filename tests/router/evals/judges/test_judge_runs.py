"""Judges in whole runs: over HTTP, unreadable, killed and resumed, paid once, as a jury."""

import json
import os
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from router_process import ForkedProcess
from servers import gateway, scripted

from evaluators.judge import prometheus
from evaluators.judge.rubrics import stock

ROWS = [{"id": f"s{n}", "input": f"Say {n}", "reference": f"Say {n}"} for n in range(12)]
GOOD = (
    "Feedback: The response says exactly what was asked for, without needless words, and would be "
    "of use to the person who asked. It could have been friendlier. So the overall score is 4. "
    "[RESULT] 4"
)
MODELS = {
    "echo": [{}],
    "gpt-4o": [{}],
    "gpt-judge": [{"answer": "[RESULT] 4"}],
    "prometheus": [{"answer": GOOD, "usage": {"prompt_tokens": 1000, "completion_tokens": 100}}],
    "moody": [{"answers": ["[RESULT] 2", "[RESULT] 4", "[RESULT] 3"]}],
    "shy": [{"times": 6, "answer": "Well, well."}, {"answer": "[RESULT] 5"}],
    "mute": [{"answer": "I would rather not say, 7 of 12 times."}],
    **{
        f"cut-{name}": [{"body": {"choices": [{"message": message, "finish_reason": "length"}]}}]
        for name, message in {
            "thoughts": {"content": "<think>A decent one gets a score of 3. Let me look"},
            "words": {"content": "The first half would deserve score 5 if the second half"},
            "null": {"content": None, "reasoning_content": "A score of 3? Let me look"},
            "empty": {"content": "", "reasoning_content": "A score of 3? Let me look"},
        }.items()
    },
    "down": [{"status": 500}],
    "slow": [
        {"answer": GOOD, "delay_s": 0.15, "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    ],
    "rag": [
        {"match": "Break the text down", "answer": '{"claims": ["It says so.", "It is so."]}'},
        {"match": "numbered passages", "answer": '```json\n{"verdicts": ["no", "yes"]}\n```'},
        {"match": "follows from the context", "answer": "1. yes\n2. no"},
        {"match": "helps to answer", "answer": '{"verdicts": ["yes", "yes"]}'},
    ],
    "by-word": [
        {"match": rf"(?s)evaluate:\n.*{word}", "answer": f"[RESULT] {value}"}
        for word, value in (("fine", 3), ("poor", 1), ("good", 4))
    ]
    + [{"answer": "[RESULT] 2"}],
    "strict": [{"answer": "[RESULT] 2"}],
    "kind": [{"answer": "[RESULT] 5"}],
    "sure": [
        {
            "body": {
                "model": "sure",
                "choices": [
                    {
                        "message": {"content": "[RESULT] 4"},
                        "logprobs": {
                            "content": [
                                {"token": "[RESULT]", "logprob": 0, "top_logprobs": []},
                                {
                                    "token": " 4",
                                    "logprob": -0.693147,
                                    "top_logprobs": [
                                        {"token": " 4", "logprob": -0.693147},
                                        {"token": " 5", "logprob": -0.693147},
                                    ],
                                },
                            ]
                        },
                    }
                ],
            }
        }
    ],
}


CONFIG = """
server: {{port: 0}}
providers:
  up: {{kind: compatible, base_url: "{url}", api_key: sk-secret-key}}
prices: {{up/prometheus: {{input: 1.0, output: 10.0}}, up/slow: {{input: 1.0, output: 1.0}}}}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder, a scripted upstream, and a server in that folder."""
    folder = tmp_path_factory.mktemp("judges")
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    before = Path.cwd()
    os.chdir(folder)
    try:
        with scripted(MODELS) as upstream:
            (folder / "evalrouter.yaml").write_text(CONFIG.format(url=upstream.url))
            with (
                gateway(CONFIG.format(url=upstream.url)) as url,
                httpx.Client(base_url=url) as http,
            ):
                yield folder, upstream, http
    finally:
        os.chdir(before)


@pytest.fixture
def upstream(world):
    world[1].log.requests.clear()
    return world[1]


@pytest.fixture
def http(world):
    return world[2]


def evaluate(http, metrics, *, fails=False, cache=False, **document):
    document = {"dataset": "data.jsonl", "routes": ["up/echo"], "metrics": metrics, **document}
    created = http.post("/eval", json={"cache": cache, **document})
    if fails:
        assert created.status_code in (400, 404), created.text
        return created.json()["error"]["message"]
    assert created.status_code == 202, created.text
    while True:
        outcome = http.get(f"/eval/{created.json()['id']}").json()
        if outcome["run"]["state"] not in ("queued", "running"):
            return outcome
        time.sleep(0.02)


def scores(outcome):
    assert outcome["run"]["state"] == "completed", outcome["run"]
    [route] = outcome["report"]["routes"]
    return {one["output"]: one for one in route["scores"]}


def asked(upstream, model):
    found = [one for one in list(upstream.log.requests) if one.model == model]
    return [json.loads(bytes(one.body)) for one in found]


def test_prometheus_judges_a_run(http, upstream):
    metric = {"name": "prometheus", "judge": "up/prometheus", "rubric": "helpfulness", "repeats": 3}
    outcome = evaluate(http, [metric, "exact_match"])
    found = scores(outcome)
    assert (found["helpfulness"]["estimate"], found["helpfulness"]["n"]) == (4, 12)
    assert found["helpfulness_unparsed"]["estimate"] == 0
    assert found["helpfulness_deviation"]["estimate"] == 0
    assert found["exact_match"]["estimate"] == 1
    sent = asked(upstream, "prometheus")
    assert len(sent) == 36
    assert sent[0]["repetition_penalty"] == 1.03
    assert (sent[0]["temperature"], sent[0]["top_p"], sent[0]["max_tokens"]) == (1.0, 0.9, 1024)
    expected = {
        prometheus.messages(
            prometheus.absolute(
                stock("helpfulness"),
                instruction=row["input"],
                response=row["input"],
                reference=row["reference"],
            ),
            "prometheus-2",
        )[0]["content"]
        for row in ROWS
    }
    assert {one["messages"][0]["content"] for one in sent} == expected


def test_what_a_judge_took_is_the_runs(http):
    outcome = evaluate(http, [{"name": "prometheus", "judge": "up/prometheus", "repeats": 2}])
    [use] = outcome["judges"]
    assert (use["judge"], use["calls"], use["failed"]) == ("up/prometheus", 24, 0)
    assert use["cost_usd"] == pytest.approx(24 * (1000 * 1.0 + 100 * 10.0) / 1e6)
    assert use["calibrated"] is False
    told = " ".join(outcome["report"]["warnings"])
    assert "up/prometheus has not been calibrated for this grading" in told


def test_a_judges_cost_counts_towards_the_limit(http, upstream):
    limits = {"concurrency": 1, "cost_usd": 0.005}
    outcome = evaluate(http, [{"name": "prometheus", "judge": "up/prometheus"}], limits=limits)
    assert outcome["run"]["state"] == "cancelled"
    assert "cost_usd" in outcome["run"]["stopped"]
    assert 3 <= len(asked(upstream, "prometheus")) <= 12


def test_another_run_pays_for_no_judgement_again(http, upstream):
    metric = {"name": "prometheus", "judge": "up/prometheus", "parameters": {"seed": 7}}
    evaluate(http, [metric], cache=True)
    outcome = evaluate(http, [metric], cache=True)
    assert len(asked(upstream, "prometheus")) == 12
    assert (outcome["judges"][0]["reused"], outcome["judges"][0]["cost_usd"]) == (12, 0)
    evaluate(http, [metric])
    assert len(asked(upstream, "prometheus")) == 24


def test_an_unreadable_verdict_is_asked_for_again(http, upstream):
    found = scores(evaluate(http, [{"name": "prometheus", "judge": "up/shy", "retries": 6}]))
    assert (found["helpfulness"]["estimate"], found["helpfulness"]["n"]) == (5, 12)
    assert len(asked(upstream, "shy")) == 18


def test_a_judge_that_says_nothing_leaves_no_number(http, upstream):
    metric = {"name": "prometheus", "judge": "up/mute", "retries": 1}
    outcome = evaluate(http, [metric, "exact_match"])
    found = scores(outcome)
    assert (found["helpfulness"]["estimate"], found["helpfulness"]["n"]) == (None, 0)
    assert found["helpfulness"]["unscored"] == 12
    assert found["helpfulness_unparsed"]["estimate"] == 1
    assert found["exact_match"]["estimate"] == 1
    assert len(asked(upstream, "mute")) == 24
    assert "no verdict" in found["helpfulness"]["example"]


@pytest.mark.parametrize("judge", ["cut-thoughts", "cut-words", "cut-null", "cut-empty"])
def test_a_judge_that_was_cut_off_is_asked_again_and_leaves_no_number(http, upstream, judge):
    found = scores(evaluate(http, [{"name": "prometheus", "judge": f"up/{judge}", "retries": 1}]))
    assert (found["helpfulness"]["estimate"], found["helpfulness"]["n"]) == (None, 0)
    assert found["helpfulness_unparsed"]["estimate"] == 1
    assert len(asked(upstream, judge)) == 24
    why = "still thinking" if judge == "cut-thoughts" else "cut off"
    if judge != "cut-null":
        assert why in found["helpfulness"]["example"]


def judged(http, folder, rows, **options):
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metric = {"name": "prometheus", "judge": "up/by-word", "people": "human", **options}
    return evaluate(http, [metric], dataset="answers.jsonl", routes=["dataset/answer"])


# The judge gives a point less than people.
ANSWERS = [
    {
        "id": str(n),
        "input": "Say it.",
        "answer": f"It is {word}.",
        "human": value + 1 if n % 4 == 0 else None,
    }
    for n, (word, value) in enumerate([("fine", 3), ("poor", 1), ("good", 4)] * 20)
]


def test_a_judges_mean_is_corrected_by_peoples_scores(http, world):
    outcome = judged(http, world[0], ANSWERS)
    found = scores(outcome)
    assert found["helpfulness"]["estimate"] == pytest.approx(8 / 3)
    corrected = found["helpfulness_corrected"]
    assert corrected["estimate"] == pytest.approx(11 / 3, abs=0.1)
    assert corrected["low"] < 11 / 3 < corrected["high"]
    assert corrected["n"] == 60
    # The corrected mean comes first, and the other one is marked.
    first, raw, *_ = outcome["report"]["outputs"]
    assert first["name"] == "helpfulness_corrected"
    assert raw["description"].startswith("Raw")
    assert "people:human" in next(iter(outcome["report"]["signatures"].values()))
    # People's own mean of the 15 that they scored stands beside it, and the judge's of the same.
    of_people = [value + 1 for n, value in enumerate([3, 1, 4] * 20) if n % 4 == 0]
    assert corrected["labelled"] == len(of_people) == 15
    assert corrected["people"] == pytest.approx(sum(of_people) / 15)
    assert corrected["judge"] == pytest.approx(corrected["people"] - 1)
    assert not any("not scored" in note for note in notes(outcome))


def test_a_column_with_one_score_of_people_corrects_nothing(http, world):
    rows = [{**row, "human": None} for row in ANSWERS[1:]]
    found = scores(judged(http, world[0], [ANSWERS[0], *rows]))
    assert found["helpfulness"]["estimate"] == pytest.approx(8 / 3)
    assert (found["helpfulness_corrected"]["estimate"], found["helpfulness_corrected"]["n"]) == (
        None,
        0,
    )
    assert (
        "people have scored 1 of the route's answers" in found["helpfulness_corrected"]["withheld"]
    )


def notes(outcome):
    return outcome["report"]["warnings"]


def test_peoples_scores_that_are_no_numbers_and_of_other_answers(http, world):
    rows = [{**row, "human": "great"} if row["id"] == "0" else row for row in ANSWERS]
    found = scores(judged(http, world[0], rows))
    assert found["helpfulness_corrected"]["n"] == 59
    assert "'great' is no score" in found["helpfulness_corrected"]["example"]
    metric = {"name": "prometheus", "judge": "up/by-word", "people": "human"}
    outcome = evaluate(http, [metric], dataset="answers.jsonl", routes=["up/echo"])
    other = scores(outcome)["helpfulness_corrected"]
    assert (other["estimate"], other["n"]) == (None, 0)
    assert "are of the dataset's answer" in other["withheld"]
    assert "people" in evaluate(http, [{**metric, "people": ""}], fails=True)
    alone = {"name": "prometheus", "judge": "up/by-word", "chance": "p"}
    assert "needs people's scores" in evaluate(http, [alone], fails=True)
    # A label counts by its probability, and one without it does not count.
    rows = [{**row, "p": 0.25} for row in ANSWERS[1:]] + [{**ANSWERS[0], "p": 0}]
    found = scores(judged(http, world[0], rows, chance="p"))["helpfulness_corrected"]
    assert found["n"] == 59
    assert found["estimate"] == pytest.approx(11 / 3, abs=0.15)
    assert "0 is no probability" in found["example"]


def test_a_judge_that_is_down_is_told(http):
    found = scores(evaluate(http, [{"name": "prometheus", "judge": "up/down"}]))
    assert found["helpfulness"]["estimate"] is None
    assert found["helpfulness_unparsed"]["estimate"] is None
    assert "up/down" in found["helpfulness"]["example"]


def test_repeats_are_averaged_and_their_spread_is_shown(http):
    found = scores(evaluate(http, [{"name": "prometheus", "judge": "up/moody", "repeats": 3}]))
    assert found["helpfulness"]["estimate"] == pytest.approx(3, abs=0.5)
    assert found["helpfulness_deviation"]["estimate"] > 0
    assert found["helpfulness_alpha"]["estimate"] < 0.5


@pytest.mark.parametrize(("combine", "value"), [("mean", 11 / 3), ("median", 4), ("majority", 4)])
def test_a_jury(http, combine, value):
    judges = ["up/strict", "up/kind", "up/prometheus"]
    metric = {"name": "prometheus", "judge": judges, "combine": combine}
    found = scores(evaluate(http, [metric]))
    assert found["helpfulness"]["estimate"] == pytest.approx(value)
    assert found["helpfulness_alpha"]["estimate"] < 0
    # Three judges who never agree, on labels that occur equally often.
    assert found["helpfulness_fleiss"]["estimate"] == pytest.approx(-0.5)


def test_the_expected_score_of_the_probabilities(http, upstream):
    found = scores(evaluate(http, [{"name": "prometheus", "judge": "up/sure", "expected": True}]))
    assert found["helpfulness"]["estimate"] == pytest.approx(4.5)
    assert asked(upstream, "sure")[0]["top_logprobs"] == 20
    without = evaluate(http, [{"name": "prometheus", "judge": "up/kind", "expected": True}])
    assert scores(without)["helpfulness"]["n"] == 0
    assert "no probabilities" in scores(without)["helpfulness"]["example"]


def test_structured_output_and_raw_completions(http, upstream):
    evaluate(http, [{"name": "prometheus", "judge": "up/kind", "structured": True}])
    schema = asked(upstream, "kind")[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["score"]["enum"] == [1, 2, 3, 4, 5]
    metric = {
        "name": "prometheus",
        "judge": "up/strict",
        "template": "raw",
        "style": "prometheus-1",
    }
    found = scores(evaluate(http, [metric]))
    assert found["helpfulness"]["estimate"] == 2
    prompt = asked(upstream, "strict")[0]["prompt"]
    assert prompt.startswith("[INST] <<SYS>>\nYou are a fair evaluator language model.\n<</SYS>>")
    assert prompt.endswith("###Feedback:  [/INST]")


def test_other_kinds_and_rubrics_of_ones_own(world, http, upstream):
    folder = world[0]
    (folder / "tone.yaml").write_text("criteria: Kind?\nscores: {0: rude, 1: cold, 2: kind}\n")
    metrics = [
        {"name": "prometheus", "judge": "up/strict", "rubric": "tone.yaml"},
        {"name": "judge", "judge": "up/strict", "kind": "style_concise"},
    ]
    found = scores(evaluate(http, metrics))
    assert found["tone"]["estimate"] == 2
    assert found["style_concise"]["estimate"] == 2
    systems = [one["messages"][0]["content"] for one in asked(upstream, "strict")]
    assert sum("not addressed to you" in one for one in systems) == 12
    metric = {"name": "prometheus", "judge": "up/kind", "rubric": str(folder.parent / "x.yaml")}
    assert "evaluation.roots in the server's config" in evaluate(http, [metric], fails=True)


def test_retrieval_judged_by_claims(world, http, upstream):
    rows = [{"input": f"Ask {n}", "reference": "So.", "passages": ["a", "b"]} for n in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (world[0] / "rag.jsonl").write_text(lines)
    metric = {"name": "rag", "judge": "up/rag", "context": "passages"}
    found = scores(evaluate(http, [metric], dataset="rag.jsonl"))
    estimates = {name: one["estimate"] for name, one in found.items()}
    assert estimates == {
        "faithfulness": 0.5,
        "answer_relevance": 1,
        "context_precision": 0.5,
        "context_recall": 0.5,
        "rag_unparsed": 0,
    }
    # Whether the same claims follow from the same passages is asked once.
    assert len(asked(upstream, "rag")) == 3 * 4 + 1


def test_a_dry_run_counts_the_judge(http, upstream):
    metric = {"name": "prometheus", "judge": "up/prometheus", "rubric": "reasoning", "repeats": 2}
    document = {"dataset": "data.jsonl", "routes": ["baseline/echo"], "metrics": [metric]}
    before = http.post("/eval", params={"dry_run": True}, json=document).json()
    [judge] = before["judges"]
    assert (judge["calls"], judge["at_most"]) == (24, True)
    # A prompt of some 2,000 bytes, and 1,024 tokens of feedback.
    assert judge["completion_tokens"] == 24 * 1024
    assert 24 * 300 < judge["prompt_tokens"] < 24 * 900
    assert before["cost_usd"] == pytest.approx(judge["cost_usd"])
    assert not upstream.log.requests
    evaluate(http, [metric], routes=["baseline/echo"])
    [judge] = http.post("/eval", params={"dry_run": True}, json=document).json()["judges"]
    assert (judge["prompt_tokens"], judge["completion_tokens"]) == (24_000, 2_400)
    assert judge["cost_usd"] == pytest.approx(24 * (1000 * 1.0 + 100 * 10.0) / 1e6)
    assert judge["at_most"] is False


def test_a_deleted_run_takes_its_judgements_with_it(http, world):
    run_id = evaluate(http, [{"name": "prometheus", "judge": "up/kind"}])["run"]["id"]
    page = http.get(f"/eval/{run_id}/judgements", params={"limit": 5}).json()
    assert len(page["data"]) == 5
    rest = http.get(f"/eval/{run_id}/judgements", params={"after": page["next"]}).json()
    assert (len(rest["data"]), rest["next"]) == (7, None)
    one = http.get(f"/eval/{run_id}/judgements", params={"sample_id": "s3"}).json()["data"]
    assert [row["judgement"]["answer"]["text"] for row in one] == ["[RESULT] 5"]
    assert http.delete(f"/eval/{run_id}").status_code == 204
    with sqlite3.connect(world[0] / "evalrouter.db") as db:
        count = db.execute("SELECT count(*) FROM judgements WHERE owner = ?", (run_id,)).fetchone()
    assert count == (0,)


def test_two_judges_of_one_rubric_in_a_run(http):
    metrics = [
        {"name": "prometheus", "judge": "up/strict", "output": "by_strict"},
        {"name": "prometheus", "judge": "up/kind", "output": "by_kind"},
    ]
    found = scores(evaluate(http, metrics))
    assert (found["by_strict"]["estimate"], found["by_kind"]["estimate"]) == (2, 5)
    wrong = {"name": "prometheus", "judge": "up/strict", "output": "by strict"}
    assert "is no name" in evaluate(http, [wrong], fails=True)


def test_a_judge_of_the_routes_own_family_is_told(http):
    metric = {"name": "prometheus", "judge": "up/gpt-judge"}
    outcome = evaluate(http, [metric], routes=["up/gpt-4o"])
    assert any("both of the family GPT" in one for one in outcome["report"]["warnings"])


def test_a_sample_without_what_the_judge_needs_is_told(http):
    metric = {"name": "judge", "judge": "up/kind", "kind": "groundedness"}
    assert "the column 'context' is empty" in evaluate(http, [metric], fails=True)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ({"name": "prometheus"}, "needs the option 'judge'"),
        ({"name": "prometheus", "judge": "nobody"}, "nobody"),
        ({"name": "prometheus", "judge": "up/kind", "rubric": "helpfullness"}, "helpfulness"),
        ({"name": "judge", "judge": "up/kind", "kind": "groundednes"}, "groundedness"),
        ({"name": "prometheus", "judge": [], "rubric": "honesty"}, "name a route"),
        (
            {"name": "prometheus", "judge": "up/kind", "structured": True, "template": "raw"},
            "response_format",
        ),
    ],
)
def test_mistakes_are_told_before_any_request(http, upstream, metric, message):
    assert message in " ".join(evaluate(http, [metric], fails=True).split())
    assert not upstream.log.requests


def command(folder, *args):
    return ForkedProcess(
        *args, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def alone(tmp_path):
    """A folder and an upstream without a server."""
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with scripted(MODELS) as upstream:
        (tmp_path / "evalrouter.yaml").write_text(CONFIG.format(url=upstream.url))
        yield tmp_path, upstream


def test_a_killed_run_pays_for_no_finished_verdict_twice(alone):
    folder, upstream = alone
    metric = {"name": "prometheus", "judge": "up/slow", "repeats": 3}
    document = {
        "dataset": "data.jsonl",
        "routes": ["up/echo"],
        "metrics": [metric],
        "limits": {"concurrency": 4},
    }
    (folder / "run.json").write_text(json.dumps(document))
    process = command(folder, "eval", "run", "run.json", "--json")
    while len(asked(upstream, "slow")) < 12:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = len(asked(upstream, "slow"))
    assert before < 36
    listed = command(folder, "eval", "list", "--json")
    [run] = json.loads(listed.communicate(timeout=60)[0])
    resumed = command(folder, "eval", "resume", run["id"], "--json")
    out, err = resumed.communicate(timeout=100)
    assert resumed.returncode == 0, err
    outcome = json.loads(out)
    assert scores(outcome)["helpfulness"]["n"] == 12
    [use] = outcome["judges"]
    assert use["calls"] == 36
    # Asked again: what was in flight at the kill, or not in the database yet.
    assert len(asked(upstream, "slow")) - 36 <= 8
