"""What other policies would have brought: over HTTP, by the SDK and on the command line."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from contextlib import closing
from sqlite3 import connect

import pytest
from click.testing import CliRunner
from servers import gateway
from stores import sqlite_store

from providers.errors import RequestError
from router.cli import main
from router.client import Client
from router.config.loading import parse
from router.loop.policies import PolicyRule, RoutingPolicy, prepare_policy
from router.loop.recorded_choices import read_choices
from router.records import Attempt, Odds, Record, Target
from router.sealing.files import SealedFiles
from router.sealing.traffic import RecordedTraffic
from router.store.feedback import FeedbackRow, NewFeedback, request_subject
from router.store.traffic import TrafficFilter

CONFIG = """
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db"}}
providers: {{up: {{kind: scripted, script: {{a: [{{}}], b: [{{}}], bb: [{{}}], never: [{{}}]}}}}}}
prices: {{up/a: {{input: 1, output: 4}}, up/b: {{input: 2, output: 8}}}}
routes:
  chat:
    targets:
      - {{model: up/a, weight: 4}}
      - {{model: up/b, weight: 1}}
      - {{model: up/never, weight: 0}}
  busy: {{targets: [{{model: up/a}}, {{model: up/b}}], strategy: least_busy}}
  quiet: {{targets: [{{model: up/a}}]}}
"""
A, B, GONE = (Target("up", name) for name in ("a", "b", "gone"))
USERS = 1500
GOOD = {A: 0.6, B: 0.8}
COST = {A: 0.001, B: 0.004}


def a_choice(n, at, target, odds, **changes):
    made = {
        "id": f"req_{n}",
        "at": at,
        "route": "chat",
        "target": target,
        "first": target,
        "odds": odds,
        "status": 200,
        "cost_usd": COST.get(target, 0.01),
        "total_s": 1.0,
        "first_byte_s": 0.5,
        "request_bytes": 100 if n % 2 else 5000,
        "attempts": [Attempt(str(target), "ok", 200, 1.0)],
    }
    return Record(**(made | changes))


def traffic():
    """Requests of users, each of whom sticks to a target, and others that say nothing."""
    draw = random.Random(5)
    odds = Odds({A: 0.8, B: 0.2})
    now = time.time()
    records, scores = [], {}
    for user in range(USERS):
        target = A if draw.random() < 0.8 else B
        for _ in range(1 + user % 3):
            n = len(records)
            failed = draw.random() < (0.1 if target == B else 0.02)
            records.append(
                a_choice(n, now - 60 - n, target, odds, unit=f"{user:016x}",
                         status=500 if failed else 200)
            )  # fmt: skip
            scores[f"req_{n}"] = draw.random() < GOOD[target]
    count = len(records)
    records += [
        a_choice(count, now - 5, A, None, cached=True, first=None),
        a_choice(count + 1, now - 5, A, None, first=None),
        a_choice(count + 2, now - 5, A, None, status=429, attempts=[], first=None),
        a_choice(count + 3, now - 5, A, Odds({A: 0.5, B: 0.4})),
        a_choice(count + 4, now - 5, GONE, Odds({GONE: 0.5, A: 0.5})),
        a_choice(count + 5, now - 5, A, Odds({A: 1.0}), route="busy"),
        a_choice(count + 6, now - 5, A, odds, traffic_class="eval"),
        a_choice(count + 7, now - 40 * 86400, A, odds),
    ]
    return records, scores


def said(record_id, value, at, *, key="", kind="bool"):
    return NewFeedback(
        FeedbackRow(id=f"fb_{key}{record_id}", at=at, key_id=key, user="", name="good", kind=kind,
                    value=value, score=float(value), subject=request_subject(record_id),
                    record_id=record_id, request_key="", request_user="", route="chat",
                    request_at=at)
    )  # fmt: skip


async def fill(path):
    records, scores = traffic()
    async with sqlite_store(path) as store:
        await store.keep_traffic(records)
        await store.add_feedback([said(name, value, time.time()) for name, value in scores.items()])
        # What a key says of two requests, which would be worth more than all others.
        senseless = [said(f"req_{n}", 1e12, time.time(), key="bad", kind="number") for n in (0, 1)]
        await store.add_feedback(senseless)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("what-if")
    (folder / "evalrouter.yaml").write_text(CONFIG.format(folder=folder))
    asyncio.run(fill(folder / "e.db"))
    with closing(connect(folder / "e.db")) as db:
        # As a damaged database may have it.
        damaged = "UPDATE traffic SET detail = replace(detail, '0.8,', '0,') WHERE id = 'req_7'"
        db.execute(damaged)
        db.commit()
    return folder


@pytest.fixture(scope="module")
def url(folder):
    with gateway(CONFIG.format(folder=folder)) as url:
        yield url


ALL_B = {"weights": {"up/b": 1}}


def asked(http, url, policy=ALL_B, route="chat", **more):
    return http.post(f"{url}/what-if", json={"policy": policy, "route": route, **more})


def measures(report):
    return {measure["name"]: measure["value"] for measure in report["measures"]}


def holds(interval, truth):
    return interval["low"] <= truth <= interval["high"]


def test_a_policy_that_never_ran_is_estimated(http, url):
    report = asked(http, url, value="feedback:good", since="30d").json()
    found = measures(report)
    assert holds(found["value"]["doubly_robust"], GOOD[B])
    assert holds(found["value"]["inverse_propensity"], GOOD[B])
    assert holds(found["value"]["observed"], 0.8 * GOOD[A] + 0.2 * GOOD[B])
    assert found["value"]["difference"]["low"] > 0
    assert "2 that are numbers beyond 0 and 1 are left out" in report["warnings"][0]
    assert holds(found["errors"]["doubly_robust"], 0.1)
    assert found["cost_usd"]["doubly_robust"]["estimate"] == pytest.approx(COST[B], rel=1e-3)
    assert found["errors"]["units"] == USERS
    assert found["errors"]["effective_units"] < 0.25 * USERS
    assert {target["target"]: target["policy"] for target in report["targets"]} == {
        "up/a": 0.0,
        "up/b": 1.0,
        "up/gone": 0.0,
    }
    assert [row["configured"] for row in report["targets"] if row["target"] == "up/gone"] == [False]


def test_what_is_left_out_is_counted_by_its_reason(http, url):
    report = asked(http, url, since="30d").json()
    excluded = {row["reason"]: row["count"] for row in report["excluded"]}
    assert excluded.pop("corrupt") >= 1
    assert excluded == {"cached": 1, "refused": 1, "not_recorded": 1, "unsupported": 1}
    assert report["requests"] + sum(row["count"] for row in report["excluded"]) == report["records"]
    # All of the time that is asked for cannot be on record.
    assert "stored for 30 days" in asked(http, url, since="90d").json()["warnings"][0]
    assert report["warnings"] == []


def test_rules_send_requests_by_what_is_known_before(http, url):
    rules = [{"when": "request_bytes > 1000", **ALL_B}, {"weights": {"up/a": 1}}]
    report = asked(http, url, {"rules": rules}, value="feedback:good", since="30d").json()
    shares = {target["target"]: target["policy"] for target in report["targets"]}
    assert shares["up/b"] == pytest.approx(0.5, abs=0.01)
    found = measures(report)
    assert holds(found["value"]["doubly_robust"], 0.5 * (GOOD[A] + GOOD[B]))
    assert holds(found["cost_usd"]["doubly_robust"], 0.5 * (COST[A] + COST[B]))


def test_strategies_stand_for_weights(http, url):
    for strategy, share in (("weighted", 0.2), ("round_robin", 0.5), ("cheapest", 0.0)):
        report = asked(http, url, {"strategy": strategy}, since="30d").json()
        assert {row["target"]: row["policy"] for row in report["targets"]}["up/b"] == share


@pytest.mark.parametrize(
    ("policy", "route", "refused"),
    [
        ({"weights": {"up/never": 1}}, "chat", "up/never had no chance in any request"),
        (ALL_B, "busy", "up/b had no chance in any request"),
        ({"weights": {"up/a": 1}}, "quiet", "no request of the route is on record"),
    ],
)
def test_nothing_is_said_of_what_had_no_chance(http, url, policy, route, refused):
    report = asked(http, url, policy, route, since="30d").json()
    assert refused in report["refused"]
    assert all(value["doubly_robust"]["low"] is None for value in measures(report).values())


def test_too_few_requests_get_no_interval_and_how_many_would_do(http, url):
    value = measures(asked(http, url, {"weights": {"up/b": 1}}, since="300s").json())["errors"]
    assert "too few requests" in value["refused"]
    assert value["requests_needed"] > value["requests"]
    assert value["doubly_robust"]["low"] is None


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({}, "one of weights, strategy and rules"),
        ({"weights": {"up/a": 1}, "strategy": "cheapest"}, "not several"),
        ({"weights": {"up/a": 0.5}}, "add up to 0.5"),
        ({"weights": {"up/a": 0}}, "add up to 0"),
        ({"weights": {"up/a": 1.5, "up/b": -0.5}}, "weight of up/b is -0.5"),
        ({"weights": {"up/a": "much"}}, "weights"),
        ({"weights": {"up/a": 1e308, "up/b": 1e308}}, "weight of up/a is 1e+308"),
        ({"rules": [ALL_B] * 33}, "policy.rules: expected an array of at most 32 (got 33)"),
        ({"weights": {"a": 1}}, "provider/model"),
        ({"weights": {"up/bb": 1}}, "Did you mean 'up/b'"),
        ({"strategy": "least_busy"}, "what was not recorded"),
        ({"strategy": "cheap"}, "Did you mean 'cheapest'?"),
        ({"rules": [{"when": "stream == true", **ALL_B}]}, "last rule"),
        ({"rules": [ALL_B, ALL_B]}, "only the last rule"),
        ({"rules": [{"when": "status == 200", **ALL_B}, ALL_B]}, "status is not known before"),
        ({"rules": [{"when": "feedback.x == 1", **ALL_B}, ALL_B]}, "feedback is not known"),
        ({"rules": [{"when": "stream ==", **ALL_B}, ALL_B]}, "rules[0].when, character 10"),
        ({"rules": [{"when": "stream == true"}, ALL_B]}, "needs weights or a strategy"),
        ({"rule": []}, "rule"),
        ({"route": "quiet", **ALL_B}, "for the route 'quiet'"),
    ],
)
def test_a_policy_with_a_mistake_is_refused(http, url, policy, message):
    answer = asked(http, url, policy, since="30d")
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        ({"route": "nowhere"}, 404, "no route 'nowhere'"),
        ({"route": ""}, 400, "which route's requests"),
        ({"value": "good"}, 400, "feedback:NAME"),
        ({"value": "shadow:f1"}, 400, "has no shadow"),
        ({"since": "soon"}, 400, "since is"),
        ({"since": "1d", "until": "2d"}, 400, "not before"),
    ],
)
def test_a_request_with_a_mistake_is_refused(http, url, more, status, message):
    answer = asked(http, url, **more)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]


def test_the_same_by_the_sdk(http, url):
    with closing(Client(url)) as client:
        report = client.routes.what_if(ALL_B, route="chat", value="feedback:good", since="30d")
    assert report["measures"][0]["value"]["units"] == USERS


def run(folder, policy, *args):
    path = folder / "policy.yaml"
    path.write_text(policy)
    config = folder / "evalrouter.yaml"
    command = ["what-if", "--policy", str(path), "--config", str(config), *args]
    return CliRunner().invoke(main, command)


def test_on_the_command_line(folder):
    result = run(
        folder, "route: chat\nvalue: feedback:good\nweights: {up/b: 100}\n", "--since", "30d"
    )
    assert result.exit_code == 0, result.output
    assert "feedback:good" in result.stdout
    assert "left out: answers of the response cache" in result.stdout
    assert "up/gone (not in the route now)" in result.stdout
    [cost] = [line for line in result.stdout.splitlines() if "US dollars per 1,000" in line]
    assert " 4 (4 to 4) " in cost
    shown = json.loads(run(folder, "route: chat\nweights: {up/b: 1}", "--json").stdout)
    assert shown["requests"] > USERS
    refused = run(folder, "route: busy\nweights: {up/b: 1}")
    assert refused.exit_code == 1
    assert "no estimate: up/b had no chance" in refused.stdout
    few = run(folder, "route: chat\nweights: {up/b: 1}", "--since", "5m")
    assert few.exit_code == 1
    assert few.stdout.count("requests like these would do") < 4
    assert "too few requests speak for it" in few.stdout
    assert "In parentheses: 95% intervals." in result.stdout
    assert "In parentheses" not in few.stdout


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("weights: {up/b: .nan}\nroute: chat", "policy.yaml:1: weights"),
        ("weights: {up/b: 1, up/b: 1}\nroute: chat", "policy.yaml:1"),
        ("weight: {up/b: 1}\nroute: chat", "weights"),
        ("weights: {up/a: 1e308, up/b: 1e308}\nroute: chat", "weights"),
        ("weights: {up/a: 1.0e+308, up/b: 1.0e+308}\nroute: chat", "is 1e+308; a weight is"),
        ("- 1", "an object"),
        ("{", "policy.yaml"),
    ],
)
def test_a_file_with_a_mistake_ends_with_2(folder, policy, message):
    result = run(folder, policy)
    assert result.exit_code == 2
    assert message in result.stderr


async def test_of_too_many_requests_those_of_some_users_are_taken(folder):
    route = parse(CONFIG.format(folder=folder), "x.yaml", {}).routes["chat"]
    policy = prepare_policy(RoutingPolicy(weights={"up/b": 1}), route, lambda _: None)
    async with sqlite_store(folder / "e.db") as store:
        recorded = RecordedTraffic(store, SealedFiles(lambda: None, store), None)
        matching = TrafficFilter(route="chat", traffic_class="live")
        whole = await read_choices(recorded, matching, policy, {})
        part = await read_choices(recorded, matching, policy, {}, max_requests=1000)
        newest = await read_choices(recorded, matching, policy, {}, newest=1000)
    assert part.records == whole.records
    assert whole.records > newest.records == 1000
    assert part.share in (0.5, 0.25)
    assert 0 < len(part.units) <= 1000
    # Whole users: of each, all requests or none.
    sizes = sorted(set(map(list(part.units).count, set(part.units))))
    assert sizes == [1, 2, 3]
    assert len(part.measures["errors"]) == len(part.units)


def test_weights_that_are_no_numbers_are_refused():
    route = parse(CONFIG.format(folder="x"), "x.yaml", {}).routes["chat"]
    for weight in (math.nan, math.inf, 1e308, -1.0):
        with pytest.raises(RequestError, match="weight of up/a"):
            prepare_policy(RoutingPolicy(weights={"up/a": weight}), route, lambda _: None)
    rules = (PolicyRule(strategy="cheapest"),)
    with pytest.raises(RequestError, match="no target of the route has a known price"):
        prepare_policy(RoutingPolicy(rules=rules), route, lambda _: None)


# The frontier of live requests


def test_the_frontier_of_live_requests(http, url):
    query = {"route": "chat", "quality": "feedback:good", "since": "30d"}
    report = http.get(f"{url}/frontier", params=query).json()
    by_name = {target["target"]: target for target in report["targets"]}
    assert (report["source"], report["higher_is_better"]) == ("requests", True)
    assert any("are left out" in warning for warning in report["warnings"])
    for target in (A, B):
        shown = by_name[str(target)]
        assert holds(shown["quality"], GOOD[target])
        assert shown["cost_usd"]["estimate"] == pytest.approx(COST[target], rel=1e-3)
        # The one is better, the other cheaper.
        assert shown["on_frontier"]
    assert by_name["up/gone"]["refused"]
    assert by_name["up/gone"]["on_frontier"] is None
    assert not by_name["up/gone"]["configured"]


def test_a_target_that_is_worse_in_all_respects_is_dominated(http, url):
    report = http.get(f"{url}/frontier", params={"route": "chat", "since": "30d"}).json()
    by_name = {target["target"]: target for target in report["targets"]}
    [dominance] = by_name["up/b"]["dominated_by"]
    assert dominance["by"] == "up/a"
    respects = {respect["name"]: respect["shown"] for respect in dominance["respects"]}
    assert respects == {"quality": "better", "cost_usd": "better", "seconds": "same"}
    assert dominance["established"]
    assert report["targets"][0]["target"] == "up/a"


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ({}, 400, "route"),
        ({"route": "nowhere"}, 404, "no route 'nowhere'"),
        ({"route": "chat", "quality": "rougeL"}, 404, "No completed run"),
        ({"route": "chat", "quality": "shadow:f1"}, 400, "has no shadow"),
        ({"route": "chat", "quality": "feedback:good", "run": "run_1"}, 400, "live requests"),
        ({"route": "chat", "quality": "f1", "run": "run_1"}, 404, "run_1"),
        ({"route": "chat", "since": "soon"}, 400, "since is"),
    ],
)
def test_a_frontier_that_cannot_be_made(http, url, query, status, message):
    answer = http.get(f"{url}/frontier", params=query)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]["message"]


def test_the_frontier_on_the_command_line(folder, url):
    config = str(folder / "evalrouter.yaml")
    command = ["frontier", "chat", "--since", "30d", "--config", config]
    text = CliRunner().invoke(main, command).stdout
    assert "up/a: no other is better in all respects" in text
    assert "up/b: up/a is better in all respects, as is shown" in text
    assert "US dollars per 1,000 requests: 1 to 4" in text
    with closing(Client(url)) as client:
        report = client.routes.frontier("chat", since="30d")
    assert report["targets"][0]["target"] == "up/a"
