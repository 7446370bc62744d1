"""Pages that follow and steer runs: their list, a run's forms and log, and the home page."""

import json

import pytest
from page_elements import BROWSER, Elements, check_policy
from servers import begun, clients_of, gateway
from stores import a_run, add_keys, in_store

from router.store.run_logs import LogLine

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(1)>"
ROLES = ("admin", "viewer", "client")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A server whose model `up/held` never answers, and browsers of its users, by role."""
    folder = tmp_path_factory.mktemp("run_actions")
    rows = [{"input": f"First {n}. Then more.", "reference": f"First {n}."} for n in range(6)]
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    async def fill(store):
        await store.add_run(a_run("run_logged", name="logged", state="completed"), [])
        lines = [LogLine(at=n, kind="error", source="up/x", text=ATTACK) for n in range(250)]
        await store.add_run_log("run_logged", lines)

    in_store(folder / "e.db", fill)
    keys = add_keys(folder / "e.db", *ROLES)
    config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
evaluation: {{roots: ["{folder}"]}}
datasets: {{roots: ["{folder}"]}}
providers:
  baseline: {{kind: baseline}}
  up: {{kind: scripted, script: {{held: [{{delay_s: 600}}], quick: [{{}}]}}}}
prices: {{"up/quick": {{input: 5, output: 15}}}}
routes: {{priced: {{targets: [{{model: up/quick}}]}}}}
"""
    with gateway(config) as url, clients_of(url, keys, BROWSER) as clients:
        yield clients, f"{folder}/d.jsonl"


def begin(http, dataset, **changes):
    document = {"dataset": dataset, "routes": ["baseline/echo"], "metrics": ["exact_match"]}
    return begun(http, document | changes)


def run_of(http, run_id):
    return http.get(f"/eval/{run_id}").json()["run"]


def wait_for(http, run_id, *states):
    while (run := run_of(http, run_id))["state"] not in states:
        pass
    return run


def send(http, run_id, action, status=303, **fields):
    answer = http.post(f"/pages/eval/{run_id}/{action}", data=fields)
    assert answer.status_code == status, answer.text
    if status == 303:
        expected = "/runs" if action == "delete" else f"/runs/{run_id}"
        assert answer.headers["location"] == expected
    else:
        check_policy(answer)
        assert answer.headers["hx-push-url"] == "false"
    return answer.text


def test_a_run_is_cancelled_resumed_with_its_failures_and_deleted(world):
    clients, dataset = world
    http = clients["admin"]
    run_id = begin(http, dataset, routes=["up/held"], limits={"concurrency": 1})
    wait_for(http, run_id, "running")
    page = http.get(f"/runs/{run_id}").text
    assert f'formaction="/pages/eval/{run_id}/pause"' in page
    assert f'hx-sse:connect="/pages/live/runs/{run_id}"' in page
    assert "Score again" not in page
    # A run under way is not deleted.
    assert "cancel it first" in send(http, run_id, "delete", 409)
    send(http, run_id, "cancel")
    assert wait_for(http, run_id, "cancelled")
    page = http.get(f"/runs/{run_id}").text
    assert "hx-sse:connect" not in page
    assert "Score again" in page
    assert "has stopped already" in send(http, run_id, "pause", 409)
    page = send(http, run_id, "resume", 400, cost_usd="-1", retry_failed="on")
    assert "limits.cost_usd" in Elements(page).text
    fields = {a.get("name"): a for tag, a in Elements(page).elements if tag == "input"}
    assert fields["cost_usd"]["value"] == "-1"
    assert "checked" in fields["retry_failed"]
    send(http, run_id, "resume", cost_usd="3")
    assert run_of(http, run_id)["document"]["limits"]["cost_usd"] == 3
    send(http, run_id, "cancel")
    send(http, run_id, "delete")
    assert http.get(f"/runs/{run_id}").status_code == 404


def test_a_run_is_scored_again_and_extended(world):
    clients, dataset = world
    http = clients["admin"]
    run_id = begin(http, dataset, limit=2)
    wait_for(http, run_id, "completed")
    page = send(http, run_id, "rescore", 400, metrics=f"f1\n{{name: regex, {ATTACK}: 1}}")
    assert "<script>" not in page
    assert f"f1\n{{name: regex, {ATTACK}: 1}}" in Elements(page).text
    send(http, run_id, "rescore", metrics='latency\n{name: regex, pattern: "T"}')
    run = wait_for(http, run_id, "completed")
    assert list(run["metrics"]) == ["exact_match", "latency", "regex"]
    page = send(http, run_id, "extend", 400, limit="many", repeats="2")
    fields = {a.get("name"): a for tag, a in Elements(page).elements if tag == "input"}
    assert (fields["limit"]["value"], fields["repeats"]["value"]) == ("many", "2")
    send(http, run_id, "extend", limit="4", repeats="2")
    assert wait_for(http, run_id, "completed")["cells"] == 8
    text = " ".join(Elements(http.get(f"/runs/{run_id}").text).text.split())
    assert "is between repeats of one sample: baseline/echo: latency_s" in text
    assert 'role="alert"' in send(http, run_id, "extend", 400, limit="1")


def test_who_may_not_change_a_run_sees_no_forms_and_cannot_send_them(world):
    clients, dataset = world
    run_id = begin(clients["admin"], dataset)
    wait_for(clients["admin"], run_id, "completed")
    for role, status in (("viewer", 200), ("client", 404)):
        page = clients[role].get(f"/runs/{run_id}")
        assert page.status_code == status
        assert "Score again" not in page.text
        assert "/runs/new" not in page.text
        for action in ("pause", "cancel", "resume", "rescore", "extend", "delete"):
            sent = clients[role].post(f"/pages/eval/{run_id}/{action}", data={})
            assert sent.status_code == 403, (role, action)
    assert run_of(clients["admin"], run_id)["state"] == "completed"
    sent = clients["admin"].post("/pages/eval/run_nothing/pause", data={})
    assert sent.status_code == 404


def first_event(http, path):
    with http.stream("GET", path) as answer:
        assert answer.status_code == 200
        text = ""
        for chunk in answer.iter_text():
            text += chunk
            if "\r\n\r\n" in text or "\n\n" in text:
                return text
    raise AssertionError(text)


def test_the_part_that_is_live_says_how_far_the_run_is(world):
    clients, dataset = world
    http = clients["admin"]
    run_id = begin(http, dataset, routes=["baseline/echo", "up/held"])
    wait_for(http, run_id, "running")
    for role, may in (("admin", True), ("viewer", False)):
        part = first_event(clients[role], f"/pages/live/runs/{run_id}")
        assert "of 12 answers are there" in part
        assert ("formaction" in part) == may
        # A part goes to all who see the same.
        assert "csrf_token" not in part
    send(http, run_id, "cancel")
    # A page that was open while the run stopped loads its results.
    assert 'hx-trigger="load"' in first_event(http, f"/pages/live/runs/{run_id}")
    assert 'hx-trigger="load"' not in http.get(f"/runs/{run_id}").text
    assert "cancelled" in first_event(http, f"/pages/live/runs/{run_id}/log")
    assert clients["client"].get(f"/pages/live/runs/{run_id}").status_code == 404


def test_the_log_is_paged_by_key_and_its_texts_are_no_markup(world):
    http = world[0]["viewer"]
    page = http.get("/runs/run_logged/log")
    check_policy(page)
    assert "<script>" not in page.text
    assert Elements(page.text).text.count(ATTACK) == 100
    seen, address = [], "/runs/run_logged/log?after=0"
    while address:
        text = http.get(address).text
        seen.append(Elements(text).text.count(ATTACK))
        links = [a for tag, a in Elements(text).elements if tag == "a" and a.get("rel") == "next"]
        address = links[0]["href"] if links else ""
    assert sum(seen) == 250
    assert len(seen) == 3
    assert 'rel="prev"' in page.text
    assert http.get("/runs/run_logged/log?after=-1").status_code == 400
    assert http.get("/runs/run_nothing/log").status_code == 404


def test_the_list_follows_runs_under_way(world):
    clients, dataset = world
    http = clients["admin"]
    added = http.post("/datasets", json={"source": dataset, "name": "mine"}).json()
    named = f"mine@{added['hash'][:12]}"
    run_id = begin(http, named, routes=["up/held"], experiment="followed", name=ATTACK)
    wait_for(http, run_id, "running")
    for path in ("/runs?experiment=followed", "/runs?dataset=mine", "/runs?state_is=running"):
        page = http.get(path).text
        assert "0 of 6" in page
        assert "<script>" not in page
        [live] = [a for _, a in Elements(page).elements if "hx-sse:connect" in a]
        part = first_event(http, live["hx-sse:connect"])
        assert "0 of 6" in part
        assert part.count(f'href="/runs/{run_id}"') == 1
        assert "csrf_token" not in part
    assert run_id not in first_event(clients["client"], "/pages/live/runs")
    assert run_id not in first_event(http, "/pages/live/runs?experiment=other")
    assert http.get("/runs?dataset=nothing").status_code == 404
    assert clients["client"].get("/runs?dataset=nothing").status_code == 200
    assert http.get("/pages/live/runs?sort=nothing").status_code == 400
    send(http, run_id, "cancel")
    assert "0 of 6" not in http.get("/runs?experiment=followed").text
    assert "progress" not in http.get("/runs?export=csv").text


def test_home_shows_what_routes_cost_and_how_long_they_take(world):
    http = world[0]["admin"]
    body = {"model": "priced", "messages": [{"role": "user", "content": "One. Two."}]}
    assert http.post("/v1/chat/completions", json=body).status_code == 200
    # The record of a request is written a moment after the answer.
    while 'class="plot-spark"' not in (page := http.get("/").text):
        pass
    assert "priced: US dollars in each 10 seconds" in page
    assert '<a href="/traffic?route=priced">priced</a>' in page
    assert "Times are of the newest" in page
    assert "First steps in this browser" not in page
    assert '<a href="/routes/priced">' in page
    assert '<a href="/routes/priced">' not in world[0]["client"].get("/").text
