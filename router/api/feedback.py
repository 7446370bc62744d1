"""`/feedback`: what people and programs say of answers; also in the forms of other systems.

TensorZero's form has the path that ours has, and is told apart by `metric_name`. Portkey's and
Langfuse's have their own paths. All mean the same: see `router/loop/feedback_forms.py`.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, post, put
from litestar.params import FromPath, FromQuery, QueryParameter

from providers.errors import BodyTooLargeError, NotFoundError, RequestError
from providers.names import MAX_NAME_BYTES
from router.api.access import Caller, InjectedCaller
from router.api.bodies import decoded
from router.api.injection import Injected
from router.api.paging import MAX_OFFSET, PageSize
from router.api.traffic import own_key
from router.config.documents import Document, convert
from router.loop.feedback import MAX_CONVERSATION_BYTES, FeedbackDraft, Giver
from router.loop.feedback_forms import (
    GivenFeedback,
    LangfuseBatch,
    LangfuseScore,
    PortkeyChange,
    PortkeyFeedback,
    TensorZeroFeedback,
    portkey_value,
    score_of,
)
from router.loop.moments import period
from router.records import stored_name
from router.services import Services
from router.store.feedback import FeedbackFilter, FeedbackKind, FeedbackRow

AnyRequest = Request[Any, Any, Any]

# Longer ones are refused before they are read as JSON.
MAX_BODY_BYTES = 2 * MAX_CONVERSATION_BYTES
# Of one request in Portkey's form.
MAX_BATCH = 100


class FeedbackList(msgspec.Struct):
    """A page of feedback, newest first.

    Attributes:
        next: `before` of the next page; None when this is the last one.
    """

    data: list[FeedbackRow]
    next: int | None
    object: str = "list"


class DeletedFeedback(msgspec.Struct):
    """How many rows were deleted: the feedback, and what it had superseded."""

    deleted: int


class TensorZeroAnswer(msgspec.Struct):
    """The answer to feedback in TensorZero's form."""

    feedback_id: str


class PortkeyAnswer(msgspec.Struct):
    """The answer to feedback in Portkey's form, with the ids in the order of the request."""

    status: str
    message: str
    feedback_ids: list[str]


class LangfuseAnswer(msgspec.Struct):
    """The answer to a score in Langfuse's form."""

    id: str


class LangfuseSuccess(msgspec.Struct):
    """An event that was taken."""

    id: str
    status: int


class LangfuseError(msgspec.Struct):
    """An event that was not, and why."""

    id: str
    status: int
    message: str


class LangfuseBatchAnswer(msgspec.Struct):
    """What became of the events of a batch."""

    successes: list[LangfuseSuccess]
    errors: list[LangfuseError]


@post("/feedback", tags=["feedback"], summary="Give feedback")
async def give_feedback(
    services: Injected, caller: InjectedCaller, request: AnyRequest
) -> Response[FeedbackRow | TensorZeroAnswer]:
    """Store feedback about a request, a conversation, or a text that is sent along.

    The answer is the feedback: 201, or 200 where the same was sent before with its
    `idempotency-key`. A body with `metric_name` is TensorZero's, and gets its answer.
    """
    document = await _document(request)
    if not _is_tensorzero(document):
        draft = convert(document, GivenFeedback, error=RequestError).draft()
        [stored] = await services.feedback.add([_with_header(draft, request)], giver_of(caller))
        return Response(stored.row, status_code=201 if stored.is_new else 200)
    given = convert(document, TensorZeroFeedback, error=RequestError)
    draft = _with_header(given.draft(), request)
    if given.dryrun:
        feedback_id = await services.feedback.rehearse(draft, giver_of(caller))
    else:
        [stored] = await services.feedback.add([draft], giver_of(caller))
        feedback_id = stored.row.id
    return Response(TensorZeroAnswer(feedback_id), status_code=200)


def _is_tensorzero(document: Document) -> bool:
    """Return whether the body is in TensorZero's form.

    Raises:
        RequestError: it is in both forms, or in neither.
    """
    has = [
        isinstance(document.data, dict) and name in document.data
        for name in ("name", "metric_name")
    ]
    if all(has):
        raise RequestError(
            "name is of evalrouter's form and metric_name of TensorZero's: send one of them.",
            param="metric_name",
            code="invalid_value",
        )
    if not any(has):
        raise RequestError(
            "The body is an object with a name, or in TensorZero's form with a metric_name.",
            param="name",
            code="missing_required_parameter",
        )
    return has[1]


@get("/feedback", tags=["feedback"], summary="List feedback")
async def list_feedback(  # noqa: PLR0917 - Litestar passes query parameters by name
    services: Injected,
    caller: InjectedCaller,
    request_id: FromQuery[str | None] = None,
    conversation: FromQuery[str | None] = None,
    name: FromQuery[str | None] = None,
    kind: FromQuery[FeedbackKind | None] = None,
    user: FromQuery[str | None] = None,
    route: FromQuery[str | None] = None,
    rollout: FromQuery[str | None] = None,
    key: FromQuery[str | None] = None,
    since: FromQuery[str | None] = None,
    until: FromQuery[str | None] = None,
    history: Annotated[bool, QueryParameter()] = False,
    limit: PageSize = 50,
    before: Annotated[int | None, QueryParameter(ge=0, le=MAX_OFFSET)] = None,
) -> FeedbackList:
    """List feedback, newest first: of each author what they said last, or all with `history`.

    `request_id` names the request as in `POST /feedback`; `user` gave the feedback, with the key
    whose id is `key`; `since` and `until` are when.
    """
    first, last = period(since, until, time.time())
    record_id = None
    if request_id is not None:
        record_id = await services.feedback.record_id(request_id, giver_of(caller))
    matching = FeedbackFilter(
        key_id=own_key(caller, key),
        user=None if user is None else stored_name(user),
        name=name,
        kind=kind,
        record_id=record_id,
        conversation=None if conversation is None else stored_name(conversation),
        route=route,
        rollout=rollout,
        since=first,
        until=last,
        history=history,
    )
    rows = await services.store.feedback(matching, limit=limit + 1, before=before)
    page = rows[:limit]
    return FeedbackList(page, page[-1].number if len(rows) > limit else None)


@get("/feedback/{feedback_id:str}", tags=["feedback"], summary="Show feedback")
async def show_feedback(
    services: Injected, caller: InjectedCaller, feedback_id: FromPath[str]
) -> FeedbackRow:
    """Show feedback by its id, with the conversation that was sent along."""
    return await services.store.one_feedback(feedback_id, key_id=caller.only)


@delete(
    "/feedback/{feedback_id:str}", tags=["feedback"], summary="Delete feedback", status_code=200
)
async def delete_feedback(
    services: Injected, caller: InjectedCaller, feedback_id: FromPath[str]
) -> DeletedFeedback:
    """Delete feedback, and what it has superseded: its author has said nothing then.

    What a learned route has learned of it goes with it.
    """
    return await delete_one(services, caller, feedback_id)


async def delete_one(services: Services, caller: Caller, feedback_id: str) -> DeletedFeedback:
    """Delete feedback as `delete_feedback` does. Raises NotFoundError."""
    feedback = await services.store.one_feedback(feedback_id, key_id=caller.only)
    deleted = await services.store.delete_feedback(feedback_id, key_id=caller.only)
    if not deleted:
        raise NotFoundError(f"There is no feedback {feedback_id!r}.")
    await services.learned_routes.forget_feedback(feedback)
    return DeletedFeedback(deleted)


@post("/v1/feedback", tags=["feedback"], summary="Portkey's feedback", status_code=200)
async def give_portkey_feedback(
    services: Injected, caller: InjectedCaller, request: AnyRequest
) -> PortkeyAnswer:
    """Store feedback in Portkey's form, or a list of up to 100, all or none."""
    document = await _document(request)
    if isinstance(document.data, list):
        if not 0 < len(document.data) <= MAX_BATCH:
            raise RequestError(f"A list has 1 to {MAX_BATCH} items.", code="invalid_value")
        documents = [Document.of(item) for item in document.data]
    else:
        documents = [document]
    drafts = [convert(item, PortkeyFeedback, error=RequestError).draft() for item in documents]
    if len(drafts) == 1:
        drafts = [_with_header(drafts[0], request)]
    stored = await services.feedback.add(drafts, giver_of(caller))
    return _portkey_answer([result.row for result in stored])


@put("/v1/feedback/{feedback_id:str}", tags=["feedback"], summary="Change Portkey's feedback")
async def change_portkey_feedback(
    services: Injected, caller: InjectedCaller, request: AnyRequest, feedback_id: FromPath[str]
) -> PortkeyAnswer:
    """Store feedback in the place of some; the answer has its id, and both ids lead to it."""
    change = convert(await _document(request), PortkeyChange, error=RequestError)
    row = await services.feedback.change(
        feedback_id,
        giver_of(caller),
        value=None if change.value is None else portkey_value(change.value),
        weight=change.weight,
        metadata=change.metadata,
    )
    return _portkey_answer([row])


@post("/api/public/scores", tags=["feedback"], summary="Langfuse's scores", status_code=200)
async def give_langfuse_score(
    services: Injected, caller: InjectedCaller, request: AnyRequest
) -> LangfuseAnswer:
    """Store a score in Langfuse's form; one with the same `id` replaces it."""
    score = convert(await _document(request), LangfuseScore, error=RequestError)
    [stored] = await services.feedback.add([score.draft()], giver_of(caller))
    return LangfuseAnswer(score.id or stored.row.id)


@post("/api/public/ingestion", tags=["feedback"], summary="Langfuse's batches", status_code=207)
async def take_langfuse_batch(
    services: Injected, caller: InjectedCaller, request: AnyRequest
) -> LangfuseBatchAnswer:
    """Store the scores among up to 100 events, one after the other, as Langfuse's SDKs send them.

    An event that cannot be taken is among the `errors`, and keeps no other from being taken.
    """
    events = convert(await _document(request), LangfuseBatch, error=RequestError).batch
    if len(events) > MAX_BATCH:
        raise RequestError(
            f"A batch has at most {MAX_BATCH} events.", param="batch", code="invalid_value"
        )
    answer = LangfuseBatchAnswer([], [])
    waits = True
    for event in events:
        name = str(event.get("id", ""))[:MAX_NAME_BYTES]
        try:
            await services.feedback.add([score_of(event)], giver_of(caller), waits=waits)
        except RequestError as error:
            # What has not come meanwhile does not come for the next one either.
            waits = waits and not isinstance(error, NotFoundError)
            answer.errors.append(LangfuseError(name, error.status, error.message))
        else:
            answer.successes.append(LangfuseSuccess(name, 201))
    return answer


def giver_of(caller: Caller) -> Giver:
    """Return whose feedback a caller gives, lists or deletes."""
    return Giver(caller.key_id, caller.only)


async def _document(request: AnyRequest) -> Document:
    """Return the body as a document.

    Raises:
        BodyTooLargeError: it is longer than feedback can be.
        RequestError: it is not JSON.
    """
    body = await request.body()
    if len(body) > MAX_BODY_BYTES:
        raise BodyTooLargeError(f"Feedback has at most {MAX_BODY_BYTES:,} bytes.")
    return decoded(body)


def _with_header(draft: FeedbackDraft, request: AnyRequest) -> FeedbackDraft:
    """Return the draft with the header `idempotency-key`, if there is one.

    Raises:
        RequestError: the body has another one.
    """
    header = request.headers.get("idempotency-key")
    if header is None:
        return draft
    if draft.idempotency_key not in {"", header}:
        raise RequestError(
            "The header idempotency-key and the body's idempotency_key differ.",
            param="idempotency_key",
            code="invalid_value",
        )
    return msgspec.structs.replace(draft, idempotency_key=header)


def _portkey_answer(rows: list[FeedbackRow]) -> PortkeyAnswer:
    return PortkeyAnswer("success", "Feedback successfully saved", [row.id for row in rows])
