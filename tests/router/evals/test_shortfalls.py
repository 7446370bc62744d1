"""Thoughts, and answers that were cut off, filtered or refused, from the host to the report."""

import json
import sqlite3

import pytest
from servers import evalrouter, gateway, scripted

ROWS = [{"id": f"s{n}", "input": f"Capital {n}?", "reference": "Paris"} for n in range(3)]


def host(content, finish="stop", **message):
    choice = {"message": {"content": content} | message, "finish_reason": finish}
    return [{"body": {"choices": [choice]}}]


FILTER = {"error": {"message": "held back", "code": "content_filter", "type": None}}
MODELS = {
    "whole": host("Paris"),
    "think": host("<think>Berlin? No.</think>\n\nParis"),
    "apart": host("Paris", reasoning_content="Berlin? No."),
    "blank": host(""),
    "null": host(None),
    # Two shapes of each: hosts differ in what they send.
    "cut_blank": host("", "length"),
    "cut_null": host(None, "length", reasoning_content="Berlin"),
    "cut_thought": host("<think>Berlin", "length"),
    "cut_text": host("Paris", "length"),
    "filtered_blank": host("", "content_filter"),
    "filtered_null": host(None, "content_filter"),
    "filtered_status": [{"status": 400, "body": FILTER}],
    "refused": host(None, refusal="I cannot."),
    "unfinished": host("<think>Berlin"),
    "thoughts": host("<think>Berlin</think>\n"),
    "thoughts_apart": host("", reasoning_content="Berlin"),
    "thoughts_apart_null": host(None, reasoning="Berlin"),
    "tools": host(None, "tool_calls", tool_calls=[]),
    "tools_blank": host("", tool_calls=[{"id": "1", "function": {"name": "f"}}]),
    "tools_function": host(None, function_call={"name": "f", "arguments": ""}),
    "tools_text": host("Paris", tool_calls=[{"id": "1"}]),
}
SHORT = {
    "truncated": ["cut_blank", "cut_null", "cut_thought", "cut_text"],
    "filtered": ["filtered_blank", "filtered_null", "filtered_status"],
    "refused": ["refused"],
    "unfinished": ["unfinished", "thoughts", "thoughts_apart", "thoughts_apart_null"],
}


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with scripted(MODELS) as upstream:
        text = (
            "server: {port: 0}\n"
            f'providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}\n'
            "storage: {database: 'sqlite:///evalrouter.db'}\n"
        )
        (tmp_path / "evalrouter.yaml").write_text(text)
        yield text


def run(check=0, **changes):
    document = {"dataset": "q.jsonl", "metrics": ["exact_match", "length", "latency"]} | changes
    with open("run.json", "w") as file:  # noqa: PTH123  # in the working directory
        json.dump(document, file)
    return json.loads(evalrouter("eval", "run", "run.json", "--json", check=check).stdout)


def by_route(outcome):
    return {
        route["route"]: (route, {score["output"]: score for score in route["scores"]})
        for route in outcome["report"]["routes"]
    }


def test_thoughts_are_beside_the_answer_not_in_it(config, http):
    routes = ["up/think", "up/apart", "up/whole"]
    outcome = run(routes=routes)
    for _, scores in by_route(outcome).values():
        assert scores["exact_match"]["estimate"] == 1
        assert scores["words"]["estimate"] == 1
    run_id = outcome["run"]["id"]
    with gateway(config) as url:
        rows = http.get(f"{url}/eval/{run_id}/samples").json()["data"]
        answers = {row["route"]: row["answer"] for row in rows}
        assert {answer["text"] for answer in answers.values()} == {"Paris"}
        assert answers["up/think"]["thinking"] == answers["up/apart"]["thinking"] == "Berlin? No."
        assert answers["up/think"]["whole_text"] == "<think>Berlin? No.</think>\n\nParis"
    # The cached answers, read by other rules: the whole text counts.
    whole = by_route(run(routes=routes, answer={"strip_thinking": False}))
    assert whole["up/think"][1]["exact_match"]["estimate"] == 0
    assert whole["up/apart"][1]["exact_match"]["estimate"] == 1
    other = by_route(run(routes=routes, answer={"strip_thinking": "<think>.*</think>"}))
    assert other["up/think"][1]["exact_match"]["estimate"] == 1
    # A row of the export has both, too.
    evalrouter("eval", "export", run_id, "--to", "out")
    with open(f"out/{run_id}/rows.jsonl") as file:  # noqa: PTH123  # in the working directory
        exported = [json.loads(line)["result"]["answer"] for line in file]
    assert {answer.get("thinking") for answer in exported} == {"Berlin? No.", ""}


def test_answers_that_the_dataset_brings_and_a_rescore_are_read_alike(config, tmp_path):
    rows = [row | {"answer": "<think>Berlin</think> Paris"} for row in ROWS]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = run(routes=["dataset/answer"])
    assert by_route(outcome)["dataset/answer"][1]["exact_match"]["estimate"] == 1
    again = evalrouter("eval", "rescore", outcome["run"]["id"], "--metrics", "f1", "--json")
    assert by_route(json.loads(again.stdout))["dataset/answer"][1]["f1"]["estimate"] == 1


def test_a_rescore_of_a_run_from_before_splits_thoughts_off(config, tmp_path):
    outcome = run(routes=["up/think"])
    run_id = outcome["run"]["id"]
    # As a version before this one wrote it.
    with sqlite3.connect(tmp_path / "evalrouter.db") as db:
        db.execute("UPDATE answers SET text = whole_text, whole_text = NULL, thinking = NULL")
    db.close()
    again = evalrouter("eval", "rescore", run_id, "--metrics", "exact_match,f1", "--json")
    scores = by_route(json.loads(again.stdout))["up/think"][1]
    assert scores["exact_match"]["estimate"] == scores["f1"]["estimate"] == 1


@pytest.mark.parametrize(
    ("policy", "treated"),
    [
        ("score", "scored as far as they go"),
        ("exclude", "have no scores"),
        ("zero", "as empty texts"),
    ],
)
def test_what_is_no_whole_answer_is_counted_and_treated_by_one_policy(config, policy, treated):
    names = [f"up/{model}" for models in SHORT.values() for model in models]
    outcome = run(routes=[*names, "up/whole", "up/blank", "up/null"], on_truncated=policy)
    report, warnings = by_route(outcome), outcome["report"]["warnings"]
    for shortfall, models in SHORT.items():
        for model in models:
            route, scores = report[f"up/{model}"]
            assert (route["answered"], route["failed"]) == (3, 0), model
            assert route["shortfalls"] == {shortfall: 3}
            [told] = [
                text
                for text in warnings
                if f"up/{model}" in text.partition(": 3 of 3 answers")[0].split(", ")
                and "on_truncated" in text
                and treated in text
            ]
            assert f"on_truncated: {policy}" in told
            exact, words = scores["exact_match"], scores["words"]
            if policy == "exclude":
                assert exact["estimate"] is words["estimate"] is None
                assert (exact["scored"], exact["unscored"]) == (0, 3)
            elif policy == "zero":
                assert (exact["estimate"], words["estimate"]) == (0, 0)
            else:
                assert exact["estimate"] == (model == "cut_text")
            # What is measured beside the text does not depend on it.
            assert scores["latency_s"]["scored"] == 3
    for model in ("whole", "blank", "null"):
        assert report[f"up/{model}"][0]["shortfalls"] == {}
        assert report[f"up/{model}"][0]["answered"] == 3
        assert report[f"up/{model}"][1]["exact_match"]["estimate"] == (model == "whole")


def test_the_reason_is_in_a_failure(config):
    names = ["up/tools", "up/tools_blank", "up/tools_function", "up/tools_text"]
    *calls, (text, _) = by_route(run(routes=names)).values()
    assert [[error["code"] for error in route["errors"]] for route, _ in calls] == [["no_text"]] * 3
    assert "(finish_reason tool_calls)" in calls[0][0]["errors"][0]["example"]
    assert text["errors"] == []


def test_a_pattern_that_takes_too_long_is_counted(config, tmp_path):
    answer = "a" * 60 + "b" * 60 + "c"
    (tmp_path / "q.jsonl").write_text(json.dumps(ROWS[0] | {"answer": answer}) + "\n")
    rules = {"strip_thinking": r"(a|a|a)+(b|b)+(a|a)+$"}
    outcome = run(routes=["dataset/answer"], answer=rules)
    route, scores = by_route(outcome)["dataset/answer"]
    assert route["shortfalls"] == {"unsplit": 1}
    assert scores["characters"]["estimate"] == 121
    told = "1 of 1 answers take too long to search with the pattern of strip_thinking"
    assert any(told in text for text in outcome["report"]["warnings"])


def test_a_comparison_counts_them_too_and_tells_of_another_policy(config, http):
    first = run(routes=["up/cut_text"], name="one")["run"]["id"]
    second = run(routes=["up/cut_text"], name="two", on_truncated="zero")["run"]["id"]
    with gateway(config) as url:
        compared = http.get(f"{url}/eval/compare?runs={first},{second}").json()
        told = " ".join(compared["warnings"])
        assert "on_truncated is score and zero" in told
        assert "3 of 3 answers were cut off at max_tokens" in told
        body = {"dataset": "q.jsonl", "routes": ["up/whole"], "metrics": []}
        for wrong, param in (
            ({"answer": {"strip_thinking": "("}}, "answer.strip_thinking"),
            ({"answer": {"strip": True}}, None),
            ({"on_truncated": "drop"}, None),
        ):
            refused = http.post(f"{url}/eval", json=body | wrong)
            assert refused.status_code == 400, wrong
            assert param is None or refused.json()["error"]["param"] == param
