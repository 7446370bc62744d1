"""`/v1/chat/completions` and the other paths that name a model: the hot path.

Plain ASGI, outside Litestar's routing, because that costs as much as the whole relay does. The
client's JSON is read into fields of raw bytes, `model` is replaced, and everything else goes on
and comes back byte for byte.

A request is a RequestContext here; what goes to a target is an UpstreamRequest, what comes back an
UpstreamResponse, and what is left in the end a Record.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec
from litestar.types import Receive, Scope, Send

from providers.base import keeper_of_responses
from providers.errors import (
    AuthenticationError,
    ClientGoneError,
    EvalrouterError,
    MethodNotAllowedError,
    UnavailableError,
)
from providers.usage import lacks_usage
from router.api.connection import ClientWatch, answer, read_body
from router.api.content_codings import decoded
from router.api.errors import from_exception
from router.api.origins import Hosts, Origins
from router.api.relay import Relay
from router.api.request_context import RequestContext
from router.api.request_parsing import conversation_of, needs_of, sticky_key, unit_key
from router.api.reservations import Reservations
from router.api.response_headers import error_headers
from router.api.sign_in import ModelSessions
from router.config.routes import Route
from router.gateway.cache import CacheUse, cache_use_of, key_of
from router.gateway.dialects import DIALECTS
from router.gateway.hooks import (
    ANY_REQUEST,
    SAMPLED_REQUEST,
    AnswerHook,
    RouteChooser,
    TargetChooser,
    TargetPredictor,
)
from router.gateway.keys import KEYLESS, NOTHING
from router.gateway.recorder import settle
from router.gateway.routing import Plan, Table, position_of, share, unit_of
from router.gateway.trace_context import passed_traceparent
from router.gateway.upstream import UpstreamRequest, UpstreamResponse, clock
from router.openai.response_ids import HostResponse
from router.openai.response_turns import RequestFacts, ResponseTurn, owner_gone
from router.records import Target
from router.services import Services

log = logging.getLogger("evalrouter")

# Of a header that is sent on to a provider: the names of Claude Code's betas take 300.
MAX_PASSED_BYTES = 4096
NO_HEADERS: Mapping[str, str] = {}


class Completions:
    """The ASGI app of the model paths."""

    def __init__(
        self,
        services: Services,
        hosts: Hosts,
        origins: Origins,
        browsers: ModelSessions,
        *,
        random: Callable[[], float] = random.random,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = clock,
    ) -> None:
        self._routes = services.routes
        self._providers = services.providers
        self._response_turns = services.turns
        self._dispatcher = services.dispatcher
        self._keys = services.keys
        self._traffic = services.traffic
        self._hook: AnswerHook = services.shadows
        self._sample_hook: AnswerHook = services.rollout_judging
        self._prices = services.prices
        traces = services.telemetry.traces
        self._trace_contexts = None if traces is None else traces.contexts
        self._propagates = services.config.telemetry.propagate
        self._chooser: TargetChooser = services.assignments
        self._predictor: TargetPredictor = services.predictor
        self._cache = services.cache
        self._cache_ttl = services.config.cache.ttl
        self._max_body_bytes = services.config.server.max_body_bytes
        self._reservations = Reservations(services.prices)
        self._relay = Relay(services, now)
        self._hosts = hosts
        self._origins = origins
        self._browsers = browsers
        configured = [name.lower().encode() for name in services.config.server.pass_headers]
        # Headers of clients that are sent on to providers, by path.
        self._passed = {
            path: dialect.headers.union(configured) for path, dialect in DIALECTS.items()
        }
        self._random = random
        self._now = now
        self._clock = clock
        self._turns: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every failure becomes OpenAI's error object."""
        context = RequestContext.of(scope, self._now(), self._clock())
        try:
            await self._answer(scope, receive, send, context)
        except ClientGoneError as error:
            context.fail(error)
            log.debug("client left, request %s", context.request_id)
        except asyncio.CancelledError:
            # The server has told the client, and closed the connection.
            context.fail(UnavailableError("The server is being stopped.", code="server_stopping"))
            raise
        except Exception as failure:  # noqa: BLE001  # the boundary: every failure is answered
            await self._refuse(from_exception(failure, "POST", scope["path"]), scope, send, context)
        finally:
            keep = context.keep or self._traffic.keep_for(context.route, stored=context.stored)
            record = context.record(keep, self._clock())
            if context.grant is not KEYLESS:
                # At once, not with the records' batch: a budget must not lag behind.
                settle(record, self._prices)
                context.grant.settle(
                    record.billed_tokens(), record.cost_usd, estimated=record.estimated
                )
            self._traffic.add(record)

    async def _answer(  # noqa: PLR0912, PLR0915 - steps of one path, where each call costs time
        self, scope: Scope, receive: Receive, send: Send, context: RequestContext
    ) -> None:
        """Follow the main path: the caller, the request, then cache or plan, dispatch and relay."""
        _check_method(scope)
        # Before the body is read, so that strangers cannot fill our memory.
        headers = context.headers
        try:
            holder = self._keys.recognise(headers)
        except AuthenticationError as error:
            holder = await self._browsers.holder(headers, error)
        if holder is None:
            self._hosts.check(headers.get(b"host"))
            self._origins.check(headers)
        if self._trace_contexts is not None:
            incoming = headers.get(b"traceparent")
            context.trace, context.traceparent = self._trace_contexts.begin(
                incoming, context.record_id
            )
        elif b"traceparent" in headers and self._propagates:
            context.traceparent = passed_traceparent(headers[b"traceparent"])
        if b"content-encoding" in headers:
            receive = decoded(headers, receive, self._max_body_bytes)
        context.read(await read_body(receive, self._max_body_bytes, headers.get(b"content-length")))
        table = self._routes.table
        model, expected = context.model, NOTHING
        if holder is not None and holder.is_metered:
            expected = self._reservations.expected(context, table, holder)
        grant = context.grant = self._keys.admit(holder, model, expected)
        route = context.route = table.routes.get(model)
        watch = self._hook.watched.get(model)
        if (
            watch is not None
            and route is not None
            and watch.wants(route, context.record_id, key_id=grant.key_id, stored=context.stored)
        ):
            context.hooks = ANY_REQUEST
        if context.dialect.has_turns:
            await self._begin_turn(context)
        use = cache_use_of(None if route is None else route.cache, headers, self._cache_ttl)
        if (
            use is not None
            and context.dialect.uncached.isdisjoint(context.envelope)
            and (context.turn is None or not context.turn.leaves_something)
            and await self._from_cache(use, scope, send, context)
        ):
            return
        request = self._upstream_request(context)
        with ClientWatch(receive, self._dispatcher.loop):
            plan = self._plan(table, context)
            if route is not None and route.strategy == "learned":
                plan = await self._predicted(plan, table, context, route)
            chooser = self._chooser.by_route.get(model)
            if chooser is not None and route is not None:
                plan = self._assigned(plan, context, route, chooser)
            if context.turn is None:
                response = await self._dispatcher.open(plan, request)
            else:
                response = await self._open_turn(context.turn, plan, request, context)
            context.response = response
            try:
                if response.body is None:
                    await self._relay.stream(response, send, context)
                else:
                    await self._relay.whole(response, response.body, scope, send, context)
            finally:
                await response.aclose()

    async def _refuse(
        self, error: EvalrouterError, scope: Scope, send: Send, context: RequestContext
    ) -> None:
        dialect = context.dialect
        status, body = dialect.error_answer(error, context.request_id)
        context.status = status
        context.fail(error)
        headers = error_headers(
            error, context.request_id, context.record_id, context.model, self._now()
        )
        if dialect.id_header:
            headers.append((dialect.id_header, context.request_id.encode()))
        await answer(scope, send, status, headers, body)

    def _upstream_request(self, context: RequestContext) -> UpstreamRequest:
        """Return what is sent to whichever target the plan chooses."""
        headers, envelope, path = context.headers, context.envelope, context.path
        passed = self._passed[path]
        return UpstreamRequest(
            path,
            envelope,
            context.stream,
            context.request_id,
            want_usage=(
                context.stream and context.dialect.counts_on_request and lacks_usage(envelope)
            ),
            traceparent=context.traceparent,
            headers=NO_HEADERS if passed.isdisjoint(headers) else _pass(headers, passed),
            attempts=context.attempts,
            trace=context.trace,
            started=context.started,
        )

    async def _from_cache(
        self, use: CacheUse, scope: Scope, send: Send, context: RequestContext
    ) -> bool:
        """Answer from the response cache; return False when it has nothing that will do."""
        context.cache_use = use
        began_at = 0.0 if context.trace is None else self._now()
        context.cache_key = key_of(
            caller=context.grant.key_id,
            path=context.path,
            route=context.model,
            stream=context.stream,
            envelope=context.envelope,
        )
        entry = self._cache.get(context.cache_key, use.max_age) if use.read else None
        if context.trace is not None and use.read:
            hit = {"evalrouter.cache.hit": entry is not None}
            context.trace.add_step("cache", began_at, hit)
        if entry is None:
            return False
        context.cached = entry
        headers = context.answer_headers(entry.content_type, entry.target)
        headers.append((b"x-evalrouter-cache", b"hit"))
        await answer(scope, send, entry.status, headers, entry.body)
        return True

    def _plan(self, table: Table, context: RequestContext) -> Plan:
        """Return the plan for the request: by turn, by sticky key, or by chance."""
        model = context.model
        turns, sticky, explore, watches_needs = table.traits(model)
        needs = needs_of(context.envelope, context.dialect) if watches_needs else None
        if turns:
            # The middle of the share: its edge, times `turns`, may round down to the turn before.
            draw = (self._turns[model] % turns + 0.5) / turns
            self._turns[model] += 1
        else:
            key = None
            if sticky:
                key = sticky_key(sticky, context.envelope, context.headers, context.dialect)
            if key is None:
                draw = self._random()
            else:
                context.unit = unit_of(key, model)
                draw = position_of(context.unit)
        explore_draw = 1.0
        if explore:
            # By a hash, so that a client stays where it is and the record shows what was drawn.
            explore_draw = share(context.unit or context.record_id, f"explore {model}")
            context.explores = explore_draw < explore
        load_of = self._dispatcher.load_of
        plan = table.plan(model, draw, load_of=load_of, needs=needs, explore_draw=explore_draw)
        context.odds = plan.odds
        context.first = plan.targets[0]
        return plan

    async def _begin_turn(self, context: RequestContext) -> None:
        """Find what the request continues, and put it into what a target is sent."""
        facts = RequestFacts(
            key_id=context.grant.key_id,
            record_id=context.record_id,
            request_id=context.request_id,
            route=context.model,
            user=context.user,
        )
        turn = context.turn = await self._response_turns.begin(context.envelope, facts)
        context.envelope = turn.envelope

    async def _open_turn(
        self, turn: ResponseTurn, plan: Plan, request: UpstreamRequest, context: RequestContext
    ) -> UpstreamResponse:
        """Open the answer of a turn, and note who gives it."""
        if turn.owner is not None:
            plan = self._of_owner(plan, turn.owner, context)
        response = await self._dispatcher.open(plan, request)
        keeper = keeper_of_responses(self._providers[response.target.provider])
        turn.sent_to(response.target, keeps=keeper is not None)
        return response

    def _of_owner(self, plan: Plan, owner: HostResponse, context: RequestContext) -> Plan:
        """Return the plan with the one target whose host keeps what the request follows.

        Raises:
            ConflictError: the route does not have that target, or its host keeps no responses.
        """
        target = Target(owner.provider, owner.model)
        keeper = keeper_of_responses(self._providers.get(owner.provider))
        if target not in plan.targets or keeper is None:
            raise owner_gone(owner, plan.route)
        context.first = target
        return plan._replace(targets=(target,))

    async def _predicted(
        self, plan: Plan, table: Table, context: RequestContext, route: Route
    ) -> Plan:
        """Return the plan with the target first that is predicted for the request, if any."""
        if not context.dialect.generates:
            return plan
        model = context.model
        opening = conversation_of(context.headers) or sticky_key(
            "conversation", context.envelope, context.headers, context.dialect
        )
        choice = await self._predictor.predict(
            model,
            route,
            context.envelope,
            conversation=unit_of(f"{context.grant.key_id} {opening}", model) if opening else "",
            candidates=plan.targets,
        )
        if choice.applied:
            target = Target.parse(choice.target)
            context.odds = table.explored_odds(plan, target)
            if context.explores:
                choice = msgspec.structs.replace(choice, reason="explored", applied=False)
            else:
                plan = plan.beginning_with(target)
        context.learned = choice
        context.first = plan.targets[0]
        return plan

    def _assigned(
        self, plan: Plan, context: RequestContext, route: Route, chooser: RouteChooser
    ) -> Plan:
        """Return the plan with the target first that a rollout has for this request, if any."""
        key = unit_key(
            chooser.sticky,
            context.user,
            context.envelope,
            context.headers,
            by_whole_message=chooser.by_whole_message,
            dialect=context.dialect,
        )
        assignment, unit = chooser.choose(route, key or b"request " + context.record_id.encode())
        if assignment is None:
            return plan
        context.assigned, sampled, target = assignment
        context.unit = unit
        if context.odds is not chooser.odds:
            chooser.mix(context.odds)
        context.odds = chooser.mixed_odds
        if sampled:
            context.sampled = assignment
            watch = self._sample_hook.watched.get(plan.route)
            if watch is not None and watch.wants(
                route, context.record_id, key_id=context.grant.key_id, stored=context.stored
            ):
                context.hooks |= SAMPLED_REQUEST
        if target is None:
            return plan
        # Other users must not get its answers, whatever becomes of the rollout.
        context.cache_use = None
        context.first = target
        return plan.beginning_with(target)


def _pass(headers: Mapping[bytes, bytes], names: Collection[bytes]) -> dict[str, str]:
    """Return the client's headers that go on to the provider."""
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in headers.items()
        if name in names and len(value) <= MAX_PASSED_BYTES
    }


def _check_method(scope: Any) -> None:
    if scope["method"] != "POST":
        raise MethodNotAllowedError(
            f"{scope['method']} is not allowed here; use POST.", allowed=("POST", "OPTIONS")
        )
