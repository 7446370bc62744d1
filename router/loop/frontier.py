"""What each target of a route brings and costs, and which of them others beat in every respect.

    frontier = await frontiers.of(FrontierRequest(route="chat", quality="feedback:helpful"))
    [target.target for target in frontier.targets if target.on_frontier]

The numbers are those of the router's own bills. Quality is what people say of live answers, whether
requests succeed, or any output of a run or a shadow, corrected judges among them. For live requests
each target is judged as a policy that takes it always (`what_if.py`), so that targets which get
different requests can be compared; in a run all get the same.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from evaluators.base import PRECOMPUTED
from evaluators.reports.pareto import LEVEL, Dominance, dominated_by
from evaluators.reports.report import Report
from evaluators.reports.scores import OutputInfo
from evaluators.stats.intervals import Interval, mean_interval
from evaluators.stats.off_policy import OffPolicyValue
from providers.errors import NotFoundError, RequestError, closest
from providers.names import check_name
from router.config.routes import Route
from router.evals.compare import ComparisonRequest, compare_runs
from router.evals.runs import Runs
from router.loop.moments import period
from router.loop.policies import PreparedPolicy, PreparedRule
from router.loop.recorded_choices import RecordedChoices, RequestValues, read_choices
from router.loop.what_if import WhatIfs
from router.store.protocol import Store
from router.store.runs import Run

MAX_TARGETS = 12
# Runs that are looked through, the newest first.
_MAX_RUNS = 500
_PAGE = 100
_FAILURES = "errors"
_ALL_ALIKE = PreparedPolicy((PreparedRule(None, {}),))
_NO_INTERVAL = Interval(estimate=None, low=None, high=None, n=0)


class FrontierRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be compared.

    Attributes:
        route: the route whose targets these are.
        quality: `feedback:NAME`, `errors` (the share of live requests that failed),
            `shadow:OUTPUT` of the route's shadow, or the output of a run.
        since: the time of requests, or of the run, as `period` reads it; None for all.
        run: the run that has the output; "" for the newest one with two of the targets.
    """

    route: str
    quality: str = _FAILURES
    since: str | float | None = None
    run: str = ""


class FrontierTarget(msgspec.Struct, frozen=True, kw_only=True):
    """A target: what it brings, and what it costs.

    Attributes:
        target: `provider/model`; `dataset/answer` for what clients got, beside a shadow's
            candidates.
        configured: whether the route has it now.
        samples: the requests that tried it first, or the samples of the run.
        quality, cost_usd, seconds: per request (seconds to the last byte), with 95% intervals.
        refused: why one of them has no interval, "" otherwise.
        on_frontier: whether no other is better by the estimates; None where one is missing.
        dominated_by: those that are.
    """

    target: str
    configured: bool
    samples: int
    quality: Interval
    cost_usd: Interval
    seconds: Interval
    refused: str = ""
    on_frontier: bool | None = None
    dominated_by: tuple[Dominance, ...] = ()


class Frontier(msgspec.Struct, frozen=True, kw_only=True):
    """The targets of a route by quality, cost and time.

    Attributes:
        route: the route.
        quality: what quality is.
        higher_is_better: whether more of it is better.
        source: where the numbers come from.
        run: the run, "" for live requests.
        since: the beginning of the time, seconds since the epoch; None for all.
        targets: those on the frontier first, then by quality.
        warnings: what to bear in mind.
    """

    route: str
    quality: str
    higher_is_better: bool
    source: str
    run: str
    since: float | None
    targets: tuple[FrontierTarget, ...]
    warnings: tuple[str, ...] = ()


class Frontiers:
    """Compares the targets of routes.

    Args:
        store: has the runs' rows.
        runs: have the scores of outputs.
        what_ifs: reads live requests.
        now: tells the seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        runs: Runs,
        what_ifs: WhatIfs,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._runs = runs
        self._what_ifs = what_ifs
        self._now = now

    async def of(self, request: FrontierRequest) -> Frontier:
        """Compare the targets of a route.

        Raises:
            NotFoundError: no such route, or no run with that output.
            RequestError: something in the request is wrong.
            RateLimitError: others read requests already.
        """
        check_name(request.route, "route")
        check_name(request.quality, "quality")
        route = self._what_ifs.route(request.route)
        kind, _, name = request.quality.partition(":")
        live = request.quality == _FAILURES or (kind == "feedback" and bool(name))
        if live and request.run:
            raise RequestError(
                f"{request.quality} is of live requests; a run has outputs of metrics.", param="run"
            )
        if live:
            return await self._what_ifs.alone(lambda: self._of_requests(request, route))
        if kind == "shadow" and name:
            return await self._of_shadow(request, route, name)
        return await self._of_run(request, route)

    # live requests

    async def _of_requests(self, request: FrontierRequest, route: Route) -> Frontier:
        matching = self._what_ifs.matching(request.route, request.since, None)
        value = "" if request.quality == _FAILURES else request.quality
        outcomes = await self._what_ifs.outcomes(value, matching)
        recorded = self._what_ifs.recorded
        choices = await read_choices(recorded, matching, _ALL_ALIKE, outcomes.values)
        warnings = self._what_ifs.retention_warnings(request.route, matching, choices.earliest)
        warnings += outcomes.warnings
        left_out = sum(choices.excluded.values())
        if left_out:
            warnings.append(
                f"{left_out:,} of {choices.records:,} requests do not say with which probability "
                "their target was chosen, and are left out; `what-if` says why"
            )
        measures = _LiveMeasures(choices, outcomes, value)
        targets = await asyncio.to_thread(measures.targets, route)
        return Frontier(
            route=request.route,
            quality=request.quality,
            higher_is_better=bool(value),
            source="requests",
            run="",
            since=matching.since,
            targets=targets,
            warnings=tuple(warnings),
        )

    # runs

    async def _of_shadow(self, request: FrontierRequest, route: Route, output: str) -> Frontier:
        run = await self._what_ifs.shadow_run(request.route, param="quality")
        report = (await self._runs.outcome(run)).report
        return await self._compared(request, route, await self._runs.find(run), report, output)

    async def _of_run(self, request: FrontierRequest, route: Route) -> Frontier:
        if request.run:
            run = await self._runs.find(request.run)
            report = (await self._runs.outcome(run.id)).report
            return await self._compared(request, route, run, report, request.quality)
        since, _ = period(request.since, None, self._now())
        known: set[str] = set()
        candidates = {target.model for target in route.targets} | set(route.fallback)
        candidates |= set() if route.shadow is None else set(route.shadow.targets)
        async for run in self._newest(since):
            routes = run.document.get("routes")
            if not isinstance(routes, list) or len(candidates.intersection(map(str, routes))) < 2:
                continue
            report = (await self._runs.outcome(run.id)).report
            outputs = {output.name for output in report.outputs}
            if request.quality in outputs:
                return await self._compared(request, route, run, report, request.quality)
            known |= outputs
        raise NotFoundError(
            f"No completed run with two targets of {request.route!r} has the output "
            f"{request.quality!r}.{closest(request.quality, known)} Live requests have `errors` "
            "and feedback:NAME; a run of your own can be named (run)."
        )

    async def _newest(self, since: float | None) -> AsyncIterator[Run]:
        """Yield completed runs, the newest first."""
        before: str | None = None
        for _ in range(_MAX_RUNS // _PAGE):
            page = await self._store.runs(limit=_PAGE, before=before)
            for run in page:
                if since is not None and run.created_at < since:
                    return
                if isinstance(run, Run) and run.state == "completed":
                    yield run
            if len(page) < _PAGE:
                return
            before = page[-1].id

    async def _compared(
        self, request: FrontierRequest, route: Route, run: Run, report: Report, name: str
    ) -> Frontier:
        output = next((each for each in report.outputs if each.name == name), None)
        if output is None:
            names = [each.name for each in report.outputs]
            raise RequestError(
                f"The run {run.id} has no output {name!r}.{closest(name, names)}", param="quality"
            )
        if output.higher_is_better is None:
            raise RequestError(
                f"Neither direction of {name} is better, so it is no quality.", param="quality"
            )
        scored = [
            each.route
            for each in report.routes
            if any(score.output == name and score.estimate is not None for score in each.scores)
        ][:MAX_TARGETS]
        contrasts = await self._contrasts(run, scored, name)
        bills = await self._bills(run.id, scored)
        clusters = await self._store.clusters(run.id)
        measures = _RunMeasures(report, output, scored, contrasts, bills, clusters)
        targets = await asyncio.to_thread(measures.targets, route)
        return Frontier(
            route=request.route,
            quality=request.quality,
            higher_is_better=output.higher_is_better,
            source="shadow" if request.quality.startswith("shadow:") else "run",
            run=run.id,
            since=run.created_at,
            targets=targets,
            warnings=report.warnings,
        )

    async def _contrasts(
        self, run: Run, routes: Sequence[str], output: str
    ) -> dict[tuple[str, str], tuple[Interval, float | None]]:
        """Return the difference of each pair in an output, and the p-value of none."""
        contrasts = {}
        for n, first in enumerate(routes):
            for second in routes[n + 1 :]:
                compared = await compare_runs(
                    self._runs,
                    self._store,
                    [run.id],
                    ComparisonRequest(route_a=first, route_b=second, movers=0),
                )
                for contrast in compared.contrasts:
                    if contrast.output == output:
                        interval = Interval(
                            estimate=contrast.difference,
                            low=contrast.low,
                            high=contrast.high,
                            n=contrast.n,
                        )
                        contrasts[first, second] = interval, contrast.p_value
        return contrasts

    async def _bills(
        self, run_id: str, routes: Sequence[str]
    ) -> dict[str, dict[str, tuple[float, float]]]:
        """Return, by route and sample, the mean cost and seconds of the answers; NaN if unknown."""
        given: dict[str, dict[str, list[tuple[float, float]]]] = {
            name: defaultdict(list) for name in routes
        }
        for name in routes:
            async with aclosing(self._store.results(run_id, route=name)) as rows:
                async for row in rows:
                    answer = row.answer
                    if answer is None:
                        continue
                    cost = math.nan if answer.cost_usd is None else answer.cost_usd
                    # The run cache answers at once, which says nothing of the target.
                    seconds = (
                        math.nan if answer.cached or answer.total_s is None else answer.total_s
                    )
                    given[name][row.cell.sample_id].append((cost, seconds))
        return {
            name: {
                sample: (
                    sum(cost for cost, _ in repeats) / len(repeats),
                    sum(seconds for _, seconds in repeats) / len(repeats),
                )
                for sample, repeats in samples.items()
            }
            for name, samples in given.items()
        }


# Where a sample's bill has them.
_BILLED = {"cost_usd": 0, "seconds": 1}
_DIMENSIONS = {"quality": "value", "cost_usd": "cost_usd", "seconds": "total_s"}


class _LiveMeasures:
    """The targets of live requests, each as a policy that takes it always."""

    def __init__(self, choices: RecordedChoices, outcomes: RequestValues, value: str) -> None:
        self._choices = choices
        self._measures = {**_DIMENSIONS, "quality": "value" if value else _FAILURES}
        self._better = {"quality": bool(value), "cost_usd": False, "seconds": False}
        self._ranges = {
            name: outcomes.range_of(measure) for name, measure in self._measures.items()
        }

    def _chosen(self, measure: str, *targets: str) -> NDArray[np.bool_]:
        """Return the requests of which the measure is known, and each target had a chance."""
        chosen = self._choices.known(self._measures[measure])
        for target in targets:
            chosen = chosen & self._choices.possible([{target: 1.0}])
        return chosen

    def targets(self, route: Route) -> tuple[FrontierTarget, ...]:
        seen = frozenset[str]().union(*self._choices.chances)
        names = list(dict.fromkeys([*route.weighted, *sorted(seen)]))[:MAX_TARGETS]
        values = {
            (name, measure): self._choices.estimate(
                [{name: 1.0}],
                self._measures[measure],
                self._chosen(measure, name),
                low=self._ranges[measure][0],
                high=self._ranges[measure][1],
            )
            for name in names
            for measure in _DIMENSIONS
        }
        # Without an interval an estimate may be any number.
        estimated = {
            key: None if value.refused else value.doubly_robust.estimate
            for key, value in values.items()
        }
        dominated = dominated_by(
            names,
            self._better,
            lambda name, measure: estimated[name, measure],
            lambda first, second, measure, level: self._choices.difference(
                {first: 1.0},
                {second: 1.0},
                self._measures[measure],
                self._chosen(measure, first, second),
                level=level,
            ),
        )
        numbers = {name: n for n, name in enumerate(self._choices.targets)}
        targets = []
        for name in names:
            of_name = [values[name, measure] for measure in _DIMENSIONS]
            samples = int((self._choices.actions == numbers.get(name, -1)).sum())
            complete = all(estimated[name, measure] is not None for measure in _DIMENSIONS)
            targets.append(
                FrontierTarget(
                    target=name,
                    configured=name in route.weighted,
                    samples=samples,
                    quality=of_name[0].doubly_robust,
                    cost_usd=of_name[1].doubly_robust,
                    seconds=of_name[2].doubly_robust,
                    refused=_refusal(name, seen, dict(zip(_DIMENSIONS, of_name, strict=True))),
                    on_frontier=not dominated[name] if complete else None,
                    dominated_by=dominated[name],
                )
            )
        return _in_order(targets, higher=self._better["quality"])


def _refusal(name: str, seen: frozenset[str], values: Mapping[str, OffPolicyValue]) -> str:
    if name not in seen:
        return "it had no chance in any request of that time"
    refusals = []
    for measure, value in values.items():
        if value.refused:
            needed = value.requests_needed
            enough = f"; about {needed:,} requests like these would do" if needed else ""
            refusals.append(f"{measure}: {value.refused}{enough}")
    return ". ".join(refusals[:1])


class _RunMeasures(NamedTuple):
    """The targets of a run, all of which got the same samples.

    Attributes:
        report: the run's.
        output: the output that is the quality.
        names: the routes of the run.
        contrasts: of each pair, the first less the second, and the p-value of no difference.
        bills: by route and sample, the mean cost and seconds.
        clusters: the cluster of each sample that has one.
    """

    report: Report
    output: OutputInfo
    names: Sequence[str]
    contrasts: Mapping[tuple[str, str], tuple[Interval, float | None]]
    bills: Mapping[str, Mapping[str, tuple[float, float]]]
    clusters: Mapping[str, str]

    def targets(self, route: Route) -> tuple[FrontierTarget, ...]:
        better = {
            "quality": bool(self.output.higher_is_better),
            "cost_usd": False,
            "seconds": False,
        }
        intervals = {(name, measure): self._mean(name, measure)
                     for name in self.names for measure in better}  # fmt: skip
        # Where nothing is known of a respect (no prices, answers of the run cache), it does not
        # count.
        counted = {
            measure: higher
            for measure, higher in better.items()
            if any(intervals[name, measure].estimate is not None for name in self.names)
        }
        dominated = dominated_by(
            self.names,
            counted,
            lambda name, measure: intervals[name, measure].estimate,
            self._difference,
        )
        targets = []
        for name in self.names:
            complete = all(intervals[name, measure].estimate is not None for measure in counted)
            targets.append(
                FrontierTarget(
                    target=name,
                    configured=name in route.weighted or name == PRECOMPUTED,
                    samples=intervals[name, "quality"].n,
                    quality=intervals[name, "quality"],
                    cost_usd=intervals[name, "cost_usd"],
                    seconds=intervals[name, "seconds"],
                    on_frontier=not dominated[name] if complete else None,
                    dominated_by=dominated[name],
                )
            )
        return _in_order(targets, higher=better["quality"])

    def _mean(self, name: str, measure: str) -> Interval:
        if measure in _BILLED:
            return self._billed(measure, [name], LEVEL)
        scores = (each.scores for each in self.report.routes if each.route == name)
        score = next(
            score for given in scores for score in given if score.output == self.output.name
        )
        return Interval(estimate=score.estimate, low=score.low, high=score.high, n=score.n)

    def _billed(self, measure: str, names: Sequence[str], level: float) -> Interval:
        """Return the mean of a route, or the mean difference of two over what both have."""
        columns = [self.bills[name] for name in names]
        samples = [sample for sample in columns[0] if all(sample in each for each in columns)]
        place = _BILLED[measure]
        values = np.array([columns[0][sample][place] for sample in samples])
        for other in columns[1:]:
            values = values - np.array([other[sample][place] for sample in samples])
        known = ~np.isnan(values)
        owners = [
            self.clusters.get(sample, f"sample {sample}")
            for sample, is_known in zip(samples, known, strict=True)
            if is_known
        ]
        grouped = owners if len(set(owners)) < len(owners) else None
        # No cost and no time is below 0; a difference of two may be.
        low = 0.0 if len(names) == 1 else None
        return mean_interval(values[known], clusters=grouped, level=level, low=low)

    def _difference(self, first: str, second: str, measure: str, level: float) -> Interval:
        if measure in _BILLED:
            return self._billed(measure, [first, second], level)
        if (first, second) in self.contrasts:
            interval, p_value = self.contrasts[first, second]
        else:
            interval, p_value = self.contrasts.get((second, first), (_NO_INTERVAL, None))
            interval = _negated(interval)
        if p_value is None or p_value > 1 - level:
            # The interval is at 95%; the p-value, which it inverts, decides at this level.
            return msgspec.structs.replace(interval, low=None, high=None)
        return interval


def _negated(interval: Interval) -> Interval:
    def minus(value: float | None) -> float | None:
        return None if value is None else -value

    return msgspec.structs.replace(
        interval,
        estimate=minus(interval.estimate),
        low=minus(interval.high),
        high=minus(interval.low),
    )


def _in_order(targets: Sequence[FrontierTarget], *, higher: bool) -> tuple[FrontierTarget, ...]:
    def key(target: FrontierTarget) -> tuple[bool, float]:
        quality = target.quality.estimate
        worst = math.inf if quality is None else -quality if higher else quality
        return not target.on_frontier, worst

    return tuple(sorted(targets, key=key))
