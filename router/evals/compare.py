"""Compares runs: which routes are held against which, on which samples, and what else differs.

    result = await compare_runs(runs, store, ["run_a", "run_b"], ComparisonRequest())

Rows are read from the store as they are counted; only a run's numbers stay in memory.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from evaluators.base import Answer, AnyMetric, EmbeddingMetric, Output, Sample
from evaluators.document import RunDocument
from evaluators.judge.graded import raw_name
from evaluators.reports.accumulator import ScoreAccumulator
from evaluators.reports.compare import (
    Comparisons,
    Join,
    SharedAnswers,
    Side,
    compare,
    sample_differences,
)
from evaluators.reports.report import shortfall_counts
from evaluators.stats.resampling import Floats
from evaluators.text.answers import AnswerRules, OnTruncated, reads_text
from providers.base import AS_IT_CAME
from providers.errors import ConflictError, RequestError, closest
from providers.shortening import shortened
from router.evals.judges.calibrated_shares import errors_elsewhere
from router.evals.judges.people_labels import RunLabels, withhold_uncorrected
from router.evals.looks import looks_at
from router.evals.runs import Runs
from router.evals.shared_answers import AnswerIndex, shared_warning
from router.evals.stored_runs import stored_document
from router.evals.validation import build_metrics
from router.store.protocol import Store
from router.store.results import ResultStore, ScoredAnswer
from router.store.runs import Run

# Of single samples that a comparison has: some 40 MB.
MAX_DIFFERENCES = 5_000_000
_CHUNK = 100  # samples whose digests a thread computes at a time; their texts may be long


class ComparisonRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to compare.

    Attributes:
        route_a, route_b: routes of the first and the second run, or both of a single run; None for
            the routes that both runs have, or of a single run, all others against its baseline.
        join: how samples of different datasets are paired; None refuses them.
        movers: how many samples to name for each output.
        margins: output to the largest difference that makes no difference; where an output is not
            named, the first run's document decides.
    """

    route_a: str | None = None
    route_b: str | None = None
    join: Join | None = None
    movers: int = 5
    margins: Mapping[str, float] = {}


def parse_margins(texts: Iterable[str]) -> dict[str, float]:
    """Read margins written as `output=number`. Raises RequestError."""
    margins = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            margins[name.strip()] = float(number)
        except ValueError:
            raise RequestError(
                f"margin: {text!r} is not of the form output=number", param="margin"
            ) from None
    return margins


class ComparedRun(msgspec.Struct, frozen=True):
    """A run with its document, its metrics, and what people say of its answers.

    `looks` says why its numbers have to hold whenever one looks; see `looks_at`.
    """

    run: Run
    document: RunDocument
    metrics: list[AnyMetric]
    labels: RunLabels
    looks: tuple[str, ...]


class ComparedSamples(NamedTuple):
    """A comparison, and the differences of single samples that it is made of.

    Attributes:
        comparisons: as `compare_runs` returns them.
        samples: the ids of all samples; of a run that is not the first, those that were paired
            have the first's.
        differences: by the contrast's number, from 0: the differences of those samples; NaN where
            one is not compared. Contrasts behind the first MAX_DIFFERENCES numbers have none.
    """

    comparisons: Comparisons
    samples: list[str]
    differences: Mapping[int, Floats]


class _Compared(NamedTuple):
    """A comparison, and what it was made of."""

    comparisons: Comparisons
    scores: ScoreAccumulator
    shared: Mapping[tuple[Side, Side], SharedAnswers]


class _SharedMetric(msgspec.Struct, frozen=True):
    """The part of a metric that both runs have."""

    name: str
    outputs: tuple[Output, ...]
    signature: str


class _AnswerOrigins(msgspec.Struct):
    """How the answers of one side came about: by which models and translations, and failures."""

    models: Counter[str] = msgspec.field(default_factory=Counter)
    translations: Counter[tuple[str, ...]] = msgspec.field(default_factory=Counter)
    failed: int = 0

    def add(self, answer: Answer) -> None:
        if answer.text is None:
            self.failed += 1
            return
        if answer.model:
            self.models[answer.model] += 1
        made = answer.translation
        if made is AS_IT_CAME or made == AS_IT_CAME:
            self.translations[()] += 1
            return
        kinds = {"renamed": made.renamed, "converted": made.converted, "dropped": made.dropped}
        self.translations[
            tuple(f"{name} {kind}" for kind, names in kinds.items() for name in sorted(names))
        ] += 1


class Pairing(NamedTuple):
    """How the second run's samples are paired with the first's.

    Attributes:
        names: ids of the second run's samples to the first's; None where they are the same.
        changed: ids of pairs with different texts.
        warnings: about the pairing.
    """

    names: Mapping[str, str] | None = None
    changed: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()


class _Scorer(NamedTuple):
    """What the scores of one metric depend on, beside the answers."""

    signature: str
    targets: frozenset[str]
    rules: tuple[AnswerRules, OnTruncated] | None


async def compare_runs(
    runs: Runs, store: Store, run_ids: Sequence[str], request: ComparisonRequest
) -> Comparisons:
    """Hold one run against another, or routes of one run against each other.

    Args:
        runs: finds the runs.
        store: has their rows.
        run_ids: one or two ids, or unique prefixes.
        request: the routes, and how to pair samples.

    Raises:
        NotFoundError: no such run.
        RequestError: a run does not have the route, or the runs have no route in common.
        ConflictError: runs on different datasets, or without an output in common.
    """
    members = [await compared_run(runs, store, run_id) for run_id in dict.fromkeys(run_ids)]
    return (await _compared(store, members, request)).comparisons


async def compare_samples(
    store: Store, members: Sequence[ComparedRun], request: ComparisonRequest
) -> ComparedSamples:
    """Compare as `compare_runs` does, and return the differences of single samples as well.

    Args:
        store: has the rows of the runs.
        members: one run or two.
        request: the routes, and how to pair samples.

    Raises:
        As `compare_runs` does.
    """
    comparisons, scores, shared = await _compared(store, members, request)
    differences = await asyncio.to_thread(_differences, comparisons, scores, shared)
    return ComparedSamples(comparisons, list(scores.samples), differences)


async def _compared(
    store: Store, members: Sequence[ComparedRun], request: ComparisonRequest
) -> _Compared:
    if not 1 <= len(members) <= 2:
        raise RequestError("runs: name one run or two", param="runs")
    first, second = members[0], members[-1]
    pairs = _pairs(first, second, request)
    join = _join(first.run, second.run, request.join)
    metrics = _shared_metrics(first, second)
    margins = _margins(first, metrics, request.margins)
    sides = dict.fromkeys(side for pair in pairs for side in pair)
    scores = ScoreAccumulator(
        routes=[side.key for side in sides],
        metrics=metrics,
        expected={side.key: 0 for side in sides},
        clusters=first.labels.clusters,
    )
    warnings = list(differences_of(first, second))
    pairing = Pairing()
    if first is not second and (request.join is not None or join == "position"):
        pairing = await paired(store, first, second, join)
        warnings += pairing.warnings
    origins = {side: _AnswerOrigins() for side in sides}
    answers = await AnswerIndex.of(store, (first.run, second.run))
    await _count(store, first, origins, scores, None, answers)
    if second is not first:
        await _count(store, second, origins, scores, pairing.names, answers)
    withhold_uncorrected(scores)
    shared: dict[tuple[Side, Side], SharedAnswers] = {}
    same = await asyncio.to_thread(_same_answers, answers, pairs, scores, pairing)
    if same:
        outputs = {output.name for metric in metrics for output in metric.outputs}
        compared = outputs & await _scored_differently(store, first, second)
        for pair, samples in same.items():
            shared[pair] = SharedAnswers(samples=samples, compared=compared)
            warnings.append(shared_warning(pair, shared[pair], answers.runs, outputs))
    warnings += _origin_warnings(pairs, origins)
    errors, reasons = await errors_elsewhere(store, same_judges(first, second), metrics)
    warnings += reasons
    for side in sides:
        counted = scores.routes[side.key]
        warnings += shortfall_counts(side.key, counted.shortfalls, counted.answered)
    comparisons = await asyncio.to_thread(
        compare,
        scores,
        pairs,
        joined=join,
        warnings=warnings,
        margins=margins,
        primary=_primary(first, metrics),
        always_valid=any(member.looks for member in members),
        shared=shared,
        errors=errors,
        movers=request.movers,
    )
    return _Compared(comparisons, scores, shared)


def _differences(
    comparisons: Comparisons,
    scores: ScoreAccumulator,
    shared: Mapping[tuple[Side, Side], SharedAnswers],
) -> dict[int, Floats]:
    """Return the samples' differences by contrast: of as many contrasts as there is room for."""
    outputs = {output.name for metric in scores.metrics for output in metric.outputs}
    differences: dict[int, Floats] = {}
    for index, contrast in enumerate(comparisons.contrasts):
        if (len(differences) + 1) * len(scores.samples) > MAX_DIFFERENCES:
            break
        pair, name = (contrast.a, contrast.b), contrast.output
        # A share that is corrected by known errors of its judge has no scores of samples.
        if name in outputs:
            differences[index] = sample_differences(scores, pair, name, shared.get(pair))
    return differences


async def compared_run(runs: Runs, store: Store, run_id: str) -> ComparedRun:
    """Return a run to compare. Raises NotFoundError where there is none."""
    run = await runs.find(run_id)
    document = stored_document(run)
    metrics = build_metrics(document)
    labels = await RunLabels.of(store, run, metrics, await store.clusters(run.id))
    return ComparedRun(run, document, metrics, labels, await looks_at(store, run, document))


def _pairs(
    first: ComparedRun, second: ComparedRun, request: ComparisonRequest
) -> list[tuple[Side, Side]]:
    a, b = request.route_a, request.route_b
    for member, route, param in ((first, a, "route_a"), (second, b, "route_b")):
        if route is not None and route not in member.document.routes:
            raise RequestError(
                f"{param}: {member.run.id} has no route {route!r}."
                f"{closest(route, member.document.routes)}",
                param=param,
            )
    if first.run.id == second.run.id:
        return _pairs_within(first, a, b)
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


def _pairs_within(member: ComparedRun, a: str | None, b: str | None) -> list[tuple[Side, Side]]:
    """Return the pairs of a comparison of routes of one run."""
    routes = member.document.routes
    alone = RequestError(
        f"{member.run.id}: a route cannot be compared with itself; name another run or route",
        param="route_a",
    )
    if len(routes) == 1:
        raise alone
    b = b or (member.document.baseline if member.document.baseline != a else None)
    if b is None:
        others = [route for route in routes if route != a]
        if a is None or len(others) != 1:
            raise RequestError(
                f"route_b: say which route of {member.run.id} the others are compared with: "
                f"{', '.join(others)}",
                param="route_b",
            )
        b = others[0]
    chosen = [a] if a is not None else [route for route in routes if route != b]
    if chosen == [b]:
        raise alone
    return [(_side(member, route), _side(member, b)) for route in chosen]


def _counterpart(member: ComparedRun, route: str, param: str) -> str:
    """Return the run's route to compare with a route of the other run."""
    routes = member.document.routes
    if route in routes:
        return route
    if len(routes) == 1:
        return routes[0]
    raise RequestError(
        f"{param}: {member.run.id} has no route {route!r}; pass {param}, one of "
        f"{', '.join(routes)}",
        param=param,
    )


def _side(member: ComparedRun, route: str) -> Side:
    return Side(run=member.run.id, name=member.run.name, route=route)


def _join(first: Run, second: Run, requested: Join | None) -> Join:
    if first.dataset_hash == second.dataset_hash or requested is not None:
        return requested or "id"
    raise ConflictError(
        f"The runs are on different datasets: {first.dataset} (sha256 {first.dataset_hash[:12]}) "
        f"and {second.dataset} (sha256 {second.dataset_hash[:12]}). Pass join=id to pair samples "
        "of the same id, or join=position to pair the first with the first; --join on the command "
        "line",
        param="join",
        code="different_datasets",
    )


def _shared_metrics(first: ComparedRun, second: ComparedRun) -> list[_SharedMetric]:
    """Return the outputs that both runs have, of metrics of the same name."""
    theirs = {
        (metric.name, output.name) for metric in second.labels.metrics for output in metric.outputs
    }
    shared = []
    corrected = {
        (metric.name, output.corrects): metric
        for member in (second, first)
        for metric in member.labels.metrics
        for output in metric.outputs
        if output.corrects
    }
    for metric in first.labels.metrics:
        # With labels of one run only, the report says why nothing is corrected.
        described = next(
            (
                corrected[metric.name, output.name]
                for output in metric.outputs
                if (metric.name, output.name) in corrected
            ),
            metric,
        )
        outputs = tuple(
            output
            for output in described.outputs
            if (metric.name, output.corrects or output.name) in theirs
        )
        if outputs:
            shared.append(_SharedMetric(metric.name, outputs, metric.signature))
    if not shared:
        names = (", ".join(metric.name for metric in member.metrics) for member in (first, second))
        raise ConflictError(
            f"The runs have no metric in common: one has {next(names)}, the other {next(names)}",
            param="runs",
        )
    return shared


def same_judges(first: ComparedRun, second: ComparedRun) -> list[AnyMetric]:
    """Return the metrics that scored both runs alike, so that judges err alike in both."""
    ours, theirs = first.run.metrics, second.run.metrics
    return [metric for metric in first.metrics if ours[metric.name] == theirs.get(metric.name)]


def _primary(first: ComparedRun, metrics: Sequence[_SharedMetric]) -> str | None:
    """Return the first run's deciding output if both runs have it."""
    shared = {output.name for metric in metrics for output in metric.outputs}
    primary = None if first.document.deciding is None else raw_name(first.document.deciding)
    return primary if primary in shared else None


def _margins(
    first: ComparedRun, metrics: Sequence[_SharedMetric], requested: Mapping[str, float]
) -> dict[str, float]:
    """Return the margin of each compared output that has one. Raises RequestError."""
    names = [output.name for metric in metrics for output in metric.outputs]
    for name, margin in requested.items():
        if name not in names:
            raise RequestError(
                f"margin: the runs have no output {name!r} in common.{closest(name, names)}",
                param="margin",
            )
        if not 0 < margin < math.inf:
            raise RequestError(f"margin: {name} needs a number above 0", param="margin")
    return {
        raw_name(name): margin for name, margin in {**first.document.margins, **requested}.items()
    }


async def _count(  # noqa: PLR0917 - one argument for each thing that is counted
    store: ResultStore,
    member: ComparedRun,
    origins: Mapping[Side, _AnswerOrigins],
    scores: ScoreAccumulator,
    names: Mapping[str, str] | None,
    answers: AnswerIndex,
) -> None:
    """Add a run's rows; samples that the other run does not have get a name of this run's."""
    run_id = member.run.id
    known = {output.name for metric in scores.metrics for output in metric.outputs}
    sides = {side.route: side for side in origins if side.run == run_id}

    def take(row: ScoredAnswer) -> None:
        side = sides.get(row.cell.route)
        if side is None or row.answer is None:
            return
        origins[side].add(row.answer)
        sample = row.cell.sample_id
        if names is not None:
            sample = names.get(sample, f"{run_id} {sample}")
        shared = [score for score in member.labels.scores(row) if score.output in known]
        scores.add(row.cell._replace(route=side.key, sample_id=sample), row.answer, shared)
        answers.add(side, scores.samples[sample], row)

    # On threads: a million rows would hold up everything else in this process.
    await store.each_result(run_id, take)


def _same_answers(
    answers: AnswerIndex,
    pairs: Sequence[tuple[Side, Side]],
    scores: ScoreAccumulator,
    pairing: Pairing,
) -> dict[tuple[Side, Side], frozenset[str]]:
    """Return the samples with the same answer and the same references on both sides of a pair."""
    ids = list(scores.samples)
    same = {
        pair: frozenset(ids[number] for number in answers.shared(*pair)) - pairing.changed
        for pair in pairs
    }
    return {pair: samples for pair, samples in same.items() if samples}


async def _scored_differently(
    store: Store, first: ComparedRun, second: ComparedRun
) -> frozenset[str]:
    """Return the outputs that the two runs scored differently, so that equal answers may differ."""
    ours, theirs = [await _scorers(store, member) for member in (first, second)]
    return frozenset(
        output.name
        for metric in first.metrics
        for output in metric.outputs
        if metric.name in theirs and ours[metric.name] != theirs[metric.name]
    )


async def _scorers(store: Store, member: ComparedRun) -> dict[str, _Scorer]:
    """Return what scored a run's answers, by the metric's name."""
    run, document = member.run, member.document
    judges = await store.judge_use(run.id)
    embeddings = await store.embedding_use(run.id)
    scorers = {}
    for metric in member.metrics:
        routes = {use.target for use in judges if use.metric == metric.name}
        if isinstance(metric, EmbeddingMetric):
            routes = {use.target for use in embeddings if use.route == metric.route}
        rules = (document.answer, document.on_truncated) if reads_text(metric) else None
        scorers[metric.name] = _Scorer(run.metrics.get(metric.name, ""), frozenset(routes), rules)
    return scorers


async def paired(
    store: ResultStore, first: ComparedRun, second: ComparedRun, join: Join
) -> Pairing:
    """Pair the samples of runs on different datasets.

    Args:
        store: has the samples.
        first: the run whose ids name the pairs.
        second: the other run.
        join: how samples are paired.
    """
    same_prompt = _prompt(first.document) == _prompt(second.document)
    ours = await _digests(store, first.run.id, with_messages=same_prompt)
    theirs = await _digests(store, second.run.id, with_messages=same_prompt)
    if join == "id":
        names = {name: name for name in theirs if name in ours}
    else:
        names = dict(zip(theirs, ours, strict=False))
    changed = {other for name, other in names.items() if theirs[name] != ours[other]}
    warnings = []
    what = "messages or references" if same_prompt else "references"
    if changed:
        warnings.append(
            f"{len(changed):,} of {len(names):,} pairs of samples have different {what}: pairing "
            f"by {join} may pair different questions."
        )
    if len(names) < max(len(ours), len(theirs)):
        warnings.append(
            f"{len(names):,} samples are in both runs, of {len(ours):,} and {len(theirs):,}; only "
            "those are compared."
        )
    return Pairing(names, frozenset(changed), tuple(warnings))


async def _digests(store: ResultStore, run_id: str, *, with_messages: bool) -> dict[str, bytes]:
    """Map each sample's id to the digest of its texts, in dataset order."""
    digests: dict[str, bytes] = {}
    chunk: list[Sample] = []

    def digest() -> None:
        digests.update(
            (sample.id, _digest(sample, with_messages=with_messages)) for sample in chunk
        )
        chunk.clear()

    async with aclosing(store.samples(run_id)) as samples:
        async for sample in samples:
            chunk.append(sample)
            if len(chunk) == _CHUNK:
                await asyncio.to_thread(digest)
    await asyncio.to_thread(digest)
    return digests


def _digest(sample: Sample, *, with_messages: bool) -> bytes:
    texts = (sample.references, sample.messages if with_messages else ())
    return sha256(msgspec.json.encode(texts)).digest()[:8]


def _prompt(document: RunDocument) -> Any:
    return document.messages, document.prompt


def _stage(member: ComparedRun) -> Iterable[str]:
    """Warn of a run that has not ended, or whose size may have been chosen by what it showed."""
    run = member.run
    if run.state != "completed":
        yield f"{run.id} is {run.state}: its scores may change."
    if member.looks:
        yield (
            f"{run.id} {' and '.join(member.looks)}, so intervals, p-values and verdicts are those "
            "that hold whenever one looks."
        )


def differences_of(first: ComparedRun, second: ComparedRun) -> list[str]:
    """Return warnings about what differs between the documents and metrics of the runs."""
    warnings = [
        sentence
        for member in dict.fromkeys((first.run.id, second.run.id))
        for sentence in _stage(first if member == first.run.id else second)
    ]
    if first.run.id == second.run.id:
        return warnings
    if _prompt(first.document) != _prompt(second.document):
        warnings.append("The prompts differ: the difference is of prompt and route together.")
    ours, theirs = first.document.parameters, second.document.parameters
    warnings += [
        f"The parameter {name} differs: {_shown(ours, name)} and {_shown(theirs, name)}."
        for name in sorted(ours.keys() | theirs.keys())
        if _shown(ours, name) != _shown(theirs, name)
    ]
    if first.document.answer != second.document.answer:
        warnings.append("The answers were read by different rules (answer): thoughts may differ.")
    if first.document.on_truncated != second.document.on_truncated:
        warnings.append(
            "Answers that were cut off, filtered or refused are treated differently: on_truncated "
            f"is {first.document.on_truncated} and {second.document.on_truncated}."
        )
    if first.document.columns != second.document.columns:
        warnings.append("The column mappings differ.")
    if first.document.repeats != second.document.repeats:
        warnings.append(
            f"The repeats differ: {first.document.repeats} and {second.document.repeats}; each "
            "sample counts once, the means of more repeats vary less."
        )
    for name, signature in first.run.metrics.items():
        other = second.run.metrics.get(name)
        if other is None:
            warnings.append(f"Only the first run has the metric {name}.")
        elif other != signature:
            warnings.append(f"{name} was measured differently: {signature} and {other}.")
    warnings += [
        f"Only the second run has the metric {name}."
        for name in second.run.metrics
        if name not in first.run.metrics
    ]
    return warnings


def _shown(parameters: Mapping[str, Any], name: str) -> str:
    if name not in parameters:
        return "not set"
    text = msgspec.json.encode(parameters[name]).decode()
    return shortened(text, 80)


def _origin_warnings(
    pairs: Sequence[tuple[Side, Side]], origins: Mapping[Side, _AnswerOrigins]
) -> list[str]:
    """Return warnings about answers that did not come about in the same way on both sides."""
    warnings = []
    for a, b in pairs:
        ours, theirs = origins[a], origins[b]
        name = f"{a.route} and {b.route}" if a.route != b.route else a.route
        if set(ours.translations) != set(theirs.translations):
            warnings.append(
                f"{name}: the requests were not translated alike: {_translated(ours)} on one "
                f"side, {_translated(theirs)} on the other."
            )
        if a.route == b.route and ours.models.keys() != theirs.models.keys():
            models = [
                ", ".join(sorted(side.models)) or "an unnamed model" for side in (ours, theirs)
            ]
            warnings.append(f"{name} was answered by {models[0]}, and by {models[1]}.")
        warnings += [
            f"{side.route} of {side.run}: {answers.failed:,} answers failed and are left out."
            for side, answers in ((a, ours), (b, theirs))
            if answers.failed
        ]
    return list(dict.fromkeys(warnings))


def _translated(origins: _AnswerOrigins) -> str:
    names = sorted({name for kinds in origins.translations for name in kinds})
    return ", ".join(names) or "as they came"
