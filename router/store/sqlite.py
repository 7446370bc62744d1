"""The store in one SQLite file: `SqliteStore(path)`, `await open()`, use, `await close()`.

Writes go through one thread that commits them in groups (see `writer.py`); reads run on a few
threads with connections of their own, so the event loop never waits for SQLite. The file is in WAL
mode with synchronous=NORMAL: what was acknowledged outlives a kill -9 of the process, though the
last moments may be lost when the machine itself loses power. Several processes may share the file.

A cell's answer is written once. `begin` refuses a cell that was begun, `keep_answer` refuses one
that has an answer: `claim_run` and `forget_failed` are the ways to have a cell asked again.
Numbers that are NaN or infinite are refused everywhere: neither JSON nor a mean can carry them.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec
from sqlite_utils import Database

from evaluators.base import Answer, Cell, Sample, Score
from evaluators.data.dataset_process import in_thread
from providers.errors import StoreError, StoreUnavailableError
from router.records import Record
from router.store import (
    sqlite_datasets,
    sqlite_experiments,
    sqlite_judgements,
    sqlite_keys,
    sqlite_runs,
    sqlite_served,
    sqlite_traffic,
)
from router.store import sqlite_measured as measured
from router.store import sqlite_rows as rows
from router.store.datasets import DatasetRow
from router.store.experiments import Experiment
from router.store.history import EarlierAnswer, EarlierRun
from router.store.judgements import JudgementRow, JudgeUse
from router.store.keys import KeyRow, KeySpend, KeyState, KeyTable
from router.store.results import OpenSample, ScoredAnswer
from router.store.runs import ANY_RUN, Progress, RequestedState, Run, RunFilter
from router.store.sqlite_file import DatabaseFile, write_a_page
from router.store.studies import Study, StudyKind
from router.store.traffic import TrafficFilter, TrafficRow
from router.store.usage import EmbeddingUse, Served, Spent
from router.store.writer import SqliteWriter

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")

READERS = 4
ABANDONED_S = 600.0  # after this without progress, an addition or deletion was cut off by a crash


class SqliteStore:
    """A `Store` in one file.

    Args:
        path: the file; its folder must exist.
        create: whether it is made when it is not there.
        clock: seconds since the epoch; stamps answers.
        room: how many writes may be on their way before the next one waits.
    """

    def __init__(
        self,
        path: Path,
        *,
        create: bool = True,
        clock: Callable[[], float] = time.time,
        room: int = 1024,
    ) -> None:
        self.path = path
        self._file = DatabaseFile(path, create=create)
        self._clock = clock
        self._room = room
        self._writer: SqliteWriter | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._checks: ThreadPoolExecutor | None = None
        # Each with the generation of the file that it reads.
        self._idle: list[tuple[int, Database]] = []

    async def open(self) -> None:
        """Connect, bring the schema up to date, sweep up what a crash left half done.

        Raises:
            StoreError: the path is a folder, is not writable, is no SQLite file, or was written
                by a newer evalrouter.
        """
        db = await asyncio.to_thread(self._file.open_for_writing)
        self._writer = SqliteWriter(db, self._file, room=self._room)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="evalrouter-store-read")
        self._checks = ThreadPoolExecutor(1, thread_name_prefix="evalrouter-store-check")
        try:
            before = self._clock() - ABANDONED_S
            for number in await self._read("look for abandoned runs", rows.abandoned, before):
                await self._erase(number)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Write what is queued, then disconnect. Closing twice does nothing."""
        writer, readers, checks = self._writer, self._readers, self._checks
        if writer is None or readers is None or checks is None:
            return
        self._readers = self._checks = None
        await asyncio.to_thread(readers.shutdown)
        await asyncio.to_thread(checks.shutdown)
        while self._idle:
            self._idle.pop()[1].close()
        # Last, because the last connection to leave folds the WAL back into the file.
        await writer.close()
        self._writer = None

    def end_within(self, seconds: float) -> None:
        """Stop waiting for other processes that keep the database locked, so long from now."""
        if self._writer is not None:
            self._writer.end_within(seconds)

    # whether it works

    @property
    def generation(self) -> int:
        """A number that changes when another database is put in the place of this one."""
        return self._file.generation

    async def check(self) -> None:
        """Write a page, then read.

        Raises:
            StoreUnavailableError: the database does not work, and why.
        """
        checks = self._checks
        if checks is None:
            raise StoreError("cannot check the database: it is not open")
        # First, because it takes over what is in the place of the file.
        await self._write("write to the database", write_a_page)
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(checks, self._file.check_reading)
        except (sqlite3.Error, OSError, StoreUnavailableError) as error:
            raise self._file.refusal("read from the database", error) from error

    def delay(self) -> StoreUnavailableError | None:
        """What a check that takes its time waits for; None where that is not known."""
        if self._file.is_corrupt:
            return self._file.corrupt()
        if self._writer is not None and self._writer.is_locked_out:
            return self._file.locked()
        return None

    # runs

    async def add_run(self, run: Run, samples: Iterable[Sample]) -> None:
        """A new run and its samples, all or nothing.

        Other writes get their turn between chunks of samples; the run shows when it is complete.

        Raises:
            StoreError: the run's id is taken, or two samples have the same id.
            Exception: whatever `samples` raises; nothing was kept.
        """
        left = iter(samples)
        number = await self._write("add a run", rows.insert_run, run, self._clock())
        try:
            added = 0
            while chunk := await in_thread(rows.sample_chunk, left, added + 1):
                await self._write("add samples", rows.insert_samples, number, chunk, self._clock())
                added += len(chunk)
            await self._write("add a run", rows.set_hidden, number, None)
        except BaseException:
            # Where this fails too, open() sweeps up later.
            with contextlib.suppress(StoreError):
                await self._erase(number)
            raise

    async def run(self, run_id: str) -> Run | None:
        """One run; None when there is none. A unique prefix of the id is enough.

        Raises:
            NotFoundError: the prefix fits several runs; the message names some.
        """
        return await self._read("read a run", rows.find_run, run_id)

    async def runs(
        self, matching: RunFilter = ANY_RUN, *, limit: int = 50, before: str | None = None
    ) -> list[Run]:
        """Newest first, which is by id: ids sort by age. `before` need not exist any more."""
        return await self._read("list runs", rows.runs_page, matching, limit, before)

    async def update_run(self, run_id: str, **changes: Any) -> None:
        """Set fields of a run.

        Raises:
            NotFoundError: no such run.
            StoreError: no such field, or a value of the wrong type.
        """
        await self._write("update a run", rows.update_run, run_id, changes)

    async def claim_run(self, run_id: str, owner: str, now: float, stale_after: float) -> bool:
        """Become the owner of a run that is queued or running.

        False when it is neither, or another owner gave a sign of life lately. Atomic over
        processes. Counts the cells in flight into `interrupted` and forgets them. Who owns the run
        already may claim it again, with the same effect.

        Raises:
            NotFoundError: no such run.
        """
        return await self._write("claim a run", sqlite_runs.claim, run_id, owner, now, stale_after)

    async def heartbeat(self, run_id: str, owner: str, now: float) -> RequestedState | None:
        """Renew the claim, and learn what is wished; None when the run is another's or gone."""
        return await self._write("renew a claim", sqlite_runs.heartbeat, run_id, owner, now)

    async def end_run(self, run_id: str, owner: str, now: float, **changes: Any) -> bool:
        """Give the run up with its last state; False when somebody else owns it now.

        Raises:
            NotFoundError: no such run.
        """
        return await self._write("end a run", sqlite_runs.end, run_id, owner, now, changes)

    async def request_state(
        self, run_id: str, state: RequestedState, now: float, stale_after: float
    ) -> Run:
        """Ask the owner to bring the run to a state; a run without a live owner is at once.

        Raises:
            NotFoundError: no such run.
        """
        return await self._write("stop a run", sqlite_runs.wish, run_id, state, now, stale_after)

    async def requeue_run(
        self,
        run_id: str,
        now: float,
        stale_after: float,
        *,
        retry_failed: bool = False,
        **changes: Any,
    ) -> None:
        """Have it done again; `retry_failed` forgets its errors, so that they are asked again.

        Raises:
            NotFoundError: no such run.
            ConflictError: another owner gave a sign of life lately.
        """
        await self._write(
            "queue a run",
            sqlite_runs.requeue,
            run_id,
            now,
            stale_after,
            changes=changes,
            retry_failed=retry_failed,
        )

    async def unfinished_runs(self) -> list[Run]:
        """The runs of servers that are queued or running, oldest first."""
        return await self._read("look for unfinished runs", sqlite_runs.unfinished)

    async def rescore_run(
        self,
        run_id: str,
        now: float,
        stale_after: float,
        *,
        keep_outputs: Sequence[str],
        **changes: Any,
    ) -> None:
        """Requeue a run whose answers are all to be scored again; only the scores of `kept` stay.

        Raises:
            NotFoundError: no such run.
            ConflictError: another owner gave a sign of life lately.
        """
        await self._write(
            "score a run again",
            sqlite_runs.begin_rescore,
            run_id,
            now,
            stale_after,
            changes=changes,
            kept=keep_outputs,
        )

    async def unscore_some(self, run_id: str) -> bool:
        """A step of what `rescore_run` began; whether there are more."""
        return await self._write("forget scores", sqlite_runs.unscore_some, run_id)

    async def extend_run(
        self,
        run_id: str,
        now: float,
        stale_after: float,
        *,
        samples: Iterable[Sample],
        **changes: Any,
    ) -> None:
        """Requeue a run with more samples behind its own, all or nothing.

        Raises:
            NotFoundError: no such run.
            ConflictError: another owner gave a sign of life lately, or extends it too.
            StoreError: two samples have the same id.
            Exception: whatever `samples` raises; the run stays as it was.
        """
        left = iter(samples)
        count = await self._write("extend a run", sqlite_runs.extension, run_id)
        while chunk := await in_thread(rows.sample_chunk, left, count + 1):
            await self._write("add samples", sqlite_runs.insert_more_samples, run_id, chunk)
            count += len(chunk)
        await self._write("extend a run", sqlite_runs.extend, run_id, now, stale_after, changes)

    async def spent(self, run_id: str) -> Spent:
        """What the run's answers took.

        Raises:
            NotFoundError: no such run.
        """
        return await self._read("add up what a run took", sqlite_runs.spent, run_id)

    async def delete_run(self, run_id: str) -> None:
        """The run, its samples, answers and scores.

        The run is gone at once; its rows go in chunks, so that other writes get their turn.

        Raises:
            NotFoundError: no such run.
        """
        await self._erase(await self._write("delete a run", rows.hide, run_id, self._clock()))

    # experiments

    async def experiments(
        self, *, name: str | None = None, tag: str | None = None
    ) -> list[Experiment]:
        """Those with a run, tags or notes; the one with the newest run first."""
        return await self._read("list experiments", sqlite_experiments.experiments, name, tag)

    async def set_experiment(self, name: str, *, tags: tuple[str, ...], notes: str) -> None:
        """Its tags and notes, in place of those it had."""
        write = sqlite_experiments.set_experiment
        await self._write("describe an experiment", write, name, tags, notes)

    async def forget_experiment(self, name: str) -> None:
        """Its runs stay and are in no experiment."""
        await self._write("forget an experiment", sqlite_experiments.forget_experiment, name)

    # samples, answers, scores

    async def samples(self, run_id: str, *, after: int = 0) -> AsyncGenerator[Sample]:
        """The run's samples in dataset order, without the first `after`.

        Raises:
            NotFoundError: no such run.
        """
        while True:
            page = await self._read("read samples", rows.samples_page, run_id, after)
            for sample in page:
                yield sample
            if len(page) < rows.PAGE:
                return
            after += rows.PAGE

    async def begin(
        self,
        run_id: str,
        cell: Cell,
        request_hash: str,
        target: str,
        *,
        unless_known: bool = False,
    ) -> Answer | None:
        """Note that the cell's request is about to be sent; or the answer that is known already.

        Raises:
            NotFoundError: no such run or sample.
            StoreError: the cell is in flight or has an answer or error already.
        """
        return await self._write(
            "note a request",
            rows.begin,
            run_id,
            cell,
            request_hash=request_hash,
            target=target,
            now=self._clock(),
            unless_known=unless_known,
        )

    async def withdraw(self, run_id: str, cell: Cell) -> None:
        """Undo `begin`: the target refused the request unread, so nothing was in flight.

        Raises:
            NotFoundError: no such run or sample.
        """
        await self._write("withdraw a request", rows.withdraw, run_id, cell)

    async def keep_answer(
        self, run_id: str, cell: Cell, request_hash: str, answer: Answer, attempts: Sequence[Any]
    ) -> None:
        """The cell's answer or error, with the record of its attempts (JSON types).

        A cell that was not begun, or was forgotten since, gets its answer all the same.

        Raises:
            NotFoundError: no such run or sample.
            StoreError: the cell has an answer or error already.
        """
        kept = rows.StoredAnswer(cell, request_hash, answer, attempts, self._clock())
        await self._write("keep an answer", rows.keep_answer, run_id, kept)

    async def keep_scores(self, run_id: str, cell: Cell, scores: Sequence[Score]) -> None:
        """The cell's scores; replaces scores of the same outputs.

        Raises:
            NotFoundError: no such run or sample.
            StoreError: the cell has no answer text that could have been scored.
        """
        await self._write("keep scores", rows.keep_scores, run_id, cell, scores)

    async def keep_all_scores(self, run_id: str, scored: Mapping[Cell, Sequence[Score]]) -> None:
        """The scores of several cells, all or none; replaces scores of the same outputs.

        Raises:
            NotFoundError: no such run or sample.
            StoreError: a cell has no answer text that could have been scored.
        """
        await self._write("keep scores", rows.keep_all_scores, run_id, scored)

    async def forget_failed(self, run_id: str) -> int:
        """Drop the answers that are errors, so that they are asked again; how many there were.

        Raises:
            NotFoundError: no such run.
        """
        return await self._write("forget failed answers", rows.forget_failed, run_id)

    async def open_samples(self, run_id: str, cells: int) -> AsyncGenerator[OpenSample]:
        """The samples with something left to do, in dataset order.

        Raises:
            NotFoundError: no such run.
        """
        # Bounded by cells, as a sample may have thousands.
        most = max(1, min(rows.PAGE, 4 * rows.PAGE // cells))
        after: int | None = 0
        while after is not None:
            page, after = await self._read(
                "read what is left to do", sqlite_runs.open_samples, run_id, after, most, cells
            )
            for one in page:
                yield one

    async def results(
        self, run_id: str, *, route: str | None = None, after: int = 0
    ) -> AsyncGenerator[ScoredAnswer]:
        """The run's cells by sample, route name and repeat; scores by output name.

        `after`: leave out so many samples.

        Raises:
            NotFoundError: no such run.
        """
        # Positions count from 1 and route names are never empty: this sorts before all that follow.
        place: rows.ResultsPosition | None = rows.ResultsPosition(after + 1, "", 0)
        while place is not None:
            page, place = await self._read("read results", rows.results_page, run_id, place, route)
            for scored in page:
                yield scored

    async def clusters(self, run_id: str) -> dict[str, str]:
        """Sample id to its `cluster`, for the samples that have one.

        Raises:
            NotFoundError: no such run.
        """
        return await self._read("read a run's clusters", rows.clusters, run_id)

    async def each_result(self, run_id: str, take: Callable[[ScoredAnswer], None]) -> None:
        """Call `take` with every result in the same order, on threads, one call at a time.

        Raises:
            NotFoundError: no such run.
            Exception: whatever `take` raises.
        """
        place: rows.ResultsPosition | None = rows.ResultsPosition(1, "", 0)
        while place is not None:
            place = await self._read("read results", rows.take_page, run_id, place, take)

    async def progress(self, run_id: str) -> Progress:
        """Counts over the run's rows. `answered` includes what is scored.

        Raises:
            NotFoundError: no such run.
        """
        return await self._read("count a run's rows", rows.progress, run_id)

    async def cached_answer(self, request_hash: str, repeat: int) -> Answer | None:
        """The newest answer (never an error) to the same request and repeat, of any run."""
        return await self._read(
            "look for a cached answer", rows.cached_answer, request_hash, repeat
        )

    # what earlier requests say about the next ones

    async def known_requests(
        self, requests: Sequence[tuple[str, int]]
    ) -> frozenset[tuple[str, int]]:
        """Those of the (request hash, repeat) that `cached_answer` has an answer to."""
        return await self._read("look for answers", measured.known_requests, requests)

    async def earlier_answers(self, target: str, limit: int) -> list[EarlierAnswer]:
        """The target's newest answers to runs; without any, to live requests."""
        return await self._read("read earlier answers", measured.earlier_answers, target, limit)

    async def earlier_run(self, dataset_hash: str, output: str) -> EarlierRun | None:
        """The newest run over the dataset that has scores of the output; None without one."""
        return await self._read("read earlier scores", measured.earlier_run, dataset_hash, output)

    # judges

    async def keep_judgement(self, row: JudgementRow) -> None:
        """What a judge answered; replaces a failure of the same request."""
        await self._write("keep a judgement", sqlite_judgements.keep, row)

    async def judgement(
        self, owner: str, request_hash: str, repeat: int, attempt: int, *, any_owner: bool
    ) -> JudgementRow | None:
        """The owner's answer (never a failure) to a request; with `anybody` also another's."""
        return await self._read(
            "look for a judgement",
            sqlite_judgements.find,
            owner,
            request_hash,
            repeat,
            attempt,
            anybody=any_owner,
        )

    async def judgements(
        self, owner: str, *, sample_id: str | None = None, limit: int = 100, after: int = 0
    ) -> list[tuple[int, JudgementRow]]:
        """An owner's judgements with their numbers, in the order they came."""
        return await self._read(
            "read judgements", sqlite_judgements.page, owner, sample_id, limit, after
        )

    async def judge_use(self, owner: str) -> list[JudgeUse]:
        """What an owner's judges took."""
        return await self._read("count judgements", sqlite_judgements.use, owner)

    async def judgement_tokens(self, judge: str, metric: str) -> tuple[float, float] | None:
        """Mean prompt and completion tokens of the judge's last judgements for a metric."""
        return await self._read("read a judge's tokens", sqlite_judgements.tokens_of, judge, metric)

    async def add_embedding_use(self, run_id: str, use: EmbeddingUse) -> None:
        """Add to what a run's embeddings took. Raises NotFoundError."""
        await self._write("count embeddings", sqlite_runs.add_embedding_use, run_id, use)

    async def embedding_use(self, run_id: str) -> list[EmbeddingUse]:
        """Return what a run's embeddings took, by route and target. Raises NotFoundError."""
        return await self._read("count embeddings", sqlite_runs.embedding_use, run_id)

    async def served(self, owner: str) -> list[Served]:
        """How long each target was at work for a run or a study."""
        return await self._read("read who was at work", sqlite_served.served, owner)

    async def set_study(self, study: Study) -> None:
        """Add or change a calibration, comparison or tournament."""
        await self._write("keep a study", sqlite_judgements.set_study, study)

    async def study(self, study_id: str) -> Study:
        """One, by its id or a unique prefix.

        Raises:
            NotFoundError: there is none.
        """
        return await self._read("read a study", sqlite_judgements.study, study_id)

    async def studies(
        self, *, kind: StudyKind | None = None, judge: str | None = None, limit: int = 50
    ) -> list[Study]:
        """Newest first, without `detail`."""
        return await self._read("list studies", sqlite_judgements.studies, kind, judge, limit)

    # datasets

    async def add_dataset(self, row: DatasetRow) -> None:
        """Register a dataset version; registering the same one again changes nothing."""
        await self._write("register a dataset", sqlite_datasets.insert, row)

    async def datasets(self, name: str | None = None) -> list[DatasetRow]:
        """Registered versions, newest first."""
        return await self._read("list datasets", sqlite_datasets.versions, name)

    async def delete_dataset(self, name: str, hash: str) -> bool:  # noqa: A002  # the field's word
        """Forget a version; whether its content is still registered under another name.

        Raises:
            NotFoundError: no such version.
        """
        return await self._write("delete a dataset", sqlite_datasets.delete, name, hash)

    # routes set at run time

    async def set_route(self, name: str, route: dict[str, Any] | None, now: float) -> None:
        """Override a route of the config; None goes back to it."""
        await self._write("set a route", rows.set_route, name, route, now)

    async def route_overrides(self) -> dict[str, dict[str, Any]]:
        """All overrides, by name."""
        return await self._read("read route overrides", rows.route_overrides)

    # keys

    async def add_key(self, row: KeyRow, digest: bytes) -> None:
        """A new key; `digest` is its SHA-256.

        Raises:
            ConflictError: a key of that name is in use.
        """
        await self._write("add a key", sqlite_keys.insert_key, row, digest)

    async def keys(self) -> KeyTable:
        """Every key."""
        return await self._read("read the keys", sqlite_keys.keys)

    async def key_state(self) -> KeyState:
        """Whether keys changed, and what they spent."""
        return await self._read("read what keys spent", sqlite_keys.key_state)

    async def revoke_key(self, name: str, now: float) -> KeyRow:
        """Revoke by id or name.

        Raises:
            NotFoundError: no key of that id or name is in use.
        """
        return await self._write("revoke a key", sqlite_keys.revoke_key, name, now)

    async def add_key_spend(self, spent: Sequence[KeySpend]) -> None:
        """Add to what keys spent, all or nothing."""
        await self._write("keep what keys spent", sqlite_keys.add_key_spend, spent)

    # how reads and writes reach SQLite

    # traffic

    async def keep_traffic(self, records: Sequence[Record]) -> None:
        """Write down requests, all or none."""
        await self._write("keep request records", sqlite_traffic.insert, records)

    async def traffic(
        self, matching: TrafficFilter, *, limit: int = 50, before: int | None = None
    ) -> list[TrafficRow]:
        """Newest first; `before` is the number of the last row of the page before."""
        return await self._read(
            "list request records", sqlite_traffic.page, matching, limit, before
        )

    async def request(self, request_id: str) -> TrafficRow | None:
        """One request, the newest of that id, with its bodies."""
        return await self._read("read a request record", sqlite_traffic.one, request_id)

    async def forget_traffic(self, before: float, limit: int) -> int:
        """Delete up to `most` requests that came before a moment; how many it were."""
        return await self._write("delete old request records", sqlite_traffic.forget, before, limit)

    # machinery

    async def _write(
        self,
        doing: str,
        work: Callable[Concatenate[Database, _Args], _Result],
        *args: _Args.args,
        **kwargs: _Args.kwargs,
    ) -> _Result:
        """`work(db, ...)` on the writing thread; `doing` completes "cannot ..."."""
        if self._writer is None:
            raise StoreError(f"cannot {doing}: the database is not open")
        return await self._writer.write(doing, lambda db: work(db, *args, **kwargs))

    async def _read(
        self,
        doing: str,
        work: Callable[Concatenate[Database, _Args], _Result],
        *args: _Args.args,
        **kwargs: _Args.kwargs,
    ) -> _Result:
        """`work(db, ...)` on a reading thread, which sees one state from first to last query."""
        if self._readers is None:
            raise StoreError(f"cannot {doing}: the database is not open")

        def read() -> _Result:
            try:
                with self._reader() as db:
                    return work(db, *args, **kwargs)
            except (
                sqlite3.Error,
                msgspec.MsgspecError,
                UnicodeError,
                OverflowError,
                StoreUnavailableError,
            ) as error:
                raise self._file.refusal(doing, error) from error

        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._readers, read)
        except StoreUnavailableError as error:
            if error.fault != "replaced":
                raise
        # Whoever writes takes the new one over.
        await self._write(doing, _do_nothing)
        return await loop.run_in_executor(self._readers, read)

    @contextlib.contextmanager
    def _reader(self) -> Iterator[Database]:
        """An idle reading connection, or a new one, inside a transaction."""
        self._file.check_identity()
        generation = self._file.generation
        db = self._idle_reader(generation) or self._file.open_for_reading()
        try:
            db.execute("BEGIN")
            yield db
        finally:
            db.rollback()
            self._idle.append((generation, db))

    def _idle_reader(self, generation: int) -> Database | None:
        while True:
            try:
                found, db = self._idle.pop()
            except IndexError:
                return None
            if found == generation:
                return db
            db.close()

    async def _erase(self, number: int) -> None:
        """Delete what a hidden run left, chunk by chunk."""
        while await self._write("delete a run's rows", rows.erase_some, number, self._clock()):
            pass


def _do_nothing(_: Database) -> None:
    pass
