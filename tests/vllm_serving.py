"""vLLM hosted through Ray, for real, on the CPU: `make test-vllm` runs it in vLLM's environment.

    PYTHONPATH=. python tests/vllm_serving.py

Ends with an AssertionError when an answer is not what it should be. Takes three minutes.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

# By itself it would take half of the memory for its cache.
os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"

import ray
import tiny_models

from providers.errors import ConfigError
from serve.batch.driver import AsyncWorker
from serve.config import read
from serve.deployment.host import hosting
from serve.engines.messages import EngineRequest, LoadModel, decode_response, encode
from serve.engines.vllm import llm_config

ADAPTERS = {"pirate": "./pirate", "poet": "s3://bucket/poet"}
MESSAGES = [{"role": "user", "content": "tell me a story"}]


def entry(source: str, **options: Any) -> dict[str, Any]:
    return {"tiny": {"engine": "vllm", "source": source, "options": options}}


def check_config(source: str) -> None:
    [model] = read(entry(source, max_model_len=1024), {}).values()
    made = llm_config("tiny", model, {"name": "tiny", "num_replicas": 1})
    assert made.experimental_configs == {"stream_batching_interval_ms": 0}
    assert made.engine_kwargs["generation_config"] == "vllm"
    for wrong, told in (("max_model_length", "'max_model_len'"), ("model", "say it with source")):
        [model] = read(entry(source, **{wrong: 1}), {}).values()
        assert told in refusal(model)
    [model] = read({"tiny": {**entry(source)["tiny"], "adapters": ADAPTERS}}, {}).values()
    made = llm_config("tiny", model, {})
    assert made.engine_kwargs["enable_lora"]
    assert made.engine_kwargs["max_loras"] == 3
    [few] = read(
        {"tiny": {**entry(source, max_loras=2)["tiny"], "adapters": ADAPTERS}}, {}
    ).values()
    assert "at least 3 on a CPU" in refusal(few)


def refusal(model: Any) -> str:
    try:
        llm_config("tiny", model, {})
    except ConfigError as error:
        return error.message
    return "it was not refused"


def post(url: str, **body: Any) -> tuple[int, str]:
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=100) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def check_answers(url: str) -> None:
    chat = f"{url}/chat/completions"
    asked = {"model": "tiny", "messages": MESSAGES, "temperature": 0, "max_tokens": 10}
    status, body = post(chat, **asked)
    assert status == 200, body
    whole = json.loads(body)
    status, body = post(chat, **asked, stream=True, stream_options={"include_usage": True})
    lines = [line.removeprefix("data: ") for line in body.split("\n\n") if line]
    assert (status, lines[-1]) == (200, "[DONE]")
    events = [json.loads(line) for line in lines[:-1]]
    text = "".join(
        choice["delta"].get("content") or "" for event in events for choice in event["choices"]
    )
    assert text == whole["choices"][0]["message"]["content"]
    assert events[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    # Not held back for batches: more than the beginning, the whole text, and the end.
    assert len(events) > 5, body
    for stream in (False, True):
        for wrong in ({"max_tokens": 5000}, {"temperature": "warm"}):
            status, body = post(chat, **{**asked, **wrong}, stream=stream)
            error = json.loads(body)["error"]
            assert (status, error["param"]) == (400, *wrong), body
    status, body = post(f"{url}/embeddings", model="tiny", input="a")
    assert (status, json.loads(body)["error"]["code"]) == (400, "unsupported_model"), body
    with urllib.request.urlopen(f"{url}/models", timeout=10) as reply:
        row, *adapters = json.load(reply)["data"]
    assert (row["id"], row["owned_by"], row["state"]) == ("tiny", "vllm", "ready"), row
    assert [(one["id"], one["parent"]) for one in adapters] == [
        ("tiny:pirate", "tiny"),
        ("tiny:poet", "tiny"),
    ]


def check_adapters(url: str, source: str) -> None:
    asked = {"messages": MESSAGES, "temperature": 0, "max_tokens": 10}
    texts = []
    for model in ("tiny", "tiny:pirate", "tiny:poet", source, f"{source}:poet"):
        status, body = post(f"{url}/chat/completions", model=model, **asked)
        assert status == 200, body
        texts.append(json.loads(body)["choices"][0]["message"]["content"])
    assert texts[3:] == [texts[0], texts[2]], texts
    assert len(set(texts)) == 3, texts
    status, body = post(f"{url}/chat/completions", model="tiny:none", **asked)
    assert (status, json.loads(body)["error"]["code"]) == (404, "model_not_found"), body


def check_in_place(source: str, adapters: dict[str, str]) -> None:
    """As a run's own actor: without Ray Serve, several requests at a time."""
    ray.init(address="local", include_dashboard=False, logging_level="WARNING")
    try:
        entries = entry(source, max_model_len=1024, enforce_eager=True, dtype="float32")
        load = LoadModel("tiny", {**entries["tiny"], "adapters": adapters})
        actor = ray.remote(AsyncWorker).options(num_cpus=0, max_concurrency=9)
        worker = actor.remote("serve.batch.inplace:Engine", encode(load))
        assert ray.get(worker.ready.remote()) == ""
        body = json.dumps({"messages": MESSAGES, "temperature": 0, "max_tokens": 10}).encode()
        models = ("tiny", "tiny:pirate", "tiny:poet") * 2
        asked = [EngineRequest("chat/completions", name, body, "") for name in models]
        calls = [worker.call.remote("send", encode(one), 100.0) for one in asked]
        texts = []
        for answered in map(decode_response, ray.get(calls)):
            assert answered.status == 200, answered.body
            texts.append(json.loads(answered.body)["choices"][0]["message"]["content"])
        assert texts[:3] == texts[3:], texts
        assert len(set(texts)) == 3, texts
    finally:
        ray.shutdown()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # vLLM's CPU kernels want heads of 64.
        source = tiny_models.llama(Path(folder) / "tiny", width=256)
        adapters = {
            # Wider than vLLM's default has room for.
            name: str(tiny_models.adapter(Path(folder) / name, source, seed=rank, r=rank))
            for name, rank in (("pirate", 4), ("poet", 20))
        }
        check(str(source), adapters)
        check_in_place(str(source), adapters)


def check(source: str, adapters: dict[str, str]) -> None:
    check_config(source)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    entries = entry(source, max_model_len=1024, enforce_eager=True, dtype="float32")
    entries["tiny"]["adapters"] = adapters
    with hosting(read(entries, {}), port=port) as where:
        check_answers(where.url)
        check_adapters(where.url, source)


if __name__ == "__main__":
    main()
