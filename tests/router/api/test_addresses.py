"""Addresses that clients of OpenAI's API use: Azure's, engines, none with `/v1`."""

import asyncio
import gzip
import json

import httpx
import pytest
from mistralai.client import Mistral
from openai import AsyncAzureOpenAI, AzureOpenAI, NotFoundError, OpenAI
from servers import gateway, scripted

from router.api.addresses import canonical
from router.api.request_parsing import with_model
from router.gateway.key_administration import create
from router.store.sqlite import SqliteStore

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hi."}]


@pytest.fixture(scope="module")
def upstream():
    with scripted({"m": [{"answer": "Hello"}], "other": [{"answer": "No"}]}) as upstream:
        yield upstream


def config(folder, upstream, server=""):
    return f"""
server: {{{server}}}
storage: {{database: "sqlite:///{folder}/e.db"}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}
routes: {{r: {{targets: [{{model: up/m}}], record: full}}, s: {{targets: [{{model: up/other}}]}}}}
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory, upstream):
    folder = tmp_path_factory.mktemp("addresses")
    with gateway(config(folder, upstream, "max_body_bytes: 100000")) as url:
        yield url


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        (CHAT, (CHAT, "")),
        ("//v1//chat/completions/", (CHAT, "")),
        ("/chat/completions", (CHAT, "")),
        ("/v1/v1/chat/completions", (CHAT, "")),
        ("/openai/v1/chat/completions", (CHAT, "")),
        ("/openai/chat/completions", (CHAT, "")),
        ("/openai/v1/models", ("/v1/models", "")),
        ("/openai/models", ("/v1/models", "")),
        ("/openai/models/up/m", ("/v1/models/up/m", "")),
        ("/openai/responses", ("/v1/responses", "")),
        ("/openai/deployments/r/chat/completions", (CHAT, "r")),
        ("/openai/deployments/up/m/chat/completions/", (CHAT, "up/m")),
        ("/openai/deployments/r/embeddings", ("/v1/embeddings", "r")),
        ("/engines/r/completions", ("/v1/completions", "r")),
        ("/v1/engines/up/m/embeddings", ("/v1/embeddings", "up/m")),
        ("/engines/r/v1/chat/completions", (CHAT, "r")),
        # Ours stay what they are.
        ("/models/versions", ("/models/versions", "")),
        ("/openai/models/versions", ("/openai/models/versions", "")),
        ("/openai/eval", ("/openai/eval", "")),
        ("/openai", ("/openai", "")),
        ("/engines/completions", ("/engines/completions", "")),
        ("/openai/deployments/r", ("/openai/deployments/r", "")),
        ("/", ("/", "")),
    ],
)
def test_an_address_means_a_path(path, meant):
    assert canonical(path) == meant


@pytest.mark.parametrize("deployment", [None, "r"])
def test_azures_client_works(url, deployment):
    with AzureOpenAI(
        azure_endpoint=url,
        azure_deployment=deployment,
        api_version="2024-10-21",
        api_key="none",
        max_retries=0,
    ) as client:
        answer = client.chat.completions.create(model="r", messages=MESSAGES)
        assert answer.choices[0].message.content == "Hello"
        chunks = client.chat.completions.create(model="r", messages=MESSAGES, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == "Hello"
        assert client.completions.create(model="r", prompt="Hi.").choices[0].text == "Hello"
        assert len(client.embeddings.create(model="r", input="Hi.").data) == 1
        assert {"r", "s"} <= {model.id for model in client.models.list()}
        assert client.models.retrieve("r").id == "r"


def test_a_deployment_that_does_not_exist_is_named_to_azures_client(url):
    with (
        AzureOpenAI(
            azure_endpoint=url, azure_deployment="up/nobody", api_version="1", api_key="none"
        ) as client,
        pytest.raises(NotFoundError, match="nobody"),
    ):
        client.chat.completions.create(model="r", messages=MESSAGES)


async def test_azures_client_of_a_provider_and_its_model(url):
    client = AsyncAzureOpenAI(azure_endpoint=url, api_version="2024-10-21", api_key="none")
    async with client:
        answer = await client.chat.completions.create(model="up/m", messages=MESSAGES)
    assert answer.choices[0].message.content == "Hello"


def test_azures_newest_address_works(url):
    with OpenAI(base_url=f"{url}/openai/v1/", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(model="r", messages=MESSAGES)
        assert answer.choices[0].message.content == "Hello"
        assert "r" in [model.id for model in client.models.list()]


async def key_in(path):
    store = SqliteStore(path)
    await store.open()
    try:
        return (await create(store, "k", now=0.5))[0]
    finally:
        await store.close()


def test_keys_are_needed_at_every_address(http, tmp_path, upstream):
    key = asyncio.run(key_in(tmp_path / "e.db"))
    with gateway(config(tmp_path, upstream)) as url:
        for path in ("/openai/deployments/r/chat/completions", "/engines/r/chat/completions"):
            assert http.post(url + path, json={"messages": MESSAGES}).status_code == 401
            headers = {"api-key": key}
            answer = http.post(url + path, json={"messages": MESSAGES}, headers=headers)
            assert answer.status_code == 200, answer.text


ENGINE = "/engines/r/chat/completions"


def test_the_addresss_model_counts(http, url, upstream):
    for body in (
        {"messages": MESSAGES},
        {"messages": MESSAGES, "model": "s"},
        {"model": None, "messages": MESSAGES},
    ):
        answer = http.post(url + ENGINE, json=body)
        assert answer.json()["choices"][0]["message"]["content"] == "Hello", answer.text
        assert answer.headers["x-evalrouter-route"] == "r"
    packed = http.post(
        url + ENGINE,
        content=gzip.compress(json.dumps({"messages": MESSAGES}).encode()),
        headers={"content-encoding": "gzip"},
    )
    assert packed.status_code == 200, packed.text

    def parts():
        for byte in json.dumps({"messages": MESSAGES}).encode():
            yield bytes([byte])

    assert http.post(url + ENGINE, content=parts()).status_code == 200


def test_all_else_of_a_body_stays_as_it_is():
    half = rb'{"messages":[{"content":"\ud83d"}],"seed":1.50,"x":{"y": null}}'
    assert with_model(half, "r") == half[:-1] + b',"model":"r"}'
    assert with_model(b'{"model": 1}', "r") == b'{"model":"r"}'
    for body in (b"", b"[]", b"{", b"\xff"):
        assert with_model(body, "r") == body


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "bad_json"),
        (b"{", 400, "bad_json"),
        (b"[]", 400, "bad_json"),
        (b'{"model": "r"}', 400, "missing_required_parameter"),
        (b'{"messages": 1}', 400, "invalid_type"),
        (b" " * 100_001, 413, "body_too_large"),
    ],
)
def test_bodies_of_the_wrong_kind_are_refused_as_elsewhere(http, url, body, status, code):
    named = http.post(url + ENGINE, content=body)
    assert named.status_code == status, named.text
    if b"model" not in body:
        body = body.replace(b"{", b'{"model": "r", ', 1)
    plain = http.post(url + CHAT, content=body)
    assert named.json()["error"]["code"] == plain.json()["error"]["code"]

    def parts():
        yield from (body[n : n + 9_000] for n in range(0, len(body), 9_000))

    assert httpx.post(url + ENGINE, content=parts(), timeout=60).status_code == status
    assert named.json()["error"]["code"] == code


def test_a_name_that_no_model_can_have_is_refused(http, url):
    for name, code in (("x" * 300, "string_above_max_length"), ("a%0Ab", None), ("%00", None)):
        answer = http.post(f"{url}/engines/{name}/chat/completions", json={"messages": MESSAGES})
        assert answer.status_code == 400, answer.text
        assert code is None or answer.json()["error"]["code"] == code
    for method in ("GET", "DELETE"):
        assert http.request(method, url + ENGINE).status_code == 405
    assert http.post(f"{url}/engines/r/chat", json={}).status_code == 404


def test_mistrals_client_reads_the_list(url):
    with Mistral(api_key="none", server_url=url) as client:
        models = client.models.list().data
        assert {"r", "s"} <= {model.id for model in models}
        assert {model.type for model in models} == {"base"}


@pytest.mark.parametrize(
    ("expose", "shown"), [("all", {"r", "s", "up/m"}), ("routes", {"r", "s"}), ("models", {"up/m"})]
)
def test_the_config_says_what_the_list_has(http, tmp_path, upstream, expose, shown):
    with gateway(config(tmp_path, upstream, f"expose: {expose}")) as url:
        ids = {row["id"] for row in http.get(f"{url}/v1/models").json()["data"]}
        assert ids & {"r", "s", "up/m"} == shown
        for model in ("r", "up/m"):
            body = {"model": model, "messages": MESSAGES}
            assert http.post(url + CHAT, json=body).status_code == 200
