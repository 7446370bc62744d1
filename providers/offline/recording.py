"""Records requests and their answers as JSON Lines, for the provider kind `recorded` to replay.

    providers:
      openai: {kind: openai, api_key: "${OPENAI_API_KEY}", record: ./bug-4711.jsonl}

One line per answered request: `path`, `model`, `request` (the client's JSON without `model`),
`status`, `content_type`, and the answer as `body` (JSON) or `text` (an event stream, or anything
that is not JSON). Headers are not recorded, so no key is, and what looks like a key in the texts is
replaced by `[secret]`. Answers that were cut off, or are over `MAX_BYTES`, are not recorded,
nor are requests with `"store": false`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from providers import wire
from providers.base import Call, Lifecycle, Provider, Reply, spoken_by
from providers.errors import ConfigError
from providers.masking import Masks

MAX_BYTES = 16 * 2**20
HIDDEN = "[secret]"

# The forms in which hosts give out keys. Rather too much is hidden than a key shown.
_SECRETS = re.compile(
    r"\b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}"
    r"|\b(?:gsk|hf|xai|r8)_[A-Za-z0-9]{16,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}"
    r"|\bAIza[A-Za-z0-9_-]{30,}"
    r"|\bA(?:KIA|SIA)[A-Z0-9]{16}\b"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}"
    r"|\bBearer\s+[A-Za-z0-9._~+/-]{12,}=*"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----",
    re.DOTALL,
)


class RecordedExchange(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A request and its answer, one line of a recording.

    Attributes:
        path: the path below `/v1`.
        model: the model's name at the provider.
        request: the client's fields but `model`.
        status: the answer's HTTP status.
        content_type: the answer's content type.
        body: a JSON answer.
        text: any other answer.
    """

    path: str
    model: str
    request: dict[str, Any]
    status: int = 200
    content_type: str = "application/json"
    body: Any = None
    text: str | None = None


def hide(text: str) -> str:
    """Return the text without what looks like a key."""
    return _SECRETS.sub(HIDDEN, text)


def values_of(envelope: Mapping[str, msgspec.Raw]) -> dict[str, Any]:
    """Return a request's fields; one that only its host can read (`1e400`) as its text."""
    return {name: _value(raw) for name, raw in envelope.items()}


def _value(raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except wire.UNREADABLE:
        return bytes(raw).decode("utf-8", "replace")


def line_of(call: Call, status: int, content_type: str, body: bytes) -> bytes:
    """Return the line that records an answer, its line end included."""
    request = values_of(call.envelope)
    request.pop("model", None)
    pair = RecordedExchange(
        path=call.path,
        model=call.model,
        request=request,
        status=status,
        content_type=content_type,
    )
    try:
        if not content_type.startswith("application/json"):
            raise msgspec.DecodeError  # treated as JSON that cannot be read
        pair.body = msgspec.json.decode(body)
    except wire.UNREADABLE:
        pair.text = body.decode("utf-8", "replace")
    return hide(wire.encode(pair).decode()).encode() + b"\n"


class Recorder:
    """A provider that records another one's answers as they pass."""

    def __init__(self, provider: Provider, path: Path, masks: Masks | None = None) -> None:
        self._masks = masks or Masks()
        self.name = provider.name
        self.takes_stream_usage = getattr(provider, "takes_stream_usage", True)
        self.speaks = spoken_by(provider)
        self.on_unsupported = getattr(provider, "on_unsupported", None)
        self.takes_reasoning = getattr(provider, "takes_reasoning", False)
        self._provider = provider
        self._path = path
        self._writing = asyncio.Lock()

    async def open(self) -> None:
        """Check that the file can be written, and open the provider.

        Raises:
            ConfigError: the file cannot be written.
        """
        try:
            await asyncio.to_thread(self._append, b"")
        except OSError as error:
            raise ConfigError(
                f"providers.{self.name}.record: {self._path}: {error.strerror}"
            ) from error
        if isinstance(self._provider, Lifecycle):
            await self._provider.open()

    async def close(self) -> None:
        """Close the provider."""
        if isinstance(self._provider, Lifecycle):
            await self._provider.close()

    async def send(self, call: Call) -> Reply:
        """Send a call to the provider; record the answer once it was read to its end."""
        reply = await self._provider.send(call)
        if call.path == "models" or not wire.is_stored(call.envelope):
            return reply
        return _RecordedReply(reply, self, call)

    async def keep(self, call: Call, reply: Reply, body: bytes) -> None:
        """Append one line."""
        content_type = reply.headers.get("content-type", "application/json")
        line = self._masks.mask(line_of(call, reply.status, content_type, body))
        async with self._writing:
            await asyncio.to_thread(self._append, line)

    def _append(self, line: bytes) -> None:
        with self._path.open("ab") as file:
            file.write(line)


class _RecordedReply:
    """A Reply that records what it passes on."""

    def __init__(self, reply: Reply, recorder: Recorder, call: Call) -> None:
        self.status = reply.status
        self.headers: Mapping[str, str] = reply.headers
        self.translation = reply.translation
        self._reply = reply
        self._recorder = recorder
        self._call = call

    async def read(self) -> bytes:
        """Return the whole body, and record it."""
        body = await self._reply.read()
        if len(body) <= MAX_BYTES:
            await self._recorder.keep(self._call, self, body)
        return body

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes, and record it at its end."""
        parts: list[bytes] = []
        size = 0
        async for chunk in self._reply.chunks():
            size += len(chunk)
            if size <= MAX_BYTES:
                parts.append(chunk)
            yield chunk
        if size <= MAX_BYTES:
            await self._recorder.keep(self._call, self, b"".join(parts))

    async def aclose(self) -> None:
        """Close the reply."""
        await self._reply.aclose()
