"""Carries out a plan: time-outs, retries, fallback, hedging, cancellation. The only retry loop.

`Dispatcher.open` returns once an answer has begun (or, for a JSON answer, is complete); until then
nothing has been promised to the client, so everything up to that point may be tried again.

Read `open` (which target next), `_ask` (one target, retried), `_attempt` (one request).
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
import random as random_module
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC
from types import TracebackType
from typing import NamedTuple, Protocol

import msgspec

from providers.base import Call, Explains, OnUnsupported, Path, Provider, Reply
from providers.errors import (
    ClientGoneError,
    EvalrouterError,
    TargetBusyError,
    TargetStartingError,
    UpstreamAuthError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamStatusError,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
)
from providers.http import sse
from providers.masking import Masks, hide
from providers.off_loop import off_loop
from providers.usage import with_usage
from router.config.routes import Breaker, Retries
from router.gateway import answer_checks
from router.gateway.deadlines import Deadline
from router.gateway.routing import FIRST_BYTE_S, MAX_TARGETS, Plan, Policy, TargetLoad, TimeLimits
from router.gateway.targets import ConcurrencySlots, TargetState
from router.records import Attempt, Target, TrafficClass

log = logging.getLogger("evalrouter")

# An error body is for reading; a host that sends more than this is not telling us anything.
MAX_ERROR_BYTES = 1024 * 1024
# What a client that finds every queue full is told to wait.
BUSY_RETRY_AFTER_S = 1.0

# What event loops count by, asyncio's and uvloop's. uvloop's own `time()` is that of its last turn
# in whole milliseconds, too coarse for how long an answer took.
_clock = time.monotonic

# How long a stream that says nothing (comments, events without a choice) is held back before it
# counts as begun: its client must not think that the connection is dead.
MAX_BEGINNING_S = 15.0
# What a whole answer to a request for a stream may take.
MAX_WHOLE_BYTES = 64 * 2**20
# How long a host may leave a response open after [DONE].
DRAIN_S = 1.0
# A host's `content-type` is passed on; longer ones are replaced.
MAX_CONTENT_TYPE_CHARS = 256
# Longer hints are no dates.
MAX_HINT_CHARS = 64

# The error code of a stream in which the target sent an error after it had begun to answer.
ERROR_EVENT = "upstream_error_event"

# Of an answer that the dispatcher has not set its route's yet.
_NO_POLICY = Policy()


class PacingListener(Protocol):
    """Learns how requests to targets end, and waits out rate limits in the dispatcher's place."""

    def ended(self, target: Target, error: UpstreamError | None, sent_at: float) -> None:
        """A request that was sent at `sent_at` (seconds, monotonic); `error` None when answered."""
        ...


class UpstreamRequest(NamedTuple):
    """What the client wants, whoever answers it.

    Attributes:
        want_usage: whether to ask for a stream's usage where the client did not; what comes of it
            is hidden from the client (`UpstreamResponse.hide_usage`).
        traceparent: W3C Trace Context for the target, "" for none.
        traffic_class: evaluations have breakers, queues and budgets of their own, so that they
            cannot trip those of live traffic.
        on_unsupported: what a provider does with fields its host cannot express, unless its config
            says: evaluations refuse, serving leaves them out and says so.
        headers: the client's that are sent on to the provider, names in lower case.
        pacing: is told how every request ends; with it, a rate limit is not tried again here.
        attempts: gets the attempts as they end, so that they are known whatever becomes of it.
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


class UpstreamResponse:
    """An answer that has begun. Read `body`, or iterate `chunks()`; then `aclose()`.

    Attributes:
        status: the target's status.
        headers: the target's headers.
        content_type: what the body is, whatever the target calls it.
        translation: what became of the request's fields.
        target: who answers.
        attempts: all of them, the successful one last.
        body: the whole body of a JSON answer; None for a stream.
        hide_usage: whether the stream has a usage event that the client did not ask for.
        secrets: what the target was sent and must not be passed on in a stream's chunks; a body
            has none of them any more.
        first_byte_s: seconds from `open` to the first byte of the body, retries included.
    """

    __slots__ = (
        "_deadline",
        "_first",
        "_limit",
        "_limits",
        "_loop",
        "_made_of_whole",
        "_policy",
        "_reply",
        "_rest",
        "_state",
        "_waits",
        "attempts",
        "body",
        "content_type",
        "first_byte_s",
        "headers",
        "hide_usage",
        "secrets",
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
        usual = "text/event-stream" if body is None else "application/json"
        kind = reply.headers.get("content-type", usual)
        fits = kind.startswith(usual) and len(kind) <= MAX_CONTENT_TYPE_CHARS
        self.content_type = kind if fits else usual
        self.translation = reply.translation
        self.target = target
        self.attempts: list[Attempt] = []
        self.body = body
        self.first_byte_s = 0.0
        self._reply = reply
        self._first = first
        self._rest = rest
        self.hide_usage = False
        self.secrets: tuple[bytes, ...] = ()
        self._policy = _NO_POLICY
        self._limits = _NO_POLICY.timeout
        self._deadline = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._state: TargetState | None = None
        self._limit: _Reading | None = None
        self._waits = False
        self._made_of_whole = False

    def reading(self) -> _Reading:
        """Return what a stream is read and passed on in: `with opened.reading(): ...`.

        It ends with UpstreamTimeoutError when the target is too slow, and with ClientGoneError
        when the time is over because the client does not read.
        """
        assert self._loop is not None, "set by the dispatcher, with the time-outs"
        self._limit = _Reading(self, self._loop, self._deadline)
        return self._limit

    async def chunks(self) -> AsyncIterator[bytes]:
        """The stream's bytes as they come; within `reading`.

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
                limit.reschedule(min(_clock() + between, self._deadline))
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
            raise _unreadable(self.target, failure) from failure

    def _late(self) -> UpstreamTimeoutError | ClientGoneError:
        """Return what a limit that has run out means."""
        if not self._waits:
            return ClientGoneError(
                f"the client did not read its answer within {self._limits.total:g} s",
                code="client_too_slow",
            )
        phase = "total" if _clock() >= self._deadline else "between_chunks"
        return _too_slow(self.target, phase, self._limits, self._policy.section)

    async def drain(self) -> None:
        """Read on after [DONE] to the end of the response, so that its connection can be reused.

        Nothing that comes is an answer any more. Within `reading`, and for DRAIN_S at most: a host
        that leaves its connection open loses it.
        """
        assert self._rest is not None, "a JSON answer has a body, not chunks"
        assert self._loop is not None, "set by the dispatcher, with the time-outs"
        with suppress(TimeoutError, EvalrouterError), Deadline(self._loop, _clock() + DRAIN_S):
            while await anext(self._rest, b""):
                pass

    def completed(self) -> None:
        """The stream came to its end."""
        if self._state is not None:
            self._state.completed()

    def broke_off(self) -> None:
        """The stream did not come to its end, by the target's own fault."""
        breaker = self._policy.breaker
        if self._state is not None and self._state.cut_off(_clock(), breaker):
            _log_opened(self.target, breaker, "its streams broke off")

    async def aclose(self) -> None:
        """Give the connection and the target's place back; cut a stream that was not read whole."""
        if self._state is not None:
            self._state.leave()
            self._state = None
        close = getattr(self._rest, "aclose", None)
        if close is not None:
            await close()
        await self._reply.aclose()


class _Reading(Deadline):
    """The time limit of a stream, for its target and its client."""

    __slots__ = ("_opened",)

    def __init__(
        self, opened: UpstreamResponse, loop: asyncio.AbstractEventLoop, when: float
    ) -> None:
        super().__init__(loop, when)
        self._opened = opened

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        except TimeoutError:
            raise self._opened._late() from None


class _AttemptLog:
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
        status = None
        if isinstance(error, UpstreamStatusError):
            status = error.status
        elif isinstance(error, UpstreamAuthError):
            status = error.upstream_status
        self.note(target, error.code or "error", status, seconds, paid=_may_be_paid(error))


class Dispatcher:
    """Sends work to targets. One per process.

    Args:
        providers: name to provider.
        sleep: waits between attempts.
        random: in [0, 1), for the jitter of those waits.
        now: seconds since the epoch, for `Retry-After` dates.
        masks: the config's secrets, which no answer and no error may show.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        *,
        masks: Masks | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random_module.random,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._providers = providers
        self._masks = masks or Masks()
        self._sleep = sleep
        self._random = random
        self._now = now
        self._states: dict[TrafficClass, dict[Target, TargetState]] = {"live": {}, "eval": {}}
        self._places: dict[Target, ConcurrencySlots] = {}
        # Targets that answered 400 to a request for a stream's usage.
        self._without_usage: set[Target] = set()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it works on: the one that is running when it is first asked for.

        To look up the running one is a system call before Python 3.12.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def states(self, traffic_class: TrafficClass = "live") -> Iterable[TargetState]:
        """Every target asked so far, for metrics."""
        return tuple(self._states[traffic_class].values())

    def load_of(self, target: Target) -> TargetLoad:
        """What plans for live requests are made from."""
        state = self._states["live"].get(target)
        return state.load if state else TargetLoad()

    def _state(self, traffic_class: TrafficClass, target: Target) -> TargetState:
        states = self._states[traffic_class]
        state = states.get(target)
        if state is None:
            if len(states) >= MAX_TARGETS:
                self._forget_idle(traffic_class)
            places = self._places.setdefault(target, ConcurrencySlots())
            state = states[target] = TargetState(target, traffic_class, places)
        return state

    def _forget_idle(self, traffic_class: TrafficClass) -> None:
        """Forget half of the targets that nothing is under way at: made-up names go first."""
        states = self._states[traffic_class]
        idle = [target for target, state in states.items() if not state.load.running]
        # A name that never answered has no latency.
        idle.sort(key=lambda target: states[target].load.latency is not None)
        for target in idle[: MAX_TARGETS // 2]:
            self._forget(traffic_class, target)

    def _forget(self, traffic_class: TrafficClass, target: Target) -> None:
        self._states[traffic_class].pop(target, None)
        if not any(target in others for others in self._states.values()):
            self._places.pop(target, None)

    def _forget_if_unknown(
        self, state: TargetState, plan: Plan, traffic_class: TrafficClass
    ) -> None:
        """Remember nothing of a name that a client chose, if the provider does not know it."""
        if state.is_blank and plan.route == str(state.target):
            self._forget(traffic_class, state.target)

    async def open(self, plan: Plan, work: UpstreamRequest) -> UpstreamResponse:
        """Try the plan's targets until one begins to answer.

        A target that is full or whose breaker is open is passed over; when all are, the request
        waits for room at the first that has a place in its queue.

        Raises:
            UpstreamError: the last attempt's, with `attempts` (Attempts) added, when no target
                answered, or when a target says the request itself is at fault.
            TargetBusyError: every target is full, and so is every queue.
        """
        started = _clock()
        trail = _AttemptLog(started + plan.policy.timeout.total, work.attempts)
        full: list[TargetState] = []
        broken: list[TargetState] = []
        for place, target in enumerate(plan.targets):
            state = self._state(work.traffic_class, target)
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
        self, full: list[TargetState], plan: Plan, work: UpstreamRequest, trail: _AttemptLog
    ) -> UpstreamResponse | None:
        """Wait for room at the first target whose queue has a place."""
        for state in full:
            if state.can_wait(plan.policy.rooms[state.target]):
                try:
                    async with asyncio.timeout_at(trail.deadline):
                        await state.wait()
                except TimeoutError:
                    raise _with(
                        _too_slow(state.target, "total", plan.policy.timeout, plan.policy.section),
                        trail,
                    ) from None
                return await self._ask(state, plan, plan.targets.index(state.target), work, trail)
        busy = TargetBusyError(
            f"All targets of {plan.route!r} are busy and their queues are full.",
            retry_after=BUSY_RETRY_AFTER_S,
        )
        raise _with(busy, trail)

    async def _ask(
        self, state: TargetState, plan: Plan, place: int, work: UpstreamRequest, trail: _AttemptLog
    ) -> UpstreamResponse | None:
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
                limited = (
                    work.pacing is not None and is_rate_limit(failure) and not is_spent(failure)
                )
                final = _final(failure) and not _goes_on(failure, policy.fallback_on)
                if limited or final or _clock() >= trail.deadline:
                    raise _with(failure, trail)
                last = n + 1 == policy.retries.attempts
                if last or not _worth_another(failure, work.traffic_class) or not state.may_retry():
                    return None
                wait = self._wait(failure, n, policy.retries)
                if wait is None or _clock() + wait >= trail.deadline:
                    return None
                await self._sleep(wait)
            return None
        finally:
            if opened is None:
                state.leave()
                self._forget_if_unknown(state, plan, work.traffic_class)

    async def _attempt(
        self, state: TargetState, plan: Plan, work: UpstreamRequest, trail: _AttemptLog
    ) -> UpstreamResponse | None:
        """One request; a failure is noted on the trail and counted against the target."""
        began = _clock()
        target = state.target
        try:
            opened = await self._send(target, work, plan.policy, trail)
        except UpstreamError as failure:
            ended = _clock()
            error = self._told(failure, target, plan.policy.section)
            if _own_fault(error):
                if state.failed(ended, plan.policy.breaker):
                    _log_opened(target, plan.policy.breaker, error.message)
            elif state.refused():
                _log_closed(target)
            if work.pacing is not None:
                work.pacing.ended(target, error, began)
            trail.fail(target, error, ended - began)
            return None
        except asyncio.CancelledError:
            # The client left, or another attempt was faster. The target may charge all the same.
            trail.note(target, trail.cancelled, None, _clock() - began, paid=True)
            raise
        took = _clock() - began
        if state.succeeded(took, whole=opened.body is not None):
            _log_closed(target)
        if work.pacing is not None:
            work.pacing.ended(target, None, began)
        trail.note(target, "ok", opened.status, took)
        opened._state = state
        return opened

    async def _hedged(
        self, state: TargetState, plan: Plan, place: int, work: UpstreamRequest, trail: _AttemptLog
    ) -> UpstreamResponse | None:
        """One request, and a second one elsewhere when the first is unusually slow."""
        assert plan.policy.hedge is not None
        after = state.hedge_after(plan.policy.hedge)
        first = asyncio.create_task(self._attempt(state, plan, work, trail))
        # Which attempt runs where; the first one's place belongs to the caller.
        attempts = {first: state}
        winner: asyncio.Task[UpstreamResponse | None] | None = None
        try:
            if after is not None and not (await asyncio.wait({first}, timeout=after))[0]:
                other = self._second(state, plan, place, work)
                if other is not None:
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
        self,
        task: asyncio.Task[UpstreamResponse | None],
        trail: _AttemptLog,
        where: TargetState,
        *,
        won: bool,
    ) -> None:
        """End an attempt that is not needed any more, however far it has got."""
        if not task.done():
            task.cancel()
            if won:
                trail.cancelled = "hedge_lost"
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled() and task.exception() is None:
            opened = task.result()
            if opened is not None:
                trail.note(where.target, "hedge_lost", None, 0.0, paid=True)
                opened._state = None
                await opened.aclose()

    def _second(
        self, state: TargetState, plan: Plan, place: int, work: UpstreamRequest
    ) -> TargetState | None:
        """Where a second attempt goes: the next target of the plan, else the same one again."""
        if not state.may_hedge():
            return None
        now = _clock()
        for target in (*plan.targets[place + 1 :], state.target):
            other = self._state(work.traffic_class, target)
            if other.allows(now, plan.policy.breaker) and other.try_enter(
                plan.policy.rooms.get(target)
            ):
                return other
        return None

    async def _send(
        self, target: Target, work: UpstreamRequest, policy: Policy, trail: _AttemptLog
    ) -> UpstreamResponse:
        """Send, and read up to the first event of a stream or the last byte of a JSON answer."""
        provider = self._providers[target.provider]
        limits, deadline = policy.timeout, trail.deadline
        if policy.timeouts:
            limits = policy.timeouts.get(target, limits)
            deadline = min(deadline, _clock() + limits.total)
        first_byte = limits.first_byte or (FIRST_BYTE_S if work.stream else limits.total)
        call = Call(
            path=work.path,
            model=target.model,
            envelope=work.envelope,
            stream=work.stream,
            request_id=work.request_id,
            connect_timeout=limits.connect,
            traceparent=work.traceparent,
            on_unsupported=work.on_unsupported,
            headers=work.headers,
            reasoning=policy.reasoning.get(target) if policy.reasoning else None,
        )
        reply: Reply | None = None
        opened: UpstreamResponse | None = None
        limit = Deadline(self.loop, min(deadline, _clock() + first_byte))
        try:
            with limit:
                reply, ask_usage = await self._reply(provider, call, work, target)
                if work.stream and work.path != "embeddings":
                    opened = await _begin(reply, work.path, target, limit, deadline)
                else:
                    body = await reply.read()
                    body = await off_loop(len(body), answer_checks.whole, body, work.path, target)
                    opened = UpstreamResponse(reply, target, body=body)
        except TimeoutError:
            phase = "total" if _clock() >= deadline else "first_byte"
            why = provider.starting(target.model) if isinstance(provider, Explains) else ""
            raise _too_slow(target, phase, limits, policy.section, why) from None
        except EvalrouterError:
            raise
        except Exception as failure:
            if reply is None:
                raise
            raise _unreadable(target, failure) from failure
        finally:
            if opened is None and reply is not None:
                await reply.aclose()
        opened.secrets = secrets = self._masks.of(target.provider)
        if opened.body is not None and secrets:
            opened.body = hide(opened.body, secrets)
        opened._policy = policy
        opened._limits = limits
        opened._deadline = deadline
        opened._loop = self.loop
        # Events that were made of a whole answer have its usage in any case.
        opened.hide_usage = ask_usage or (opened._made_of_whole and work.want_usage)
        return opened

    async def _reply(
        self, provider: Provider, call: Call, work: UpstreamRequest, target: Target
    ) -> tuple[Reply, bool]:
        """Send; return a reply that has a status of success, and whether usage was requested."""
        ask_usage = (
            work.want_usage
            and getattr(provider, "takes_stream_usage", True)
            and target not in self._without_usage
        )
        if ask_usage:
            call.envelope = with_usage(work.envelope)
        reply = await provider.send(call)
        if reply.status == 200:
            return reply, ask_usage
        error = await _status_error(reply, target)
        if error is not None and ask_usage and _is_about_usage(error):
            # Not the client's fault: it did not send what the host refuses.
            ask_usage = False
            call.envelope = work.envelope
            reply = await provider.send(call)
            error = await _status_error(reply, target)
            if error is None:
                self._remember_without_usage(target)
        if error is not None:
            raise error
        return reply, ask_usage

    def _told(self, failure: UpstreamError, target: Target, section: str) -> UpstreamError:
        """Return the failure as the client, the records and the logs may have it."""
        masks = self._masks
        if isinstance(failure, UpstreamTimeoutError) and failure.phase == "connect":
            failure = _explained(failure, section)
        failure.message = masks.mask_text(failure.message)
        failure.args = (failure.message,)
        if not isinstance(failure, UpstreamStatusError):
            return failure
        failure.body = masks.mask(failure.body)
        failure.headers = {n: masks.mask_text(value) for n, value in failure.headers.items()}
        if failure.status in _REFUSES_KEY:
            return _auth_error(failure, target)
        if is_spent(failure):
            failure.code = SPENT
        if failure.status in (404, 405) and not failure.is_openais:
            failure.hint = (
                f"does providers.{target.provider}.base_url lead to the host's API? It usually "
                "ends in /v1"
            )
        return failure

    def error_event(self, opened: UpstreamResponse, data: bytes) -> UpstreamStatusError:
        """Return the error that a target sent in the middle of its stream."""
        error = answer_checks.error_in_200(self._masks.mask(data), opened.target)
        error.code = ERROR_EVENT
        return error

    def _remember_without_usage(self, target: Target) -> None:
        if len(self._without_usage) >= MAX_TARGETS:
            self._without_usage.clear()
        self._without_usage.add(target)

    def _wait(self, failure: UpstreamError, n: int, retries: Retries) -> float | None:
        """Seconds before attempt n + 2 at the same target; None when that is too long to wait."""
        # Full jitter: a crowd that failed together must not come back together.
        own = self._random() * min(retries.backoff_max, retries.backoff * 2.0**n)
        hint = None
        if isinstance(failure, UpstreamStatusError):
            hint = retry_after(failure.headers, self._now())
        if hint is None:
            return own
        return max(own, hint) if hint <= retries.backoff_max else None


async def _begin(
    reply: Reply, path: Path, target: Target, limit: Deadline, deadline: float
) -> UpstreamResponse:
    """Read a reply up to what shows that it has begun to answer.

    Raises:
        UpstreamError: it is an error, or no answer.
    """
    rest = aiter(reply.chunks())
    first = await anext(rest, b"")
    if answer_checks.begins_plainly(first):
        return UpstreamResponse(reply, target, body=None, first=first, rest=rest)
    came = sse.without_bom(first)
    while not came.lstrip() and (more := await anext(rest, b"")):
        came = (came + more)[-answer_checks.MAX_BEGINNING_BYTES :]
    if not answer_checks.looks_like_events(came):
        # Not a stream at all: a host that has not read `stream`, or an error page.
        limit.reschedule(deadline)
        parts, size = [came], len(came)
        async for chunk in rest:
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_WHOLE_BYTES:
                # The error's traceback has this frame, which may live on for a while.
                parts.clear()
                raise UpstreamTooLargeError(f"{target}: the answer is over {MAX_WHOLE_BYTES} bytes")
        events = await off_loop(size, _as_events, b"".join(parts), path, target)
        opened = UpstreamResponse(reply, target, body=None, first=events, rest=rest)
        opened._made_of_whole = True
        return opened
    beginning = answer_checks.Beginning(target)
    parts, chunk, began = [came], came, _clock()
    while not beginning.feed(chunk) and _clock() - began < MAX_BEGINNING_S:
        chunk = await anext(rest, b"")
        if not chunk:
            raise beginning.empty()
        parts.append(chunk)
    return UpstreamResponse(reply, target, body=None, first=b"".join(parts), rest=rest)


def _as_events(body: bytes, path: Path, target: Target) -> bytes:
    return answer_checks.events_of(answer_checks.whole(body, path, target), path, target)


def _log_opened(target: Target, breaker: Breaker, reason: str) -> None:
    log.warning(
        "%s gets no requests for %g s, because it failed %d times in a row: %s",
        target,
        breaker.open,
        breaker.failures,
        reason,
    )


def _log_closed(target: Target) -> None:
    log.warning("%s answers again", target)


def _begun(opened: UpstreamResponse, trail: _AttemptLog, started: float) -> UpstreamResponse:
    opened.attempts = trail.attempts
    opened.first_byte_s = _clock() - started
    return opened


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds the host asks us to wait: `retry-after-ms`, or `Retry-After` as seconds or a date.

    None where it does not say, and where what it says is no time to come.

    Args:
        headers: the answer's, names in lower case.
        now: seconds since the epoch.
    """
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if not text or len(text) > MAX_HINT_CHARS:
            continue
        seconds = float(text) * scale if _SECONDS.fullmatch(text) else _until(text, now)
        if seconds > 0:
            return seconds
    return None


_SECONDS = re.compile(r"\+?[0-9]{1,12}(\.[0-9]{0,12})?")


def _until(date: str, now: float) -> float:
    """Seconds until an HTTP date; 0 where it is none."""
    try:
        when = email.utils.parsedate_to_datetime(date)
        # A date without a zone is not in this machine's.
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0


# Statuses that speak of the key, or of what a proxy wants: not of what the client sent.
_REFUSES_KEY = frozenset({401, 403, 407})
# The error code of a host whose quota or credit is used up, and what hosts call that.
SPENT = "insufficient_quota"
_SPENT = frozenset({SPENT, "billing_hard_limit_reached", "billing_not_active"})
# What hosts call the errors that `fallback_on` names.
_NAMES = {
    "context_length_exceeded": frozenset(
        {"context_length_exceeded", "context_window_exceeded", "exceed_context_size_error"}
    ),
    "content_filter": frozenset(
        {
            "content_filter",
            "content_filtered",
            "content_policy_violation",
            "ResponsibleAIPolicyViolation",
        }
    ),
}


def _final(failure: UpstreamError) -> bool:
    """Whether the request itself is at fault, so that no target would answer it."""
    if not isinstance(failure, UpstreamStatusError):
        return False
    if failure.headers.get("x-should-retry", "").lower() == "true":
        return False
    # 402 and 404 speak of our account and our model name there, which another target does not
    # share (as do 401 and 403, see `_auth_error`); every other 4xx of what the client sent.
    return 400 <= failure.status < 500 and failure.status not in (402, 404, 408, 409, 429)


def _goes_on(failure: UpstreamError, fallback_on: frozenset[str | int]) -> bool:
    """Whether the route has it that another target is tried after this refusal."""
    if not fallback_on or not isinstance(failure, UpstreamStatusError):
        return False
    if failure.status in fallback_on:
        return True
    own = failure.as_openai()["error"]
    inner = own.get("innererror")
    said = {own["code"], own.get("type"), inner.get("code") if isinstance(inner, dict) else None}
    said = {one for one in said if isinstance(one, str)}
    return any(said & _NAMES[name] for name in fallback_on if isinstance(name, str))


def is_spent(failure: UpstreamError) -> bool:
    """Whether the target's account has no quota or credit left, which waiting does not mend."""
    if not isinstance(failure, UpstreamStatusError) or failure.status not in (402, 429):
        return False
    if failure.status == 402 or failure.code == SPENT:
        return True
    own = failure.as_openai()["error"]
    return any(isinstance(own[name], str) and own[name] in _SPENT for name in ("code", "type"))


def _auth_error(failure: UpstreamStatusError, target: Target) -> UpstreamAuthError:
    own = failure.as_openai()["error"]["message"]
    return UpstreamAuthError(
        f"The provider {target.provider!r} refused the key that this server's config has for it "
        f"(status {failure.status}): {own[:500]}",
        upstream_status=failure.status,
        headers=failure.headers,
    )


def _own_fault(failure: UpstreamError) -> bool:
    """Whether the failure speaks against the target, rather than against what was asked of it."""
    if isinstance(failure, TargetStartingError | UpstreamAuthError):
        return False
    return not isinstance(failure, UpstreamStatusError) or failure.status >= 500


def _is_about_usage(error: UpstreamError) -> bool:
    """Whether the host refused `stream_options`."""
    return (
        isinstance(error, UpstreamStatusError)
        and error.status in (400, 422)
        and (b"stream_options" in error.body or b"include_usage" in error.body)
    )


def _may_be_paid(failure: UpstreamError) -> bool:
    """Whether the target had the request and may have worked on it."""
    if isinstance(failure, UpstreamTimeoutError):
        return failure.phase != "connect" and not isinstance(failure, TargetStartingError)
    return isinstance(failure, UpstreamProtocolError)


def is_rate_limit(failure: UpstreamError) -> bool:
    """Whether the target refused because it has been asked too often."""
    return isinstance(failure, UpstreamStatusError) and failure.status == 429


def _worth_another(failure: UpstreamError, traffic_class: TrafficClass) -> bool:
    """Whether the same target may answer if asked again."""
    if isinstance(failure, UpstreamTimeoutError):
        # The answer of an evaluation is as long the next time, and is paid for once more.
        return traffic_class == "live" or failure.phase == "connect"
    if isinstance(failure, UpstreamStatusError):
        if is_spent(failure):
            return False
        told = failure.headers.get("x-should-retry", "").lower()
        if told in ("true", "false"):
            return told == "true"
        return failure.status in (408, 409, 429) or failure.status >= 500
    return not isinstance(failure, UpstreamAuthError | UpstreamTooLargeError)


async def _status_error(reply: Reply, target: Target) -> UpstreamError | None:
    """Return the error that a status stands for, the reply closed; None for a success."""
    status = reply.status
    if 200 <= status <= 203:
        return None
    body = b""
    try:
        if not 400 <= status < 600:
            return UpstreamProtocolError(f"{target} answered with status {status}, no answer")
        async for chunk in reply.chunks():
            body += chunk
            if len(body) > MAX_ERROR_BYTES:
                break
    finally:
        await reply.aclose()
    return UpstreamStatusError(
        status,
        body,
        {name.lower(): value for name, value in reply.headers.items()},
        f"{target} answered with status {status}",
    )


def _too_slow(
    target: Target, phase: str, limits: TimeLimits, section: str, starting: str = ""
) -> UpstreamTimeoutError:
    seconds = getattr(limits, phase) or FIRST_BYTE_S
    words = {
        "first_byte": f"no first byte within {seconds:g} s",
        "between_chunks": f"no further chunk within {seconds:g} s",
        "total": f"not done within {seconds:g} s",
    }
    kind: type[UpstreamTimeoutError] = UpstreamTimeoutError
    said = f"{target}: {words[phase]}"
    if starting:
        kind, said = TargetStartingError, f"{said}; {starting}"
    return _explained(kind(said, phase=phase), section)


def _explained(error: UpstreamTimeoutError, section: str) -> UpstreamTimeoutError:
    """Return the error with a message that says where the config has the limit."""
    if not section:
        return error
    return type(error)(
        f"{error.message} (the config's {section}.timeout.{error.phase})", phase=error.phase
    )


def _unreadable(target: Target, failure: Exception) -> UpstreamProtocolError:
    """Return the error of an answer over which its provider's code failed."""
    log.error("the answer of %s could not be read", target, exc_info=failure)
    return UpstreamProtocolError(f"{target}: the answer cannot be read")


def _with(failure: UpstreamError, trail: _AttemptLog) -> UpstreamError:
    failure.attempts = tuple(trail.attempts)
    return failure
