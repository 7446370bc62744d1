"""Shadows: what is sent to candidates, how it is scored, and what is counted instead."""

from __future__ import annotations

import time
import zipfile
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest
from servers import evalrouter, gateway, scripted

from evaluators.base import PRECOMPUTED
from providers.errors import ConfigError, ConflictError, NotFoundError, RequestError, StoreError
from providers.offline.scripted import Script, ScriptedServer
from router.config.loading import parse
from router.evals.lease import this_owner
from router.evals.requests import EvalRequester
from router.loop.bundles.export import BundleOptions, export_bundle
from router.loop.bundles.verification import verify
from router.loop.sampling import TrafficSample
from router.loop.shadow import ShadowChange, Shadows
from router.records import Attempt, Record, Target, new_record_id
from router.sealing.deletion import RequestDeletion
from router.services import Services
from router.store.keys import KeyRow
from router.store.traffic import TrafficFilter

JUDGE = [
    {"match": r"Response A:\s*cheap [\s\S]*Response B:\s*dear", "answer": "Fine. [RESULT] B"},
    {"match": r"Response A:\s*dear [\s\S]*Response B:\s*cheap", "answer": "Fine. [RESULT] A"},
]
MODELS = {"dear": [{"answer": "dear {n}"}], "cheap": [{"answer": "cheap {n}"}], "judge": JUDGE}
CONFIG = """
providers:
  live: {{kind: compatible, base_url: "{url}", api_key: k}}
  other: {{kind: compatible, base_url: "{url}", api_key: k}}
routes:
  chat:
    targets: [{{model: live/dear}}]
    record: {record}
    share_bodies_with: [other]
    shadow: {shadow}
prices:
  live/dear: {{input: 1000, output: 1000}}
  other/cheap: {{input: 10, output: 10}}
  other/judge: {{input: 1, output: 1}}
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}"}}
"""
SHADOW = (
    "{targets: [other/cheap], sample: 1, limits: {rps: 100, usd_per_day: 5}, judge: other/judge}"
)


JUDGES = """
  judges: {targets: [{model: other/judge}]}
"""


def text_of(upstream, folder, *, shadow=SHADOW, record="full", more=""):
    text = CONFIG.format(url=upstream.url, folder=folder, shadow=shadow, record=record)
    return text.replace("prices:", f"{more.strip(chr(10))}\nprices:")


def config_of(upstream, folder, **options):
    return parse(text_of(upstream, folder, **options), "c.yaml", {})


class Clock:
    """Seconds since the epoch, which go on when a test says so."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(upstream, tmp_path, **options):
    """The parts of a process, whose background does nothing by itself."""
    clock = Clock()
    async with Services(config_of(upstream, tmp_path, **options)) as parts:
        parts.clock = clock
        parts.shadows = Shadows(
            parts.store,
            parts.runs,
            parts.jobs,
            requester=EvalRequester(parts.routes, parts.dispatcher, parts.prices, parts.traffic),
            routes=parts.routes,
            allowed=parts.config.evaluation,
            owner=this_owner(),
            outdated=parts.traffic.outdated,
            clock=clock,
        )
        # What begins a shadow is what looks after it.
        await run(parts)
        yield parts


async def run(parts, *, after: float = 60.0) -> None:
    """Have the shadows do what they do once a second, after some time."""
    parts.clock.now += after
    await parts.shadows.run_once()


@asynccontextmanager
async def services(tmp_path, models=MODELS, **options):
    script = msgspec.convert({"models": models}, Script)
    async with ScriptedServer(script) as upstream, opened(upstream, tmp_path, **options) as parts:
        parts.upstream = upstream
        yield parts


def sent(parts, model: str) -> list[dict]:
    """What a model was sent."""
    return [
        msgspec.json.decode(one.body) for one in parts.upstream.log.requests if one.model == model
    ]


def a_record(n: int, *, request=None, message=None, reason="stop", **fields) -> Record:
    asked = [{"role": "user", "content": f"Question {n}"}]
    body = {"model": "chat", "temperature": 0.5, "user": "ann", "messages": asked}
    content = {"role": "assistant", "content": f"dear answer {n}"} | (message or {})
    choice = {"index": 0, "finish_reason": reason, "message": content}
    answer = {"id": "r", "object": "chat.completion", "model": "dear", "choices": [choice]}
    return Record(
        **{
            "id": f"rec_{n}",
            "at": time.time(),
            "route": "chat",
            "target": Target("live", "dear"),
            "status": 200,
            "user": f"user {n % 3}",
            "key_id": "key_1",
            "keep": "full",
            "request": msgspec.json.encode(body | (request or {})),
            "response": msgspec.json.encode(answer),
            "cost_usd": 0.02,
            "total_s": 1.5,
            "first_byte_s": 0.5,
            "prompt_tokens": 3,
            "completion_tokens": 3,
            "total_tokens": 6,
            "attempts": (Attempt("live/dear", "ok", 200, 0.5),),
            "settled": True,
        }
        | fields
    )


def offer(parts, *records: Record, stored=True) -> None:
    """Pass requests as the gateway does."""
    for record in records:
        if wants(parts, record.id, key_id=record.key_id, stored=stored):
            parts.shadows.after(record)


def wants(parts, record_id: str, *, key_id: str = "", stored: bool = True) -> bool:
    route = parts.routes.table.routes["chat"]
    watch = parts.shadows.watched.get("chat")
    return bool(watch) and watch.wants(route, record_id, key_id=key_id, stored=stored)


async def funnel(parts) -> dict[str, int]:
    """The counts that are not 0."""
    counted = msgspec.structs.asdict((await parts.shadows.view("chat")).funnel)
    return {name: number for name, number in counted.items() if number}


async def test_a_candidate_is_compared_pair_by_pair_in_quality_and_cost(tmp_path):
    async with services(tmp_path) as parts:
        records = [a_record(n, user=f"user {n}", cost_usd=0.02 + n * 1e-4) for n in range(120)]
        offer(parts, *records[:60])
        await run(parts)
        first = await parts.shadows.report("chat")
        assert first.state == "running"
        assert await funnel(parts) == {"requests": 60, "scored": 60}
        # The client's own fields are sent, what names its user is not.
        bodies = sent(parts, "cheap")
        assert len(bodies) == 60
        assert (bodies[0]["temperature"], "user" in bodies[0]) == (0.5, False)
        assert not bodies[0].get("stream")
        # Both orders of each pair were judged.
        assert len(sent(parts, "judge")) == 120
        # The requests of the next days are samples of the same run.
        offer(parts, *records[60:])
        await run(parts)
        found = await parts.shadows.report("chat")
        assert found.run == first.run
        assert len(sent(parts, "cheap")) == 120
        report = found.report
        assert report.always_valid
        assert [route.route for route in report.routes] == [PRECOMPUTED, "other/cheap"]
        compared = {one.output: one for one in report.comparisons}
        assert compared["win_rate"].difference == -0.5
        assert compared["win_rate"].verdict == "worse"
        assert compared["win_rate"].clusters == 120
        assert compared["cost_usd"].verdict == "better"
        assert 0 < found.spent_today_usd < 5
        stored = await parts.store.run(found.run)
        assert (stored.dataset_rows, stored.state, stored.runner) == (120, "completed", "server")


async def test_a_streamed_answer_is_put_together(tmp_path):
    async with services(tmp_path) as parts:
        chunks = [
            {"id": "c", "object": "chat.completion.chunk", "model": "dear",
             "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}
            for text, reason in (("dear ", None), ("friend", None), ("", "stop"))
        ]  # fmt: skip
        lines = [*(msgspec.json.encode(chunk) for chunk in chunks), b"[DONE]"]
        stream = b"".join(b"data: " + line + b"\n\n" for line in lines)
        offer(parts, a_record(1, response=stream, stream=True, request={"stream": True}))
        await run(parts)
        name = (await parts.shadows.view("chat")).run
        [sample] = [one async for one in parts.store.samples(name)]
        assert sample.answer == "dear friend"
        assert sample.parameters == {"temperature": 0.5}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (a_record(1, message={"content": None, "tool_calls": [{"id": "1"}]}), "tool_calls"),
        (a_record(1, reason="length"), "truncated"),
        (a_record(1, message={"content": " "}), "empty"),
        (a_record(1, status=502, error_code="upstream"), "failed"),
        (a_record(1, error_code="upstream_stream"), "failed"),
        (a_record(1, target=Target("other", "cheap")), "same_target"),
        (a_record(1, path="embeddings"), "path"),
        (a_record(1, request={"n": 2}), "several_answers"),
        (a_record(1, response=None), "too_long"),
        (a_record(1, response=b"{"), "unreadable"),
        (a_record(1, response=b"data: {\n\n"), "unreadable"),
        (a_record(1, request={"messages": "x"}), "unreadable"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_cannot_be_judged_is_counted_by_its_reason(shared, record, reason):
    before = (await shared.shadows.view("chat")).funnel.why_unjudgeable
    offer(shared, record)
    await shared.shadows.run_once()
    after = (await shared.shadows.view("chat")).funnel.why_unjudgeable
    assert after.get(reason, 0) == before.get(reason, 0) + 1
    assert not sent(shared, "cheap")


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
async def shared(shared_folder):
    async with services(shared_folder) as parts:
        yield parts


async def test_a_candidate_that_calls_tools_is_unjudgeable_and_nothing_is_executed(tmp_path):
    call = {"id": "1", "type": "function", "function": {"name": "pay", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    body = {"id": "x", "object": "chat.completion", "model": "cheap", "choices": [choice]}
    async with services(tmp_path, MODELS | {"cheap": [{"body": body}]}) as parts:
        tools = [{"type": "function", "function": {"name": "pay"}}]
        offer(parts, a_record(1, request={"tools": tools}))
        await run(parts)
        assert sent(parts, "cheap")[0]["tools"] == tools
        assert (await parts.shadows.view("chat")).funnel.why_unjudgeable == {"candidate": 1}
        assert len(sent(parts, "cheap")) == 1


async def test_requests_that_may_not_be_shared_are_never_sent(tmp_path):
    shadow = SHADOW[:-1] + ", exclude_keys: [internal]}"
    async with services(tmp_path, shadow=shadow) as parts:
        # Until there is such a key nothing is sent at all: it may be misspelt.
        offer(parts, a_record(1))
        assert "no key is named 'internal'" in (await parts.shadows.view("chat")).blocked
        await parts.store.add_key(KeyRow(id="key_9", name="internal", created_at=1.0), b"\0" * 32)
        await run(parts)
        offer(parts, a_record(2, key_id="key_9"), a_record(3))
        offer(parts, a_record(4), stored=False)
        await run(parts)
        assert await funnel(parts) == {"requests": 3, "excluded": 2, "scored": 1}
        assert len(sent(parts, "cheap")) == 1


async def test_the_share_is_drawn_by_the_id_so_that_processes_agree(tmp_path):
    shadow = SHADOW.replace("sample: 1", "sample: 0.25")
    async with services(tmp_path, shadow=shadow) as parts:
        ids = [new_record_id() for _ in range(2000)]
        drawn = [one for one in ids if wants(parts, one)]
        assert 400 < len(drawn) < 600
        assert drawn == [one for one in ids if TrafficSample(0.25, "chat").has(one)]
        assert drawn != [one for one in ids if TrafficSample(0.25, "other").has(one)]
        await run(parts)
        assert (await funnel(parts))["not_sampled"] == 2000 - len(drawn)


async def test_a_days_money_is_never_exceeded_by_more_than_what_is_in_flight(tmp_path):
    # A pair costs about 0.0002 (4 tokens at 10, two judgements of some 300 at 1 per million).
    shadow = SHADOW.replace("usd_per_day: 5", "usd_per_day: 0.003, concurrency: 1")
    async with services(tmp_path, shadow=shadow) as parts:
        for first in range(0, 40, 8):
            offer(parts, *(a_record(n) for n in range(first, first + 8)))
            await run(parts)
        view = await parts.shadows.view("chat")
        assert view.state == "blocked"
        assert "today is spent" in view.blocked
        assert 0.003 <= view.spent_today_usd < 0.005
        assert view.funnel.over_budget > 0
        # A new process reads it from the store, and counts what it does not even keep.
    upstream = ScriptedServer(Script(models={}))
    async with upstream, opened(upstream, tmp_path, shadow=shadow) as again:
        over = (await funnel(again))["over_budget"]
        offer(again, a_record(100))
        await again.shadows.run_once()
        assert (await funnel(again))["over_budget"] == over + 1


async def test_a_target_that_is_down_is_tried_less_often_and_its_rows_are_tried_again(tmp_path):
    models = MODELS | {"cheap": [{"status": 401, "times": 6}, {"answer": "cheap {n}"}]}
    async with services(tmp_path, models) as parts:
        offer(parts, *(a_record(n) for n in range(3)))
        await run(parts)
        view = await parts.shadows.view("chat")
        assert (view.state, view.funnel.error) == ("blocked", 3)
        assert "failed" in view.blocked
        # Until its time nothing is sent, and then one request finds out.
        offer(parts, *(a_record(n) for n in range(3, 9)))
        await run(parts, after=1.0)
        assert len(sent(parts, "cheap")) == 3
        assert (await funnel(parts))["waiting"] == 6
        for tried in (4, 5, 6):
            await run(parts, after=300.0)
            assert len(sent(parts, "cheap")) == tried
        # It answers: what failed is sent again, and what waited goes on.
        await run(parts, after=300.0)
        assert (await parts.shadows.view("chat")).state == "running"
        await run(parts)
        # One request found out three times, which is as often as any is tried.
        assert await funnel(parts) == {"requests": 9, "scored": 8, "error": 1}
        assert len(sent(parts, "cheap")) == 6 + 8
        # The breakers of live requests have seen nothing of it.
        assert not list(parts.dispatcher.states("live"))


async def test_a_judge_that_fails_for_an_hour(tmp_path):
    models = MODELS | {"judge": [{"status": 401, "times": 40}, *JUDGE]}
    async with services(tmp_path, models) as parts:
        offer(parts, *(a_record(n) for n in range(2)))
        await run(parts)
        offer(parts, a_record(2))
        for _ in range(11):
            await run(parts, after=300.0)
        # No candidate was paid twice for what only the judge has not done.
        assert len(sent(parts, "cheap")) <= 3
        assert len(sent(parts, "judge")) < 40
        offer(parts, a_record(3, at=parts.clock.now))
        while len(sent(parts, "judge")) < 40:
            offer(parts, a_record(100 + len(sent(parts, "judge")), at=parts.clock.now))
            await run(parts, after=300.0)
        offer(parts, a_record(4, at=parts.clock.now))
        await run(parts, after=300.0)
        await run(parts)
        view = await parts.shadows.view("chat")
        assert view.state == "running"
        # What it could not judge within the hour is an error, and nothing waits for ever.
        assert view.funnel.error >= 2
        assert view.funnel.waiting == 0
        assert view.funnel.scored >= 1
        assert view.funnel.scored + view.funnel.error == view.funnel.requests


async def test_a_route_that_keeps_no_bodies_keeps_scores_only(tmp_path):
    async with services(tmp_path, record="metadata") as parts:
        offer(parts, *(a_record(n, keep="metadata") for n in range(3)))
        await run(parts)
        found = await parts.shadows.report("chat")
        assert found.funnel.scored == 3
        assert {one.output: one.difference for one in found.report.comparisons}["win_rate"] == -0.5
        database = (tmp_path / "e.db").read_bytes() + (tmp_path / "e.db-wal").read_bytes()
        assert await parts.store.deleted_texts(found.run) == 3
        samples = [one async for one in parts.store.samples(found.run)]
        assert [one.messages for one in samples] == [(), (), ()]
        assert b"Question 1" not in msgspec.json.encode([
            one async for one in parts.store.results(found.run)
        ])  # fmt: skip
        assert database
        with pytest.raises(ConflictError, match="were deleted"):
            await parts.runs.rescore(found.run, [], base=tmp_path, runner="server")


async def test_pausing_needs_a_reason_and_stops_at_once(tmp_path):
    async with services(tmp_path) as parts:
        shadows = parts.shadows
        with pytest.raises(RequestError, match="say why"):
            await shadows.change("chat", ShadowChange(action="pause"), "key_2")
        with pytest.raises(NotFoundError):
            await shadows.change("other", ShadowChange(action="pause", reason="x"), "key_2")
        offer(parts, a_record(1))
        view = await shadows.change("chat", ShadowChange(action="pause", reason="holiday"), "key_2")
        assert (view.state, view.reason, view.changed_by) == ("paused", "holiday", "key_2")
        offer(parts, a_record(2))
        await run(parts)
        assert await funnel(parts) == {"requests": 2, "paused": 1, "waiting": 1}
        assert not sent(parts, "cheap")
        await shadows.change("chat", ShadowChange(action="resume"), "key_2")
        await run(parts)
        assert (await funnel(parts))["scored"] == 1


async def test_other_candidates_begin_another_run_and_other_limits_do_not(tmp_path):
    async with services(tmp_path) as parts:
        first = (await parts.shadows.view("chat")).run
        route = msgspec.to_builtins(parts.routes.table.routes["chat"])
        await parts.routes.put("chat", route | {"shadow": route["shadow"] | {"sample": 0.5}})
        await run(parts)
        assert (await parts.shadows.view("chat")).run == first
        await parts.routes.put("chat", route | {"shadow": route["shadow"] | {"judge": None}})
        await run(parts)
        second = (await parts.shadows.view("chat")).run
        assert second != first
        assert (await parts.store.run(first)).state == "completed"
        await parts.routes.put("chat", route | {"shadow": None})
        await run(parts)
        with pytest.raises(NotFoundError, match="has no shadow"):
            await parts.shadows.view("chat")
        assert not wants(parts, "x")


async def test_a_judge_whose_route_moves_to_another_provider_gets_nothing_more(tmp_path):
    shadow = SHADOW.replace("other/judge", "judges")
    async with services(tmp_path, shadow=shadow, more=JUDGES) as parts:
        offer(parts, a_record(1))
        await run(parts)
        assert (await funnel(parts))["scored"] == 1
        await parts.routes.put("judges", {"targets": [{"model": "live/judge"}]})
        offer(parts, a_record(2))
        await run(parts)
        view = await parts.shadows.view("chat")
        assert view.state == "blocked"
        assert "name live" in view.blocked
        assert len(sent(parts, "cheap")) == 1
        with pytest.raises(ConfigError, match="name live"):
            await parts.shadows.check("chat", parts.routes.table.routes["chat"])


async def test_a_deleted_request_is_gone_from_the_shadow_too(tmp_path):
    async with services(tmp_path) as parts:
        offer(parts, *(a_record(n) for n in range(6)))
        await run(parts)
        parts.deletion = RequestDeletion([parts.recorded, parts.shadows])
        done = await parts.deletion.delete(TrafficFilter(user="user 1"))
        assert done.complete
        found = (await parts.shadows.view("chat")).run
        texts = msgspec.json.encode([one async for one in parts.store.samples(found)])
        assert b"Question 1" not in texts
        assert b"Question 2" in texts
        assert (await funnel(parts))["scored"] == 6


METRICS = SHADOW.replace(
    "judge:",
    "metrics: [length, cost, {name: prometheus, judge: other/judge, rubric: helpfulness}], judge:",
)


@pytest.mark.parametrize("bodies", ["keep", "masked", "hashes"])
async def test_a_bundle_after_a_deletion_has_the_scores_as_stated(tmp_path, bodies):
    models = MODELS | {"judge": [*JUDGE, {"answer": "Good. [RESULT] 4"}]}
    async with services(tmp_path, models, shadow=METRICS) as parts:
        offer(parts, *(a_record(n) for n in range(6)))
        await run(parts)
        found = await parts.shadows.report("chat")
        await parts.shadows.delete(TrafficFilter(user="user 1"))
        assert await parts.store.deleted_texts(found.run) == 2
        options = BundleOptions(bodies=bodies)
        path, _ = await export_bundle(parts.store, found.run, tmp_path / "b.zip", options)
        verified = await verify(path)
        assert verified.differences == []
        assert verified.passed
        [said] = [one for one in verified.not_recomputed if "were deleted" in one]
        assert said.startswith("The texts of 4 answers were deleted")
        assert any("of judges" in one for one in verified.checked)


async def test_a_deletion_during_an_export_ends_it(tmp_path):
    async with services(tmp_path) as parts:
        offer(parts, *(a_record(n) for n in range(3)))
        await run(parts)
        found = await parts.shadows.report("chat")

        async def delete(_exported, place):
            assert not place.exists()
            await parts.shadows.delete(TrafficFilter(user="user 1"))

        path = tmp_path / "b.zip"
        with pytest.raises(StoreError, match="requests of it were deleted meanwhile"):
            await export_bundle(parts.store, found.run, path, BundleOptions(note=delete))
        assert not path.exists()
        await export_bundle(parts.store, found.run, path, BundleOptions())
        with zipfile.ZipFile(path) as bundle:
            assert b"Question 1" not in bundle.read("samples.jsonl")


def test_live_requests_over_http(tmp_path):
    with (
        scripted(MODELS) as upstream,
        gateway(config_of(upstream, tmp_path)) as url,
        httpx.Client(base_url=url) as http,
    ):
        patiently(lambda: http.get("/routes/chat/shadow").json()["run"])

        def ask(text: str, **fields) -> httpx.Response:
            messages = [{"role": "user", "content": text}]
            return http.post(
                "/v1/chat/completions", json={"model": "chat", "messages": messages, **fields}
            )

        answers = [ask("one"), ask("two", stream=True), ask("three", store=False)]
        assert [one.status_code for one in answers] == [200, 200, 200]
        assert ask("four", n="x").status_code >= 400
        names = [one.headers["x-evalrouter-record"] for one in answers]
        patiently(lambda: http.get("/routes/chat/shadow").json()["funnel"]["scored"] == 2)
        shown = http.get("/routes/chat/shadow").json()
        assert shown["funnel"]["excluded"] == 1
        run = shown["run"]
        samples = http.get(f"/eval/{run}/samples").json()["data"]
        assert {one["sample"]["id"] for one in samples} == {*names[:2]}
        assert {one["route"] for one in samples} == {PRECOMPUTED, "other/cheap"}
        assert {one["answer"]["text"] for one in samples if one["route"] == PRECOMPUTED} == {
            "dear 1",
            "dear 2",
        }
        metrics = http.get("/metrics").text
        assert 'evalrouter_shadow_requests{reason="scored",route="chat"} 2' in metrics
        [listed] = http.get("/shadows").json()["data"]
        assert listed["route"] == "chat"
        paused = http.post("/routes/chat/shadow", json={"action": "pause", "reason": "why"})
        assert paused.json()["state"] == "paused"
        assert http.post("/routes/chat/shadow", json={"action": "pause"}).status_code == 400
        assert http.get("/routes/nobody/shadow").status_code == 404
        route = http.get("/routes/chat").json()["route"] | {"share_bodies_with": []}
        refused = http.put("/routes/chat", json=route)
        assert (refused.status_code, "name other" in refused.text) == (400, True)
        # Commands show the same, from the database.
        config = tmp_path / "c.yaml"
        config.write_text(text_of(upstream, tmp_path))
        listed = evalrouter("shadow", "list", "--config", config).stdout
        assert "other/cheap" in listed
        report = evalrouter("shadow", "report", "chat", "--config", config).stdout
        for words in (
            "paused (why",
            "scored",
            "excluded (store: false",
            "win_rate",
            "(no interval yet)",
            run,
        ):
            assert words in report
        evalrouter("shadow", "resume", "chat", "--config", config)
        assert http.get("/routes/chat/shadow").json()["state"] == "running"
        evalrouter("shadow", "pause", "chat", "--config", config, check=2)
        evalrouter("shadow", "report", "nobody", "--config", config, check=2)


def patiently(condition) -> None:
    """Wait until something is so."""
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends, "it took too long"
        time.sleep(0.02)


async def test_what_another_part_has_executed_counts_before_more_is_sent(tmp_path):
    async with services(tmp_path, MODELS | {"cheap": [{"status": 401}]}) as parts:
        offer(parts, *(a_record(n) for n in range(2)))
        await parts.shadows.change("chat", ShadowChange(action="pause", reason="why"), "")
        await run(parts)
        name = (await parts.shadows.view("chat")).run
        await parts.store.take_pairs(name, 0.0, new=9, again=0, max_tries=3, since=0.0)
        await parts.jobs.execute(name)
        await parts.shadows.change("chat", ShadowChange(action="resume"), "")
        offer(parts, a_record(2))
        await run(parts, after=1.0)
        assert (await parts.shadows.view("chat")).funnel.error == 2
        assert len(sent(parts, "cheap")) == 2
