"""Predicts on the path of a request which target of a learned route to take.

    predictor = Predictor(store, routes, requester, ...)
    await predictor.follow()                            # models that any process has learned
    choice = await predictor.predict("chat", route, envelope, conversation="", candidates=targets)

A prediction is an embedding, which has a time limit, and a search among the prompts that are known,
on a thread of its own. Where there is none in time, the route's other strategy has chosen already.
Nothing here can fail a request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec
import numpy as np

from providers.errors import EvalrouterError, StoreError
from providers.off_loop import off_loop
from router.config.learned import LearnedRoute
from router.config.providers import Providers
from router.config.routes import Route, unshared_embeddings
from router.datasets.artifacts import Artifacts
from router.evals.requests import EvalRequester
from router.gateway.hooks import TargetPredictor
from router.gateway.route_table import Routes
from router.loop.learned.examples import Vectors, unit_vectors
from router.loop.learned.fitting import FitOptions
from router.loop.learned.held_out import HeldOutReport
from router.loop.learned.model_file import PROBE, ModelFile, UnreadableModelError, decoded
from router.loop.learned.neighbours import NeighbourModel, good_enough, ranked
from router.loop.learned.prompt_text import in_tool_loop, text_of_envelope
from router.records import ChoiceReason, LearnedChoice, PredictedTarget, Target
from router.rounds import ErrorLog
from router.store.changes import follow_changes
from router.store.learned import LearnedModel, LearnedStore

log = logging.getLogger("evalrouter")

POLL_S = 1.0
PREDICTED = 4096
"""Prompts whose predictions are remembered."""

CONVERSATIONS = 10_000
"""Conversations of which the last target is remembered, in each process."""

IN_FLIGHT = 64
"""So many requests may wait for a prediction at a time."""

SLOW_IN_A_ROW = 5
PAUSE_S = 5.0
"""After so many late or failed embeddings in a row none is requested for so long."""

WATCHED = 200
DRIFTED = 0.5
"""A model has drifted when so many of the last prompts are unlike those it was made of."""

SAME_MODEL = 0.98
"""The cosine of a text's embeddings by the same model, but for rounding."""


class _Request(NamedTuple):
    """A request for which a target is predicted; see `TargetPredictor.predict`."""

    route_name: str
    route: Route
    learned: LearnedRoute
    envelope: Mapping[str, msgspec.Raw]
    conversation: str
    candidates: Collection[Target]

    @property
    def is_stored(self) -> bool:
        """Whether the client lets it be stored."""
        return bytes(self.envelope.get("store") or b"") != b"false"

    @property
    def size(self) -> int:
        """Return the bytes of its messages."""
        return len(self.envelope.get("messages") or self.envelope.get("prompt") or b"")


class _Prediction(NamedTuple):
    """What is predicted for a prompt, and remembered.

    Attributes:
        order: the positions of the targets, as `ranked` has them.
        targets: what is predicted of each.
        similarity: the cosine of the least similar of the neighbours.
    """

    order: tuple[int, ...]
    targets: tuple[PredictedTarget, ...]
    similarity: float


class ActiveModel:
    """A model in use by this process.

    Attributes:
        row: the model's row.
        file: what it predicts from.
        report: its held-out test.
        options: how it was fitted.
        model: makes predictions.
        probed: whether its embeddings were seen to be those of the same model; None before.
        unlike: for the last prompts, whether each was unlike all that are known.
    """

    def __init__(self, row: LearnedModel, file: ModelFile, report: HeldOutReport) -> None:
        self.row = row
        self.file = file
        self.report = report
        self.options = msgspec.convert(row.settings["options"], FitOptions)
        self.model = NeighbourModel(
            file.examples, self.options.criterion, neighbours=self.options.neighbours
        )
        self.probed: bool | None = None
        self._settings: tuple[Route, dict[str, Any]] | None = None
        self.unlike: deque[bool] = deque(maxlen=WATCHED)

    def settings_of(self, route: Route) -> dict[str, Any]:
        """Return what a model of a route depends on, which is read once for each definition."""
        if self._settings is None or self._settings[0] is not route:
            self._settings = (route, settings_of(route))
        return self._settings[1]

    @property
    def has_drifted(self) -> bool:
        """Whether most of the last prompts are unlike those that it was made of."""
        return len(self.unlike) == WATCHED and sum(self.unlike) > DRIFTED * WATCHED


class Predictor(TargetPredictor):
    """Predicts for requests of learned routes.

    Args:
        store: has the models' rows.
        routes: the routes as they stand.
        requester: requests embeddings.
        artifacts: returns what has the models' files, once they are needed.
        providers: the configured ones.
        clock: seconds since the epoch.

    Attributes:
        counts: requests of learned routes, by route and reason.
        active: the model of each learned route.
    """

    def __init__(
        self,
        store: LearnedStore,
        routes: Routes,
        requester: EvalRequester,
        *,
        artifacts: Callable[[], Artifacts],
        providers: Providers,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.active: Mapping[str, ActiveModel] = {}
        self._store = store
        self._routes = routes
        self._requester = requester
        self._artifacts = artifacts
        self._providers = providers
        self._clock = clock
        self._version: tuple[int, int, frozenset[str]] = (0, -1, frozenset())
        self._errors = ErrorLog()
        self._predictions: OrderedDict[tuple[str, bytes], _Prediction] = OrderedDict()
        # The target of each conversation's last request.
        self._last: OrderedDict[str, str] = OrderedDict()
        self._in_flight = 0
        self._late = 0
        self._paused_until = 0.0
        # What was last seen of a route: which provider may not embed its texts, "" for none.
        self._unshared: dict[tuple[str, bool], tuple[Route, str]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="evalrouter-predict")

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    # what other processes have learned

    async def follow(self) -> None:
        """Take over the models that any process has learned, or taken rows out of."""
        names = frozenset(
            name for name, route in self._routes.table.routes.items() if route.strategy == "learned"
        )
        version = self._store.generation, await self._store.learned_version(), names
        if version == self._version:
            return
        rows: dict[str, LearnedModel] = {}
        for row in await self._store.learned_models(state="ready", limit=1000):
            if row.artifact and row.route in names:
                rows.setdefault(row.route, row)
        is_complete = True
        active = {}
        for name, row in rows.items():
            before = self.active.get(name)
            if before is not None and before.row.hash == row.hash and before.row.id == row.id:
                active[name] = before
                continue
            try:
                active[name] = await self.read(row)
                self._errors.forget(name)
            except StoreError:
                raise
            except EvalrouterError as error:
                message = f"the model of the learned route {name} is left out: {error.message}"
                self._errors.error(name, message)
                # It may be there the next time; a damaged file stays damaged.
                is_complete = is_complete and isinstance(error, UnreadableModelError)
        self.active = active
        self._predictions.clear()
        if is_complete:
            self._version = version

    async def read(self, row: LearnedModel) -> ActiveModel:
        """Return a model with its file.

        Raises:
            UnreadableModelError: the file is damaged.
            ArtifactError, NotFoundError: it cannot be read now, or is gone.
        """
        data = b"".join([chunk async for chunk in self._artifacts().get(row.artifact)])
        try:
            report = msgspec.convert(row.report, HeldOutReport)
            return await asyncio.to_thread(lambda: ActiveModel(row, decoded(data), report))
        except (msgspec.ValidationError, KeyError) as error:
            raise UnreadableModelError(f"{row.id} cannot be read: {error}") from error

    async def watch(self) -> None:
        """Follow the other processes, until cancelled."""
        await follow_changes(
            self._store,
            "learned",
            self.follow,
            within=POLL_S,
            failing="cannot look for learned models",
        )

    # on the path of a request

    async def predict(
        self,
        route_name: str,
        route: Route,
        envelope: Mapping[str, msgspec.Raw],
        *,
        conversation: str,
        candidates: Collection[Target],
    ) -> LearnedChoice:
        """Return the choice for a request; see `TargetPredictor`."""
        learned = route.learned
        assert learned is not None, "the strategy has settings"
        request = _Request(route_name, route, learned, envelope, conversation, candidates)
        if self._in_flight >= IN_FLIGHT:
            choice = LearnedChoice(reason="busy")
        else:
            self._in_flight += 1
            try:
                choice = await self._predict(request)
            except EvalrouterError as error:
                log.debug("no prediction for %s: %s", route_name, error.message)
                choice = LearnedChoice(reason="embeddings_failed")
            except Exception:
                # A request is answered whatever is wrong here.
                log.exception("no prediction for %s", route_name)
                choice = LearnedChoice(reason="embeddings_failed")
            finally:
                self._in_flight -= 1
        self.counts[route_name, choice.reason] += 1
        return choice

    async def _predict(self, request: _Request) -> LearnedChoice:
        active = self.active.get(request.route_name)
        if active is None:
            return LearnedChoice(reason="no_model")
        reason = self.why_unusable(active, request.route)
        if reason is None:
            prediction = await self._prediction(active, request)
            if isinstance(prediction, _Prediction):
                return self._chosen(active, prediction, request)
            reason = prediction
        return LearnedChoice(reason=reason, model=active.row.id)

    async def _prediction(
        self, active: ActiveModel, request: _Request
    ) -> _Prediction | ChoiceReason:
        """Return what is predicted for the prompt, or why nothing is."""
        text = await off_loop(request.size, text_of_envelope, request.envelope)
        if not text:
            return "no_text"
        key = (active.row.hash, blake2b(text.encode("utf-8", "replace"), digest_size=16).digest())
        known = self._predictions.get(key)
        if known is not None:
            self._predictions.move_to_end(key)
            return known
        vectors = await self._embedded(active, request, text)
        if isinstance(vectors, str):
            return vectors
        loop = asyncio.get_running_loop()
        prediction = await loop.run_in_executor(self._thread, _predicted, active.model, vectors)
        active.unlike.append(prediction.similarity < active.file.low_cosine)
        self._predictions[key] = prediction
        if len(self._predictions) > PREDICTED:
            self._predictions.popitem(last=False)
        return prediction

    def why_unusable(self, active: ActiveModel, route: Route) -> ChoiceReason | None:
        """Return why a model is not used at all; None where it is."""
        if active.row.settings != active.settings_of(route):
            return "outdated"
        assert route.learned is not None, "the strategy has settings"
        if self._clock() - active.row.created_at > 86400 * route.learned.max_age_days:
            return "expired"
        return "drifted" if active.has_drifted else None

    async def _embedded(
        self, active: ActiveModel, request: _Request, text: str
    ) -> Vectors | ChoiceReason:
        """Return the embedding of a text, shape (1, d), or why there is none."""
        if self.unshared(request.route_name, request.route, stored=request.is_stored):
            return "unshared"
        now = asyncio.get_running_loop().time
        if now() < self._paused_until:
            return "embeddings_slow"
        learned = request.learned
        texts = [text] if active.probed else [text, PROBE]
        try:
            async with asyncio.timeout(learned.embed_seconds):
                result = await self._requester.embed(learned.embeddings, texts)
        except TimeoutError:
            return self._failed("embeddings_slow", now())
        if result.error is not None:
            return self._failed("embeddings_failed", now())
        self._late = 0
        try:
            vectors = unit_vectors(result.vectors)
        except ValueError:
            return "embeddings_failed"
        if vectors.shape[1] != active.model.dimensions:
            return "dimensions"
        if active.probed is None:
            active.probed = float(vectors[1] @ active.file.probe) >= SAME_MODEL
            if not active.probed:
                log.error(
                    "the embeddings of %s are of another model than those of %s; learn the route "
                    "%s again",
                    learned.embeddings,
                    active.row.id,
                    request.route_name,
                )
        return vectors[:1] if active.probed else "embeddings_changed"

    def _failed(self, reason: ChoiceReason, now: float) -> ChoiceReason:
        """Count an embedding that did not come; after several in a row, wait for a while."""
        self._late += 1
        if self._late >= SLOW_IN_A_ROW:
            self._late = 0
            self._paused_until = now + PAUSE_S
        return reason

    def unshared(self, name: str, route: Route, *, stored: bool = True) -> str:
        """Return which provider may not embed a route's texts, in words; "" where all may.

        Args:
            name: the route's name.
            route: the route.
            stored: whether the client lets its request be stored; else no provider is sent it that
                would not see it anyway.
        """
        key = name, stored
        known = self._unshared.get(key)
        if known is None or known[0] is not route:
            seen = route if stored else msgspec.structs.replace(route, share_bodies_with=())
            messages = unshared_embeddings(seen, self._routes.table.routes, self._providers)
            known = self._unshared[key] = (route, next(messages, ""))
        return known[1]

    def _chosen(
        self, active: ActiveModel, prediction: _Prediction, request: _Request
    ) -> LearnedChoice:
        """Return the choice by a prediction, of the targets that can serve the request."""
        choice = LearnedChoice(
            reason="unlike",
            model=active.row.id,
            neighbours=min(active.options.neighbours, active.row.rows),
            similarity=round(prediction.similarity, 4),
            predictions=prediction.targets,
        )
        if prediction.similarity < active.file.low_cosine:
            return choice
        names = {str(target) for target in request.candidates}
        able = [
            target for n in prediction.order if (target := prediction.targets[n]).target in names
        ]
        if not able:
            return msgspec.structs.replace(choice, reason="none_good_enough")
        chosen = able[0]
        reason: ChoiceReason = "cheapest" if chosen.good else "none_good_enough"
        last = self._last.get(request.conversation)
        stays = next((target for target in able if target.target == last), chosen)
        if stays is not chosen and self._shall_stay(stays, chosen, request):
            chosen, reason = stays, "stays"
        applied = request.learned.mode == "apply" and active.report.decision == "pays"
        if applied and request.conversation:
            self._last[request.conversation] = chosen.target
            self._last.move_to_end(request.conversation)
            if len(self._last) > CONVERSATIONS:
                self._last.popitem(last=False)
        return msgspec.structs.replace(choice, reason=reason, target=chosen.target, applied=applied)

    def _shall_stay(
        self, stays: PredictedTarget, other: PredictedTarget, request: _Request
    ) -> bool:
        """Return whether a conversation stays with its target although another one is chosen.

        While tools are called it does. Else its target has to be good enough, and a change has to
        cost more than it saves.
        """
        if in_tool_loop(request.envelope):
            return True
        if not stays.good:
            return False
        if stays.cost_usd is None or other.cost_usd is None:
            return True
        per_million = request.learned.switch_cost
        if per_million is None:
            price = self._requester.prices.price(Target.parse(stays.target))
            per_million = 0.0
            if price is not None and price.cached_input is not None:
                per_million = price.input - price.cached_input
        # About four bytes of JSON are a token.
        return stays.cost_usd - other.cost_usd <= per_million * request.size / 4e6


def settings_of(route: Route) -> dict[str, Any]:
    """Return what a model depends on; one that was made with something else is outdated."""
    learned = route.learned
    assert learned is not None, "the strategy has settings"
    targets = route.weighted
    reference = -1
    if learned.within is not None:
        reference = targets.index(learned.of) if learned.of in targets else 0
    options = FitOptions(
        at_least=learned.at_least,
        within=learned.within or 0.0,
        reference=reference,
        confidence=learned.confidence,
        neighbours=learned.neighbours,
        margin=learned.margin,
        min_saving=learned.min_saving,
    )
    settings = {
        "quality": learned.quality,
        "embeddings": learned.embeddings,
        "targets": targets,
        "options": options,
    }
    # As the store gives it back.
    stored: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(settings))
    return stored


def _predicted(model: NeighbourModel, vectors: Vectors) -> _Prediction:
    """Return what is predicted for one prompt, on the thread."""
    predictions = model.predict(vectors)
    criterion = model.criterion
    good = good_enough(predictions, criterion)[0]
    targets = tuple(
        PredictedTarget(
            target=target,
            score=_short(predictions.scores[0, n]),
            bound=_short(predictions.bounds[0, n]),
            cost_usd=_short(predictions.costs[0, n])
            if np.isfinite(predictions.costs[0, n])
            else None,
            good=bool(good[n]),
        )
        for n, target in enumerate(model.targets)
    )
    order = ranked(predictions, criterion)[0].tolist()
    return _Prediction(tuple(order), targets, float(predictions.similarity[0]))


def _short(value: float) -> float:
    """Return a number with six digits, so that records stay small."""
    return float(f"{float(value):.6g}")
