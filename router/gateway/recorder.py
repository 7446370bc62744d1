"""Takes the record of every request: completed off the hot path, counted, and stored.

    traffic = Traffic(store, prices, config, count=telemetry.count)
    await traffic.open()
    traffic.add(record)            # the hot path: appends to a queue, well under a microsecond
    await traffic.close()          # everything that was added is completed and written

A task takes what was added about ten times a second. A thread reads tokens, finish reason and model
out of each answer's last bytes, looks up the price (`settle`, unless the hot path needed that at
once) and takes secrets out of bodies; then, on the event loop again, the record is counted; then it
is written. No record skips the counting: when the queue is full, `add` does the work itself, which
slows the hot path down just enough.

While the database does not work, rows wait for it; those that find the queue full are dropped. So
is a row that the store refuses by itself. `dropped` counts them.
"""

from __future__ import annotations

import asyncio
import logging
import random as random_module
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import partial
from typing import Any

import msgspec

from evaluators.base import Usage
from providers import wire
from providers.errors import StoreError, StoreUnavailableError
from providers.names import MAX_NAME_BYTES
from providers.usage import ABSENT, TokenCounts, read_usage, usage_of_answer
from router.config.routes import KeepBodies, Route
from router.config.schema import Config
from router.gateway import tokens
from router.gateway.answer_counts import AnswerCounts
from router.gateway.dialects import DIALECTS
from router.gateway.dispatch import ERROR_EVENT
from router.gateway.hooks import AnswerHook
from router.gateway.prices import PriceBook
from router.gateway.redact import redact
from router.records import Record, Target, stored_name
from router.store.traffic import TrafficFilter, TrafficStore

log = logging.getLogger("evalrouter")

EVERY_S = 0.1  # between two batches of the queue
QUEUED = 10_000  # records that may wait to be completed, and rows that may wait to be written
QUEUED_BYTES = 64 * 2**20  # of ends of answers in the one queue, and of bodies in the other
SLICE = 64  # records completed at a time, so that the thread hands the interpreter back soon
RETRY_S = 1.0  # until rows that wait for the database are tried again
ROWS = 256  # rows written at a time: one transaction costs the same for one as for many
HEAD_BYTES = 512  # of the beginning of a longer one
MAX_BODY_BYTES = 2**20  # longer bodies are not stored
DAY_S = 86400.0
PRUNE_EVERY_S = 600.0
PRUNE_AT_ONCE = 500
INDEX_AFTER = 4096  # rows written since the last time that the index was brought up to date
PAUSE = 4.0  # times as long as a slice of such work took, before the next one

# The last events of a stream, which are read first: they have finish reason, usage and [DONE].
_LAST_EVENTS = 5


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    id: Any = None
    model: str | None = None
    system_fingerprint: str | None = None
    usage: msgspec.Raw = ABSENT
    choices: list[_Choice] | None = None
    error: Any = None


_read_answer = msgspec.json.Decoder(_Answer).decode
_read_object = msgspec.json.Decoder(msgspec.Raw).decode
_read_text = msgspec.json.Decoder(str | None).decode


class Traffic:
    """Completes, counts and stores records.

    Args:
        store: takes the rows.
        prices: the prices of targets.
        config: says how much of a request is stored, and for how long, where its route does not.
        route_days: returns, for how many days the records of routes with days of their own stay.
        count: gets every completed record, on the event loop: metrics.
        trace: gets every completed record that has a `trace`, on the thread: spans.
        answers: counts every completed record: versions of models, and what answers are like.
        clock: tells the seconds since the epoch.
        random: draws for `record_sample`.
        every: seconds between two batches of the queue.
        retry: seconds until rows are tried again that the database could not take.
        queued, queued_bytes: the number of records, and of rows, that may wait, and the bytes of
            answers and bodies that they may hold.

    Attributes:
        dropped: the number of rows that were never written, because the store refused them, or
            was unavailable or too slow for too long.
        hooks: get the completed records that have their bit, on the event loop.
    """

    def __init__(
        self,
        store: TrafficStore,
        prices: PriceBook,
        config: Config,
        *,
        route_days: Callable[[], Mapping[str, float]] = dict,
        count: Callable[[Record], None] | None = None,
        trace: Callable[[Record], None] | None = None,
        answers: AnswerCounts | None = None,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random_module.random,
        every: float = EVERY_S,
        retry: float = RETRY_S,
        queued: int = QUEUED,
        queued_bytes: int = QUEUED_BYTES,
    ) -> None:
        self.dropped = 0
        self.hooks: Mapping[int, AnswerHook] = {}
        self._store = store
        self._prices = prices
        self._default = config.record
        self._days = config.storage.traffic_days
        self._route_days = route_days
        self._count = count
        self._trace = trace
        self._answers = answers
        self._clock = clock
        self._random = random
        self._every = every
        self._retry = retry
        self._queued = queued
        self._queued_bytes = queued_bytes
        self._added: deque[Record] = deque()
        self._rows: deque[Record] = deque()
        self._row_bytes = 0
        self._tail_bytes = 0
        self._records_wait = asyncio.Event()
        self._rows_wait = asyncio.Event()
        self._closing = asyncio.Event()
        self._rows_unindexed = 0
        self._index_waits = asyncio.Event()
        self._completed = False
        self._tasks: list[asyncio.Task[None]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="evalrouter-traffic")
        # The messages since the last row was written, so that each is logged once.
        self._logged: set[str] = set()

    async def open(self) -> None:
        """Begin to complete and to write records; the store must be open."""
        self._tasks = [
            asyncio.create_task(self._complete(), name="evalrouter-traffic"),
            asyncio.create_task(self._write(), name="evalrouter-traffic-write"),
            asyncio.create_task(self._prune(), name="evalrouter-traffic-prune"),
            asyncio.create_task(self._index(), name="evalrouter-traffic-index"),
        ]

    async def close(self) -> None:
        """Complete and write the records that were added, then stop; no more may be added."""
        if not self._tasks:
            return
        completing, writing, *tending = self._tasks
        self._tasks = []
        for task in tending:
            task.cancel()
        self._closing.set()
        self._records_wait.set()
        await completing
        self._completed = True
        self._rows_wait.set()
        await writing
        self._thread.shutdown(wait=False)
        if self.dropped:
            log.error("%d request record(s) were never written", self.dropped)

    # the hot path

    def keep_for(self, route: Route | None, *, stored: bool = True) -> KeepBodies:
        """Return how much of one request may be stored; draws the route's sample.

        Args:
            route: the request's route; None for `provider/model`.
            stored: whether the client lets its bodies be stored.
        """
        keep = self._default if route is None else route.record or self._default
        if keep != "full":
            return keep
        if not stored or (
            route is not None and route.record_sample < 1 and self._random() >= route.record_sample
        ):
            return "metadata"
        return keep

    def add(self, record: Record) -> None:
        """Take a record whose request has ended, whatever became of it; never blocks."""
        if len(self._added) >= self._queued or self._tail_bytes > self._queued_bytes:
            self._settle_all([record])
            self._settled(record)
            self._rows_wait.set()
            return
        self._added.append(record)
        self._tail_bytes += len(record.tail) + len(record.body)
        if not self._records_wait.is_set():
            self._records_wait.set()

    # off the hot path

    def queues(self) -> Mapping[str, int]:
        """Return how many records wait to be completed, and how many to be written."""
        return {"settle": len(self._added), "write": len(self._rows)}

    async def delete(self, matching: TrafficFilter, at_most: int | None = None) -> int:
        """Delete live records that match, with their bodies, in small steps; return how many.

        Those of requests that are not stored yet may come later. The response caches of all
        processes forget their answers within a second.
        """
        deleted = 0
        now = asyncio.get_running_loop().time
        while at_most is None or deleted < at_most:
            began = now()
            slice_size = PRUNE_AT_ONCE if at_most is None else min(PRUNE_AT_ONCE, at_most - deleted)
            count = await self._store.forget_traffic(matching, slice_size)
            deleted += count
            if count < slice_size:
                break
            await asyncio.sleep(now() - began)
        await self._store.announce_deletion()
        return deleted

    async def _complete(self) -> None:
        loop = asyncio.get_running_loop()
        while self._added or not self._closing.is_set():
            await self._records_wait.wait()
            await _either(self._closing, self._every)
            self._records_wait.clear()
            while self._added:
                batch = [self._added.popleft() for _ in range(min(SLICE, len(self._added)))]
                self._tail_bytes -= sum(len(record.tail) + len(record.body) for record in batch)
                if all(map(_is_complete, batch)):
                    await asyncio.sleep(0)
                else:
                    await loop.run_in_executor(self._thread, self._settle_all, batch)
                for record in batch:
                    self._settled(record)
            self._rows_wait.set()

    def _settle_all(self, batch: Sequence[Record]) -> None:
        """Complete records, on the thread."""
        for record in batch:
            try:
                if self._answers is not None:
                    self._answers.sample(record)
                settle(record, self._prices)
                if record.keep == "full":
                    record.request = _storable(record.request)
                    record.response = _storable(record.response)
                if record.trace is not None and self._trace is not None:
                    self._trace(record)
            except Exception:
                # One bad record must not end the task that all others depend on.
                log.exception("request %s could not be completed", record.id)

    def _settled(self, record: Record) -> None:
        """Count a completed record, pass it to the hooks that want it, and queue its row."""
        if record.hooks:
            self._pass_to_hooks(record)
        if self._count is not None:
            try:
                self._count(record)
            except Exception:
                log.exception("request %s could not be counted", record.id)
        if self._answers is not None:
            self._answers.add(record)
        keep = record.keep
        if keep == "none":
            return
        size = _size(record) if keep == "full" else 0
        if len(self._rows) >= self._queued or self._row_bytes + size > self._queued_bytes:
            self._drop(1)
            return
        self._rows.append(record)
        self._row_bytes += size
        # A few rows are left for the next ones to join: a transaction writes whole pages.
        if len(self._rows) >= ROWS:
            self._rows_wait.set()

    def _pass_to_hooks(self, record: Record) -> None:
        """Pass a record with its bodies to hooks; then drop bodies that are not to be stored."""
        try:
            for bit, hook in self.hooks.items():
                if record.hooks & bit:
                    hook.after(copy(record))
        except Exception:
            log.exception("request %s could not be passed on", record.id)
        if record.keep != "full":
            record.request = record.response = None

    async def _write(self) -> None:
        while self._rows or not self._completed:
            await self._rows_wait.wait()
            self._rows_wait.clear()
            while self._rows:
                batch = [self._rows.popleft() for _ in range(min(ROWS, len(self._rows)))]
                self._row_bytes -= sum(map(_size, batch))
                try:
                    await self._write_batch(batch)
                except StoreUnavailableError as error:
                    await self._wait_for_store(batch, error)

    async def _write_batch(self, batch: Sequence[Record]) -> None:
        """Write rows: all that the store does not refuse, or none if the database does not work.

        Raises:
            StoreUnavailableError: the database does not work.
        """
        try:
            await self._store.keep_traffic(batch)
        except StoreUnavailableError:
            raise
        except StoreError as error:
            if len(batch) == 1:
                self._drop(1, str(error))
            else:
                await self._write_apart(batch)
        else:
            self._logged.clear()
            self._rows_unindexed += len(batch)
            if self._rows_unindexed >= INDEX_AFTER:
                self._index_waits.set()

    async def _write_apart(self, batch: Sequence[Record]) -> None:
        """Write row by row, because one that the store refuses must not cost the others."""
        for n, record in enumerate(batch):
            try:
                await self._write_batch([record])
            except StoreUnavailableError as error:
                await self._wait_for_store(batch[n:], error)
                return

    async def _wait_for_store(self, batch: Sequence[Record], error: StoreError) -> None:
        """Put rows back in front of the queue; drop all of them when this is being closed."""
        self._rows.extendleft(reversed(batch))
        self._row_bytes += sum(map(_size, batch))
        if self._closing.is_set():
            self._drop(len(self._rows), str(error))
            self._rows.clear()
            self._row_bytes = 0
            return
        self._log_once("request records wait for the database: %s", str(error))
        await _either(self._closing, self._retry)

    def _drop(self, rows: int, reason: str = "the store is too slow") -> None:
        self.dropped += rows
        # The number is among the metrics.
        self._log_once("request records are being dropped: %s", reason)

    def _log_once(self, message: str, reason: str) -> None:
        if message not in self._logged:
            self._logged.add(message)
            log.error(message, reason)

    async def _prune(self) -> None:
        while True:
            for old in self.outdated():
                await self._repeat(
                    "old request records could not be deleted", partial(self._forget, old)
                )
            await asyncio.sleep(PRUNE_EVERY_S)

    def outdated(self) -> Iterator[TrafficFilter]:
        """Yield what is too old: of each route with days of its own, then of all others."""
        now = self._clock()
        route_days = self._route_days()
        for name, days in route_days.items():
            if days:
                yield TrafficFilter(route=name, until=now - days * DAY_S)
        if self._days:
            yield TrafficFilter(except_routes=tuple(route_days), until=now - self._days * DAY_S)

    async def _forget(self, old: TrafficFilter) -> bool:
        return await self._store.forget_traffic(old, PRUNE_AT_ONCE) > 0

    async def _index(self) -> None:
        while True:
            self._rows_unindexed = 0
            self._index_waits.clear()
            await self._repeat("request records could not be indexed", self._store.index_traffic)
            await self._index_waits.wait()

    async def _repeat(self, failing: str, action: Callable[[], Awaitable[bool]]) -> None:
        """Call `action` until nothing is left to do, with pauses in which others can write."""
        now = asyncio.get_running_loop().time
        try:
            began = now()
            while await action():
                await asyncio.sleep(PAUSE * (now() - began))
                began = now()
        except StoreError as error:
            log.error("%s: %s", failing, error)


def _size(record: Record) -> int:
    """Return the bytes of a record's bodies, once those are gone that are not to be stored."""
    if record.keep != "full":
        return 0
    return len(record.request or b"") + len(record.response or b"")


async def _either(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, but not longer than so many seconds."""
    if event.is_set():
        return
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def settle(record: Record, prices: PriceBook) -> None:
    """Complete a record from its answer's last bytes, which it drops; a known cost stays.

    Tokens that the target did not count are estimated. Whatever limits or shows tokens and cost,
    of live requests and of evaluations, takes both from here.

    It takes some five microseconds, and nothing the second time.
    """
    if record.settled:
        return
    record.settled = True
    tail, record.tail = record.tail, b""
    head, record.head = record.head, b""
    body, record.body = record.body, b""
    if tail:
        # The answer's form counts, not the requested one: some hosts stream always, or never.
        start = head or tail
        read: Callable[[Record, bytes, bytes], None]
        if not DIALECTS[record.path].is_usual:
            read = _read_end
        elif not start.startswith(b"{") if record.stream else start.startswith(b"data:"):
            read = _read_stream
        else:
            read = _read_body
        read(record, tail, head)
        if not record.response_id and start.startswith(b"{"):
            record.response_id = _id_at_start(start[:HEAD_BYTES])
        if len(record.model + record.finish_reason + record.system_fingerprint) > MAX_NAME_BYTES:
            _shorten(record)
        if record.total_tokens is None and b'"x_groq"' in tail:
            extra = _field(tail, b'"x_groq"', _read_object, b"}")
            _take_usage(record, None if extra is None else usage_of_answer(ABSENT, extra))
    if record.cached or record.cost_usd is not None:
        record.cost_usd = record.cost_usd or 0.0
        return
    if record.target is not None and not (record.prompt_tokens and record.completion_tokens):
        _estimate_answer(record, prices, body, tail)
    record.cost_usd = _cost(record, prices)
    if len(record.attempts) > 1 or record.target is None:
        _add_lost(record, prices, body)


def _shorten(record: Record) -> None:
    """Shorten names, as a host may send anything for one and every record has them."""
    for name in ("model", "finish_reason", "system_fingerprint"):
        setattr(record, name, getattr(record, name)[:MAX_NAME_BYTES])


def _is_complete(record: Record) -> bool:
    return record.settled and record.keep != "full" and record.trace is None


def _cost(record: Record, prices: PriceBook) -> float | None:
    if record.target is None or record.cached:
        return 0.0
    if record.prompt_tokens is None and record.completion_tokens is None:
        return 0.0 if prices.is_free(record.target) else None
    # Nothing but the prompt is paid for where there is no completion, whatever one would cost.
    completion = record.completion_tokens if DIALECTS[record.path].generates else 0
    usage = Usage(prompt_tokens=record.prompt_tokens, completion_tokens=completion)
    return prices.cost(
        record.target, usage, cached=record.cached_tokens, written=record.written_tokens
    )


def _estimate_answer(record: Record, prices: PriceBook, body: bytes, tail: bytes) -> None:
    """Estimate tokens that the target did not count, or counted as 0 although there are some."""
    prompt, completion = record.prompt_tokens, record.completion_tokens
    assert record.target is not None
    if prompt is not None and completion is not None and prices.is_free(record.target):
        return
    if not prompt and body:
        prompt = tokens.of_request(body)
    if DIALECTS[record.path].generates and not completion:
        completion = _answer_tokens(record, tail)
    if (prompt, completion) == (record.prompt_tokens, record.completion_tokens) or prompt is None:
        return
    record.prompt_tokens, record.completion_tokens = prompt, completion
    record.total_tokens = prompt + (completion or 0)
    record.estimated = True


def _answer_tokens(record: Record, tail: bytes) -> int:
    received = record.received or len(tail)
    content_of = DIALECTS[record.path].content_of
    if content_of is not None:
        content = content_of(tail)
        counted = tokens.of_text(content.text + "".join(map(str, content.tool_calls)))
        return counted * received // len(tail) if tail else 0
    if not tail.startswith(b"{"):
        return tokens.of_stream(tail, received)
    return tokens.of_answer(tail) if received == len(tail) else received // tokens.BYTES_PER_TOKEN


def _add_lost(record: Record, prices: PriceBook, body: bytes) -> None:
    """Charge the prompt of every attempt that led to no answer and may be paid for."""
    lost = [attempt for attempt in record.attempts if attempt.paid]
    if not lost:
        return
    prompt = record.prompt_tokens or tokens.of_request(body)
    for attempt in lost:
        record.lost_tokens += prompt
        record.estimated = True
        used = Usage(prompt_tokens=prompt, completion_tokens=0)
        cost = prices.cost(Target.parse(attempt.target), used)
        if cost is None or record.cost_usd is None:
            record.cost_usd = None
        else:
            record.cost_usd += cost


def _storable(body: bytes | None) -> bytes | None:
    return None if body is None or len(body) > MAX_BODY_BYTES else redact(body)


def _take_usage(record: Record, counted: TokenCounts | None) -> None:
    if counted is None:
        return
    record.prompt_tokens = counted.prompt
    record.completion_tokens = counted.completion
    record.total_tokens = counted.total
    record.cached_tokens = counted.cached
    record.written_tokens = counted.written


def _read_body(record: Record, tail: bytes, _head: bytes) -> None:
    try:
        answer = _read_answer(tail)
    except wire.UNREADABLE:
        _search_end(record, tail)
        return
    record.response_id = _id_of(answer.id)
    record.model = answer.model or ""
    record.system_fingerprint = answer.system_fingerprint or ""
    if answer.choices:
        record.finish_reason = answer.choices[0].finish_reason or ""
    _take_usage(record, usage_of_answer(answer.usage))


def _id_of(value: Any) -> str:
    """Return an answer's `id` as it is stored; "" where it is no text."""
    return stored_name(value) if isinstance(value, str) else ""


def _id_at_start(head: bytes) -> str:
    """Return the `id` of an answer by its first bytes; "" where it is not among them.

    Only before anything nested begins: objects inside have ids of their own.
    """
    at = head.find(b'"id"')
    if at < 0 or b"{" in head[1:at] or b"[" in head[:at]:
        return ""
    following = head.find(b'"id"', at + 4)
    first = head if following < 0 else head[:following]
    return _id_of(_field(first, b'"id"', _read_text, b'"'))


def _search_end(record: Record, tail: bytes) -> None:
    """Read single fields out of the end of a long body.

    In JSON, a quote inside a string is escaped, so `"usage"` with bare quotes is never part of a
    text: it is a key (or a string of that very value, which is not followed by a colon).
    """
    usage = _field(tail, b'"usage"', _read_object, b"}")
    _take_usage(record, None if usage is None else read_usage(usage))
    for name in ("finish_reason", "model", "system_fingerprint"):
        value = _field(tail, b'"%b"' % name.encode(), _read_text, b'"')
        if value:
            setattr(record, name, value)


def _field(tail: bytes, key: bytes, read: Callable[[bytes], Any], end: bytes) -> Any:
    """Return the value of the last field of that name; None where it is missing or ill-typed."""
    at = tail.rfind(key)
    rest = tail[at + len(key) :].lstrip() if at >= 0 else b""
    if not rest.startswith(b":"):
        return None
    rest = rest[1:].lstrip()
    # The value ends at the first `end` that makes it whole: objects nest, strings have escapes.
    stop = rest.find(end, 1)
    while stop >= 0:
        try:
            return read(rest[: stop + 1])
        except wire.UNREADABLE:
            stop = rest.find(end, stop + 1)
    return None


def _read_stream(record: Record, tail: bytes, _head: bytes) -> None:
    """Read the last few events as the plain `data:` lines that nearly all hosts write.

    That takes a tenth of the time that reading all of the tail by the book does, which is done
    where they are anything else, or do not say how the answer ended.
    """
    counted, ended = None, False
    for event in reversed(tail.rstrip().rsplit(b"\n\n", _LAST_EVENTS)[-_LAST_EVENTS:]):
        data = event[5:].strip()
        if data == b"[DONE]":
            continue
        try:
            chunk = _read_answer(data)
        except wire.UNREADABLE:
            break
        if chunk.error:
            record.error_code = record.error_code or ERROR_EVENT
        counted = counted or usage_of_answer(chunk.usage)
        record.response_id = record.response_id or _id_of(chunk.id)
        record.model = record.model or chunk.model or ""
        record.system_fingerprint = record.system_fingerprint or chunk.system_fingerprint or ""
        if not ended and chunk.choices and chunk.choices[-1].finish_reason:
            record.finish_reason, ended = chunk.choices[-1].finish_reason, True
    if ended:
        _take_usage(record, counted)
        return
    _read_end(record, tail, b"")


def _read_end(record: Record, tail: bytes, head: bytes) -> None:
    """Read an answer's last bytes as its path has them."""
    dialect = DIALECTS[record.path]
    end = dialect.read_end(tail, head)
    if not end.done and len(tail) >= dialect.tail_bytes:
        # Its beginning is gone.
        _search_end(record, tail)
    if end.error:
        record.error_code = record.error_code or ERROR_EVENT
    record.response_id = stored_name(end.id)
    record.finish_reason = end.finish_reason or record.finish_reason
    record.model = end.model or record.model
    record.system_fingerprint = end.system_fingerprint or record.system_fingerprint
    _take_usage(record, end.usage)
