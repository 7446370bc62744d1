from __future__ import annotations

import asyncio
import json
import math
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import openai
import pytest

from providers.base import Call, Provider
from providers.compatible import Compatible, CompatibleConfig
from providers.errors import ConfigError, UpstreamConnectError, UpstreamProtocolError
from providers.http.sse import Parser, read_end
from providers.http.transport import Transport
from providers.offline.script import vector
from providers.offline.scripted import (
    Rule,
    Script,
    Scripted,
    ScriptedConfig,
    ScriptedServer,
    load_script,
)
from providers.usage import TokenCounts
from providers.wire import CompletionUsage

ROOT = Path(__file__).parents[3]


@asynccontextmanager
async def in_process(models: dict[str, tuple[Rule, ...]], **options) -> AsyncIterator[Provider]:
    yield Scripted("fake", ScriptedConfig(kind="scripted", script=models), **options)


@asynccontextmanager
async def over_http(models: dict[str, tuple[Rule, ...]], **options) -> AsyncIterator[Provider]:
    async with ScriptedServer(Script(models=models), **options) as server:
        transport = Transport()
        await transport.open()
        try:
            yield Compatible(
                "fake", CompatibleConfig(kind="compatible", base_url=server.url), transport
            )
        finally:
            await transport.close()


@pytest.fixture(params=[in_process, over_http])
def running(request):
    """Both ways to run a script; every test with it holds for both."""
    return request.param


def call(text: str = "hello", path: str = "chat/completions", **fields) -> Call:
    fields = {"model": "tiny", **fields}
    if path == "chat/completions":
        fields.setdefault("messages", [{"role": "user", "content": text}])
    raw = msgspec.json.decode(msgspec.json.encode(fields), type=dict[str, msgspec.Raw])
    return Call(
        path=path, model=fields["model"], envelope=raw, stream=bool(fields.get("stream", False))
    )


async def read(provider: Provider, call: Call) -> bytes:
    reply = await provider.send(call)
    try:
        return await reply.read()
    finally:
        await reply.aclose()


async def text_of(provider: Provider, call: Call) -> str:
    answer = json.loads(await read(provider, call))
    return answer["choices"][0]["message"]["content"]


async def test_rules_are_tried_in_order(running):
    rules = (
        Rule(match="(?i)weather", answer="Sunny, call {n}: {input}"),
        Rule(times=2, answers=("yes", "no {n}")),
        Rule(match="never"),
        Rule(times=1),
    )
    async with running({"tiny": rules, "other": (Rule(answer="{n}"),)}) as provider:
        assert await text_of(provider, call()) == "yes"
        assert (
            await text_of(provider, call("The WEATHER {n}?")) == "Sunny, call 2: The WEATHER {n}?"
        )
        assert await text_of(provider, call()) == "no 3"
        assert await text_of(provider, call("echo me")) == "echo me"
        assert await text_of(provider, call(model="other")) == "1"
        reply = await provider.send(call())
        assert reply.status == 400
        assert json.loads(await reply.read())["error"]["code"] == "script_exhausted"


async def test_bad_requests(running):
    async with running({"tiny": (Rule(),)}) as provider:
        reply = await provider.send(call(model="tinny"))
        assert reply.status == 404
        error = json.loads(await reply.read())["error"]
        assert error["code"] == "model_not_found"
        assert "'tiny'" in error["message"]
        reply = await provider.send(call(messages="hello"))
        assert reply.status == 400
        assert json.loads(await reply.read())["error"]["param"] == "messages"


async def test_a_streamed_answer_is_the_whole_one(running):
    rule = Rule(
        answer="One two  three.",
        finish_reason="length",
        usage=CompletionUsage(prompt_tokens=5),
        chunks=4,
    )
    async with running({"tiny": (rule,)}, clock=lambda: 1700000000.5) as provider:
        whole = json.loads(await read(provider, call(n=2)))
        assert whole["created"] == 1700000000
        assert whole["usage"] == {"prompt_tokens": 5}
        assert [choice["finish_reason"] for choice in whole["choices"]] == ["length"] * 2
        body = await read(provider, call(stream=True, stream_options={"include_usage": True}))
        assert read_end(body).usage == TokenCounts(prompt=5, total=5)
        assert read_end(body).finish_reason == "length"
        deltas = [
            choice["delta"]
            for event in Parser().feed(body)[:-1]
            for choice in json.loads(event.data)["choices"]
        ]
        pieces = [delta["content"] for delta in deltas if delta.get("content")]
        assert len(pieces) == 4
        assert "".join(pieces) == "One two  three."


async def test_errors_have_status_body_and_headers(running):
    rules = (
        Rule(times=1, status=429, headers={"Retry-After": 7}),
        Rule(times=1, status=503, body="<html>down</html>", headers={"content-type": "text/html"}),
        Rule(body={"error": "in 200"}),
    )
    async with running({"tiny": rules}) as provider:
        reply = await provider.send(call(stream=True))
        assert (reply.status, reply.headers["retry-after"]) == (429, "7")
        assert reply.headers["content-type"].startswith("application/json")
        assert json.loads(await reply.read())["error"]["type"] == "rate_limit_error"
        reply = await provider.send(call())
        assert (reply.status, reply.headers["content-type"]) == (503, "text/html")
        assert await reply.read() == b"<html>down</html>"
        reply = await provider.send(call())
        assert (reply.status, await reply.read()) == (200, b'{"error":"in 200"}')


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["reset", "refuse_after_accept"])
async def test_no_answer_at_all(running, fault, stream):
    async with running({"tiny": (Rule(times=1, fault=fault), Rule())}) as provider:
        with pytest.raises(UpstreamConnectError):
            await provider.send(call(stream=stream))
        assert await text_of(provider, call("again")) == "again"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault_after", [None, 0, 30])
@pytest.mark.parametrize("fault", ["reset_midway", "truncate"])
async def test_an_answer_cut_off(running, fault, fault_after, stream):
    rule = Rule(fault=fault, fault_after=fault_after)
    async with running({"tiny": (rule,)}) as provider:
        with pytest.raises(UpstreamProtocolError):
            await read(provider, call(stream=stream))
        reply = await provider.send(call(stream=stream))
        assert reply.status == 200
        received = b""

        async def receive() -> None:
            nonlocal received
            async for chunk in reply.chunks():
                received += chunk

        with pytest.raises(UpstreamProtocolError):
            await receive()
        await reply.aclose()
        if fault_after is not None:
            assert len(received) == fault_after
        else:
            assert received


@pytest.mark.parametrize("stream", [False, True])
async def test_hanging_before_the_headers(running, stream):
    async with running({"tiny": (Rule(fault="hang"),)}) as provider:
        sent = asyncio.ensure_future(provider.send(call(stream=stream)))
        done, _ = await asyncio.wait([sent], timeout=0.1)
        assert not done
        sent.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sent


@pytest.mark.parametrize("stream", [False, True])
async def test_hanging_in_mid_body(running, stream):
    async with running({"tiny": (Rule(fault="hang_midway", fault_after=20),)}) as provider:
        reply = await provider.send(call(stream=stream))
        chunks = reply.chunks()
        received = b""
        while len(received) < 20:
            received += await anext(chunks)
        more = asyncio.ensure_future(anext(chunks))
        done, _ = await asyncio.wait([more], timeout=0.1)
        assert not done
        more.cancel()
        with pytest.raises(asyncio.CancelledError):
            await more
        await reply.aclose()


async def test_wrong_contents(running):
    def faulty(fault: str) -> tuple[Rule, ...]:
        return (Rule(answer="One two three four.", fault=fault),)

    faults = ("invalid_json", "half_utf8", "error_event", "error_in_200", "no_usage")
    async with running({fault: faulty(fault) for fault in faults}) as provider:

        async def body(model: str, stream: bool) -> bytes:
            options = {"stream_options": {"include_usage": True}} if stream else {}
            return await read(provider, call(model=model, stream=stream, **options))

        with pytest.raises(json.JSONDecodeError):
            json.loads(await body("invalid_json", False))
        events = Parser().feed(await body("invalid_json", True))
        assert events[-1].data == b"[DONE]"
        broken = [event for event in events[:-1] if not event.data.endswith(b"}")]
        assert len(broken) == 1

        for stream in (False, True):
            halved = await body("half_utf8", stream)
            with pytest.raises(UnicodeDecodeError):
                halved.decode()
            assert b"four." in halved

        assert json.loads(await body("error_event", False))["error"]
        end = read_end(await body("error_event", True))
        assert (end.error, end.done) == ("scripted error 500", False)
        assert b"One" in await body("error_event", True)

        assert json.loads(await body("error_in_200", False))["error"]
        [event] = Parser().feed(await body("error_in_200", True))
        assert json.loads(event.data)["error"]

        assert "usage" not in json.loads(await body("no_usage", False))
        end = read_end(await body("no_usage", True))
        assert (end.usage, end.done) == (None, True)


async def test_delays_come_where_the_rule_says(running):
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    rule = Rule(answer="abc", delay_s=1, first_byte_delay_s=2, chunk_delay_s=3, chunks=3)
    async with running({"tiny": (rule,)}, sleep=sleep) as provider:
        await read(provider, call())
        assert slept == [1, 2, 3, 3]
        slept.clear()
        await read(provider, call(stream=True))
        # role, a, b, c, finish, [DONE]
        assert slept == [1, 2, 3, 3, 3, 3, 3]


async def test_embeddings_completions_and_models(running):
    async with running({"tiny": (Rule(),), "other": ()}) as provider:
        reply = json.loads(await read(provider, call(path="embeddings", input=["a", "b"])))
        assert [row["index"] for row in reply["data"]] == [0, 1]
        assert reply["data"][0]["embedding"] == pytest.approx(vector("a", 16))
        reply = json.loads(await read(provider, call(path="completions", prompt="Say it.")))
        assert (reply["object"], reply["choices"][0]["text"]) == ("text_completion", "Say it.")
        reply = await provider.send(call(path="embeddings", input=[]))
        assert reply.status == 400
        models = json.loads(await read(provider, call(path="models")))["data"]
        assert [model["id"] for model in models] == ["tiny", "other"]


def test_vectors_depend_on_the_text_alone():
    assert vector("a", 1000) == vector("a", 1000)
    assert vector("a", 8) != vector("b", 8)
    assert math.hypot(*vector("", 13)) == pytest.approx(1)


async def test_the_openai_package_reads_it():
    rules = (
        Rule(times=1, status=429, headers={"retry-after-ms": 1}),
        Rule(match="stream this", answer="One two.", chunks=2),
        Rule(match="break", answer="One two.", fault="error_event"),
        Rule(match="401", status=401),
        Rule(answer="hi"),
    )
    async with (
        ScriptedServer(Script(models={"tiny": rules})) as server,
        openai.AsyncOpenAI(base_url=server.url, api_key="sk-secret", max_retries=1) as client,
    ):

        async def chat(text: str, **options):
            return await client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": text}], **options
            )

        answer = await chat("hello")
        assert answer.choices[0].message.content == "hi"
        assert server.log.counts["total"] == 2
        stream = await chat("stream this", stream=True)
        assert [chunk.choices[0].delta.content async for chunk in stream] == [
            "",
            "One ",
            "two.",
            None,
        ]
        with pytest.raises(openai.APIError, match="scripted error 500"):
            async for _ in await chat("break", stream=True):
                pass
        with pytest.raises(openai.AuthenticationError):
            await chat("401")
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(
                model="x", messages=[{"role": "user", "content": "hello"}]
            )
        vectors = await client.embeddings.create(model="tiny", input="a", dimensions=9)
        assert vectors.data[0].embedding == pytest.approx(vector("a", 9))
        assert [model.id async for model in await client.models.list()] == ["tiny"]


@asynccontextmanager
async def serving(*rules: Rule) -> AsyncIterator[tuple[ScriptedServer, aiohttp.ClientSession]]:
    async with (
        ScriptedServer(Script(models={"tiny": rules})) as server,
        aiohttp.ClientSession() as session,
    ):
        yield server, session


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    while not await true():
        await asyncio.sleep(0.01)


async def test_the_log_shows_what_came_and_no_secrets():
    async with serving(Rule(times=1, fault="reset"), Rule()) as (server, session):
        url = f"{server.url}/chat/completions"
        body = {"model": "tiny", "messages": [{"role": "user", "content": "é"}], "x": [1.50]}
        with pytest.raises(aiohttp.ClientError):
            await session.post(url, json=body)
        headers = {"Authorization": "Bearer sk-secret", "X-Request-Id": "r-1"}
        await session.post(url, json=body, headers=headers)
        await session.post(url, data=b"not json \xff")
        async with session.get(server.url.replace("/v1", "/scripted/log")) as response:
            text = await response.text()
        assert "sk-secret" not in text
        log = json.loads(text)
        assert log["counts"] == {
            "total": 3,
            "outcomes": {"open": 0, "broken": 1, "complete": 2},
            "paths": {"chat/completions": 3},
            "models": {"tiny": 2, "": 1},
        }
        first, second, third = log["requests"]
        assert (first["number"], first["outcome"], first["body"]) == (1, "broken", body)
        assert "authorization" not in first["headers"]
        assert second["headers"]["authorization"].startswith("present, sha256 ")
        assert second["headers"]["x-request-id"] == "r-1"
        assert third["body"] == "not json \ufffd"
        async with session.get(server.url.replace("/v1", "/scripted/log?last=1")) as response:
            assert [entry["number"] for entry in (await response.json())["requests"]] == [3]
        for text in ("x", "9" * 5000):
            path = f"/scripted/log?last={text}"
            async with session.get(server.url.replace("/v1", path)) as response:
                assert response.status == 400


@pytest.mark.parametrize("fault", ["hang", "hang_midway"])
async def test_a_client_that_leaves_is_noticed(fault):
    async with serving(Rule(fault=fault)) as (server, session):
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
        asked = asyncio.ensure_future(session.post(f"{server.url}/chat/completions", json=body))

        async def arrived() -> bool:
            return server.log.total == 1

        async def noticed() -> bool:
            return server.log.requests[0].outcome == "client_gone"

        await until(arrived)
        if fault == "hang":
            asked.cancel()
        else:
            (await asked).close()
        await until(noticed)
        assert server.log.counts["outcomes"] == {"open": 0, "client_gone": 1}


async def test_the_server_ends_while_a_request_hangs():
    async with serving(Rule(fault="hang")) as (server, session):
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
        asked = asyncio.ensure_future(session.post(f"{server.url}/chat/completions", json=body))

        async def arrived() -> bool:
            return server.log.total == 1

        await until(arrived)
        await server.__aexit__()
        with pytest.raises(aiohttp.ClientError):
            await asked
        assert server.log.requests[0].outcome == "server_closed"


def test_the_log_keeps_a_bounded_number_of_bodies():
    from providers.offline.script_log import MAX_REQUESTS, Log

    log = Log()
    for number in range(MAX_REQUESTS + 5):
        log.close(log.open("completions", "tiny", {}, str(number)), "complete")
    assert len(log.requests) == MAX_REQUESTS
    assert log.requests[0].body == "5"
    assert log.counts["total"] == log.counts["outcomes"]["complete"] == MAX_REQUESTS + 5


SCRIPT = """
models:
  tiny:
    - {times: 1, status: 429, headers: {Retry-After: 1}}
    - {answer: "yes {n}"}
"""


async def test_as_a_process(tmp_path):
    (tmp_path / "script.yaml").write_text(SCRIPT)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", "providers.offline.scripted", tmp_path / "script.yaml",
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        line = (await process.stdout.readline()).decode()
        url = line.removeprefix("listening on ").strip()
        assert url.startswith("http://127.0.0.1:")
        async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as client:
            for expected in (openai.RateLimitError, None):
                asked = client.chat.completions.create(
                    model="tiny", messages=[{"role": "user", "content": "hello"}]
                )
                if expected:
                    with pytest.raises(expected):
                        await asked
                else:
                    assert (await asked).choices[0].message.content == "yes 2"
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"", b"")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: {tiny: [{anser: a}]}", "anser"),
        ("models: {tiny: [{match: '('}]}", "regular expression"),
        ("models: {tiny: [{fault: rest}]}", "rest"),
        ("models: {tiny: [{answer: a, answers: [b]}]}", "exclude"),
        ("models: {tiny: [{answer: a, status: 500}]}", "exclude"),
        ("models: {tiny: [{status: 500, fault: no_usage}]}", "no_usage"),
        ("models: {tiny: [{times: 0}]}", "times"),
        ("models: [", "expected"),
        ("models: {tiny: \udcff}", "UTF-8|utf-8"),
    ],
)
def test_a_script_that_cannot_be_used(tmp_path, text, words):
    path = tmp_path / "script.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=words) as raised:
        load_script(path)
    assert str(path) in str(raised.value)


async def test_a_process_that_cannot_start(tmp_path):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "providers.offline.scripted", tmp_path / "none.yaml",
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert err.decode().endswith("none.yaml: No such file or directory\n")
    assert b"Traceback" not in err


@pytest.mark.parametrize("fault", ["reset", "refuse_after_accept", "reset_midway", "truncate"])
async def test_a_reset_is_a_tcp_reset_and_a_close_is_not(fault):
    async with ScriptedServer(Script(models={"tiny": (Rule(body="hello", fault=fault),)})) as fake:
        port = int(fake.url.removeprefix("http://127.0.0.1:").removesuffix("/v1"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}]}'
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        if fault.startswith("reset"):
            with pytest.raises(ConnectionResetError):
                await reader.read()
        else:
            received = await reader.read()
            assert received.endswith(b"he" if fault == "truncate" else b"")
            assert (b"Content-Length: 5\r\n" in received) == (fault == "truncate")
        writer.close()
