"""The pages of the review queue: its rows, and one row to accept, edit or reject by keyboard.

Of two reviewers who decide about a row at once, one wins; the other sees the row as it is now, who
changed it, and what they have typed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args
from urllib.parse import quote_plus, urlencode

import msgspec
from litestar import Request, Response
from litestar.params import FromPath, FromQuery, QueryParameter

from providers.errors import ConflictError, EvalrouterError, RequestError
from router.api.access import Caller, InjectedCaller
from router.api.datasets_page import version_path
from router.api.excerpts import (
    Excerpt,
    Mark,
    ShownMessages,
    excerpt,
    form_text,
    shown_messages,
)
from router.api.form_numbers import number_from_digits
from router.api.injection import Injected
from router.api.page_layout import (
    action,
    as_json,
    done,
    done_or_shown,
    form_again,
    page,
    rendered,
    text_response,
    utc,
)
from router.api.page_tables import Export, TableColumn, TableView, row_number, table_response
from router.api.paging import MAX_OFFSET
from router.api.review import Publication, Rejection
from router.api.sign_in import read_fields
from router.config.documents import convert_data
from router.loop.recorded_conversations import text_of
from router.loop.review import ReviewEdit
from router.services import Services
from router.store.review import ReviewFilter, ReviewOrigin, ReviewRow, ReviewState

# Characters of a prompt in the list, and rows of findings on the page of a row.
_PROMPT = 160
_FINDINGS = 200
# Bytes of the texts that one form can change, as a form is sent; it may have 64 KiB.
_FORM_BYTES = 40_000
# Fields of one form.
_FORM_TEXTS = 60

AnyRequest = Request[Any, Any, Any]
State = Annotated[ReviewState | Literal["all"], QueryParameter(name="state")]


class ReviewQuery(NamedTuple):
    """Which rows a page shows, as its address says it; "" for what it does not say.

    Attributes:
        state: what was decided; `all` for all rows.
        dataset, origin, route: as in ReviewFilter.
    """

    state: str = "waiting"
    dataset: str = ""
    origin: str = ""
    route: str = ""

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> ReviewQuery:
        """Return the query that a form of the page brings back; what it cannot mean is left out."""
        state, origin = fields.get("state", ""), fields.get("origin", "")
        return cls(
            state if state in {*get_args(ReviewState), "all"} else "waiting",
            fields.get("dataset_is", ""),
            origin if origin in get_args(ReviewOrigin) else "",
            fields.get("route", ""),
        )

    @property
    def matching(self) -> ReviewFilter:
        """What selects the rows."""
        fields = {
            "state": "" if self.state == "all" else self.state,
            "dataset": self.dataset,
            "origin": self.origin,
            "route": self.route,
        }
        return msgspec.convert(
            {name: value for name, value in fields.items() if value}, ReviewFilter
        )

    @property
    def address(self) -> str:
        """The end of addresses that keep it; "" for the rows that wait."""
        given = {name: value for name, value in self._asdict().items() if value}
        if given == {"state": "waiting"}:
            return ""
        return f"?{urlencode(given)}"


_COLUMNS = (
    TableColumn("at", "Came (UTC)", sorts=True),
    TableColumn("prompt", "Last message of the user"),
    TableColumn("findings", "Findings"),
    TableColumn("dataset", "Dataset"),
    TableColumn("origin", "From"),
    TableColumn("route", "Route"),
    TableColumn("state", "State"),
)
_EXPORTED_COLUMNS = (
    *_COLUMNS,
    TableColumn("id", "id"),
    TableColumn("answer", "answer"),
    TableColumn("reference", "reference"),
    TableColumn("decided_by", "decided_by"),
    TableColumn("reason", "reason"),
)


@page("/pages/review")
async def review_list(
    *,
    services: Injected,
    caller: InjectedCaller,
    shown_state: State = "waiting",
    dataset: FromQuery[str] = "",
    origin: FromQuery[Literal["", ReviewOrigin]] = "",
    route: FromQuery[str] = "",
    sort: FromQuery[str] = "at",
    after: FromQuery[str] = "",
    export: FromQuery[Export] = "",
) -> Response[Any]:
    """Show rows, oldest first; `after` is the number of the last row of the page before."""
    query = ReviewQuery(shown_state, dataset, origin, route)
    return await _list(services, caller, query, sort=sort, after=after, export=export)


async def _list(
    services: Services,
    caller: Caller,
    query: ReviewQuery,
    *,
    sort: str = "at",
    after: str = "",
    export: Export = "",
    error: EvalrouterError | None = None,
    typed: str | None = None,
) -> Response[Any]:
    view = TableView(
        "/review",
        _EXPORTED_COLUMNS if export else _COLUMNS,
        sort=sort,
        filters=query._asdict() | {"state": "" if query.state == "waiting" else query.state},
        after=after,
        export=export,
    )
    store, config = services.store, services.config.review
    number = row_number(after) if after else None
    limit = view.size + 1
    if view.descending:
        before = MAX_OFFSET if number is None else number
        rows = (await store.review_rows(query.matching, limit=limit, before=before))[::-1]
    else:
        rows = await store.review_rows(query.matching, limit=limit, after=number or 0)
    on_page = view.page(rows, lambda row: str(row.number))
    if view.is_export:
        return await table_response("review", caller, view, map(_exported_cells, on_page))
    # They are reviewed one by one from the oldest on.
    oldest = await store.review_rows(query.matching, limit=1) if view.descending else on_page
    to_publish = query.dataset or config.dataset
    return await table_response(
        "review",
        caller,
        view,
        map(_cells, on_page),
        query=query,
        first=oldest[0].id if oldest else "",
        states=(*get_args(ReviewState), "all"),
        origins=get_args(ReviewOrigin),
        counts=await _counts(services, query),
        to_publish=to_publish if typed is None else typed,
        unpublished=await store.count_review_rows(
            ReviewFilter(state="accepted", dataset=to_publish, published=False)
        ),
        error="" if error is None else error.message,
        may_change=caller.reach_of("POST /review") != "no",
        expire_days=config.expire_days,
    )


async def _counts(services: Services, query: ReviewQuery) -> dict[str, int]:
    """Return how many rows of the query's dataset, origin and route have each state."""
    return {
        state: await services.store.count_review_rows(query._replace(state=state).matching)
        for state in get_args(ReviewState)
    }


def _cells(row: ReviewRow) -> dict[str, Any]:
    kinds = Counter(str(finding.get("kind", "")) for finding in row.findings)
    prompts = [text_of(each) for each in row.content.messages if each.get("role") == "user"]
    prompt = excerpt(prompts[-1] if prompts else "", limit=_PROMPT)
    return {
        "id": row.id,
        "at": utc(row.at),
        "prompt": "".join(piece.text for piece in prompt.pieces) + ("…" if prompt.is_cut else ""),
        "findings": ", ".join(f"{kind} {n}" if n > 1 else kind for kind, n in kinds.items()),
        "dataset": row.dataset,
        "origin": row.origin,
        "route": row.source.route,
        "state": "published" if row.published else row.state,
        "decided_by": row.decided_by,
    }


def _exported_cells(row: ReviewRow) -> dict[str, Any]:
    content = row.content
    return _cells(row) | {
        "answer": content.answer or "",
        "reference": content.reference or "",
        "reason": row.reason,
    }


# One row


class EditableText(NamedTuple):
    """A text of a row that the form can change; `name` is its place."""

    name: str
    title: str
    text: str


class ShownRow(NamedTuple):
    """A row as its page shows it.

    Attributes:
        messages: the conversation, with marks.
        answer, reference: with marks; None without one.
        metadata: as JSON; None without any.
        texts: those that the form can change.
        left_out: how many others there are, which are too long or no plain texts.
    """

    messages: ShownMessages
    answer: Excerpt | None
    reference: Excerpt | None
    metadata: Excerpt | None
    texts: tuple[EditableText, ...]
    left_out: int


@page("/pages/review/{row_id:str}")
async def review_page(
    *,
    services: Injected,
    caller: InjectedCaller,
    row_id: FromPath[str],
    shown_state: State = "waiting",
    dataset: FromQuery[str] = "",
    origin: FromQuery[Literal["", ReviewOrigin]] = "",
    route: FromQuery[str] = "",
) -> Response[Any]:
    """Show a row, what its checks noticed, and what can be decided about it."""
    query = ReviewQuery(shown_state, dataset, origin, route)
    return await _page(services, caller, query, await services.store.review_row(row_id))


async def _page(
    services: Services,
    caller: Caller,
    query: ReviewQuery,
    row: ReviewRow,
    *,
    error: EvalrouterError | None = None,
    typed: Mapping[str, str] | None = None,
) -> Response[str]:
    store, matching = services.store, query.matching
    following = await store.review_rows(matching, limit=1, after=row.number)
    preceding = await store.review_rows(matching, limit=1, before=row.number)
    return await rendered(
        "review_row.html",
        caller,
        title="Review",
        current="/review",
        row=row,
        shown=shown_row(row),
        query=query,
        next=following[0].id if following else "",
        previous=preceding[0].id if preceding else "",
        waiting=await store.count_review_rows(query._replace(state="waiting").matching),
        error="" if error is None else error.message,
        is_conflict=isinstance(error, ConflictError),
        typed=typed or {},
        may_change=caller.reach_of("POST /review/{row_id}/accept") != "no",
        max_findings=_FINDINGS,
    )


def shown_row(row: ReviewRow) -> ShownRow:
    """Return a row as its page shows it."""
    marks: dict[str, list[Mark]] = {}
    for finding in row.findings:
        start, end = finding.get("start"), finding.get("end")
        if isinstance(start, int) and isinstance(end, int):
            name = f"{finding.get('kind', '')}: {finding.get('action', '')}"
            marks.setdefault(str(finding.get("place", "")), []).append(Mark(start, end, name))
    content = row.content
    texts, left_out = editable_texts(row)
    return ShownRow(
        messages=shown_messages(content.messages, marks),
        answer=None if content.answer is None else excerpt(content.answer, marks.get("answer", ())),
        reference=None
        if content.reference is None
        else excerpt(content.reference, marks.get("reference", ())),
        metadata=excerpt(as_json(content.metadata, 2)) if content.metadata else None,
        texts=tuple(texts),
        left_out=left_out,
    )


def editable_texts(row: ReviewRow) -> tuple[list[EditableText], int]:
    """Return the texts of a row that one form can bring back, and how many there are besides."""
    content = row.content
    all_texts = [
        EditableText("answer", "Answer", content.answer or ""),
        EditableText(
            "reference", "Reference: what should have been answered", content.reference or ""
        ),
        *(
            EditableText(
                f"messages[{number}].content", f"Message {number + 1}, {each['role']}", text
            )
            for number, each in enumerate(content.messages)
            if isinstance(text := each.get("content"), str)
        ),
    ]
    texts: list[EditableText] = []
    room = _FORM_BYTES
    for each in all_texts:
        size = len(quote_plus(each.text, errors="replace"))
        if size <= room and len(texts) < _FORM_TEXTS:
            texts.append(each)
            room -= size
    others = sum(1 for each in content.messages if not isinstance(each.get("content"), str))
    return texts, len(all_texts) - len(texts) + others


def edit_of(row: ReviewRow, fields: Mapping[str, str]) -> ReviewEdit:
    """Return what the form changes of a row: the texts that are not as they were.

    Raises:
        RequestError: the form has no version of the row, or names no dataset.
    """
    changes: dict[str, Any] = {"version": version_of(fields)}
    messages: list[dict[str, Any]] = list(row.content.messages)
    for each in editable_texts(row)[0]:
        text = fields.get(each.name)
        if text is None or text == form_text(each.text):
            continue
        if each.name in {"answer", "reference"}:
            changes[each.name] = text or None
        else:
            number = int(each.name.removeprefix("messages[").removesuffix("].content"))
            messages[number] = messages[number] | {"content": text}
            changes["messages"] = messages
    dataset = fields.get("dataset", row.dataset).strip()
    if dataset != row.dataset:
        changes["dataset"] = dataset
    return convert_data(changes, ReviewEdit, error=RequestError)


def version_of(fields: Mapping[str, str]) -> int:
    """Return the version of the row that a form was made of. Raises RequestError."""
    version = number_from_digits(fields.get("version", ""), max_digits=9)
    if version is None:
        raise RequestError("The form does not say which version of the row it is of.")
    return version


@page("/pages/review/{row_id:str}/content")
async def review_content(services: Injected, row_id: FromPath[str]) -> Response[bytes]:
    """Send all texts of a row as a text."""
    row = await services.store.review_row(row_id)
    return text_response(as_json(row.content, 2))


@action("/pages/review/{row_id:str}/{decision:str}")
async def decide(
    services: Injected,
    caller: InjectedCaller,
    request: AnyRequest,
    row_id: FromPath[str],
    decision: FromPath[Literal["accept", "edit", "reject", "undo"]],
) -> Response[Any]:
    """Accept, edit or reject a row, or undo that; then lead on to the next one."""
    fields = await read_fields(request)
    query = ReviewQuery.of(fields)
    row = await services.store.review_row(row_id)
    review, actor = services.review, caller.actor
    try:
        if decision == "accept" or fields.get("then") == "accept":
            decision = "accept"
            await review.accept(row_id, actor, edit_of(row, fields))
        elif decision == "reject":
            rejection = convert_data(
                {"reason": fields.get("reason", ""), "version": version_of(fields)},
                Rejection,
                error=RequestError,
            )
            await review.reject(row_id, actor, reason=rejection.reason, version=rejection.version)
        elif decision == "edit":
            await review.edit(row_id, edit_of(row, fields), actor)
        else:
            await review.undo(row_id, actor)
    except EvalrouterError as error:
        now = await services.store.review_row(row_id)
        again = await _page(services, caller, query, now, error=error, typed=fields)
        return form_again(again, error.status)
    if decision in {"edit", "undo"}:
        return done(f"/review/{row_id}{query.address}")
    following = await services.store.review_rows(query.matching, limit=1, after=row.number)
    if not following:
        following = await services.store.review_rows(query.matching, limit=1)
    where = f"/review/{following[0].id}" if following else "/review"
    return done(f"{where}{query.address}")


@action("/pages/review/publish")
async def publish(services: Injected, caller: InjectedCaller, request: AnyRequest) -> Response[Any]:
    """Make a version of a dataset of the rows that were accepted for it, and lead to it."""
    fields = await read_fields(request)
    name = fields.get("dataset", "").strip() or services.config.review.dataset

    async def change() -> str:
        publication = convert_data({"dataset": name}, Publication, error=RequestError)
        made = await services.review.publish(publication.dataset, caller.actor)
        return f"{version_path(made.dataset)}?published={made.published}"

    async def shown(error: EvalrouterError) -> Response[str]:
        return await _list(services, caller, ReviewQuery.of(fields), error=error, typed=name)

    return await done_or_shown(change(), shown)
