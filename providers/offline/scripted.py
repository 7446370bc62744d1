"""Scripted models: a script sets what a model answers, how slowly, and how it fails.

Ships with evalrouter, so that users and tests fake a model the same way. A `Script` (see
`script.py`) runs in this process as the provider kind `scripted`, or over real HTTP:

    async with ScriptedServer(Script(models={"tiny": (Rule(answer="yes"),)})) as server:
        ...  # server.url is http://127.0.0.1:PORT/v1, server.log is what it received

    python -m providers.offline.scripted SCRIPT.yaml --port 9000

The server shows its log under `GET /scripted/log`, to other processes too.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from providers import wire
from providers.base import USUAL_PATHS, BytesReply, Call, ProviderConfig, Reply
from providers.base import Path as ApiPath
from providers.errors import (
    ConfigError,
    RequestError,
    UpstreamConnectError,
    UpstreamProtocolError,
)
from providers.offline.script import (
    SCRIPT_PATHS,
    Counts,
    Performance,
    Rule,
    Script,
    ScriptPath,
    load_script,
    perform,
    read_scripted,
)
from providers.offline.script_log import MAX_REQUESTS, Log
from providers.translation.compose import error_reply, model_list

if TYPE_CHECKING:  # takes its time to import, and the provider has no need of it
    from aiohttp import web

__all__ = ["Rule", "Script", "Scripted", "ScriptedConfig", "ScriptedServer", "load_script"]

Sleep = Callable[[float], Awaitable[None]]

_MAX_DIGITS = 15
_MAX_BODY = 64 * 2**20

_decode_envelope = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class ScriptedConfig(ProviderConfig, frozen=True, kw_only=True):
    """A script in the config.

    Attributes:
        script: each model's rules. `models` restricts what is listed.
    """

    script: dict[str, tuple[Rule, ...]] = msgspec.field(default_factory=dict)

    @property
    def all_models(self) -> Collection[str]:
        """The models that have rules, listed or not."""
        return self.script


class Scripted:
    """A script as a provider in this process.

    A connection that breaks is an UpstreamConnectError before the headers and an
    UpstreamProtocolError after them; hanging lasts until the call is cancelled.

    Args:
        name: the provider's name in the config.
        config: the provider's entry.
        sleep: waits for seconds.
        clock: Unix seconds.
    """

    def __init__(
        self,
        name: str,
        config: ScriptedConfig,
        *,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.speaks: frozenset[ApiPath] = USUAL_PATHS.union(SCRIPT_PATHS)
        self._listed = config.models or tuple(config.script)
        self._counts = Counts(config.script)
        self._sleep = sleep
        self._clock = clock

    async def send(self, call: Call) -> Reply:
        """Answer a call as the script says."""
        if call.path == "models":
            return BytesReply(model_list(self._listed))
        try:
            read = read_scripted(call.path, call.model, call.envelope)
            turn = self._counts.turn(call.model, read.text)
        except RequestError as error:
            return error_reply(error)
        performance = perform(turn, read, created=int(self._clock()))
        await _pause(self._sleep, performance.rule.delay_s)
        if not performance.status:
            if performance.end == "hang":
                await _hang()
            raise UpstreamConnectError(f"{self.name}: the script breaks the connection")
        return BytesReply(
            self._body(performance), status=performance.status, headers=performance.headers
        )

    async def _body(self, performance: Performance) -> AsyncIterator[bytes]:
        async for piece in _paced(performance, self._sleep):
            yield piece
        if performance.end == "hang":
            await _hang()
        if performance.end != "complete":
            raise UpstreamProtocolError(f"{self.name}: the script cuts the answer off")


async def _paced(performance: Performance, sleep: Sleep) -> AsyncIterator[bytes]:
    await _pause(sleep, performance.rule.first_byte_delay_s)
    for number, piece in enumerate(performance.pieces):
        if number:
            await _pause(sleep, performance.rule.chunk_delay_s)
        yield piece


async def _pause(sleep: Sleep, seconds: float) -> None:
    if seconds:
        await sleep(seconds)


async def _hang() -> None:
    await asyncio.Event().wait()


class ScriptedServer:
    """A script as a real HTTP server on loopback; an async context manager.

    Args:
        script: the answers.
        host: address to listen on.
        port: 0 takes a free one.
        sleep: waits for seconds.
        clock: Unix seconds.

    Attributes:
        url: the server's `base_url`; known once it runs.
        log: what the server received.
    """

    def __init__(
        self,
        script: Script,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        from aiohttp import web  # noqa: PLC0415  (see TYPE_CHECKING above)

        self.url = ""
        self.log = Log()
        self._script = script
        self._counts = Counts(script.models)
        self._address = (host, port)
        self._sleep = sleep
        self._clock = clock
        self._closing = False
        app = web.Application(client_max_size=_MAX_BODY)
        app.add_routes([web.post(f"/v1/{path}", self._handler(path)) for path in SCRIPT_PATHS])
        app.add_routes([web.get("/v1/models", self._list), web.get("/scripted/log", self._show)])
        # Without cancellation, a client that leaves while the script hangs is never noticed.
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1
        )

    async def __aenter__(self) -> Self:
        from aiohttp import web  # noqa: PLC0415  (see TYPE_CHECKING above)

        await self._runner.setup()
        host, port = self._address
        await web.TCPSite(self._runner, host, port).start()
        port = self._runner.addresses[0][1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._closing = True
        await self._runner.cleanup()

    async def _list(self, _request: web.Request) -> web.Response:
        return _json(model_list(self._script.models))

    async def _show(self, request: web.Request) -> web.Response:
        last = request.query.get("last", str(MAX_REQUESTS))
        if not last.isdecimal() or len(last) > _MAX_DIGITS:
            return _refusal(
                RequestError(f"last must be a number, not {last[:100]!r}", param="last")
            )
        return _json(self.log.as_json(int(last)))

    def _handler(self, path: ScriptPath) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            envelope = _envelope(body)
            model = _model(envelope or {})
            received = self.log.open(
                path,
                model if model in self._script.models else "",
                request.headers,
                body.decode("utf-8", "replace") if envelope is None else msgspec.Raw(body),
            )
            try:
                response, broken = await self._answer(request, path, envelope, model)
            except (asyncio.CancelledError, ConnectionError):
                self.log.close(received, "server_closed" if self._closing else "client_gone")
                raise
            self.log.close(received, "broken" if broken else "complete")
            return response

        return handle

    async def _answer(
        self,
        request: web.Request,
        path: ScriptPath,
        envelope: Mapping[str, msgspec.Raw] | None,
        model: str,
    ) -> tuple[web.StreamResponse, bool]:
        """Answer a request; return whether the script broke the answer off too."""
        from aiohttp import web  # noqa: PLC0415  (see TYPE_CHECKING above)

        if envelope is None:
            return _refusal(RequestError("body: not a JSON object", code="invalid_json")), False
        try:
            read = read_scripted(path, model, envelope)
            turn = self._counts.turn(model, read.text)
        except RequestError as error:
            return _refusal(error), False
        performance = perform(turn, read, created=int(self._clock()))
        await _pause(self._sleep, performance.rule.delay_s)
        response = web.StreamResponse(status=performance.status or 500, headers=performance.headers)
        if performance.status:
            response.content_length = performance.size
            await response.prepare(request)
            async for piece in _paced(performance, self._sleep):
                await response.write(piece)
        if performance.end == "complete":
            await response.write_eof()
            return response, False
        if performance.end == "hang":
            await _hang()
        _break(request, reset=performance.end == "reset")
        return response, True


def _break(request: web.Request, *, reset: bool) -> None:
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has gone")
    if not reset:
        transport.close()
        return
    # Lingering for zero seconds turns the close into a TCP reset.
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _envelope(body: bytes) -> dict[str, msgspec.Raw] | None:
    try:
        return _decode_envelope(body)
    except wire.UNREADABLE:
        return None


def _model(envelope: Mapping[str, msgspec.Raw]) -> str:
    try:
        return msgspec.json.decode(envelope["model"], type=str)
    except (KeyError, *wire.UNREADABLE):
        return ""


def _json(body: bytes, status: int = 200) -> web.Response:
    from aiohttp import web  # noqa: PLC0415  (see TYPE_CHECKING above)

    return web.Response(body=body, status=status, content_type="application/json")


def _refusal(error: RequestError) -> web.Response:
    return _json(wire.encode(error.as_openai()), error.status)


async def _serve(script: Script, host: str, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with ScriptedServer(script, host=host, port=port) as server:
        sys.stdout.write(f"listening on {server.url}\n")
        sys.stdout.flush()
        await stop.wait()


def main() -> int:
    """Serve a script until SIGTERM. Returns the exit code: 2 when it cannot start."""
    parser = argparse.ArgumentParser(
        prog="python -m providers.offline.scripted", description=main.__doc__
    )
    parser.add_argument("script", type=Path, help="YAML or JSON file")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    given = parser.parse_args()
    try:
        asyncio.run(_serve(load_script(given.script), given.host, given.port))
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
