"""llama-cpp-python's server, by a stand-in that does what it does; `make test-llama-cpp` has it."""

import asyncio
import json

import fake_model
import msgspec
import pytest
from aiohttp import web
from fake_hosts import chunks
from hosts import ask, call, config, stream, transport

from providers.errors import UpstreamProtocolError
from providers.kinds import make


class Server:
    """One model whatever is asked, one request at a time, no usage in streams."""

    def __init__(self):
        self.received = []
        self.at_once = 0
        self.most = 0
        self.interrupted = False
        self.counted = []
        app = web.Application()
        app.add_routes(
            [
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/completions", self.completion),
                web.get("/v1/models", self.models),
                web.post("/extras/tokenize/count", self.count),
            ]
        )
        self.runner = web.AppRunner(app, access_log=None, handler_cancellation=True)

    async def models(self, _):
        return web.json_response({"data": [{"id": "tiny", "owned_by": "me"}]})

    async def count(self, request):
        # Asked while the stream is still ours, or somebody else's answer would be cut short.
        self.counted.append(self.at_once)
        return web.json_response({"count": fake_model.count((await request.json())["input"])})

    async def chat(self, request):
        body = await request.json()
        self.received.append(body)
        if not isinstance(body.get("max_tokens", 1), int):
            text = "1 validation error:\n  {'type': 'int_parsing', 'loc': ('body', 'max_tokens')}"
            return web.json_response({"error": {"message": text, "code": None}}, status=500)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await asyncio.sleep(0.01)
            answer = fake_model.answer(body)
            if not body.get("stream"):
                return web.json_response(answer)
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            for one in chunks(answer, usage="none"):
                if self.interrupted and one != "[DONE]" and one["choices"][0]["finish_reason"]:
                    continue
                text = one if isinstance(one, str) else json.dumps(one)
                await response.write(f"data: {text}\n\n".encode())
            await response.write_eof()
            return response
        finally:
            self.at_once -= 1

    async def completion(self, request):
        await request.read()
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        choice = {"index": 0, "text": "word", "finish_reason": "stop"}
        for one in (json.dumps({"choices": [choice]}), "[DONE]"):
            await response.write(f"data: {one}\n\n".encode())
        await response.write_eof()
        return response


@pytest.fixture
async def server():
    one = Server()
    await one.runner.setup()
    await web.TCPSite(one.runner, "127.0.0.1", 0).start()
    yield one
    await one.runner.cleanup()


@pytest.fixture
async def provider(server):
    port = server.runner.addresses[0][1]
    async with transport() as client:
        yield make("local", config("llama_cpp", base_url=f"http://127.0.0.1:{port}/v1"), client)


async def test_an_unknown_model_is_refused_because_it_would_not_be(provider, server):
    said = await ask(provider, model="timy")
    assert said.status == 404
    assert said.json["error"]["code"] == "model_not_found"
    assert "tiny" in said.json["error"]["message"]
    assert server.received == []
    assert (await ask(provider, model="tiny")).status == 200


async def test_one_request_at_a_time(provider, server):
    answers = await asyncio.gather(*(ask(provider, model="tiny") for _ in range(5)))
    assert [one.status for one in answers] == [200] * 5
    assert server.most == 1


async def test_a_streams_usage_is_counted_and_marked(provider, server):
    wanted = {"stream_options": {"include_usage": True}}
    streamed = await stream(provider, model="tiny", **wanted)
    usage = streamed.chunks[-1]["usage"]
    assert usage["estimated"] is True
    assert usage["prompt_tokens"] == 1
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert streamed.chunks[-1]["choices"] == []
    assert streamed.done
    assert "stream_options" not in server.received[-1]
    plain = await stream(provider, model="tiny")
    assert not any("usage" in chunk for chunk in plain.chunks)


async def test_half_a_character_costs_a_stream_its_usage_at_most(provider):
    asked = call("completions", model="tiny", stream=True, stream_options={"include_usage": True})
    asked.envelope["prompt"] = msgspec.Raw(b'"cut \\ud83d"')
    reply = await provider.send(asked)
    body = await reply.read()
    await reply.aclose()
    assert b'"word"' in body
    assert body.endswith(b"data: [DONE]\n\n")


async def test_an_answer_that_another_request_cut_short_is_an_error(provider, server):
    server.interrupted = True
    with pytest.raises(UpstreamProtocolError, match="--interrupt_requests False"):
        await stream(provider, model="tiny")


async def test_what_it_does_in_its_own_way(provider, server):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    said = await ask(
        provider,
        model="tiny",
        n=2,
        max_completion_tokens=5,
        tool_choice="required",
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        messages=[
            {"role": "developer", "content": "x"},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "tool_calls": []},
        ],
    )
    sent = server.received[-1]
    assert sent["response_format"] == {"type": "json_object", "schema": schema}
    assert sent["tool_choice"] == "auto"
    assert sent["max_tokens"] == 5
    assert [one["content"] for one in sent["messages"]] == ["x", "hi", ""]
    assert sent["messages"][0]["role"] == "system"
    assert set(said.translation.dropped) == {"n", "tool_choice"}


async def test_its_500_over_a_bad_request_is_a_400(provider):
    assert (await ask(provider, model="tiny", max_tokens="many")).status == 400


async def test_a_chat_without_messages_is_refused(provider, server):
    asked = call(model="tiny")
    asked.envelope = {}
    assert (await provider.send(asked)).status == 400
    assert server.received == []
