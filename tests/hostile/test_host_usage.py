"""What a request costs when its host reports usage in odd ways, or not at all.

Each row: what the host sends, and what the record must say. A key's budget is charged the same.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from pathlib import Path

import pytest
from raw_host import CLOSE, DONE, HOLD, Wait, answer, by_model, chat, chunk, event, raw_host, stream
from servers import gateway

from router.gateway.key_administration import create, listed
from router.store.sqlite import SqliteStore

USAGE = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
CACHED = (100 * 1.0 + 900 * 0.1 + 100 * 2.0) / 1e6
PLAIN = (1000 * 1.0 + 100 * 2.0) / 1e6
TEXT = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Hel"}),
    chunk({"content": "lo"}),
]
END = [*TEXT, chunk({}, "stop")]


def usage_event(usage=USAGE, **fields):
    return event(
        {"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": usage} | fields
    )


def whole(usage):
    return answer(chat(usage=usage))


# Name: whether the client streams, the host's answer, prompt and completion tokens, cost.
# None for a number that is to be estimated.
COUNTED = {
    "openai": (False, whole(USAGE | {"prompt_tokens_details": {"cached_tokens": 900}}), CACHED),
    "deepseek": (False, whole(USAGE | {"prompt_cache_hit_tokens": 900}), CACHED),
    "moonshot": (False, whole(USAGE | {"cached_tokens": 900}), CACHED),
    "anthropic": (False, whole(USAGE | {"cache_read_input_tokens": 900}), CACHED),
    "xai": (False, whole(USAGE | {"total_tokens": 3100}), 0.0052),
    "total": (False, whole(USAGE | {"total_tokens": 10**12}), PLAIN),
    "reasoning": (
        False,
        whole(
            {"prompt_tokens": 1000, "completion_tokens": 100}
            | {"completion_tokens_details": {"reasoning_tokens": 10**12}}
        ),
        PLAIN,
    ),
    "stream": (True, stream(*END, usage_event(), DONE), PLAIN),
    "null": (True, stream(*END, usage_event(choices=None), DONE), PLAIN),
    "last": (True, stream(*TEXT, chunk({}, "stop", usage=USAGE), DONE), PLAIN),
    "groq": (True, stream(*TEXT, chunk({}, "stop", x_groq={"usage": USAGE}), DONE), PLAIN),
    "crlf": (
        True,
        stream(*(one.replace(b"\n", b"\r\n") for one in (*END, usage_event(), DONE))),
        PLAIN,
    ),
    "no-done": (True, stream(*END, usage_event()), PLAIN),
}
ODD = [
    b"-1",
    b"1e400",
    b"9223372036854775808",
    b"99999999999999999999999999",
    b"true",
    b'"10"',
    b"0",
]


def odd(number):
    return b'{"prompt_tokens":%b,"completion_tokens":%b,"total_tokens":%b}' % ((number,) * 3)


ESTIMATED = (
    {
        "silent": (False, answer(chat(usage=None))),
        "silent-stream": (True, stream(*END, DONE)),
        "empty": (True, stream(*END, event({"choices": [], "usage": {}}), DONE)),
        "cut": (True, [*stream(*TEXT)[:-1], CLOSE]),
    }
    | {
        # Nothing but what is beyond belief.
        "no-total": (False, answer(chat(usage={"total_tokens": 10**12}))),
    }
    | {
        f"odd-{n}-{streams}": (
            streams,
            stream(*END, b'data: {"choices":[],"usage":%b}\n\n' % odd(number), DONE)
            if streams
            else answer(chat(usage=None)[:-1] + b',"usage":%b}' % odd(number)),
        )
        for n, number in enumerate(ODD)
        for streams in (False, True)
    }
)
LONG = "The committee met on Thursday to discuss the new regulations. " * 20
NEVER = threading.Event()
LEFT = {
    # The client leaves; the host has nothing more to say.
    "mid-stream": (True, [*stream(*TEXT * 20)[:-1], HOLD]),
    "before": (True, [Wait(NEVER), HOLD]),
    "before-whole": (False, [Wait(NEVER), HOLD]),
}


def config(url: str, folder: Path) -> str:
    prices = "".join(
        f"  {provider}/{name}: {{input: 1.0, output: 2.0, cached_input: 0.1}}\n"
        for name in (*COUNTED, *ESTIMATED, *LEFT, "refuses", "slow", "good")
        for provider in ("up", "az", "oai", "shy")
    )
    return f"""
server: {{port: 0}}
storage: {{database: 'sqlite:///{folder}/e.db'}}
providers:
  up: {{kind: compatible, base_url: '{url}'}}
  shy: {{kind: compatible, base_url: '{url}', stream_usage: false}}
  oai: {{kind: openai, base_url: '{url}', api_key: k}}
  az: {{kind: azure, base_url: '{url.removesuffix("/v1")}', api_key: k, api_version: '2024-10-21'}}
routes:
  hurried:
    targets: [{{model: up/slow}}]
    fallback: [up/good]
    retries: {{attempts: 1}}
    timeout: {{first_byte: 1}}
prices:
{prices}"""


@pytest.fixture(scope="module")
def host():
    rows = {name: [row[1]] for name, row in (COUNTED | ESTIMATED | LEFT).items()}
    refusal = answer(
        b'{"error":{"message":"unknown field stream_options"}}', status="400 Bad Request"
    )
    rows["refuses"] = [refusal, stream(*END, DONE)]
    rows["slow"] = [[Wait(NEVER), HOLD]]
    rows["good"] = [whole(USAGE)]
    with raw_host(by_model(rows)) as host:
        yield host


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("usage")


async def with_store(folder, work):
    store = SqliteStore(folder / "e.db")
    await store.open()
    try:
        return await work(store)
    finally:
        await store.close()


@pytest.fixture(scope="module")
def key(folder):
    async def make(store):
        await create(store, "admin", now=0.5, role="admin")
        made, _ = await create(store, "app", now=0.5, budget_usd=1000.0, role="admin")
        return made

    return asyncio.run(with_store(folder, make))


@pytest.fixture(scope="module")
def url(host, folder, key):
    assert key
    with gateway(config(host.url, folder)) as url:
        yield url


@pytest.fixture
def headers(key):
    return {"Authorization": f"Bearer {key}"}


def body_of(model, streams, **fields):
    return {
        "model": model,
        "messages": [{"role": "user", "content": LONG}],
        "stream": streams,
        **fields,
    }


def record_of(http, url, headers, name):
    for _ in range(500):
        reply = http.get(f"{url}/traffic/{name}", headers=headers)
        if reply.status_code == 200:
            return reply.json()
        time.sleep(0.02)
    raise AssertionError("no record")


def ask(http, url, headers, model, streams, name, **fields):
    reply = http.post(
        f"{url}/v1/chat/completions",
        json=body_of(model, streams, **fields),
        headers=headers | {"x-request-id": name},
    )
    return reply, record_of(http, url, headers, name)


@pytest.mark.parametrize("provider", ["up", "az", "oai"])
@pytest.mark.parametrize("name", COUNTED)
def test_what_a_host_counts_is_charged(http, url, headers, name, provider):
    streams, _, cost = COUNTED[name]
    reply, record = ask(http, url, headers, f"{provider}/{name}", streams, f"{provider}-{name}")
    assert reply.status_code == 200
    assert record["cost_usd"] == pytest.approx(cost)
    assert not record["estimated"]
    # The client did not ask for the event.
    assert b'"choices":[]' not in reply.content


OPTIONS = [
    None,
    {},
    {"include_usage": False},
    {"include_usage": None},
    {"include_obfuscation": False},
]


@pytest.mark.parametrize("provider", ["up", "az", "oai"])
@pytest.mark.parametrize("n", range(len(OPTIONS)))
def test_a_stream_is_charged_whatever_the_client_says(http, url, headers, host, provider, n):
    options = OPTIONS[n]
    reply, record = ask(
        http, url, headers, f"{provider}/stream", True, f"o-{provider}-{n}", stream_options=options
    )
    assert record["cost_usd"] == pytest.approx(PLAIN)
    assert b'"usage":{' not in reply.content
    sent = host.requests[-1].json["stream_options"]
    assert sent == {**(options or {}), "include_usage": True}


def test_a_client_that_asks_for_usage_gets_it(http, url, headers):
    reply, _ = ask(
        http, url, headers, "up/stream", True, "asks", stream_options={"include_usage": True}
    )
    assert json.loads(reply.content.split(b"\n\n")[-3][6:])["usage"] == USAGE


@pytest.mark.parametrize("name", ESTIMATED)
def test_what_a_host_does_not_count_is_estimated(http, url, headers, name):
    streams, _ = ESTIMATED[name]
    _, record = ask(http, url, headers, f"up/{name}", streams, f"e-{name}")
    assert record["estimated"]
    assert 180 < record["prompt_tokens"] < 320
    assert 1 <= record["completion_tokens"] <= 10
    expected = (record["prompt_tokens"] + 2 * record["completion_tokens"]) / 1e6
    assert record["cost_usd"] == pytest.approx(expected)


def test_a_host_that_refuses_stream_options_is_asked_without(http, url, headers, host):
    before = len(host.requests)
    for n in range(3):
        reply, record = ask(http, url, headers, "up/refuses", True, f"refuses-{n}")
        assert reply.status_code == 200
        assert record["estimated"]
    bodies = [one.json for one in host.requests[before:]]
    assert ["stream_options" in body for body in bodies] == [True, False, False, False]


def test_a_host_that_is_not_to_be_asked(http, url, headers, host):
    ask(http, url, headers, "shy/silent-stream", True, "shy")
    assert "stream_options" not in host.requests[-1].json


@pytest.mark.parametrize("name", LEFT)
def test_a_client_that_leaves_pays(http, url, headers, host, name):
    streams, _ = LEFT[name]
    address, _, port = url.removeprefix("http://").partition(":")
    body = json.dumps(body_of(f"up/{name}", streams)).encode()
    with socket.create_connection((address, int(port))) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-request-id: left-%b\r\n"
            b"authorization: %b\r\ncontent-length: %d\r\n\r\n%b"
            % (name.encode(), headers["Authorization"].encode(), len(body), body)
        )
        if name == "mid-stream":
            got = b""
            while got.count(b'"lo"') < 20:
                got += client.recv(65536)
        else:
            model = name
            host.wait_until(lambda host: any(one.json["model"] == model for one in host.requests))
    record = record_of(http, url, headers, f"left-{name}")
    assert record["estimated"]
    prompt = record["prompt_tokens"] if name == "mid-stream" else record["lost_tokens"]
    assert 180 < prompt < 320
    if name == "mid-stream":
        assert 30 <= record["completion_tokens"] <= 60
    else:
        assert record["status"] == 499
        assert [one["result"] for one in record["attempts"]] == ["cancelled"]
        assert record["cost_usd"] == pytest.approx(prompt / 1e6)


def test_an_attempt_that_was_too_slow_is_charged_beside_the_answer(http, url, headers):
    _, record = ask(http, url, headers, "hurried", False, "hurried")
    assert [one["result"] for one in record["attempts"]] == ["upstream_timeout", "ok"]
    assert record["lost_tokens"] == 1000
    assert record["cost_usd"] == pytest.approx(PLAIN + 0.001)


def test_the_key_was_charged_what_the_records_say(http, url, headers, folder):
    records = []
    page = {"data": [], "next": None}
    while page is not None:
        query = {"limit": 1000} | ({"before": page["next"]} if page["next"] else {})
        page = http.get(f"{url}/traffic", params=query, headers=headers).json()
        records += page["data"]
        page = page if page["next"] else None
    expected = sum(one["cost_usd"] for one in records)
    assert expected > 0

    async def read(store):
        return next(one.spent for one in await listed(store, time.time()) if one.key.name == "app")

    for _ in range(500):
        spent = asyncio.run(with_store(folder, read))
        if spent.requests == len(records):
            break
        time.sleep(0.02)
    assert spent.usd == pytest.approx(expected)
    assert spent.estimated == sum(one["estimated"] for one in records)
    assert spent.unpriced == 0
