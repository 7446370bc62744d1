"""The `openai` package as a client: it is understood, and gets what it expects."""

import json

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from servers import gateway, reserved_port, scripted

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a town.",
            "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
        },
    }
]


def call(number, town):
    arguments = f'{{"town": "{town}"}}'
    return {
        "id": f"call_{number}",
        "type": "function",
        "function": {"name": "weather", "arguments": arguments},
    }


CALLS = [call(0, "Oslo"), call(1, "Rome")]
CALLING = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "caller",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {"role": "assistant", "content": None, "tool_calls": CALLS},
        }
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
}


def chunk(delta, finish_reason=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-2",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "stream-caller",
        "choices": [choice],
    }


def events(*chunks):
    body = "".join(f"data: {json.dumps(one)}\n\n" for one in chunks)
    return body + "data: [DONE]\n\n"


STREAMED_CALLS = events(
    chunk({"role": "assistant", "content": None}),
    *(
        chunk({"tool_calls": [{"index": n, **piece}]})
        for n, one in enumerate(CALLS)
        for piece in (
            {**one, "function": {"name": "weather", "arguments": ""}},
            {"function": {"arguments": one["function"]["arguments"][:7]}},
            {"function": {"arguments": one["function"]["arguments"][7:]}},
        )
    ),
    chunk({}, "tool_calls"),
)

MODELS = {
    "hello": [{"answer": "Hello, wörld! 👋 It works."}],
    "caller": [{"match": "sunny", "answer": "Sunny in Oslo."}, {"body": CALLING}],
    "stream-caller": [{"body": STREAMED_CALLS, "headers": {"content-type": "text/event-stream"}}],
    "forbidden": [{"status": 401}],
    "denied": [{"status": 403}],
    "strict": [{"status": 400}],
    "unprocessable": [{"status": 422}],
    "limited": [{"status": 429, "headers": {"Retry-After": 77}}],
    "down": [{"status": 503}],
    "reset": [{"fault": "reset"}],
    "hang": [{"fault": "hang"}],
    "cut": [{"answer": "one two three four five six", "fault": "reset_midway"}],
    "sorry": [{"answer": "one two three four five six", "fault": "error_event"}],
}


@pytest.fixture(scope="module")
def upstream():
    with scripted(MODELS) as server:
        yield server


@pytest.fixture(scope="module")
def base_url(upstream, tmp_path_factory):
    database = tmp_path_factory.mktemp("db") / "e.db"
    once = "retries: {attempts: 1}"
    config = f"""
server: {{port: 0, max_body_bytes: 20000}}
storage: {{database: "sqlite:///{database}"}}
providers:
  up: {{kind: compatible, base_url: "{upstream.url}"}}
routes:
  down: {{targets: [{{model: up/down}}], {once}}}
  reset: {{targets: [{{model: up/reset}}], {once}}}
  late: {{targets: [{{model: up/hang}}], {once}, timeout: {{first_byte: 0.05}}}}
"""
    with gateway(config) as url:
        yield f"{url}/v1"


@pytest.fixture(scope="module")
def client(base_url):
    with OpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=20) as client:
        yield client


@pytest.fixture
async def aclient(base_url):
    async with AsyncOpenAI(base_url=base_url, api_key="unused", max_retries=0) as client:
        yield client


HI = [{"role": "user", "content": "hi"}]


def test_chat(client):
    answer = client.chat.completions.create(model="up/hello", messages=HI, temperature=0.5)
    assert answer.choices[0].message.content == "Hello, wörld! 👋 It works."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_streamed(client):
    with client.chat.completions.create(model="up/hello", messages=HI, stream=True) as stream:
        chunks = list(stream)
    text = "".join(one.choices[0].delta.content or "" for one in chunks)
    assert text == "Hello, wörld! 👋 It works."
    assert len(chunks) > 2
    assert all(one.usage is None for one in chunks)


def test_a_stream_with_usage(client):
    stream = client.chat.completions.create(
        model="up/hello", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    *rest, last = stream
    assert last.choices == []
    assert last.usage.completion_tokens > 0
    assert all(one.usage is None for one in rest)


async def test_chat_async(aclient):
    answer = await aclient.chat.completions.create(model="up/hello", messages=HI)
    assert answer.choices[0].message.content == "Hello, wörld! 👋 It works."


async def test_chat_async_streamed(aclient):
    stream = await aclient.chat.completions.create(model="up/hello", messages=HI, stream=True)
    text = "".join([one.choices[0].delta.content or "" async for one in stream])
    assert text == "Hello, wörld! 👋 It works."


def test_a_baseline_is_a_model_as_any_other(client):
    messages = [{"role": "user", "content": "One. Two. Three. Four."}]
    with client.chat.completions.stream(model="baseline/lead-3", messages=messages) as stream:
        for _ in stream:
            pass
        answer = stream.get_final_completion()
    assert answer.choices[0].message.content == "One. Two. Three."


def test_tool_calls_and_the_turn_that_answers_them(client, upstream):
    asked = client.chat.completions.create(
        model="up/caller", messages=HI, tools=TOOLS, parallel_tool_calls=True
    )
    choice = asked.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert [one.function.arguments for one in choice.message.tool_calls] == [
        '{"town": "Oslo"}',
        '{"town": "Rome"}',
    ]
    results = [
        {"role": "tool", "tool_call_id": one.id, "content": "12 degrees"}
        for one in choice.message.tool_calls
    ]
    # The client's own object goes back as it came, as its documentation shows.
    messages = [*HI, choice.message, *results, {"role": "user", "content": "is it sunny?"}]
    answer = client.chat.completions.create(model="up/caller", messages=messages, tools=TOOLS)
    assert answer.choices[0].message.content == "Sunny in Oslo."
    sent = last(upstream, "caller")
    assert sent["tools"] == TOOLS
    assert sent["messages"][1]["tool_calls"] == CALLS
    assert sent["messages"][2:4] == results


def last(upstream, model):
    found = next(one for one in reversed(upstream.log.requests) if one.model == model)
    return json.loads(bytes(found.body))


def test_tool_calls_streamed_in_parallel(client):
    with client.chat.completions.stream(
        model="up/stream-caller", messages=HI, tools=TOOLS
    ) as stream:
        for _ in stream:
            pass
        message = stream.get_final_completion().choices[0].message
    assert [(one.id, one.function.arguments) for one in message.tool_calls] == [
        ("call_0", '{"town": "Oslo"}'),
        ("call_1", '{"town": "Rome"}'),
    ]


def test_the_headers_of_the_raw_response(client):
    raw = client.chat.completions.with_raw_response.create(model="up/hello", messages=HI)
    assert raw.headers["x-evalrouter-route"] == "up/hello"
    assert raw.headers["x-evalrouter-target"] == "up/hello"
    assert raw.headers["x-evalrouter-attempts"].startswith("up/hello ok ")
    assert raw.request_id == raw.headers["x-request-id"]
    assert raw.parse().choices[0].message.content == "Hello, wörld! 👋 It works."


async def test_the_headers_of_a_raw_stream(aclient):
    raw = await aclient.chat.completions.with_raw_response.create(
        model="up/hello", messages=HI, stream=True, extra_headers={"x-request-id": "mine"}
    )
    assert raw.headers["x-request-id"] == "mine"
    assert [one async for one in raw.parse()]


def test_fields_the_client_does_not_know(client, upstream):
    client.chat.completions.create(model="up/hello", messages=HI, extra_body={"top_k": 7})
    assert last(upstream, "hello")["top_k"] == 7


def test_embeddings(client):
    # The package asks for base64 and decodes it by itself.
    answer = client.embeddings.create(model="up/hello", input=["one", "two"])
    assert [one.index for one in answer.data] == [0, 1]
    assert sum(x * x for x in answer.data[0].embedding) == pytest.approx(1, abs=1e-5)
    as_floats = client.embeddings.create(model="up/hello", input="one", encoding_format="float")
    assert as_floats.data[0].embedding == pytest.approx(answer.data[0].embedding, abs=1e-6)


def test_completions(client):
    answer = client.completions.create(model="up/hello", prompt="hi")
    assert answer.choices[0].text == "Hello, wörld! 👋 It works."
    streamed = client.completions.create(model="up/hello", prompt="hi", stream=True)
    assert "".join(one.choices[0].text for one in streamed) == answer.choices[0].text


def test_models(client):
    names = {one.id: one.owned_by for one in client.models.list()}
    assert names["down"] == "evalrouter"
    assert names["up/hello"] == "up"
    assert client.models.retrieve("down").id == "down"
    # The package writes the slash of provider/model as %2F.
    assert client.models.retrieve("up/hello").owned_by == "up"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("up/hallo")
    assert caught.value.code == "model_not_found"


async def test_models_async(aclient):
    assert "up/hello" in [one.id async for one in aclient.models.list()]


@pytest.mark.parametrize(
    ("model", "kind", "status", "code"),
    [
        ("helo", openai.NotFoundError, 404, "model_not_found"),
        ("up/strict", openai.BadRequestError, 400, "scripted"),
        ("up/forbidden", openai.InternalServerError, 502, "upstream_auth"),
        ("up/denied", openai.InternalServerError, 502, "upstream_auth"),
        ("up/unprocessable", openai.UnprocessableEntityError, 422, "scripted"),
        ("up/limited", openai.RateLimitError, 429, "scripted"),
        ("reset", openai.InternalServerError, 502, "upstream_unreachable"),
        ("down", openai.InternalServerError, 503, "scripted"),
        ("late", openai.InternalServerError, 504, "upstream_timeout"),
    ],
)
def test_errors_are_of_the_clients_classes(client, model, kind, status, code):
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=model, messages=HI)
    error = caught.value
    assert type(error) is kind
    assert (error.status_code, error.code) == (status, code)
    assert error.request_id == error.response.headers["x-request-id"]
    assert error.body["message"] in error.message


@pytest.mark.parametrize("model", ["helo", "up/strict", "down"])
def test_an_error_before_a_stream_begins_is_the_same_error(client, model):
    with pytest.raises(openai.APIStatusError):
        client.chat.completions.create(model=model, messages=HI, stream=True)


async def test_errors_async(aclient):
    with pytest.raises(openai.NotFoundError) as caught:
        await aclient.chat.completions.create(model="helo", messages=HI)
    assert caught.value.param == "model"


def test_bad_requests_of_our_own(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", body={"model": "up/hello"}, cast_to=object)
    assert (caught.value.code, caught.value.param) == ("missing_required_parameter", "messages")


def test_a_rate_limit_says_when_to_come_back(client):
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="up/limited", messages=HI)
    assert caught.value.response.headers["retry-after"] == "77"


def test_a_body_that_is_too_large(client):
    messages = [{"role": "user", "content": "x" * 20_000}]
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="up/hello", messages=messages)
    assert (caught.value.status_code, caught.value.code) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("model", "code"), [("up/cut", "upstream_invalid_response"), ("up/sorry", "scripted")]
)
def test_an_error_in_mid_stream(client, model, code):
    got = []
    stream = client.chat.completions.create(model=model, messages=HI, stream=True)
    with pytest.raises(openai.APIError) as caught:
        got.extend(stream)
    assert got, "what came before the error is the client's"
    assert not isinstance(caught.value, openai.APIStatusError)
    assert caught.value.code == code


async def test_an_error_in_mid_stream_async(aclient):
    stream = await aclient.chat.completions.create(model="up/cut", messages=HI, stream=True)
    with pytest.raises(openai.APIError):
        [one async for one in stream]


def test_a_server_that_is_not_there():
    with reserved_port() as port:
        nowhere = f"http://127.0.0.1:{port}/v1"
        client = OpenAI(base_url=nowhere, api_key="unused", max_retries=0)
        with client, pytest.raises(openai.APIConnectionError) as caught:
            client.chat.completions.create(model="up/hello", messages=HI)
    assert not isinstance(caught.value, openai.APIStatusError)
