"""Makes a dataset of recorded requests: `dataset from-traffic`, `POST /datasets/from-traffic`.

    plan = prepare(TrafficSelection(name="hard", route="chat", where="turns > 3"), now=now)
    made = await traffic_datasets.create(plan, only=None, progress=print)

A row is a conversation as it was sent, with the parameters of its request, the answer that the
client got (`dataset/answer` in a run), corrections as references, and where it came from. First all
records of the time are read, a page at a time, and those that can be rows are remembered by their
numbers alone, 20 bytes each. Then rows are drawn, and their bodies are read once more, checked and
written to a file as they come, or added to the review queue. So memory does not grow with what is
recorded.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, BinaryIO, NamedTuple, Protocol

import msgspec
import numpy as np

from evaluators.data.sampling import MAX_STRATA, allocate, rank_of
from providers.errors import (
    ConflictError,
    PermissionDeniedError,
    RateLimitError,
    RequestError,
    closest,
)
from providers.names import check_name
from router.config.review import Review
from router.datasets.artifacts import temporary_folder
from router.datasets.registry import DatasetRegistry, Lineage, check_dataset_name
from router.datasets.sources import too_large
from router.gateway.dialects import dialect_of
from router.loop.checks import check
from router.loop.checks.languages import require_language_detector
from router.loop.checks.near_duplicates import Duplicates, sketch
from router.loop.conditions import (
    FIELDS,
    Condition,
    RequestText,
    Subject,
    parse_condition,
)
from router.loop.dataset_owners import key_of
from router.loop.moments import period
from router.loop.recorded_conversations import (
    RecordedConversation,
    read_conversation,
    request_text,
)
from router.loop.request_feedback import RequestFeedback, latest_values, value_of
from router.loop.review import (
    MAX_MESSAGES,
    ReviewArrival,
    ReviewCandidate,
    ReviewQueue,
    is_conversation,
)
from router.sealing.traffic import RecordedTraffic
from router.store.datasets import DatasetRow
from router.store.feedback import FeedbackRow
from router.store.lineage import RowSource
from router.store.protocol import Store
from router.store.review import ReviewSource
from router.store.traffic import TrafficFilter, TrafficRow

# What one dataset may have, and so what is remembered of rows at a time.
MAX_ROWS = 20_000
# Records that can be rows, of which rows are drawn; the newest of them.
MAX_CANDIDATES = 1_000_000
# Versions that a key which may see its own requests only may make.
MAX_OWN_VERSIONS = 100
PAGE = 500
_READ_AT_ONCE = 64
# Different parameters of requests that are remembered.
_CLEAN_PARAMETERS = 100
# Datasets that a process makes at a time.
_AT_ONCE = 2

# The lowest lengths of the strata `length`, in characters: each is four times the one before.
_LENGTHS = (0, 100, 400, 1600, 6400, 25600)
# Fields that have a few values, by which rows may be shared out.
STRATA = (
    "language",
    "length",
    "turns",
    "route",
    "target",
    "model",
    "finish_reason",
    "stream",
    "key",
    "arm",
)

# Why records are not rows, in the order in which that is found out.
REASONS: Mapping[str, str] = {
    "embeddings": "requests for embeddings",
    "completions": "text completions: runs send chats",
    "messages/count_tokens": "counts of tokens",
    "failed": "requests that failed",
    "cached": "answers of the response cache, which repeat others",
    "where": "requests that do not meet the condition",
    "not_stored": "requests of clients that sent `store: false`",
    "no_bodies": "requests whose bodies are not stored",
    "bodies_missing": "requests with a body over 1 MiB, of which it is not stored",
    "unreadable": "bodies that are no chat and its answer",
    "unfinished": "answers that were cut off",
    "no_text": "answers without a text, such as calls of tools",
    "over_limit": f"records older than the newest {MAX_CANDIDATES:,} that can be rows",
    "deleted": "requests that were deleted meanwhile",
    "duplicate": "requests with the same words as another row",
    "near_duplicate": "requests with nearly the same words as another row",
    "check": "rows that a check of the config's `review` leaves out",
    "unreviewable": f"conversations of over {MAX_MESSAGES:,} messages, which no one can review",
    "queue_full": "rows for which the review queue has no room (review.max_rows)",
    "not_drawn": "requests that were not drawn",
}


class TrafficSelection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which recorded requests become rows of a dataset.

    Attributes:
        name: the dataset's name; a name that exists gets a new version.
        route: the model that clients named: a route, or `provider/model`.
        since, until: seconds since the epoch, ISO 8601, or how long ago (`7d`, `12h`); since what
            is stored, and until now.
        where: a condition on the records and their feedback, "" for none.
        sample: how many rows, drawn at random; None for as many as a dataset made of requests may
            have, 20,000.
        seed: another one draws other rows.
        stratify: fields each of whose values gets its share of the sample.
        dedupe: whether requests with the same or nearly the same words become one row.
        mask: whether personal data and secrets are replaced, and the checks of `review` applied.
        review: whether the rows wait for a person, who accepts or rejects them, instead of becoming
            a version of the dataset at once.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    route: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    since: str | float | None = None
    until: str | float | None = None
    where: str = ""
    sample: Annotated[int, msgspec.Meta(ge=1, le=MAX_ROWS)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    stratify: Annotated[tuple[str, ...], msgspec.Meta(max_length=16)] = ()
    dedupe: bool = False
    mask: bool = True
    review: bool = False


class DroppedRecords(msgspec.Struct, frozen=True, kw_only=True):
    """Records that did not become rows, and why; `reason` is one of REASONS."""

    reason: str
    count: int
    description: str


class Funnel(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the records: `records` is the sum of what was dropped and of the rows.

    Attributes:
        records: of the route and the time.
        dropped: in the order in which it was found out.
        rows: those that are left.
    """

    records: int
    dropped: tuple[DroppedRecords, ...]
    rows: int


class TrafficDataset(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset that was made of recorded requests.

    Attributes:
        dataset: the version, without the statistics of its columns; None where the rows wait for a
            review.
        funnel: what became of the records.
    """

    dataset: DatasetRow | None
    funnel: Funnel


class TrafficDatasetProgress(NamedTuple):
    """How far it is: records that were read, and rows that were written."""

    records: int
    rows: int


class TrafficDatasetPlan(NamedTuple):
    """A selection that can be carried out.

    Attributes:
        selection: as it was requested.
        matching: selects the records.
        condition: what `where` says; None without one.
        needs_text: whether bodies have to be read to know which records can be drawn.
        needs_language: whether their language has to be known.
    """

    selection: TrafficSelection
    matching: TrafficFilter
    condition: Condition | None
    needs_text: bool
    needs_language: bool


Report = Callable[[TrafficDatasetProgress], None]


def prepare(
    selection: TrafficSelection, *, now: float, may_unmask: bool = True, only: str | None = None
) -> TrafficDatasetPlan:
    """Check a selection.

    Args:
        selection: what is requested.
        now: the present, in seconds since the epoch.
        may_unmask: whether who requests it may have texts as they are.
        only: the id of the key whose requests alone may be rows; None for all.

    Raises:
        RequestError, DatasetError: something in it is wrong, with its name.
        PermissionDeniedError: it needs another role.
        MissingExtraError: the language of texts is needed, and its detector is not installed.
    """
    check_dataset_name(selection.name)
    check_name(selection.route, "route")
    if not selection.mask and not may_unmask:
        raise PermissionDeniedError(
            "Texts are stored without masking for keys of the role admin only; leave mask out.",
            param="mask",
            code="admin_required",
        )
    if selection.review:
        if only is not None:
            raise PermissionDeniedError(
                "Rows wait for a review for keys of the roles reviewer and admin only; leave "
                "review out.",
                param="review",
                code="reviewer_required",
            )
        if not selection.mask:
            raise RequestError(
                "Personal data is always replaced in rows that wait for a review; leave mask out.",
                param="mask",
            )
    condition = parse_condition(selection.where) if selection.where.strip() else None
    for name in selection.stratify:
        if name not in STRATA:
            raise RequestError(
                f"stratify: requests cannot be shared out by {name!r}.{closest(name, STRATA)} "
                f"Possible are {', '.join(STRATA)}.",
                param="stratify",
            )
    if len(set(selection.stratify)) < len(selection.stratify):
        raise RequestError("stratify names something twice.", param="stratify")
    if selection.stratify and selection.sample is None:
        raise RequestError(
            "stratify shares a sample out: say how many rows there are to be (sample).",
            param="sample",
        )
    fields = {*selection.stratify, *(condition.fields if condition else ())}
    if "language" in fields:
        require_language_detector("The language of requests")
    since, until = period(selection.since, selection.until, now)
    if since is not None and since >= (now if until is None else until):
        raise RequestError("since is not before until.", param="since")
    return TrafficDatasetPlan(
        selection,
        TrafficFilter(
            route=selection.route,
            key_id=only,
            traffic_class="live",
            since=since,
            until=now if until is None else until,
        ),
        condition,
        any(FIELDS[name].of_text for name in fields),
        "language" in fields,
    )


class TrafficDatasets:
    """Makes datasets of recorded requests.

    Args:
        store: has the feedback.
        recorded: reads the requests.
        datasets: registers the datasets.
        review: how rows are checked.
        queue: where rows wait that are to be reviewed.
    """

    def __init__(
        self,
        store: Store,
        recorded: RecordedTraffic,
        datasets: DatasetRegistry,
        review: Review,
        *,
        queue: ReviewQueue,
    ) -> None:
        self._store = store
        self._recorded = recorded
        self._datasets = datasets
        self._review = review
        self._queue = queue
        self._under_way = 0

    def check_room(self) -> None:
        """Raise RateLimitError where this process makes as many datasets as it may."""
        if self._under_way >= _AT_ONCE:
            raise RateLimitError(
                f"{_AT_ONCE} datasets are being made of requests already.", retry_after=10.0
            )

    async def create(
        self, plan: TrafficDatasetPlan, *, only: str | None = None, progress: Report
    ) -> TrafficDataset:
        """Make the dataset, and register it, or add its rows to the review queue.

        Args:
            plan: of `prepare`.
            only: the id of the key whose requests and feedback alone are used; None for all.
            progress: called with how far it is.

        Raises:
            ConflictError: no record can be a row: says why, and what to set; or the dataset is
                another key's.
            BodyTooLargeError: the dataset would be larger than `datasets.max_bytes`.
            ArtifactError, StoreError: it cannot be read or stored. Nothing is registered; rows that
                were added to the review queue stay there.
            RateLimitError: others are being made.
        """
        with self._room():
            return await self._create(plan, only, progress)

    async def count(self, plan: TrafficDatasetPlan, *, only: str | None = None) -> Funnel:
        """Return how many requests can be rows, before any is drawn, and why others cannot.

        Bodies are read only where the plan needs them, so some of these may still be left out.
        Arguments as in `create`.

        Raises:
            ConflictError: no record can be a row: says why, and what to set.
            StoreError: the records cannot be read.
            RateLimitError: datasets are being made.
        """
        with self._room():
            job, candidates = await self._search(plan, only, lambda _: None)
        return _funnel(job.counts, len(candidates.numbers))

    @contextmanager
    def _room(self) -> Iterator[None]:
        self.check_room()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def _search(
        self, plan: TrafficDatasetPlan, only: str | None, progress: Report
    ) -> tuple[_Job, _Candidates]:
        """Find the records that can be rows. Raises ConflictError where no record can."""
        job = _Job(plan, self._recorded, RequestFeedback(self._store, only), Counter(), progress)
        candidates = await _Search(job).run()
        if not len(candidates.numbers):
            raise _nothing(plan, job.counts)
        return job, candidates

    async def _create(
        self, plan: TrafficDatasetPlan, only: str | None, progress: Report
    ) -> TrafficDataset:
        if only is not None:
            await self._check_own(plan.selection.name, only)
        deletions = await self._store.traffic_deletions()
        job, candidates = await self._search(plan, only, progress)
        if plan.selection.review:
            funnel = await _draw(job, candidates, _ToReview(plan, self._queue, self._review))
            return TrafficDataset(dataset=None, funnel=funnel)
        with temporary_folder() as folder:
            path = folder / "requests.jsonl"
            key = await self._store.review_key(secrets.token_bytes(32))
            file = await asyncio.to_thread(path.open, "wb")
            try:
                writing = _ToFile(_Rows(plan, self._review, key), file, self._datasets.max_bytes)
                funnel = await _draw(job, candidates, writing)
            finally:
                await asyncio.to_thread(file.close)
            row = await self._datasets.derive(
                path,
                name=plan.selection.name,
                source=f"requests of {plan.selection.route}"
                + ("" if plan.selection.mask else ", personal data not masked"),
                provenance=_provenance(plan, funnel, writing.findings, only),
                lineage=Lineage(sources=writing.sources),
            )
        if await self._store.traffic_deletions() != deletions:
            row, funnel = await self._without_deleted(row, funnel, writing, job)
        return TrafficDataset(dataset=msgspec.structs.replace(row, statistics=()), funnel=funnel)

    async def _without_deleted(
        self, row: DatasetRow, funnel: Funnel, writing: _ToFile, job: _Job
    ) -> tuple[DatasetRow, Funnel]:
        """Delete the rows whose requests were deleted while the file was written.

        A deletion that came before the rows' lineage was stored has not found them.
        """
        gone = dict(writing.numbers)
        async for requests in job.recorded.with_bodies(list(gone)):
            for request in requests:
                gone.pop(request.number, None)
        if not gone:
            return row, funnel
        await self._datasets.delete_rows(row.hash, gone.values())
        job.counts["deleted"] += len(gone)
        if len(gone) == len(writing.numbers):
            raise _nothing(job.plan, job.counts)
        rows = len(writing.numbers) - len(gone)
        return (await self._store.datasets(row.name))[0], _funnel(job.counts, rows)

    async def _check_own(self, name: str, key_id: str) -> None:
        """Refuse a name that has a version which is not the key's own, and too many versions."""
        versions = 0
        for row in await self._store.datasets():
            if key_of(row) == key_id:
                versions += 1
            elif row.name == name:
                raise ConflictError(
                    f"There is a dataset {name!r} already; take another name.", param="name"
                )
        if versions >= MAX_OWN_VERSIONS:
            raise ConflictError(
                f"This key has made {versions} versions of datasets; more need another role."
            )


class _Candidates:
    """Records that can be rows, 20 bytes each; `take` draws them.

    Attributes:
        numbers: of the records.
    """

    def __init__(self) -> None:
        self.numbers = array("q")
        self._ranks = array("Q")
        self._strata = array("I")
        self._names: dict[tuple[Any, ...], int] = {}
        self._queues: list[Any] = []
        self._taken: list[int] = []

    @property
    def left(self) -> int:
        """How many have not been taken."""
        return len(self.numbers) - sum(self._taken)

    def add(self, number: int, rank: int, stratum: tuple[Any, ...]) -> None:
        """Add a record. Raises RequestError where there are too many strata."""
        self.numbers.append(number)
        self._ranks.append(rank)
        self._strata.append(self._names.setdefault(stratum, len(self._names)))
        if len(self._names) > MAX_STRATA:
            raise RequestError(
                f"stratify: there are more than {MAX_STRATA} different strata; take fewer fields",
                param="stratify",
            )

    def sort(self) -> None:
        """Put the candidates of each stratum in the order in which they are drawn."""
        numbers = np.frombuffer(self.numbers, np.int64)
        strata = np.frombuffer(self._strata, np.uint32)
        order = np.lexsort((np.frombuffer(self._ranks, np.uint64), strata))
        ends = np.cumsum(np.bincount(strata, minlength=len(self._names)))
        self._queues = np.split(numbers[order], ends[:-1])
        self._taken = [0] * len(self._queues)

    def take(self, count: int) -> list[int]:
        """Return the next candidates, shared out in proportion to what is left of each stratum."""
        sizes = [len(queue) - taken for queue, taken in zip(self._queues, self._taken, strict=True)]
        chosen: list[int] = []
        for n, share in enumerate(allocate(count, sizes)):
            start = self._taken[n]
            chosen += self._queues[n][start : start + share].tolist()
            self._taken[n] += share
        return chosen


class _Job(NamedTuple):
    """One dataset that is being made.

    Attributes:
        plan: what it is made of.
        recorded: reads the requests.
        feedback: reads what was said about them.
        counts: how many records were dropped, by the reason.
        progress: called with how far it is.
    """

    plan: TrafficDatasetPlan
    recorded: RecordedTraffic
    feedback: RequestFeedback
    counts: Counter[str]
    progress: Report


class _Search:
    """Reads all records of a plan's time, and returns those that can be rows."""

    def __init__(self, job: _Job) -> None:
        self._recorded = job.recorded
        self._plan = plan = job.plan
        self._counts = job.counts
        self._progress = job.progress
        self._feedback = job.feedback
        self._candidates = _Candidates()
        self._needs_language = plan.needs_language

    async def run(self) -> _Candidates:
        before = None
        read = 0
        while rows := await self._recorded.page(self._plan.matching, limit=PAGE, before=before):
            before = rows[-1].number
            read += len(rows)
            await self._page(rows)
            self._progress(TrafficDatasetProgress(read, 0))
        if len(self._candidates.numbers):
            await asyncio.to_thread(self._candidates.sort)
        return self._candidates

    async def _page(self, rows: Sequence[TrafficRow]) -> None:
        answered = [row for row in rows if not self._drop(_unusable(row))]
        condition = self._plan.condition
        given: dict[str, list[FeedbackRow]] = {}
        if condition is not None and condition.feedback:
            given = await self._feedback.about(answered)
        subjects = [Subject(row, latest_values(given.get(row.id, ()))) for row in answered]
        if condition is not None and not condition.reads_text:
            subjects = [
                subject
                for subject in subjects
                if not self._drop("" if condition.holds(subject) else "where")
            ]
        subjects = [subject for subject in subjects if not self._drop(_lacking(subject.row))]
        if self._plan.needs_text:
            subjects = [subject async for subject in self._with_text(subjects)]
        for subject in subjects:
            if len(self._candidates.numbers) >= MAX_CANDIDATES:
                self._drop("over_limit")
                continue
            stratum = tuple(_stratum(name, subject) for name in self._plan.selection.stratify)
            rank = rank_of(subject.row.id, self._plan.selection.seed)
            self._candidates.add(subject.row.number, rank, stratum)

    async def _with_text(self, subjects: Sequence[Subject]) -> AsyncIterator[Subject]:
        """Yield those that can be rows by their bodies, with what these say."""
        by_number = {subject.row.number: subject for subject in subjects}
        async for rows in self._recorded.with_bodies(list(by_number)):
            for n in range(0, len(rows), _READ_AT_ONCE):
                some = rows[n : n + _READ_AT_ONCE]
                texts = await asyncio.to_thread(_texts, some, language=self._needs_language)
                for row, text in zip(some, texts, strict=True):
                    subject = by_number.pop(row.number)
                    if isinstance(text, str):
                        self._drop(text)
                        continue
                    subject = subject._replace(text=text)
                    condition = self._plan.condition
                    if condition is not None and not condition.holds(subject):
                        self._drop("where")
                        continue
                    yield subject
        self._counts["deleted"] += len(by_number)

    def _drop(self, reason: str) -> bool:
        """Count a record that cannot be a row; "" stands for no reason."""
        if reason:
            self._counts[reason] += 1
        return bool(reason)


def _unusable(row: TrafficRow) -> str:
    """Return the reason why a record cannot be a row, as far as it says so; "" for none."""
    if not dialect_of(row.path).is_conversation:
        return row.path if row.path in REASONS else "unreadable"
    if row.status >= 400 or row.error_code:
        return "failed"
    return "cached" if row.cached else ""


def _lacking(row: TrafficRow) -> str:
    """Return the reason why a record has no texts; "" where it has."""
    if row.bodies:
        return ""
    return "no_bodies" if row.stored else "not_stored"


def _texts(rows: Sequence[TrafficRow], *, language: bool) -> list[RequestText | str]:
    return [_text(row, language=language) for row in rows]


def _text(row: TrafficRow, *, language: bool) -> RequestText | str:
    """Return what the bodies of a request say, or the reason why it cannot be a row."""
    conversation = read_conversation(row)
    if isinstance(conversation, str):
        return conversation
    return request_text(conversation.messages, answer=conversation.answer, language=language)


def _stratum(name: str, subject: Subject) -> Any:
    value = FIELDS[name].read(subject)
    if name == "length":
        return sum(value >= lowest for lowest in _LENGTHS if isinstance(value, int | float))
    return value


class _Destination(Protocol):
    """Where drawn records become rows."""

    @property
    def is_full(self) -> bool:
        """Whether no record can become a row there any more."""
        ...

    async def take(
        self, rows: Sequence[TrafficRow], given: Mapping[str, Sequence[FeedbackRow]]
    ) -> list[str]:
        """Make rows of records with their feedback; return why each has none, "" where it has."""
        ...


async def _draw(job: _Job, candidates: _Candidates, destination: _Destination) -> Funnel:
    """Read drawn records again and make rows of them, until there are enough.

    Raises ConflictError where no record becomes a row.
    """
    counts = job.counts
    max_rows = job.plan.selection.sample or MAX_ROWS
    read = counts.total() + len(candidates.numbers)
    made = 0
    while not destination.is_full and (numbers := candidates.take(max_rows - made)):
        missing = len(numbers)
        async for rows in job.recorded.with_bodies(numbers):
            missing -= len(rows)
            for n in range(0, len(rows), _READ_AT_ONCE):
                some = rows[n : n + _READ_AT_ONCE]
                for reason in await destination.take(some, await job.feedback.about(some)):
                    if reason:
                        counts[reason] += 1
                    else:
                        made += 1
            job.progress(TrafficDatasetProgress(read, made))
        counts["deleted"] += missing
    if not made:
        raise _nothing(job.plan, counts)
    counts["not_drawn"] = candidates.left
    return _funnel(counts, made)


class _ToFile:
    """Writes rows to a file.

    Attributes:
        is_full: never; a file that is too large is an error.
        sources: the request of each row.
        numbers: the id of each row by the number of its request.
        findings: how often checks noticed something, by its kind.
    """

    is_full = False

    def __init__(self, rows: _Rows, file: BinaryIO, max_bytes: int) -> None:
        self._rows = rows
        self._file = file
        self._max_bytes = max_bytes
        self._size = 0
        self.sources: list[RowSource] = []
        self.numbers: dict[int, str] = {}
        self.findings: Counter[str] = Counter()

    async def take(
        self, rows: Sequence[TrafficRow], given: Mapping[str, Sequence[FeedbackRow]]
    ) -> list[str]:
        """Make rows of records; see `_Destination`. Raises BodyTooLargeError."""
        made = await asyncio.to_thread(self._rows.make, rows, given)
        reasons: list[str] = []
        lines = bytearray()
        for row, result in zip(rows, made, strict=True):
            if isinstance(result, str):
                reasons.append(result)
                continue
            reasons.append("")
            self.findings.update(result.findings)
            self.sources.append(_source(row, result.id, _authors(given.get(row.id, ()))))
            self.numbers[row.number] = result.id
            lines += result.line
        self._size += len(lines)
        if self._size > self._max_bytes:
            raise too_large(self._rows.name, self._max_bytes)
        await asyncio.to_thread(self._file.write, lines)
        return reasons


class _ToReview:
    """Lets rows wait for a review.

    Attributes:
        is_full: whether the queue has no room any more.
    """

    def __init__(self, plan: TrafficDatasetPlan, queue: ReviewQueue, review: Review) -> None:
        self._name = plan.selection.name
        self._queue = queue
        self._repeated = _Repeated(plan, review)
        self.is_full = False

    async def take(
        self, rows: Sequence[TrafficRow], given: Mapping[str, Sequence[FeedbackRow]]
    ) -> list[str]:
        """Make rows of records; see `_Destination`."""
        if self.is_full:
            return ["queue_full"] * len(rows)
        made = await asyncio.to_thread(self._candidates, rows, given)
        reasons = {
            row.id: result
            for row, result in zip(rows, made, strict=True)
            if isinstance(result, str)
        }
        waiting = [result for result in made if isinstance(result, ReviewCandidate)]
        while waiting:
            room = await self._queue.room()
            some, waiting = waiting[:room], waiting[room:]
            try:
                arrivals = await self._queue.add(some)
            except ConflictError:
                # Others have come first.
                room, arrivals = 0, []
            reasons |= {
                candidate.source.id: _reason(arrival)
                for candidate, arrival in zip(some, arrivals, strict=False)
            }
            if not room:
                self.is_full = True
                reasons |= {candidate.source.id: "queue_full" for candidate in (*some, *waiting)}
                break
        return [reasons[row.id] for row in rows]

    def _candidates(
        self, rows: Sequence[TrafficRow], given: Mapping[str, Sequence[FeedbackRow]]
    ) -> list[ReviewCandidate | str]:
        return [self._candidate(row, given.get(row.id, ())) for row in rows]

    def _candidate(self, row: TrafficRow, given: Sequence[FeedbackRow]) -> ReviewCandidate | str:
        conversation = read_conversation(row)
        if isinstance(conversation, str):
            return conversation
        if not is_conversation(conversation.messages):
            return "unreviewable"
        if reason := self._repeated.reason(row, conversation):
            return reason
        texts = _feedback_texts(given)
        references = _references(given, texts)
        metadata: dict[str, Any] = {}
        if conversation.parameters:
            metadata["request_parameters"] = conversation.parameters
        if shown := _shown_by_name(given, texts):
            metadata["feedback"] = shown
        return ReviewCandidate(
            messages=conversation.messages,
            answer=conversation.answer,
            reference=references[0] if references else None,
            metadata=metadata,
            origin="traffic",
            source=ReviewSource(
                id=row.id,
                at=row.at,
                key_id=row.key_id,
                user=row.user,
                route=row.route,
                target=row.target,
                traffic_class=row.traffic_class,
                status=row.status,
                request_id=row.request_id,
                response_id=row.response_id,
                conversation=row.conversation,
                feedback=tuple(feedback.id for feedback in given),
                authors=_authors(given),
            ),
            dataset=self._name,
        )


def _reason(arrival: ReviewArrival) -> str:
    """Return why a row does not wait for a review; "" where it does."""
    if arrival.id is not None:
        return ""
    kinds = [finding.kind for finding in arrival.findings if finding.action == "drop"]
    return next((kind for kind in kinds if kind in {"duplicate", "near_duplicate"}), "check")


class _Repeated:
    """Notices requests that say what an earlier one said, where a selection leaves them out."""

    def __init__(self, plan: TrafficDatasetPlan, review: Review) -> None:
        self._is_on = plan.selection.dedupe
        self._duplicates = Duplicates(similarity=review.pranks.similarity)

    def reason(self, row: TrafficRow, conversation: RecordedConversation) -> str:
        """Return why a request is to be left out; "" for none."""
        if not self._is_on:
            return ""
        same = self._duplicates.add(row.id, sketch(conversation.users_texts()))
        if same is None:
            return ""
        return "duplicate" if same.exact else "near_duplicate"


class _Line(NamedTuple):
    """A row: its id, itself as JSON with its newline, and the kinds of what checks noticed."""

    id: str
    line: bytes
    findings: list[str]


class _Rows:
    """Makes rows of records; it remembers what rows are compared by."""

    def __init__(self, plan: TrafficDatasetPlan, review: Review, key: bytes) -> None:
        self._selection = plan.selection
        self._review = review
        self._language = plan.needs_language
        self._key = key
        self._repeated = _Repeated(plan, review)
        self._ids: set[str] = set()
        # Parameters without personal data, as JSON: most requests of a client have the same.
        self._clean: set[str] = set()
        self._clusters: dict[tuple[str, ...], str] = {}

    @property
    def name(self) -> str:
        """The name of their dataset."""
        return self._selection.name

    def make(
        self, rows: Sequence[TrafficRow], given: Mapping[str, Sequence[FeedbackRow]]
    ) -> list[_Line | str]:
        """Return the row of each record, or the reason why it has none."""
        return [self._row(row, given.get(row.id, ())) for row in rows]

    def _row(self, row: TrafficRow, given: Sequence[FeedbackRow]) -> _Line | str:
        conversation = read_conversation(row)
        if isinstance(conversation, str):
            return conversation
        if reason := self._repeated.reason(row, conversation):
            return reason
        text = request_text(
            conversation.messages, answer=conversation.answer, language=self._language
        )
        texts = {"answer": conversation.answer, **_feedback_texts(given)}
        messages: Sequence[Mapping[str, Any]] = conversation.messages
        parameters = conversation.parameters
        findings: list[str] = []
        if self._selection.mask:
            as_json = json.dumps(parameters, ensure_ascii=False)
            if as_json not in self._clean:
                texts["request_parameters"] = as_json
            checked = check(messages, self._review, key=self._key, texts=texts)
            if checked.is_dropped:
                return "check"
            messages, texts = checked.messages, checked.texts
            findings = [finding.kind for finding in checked.findings]
            if texts.get("request_parameters", as_json) != as_json:
                parameters = self._masked(parameters)
            elif len(self._clean) < _CLEAN_PARAMETERS:
                self._clean.add(as_json)
        row_id = self._row_id(row)
        fields: dict[str, Any] = {"id": row_id, "messages": messages, "answer": texts["answer"]}
        if parameters:
            fields["request_parameters"] = parameters
        if references := _references(given, texts):
            fields["reference"] = references[0] if len(references) == 1 else references
        if shown := _shown_by_name(given, texts):
            fields["feedback"] = shown
        fields["cluster"] = self._cluster(row)
        fields |= _provenance_columns(row, text)
        if self._language:
            fields["language"] = text.language
        line = json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        return _Line(row_id, line, findings)

    def _masked(self, value: Any) -> Any:
        """Return parameters without personal data in their texts; numbers stay what they are."""
        if isinstance(value, dict):
            return {name: self._masked(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._masked(inner) for inner in value]
        if not isinstance(value, str):
            return value
        return check((), self._review, key=self._key, texts={"text": value}).texts["text"]

    def _row_id(self, row: TrafficRow) -> str:
        """Return the record's id; with its number where clients have chosen the same id twice."""
        row_id = row.id if row.id not in self._ids else f"{row.id}.{row.number}"
        self._ids.add(row_id)
        return row_id

    def _cluster(self, row: TrafficRow) -> str:
        """Return the group of a request: those of one user, else of one conversation.

        It is made of the first request of the group, so that no user can be found by guessing.
        """
        group: tuple[str, ...]
        if row.user:
            group = ("user", row.key_id, row.user)
        elif row.conversation:
            group = ("conversation", row.key_id, row.conversation)
        else:
            group = ("request", row.id)
        if group not in self._clusters:
            self._clusters[group] = hashlib.blake2b(
                f"{row.id}.{row.number}".encode(), digest_size=8
            ).hexdigest()
        return self._clusters[group]


def _feedback_texts(given: Sequence[FeedbackRow]) -> dict[str, str]:
    """Return the texts of feedback by names, which are checked as those of the request are."""
    texts: dict[str, str] = {}
    for feedback in given:
        value = value_of(feedback)
        if isinstance(value, str) and value.strip():
            kind = "reference" if feedback.kind == "correction" else "value"
            texts[f"{kind}.{feedback.id}"] = value
        if feedback.comment:
            texts[f"comment.{feedback.id}"] = feedback.comment
    return texts


def _references(given: Sequence[FeedbackRow], texts: Mapping[str, str]) -> list[str]:
    """Return the corrections among feedback, the newest first."""
    names = [f"reference.{feedback.id}" for feedback in reversed(given)]
    return [texts[name] for name in names if name in texts]


def _shown_by_name(given: Sequence[FeedbackRow], texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the value and the comment of each name of feedback, apart from corrections."""
    return {
        feedback.name: _shown(feedback, texts)
        for feedback in given
        if feedback.kind != "correction"
    }


def _shown(feedback: FeedbackRow, texts: Mapping[str, str]) -> dict[str, Any]:
    shown: dict[str, Any] = {"value": texts.get(f"value.{feedback.id}", feedback.value)}
    if feedback.comment:
        shown["comment"] = texts[f"comment.{feedback.id}"]
    return shown


def _provenance_columns(row: TrafficRow, text: RequestText) -> dict[str, Any]:
    return {
        "route": row.route,
        "target": row.target,
        "at": row.at,
        "cost_usd": row.cost_usd,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "total_s": row.total_s,
        "finish_reason": row.finish_reason,
        "turns": text.turns,
        "length": text.length,
    }


def _authors(given: Sequence[FeedbackRow]) -> frozenset[str]:
    return frozenset(feedback.user for feedback in given) - {""}


def _source(row: TrafficRow, row_id: str, authors: frozenset[str]) -> RowSource:
    return RowSource(
        row=row_id,
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
        authors=authors,
    )


def _funnel(counts: Counter[str], rows: int) -> Funnel:
    return Funnel(records=counts.total() + rows, dropped=tuple(_dropped(counts)), rows=rows)


def _dropped(counts: Counter[str]) -> Iterator[DroppedRecords]:
    for reason, description in REASONS.items():
        if counts[reason]:
            yield DroppedRecords(reason=reason, count=counts[reason], description=description)


def _provenance(
    plan: TrafficDatasetPlan, funnel: Funnel, findings: Counter[str], only: str | None
) -> dict[str, Any]:
    selection, matching = plan.selection, plan.matching
    made: dict[str, Any] = {
        "route": selection.route,
        "since": matching.since,
        "until": matching.until,
        "where": selection.where,
        "sample": selection.sample,
        "seed": selection.seed,
        "stratify": list(selection.stratify),
        "dedupe": selection.dedupe,
        "masked": selection.mask,
        "key": only or "",
    }
    return {
        "from_traffic": made,
        "funnel": {
            "records": funnel.records,
            **{dropped.reason: dropped.count for dropped in funnel.dropped},
            "rows": funnel.rows,
        },
        "findings": dict(findings),
    }


def _nothing(plan: TrafficDatasetPlan, counts: Counter[str]) -> ConflictError:
    """Return the error that no record can be a row: why, and what to set."""
    route = plan.selection.route
    if not counts.total():
        return ConflictError(
            f"No request of {route!r} is on record for that time. Records are stored unless the "
            f"route's `record` is `none`, for traffic_days; set `record: full` in "
            f"routes.{route} to have rows in future.",
            code="no_rows",
        )
    reasons = "; ".join(f"{dropped.count} {dropped.description}" for dropped in _dropped(counts))
    remedy = ""
    if counts["no_bodies"]:
        rows = min(counts["no_bodies"], plan.selection.sample or MAX_ROWS)
        remedy = (
            f" Set `record: full` in routes.{route} of the config: with their bodies, there would "
            f"have been up to {rows} rows. A client that sends `store: false` keeps its own out."
        )
    return ConflictError(
        f"None of the {counts.total()} requests of {route!r} can be a row: {reasons}.{remedy}",
        code="no_rows",
    )
