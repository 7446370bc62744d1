"""Models on Ray Serve, as `evalrouter models serve` hosts them.

The host lists its models by itself, with their state: nothing has to be written in the config when
one is added, removed or scaled. A model without copies is started by the first request, which
waits; meanwhile its state is polled, so that a time-out can say that it is still starting, and is
not held against the target.
"""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from providers import wire
from providers.base import BytesReply, Call, Reply
from providers.compatible import Compatible, CompatibleConfig
from providers.errors import TargetStartingError, UpstreamError
from providers.http.transport import Transport

BASE_URL = "http://127.0.0.1:8000/v1"
# An answer that is not here by then may be waiting for a cold start.
_PATIENCE_S = 1.0
_POLL_EVERY_S = 2.0
_LIST = Call(path="models", model="", envelope={}, connect_timeout=2.0)


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


_decode_rows = msgspec.json.Decoder(_Rows).decode
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
