"""Rollouts: what people do with them. `rollout_controller.py` does what the rules decide.

    rollouts = Rollouts(store, routes, config)
    await rollouts.start("summarizer", request, actor="key ops")
    await rollouts.act("summarizer", "rollback", RolloutAction(reason="slow"), actor="server a")

While a rollout is under way the route's definition stays as it is: it is the control, and the
candidate's share is taken of its requests. A promotion and a rollback have two steps. The decision
makes the rollout `promoting` or `rolling_back`, from when on every process sends all requests to
one side; the effect sets the route's definition and ends the rollout, in one transaction. Whoever
decided brings the effect about; where that process is killed in between, the controller of any
other one does.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from providers.errors import (
    ConfigError,
    ConflictError,
    EvalrouterError,
    NotFoundError,
    RequestError,
    closest,
)
from providers.names import check_name
from router.config.documents import Document, as_stored, convert
from router.config.rollouts import Reason, RolloutSettings, RouteRollout, settings_problems
from router.config.routes import Route, parse_route, target_problem
from router.config.schema import Config
from router.gateway.route_table import Routes
from router.loop.rollout_expectations import expectations, traffic_level
from router.loop.rollout_forecast import RolloutForecast, rollout_forecast
from router.loop.rollout_judge import (
    excluded_keys,
    judge_metric,
    scale_problems,
    unshared_judge,
)
from router.loop.rollout_plan import plan_of, settings_of
from router.loop.rollout_report import RolloutReport
from router.loop.rollout_routes import (
    is_promoted,
    is_unchanged,
    promoted,
    route_version,
)
from router.loop.rollout_statistics import statistics_of
from router.store.protocol import Store
from router.store.rollouts import (
    Rollout,
    RolloutChange,
    RolloutDecision,
    RolloutState,
)

log = logging.getLogger("evalrouter")

Action = Literal["pause", "resume", "promote", "rollback"]

_CHANGES: Mapping[Action, Mapping[str, Any]] = {
    "pause": {"state": "paused", "pause": "person"},
    "resume": {"state": "running", "pause": ""},
    "promote": {"state": "promoting", "weight": 1.0, "pause": ""},
    "rollback": {"state": "rolling_back", "weight": 0.0, "pause": "", "ended_at": None},
}
# The states in which each action is possible.
POSSIBLE: Mapping[Action, tuple[RolloutState, ...]] = {
    "pause": ("running", "holding"),
    "resume": ("paused",),
    "promote": ("running", "holding", "paused"),
    "rollback": ("running", "holding", "paused", "promoting", "promoted"),
}
# A forecast is made of the requests of so many seconds.
BASELINE_S = 7 * 86400.0
# The config's candidate is looked for among so many of its route's last rollouts.
MAX_EARLIER = 1000
# Ends the message about a rollout whose goals cannot be shown; a page names its box instead.
HOW_TO_FORCE = ' To start it all the same, use force (`--force`; over HTTP `"force": true`).'


class RolloutAction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person decides about a rollout.

    Attributes:
        reason: why; it is in the record of decisions.
        revision: the rollout's when the person looked at it, to be refused where something was
            decided since then. None for whatever it is now.
    """

    reason: Reason
    revision: int | None = None


class Rollouts:
    """Starts rollouts, shows them, and does what people decide about them.

    Args:
        store: has them.
        routes: the routes as they stand.
        config: has the providers, and says what is recorded of requests and what may be opened.
        unlisted: returns why the providers' lists have no such target, "" where one may have.
        clock: tells the seconds since the epoch.

    Attributes:
        now: tells the seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        routes: Routes,
        config: Config,
        *,
        unlisted: Callable[[str], str] = lambda _: "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._routes = routes
        self._unlisted = unlisted
        self._providers = config.providers
        self._record = config.record
        self._allowed = config.evaluation
        self.now = clock
        # Of the config's candidates, those whose start was tried, with their routes then.
        self._tried: dict[str, Route] = {}

    # what is there

    async def find(self, route: str) -> Rollout:
        """Return a route's newest rollout.

        Raises:
            NotFoundError: it has none.
        """
        newest = await self._store.rollouts(route=route, limit=1)
        if newest:
            return newest[0]
        self._route(route)
        raise NotFoundError(f"The route {route!r} has had no rollout.")

    def is_control_unchanged(self, rollout: Rollout) -> bool:
        """Return whether a rollout's route is what it was when it began."""
        return is_unchanged(rollout, self._routes.table.routes.get(rollout.route))

    async def report(self, route: str, rollout_id: str | None = None) -> RolloutReport:
        """Return a route's newest rollout, or the one of an id, with what was seen of it.

        Raises:
            NotFoundError: no such route, or it has had no such rollout.
        """
        if rollout_id is None:
            rollout = await self.find(route)
        else:
            stored = await self._store.rollout(rollout_id)
            if stored is None or stored.route != route:
                raise NotFoundError(f"The route {route!r} has had no rollout {rollout_id!r}.")
            rollout = stored
        statistics = statistics_of(await self._store.rollout_statistics(rollout.id))
        waiting = await self._store.uncounted(rollout.id, 1)
        settings = settings_of(rollout)
        return RolloutReport(
            rollout=rollout,
            signals=() if statistics is None else statistics.readings,
            imbalance=None if statistics is None else statistics.imbalance,
            e_value_limit=len(settings.signals) / settings.alpha,
            totals=await self._store.rollout_totals(rollout.id),
            per_protocol=await self._store.rollout_totals(rollout.id, per_protocol=True),
            assigned=waiting.assigned,
            uncounted=bool(waiting.requests or waiting.scores),
            judged=await self._store.judged(rollout.id),
            decisions=await self._store.rollout_decisions(rollout.id),
        )

    def request_of(self, name: str, document: Document) -> RouteRollout:
        """Return a request for a rollout, with the settings of the route's `rollout` as defaults.

        Raises:
            NotFoundError: no such route.
            RequestError: the document is not one.
        """
        route = self._routes.table.routes.get(name)
        if route is not None and route.rollout is not None and isinstance(document.data, dict):
            defaults = as_stored(route.rollout)
            document = document._replace(data={**defaults, **document.data})
        requested = convert(document, RouteRollout, error=RequestError)
        if requested.candidate is not None:
            check_name(requested.candidate, "candidate")
        self._route(name)
        return requested

    async def list(self, route: str | None = None, *, limit: int = 50) -> list[Rollout]:
        """List rollouts, newest first."""
        return await self._store.rollouts(route=route, limit=limit)

    def _route(self, name: str) -> Route:
        routes = self._routes.table.routes
        if name not in routes:
            raise NotFoundError(f"The route {name!r} does not exist.{closest(name, routes)}")
        return routes[name]

    # what people do

    async def start(self, name: str, request: RouteRollout, *, actor: str) -> Rollout:
        """Start a rollout on a route.

        Raises:
            NotFoundError: no such route.
            RequestError: the candidate cannot be one, or the settings contradict each other.
            ConflictError: the route has one, or its goals cannot be shown with its traffic.
        """
        route = self._route(name)
        candidate = request.candidate
        if candidate is None:
            message = "candidate: name one, as provider/model"
            raise RequestError(message, param="candidate", code="missing_candidate")
        self._check_candidate(name, route, candidate)
        if not request.force and (problem := self._unlisted(candidate)):
            message = f"candidate: {problem}{HOW_TO_FORCE}"
            raise RequestError(message, param="candidate", code="unlisted_model")
        if (route.record or self._record) == "none":
            raise ConflictError(
                f"The route {name!r} records nothing of its requests, so nothing can be compared; "
                "set its `record` to metadata.",
                code="nothing_recorded",
            )
        for place, message in settings_problems(request):
            param = ".".join(map(str, place))
            raise _refused(param, message)
        await self._check_judge(route, request)
        now = self.now()
        settings = _settings(request)
        forecast = await self._forecast(name, settings, now)
        sample = forecast.steps[0].sample
        if not request.force and not forecast.possible:
            raise ConflictError(forecast.reason + HOW_TO_FORCE, code="not_decidable")
        overrides = await self._store.route_overrides()
        override = overrides.get(name)
        if override is not None and not isinstance(override, dict):
            raise ConflictError(f"The route {name!r} cannot be read: {override.reason}")
        rollout = Rollout(
            id=f"ro_{time.time_ns():016x}{uuid.uuid4().hex[:8]}",
            route=name,
            candidate=candidate,
            state="running",
            reason=request.reason or "started",
            step=0,
            weight=settings.steps[0] / 100,
            revision=1,
            settings=as_stored(settings),
            base=as_stored(route),
            override=override,
            forecast=as_stored(forecast),
            started_by=actor,
            created_at=now,
            step_at=now,
            sampled_candidate=sample.candidate,
            sampled_control=sample.control,
        )
        decision = RolloutDecision(
            rollout=rollout.id,
            revision=1,
            at=now,
            rule="start",
            seen={"forecast": rollout.forecast},
            to_state="running",
            to_weight=rollout.weight,
            route_version=route_version(route),
            actor=actor,
            reason=rollout.reason,
        )
        await self._store.add_rollout(rollout, decision)
        return rollout

    async def _forecast(self, name: str, settings: RolloutSettings, now: float) -> RolloutForecast:
        baseline = await self._store.route_baseline(name, now - BASELINE_S)
        return rollout_forecast(
            plan_of(settings), traffic_level(baseline), expectations(settings, baseline)
        )

    def awaits_start(self) -> bool:
        """Return whether the config has a candidate whose start has not been tried."""
        return any(
            route.rollout is not None
            and route.rollout.candidate is not None
            and self._tried.get(name) != route
            for name, route in self._routes.table.routes.items()
        )

    async def start_configured(self, *, actor: str) -> None:
        """Start the rollouts whose candidates the config names, each once.

        One that cannot be started is named in the log, and tried again when its route changes.
        """
        for name, route in self._routes.table.routes.items():
            requested = route.rollout
            if requested is None or requested.candidate is None or self._tried.get(name) == route:
                continue
            self._tried[name] = route
            settings = _settings(requested)
            earlier = await self._store.rollouts(route=name, limit=MAX_EARLIER)
            same = requested.candidate, settings
            if any((rollout.candidate, settings_of(rollout)) == same for rollout in earlier):
                continue
            try:
                await self.start(name, requested, actor=actor)
            except RequestError as error:
                log.error("the rollout of route %s is not started: %s", name, error.message)

    async def check(self, route: Route) -> None:
        """Refuse a route whose rollout names a candidate or a judge that cannot be.

        A candidate may be the incumbent: it is, once its rollout has promoted it.

        Raises:
            RequestError: why it cannot.
        """
        if (settings := route.rollout) is None:
            return
        if settings.candidate is not None:
            self._check_target(settings.candidate)
        await self._check_judge(route, settings)

    def _check_target(self, candidate: str) -> None:
        if problem := target_problem(candidate, self._providers):
            raise RequestError(f"candidate: {problem}", param="candidate", code="invalid_rollout")

    def _check_candidate(self, name: str, route: Route, candidate: str) -> None:
        """Refuse a candidate that is no target, or the incumbent."""
        self._check_target(candidate)
        if candidate not in route.weighted:
            return
        if route.weighted == (candidate,):
            message = f"{candidate} is what the route {name!r} has already: its incumbent."
        else:
            message = (
                f"{candidate} has a share of the route {name!r} already; give it weight 0 there, "
                "so that the control is without it."
            )
        raise RequestError(message, param="candidate", code="candidate_is_incumbent")

    async def _check_judge(self, route: Route, settings: RolloutSettings) -> None:
        """Refuse a judge that cannot be, or that may not see what the route's users write."""
        judge = settings.judge
        if judge is None:
            return
        try:
            metric = await judge_metric(judge, self._allowed)
            for name in metric.judges:
                self._routes.table.plan(name, 0.0)
        except EvalrouterError as error:
            raise _refused("judge.metric", error.message) from error
        for message in unshared_judge(metric, route, self._routes.table.routes):
            raise _refused("share_bodies_with", message)
        for param, message in scale_problems(metric, settings):
            raise _refused(param, message)
        await excluded_keys(judge, self._store)

    async def act(
        self, name: str, action: Action, request: RolloutAction, *, actor: str
    ) -> Rollout:
        """Do what a person decided about a route's rollout, and bring it into effect.

        Raises:
            NotFoundError: no such route, or it has had no rollout.
            RequestError: there is no reason.
            ConflictError: its state forbids it, something was decided meanwhile, or the route was
                changed.
        """
        rollout = await self.find(name)
        if not request.reason.strip():
            raise RequestError("reason: say why", param="reason", code="missing_reason")
        if request.revision is not None and request.revision != rollout.revision:
            raise ConflictError(
                f"{rollout.id} has changed since revision {request.revision}: it is "
                f"{rollout.state} ({rollout.reason}); look at it again",
                code="rollout_changed",
            )
        if rollout.state not in POSSIBLE[action]:
            raise ConflictError(
                f"{rollout.id} is {rollout.state}, so it cannot "
                f"{'be paused' if action == 'pause' else action.replace('rollback', 'roll back')}.",
                code="rollout_state",
            )
        if action in ("resume", "promote") and rollout.pause == "route":
            self._refuse_changed(rollout)
        change = self.decided(
            rollout, _CHANGES[action], rule="person", actor=actor, reason=request.reason
        )
        await self._store.change_rollout(change)
        return await self.bring_about(changed(rollout, change), actor=actor)

    def _refuse_changed(self, rollout: Rollout) -> None:
        if not self.is_control_unchanged(rollout):
            raise ConflictError(
                f"The route {rollout.route!r} is not what it was when {rollout.id} began, so what "
                "was seen is of another control. Undo the change of the route, or roll back and "
                "start anew.",
                code="route_changed",
            )

    # decisions and their effects

    def decided(
        self, rollout: Rollout, changes: Mapping[str, Any], *, rule: str, actor: str, **row: Any
    ) -> RolloutChange:
        """Return a change of a rollout, with the row of its decision."""
        changes = {"reason": row["reason"], **changes}
        decision = RolloutDecision(
            rollout=rollout.id,
            revision=rollout.revision + 1,
            at=self.now(),
            rule=rule,
            from_state=rollout.state,
            to_state=changes.get("state", rollout.state),
            from_weight=rollout.weight,
            to_weight=changes.get("weight", rollout.weight),
            route_version=route_version(self._routes.table.routes.get(rollout.route)),
            actor=actor,
            **row,
        )
        return RolloutChange(decision=decision, changes=changes)

    async def bring_about(self, rollout: Rollout, *, actor: str) -> Rollout:
        """Bring a promotion or a rollback into effect; other states have nothing to do.

        Returns:
            The rollout after it. It is paused where the route was changed meanwhile.

        Raises:
            ConflictError: another process did, or decided something else.
        """
        if rollout.state not in ("promoting", "rolling_back"):
            return rollout
        override = (await self._store.route_overrides()).get(rollout.route)
        route = self._present(rollout.route, override)
        try:
            if rollout.state == "rolling_back":
                change = self._rollback(rollout, route, override, actor)
            elif route is not None and is_unchanged(rollout, route):
                change = self._promotion(rollout, route, override, actor)
            else:
                return await self.pause_for_route(rollout, actor=actor)
            await self._store.change_rollout(change)
        except ConfigError as error:
            reason = f"the route would be refused: {error.message}"
            return await self.pause_for_route(rollout, actor=actor, reason=reason)
        except ConflictError as error:
            if error.code != "route_changed":
                raise
            return await self.pause_for_route(rollout, actor=actor)
        await self._routes.follow()
        return changed(rollout, change)

    def _present(self, name: str, override: Any) -> Route | None:
        """Return a route as the database has it, which this process may not have followed yet.

        None where it is gone, or cannot be used here.
        """
        if not isinstance(override, dict):
            return self._routes.table.routes.get(name)
        try:
            return parse_route(name, override, self._providers)
        except ConfigError:
            return None

    def _promotion(
        self, rollout: Rollout, route: Route, override: Any, actor: str
    ) -> RolloutChange:
        """Return the end of a promotion: the route as it is now, with the candidate.

        Raises:
            ConfigError: such a route would be refused.
        """
        document = promoted(route, rollout.candidate)
        parse_route(rollout.route, document, self._providers)
        change = self.decided(
            rollout,
            {"ended_at": self.now(), "pause": "", "state": "promoted", "weight": 1.0},
            rule="effect",
            actor=actor,
            reason=rollout.reason,
        )
        return msgspec.structs.replace(
            change,
            route=document,
            expected=override,
            config=self._routes.configured(rollout.route),
        )

    def _rollback(
        self, rollout: Rollout, route: Route | None, override: Any, actor: str
    ) -> RolloutChange:
        """Return the end of a rollback; a route that had been promoted gets back what it had."""
        change = self.decided(
            rollout,
            {"ended_at": self.now(), "pause": "", "state": "rolled_back", "weight": 0.0},
            rule="effect",
            actor=actor,
            reason=rollout.reason,
        )
        if override is None or route is None or not is_promoted(rollout, route):
            return change
        return msgspec.structs.replace(
            change,
            route=rollout.override,
            drop_route=rollout.override is None,
            expected=override,
            config=self._routes.configured(rollout.route),
        )

    async def pause_for_route(self, rollout: Rollout, *, actor: str, reason: str = "") -> Rollout:
        """Pause a rollout because its route is another one now; its requests go by the new one."""
        present = rollout.route in self._routes.table.routes
        reason = reason or (
            f"the route {rollout.route!r} was changed, so the control is another one: undo that "
            "and resume, or roll back"
            if present
            else f"the route {rollout.route!r} is gone"
        )
        change = self.decided(
            rollout,
            {"state": "paused", "pause": "route"},
            rule="route",
            actor=actor,
            reason=reason,
        )
        await self._store.change_rollout(change)
        return changed(rollout, change)


def _settings(request: RouteRollout) -> RolloutSettings:
    values = msgspec.structs.asdict(request)
    return RolloutSettings(**{name: values[name] for name in RolloutSettings.__struct_fields__})


def _refused(param: str, message: str) -> RequestError:
    return RequestError(f"{param}: {message}", param=param, code="invalid_rollout")


def changed(rollout: Rollout, change: RolloutChange) -> Rollout:
    """Return a rollout as it is after a change."""
    return msgspec.structs.replace(rollout, **change.changes, revision=change.decision.revision)
