"""Every operation of the HTTP API answers on PostgreSQL as it does on SQLite."""

from __future__ import annotations

import time

import httpx
import pytest
from servers import gateway, scripted

RUN = {
    "dataset": "d.jsonl",
    "routes": ["r"],
    "metrics": ["exact_match", {"name": "prometheus", "judge": "j", "rubric": "helpfulness"}],
    "name": "n",
    "experiment": "e",
    "tags": ["t", "u"],
}
CHAT = {"model": "r", "messages": [{"role": "user", "content": "\0"}]}
# In this order: what an earlier one makes, a later one needs. `{run}` is the first run's id.
CHANGES = [
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/chat/completions", {"model": "nobody", "messages": []}),
    ("PUT", "/routes/s", {"targets": [{"model": "up/echo"}]}),
    ("PUT", "/routes/t", {"targets": [{"model": "up/echo"}]}),
    ("DELETE", "/routes/t", None),
    ("POST", "/eval?dry_run=true", RUN),
    ("POST", "/datasets", {"source": "d.jsonl", "name": "d"}),
    ("PUT", "/datasets/p?filename=d.jsonl", {"input": "x", "reference": "y"}),
    ("PATCH", "/experiments/e", {"tags": ["x"], "notes": "a\0b"}),
    ("PATCH", "/experiments/empty", {"tags": ["x"]}),
    ("POST", "/eval/{run}/pause", None),
    ("POST", "/eval/{run}/cancel", None),
    ("POST", "/eval/{run}/rescore", {"metrics": ["length"]}),
    ("POST", "/eval/{run}/extend", {"limit": 3}),
    ("POST", "/eval/{run}/resume", {"retry_failed": True}),
    ("PUT", "/eval/{run}/labels", {"route": "r", "output": "helpfulness", "labels": [
        {"sample_id": "1", "answer": "hi", "scores": 3.0}]}),
    ("POST", "/eval/{run}/export", None),
    ("DELETE", "/datasets/p", None),
    ("DELETE", "/experiments/empty", None),
]  # fmt: skip
READS = [
    "/health/ready", "/metrics", "/v1/models", "/routes", "/routes/s", "/providers", "/traffic",
    "/traffic?limit=1", "/traffic?route=r&class=live&since=0&until=9999999999",
    "/traffic/totals", "/traffic/req_9", "/eval", "/eval?tag=t", "/eval?experiment=e&limit=5",
    "/eval?state=completed", "/eval/{run}", "/eval/{run}/samples", "/eval/{run}/judgements",
    "/eval/{run}/judgements?sample_id=1", "/eval/{run}/labels", "/eval/{run}/label-plan",
    "/eval/compare?a={run}&b={run}", "/eval/judges", "/eval/judges?judge=j&kind=calibration",
    "/eval/judges/j/calibration", "/eval/judges/studies/cal_9", "/eval/run_9", "/experiments",
    "/experiments?tag=x", "/experiments/e", "/datasets", "/datasets/d", "/datasets/d/content",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = (
        '{"input": "hi", "reference": "hi", "cluster": "c"}\n',
        '{"input": "b\\u0000", "reference": "x"}\n' * 3,
    )
    (tmp_path / "d.jsonl").write_text("".join(rows))
    return tmp_path


def statuses(database, folder):
    """Operation to status, and some of what is read."""
    with scripted({"echo": [{}], "judge": [{"answer": "Feedback: good. [RESULT] 4"}]}) as upstream:
        text = f"""
server: {{port: 0}}
storage: {{database: "{database}", artifacts: "{folder / "artifacts"}"}}
record: full
providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}
routes: {{r: {{targets: [{{model: up/echo}}]}}, j: {{targets: [{{model: up/judge}}]}}}}
"""
        with gateway(text) as url, httpx.Client(timeout=60, base_url=url) as http:
            begun = http.post("/eval", json=RUN | {"limit": 2})
            assert begun.status_code == 202, begun.text
            run = begun.json()["id"]

            def settle():
                while http.get(f"/eval/{run}").json()["run"]["state"] in {"queued", "running"}:
                    time.sleep(0.02)

            settle()
            taken = {}
            for method, path, body in CHANGES:
                reply = http.request(method, path.format(run=run), json=body)
                taken[f"{method} {path}"] = reply.status_code
                settle()
            while len(http.get("/traffic?class=live").json()["data"]) < 2:
                time.sleep(0.02)
            for path in READS:
                taken[f"GET {path}"] = http.get(path.format(run=run)).status_code
            taken["name"] = http.get(f"/eval/{run}").json()["run"]["name"]
            taken["tags"] = [one["id"] == run for one in http.get("/eval?tag=u").json()["data"]]
            taken["deleted"] = http.delete(f"/eval/{run}").status_code
            return taken


def test_every_operation_answers_alike_on_both_databases(folder, postgres_address):
    expected = statuses(f"sqlite:///{folder}/e.db", folder)
    assert statuses(postgres_address, folder) == expected
    assert max(value for value in expected.values() if isinstance(value, int)) < 500


def test_models_are_asked_while_postgresql_is_away_and_the_records_come_later(
    tmp_path, monkeypatch, postgres, postgres_address
):
    monkeypatch.chdir(tmp_path)
    text = f'server: {{port: 0}}\nstorage: {{database: "{postgres_address}"}}\n'
    chat = {"model": "baseline/echo", "messages": [{"role": "user", "content": "hi"}]}

    def ready(http, status):
        while (reply := http.get("/health/ready")).status_code != status:
            time.sleep(0.02)
        return reply.json()

    with gateway(text) as url, httpx.Client(timeout=60, base_url=url) as http:
        assert http.post("/v1/chat/completions", json=chat).status_code == 200
        ready(http, 200)
        postgres.stop()
        try:
            for _ in range(3):
                assert http.post("/v1/chat/completions", json=chat).status_code == 200
            fault = ready(http, 503)
            assert (fault["database"], fault["reason"]) == (
                "unreachable",
                "PostgreSQL cannot be reached",
            )
        finally:
            postgres.start()
        ready(http, 200)
        while len(http.get("/traffic").json()["data"]) < 4:
            time.sleep(0.02)
