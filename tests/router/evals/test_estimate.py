"""What a dry run says, beside what the run then takes on a scripted upstream."""

import json

import httpx
import pytest
import scipy.stats
from servers import evalrouter, gateway, scripted

from evaluators.stats.power import minimum_detectable_share

ROWS = [
    {"id": f"s{n}", "input": f"{n:04} " + "word " * (9 + n % 5), "reference": "word " * 10}
    for n in range(48)
]
COUNTED = {"prompt_tokens": 20, "completion_tokens": 30, "total_tokens": 50}
CACHING = COUNTED | {"prompt_tokens": 1000, "prompt_tokens_details": {"cached_tokens": 800}}
MODELS = {
    "priced": [{"usage": COUNTED, "delay_s": 0.1}],
    "other": [{"usage": COUNTED, "answer": "word word", "delay_s": 0.05}],
    "caching": [{"usage": CACHING}],
}
CONFIG = """
server: {{port: 0}}
providers: {{up: {{kind: compatible, base_url: "{url}", api_key: sk-secret-key}}}}
routes:
  split: {{targets: [{{model: up/priced}}, {{model: up/other}}]}}
  narrow: {{targets: [{{model: up/priced, max_concurrency: 2}}]}}
prices:
  up/priced: {{input: 10.0, output: 20.0}}
  up/caching: {{input: 10.0, output: 20.0, cached_input: 1.0}}
"""


@pytest.fixture
def upstream():
    with scripted(MODELS) as server:
        yield server


@pytest.fixture
def url(tmp_path, monkeypatch, upstream):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "evalrouter.yaml").write_text(CONFIG.format(url=upstream.url))
    with gateway(CONFIG.format(url=upstream.url)) as url:
        yield url


def document(**changes):
    return {"dataset": "data.jsonl", "routes": ["up/priced"], "metrics": ["f1"]} | changes


def estimate(http, url, **changes):
    reply = http.post(f"{url}/eval", params={"dry_run": "true"}, json=document(**changes))
    assert reply.status_code == 200, reply.text
    return reply.json()


def run(http, url, **changes):
    """Carry a run out; it and its report."""
    created = http.post(f"{url}/eval", json=document(**changes))
    assert created.status_code == 202, created.text
    run_id = created.json()["id"]
    with http.stream("GET", f"{url}/eval/{run_id}/events") as events:
        for _ in events.iter_lines():
            pass
    outcome = http.get(f"{url}/eval/{run_id}").json()
    assert outcome["run"]["state"] == "completed"
    return outcome


def cost_of(http, url, run_id):
    rows = http.get(f"{url}/eval/{run_id}/samples", params={"limit": 1000}).json()["data"]
    return sum(row["answer"]["cost_usd"] for row in rows)


def target_of(estimated, target):
    return next(entry for entry in estimated["targets"] if entry["target"] == target)


def test_nothing_is_sent_and_nothing_is_kept(http, url, upstream):
    result = estimate(http, url)
    assert (result["samples"], result["cells"], result["calls"], result["cached"]) == (
        48,
        48,
        48,
        0,
    )
    assert list(upstream.log.requests) == []
    assert http.get(f"{url}/eval").json()["data"] == []


def test_what_is_not_known_is_not_zero(http, url):
    result = estimate(http, url, routes=["up/priced", "up/other", "baseline/echo"])
    priced, other = target_of(result, "up/priced"), target_of(result, "up/other")
    # No earlier answers and no max_tokens: no tokens of answers, no money, no time.
    for name in ("completion_tokens", "cost_usd", "first_byte_s", "total_s", "seconds"):
        assert priced[name] is None, name
    assert other["cost_usd"] is None
    assert target_of(result, "baseline/echo")["cost_usd"] == 0
    assert (result["cost_usd"], result["seconds"]) == (None, None)
    assert "rule of thumb" in priced["tokens_from"]
    # 12 words of 5 letters on average, 4 bytes a token, and the message itself.
    assert priced["prompt_tokens"] == pytest.approx(48 * (60 / 4 + 4), rel=0.03)


def test_max_tokens_makes_an_upper_bound(http, url):
    result = estimate(http, url, parameters={"max_tokens": 100})
    assert result["at_most"]
    assert result["completion_tokens"] == 4800
    tokens = result["prompt_tokens"]
    assert result["cost_usd"] == pytest.approx((tokens * 10 + 4800 * 20) / 1e6, rel=0.02)


def test_the_estimate_is_what_the_run_then_takes(http, url):
    run(http, url, limit=8)
    limits = {"concurrency": 8}
    result = estimate(http, url, repeats=2, limits=limits)
    # The eight that were asked are in the run cache, their second repeats are not.
    assert (result["cells"], result["cached"], result["calls"]) == (96, 8, 88)
    assert "the target's own tokenizer" in result["targets"][0]["tokens_from"]
    assert result["targets"][0]["total_s"] >= 0.1
    assert result["targets"][0]["speed_from"] == "8 earlier answers (runs)"

    done = run(http, url, repeats=2, limits=limits)
    paid = cost_of(http, url, done["run"]["id"]) - 8 * (20 * 10 + 30 * 20) / 1e6
    assert result["cost_usd"] == pytest.approx(paid, rel=0.05)
    # 88 calls of 0.1 s, eight at a time, are 1.1 s; a busy machine adds to both.
    took = done["run"]["finished_at"] - done["run"]["started_at"]
    assert 1.1 <= result["seconds"] < 5
    assert result["seconds"] / 4 < took < result["seconds"] * 4


def test_a_weighted_route_is_estimated_target_by_target(http, url):
    run(http, url, routes=["up/priced", "up/other"], limit=4)
    result = estimate(http, url, routes=["split"], cache=False)
    cells = {target["target"]: target["cells"] for target in result["targets"]}
    done = run(http, url, routes=["split"], cache=False)
    rows = http.get(f"{url}/eval/{done['run']['id']}/samples", params={"limit": 1000}).json()[
        "data"
    ]
    targets = [row["answer"]["target"] for row in rows]
    assert cells == {name: targets.count(name) for name in set(targets)}
    assert target_of(result, "up/priced")["cost_usd"] > 0
    assert target_of(result, "up/other")["cost_usd"] is None


def test_few_places_take_longer(http, url):
    run(http, url, limit=4)
    wide, narrow = (
        estimate(http, url, routes=[route], cache=False) for route in ("up/priced", "narrow")
    )
    limited = estimate(
        http, url, cache=False, limits={"concurrency": 16, "per_target": {"up/priced": 2}}
    )
    assert narrow["seconds"] == pytest.approx(8 * wide["seconds"])
    assert limited["seconds"] == narrow["seconds"]


def test_the_smallest_difference_says_where_it_comes_from(http, url):
    routes = ["up/other", "baseline/lead-1"]
    (worst,) = (difference for difference in estimate(http, url, routes=routes)["detectable"])
    assert (worst["sd"], worst["output"]) == (1.0, "f1")
    assert "worst case" in worst["sd_from"]
    # (t quantile 0.975 + t quantile 0.8, 47 degrees of freedom) / sqrt(48)
    assert worst["difference"] == pytest.approx((2.0117 + 0.8490) / 48**0.5, rel=1e-3)

    done = run(http, url, routes=routes)
    (known,) = (difference for difference in estimate(http, url, routes=routes)["detectable"])
    assert done["run"]["id"] in known["sd_from"]
    assert 0 < known["sd"] < 1
    assert known["difference"] < worst["difference"]
    assert estimate(http, url, routes=["up/other"])["detectable"] == []


def test_the_smallest_difference_is_that_of_the_verdict(http, url):
    """One test of 48 samples, and as the smallest of several: the level is divided."""
    metrics = ["f1", "contains", "latency", "length"]
    routes = ["up/other", "up/priced", "baseline/lead-1"]

    def smallest(**changes):
        found = estimate(http, url, metrics=metrics, routes=routes, **changes)["detectable"]
        return {effect["output"]: effect for effect in found}

    # Two routes against a third, by every output that has a direction.
    together = smallest()
    directed = 2 * sum(name not in {"words", "characters"} for name in together)
    assert {effect["comparisons"] for effect in together.values()} == {directed}
    # (t quantile of 1 - 0.025 / comparisons, and of 0.8, with 47 degrees of freedom) / sqrt(48)
    quantile = scipy.stats.t.ppf(1 - 0.025 / directed, 47) + scipy.stats.t.ppf(0.8, 47)
    assert together["f1"]["difference"] == pytest.approx(quantile / 48**0.5, rel=1e-3)
    primary = smallest(primary="f1")
    assert (primary["f1"]["comparisons"], primary["f1"]["after_primary"]) == (2, False)
    assert primary["contains"]["comparisons"] == directed - 2
    assert primary["contains"]["after_primary"]
    assert primary["f1"]["difference"] < together["f1"]["difference"]


def test_the_smallest_difference_of_scores_of_0_and_1_is_by_their_own_test(http, url):
    routes = ["up/other", "baseline/lead-1"]
    run(http, url, routes=routes, metrics=["contains"])
    (effect,) = estimate(http, url, routes=routes, metrics=["contains"])["detectable"]
    report = http.get(f"{url}/eval", params={"limit": 1}).json()["data"][0]
    rows = http.get(f"{url}/eval/{report['id']}/samples", params={"limit": 1000}).json()["data"]
    values = {}
    for row in rows:
        values.setdefault(row["sample"]["id"], []).append(row["scores"][0]["value"])
    differing = sum(len(set(pair)) == 2 for pair in values.values())
    assert 0 < differing < 48
    expected = minimum_detectable_share(differing / 48, 48)
    assert effect["difference"] == pytest.approx(expected)


def test_clusters_count_for_what_the_run_will_show(http, url, tmp_path):
    """48 samples of 12 texts: at worst 12, and more where an earlier run says so."""
    rows = [row | {"cluster": f"text {n // 4}"} for n, row in enumerate(ROWS)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    routes = ["up/other", "baseline/lead-1"]
    result = estimate(http, url, routes=routes)
    [worst] = result["detectable"]
    assert (worst["clusters"], worst["design_effect"]) == (12, 4)
    # Twelve of a spread of 1: (t quantile 0.975 + t quantile 0.8, 11 degrees of freedom) / sqrt(12)
    assert worst["difference"] == pytest.approx((2.2010 + 0.8755) / 12**0.5, rel=1e-3)
    assert any("12 clusters" in note and "as much as 12 that" in note for note in result["notes"])
    done = run(http, url, routes=routes)
    [known] = estimate(http, url, routes=routes)["detectable"]
    assert done["run"]["id"] in known["design_effect_from"]
    assert 1 <= known["design_effect"] < 4
    few = [row | {"cluster": f"text {n % 4}"} for n, row in enumerate(ROWS)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in few))
    assert estimate(http, url, routes=routes)["detectable"][0]["difference"] is None


def test_runs_that_are_looked_at_promise_less(http, url):
    routes = ["up/other", "up/priced"]
    [planned] = estimate(http, url, routes=routes, baseline="up/priced")["detectable"]
    rule = {"stop_when": {"decided": "f1"}, "baseline": "up/priced"}
    result = estimate(http, url, routes=routes, **rule)
    assert result["detectable"][0]["always_valid"]
    assert result["detectable"][0]["difference"] > planned["difference"]
    assert any("whenever one looks" in note for note in result["notes"])
    # The first part of a longer run is in the run cache.
    run(http, url, routes=routes, limit=20)
    assert estimate(http, url, routes=routes)["detectable"][0]["always_valid"]
    assert not estimate(http, url, routes=routes, limit=20)["detectable"][0]["always_valid"]
    # So is a part of an earlier run, which showed what the part will show.
    for changes in ({"limit": 10}, {"limit": 20, "repeats": 2}):
        assert estimate(http, url, routes=routes, **changes)["detectable"][0]["always_valid"]


def test_free_targets_answer_as_before_so_a_larger_run_goes_on(http, url):
    routes = ["baseline/echo", "baseline/lead-1"]
    changes = {"routes": routes, "cache": False, "baseline": "baseline/lead-1"}
    assert not estimate(http, url, **changes)["detectable"][0]["always_valid"]
    run(http, url, limit=20, **changes)
    result = estimate(http, url, **changes)
    assert result["detectable"][0]["always_valid"]
    # They are requested again all the same.
    assert (result["cached"], result["calls"]) == (0, 96)


def test_a_primary_output_has_to_be_one_that_can_decide(http, url):
    for changes, message in (
        ({"primary": "f2"}, "primary: no metric of this run produces 'f2'. Known: f1."),
        (
            {"primary": "words", "metrics": ["length"]},
            "primary: neither direction of words is better, so it cannot decide",
        ),
    ):
        for params in ({}, {"dry_run": "true"}):
            reply = http.post(f"{url}/eval", params=params, json=document(**changes))
            assert reply.status_code == 400
            error = reply.json()["error"]
            assert (error["message"], error["param"]) == (message, "primary")


def test_limits_that_will_stop_the_run_are_told(http, url):
    result = estimate(
        http, url, parameters={"max_tokens": 100}, limits={"cost_usd": 0.01, "tokens": 10**9}
    )
    assert [note.split(":")[0] for note in result["notes"]] == ["limits.cost_usd"]


def test_a_document_that_is_wrong_is_refused_as_ever(http, url):
    reply = http.post(
        f"{url}/eval", params={"dry_run": "true"}, json=document(routes=["up/priced", "nowhere"])
    )
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "routes[1]"


def test_an_answer_costs_less_where_the_host_found_the_prompt_in_its_cache(http, url):
    done = run(http, url, routes=["up/caching"], limit=1)
    each = (200 * 10 + 800 * 1 + 30 * 20) / 1e6
    assert cost_of(http, url, done["run"]["id"]) == pytest.approx(each)


def test_from_the_command_line(http, url, upstream, tmp_path):
    routes = ["up/priced", "baseline/lead-1", "baseline/textrank"]
    (tmp_path / "run.json").write_text(json.dumps(document(routes=routes)))
    done = evalrouter("eval", "run", "run.json", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "48 samples, 144 answers" in done.stdout
    # Where the numbers come from is told once for routes that are alike.
    assert "baseline/lead-1, baseline/textrank: time of an answer" in done.stdout
    assert "unknown" in done.stdout
    assert "80% probability" in done.stdout
    result = json.loads(evalrouter("eval", "run", "run.json", "--dry-run", "--json").stdout)
    assert result["calls"] == 144
    assert list(upstream.log.requests) == []
    assert httpx.get(f"{url}/eval").json()["data"] == []
