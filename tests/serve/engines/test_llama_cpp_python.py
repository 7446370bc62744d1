"""llama-cpp-python as an engine: its config, and where it is installed, its answers.

`make test-llama-cpp` builds it and runs these tests with it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import msgspec
import pytest
import tiny_gguf

from providers.base import Call
from providers.errors import ConfigError, UpstreamConnectError
from serve.config import missing_engine, read
from serve.engines.llama_cpp_python import LlamaCppPython, command_of
from serve.engines.loading import load

INSTALLED = importlib.util.find_spec("llama_cpp")
needs_it = pytest.mark.skipif(INSTALLED is None, reason="needs llama-cpp-python")


def model(source, **fields):
    entry = {"engine": "llama-cpp-python", "source": str(source), **fields}
    return read({"m": entry}, {})["m"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_gguf.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(autouse=True)
def modules_of_others(monkeypatch):
    """Let the server find llama-cpp-python where this process did: isolate() has hidden it."""
    if INSTALLED is not None:
        monkeypatch.setenv("PYTHONPATH", str(Path(INSTALLED.origin).parents[1]))


def test_the_command_has_the_options():
    options = {"context": 512, "gpu_layers": 0, "embedding": True, "chat_format": "chatml"}
    entry = model("x.gguf", cpus=1.5, options=options)
    command = command_of("m", Path("x.gguf"), entry, "a-key")
    assert command[:3] == (sys.executable, "-m", "llama_cpp.server")
    given = dict(zip(command[3::2], command[4::2], strict=True))
    assert given == {
        "--model": "x.gguf",
        "--model_alias": "m",
        "--n_ctx": "512",
        "--n_threads": "2",
        "--n_threads_batch": "2",
        "--n_gpu_layers": "0",
        "--interrupt_requests": "False",
        "--api_key": "a-key",
        "--embedding": "True",
        "--chat_format": "chatml",
        "--host": "{host}",
        "--port": "{port}",
    }


def test_adapters_are_refused():
    with pytest.raises(ConfigError, match="adapters: its engine takes none"):
        model("x.gguf", adapters={"a": "a.gguf"})


@pytest.mark.skipif(INSTALLED is not None, reason="llama-cpp-python is installed")
def test_without_it_the_error_says_how_to_install_it(tiny):
    told = (
        r"m \(engine: llama-cpp-python\) needs llama-cpp-python: "
        r"pip install 'llama-cpp-python\[server\]'"
    )
    with pytest.raises(ConfigError, match=told):
        load("m", model(tiny))
    assert missing_engine("m", model(tiny)).message.startswith("m (engine: llama-cpp-python)")


def test_a_file_that_is_no_gguf_file_is_refused(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"<html>")
    with pytest.raises(ConfigError, match="is no GGUF file"):
        LlamaCppPython("m", model(path))


async def send(engine, **fields):
    body = {"messages": [{"role": "user", "content": "tell me"}], "max_tokens": 5, **fields}
    envelope = {key: msgspec.Raw(json.dumps(value).encode()) for key, value in body.items()}
    call = Call(
        path="chat/completions", model="m", envelope=envelope, stream=body.get("stream", False)
    )
    reply = await engine.send(call)
    try:
        return reply.status, await reply.read()
    finally:
        await reply.aclose()


@needs_it
async def test_it_answers_and_streams_and_refuses(tiny):
    engine = load("m", model(tiny, options={"context": 512, "threads": 1}))
    try:
        await engine.open()
        status, body = await send(engine)
        assert status == 200, body
        assert json.loads(body)["usage"]["completion_tokens"] == 5
        status, body = await send(engine, stream=True, stream_options={"include_usage": True})
        assert status == 200, body
        assert body.endswith(b"data: [DONE]\n\n")
        assert (await send(engine, messages=7))[0] == 400
        assert (await engine.facts("m")).parameters is not None
    finally:
        await engine.close()


@needs_it
async def test_a_broken_file_is_an_error_of_the_start(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + os.urandom(100))
    engine = load("m", model(path))
    try:
        with pytest.raises(UpstreamConnectError, match="its process ended"):
            await engine.open()
    finally:
        await engine.close()
