"""Runs end to end: over HTTP, from the command line, killed and resumed."""

import json
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from oracle_data import DIALOGUES
from router_process import ForkedProcess
from servers import evalrouter, gateway, scripted

ROWS = [{"id": f"s{n}", "input": f"Say {n}", "reference": f"Say {n}"} for n in range(12)]
MODELS = {
    "echo": [{}],
    "wrong": [{"answer": "nothing of the kind"}],
    "some": [{"match": "Say (3|7)$", "status": 500}, {}],
    "slow": [{"delay_s": 0.05}],
    "stuck": [{"times": 40}, {"times": 16, "delay_s": 60}, {}],
    "tools": [
        {"body": {"choices": [{"message": {"content": None}, "finish_reason": "tool_calls"}]}}
    ],
    "priced": [{"usage": {"prompt_tokens": 1000, "completion_tokens": 100}}],
    "silent": [{"body": {"choices": [{"message": {"content": "yes"}}]}}],
    "odd": [
        {
            "body": {
                "choices": [{"message": {"content": "yes"}}],
                "usage": {"prompt_tokens": 10.5, "completion_tokens": "5", "total_tokens": -1},
            }
        }
    ],
    "huge": [
        {
            "body": {
                "choices": [{"message": {"content": "yes"}}],
                "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 2**64},
            }
        }
    ],
    "thinks": [{"usage": {"prompt_tokens": 1000, "completion_tokens": 0, "total_tokens": 1100}}],
    "a": [{"answer": "from a"}],
    "b": [{"answer": "from b"}],
}


@pytest.fixture
def upstream():
    with scripted(MODELS) as server:
        yield server


@pytest.fixture
def folder(tmp_path, monkeypatch, upstream):
    """A working directory with a config and a dataset in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evalrouter.yaml").write_text(f"""
server: {{port: 0}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}", api_key: sk-secret-key}}}}
routes:
  split:
    targets: [{{model: up/a, weight: 1}}, {{model: up/b, weight: 1}}]
  once: {{targets: [{{model: up/some}}], retries: {{attempts: 1}}}}
prices:
  up/priced: &price {{input: 1.0, output: 10.0}}
  up/silent: *price
  up/odd: *price
  up/huge: *price
  up/thinks: *price
  up/tools: {{input: 10.0, output: 10.0}}
""")
    write_rows(tmp_path / "data.jsonl", ROWS)
    return tmp_path


def user(text):
    return {"role": "user", "content": text}


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def document(**changes):
    return {"dataset": "data.jsonl", "routes": ["up/echo"], "metrics": ["exact_match"]} | changes


def run_file(folder, check=0, **changes):
    """Write a run document, run it, and give its outcome."""
    (folder / "run.json").write_text(json.dumps(document(**changes)))
    done = evalrouter("eval", "run", folder / "run.json", "--json", check=check)
    return json.loads(done.stdout)


def route_of(outcome, name):
    return next(row for row in outcome["report"]["routes"] if row["route"] == name)


def score_of(outcome, route, output):
    return next(score for score in route_of(outcome, route)["scores"] if score["output"] == output)


def test_over_http_from_document_to_report(folder, http, upstream):
    with gateway((folder / "evalrouter.yaml").read_text()) as url:
        body = document(
            routes=["up/echo", "up/wrong", "baseline/echo"],
            baseline="up/wrong",
            messages=[
                {"role": "system", "content": "Repeat."},
                {"role": "user", "content": "{{ input }}"},
            ],
            parameters={"temperature": 0, "stop": ["\n"]},
            gates=["exact_match > baseline"],
        )
        created = http.post(f"{url}/eval", json=body)
        assert created.status_code == 202
        run_id = created.json()["id"]

        with http.stream("GET", f"{url}/eval/{run_id}/events") as events:
            lines = list(events.iter_lines())
        assert "event: end" in lines
        last = json.loads(next(x for x in reversed(lines) if x.startswith("data:"))[5:])
        counts = {"cells": 36, "answered": 36, "failed": 0, "in_flight": 0, "scored": 36}
        assert last == {"state": "completed"} | counts

        shown = http.get(f"{url}/eval/{run_id[:12]}").json()
        assert shown["run"]["state"] == "completed"
        assert score_of(shown, "up/echo", "exact_match")["estimate"] == 1.0
        assert score_of(shown, "up/wrong", "exact_match")["estimate"] == 0.0
        assert [(g["route"], g["passed"]) for g in shown["gates"]] == [
            ("baseline/echo", True), ("up/echo", True),
        ]  # fmt: skip
        better = {
            comparison["route"]: comparison["verdict"]
            for comparison in shown["report"]["comparisons"]
        }
        assert better == {"up/echo": "better", "baseline/echo": "better"}

        sent = json.loads(bytes(upstream.log.requests[0].body))
        assert sent["temperature"] == 0
        assert sent["messages"][0] == {"role": "system", "content": "Repeat."}

        page = http.get(
            f"{url}/eval/{run_id}/samples", params={"limit": 5, "route": "up/echo"}
        ).json()
        assert [row["sample"]["id"] for row in page["data"]] == ["s0", "s1", "s2", "s3", "s4"]
        assert page["data"][1]["answer"]["text"] == "Say 1"
        assert page["data"][1]["scores"][0]["value"] == 1.0
        rest = http.get(
            f"{url}/eval/{run_id}/samples", params={"after": page["next"], "limit": 100}
        ).json()
        assert {row["sample"]["id"] for row in rest["data"]} == {f"s{n}" for n in range(5, 12)}
        assert rest["next"] is None

        assert http.get(f"{url}/eval").json()["data"][0]["id"] == run_id
        assert "up/wrong" in http.get(f"{url}/runs/{run_id}").text
        assert run_id in http.get(url).text
        again = http.post(f"{url}/eval/{run_id}/cancel")
        assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")
        assert http.delete(f"{url}/eval/{run_id}").status_code == 204
        gone = http.get(f"{url}/eval/{run_id}")
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"dataset": "dat.jsonl"}, None, "data.jsonl"),
        ({"dataset": "../outside.jsonl"}, "dataset", "outside"),
        ({"routes": ["up/echo", "up/echo"]}, "routes[1]", "twice"),
        ({"routes": ["splt"]}, "routes[0]", "'split'"),
        ({"routes": []}, "routes", "length"),
        ({"metrics": ["rogue"]}, "metrics[0]", "'rouge'"),
        ({"metrics": ["rouge", {"name": "rouge", "stemmer": True}]}, "metrics[1]", "rouge1"),
        ({"metrics": [{"name": "rouge", "stemer": True}]}, "metrics[0].stemer", "'stemmer'"),
        ({"messages": [user("{{ inptu }}")]}, "messages[0].content", "'input'"),
        ({"messages": [user("{{ input")]}, "messages[0].content", "template"),
        ({"prompt": "{{ nope }}"}, "prompt", "nope"),
        ({"baseline": "up/wrong"}, "baseline", "not one of"),
        ({"gates": ["rougeL >= 1"]}, "gates[0]", "rougeL"),
        ({"gates": ["exact_match ~ 1"]}, "gates[0]", "not a gate"),
        ({"gates": ["exact_match >= baseline"]}, "gates[0]", "no baseline"),
        ({"parameters": {"model": "x"}}, "parameters.model", "itself"),
        ({"parameters": {"n": 2}}, "parameters.n", "repeats"),
        ({"repeats": 0}, "repeats", ">= 1"),
        ({"routs": ["x"]}, "routs", "'routes'"),
        ({"limits": {"concurency": 1}}, "limits.concurency", "'concurrency'"),
    ],
)  # fmt: skip
def test_bad_documents_are_refused_before_anything_is_sent(
    folder, http, upstream, changes, param, message
):
    with gateway((folder / "evalrouter.yaml").read_text()) as url:
        reply = http.post(f"{url}/eval", json=document(**changes))
        error = reply.json()["error"]
        assert reply.status_code == 400, error
        assert error["param"] == param
        assert message in error["message"]
        assert http.get(f"{url}/eval").json()["data"] == []
        assert upstream.log.total == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no rows"),
        (b'{"input": "x", "reference": "y"}\n{"input": 1\n', "data.jsonl:2"),
        (b'{"input": "\xff"}\n', "data.jsonl:1"),
        (b'{"id": 1, "input": "x", "reference": "y"}\n{"id": 1, "input": "z"}\n', "data.jsonl:2"),
        (
            b'{"input": "x", "reference": "y"}\n{"input": "z", "reference": " "}\n',
            "no reference (id 2), but these metrics need one",
        ),
    ],
)
def test_bad_datasets_are_refused_with_their_line(folder, upstream, content, message):
    (folder / "data.jsonl").write_bytes(content)
    (folder / "run.yaml").write_text(json.dumps(document()))
    done = evalrouter("eval", "run", folder / "run.yaml", check=2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert upstream.log.total == 0


def test_a_line_of_100_mb_is_refused_without_reading_it_all(folder):
    with (folder / "data.jsonl").open("wb") as file:
        file.write(b'{"input": "')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n')
    (folder / "run.yaml").write_text(json.dumps(document()))
    assert "data.jsonl:1" in evalrouter("eval", "run", "run.yaml", check=2).stderr


def test_failures_are_counted_and_never_averaged_in(folder):
    outcome = run_file(folder, routes=["once", "up/tools"])
    some = route_of(outcome, "once")
    assert (some["answered"], some["failed"]) == (10, 2)
    assert some["errors"][0]["code"] == "upstream_500"
    score = score_of(outcome, "once", "exact_match")
    assert score["estimate"] == 1.0
    assert score["coverage"] == pytest.approx(10 / 12)
    assert route_of(outcome, "up/tools")["errors"][0]["code"] == "no_text"
    assert score_of(outcome, "up/tools", "exact_match")["estimate"] is None


def test_failed_samples_are_asked_again_only_when_wanted(folder, upstream):
    outcome = run_file(folder, routes=["once"])
    run_id, before = outcome["run"]["id"], upstream.log.total
    evalrouter("eval", "resume", run_id, check=0)
    assert upstream.log.total == before
    evalrouter("eval", "resume", run_id, "--retry-failed", check=0)
    assert upstream.log.total == before + 2


def test_a_gate_that_fails_is_exit_code_1(folder):
    outcome = run_file(folder, check=1, routes=["up/wrong"], gates=["exact_match >= 0.5"])
    assert outcome["gates"][0]["passed"] is False
    run_file(folder, check=0, routes=["up/echo"], gates=["exact_match >= 0.5"])


def test_a_score_that_is_missing_fails_its_gate(folder):
    run_file(folder, check=1, routes=["up/tools"], gates=["exact_match >= 0"])


def test_a_weighted_route_asks_the_same_targets_again(folder):
    first = run_file(folder, routes=["split"], cache=False)
    second = run_file(folder, routes=["split"], cache=False)
    shares = route_of(first, "split")["targets"]
    assert set(shares) == {"up/a", "up/b"}
    assert route_of(second, "split")["targets"] == shares


def test_the_same_request_is_paid_for_once(folder, upstream):
    run_file(folder)
    sent = upstream.log.total
    again = run_file(folder)
    assert upstream.log.total == sent
    assert route_of(again, "up/echo")["cached"] == 12
    run_file(folder, parameters={"temperature": 1})
    assert upstream.log.total == 2 * sent
    run_file(folder, cache=False)
    assert upstream.log.total == 3 * sent


def test_repeats_are_asked_each(folder, upstream):
    outcome = run_file(folder, repeats=3)
    assert upstream.log.total == 36
    score = score_of(outcome, "up/echo", "exact_match")
    assert (score["n"], score["scored"]) == (12, 36)


def test_cost_is_known_where_the_price_is(folder):
    outcome = run_file(folder, routes=["up/priced", "up/echo", "baseline/echo"], metrics=["cost"])
    # 1,000 prompt tokens at $1 and 100 completion tokens at $10 per million, 12 times.
    assert route_of(outcome, "up/priced")["cost"]["total_usd"] == pytest.approx(12 * 0.002)
    assert route_of(outcome, "up/echo")["cost"]["total_usd"] is None
    assert route_of(outcome, "baseline/echo")["cost"]["total_usd"] == 0.0
    assert outcome["run"]["cost_usd"] == pytest.approx(12 * 0.002)


def test_a_cost_limit_stops_a_run_that_can_go_on(folder, upstream):
    limits = {"cost_usd": 0.005, "concurrency": 1}
    outcome = run_file(folder, check=1, routes=["up/priced"], limits=limits)
    assert outcome["run"]["state"] == "cancelled"
    assert "limit" in outcome["run"]["stopped"]
    assert 3 <= upstream.log.total <= 5


@pytest.mark.parametrize("model", ["huge", "thinks"])
def test_an_evaluation_is_charged_what_live_requests_are(folder, model):
    outcome = run_file(folder, routes=[f"up/{model}"], metrics=["cost"])
    assert route_of(outcome, f"up/{model}")["cost"]["total_usd"] == pytest.approx(12 * 0.002)


@pytest.mark.parametrize("model", ["silent", "odd"])
def test_an_evaluation_of_a_silent_host_is_charged_an_estimate(folder, model):
    outcome = run_file(folder, routes=[f"up/{model}"], metrics=["cost"])
    assert route_of(outcome, f"up/{model}")["answered"] == 12
    # Some ten tokens of a prompt, and one of an answer.
    total = route_of(outcome, f"up/{model}")["cost"]["total_usd"]
    assert 12 * 11e-6 < total < 12 * 30e-6


@pytest.mark.parametrize("model", ["silent", "odd", "tools"])
@pytest.mark.parametrize(("limit", "maximum"), [("cost_usd", 0.0001), ("tokens", 60)])
def test_a_limit_holds_whatever_the_host_reports(folder, upstream, model, limit, maximum):
    limits = {limit: maximum, "concurrency": 1}
    outcome = run_file(folder, check=1, routes=[f"up/{model}"], limits=limits)
    assert outcome["run"]["state"] == "cancelled"
    assert limit in outcome["run"]["stopped"]
    assert 1 <= upstream.log.total < 12


def test_limit_takes_the_first_rows(folder, upstream):
    outcome = run_file(folder, limit=5)
    assert outcome["run"]["dataset_rows"] == 5
    assert upstream.log.total == 5


def test_kill_9_in_mid_run_and_resume_sends_nothing_finished_twice(folder, upstream):
    rows = [{"input": f"Say {n}", "reference": f"Say {n}"} for n in range(200)]
    write_rows(folder / "data.jsonl", rows)
    (folder / "run.json").write_text(
        json.dumps(document(routes=["up/slow", "up/echo"], limits={"concurrency": 8}))
    )
    process = ForkedProcess("eval", "run", "run.json", stderr=subprocess.PIPE, text=True)
    run_id = process.stderr.readline().split(":")[0]
    while upstream.log.total < 100:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    outcome = json.loads(evalrouter("eval", "resume", run_id, "--json", check=0).stdout)
    assert outcome["run"]["state"] == "completed"
    interrupted = outcome["run"]["interrupted"]
    # Eight on their way, two of each route about to be, and answers on their way to the disk.
    assert 0 < interrupted <= 20
    for route in ("up/slow", "up/echo"):
        assert route_of(outcome, route)["answered"] == 200
        assert score_of(outcome, route, "exact_match")["coverage"] == 1.0
    # What was in flight when the process died is all that was ever sent a second time.
    sent = Counter((request.model, bytes(request.body)) for request in upstream.log.requests)
    assert len(sent) == 400
    assert sum(count - 1 for count in sent.values()) <= interrupted


def test_ctrl_c_stops_a_run_and_says_how_to_go_on(folder, upstream):
    rows = [{"input": f"Say {n}", "reference": f"Say {n}"} for n in range(300)]
    write_rows(folder / "data.jsonl", rows)
    (folder / "run.json").write_text(
        json.dumps(document(routes=["up/slow"], limits={"concurrency": 4}))
    )
    process = ForkedProcess("eval", "run", "run.json", stderr=subprocess.PIPE, text=True)
    run_id = process.stderr.readline().split(":")[0]
    while upstream.log.total < 20:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate()[1]
    assert process.returncode == 1
    assert f"evalrouter eval resume {run_id}" in stderr
    assert "Traceback" not in stderr
    evalrouter("eval", "resume", run_id, check=0)


def test_a_run_has_one_owner(folder, http, upstream):
    rows = [{"input": f"Say {n}", "reference": f"Say {n}"} for n in range(300)]
    write_rows(folder / "data.jsonl", rows)
    with gateway((folder / "evalrouter.yaml").read_text()) as url:
        run_id = http.post(f"{url}/eval", json=document(routes=["up/stuck"])).json()["id"]
        while upstream.log.total < 56:
            time.sleep(0.01)
        done = evalrouter("eval", "resume", run_id, check=2)
        assert "another process" in done.stderr
        assert http.post(f"{url}/eval/{run_id}/resume").status_code == 409
        assert http.delete(f"{url}/eval/{run_id}").status_code == 409
        assert http.post(f"{url}/eval/{run_id}/cancel").json()["state"] == "cancelled"
        assert upstream.log.total == 56
        assert http.post(f"{url}/eval/{run_id}/resume").status_code == 202
        with http.stream("GET", f"{url}/eval/{run_id}/events") as events:
            assert "event: end" in list(events.iter_lines())
        assert http.get(f"{url}/eval/{run_id}").json()["report"]["routes"][0]["answered"] == 300


def test_list_and_show(folder):
    assert "No runs yet" in evalrouter("eval", "list", check=0).stdout
    run_id = run_file(folder)["run"]["id"]
    assert run_id[:8] in evalrouter("eval", "list", check=0, COLUMNS="200").stdout
    assert json.loads(evalrouter("eval", "list", "--json").stdout)[0]["id"] == run_id
    assert "exact_match" in evalrouter("eval", "show", run_id, check=0).stdout
    done = evalrouter("eval", "show", "run_nope", check=2)
    assert "no run" in done.stderr


def test_a_server_without_a_usable_database_says_so(folder):
    (folder / "evalrouter.yaml").write_text('storage: {database: "sqlite:///no/such/folder/e.db"}')
    done = evalrouter("eval", "list", check=1)
    assert "no/such/folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_secrets_are_not_in_the_database_nor_in_what_is_printed(folder):
    run_file(folder, routes=["once"])
    content = b"".join(path.read_bytes() for path in Path().glob("evalrouter.db*"))
    assert b"upstream_500" in content
    assert b"sk-secret-key" not in content


def test_a_file_of_lumigators_shape(folder):
    source = DIALOGUES / "references.csv"
    outcome = run_file(folder, dataset=str(source), routes=["baseline/lead-3"], metrics=["rouge"])
    assert outcome["run"]["state"] == "completed"
    assert outcome["run"]["dataset_rows"] == 5
    assert route_of(outcome, "baseline/lead-3")["answered"] == 5


def test_run_documents_survive_a_round_trip(folder):
    outcome = run_file(folder, parameters={"temperature": 0.1}, name="named")
    again = msgspec.json.decode(json.dumps(outcome["run"]["document"]))
    assert again["parameters"] == {"temperature": 0.1}
    assert outcome["run"]["name"] == "named"
