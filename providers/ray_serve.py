"""Models on Ray Serve, as `evalrouter models serve` hosts them.

The host lists its models by itself, with their state: nothing has to be written in the config when
one is added, removed or scaled. A model without copies is started by the first request, which
waits; meanwhile its state is polled, so that a time-out can say that it is still starting, and is
not held against the target.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated
from urllib.parse import quote

import msgspec

from providers import wire
from providers.base import BytesReply, Call, ModelFacts, Reply
from providers.compatible import Compatible, CompatibleConfig
from providers.errors import TargetStartingError, UpstreamError
from providers.http.transport import Transport

BASE_URL = "http://127.0.0.1:8000/v1"
# An answer that is not here by then may be waiting for a cold start.
_PATIENCE_S = 1.0
_POLL_EVERY_S = 2.0
# A copy answers at once, unless it still works for clients that have left.
_FACTS_S = 5.0
_LIST = Call(path="models", model="", envelope={}, connect_timeout=2.0)


_Count = Annotated[int, msgspec.Meta(ge=0, le=10**18)]


class _Row(msgspec.Struct):
    id: str
    state: str = ""


class _Rows(msgspec.Struct):
    data: list[_Row]


class _Error(msgspec.Struct):
    message: str = ""
    code: str | None = None


class _Failed(msgspec.Struct):
    error: _Error


class _Facts(msgspec.Struct):
    """`ModelFacts` as a host sends them, within bounds."""

    file: Annotated[str, msgspec.Meta(max_length=256)] = ""
    quantization: Annotated[str, msgspec.Meta(max_length=256)] = ""
    parameters: _Count | None = None
    bits_per_weight: Annotated[float, msgspec.Meta(gt=0, le=64)] | None = None
    peak_memory_bytes: _Count | None = None
    peak_gpu_memory_bytes: _Count | None = None
    note: Annotated[str, msgspec.Meta(max_length=1000)] = ""


_decode_rows = msgspec.json.Decoder(_Rows).decode
_decode_facts = msgspec.json.Decoder(_Facts).decode
_decode_failed = msgspec.json.Decoder(_Failed).decode


class RayServe(Compatible):
    """The models at one address."""

    def __init__(self, name: str, config: CompatibleConfig, transport: Transport) -> None:
        super().__init__(name, config, transport, default_url=BASE_URL)
        self._states: dict[str, str] = {}

    async def send(self, call: Call) -> Reply:
        """Send a call as to any host; check its model's state while it takes long.

        Raises:
            TargetStartingError: the host gave up waiting for the model's first copy.
        """
        if call.path == "models":
            return await super().send(call)
        # Most answers come sooner, and then no task is made.
        watches: list[asyncio.Task[None]] = []
        timer = asyncio.get_running_loop().call_later(
            _PATIENCE_S, lambda: watches.append(asyncio.create_task(self._watch(call.model)))
        )
        try:
            reply = await super().send(call)
        finally:
            timer.cancel()
            for watch in watches:
                watch.cancel()
        return await _unless_starting(reply) if reply.status == 503 else reply

    async def facts(self, model: str) -> ModelFacts:
        """Return what the host says of a model's weights and memory; nothing of other hosts."""
        try:
            async with asyncio.timeout(_FACTS_S):
                reply = await self._transport.request(
                    "GET",
                    f"{self._base}/models/{quote(model)}/facts",
                    provider=self.name,
                    headers=self._headers,
                    body=None,
                    connect_timeout=_FACTS_S,
                )
                try:
                    body = await reply.read()
                finally:
                    await reply.aclose()
        except (TimeoutError, UpstreamError) as error:
            return ModelFacts(note=str(error) or f"{self.name} does not answer")
        if reply.status == 200:
            with contextlib.suppress(*wire.UNREADABLE):
                return ModelFacts(**msgspec.structs.asdict(_decode_facts(body)))
        return ModelFacts()

    def starting(self, model: str) -> str:
        """Return why this model has no answer yet: no copy that could give one was seen."""
        waits = self._states.get(model) in ("starting", "idle")
        return "it is being started (a cold start)" if waits else ""

    async def _watch(self, model: str) -> None:
        """Keep the model's state up to date while a request waits for it."""
        while True:
            with contextlib.suppress(UpstreamError, *wire.UNREADABLE):
                reply = await super().send(_LIST)
                try:
                    rows = _decode_rows(await reply.read()).data
                finally:
                    await reply.aclose()
                self._states = {row.id: row.state for row in rows}
            if self._states.get(model) == "ready":
                return
            await asyncio.sleep(_POLL_EVERY_S)


async def _unless_starting(reply: Reply) -> Reply:
    """Return the reply, unless it says that its model is still starting."""
    try:
        body = await reply.read()
    finally:
        await reply.aclose()
    with contextlib.suppress(*wire.UNREADABLE):
        error = _decode_failed(body).error
        if error.code == "model_starting":
            raise TargetStartingError(error.message, phase="first_byte")
    return BytesReply(body, status=reply.status, headers=reply.headers)
