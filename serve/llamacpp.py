"""llama.cpp as an engine: a GGUF file, answered by llama.cpp's own server within the copy.

    engine = Llamacpp("prometheus", model)
    await engine.open()
    reply = await engine.send(call)              # a Provider, like any host

The server is the one in the `xllamacpp` wheel. It listens on this machine only, on a free port,
with a key that nobody else knows; requests are relayed to it byte for byte.
"""

from __future__ import annotations

import math
import secrets

import xllamacpp

from providers.base import Call, Reply, Secret
from providers.compatible import Compatible, CompatibleConfig
from providers.errors import ConfigError
from providers.transport import Limits, Transport
from serve.config import LlamacppModel
from serve.sources import fetch_file


class Llamacpp:
    """One loaded GGUF file.

    Args:
        name: as its users call it.
        model: what to load, and how to run it.

    Raises:
        ConfigError: the file is not there, or llama.cpp cannot read it.
    """

    def __init__(self, name: str, model: LlamacppModel) -> None:
        self.name = name
        path = fetch_file(model.source, model.revision)
        options = model.options
        key = secrets.token_hex(16)
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.model_alias = [name]
        params.hostnames = ["127.0.0.1"]
        # The system's choice.
        params.port = 0
        params.api_keys = [key]
        params.n_parallel = options.parallel
        params.n_ctx = options.context * options.parallel
        params.n_gpu_layers = options.gpu_layers
        threads = options.threads or max(1, math.ceil(model.cpus))
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
        params.use_jinja = True
        params.embedding = options.embedding
        if options.embedding:
            params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        if options.chat_template:
            params.chat_template = options.chat_template
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise ConfigError(f"{name}: {path} cannot be loaded: {error}") from error
        self._transport = Transport(Limits())
        address = f"{self._server.listening_address}/v1"
        self._host = Compatible(
            name,
            CompatibleConfig(kind="compatible", base_url=address, api_key=Secret(key)),
            self._transport,
        )

    async def open(self) -> None:
        """Make the connections to the server."""
        await self._transport.open()

    async def close(self) -> None:
        """Close them."""
        await self._transport.close()

    async def send(self, call: Call) -> Reply:
        """Answer a call; ends the work on it when the reply is closed."""
        return await self._host.send(call)
