"""The frontier of a run, and what dominates what."""

from __future__ import annotations

import json
import time

import pytest
from click.testing import CliRunner
from servers import gateway

from evaluators.reports.pareto import dominated_by
from evaluators.stats.intervals import Interval
from router.cli import main
from router.client import Client

CONFIG = """
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db"}}
datasets: {{roots: ["{folder}"]}}
providers:
  up:
    kind: scripted
    script:
      good: [{{answer: "yes"}}]
      bad: [{{match: "[02468] [?]", answer: "no"}}, {{answer: "yes"}}]
prices:
  up/good: {{input: 1, output: 1}}
  up/bad: {{input: 5, output: 5}}
routes:
  chat: {{targets: [{{model: up/good}}, {{model: up/bad}}]}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frontier")
    rows = [{"input": f"{n} ?", "reference": "yes"} for n in range(40)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "evalrouter.yaml").write_text(CONFIG.format(folder=folder))
    return folder


@pytest.fixture(scope="module")
def url(folder):
    with gateway(CONFIG.format(folder=folder)) as url:
        with Client(url) as client:
            document = {
                "dataset": str(folder / "rows.jsonl"),
                "routes": ["up/good", "up/bad"],
                "metrics": ["exact_match", "length"],
            }
            client.runs.wait(client.runs.create(document)["id"])
        yield url


def test_the_frontier_of_the_newest_run(http, url):
    report = http.get(
        f"{url}/frontier", params={"route": "chat", "quality": "exact_match", "since": "1d"}
    ).json()
    assert report["source"] == "run"
    first, second = report["targets"]
    assert (first["target"], second["target"]) == ("up/good", "up/bad")
    assert (first["quality"]["estimate"], second["quality"]["estimate"]) == (1.0, 0.5)
    assert first["cost_usd"]["estimate"] < second["cost_usd"]["estimate"]
    assert (first["configured"], first["on_frontier"]) == (True, True)
    if second["dominated_by"]:
        respects = {each["name"]: each["shown"] for each in second["dominated_by"][0]["respects"]}
        assert (respects["quality"], respects["cost_usd"]) == ("better", "better")
    # A named run is the same one.
    query = {"route": "chat", "quality": "exact_match", "run": report["run"]}
    assert http.get(f"{url}/frontier", params=query).json() == report


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ({"quality": "exact_mach"}, 404, "Did you mean 'exact_match'?"),
        ({"quality": "exact_match", "since": "0s"}, 404, "No completed run"),
        ({"quality": "words"}, 400, "Neither direction"),
    ],
)
def test_what_no_run_has(http, url, query, status, message):
    answer = http.get(f"{url}/frontier", params={"route": "chat", **query})
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]["message"]


def test_a_run_on_the_command_line(folder, url):
    assert url
    config = str(folder / "evalrouter.yaml")
    command = ["frontier", "chat", "--quality", "exact_match", "--config", config]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "exact_match: 0.5 to 1, upwards" in result.stdout
    plot = [line for line in result.stdout.splitlines() if line.startswith("|")]
    assert plot[0].startswith("|A")
    assert plot[-1].endswith("B")
    assert json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)["source"] == "run"


@pytest.mark.parametrize(("n", "shown"), [(40, "better"), (5, "not shown")])
def test_a_difference_that_all_samples_have_is_shown_by_enough_of_them(n, shown):
    result = dominated_by(
        ["a", "b"],
        {"cost": False},
        lambda name, _: {"a": 1.0, "b": 2.0}[name],
        lambda *_: Interval(estimate=-1.0, low=None, high=None, n=n, method="constant"),
    )
    assert result["b"][0].respects[0].shown == shown


def interval(low, high):
    return Interval(estimate=(low + high) / 2, low=low, high=high, n=9)


@pytest.mark.parametrize(
    ("ends", "established", "shown"),
    [
        ({"quality": (0.1, 0.2), "cost": (-2, -1)}, True, ["better", "better"]),
        ({"quality": (-0.1, 0.2), "cost": (-2, -1)}, False, ["not shown", "better"]),
        ({"quality": (-0.2, -0.1), "cost": (-2, -1)}, False, ["worse", "better"]),
        ({"quality": None, "cost": (-2, -1)}, True, ["same", "better"]),
        ({"quality": None, "cost": None}, False, ["same", "same"]),
    ],
)
def test_dominance_is_established_where_every_respect_shows_it(ends, established, shown):
    same = Interval(estimate=0.0, low=None, high=None, n=9, method="constant")
    means = {("a", "quality"): 2.0, ("b", "quality"): 1.0, ("a", "cost"): 1.0, ("b", "cost"): 2.0}
    result = dominated_by(
        ["a", "b"],
        {"quality": True, "cost": False},
        lambda name, respect: means[name, respect],
        lambda _, __, respect, ___: interval(*ends[respect]) if ends[respect] else same,
    )
    assert result["a"] == ()
    [dominance] = result["b"]
    assert (dominance.by, dominance.established) == ("a", established)
    assert [respect.shown for respect in dominance.respects] == shown


def test_trade_offs_and_unknown_options_dominate_nothing():
    means = {"cheap": (1.0, 1.0), "good": (2.0, 2.0), "new": (9.0, None), "twin": (2.0, 2.0)}
    result = dominated_by(
        list(means),
        {"quality": True, "cost": False},
        lambda name, respect: means[name][respect == "cost"],
        lambda *_: interval(1, 2),
    )
    assert result == dict.fromkeys(means, ())


SHADOWED = """
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/s.db", artifacts: "{folder}/artifacts"}}
providers:
  live: {{kind: scripted, script: {{dear: [{{answer: "one two three"}}]}}}}
  other: {{kind: scripted, script: {{cheap: [{{answer: "one"}}]}}}}
prices: {{live/dear: {{input: 9, output: 9}}, other/cheap: {{input: 1, output: 1}}}}
routes:
  chat: {{targets: [{{model: live/dear}}], record: full, share_bodies_with: [other],
    shadow: {{targets: [other/cheap], sample: 1, metrics: [{{name: regex, pattern: one}}],
      limits: {{rps: 1000, usd_per_day: 5}}}}}}
"""


def test_a_shadow_has_candidates_beside_what_clients_got(http, tmp_path):
    with gateway(SHADOWED.format(folder=tmp_path)) as url:
        while not http.get(f"{url}/shadows").json()["data"]:
            time.sleep(0.02)
        # The shadow may not follow the first ones yet.
        while http.get(f"{url}/routes/chat/shadow").json()["funnel"]["scored"] < 12:
            body = {"model": "chat", "messages": [{"role": "user", "content": "count"}]}
            assert http.post(f"{url}/v1/chat/completions", json=body).status_code == 200
        query = {"route": "chat", "quality": "shadow:regex"}
        report = http.get(f"{url}/frontier", params=query).json()
        policy = {"policy": {"weights": {"live/dear": 1}}, "route": "chat"}
        what_if = http.post(f"{url}/what-if", json={**policy, "value": "shadow:regex"}).json()
        unknown = http.post(f"{url}/what-if", json={**policy, "value": "shadow:rege"})
    assert report["source"] == "shadow"
    by_name = {target["target"]: target for target in report["targets"]}
    assert set(by_name) == {"dataset/answer", "other/cheap"}
    assert by_name["dataset/answer"]["quality"]["estimate"] == 1.0
    assert (
        by_name["other/cheap"]["cost_usd"]["estimate"]
        < by_name["dataset/answer"]["cost_usd"]["estimate"]
    )
    [value] = [each["value"] for each in what_if["measures"] if each["name"] == "value"]
    assert value["requests"] >= 12
    assert value["observed"]["estimate"] == 1.0
    assert "Did you mean 'regex'?" in unknown.json()["error"]["message"]
