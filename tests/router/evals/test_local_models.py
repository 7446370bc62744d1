"""Models in place, as far as no Ray is needed: names, mistakes, estimates, requests done again."""

from __future__ import annotations

import asyncio
import json

import httpx
import msgspec
import pytest
from servers import gateway

from providers.base import AS_IT_CAME
from providers.errors import ConfigError, WorkerLostError
from router.config.loading import parse
from router.evals.concurrency import Pacing
from router.evals.local_models import InPlace, entry_of, names_of
from router.gateway.routing import Table
from router.gateway.upstream import UpstreamRequest
from serve.batch.protocol import Done
from serve.engines.batching import batched
from serve.engines.messages import EngineResponse, decode_request, encode

MODELS = """
models:
  bart: {engine: transformers, task: summarization, source: org/bart, adapters: {law: ./law}}
  big: {engine: vllm, source: org/big}
"""
ROW = {"id": "1", "input": "The ferry was late.", "reference": "late"}


@pytest.fixture
def url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text(json.dumps(ROW) + "\n")
    with gateway(MODELS) as url:
        yield url


def dry_run(url, route, **changes):
    document = {"dataset": "data.jsonl", "routes": [route], "metrics": ["f1"], **changes}
    return httpx.post(f"{url}/eval", params={"dry_run": "true"}, json=document, timeout=30)


@pytest.mark.parametrize(
    ("route", "execution", "message"),
    [
        ("models/bart", "local", "write execution: ray in the run document"),
        ("models/brat", "ray", "the config's models: has no 'brat'. Did you mean 'bart'"),
        ("models/bart:low", "ray", "has no 'bart:low'. Did you mean 'bart:law'"),
        ("models/", "ray", "has no ''"),
    ],
)
def test_a_route_that_cannot_be_asked_says_what_to_do(url, route, execution, message):
    reply = dry_run(url, route, execution=execution)
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]
    assert reply.json()["error"]["param"] == "routes[0]"


def test_a_client_is_told_how_to_ask_it(url):
    body = {"model": "models/bart", "messages": [{"role": "user", "content": "x"}]}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body)
    assert reply.status_code == 404
    assert "evalrouter models serve" in reply.json()["error"]["message"]


@pytest.mark.parametrize("route", ["models/bart", "models/bart:law", "models/big"])
def test_an_estimate_knows_no_price(url, route):
    limits = {"per_target": {route: 4}}
    reply = dry_run(url, route, execution={"workers": 1}, limits=limits)
    assert reply.status_code == 200, reply.text
    [target] = reply.json()["targets"]
    assert (target["target"], target["calls"], target["cost_usd"]) == (route, 1, None)


def test_the_name_is_taken_in_the_config():
    with pytest.raises(ConfigError, match="stands for the section models"):
        parse("providers: {models: {kind: openai, api_key: x}}", "c.yaml", {})
    with pytest.raises(ConfigError, match="models/bart is loaded within runs only"):
        parse(f"routes: {{r: {{targets: [{{model: models/bart}}]}}}}\n{MODELS}", "c.yaml", {})


def test_a_request_is_another_when_the_model_is():
    def entry(text):
        return entry_of(parse(f"models: {{m: {{{text}}}}}", "c.yaml", {}).models, "m")

    first = entry("engine: transformers, source: a")
    assert entry("engine: transformers, source: a, cpus: 4, replicas: {max: 8}") == first
    assert entry("engine: transformers, source: b") != first
    assert entry("engine: transformers, source: a, options: {max_model_len: 8}") != first


class Crew:
    """In a cluster's place: a worker dies of each request whose text is in `deadly`.

    With it die all others that are at work at that moment.
    """

    def __init__(self, *deadly):
        self.deadly = deadly
        self.requests = []
        self.working = 0
        self.died = asyncio.Event()

    async def call(self, crew, method, payload):
        request = decode_request(payload)
        text = json.loads(request.body)["messages"]
        self.requests.append(text)
        died = self.died
        await asyncio.sleep(0)
        if text in self.deadly:
            self.died = asyncio.Event()
            died.set()
        # By turns of the loop, so that those that come together meet on a busy machine too.
        for _ in range(100):
            await asyncio.sleep(0)
        if not died.is_set():
            body = b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}}]}'
            return Done(1, encode(EngineResponse(200, "application/json", body, AS_IT_CAME)))
        return Done(1, error="worker died", died=True)

    async def crew(self, **_):
        return ""


def upstream_request(text):
    envelope = {"messages": msgspec.Raw(json.dumps(text).encode())}
    return UpstreamRequest(
        "chat/completions", envelope, stream=False, request_id="", pacing=Pacing()
    )


async def attempts_of(crew, *texts):
    """Each text's attempts, or the error."""
    models = parse(MODELS, "c.yaml", {}).models
    in_place = InPlace(models)
    await in_place.load(crew, ["bart"])
    plan = Table({}, []).in_place(names_of(models)).plan("models/bart", 0.0)
    answers = await asyncio.gather(
        *(in_place.open(plan, upstream_request(text)) for text in texts), return_exceptions=True
    )
    return {
        text: answer
        if isinstance(answer, Exception)
        else [tried.result for tried in answer.attempts]
        for text, answer in zip(texts, answers, strict=True)
    }


async def test_a_request_that_kills_its_workers_costs_itself_only():
    many = [f"good {n}" for n in range(20)]
    answers = await attempts_of(Crew("bad"), *many[:10], "bad", *many[10:])
    bad = answers.pop("bad")
    assert isinstance(bad, WorkerLostError)
    assert [attempt.result for attempt in bad.attempts] == ["worker_lost"] * 3
    # Twice in the company of the bad one, then each alone.
    assert {tuple(results) for results in answers.values()} == {
        ("worker_lost", "worker_lost", "ok")
    }


async def test_what_comes_together_is_done_together():
    batches = []

    async def do(items):
        batches.append(items)
        await asyncio.sleep(0.01)

    add = batched(do, max_batch_size=4, batch_wait_timeout_s=5)
    await asyncio.gather(*map(add, range(8)))
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7]]


async def test_a_batch_that_is_not_full_does_not_wait_for_ever():
    batches = []

    async def do(items):
        batches.append(items)
        if 2 in items:
            raise ValueError("two")

    add = batched(do, max_batch_size=4, batch_wait_timeout_s=0.01)
    errors = await asyncio.gather(add(1), add(2), return_exceptions=True)
    assert [type(error) for error in errors] == [ValueError, ValueError]
    assert await add(3) is None
    assert batches == [[1, 2], [3]]


async def test_who_has_left_is_not_worked_for():
    batches = []
    first = asyncio.Event()

    async def do(items):
        batches.append(items)
        await first.wait()

    add = batched(do, max_batch_size=1, batch_wait_timeout_s=0)
    tasks = [asyncio.create_task(add(n)) for n in range(3)]
    await asyncio.sleep(0.01)
    tasks[1].cancel()
    await asyncio.sleep(0.01)
    first.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert batches == [[0], [2]]
