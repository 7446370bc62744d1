"""What a run is charged for: embeddings of its metrics too, and estimates, marked as such."""

import json
import time

import httpx
import pytest
from raw_host import answer, by_model, raw_host
from servers import evalrouter, gateway, scripted

from router.client import Client

ROWS = [{"id": f"s{n}", "input": f"one two three {n}", "reference": f"{n}"} for n in range(4)]
USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
EMBEDDED = {"prompt_tokens": 500, "total_tokens": 500}
MODELS = {
    "counts": [{"answer": "a b c", "usage": USAGE}],
    "silent": [{"answer": "a b c", "fault": "no_usage"}],
    "verdict": [{"answer": "So so. [RESULT] 2", "fault": "no_usage"}],
    "vectors": [{"usage": EMBEDDED}],
    "plain-vectors": [{"fault": "no_usage"}],
    "no-vectors": [{"status": 500}],
}
PRICES = """
prices:
  up/counts: {input: 1000, output: 1000}
  up/silent: {input: 1000, output: 1000}
  up/verdict: {input: 1000, output: 1000}
  up/vectors: {input: 1000, output: 0}
  up/plain-vectors: {input: 1000, output: 0}
  raw/short: {input: 1000, output: 0}
"""


@pytest.fixture(scope="module")
def upstream():
    with scripted(MODELS) as server:
        yield server


@pytest.fixture
def config(upstream, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    text = f"""
server: {{port: 0}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}", resend_on_stale: false}}}}
{PRICES}"""
    (tmp_path / "evalrouter.yaml").write_text(text)
    return text


def document(**changes):
    return {"dataset": "d.jsonl", "routes": ["up/counts"], "metrics": ["cost"]} | changes


def done(url, **changes):
    """Carry a run out; its outcome."""
    created = httpx.post(f"{url}/eval", json=document(**changes))
    assert created.status_code == 202, created.text
    return ended(url, created.json()["id"])


def ended(url, run_id):
    with httpx.stream("GET", f"{url}/eval/{run_id}/events", timeout=60) as events:
        for _ in events.iter_lines():
            pass
    return httpx.get(f"{url}/eval/{run_id}").json()


def samples(url, run_id):
    return httpx.get(f"{url}/eval/{run_id}/samples").json()["data"]


# Estimates


def test_an_answer_says_whether_its_tokens_are_an_estimate(config):
    with gateway(config) as url:
        run_id = done(url, routes=["up/counts", "up/silent"])["run"]["id"]
    # It is in the database.
    with gateway(config) as url:
        rows = samples(url, run_id)
        outcome = httpx.get(f"{url}/eval/{run_id}").json()
        page = httpx.get(f"{url}/runs/{run_id}").text
        with Client(url) as client:
            estimated = {
                row["route"]: row["answer"]["estimated"] for row in client.runs.samples(run_id)
            }
            frame = client.runs.samples(run_id).to_pandas()
    assert {row["route"]: row["answer"]["estimated"] for row in rows} == estimated
    assert estimated == {"up/counts": False, "up/silent": True}
    assert set(frame[frame["route"] == "up/silent"]["estimated"]) == {True}
    assert all(row["answer"]["usage"]["prompt_tokens"] > 0 for row in rows)
    counts, silent = outcome["report"]["routes"]
    assert (counts["tokens"]["estimated"], counts["cost"]["estimated"]) == (0, 0)
    assert (silent["tokens"]["estimated"], silent["cost"]["estimated"]) == (4, 4)
    warning = "up/silent: the tokens of 4 of 4 answers, and so their cost, are estimated"
    assert any(text.startswith(warning) for text in outcome["report"]["warnings"])
    assert not any("up/counts" in text for text in outcome["report"]["warnings"] if "estim" in text)
    assert "≈ $" in page
    shown = evalrouter("eval", "show", run_id).stdout
    took = {line.split()[0]: line for line in shown.splitlines() if " 4 of 4 " in line}
    assert took["up/silent"].count("≈ ") == 2
    assert "≈" not in took["up/counts"]


def test_a_cached_answer_stays_an_estimate(config):
    with gateway(config) as url:
        done(url, routes=["up/silent"])
        again = done(url, routes=["up/silent"])
        assert again["report"]["routes"][0]["cached"] == 4
        assert again["report"]["routes"][0]["cost"]["estimated"] == 4


def test_a_free_target_needs_no_estimate(config):
    with gateway(config) as url:
        outcome = done(url, routes=["baseline/echo"])
        assert not any(row["answer"]["estimated"] for row in samples(url, outcome["run"]["id"]))


def test_an_exported_row_says_it_too(config, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    with gateway(config) as url:
        run_id = done(url, routes=["up/silent"])["run"]["id"]
    evalrouter("eval", "export", run_id, "--to", "out")
    [folder] = [path.parent for path in tmp_path.rglob("rows.jsonl")]
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert [row["result"]["answer"]["estimated"] for row in rows] == [True] * 4
    assert parquet.read_table(folder / "rows.parquet")["estimated"].to_pylist() == [True] * 4


def test_a_leaderboard_says_which_costs_are_estimates(config):
    with gateway(config) as url:
        done(url, routes=["up/counts", "up/silent"], experiment="one", metrics=["length"])
        board = httpx.get(f"{url}/experiments/one").json()["boards"][0]
    estimated = {entry["route"]: entry["cost_estimated"] for entry in board["entries"]}
    assert estimated == {"up/counts": False, "up/silent": True}


def test_a_judge_whose_host_does_not_count(config):
    metric = {"name": "prometheus", "judge": "up/verdict", "rubric": "helpfulness"}
    with gateway(config) as url:
        outcome = done(url, routes=["up/counts"], metrics=[metric])
    [judge] = outcome["judges"]
    assert (judge["calls"], judge["estimated"]) == (4, 4)
    shown = evalrouter("eval", "show", outcome["run"]["id"]).stdout
    assert "judge up/verdict (prometheus:helpfulness): 4 requests" in shown
    assert ", ≈ $" in shown


# Embeddings


def similarity(route):
    return {"name": "embedding_similarity", "route": route}


@pytest.mark.parametrize(("model", "estimated"), [("vectors", 0), ("plain-vectors", 1)])
def test_embeddings_of_a_metric_are_charged_to_the_run(config, model, estimated):
    with gateway(config) as url:
        outcome = done(url, metrics=[similarity(f"up/{model}")])
        [use] = outcome["embeddings"]
        # Counted a moment later, as every other request of an evaluation.
        labels = f'class="eval",route="up/{model}",%starget="up/{model}"'
        with_status = labels % 'status="200",'
        counted = f"evalrouter_requests_total{{{with_status}}} {use['requests']}.0"
        while counted not in (metrics := httpx.get(f"{url}/metrics").text):
            time.sleep(0.02)
        assert f"evalrouter_cost_usd_total{{{labels % ''}}}" in metrics
    assert (use["route"], use["target"]) == (f"up/{model}", f"up/{model}")
    assert (use["failed"], use["unpriced"]) == (0, 0)
    assert use["estimated"] == use["requests"] * estimated
    assert use["requests"] >= 1
    if not estimated:
        assert use["tokens"] == 500 * use["requests"]
    assert use["tokens"] > 0
    assert use["cost_usd"] == pytest.approx(use["tokens"] / 1000)
    shown = evalrouter("eval", "show", outcome["run"]["id"]).stdout
    bound = "≈ " if estimated else ""
    assert f"embeddings up/{model}: {use['requests']:,} requests, {use['tokens']:,}" in shown
    assert f" tokens, {bound}$" in shown


def test_embeddings_count_for_the_limits_of_a_run(config, tmp_path):
    rows = [{"input": f"text {n}", "reference": f"other {n}"} for n in range(2000)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"dataset": "long.jsonl", "routes": ["baseline/echo"]}
    with gateway(config) as url:
        # A request costs half a dollar, the answers nothing.
        limits = {"cost_usd": 1.0}
        outcome = done(url, metrics=[similarity("up/vectors")], limits=limits, **changes)
        run_id = outcome["run"]["id"]
        assert outcome["run"]["state"] == "cancelled"
        assert "stopped at its limit cost_usd: 1" in outcome["run"]["stopped"]
        [use] = outcome["embeddings"]
        before = use["cost_usd"]
        assert before >= 1.0
        answered = outcome["report"]["routes"][0]["answered"]
        assert answered < 2000
        # What was spent before counts.
        httpx.post(f"{url}/eval/{run_id}/resume").raise_for_status()
        again = ended(url, run_id)
        assert again["run"]["state"] == "cancelled"
        assert again["report"]["routes"][0]["answered"] == answered
        tokens = {"limits": {"cost_usd": 1e6, "tokens": 100_000}}
        httpx.post(f"{url}/eval/{run_id}/resume", json=tokens).raise_for_status()
        again = ended(url, run_id)
        assert "stopped at its limit tokens" in again["run"]["stopped"]
        assert again["embeddings"][0]["cost_usd"] > before


def test_embeddings_of_a_target_that_fails_are_counted_as_failed(config):
    with gateway(config) as url:
        outcome = done(url, metrics=[similarity("up/no-vectors")])
    [use] = outcome["embeddings"]
    assert use["failed"] == use["requests"] >= 1
    assert (use["cost_usd"], use["tokens"], use["target"]) == (0.0, 0, "")


def test_vectors_that_are_no_use_are_paid_for_all_the_same(config):
    vector = {"object": "embedding", "index": 0, "embedding": [1.0, 0.0]}
    body = json.dumps({"object": "list", "data": [vector], "usage": EMBEDDED}).encode()
    with raw_host(by_model({"*": [answer(body)]})) as host:
        more = f', raw: {{kind: compatible, base_url: "{host.url}"}}}}\n{PRICES}'
        with gateway(config.replace(f"}}\n{PRICES}", more)) as url:
            outcome = done(url, metrics=[similarity("raw/short")])
    [use] = outcome["embeddings"]
    assert use["failed"] == use["requests"] >= 1
    assert use["tokens"] == 500 * use["requests"]
    assert use["cost_usd"] == pytest.approx(0.5 * use["requests"])


def test_a_run_that_is_deleted_takes_its_embeddings_along(config):
    with gateway(config) as url:
        run_id = done(url, metrics=[similarity("up/vectors")])["run"]["id"]
        assert httpx.delete(f"{url}/eval/{run_id}").status_code == 204
        outcome = done(url, metrics=["length"])
        assert outcome["embeddings"] == []


def test_scoring_again_is_charged_too(config):
    with gateway(config) as url:
        outcome = done(url, metrics=["length"])
        assert outcome["embeddings"] == []
        run_id = outcome["run"]["id"]
        body = {"metrics": [similarity("up/vectors")]}
        for times in (1, 2):
            httpx.post(f"{url}/eval/{run_id}/rescore", json=body).raise_for_status()
            [use] = ended(url, run_id)["embeddings"]
            assert use["requests"] == times
            assert use["cost_usd"] == pytest.approx(0.5 * times)
