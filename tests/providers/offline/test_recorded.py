"""Recordings: what is written, what is hidden, and that it is answered again."""

import json

import msgspec
import pytest
from hosts import ask, call, config, stream, texts, transport
from hypothesis import given
from hypothesis import strategies as st
from servers import gateway, scripted

from providers.errors import ConfigError
from providers.kinds import make
from providers.offline.recording import HIDDEN, hide

SCRIPT = {
    "tiny": [{"answers": ["first answer here", "second"]}],
    "broken": [{"answer": "one two three", "fault": "truncate"}],
    "limited": [{"status": 429, "headers": {"Retry-After": 1}}],
    "leaky": [{"answer": "your key is sk-abcdefghijklmnopqrstuvwx, I think"}],
}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


async def opened(kind, client, **fields):
    provider = make("it", config(kind, **fields), client)
    await provider.open()
    return provider


async def record(path, client):
    """Six requests through a recorder; the last two are broken off and refused."""
    script = msgspec.convert(SCRIPT, dict)
    live = await opened("scripted", client, script=script, record=str(path))
    whole = await ask(live, model="tiny", seed=1)
    again = await ask(live, model="tiny", seed=1)
    streamed = await stream(live, model="tiny", seed=2)
    vector = await ask(live, "embeddings", model="tiny", input="a")
    with pytest.raises(Exception, match="cuts the answer off"):
        await ask(live, model="broken")
    refused = await ask(live, model="limited")
    await ask(live, model="leaky")
    await live.close()
    return whole, again, streamed, vector, refused


async def test_a_recording_is_answered_again(tmp_path):
    path = tmp_path / "bug.jsonl"
    async with transport() as client:
        whole, again, streamed, vector, refused = await record(path, client)
        replay = await opened("recorded", client, file=str(path))
        assert (await ask(replay, model="tiny", seed=1)).json == whole.json
        assert (await ask(replay, model="tiny", seed=1)).json == again.json
        assert (await ask(replay, model="tiny", seed=1)).json == whole.json, "in turns"
        assert (await stream(replay, model="tiny", seed=2)).chunks == streamed.chunks
        assert (await ask(replay, "embeddings", model="tiny", input="a")).json == vector.json
        said = await ask(replay, model="limited")
        assert (said.status, said.json) == (429, refused.json)
        listed = (await ask(replay, "models")).json["data"]
        assert {one["id"] for one in listed} == {"tiny", "limited", "leaky"}


async def test_a_stream_serves_a_whole_request_and_the_other_way_round(tmp_path):
    path = tmp_path / "bug.jsonl"
    async with transport() as client:
        whole, _, streamed, *_ = await record(path, client)
        replay = await opened("recorded", client, file=str(path))
        found = await ask(replay, model="tiny", seed=2)
        assert found.json["choices"][0]["message"]["content"] == texts(streamed)
        again = await stream(replay, model="tiny", seed=1, stream_options={"include_usage": True})
        assert texts(again) == whole.json["choices"][0]["message"]["content"]
        assert again.chunks[-1]["usage"] == whole.json["usage"]


async def test_what_was_not_recorded_is_said(tmp_path):
    path = tmp_path / "bug.jsonl"
    async with transport() as client:
        await record(path, client)
        replay = await opened("recorded", client, file=str(path))
        said = await ask(replay, model="tiny", seed=99)
        assert said.status == 404
        assert said.json["error"]["code"] == "not_recorded"
        assert (await ask(replay, model="tyni", seed=1)).json["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("value", ["1e400", '"half \\ud83d"', "1" + "0" * 5000])
async def test_a_field_that_cannot_be_read_is_recorded_as_its_text(tmp_path, value):
    path = tmp_path / "odd.jsonl"
    asked = call(model="tiny")
    asked.envelope["seed"] = msgspec.Raw(value.encode())
    async with transport() as client:
        script = msgspec.convert(SCRIPT, dict)
        live = await opened("scripted", client, script=script, record=str(path))
        reply = await live.send(asked)
        body = await reply.read()
        await live.close()
        [line] = lines(path)
        assert line["request"]["seed"] == value
        replay = await opened("recorded", client, file=str(path))
        assert await (await replay.send(asked)).read() == body


async def test_what_is_written(tmp_path):
    path = tmp_path / "bug.jsonl"
    async with transport() as client:
        await record(path, client)
    found = lines(path)
    assert [one["model"] for one in found] == ["tiny"] * 4 + ["limited", "leaky"]
    assert found[0]["request"] == {"messages": [{"role": "user", "content": "hi"}], "seed": 1}
    assert "sk-abc" not in path.read_text()
    assert HIDDEN in found[-1]["body"]["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefghijklmnop1234",
        "gsk_abcdefghijklmnop1234",
        "hf_abcdefghijklmnop1234",
        "ghp_abcdefghijklmnopqrst1234",
        "AIzaSyAbcdefghijklmnopqrstuvwxyz0123456",
        "AKIAABCDEFGHIJKLMNOP",
        "Bearer abcdefghijkl.mnop",
        "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2QT4",
        "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----",
    ],
)
def test_keys_are_hidden(secret):
    assert hide(f"take {secret} and go") == f"take {HIDDEN} and go"


@pytest.mark.parametrize(("store", "count"), [(False, 0), (True, 1), (None, 1)])
async def test_what_a_client_does_not_let_be_stored_is_not_written(tmp_path, store, count):
    path = tmp_path / "bug.jsonl"
    async with transport() as client:
        live = await opened(
            "scripted", client, script=msgspec.convert(SCRIPT, dict), record=str(path)
        )
        await ask(live, model="tiny", store=store)
        await stream(live, model="tiny", store=False)
        await live.close()
    assert len(lines(path)) == count


@given(st.text())
def test_hiding_twice_is_hiding_once(text):
    assert hide(hide(text)) == hide(text)


def test_a_customers_bug_replays_offline(tmp_path, http):
    """Through the gateway: recorded from live traffic, then answered without the host."""
    path = tmp_path / "bug.jsonl"
    body = {"messages": [{"role": "user", "content": "hi"}], "top_p": 0.5}
    database = f'storage: {{database: "sqlite:///{tmp_path / "e.db"}"}}'
    with scripted(SCRIPT) as upstream:
        up = (
            f'up: {{kind: compatible, base_url: "{upstream.url}", api_key: sk-k, record: "{path}"}}'
        )
        with gateway(f"{database}\nproviders:\n  {up}") as url:
            live = http.post(f"{url}/v1/chat/completions", json={**body, "model": "up/tiny"})
            kept = http.post(
                f"{url}/v1/chat/completions",
                json={**body, "model": "up/tiny", "stream": True, "seed": 5},
            )
    replay = f'old: {{kind: recorded, file: "{path}"}}'
    with gateway(f"{database}\nproviders:\n  {replay}") as url:
        again = http.post(f"{url}/v1/chat/completions", json={**body, "model": "old/tiny"})
        streamed = http.post(
            f"{url}/v1/chat/completions",
            json={**body, "model": "old/tiny", "stream": True, "seed": 5},
        )
    assert again.json() == live.json()
    assert streamed.text == kept.text
    assert "sk-k" not in path.read_text()


# Columns of a dataset

ROWS = [
    {"article": "The sea is wide.", "human": "Wide sea.", "robot": "Sea.", "year": 1},
    {"article": "The sea", "human": "Only the sea.", "robot": "It."},
]


@pytest.fixture(params=["jsonl", "csv"])
def dataset(request, tmp_path):
    path = tmp_path / f"d.{request.param}"
    if request.param == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        path.write_text(
            "article,human,robot\nThe sea is wide.,Wide sea.,Sea.\nThe sea,Only the sea.,It.\n"
        )
    return path


async def test_each_column_is_a_model(dataset):
    provider = await opened("recorded", None, dataset=str(dataset), input="article")
    said = await ask(
        provider, model="human", messages=[{"role": "user", "content": "The sea is wide."}]
    )
    assert said.json["choices"][0]["message"]["content"] == "Wide sea."
    inside = [{"role": "user", "content": "Summarize: The sea is wide. Thanks!"}]
    streamed = await stream(provider, model="robot", messages=inside)
    assert texts(streamed) == "Sea.", "the longest input that stands in the message"
    missing = await ask(provider, model="human", messages=[{"role": "user", "content": "Land."}])
    assert missing.json["error"]["code"] == "not_recorded"
    names = {one["id"] for one in (await ask(provider, "models")).json["data"]}
    assert names == {"human", "robot"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"article": "a", "x": "1"}\n{"x": "2"}\n', "line 2: no text in column 'article'"),
        ('{"article": "a", "x": "1"}\n{"article": "a", "x": "2"}\n', "line 2: a second answer"),
        ("{\n", "line 1: not a JSON object"),
    ],
)
async def test_a_dataset_that_cannot_be_used(tmp_path, text, told):
    path = tmp_path / "d.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        await opened("recorded", None, dataset=str(path), input="article")


async def test_a_recording_that_cannot_be_used(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text("\n{}\n")
    with pytest.raises(ConfigError, match="line 2: not a recorded pair"):
        await opened("recorded", None, file=str(path))
    with pytest.raises(ConfigError, match="No such file"):
        await opened("recorded", None, file=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"record: .*No such file"):
        await opened("scripted", None, record=str(tmp_path / "no" / "where"))


@pytest.mark.parametrize("fields", [{}, {"file": "a", "dataset": "b"}, {"dataset": "b"}])
def test_a_config_that_says_too_little_or_too_much(fields):
    with pytest.raises(ConfigError, match="either file"):
        make("it", config("recorded", **fields), None)
