"""Real Ray Serve with real tiny models: wire, cold starts, failures, cancellation, the router."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import msgspec
import openai
import pytest
from hosts import config, transport
from servers import gateway

from providers.base import Call, ModelFacts
from providers.kinds import make
from serve.config import TransformersModel
from serve.engines.transformers import Transformers

pytestmark = pytest.mark.timeout(180)

SHARED = ("sea", "wind", "ship", "wreck")
MESSAGES = [{"role": "user", "content": "tell me a story"}]
GREEDY = {"messages": MESSAGES, "temperature": 0, "max_tokens": 12}


@pytest.fixture
def host(hosted):
    with httpx.Client(base_url=hosted, timeout=120) as client:
        yield client


def ask(host, model, **fields):
    return host.post("/chat/completions", json={"model": model, **GREEDY, **fields})


def streamed(host, model, **fields):
    body = {"model": model, "stream": True, **GREEDY, **fields}
    with host.stream("POST", "/chat/completions", json=body) as reply:
        lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def text_of(chunks):
    return "".join(
        choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]
    )


@pytest.mark.parametrize("model", ["llama", "bart", "tiny-gguf"])
def test_a_stream_says_what_the_whole_answer_says(host, model):
    whole = ask(host, model)
    assert whole.status_code == 200, whole.text
    chunks = streamed(host, model, stream_options={"include_usage": True})
    assert text_of(chunks) == whole.json()["choices"][0]["message"]["content"]
    usage = whole.json()["usage"]
    assert chunks[-1]["usage"]["completion_tokens"] == usage["completion_tokens"]
    assert chunks[-1]["usage"]["prompt_tokens"] == usage["prompt_tokens"]
    assert whole.json()["system_fingerprint"]


def test_requests_at_once_are_answered_as_alone(host):
    alone = ask(host, "llama").json()["choices"][0]["message"]["content"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(host, "llama"), range(8)))
    assert {one.json()["choices"][0]["message"]["content"] for one in answers} == {alone}


def test_the_list_says_what_is_ready_and_what_failed(host):
    failed = ask(host, "broken")
    assert failed.status_code == 503
    assert failed.json()["error"]["code"] == "model_failed"
    assert "no-such-model" in failed.json()["error"]["message"]
    assert "Traceback" not in failed.text
    ask(host, "bart")
    rows = {row["id"]: row for row in host.get("/models").json()["data"]}
    assert rows["llama"]["state"] == rows["bart"]["state"] == "ready"
    assert rows["broken"]["state"] == "failed"
    assert rows["tiny-gguf"]["owned_by"] == "llamacpp"
    assert host.get("/models/llama").json()["replicas"] == 1


def test_the_request_id_comes_back(host):
    reply = host.post(
        "/chat/completions", json={"model": "llama", **GREEDY}, headers={"x-request-id": "req-7"}
    )
    assert reply.headers["x-request-id"] == "req-7"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/chat/completions", {"model": "lama", **GREEDY}, 404, "model_not_found"),
        ("POST", "/chat/completions", {"model": "llama"}, 400, "missing_required_parameter"),
        ("POST", "/chat/completions", {"messages": []}, 400, "invalid_body"),
        ("POST", "/embeddings", {"model": "llama", "input": "a"}, 400, "unsupported_model"),
        ("GET", "/chat/completions", None, 405, "method_not_allowed"),
        ("GET", "/nothing", None, 404, "not_found"),
        ("GET", "/models/lama", None, 404, "model_not_found"),
    ],
)
def test_errors_are_openais(host, method, path, body, status, code):
    reply = host.request(method, path, json=body)
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]["code"] == code


def test_a_client_that_leaves_frees_the_copy(host):
    # It has one place, and would write for minutes.
    endless = {"max_tokens": 30_000, "logit_bias": {"2": -100}, "stream": True}
    body = {"model": "llama", **GREEDY, **endless}
    with host.stream("POST", "/chat/completions", json=body) as reply:
        next(reply.iter_raw())
    assert ask(host, "llama").status_code == 200


def test_a_client_that_leaves_before_the_answer_frees_the_copy(host):
    endless = {"max_tokens": 30_000, "logit_bias": {"2": -100}}
    with pytest.raises(httpx.ReadTimeout):
        host.post("/chat/completions", json={"model": "llama", **GREEDY, **endless}, timeout=1)
    assert ask(host, "llama").status_code == 200


def test_openais_client_through_the_router(hosted):
    config = f"providers:\n  gpu: {{kind: ray_serve, base_url: '{hosted}'}}\n"
    with gateway(config) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        # A host that is slow to say what it has is read on beside the first answers.
        while not {"gpu/llama", "gpu/bart", "gpu/tiny-gguf"} <= {
            model.id for model in client.models.list()
        }:
            time.sleep(0.1)
        whole = client.chat.completions.create(model="gpu/llama", **GREEDY)
        stream = client.chat.completions.create(model="gpu/llama", **GREEDY, stream=True)
        parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        assert "".join(parts) == whole.choices[0].message.content
        with pytest.raises(openai.BadRequestError, match="room for"):
            client.chat.completions.create(model="gpu/llama", messages=MESSAGES, max_tokens=99_999)


def test_a_cold_start_that_takes_too_long_is_no_failure(host, hosted):
    waited = ask(host, "roomless")
    assert (waited.status_code, waited.json()["error"]["code"]) == (503, "model_starting")
    assert "retry-after" in waited.headers
    config = f"""
providers:
  gpu: {{kind: ray_serve, base_url: '{hosted}'}}
routes:
  roomless: {{targets: [{{model: gpu/roomless}}], retries: {{attempts: 1}}}}
"""
    with gateway(config) as url, httpx.Client(base_url=url, timeout=60) as client:
        early = client.post("/v1/chat/completions", json={"model": "roomless", **GREEDY})
        assert early.json()["error"]["code"] == "target_starting"


def test_hf_finds_a_model_by_its_source(hosted, folder):
    config = f"providers:\n  hf: {{kind: huggingface, base_url: '{hosted}'}}\n"
    with gateway(config) as url, httpx.Client(timeout=60) as client:
        body = {"model": f"hf/{folder}/llama", **GREEDY}
        reply = client.post(f"{url}/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text


def test_the_command_lists_them(hosted):
    command = [sys.executable, "-m", "router", "models", "list", "--url", hosted, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert {row["id"] for row in json.loads(done.stdout)} == {
        "llama",
        "bart",
        "roomless",
        "tiny-gguf",
        "broken",
        *SHARED,
        "sea:pirate",
    }


# Several models in one copy, which keeps two of them


def rows(host):
    return {row["id"]: row for row in host.get("/models").json()["data"]}


def content(reply):
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


@contextmanager
def endless(host, model):
    """A stream that goes on until it is left; its events."""
    body = {"model": model, **GREEDY, "max_tokens": 30_000, "logit_bias": {"2": -100}}
    with host.stream("POST", "/chat/completions", json={**body, "stream": True}) as reply:
        lines = reply.iter_lines()
        assert next(lines).startswith("data: "), reply.status_code
        yield lines


def test_models_that_share_copies_answer_each_as_alone(host, hosted, folder):
    found = {name: ask(host, name) for name in ("sea", "wind", "ship", "sea")}
    texts = {name: content(reply) for name, reply in found.items()}
    fingerprints = {reply.json()["system_fingerprint"] for reply in found.values()}
    assert len(set(texts.values())) == len(fingerprints) == 3
    for name in ("sea", "wind"):
        alone = Transformers(
            name, TransformersModel(engine="transformers", source=str(folder / name))
        )
        envelope = {key: msgspec.Raw(json.dumps(value).encode()) for key, value in GREEDY.items()}
        reply = asyncio.run(whole(alone, name, envelope))
        assert reply["choices"][0]["message"]["content"] == texts[name]
        assert content(ask(host, str(folder / name))) == texts[name]
        assert text_of(streamed(host, name)) == texts[name]
    assert rows(host)["ship"]["owned_by"] == "llamacpp"


async def whole(engine, model, envelope):
    reply = await engine.send(Call(path="chat/completions", model=model, envelope=envelope))
    body = json.loads(await reply.read())
    await engine.close()
    return body


def test_a_model_that_cannot_be_loaded_leaves_the_others_alone(host):
    before = content(ask(host, "sea"))
    for stream in (False, True):
        failed = ask(host, "wreck", stream=stream)
        assert failed.status_code == 503
        assert failed.json()["error"]["code"] == "model_failed"
        assert "no-such-model" in failed.json()["error"]["message"]
    states = {name: row["state"] for name, row in rows(host).items()}
    assert (states["wreck"], states["sea"]) == ("failed", "ready")
    assert content(ask(host, "sea")) == before


def test_a_model_leaves_when_nobody_waits_for_its_answer(host):
    ask(host, "sea")
    with endless(host, "sea") as sea:
        # Asked later than the sea, and done.
        content(ask(host, "wind"))
        content(ask(host, "ship"))
        next(sea)
        with endless(host, "wind") as wind:
            # Both have a stream to finish: there is room when one of them is.
            waited = ask(host, "ship")
            assert (waited.status_code, waited.json()["error"]["code"]) == (503, "model_starting")
            assert "retry-after" in waited.headers
            next(sea), next(wind)
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(ask, host, "ship")
                while rows(host)["ship"]["state"] != "starting":
                    assert not asked.done()
                next(sea), next(wind)
                assert asked.result().json()["error"]["code"] == "model_starting"
    # Whoever was told to wait finds the model loaded, or further.
    while (reply := ask(host, "ship")).status_code == 503:
        assert reply.json()["error"]["code"] == "model_starting"
    content(reply)
    content(ask(host, "sea"))


def test_an_adapter_answers_by_its_own_name(host, hosted):
    base, adapted = ask(host, "sea"), ask(host, "sea:pirate")
    assert content(base) != content(adapted)
    assert text_of(streamed(host, "sea:pirate")) == content(adapted)
    assert adapted.json()["model"] == "sea:pirate"
    assert adapted.json()["system_fingerprint"].startswith(base.json()["system_fingerprint"])
    row = host.get("/models/sea:pirate").json()
    assert (row["parent"], row["owned_by"]) == ("sea", "transformers")
    missing = ask(host, "sea:pirat")
    assert missing.status_code == 404
    assert "'sea:pirate'" in missing.json()["error"]["message"]
    config = f"providers:\n  gpu: {{kind: ray_serve, base_url: '{hosted}'}}\n"
    with gateway(config) as url, httpx.Client(base_url=f"{url}/v1", timeout=60) as client:
        assert content(ask(client, "gpu/sea:pirate")) == content(adapted)


async def test_the_host_says_how_a_model_is_stored_and_what_memory_it_took(host, hosted, folder):
    assert ask(host, "llama").status_code == 200
    async with transport() as client:
        gpu = make("gpu", config("ray_serve", base_url=hosted), client)
        for name, file in (("llama", ""), ("tiny-gguf", "tiny.gguf")):
            facts = await gpu.facts(name)
            assert (facts.file, facts.bits_per_weight, facts.note) == (file, 32, "")
            assert facts.parameters > 100_000
            # A process with torch or llama.cpp in it.
            assert 5 * 10**7 < facts.peak_memory_bytes < 10**10
            assert facts.peak_gpu_memory_bytes is None
        hf = make("hf", config("huggingface", base_url=hosted), client)
        by_source = await hf.facts(f"{folder}/llama")
        assert by_source.parameters == (await gpu.facts("llama")).parameters
        # A copy of several models, one that does not run, and one that is not there.
        before = rows(host)["roomless"]["replicas"]
        for name in ("wind", "roomless", "nothing"):
            assert await gpu.facts(name) == ModelFacts()
        assert rows(host)["roomless"]["replicas"] == before == 0
