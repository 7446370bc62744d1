"""The review queue: rows wait here for a person before they become part of a dataset.

    queue = ReviewQueue(store, datasets, config.review)
    arrivals = await queue.add([ReviewCandidate(messages=messages, reference=correction)])
    row = await queue.accept(arrivals[0].id, "eve")
    version = await queue.publish("reviewed", "eve")     # a new version with the accepted rows

Rows are checked when they come, and what is stored has no personal data: neither a person nor a
backup sees it. Of two people who decide about a row at once, one wins, and the other learns who.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

import msgspec

from providers.errors import ConflictError, RequestError
from providers.names import check_name
from router.config.review import Review, RowAction
from router.datasets.registry import (
    ROWS_AT_ONCE,
    SHOWN_HASH,
    DatasetRegistry,
    check_dataset_name,
)
from router.loop.checks import CheckedText, CheckFinding, check, texts_of
from router.loop.checks.languages import require_language_detector
from router.loop.checks.near_duplicates import Duplicate, Duplicates, Sketch, sketch
from router.loop.dataset_rows import adding_to, derive_from, lines_of, newest_version
from router.rounds import Rounds
from router.sealing.deletion import Deletion, DeletionStep, delete_rows
from router.store.datasets import DatasetRow, DatasetStore
from router.store.leases import LeaseStore
from router.store.lineage import RowSource
from router.store.review import (
    NewReviewRow,
    ReviewContent,
    ReviewFilter,
    ReviewOrigin,
    ReviewRow,
    ReviewSource,
    ReviewState,
    ReviewStore,
)
from router.store.traffic import TrafficFilter

log = logging.getLogger("evalrouter")

DAY_S = 86400.0
EXPIRE_EVERY_S = 600.0
_DELETED_AT_ONCE = 500
_CHECKED_AT_ONCE = 50
MAX_REASON = 1000
MAX_MESSAGES = 1000
MAX_ROWS = 1000  # that arrive in one request

_encode = msgspec.json.Encoder().encode


class _Store(DatasetStore, ReviewStore, LeaseStore, Protocol):
    """What is needed of a store."""


class ReviewCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """A row that is to be reviewed, as it came.

    Attributes:
        messages, answer, reference, metadata: as in `router.store.review.ReviewContent`.
        origin: where it came from.
        source: the request that it is about.
        dataset: what it is to become a row of; "" for the config's.
    """

    messages: Sequence[Mapping[str, Any]]
    answer: str | None = None
    reference: str | None = None
    metadata: dict[str, Any] = {}
    origin: ReviewOrigin = "import"
    source: ReviewSource = ReviewSource()
    dataset: str = ""


class ReviewArrival(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a candidate.

    Attributes:
        id: the row that waits now; None where a check left it out.
        findings: what the checks noticed.
    """

    id: str | None
    findings: tuple[CheckFinding, ...]


class ReviewEdit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person changes of a row; what is left out stays as it is.

    Attributes:
        version: the row's version that the person has read; a later one is a conflict.
        messages: the conversation.
        answer: what a model answered.
        reference: what should have been answered.
        dataset: what it is to become a row of.
    """

    version: int | None = None
    messages: list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET
    answer: str | msgspec.UnsetType | None = msgspec.UNSET
    reference: str | msgspec.UnsetType | None = msgspec.UNSET
    dataset: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def content(self) -> dict[str, Any]:
        """The changed fields of the content."""
        fields = {name: getattr(self, name) for name in ("messages", "answer", "reference")}
        return {name: value for name, value in fields.items() if value is not msgspec.UNSET}


class PublishedRows(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset's new version.

    Attributes:
        dataset: the version.
        published: how many rows were accepted for it.
    """

    dataset: DatasetRow
    published: int


class _Prepared(NamedTuple):
    """A candidate after its checks."""

    row: ReviewRow
    checked: CheckedText
    sketch: Sketch


class ReviewQueue:
    """The queue.

    Args:
        store: where the rows are.
        datasets: what they become rows of.
        config: how they are checked, and how long they wait.
        clock: tells the seconds since the epoch.

    Raises:
        MissingExtraError: the config asks for a check that needs an extra.
    """

    def __init__(
        self,
        store: _Store,
        datasets: DatasetRegistry,
        config: Review,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if config.pranks.languages:
            require_language_detector("review.pranks.languages")
        self._store = store
        self._datasets = datasets
        self._config = config
        self._clock = clock
        self._key: bytes | None = None
        self._rounds = Rounds(
            self.expire,
            every=EXPIRE_EVERY_S,
            name="evalrouter-review-expire",
            failing="old rows could not be deleted from the review queue",
        )
        # One batch at a time, so that rows are compared with those before them.
        self._adding = asyncio.Lock()

    async def open(self) -> None:
        """Begin to delete rows that were not accepted in time."""
        self._rounds.open()

    async def close(self) -> None:
        """Stop."""
        await self._rounds.close()

    # What arrives

    async def add(self, candidates: Sequence[ReviewCandidate]) -> list[ReviewArrival]:
        """Check candidates and store those that no check leaves out, all or none.

        Raises:
            RequestError, DatasetError: one of them is no conversation, or its dataset has no name.
            ConflictError: the queue would have too many rows.
        """
        for number, candidate in enumerate(candidates):
            _check_messages(candidate.messages, f"rows[{number}].messages")
            for name in candidate.metadata:
                check_name(name, f"rows[{number}].metadata")
            if candidate.dataset:
                check_dataset_name(candidate.dataset)
        key = await self._placeholder_key()
        async with self._adding:
            return await self._add(candidates, key)

    async def room(self) -> int:
        """Return how many rows may still be added."""
        waiting = await self._store.count_review_rows(ReviewFilter(state="waiting"))
        return max(0, self._config.max_rows - waiting)

    async def _add(self, candidates: Sequence[ReviewCandidate], key: bytes) -> list[ReviewArrival]:
        arrivals: list[ReviewArrival] = []
        rows: list[NewReviewRow] = []
        batches: dict[str, Duplicates] = {}
        for start in range(0, len(candidates), _CHECKED_AT_ONCE):
            some = candidates[start : start + _CHECKED_AT_ONCE]
            for prepared in await asyncio.to_thread(self._prepare, some, key):
                row, form = prepared.row, prepared.sketch
                bands = [band.hex() for band in form.bands()]
                batch = batches.setdefault(
                    row.dataset, Duplicates(similarity=self._config.pranks.similarity)
                )
                duplicate = await self._duplicate(prepared, bands) or batch.add(row.id, form)
                findings = (*prepared.checked.findings, *self._duplicate_findings(duplicate))
                if any(finding.action == "drop" for finding in findings):
                    arrivals.append(ReviewArrival(id=None, findings=findings))
                    continue
                listed = tuple(msgspec.to_builtins(finding) for finding in findings)
                row = msgspec.structs.replace(row, findings=listed)
                rows.append(NewReviewRow(row, form.digest, form.values.hex(), bands))
                arrivals.append(ReviewArrival(id=row.id, findings=findings))
        if rows:
            await self._store.add_review_rows(rows, max_waiting=self._config.max_rows)
        return arrivals

    def _prepare(self, candidates: Sequence[ReviewCandidate], key: bytes) -> list[_Prepared]:
        prepared = []
        for candidate in candidates:
            now = self._clock()
            checked = self._check(
                candidate.messages, candidate.answer, candidate.reference, candidate.metadata, key
            )
            content = _content(checked)
            source = candidate.source
            if not source.at:
                source = msgspec.structs.replace(source, at=now)
            row = ReviewRow(
                id=f"rv_{uuid.uuid4().hex}",
                at=now,
                expires_at=now + self._config.expire_days * DAY_S,
                dataset=candidate.dataset or self._config.dataset,
                origin=candidate.origin,
                source=source,
                content=content,
            )
            prepared.append(_Prepared(row, checked, _sketch(content)))
        return prepared

    def _check(
        self,
        messages: Sequence[Mapping[str, Any]],
        answer: str | None,
        reference: str | None,
        metadata: Mapping[str, Any],
        key: bytes,
    ) -> CheckedText:
        given = {"answer": answer, "reference": reference}
        texts = {name: text for name, text in given.items() if text is not None}
        if metadata:
            # As JSON, whose strings are checked one by one.
            texts["metadata"] = _encode(metadata).decode()
        return check(messages, self._config, key=key, texts=texts)

    async def _duplicate(self, prepared: _Prepared, bands: Sequence[str]) -> Duplicate | None:
        """Return an earlier row of the same dataset that says the same, or nearly."""
        nearest: Duplicate | None = None
        for other in await self._store.similar_review_rows(prepared.row.dataset, bands):
            other_sketch = Sketch(other.digest, bytes.fromhex(other.sketch))
            similarity = prepared.sketch.similarity(other_sketch)
            is_exact = other.digest == prepared.sketch.digest
            if (is_exact or similarity >= self._config.pranks.similarity) and (
                nearest is None or similarity > nearest.similarity
            ):
                nearest = Duplicate(other.id, similarity, is_exact)
        return nearest

    def _duplicate_findings(self, duplicate: Duplicate | None) -> Iterator[CheckFinding]:
        if duplicate is None:
            return
        pranks = self._config.pranks
        action: RowAction = pranks.duplicate if duplicate.exact else pranks.near_duplicate
        if action != "ignore":
            yield CheckFinding(
                kind="duplicate" if duplicate.exact else "near_duplicate",
                action=action,
                detail=f"{duplicate.of}, {duplicate.similarity:.2f}",
            )

    async def _placeholder_key(self) -> bytes:
        if self._key is None:
            self._key = await self._store.review_key(secrets.token_bytes(32))
        return self._key

    # What people decide

    async def edit(self, row_id: str, edit: ReviewEdit, reviewer: str) -> ReviewRow:
        """Change a row that waits. What a person writes is checked, too.

        Raises:
            NotFoundError: the row does not exist.
            ConflictError: it was decided, or changed since the person read it.
            RequestError: it is no conversation any more, or has what the config leaves out.
        """
        _check_edit(edit)
        row = await self._waiting(row_id, edit.version, reviewer)
        return await self._change(row, await self._edited(row, edit), reviewer)

    async def accept(self, row_id: str, reviewer: str, edit: ReviewEdit | None = None) -> ReviewRow:
        """Accept a row that waits, with what a person changes of it.

        Raises:
            NotFoundError, ConflictError, RequestError: as `edit` does.
        """
        if edit is not None:
            _check_edit(edit)
        row = await self._waiting(row_id, None if edit is None else edit.version, reviewer)
        changed = row if edit is None else await self._edited(row, edit)
        return await self._decide(row, changed, "accepted", reviewer, "")

    async def reject(
        self, row_id: str, reviewer: str, *, reason: str = "", version: int | None = None
    ) -> ReviewRow:
        """Reject a row that waits; it is deleted when it expires.

        Raises:
            NotFoundError, ConflictError: as `edit` does.
        """
        row = await self._waiting(row_id, version, reviewer)
        return await self._decide(row, row, "rejected", reviewer, reason)

    async def undo(self, row_id: str, reviewer: str) -> ReviewRow:
        """Let a row wait again that was decided, as long as no version of the dataset has it.

        Raises:
            NotFoundError: the row does not exist.
            ConflictError: it waits, or is in a version.
        """
        row = await self._store.review_row(row_id)
        if row.state == "waiting":
            raise ConflictError(f"{row_id} waits for a decision; there is none to undo.")
        now = self._clock()
        changed = msgspec.structs.replace(
            row,
            state="waiting",
            decided_at=None,
            decided_by="",
            reason="",
            version=row.version + 1,
            expires_at=max(row.expires_at, now + DAY_S),
        )
        return await self._change(row, changed, reviewer)

    async def _waiting(self, row_id: str, version: int | None, reviewer: str) -> ReviewRow:
        row = await self._store.review_row(row_id)
        if row.state != "waiting":
            raise _conflict(row)
        if version is not None and version != row.version:
            raise ConflictError(
                f"{row_id} has been changed since version {version}, which {reviewer} has read; "
                f"this is version {row.version} now. Read it again.",
            )
        return row

    async def _edited(self, row: ReviewRow, edit: ReviewEdit) -> ReviewRow:
        changes: dict[str, Any] = {}
        if edit.dataset is not msgspec.UNSET:
            changes["dataset"] = edit.dataset
        if content := edit.content:
            new = msgspec.structs.replace(row.content, **content)
            _check_messages(new.messages, "messages")
            key = await self._placeholder_key()
            checked = await asyncio.to_thread(
                self._check, new.messages, new.answer, new.reference, new.metadata, key
            )
            if checked.is_dropped:
                kinds = {finding.kind for finding in checked.findings if finding.action == "drop"}
                raise RequestError(
                    f"The config leaves rows out that have this: {', '.join(sorted(kinds))}.",
                    code="row_dropped",
                )
            others = [finding for finding in row.findings if finding["kind"] in _NOT_OF_TEXTS]
            listed = [msgspec.to_builtins(finding) for finding in checked.findings]
            changes |= {
                "content": _content(checked),
                "findings": (*listed, *others),
                "edited": True,
            }
        return msgspec.structs.replace(row, **changes, version=row.version + 1)

    async def _decide(
        self, row: ReviewRow, changed: ReviewRow, state: ReviewState, reviewer: str, reason: str
    ) -> ReviewRow:
        decided = msgspec.structs.replace(
            changed,
            state=state,
            decided_at=self._clock(),
            decided_by=reviewer,
            reason=reason,
            version=row.version + 1,
        )
        return await self._change(row, decided, reviewer)

    async def _change(self, row: ReviewRow, changed: ReviewRow, reviewer: str) -> ReviewRow:
        if not await self._store.change_review_row(changed):
            now = await self._store.review_row(row.id)
            if now.state == "waiting":
                raise ConflictError(
                    f"{row.id} was changed while {reviewer} changed it. Read it again."
                )
            raise _conflict(now)
        return changed

    # What becomes of it

    async def publish(self, name: str, reviewer: str) -> PublishedRows:
        """Register a new version of a dataset: the newest one's rows, and those accepted for it.

        A version that a client's key made of its own requests is left out: no one reviewed it.

        Each new row has the column `review`: the request, the feedback, the findings of the checks,
        and who accepted it when. The columns of earlier rows stay as they are.

        Raises:
            ConflictError: no accepted row waits for it, or others add rows to it for too long.
            DatasetError, ArtifactError, StoreError: it cannot be written; the rows are as before.
        """
        check_dataset_name(name)
        async with adding_to(self._store, name):
            return await self._publish(name, reviewer)

    async def _publish(self, name: str, reviewer: str) -> PublishedRows:
        rows = await self._store.begin_publishing(name)
        if not rows:
            raise ConflictError(f"No accepted row waits to become part of the dataset {name!r}.")
        ids = [row.id for row in rows]
        content = ""
        try:
            version = await self._version(name, rows, reviewer)
            content = version.hash
        finally:
            left = await asyncio.shield(self._store.end_publishing(ids, content))
        if gone := set(ids) - set(left):
            # They were deleted with their requests while the file was written.
            await self._datasets.delete_rows(content, gone)
            version = await newest_version(self._store, name) or version
        return PublishedRows(dataset=version, published=len(left))

    async def _version(self, name: str, rows: Sequence[ReviewRow], reviewer: str) -> DatasetRow:
        key = await self._placeholder_key()
        earlier = await newest_version(self._store, name)
        sources = [
            RowSource(
                row=row.id,
                id=row.source.id,
                at=row.source.at,
                key_id=row.source.key_id,
                user=row.source.user,
                request_id=row.source.request_id,
                response_id=row.source.response_id,
                conversation=row.source.conversation,
                route=row.source.route,
                target=row.source.target,
                traffic_class=row.source.traffic_class,
                status=row.source.status,
                authors=row.source.authors,
            )
            for row in rows
            if row.origin != "import"
        ]
        return await derive_from(
            self._datasets,
            name,
            earlier,
            self._lines(earlier, rows, key),
            source="the review queue",
            provenance={"reviewed_rows": len(rows), "published_by": reviewer},
            sources=sources,
        )

    async def _lines(
        self, earlier: DatasetRow | None, rows: Sequence[ReviewRow], key: bytes
    ) -> AsyncIterator[bytes]:
        known: set[str] = set()
        if earlier is not None:
            async with aclosing(self._datasets.all_rows(earlier)) as batches:
                async for batch in batches:
                    known.update(row.id for row in batch)
                    yield await asyncio.to_thread(
                        lines_of, [{"id": row.id} | row.fields for row in batch]
                    )
        # A crash may have come between the registration and the note of it.
        new = [_fields(row, key) for row in rows if row.id not in known]
        for start in range(0, len(new), ROWS_AT_ONCE):
            yield await asyncio.to_thread(lines_of, new[start : start + ROWS_AT_ONCE])

    async def expire(self) -> int:
        """Delete the rows that were not accepted in time, and return how many."""
        deleted = 0
        while some := await self._store.expire_review_rows(self._clock(), _DELETED_AT_ONCE):
            deleted += some
        return deleted


class ReviewDeletion(DeletionStep):
    """What the review queue has of requests.

    Args:
        store: the queue.
    """

    def __init__(self, store: ReviewStore) -> None:
        self._store = store

    async def delete(self, matching: TrafficFilter, *, at_most: int | None = None) -> Deletion:
        """Delete the rows about requests that match; rows of datasets have a step of their own."""
        forget = partial(self._store.forget_review_rows, matching)
        return await delete_rows(forget, at_most=at_most, at_once=_DELETED_AT_ONCE)


ROLES = ("system", "developer", "user", "assistant", "tool", "function")
# What a check of the texts alone does not find.
_NOT_OF_TEXTS = frozenset(["duplicate", "near_duplicate", "toxicity"])


def is_conversation(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the queue takes messages."""
    try:
        _check_messages(messages, "messages")
    except RequestError:
        return False
    return True


def _check_messages(messages: Sequence[Mapping[str, Any]], place: str) -> None:
    if not messages or len(messages) > MAX_MESSAGES:
        raise RequestError(f"{place}: a conversation has 1 to {MAX_MESSAGES} messages", param=place)
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            problem = f"a message is an object with a role: {', '.join(ROLES)}"
        elif not _has_content(message):
            problem = "a message has content: a text or a list of parts, each with its type"
        else:
            continue
        raise RequestError(f"{place}[{number}]: {problem}", param=place)


def _has_content(message: Mapping[str, Any]) -> bool:
    """Return whether a message says something, by words, parts or calls of tools."""
    content = message.get("content")
    if content is None:
        return bool(message.get("tool_calls") or message.get("function_call"))
    if isinstance(content, str):
        return True
    return isinstance(content, list) and all(
        isinstance(part, Mapping) and isinstance(part.get("type"), str) for part in content
    )


def _check_edit(edit: ReviewEdit) -> None:
    if edit.dataset is not msgspec.UNSET:
        check_dataset_name(edit.dataset)


def _conflict(row: ReviewRow) -> ConflictError:
    moment = datetime.fromtimestamp(row.decided_at or 0.0, UTC)
    return ConflictError(
        f"{row.decided_by} {row.state} {row.id} at {moment:%Y-%m-%d %H:%M:%S} UTC. Undo it first."
        if not row.published
        else f"{row.id} is in a version of the dataset {row.dataset!r}"
        f" ({row.published[:SHOWN_HASH]}); {row.decided_by} accepted it.",
        code="already_decided",
    )


def _content(checked: CheckedText) -> ReviewContent:
    texts = checked.texts
    metadata = msgspec.json.decode(texts["metadata"]) if "metadata" in texts else {}
    return ReviewContent(
        messages=checked.messages,
        answer=texts.get("answer"),
        reference=texts.get("reference"),
        metadata=metadata,
    )


def _sketch(content: ReviewContent) -> Sketch:
    texts = [text for _, text in texts_of(content.messages)]
    return sketch([*texts, content.reference or ""])


def _fields(row: ReviewRow, key: bytes) -> dict[str, Any]:
    """Return the columns of a reviewed row."""
    content, source = row.content, row.source
    fields: dict[str, Any] = {**content.metadata, "id": row.id, "messages": content.messages}
    if content.reference is not None:
        fields["reference"] = content.reference
    if content.answer is not None:
        fields["answer"] = content.answer
    if source.user or source.conversation:
        # Marked, so that a conversation and a user of the same name are two clusters.
        group = source.user or f"\0{source.conversation}"
        named = f"{source.key_id}\0{group}".encode("utf-8", "surrogatepass")
        fields["cluster"] = sha256(key + named).hexdigest()[:16]
    fields["review"] = {
        "origin": row.origin,
        "request": source.id,
        "route": source.route,
        "target": source.target,
        "feedback": list(source.feedback),
        "findings": [
            {name: finding.get(name, "") for name in ("kind", "action", "place")}
            for finding in row.findings
        ],
        "edited": row.edited,
        "reviewer": row.decided_by,
        "decided_at": row.decided_at,
    }
    return fields
