"""Describes a request to a target, whichever it is, and the answer once it has begun."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Protocol

import msgspec

from providers.base import OnUnsupported, Path, Reply, Translation
from providers.errors import (
    ClientGoneError,
    EvalrouterError,
    UpstreamError,
    UpstreamTimeoutError,
)
from router.config.routes import Breaker
from router.gateway.deadlines import Deadline
from router.gateway.failures import too_slow, unreadable
from router.gateway.routing import Policy, TimeLimits
from router.gateway.targets import TargetState
from router.records import Attempt, Target, Trace, TrafficClass

log = logging.getLogger("evalrouter")

# How long a host may leave a response open after [DONE].
DRAIN_S = 1.0
# A host's `content-type` is passed on; longer ones are replaced.
MAX_CONTENT_TYPE_CHARS = 256

# What event loops count by, asyncio's and uvloop's. uvloop's own `time()` is that of its last turn
# in whole milliseconds, too coarse for how long an answer took.
clock = time.monotonic


class PacingListener(Protocol):
    """Learns how requests to targets end, and waits out rate limits in the dispatcher's place."""

    def ended(self, target: Target, error: UpstreamError | None, sent_at: float) -> None:
        """Take note of a request that was sent at `sent_at` (seconds, monotonic) and has ended.

        Args:
            target: the target that the request was sent to.
            error: what went wrong; None when it was answered.
            sent_at: when it was sent, seconds of the monotonic clock.
        """
        ...


class UpstreamRequest(msgspec.Struct, frozen=True, eq=False):
    """A request as every target gets it, whichever of them answers.

    Attributes:
        path: the endpoint of OpenAI's API.
        envelope: the client's fields as bytes.
        stream: whether the client asked for a stream.
        request_id: sent to the target as `x-request-id`.
        traffic_class: evaluations have breakers, queues and budgets of their own, so that they
            cannot trip those of live traffic.
        want_usage: whether to ask for a stream's usage where the client did not; what comes of it
            is hidden from the client (`UpstreamResponse.hide_usage`).
        traceparent: W3C Trace Context for the target, "" for none; with a `trace`, each attempt has
            one of its own.
        on_unsupported: what a provider does with fields its host cannot express, unless its config
            says: evaluations refuse, serving leaves them out and says so.
        pacing: learns how every request ends; with it, a rate limit is not tried again here.
        headers: the client's headers that are sent on to the provider, names in lower case.
        attempts: gets the attempts as they end, so that they are known whatever becomes of it.
        trace: the trace that it is recorded in, which gets the attempts too; None without one.
        started: when the client's request came, on `clock`; None for when it is opened.
    """

    path: Path
    envelope: Mapping[str, msgspec.Raw]
    stream: bool
    request_id: str
    traffic_class: TrafficClass = "live"
    want_usage: bool = False
    traceparent: str = ""
    on_unsupported: OnUnsupported = "drop"
    pacing: PacingListener | None = None
    headers: Mapping[str, str] = {}
    attempts: list[Attempt] | None = None
    trace: Trace | None = None
    started: float | None = None

    # Shows neither what the client wrote nor any secret.
    __repr__ = object.__repr__


class UpstreamResponse(msgspec.Struct, eq=False):
    """An answer that has begun. Read `body`, or iterate `chunks()`; then `aclose()`.

    Attributes:
        status: the target's status.
        headers: the target's headers.
        content_type: the body's type, whatever the target calls it.
        translation: what became of the request's fields.
        target: the provider and model that answer.
        attempts, first_byte_s, body, hide_usage, secrets: as `of` has them.
    """

    _reply: Reply
    _state: TargetState | None
    _loop: asyncio.AbstractEventLoop
    _policy: Policy
    _limits: TimeLimits
    _deadline: float
    status: int
    headers: Mapping[str, str]
    content_type: str
    translation: Translation
    target: Target
    attempts: list[Attempt]
    first_byte_s: float
    body: bytes | None
    _first: bytes
    _rest: AsyncIterator[bytes] | None
    hide_usage: bool
    secrets: tuple[bytes, ...]
    _limit: _StreamDeadline | None = None
    _waits: bool = False

    # Shows neither what the client wrote nor any secret.
    __repr__ = object.__repr__

    @classmethod
    def of(
        cls,
        reply: Reply,
        state: TargetState,
        *,
        loop: asyncio.AbstractEventLoop,
        policy: Policy,
        limits: TimeLimits,
        deadline: float,
        attempts: list[Attempt],
        first_byte_s: float,
        body: bytes | None = None,
        first: bytes = b"",
        rest: AsyncIterator[bytes] | None = None,
        hide_usage: bool = False,
        secrets: tuple[bytes, ...] = (),
    ) -> UpstreamResponse:
        """Return an answer that has begun.

        Args:
            reply: the provider's reply, which this closes.
            state: the target that answers; the answer holds a place at it until it is closed.
            loop: the running event loop.
            policy: the plan's policy.
            limits: the target's time-outs.
            deadline: when a stream has to be complete, on the loop's clock.
            attempts: all attempts, the successful one last as soon as it has been noted.
            first_byte_s: seconds from the client's request to the first byte of the body, retries
                included.
            body: the whole body of a JSON answer; None for a stream.
            first: the bytes of a stream that have been read.
            rest: the others.
            hide_usage: whether the stream has a usage event that the client did not ask for.
            secrets: bytes that the target was sent and that must not be passed on in a stream's
                chunks; a body has none of them any more.
        """
        headers = reply.headers
        usual = "text/event-stream" if body is None else "application/json"
        content_type = headers.get("content-type", usual)
        if content_type != usual:
            fits = content_type.startswith(usual) and len(content_type) <= MAX_CONTENT_TYPE_CHARS
            content_type = content_type if fits else usual
        return cls(
            reply,
            state,
            loop,
            policy,
            limits,
            deadline,
            reply.status,
            headers,
            content_type,
            reply.translation,
            state.target,
            attempts,
            first_byte_s,
            body,
            first,
            rest,
            hide_usage,
            secrets,
        )

    @property
    def first(self) -> bytes:
        """The first bytes of a stream, with which it began to answer."""
        return self._first

    def reading(self) -> _StreamDeadline:
        """Return what a stream is read and passed on in: `with response.reading(): ...`.

        It ends with UpstreamTimeoutError when the target is too slow, and with ClientGoneError
        when the time is over because the client does not read.
        """
        self._limit = _StreamDeadline(self, self._loop, self._deadline)
        return self._limit

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the stream's bytes as they come; within `reading`.

        Raises:
            UpstreamProtocolError: the stream stopped before its end.
        """
        limit = self._limit
        assert self._rest is not None, "a JSON answer has a body, not chunks"
        assert limit is not None, "chunks are read within `reading`"
        if self._first:
            yield self._first
        between = self._limits.between_chunks
        try:
            while True:
                limit.reschedule(min(clock() + between, self._deadline))
                chunk = await anext(self._rest, b"")
                # The client's own pace is not the target's fault, but it holds the target's place.
                limit.reschedule(self._deadline)
                if not chunk:
                    return
                yield chunk
        except asyncio.CancelledError:
            self._waits = True
            raise
        except (EvalrouterError, GeneratorExit):
            raise
        except Exception as failure:
            raise unreadable(self.target, failure) from failure

    def expired(self) -> UpstreamTimeoutError | ClientGoneError:
        """Return the error that a time limit of the stream means, once it has run out."""
        if not self._waits:
            return ClientGoneError(
                f"the client did not read its answer within {self._limits.total:g} s",
                code="client_too_slow",
            )
        phase = "total" if clock() >= self._deadline else "between_chunks"
        return too_slow(self.target, phase, self._limits, self._policy.section)

    async def drain(self) -> None:
        """Read on after [DONE] to the end of the response, so that its connection can be reused.

        Nothing that comes is an answer any more. Within `reading`, and for DRAIN_S at most: a host
        that leaves its connection open loses it.
        """
        assert self._rest is not None, "a JSON answer has a body, not chunks"
        with suppress(TimeoutError, EvalrouterError), Deadline(self._loop, clock() + DRAIN_S):
            while await anext(self._rest, b""):
                pass

    def completed(self) -> None:
        """Note that the stream came to its end."""
        if self._state is not None:
            self._state.completed()

    def broke_off(self) -> None:
        """Note that the stream did not come to its end, by the target's own fault."""
        breaker = self._policy.breaker
        if self._state is not None and self._state.cut_off(clock(), breaker):
            log_breaker_open(self.target, breaker, "its streams broke off")

    async def aclose(self) -> None:
        """Give the connection and the target's place back; cut a stream that was not read whole."""
        if self._state is not None:
            self._state.leave()
        await self.discard()

    async def discard(self) -> None:
        """Give the connection back, and leave the target's place to the caller."""
        self._state = None
        close = getattr(self._rest, "aclose", None)
        if close is not None:
            await close()
        await self._reply.aclose()


class _StreamDeadline(Deadline):
    """The time limit of a stream, for its target and its client."""

    __slots__ = ("_response",)

    def __init__(
        self, response: UpstreamResponse, loop: asyncio.AbstractEventLoop, when: float
    ) -> None:
        super().__init__(loop, when)
        self._response = response

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        except TimeoutError:
            raise self._response.expired() from None


def log_breaker_open(target: Target, breaker: Breaker, reason: str) -> None:
    """Log that a target gets no requests for a while, and why."""
    log.warning(
        "%s gets no requests for %g s, because it failed %d times in a row: %s",
        target,
        breaker.open,
        breaker.failures,
        reason,
    )


def log_breaker_close(target: Target) -> None:
    """Log that a target that had failed answers again."""
    log.warning("%s answers again", target)
