"""Collects several runs under one name, and puts their scores into one leaderboard.

    board = await Experiments(store).leaderboard("prompt-study")

A table has the routes of all runs whose numbers mean the same: the same samples, read the same way,
and the same signature of the metric. Differences within a run are taken from its own report;
nothing is tested across runs (`evalrouter eval compare` does that).
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from evaluators.document import Notes, RunDocument, Tags
from evaluators.reports.report import Report, runs_in_words, score_of
from evaluators.reports.scores import OutputInfo
from evaluators.stats.comparison import ALPHA, Verdict
from providers.errors import ConflictError, InputError, NotFoundError, closest
from providers.names import check_name
from router.evals.looks import looks_at
from router.evals.results import outcome
from router.evals.stored_runs import stored_document
from router.evals.validation import build_metrics
from router.store.experiments import Experiment
from router.store.protocol import Store
from router.store.runs import STOPPED, Run, RunFilter

MAX_RUNS = 200
"""A leaderboard is of the newest so many runs, and says so where an experiment has more."""
MAX_REPORTS = 512
_PAGE = 100


class LeaderboardEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One route of one run in a table.

    Attributes:
        rank: from 1; equal scores share a rank. None for an output without a direction.
        run_id, run, route: whose score it is; `run` is the run's name.
        task: that of the run's document, "" without one.
        estimate, low, high, n, coverage: as in the run's report.
        cost_usd: what all the route's answers cost; None when a price is unknown.
        cost_estimated: whether a part of that is estimated, because a target did not count tokens.
        seconds: median time of an answer that was not cached; None when all were.
        cached_from: other runs to how many of its answers are theirs, by the run cache.
        baseline: the route of the same run that it was compared with; None without one.
        difference, difference_low, difference_high: from that baseline, with its 95% interval.
        p_holm: corrected by Holm over all comparisons of its own run.
        verdict: that of the comparison; None without one.
    """

    rank: int | None
    run_id: str
    run: str
    route: str
    task: str
    estimate: float
    low: float | None
    high: float | None
    n: int
    coverage: float
    cost_usd: float | None
    cost_estimated: bool
    seconds: float | None
    cached_from: dict[str, int] = {}
    baseline: str | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_holm: float | None = None
    verdict: Verdict | None = None


class LeaderboardTable(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of one output that can be set side by side.

    Attributes:
        output: the output, and what a reader needs to know of it.
        signature: that of its metric.
        dataset: as the newest of its runs named it.
        dataset_hash: SHA-256, hex.
        samples: how many of the dataset's rows are samples of each run.
        apart: why its runs are not in the table before it of the same output; "" for the first.
        entries: best first; where neither direction is better, by run and route.
    """

    output: OutputInfo
    signature: str
    dataset: str
    dataset_hash: str
    samples: int
    apart: str
    entries: tuple[LeaderboardEntry, ...]


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A run that no table has, and why."""

    run_id: str
    run: str
    state: str
    reason: str


class Leaderboard(msgspec.Struct, frozen=True, kw_only=True):
    """The scores of an experiment's runs, in tables.

    Attributes:
        experiment: its name, tags, notes and counts.
        boards: the tables, those with the most runs first.
        left_out: runs in no table.
        notes: what has to be known before believing the tables, in sentences.
    """

    experiment: Experiment
    boards: tuple[LeaderboardTable, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]


class ExperimentChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of an experiment; None leaves a field as it is.

    Attributes:
        tags: words to find it by, in the place of those that it has.
        notes: anything that people should know about it, likewise.
    """

    tags: Tags | None = None
    notes: Notes | None = None


class _SampleKey(msgspec.Struct, frozen=True):
    """What two runs must have in common for their samples to be the same."""

    dataset_hash: str
    samples: int
    # JSON of the document's `sample` (a first n shows in their number) and `columns`.
    drawn: bytes
    columns: bytes


class _Reported(NamedTuple):
    report: Report
    samples: _SampleKey


class _Member(NamedTuple):
    run: Run
    report: Report
    samples: _SampleKey


# Samples, output, and signature of its metric: the scores that stand in one table.
_TableKey = tuple[_SampleKey, str, str]


class Experiments:
    """The experiments of one store.

    Keeps the reports of runs that have stopped in memory, as a leaderboard reads all of them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reports: OrderedDict[tuple[Any, ...], _Reported] = OrderedDict()

    async def find(self, name: str) -> Experiment:
        """Return the experiment of that name. Raises NotFoundError."""
        experiments = await self._store.experiments(name=name)
        if not experiments:
            known = [experiment.name for experiment in await self._store.experiments()]
            raise NotFoundError(f"there is no experiment {name!r}.{closest(name, known)}")
        return experiments[0]

    async def change(self, name: str, change: ExperimentChange) -> Experiment:
        """Set tags or notes. Raises NotFoundError, or RequestError for what cannot be a tag."""
        for n, tag in enumerate(change.tags or ()):
            check_name(tag, f"tags[{n}]")
        experiment = await self.find(name)
        await self._store.set_experiment(
            name,
            tags=experiment.tags if change.tags is None else tuple(dict.fromkeys(change.tags)),
            notes=experiment.notes if change.notes is None else change.notes,
        )
        return await self.find(name)

    async def delete(self, name: str, *, runs: bool = False) -> int:
        """Forget an experiment, with its runs if `runs` is set; return how many were deleted.

        Raises:
            NotFoundError: no such experiment.
            ConflictError: its runs are to be deleted and one is not stopped; nothing was deleted.
        """
        await self.find(name)
        doomed = [run async for run in self._runs(name)] if runs else []
        for run in doomed:
            if run.state not in STOPPED:
                raise ConflictError(f"{run.id} is {run.state}: cancel it first")
        for run in doomed:
            await self._store.delete_run(run.id)
        await self._store.forget_experiment(name)
        return len(doomed)

    async def leaderboard(self, name: str) -> Leaderboard:
        """Return the scores of an experiment's runs, in tables. Raises NotFoundError."""
        experiment = await self.find(name)
        runs = await self._store.runs(RunFilter(experiment=name), limit=MAX_RUNS)
        members: list[_Member] = []
        left_out: list[LeftOut] = []
        for run in runs:
            reported, reason = await self._report(run)
            if reported is not None:
                members.append(_Member(run, reported.report, reported.samples))
            else:
                left_out.append(
                    LeftOut(run_id=run.id, run=run.name, state=run.state, reason=reason)
                )
        return Leaderboard(
            experiment=experiment,
            boards=await asyncio.to_thread(_boards, members),
            left_out=tuple(left_out),
            notes=tuple(_notes(experiment, members)),
        )

    async def _runs(self, name: str) -> AsyncIterator[Run]:
        before = None
        while True:
            page = await self._store.runs(RunFilter(experiment=name), limit=_PAGE, before=before)
            for run in page:
                yield run
            if len(page) < _PAGE:
                return
            before = page[-1].id

    async def _report(self, run: Run) -> tuple[_Reported | None, str]:
        """Return the run's report if its scores can stand beside others', or why not."""
        if run.state != "completed":
            progress = await self._store.progress(run.id)
            why = run.error or run.stopped
            so_far = f"{progress.answered:,} of {run.cells:,} requests answered"
            return None, f"{run.state}, {so_far}" + (f": {why}" if why else "")
        key = (run.id, run.finished_at, run.dataset_rows, tuple(run.metrics.items()))
        if key not in self._reports:
            try:
                document = stored_document(run)
                metrics = build_metrics(document)
                looks = await looks_at(self._store, run, document)
                report = (await outcome(self._store, run, document, metrics, looks)).report
            except InputError as error:
                # A metric that was uninstalled since, say: the other runs still have theirs.
                return None, error.message
            self._reports[key] = _Reported(report, _sample_key(run, document))
            while len(self._reports) > MAX_REPORTS:
                self._reports.popitem(last=False)
        self._reports.move_to_end(key)
        reported = self._reports[key]
        if not any(score.n for route in reported.report.routes for score in route.scores):
            return None, "no answer has a score"
        return reported, ""


def _sample_key(run: Run, document: RunDocument) -> _SampleKey:
    return _SampleKey(
        run.dataset_hash,
        run.dataset_rows,
        msgspec.json.encode(document.sample),
        msgspec.json.encode(document.columns, order="sorted"),
    )


def _boards(members: Sequence[_Member]) -> tuple[LeaderboardTable, ...]:
    """Return one table for each (samples, output, signature)."""
    groups: dict[_TableKey, list[_Member]] = {}
    outputs: dict[str, OutputInfo] = {}
    for member in members:
        for output in member.report.outputs:
            outputs.setdefault(output.name, output)
            signature = member.report.signatures.get(output.metric, "")
            groups.setdefault((member.samples, output.name, signature), []).append(member)
    # The samples that most runs share first; for those, outputs in the order of the metrics.
    shared = Counter(member.samples for member in members)
    order = {name: place for place, name in enumerate(outputs)}
    ordered = sorted(groups, key=lambda key: (-shared[key[0]], order[key[1]], -len(groups[key])))
    first: dict[str, _TableKey] = {}
    boards = []
    for key in ordered:
        samples, name, signature = key
        before = first.setdefault(name, key)
        entries = _ranked(outputs[name], list(_entries(name, groups[key])))
        if entries:
            boards.append(
                LeaderboardTable(
                    output=outputs[name],
                    signature=signature,
                    dataset=groups[key][0].run.dataset,
                    dataset_hash=samples.dataset_hash,
                    samples=samples.samples,
                    apart="" if before == key else _difference(before, key),
                    entries=entries,
                )
            )
    return tuple(boards)


def _difference(first: _TableKey, other: _TableKey) -> str:
    """Say why scores of the same output cannot stand in one table."""
    ours, theirs = first[0], other[0]
    if ours.dataset_hash != theirs.dataset_hash:
        return (
            f"another dataset: sha256 {theirs.dataset_hash[:12]} instead of "
            f"{ours.dataset_hash[:12]}"
        )
    if ours.columns != theirs.columns:
        return "other columns of the dataset are its input or reference"
    if ours != theirs:
        return f"other samples of the dataset: {theirs.samples:,} instead of {ours.samples:,} rows"
    return f"measured otherwise: {other[2]} instead of {first[2]}"


def _entries(output: str, members: Iterable[_Member]) -> Iterable[LeaderboardEntry]:
    for run, report, _ in members:
        task = run.document.get("task")
        compared = {pair.route: pair for pair in report.comparisons if pair.output == output}
        for route in report.routes:
            score = score_of(route, output)
            if score.estimate is None:
                continue
            against = compared.get(route.route)
            yield LeaderboardEntry(
                rank=None,
                run_id=run.id,
                run=run.name,
                route=route.route,
                task=task["name"] if isinstance(task, dict) else "",
                estimate=score.estimate,
                low=score.low,
                high=score.high,
                n=score.n,
                coverage=score.coverage,
                cost_usd=route.cost.total_usd,
                cost_estimated=bool(route.cost.estimated),
                seconds=route.times.p50_s,
                cached_from=route.cached_from,
                baseline=report.baseline if against else None,
                difference=against.difference if against else None,
                difference_low=against.low if against else None,
                difference_high=against.high if against else None,
                p_holm=against.p_holm if against else None,
                verdict=against.verdict if against else None,
            )


def _ranked(output: OutputInfo, entries: list[LeaderboardEntry]) -> tuple[LeaderboardEntry, ...]:
    if output.higher_is_better is None:
        return tuple(sorted(entries, key=lambda entry: (entry.run_id, entry.route)))
    sign = -1.0 if output.higher_is_better else 1.0
    entries.sort(key=lambda entry: (sign * entry.estimate, entry.run_id, entry.route))
    ranked: list[LeaderboardEntry] = []
    for place, entry in enumerate(entries, 1):
        tied = ranked and ranked[-1].estimate == entry.estimate
        rank = ranked[-1].rank if tied else place
        ranked.append(msgspec.structs.replace(entry, rank=rank))
    return tuple(ranked)


def _notes(experiment: Experiment, members: Sequence[_Member]) -> Iterable[str]:
    if experiment.runs > MAX_RUNS:
        yield f"These are the newest {MAX_RUNS} of {experiment.runs:,} runs."
    tested = [
        comparison
        for member in members
        for comparison in member.report.comparisons
        if comparison.p_holm is not None
    ]
    if tested:
        families = len({member.run.id for member in members if member.report.comparisons})
        yield (
            "Each difference is taken from the same run's baseline, with its own 95% interval; "
            "verdicts are corrected by Holm over the comparisons of that run."
        )
        if families > 1:
            yield (
                f"Verdicts are not corrected over the experiment: with {families:,} runs and "
                f"{len(tested):,} comparisons, each run has its own {ALPHA:.0%} chance of showing "
                "a difference that does not exist, and the more runs you try, the likelier it is "
                "that one looks best by luck. Repeat what matters on other samples."
            )
    if len(members) > 1:
        yield (
            "Ranks are not tests: `evalrouter eval compare RUN RUN` shows whether two runs differ."
        )
    copied = sorted(
        f"{route.route} of {member.run.id} (from {runs_in_words(route.cached_from)})"
        for member in members
        for route in member.report.routes
        if route.cached_from
    )
    if copied:
        yield (
            f"Answers that the run cache took from another run were measured once, there: "
            f"{', '.join(copied)}."
        )
    partial = sorted(
        {
            member.run.id
            for member in members
            if any(score.coverage < 1 for route in member.report.routes for score in route.scores)
        }
    )
    if partial:
        yield (
            "Scores with a coverage below 100% are over other samples than the rest of their "
            f"table: {', '.join(partial)}."
        )
