"""Runs of evaluations: checked before anything is paid for, queued, resumed, extended, reported.

Read `create`, then `Jobs.execute` in `worker.py`. Everything that a run needs to go on after a
crash is in the store. What a server began is queued there, and any server on the same store takes
it up (`serve`); what a command began, that command carries out.
"""

from __future__ import annotations

import asyncio
import platform
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from evaluators.base import AnyMetric
from evaluators.data.dataset_process import in_thread
from evaluators.document import RunDocument, RunLimits
from providers.errors import ConflictError, RunDocumentError
from providers.names import as_name
from router.config.documents import Document, convert
from router.config.evaluation import Evaluation
from router.datasets.registry import DatasetRegistry
from router.datasets.sources import Source
from router.evals import amendments
from router.evals.amendments import RescoreSpec
from router.evals.confinement import confine
from router.evals.estimate import Estimate, estimate
from router.evals.executor import RunProgress
from router.evals.hardware_cost import hardware_costs
from router.evals.requests import EvalRequester
from router.evals.results import Outcome, Outcomes
from router.evals.samples import prepare
from router.evals.validation import (
    build_metrics,
    check_names,
    check_parameters,
    check_per_target,
    check_routes,
    check_stop_when,
    parse_gates,
    resolve_metrics,
)
from router.evals.worker import Jobs, Runner, stale_after
from router.store.protocol import Store
from router.store.runs import STOPPED, Run

# How often a run of another process is looked at.
FOLLOW_S = 0.5


class _Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    limits: RunLimits


class Runs(Jobs):
    """All runs. `close()` stops those that this process carries out, resumable."""

    def __init__(
        self,
        store: Store,
        asker: EvalRequester,
        datasets: DatasetRegistry,
        allowed: Evaluation,
        *,
        most_at_once: int = 2,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(store, asker, allowed, most_at_once=most_at_once, now=now)
        self._datasets = datasets
        self._outcomes = Outcomes(store)

    # Creating

    async def create(self, document: RunDocument, *, base: Path, runner: Runner = "command") -> Run:
        """Check a document down to the last template and keep the run as `queued`.

        Args:
            document: what to do.
            base: the folder that relative dataset paths start from.
            runner: who is to carry it out: this store's servers, or the command that asks.

        Raises:
            RunDocumentError, DatasetError, MissingExtraError: what is wrong, and where; nothing
                was kept and nothing was sent.
        """
        check_names(document)
        await self._confine(runner, document, base)
        document, metrics = self._check(document, base)
        async with self._open(runner, document, base) as source:
            document = msgspec.structs.replace(document, dataset=source.address)
            prepared = await in_thread(prepare, document, source, metrics)
            found = Run(
                id=_new_id(self._now()),
                name=document.name or as_name(source.name),
                state="queued",
                document=msgspec.to_builtins(document),
                dataset=document.dataset,
                dataset_hash=prepared.dataset.hash,
                dataset_rows=prepared.count,
                metrics={metric.name: metric.signature for metric in metrics},
                created_at=self._now(),
                runner=runner,
                base=_folder(base),
                cells=prepared.count * len(document.routes) * document.repeats,
                versions={"evalrouter": version("evalrouter"), "python": platform.python_version()},
                experiment=document.experiment,
                tags=document.tags,
                notes=document.notes,
            )
            await self._store.add_run(found, prepared.samples())
        self.look()
        return found

    async def estimate(
        self, document: RunDocument, *, base: Path, runner: Runner = "command"
    ) -> Estimate:
        """What the run would take; nothing is kept and nothing is sent.

        Args:
            document: what would be done.
            base: the folder that relative dataset paths start from.
            runner: who would carry it out.

        Raises:
            RunDocumentError, DatasetError, MissingExtraError: what is wrong, and where.
        """
        check_names(document)
        await self._confine(runner, document, base)
        document, metrics = self._check(document, base)
        async with self._open(runner, document, base) as source:
            document = msgspec.structs.replace(document, dataset=source.address)
            prepared = await in_thread(prepare, document, source, metrics)
            asker = self._asker.for_run(document)
            return await estimate(self._store, asker, document, metrics, prepared)

    async def _confine(self, runner: Runner, document: RunDocument, base: Path | None) -> None:
        """Refuse what a server may not do for a client.

        Args:
            runner: who is to carry it out; a command may do anything.
            document: the run's, as it would be stored.
            base: the folder that the dataset's path starts from; None where it is not read again.
        """
        if runner == "server":
            datasets = None if base is None else self._datasets
            await confine(document, self._allowed, datasets=datasets, base=base)

    def _open(
        self, runner: Runner, document: RunDocument, base: Path
    ) -> AbstractAsyncContextManager[Source]:
        """Open a document's dataset for whoever named it."""
        return self._datasets.open(document.dataset, base=base, over_http=runner == "server")

    def _check(self, document: RunDocument, base: Path) -> tuple[RunDocument, list[AnyMetric]]:
        """Everything that can be checked without the dataset. Raises RunDocumentError."""
        document = resolve_metrics(document, base)
        metrics = build_metrics(document)
        check_routes(self._asker.for_run(document), document, metrics)
        check_parameters(document)
        parse_gates(document, metrics)
        check_stop_when(document, metrics)
        return document, metrics

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
            runner: who is to carry it out: this store's servers, or the command that asks.
            retry_failed: ask again where the target failed.
            limits: those of the document's `limits` that are changed.

        Raises:
            NotFoundError: no such run.
            ConflictError: it is being carried out.
            RunDocumentError: limits that are none.
        """
        found = await self.find(run_id)
        await self._confine(runner, msgspec.convert(found.document, RunDocument), None)
        changes: dict[str, Any] = {"runner": runner}
        if limits:
            changes["document"] = _with_limits(found.document, limits)
            changed = msgspec.convert(changes["document"], RunDocument)
            check_per_target(self._asker.for_run(changed), changed)
        await self._store.requeue_run(
            found.id, self._now(), stale_after(found.owner), retry_failed=retry_failed, **changes
        )
        self.look()
        return await self.find(found.id)

    async def rescore(
        self, run_id: str, metrics: Sequence[RescoreSpec], *, base: Path, runner: Runner
    ) -> Run:
        """Queue a run to have its answers scored by more metrics; nothing is asked for it.

        A metric of a name that the run has replaces it; the others keep their scores.

        Args:
            run_id: the run, or a unique prefix.
            metrics: as in a run document; none for all it has, as they are installed now.
            base: the folder that paths of metrics start from.
            runner: who is to carry it out.

        Raises:
            NotFoundError: no such run.
            ConflictError: it is being carried out.
            RunDocumentError: a metric that is none, or that cannot score the run's samples.
        """
        found = await self.find(run_id)
        document = msgspec.convert(found.document, RunDocument)
        # Before they are built, which reads their files; those that stay, once it is known which.
        given = msgspec.structs.replace(document, metrics=tuple(metrics) or document.metrics)
        await self._confine(runner, given, None)
        change = amendments.rescore(found, metrics, base)
        merged = msgspec.convert(change.changes["document"], RunDocument)
        await self._confine(runner, merged, None)
        if change.needing:
            async for sample in self._store.samples(found.id):
                if not sample.references:
                    raise RunDocumentError(
                        f"metrics: the sample {sample.id} has no reference, which "
                        f"{', '.join(change.needing)} needs",
                        param="metrics",
                    )
        await self._store.rescore_run(
            found.id,
            self._now(),
            stale_after(found.owner),
            keep_outputs=change.kept,
            runner=runner,
            **change.changes,
        )
        self.look()
        return await self.find(found.id)

    async def extend(
        self, run_id: str, *, runner: Runner, limit: int | None = None, repeats: int | None = None
    ) -> Run:
        """Queue a run with more samples of its dataset, or more repeats of each.

        Args:
            run_id: the run, or a unique prefix.
            runner: who is to carry it out.
            limit: how many samples it is to have; all there are where that is fewer.
            repeats: how often each is to be asked.

        Raises:
            NotFoundError: no such run.
            ConflictError: it is being carried out, or its dataset or a metric has changed.
            RunDocumentError, DatasetError: what cannot be extended so.
        """
        found = await self.find(run_id)
        stored = msgspec.convert(found.document, RunDocument)
        await self._confine(runner, stored, None if limit is None else Path(found.base))
        document, metrics = amendments.extension(found, limit=limit, repeats=repeats)
        claim = (found.id, self._now(), stale_after(found.owner))
        changes: dict[str, Any] = {"document": msgspec.to_builtins(document), "runner": runner}
        cells = len(document.routes) * document.repeats
        if limit is None:
            await self._store.requeue_run(*claim, cells=found.dataset_rows * cells, **changes)
        else:
            async with self._open(runner, document, Path(found.base)) as source:
                prepared = await in_thread(prepare, document, source, metrics)
                amendments.check_same_dataset(found, prepared.count, prepared.dataset.hash)
                await self._store.extend_run(
                    *claim,
                    samples=islice(prepared.samples(), found.dataset_rows, None),
                    dataset_rows=prepared.count,
                    cells=prepared.count * cells,
                    **changes,
                )
        self.look()
        return await self.find(found.id)

    # Reading

    async def follow(self, run_id: str, live: RunProgress) -> Run:
        """Keep `live` up to date with a run that another process carries out, until it stops.

        Raises:
            NotFoundError: no such run, or it was deleted.
            ConflictError: nobody carries it out and nobody will.
        """
        while True:
            found = await self.find(run_id)
            progress = await self._store.progress(found.id)
            live.cells, live.answered, live.failed = found.cells, progress.scored, progress.failed
            if found.state in STOPPED:
                return found
            if found.runner == "command" and self.is_free(found):
                raise ConflictError(
                    f"no process executes {found.id} any more; "
                    f"continue it with: evalrouter eval resume {found.id}"
                )
            await asyncio.sleep(FOLLOW_S)

    async def outcome(self, run_id: str) -> Outcome:
        """The run, its report as far as it has got, and its gates."""
        found = await self.find(run_id)
        read = await self._outcomes.of(found)
        hardware = await hardware_costs(self._store, found.id, self._asker.prices)
        return msgspec.structs.replace(read, hardware=hardware)


def _with_limits(document: dict[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """A run's document with some of its limits changed. Raises RunDocumentError."""
    limits = {**document.get("limits", {}), **changed}
    converted = convert(Document({"limits": limits}, "", {}), _Limits, error=RunDocumentError)
    return document | {"limits": msgspec.to_builtins(converted.limits)}


def _folder(base: Path) -> str:
    return str(base.absolute())


def _new_id(now: float) -> str:
    """Ids sort by time: milliseconds, then randomness."""
    return f"run_{int(now * 1000):011x}{uuid.uuid4().hex[:8]}"
