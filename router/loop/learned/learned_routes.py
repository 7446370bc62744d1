"""Learned routes: learns them, takes deleted requests out of their models, and says what they are.

    learned = LearnedRoutes(store, routes, requester, recorded, predictor, ...)
    await learned.learn("chat", actor="key ops")        # or in the background: `begin`
    await learned.report("chat")

A model becomes a route's in one transaction, once its file is stored. A process that is killed
before that leaves the earlier model in use, and a file that the next one deletes.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Literal

import msgspec
import numpy as np

from providers.errors import (
    ConfigError,
    ConflictError,
    EvalrouterError,
    NotFoundError,
    RequestError,
    StoreError,
    closest,
)
from router.config.learned import FEEDBACK, LearnedRoute
from router.config.routes import Route
from router.datasets.artifacts import Artifacts
from router.evals.requests import EvalRequester
from router.gateway.route_table import Routes
from router.loop.learned.examples import unit_vectors
from router.loop.learned.fitting import FitOptions, fit_apart
from router.loop.learned.gathering import Gathered, Gathering
from router.loop.learned.held_out import HeldOutReport
from router.loop.learned.model_file import PROBE, ModelFile, UnreadableModelError, encoded
from router.loop.learned.predictor import ActiveModel, Predictor, settings_of
from router.rounds import Rounds
from router.sealing.deletion import Deletion, DeletionStep
from router.sealing.traffic import RecordedTraffic
from router.store.feedback import FeedbackRow
from router.store.learned import LearnedModel
from router.store.leases import Lease
from router.store.protocol import Store
from router.store.traffic import TrafficFilter

log = logging.getLogger("evalrouter")

FOLDER = "learned"
EVERY_S = 60.0
LEASE = "learn routes"
LEASE_S = 180.0
TEXTS_AT_ONCE = 64
MAX_NUMBERS = 10_000_000
"""A model's vectors have so many numbers in all, which a prediction goes through in 3 ms."""

RECENT = 1000
"""So many of the route's last requests are looked at for the report."""

ModelState = Literal[
    "no_model", "learning", "observing", "applied", "off", "outdated", "expired", "drifted"
]


class RecentChoices(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a route's last requests.

    Attributes:
        requests: how many were looked at, with a record of why.
        by_reason: how many, by the reason of the choice.
        by_target: how many, by the target that was predicted.
        applied: how many were sent where the prediction said.
        served_usd: the predicted cost of the targets that answered, of those with a prediction.
        predicted_usd: of the targets that were predicted.
        saved_usd: the difference: what the prediction saved, or would have saved in `observe`.
    """

    requests: int
    by_reason: dict[str, int]
    by_target: dict[str, int]
    applied: int
    served_usd: float
    predicted_usd: float
    saved_usd: float


class LearnedReport(msgspec.Struct, frozen=True, kw_only=True):
    """A learned route, its model, and whether that pays.

    Attributes:
        route: the route's name.
        state: `no_model`, or the first is being made (`learning`); `observing`, where it pays and
            the config says `observe`; `applied`; `off`, where it does not pay or could not be
            tested; or it is not used because it is `outdated`, `expired` or has `drifted`.
        explanation: the same in words.
        settings: the route's.
        model: the model in use, or the newest that failed; None without one.
        learning: the model that is being made; None for none.
        test: the held-out test of the model in use.
        recent: what became of the last requests.
    """

    route: str
    state: ModelState
    explanation: str
    settings: LearnedRoute
    model: LearnedModel | None
    learning: LearnedModel | None
    test: HeldOutReport | None
    recent: RecentChoices


class LearnedRoutes(DeletionStep):
    """Learns routes, and reports about them.

    Args:
        store: has the models' rows.
        routes: the routes as they stand.
        requester: requests embeddings.
        recorded: has the requests.
        predictor: has the models in use.
        artifacts: returns what has the models' files, once they are needed.
        owner: a name for this part of the process, which no other has.
        outdated: yields which requests are too old to be stored at all.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        routes: Routes,
        requester: EvalRequester,
        recorded: RecordedTraffic,
        predictor: Predictor,
        *,
        artifacts: Callable[[], Artifacts],
        owner: str,
        outdated: Callable[[], Iterable[TrafficFilter]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._routes = routes
        self._requester = requester
        self._recorded = recorded
        self._predictor = predictor
        self._artifacts = artifacts
        self._owner = owner
        self._lease = Lease(store, LEASE, owner, LEASE_S)
        self._outdated = outdated
        self._clock = clock
        self._learning: dict[str, asyncio.Task[LearnedModel]] = {}
        self._rounds = Rounds(
            self.run_once,
            every=EVERY_S,
            name="evalrouter-learn",
            failing="learned routes wait",
        )

    async def open(self) -> None:
        """Begin to learn routes again that are due."""
        self._rounds.open()

    async def close(self) -> None:
        """Stop. A model that is being learned is given up, and the earlier one stays."""
        await self._rounds.close()
        for task in [*self._learning.values()]:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # learning

    def check(self, name: str) -> tuple[Route, LearnedRoute]:
        """Return a learned route and its settings.

        Raises:
            NotFoundError: no such route.
            RequestError: its strategy is another one, or its embeddings may not see its texts.
        """
        routes = self._routes.table.routes
        route = routes.get(name)
        if route is None:
            raise NotFoundError(f"The route {name!r} does not exist.{closest(name, routes)}")
        if route.learned is None or route.strategy != "learned":
            raise RequestError(
                f"The route {name!r} has the strategy {route.strategy}; `learned` and its settings "
                "are described in docs/how-to/learned-routes.md.",
                param="name",
                code="not_learned",
            )
        if message := self._predictor.unshared(name, route):
            raise ConfigError(f"routes.{name}.share_bodies_with: {message}")
        # Else it would fail after minutes of reading.
        self._routes.table.plan(route.learned.embeddings, 0.0)
        return route, route.learned

    async def begin(self, name: str, *, actor: str) -> LearnedModel:
        """Begin to learn a route in the background, and return its new model.

        Raises:
            NotFoundError, RequestError: see `check`.
            ConflictError: it is being learned already.
        """
        route, learned = self.check(name)
        if name in self._learning:
            raise ConflictError(f"The route {name!r} is being learned.", code="being_learned")
        model = await self._add(name, route, actor)
        task = asyncio.create_task(
            self._learn(model, route, learned), name=f"evalrouter-learn-{name}"
        )
        self._learning[name] = task
        task.add_done_callback(partial(self._ended, name))
        return model

    def _ended(self, name: str, task: asyncio.Task[LearnedModel]) -> None:
        self._learning.pop(name, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the route %s was not learned: %s", name, error)

    async def learn(
        self, name: str, *, actor: str, progress: Callable[[str], None] = lambda _: None
    ) -> LearnedModel:
        """Learn a route, and return its model once it is in use.

        Args:
            name: the route's.
            actor: who wants that.
            progress: called with what is being done.

        Raises:
            EvalrouterError: why it cannot be learned.
        """
        route, learned = self.check(name)
        model = await self._add(name, route, actor)
        return await self._learn(model, route, learned, progress)

    async def _add(self, name: str, route: Route, actor: str) -> LearnedModel:
        model = LearnedModel(
            id=f"lm_{time.time_ns():016x}{uuid.uuid4().hex[:8]}",
            route=name,
            created_at=self._clock(),
            created_by=actor,
            settings=settings_of(route),
        )
        await self._store.add_learned(model)
        return model

    async def _learn(
        self,
        model: LearnedModel,
        route: Route,
        learned: LearnedRoute,
        progress: Callable[[str], None] = lambda _: None,
    ) -> LearnedModel:
        try:
            return await self._learned(model, route, learned, progress)
        except EvalrouterError as error:
            with suppress(StoreError):
                await self._store.fail_learned(model.id, error.message)
            raise
        except BaseException as error:
            with suppress(StoreError):
                await asyncio.shield(
                    self._store.fail_learned(model.id, f"stopped: {type(error).__name__}")
                )
            raise

    async def _learned(
        self,
        model: LearnedModel,
        route: Route,
        learned: LearnedRoute,
        progress: Callable[[str], None],
    ) -> LearnedModel:
        deletions = await self._store.traffic_deletions()
        progress("reading runs and requests")
        gathered = await self._gather(model.route, route, learned)
        gathered.check(learned.quality)
        vectors = [
            vector async for some in self._embed_all(learned.embeddings, [PROBE]) for vector in some
        ]
        gathered = gathered.newest(MAX_NUMBERS // max(1, len(vectors[0])))
        gathered.check(learned.quality)
        async for some in self._embed_all(learned.embeddings, gathered.texts):
            vectors += some
            progress(f"embedded {len(vectors) - 1:,} of {len(gathered.texts):,} prompts")
        try:
            units = await asyncio.to_thread(unit_vectors, vectors)
        except ValueError as error:
            raise ConflictError(f"{learned.embeddings}: {error}", code="embeddings") from error
        examples = await asyncio.to_thread(gathered.examples, units[1:])
        file = ModelFile(
            examples=examples,
            numbers=np.arange(len(examples.vectors)),
            probe=units[0],
            low_cosine=-1.0,
        )
        progress("testing it held out")
        options = msgspec.convert(model.settings["options"], FitOptions)
        fitted = await fit_apart(await asyncio.to_thread(encoded, file), options)
        file = msgspec.structs.replace(file, low_cosine=fitted.low_cosine)
        model = msgspec.structs.replace(
            model,
            state="ready",
            made_of=gathered.made_of,
            report=msgspec.to_builtins(fitted.report),
            dimensions=units.shape[1],
            rows=len(examples.vectors),
        )
        return await self._store_model(model, file, gathered, deletions)

    async def _store_model(
        self, model: LearnedModel, file: ModelFile, gathered: Gathered, deletions: int
    ) -> LearnedModel:
        model = await self._put(model, file)
        try:
            unused = await self._store.finish_learned(
                model, gathered.sources(), deletions=deletions
            )
        except BaseException:
            await asyncio.shield(self._artifacts().delete(model.artifact))
            raise
        for key in unused:
            await self._artifacts().delete(key)
        await self._sweep(model.route)
        await self._predictor.follow()
        return model

    async def _put(self, model: LearnedModel, file: ModelFile) -> LearnedModel:
        """Store a model's file under a new key, and return the model with it."""
        data = await asyncio.to_thread(encoded, file)
        key = f"{FOLDER}/{model.id}/{uuid.uuid4().hex[:12]}.model"
        stored = await self._artifacts().put(key, _chunks(data))
        return msgspec.structs.replace(
            model,
            artifact=key,
            hash=stored.sha256,
            size=stored.size,
            rows=len(file.examples.vectors),
        )

    async def _sweep(self, route: str) -> None:
        """Delete the files of a route that a killed process has left behind."""
        models = await self._store.learned_models(route, limit=1000)
        in_use = {model.artifact for model in models}
        for model in models:
            if model.state == "learning":
                continue
            async for artifact in self._artifacts().list(f"{FOLDER}/{model.id}/"):
                if artifact.key not in in_use:
                    await self._artifacts().delete(artifact.key)

    async def _gather(self, name: str, route: Route, learned: LearnedRoute) -> Gathered:
        targets = route.weighted
        gathering = Gathering(self._store, self._recorded)
        if learned.quality.startswith(FEEDBACK):
            feedback = learned.quality.removeprefix(FEEDBACK)
            return await gathering.of_feedback(feedback, targets, route=name)
        return await gathering.of_runs(learned.quality, targets, route=name, named=learned.runs)

    async def _embed_all(
        self, route: str, texts: Sequence[str]
    ) -> AsyncIterator[list[list[float]]]:
        """Yield the embeddings of texts, some at a time. Raises UpstreamError."""
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            result = await self._requester.embed(route, texts[start : start + TEXTS_AT_ONCE])
            if result.error is not None:
                raise result.error
            yield result.vectors

    async def run_once(self) -> None:
        """Learn the routes again that are due, and forget requests that are too old to be stored.

        One process does it for all.
        """
        routes = self._routes.table.routes
        if not self._predictor.active and not any(
            route.learned is not None for route in routes.values()
        ):
            return
        if not await self._lease.claim():
            return
        for old in self._outdated():
            await self.delete(old)
        for name, route in routes.items():
            learned = route.learned
            if learned is None or learned.learn_every_hours is None or name in self._learning:
                continue
            newest = await self._store.learned_models(name, limit=1)
            due = self._clock() - 3600 * learned.learn_every_hours
            if newest and newest[0].created_at > due:
                continue
            try:
                await self.begin(name, actor=self._owner)
            except EvalrouterError as error:
                log.error("the route %s is not learned: %s", name, error.message)

    # deletion

    async def delete(self, matching: TrafficFilter, *, at_most: int | None = None) -> Deletion:
        """Take the rows that were made of requests out of the models; see `DeletionStep`.

        What is left predicts as if they had never been there. The held-out test stays as it was.
        """
        related = 0
        while (copied := await self._store.learned_rows(matching)) is not None:
            if at_most is not None and related >= at_most:
                return Deletion(related=related, complete=False)
            await self._forget(copied.model, copied.rows)
            related += len(copied.rows)
        if related:
            await self._predictor.follow()
        return Deletion(related=related)

    async def forget_feedback(self, feedback: FeedbackRow) -> None:
        """Take the row that was made of deleted feedback out of the model that has learned of it.

        What others said of the same request goes with it, until the route is learned again.
        """
        if not feedback.record_id:
            # No row is made of feedback about a request that is not recorded.
            return
        quality = f"{FEEDBACK}{feedback.name}"
        models = [
            model
            for model in await self._store.learned_models(feedback.route, limit=1000)
            if model.settings.get("quality") == quality
        ]
        if any(model.state == "learning" for model in models):
            # It may have read the feedback already; so it is refused when it is ready.
            await self._store.announce_deletion()
        matching = TrafficFilter(id=feedback.record_id)
        for model in models:
            while copied := await self._store.learned_rows(matching, model=model.id):
                await self._forget(copied.model, copied.rows)
        await self._predictor.follow()

    async def _forget(self, model_id: str, rows: frozenset[int]) -> None:
        models = await self._store.learned_models(state="ready", limit=1000)
        row = next((model for model in models if model.id == model_id), None)
        if row is None:
            # Another one took its place in this moment.
            return
        after = await self._without(row, rows)
        if await self._store.forget_learned(after, rows, artifact=row.artifact):
            await self._artifacts().delete(row.artifact)
        elif after.artifact:
            # Another process has taken rows out: once more, of what it left.
            await self._artifacts().delete(after.artifact)

    async def _without(self, row: LearnedModel, rows: frozenset[int]) -> LearnedModel:
        """Return a model without some rows, its new file stored."""
        after = msgspec.structs.replace(row, forgotten=row.forgotten + len(rows))
        nothing = msgspec.structs.replace(after, rows=0, artifact="", hash="", size=0)
        try:
            active = await self._predictor.read(row)
        except (NotFoundError, UnreadableModelError) as error:
            return msgspec.structs.replace(nothing, error=error.message)
        left = active.file.without(rows)
        if min(left.examples.known, default=0) < 2:
            # Nothing can be predicted of what is left.
            return msgspec.structs.replace(nothing, error="all its requests were deleted")
        return await self._put(after, left)

    # for people

    async def report(self, name: str) -> LearnedReport:
        """Return what a learned route is, and whether its model pays.

        Raises:
            NotFoundError, RequestError: see `check`.
        """
        route, learned = self.check(name)
        await self._predictor.follow()
        models = await self._store.learned_models(name, limit=20)
        learning = next((model for model in models if model.state == "learning"), None)
        active = self._predictor.active.get(name)
        model = active.row if active else next((m for m in models if m.state != "learning"), None)
        state, explanation = self._state(route, learned, active, learning, model)
        if state == "no_model":
            explanation += f". Learn it: evalrouter route learn {name}"
        recent = await self._recent(name)
        if state == "applied" and (left := recent.requests - recent.applied):
            reasons = ", ".join(f"{n:,} {reason}" for reason, n in recent.by_reason.items())
            explanation += (
                f". It chose for {recent.applied:,} of the last {recent.requests:,} requests, and "
                f"not for {left:,} ({reasons})"
            )
        if model is not None:
            warnings: Sequence[str] = model.made_of.get("warnings", ())
            explanation = ". ".join([explanation, *warnings])
        return LearnedReport(
            route=name,
            state=state,
            explanation=explanation,
            settings=learned,
            model=model,
            learning=learning,
            test=None if active is None else active.report,
            recent=recent,
        )

    def _state(
        self,
        route: Route,
        learned: LearnedRoute,
        active: ActiveModel | None,
        learning: LearnedModel | None,
        model: LearnedModel | None,
    ) -> tuple[ModelState, str]:
        other = f"{learned.otherwise} chooses"
        if active is None:
            if learning is not None:
                return "learning", f"its first model is being made; {other}"
            why = f" ({model.error})" if model is not None and model.error else ""
            return "no_model", f"it has no model{why}; {other}"
        match self._predictor.why_unusable(active, route):
            case "outdated":
                return "outdated", f"its settings have changed; {other} until it is learned again"
            case "expired":
                days = f"{learned.max_age_days:g} days"
                return "expired", f"its model is older than {days}; {other}"
            case "drifted":
                return "drifted", f"most prompts are unlike those it was made of; {other}"
        reason = active.report.reason
        if active.report.decision != "pays":
            return "off", f"stays off, and {other}: {reason}"
        if learned.mode == "observe":
            return "observing", f"it pays, and {other} until mode is apply: {reason}"
        return "applied", f"it chooses: {reason}"

    async def _recent(self, name: str) -> RecentChoices:
        reasons: Counter[str] = Counter()
        targets: Counter[str] = Counter()
        applied = requests = 0
        served = predicted = 0.0
        matching = TrafficFilter(route=name, traffic_class="live")
        for row in await self._recorded.page(matching, limit=RECENT):
            choice = row.learned
            if choice is None:
                continue
            requests += 1
            reasons[choice.reason] += 1
            applied += choice.applied
            if not choice.target:
                continue
            targets[choice.target] += 1
            costs = {prediction.target: prediction.cost_usd for prediction in choice.predictions}
            of_served, of_chosen = costs.get(row.target), costs.get(choice.target)
            if of_served is not None and of_chosen is not None:
                served += of_served
                predicted += of_chosen
        return RecentChoices(
            requests=requests,
            by_reason=dict(reasons.most_common()),
            by_target=dict(targets.most_common()),
            applied=applied,
            served_usd=served,
            predicted_usd=predicted,
            saved_usd=served - predicted,
        )


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 2**20):
        yield data[start : start + 2**20]
