"""Comparing runs: which routes are held against which, on which samples, and what else differs.

    found = await compare_runs(services, ["run_a", "run_b"], ComparisonRequest())

Rows are read from the store as they are counted; nothing of a run is held but its numbers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from hashlib import sha256
from typing import Any

import msgspec

from evaluators.base import Answer, AnyMetric, Output, Sample
from evaluators.document import RunDocument
from evaluators.reports.accumulator import ScoreAccumulator
from evaluators.reports.compare import Comparisons, Join, Side, compare
from providers.base import AS_IT_CAME
from providers.errors import ConflictError, RequestError, closest
from router.evals.runs import Runs
from router.evals.stored_runs import stored_document
from router.evals.validation import build_metrics
from router.store.results import ResultStore, ScoredAnswer
from router.store.runs import Run

_CHUNK = 100  # samples that a thread digests at a time; their texts may be long


class ComparisonRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to compare.

    Attributes:
        route_a, route_b: routes of the first and the second run (of one run: both of it); None for
            the routes that both runs have (of one run: all others against its baseline).
        join: how samples of different datasets are paired; None refuses them.
        movers: how many samples to name for each output.
    """

    route_a: str | None = None
    route_b: str | None = None
    join: Join | None = None
    movers: int = 5


class _Half(msgspec.Struct, frozen=True):
    """A run with what is needed of it."""

    run: Run
    document: RunDocument
    metrics: list[AnyMetric]


class _Chosen(msgspec.Struct, frozen=True):
    """The part of a metric that both runs have."""

    name: str
    outputs: tuple[Output, ...]
    signature: str


class _Asked(msgspec.Struct):
    """How the answers of one side came about."""

    models: Counter[str] = msgspec.field(default_factory=Counter)
    translations: Counter[tuple[str, ...]] = msgspec.field(default_factory=Counter)
    failed: int = 0

    def add(self, answer: Answer) -> None:
        if answer.text is None:
            self.failed += 1
            return
        if answer.model:
            self.models[answer.model] += 1
        came = answer.translation
        if came is AS_IT_CAME or came == AS_IT_CAME:
            self.translations[()] += 1
            return
        kinds = {"renamed": came.renamed, "converted": came.converted, "dropped": came.dropped}
        self.translations[
            tuple(f"{name} {kind}" for kind, names in kinds.items() for name in sorted(names))
        ] += 1


async def compare_runs(
    runs: Runs, store: ResultStore, run_ids: Sequence[str], wanted: ComparisonRequest
) -> Comparisons:
    """Hold one run against another, or routes of one run against each other.

    Args:
        runs: to find them.
        store: their rows.
        run_ids: one or two ids, or unique prefixes.
        wanted: routes and how to pair.

    Raises:
        NotFoundError: no such run.
        RequestError: a route that a run does not have, or none that both have.
        ConflictError: runs on different datasets, or without an output in common.
    """
    halves = [await _half(runs, run_id) for run_id in dict.fromkeys(run_ids)]
    if not 1 <= len(halves) <= 2:
        raise RequestError("runs: name one run or two", param="runs")
    first, second = halves[0], halves[-1]
    pairs = _pairs(first, second, wanted)
    join = _join(first.run, second.run, wanted.join)
    metrics = _common(first, second)
    chosen = dict.fromkeys(side for pair in pairs for side in pair)
    tally = ScoreAccumulator(
        routes=[side.key for side in chosen],
        metrics=metrics,
        expected={side.key: 0 for side in chosen},
        clusters=await store.clusters(first.run.id),
    )
    warnings = list(_different(first, second))
    names: Mapping[str, str] | None = None
    if first is not second and (wanted.join is not None or join == "position"):
        names, told = await _other_names(store, first, second, join)
        warnings += told
    asked = {side: _Asked() for side in chosen}
    await _count(store, first.run.id, asked, tally, None)
    if second is not first:
        await _count(store, second.run.id, asked, tally, names)
    warnings += _asked_otherwise(pairs, asked)
    return await asyncio.to_thread(
        compare, tally, pairs, joined=join, warnings=warnings, movers=wanted.movers
    )


async def _half(runs: Runs, run_id: str) -> _Half:
    run = await runs.find(run_id)
    document = stored_document(run)
    return _Half(run, document, build_metrics(document))


def _pairs(first: _Half, second: _Half, wanted: ComparisonRequest) -> list[tuple[Side, Side]]:
    a, b = wanted.route_a, wanted.route_b
    for half, route, param in ((first, a, "route_a"), (second, b, "route_b")):
        if route is not None and route not in half.document.routes:
            raise RequestError(
                f"{param}: {half.run.id} has no route {route!r}."
                f"{closest(route, half.document.routes)}",
                param=param,
            )
    if first.run.id == second.run.id:
        return _pairs_of_one(first, a, b)
    theirs = second.document.routes
    if a is not None or b is not None:
        a = a or _counterpart(first, b or "", "route_a")
        b = b or _counterpart(second, a, "route_b")
        return [(_side(first, a), _side(second, b))]
    common = [route for route in first.document.routes if route in theirs]
    if not common and len(first.document.routes) == len(theirs) == 1:
        return [(_side(first, first.document.routes[0]), _side(second, theirs[0]))]
    if not common:
        raise RequestError(
            f"The runs have no route in common: pass route_a (one of "
            f"{', '.join(first.document.routes)}) and route_b (one of {', '.join(theirs)})",
            param="route_a",
        )
    return [(_side(first, route), _side(second, route)) for route in common]


def _pairs_of_one(half: _Half, a: str | None, b: str | None) -> list[tuple[Side, Side]]:
    routes = half.document.routes
    alone = RequestError(
        f"{half.run.id}: a route cannot be compared with itself; name another run or route",
        param="route_a",
    )
    if len(routes) == 1:
        raise alone
    b = b or (half.document.baseline if half.document.baseline != a else None)
    if b is None:
        others = [route for route in routes if route != a]
        if a is None or len(others) != 1:
            raise RequestError(
                f"route_b: say which route of {half.run.id} the others are compared with: "
                f"{', '.join(others)}",
                param="route_b",
            )
        b = others[0]
    chosen = [a] if a is not None else [route for route in routes if route != b]
    if chosen == [b]:
        raise alone
    return [(_side(half, route), _side(half, b)) for route in chosen]


def _counterpart(half: _Half, route: str, param: str) -> str:
    routes = half.document.routes
    if route in routes:
        return route
    if len(routes) == 1:
        return routes[0]
    raise RequestError(
        f"{param}: {half.run.id} has no route {route!r}; pass {param}, one of {', '.join(routes)}",
        param=param,
    )


def _side(half: _Half, route: str) -> Side:
    return Side(run=half.run.id, name=half.run.name, route=route)


def _join(first: Run, second: Run, wanted: Join | None) -> Join:
    if first.dataset_hash == second.dataset_hash or wanted is not None:
        return wanted or "id"
    raise ConflictError(
        f"The runs are on different datasets: {first.dataset} (sha256 {first.dataset_hash[:12]}) "
        f"and {second.dataset} (sha256 {second.dataset_hash[:12]}). Pass join=id to pair samples "
        "of the same id, or join=position to pair the first with the first; --join on the command "
        "line",
        param="join",
        code="different_datasets",
    )


def _common(first: _Half, second: _Half) -> list[_Chosen]:
    """The outputs that both runs have, of metrics of the same name."""
    there = {(one.name, output.name) for one in second.metrics for output in one.outputs}
    found = []
    for metric in first.metrics:
        outputs = tuple(one for one in metric.outputs if (metric.name, one.name) in there)
        if outputs:
            found.append(_Chosen(metric.name, outputs, metric.signature))
    if not found:
        names = (", ".join(one.name for one in half.metrics) for half in (first, second))
        raise ConflictError(
            f"The runs have no metric in common: one has {next(names)}, the other {next(names)}",
            param="runs",
        )
    return found


async def _count(
    store: ResultStore,
    run_id: str,
    asked: Mapping[Side, _Asked],
    tally: ScoreAccumulator,
    names: Mapping[str, str] | None,
) -> None:
    """Add a run's rows; samples that the other run does not have keep a name of their own."""
    known = {output.name for metric in tally.metrics for output in metric.outputs}
    sides = {side.route: side for side in asked if side.run == run_id}

    def take(row: ScoredAnswer) -> None:
        side = sides.get(row.cell.route)
        if side is None or row.answer is None:
            return
        asked[side].add(row.answer)
        sample = row.cell.sample_id
        if names is not None:
            sample = names.get(sample, f"{run_id} {sample}")
        scores = [score for score in row.scores if score.output in known]
        tally.add(row.cell._replace(route=side.key, sample_id=sample), row.answer, scores)

    # On threads: a million rows would hold up everything else in this process.
    await store.each_result(run_id, take)


async def _other_names(
    store: ResultStore, first: _Half, second: _Half, join: Join
) -> tuple[dict[str, str], list[str]]:
    """Ids of the second run's samples to those of the first's; and what their texts say of it."""
    same_prompt = _prompt(first.document) == _prompt(second.document)
    ours = await _digests(store, first.run.id, with_messages=same_prompt)
    theirs = await _digests(store, second.run.id, with_messages=same_prompt)
    if join == "id":
        names = {name: name for name in theirs if name in ours}
    else:
        names = dict(zip(theirs, ours, strict=False))
    changed = sum(theirs[name] != ours[other] for name, other in names.items())
    told = []
    what = "messages or references" if same_prompt else "references"
    if changed:
        told.append(
            f"{changed:,} of {len(names):,} pairs of samples have different {what}: pairing by "
            f"{join} may pair different questions."
        )
    if len(names) < max(len(ours), len(theirs)):
        told.append(
            f"{len(names):,} samples are in both runs, of {len(ours):,} and {len(theirs):,}; only "
            "those are compared."
        )
    return names, told


async def _digests(store: ResultStore, run_id: str, *, with_messages: bool) -> dict[str, bytes]:
    """Sample id to what stands for its texts, in dataset order."""
    found: dict[str, bytes] = {}
    chunk: list[Sample] = []

    def digest() -> None:
        found.update((one.id, _digest(one, with_messages=with_messages)) for one in chunk)
        chunk.clear()

    async with aclosing(store.samples(run_id)) as samples:
        async for sample in samples:
            chunk.append(sample)
            if len(chunk) == _CHUNK:
                await asyncio.to_thread(digest)
    await asyncio.to_thread(digest)
    return found


def _digest(sample: Sample, *, with_messages: bool) -> bytes:
    said = (sample.references, sample.messages if with_messages else ())
    return sha256(msgspec.json.encode(said)).digest()[:8]


def _prompt(document: RunDocument) -> Any:
    return document.messages, document.prompt


def _different(first: _Half, second: _Half) -> list[str]:
    """What the two runs were asked differently."""
    told = []
    for run in dict.fromkeys((first.run.id, second.run.id)):
        half = first if run == first.run.id else second
        if half.run.state != "completed":
            told.append(f"{run} is {half.run.state}: its scores may change.")
        if half.run.stopped:
            told.append(
                f"{run} ended early ({half.run.stopped}); intervals and p-values here assume that "
                "the number of samples was not chosen by looking at the scores."
            )
    if first.run.id == second.run.id:
        return told
    if _prompt(first.document) != _prompt(second.document):
        told.append("The prompts differ: the difference is of prompt and route together.")
    ours, theirs = first.document.parameters, second.document.parameters
    told += [
        f"The parameter {name} differs: {_shown(ours, name)} and {_shown(theirs, name)}."
        for name in sorted(ours.keys() | theirs.keys())
        if _shown(ours, name) != _shown(theirs, name)
    ]
    if first.document.columns != second.document.columns:
        told.append("The column mappings differ.")
    if first.document.repeats != second.document.repeats:
        told.append(
            f"The repeats differ: {first.document.repeats} and {second.document.repeats}; each "
            "sample counts once, the means of more repeats vary less."
        )
    for name, signature in first.run.metrics.items():
        other = second.run.metrics.get(name)
        if other is None:
            told.append(f"Only the first run has the metric {name}.")
        elif other != signature:
            told.append(f"{name} was measured differently: {signature} and {other}.")
    told += [
        f"Only the second run has the metric {name}."
        for name in second.run.metrics
        if name not in first.run.metrics
    ]
    return told


def _shown(parameters: Mapping[str, Any], name: str) -> str:
    if name not in parameters:
        return "not set"
    text = msgspec.json.encode(parameters[name]).decode()
    return text if len(text) <= 80 else f"{text[:79]}…"


def _asked_otherwise(pairs: Sequence[tuple[Side, Side]], asked: Mapping[Side, _Asked]) -> list[str]:
    """What became of the requests, where it was not the same on both sides."""
    told = []
    for a, b in pairs:
        ours, theirs = asked[a], asked[b]
        name = f"{a.route} and {b.route}" if a.route != b.route else a.route
        if set(ours.translations) != set(theirs.translations):
            said = [_translated(one) for one in (ours, theirs)]
            told.append(
                f"{name}: the requests were not translated alike: {said[0]} on one side, "
                f"{said[1]} on the other."
            )
        if a.route == b.route and ours.models.keys() != theirs.models.keys():
            models = [", ".join(sorted(one.models)) or "an unnamed model" for one in (ours, theirs)]
            told.append(f"{name} was answered by {models[0]}, and by {models[1]}.")
        told += [
            f"{side.route} of {side.run}: {found.failed:,} answers failed and are left out."
            for side, found in ((a, ours), (b, theirs))
            if found.failed
        ]
    return list(dict.fromkeys(told))


def _translated(asked: _Asked) -> str:
    names = sorted({name for kinds in asked.translations for name in kinds})
    return ", ".join(names) or "as they came"
