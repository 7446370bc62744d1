"""Learned routes with real requests: learned of a run, applied, and with parts that fail."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from functools import partial

import httpx
import msgspec
import pytest
from click.testing import CliRunner
from embedding_host import embedding_host
from servers import gateway

from providers.errors import (
    ConfigError,
    ConflictError,
    EvalrouterError,
    NotFoundError,
    RequestError,
)
from router.cli import main
from router.client import Client
from router.config.loading import parse
from router.config.routes import RouteTarget, parse_route
from router.loop.rollout_routes import promoted
from router.records import Target
from router.services import Services
from router.store.feedback import FeedbackRow
from router.store.learned import LearnedModel, LearnedSource
from router.store.lineage import RowSource
from router.store.traffic import TrafficFilter

CONFIG = """
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
providers:
  up:
    kind: scripted
    script:
      cheap: [{{match: "easy", answer: "right"}}, {{answer: "wrong"}}]
      dear: [{{answer: "right"}}]
      new: [{{answer: "right"}}]
  words: {{kind: compatible, base_url: "{url}", api_key: k}}
prices:
  up/cheap: {{input: 10, output: 10}}
  up/dear: {{input: 1000, output: 1000, cached_input: 100}}
routes:
  chat:
    strategy: learned
    targets: [{{model: up/cheap, weight: 0.001}}, {{model: up/dear, weight: 1000}}]
    share_bodies_with: [words]
    retries: {{attempts: 1}}
    record: full
    {more}
    learned:
      quality: {quality}
      within: 0.1
      of: up/dear
      embeddings: words/w
      embed_seconds: {embed_seconds}
      neighbours: 10
      margin: 0.05
      mode: {mode}
"""
RUN = {
    "dataset": "rows.jsonl",
    "routes": ["up/cheap", "up/dear"],
    "metrics": ["exact_match", "cost"],
    "prompt": "{{ input }}",
}
EASY, HARD = "easy sum of apples", "hard proof about primes"


def config_text(folder, host, *, mode="apply", quality="exact_match", more="", embed_seconds=5):
    return CONFIG.format(
        folder=folder,
        url=host.url,
        mode=mode,
        quality=quality,
        more=more,
        embed_seconds=embed_seconds,
    )


def rows(count=160):
    for n in range(count):
        text = f"{(EASY, HARD)[n % 2]} number {n}"
        yield {"id": str(n), "input": text, "reference": "right"}


def copied(database, folder):
    with sqlite3.connect(database) as source, sqlite3.connect(folder / "e.db") as copy:
        source.backup(copy)
    source.close()
    copy.close()
    return folder


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A folder with a database in which both targets have answered a dataset."""
    folder = tmp_path_factory.mktemp("evaluated")
    with embedding_host() as host:
        (folder / "c.yaml").write_text(config_text(folder, host))
        (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows())))
        (folder / "run.json").write_text(json.dumps({**RUN, "dataset": str(folder / "rows.jsonl")}))
        done = CliRunner().invoke(
            main, ["eval", "run", str(folder / "run.json"), "--config", str(folder / "c.yaml")]
        )
        assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def learned(evaluated, tmp_path_factory):
    """A folder with a database in which the route has been learned, and what that printed."""
    folder = copied(evaluated / "e.db", tmp_path_factory.mktemp("learned"))
    with embedding_host() as host:
        (folder / "c.yaml").write_text(config_text(folder, host))
        done = CliRunner().invoke(main, ["route", "learn", "chat", "--config", f"{folder}/c.yaml"])
        assert done.exit_code == 0, done.output
    return folder, done.output


@pytest.fixture
def unlearned(evaluated, tmp_path):
    """A copy of the database with the run."""
    return copied(evaluated / "e.db", tmp_path)


@pytest.fixture
def folder(learned, tmp_path):
    """A copy of the database with the model, and of its file."""
    shutil.copytree(learned[0] / "artifacts", tmp_path / "artifacts")
    return copied(learned[0] / "e.db", tmp_path)


@pytest.fixture
def host():
    with embedding_host() as host:
        yield host


@asynccontextmanager
async def services(folder, host, **options):
    config = parse(config_text(folder, host, **options), "c.yaml", {})
    async with Services(config) as parts:
        yield parts
        await parts.learned_routes.close()


def ask(url, text, **more):
    body = {"model": "chat", "messages": [{"role": "user", "content": text}], **more}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)


def target(response):
    assert response.status_code == 200, response.text
    return response.headers["x-evalrouter-target"]


def choice_of(url, response):
    """The choice in the record of a request, once that is stored."""
    record = response.headers["x-evalrouter-record"]
    while (shown := httpx.get(f"{url}/traffic/{record}")).status_code == 404:
        time.sleep(0.01)
    return shown.json()


def test_a_learned_route_takes_the_cheap_target_where_it_is_good_enough(learned, folder, host):
    _, printed = learned
    assert "chat: applied" in printed
    assert "it chooses: saves" in printed
    assert "50%" in printed
    with gateway(config_text(folder, host)) as url:
        easy, hard = ask(url, f"{EASY} today"), ask(url, f"{HARD} today")
        assert (target(easy), target(hard)) == ("up/cheap", "up/dear")
        row = choice_of(url, easy)
        choice = row["learned"]
        assert (choice["reason"], choice["target"], choice["applied"]) == (
            "cheapest", "up/cheap", True,
        )  # fmt: skip
        assert choice["neighbours"] == 10
        cheap, dear = choice["predictions"]
        assert (cheap["target"], cheap["score"], cheap["good"]) == ("up/cheap", 1.0, True)
        assert cheap["cost_usd"] < dear["cost_usd"]
        assert (row["first_target"], row["propensity"]) == ("up/cheap", 1.0)
        hard_choice = choice_of(url, hard)["learned"]
        assert hard_choice["reason"] == "cheapest"
        assert hard_choice["predictions"][0].get("good", False) is False

        embedded = len(host.texts)
        same = ask(url, f"{EASY} today")
        assert target(same) == "up/cheap"
        assert len(host.texts) == embedded, "the same prompt is not embedded twice"

        choice_of(url, same)
        client = Client(url)
        report = client.routes.learned("chat")
        assert (report["state"], report["test"]["decision"]) == ("applied", "pays")
        assert report["test"]["always"] == "up/dear"
        assert 0.4 < report["test"]["saving"] < 0.6
        assert report["model"]["rows"] == 160
        assert report["model"]["made_of"]["prompts"] == 160
        assert report["recent"]["by_reason"] == {"cheapest": 3}
        assert report["recent"]["applied"] == 3
        assert "of the last" not in report["explanation"]
        metrics = httpx.get(f"{url}/metrics").text
        assert 'evalrouter_learned_choices_total{reason="cheapest",route="chat"} 3.0' in metrics
        assert 'evalrouter_learned_saving{route="chat"}' in metrics

        # What it did not choose is told beside.
        choice_of(url, ask(url, ""))
        told = client.routes.learned("chat")["explanation"]
        assert "chose for 3 of the last 4 requests, and not for 1 (3 cheapest, 1 no_text)" in told
        client.close()


def test_observe_predicts_and_leaves_the_choice_to_the_other_strategy(folder, host):
    with gateway(config_text(folder, host, mode="observe")) as url:
        answered = ask(url, f"{EASY} today")
        assert target(answered) == "up/dear"
        choice = choice_of(url, answered)["learned"]
        assert (choice["target"], choice.get("applied", False)) == ("up/cheap", False)
        client = Client(url)
        report = client.routes.learned("chat")
        assert report["state"] == "observing"
        assert report["recent"]["saved_usd"] > 0
        # Over HTTP it is learned in the background, and the earlier model stays until then.
        began = client.routes.learn("chat")
        assert began["state"] == "learning"
        while (report := client.routes.learned("chat"))["learning"] is not None:
            time.sleep(0.05)
        assert report["model"]["id"] == began["id"]
        client.close()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"seconds": 60.0}, "embeddings_slow"),
        ({"status": 500}, "embeddings_failed"),
        ({"dimensions": 16}, "dimensions"),
        ({"salt": "another model"}, "embeddings_changed"),
    ],
)
async def test_embeddings_that_fail_leave_the_choice_to_the_other_strategy(
    folder, host, fault, reason
):
    for name, value in fault.items():
        setattr(host, name, value)
    embed_seconds = 0.05 if reason == "embeddings_slow" else 5
    try:
        with gateway(config_text(folder, host, embed_seconds=embed_seconds)) as url:
            answered = await asyncio.to_thread(ask, url, f"{EASY} today")
            assert target(answered) == "up/dear"
            assert (await asyncio.to_thread(choice_of, url, answered))["learned"][
                "reason"
            ] == reason
            metrics = await asyncio.to_thread(httpx.get, f"{url}/metrics")
            assert f'learned_choices_total{{reason="{reason}",route="chat"}} 1.0' in metrics.text
    finally:
        host.seconds = 0.0


async def predicted(parts, text, **more):
    """The choice for a request of the route, without sending it."""
    route = parts.routes.table.routes["chat"]
    messages = more.pop("messages", [{"role": "user", "content": text}])
    return await parts.predictor.predict(
        "chat",
        more.pop("route", route),
        {"messages": msgspec.Raw(json.dumps(messages).encode())} | more.pop("fields", {}),
        conversation=more.pop("conversation", ""),
        candidates=more.pop("candidates", [Target("up", "cheap"), Target("up", "dear")]),
    )


async def test_prompts_without_a_prediction(folder, host):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    async with services(folder, host) as parts:
        for messages in (
            [],
            [{"role": "user", "content": ""}],
            [{"role": "user", "content": [image]}],
            [{"role": "assistant", "content": EASY}],
            [{"role": "user", "content": 7}],
            "not a list",
        ):
            choice = await predicted(parts, "", messages=messages)
            assert (choice.reason, choice.target) == ("no_text", ""), messages
        assert (await predicted(parts, "nothing alike at all")).reason == "unlike"
        text = [{"role": "user", "content": [image, {"type": "text", "text": f"{EASY} today"}]}]
        assert (await predicted(parts, "", messages=text)).target == "up/cheap"
        # Of a megabyte, the beginning is embedded.
        long = f"{EASY} " * 50_000
        assert (await predicted(parts, long)).target == "up/cheap"
        assert max(len(text) for texts in host.texts for text in texts) <= 8000
        only = await predicted(parts, f"{EASY} today", candidates=[Target("up", "dear")])
        assert (only.reason, only.target) == ("cheapest", "up/dear")
        none = await predicted(parts, f"{EASY} today", candidates=[Target("up", "other")])
        assert (none.reason, none.target) == ("none_good_enough", "")


async def test_a_conversation_stays_unless_a_change_saves_more_than_it_costs(folder, host):
    async with services(folder, host) as parts:
        choose = partial(predicted, parts, conversation="c")
        assert (await choose(f"{HARD} today")).target == "up/dear"
        # The dear target's cache is worth 900 dollars per million tokens, the answer 0.007 dollars.
        beginning = [{"role": "user", "content": f"{HARD} today {'and more ' * 50}"}]
        turn = [*beginning, {"role": "user", "content": f"{EASY} today"}]
        choice = await choose("", messages=turn)
        assert (choice.reason, choice.target, choice.applied) == ("stays", "up/dear", True)
        assert (await predicted(parts, "", messages=turn)).target == "up/cheap"
        learned = parts.routes.table.routes["chat"].learned
        free = msgspec.structs.replace(
            parts.routes.table.routes["chat"],
            learned=msgspec.structs.replace(learned, switch_cost=0.0),
        )
        choice = await choose("", messages=turn, route=free)
        assert (choice.reason, choice.target) == ("cheapest", "up/cheap")
        # Where its target is not good enough any more it changes, but not while tools are called.
        loop = [
            {"role": "user", "content": f"{HARD} today"},
            {"role": "assistant", "tool_calls": [{"id": "1"}]},
            {"role": "tool", "tool_call_id": "1", "content": "2"},
        ]
        choice = await choose("", messages=loop)
        assert (choice.reason, choice.target) == ("stays", "up/cheap")
        assert (await choose(f"{HARD} today")).target == "up/dear"


async def test_a_model_of_other_settings_or_too_old_is_not_used(folder, host):
    async with services(folder, host) as parts:
        route = parts.routes.table.routes["chat"]
        for changes, reason in (
            ({"confidence": 0.95}, "outdated"),
            ({"quality": "rougeL"}, "outdated"),
            ({"max_age_days": 1e-9}, "expired"),
            ({"mode": "observe"}, "cheapest"),
        ):
            other = msgspec.structs.replace(
                route, learned=msgspec.structs.replace(route.learned, **changes)
            )
            assert (await predicted(parts, f"{EASY} today", route=other)).reason == reason
        more = msgspec.structs.replace(
            route, targets=(*route.targets, RouteTarget(model="up/other"))
        )
        assert (await predicted(parts, f"{EASY} today", route=more)).reason == "outdated"
        report = await parts.learned_routes.report("chat")
        assert report.state == "applied"
        # Two hundred prompts that are unlike all that are known.
        for n in range(200):
            await predicted(parts, f"quite {n} different things")
        assert (await predicted(parts, f"{EASY} today")).reason == "drifted"
        assert (await parts.learned_routes.report("chat")).state == "drifted"


def test_exploring_shows_in_the_record(folder, host):
    with gateway(config_text(folder, host, more="explore: 0.5")) as url:
        answers = [ask(url, f"{EASY} today") for _ in range(24)]
        records = [(target(answered), choice_of(url, answered)) for answered in answers]
    by_reason = {row["learned"]["reason"] for _, row in records}
    assert by_reason == {"cheapest", "explored"}
    for answered, row in records:
        assert row["learned"]["target"] == "up/cheap"
        assert row["propensity"] == {"up/cheap": 0.75, "up/dear": 0.25}[answered]
        assert row["learned"].get("applied", False) is (row["learned"]["reason"] == "cheapest")


def test_feedback_teaches_and_what_is_deleted_leaves_the_model(tmp_path, host):
    """Rows of a deleted user, and those with a user's feedback, are not in the file any more."""
    options = {"quality": "feedback:thumb", "mode": "observe", "more": "explore: 1"}
    with gateway(config_text(tmp_path, host, **options)) as url, httpx.Client() as http:
        feedback = []
        for n in range(160):
            body = {
                "model": "chat",
                "messages": [{"role": "user", "content": f"{(EASY, HARD)[n % 2]} number {n}"}],
                "user": f"user {n % 40}",
            }
            answered = http.post(f"{url}/v1/chat/completions", json=body)
            text = answered.json()["choices"][0]["message"]["content"]
            feedback.append(
                {
                    "request_id": answered.headers["x-evalrouter-record"],
                    "name": "thumb",
                    "value": text == "right",
                    "user": "ann" if n == 0 else f"user {n % 40}",
                }
            )
        for given in feedback:
            while http.post(f"{url}/feedback", json=given).status_code == 404:
                time.sleep(0.01)
        senseless = feedback[0] | {"value": 1e12, "user": "mallory"}
        senseless_id = http.post(f"{url}/feedback", json=senseless).json()["id"]
        client = Client(url)
        client.routes.learn("chat")
        while (report := client.routes.learned("chat"))["state"] == "learning":
            time.sleep(0.05)
        model, test = report["model"], report["test"]
        [warning] = model["made_of"].pop("warnings")
        assert "1 that are numbers beyond 0 and 1 are left out" in warning
        assert warning in report["explanation"]
        assert model["made_of"] == {"feedback": 160, "requests": 160, "without_body": 0}
        assert (test["weighted"], test["paired"], test["excluded"]) == (160, 0, 0)
        assert test["units"] == 40
        http.delete(f"{url}/feedback/{senseless_id}")
        by_name = http.get(f"{url}/feedback", params={"name": "thumb", "limit": 200}).json()
        about_ninth = next(
            each for each in by_name["data"] if each["record_id"] == feedback[9]["request_id"]
        )
        assert http.delete(f"{url}/feedback/{about_ninth['id']}").json()["deleted"] == 1
        report = client.routes.learned("chat")
        assert (report["model"]["rows"], report["model"]["forgotten"]) == (158, 2)
        assert {share["target"]: share["score"] for share in test["targets"]}["up/dear"] == 1.0

        files = tmp_path / "artifacts" / "learned"
        [before] = files.rglob("*.model")
        deleted = http.delete(f"{url}/traffic", params={"user": "user 7"}).json()
        assert deleted["deleted"] == 4
        report = client.routes.learned("chat")
        assert (report["model"]["rows"], report["model"]["forgotten"]) == (154, 6)
        [after] = files.rglob("*.model")
        assert after != before
        assert after.stat().st_size < before.stat().st_size if before.exists() else True
        # What a user has said of somebody else's request goes, too.
        http.delete(f"{url}/traffic", params={"user": "ann"})
        assert client.routes.learned("chat")["model"]["rows"] == 154
        # So does the rest; a model of nothing is none.
        http.delete(f"{url}/traffic", params={"route": "chat"})
        report = client.routes.learned("chat")
        assert report["state"] == "no_model"
        assert "all its requests were deleted" in report["explanation"]
        assert "evalrouter route learn chat" in report["explanation"]
        assert not list(files.rglob("*.model"))
        client.close()


async def test_feedback_that_is_deleted_while_a_route_is_learned_of_it_refuses_the_model(
    unlearned, host
):
    feedback = FeedbackRow(
        id="f", at=1.0, key_id="", user="", name="thumb", kind="bool", value=True, score=1.0,
        subject="s", record_id="req_1", request_key="", request_user="", route="chat",
        request_at=1.0,
    )  # fmt: skip
    async with services(unlearned, host, quality="feedback:thumb") as parts:
        deletions = await parts.store.traffic_deletions()
        model = LearnedModel(
            id="lm_1", route="chat", created_at=1.0, settings={"quality": "feedback:thumb"}
        )
        await parts.store.add_learned(model)
        other = msgspec.structs.replace(feedback, name="stars")
        await parts.learned_routes.forget_feedback(other)
        assert await parts.store.traffic_deletions() == deletions
        await parts.learned_routes.forget_feedback(feedback)
        ready = msgspec.structs.replace(model, state="ready", artifact="a")
        with pytest.raises(ConflictError, match="deleted"):
            await parts.store.finish_learned(ready, [], deletions=deletions)


async def test_a_run_over_copied_requests_is_forgotten_with_them(unlearned, host):
    """The rows of a dataset that were copied of requests lead to the model's rows."""
    async with services(unlearned, host) as parts:
        [run] = await parts.store.runs()
        sources = [
            RowSource(row=str(n), id=f"req_{n}", at=1.0, user="ann" if n < 3 else "bob")
            for n in range(6)
        ]
        await parts.store.add_sources(run.dataset_hash, sources)
        model = await parts.learned_routes.learn("chat", actor="a test")
        done = await parts.deletion.delete(TrafficFilter(user="ann"))
        assert done.related >= 3
        [after] = await parts.store.learned_models("chat")
        assert (after.rows, after.forgotten, after.id) == (157, 3, model.id)
        numbers = parts.predictor.active["chat"].file.numbers
        assert set(range(3)).isdisjoint(numbers.tolist())
        assert len(numbers) == 157


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": "rougel"}, "no run over the route's targets has the output 'rougel'"),
        ({"quality": "feedback:thumb"}, "no feedback of the name 'thumb'"),
        ({"quality": "cost_usd"}, "higher values of cost_usd are not better"),
        ({"more": "fallback_on: [422]"}, ""),
    ],
)
async def test_what_cannot_be_learned_is_refused_and_the_earlier_model_stays(
    folder, host, options, message
):
    async with services(folder, host, **options) as parts:
        before = parts.predictor.active["chat"].row.id
        if not message:
            host.status = 500
            message = "answered with status 500"
        with pytest.raises(EvalrouterError, match=message):
            await parts.learned_routes.learn("chat", actor="a test")
        newest, *_ = await parts.store.learned_models("chat")
        assert newest.state == "failed"
        assert message in newest.error
        assert parts.predictor.active["chat"].row.id == before


async def test_too_few_rows_say_how_many_are_needed(unlearned, host):
    async with services(unlearned, host) as parts:
        table = parts.routes.table
        route = table.routes["chat"]
        table.routes["chat"] = msgspec.structs.replace(
            route, targets=(*route.targets, RouteTarget(model="up/other"))
        )
        with pytest.raises(ConflictError, match="for 0 prompts; at least 50"):
            await parts.learned_routes.learn("chat", actor="a test")
        table.routes["chat"] = msgspec.structs.replace(
            route, learned=msgspec.structs.replace(route.learned, runs=("nightly",))
        )
        with pytest.raises(RequestError, match="runs: there is no run 'nightly'"):
            await parts.learned_routes.learn("chat", actor="a test")
        table.routes["plain"] = msgspec.structs.replace(route, strategy="weighted", learned=None)
        with pytest.raises(RequestError, match="has the strategy weighted"):
            await parts.learned_routes.report("plain")
        with pytest.raises(NotFoundError, match="does not exist"):
            await parts.learned_routes.report("chats")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("strategy: learned", "strategy: weighted", "learned: is for the strategy learned"),
        ("within: 0.1", "at_least: 0.8", "of: is for within"),
        ("within: 0.1", "within: 0.1\n      at_least: 0.8", "say either at_least or within"),
        ("of: up/dear", "of: up/none", "up/none is no target of this route with a weight"),
        ("embeddings: words/w", "embeddings: nowhere", "no route 'nowhere'"),
        ("embeddings: words/w", "embeddings: chat", "a route cannot embed its own prompts"),
        ("embeddings: words/w", "embeddings: none/w", "no provider 'none'"),
        ("share_bodies_with: [words]", "", "the learned route would send what this route's users"),
        ("weight: 0.001", "weight: 0", "the route has one target only"),
        ("quality: exact_match", "quality: '1 or 2'", "quality"),
        ("mode: apply", "mode: always", "mode"),
        ("neighbours: 10", "neighbours: 3", "neighbours"),
    ],
)
def test_settings_that_contradict_are_refused(tmp_path, host, old, new, message):
    text = config_text(tmp_path, host)
    parse(text, "c.yaml", {})
    if message:
        assert old in text
        with pytest.raises(ConfigError, match=re.escape(message)):
            parse(text.replace(old, new), "c.yaml", {})


def test_a_route_without_settings_is_refused():
    text = """
providers: {up: {kind: scripted, script: {a: [{answer: a}]}}}
routes: {chat: {strategy: learned, targets: [{model: up/a}]}}
"""
    with pytest.raises(ConfigError, match="learned needs the settings `learned`"):
        parse(text, "c.yaml", {})


def test_a_model_that_is_killed_while_it_is_fitted_leaves_the_earlier_one(folder, host):
    """And its file is deleted by the next one."""
    host.seconds = 0.0
    (folder / "c.yaml").write_text(config_text(folder, host))
    command = [sys.executable, "-m", "router", "route", "learn", "chat", "--config", "c.yaml"]
    fit = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    while "testing it held out" not in (line := fit.stderr.readline()):
        assert line, "it ended first"
    fit.kill()
    fit.wait()
    fit.stderr.close()
    # What a kill between the file and the transaction leaves.
    lost = folder / "artifacts" / "learned"
    with sqlite3.connect(folder / "e.db") as db:
        (killed,) = db.execute("SELECT id FROM learned_models WHERE state = 'learning'").fetchone()
    db.close()
    (lost / killed).mkdir(parents=True)
    (lost / killed / "half.model").write_bytes(b"half")
    with gateway(config_text(folder, host)) as url:
        assert target(ask(url, f"{EASY} today")) == "up/cheap"
        client = Client(url)
        began = client.routes.learn("chat")["id"]
        while (report := client.routes.learned("chat"))["learning"] is not None:
            time.sleep(0.05)
        client.close()
    assert report["model"]["id"] == began
    assert [path.parent.name for path in lost.rglob("*.model")] == [began]


def test_a_promoted_rollout_leaves_a_route_that_needs_no_prediction(tmp_path, host):
    """Its only target is the candidate; a learned route with one target would be refused."""
    config = parse(config_text(tmp_path, host), "c.yaml", {})
    document = promoted(config.routes["chat"], "up/new")
    route = parse_route("chat", document, config.providers)
    assert (route.strategy, route.learned) == ("weighted", None)
    assert [target.model for target in route.targets if target.weight] == ["up/new"]


@pytest.mark.parametrize("fault", ["damaged", "gone"])
async def test_without_its_file_a_model_is_left_out_and_deletions_end(folder, host, caplog, fault):
    [file] = (folder / "artifacts" / "learned").rglob("*.model")
    content = file.read_bytes()
    if fault == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:-1])
    async with services(folder, host) as parts:
        assert (await predicted(parts, f"{EASY} today")).reason == "no_model"
        assert "the model of the learned route chat is left out" in caplog.text
        [model] = await parts.store.learned_models("chat")
        sources = [LearnedSource(row=0, id="req_1", user="ann")]
        later = msgspec.structs.replace(model, id="lm_z", artifact="", state="learning")
        await parts.store.add_learned(later)
        ready = msgspec.structs.replace(later, artifact=model.artifact, state="ready")
        deletions = await parts.store.traffic_deletions()
        await parts.store.finish_learned(ready, sources, deletions=deletions)
        assert (await parts.deletion.delete(TrafficFilter(user="ann"))).complete
        after, *_ = await parts.store.learned_models("chat")
        assert (after.artifact, after.rows) == ("", 0)
        assert after.error
        assert not file.exists()


async def test_what_is_not_to_be_stored_is_not_sent_to_others(folder, host):
    """The provider of the embeddings answers no request of the route: only its name lets it see."""
    async with services(folder, host) as parts:
        fields = {"store": msgspec.Raw(b"false")}
        assert (await predicted(parts, f"{EASY} today", fields=fields)).reason == "unshared"
        assert host.texts == []
        fields = {"store": msgspec.Raw(b"true")}
        assert (await predicted(parts, f"{EASY} today", fields=fields)).target == "up/cheap"
