"""Passes a target's answer on to the client, byte for byte, and keeps what the record needs.

Whole answers go out in one piece, streams chunk by chunk: nothing is decoded, and nothing is made
for a chunk that it does not need.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from litestar.types import Scope, Send

from providers.errors import EvalrouterError, RequestError, StoreError, UpstreamError
from providers.http import sse
from providers.masking import hide
from router.api.connection import answer
from router.api.request_context import RequestContext
from router.gateway import answer_checks
from router.gateway.cache import CachedResponse
from router.gateway.upstream import UpstreamResponse
from router.services import Services

# An event larger than this is passed on in pieces rather than held in memory.
MAX_HELD_BYTES = 1024 * 1024
# A stream longer than this is neither cached nor recorded whole.
MAX_RECORDED_BYTES = 1024 * 1024
# A stream's usage is in one of its last events.
TAIL_CHUNKS = 8


class Relay:
    """Passes answers on, and puts good ones into the response cache."""

    def __init__(self, services: Services, now: Callable[[], float] = time.time) -> None:
        self._dispatcher = services.dispatcher
        self._telemetry = services.telemetry
        self._traffic = services.traffic
        self._cache = services.cache
        self._now = now

    async def whole(
        self,
        response: UpstreamResponse,
        body: bytes,
        scope: Scope,
        send: Send,
        context: RequestContext,
    ) -> None:
        """Pass a whole answer on."""
        headers = context.answer_headers_of(response)
        context.status = response.status
        if context.turn is not None:
            body = await context.turn.whole(body)
        context.tail.append(body)
        await answer(scope, send, response.status, headers, body)
        if context.cache_key is not None:
            self._cache_answer(response, body, context)

    async def stream(self, response: UpstreamResponse, send: Send, context: RequestContext) -> None:
        """Pass a stream on as it comes, and see that it comes to its end."""
        headers = context.answer_headers_of(response)
        headers.append((b"cache-control", b"no-cache"))
        context.status = response.status
        self._telemetry.open_streams += 1
        try:
            with response.reading():
                await send(
                    {"type": "http.response.start", "status": response.status, "headers": headers}
                )
                complete, held, fault = await self._pass_chunks(response, send, context)
            tail = context.tail
            if held and fault is None:
                # Some hosts leave out the blank line after their last event.
                held, fault = context.dialect.last_event(hide(held, response.secrets))
                if context.turn is not None:
                    held = context.turn.rewrite(held)
                    await context.turn.end(held)
                tail.append(held)
            if fault is not None:
                raise self._dispatcher.error_event(response, fault)
            if not context.dialect.is_whole(tail):
                raise answer_checks.cut_off(response.target)
        except (UpstreamError, RequestError, StoreError) as error:
            # What goes wrong after the end makes the answer no worse.
            if not context.dialect.is_done(context.tail):
                await _end_with_error(error, response, send, context)
                return
            complete, held = False, b""
        finally:
            self._telemetry.open_streams -= 1
        response.completed()
        # The client may not read any more, and what it holds is the target's place.
        await response.aclose()
        if held and response.hide_usage:
            held = sse.without_usage(held)
        await send({"type": "http.response.body", "body": held, "more_body": False})
        if complete and context.cache_key is not None:
            self._cache_answer(response, b"".join(tail), context)

    async def _pass_chunks(  # noqa: PLR0912 - steps of one loop, where each call costs time
        self, response: UpstreamResponse, send: Send, context: RequestContext
    ) -> tuple[bool, bytes, bytes | None]:
        """Pass events on up to the end, or to the first error.

        Returns whether all of them are in the context's `tail`, the bytes of an event that has no
        end, and the data of an error.
        """
        keep_all = context.cache_key is not None or self._keeps_body(context) or context.hooks > 0
        tail = context.tail = deque(maxlen=None if keep_all else TAIL_CHUNKS)
        secrets, dialect = response.secrets, context.dialect
        turn, end_mark = context.turn, dialect.end_mark
        held = b""
        done = False
        fault: bytes | None = None
        async for chunk in response.chunks():
            if held:
                chunk, held = held + chunk, b""  # noqa: PLW2901  # the chunk, made whole
            if not chunk.endswith(b"\n\n"):
                # Half an event is of no use to a client, and if the rest never comes it would
                # swallow the error that has to follow it.
                chunk, held = sse.split_complete(chunk)  # noqa: PLW2901
                if len(held) > MAX_HELD_BYTES:
                    chunk, held = chunk + held, b""  # noqa: PLW2901
                if not chunk:
                    continue
            if secrets:
                chunk = hide(chunk, secrets)  # noqa: PLW2901
            if end_mark in chunk or b"error" in chunk:
                chunk, fault, done = dialect.split_end(chunk)  # noqa: PLW2901
            if turn is not None:
                chunk = turn.rewrite(chunk)  # noqa: PLW2901
                if done:
                    # Before the client knows that it is complete, and follows it.
                    await turn.end(chunk)
            tail.append(chunk)
            context.received += len(chunk)
            if keep_all and context.received > MAX_RECORDED_BYTES:
                # Too long for the record and the cache: only its end is of use.
                keep_all = False
                tail = context.tail = deque(tail, maxlen=TAIL_CHUNKS)
                context.cache_key = None
            if response.hide_usage:
                chunk = sse.without_usage(chunk)  # noqa: PLW2901
            if chunk:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if done or fault is not None:
                held = b""
                break
        if done:
            await response.drain()
        return keep_all, held, fault

    def _keeps_body(self, context: RequestContext) -> bool:
        context.keep = self._traffic.keep_for(context.route, stored=context.stored)
        return context.keep == "full"

    def _cache_answer(
        self, response: UpstreamResponse, body: bytes, context: RequestContext
    ) -> None:
        """Put a good answer into the cache; a stream only when it came to its proper end."""
        key, use = context.cache_key, context.cache_use
        if key is None or use is None or not use.write or response.status != 200:
            return
        if response.body is None:
            dialect = context.dialect
            end = dialect.read_end(body[-dialect.tail_bytes :], b"")
            if not end.done or end.error:
                return
            if response.hide_usage:
                body = sse.without_usage(body)
        entry = CachedResponse(
            response.status, response.content_type, body, str(response.target), self._now()
        )
        self._cache.put(key, entry, use.ttl)


async def _end_with_error(
    error: EvalrouterError, response: UpstreamResponse, send: Send, context: RequestContext
) -> None:
    """End a stream that broke off with an event, as its status was sent long ago."""
    context.error_code = error.code or "error"
    response.broke_off()
    # The client may not read any more, and what it holds is the target's place.
    await response.aclose()
    event = context.dialect.error_event(error, context.tail)
    await send({"type": "http.response.body", "body": event, "more_body": False})
