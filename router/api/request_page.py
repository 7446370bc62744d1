"""The page of one request: what was sent and answered, what happened to it, and its feedback.

From here it is given feedback, becomes a row of a dataset, is sent to other routes again, and is
deleted. Each of these does what the API does, with the same checks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec
from litestar import Request, Response
from litestar.params import FromPath, FromQuery

from evaluators.base import PRECOMPUTED
from providers.errors import ConflictError, EvalrouterError, NotFoundError, RequestError
from providers.translation.fold import fold_stream
from providers.wire import UNREADABLE
from router.api.access import Caller, InjectedCaller
from router.api.datasets import may_unmask, traffic_plan
from router.api.datasets_page import version_path
from router.api.evals import created_run
from router.api.excerpts import (
    Excerpt,
    ShownMessages,
    excerpt,
    shown_messages,
)
from router.api.feedback import delete_one, giver_of
from router.api.feedback_page import value_text
from router.api.injection import Injected
from router.api.page_layout import (
    action,
    as_json,
    done,
    done_or_shown,
    page,
    rendered,
    text_response,
)
from router.api.sign_in import read_fields
from router.api.traffic import ShownRequest, delete_named, shown_request
from router.api.traffic_page import is_fallback, tokens
from router.config.documents import Document, convert_data
from router.gateway.dialects import dialect_of
from router.loop.feedback_forms import GivenFeedback
from router.loop.traffic_dataset import TrafficDataset, TrafficSelection
from router.services import Services
from router.store.feedback import FeedbackKind
from router.web.plots.attempts import attempts_waterfall

# Names of the parameters of a request that are shown elsewhere.
_NOT_PARAMETERS = frozenset({"messages", "prompt", "input", "model"})
_MAX_PARAMETER = 2_000
_ROUTES_SHOWN = 50
_decode = msgspec.json.Decoder().decode

AnyRequest = Request[Any, Any, Any]


class RecordedTexts(NamedTuple):
    """What the stored bodies of a request say.

    Attributes:
        sent: the messages, or the prompt or input as one; None where the body is not stored.
        parameters: the request's other fields.
        answers: what was answered, one message for each choice; None where that is not stored.
        note: what else there is to know about the answer.
    """

    sent: ShownMessages | None
    parameters: tuple[tuple[str, Excerpt], ...]
    answers: ShownMessages | None
    note: str


class PageForms(NamedTuple):
    """What was typed into the forms of the page, and what was wrong with it.

    Attributes:
        failed: the form that was refused: `feedback`, `dataset` or `replay`; "" for none.
        error: why.
        typed: its fields.
    """

    failed: str = ""
    error: str = ""
    typed: Mapping[str, str] = {}


@page("/pages/traffic/{request_id:str}")
async def request_page(
    *,
    services: Injected,
    caller: InjectedCaller,
    request_id: FromPath[str],
    key: FromQuery[str | None] = None,
) -> Response[str]:
    """Show a request, which the path names as in `GET /traffic/{request_id}`."""
    row = await shown_request(services, caller, request_id, key)
    return await _page(services, caller, row, PageForms())


async def _page(
    services: Services, caller: Caller, row: ShownRequest, forms: PageForms
) -> Response[str]:
    exchange, plot = await asyncio.to_thread(_drawn, row)
    has_answer = dialect_of(row.path).is_conversation and row.status == 200 and row.bodies
    can_be_row = has_answer and row.traffic_class == "live"
    return await rendered(
        "request.html",
        caller,
        title="Request",
        current="/traffic",
        row=row,
        key_name=services.keys.name_of(row.key_id),
        exchange=exchange,
        absent=_absent(row),
        is_fallback=is_fallback(row),
        tokens=tokens(row),
        plot=plot,
        feedback=[(each, excerpt(value_text(each), limit=2000)) for each in row.feedback_rows],
        forms=forms,
        may_say=caller.reach_of("POST /feedback") != "no",
        may_copy=can_be_row and caller.reach_of("POST /datasets/from-traffic") != "no",
        may_review=caller.reach_of("POST /review") != "no",
        may_unmask=may_unmask(caller),
        may_replay=can_be_row and caller.reach_of("POST /eval") != "no",
        may_delete=caller.reach_of("DELETE /traffic/{request_id}") != "no",
        routes=[view.name for view in services.routes.view() if view.route][:_ROUTES_SHOWN],
        review_dataset=services.config.review.dataset,
    )


def _drawn(row: ShownRequest) -> tuple[RecordedTexts, Any]:
    plot = attempts_waterfall(row.attempts, first_byte_s=row.first_byte_s, total_s=row.total_s)
    return texts_of(row), plot


def texts_of(row: ShownRequest) -> RecordedTexts:
    """Return what the bodies of a request say; a body that cannot be read is shown as it is."""
    sent, parameters = _sent(row)
    answers, note = _answers(row)
    return RecordedTexts(sent, parameters, answers, note)


def _sent(row: ShownRequest) -> tuple[ShownMessages | None, tuple[tuple[str, Excerpt], ...]]:
    if row.request is None:
        return None, ()
    try:
        body = _decode(row.request)
    except UNREADABLE:
        body = None
    if not isinstance(body, dict):
        return _as_it_is("request", row.request), ()
    parameters = tuple(
        (name, excerpt(as_json(value, 2), limit=_MAX_PARAMETER))
        for name, value in body.items()
        if name not in _NOT_PARAMETERS
    )
    messages = body.get("messages")
    if isinstance(messages, list) and all(isinstance(each, dict) for each in messages):
        return shown_messages(messages), parameters
    for name in ("prompt", "input"):
        if name in body:
            value = body[name]
            text = value if isinstance(value, str) else as_json(value, 2)
            return _as_it_is(name, text), parameters
    return _as_it_is("request", row.request), parameters


def _answers(row: ShownRequest) -> tuple[ShownMessages | None, str]:
    if row.response is None:
        return None, ""
    note = ""
    try:
        if row.response.lstrip().startswith("{"):
            whole = _decode(row.response)
        else:
            whole, is_done = fold_stream(row.response.encode("utf-8", "replace"))
            note = "" if is_done else "The stream ended before its end was sent."
        messages = [_message(choice) for choice in whole["choices"]]
    except (*UNREADABLE, ValueError, KeyError, TypeError, AttributeError, EvalrouterError):
        return _as_it_is("answer", row.response), ""
    return (shown_messages(messages, place="choices"), note) if messages else (None, note)


def _message(choice: Any) -> Mapping[str, Any]:
    """Return the message of a choice of a chat, or of a text completion."""
    message = choice.get("message")
    if isinstance(message, dict):
        return {"role": "assistant", **message}
    return {"role": "assistant", "content": choice["text"]}


def _as_it_is(name: str, text: str) -> ShownMessages:
    return shown_messages([{"role": name, "content": text}])


def _absent(row: ShownRequest) -> str:
    """Return why bodies of the request are not there; "" where both are."""
    if row.request is not None and row.response is not None:
        return ""
    if row.bodies:
        missing = "request" if row.request is None else "answer"
        if row.request is None and row.response is None:
            missing = "request and the answer"
        return (
            f"The body of the {missing} is not stored: bodies over 1 MiB are left out, and a "
            "request that failed may have no answer."
        )
    if not row.stored:
        return "The texts are not stored, because the client sent \u201cstore\u201d: false."
    return (
        "The texts are not stored: what the config or the route says of record was not full when "
        "the request came, or record_sample left it out. What is below is stored of every request."
    )


@page("/pages/traffic/{request_id:str}/bodies/{name:str}")
async def request_body(
    services: Injected,
    caller: InjectedCaller,
    request_id: FromPath[str],
    name: FromPath[Literal["request", "response"]],
) -> Response[bytes]:
    """Send the whole stored body of a request or of its answer as a text."""
    row = await shown_request(services, caller, request_id, None)
    text = row.request if name == "request" else row.response
    if text is None:
        raise NotFoundError(f"The {name} of {request_id!r} is not stored.")
    return text_response(text)


# What a person does with it


@action("/pages/traffic/{request_id:str}/feedback")
async def say(
    services: Injected, caller: InjectedCaller, request: AnyRequest, request_id: FromPath[str]
) -> Response[Any]:
    """Store feedback about the request."""
    fields = await read_fields(request)
    row = await shown_request(services, caller, request_id, None)

    async def change() -> str:
        given = {
            "name": fields.get("name", "").strip(),
            "value": _value(fields.get("kind", ""), fields.get("value", "")),
            "request_id": row.id,
            "comment": fields.get("comment", ""),
        }
        draft = convert_data(given, GivenFeedback, error=RequestError).draft()
        await services.feedback.add([draft], giver_of(caller), waits=False)
        return f"/traffic/{row.id}"

    return await done_or_shown(change(), _shown(services, caller, row, "feedback", fields))


@action("/pages/traffic/{request_id:str}/feedback/{feedback_id:str}/delete")
async def take_back(
    services: Injected,
    caller: InjectedCaller,
    request_id: FromPath[str],
    feedback_id: FromPath[str],
) -> Response[Any]:
    """Delete feedback that the page shows."""
    row = await shown_request(services, caller, request_id, None)
    await delete_one(services, caller, feedback_id)
    return done(f"/traffic/{row.id}")


def _value(kind: str, text: str) -> Any:
    """Return a value as `POST /feedback` has it. Raises RequestError."""
    kinds: tuple[FeedbackKind, ...] = ("bool", "number", "text", "correction")
    if kind in {"yes", "no"}:
        return kind == "yes"
    if kind not in kinds[1:]:
        raise RequestError("Choose yes, no, a number, words or a correction.", param="kind")
    if not text.strip():
        raise RequestError("Say what the value is.", param="value")
    if kind == "number":
        try:
            return float(text)
        except ValueError:
            raise RequestError(f"{text[:100]!r} is not a number.", param="value") from None
    return {"correction": text} if kind == "correction" else text


@action("/pages/traffic/{request_id:str}/dataset")
async def copy_to_dataset(
    services: Injected, caller: InjectedCaller, request: AnyRequest, request_id: FromPath[str]
) -> Response[Any]:
    """Make the request a row of a dataset, or let it wait for a review first."""
    fields = await read_fields(request)
    row = await shown_request(services, caller, request_id, None)
    is_reviewed = fields.get("to") == "review"
    name = fields.get("dataset", "").strip()

    async def change() -> str:
        made = await _copied(
            services, caller, row, name=name, review=is_reviewed, mask="as_it_is" not in fields
        )
        return "/review" if made.dataset is None else version_path(made.dataset)

    return await done_or_shown(change(), _shown(services, caller, row, "dataset", fields))


@action("/pages/traffic/{request_id:str}/replay")
async def replay(
    services: Injected, caller: InjectedCaller, request: AnyRequest, request_id: FromPath[str]
) -> Response[Any]:
    """Send the request to other routes again, as a run beside the answer that the client got."""
    fields = await read_fields(request)
    row = await shown_request(services, caller, request_id, None)

    async def change() -> str:
        named = [
            *(name.removeprefix("route:") for name in fields if name.startswith("route:")),
            *(name.strip() for name in fields.get("others", "").split(",")),
        ]
        routes = list(dict.fromkeys(name for name in named if name))
        if not routes:
            raise RequestError("Choose at least one route.", param="routes")
        dataset = f"replay-{row.id.removeprefix('req_')[-16:]}"
        made = await _copied(services, caller, row, name=dataset, mask="masked" in fields)
        version = made.dataset
        assert version is not None, "without a review there is a version"
        document = {
            "dataset": f"{version.name}@{version.hash}",
            "name": f"Replay of {row.id}",
            "routes": [PRECOMPUTED, *routes],
            "metrics": ["length"],
        }
        run = await created_run(services, Document.of(document), key_id=caller.key_id)
        return f"/runs/{run.id}"

    return await done_or_shown(change(), _shown(services, caller, row, "replay", fields))


def _shown(
    services: Services,
    caller: Caller,
    row: ShownRequest,
    form: str,
    fields: Mapping[str, str],
) -> Callable[[EvalrouterError], Awaitable[Response[str]]]:
    """Return what shows the page with one of its forms, and what is wrong with that."""

    async def shown(error: EvalrouterError) -> Response[str]:
        return await _page(services, caller, row, PageForms(form, error.message, fields))

    return shown


async def _copied(
    services: Services,
    caller: Caller,
    row: ShownRequest,
    *,
    name: str,
    review: bool = False,
    mask: bool = True,
) -> TrafficDataset:
    """Make a dataset of the one request, or let it wait for a review.

    Raises:
        RequestError, ConflictError, PermissionDeniedError: it cannot be a row, or may not.
    """
    document = {
        "name": name,
        "route": row.route,
        # To the second, because the condition says which one it is.
        "since": row.at - 1.0,
        "until": row.at + 1.0,
        "where": f"id == '{row.id}'",
        "mask": mask,
        "review": review,
    }
    selection = convert_data(document, TrafficSelection, error=RequestError)
    plan = traffic_plan(selection, caller, now=time.time())
    made = await services.traffic_datasets.create(plan, only=caller.only, progress=lambda _: None)
    if not made.funnel.rows:
        why = ", ".join(each.description for each in made.funnel.dropped if each.count)
        raise ConflictError(f"The request does not become a row: {why}.")
    return made


@action("/pages/traffic/{request_id:str}/delete")
async def remove(
    services: Injected, caller: InjectedCaller, request_id: FromPath[str]
) -> Response[Any]:
    """Delete what is stored of the request."""
    await delete_named(services, caller, request_id, None)
    return done("/traffic")
