"""Gathers what a learned route is made of: prompts with what targets scored and cost there.

    gathered = await Gathering(store, recorded).of_runs("rougeL", targets, runs=(), route="chat")
    gathered = await Gathering(store, recorded).of_feedback("thumb", targets, route="chat")

Runs and shadows have the scores of several targets for a prompt. Feedback is about the one target
that answered, and counts in the held-out test where the record says with which chance that target
was tried first.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import msgspec
import numpy as np

from evaluators.base import PRECOMPUTED
from evaluators.metrics.registry import METRICS, build
from providers.errors import ConflictError, EvalrouterError, RequestError, closest
from providers.wire import UNREADABLE
from router.loop.feedback_signal import GivenScore, read_signal
from router.loop.learned.examples import Examples, Vectors
from router.loop.learned.prompt_text import text_of_envelope, text_of_messages
from router.sealing.traffic import RecordedTraffic
from router.store.learned import LearnedSource
from router.store.protocol import Store
from router.store.results import ScoredAnswer
from router.store.runs import Run
from router.store.traffic import TrafficFilter, TrafficRow

MAX_ROWS = 20_000
"""A model has at most so many prompts, the newest."""

MAX_RUNS = 200
MAX_RECORDS = 200_000
"""So many records of a route are looked through for those with feedback."""

FEWEST_SCORES = 50
"""A model needs so many scores of each target."""

_PAGE = 500
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Sums:
    """What was seen of one target at one prompt."""

    __slots__ = ("cost", "costs", "score", "scores", "seconds", "times")

    def __init__(self) -> None:
        self.score = self.cost = self.seconds = 0.0
        self.scores = self.costs = self.times = 0.0

    def add(
        self, score: float, cost: float | None, seconds: float | None, weight: float = 1.0
    ) -> None:
        self.score += weight * score
        self.scores += weight
        if cost is not None:
            self.cost += cost
            self.costs += 1
        if seconds is not None:
            self.seconds += seconds
            self.times += 1

    def means(self) -> tuple[float, float, float]:
        return (
            self.score / self.scores if self.scores else math.nan,
            self.cost / self.costs if self.costs else math.nan,
            self.seconds / self.times if self.times else math.nan,
        )


class _Prompt:
    """One row before its text is embedded."""

    __slots__ = ("propensity", "sources", "targets", "text", "unit")

    def __init__(self, text: str, unit: str) -> None:
        self.text = text
        self.unit = unit
        self.propensity = math.nan
        self.targets: dict[str, _Sums] = {}
        self.sources: list[LearnedSource] = []


class Gathered(NamedTuple):
    """Prompts, before their texts are embedded.

    Attributes:
        targets: `provider/model`.
        prompts: the rows, the newest first.
        made_of: how many there are, by where they come from, and the ids of runs.
    """

    targets: tuple[str, ...]
    prompts: Sequence[_Prompt]
    made_of: dict[str, Any]

    def newest(self, count: int) -> Gathered:
        """Return the newest of the prompts."""
        return self._replace(prompts=self.prompts[:count])

    @property
    def texts(self) -> list[str]:
        """Return the text of each row."""
        return [prompt.text for prompt in self.prompts]

    def sources(self) -> list[LearnedSource]:
        """Return where the rows come from."""
        return [
            msgspec.structs.replace(source, row=n)
            for n, prompt in enumerate(self.prompts)
            for source in prompt.sources
        ]

    def examples(self, vectors: Vectors) -> Examples:
        """Return what is known of the prompts by their vectors, shape (n, d)."""
        units: dict[str, int] = {}
        empty = _Sums()
        means = np.array(
            [
                [prompt.targets.get(target, empty).means() for target in self.targets]
                for prompt in self.prompts
            ]
        ).reshape(len(self.prompts), len(self.targets), 3)
        return Examples(
            self.targets,
            vectors,
            means[:, :, 0],
            means[:, :, 1],
            means[:, :, 2],
            np.array([prompt.propensity for prompt in self.prompts]),
            np.array(
                [units.setdefault(prompt.unit, len(units)) for prompt in self.prompts], np.int64
            ),
        )

    def check(self, quality: str) -> None:
        """Refuse what is too little to learn from.

        Raises:
            ConflictError: a target has too few scores, or no known cost.
        """
        counts = Counter(target for prompt in self.prompts for target in prompt.targets)
        for target in self.targets:
            if counts[target] < FEWEST_SCORES:
                raise ConflictError(
                    f"{target} has {quality} for {counts[target]} prompts; at least "
                    f"{FEWEST_SCORES} of each target are needed. A run over all targets, as "
                    f"routes: [{', '.join(self.targets)}], gives them.",
                    code="not_enough_rows",
                )
            if not any(
                target in prompt.targets and prompt.targets[target].costs for prompt in self.prompts
            ):
                raise ConflictError(
                    f"No cost of {target} is known; give its price (prices:, or price_per_hour).",
                    code="unknown_cost",
                )


class Gathering:
    """Gathers prompts.

    Args:
        store: has runs and feedback.
        recorded: has the requests.
    """

    def __init__(self, store: Store, recorded: RecordedTraffic) -> None:
        self._store = store
        self._recorded = recorded

    # runs

    async def of_runs(
        self, quality: str, targets: tuple[str, ...], *, route: str, named: Sequence[str]
    ) -> Gathered:
        """Gather prompts of runs over the targets, and of the route's shadows.

        Args:
            quality: the output that counts.
            targets: `provider/model`.
            route: the learned route's name.
            named: ids or names of the runs; all that have answers of the targets by default.

        Raises:
            RequestError: no such run, or none with that output, or lower values of it are better.
        """
        shadows = {row.run for row in await self._store.shadows() if row.route == route}
        runs = await self._runs(targets, route, named, shadows)
        prompts: dict[str, _Prompt] = {}
        outputs: Counter[str] = Counter()
        used: list[str] = []
        without_text = 0
        for run in runs:
            if len(prompts) >= MAX_ROWS:
                break
            await asyncio.to_thread(_check_direction, run, quality)
            before = outputs[quality]
            without_text += await self._add_run(
                run, quality, targets, prompts, outputs, shadow=run.id in shadows
            )
            if outputs[quality] > before:
                used.append(run.id)
        if not used:
            names = sorted(name for name in outputs if name != quality)
            raise RequestError(
                f"quality: no run over the route's targets has the output {quality!r}."
                f"{closest(quality, names)}",
                param="quality",
                code="unknown_quality",
            )
        rows = [prompt for prompt in prompts.values() if prompt.targets]
        made_of = {"runs": used, "prompts": len(rows), "without_text": without_text}
        return Gathered(targets, rows, made_of)

    async def _runs(
        self, targets: tuple[str, ...], route: str, named: Sequence[str], shadows: set[str]
    ) -> list[Run]:
        listed = await self._store.runs(limit=MAX_RUNS)
        if named:
            by_name = {run.name: run for run in reversed(listed)} | {run.id: run for run in listed}
            chosen = []
            for name in named:
                run = by_name.get(name) or await self._store.run(name)
                if run is None:
                    raise RequestError(
                        f"runs: there is no run {name!r}.{closest(name, by_name)}", param="runs"
                    )
                chosen.append(run)
            return chosen
        return [
            run
            for run in listed
            if run.id in shadows or {route, *targets} & {*_routes_of(run.document)}
        ]

    async def _add_run(
        self,
        run: Run,
        quality: str,
        targets: tuple[str, ...],
        prompts: dict[str, _Prompt],
        outputs: Counter[str],
        *,
        shadow: bool,
    ) -> int:
        """Add what a run says; return how many samples have no text to embed."""
        rows: dict[str, _Prompt] = {}
        without_text = 0
        async for sample in self._store.samples(run.id):
            text = text_of_messages(sample.messages)
            if not text:
                without_text += 1
                continue
            unit = f"{run.id} {sample.cluster}" if sample.cluster else text
            key = f"{run.id} {sample.id}" if shadow else text
            if key not in prompts and len(prompts) >= MAX_ROWS:
                continue
            row = rows[sample.id] = prompts.setdefault(key, _Prompt(text, unit))
            row.sources.append(
                LearnedSource(row=0, id=sample.id, shadow_run=run.id)
                if shadow
                else LearnedSource(row=0, dataset_hash=run.dataset_hash, dataset_row=sample.id)
            )
        async for result in self._store.results(run.id):
            answer = result.answer
            outputs.update(
                score.output
                for score in result.scores
                if score.output not in outputs and score.output != quality
            )
            prompt = rows.get(result.cell.sample_id)
            if answer is None or prompt is None or answer.target not in targets:
                continue
            if result.cell.route == PRECOMPUTED and not shadow:
                # It comes from a file, which need not say who answered.
                continue
            value = _value(result, quality)
            if value is not None:
                outputs[quality] += 1
                prompt.targets.setdefault(answer.target, _Sums()).add(
                    value, answer.cost_usd, answer.total_s
                )
        return without_text

    # feedback

    async def of_feedback(self, name: str, targets: tuple[str, ...], *, route: str) -> Gathered:
        """Gather the route's requests that have feedback of a name.

        Raises:
            RequestError: there is none.
        """
        signal = await read_signal(self._store, name, route=route)
        given = dict(islice(signal.given.items(), MAX_ROWS))
        if not given:
            raise RequestError(
                f"quality: no feedback of the name {name!r} with a value was given about requests "
                f"of {route!r}",
                param="quality",
                code="unknown_quality",
            )
        matched = await self._records(given, route)
        prompts: list[_Prompt] = []
        counts: Counter[str] = Counter()
        numbers = [row.number for row in matched.values()]
        async for rows in self._recorded.with_bodies(numbers):
            for row in rows:
                text = await asyncio.to_thread(_text_of, row)
                target = row.target
                if not text or target not in targets:
                    counts["without_text" if not text else "other_targets"] += 1
                    continue
                prompts.append(_of_request(row, text, given[row.id]))
        made_of: dict[str, Any] = {
            "feedback": sum(map(len, given.values())),
            "requests": len(prompts),
            "without_body": len(given) - len(matched),
            **counts,
        }
        if warnings := signal.warnings(name):
            made_of["warnings"] = warnings
        return Gathered(targets, prompts[::-1][:MAX_ROWS], made_of)

    async def _records(
        self, given: Mapping[str, Sequence[GivenScore]], route: str
    ) -> dict[str, TrafficRow]:
        """Return the requests with some ids whose bodies are stored."""
        matched: dict[str, TrafficRow] = {}
        since = min(each.at for scores in given.values() for each in scores)
        matching = TrafficFilter(route=route, traffic_class="live", since=since)
        before = None
        read = 0
        while read < MAX_RECORDS and len(matched) < len(given):
            page = await self._recorded.page(matching, limit=_PAGE, before=before)
            if not page:
                break
            before = page[-1].number
            read += len(page)
            matched |= {row.id: row for row in page if row.id in given and row.bodies}
        return matched


def _of_request(row: TrafficRow, text: str, given: Sequence[GivenScore]) -> _Prompt:
    """Return a request with feedback as a row."""
    who = row.user or row.conversation
    prompt = _Prompt(text, f"{row.key_id} {who}" if who else row.id)
    sums = prompt.targets.setdefault(row.target, _Sums())
    for feedback in given:
        sums.add(feedback.score, row.cost_usd, row.total_s, feedback.weight)
    if row.propensity is not None and row.first_target == row.target and not row.cached:
        prompt.propensity = row.propensity
    source = LearnedSource(
        row=0,
        id=row.id,
        at=row.at,
        key_id=row.key_id,
        user=row.user,
        request_id=row.request_id,
        response_id=row.response_id,
        conversation=row.conversation,
        rollout=row.rollout,
        arm=row.arm,
        route=row.route,
        target=row.target,
        traffic_class=row.traffic_class,
        status=row.status,
    )
    authors = {feedback.user for feedback in given if feedback.user} or {""}
    prompt.sources += [msgspec.structs.replace(source, author=author) for author in authors]
    return prompt


def _text_of(row: TrafficRow) -> str:
    if row.request is None:
        return ""
    try:
        return text_of_envelope(_decode(row.request))
    except UNREADABLE:
        return ""


def _value(result: ScoredAnswer, quality: str) -> float | None:
    return next((score.value for score in result.scores if score.output == quality), None)


def _routes_of(document: Mapping[str, Any]) -> list[str]:
    routes = document.get("routes", ())
    return [route for route in routes if isinstance(route, str)]


def _check_direction(run: Run, quality: str) -> None:
    """Refuse an output of which higher values are not better, as far as a built-in metric says."""
    for spec in run.document.get("metrics", ()):
        if (spec if isinstance(spec, str) else spec.get("name")) not in METRICS:
            continue
        try:
            outputs = build(spec).outputs
        except EvalrouterError:
            # The run has its scores; what they are of is not installed here.
            continue
        if any(o.name == quality and o.higher_is_better is not True for o in outputs):
            raise RequestError(
                f"quality: higher values of {quality} are not better",
                param="quality",
                code="unsuitable_quality",
            )
