"""Carries out a plan: time-outs, retries, fallback, hedging, cancellation. The only retry loop.

`Dispatcher.open` returns once an answer has begun (or, for a JSON answer, is complete); until then
nothing has been promised to the client, so everything up to that point may be tried again.

Read `open` (which target next), `_ask` (one target, retried), `_attempt` (one request).
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import random as random_module
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

import msgspec

from providers.base import Call, Explains, OnUnsupported, Path, Provider, Reply
from providers.errors import (
    TargetBusyError,
    TargetStartingError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamStatusError,
    UpstreamTimeoutError,
)
from providers.usage import with_usage
from router.alarms import Alarms, Deadline
from router.config import Retries, Timeout
from router.routing import Load, Plan, Target
from router.targets import Klass, Places, TargetState

# An error body is for reading; a host that sends more than this is not telling us anything.
MAX_ERROR_BYTES = 1024 * 1024
# What a client that finds every queue full is told to wait.
BUSY_RETRY_AFTER_S = 1.0

# What event loops count by, asyncio's and uvloop's. uvloop's own `time()` is that of its last turn
# in whole milliseconds, too coarse for how long an answer took.
_clock = time.monotonic

# Of an answer that the dispatcher has not set its route's yet.
_NO_TIMEOUT = Timeout()
# Clients choose model names: what is remembered of targets must not grow without end.
MAX_WITHOUT_USAGE = 1000


class Pacing(Protocol):
    """Learns how requests to targets end, and waits out rate limits in the dispatcher's place."""

    def ended(self, target: Target, error: UpstreamError | None, sent_at: float) -> None:
        """A request that was sent at `sent_at` (seconds, monotonic); `error` None when answered."""
        ...


class Work(NamedTuple):
    """What the client wants, whoever answers it.

    Attributes:
        want_usage: whether to ask for a stream's usage where the client did not; what comes of it
            is hidden from the client (`Opened.hide_usage`).
        traceparent: W3C Trace Context for the target, "" for none.
        klass: evaluations have breakers, queues and budgets of their own, so that they cannot
            trip those of live traffic.
        on_unsupported: what a provider does with fields its host cannot express, unless its config
            says: evaluations refuse, serving leaves them out and says so.
        pacing: is told how every request ends; with it, a rate limit is not tried again here.
        attempts: gets the attempts as they end, so that they are known whatever becomes of it.
    """

    path: Path
    envelope: Mapping[str, msgspec.Raw]
    stream: bool
    request_id: str
    klass: Klass = "live"
    want_usage: bool = False
    traceparent: str = ""
    on_unsupported: OnUnsupported = "drop"
    pacing: Pacing | None = None
    attempts: list[Attempt] | None = None


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request to one target, or why it was not sent, and how it ended.

    Attributes:
        target: `provider/model`.
        result: "ok", the error's code, "breaker_open", "target_busy", "hedge_lost" or
            "cancelled" (the client left).
        status: HTTP status the target answered with, None when there was none.
        seconds: from sending to the first byte, or to the failure.
        paid: whether the target may charge for it although it led to no answer.
    """

    target: str
    result: str
    status: int | None
    seconds: float
    paid: bool = False


class Opened:
    """An answer that has begun. Read `body`, or iterate `chunks()`; then `aclose()`.

    Attributes:
        status: the target's status.
        headers: the target's headers.
        translation: what became of the request's fields.
        target: who answers.
        attempts: all of them, the successful one last.
        body: the whole body of a JSON answer; None for a stream.
        hide_usage: whether the stream has a usage event that the client did not ask for.
        first_byte_s: seconds from `open` to the first byte of the body, retries included.
    """

    __slots__ = (
        "_alarms",
        "_deadline",
        "_first",
        "_reply",
        "_rest",
        "_state",
        "_timeout",
        "attempts",
        "body",
        "first_byte_s",
        "headers",
        "hide_usage",
        "status",
        "target",
        "translation",
    )

    def __init__(
        self,
        reply: Reply,
        target: Target,
        *,
        body: bytes | None,
        first: bytes = b"",
        rest: AsyncIterator[bytes] | None = None,
    ) -> None:
        self.status = reply.status
        self.headers = reply.headers
        self.translation = reply.translation
        self.target = target
        self.attempts: list[Attempt] = []
        self.body = body
        self.first_byte_s = 0.0
        self._reply = reply
        self._first = first
        self._rest = rest
        self.hide_usage = False
        self._timeout = _NO_TIMEOUT
        self._deadline = 0.0
        self._alarms: Alarms | None = None
        self._state: TargetState | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The stream's bytes as they come.

        Raises:
            UpstreamTimeoutError, UpstreamProtocolError: the stream stopped before its end.
        """
        assert self._rest is not None, "a JSON answer has a body, not chunks"
        if self._first:
            yield self._first
        assert self._alarms is not None, "set by the dispatcher, with the time-outs"
        limit = Deadline(self._alarms, None)
        try:
            with limit:
                while True:
                    quiet = _clock() + self._timeout.between_chunks
                    limit.reschedule(min(quiet, self._deadline))
                    chunk = await anext(self._rest, b"")
                    # The client's own pace is not the target's fault.
                    limit.reschedule(None)
                    if not chunk:
                        return
                    yield chunk
        except TimeoutError:
            late = _clock() >= self._deadline
            phase = "total" if late else "between_chunks"
            raise _too_slow(self.target, phase, self._timeout) from None

    async def aclose(self) -> None:
        """Give the connection and the target's place back; cut a stream that was not read whole."""
        if self._state is not None:
            self._state.leave()
            self._state = None
        close = getattr(self._rest, "aclose", None)
        if close is not None:
            await close()
        await self._reply.aclose()


class _Trail:
    """What one request has been through: its attempts, the last failure, when it must end."""

    __slots__ = ("attempts", "cancelled", "deadline", "failure")

    def __init__(self, deadline: float, attempts: list[Attempt] | None = None) -> None:
        self.deadline = deadline
        self.attempts: list[Attempt] = [] if attempts is None else attempts
        self.failure: UpstreamError | None = None
        # What becomes of an attempt that is cancelled from now on.
        self.cancelled = "cancelled"

    def note(
        self,
        target: Target,
        result: str,
        status: int | None,
        seconds: float,
        *,
        paid: bool = False,
    ) -> None:
        self.attempts.append(Attempt(str(target), result, status, seconds, paid))

    def fail(self, target: Target, error: UpstreamError, seconds: float) -> None:
        self.failure = error
        status = error.status if isinstance(error, UpstreamStatusError) else None
        self.note(target, error.code or "error", status, seconds, paid=_may_be_paid(error))


class Dispatcher:
    """Sends work to targets. One per process.

    Args:
        providers: name to provider.
        sleep: waits between attempts.
        random: in [0, 1), for the jitter of those waits.
        now: seconds since the epoch, for `Retry-After` dates.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random_module.random,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._alarms = Alarms()
        self._providers = providers
        self._sleep = sleep
        self._random = random
        self._now = now
        self._states: dict[Klass, dict[Target, TargetState]] = {"live": {}, "eval": {}}
        self._places: dict[Target, Places] = {}
        # Targets that answered 400 to a request for a stream's usage.
        self._without_usage: set[Target] = set()

    def states(self, klass: Klass = "live") -> Iterable[TargetState]:
        """Every target asked so far, for metrics."""
        return tuple(self._states[klass].values())

    def load_of(self, target: Target) -> Load:
        """What plans for live requests are made from."""
        state = self._states["live"].get(target)
        return state.load if state else Load()

    def _state(self, klass: Klass, target: Target) -> TargetState:
        states = self._states[klass]
        state = states.get(target)
        if state is None:
            places = self._places.setdefault(target, Places())
            state = states[target] = TargetState(target, klass, places)
        return state

    async def open(self, plan: Plan, work: Work) -> Opened:
        """Try the plan's targets until one begins to answer.

        A target that is full or whose breaker is open is passed over; when all are, the request
        waits for room at the first that has a place in its queue.

        Raises:
            UpstreamError: the last attempt's, with `attempts` (Attempts) added, when no target
                answered, or when a target says the request itself is at fault.
            TargetBusyError: every target is full, and so is every queue.
        """
        started = _clock()
        trail = _Trail(started + plan.policy.timeout.total, work.attempts)
        full: list[TargetState] = []
        broken: list[TargetState] = []
        for place, target in enumerate(plan.targets):
            state = self._state(work.klass, target)
            if not state.allows(_clock(), plan.policy.breaker):
                broken.append(state)
                trail.note(target, "breaker_open", None, 0.0)
                continue
            if not state.try_enter(plan.policy.rooms.get(target)):
                full.append(state)
                trail.note(target, "target_busy", None, 0.0)
                continue
            opened = await self._ask(state, plan, place, work, trail)
            if opened is not None:
                return _begun(opened, trail, started)
        if trail.failure is None and full:
            opened = await self._queue(full, plan, work, trail)
        elif trail.failure is None and broken:
            # Every target is broken: rather one request too many than none at all.
            state = broken[0]
            state.enter()
            opened = await self._ask(state, plan, plan.targets.index(state.target), work, trail)
        else:
            opened = None
        if opened is not None:
            return _begun(opened, trail, started)
        assert trail.failure is not None, "every way through ends with an answer or a failure"
        raise _with(trail.failure, trail)

    async def _queue(
        self, full: list[TargetState], plan: Plan, work: Work, trail: _Trail
    ) -> Opened | None:
        """Wait for room at the first target whose queue has a place."""
        for state in full:
            if state.can_wait(plan.policy.rooms[state.target]):
                try:
                    async with asyncio.timeout_at(trail.deadline):
                        await state.wait()
                except TimeoutError:
                    raise _with(
                        _too_slow(state.target, "total", plan.policy.timeout), trail
                    ) from None
                return await self._ask(state, plan, plan.targets.index(state.target), work, trail)
        busy = TargetBusyError(
            f"All targets of {plan.route!r} are busy and their queues are full.",
            retry_after=BUSY_RETRY_AFTER_S,
        )
        raise _with(busy, trail)

    async def _ask(
        self, state: TargetState, plan: Plan, place: int, work: Work, trail: _Trail
    ) -> Opened | None:
        """One target, as often as the policy allows; None when another target should be tried.

        The caller has taken a place at the target; the answer keeps it, a failure gives it back.
        """
        policy = plan.policy
        opened = None
        try:
            state.asked(policy.retries, policy.hedge)
            for n in range(policy.retries.attempts):
                if policy.hedge is None:
                    opened = await self._attempt(state, plan, work, trail)
                else:
                    opened = await self._hedged(state, plan, place, work, trail)
                if opened is not None:
                    return opened
                failure = trail.failure
                assert failure is not None
                limited = work.pacing is not None and is_rate_limit(failure)
                if limited or _final(failure) or _clock() >= trail.deadline:
                    raise _with(failure, trail)
                last = n + 1 == policy.retries.attempts
                if last or not _worth_another(failure) or not state.may_retry():
                    return None
                wait = self._wait(failure, n, policy.retries)
                if wait is None or _clock() + wait >= trail.deadline:
                    return None
                await self._sleep(wait)
            return None
        finally:
            if opened is None:
                state.leave()

    async def _attempt(
        self, state: TargetState, plan: Plan, work: Work, trail: _Trail
    ) -> Opened | None:
        """One request; a failure is noted on the trail and counted against the target."""
        began = _clock()
        target = state.target
        try:
            opened = await self._send(target, work, plan.policy.timeout, trail)
        except UpstreamError as error:
            ended = _clock()
            if _own_fault(error):
                state.failed(ended, plan.policy.breaker)
            else:
                state.refused()
            if work.pacing is not None:
                work.pacing.ended(target, error, began)
            trail.fail(target, error, ended - began)
            return None
        except asyncio.CancelledError:
            # The client left, or another attempt was faster. The target may charge all the same.
            trail.note(target, trail.cancelled, None, _clock() - began, paid=True)
            raise
        took = _clock() - began
        state.succeeded(took)
        if work.pacing is not None:
            work.pacing.ended(target, None, began)
        trail.note(target, "ok", opened.status, took)
        opened._state = state
        return opened

    async def _hedged(
        self, state: TargetState, plan: Plan, place: int, work: Work, trail: _Trail
    ) -> Opened | None:
        """One request, and a second one elsewhere when the first is unusually slow."""
        assert plan.policy.hedge is not None
        after = state.hedge_after(plan.policy.hedge)
        first = asyncio.create_task(self._attempt(state, plan, work, trail))
        # Which attempt runs where; the first one's place belongs to the caller.
        attempts = {first: state}
        winner: asyncio.Task[Opened | None] | None = None
        try:
            if after is not None and not (await asyncio.wait({first}, timeout=after))[0]:
                other = self._second(state, plan, place, work)
                if other is not None:
                    state.hedged += 1
                    attempts[asyncio.create_task(self._attempt(other, plan, work, trail))] = other
            running = set(attempts)
            while running and winner is None:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                winner = next((task for task in done if task.result() is not None), None)
            return winner.result() if winner is not None else None
        finally:
            for task, where in attempts.items():
                if task is not winner:
                    await self._drop(task, trail, where, won=winner is not None)
                    # Without a winner, the caller gives the first one's place back itself.
                    if task is not first or winner is not None:
                        where.leave()

    async def _drop(
        self, task: asyncio.Task[Opened | None], trail: _Trail, where: TargetState, *, won: bool
    ) -> None:
        """End an attempt that is not needed any more, however far it has got."""
        if not task.done():
            task.cancel()
            if won:
                where.hedges_lost += 1
                trail.cancelled = "hedge_lost"
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled() and task.exception() is None:
            opened = task.result()
            if opened is not None:
                trail.note(where.target, "hedge_lost", None, 0.0, paid=True)
                opened._state = None
                await opened.aclose()

    def _second(self, state: TargetState, plan: Plan, place: int, work: Work) -> TargetState | None:
        """Where a second attempt goes: the next target of the plan, else the same one again."""
        if not state.may_hedge():
            return None
        now = _clock()
        for target in (*plan.targets[place + 1 :], state.target):
            other = self._state(work.klass, target)
            if other.allows(now, plan.policy.breaker) and other.try_enter(
                plan.policy.rooms.get(target)
            ):
                return other
        return None

    async def _send(self, target: Target, work: Work, limits: Timeout, trail: _Trail) -> Opened:
        """Send, and read up to the first byte of a stream or the last byte of a JSON answer."""
        provider = self._providers[target.provider]
        envelope = work.envelope
        ask_usage = (
            work.want_usage
            and getattr(provider, "takes_stream_usage", True)
            and target not in self._without_usage
        )
        if ask_usage:
            envelope = with_usage(envelope)
        call = Call(
            path=work.path,
            model=target.model,
            envelope=envelope,
            stream=work.stream,
            request_id=work.request_id,
            connect_timeout=limits.connect,
            traceparent=work.traceparent,
            on_unsupported=work.on_unsupported,
        )
        reply: Reply | None = None
        opened: Opened | None = None
        try:
            with Deadline(self._alarms, min(trail.deadline, _clock() + limits.first_byte)):
                reply = await provider.send(call)
                if reply.status >= 400:
                    error = await _status_error(reply, target)
                    if not (ask_usage and _is_about_usage(error)):
                        raise error
                    # Not the client's fault: it did not send what the host refuses.
                    ask_usage = False
                    await reply.aclose()
                    call.envelope = work.envelope
                    reply = await provider.send(call)
                    if reply.status >= 400:
                        raise await _status_error(reply, target)
                    self._remember_without_usage(target)
                if _streams(reply):
                    rest = aiter(reply.chunks())
                    first = await anext(rest, b"")
                    if not first:
                        raise UpstreamProtocolError(f"{target.provider}: the stream was empty")
                    _refuse_error_event(first, target)
                    opened = Opened(reply, target, body=None, first=first, rest=rest)
                else:
                    body = await reply.read()
                    _refuse_error_body(body, target)
                    opened = Opened(reply, target, body=body)
        except TimeoutError:
            phase = "total" if _clock() >= trail.deadline else "first_byte"
            why = provider.starting(target.model) if isinstance(provider, Explains) else ""
            raise _too_slow(target, phase, limits, why) from None
        finally:
            if opened is None and reply is not None:
                await reply.aclose()
        opened._timeout = limits
        opened._deadline = trail.deadline
        opened._alarms = self._alarms
        opened.hide_usage = ask_usage
        return opened

    def _remember_without_usage(self, target: Target) -> None:
        if len(self._without_usage) >= MAX_WITHOUT_USAGE:
            self._without_usage.clear()
        self._without_usage.add(target)

    def _wait(self, failure: UpstreamError, n: int, retries: Retries) -> float | None:
        """Seconds before attempt n + 2 at the same target; None when that is too long to wait."""
        asked = None
        if isinstance(failure, UpstreamStatusError):
            asked = retry_after(failure.headers, self._now())
        if asked is not None:
            return asked if asked <= retries.backoff_max else None
        # Full jitter: a crowd that failed together must not come back together.
        return self._random() * min(retries.backoff_max, retries.backoff * 2.0**n)


def _begun(opened: Opened, trail: _Trail, started: float) -> Opened:
    opened.attempts = trail.attempts
    opened.first_byte_s = _clock() - started
    return opened


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds the host asks us to wait: `retry-after-ms`, or `Retry-After` as seconds or a date.

    Args:
        headers: the answer's, names in lower case.
        now: seconds since the epoch.
    """
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name)
        if not text:
            continue
        try:
            seconds = float(text) * scale
        except ValueError:
            pass
        else:
            return max(0.0, seconds) if math.isfinite(seconds) else None
        try:
            return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
        except ValueError:
            continue
    return None


# How an error object begins, as hosts write it.
_ERROR_START = (b'{"error":', b'{"error" :', b'{ "error"', b'{"object":"error"')


def _streams(reply: Reply) -> bool:
    return reply.headers.get("content-type", "").startswith("text/event-stream")


def _final(failure: UpstreamError) -> bool:
    """Whether the request itself is at fault, so that no target would answer it."""
    if not isinstance(failure, UpstreamStatusError):
        return False
    # 401, 403 and 404 speak of our key and our model name there, which another target does not
    # share; every other 4xx speaks of what the client sent.
    return 400 <= failure.status < 500 and failure.status not in (401, 403, 404, 408, 409, 429)


def _own_fault(failure: UpstreamError) -> bool:
    """Whether the failure speaks against the target, rather than against what was asked of it."""
    if isinstance(failure, TargetStartingError):
        return False
    return not isinstance(failure, UpstreamStatusError) or failure.status >= 500


def _is_about_usage(error: UpstreamStatusError) -> bool:
    """Whether the host refused `stream_options`."""
    return error.status in (400, 422) and (
        b"stream_options" in error.body or b"include_usage" in error.body
    )


def _may_be_paid(failure: UpstreamError) -> bool:
    """Whether the target had the request and may have worked on it."""
    if isinstance(failure, UpstreamTimeoutError):
        return failure.phase != "connect" and not isinstance(failure, TargetStartingError)
    return isinstance(failure, UpstreamProtocolError)


def _refuse_error_body(body: bytes, target: Target) -> None:
    """An error that some hosts send with status 200 is an error all the same."""
    if body.startswith(_ERROR_START) or (b'"choices"' not in body and b'"error"' in body[:200]):
        raise _error_in_200(body, target)


def _refuse_error_event(first: bytes, target: Target) -> None:
    """The same in a stream whose first event is the error."""
    if first.startswith(b"data:") and first[5:].lstrip().startswith(_ERROR_START):
        raise _error_in_200(first[5:].strip(), target)


def _error_in_200(body: bytes, target: Target) -> UpstreamStatusError:
    return UpstreamStatusError(502, body, {}, f"{target} answered with an error in status 200")


def is_rate_limit(failure: UpstreamError) -> bool:
    """Whether the target refused because it has been asked too often."""
    return isinstance(failure, UpstreamStatusError) and failure.status == 429


def _worth_another(failure: UpstreamError) -> bool:
    """Whether the same target may answer if asked again."""
    if isinstance(failure, UpstreamStatusError):
        return failure.status in (408, 409, 429) or failure.status >= 500
    return True


async def _status_error(reply: Reply, target: Target) -> UpstreamStatusError:
    body = b""
    async for chunk in reply.chunks():
        body += chunk
        if len(body) > MAX_ERROR_BYTES:
            break
    return UpstreamStatusError(
        reply.status,
        body,
        {name.lower(): value for name, value in reply.headers.items()},
        f"{target} answered with status {reply.status}",
    )


def _too_slow(
    target: Target, phase: str, timeout: Timeout, starting: str = ""
) -> UpstreamTimeoutError:
    seconds = getattr(timeout, phase)
    words = {
        "first_byte": f"no first byte within {seconds:g} s",
        "between_chunks": f"no further chunk within {seconds:g} s",
        "total": f"not done within {seconds:g} s",
    }
    if starting:
        return TargetStartingError(f"{target}: {words[phase]}; {starting}", phase=phase)
    return UpstreamTimeoutError(f"{target}: {words[phase]}", phase=phase)


def _with(failure: UpstreamError, trail: _Trail) -> UpstreamError:
    failure.attempts = tuple(trail.attempts)
    return failure
