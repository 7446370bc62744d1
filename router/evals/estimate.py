"""Estimates what a run will take before it is paid for: calls, tokens, money, time, and its power.

    estimate = await runs.estimate(document, base=folder)

Nothing is sent. What is not known is None and is named, never 0. Read `estimate`.

- *Calls*: the run's cells less those that the run cache answers. Rows are rendered and hashed as
  the run will do it; of more than `MAX_RENDERED` samples an even selection, scaled up.
- *Tokens*: of the prompt, by the bytes per token that the target itself has counted in earlier
  runs, else UTF-8 bytes / 4; see `_prompt_tokens`. Of the answer, the mean of earlier answers of
  the target, else `max_tokens`, which makes it an upper bound.
- *Money*: the price book's, without discounts for what a host finds in its own cache.
- *Time*: the mean time of earlier answers, with as many requests at a time as the limits let
  through, shared between lanes as `evaluators/execution/scheduler.py` does. Rate limits are not
  foreseen.
- *Smallest difference*: what the run's verdict finds with 80 % probability: at the 5 % level after
  its correction, by the test that the report will use, of as many samples as clusters leave.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, islice, starmap
from typing import Any, NamedTuple

import msgspec
import numpy as np

from evaluators.base import AnyMetric, EmbeddingMetric, Output, Usage
from evaluators.data.dataset_process import in_thread
from evaluators.document import RunDocument
from evaluators.reports.report import dollars
from evaluators.stats.comparison import ALPHA
from evaluators.stats.intervals import FEWEST_CLUSTERS, clustered_error, standard_error
from evaluators.stats.power import (
    always_valid_effect,
    minimum_detectable_effect,
    minimum_detectable_share,
)
from providers.wire import count_of
from router.evals.judges.estimate import JudgeEstimate, estimate_judges
from router.evals.looks import is_part_of_another
from router.evals.requests import EvalRequester
from router.evals.samples import PreparedDataset
from router.evals.unpredicted_routes import strategies_of, unpredicted_warning
from router.evals.validation import outputs_of, requested_routes
from router.gateway.prices import PriceBook
from router.records import Target
from router.store.history import EarlierAnswer, EarlierRun
from router.store.protocol import Store

# Samples that are rendered; of more, every second one, every third one, ...
MAX_RENDERED = 4000
# Earlier answers of a target that are averaged.
_ANSWERS = 200
# OpenAI: "1 token ~= 4 chars in English". Bytes instead of characters follow other scripts too.
BYTES_PER_TOKEN = 4.0
# What a chat template puts around a message (OpenAI's cookbook counts 3 for gpt-4o, and a name).
_TOKENS_PER_MESSAGE = 4
# What the engine itself takes per call, as loadtests/results has it.
_ENGINE_S = 0.0007

_WORST_CASE = "worst case, no earlier run"
# Measured with OpenAI's o200k_base: of all texts of four English datasets 0.94 (dialogues) to 1.31
# (Prometheus's prompts) times the tokens, Python code 1.06; of single texts 95 % lie in 0.7 to 1.6.
_RULE = "UTF-8 bytes / 4 (a rule of thumb: 0.9 to 1.3 times the tokens of English datasets)"


class TargetEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """One target of one route.

    Attributes:
        route, target: the route, and the target of it.
        cells: how many answers the run needs from it.
        cached: how many of them the run cache has; they cost nothing.
        calls: how many requests are to be sent for the rest.
        prompt_tokens, completion_tokens: of all calls; None when unknown.
        at_most: whether the answers' tokens, and so the money, are an upper bound.
        tokens_from: how they were counted.
        cost_usd: US dollars; None when the price or the tokens are unknown.
        first_byte_s, total_s: medians of earlier answers; None when unknown.
        mean_s: the mean of their total times, which is what a run's time follows from.
        speed_from: how many earlier answers those are, and where they are from.
        seconds: the time that its calls take beside the other routes'; None when unknown.
    """

    route: str
    target: str
    cells: int
    cached: int
    calls: int
    prompt_tokens: int | None
    completion_tokens: int | None
    at_most: bool
    tokens_from: str
    cost_usd: float | None
    first_byte_s: float | None
    total_s: float | None
    mean_s: float | None
    speed_from: str
    seconds: float | None = None


class Detectable(msgspec.Struct, frozen=True, kw_only=True):
    """The smallest difference between two routes that the run is likely to show.

    Attributes:
        output: the output.
        difference: what the run's verdict shows with 80 % probability, two-sided at the 5 % level
            and corrected for `comparisons`; None when nothing is known of the spread, or when not
            even the largest difference shows.
        sd: standard deviation of the samples' differences that it was computed from.
        sd_from: where that is from.
        worst_case: whether it is the widest spread that a score within its range can have.
        comparisons: by how many the level of the test is divided.
        after_primary: whether it is tested only if the run's primary output shows a difference.
        clusters: how many clusters the samples are in; None when each stands alone.
        design_effect: by how many times the clusters make the variance of a mean larger.
        design_effect_from: where that is from; without an earlier run, samples of a cluster are
            taken to be all alike, which is the most that it can be.
        always_valid: whether the verdict will be one that holds whenever one looks, because of
            `stop_when`, or because the run goes on with an earlier one.
    """

    output: str
    difference: float | None
    sd: float | None
    sd_from: str
    worst_case: bool = False
    comparisons: int = 1
    after_primary: bool = False
    clusters: int | None = None
    design_effect: float = 1.0
    design_effect_from: str = ""
    always_valid: bool = False


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a run will take. Nothing was stored and nothing was sent.

    Attributes:
        dataset, dataset_hash, samples: the run's samples.
        looked_at: how many samples tokens and cached answers were counted on.
        cells, cached, calls: as in TargetEstimate, over all routes.
        targets: one for each target of each route.
        prompt_tokens, completion_tokens: over all calls; None where one target's are unknown.
        cost_usd: US dollars; None where one target's are unknown.
        at_most: whether the money is an upper bound.
        seconds: until the last answer; None where one target's speed is unknown.
        baseline: the route that differences are taken against; without one, the run tests none.
        detectable: one for each output of the metrics; none with fewer than two routes.
        judges: what the metrics' judges will take; their money is part of `cost_usd` where all of
            it is known.
        notes: what else has to be known: limits that will stop the run, calls that are not counted.
    """

    dataset: str
    dataset_hash: str
    samples: int
    looked_at: int
    cells: int
    cached: int
    calls: int
    targets: list[TargetEstimate]
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    at_most: bool
    seconds: float | None
    baseline: str | None
    detectable: list[Detectable]
    judges: list[JudgeEstimate]
    notes: list[str]


class _TargetRequests(NamedTuple):
    """The samples that go to one target of one route.

    Attributes:
        sizes: bytes and number of messages of each sample.
        requests: hash and repeat of each cell whose answer will be that of the same request
            before, because it comes from the run cache or from a target that always answers alike.
        cacheable: whether they come from the run cache.
    """

    route: str
    target: Target
    sizes: list[tuple[int, int]]
    requests: list[tuple[str, int]]
    cacheable: bool


async def estimate(
    store: Store,
    requester: EvalRequester,
    document: RunDocument,
    metrics: Sequence[AnyMetric],
    prepared: PreparedDataset,
) -> Estimate:
    """Estimate a checked run.

    Raises:
        DatasetError, RunDocumentError: a row cannot be read or rendered, or lacks a reference.
    """
    by_target, rendered = await in_thread(_render, requester, document, prepared)
    scale = prepared.count / rendered if rendered else 0.0
    targets = []
    goes_on = False
    for lane in by_target.values():
        answered = await store.known_requests(lane.requests) if lane.requests else frozenset()
        # Answers to a part of a target's samples, or of a larger run, make it another look.
        if answered and not goes_on:
            goes_on = any(cell not in answered for cell in lane.requests)
            goes_on = goes_on or await is_part_of_another(
                store,
                lane.requests,
                document,
                samples=prepared.count,
                dataset_hash=prepared.dataset.hash,
            )
        known = answered if lane.cacheable else frozenset()
        earlier = await store.earlier_answers(str(lane.target), _ANSWERS)
        targets.append(_of_target(lane, scale, known, earlier, requester.prices, document))
    seconds = _with_times(targets, requester, document)
    cells = sum(target.cells for target in targets)
    cached = sum(target.cached for target in targets)
    detectable = []
    if len(document.routes) > 1:
        outputs = outputs_of(metrics)
        sizes = await in_thread(_cluster_sizes, prepared)
        looked = bool(document.stop_when or document.looks or goes_on)
        for output in outputs:
            run = await store.earlier_run(prepared.dataset.hash, output.name)
            family = _family(output, outputs, document)
            planned = _Planned(prepared.count, sizes, family, always_valid=looked)
            detectable.append(_detectable(output, planned, run, document))
    first = await in_thread(lambda: next(iter(prepared.samples()), None))
    judges = await estimate_judges(store, requester, metrics, first, cells)
    answers_usd, judges_usd = ([part.cost_usd for part in parts] for parts in (targets, judges))
    result = Estimate(
        dataset=document.dataset,
        dataset_hash=prepared.dataset.hash,
        samples=prepared.count,
        looked_at=rendered,
        cells=cells,
        cached=cached,
        calls=sum(target.calls for target in targets),
        targets=targets,
        prompt_tokens=_sum(target.prompt_tokens for target in targets),
        completion_tokens=_sum(target.completion_tokens for target in targets),
        cost_usd=_sum([*answers_usd, *judges_usd]),
        at_most=any(target.at_most for target in targets) or any(judge.at_most for judge in judges),
        seconds=seconds,
        baseline=document.baseline,
        detectable=detectable,
        judges=judges,
        notes=[],
    )
    unpredicted = strategies_of(requester.table, document).items()
    notes = [*_notes(result, document, metrics), *starmap(unpredicted_warning, unpredicted)]
    return msgspec.structs.replace(result, notes=notes)


# what is requested


def _render(
    requester: EvalRequester, document: RunDocument, prepared: PreparedDataset
) -> tuple[dict[tuple[str, Target], _TargetRequests], int]:
    """Return what goes to which target, and how many samples were rendered. Blocks."""
    step = -(-prepared.count // MAX_RENDERED)
    if step > 1:
        rows = prepared.chosen if prepared.chosen is not None else range(prepared.count)
        even = list(islice(rows, 0, None, step))
        prepared = msgspec.structs.replace(prepared, chosen=even, count=len(even))
    by_target: dict[tuple[str, Target], _TargetRequests] = {}
    rendered = 0
    for sample in prepared.samples():
        rendered += 1
        size = _size(sample.messages), len(sample.messages)
        for route in requested_routes(document):
            request = requester.prepare(
                route, sample, document.parameters, fallback=document.fallback
            )
            key = route, request.plan.targets[0]
            is_free = requester.is_free(request)
            cacheable = document.uses_run_cache and not is_free
            lane = by_target.setdefault(key, _TargetRequests(*key, [], [], cacheable))
            lane.sizes.append(size)
            if cacheable or is_free:
                lane.requests.extend((request.hash, n) for n in range(document.repeats))
    return by_target, rendered


def _size(messages: Iterable[Mapping[str, Any]]) -> int:
    """Count the bytes of text in chat messages; pictures and the like count nothing."""
    size = 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            size += len(content.encode())
        elif isinstance(content, list):
            texts = (part.get("text") for part in content if isinstance(part, dict))
            size += sum(len(text.encode()) for text in texts if isinstance(text, str))
    return size


# tokens, money


def _of_target(  # noqa: PLR0917 - one argument for each thing that is known
    lane: _TargetRequests,
    scale: float,
    known: frozenset[tuple[str, int]],
    earlier: Sequence[EarlierAnswer],
    prices: PriceBook,
    document: RunDocument,
) -> TargetEstimate:
    target = lane.target
    cells = round(len(lane.sizes) * document.repeats * scale)
    cached = round(sum(request in known for request in lane.requests) * scale)
    calls = cells - cached
    prompt, prompt_from = _prompt_tokens(lane.sizes, earlier)
    completion, bounded, completion_from = _completion_tokens(earlier, document)
    each = Usage(
        prompt_tokens=round(prompt),
        completion_tokens=None if completion is None else round(completion),
    )
    cost = 0.0 if prices.is_free(target) or not calls else prices.cost(target, each)
    totals = [answer.total_s for answer in earlier if answer.total_s is not None]
    firsts = [answer.first_byte_s for answer in earlier if answer.first_byte_s is not None]
    return TargetEstimate(
        route=lane.route,
        target=str(target),
        cells=cells,
        cached=cached,
        calls=calls,
        prompt_tokens=round(prompt * calls),
        completion_tokens=None if completion is None else round(completion * calls),
        at_most=bounded and cost != 0.0,
        tokens_from=f"prompts: {prompt_from}; answers: {completion_from}",
        cost_usd=None if cost is None else cost * calls,
        first_byte_s=statistics.median(firsts) if firsts else None,
        total_s=statistics.median(totals) if totals else None,
        mean_s=statistics.fmean(totals) if totals else None,
        speed_from=f"{len(totals)} earlier answers ({earlier[0].source})" if totals else "unknown",
    )


def _prompt_tokens(
    sizes: Sequence[tuple[int, int]], earlier: Sequence[EarlierAnswer]
) -> tuple[float, str]:
    """Return the tokens of a mean prompt, and how they were counted."""
    size = statistics.fmean(size for size, _ in sizes)
    counted = [
        (answer.prompt_tokens, _size(answer.messages))
        for answer in earlier
        if answer.prompt_tokens and answer.messages
    ]
    all_tokens = sum(tokens for tokens, _ in counted)
    all_bytes = sum(bytes_ for _, bytes_ in counted)
    if all_tokens and all_bytes:
        per_token = all_bytes / all_tokens
        return size / per_token, (
            f"the target's own tokenizer, {per_token:.2f} bytes per token in {len(counted)} "
            "earlier answers"
        )
    messages = statistics.fmean(count for _, count in sizes)
    return size / BYTES_PER_TOKEN + _TOKENS_PER_MESSAGE * messages, _RULE


def _completion_tokens(
    earlier: Sequence[EarlierAnswer], document: RunDocument
) -> tuple[float | None, bool, str]:
    """Return the tokens of a mean answer, whether they are an upper bound, and their origin."""
    parameters = document.parameters
    limit = count_of(parameters.get("max_completion_tokens", parameters.get("max_tokens")))
    counted = [
        answer.completion_tokens for answer in earlier if answer.completion_tokens is not None
    ]
    if counted:
        mean = statistics.fmean(counted)
        # Earlier answers may have had a higher limit.
        mean = mean if limit is None else min(mean, limit)
        return mean, False, f"mean of {len(counted)} earlier answers"
    if limit is not None:
        return float(limit), True, f"at most max_tokens, {limit}"
    return None, False, "unknown: no earlier answers and no max_tokens"


# time


class _Load(msgspec.Struct):
    """A lane's calls that are left, the seconds that each takes, and how many run at a time."""

    calls: float
    each_s: float
    limit: int


def _with_times(
    targets: list[TargetEstimate], requester: EvalRequester, document: RunDocument
) -> float | None:
    """Return the seconds that the run takes; `targets` get theirs. None when a speed is unknown.

    A fluid model: lanes share the run's concurrency until the first has nothing left, and so on.
    """
    limits = document.limits
    calls = sum(target.calls for target in targets)
    loads: dict[int, _Load] = {}
    for n, target in enumerate(targets):
        if target.calls and target.mean_s is not None:
            max_in_flight = requester.table.max_in_flight(target.route, Target.parse(target.target))
            per_target = limits.per_target.get(target.target, limits.concurrency)
            limit = min(limits.concurrency, per_target, max_in_flight or limits.concurrency)
            loads[n] = _Load(target.calls, max(target.mean_s, 1e-6), limit)
    if len(loads) < sum(target.calls > 0 for target in targets):
        _time_alone(targets, loads)
        return None
    now, left = 0.0, dict(loads)
    ends: dict[int, float] = {}
    while left:
        shares = _shares(left, limits.concurrency)
        rates = {n: shares[n] / load.each_s for n, load in left.items()}
        step = min(load.calls / rates[n] for n, load in left.items())
        now += step
        for n, load in list(left.items()):
            load.calls -= rates[n] * step
            if load.calls <= 1e-9:
                # However few are left, the last call takes its time.
                ends[n] = max(now, load.each_s)
                del left[n]
    engine = calls * _ENGINE_S
    for n, target in enumerate(targets):
        seconds = max(ends.get(n, 0.0), target.calls * _ENGINE_S)
        targets[n] = msgspec.structs.replace(target, seconds=seconds)
    return max(*ends.values(), engine) if ends else 0.0


def _time_alone(targets: list[TargetEstimate], loads: Mapping[int, _Load]) -> None:
    """Give the lanes whose speed is known their times, as if the others took no place."""
    for n, load in loads.items():
        seconds = max(load.each_s, load.calls * load.each_s / load.limit)
        targets[n] = msgspec.structs.replace(targets[n], seconds=seconds)


def _shares(loads: Mapping[int, _Load], concurrency: int) -> dict[int, float]:
    """Share the concurrency out equally, except that no lane gets more than it can use."""
    shares: dict[int, float] = {}
    left = float(concurrency)
    for n, load in sorted(loads.items(), key=lambda pair: pair[1].limit):
        shares[n] = min(load.limit, left / (len(loads) - len(shares)))
        left -= shares[n]
    return shares


# the smallest difference


def _family(output: Output, outputs: Sequence[Output], document: RunDocument) -> int:
    """Return by how many comparisons the level of an output's test is divided.

    That is Holm's first step, so the run shows its smallest difference at least as often as it is
    estimated here, however many others are shown.
    """
    routes = len(document.routes) - 1
    directed = sum(output.higher_is_better is not None for output in outputs)
    if document.deciding is None:
        return routes * max(1, directed)
    return routes if output.name == document.deciding else routes * max(1, directed - 1)


class _Planned(NamedTuple):
    """What the run's tests will be of.

    Attributes:
        samples: how many samples it has.
        sizes: how many each of their clusters has; None when each sample stands alone.
        tests: by how many the level is divided.
        always_valid: whether the tests have to hold whenever one looks.
    """

    samples: int
    sizes: list[int] | None
    tests: int
    always_valid: bool


def _cluster_sizes(prepared: PreparedDataset) -> list[int] | None:
    """Return how many samples each cluster has; None when each stands alone. Blocks."""
    sizes: Counter[str] = Counter()
    alone = 0
    for sample in prepared.samples():
        if sample.cluster:
            sizes[sample.cluster] += 1
        else:
            alone += 1
            if alone == MAX_RENDERED and not sizes:
                return None
    return [*sizes.values(), *[1] * alone] if sizes else None


def _detectable(
    output: Output, planned: _Planned, run: EarlierRun | None, document: RunDocument
) -> Detectable:
    sd, sd_from = _spread(output, run, document)
    sizes = planned.sizes
    effect, effect_from = (1.0, "") if sizes is None else _design_effect(sizes, run, document)
    discordant = None if run is None else _discordant(run, document)
    return Detectable(
        output=output.name,
        difference=_difference(output, planned, sd, discordant, effect),
        sd=sd,
        sd_from=sd_from,
        worst_case=sd_from == _WORST_CASE,
        comparisons=planned.tests,
        after_primary=document.deciding not in {None, output.name},
        clusters=None if sizes is None else len(sizes),
        design_effect=effect,
        design_effect_from=effect_from,
        always_valid=planned.always_valid,
    )


def _difference(
    output: Output,
    planned: _Planned,
    sd: float | None,
    discordant: float | None,
    design_effect: float,
) -> float | None:
    """Return the smallest difference that the test finds which the report will make."""
    n, alpha = planned.samples, ALPHA / planned.tests
    width = None if output.low is None or output.high is None else output.high - output.low
    if planned.sizes is not None:
        units = n / _typical_size(planned.sizes)  # as many of equal size would weigh as much
        if sd is None or units < FEWEST_CLUSTERS:
            return None
        spread = sd * math.sqrt(design_effect * units / n)
        if planned.always_valid:
            return always_valid_effect(spread, int(units), width=None, alpha=alpha)
        return minimum_detectable_effect(spread, int(units), alpha=alpha)
    if planned.always_valid:
        whole = discordant is not None
        spread = math.sqrt(discordant) if discordant else sd or 0.0
        width = 1.0 if whole else width
        return always_valid_effect(spread, n, width=width, whole=whole, alpha=alpha)
    if discordant is not None:
        return minimum_detectable_share(discordant, n, alpha=alpha)
    return None if sd is None else minimum_detectable_effect(sd, n, alpha=alpha)


def _design_effect(
    sizes: Sequence[int], run: EarlierRun | None, document: RunDocument
) -> tuple[float, str]:
    """Return by how many times clusters make the variance of a mean difference larger.

    That is 1 + (m - 1) r, with m the size of the cluster that a sample is in, on average, and r
    the correlation within clusters (Kish 1965, Survey Sampling), here of an earlier run.
    """
    typical = _typical_size(sizes)
    if run is not None:
        correlations = [
            correlation
            for a, b in _pairs(run, document)
            if (correlation := _correlation(run.scores[a], run.scores[b], run.clusters)) is not None
        ]
        if correlations:
            return 1 + (typical - 1) * max(correlations), f"differences of {run.run_id}"
    return typical, "worst case, the samples of a cluster all alike"


def _typical_size(sizes: Iterable[int]) -> float:
    """Return the mean over samples of how large their cluster is."""
    known = list(sizes)
    return sum(size**2 for size in known) / sum(known)


def _correlation(
    ours: Mapping[int, float], theirs: Mapping[int, float], clusters: Mapping[int, str]
) -> float | None:
    """Return the correlation of differences within clusters; None where it cannot be seen."""
    both = sorted(ours.keys() & theirs.keys())
    index = [clusters.get(at, f" {at}") for at in both]
    sizes = Counter(index).values()
    if len(sizes) < FEWEST_CLUSTERS or len(sizes) == len(both):
        return None
    differences = np.array([ours[at] - theirs[at] for at in both])
    alone = standard_error(differences)
    if not alone:
        return None
    inflated = (clustered_error(differences, index)[0] / alone) ** 2
    return min(1.0, max(0.0, (inflated - 1) / (_typical_size(sizes) - 1)))


def _discordant(run: EarlierRun, document: RunDocument) -> float | None:
    """Return the largest share of samples on which two routes differ; None for other scores."""
    values = {value for by_sample in run.scores.values() for value in by_sample.values()}
    if not values <= {0.0, 1.0}:
        return None
    shares = [
        statistics.fmean(run.scores[a][at] != run.scores[b][at] for at in both)
        for a, b in _pairs(run, document)
        if len(both := run.scores[a].keys() & run.scores[b].keys()) > 1
    ]
    return max(shares, default=None)


def _pairs(run: EarlierRun, document: RunDocument) -> list[tuple[str, str]]:
    """Return the pairs of routes to learn from: those of the document, or else all of the run."""
    scored = [route for route in document.routes if route in run.scores]
    return list(combinations(scored if len(scored) > 1 else run.scores, 2))


def _spread(
    output: Output, run: EarlierRun | None, document: RunDocument
) -> tuple[float | None, str]:
    """Return the standard deviation of two routes' differences, and where it is from."""
    if run is not None:
        scores = run.scores
        pairs = _pairs(run, document)
        spreads = [
            statistics.stdev(scores[a][at] - scores[b][at] for at in both)
            for a, b in pairs
            if len(both := scores[a].keys() & scores[b].keys()) > 1
        ]
        if any(spreads):
            return max(spreads), f"differences of {run.run_id}, the widest of {len(spreads)}"
        alone = [
            statistics.stdev(by_sample.values())
            for by_sample in scores.values()
            if len(by_sample) > 1
        ]
        if not pairs and any(alone):
            return math.sqrt(2) * max(alone), f"scores of {run.run_id}, as if unrelated"
    if output.low is not None and output.high is not None:
        # Popoviciu's inequality: a variable between -r and r has a standard deviation of at most r.
        return output.high - output.low, _WORST_CASE
    return None, "no earlier run"


# what else has to be known


def _notes(result: Estimate, document: RunDocument, metrics: Sequence[AnyMetric]) -> list[str]:
    limits, notes = document.limits, []
    tokens = _sum([result.prompt_tokens, result.completion_tokens])
    for name, limit, expected in (
        ("cost_usd", limits.cost_usd, result.cost_usd),
        ("tokens", limits.tokens, tokens),
        ("seconds", limits.seconds, result.seconds),
    ):
        if limit is not None and expected is not None and expected > limit:
            notes.append(f"limits.{name}: {limit:g} will probably stop the run before its end")
    notes += [
        f"{metric.name} asks {metric.route} too, which is not counted here"
        for metric in metrics
        if isinstance(metric, EmbeddingMetric)
    ]
    notes += map(_judge_note, result.judges)
    if document.stop_when is not None:
        notes.append("stop_when may end the run sooner")
    clustered = next((effect for effect in result.detectable if effect.clusters is not None), None)
    if clustered is not None:
        notes.append(
            f"the samples are in {clustered.clusters:,} clusters, so they show as much as "
            f"{result.samples / clustered.design_effect:,.0f} that stand alone "
            f"({clustered.design_effect_from})"
        )
    if any(effect.always_valid for effect in result.detectable):
        notes.append(
            "the run will have been looked at before it has all samples, so its verdicts are those "
            "that hold whenever one looks"
        )
    return notes


def _judge_note(judge: JudgeEstimate) -> str:
    bound = "at most " if judge.at_most else ""
    money = "" if judge.cost_usd is None else f", for {bound}{dollars(judge.cost_usd)}"
    return f"{judge.metric} asks {judge.judge} {judge.calls:,} times or more{money}"


def _sum(values: Iterable[Any]) -> Any:
    """Add numbers up; None where one of them is unknown."""
    numbers = list(values)
    return None if None in numbers else sum(numbers)
