"""llama.cpp as an engine: a GGUF file, answered by llama.cpp's own server within the copy.

    engine = Llamacpp("prometheus", model)
    await engine.open()
    reply = await engine.send(call)              # a Provider, like any host

The server is the one in the `xllamacpp` wheel. It listens on this machine only, on a free port,
with a key that only this process knows; requests and answers are relayed byte for byte, but for the
answer's `system_fingerprint`.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import math
import re
import secrets
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import xllamacpp

from providers.base import Call, ModelFacts, Reply, Secret
from providers.compatible import Compatible, CompatibleConfig
from providers.errors import ConfigError
from providers.http.transport import HttpLimits, Transport
from providers.local_servers.gguf import facts_of_file
from serve.config import LlamacppModel, adapter_of
from serve.engines.model_files import fetch_file, fingerprint

_FINGERPRINT = re.compile(rb'"system_fingerprint":"[^"]*"')


class Llamacpp:
    """One loaded GGUF file.

    Args:
        name: the model as its users call it.
        model: what to load, and how to run it.

    Raises:
        ConfigError: the file is not there, or llama.cpp cannot read it.
    """

    def __init__(self, name: str, model: LlamacppModel) -> None:
        self.name = name
        path = fetch_file(model.source, model.revision)
        self._path = path
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
        files = {name: fetch_file(source) for name, source in model.adapters.items()}
        # They have no effect until a request names one.
        params.lora_adapters = [
            xllamacpp.CommonAdapterLoraInfo(str(file), 0.0) for file in files.values()
        ]
        self._adapters = {name: fingerprint(file) for name, file in files.items()}
        version = importlib.metadata.version("xllamacpp")
        self._fingerprint = f"{fingerprint(path)}-xllamacpp-{version}"
        params.embedding = options.embedding
        if options.embedding:
            params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        if options.chat_template:
            params.chat_template = options.chat_template
        try:
            self._server: Any = xllamacpp.Server(params)
        except RuntimeError as error:
            raise ConfigError(f"{name}: {path} cannot be loaded: {error}") from error
        self._transport = Transport(HttpLimits())
        address = f"{self._server.listening_address}/v1"
        self._host = Compatible(
            name,
            CompatibleConfig(
                kind="compatible", base_url=address, api_key=Secret(key), resend_on_stale=True
            ),
            self._transport,
        )

    async def open(self) -> None:
        """Make the connections to the server."""
        await self._transport.open()

    async def close(self) -> None:
        """End the server, and give its memory back."""
        await self._transport.close()
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        # It ends with the last reference to it.
        self._server = None

    async def facts(self, model: str) -> ModelFacts:
        """Return how the weights of the file are stored."""
        del model
        return await asyncio.to_thread(facts_of_file, self._path)

    async def send(self, call: Call) -> Reply:
        """Answer a call; ends the work on it when the reply is closed."""
        known = self._fingerprint
        if self._adapters:
            adapter = adapter_of(call.model, self._adapters)
            known += f"-lora-{self._adapters[adapter]}" if adapter else ""
            used = [
                {"id": number, "scale": float(name == adapter)}
                for number, name in enumerate(self._adapters)
            ]
            envelope = {**call.envelope, "lora": msgspec.Raw(msgspec.json.encode(used))}
            call = msgspec.structs.replace(call, envelope=envelope)
        return _FingerprintedReply(await self._host.send(call), known)


class _FingerprintedReply:
    """The server's reply with our `system_fingerprint`: the server knows its own build only."""

    def __init__(self, reply: Reply, fingerprint: str) -> None:
        self.status = reply.status
        self.headers = reply.headers
        self.translation = reply.translation
        self._reply = reply
        self._known = b'"system_fingerprint":"%s"' % fingerprint.encode()

    def _name(self, body: bytes) -> bytes:
        # Within a text its quotes would be escaped.
        return _FINGERPRINT.sub(self._known, body)

    async def read(self) -> bytes:
        return self._name(await self._reply.read())

    async def chunks(self) -> AsyncIterator[bytes]:
        held = b""
        async for chunk in self._reply.chunks():
            lines, newline, held = (held + chunk).rpartition(b"\n")
            if newline:
                yield self._name(lines + newline)
        if held:
            yield self._name(held)

    async def aclose(self) -> None:
        await self._reply.aclose()
