"""A run's life: taken up by servers, paused, cancelled, scored again, extended, watched."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing

import httpx
import pytest
from router_process import ForkedProcess
from servers import evalrouter, gateway, process, scripted

MODELS = {
    "echo": [{"usage": {"prompt_tokens": 10, "completion_tokens": 5}}],
    "slow": [{"delay_s": 0.05}],
    "stuck": [{"times": 20}, {"times": 8, "delay_s": 3}, {"delay_s": 0.01}],
    "some": [{"match": "Say (3|7)$", "status": 400}, {}],
}


@pytest.fixture
def upstream():
    with scripted(MODELS) as server:
        yield server


@pytest.fixture
def folder(tmp_path, monkeypatch, upstream):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evalrouter.yaml").write_text(f"""
server: {{port: 0, drain_seconds: 1}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}
prices: {{up/echo: {{input: 1.0, output: 10.0}}}}
""")
    write_rows(tmp_path / "data.jsonl", 12)
    write_rows(tmp_path / "long.jsonl", 400)
    return tmp_path


def write_rows(path, count, say="Say"):
    rows = [{"input": f"{say} {n}", "reference": f"{say} {n}"} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def document(**changes):
    return {"dataset": "data.jsonl", "routes": ["up/echo"], "metrics": ["exact_match"]} | changes


def run_file(folder, check=0, **changes):
    (folder / "run.json").write_text(json.dumps(document(**changes)))
    return json.loads(evalrouter("eval", "run", "run.json", "--json", check=check).stdout)


def begin(folder, **changes):
    """A run that a command carries out in a process of its own; the process and the run's id."""
    (folder / "run.json").write_text(json.dumps(document(**changes)))
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    child = ForkedProcess("eval", "run", "run.json", **pipes)
    return child, child.stderr.readline().split(":")[0]


def wait_for(condition):
    until = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)


def scores(outcome, route="up/echo"):
    row = next(row for row in outcome["report"]["routes"] if row["route"] == route)
    return {score["output"]: score for score in row["scores"]}


def state_of(url, run_id):
    return httpx.get(f"{url}/eval/{run_id}").json()["run"]["state"]


def test_a_killed_servers_run_is_taken_up_by_another_server(folder, upstream):
    with process(folder) as (first, url):
        body = document(dataset="long.jsonl", routes=["up/slow"])
        run_id = httpx.post(f"{url}/eval", json=body).json()["id"]
        wait_for(lambda: upstream.log.total > 40)
        first.kill()
        first.wait()
    with process(folder) as (_, url):
        wait_for(lambda: state_of(url, run_id) == "completed")
        shown = httpx.get(f"{url}/eval/{run_id}").json()
    assert shown["run"]["interrupted"] > 0
    assert scores(shown, "up/slow")["exact_match"]["scored"] == 400
    again = sum(Counter(bytes(request.body) for request in upstream.log.requests).values()) - 400
    assert again <= shown["run"]["interrupted"]


def test_a_run_that_cannot_be_read_keeps_no_other_from_being_taken_up(folder, upstream):
    with process(folder) as (first, url):
        body = document(dataset="long.jsonl", routes=["up/slow"])
        damaged, other = (httpx.post(f"{url}/eval", json=body).json()["id"] for _ in range(2))
        wait_for(lambda: upstream.log.total > 40)
        first.kill()
        first.wait()
    with closing(sqlite3.connect(folder / "evalrouter.db")) as db, db:
        db.execute("UPDATE runs SET document = 'not JSON' WHERE id = ?", (damaged,))
    with process(folder) as (second, url):
        wait_for(lambda: state_of(url, other) == "completed")
        listed = {run["id"]: run for run in httpx.get(f"{url}/eval").json()["data"]}
        assert listed[other]["state"] == "completed"
        assert listed[damaged]["state"] == "failed"
        assert "document" in listed[damaged]["error"]
        for method, path in (("GET", ""), ("POST", "/resume"), ("POST", "/cancel")):
            reply = httpx.request(method, f"{url}/eval/{damaged}{path}")
            assert reply.status_code == 500
            assert f"{damaged} cannot be read" in reply.json()["error"]["message"]
        assert damaged in httpx.get(url).text
        assert damaged in evalrouter("eval", "list").stdout
        judge = ("judge", "compare", damaged, "up/slow", "up/echo", "--judge", "up/echo")
        assert f"{damaged} cannot be read" in evalrouter(*judge, check=1).stderr
        with closing(sqlite3.connect(folder / "evalrouter.db")) as db:
            [stored] = db.execute("SELECT state, owner FROM runs WHERE id = ?", (damaged,))
        assert stored == ("failed", "")
        assert httpx.delete(f"{url}/eval/{damaged}").status_code == 204
        assert list(listed) != [run["id"] for run in httpx.get(f"{url}/eval").json()["data"]]
        second.send_signal(signal.SIGTERM)
        log = second.stderr.read()
    assert log.count(f"{damaged} cannot be read") == 1


def test_a_server_that_ends_finishes_what_is_in_flight(folder, upstream):
    with process(folder) as (first, url):
        body = document(dataset="long.jsonl", routes=["up/slow"])
        run_id = httpx.post(f"{url}/eval", json=body).json()["id"]
        wait_for(lambda: upstream.log.total > 40)
        first.send_signal(signal.SIGTERM)
        assert first.wait(20) == 0
    listed = json.loads(evalrouter("eval", "list", "--json").stdout)
    assert [(run["state"], run["owner"]) for run in listed] == [("queued", "")]
    with process(folder) as (_, url):
        wait_for(lambda: state_of(url, run_id) == "completed")
        assert httpx.get(f"{url}/eval/{run_id}").json()["run"]["interrupted"] == 0
    assert upstream.log.total == 400


def test_a_commands_run_is_left_to_the_command(folder, upstream):
    child, run_id = begin(folder, dataset="long.jsonl", routes=["up/slow"])
    wait_for(lambda: upstream.log.total > 40)
    child.kill()
    child.communicate()
    with process(folder) as (_, url):
        # A run of the server's own, to know when it has looked.
        other = httpx.post(f"{url}/eval", json=document()).json()["id"]
        wait_for(lambda: state_of(url, other) == "completed")
        assert state_of(url, run_id) == "running"
        stderr = evalrouter("eval", "watch", run_id, check=2).stderr
        assert f"evalrouter eval resume {run_id}" in stderr
        # Unless it is asked to.
        assert httpx.post(f"{url}/eval/{run_id}/resume").status_code == 202
        wait_for(lambda: state_of(url, run_id) == "completed")


def test_pause_finishes_what_is_in_flight_and_resume_goes_on(folder, http, upstream):
    with gateway((folder / "evalrouter.yaml").read_text()) as url:
        body = document(dataset="long.jsonl", routes=["up/stuck"], limits={"concurrency": 4})
        run_id = http.post(f"{url}/eval", json=body).json()["id"]
        wait_for(lambda: upstream.log.total > 22)
        paused = http.post(f"{url}/eval/{run_id}/pause").json()
        assert paused["state"] == "paused"
        sent = upstream.log.total
        counts = http.get(f"{url}/eval/{run_id}").json()["report"]["routes"][0]
        assert counts["answered"] == sent
        assert http.post(f"{url}/eval/{run_id}/pause").status_code == 409
        assert http.post(f"{url}/eval/{run_id}/resume").json()["state"] in {"queued", "running"}
        wait_for(lambda: state_of(url, run_id) == "completed")
        assert upstream.log.total == 400
        assert http.get(f"{url}/eval/{run_id}").json()["run"]["interrupted"] == 0


@pytest.mark.parametrize(("action", "state"), [("pause", "paused"), ("cancel", "cancelled")])
def test_a_run_of_another_process_is_stopped_through_the_store(folder, upstream, action, state):
    limits = {"concurrency": 1}
    child, run_id = begin(folder, dataset="long.jsonl", routes=["up/slow"], limits=limits)
    wait_for(lambda: upstream.log.total > 5)
    assert f"{run_id} {state}" in evalrouter("eval", action, run_id).stdout
    child.communicate(timeout=100)
    assert child.returncode == 1
    [run] = json.loads(evalrouter("eval", "list", "--json").stdout)
    assert (run["state"], run["wish"], run["owner"]) == (state, "", "")
    assert upstream.log.total < 400


def test_watch_follows_a_run_of_a_server(folder, upstream):
    with process(folder) as (_, url):
        body = document(dataset="long.jsonl", routes=["up/slow"])
        run_id = httpx.post(f"{url}/eval", json=body).json()["id"]
        done = evalrouter("eval", "watch", run_id, "--json")
    assert json.loads(done.stdout)["run"]["state"] == "completed"
    assert f"{run_id}: 400/400" in done.stderr


def test_rescore_adds_metrics_and_asks_nothing(folder, upstream):
    first = run_file(folder, routes=["up/echo", "up/some"])
    run_id, sent = first["run"]["id"], upstream.log.total
    again = json.loads(
        evalrouter("eval", "rescore", run_id, "--metrics", "length", "--json").stdout
    )
    assert upstream.log.total == sent
    assert set(again["run"]["metrics"]) == {"exact_match", "length"}
    assert again["run"]["state"] == "completed"
    for route, scored in (("up/echo", 12), ("up/some", 10)):
        by_output = scores(again, route)
        assert by_output["exact_match"] == scores(first, route)["exact_match"]
        assert {score["scored"] for score in by_output.values()} == {scored}
        assert len(by_output) > 1


def test_rescore_replaces_a_metric_of_the_same_name(folder, http, upstream):
    with gateway((folder / "evalrouter.yaml").read_text()) as url:
        body = document(metrics=["rouge", "exact_match"])
        run_id = http.post(f"{url}/eval", json=body).json()["id"]
        wait_for(lambda: state_of(url, run_id) == "completed")
        first = http.get(f"{url}/eval/{run_id}").json()
        metrics = [{"name": "rouge", "stemmer": True}]
        made = http.post(f"{url}/eval/{run_id}/rescore", json={"metrics": metrics})
        assert made.status_code == 202, made.text
        wait_for(lambda: state_of(url, run_id) == "completed")
        second = http.get(f"{url}/eval/{run_id}").json()
        assert second["run"]["metrics"]["rouge"] != first["run"]["metrics"]["rouge"]
        assert second["run"]["document"]["metrics"] == [*metrics, "exact_match"]
        assert list(scores(second)) == list(scores(first))
        assert scores(second)["exact_match"] == scores(first)["exact_match"]
        assert upstream.log.total == 12
        bad = http.post(f"{url}/eval/{run_id}/rescore", json={"metrics": ["rogue"]})
        assert bad.json()["error"]["param"] == "metrics[0]"
        bad = http.post(f"{url}/eval/{run_id}/rescore", json={"metric": []})
        assert "'metrics'" in bad.json()["error"]["message"]


def test_a_rescore_of_an_unfinished_run_does_not_ask_the_rest(folder, upstream):
    # Of 15 tokens each; one request in flight at most.
    limits = {"tokens": 40, "concurrency": 1}
    first = run_file(folder, check=1, limits=limits)
    assert "tokens: 40" in first["run"]["stopped"]
    sent = upstream.log.total
    assert 3 <= sent < 6
    run_id = first["run"]["id"]
    again = evalrouter("eval", "rescore", run_id, "--metrics", "length", "--json", check=1)
    outcome = json.loads(again.stdout)
    assert upstream.log.total == sent
    assert {name: score["scored"] for name, score in scores(outcome).items()} == {
        "exact_match": sent,
        "characters": sent,
        "words": sent,
    }
    assert "never answered" in outcome["run"]["stopped"]
    # Its limit counts over all attempts.
    evalrouter("eval", "resume", run_id, check=1)
    assert upstream.log.total == sent
    done = json.loads(evalrouter("eval", "resume", run_id, "--tokens", 1000, "--json").stdout)
    assert {score["scored"] for score in scores(done).values()} == {12}
    assert upstream.log.total == 12


def test_a_limit_of_seconds_stops_a_run(folder, upstream):
    limits = {"seconds": 0.5, "concurrency": 2}
    stopped = run_file(folder, check=1, dataset="long.jsonl", routes=["up/slow"], limits=limits)
    assert "seconds: 0.5" in stopped["run"]["stopped"]
    assert 0 < upstream.log.total < 400
    assert stopped["report"]["routes"][0]["answered"] == upstream.log.total


def test_extend_asks_only_what_is_new(folder, upstream):
    first = run_file(folder, limit=5)
    run_id = first["run"]["id"]
    more = json.loads(evalrouter("eval", "extend", run_id, "--limit", 9, "--json").stdout)
    assert upstream.log.total == 9
    assert (more["run"]["dataset_rows"], more["run"]["cells"]) == (9, 9)
    # Whoever extends a run has read it: a second look needs numbers that hold at both.
    assert (first["report"]["always_valid"], more["report"]["always_valid"]) == (False, True)
    assert scores(first)["exact_match"]["method"] == "wilson"
    assert scores(more)["exact_match"]["method"] == "betting"
    assert more["run"]["document"]["looks"] == 1
    assert any("was extended after it could be read" in one for one in more["report"]["warnings"])
    more = json.loads(evalrouter("eval", "extend", run_id, "--repeats", 3, "--json").stdout)
    assert upstream.log.total == 27
    assert scores(more)["exact_match"]["scored"] == 27
    rest = json.loads(evalrouter("eval", "extend", run_id, "--limit", 100, "--json").stdout)
    assert rest["run"]["dataset_rows"] == 12
    assert upstream.log.total == 36
    stderr = evalrouter("eval", "extend", run_id, "--limit", 200, check=2).stderr
    assert "all 12 samples" in stderr
    stderr = evalrouter("eval", "extend", run_id, "--limit", 3, check=2).stderr
    assert "12 samples already" in stderr
    assert "limit" in evalrouter("eval", "extend", run_id, check=2).stderr


def test_a_changed_dataset_is_not_taken_for_the_same(folder, upstream):
    first = run_file(folder, limit=5)
    write_rows(folder / "data.jsonl", 13)
    stderr = evalrouter("eval", "extend", first["run"]["id"], "--limit", 9, check=2).stderr
    assert "has changed" in stderr
    assert upstream.log.total == 5


def test_a_full_disk_stops_the_run_with_its_rows_intact(folder, upstream):
    """A bound on the size of files stands for the disk."""
    (folder / "run.json").write_text(
        json.dumps(document(dataset="long.jsonl", routes=["up/slow"], parameters={"x": "y" * 50}))
    )
    bounded = (
        "import resource, sys; from router.cli import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000));"
        "sys.argv = ['evalrouter', 'eval', 'run', 'run.json']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", bounded], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot" in done.stderr
    sent = upstream.log.total
    assert 0 < sent < 400
    [run] = json.loads(evalrouter("eval", "list", "--json").stdout)
    shown = json.loads(evalrouter("eval", "show", run["id"], "--json").stdout)
    answered = shown["report"]["routes"][0]["answered"]
    # Sixteen on their way, and at most as many answers on their way to the disk.
    assert sent - 32 <= answered <= sent
    whole = json.loads(evalrouter("eval", "resume", run["id"], "--json").stdout)
    assert whole["report"]["routes"][0]["answered"] == 400
    assert 400 <= upstream.log.total <= 400 + whole["run"]["interrupted"]


def test_each_row_says_how_it_came_about(folder, http, upstream):
    with gateway((folder / "evalrouter.yaml").read_text()) as url:
        run_id = http.post(f"{url}/eval", json=document()).json()["id"]
        wait_for(lambda: state_of(url, run_id) == "completed")
        row = http.get(f"{url}/eval/{run_id}/samples").json()["data"][0]
    answer = row["answer"]
    assert len(row["request_hash"]) == 64
    assert row["interrupted"] == 0
    assert row["asked_at"] <= row["answered_at"]
    assert [
        (attempt["target"], attempt["result"], attempt["status"]) for attempt in row["attempts"]
    ] == [("up/echo", "ok", 200)]
    assert 0 < answer["first_byte_s"] <= answer["total_s"]
    assert answer["usage"]["prompt_tokens"] == 10
    assert answer["cost_usd"] == pytest.approx(60e-6)
    assert answer["model"] == "echo"
    assert answer["finish_reason"] == "stop"
    assert answer["translation"] is not None
    assert row["scores"][0]["passed"] is None


def test_stop_when_ends_a_run_and_says_why(folder, http, upstream):
    with gateway((folder / "evalrouter.yaml").read_text()) as url:
        rule = {"half_width": 0.2, "min_samples": 20}
        body = document(dataset="long.jsonl", stop_when=rule, limits={"concurrency": 2})
        run_id = http.post(f"{url}/eval", json=body).json()["id"]
        wait_for(lambda: state_of(url, run_id) == "completed")
        run = http.get(f"{url}/eval/{run_id}").json()["run"]
        sent = upstream.log.total
        assert 20 <= sent < 400
        assert "0.2" in run["stopped"]
        report = http.get(f"{url}/eval/{run_id}").json()["report"]
        assert report["always_valid"]
        assert report["routes"][0]["scores"][0]["method"] == "betting"
        assert "hold whenever one looks" in report["method"]
        assert any("ended early" in warning for warning in report["warnings"])
        # Its question is answered, so that there is nothing to go on with.
        http.post(f"{url}/eval/{run_id}/resume")
        wait_for(lambda: state_of(url, run_id) == "completed")
        assert upstream.log.total == sent
        body["stop_when"] = {"half_width": 0.2, "output": "exact_mach"}
        error = http.post(f"{url}/eval", json=body).json()["error"]
        assert error["param"] == "stop_when.output"


def test_answers_of_the_dataset_are_a_route_that_is_not_asked(folder, http, upstream):
    rows = [{"input": f"Say {n}", "reference": f"Say {n}", "answer": f"Say {n}"} for n in range(9)]
    rows.append({"input": "Say 9", "reference": "Say 9", "answer": None})
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with gateway((folder / "evalrouter.yaml").read_text()) as url:
        body = document(routes=["dataset/answer", "up/echo"], baseline="dataset/answer")
        run_id = http.post(f"{url}/eval", json=body).json()["id"]
        wait_for(lambda: state_of(url, run_id) == "completed")
        shown = http.get(f"{url}/eval/{run_id}").json()
        brought, requested = shown["report"]["routes"]
        assert (brought["answered"], brought["failed"]) == (9, 1)
        assert brought["errors"][0]["code"] == "no_answer"
        assert scores(shown, "dataset/answer")["exact_match"]["estimate"] == 1.0
        assert requested["answered"] == upstream.log.total == 10
        assert shown["report"]["comparisons"][0]["n"] == 9
        rows = http.get(f"{url}/eval/{run_id}/samples?route=dataset/answer").json()["data"]
        assert (rows[0]["answer"]["text"], rows[0]["answer"]["attempts"]) == ("Say 0", 0)
        body["repeats"] = 2
        assert http.post(f"{url}/eval", json=body).json()["error"]["param"] == "repeats"


def test_a_run_whose_metric_has_changed_is_not_resumed(folder, http):
    """It is refused at once where answers lack its scores, and where requests are left."""
    both = ["exact_match", "f1"]
    run_id = run_file(folder, routes=["up/some"], metrics=both)["run"]["id"]
    changed = "UPDATE runs SET metrics = json_set(metrics, '$.exact_match', 'of last year')"
    lacking = "DELETE FROM scores WHERE output = ? AND answer = 1"
    with gateway((folder / "evalrouter.yaml").read_text()) as url:
        with closing(sqlite3.connect("evalrouter.db")) as db, db:
            db.execute(changed)
        # Its answers have all their scores, and no request is left.
        assert resumed(http, url, run_id) == "completed"
        refused(http, url, run_id, "?retry_failed=true")
        for output, wrong in (("exact_match", True), ("f1", False)):
            with closing(sqlite3.connect("evalrouter.db")) as db, db:
                assert db.execute(lacking, (output,)).rowcount == 1
                db.execute("UPDATE answers SET scored = 0 WHERE id = 1")
            if wrong:
                refused(http, url, run_id)
                with closing(sqlite3.connect("evalrouter.db")) as db, db:
                    db.execute(
                        "INSERT INTO scores (answer, output, value) VALUES (1, ?, 1)", [output]
                    )
            else:
                assert resumed(http, url, run_id) == "completed"


def refused(http, url, run_id, query=""):
    before = state_of(url, run_id)
    reply = http.post(f"{url}/eval/{run_id}/resume{query}")
    assert reply.status_code == 409
    message = reply.json()["error"]["message"]
    assert "exact_match is now " in message
    assert "'of last year'" in message
    assert f"eval rescore {run_id} --metrics exact_match" in message
    assert state_of(url, run_id) == before


def resumed(http, url, run_id):
    assert http.post(f"{url}/eval/{run_id}/resume").status_code == 202
    wait_for(lambda: state_of(url, run_id) in {"completed", "failed"})
    return state_of(url, run_id)


def test_pause_and_cancel_take_no_options(folder, http):
    with gateway((folder / "evalrouter.yaml").read_text()) as url:
        body = document(dataset="long.jsonl", routes=["up/slow"], limits={"concurrency": 1})
        run_id = http.post(f"{url}/eval", json=body).json()["id"]
        for action in ("pause", "cancel"):
            for content, named in (
                (b'{"within": 5}', "within"),
                (b"[]", "object"),
                (b"pause", "The body is not JSON"),
            ):
                reply = http.post(f"{url}/eval/{run_id}/{action}", content=content)
                assert reply.status_code == 400
                assert named in reply.json()["error"]["message"]
        assert state_of(url, run_id) in {"queued", "running"}
        for action in ("pause", "cancel"):
            assert http.post(f"{url}/eval/{run_id}/{action}", json={}).status_code == 200


def test_a_run_is_deleted_by_command(folder):
    run_id = run_file(folder)["run"]["id"]
    # A unique prefix is enough, as for the other commands.
    assert evalrouter("eval", "delete", run_id[:-3]).stdout == f"{run_id} deleted\n"
    assert json.loads(evalrouter("eval", "list", "--json").stdout) == []
    assert "There is no run" in evalrouter("eval", "delete", run_id, check=2).stderr
