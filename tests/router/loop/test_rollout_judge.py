"""A judge of a rollout: what it is sent, what its scores decide, and what is counted instead."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from contextlib import asynccontextmanager

import msgspec
import pytest
from servers import gateway

from providers.errors import ConfigError, RequestError
from providers.offline.scripted import Script, ScriptedServer
from router.config.loading import parse
from router.config.rollouts import RouteRollout
from router.evals.requests import EvalRequester
from router.loop.rollout_judge import MAX_WAIT_S, RolloutJudging
from router.loop.rollouts import RolloutAction
from router.loop.sampling import RequestSample
from router.records import Record, Target
from router.services import Services
from router.store.keys import KeyRow
from router.store.traffic import TrafficFilter

# Answers of the arm that is called "new" are worse.
JUDGE = [
    {"match": "new answer", "answer": "Poor. [RESULT] 1"},
    {"match": "old answer", "answer": "Good. [RESULT] 5"},
]
CONFIG = """
providers:
  up: {{kind: compatible, base_url: "{url}", api_key: k}}
  other: {{kind: compatible, base_url: "{url}", api_key: k}}
routes:
  r: {{targets: [{{model: up/old}}], share_bodies_with: [{shared}]}}
prices: {{other/judge: {{input: 1000, output: 1000}}}}
storage: {{database: "sqlite:///{folder}/e.db"}}
"""
METRIC = {"name": "prometheus", "judge": "other/judge", "retries": 0}
SETTINGS = {
    "candidate": "up/new",
    "steps": [50],
    "step_seconds": 0,
    "cycle_seconds": 0,
    "unit_seconds": 0,
    "force": True,
    "judge": {"metric": METRIC, "sample": 1, "limits": {"rps": 1000, "concurrency": 8}},
    "signals": [
        {"measure": "judge", "low": 1, "high": 5, "margin": 0.2, "min_requests": 5},
        # Cannot be shown by a few hundred requests.
        {"measure": "errors", "role": "goal", "margin": 0.001},
    ],
}


def settings(limits=(), **fields):
    document = {**SETTINGS, **fields}
    if limits:
        judge = document["judge"]
        document["judge"] = {**judge, "limits": {**judge["limits"], **dict(limits)}}
    return msgspec.convert(document, RouteRollout)


class Clock:
    """Seconds since the epoch, which go on when a test says so."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(upstream, folder, *, shared="other"):
    """The parts of a process, whose background does nothing by itself."""
    text = CONFIG.format(url=upstream.url, folder=folder, shared=shared)
    async with Services(parse(text, "c.yaml", {})) as parts:
        parts.clock = Clock()
        parts.upstream = upstream
        parts.judging = judging_of(parts)
        yield parts


def judging_of(parts):
    return RolloutJudging(
        parts.store,
        parts.assignments,
        parts.routes,
        EvalRequester(parts.routes, parts.dispatcher, parts.prices, parts.traffic),
        allowed=parts.config.evaluation,
        clock=parts.clock,
    )


@asynccontextmanager
async def services(folder, judge=JUDGE, **options):
    script = msgspec.convert({"models": {"judge": judge}}, Script)
    async with ScriptedServer(script) as upstream, opened(upstream, folder, **options) as parts:
        yield parts


async def start(parts, requested=None):
    rollout = await parts.rollouts.start("r", requested or settings(), actor="key ops")
    await parts.assignments.follow()
    await parts.judging.run_once()
    return rollout


async def send(parts, users, *, stored=True, key_id="", text=None, **fields):
    """Requests of users as the gateway passes and stores them; those that were drawn."""
    route, records, drawn = parts.routes.table.routes["r"], [], []
    for user in users:
        side, unit = parts.assignments.by_route["r"].choose(route, b"user %d" % user)
        words = text or ("new answer" if side.target else "old answer")
        message = {"role": "assistant", "content": words}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        asked = [{"role": "user", "content": f"Question {user}"}]
        record = Record(
            **{
                "id": f"rec_{user}",
                "at": parts.clock.now,
                "route": "r",
                "status": 200,
                "key_id": key_id,
                "stored": stored,
                "target": side.target or Target("up", "old"),
                "request": msgspec.json.encode({"model": "r", "messages": asked}),
                "response": msgspec.json.encode({"id": "a", "choices": [choice]}),
                "settled": True,
            }
            | fields
        )
        side.note(record)
        record.unit = unit
        watch = parts.judging.watched.get("r")
        if watch and watch.wants(route, record.id, key_id=key_id, stored=stored):
            parts.judging.after(record)
            drawn.append(record.id)
        records.append(record)
    await parts.store.keep_traffic(records)
    return drawn


async def judge(parts, *, after=1.0):
    """Have the judging do what it does once a second, after some time, and wait for it."""
    parts.clock.now += after
    await parts.judging.run_once()
    await parts.judging.idle()


async def outcomes(parts):
    found = Counter()
    for each in (await parts.rollouts.report("r")).judged:
        found[each.outcome] += each.requests
    return dict(found)


def sent(parts):
    return [msgspec.json.decode(one.body) for one in parts.upstream.log.requests]


async def test_a_candidate_whose_answers_the_judge_finds_worse_is_rolled_back(tmp_path):
    async with services(tmp_path) as parts:
        await start(parts)
        for first in range(0, 400, 20):
            await send(parts, range(first, first + 20))
            # First the requests are counted, then their scores.
            await parts.rollout_controller.run_once()
            await judge(parts)
            await parts.rollout_controller.run_once()
            rollout = await parts.rollouts.find("r")
            if not rollout.is_active:
                break
        assert rollout.state == "rolled_back"
        assert "judge" in rollout.reason
        report = await parts.rollouts.report("r")
        [decision] = [row for row in report.decisions if row.rule == "guardrails"]
        seen = decision.seen["signals"][0]
        assert (seen["candidate"]["mean"], seen["control"]["mean"]) == (1.0, 5.0)
        [judged] = report.judged
        assert judged.outcome == "scored"
        assert judged.usd > 0
        # It sees the question and the answer alone.
        assert "Question 0" in str(sent(parts)[0])
        assert "up/" not in str(sent(parts)[0])


async def test_a_share_of_both_arms_is_drawn_by_the_id_and_every_process_draws_the_same(tmp_path):
    half = {**SETTINGS["judge"], "sample": 0.5}
    async with services(tmp_path) as parts:
        rollout = await start(parts, settings(judge=half))
        drawn = await send(parts, range(200))
        assert 60 < len(drawn) < 140
        assert drawn == [
            f"rec_{n}" for n in range(200) if RequestSample(0.5, rollout.id).has(f"rec_{n}")
        ]
        arms = {row.arm for row in await parts.store.traffic(TrafficFilter()) if row.id in drawn}
        assert arms == {"candidate", "control"}
        await judge(parts)
        assert len(sent(parts)) == len(drawn)


async def test_requests_that_may_not_be_shared_are_never_sent(tmp_path):
    excluding = {**SETTINGS["judge"], "exclude_keys": ["internal"]}
    async with services(tmp_path) as parts:
        await parts.store.add_key(KeyRow(id="key_9", name="internal", created_at=1.0), b"\0" * 32)
        await start(parts, settings(judge=excluding))
        assert await send(parts, [1], stored=False) == []
        assert await send(parts, [2], key_id="key_9") == []
        assert await send(parts, [3], key_id="key_8") == ["rec_3"]
        await judge(parts)
        assert len(sent(parts)) == 1


async def test_what_was_deleted_is_not_sent_and_what_is_not_stored_yet_waits(tmp_path):
    async with services(tmp_path) as parts:
        await start(parts)
        await send(parts, [1, 2])
        await parts.deletion.delete(TrafficFilter(id="rec_1"))
        await judge(parts)
        assert ["Question 2" in str(body) for body in sent(parts)] == [True]
        assert await outcomes(parts) == {"scored": 1}
        # Its text is not kept for longer than this.
        await judge(parts, after=MAX_WAIT_S + 1)
        await judge(parts)
        assert await outcomes(parts) == {"scored": 1, "shed": 1}


async def test_a_judge_that_fails_leaves_values_out_and_other_signals_go_on(tmp_path):
    async with services(tmp_path, [{"status": 500}]) as parts:
        worse = {"measure": "errors", "min_requests": 5}
        await start(parts, settings(signals=[*SETTINGS["signals"], worse]))
        await send(parts, range(20))
        await judge(parts)
        asked = len(sent(parts))
        assert (await outcomes(parts)).keys() == {"error"}
        # It is asked seldom now, by one request at a time.
        await send(parts, range(20, 40))
        await judge(parts)
        assert len(sent(parts)) == asked
        await judge(parts, after=10.0)
        assert len(sent(parts)) == asked + 1
        await judge(parts, after=MAX_WAIT_S + 1)
        await judge(parts)
        found = await outcomes(parts)
        assert (found["error"] + found["shed"], found.get("scored", 0)) == (40, 0)
        for first in range(100, 1000, 50):
            await send(parts, range(first, first + 50), status=500)
            await parts.rollout_controller.run_once()
        report = await parts.rollouts.report("r")
        signals = {reading.signal: reading for reading in report.signals}
        assert signals["judge (guardrail)"].candidate.requests == 0
        assert signals["judge (guardrail)"].harm == 1
        assert signals["errors (guardrail)"].candidate.requests > 100


async def test_a_verdict_that_cannot_be_read_and_an_answer_without_text_have_no_score(tmp_path):
    async with services(tmp_path, [{"answer": "I cannot say."}]) as parts:
        await start(parts)
        await send(parts, [1])
        await send(parts, [2], text=" ")
        await send(parts, [3], path="embeddings")
        await judge(parts)
        assert await outcomes(parts) == {"error": 1, "unjudgeable": 2}
        rollout = await parts.rollouts.find("r")
        await parts.rollout_controller.run_once()
        assert not (await parts.store.uncounted(rollout.id, 9)).scores


async def test_a_days_money_holds_for_all_processes(tmp_path):
    # A verdict costs about 0.3.
    limits = {"usd_per_day": 1.0, "concurrency": 1, "rps": 1}
    async with services(tmp_path) as parts:
        await start(parts, settings(limits))
        for user in range(12):
            await send(parts, [user])
            await judge(parts)
        found = await outcomes(parts)
        spent = sum(each.usd for each in (await parts.rollouts.report("r")).judged)
        assert 1.0 <= spent < 1.5
        assert found["over_budget"] == 12 - found["scored"]
        # Another process, which has judged nothing itself.
        other = parts.judging = judging_of(parts)
        await other.run_once()
        await send(parts, [50])
        await judge(parts)
        assert (await outcomes(parts))["over_budget"] == found["over_budget"] + 1
        await judge(parts, after=86400.0)
        await send(parts, [51])
        await judge(parts)
        assert (await outcomes(parts))["scored"] == found["scored"] + 1


async def test_too_many_that_wait_are_shed_and_a_pause_stops_what_waits(tmp_path):
    async with services(tmp_path) as parts:
        await start(parts, settings({"waiting": 3}))
        await send(parts, range(5))
        await parts.rollouts.act("r", "pause", RolloutAction(reason="lunch"), actor="a")
        await parts.assignments.follow()
        await judge(parts)
        assert sent(parts) == []
        await judge(parts)
        assert await outcomes(parts) == {"shed": 2, "stopped": 3}


async def test_a_judge_that_is_a_route_must_be_one_that_may_see_the_texts_at_any_time(tmp_path):
    async with services(tmp_path) as parts:
        await parts.routes.put("judges", {"targets": [{"model": "other/judge"}]})
        metric = {**METRIC, "judge": "judges"}
        await start(parts, settings(judge={**SETTINGS["judge"], "metric": metric}))
        await parts.routes.put("judges", {"targets": [{"model": "up/judge"}]})
        await judge(parts)
        assert await send(parts, [1]) == []
        await parts.routes.put("judges", {"targets": [{"model": "other/judge"}]})
        await judge(parts)
        assert await send(parts, [2]) == ["rec_2"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"judge": None}, "signals.0.measure: name the judge"),
        ({"judge": {"metric": "nonsense"}}, "judge.metric: "),
        ({"judge": {"metric": "cost"}}, "cost has no judge"),
        ({"judge": {"metric": {"name": "pairwise", "judge": "other/judge"}}}, "has no judge"),
        ({"judge": {"metric": {**METRIC, "judge": "nobody"}}}, "judge.metric: "),
        (
            {"judge": {"metric": {**METRIC, "judge": "up/judge"}}},
            "share_bodies_with: the rollout's",
        ),
        ({"judge": {"metric": {**METRIC, "rubric": "/etc/passwd"}}}, "judge.metric: "),
        ({"judge": {"metric": METRIC, "exclude_keys": ["no"]}}, "no key is named 'no'"),
        ({"signals": [{"measure": "judge"}, SETTINGS["signals"][1]]}, "from 1 to 5"),
        (
            {"signals": [{**SETTINGS["signals"][0], "better": "lower"}, SETTINGS["signals"][1]]},
            "higher scores of",
        ),
    ],
)
async def test_a_judge_that_cannot_be_is_refused_at_the_start(refusing, fields, message):
    with pytest.raises(RequestError, match=message):
        await refusing.rollouts.start("r", settings(**fields), actor="a")


@pytest.fixture(scope="module")
def refusing_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("refusing")


@pytest.fixture
async def refusing(refusing_folder):
    async with services(refusing_folder) as parts:
        yield parts


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ("other/judge", "routes.r.share_bodies_with: the rollout's judge would send"),
        ("nobody", "routes.r.rollout.judge.metric: 'nobody' is neither a route nor"),
    ],
)
def test_the_config_says_what_is_wrong_with_a_judge(judge, message):
    text = CONFIG.format(url="http://127.0.0.1:1", folder="", shared="")
    rollout = {**SETTINGS, "judge": {"metric": {**METRIC, "judge": judge}}}
    rollout = msgspec.json.encode(rollout).decode()
    text = text.replace("share_bodies_with: []", f"share_bodies_with: [], rollout: {rollout}")
    with pytest.raises(ConfigError, match=message):
        parse(text, "c.yaml", {})


SERVED = """
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db"}}
providers:
  up:
    kind: scripted
    script: {{old: [{{answer: "old answer"}}], new: [{{answer: "new answer"}}]}}
  other: {{kind: scripted, script: {{judge: {judge}, cheap: [{{answer: "cheap"}}]}}}}
routes:
  r:
    targets: [{{model: up/old}}]
    share_bodies_with: [other]
    shadow: {{targets: [other/cheap], sample: 0.000001}}
    rollout: {rollout}
"""


def test_a_server_judges_whole_and_streamed_answers_of_a_route_with_a_shadow(http, tmp_path):
    rollout = msgspec.json.encode(settings()).decode()
    judges = msgspec.json.encode(JUDGE).decode()
    with gateway(SERVED.format(folder=tmp_path, judge=judges, rollout=rollout)) as url:
        rollout_of_r = f"{url}/routes/r/rollout"
        until(lambda: http.get(rollout_of_r).is_success)
        # Until the judge has seen that there is a rollout, nothing is drawn.
        sending = itertools.count()

        def is_judged():
            user = next(sending)
            body = {"model": "r", "messages": [{"role": "user", "content": "hi"}]}
            body |= {"user": f"user {user}", "stream": user % 2 == 0}
            assert http.post(f"{url}/v1/chat/completions", json=body).is_success
            judged = http.get(rollout_of_r).json()["judged"]
            assert {each["outcome"] for each in judged} <= {"scored"}
            # Every other one is streamed.
            return sum(each["requests"] for each in judged) > 2

        until(is_judged)
        metrics = http.get(f"{url}/metrics").text
        assert 'evalrouter_rollout_judged_total{outcome="scored",route="r"}' in metrics
        # The shadow has drawn none of them, and so gets none.
        funnel = http.get(f"{url}/routes/r/shadow").json()["funnel"]
        assert funnel["requests"] == funnel["not_sampled"]


def until(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it never came to be so")
