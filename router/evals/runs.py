"""Checks, queues, resumes, rescores and extends runs of evaluations, and reports on them.

Read `create`, then `Jobs.execute` in `worker.py`. A run is checked before anything is paid for. The
store has everything that a run needs to go on after a crash. A run that a server began is queued
there, and any server on the same store takes it up (`Jobs.serve`); a run that a command began is
executed by that command.
"""

from __future__ import annotations

import asyncio
import platform
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from evaluators.base import AnyMetric, SampleCheck
from evaluators.data.dataset_process import in_thread
from evaluators.document import RunDocument
from providers.errors import ConflictError, RunDocumentError
from providers.names import as_name
from router.config.evaluation import Evaluation
from router.datasets.registry import DatasetRegistry
from router.datasets.sources import Source
from router.evals import amendments
from router.evals.amendments import RescoreSpec
from router.evals.confinement import confine
from router.evals.estimate import Estimate, estimate
from router.evals.executor import RunProgress
from router.evals.hardware_cost import hardware_costs
from router.evals.lease import stale_after
from router.evals.requests import EvalRequester
from router.evals.results import Outcome, Outcomes
from router.evals.samples import PreparedDataset, check_sample, prepare
from router.evals.slices import Slices
from router.evals.stored_runs import find_row, find_run, stored_document
from router.evals.unpredicted_routes import noted, strategies_of
from router.evals.validation import (
    build_metrics,
    check_document,
    check_metric_routes,
    check_names,
    check_per_target,
    check_routes,
    check_signatures,
    lacking_scores,
    resolve_metrics,
)
from router.evals.worker import Jobs, Runner
from router.store.protocol import Store
from router.store.runs import STOPPED, Run

# How often `follow` reads a run of another process.
FOLLOW_S = 0.5


class _CheckedRun(NamedTuple):
    """A run document in which nothing is wrong.

    Attributes:
        document: the paths of its metrics absolute, its dataset's address complete.
        metrics: the document's.
        dataset: the document's, read to its end once.
        dataset_name: what to call the run where its document does not say.
        registered: the hash of the dataset where it is a registered one; else "".
    """

    document: RunDocument
    metrics: list[AnyMetric]
    dataset: PreparedDataset
    dataset_name: str
    registered: str


class Runs:
    """All runs of a store: how they begin, how they change, and what came of them.

    Attributes:
        slices: their scores by the columns of their datasets.
    """

    def __init__(
        self,
        store: Store,
        requester: EvalRequester,
        datasets: DatasetRegistry,
        allowed: Evaluation,
        jobs: Jobs,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._requester = requester
        self._datasets = datasets
        self._allowed = allowed
        self._jobs = jobs
        self._now = now
        self._outcomes = Outcomes(store)
        self.slices = Slices(store)

    # Creating

    async def create(
        self,
        document: RunDocument,
        *,
        base: Path,
        runner: Runner = "command",
        key_id: str = "",
        paused_as: str = "",
    ) -> Run:
        """Check a document down to the last template and store the run as `queued`.

        Args:
            document: what to do.
            base: the folder that relative dataset paths start from.
            runner: who is to execute it: this store's servers, or the calling command.
            key_id: the id of the key that it belongs to; "" for none.
            paused_as: the id to store it with as `paused`, so that it waits for its start; "" for a
                new id.

        Raises:
            RunDocumentError, DatasetError, MissingExtraError: what is wrong, and where; nothing
                was stored and nothing was sent.
        """
        async with self._checked(document, base=base, runner=runner) as checked:
            run = self._new_run(checked, base=base, runner=runner, key_id=key_id)
            if paused_as:
                run = msgspec.structs.replace(run, id=paused_as, state="paused")
            await self._store.add_run(run, checked.dataset.samples(), registered=checked.registered)
        self._jobs.wake()
        return run

    async def estimate(
        self, document: RunDocument, *, base: Path, runner: Runner = "command"
    ) -> Estimate:
        """Return what the run would take; nothing is stored and nothing is sent.

        Args:
            document: what would be done.
            base: the folder that relative dataset paths start from.
            runner: who would execute it.

        Raises:
            RunDocumentError, DatasetError, MissingExtraError: what is wrong, and where.
        """
        async with self._checked(document, base=base, runner=runner) as checked:
            requester = self._requester.for_run(checked.document)
            return await estimate(
                self._store, requester, checked.document, checked.metrics, checked.dataset
            )

    @asynccontextmanager
    async def _checked(
        self, document: RunDocument, *, base: Path, runner: Runner
    ) -> AsyncIterator[_CheckedRun]:
        """Check a document; its dataset stays open inside. Arguments and errors as for `create`."""
        check_names(document)
        document = resolve_metrics(await self._confine(runner, document, base), base)
        metrics = build_metrics(document)
        check_document(self._requester.for_run(document), document, metrics)
        async with self._open(runner, document, base) as source:
            document = msgspec.structs.replace(document, dataset=source.address)
            dataset = await in_thread(prepare, document, source, metrics)
            yield _CheckedRun(document, metrics, dataset, source.name, source.registered)

    def _new_run(self, checked: _CheckedRun, *, base: Path, runner: Runner, key_id: str) -> Run:
        document, samples = checked.document, checked.dataset.count
        return Run(
            id=new_id(self._now()),
            name=document.name or as_name(checked.dataset_name),
            state="queued",
            document=msgspec.to_builtins(document),
            dataset=document.dataset,
            dataset_hash=checked.dataset.dataset.hash,
            dataset_rows=samples,
            metrics={metric.name: metric.signature for metric in checked.metrics},
            created_at=self._now(),
            runner=runner,
            base=str(base.absolute()),
            cells=samples * len(document.routes) * document.repeats,
            versions={
                "evalrouter": version("evalrouter"),
                "python": platform.python_version(),
                **noted(strategies_of(self._requester.for_run(document).table, document)),
            },
            experiment=document.experiment,
            tags=document.tags,
            notes=document.notes,
            key_id=key_id,
        )

    async def _confine(
        self, runner: Runner, document: RunDocument, base: Path | None
    ) -> RunDocument:
        """Refuse what a server may not do for a client; return what it may do, as `confine` does.

        Args:
            runner: who is to execute the run; a command may do anything.
            document: the run's, as it would be stored.
            base: the folder that the dataset's path starts from; None where it is not read again.
        """
        if runner != "server":
            return document
        datasets = None if base is None else self._datasets
        return await confine(document, self._allowed, datasets=datasets, base=base)

    def _open(
        self, runner: Runner, document: RunDocument, base: Path
    ) -> AbstractAsyncContextManager[Source]:
        """Open a document's dataset with the rights of the client or command that named it."""
        return self._datasets.open(document.dataset, base=base, over_http=runner == "server")

    # Changing

    async def resume(
        self,
        run_id: str,
        *,
        runner: Runner,
        retry_failed: bool = False,
        limits: Mapping[str, Any] | None = None,
    ) -> Run:
        """Queue a run again; no finished request of it is ever sent again.

        Args:
            run_id: the run, or a unique prefix.
            runner: who is to execute it: this store's servers, or the calling command.
            retry_failed: whether to send those requests again that their target failed.
            limits: those of the document's `limits` that are changed.

        Raises:
            NotFoundError: no such run, or a route that one of its metrics requests is gone.
            ConflictError: a process is executing it, or a metric that it needs has changed.
            RunDocumentError: limits that cannot be, or a route of the run is gone.
        """
        run = await self.find(run_id)
        document = stored_document(run)
        await self._confine(runner, document, None)
        changes: dict[str, Any] = {"runner": runner}
        if limits:
            document = amendments.change_limits(document, limits)
            changes["document"] = msgspec.to_builtins(document)
        requester = self._requester.for_run(document)
        metrics = build_metrics(document)
        check_routes(requester, document, metrics)
        if limits:
            check_per_target(requester, document)
        check_signatures(run, await self._needed(run, metrics, retry_failed=retry_failed))
        await self._store.requeue_run(
            run.id, stale_after(run.owner), retry_failed=retry_failed, **changes
        )
        return await self._queued(run.id)

    async def _needed(
        self, run: Run, metrics: list[AnyMetric], *, retry_failed: bool
    ) -> list[AnyMetric]:
        """Return the metrics that have answers to score: all of them where a request is left."""
        progress = await self._store.progress(run.id)
        requested = progress.answered + progress.failed == run.cells
        if not requested or (retry_failed and progress.failed):
            return metrics
        lacking: set[int] = set()
        cells = len(run.document["routes"]) * run.document["repeats"]
        async with aclosing(self._store.open_samples(run.id, cells)) as open_samples:
            async for sample in open_samples:
                for answer in sample.unscored.values():
                    lacking.update(lacking_scores(metrics, answer.scores))
        return [metrics[n] for n in sorted(lacking)]

    async def rescore(
        self, run_id: str, specs: Sequence[RescoreSpec], *, base: Path, runner: Runner
    ) -> Run:
        """Queue a run to have its answers scored by more metrics; its routes get no requests.

        A metric of a name that the run has replaces it; the others keep their scores.

        Args:
            run_id: the run, or a unique prefix.
            specs: metrics as in a run document; none for all it has, as they are installed now.
            base: the folder that paths of metrics start from.
            runner: who is to execute it.

        Raises:
            NotFoundError: no such run, or a route that a new metric requests does not exist.
            ConflictError: a process is executing it.
            RunDocumentError: a metric that does not exist or cannot score the run's samples, or
                too many.
        """
        run = await self.find(run_id)
        gone = await self._store.deleted_texts(run.id)
        if gone:
            raise ConflictError(
                f"{run.id}: the texts of {gone:,} of its samples were deleted, so that they cannot "
                "be scored again"
            )
        document = stored_document(run)
        # Before they are built, which reads their files; those that stay, once it is known which.
        given = msgspec.structs.replace(document, metrics=tuple(specs) or document.metrics)
        given = await self._confine(runner, given, None)
        change = amendments.rescore(run, document, given.metrics if specs else (), base)
        check_metric_routes(self._requester.for_run(document), change.new)
        await self._confine(runner, change.document, None)
        await self._check_samples(run, change.needing_references, change.checks)
        await self._store.rescore_run(
            run.id,
            stale_after(run.owner),
            keep_outputs=change.keep_outputs,
            runner=runner,
            document=msgspec.to_builtins(change.document),
            metrics=change.signatures,
        )
        return await self._queued(run.id)

    async def _check_samples(
        self, run: Run, needing: Sequence[str], checks: Sequence[SampleCheck]
    ) -> None:
        """Check that every sample has what new metrics need.

        Args:
            run: the run.
            needing: names of metrics that need a reference.
            checks: metrics that check each sample.
        """
        if not needing and not checks:
            return
        async for sample in self._store.samples(run.id):
            check_sample(sample, checks, "metrics", param="metrics")
            if needing and not sample.references:
                raise RunDocumentError(
                    f"metrics: the sample {sample.id} has no reference, which "
                    f"{', '.join(needing)} needs",
                    param="metrics",
                )

    async def extend(
        self, run_id: str, *, runner: Runner, limit: int | None = None, repeats: int | None = None
    ) -> Run:
        """Queue a run with more samples of its dataset, or more repeats of each.

        Args:
            run_id: the run, or a unique prefix.
            runner: who is to execute it.
            limit: how many samples it is to have; where the dataset has fewer, all of them.
            repeats: how many answers each sample is to have from each route.

        Raises:
            NotFoundError: no such run, or a route that one of its metrics requests is gone.
            ConflictError: a process is executing it, or its dataset or a metric has changed.
            RunDocumentError, DatasetError: why it cannot be extended so.
        """
        run = await self.find(run_id)
        document = stored_document(run)
        await self._confine(runner, document, None if limit is None else Path(run.base))
        document, metrics = amendments.extend(run, document, limit=limit, repeats=repeats)
        check_routes(self._requester.for_run(document), document, metrics)
        claim = (run.id, stale_after(run.owner))
        changes: dict[str, Any] = {"document": msgspec.to_builtins(document), "runner": runner}
        cells = len(document.routes) * document.repeats
        if limit is None:
            await self._store.requeue_run(*claim, cells=run.dataset_rows * cells, **changes)
        else:
            async with self._open(runner, document, Path(run.base)) as source:
                dataset = await in_thread(prepare, document, source, metrics)
                amendments.check_same_dataset(run, dataset.count, dataset.dataset.hash)
                await self._store.extend_run(
                    *claim,
                    samples=islice(dataset.samples(), run.dataset_rows, None),
                    dataset_rows=dataset.count,
                    cells=dataset.count * cells,
                    **changes,
                )
        return await self._queued(run.id)

    async def _queued(self, run_id: str) -> Run:
        """Return a run that has just been queued, and let this process take it up."""
        self._jobs.wake()
        return await self.find(run_id)

    async def delete(self, run_id: str) -> str:
        """Delete a run with its answers and scores, also one whose row cannot be read.

        Args:
            run_id: the run, or a unique prefix.

        Returns:
            The id of the run.

        Raises:
            NotFoundError: no such run.
            ConflictError: it has not stopped.
        """
        run = await find_row(self._store, run_id)
        if run.state not in STOPPED:
            raise ConflictError(f"{run.id} is {run.state}: cancel it first")
        await self._store.delete_run(run.id)
        return run.id

    # Reading

    async def find(self, run_id: str) -> Run:
        """Return the run with this id or unique prefix.

        Raises:
            NotFoundError: no such run.
            StoreError: its row cannot be read.
        """
        return await find_run(self._store, run_id)

    async def follow(self, run_id: str, live: RunProgress) -> Run:
        """Keep `live` up to date with a run that another process executes, until it stops.

        Raises:
            NotFoundError: no such run, or it was deleted.
            ConflictError: the process that executed it is gone, and no other will go on with it.
        """
        while True:
            run = await self.find(run_id)
            progress = await self._store.progress(run.id)
            live.cells, live.answered, live.failed = run.cells, progress.scored, progress.failed
            if run.state in STOPPED:
                return run
            if run.runner == "command" and await self._jobs.is_free(run):
                raise ConflictError(
                    f"no process executes {run.id} any more; "
                    f"continue it with: evalrouter eval resume {run.id}"
                )
            await asyncio.sleep(FOLLOW_S)

    async def outcome(self, run_id: str) -> Outcome:
        """Return the run, its report as far as it has got, and its gates."""
        run = await self.find(run_id)
        outcome = await self._outcomes.of(run)
        hardware = await hardware_costs(self._store, run.id, self._requester.prices)
        return msgspec.structs.replace(outcome, hardware=hardware)


def new_id(now: float) -> str:
    """Return a new id. Ids sort by time: milliseconds, then randomness."""
    return f"run_{int(now * 1000):011x}{uuid.uuid4().hex[:8]}"
