"""The llama.cpp engine in this process: LoRA adapters, and what it leaves behind."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

import msgspec
import pytest

pytest.importorskip("xllamacpp")

import tiny_gguf

from providers.base import Call
from providers.errors import ConfigError
from serve.config import LlamacppModel, LlamacppOptions
from serve.deployment.shared_model import SharedModel
from serve.engines.llamacpp import Llamacpp

GREEDY = {
    "messages": [{"role": "user", "content": "tell me a story"}],
    "temperature": 0,
    "max_tokens": 20,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    tiny_gguf.write(folder / "tiny.gguf")
    for seed, name in enumerate(("pirate", "poet")):
        tiny_gguf.write_adapter(folder / f"{name}.gguf", seed=seed)
    return folder


def engine(made, *adapters):
    model = LlamacppModel(
        engine="llamacpp",
        source=str(made / "tiny.gguf"),
        adapters={name: str(made / f"{name}.gguf") for name in adapters},
        options=LlamacppOptions(context=512, threads=1),
    )
    return Llamacpp("tiny", model)


async def send(one, model, **fields):
    envelope = {key: msgspec.Raw(json.dumps(value).encode()) for key, value in fields.items()}
    return await one.send(Call(path="chat/completions", model=model, envelope=envelope))


async def ask(one, model):
    reply = await send(one, model, **GREEDY)
    body = json.loads(await reply.read())
    assert reply.status == 200, body
    return body


async def say(one, model):
    return (await ask(one, model))["choices"][0]["message"]["content"]


async def test_adapters_answer_by_their_names(made):
    bare, adapted = engine(made), engine(made, "pirate", "poet")
    names = ["tiny:pirate", "tiny", "tiny:poet"]
    try:
        await bare.open()
        await adapted.open()
        alone = [await say(adapted, name) for name in names]
        assert len(set(alone)) == 3
        assert alone[1] == await say(bare, "tiny")
        together = await asyncio.gather(*(say(adapted, name) for name in names * 2))
        assert together == alone * 2
    finally:
        await bare.close()
        await adapted.close()


async def test_the_fingerprint_is_the_files(made, tmp_path):
    tiny_gguf.write(tmp_path / "tiny.gguf", seed=5)
    found = set()
    for one in (engine(made, "pirate"), engine(tmp_path)):
        await one.open()
        for name in ("tiny", "tiny:pirate"):
            whole = (await ask(one, name))["system_fingerprint"]
            reply = await send(one, name, **GREEDY, stream=True)
            lines = (await reply.read()).decode().split("\n\n")
            events = [line.removeprefix("data: ") for line in lines if line]
            assert {json.loads(event)["system_fingerprint"] for event in events[:-1]} == {whole}
            found.add(whole)
        await one.close()
    # The second has no adapter, and takes all after the colon for a part of its name.
    assert len(found) == 3


def test_an_adapter_that_is_none_is_refused(made):
    (made / "odd.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        engine(made, "odd")


async def test_it_leaves_once_its_streams_are_done(made):
    one = engine(made)
    address = urlsplit(one._server.listening_address)
    await one.open()
    kept = SharedModel(one, lambda: None)
    kept.enter()
    reply = await send(one, "tiny", **{**GREEDY, "max_tokens": 400}, stream=True)
    chunks = reply.chunks()
    body = await anext(chunks)
    leaving = asyncio.create_task(kept.__del__())
    async for chunk in chunks:
        body += chunk
    assert body.rstrip().endswith(b"[DONE]")
    assert not leaving.done()
    await reply.aclose()
    kept.exit()
    await leaving
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(address.hostname, address.port)
