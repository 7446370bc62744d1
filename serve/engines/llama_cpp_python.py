"""llama-cpp-python as an engine: a GGUF file, answered by `python -m llama_cpp.server`.

    engine = LlamaCppPython("prometheus", model)
    await engine.open()
    reply = await engine.send(call)              # a Provider, like any host

For whoever has it compiled for a GPU or a processor that the wheel of the engine `llamacpp` does
not know. Its server is a process of this copy and ends with it; it answers one request at a time,
and what is odd about it is handled as for a host of the kind `llama_cpp`.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import sys
import tempfile
from pathlib import Path

from providers.base import Call, ModelFacts, Reply, Secret
from providers.errors import ConfigError
from providers.http.transport import HttpLimits, Transport
from providers.local_servers.llama_cpp import LlamaCpp
from providers.local_servers.llamafile import LlamafileConfig
from serve.config import LlamaCppPythonModel
from serve.engines.model_files import fetch_file

_MAGIC = b"GGUF"


class LlamaCppPython:
    """One GGUF file, and the server that has it.

    Args:
        name: the model as its users call it.
        model: what to load, and how to run it.

    Raises:
        ConfigError: the file is not there, or is no GGUF file.
    """

    def __init__(self, name: str, model: LlamaCppPythonModel) -> None:
        self.name = name
        path = fetch_file(model.source, model.revision)
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise ConfigError(f"{name}: {path} is no GGUF file")
        key = secrets.token_hex(16)
        self._logs = tempfile.TemporaryDirectory(prefix="evalrouter-llama-cpp-")
        self._transport = Transport(HttpLimits())
        config = LlamafileConfig(
            kind="llama_cpp",
            command=command_of(name, path, model, key),
            api_key=Secret(key),
            log=str(Path(self._logs.name) / "server.log"),
            start_timeout=model.options.start_timeout,
        )
        self._server = LlamaCpp(name, config, self._transport)

    async def open(self) -> None:
        """Start the server, and wait until it has loaded the file.

        Raises:
            UpstreamConnectError: it cannot.
        """
        await self._transport.open()
        await self._server.start()

    async def close(self) -> None:
        """End the server."""
        await self._server.close()
        await self._transport.close()
        await asyncio.to_thread(self._logs.cleanup)

    async def facts(self, model: str) -> ModelFacts:
        """Return how the weights of the file are stored."""
        return await self._server.facts(model)

    async def send(self, call: Call) -> Reply:
        """Answer a call, when those before it are answered."""
        return await self._server.send(call)


def command_of(name: str, path: Path, model: LlamaCppPythonModel, key: str) -> tuple[str, ...]:
    """Return the command that serves a file under a name, to who has the key."""
    options = model.options
    threads = str(options.threads or max(1, math.ceil(model.cpus)))
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(path)]
    command += ["--model_alias", name, "--n_ctx", str(options.context)]
    command += ["--n_threads", threads, "--n_threads_batch", threads]
    command += ["--n_gpu_layers", str(options.gpu_layers)]
    # By default a second request cuts the answer to the first one short.
    command += ["--interrupt_requests", "False"]
    # Else a variable API_KEY of the environment would be its key.
    command += ["--api_key", key]
    if options.embedding:
        command += ["--embedding", "True"]
    if options.chat_format:
        command += ["--chat_format", options.chat_format]
    return (*command, "--host", "{host}", "--port", "{port}")
