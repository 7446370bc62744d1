"""Numbers of hosts that no host should send: each is unknown by itself, and costs nothing else.

Every place where an answer has a number, in every dialect: with an odd number there, the client
gets its answer, the record and the key's budget stay numbers, and evaluations and judges go on.
"""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import pytest
from raw_host import answer, by_model, event, raw_host, stream
from servers import gateway

from router.gateway.key_administration import create, listed
from router.store.sqlite import SqliteStore

ODD = [
    "-1",
    "1e400",
    "9007199254740993",
    "-9223372036854775809",
    "18446744073709551616",
    "9" * 5000,
    "-1.7e308",
    "10.5",
    "true",
    '"10"',
    "null",
    "[1]",
    '{"a": 1}',
]
USAGE = '{"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}'
ODD_USAGE = '{"prompt_tokens": @, "completion_tokens": @, "total_tokens": @}'
TOKEN = (
    '{"token": "4", "logprob": @, "bytes": null, '
    '"top_logprobs": [{"token": "4", "logprob": @, "bytes": null}]}'
)
LOGPROBS = f'{{"content": [{TOKEN}, {TOKEN}]}}'
TEXT = "[RESULT] 4"


def chat(created="1", index="0", logprobs="null", usage=USAGE, **more) -> str:
    fields = "".join(f', "{name}": {value}' for name, value in more.items())
    return (
        f'{{"id": "c", "object": "chat.completion", "created": {created}, "model": "m", '
        f'"choices": [{{"index": {index}, "message": {{"role": "assistant", "content": "{TEXT}"}}, '
        f'"logprobs": {logprobs}, "finish_reason": "stop"}}], "usage": {usage}{fields}}}'
    )


def text(created="1", index="0", logprobs="null", usage=USAGE) -> str:
    return (
        f'{{"id": "c", "object": "text_completion", "created": {created}, "model": "m", '
        f'"choices": [{{"index": {index}, "text": "{TEXT}", "logprobs": {logprobs}, '
        f'"finish_reason": "stop"}}], "usage": {usage}}}'
    )


def chunks(created="1", index="0", logprobs="null", usage=USAGE, call="") -> list[str]:
    def one(delta, finish="null", choices=True):
        choice = f'{{"index": {index}, "delta": {delta}, "logprobs": {logprobs}, '
        choice += f'"finish_reason": {finish}}}'
        return (
            f'{{"id": "c", "object": "chat.completion.chunk", "created": {created}, '
            f'"model": "m", "choices": [{choice if choices else ""}]'
            f"{'' if choices else f', {chr(34)}usage{chr(34)}: {usage}'}}}"
        )

    calls = f', "tool_calls": [{call}]' if call else ""
    return [
        one(f'{{"role": "assistant", "content": "{TEXT}"{calls}}}'),
        one("{}", '"stop"'),
        one("", choices=False),
        "[DONE]",
    ]


def message(**odd) -> str:
    """Anthropic's whole answer."""
    usage = {"input_tokens": "1000", "output_tokens": "100"} | odd
    fields = ", ".join(f'"{name}": {value}' for name, value in usage.items())
    return (
        '{"id": "m", "type": "message", "role": "assistant", "model": "m", "content": '
        f'[{{"type": "text", "text": "{TEXT}"}}], "stop_reason": "end_turn", '
        f'"usage": {{{fields}}}}}'
    )


def messages(index="0", first="1000", last="100") -> list[tuple[str, str]]:
    """Anthropic's stream."""
    start = (
        '{"type": "message_start", "message": {"id": "m", "type": "message", "role": "assistant", '
        f'"model": "m", "content": [], "usage": {{"input_tokens": {first}, "output_tokens": 1}}}}}}'
    )
    block = f'"index": {index}, "content_block": {{"type": "text", "text": ""}}'
    delta = f'"index": {index}, "delta": {{"type": "text_delta", "text": "{TEXT}"}}'
    end = f'"delta": {{"stop_reason": "end_turn"}}, "usage": {{"output_tokens": {last}}}'
    return [
        ("message_start", start),
        ("content_block_start", f'{{"type": "content_block_start", {block}}}'),
        ("content_block_delta", f'{{"type": "content_block_delta", {delta}}}'),
        ("content_block_stop", f'{{"type": "content_block_stop", "index": {index}}}'),
        ("message_delta", f'{{"type": "message_delta", {end}}}'),
        ("message_stop", '{"type": "message_stop"}'),
    ]


def embeddings(index="0", usage=USAGE) -> str:
    return (
        f'{{"object": "list", "model": "m", "data": [{{"object": "embedding", "index": {index}, '
        f'"embedding": [0.5, 0.25]}}], "usage": {usage}}}'
    )


CALL = (
    '{"index": @, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}'
)
# Name: path and what the host sends, with @ for the number: a body, or the events of a stream.
CHATS = {
    "created": ("chat/completions", chat(created="@")),
    "index": ("chat/completions", chat(index="@")),
    "usage": ("chat/completions", chat(usage=ODD_USAGE)),
    "logprob": ("chat/completions", chat(logprobs=LOGPROBS)),
    "s-created": ("chat/completions", chunks(created="@")),
    "s-index": ("chat/completions", chunks(index="@")),
    "s-usage": ("chat/completions", chunks(usage=ODD_USAGE)),
    "s-logprob": ("chat/completions", chunks(logprobs=LOGPROBS)),
    "s-call": ("chat/completions", chunks(call=CALL)),
    "t-created": ("completions", text(created="@")),
    "t-index": ("completions", text(index="@")),
    "t-usage": ("completions", text(usage=ODD_USAGE)),
    "e-index": ("embeddings", embeddings(index="@")),
    "e-usage": ("embeddings", embeddings(usage=ODD_USAGE)),
}
CLAUDE = {
    "usage": ("chat/completions", message(input_tokens="@", output_tokens="@")),
    "cached": ("chat/completions", message(cache_read_input_tokens="@")),
    "written": ("chat/completions", message(cache_creation_input_tokens="@")),
    "thinking": (
        "chat/completions",
        message(output_tokens_details='{"thinking_tokens": @}'),
    ),
    "s-index": ("chat/completions", messages(index="@")),
    "s-first": ("chat/completions", messages(first="@")),
    "s-last": ("chat/completions", messages(last="@")),
}
KINDS = ["compatible", "openai", "mistral", "gemini", "ollama", "llamafile", "llama_cpp"]
EVERY = {
    **{
        f"{kind}/{name}-{n}": (path, sent)
        for kind in KINDS
        for name, (path, sent) in CHATS.items()
        # Its completions are answered as chats.
        if (kind, path) != ("mistral", "completions")
        for n in range(len(ODD))
    },
    **{f"claude/{name}-{n}": row for name, row in CLAUDE.items() for n in range(len(ODD))},
}


def steps(sent, odd):
    if isinstance(sent, str):
        return answer(sent.replace("@", odd).encode())
    events = [
        event(one.replace("@", odd).encode())
        if isinstance(one, str)
        else b"event: %b\ndata: %b\n\n" % (one[0].encode(), one[1].replace("@", odd).encode())
        for one in sent
    ]
    return stream(*events)


def models(rows):
    names = [f"{name}-{n}" for name in rows for n in range(len(ODD))]
    # What servers tell of themselves.
    listed = [{"id": name, "created": "odd"} for name in names]
    about = json.dumps({"status": "ok", "data": listed, "total_slots": 1, "count": 5})
    return {"*": [answer(about.replace('"odd"', "1e400").encode())]} | {
        f"{name}-{n}": [steps(sent, odd)]
        for name, (_, sent) in rows.items()
        for n, odd in enumerate(ODD)
    }


@pytest.fixture(scope="module")
def hosts():
    with raw_host(by_model(models(CHATS))) as openai, raw_host(by_model(models(CLAUDE))) as claude:
        yield openai, claude


async def with_store(folder, work):
    store = SqliteStore(folder / "e.db")
    await store.open()
    try:
        return await work(store)
    finally:
        await store.close()


def config_of(hosts, folder):
    openai, claude = hosts
    providers = "".join(
        f"  {kind}: {{kind: {kind}, base_url: '{openai.url}', api_key: k}}\n" for kind in KINDS
    )
    prices = "".join(f"  {name}: {{input: 1.0, output: 2.0}}\n" for name in EVERY)
    return f"""
server: {{port: 0}}
storage: {{database: 'sqlite:///{folder}/e.db'}}
providers:
{providers}
  claude: {{kind: anthropic, base_url: '{claude.url}', api_key: k}}
prices:
{prices}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    (folder / "data.jsonl").write_text(json.dumps({"input": TEXT, "reference": TEXT}) + "\n")
    return folder


@pytest.fixture(scope="module")
def key(folder):
    async def make(store):
        return (await create(store, "app", now=0.5, budget_usd=1e9, role="admin"))[0]

    return asyncio.run(with_store(folder, make))


@pytest.fixture(scope="module")
def url(hosts, folder, key):
    assert key
    with gateway(config_of(hosts, folder)) as url:
        yield url


async def ask(http, model, path, streams):
    body = {"model": model, "stream": streams}
    if path == "chat/completions":
        body |= {"messages": [{"role": "user", "content": "2 + 2?"}], "logprobs": True}
    elif path == "completions":
        body |= {"prompt": "2 + 2 ="}
    else:
        body = {"model": model, "input": "four"}
    if "s-call" in model:
        function = {"name": "f", "parameters": {"type": "object", "properties": {}}}
        body["tools"] = [{"type": "function", "function": function}]
    if model.startswith("claude"):
        del body["logprobs"]
    headers = {"x-request-id": model.replace("/", "-")}
    return await http.post(f"/v1/{path}", json=body, headers=headers)


def is_count(value):
    return isinstance(value, int) and 0 <= value <= 2**53


@pytest.mark.parametrize("kind", [*KINDS, "claude"])
async def test_the_client_gets_its_answer_and_the_record_has_numbers(url, key, kind):
    rows = {name: row for name, row in EVERY.items() if name.startswith(f"{kind}/")}
    headers = {"authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=16)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60, limits=limits) as http:
        replies = await asyncio.gather(
            *(
                ask(http, name, path, not isinstance(sent, str))
                for name, (path, sent) in rows.items()
            )
        )
        for name, reply in zip(rows, replies, strict=True):
            odd = f"{name}: {ODD[int(name.rpartition('-')[2])][:40]}"
            assert reply.status_code == 200, f"{odd}: {reply.text[:500]}"
            assert b'"error"' not in reply.content, f"{odd}: {reply.text[-500:]}"
            wanted = b"0.25" if "/e-" in name else TEXT.encode()
            assert wanted in reply.content, f"{odd}: {reply.text[:500]}"
        for name, (path, _) in rows.items():
            while (
                found := await http.get(f"/traffic/{name.replace('/', '-')}")
            ).status_code != 200:
                await asyncio.sleep(0.02)
            record = found.json()
            odd = f"{name}: {record}"
            assert record["error_code"] == "", odd
            counts = ["prompt_tokens", "total_tokens"]
            counts += ["completion_tokens"] if path != "embeddings" else []
            assert all(is_count(record[count]) for count in counts), odd
            assert 0 < record["cost_usd"] < 1e12, odd
            # One counts by its own tokenizer.
            if "usage" in name and kind != "llama_cpp":
                assert record["estimated"], odd


def test_the_key_was_charged(url, folder, key):
    assert url
    while True:
        found = asyncio.run(with_store(folder, lambda store: listed(store, time.time())))
        [spent] = [one.spent for one in found if one.key.name == "app"]
        if spent.requests >= len(EVERY):
            break
        time.sleep(0.05)
    assert spent.unpriced == 0
    assert 0 < spent.usd < 1e12
    assert is_count(spent.tokens)


def evaluate(http, url, key, **document):
    headers = {"authorization": f"Bearer {key}"}
    document = {"dataset": "data.jsonl", "cache": False, **document}
    created = http.post(f"{url}/eval", json=document, headers=headers)
    assert created.status_code == 202, created.text
    while True:
        outcome = http.get(f"{url}/eval/{created.json()['id']}", headers=headers).json()
        if outcome["run"]["state"] not in ("queued", "running"):
            return outcome
        time.sleep(0.05)


def test_evaluations_score_the_answers(http, url, key, folder, monkeypatch):
    monkeypatch.chdir(folder)
    routes = [
        name
        for name, (path, sent) in EVERY.items()
        if path == "chat/completions"
        and isinstance(sent, str)
        and name.startswith(("compatible", "mistral", "claude"))
    ]
    outcome = evaluate(http, url, key, routes=routes, metrics=["exact_match", "perplexity"])
    assert outcome["run"]["state"] == "completed", outcome["run"]["error"]
    found = outcome["report"]["routes"]
    assert len(found) == len(routes)
    for route in found:
        assert (route["answered"], route["failed"]) == (1, 0), route["errors"]
        assert route["scores"][0]["estimate"] == 1.0
        assert route["tokens"]["unknown"] == route["cost"]["unknown"] == 0
        assert 0 < route["cost"]["total_usd"] < 1e12


def test_judges_judge(http, url, key, folder, monkeypatch):
    monkeypatch.chdir(folder)
    judges = [
        name
        for name, (path, sent) in EVERY.items()
        if path == "chat/completions" and isinstance(sent, str) and name.startswith("compatible")
    ]
    metric = {"name": "prometheus", "judge": judges, "rubric": "helpfulness", "combine": "mean"}
    outcome = evaluate(http, url, key, routes=["baseline/echo"], metrics=[metric])
    assert outcome["run"]["state"] == "completed", outcome["run"]["error"]
    [route] = outcome["report"]["routes"]
    assert route["scores"][0]["estimate"] == 4.0
    assert [(one["calls"], one["failed"]) for one in outcome["judges"]] == [(1, 0)] * len(judges)


def test_embeddings_are_compared(http, url, key, folder, monkeypatch):
    monkeypatch.chdir(folder)
    for name in EVERY:
        if name.startswith("compatible/e-"):
            metric = {"name": "embedding_similarity", "route": name}
            outcome = evaluate(http, url, key, routes=["baseline/echo"], metrics=[metric])
            [route] = outcome["report"]["routes"]
            [score] = route["scores"]
            assert score["estimate"] == pytest.approx(1.0), (name, score["example"])


def test_models_are_listed(http, url, key):
    listed = http.get(f"{url}/v1/models", headers={"authorization": f"Bearer {key}"}).json()
    assert listed["unreachable"].keys() <= {"claude", "hf"}
    assert {"compatible/created-0", "llama_cpp/e-usage-1"} <= {one["id"] for one in listed["data"]}


@pytest.mark.parametrize("odd", ODD)
def test_what_ollama_says_of_its_context(http, tmp_path, odd):
    other = f'{{"name": "other", "size": {odd}}}'
    running = f'{{"models": [{other}, {{"name": "m", "context_length": {odd}}}]}}'
    shown = json.dumps({"parameters": f"stop x\nnum_ctx {odd}\n"})
    hosts = {
        "running": {"*": [answer(running.encode())], "m": [answer(chat().encode())]},
        "shown": {
            "*": [answer(b'{"models": []}')],
            "m": [answer(shown.encode()), answer(chat().encode())],
        },
    }
    for name, answers in hosts.items():
        with (
            raw_host(by_model(answers)) as host,
            gateway(
                f"server: {{port: 0}}\nstorage: {{database: 'sqlite:///{tmp_path}/{name}.db'}}\n"
                f"providers: {{up: {{kind: ollama, base_url: '{host.url}'}}}}\n"
            ) as url,
        ):
            body = {"model": "up/m", "messages": [{"role": "user", "content": "word " * 5000}]}
            reply = http.post(f"{url}/v1/chat/completions", json=body)
            assert reply.status_code == 200, reply.text
            assert "messages" in reply.headers["x-evalrouter-dropped"]
