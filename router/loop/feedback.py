"""Takes feedback about requests: finds what it is about, stores it, counts it, and deletes it.

    intake = FeedbackIntake(store, recorded, lambda: routes.table, outdated)
    [stored] = await intake.add([draft], Giver(key_id="key_1", only="key_1"))

A request is found by its record's id, or by what its client calls it: its `x-request-id` or the id
of the response, which are looked up with the giver's key, because others may use the same. A record
is written some tenths of a second after the answer, perhaps by another process, so a request that
is not found is looked for again for `WAIT_S`. One of another key is not found either, and takes as
long.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from hashlib import sha256
from random import getrandbits
from typing import Any, Literal, NamedTuple

import msgspec

from providers.errors import NotFoundError, RateLimitError, RequestError
from providers.names import check_name
from router.gateway.redact import redact
from router.gateway.routing import Table
from router.gateway.spans import EvaluationResult, SpanSink
from router.records import Trace, span_id_of, stored_name
from router.rounds import Rounds
from router.sealing.deletion import Deletion, delete_rows
from router.sealing.traffic import RecordedTraffic
from router.store.feedback import (
    FeedbackFilter,
    FeedbackKind,
    FeedbackRow,
    FeedbackSource,
    FeedbackStore,
    NewFeedback,
    StoredFeedback,
    conversation_subject,
    request_subject,
    text_subject,
)
from router.store.traffic import TrafficFilter, TrafficRow

log = logging.getLogger("evalrouter")

# Seconds until a request that was not found is looked for again.
PAUSES = (0.0, 0.1, 0.2, 0.3, 0.4)
WAIT_S = sum(PAUSES)
# How many may wait for records at a time.
WAITING = 64
# A record that was begun longer ago than this is stored, or never will be.
YOUNG_S = 1800.0
MAX_TEXT_BYTES = 16_384  # of a comment, a text, and metadata
MAX_CONVERSATION_BYTES = 2**20  # of a correction, and of what is sent along
MAX_USER_BYTES = 8192
MAX_VALUE = 1e12  # so that sums of many stay finite
# Names that metrics have labels of their own for; the others are counted together.
MAX_LABELS = 100
OTHER = "other"
PRUNE_EVERY_S = 600.0
PRUNE_AT_ONCE = 500
# Feedback of one author and name that is looked through for what supersedes some of it.
_NEWER = 1000


class Giver(NamedTuple):
    """Who gives feedback, lists it or deletes it.

    Attributes:
        key_id: the id of the key; "" without one.
        only: the key whose requests it may be about, and whose feedback it may be; None for all.
    """

    key_id: str
    only: str | None


class About(NamedTuple):
    """What feedback is about.

    Attributes:
        kind: a request or a conversation.
        name: how the giver names it.
    """

    kind: Literal["request", "conversation"]
    name: str


class SentConversation(NamedTuple):
    """A conversation that the client sent along, because no body of it is stored.

    Attributes:
        messages: the messages of the request.
        answer: what was answered.
        model: the route, or `provider/model`; "" where the request's record says it.
    """

    messages: list[dict[str, Any]]
    answer: str
    model: str = ""


class FeedbackDraft(msgspec.Struct, frozen=True, kw_only=True):
    """Feedback as it is given.

    Attributes:
        name, value, comment, metadata, weight, source: as in FeedbackRow.
        kind: what `value` is.
        about: what it is about: the first that is found; none where it is about `sent` alone.
        user: who gives it; "" where only the key is known.
        idempotency_key, replaces: as in NewFeedback.
        sent: what the client sent along.
        param: the field that names what it is about, for errors.
    """

    name: str
    value: bool | float | str | dict[str, Any]
    kind: FeedbackKind
    about: tuple[About, ...]
    comment: str = ""
    user: str = ""
    metadata: dict[str, Any] = {}
    weight: float = 1.0
    source: FeedbackSource = "evalrouter"
    idempotency_key: str = ""
    replaces: bool = False
    sent: SentConversation | None = None
    param: str = "request_id"


class FeedbackIntake:
    """Takes feedback, and deletes it with the requests that it is about.

    Args:
        store: where it is stored.
        recorded: the requests that are stored.
        table: returns the routes as they stand.
        outdated: yields which requests are too old to be stored.
        clock: tells the seconds since the epoch.
        pauses: seconds before each time that a request is looked for.
        traces: get the feedback about requests that are recorded in a trace; None for none.

    Attributes:
        counts: how much of which route, name and value has come; see `count_of`.
    """

    def __init__(
        self,
        store: FeedbackStore,
        recorded: RecordedTraffic,
        table: Callable[[], Table],
        outdated: Callable[[], Iterable[TrafficFilter]],
        *,
        clock: Callable[[], float] = time.time,
        pauses: Sequence[float] = PAUSES,
        traces: SpanSink | None = None,
    ) -> None:
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self._store = store
        self._recorded = recorded
        self._table = table
        self._outdated = outdated
        self._clock = clock
        self._pauses = pauses
        self._traces = traces
        self._waiting = 0
        self._names: set[str] = set()
        self._rounds = Rounds(
            self._prune,
            every=PRUNE_EVERY_S,
            name="evalrouter-feedback-prune",
            failing="old feedback could not be deleted",
        )

    async def open(self) -> None:
        """Begin to delete feedback about requests that are too old to be stored."""
        self._rounds.open()

    async def close(self) -> None:
        """Stop."""
        await self._rounds.close()

    async def add(
        self, drafts: Sequence[FeedbackDraft], giver: Giver, *, waits: bool = True
    ) -> list[StoredFeedback]:
        """Store feedback, all or none; what is stored already is returned as it is.

        Args:
            drafts: the feedback.
            giver: who gives it.
            waits: whether it waits for records that may still come.

        Raises:
            RequestError: a value or a name cannot be stored.
            ModelNotFoundError: a conversation was sent along whose model does not exist.
            NotFoundError: what it is about is not there, or is another key's.
            ConflictError: an idempotency key was used for other feedback.
            RateLimitError: too much of it waits for records that are not there.
        """
        for draft in drafts:
            check(draft)
        pauses = self._pauses if waits else self._pauses[:1]
        rows = await self._rows(drafts, giver, pauses)
        return await self._keep(await asyncio.to_thread(_entries, drafts, rows))

    async def rehearse(self, draft: FeedbackDraft, giver: Giver) -> str:
        """Raise what `add` would raise of a draft, store nothing, and return an id of no row."""
        check(draft)
        [row] = await self._rows([draft], giver, self._pauses)
        return row.id

    async def record_id(self, name: str, giver: Giver) -> str:
        """Return the id of a request's record by what its client calls it; `name` without one."""
        facts = await self._facts(About("request", name), giver)
        return name if facts is None else str(facts["record_id"])

    async def change(
        self,
        feedback_id: str,
        giver: Giver,
        *,
        value: float | None = None,
        weight: float | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> FeedbackRow:
        """Store feedback that supersedes some; what is None stays as it was last.

        Raises:
            NotFoundError: it does not exist, or another key gave it.
            RequestError: something cannot be stored, or the feedback is no number.
        """
        old = await self._last(await self._store.one_feedback(feedback_id, key_id=giver.only))
        if old.kind != "number":
            raise RequestError(
                f"The value of {feedback_id} is no number; send new feedback in its place.",
                code="invalid_value",
            )
        number = float(old.score or 0.0) if value is None else value
        draft = FeedbackDraft(
            name=old.name,
            value=number,
            kind="number",
            about=(),
            comment=old.comment,
            metadata=old.metadata if metadata is None else metadata,
            weight=old.weight if weight is None else weight,
            source=old.source,
        )
        check(draft)
        now = self._clock()
        row = msgspec.structs.replace(
            old,
            number=0,
            id=_new_id(now),
            at=now,
            value=number,
            score=number,
            weight=draft.weight,
            metadata=draft.metadata,
            sent_along=False,
            messages=None,
            answer=None,
        )
        [stored] = await self._keep([await asyncio.to_thread(_entry, draft, row)])
        return stored.row

    async def _last(self, row: FeedbackRow) -> FeedbackRow:
        """Return what has superseded feedback, by the same key; itself where nothing has."""
        if not row.superseded:
            return row
        same = FeedbackFilter(
            key_id=row.key_id,
            user=row.user,
            name=row.name,
            record_id=row.record_id or None,
            conversation=row.conversation or None,
        )
        newer = await self._store.feedback(same, limit=_NEWER)
        return next((each for each in newer if each.subject == row.subject), row)

    async def _keep(self, entries: Sequence[NewFeedback]) -> list[StoredFeedback]:
        stored = await self._store.add_feedback(entries)
        for result in stored:
            if result.is_new:
                self.counts[self._labels(result.row)] += 1
                if self._traces is not None and result.row.record_id:
                    await self._trace(self._traces, result.row)
        return stored

    async def _trace(self, traces: SpanSink, row: FeedbackRow) -> None:
        """Send feedback to the trace of its request, where that is recorded in one."""
        request = await self._newest(TrafficFilter(id=row.record_id))
        if request is None or not request.trace_id:
            return
        about = Trace(int(request.trace_id, 16), span_id_of(row.record_id))
        label = ""
        if row.kind == "bool":
            label = "true" if row.value else "false"
        elif row.kind == "text":
            label = str(row.value) if traces.shows_content else ""
        evaluation = EvaluationResult(
            row.name,
            row.score,
            label,
            explanation=row.comment if traces.shows_content else "",
            annotator="HUMAN",
            # What one author says later takes the place of what they said before.
            identifier=sha256(row.author.encode()).hexdigest()[:16],
        )
        attributes = {"evalrouter.record": row.record_id, "evalrouter.feedback": row.id}
        traces.evaluate(f"feedback {row.name}", about, [evaluation], row.at, attributes)

    # finding what it is about

    async def _rows(
        self, drafts: Sequence[FeedbackDraft], giver: Giver, pauses: Sequence[float]
    ) -> list[FeedbackRow]:
        """Return the rows to store, with what they are about."""
        rows: dict[int, FeedbackRow] = {}
        waits = False
        try:
            for pause in pauses:
                if pause:
                    if not waits and self._waiting >= WAITING:
                        raise RateLimitError(
                            "Too much feedback waits for records of requests. Send it again.",
                            retry_after=WAIT_S,
                        )
                    self._waiting += not waits
                    waits = True
                    await asyncio.sleep(pause)
                for n, draft in enumerate(drafts):
                    if n not in rows:
                        row = await self._row(draft, giver)
                        if row is not None:
                            rows[n] = row
                missing = [draft for n, draft in enumerate(drafts) if n not in rows]
                if not any(self._may_come(draft) for draft in missing):
                    break
        finally:
            self._waiting -= waits
        if missing:
            raise _unknown(missing[0])
        return [rows[n] for n in range(len(drafts))]

    async def _row(self, draft: FeedbackDraft, giver: Giver) -> FeedbackRow | None:
        now = self._clock()
        feedback_id = _new_id(now)
        given: dict[str, Any] = {
            "id": feedback_id,
            "at": now,
            "key_id": giver.key_id,
            "user": stored_name(draft.user),
            "name": draft.name,
            "kind": draft.kind,
            "value": draft.value,
            "score": float(draft.value) if isinstance(draft.value, bool | int | float) else None,
            "weight": draft.weight,
            "comment": draft.comment,
            "metadata": draft.metadata,
            "source": draft.source,
            "sent_along": draft.sent is not None,
        }
        if not draft.about:
            assert draft.sent is not None, "feedback is about something"
            self._table().first_targets(draft.sent.model)
            return FeedbackRow(
                **given,
                subject=text_subject(feedback_id),
                request_key=giver.key_id,
                request_user=stored_name(draft.user),
                route=draft.sent.model,
                request_at=now,
            )
        for about in draft.about:
            facts = await self._facts(about, giver)
            if facts is not None:
                return FeedbackRow(**given, **facts)
        return None

    async def _facts(self, about: About, giver: Giver) -> dict[str, Any] | None:
        """Return what is stored of the request or the conversation; None where it is not found."""
        if about.kind == "conversation":
            name = stored_name(about.name)
            row = await self._newest(TrafficFilter(conversation=name, key_id=giver.key_id))
            if row is None:
                return None
            subject = conversation_subject(row.key_id, row.conversation)
            return {"subject": subject, "conversation": row.conversation, **_request_facts(row)}
        # Ours first, so that an id which a client chooses cannot hide another record.
        for matching in (
            TrafficFilter(id=about.name, key_id=giver.only),
            TrafficFilter(request_id=about.name, key_id=giver.key_id),
            TrafficFilter(response_id=stored_name(about.name), key_id=giver.key_id),
        ):
            row = await self._newest(matching)
            if row is not None:
                return {
                    "subject": request_subject(row.id),
                    "record_id": row.id,
                    "conversation": row.conversation,
                    "x_request_id": row.request_id,
                    "response_id": row.response_id,
                    **_request_facts(row),
                }
        return None

    async def _newest(self, matching: TrafficFilter) -> TrafficRow | None:
        # A page, because bodies are not needed.
        rows = await self._recorded.page(matching, limit=1)
        return rows[0] if rows else None

    def _may_come(self, draft: FeedbackDraft) -> bool:
        """Return whether the record may be written yet: not where its id tells that it is old."""
        return not all(
            about.kind == "request" and self._clock() - _begun_at(about.name) > YOUNG_S
            for about in draft.about
        )

    # counting

    def _labels(self, row: FeedbackRow) -> tuple[str, str, str]:
        """Return the labels that feedback is counted under: route, name and value."""
        if len(self._names) < MAX_LABELS:
            self._names.add(row.name)
        route = row.route if row.route in self._table().routes else OTHER
        name = row.name if row.name in self._names else OTHER
        return route, name, str(row.value).lower() if row.kind == "bool" else row.kind

    # deleting

    async def delete(self, matching: TrafficFilter, *, at_most: int | None = None) -> Deletion:
        """Delete the feedback about requests that match, and what the filter's user gave."""
        forget = partial(self._store.forget_feedback, matching)
        return await delete_rows(forget, at_most=at_most, at_once=PRUNE_AT_ONCE)

    async def _prune(self) -> None:
        for old in self._outdated():
            await self.delete(old)


def _request_facts(row: TrafficRow) -> dict[str, Any]:
    return {
        "request_key": row.key_id,
        "request_user": row.user,
        "route": row.route,
        "target": row.target,
        "traffic_class": row.traffic_class,
        "status": row.status,
        "rollout": row.rollout,
        "arm": row.arm,
        "request_at": row.at,
    }


def _begun_at(record_id: str) -> float:
    """Return when a record was begun, as its id says; infinity for another kind of id."""
    if not record_id.startswith("req_") or len(record_id) != len("req_") + 32:
        return math.inf
    try:
        return int(record_id[4:20], 16) / 1e9
    except ValueError:
        return math.inf


def _unknown(draft: FeedbackDraft) -> NotFoundError:
    names = " or ".join(f"{about.kind} {about.name!r}" for about in draft.about)
    return NotFoundError(
        f"There is no {names} of this key. A request is found by its x-evalrouter-record, its "
        "x-request-id or its response's id, a moment after its answer's end and as long as its "
        "record is stored. Where a route stores none (record: none), send the conversation itself "
        "(messages, answer, model, and consent: true) in place of an id.",
        param=draft.param,
    )


def _new_id(now: float) -> str:
    """Return a UUID of version 7, as some of the clients require."""
    number = int(now * 1000) << 80 | 7 << 76 | getrandbits(12) << 64 | 2 << 62 | getrandbits(62)
    return str(uuid.UUID(int=number))


def _entries(drafts: Sequence[FeedbackDraft], rows: Sequence[FeedbackRow]) -> list[NewFeedback]:
    """Return what to store, without secrets; on a thread, because texts may be long."""
    return [_entry(draft, row) for draft, row in zip(drafts, rows, strict=True)]


def _entry(draft: FeedbackDraft, row: FeedbackRow) -> NewFeedback:
    sent = draft.sent
    texts = {
        "comment": row.comment,
        "value": row.value,
        "metadata": row.metadata,
        "messages": None if sent is None else sent.messages,
        "answer": None if sent is None else sent.answer,
    }
    cleaned = msgspec.json.decode(redact(msgspec.json.encode(texts)))
    content = [
        draft.about,
        draft.name,
        draft.kind,
        draft.user,
        draft.weight,
        texts,
        sent and sent.model,
    ]
    return NewFeedback(
        msgspec.structs.replace(row, **{**cleaned, "value": _value(cleaned["value"], draft.kind)}),
        draft.idempotency_key,
        sha256(msgspec.json.encode(content)).hexdigest(),
        draft.replaces,
    )


def _value(value: Any, kind: FeedbackKind) -> Any:
    return float(value) if kind == "number" else value


def check(draft: FeedbackDraft) -> None:
    """Refuse what cannot be stored.

    Raises:
        RequestError: with the field that is at fault.
    """
    if not draft.name:
        raise RequestError("name must not be empty.", param="name", code="invalid_value")
    check_name(draft.name, "name")
    for about in draft.about:
        if not about.name:
            raise _refusal(draft.param, "must not be empty")
        check_name(about.name, draft.param, max_bytes=MAX_USER_BYTES)
    if draft.idempotency_key:
        check_name(draft.idempotency_key, "idempotency_key")
    if draft.user:
        check_name(draft.user, "user", max_bytes=MAX_USER_BYTES)
    if isinstance(draft.value, float | int) and not abs(draft.value) <= MAX_VALUE:
        raise _refusal("value", f"is a number from -{MAX_VALUE:g} to {MAX_VALUE:g}")
    if isinstance(draft.value, str) and not draft.value.strip():
        raise _refusal("value", "must not be empty")
    if not 0 <= draft.weight <= 1:
        raise _refusal("weight", "is a number from 0 to 1")
    longest = MAX_CONVERSATION_BYTES if draft.kind == "correction" else MAX_TEXT_BYTES
    _bound("value", draft.value, longest)
    _bound("comment", draft.comment, MAX_TEXT_BYTES)
    _bound("metadata", draft.metadata, MAX_TEXT_BYTES)
    if draft.sent is not None:
        if not draft.sent.messages:
            raise _refusal("messages", "must not be empty")
        for message in draft.sent.messages:
            if not isinstance(message.get("role"), str):
                raise _refusal("messages", "are OpenAI's, each with a role and its content")
        _bound("messages", [draft.sent.messages, draft.sent.answer], MAX_CONVERSATION_BYTES)


def _bound(param: str, value: Any, max_bytes: int) -> None:
    try:
        size = len(msgspec.json.encode(value))
    except RecursionError:
        raise _refusal(param, "is nested too deep") from None
    if size > max_bytes:
        raise RequestError(
            f"{param} has {size:,} bytes of JSON, of at most {max_bytes:,}.",
            param=param,
            code="string_above_max_length",
        )


def _refusal(param: str, message: str) -> RequestError:
    return RequestError(f"{param} {message}.", param=param, code="invalid_value")
