"""Executes a plan: time-outs, retries, fallback, hedging, cancellation. The only retry loop.

`Dispatcher.open` returns once an answer has begun (or, for a JSON answer, is complete); until then
nothing has been promised to the client, so everything up to that point may be tried again.

Read `open` (which target next), `_try_target` (one target, retried), `_attempt` (one request).
"""

from __future__ import annotations

import asyncio
import random as random_module
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

from providers.base import Call, Explains, Path, Provider, Reply, spoken_by
from providers.errors import (
    EvalrouterError,
    TargetBusyError,
    UpstreamAuthError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamStatusError,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
)
from providers.http import sse
from providers.masking import Masks, hide
from providers.off_loop import LARGE_BYTES, off_loop
from providers.usage import lacks_usage, with_usage
from router.config.routes import Retries
from router.gateway import answer_checks, translated
from router.gateway.deadlines import Deadline
from router.gateway.dialects import CHAT, DIALECTS, Dialect
from router.gateway.failures import (
    SPENT,
    falls_back,
    is_about_usage,
    is_clients_fault,
    is_rate_limit,
    is_spent,
    is_targets_fault,
    key_refused,
    may_be_paid,
    may_succeed_later,
    refuses_key,
    retry_after,
    too_slow,
    unreadable,
    with_section,
)
from router.gateway.routing import FIRST_BYTE_S, MAX_TARGETS, Plan, Policy, TargetLoad, TimeLimits
from router.gateway.targets import ConcurrencySlots, TargetState
from router.gateway.translated import TranslatedReply
from router.gateway.upstream import (
    UpstreamRequest,
    UpstreamResponse,
    clock,
    log_breaker_close,
    log_breaker_open,
)
from router.records import Attempt, Target, TrafficClass, name_of, new_span_id

# An error body is for reading; a host that sends more than this is not telling us anything.
MAX_ERROR_BYTES = 1024 * 1024
# The seconds that a client is told to wait that finds every queue full.
BUSY_RETRY_AFTER_S = 1.0
# How long a stream that says nothing (comments, events without a choice) is held back before it
# counts as begun: its client must not think that the connection is dead.
MAX_BEGINNING_S = 15.0
# The size that a whole answer to a request for a stream may have.
MAX_WHOLE_BYTES = 64 * 2**20

# What hosts answer where they do not have a path; 404 may also be about the model.
LACKS_PATH = frozenset({404, 405, 501})

# The error code of a stream in which the target sent an error after it had begun to answer.
ERROR_EVENT = "upstream_error_event"


class _AttemptLog:
    """What one request has been through: its attempts, the last failure, when it must end."""

    __slots__ = ("attempts", "cancelled", "deadline", "failure", "started", "trace")

    def __init__(self, now: float, total: float, request: UpstreamRequest) -> None:
        self.started = now if request.started is None else request.started
        self.deadline = now + total
        self.attempts: list[Attempt] = [] if request.attempts is None else request.attempts
        self.trace = request.trace
        self.failure: UpstreamError | None = None
        # The result of an attempt that is cancelled from now on.
        self.cancelled = "cancelled"

    def note(
        self,
        target: Target,
        result: str,
        status: int | None,
        sent_at: float,
        seconds: float = 0.0,
        *,
        paid: bool = False,
        span_id: int = 0,
    ) -> None:
        began_s = sent_at - self.started
        attempt = Attempt(name_of(target), result, status, seconds, paid, began_s)
        self.attempts.append(attempt)
        if self.trace is not None:
            self.trace.add_attempt(attempt, span_id)

    def fail(
        self, target: Target, error: UpstreamError, sent_at: float, seconds: float, span_id: int
    ) -> None:
        self.failure = error
        status = None
        if isinstance(error, UpstreamStatusError):
            status = error.status
        elif isinstance(error, UpstreamAuthError):
            status = error.upstream_status
        result, paid = error.code or "error", may_be_paid(error)
        self.note(target, result, status, sent_at, seconds, paid=paid, span_id=span_id)

    def added_to(self, failure: UpstreamError) -> UpstreamError:
        """Return the failure with all attempts in it."""
        failure.attempts = tuple(self.attempts)
        return failure


class _StreamStart(NamedTuple):
    """The beginning of a stream, read until it showed that it answers.

    Attributes:
        first: the bytes that were read.
        rest: the bytes that follow.
        made_of_whole: whether they were made of a whole answer.
    """

    first: bytes = b""
    rest: AsyncIterator[bytes] | None = None
    made_of_whole: bool = False


# Of an answer that is no stream.
_NO_STREAM = _StreamStart()


class Dispatcher:
    """Sends requests to targets. One per process.

    Args:
        providers: each provider by its name.
        masks: the config's secrets, which no answer and no error may show.
        sleep: waits between attempts.
        random: draws from [0, 1), for the jitter of those waits.
        now: tells the seconds since the epoch, for `Retry-After` dates.
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
        self._slots: dict[Target, ConcurrencySlots] = {}
        # Targets that answered 400 to a request for a stream's usage.
        self._without_usage: set[Target] = set()
        # Providers whose hosts turned out not to have a path, with the path.
        self._without_path: set[tuple[str, Path]] = set()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it works on: the one that runs when this is first read.

        To look up the running one is a system call before Python 3.12.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def states(self, traffic_class: TrafficClass = "live") -> Iterable[TargetState]:
        """Return every target that has had a request, for metrics."""
        return tuple(self._states[traffic_class].values())

    def load_of(self, target: Target) -> TargetLoad:
        """Return the load of a target, from which plans for live requests are made."""
        state = self._states["live"].get(target)
        return state.load if state else TargetLoad()

    def _state(self, traffic_class: TrafficClass, target: Target) -> TargetState:
        states = self._states[traffic_class]
        state = states.get(target)
        if state is None:
            if len(states) >= MAX_TARGETS:
                self._forget_idle(traffic_class)
            slots = self._slots.setdefault(target, ConcurrencySlots())
            state = states[target] = TargetState(target, traffic_class, slots)
        return state

    def _forget_idle(self, traffic_class: TrafficClass) -> None:
        """Forget half of the targets without a request in flight: made-up names go first."""
        states = self._states[traffic_class]
        idle = [target for target, state in states.items() if not state.load.running]
        # A name that never answered has no latency.
        idle.sort(key=lambda target: states[target].load.latency is not None)
        for target in idle[: MAX_TARGETS // 2]:
            self._forget(traffic_class, target)

    def _forget(self, traffic_class: TrafficClass, target: Target) -> None:
        self._states[traffic_class].pop(target, None)
        if not any(target in others for others in self._states.values()):
            self._slots.pop(target, None)

    def _forget_if_unknown(
        self, state: TargetState, plan: Plan, traffic_class: TrafficClass
    ) -> None:
        """Forget a name that a client chose, if the provider does not know it."""
        if state.is_blank and plan.route == str(state.target):
            self._forget(traffic_class, state.target)

    async def open(self, plan: Plan, request: UpstreamRequest) -> UpstreamResponse:
        """Try the plan's targets until one begins to answer.

        A target that is full or whose breaker is open is passed over; when all are, the request
        waits for room at the first that has a place in its queue.

        Raises:
            UpstreamError: the last attempt's, with `attempts` (Attempts) added, when no target
                answered, or when a target says the request itself is at fault.
            TargetBusyError: every target is full, and so is every queue.
        """
        policy = plan.policy
        attempt_log = _AttemptLog(clock(), policy.timeout.total, request)
        full: list[TargetState] = []
        broken: list[TargetState] = []
        for position, target in enumerate(plan.targets):
            state = self._state(request.traffic_class, target)
            if not state.allows(clock(), policy.breaker):
                broken.append(state)
                attempt_log.note(target, "breaker_open", None, clock())
                continue
            if not state.try_enter(policy.concurrency.get(target)):
                full.append(state)
                attempt_log.note(target, "target_busy", None, clock())
                continue
            response = await self._try_target(state, plan, position, request, attempt_log)
            if response is not None:
                return response
        response = None
        if attempt_log.failure is None and full:
            response = await self._queue(full, plan, request, attempt_log)
        elif attempt_log.failure is None and broken:
            # Every target is broken: rather one request too many than none at all.
            state = broken[0]
            state.enter()
            position = plan.targets.index(state.target)
            response = await self._try_target(state, plan, position, request, attempt_log)
        if response is not None:
            return response
        assert attempt_log.failure is not None, "every way ends with an answer or a failure"
        raise attempt_log.added_to(attempt_log.failure)

    async def _queue(
        self,
        full: list[TargetState],
        plan: Plan,
        request: UpstreamRequest,
        attempt_log: _AttemptLog,
    ) -> UpstreamResponse | None:
        """Wait for room at the first target whose queue has a place."""
        policy = plan.policy
        for state in full:
            target = state.target
            if not state.can_wait(policy.concurrency[target]):
                continue
            try:
                async with asyncio.timeout_at(attempt_log.deadline):
                    await state.wait()
            except TimeoutError:
                error = too_slow(target, "total", policy.timeout, policy.section)
                raise attempt_log.added_to(error) from None
            position = plan.targets.index(target)
            return await self._try_target(state, plan, position, request, attempt_log)
        busy = TargetBusyError(
            f"All targets of {plan.route!r} are busy and their queues are full.",
            retry_after=BUSY_RETRY_AFTER_S,
        )
        raise attempt_log.added_to(busy)

    async def _try_target(
        self,
        state: TargetState,
        plan: Plan,
        position: int,
        request: UpstreamRequest,
        attempt_log: _AttemptLog,
    ) -> UpstreamResponse | None:
        """Try one target as often as the policy allows; None when another should be tried.

        The caller has taken a place at the target; the answer keeps it, a failure gives it back.
        """
        policy = plan.policy
        response = None
        try:
            state.count_request(policy.retries, policy.hedge)
            for n in range(policy.retries.attempts):
                if policy.hedge is None:
                    response = await self._attempt(state, plan, request, attempt_log)
                else:
                    response = await self._hedged(state, plan, position, request, attempt_log)
                if response is not None:
                    return response
                wait = self._wait_before_retry(n, state, plan, request, attempt_log)
                if wait is None:
                    return None
                await self._sleep(wait)
            return None
        finally:
            if response is None:
                state.leave()
                self._forget_if_unknown(state, plan, request.traffic_class)

    def _wait_before_retry(
        self,
        n: int,
        state: TargetState,
        plan: Plan,
        request: UpstreamRequest,
        attempt_log: _AttemptLog,
    ) -> float | None:
        """Return the seconds until attempt n + 2 at the same target; None for no other there.

        Raises:
            UpstreamError: no other target should be tried either.
        """
        policy, failure = plan.policy, attempt_log.failure
        assert failure is not None
        limited = request.pacing is not None and is_rate_limit(failure) and not is_spent(failure)
        final = is_clients_fault(failure) and not falls_back(failure, policy.fallback_on)
        if limited or final or clock() >= attempt_log.deadline:
            raise attempt_log.added_to(failure)
        if n + 1 == policy.retries.attempts:
            return None
        if not may_succeed_later(failure, request.traffic_class) or not state.may_retry():
            return None
        wait = self._wait(failure, n, policy.retries)
        return None if wait is None or clock() + wait >= attempt_log.deadline else wait

    async def _attempt(
        self, state: TargetState, plan: Plan, request: UpstreamRequest, attempt_log: _AttemptLog
    ) -> UpstreamResponse | None:
        """Send one request; a failure is noted in the log and counted against the target."""
        sent_at = clock()
        target = state.target
        span_id = 0 if request.trace is None else new_span_id()
        try:
            response = await self._send(state, request, plan.policy, attempt_log, span_id)
        except UpstreamError as failure:
            ended = clock()
            error = self._masked(failure, target, plan.policy.section)
            if is_targets_fault(error):
                if state.failed(ended, plan.policy.breaker):
                    log_breaker_open(target, plan.policy.breaker, error.message)
            elif state.refused():
                log_breaker_close(target)
            if request.pacing is not None:
                request.pacing.ended(target, error, sent_at)
            attempt_log.fail(target, error, sent_at, ended - sent_at, span_id)
            return None
        except asyncio.CancelledError:
            # The client left, or another attempt was faster. The target may charge all the same.
            seconds = clock() - sent_at
            result = attempt_log.cancelled
            attempt_log.note(target, result, None, sent_at, seconds, paid=True, span_id=span_id)
            raise
        seconds = clock() - sent_at
        if state.succeeded(seconds, whole=response.body is not None):
            log_breaker_close(target)
        if request.pacing is not None:
            request.pacing.ended(target, None, sent_at)
        attempt_log.note(target, "ok", response.status, sent_at, seconds, span_id=span_id)
        return response

    async def _hedged(
        self,
        state: TargetState,
        plan: Plan,
        position: int,
        request: UpstreamRequest,
        attempt_log: _AttemptLog,
    ) -> UpstreamResponse | None:
        """Send one request, and a second one elsewhere when the first is unusually slow."""
        assert plan.policy.hedge is not None
        after = state.hedge_after(plan.policy.hedge)
        first = asyncio.create_task(self._attempt(state, plan, request, attempt_log))
        # Each attempt with its target; the first one's place belongs to the caller.
        attempts = {first: state}
        winner: asyncio.Task[UpstreamResponse | None] | None = None
        try:
            if after is not None and not (await asyncio.wait({first}, timeout=after))[0]:
                other = self._second(state, plan, position, request)
                if other is not None:
                    second = asyncio.create_task(self._attempt(other, plan, request, attempt_log))
                    attempts[second] = other
            running = set(attempts)
            while running and winner is None:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                winner = next((task for task in done if task.result() is not None), None)
            return winner.result() if winner is not None else None
        finally:
            for task, tried in attempts.items():
                if task is not winner:
                    await _drop(task, attempt_log, tried.target, won=winner is not None)
                    # Without a winner, the caller gives the first one's place back itself.
                    if task is not first or winner is not None:
                        tried.leave()

    def _second(
        self, state: TargetState, plan: Plan, position: int, request: UpstreamRequest
    ) -> TargetState | None:
        """Return where a second attempt goes: to the plan's next target, else the same again."""
        if not state.may_hedge():
            return None
        policy, now = plan.policy, clock()
        for target in (*plan.targets[position + 1 :], state.target):
            other = self._state(request.traffic_class, target)
            if other.allows(now, policy.breaker) and other.try_enter(
                policy.concurrency.get(target)
            ):
                return other
        return None

    async def _send(  # noqa: PLR0912, PLR0915 - steps of one path, where each call costs time
        self,
        state: TargetState,
        request: UpstreamRequest,
        policy: Policy,
        attempt_log: _AttemptLog,
        span_id: int,
    ) -> UpstreamResponse:
        """Send, and read up to the first event of a stream or the last byte of a JSON answer."""
        target = state.target
        provider = self._providers[target.provider]
        limits, deadline = policy.timeout, attempt_log.deadline
        if policy.timeouts:
            limits = policy.timeouts.get(target, limits)
            deadline = min(deadline, clock() + limits.total)
        first_byte = limits.first_byte or (FIRST_BYTE_S if request.stream else limits.total)
        call = _call(request, target, policy, limits)
        dialect = DIALECTS[request.path]
        if request.trace is not None:
            call.traceparent = request.trace.traceparent(span_id)
        secrets = self._masks.of(target.provider)
        body: bytes | None = None
        stream = _NO_STREAM
        reply: Reply | None = None
        response: UpstreamResponse | None = None
        loop = self.loop
        limit = Deadline(loop, min(deadline, clock() + first_byte))
        try:
            with limit:
                if dialect.is_usual:
                    want_usage = request.want_usage
                    reply, ask_usage = await self._reply(provider, call, want_usage, target)
                else:
                    ask_usage = False
                    reply = await self._reply_to_other(provider, call, target, limit, deadline)
                if request.stream and dialect.streams:
                    stream = await _begin(reply, dialect, target, limit, deadline)
                else:
                    body = await reply.read()
                    whole = dialect.whole
                    if len(body) > LARGE_BYTES:
                        body = await off_loop(len(body), whole, body, request.path, target)
                    else:
                        body = whole(body, request.path, target)
            response = UpstreamResponse.of(
                reply,
                state,
                loop=loop,
                policy=policy,
                limits=limits,
                deadline=deadline,
                attempts=attempt_log.attempts,
                first_byte_s=clock() - attempt_log.started,
                body=hide(body, secrets) if body is not None and secrets else body,
                first=stream.first,
                rest=stream.rest,
                # Events that were made of a whole answer have its usage in any case.
                hide_usage=ask_usage or (stream.made_of_whole and request.want_usage),
                secrets=secrets,
            )
            return response
        except TimeoutError:
            phase = "total" if clock() >= deadline else "first_byte"
            starting = provider.starting(target.model) if isinstance(provider, Explains) else ""
            raise too_slow(target, phase, limits, policy.section, starting) from None
        except EvalrouterError:
            raise
        except Exception as failure:
            if reply is None:
                raise
            raise unreadable(target, failure) from failure
        finally:
            if response is None and reply is not None:
                await reply.aclose()

    async def _reply_to_other(
        self, provider: Provider, call: Call, target: Target, limit: Deadline, deadline: float
    ) -> Reply:
        """Send a request to a path that not every host has, relayed or translated.

        Of a host that should have it and answers that it does not, it is remembered, once the way
        by chat completions leads to an answer: its version may be too old.
        """
        key = (target.provider, call.path)
        lacks = call.path not in spoken_by(provider) or key in self._without_path
        if lacks:
            return await self._translated(provider, call, target, limit, deadline)
        try:
            reply, _ = await self._reply(provider, call, False, target)  # see there
        except UpstreamStatusError as error:
            if error.status not in LACKS_PATH:
                raise
            try:
                reply = await self._translated(provider, call, target, limit, deadline)
            except UpstreamError:
                raise error from None
            self._without_path.add(key)
        return reply

    async def _translated(
        self, provider: Provider, call: Call, target: Target, limit: Deadline, deadline: float
    ) -> Reply:
        """Send by way of chat completions; return a reply as the client's path has it."""
        if DIALECTS[call.path].is_free:
            return await translated.estimated_count(call, target)
        by_chat = await translated.translated(call, provider, target)
        sent = by_chat.call
        want_usage = sent.stream and lacks_usage(sent.envelope)
        reply, _ = await self._reply(provider, sent, want_usage, target)

        async def begin() -> tuple[bytes, AsyncIterator[bytes]]:
            start = await _begin(reply, CHAT, target, limit, deadline)
            assert start.rest is not None, "a stream has begun"
            return start.first, start.rest

        return TranslatedReply(reply, by_chat, begin, target)

    async def _reply(
        self, provider: Provider, call: Call, want_usage: bool, target: Target
    ) -> tuple[Reply, bool]:
        """Send; return a reply that has a status of success, and whether usage was requested."""
        envelope = call.envelope
        ask_usage = (
            want_usage
            and getattr(provider, "takes_stream_usage", True)
            and target not in self._without_usage
        )
        if ask_usage:
            call.envelope = with_usage(envelope)
        reply = await provider.send(call)
        if reply.status == 200:
            return reply, ask_usage
        error = await _status_error(reply, target)
        if error is not None and ask_usage and is_about_usage(error):
            # Not the client's fault: it did not send what the host refuses.
            ask_usage = False
            call.envelope = envelope
            reply = await provider.send(call)
            error = await _status_error(reply, target)
            if error is None:
                self._remember_without_usage(target)
        if error is not None:
            raise error
        return reply, ask_usage

    def _masked(self, failure: UpstreamError, target: Target, section: str) -> UpstreamError:
        """Return the failure as the client, the records and the logs may have it."""
        masks = self._masks
        if isinstance(failure, UpstreamTimeoutError) and failure.phase == "connect":
            failure = with_section(failure, section)
        failure.message = masks.mask_text(failure.message)
        failure.args = (failure.message,)
        if not isinstance(failure, UpstreamStatusError):
            return failure
        failure.body = masks.mask(failure.body)
        failure.headers = {n: masks.mask_text(value) for n, value in failure.headers.items()}
        if refuses_key(failure):
            return key_refused(failure, target)
        if is_spent(failure):
            failure.code = SPENT
        if failure.status in (404, 405) and not failure.is_openais:
            failure.hint = (
                f"does providers.{target.provider}.base_url lead to the host's API? It usually "
                "ends in /v1"
            )
        return failure

    def error_event(self, response: UpstreamResponse, data: bytes) -> UpstreamStatusError:
        """Return the error that a target sent in the middle of its stream."""
        error = answer_checks.error_in_200(self._masks.mask(data), response.target)
        error.code = ERROR_EVENT
        return error

    def _remember_without_usage(self, target: Target) -> None:
        if len(self._without_usage) >= MAX_TARGETS:
            self._without_usage.clear()
        self._without_usage.add(target)

    def _wait(self, failure: UpstreamError, n: int, retries: Retries) -> float | None:
        """Return the seconds before attempt n + 2; None when that is too long to wait."""
        # Full jitter: a crowd that failed together must not come back together.
        jitter = self._random() * min(retries.backoff_max, retries.backoff * 2.0**n)
        hint = None
        if isinstance(failure, UpstreamStatusError):
            hint = retry_after(failure.headers, self._now())
        if hint is None:
            return jitter
        return max(jitter, hint) if hint <= retries.backoff_max else None


def _call(request: UpstreamRequest, target: Target, policy: Policy, limits: TimeLimits) -> Call:
    """Return the request as a target's provider gets it."""
    return Call(
        path=request.path,
        model=target.model,
        envelope=request.envelope,
        stream=request.stream,
        request_id=request.request_id,
        connect_timeout=limits.connect,
        traceparent=request.traceparent,
        on_unsupported=request.on_unsupported,
        headers=request.headers,
        reasoning=policy.reasoning.get(target) if policy.reasoning else None,
    )


async def _begin(
    reply: Reply, dialect: Dialect, target: Target, limit: Deadline, deadline: float
) -> _StreamStart:
    """Read a reply up to what shows that it has begun to answer.

    Raises:
        UpstreamError: it is an error, or no answer.
    """
    rest = aiter(reply.chunks())
    first = await anext(rest, b"")
    if dialect.begins_plainly(first):
        return _StreamStart(first, rest)
    received = sse.without_bom(first)
    while not received.lstrip() and (more := await anext(rest, b"")):
        received = (received + more)[-answer_checks.MAX_BEGINNING_BYTES :]
    if not answer_checks.looks_like_events(received):
        # Not a stream at all: a host that has not read `stream`, or an error page.
        limit.reschedule(deadline)
        body = await _read_whole(received, rest, target)
        events = await off_loop(len(body), _as_events, body, dialect, target)
        return _StreamStart(events, rest, made_of_whole=True)
    beginning = dialect.beginning(target)
    parts, chunk, began = [received], received, clock()
    while not beginning.feed(chunk) and clock() - began < MAX_BEGINNING_S:
        chunk = await anext(rest, b"")
        if not chunk:
            raise beginning.empty()
        parts.append(chunk)
    return _StreamStart(b"".join(parts), rest)


async def _read_whole(first: bytes, rest: AsyncIterator[bytes], target: Target) -> bytes:
    """Return a whole answer that came in the place of a stream."""
    parts, size = [first], len(first)
    async for chunk in rest:
        parts.append(chunk)
        size += len(chunk)
        if size > MAX_WHOLE_BYTES:
            # The error's traceback has this frame, which may live on for a while.
            parts.clear()
            raise UpstreamTooLargeError(f"{target}: the answer is over {MAX_WHOLE_BYTES} bytes")
    return b"".join(parts)


async def _drop(
    task: asyncio.Task[UpstreamResponse | None],
    attempt_log: _AttemptLog,
    target: Target,
    *,
    won: bool,
) -> None:
    """End an attempt that is not needed any more, however far it has got."""
    if not task.done():
        task.cancel()
        if won:
            attempt_log.cancelled = "hedge_lost"
    await asyncio.gather(task, return_exceptions=True)
    if not task.cancelled() and task.exception() is None:
        response = task.result()
        if response is not None:
            attempt_log.note(target, "hedge_lost", None, clock(), paid=True)
            await response.discard()


def _as_events(body: bytes, dialect: Dialect, target: Target) -> bytes:
    return dialect.as_events(dialect.whole(body, dialect.path, target), dialect.path, target)


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
