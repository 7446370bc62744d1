"""`/playground`: one conversation sent to several routes, and what can be made of the answers.

The page's script sends it to `/v1/chat/completions` like every client. An answer becomes HTML here,
a conversation becomes a row of a dataset, and answers that are there are scored by a run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, post
from litestar.params import FromQuery

from evaluators.base import PRECOMPUTED
from evaluators.judge.rubrics import STOCK
from providers.errors import RequestError
from providers.names import check_name
from providers.off_loop import off_loop
from router.api.access import InjectedCaller
from router.api.bodies import body_as
from router.api.evals import created_run
from router.api.injection import Injected
from router.api.markdown import RenderedMarkdown, render_markdown
from router.api.models import names_of
from router.api.page_layout import page, rendered
from router.config.documents import Document
from router.loop.dataset_rows import add_rows, lines_of
from router.store.datasets import DatasetPage, DatasetRow

MAX_COLUMNS = 8
# The dataset of answers that were judged.
JUDGED = "playground-answers"
_LISTED = 500
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
_FORMATS = (("", "text"), ("json_object", "JSON"), ("json_schema", "JSON of a schema"))

Text = Annotated[str, msgspec.Meta(min_length=1)]


class PlaygroundMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message of the conversation, as it is sent.

    Attributes:
        role: whose it is.
        content: a text, or a list of texts and pictures.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[dict[str, Any]]


Conversation = Annotated[tuple[PlaygroundMessage, ...], msgspec.Meta(min_length=1, max_length=1000)]


class MarkdownText(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An answer that is to be shown as Markdown.

    Attributes:
        text: the answer.
        pictures: whether to show the pictures that it contains.
    """

    text: str
    pictures: bool = False


class SampleAddition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A conversation that becomes a row of a dataset.

    Attributes:
        dataset: the dataset's name.
        messages: the conversation.
        reference: an answer that is right; None for a row without one.
    """

    dataset: str
    messages: Conversation
    reference: Text | None = None


class JudgedAnswers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answers that a judge is to score.

    Attributes:
        messages: the conversation that they answer.
        answers: the answers, in the order of the page.
        judge: a route or a model.
        rubric: one that ships.
    """

    messages: Conversation
    answers: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1, max_length=MAX_COLUMNS)]
    judge: str
    rubric: str


class JudgedRun(msgspec.Struct, frozen=True):
    """The run that scores the answers; its samples are numbered from 1 in their order."""

    run: str


@page("/playground")
async def playground(  # noqa: PLR0917 - Litestar passes query parameters by name
    services: Injected,
    caller: InjectedCaller,
    route: FromQuery[list[str] | None] = None,
    prompt: FromQuery[str] = "",
    temperature: FromQuery[str] = "",
    top_p: FromQuery[str] = "",
    max_tokens: FromQuery[str] = "",
    seed: FromQuery[str] = "",
    stop: FromQuery[str] = "",
    reasoning_effort: FromQuery[str] = "",
    response_format: FromQuery[str] = "",
) -> Response[str]:
    """Show the form, as the address says."""
    names = names_of(services, caller)[:_LISTED]
    routes = names[:2] if route is None else route[:MAX_COLUMNS]
    may_keep = caller.reach_of("POST /datasets") == "all"
    datasets = await services.store.dataset_page(DatasetPage(limit=_LISTED)) if may_keep else []
    parameters = {
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "seed": seed,
        "stop": stop,
        "reasoning_effort": reasoning_effort,
        "response_format": response_format,
    }
    return await rendered(
        "playground.html",
        caller,
        title="Playground",
        current="/playground",
        names=names,
        routes=routes or [""],
        prompt=prompt,
        **parameters,
        is_changed=any(parameters.values()),
        efforts=_EFFORTS,
        formats=_FORMATS,
        rubrics=STOCK,
        datasets=list(dict.fromkeys(row.name for row in datasets)),
        max_bytes=services.config.server.max_body_bytes,
        max_columns=MAX_COLUMNS,
        may_send=caller.reach_of("POST /v1/chat/completions") != "no",
        may_keep=may_keep,
    )


@post("/pages/playground/markdown", include_in_schema=False, status_code=200)
async def answer_as_markdown(request: Request[Any, Any, Any]) -> RenderedMarkdown:
    """Return an answer as HTML."""
    given = await body_as(request, MarkdownText)
    return await asyncio.to_thread(render_markdown, given.text, pictures=given.pictures)


@post("/pages/playground/sample", include_in_schema=False)
async def keep_sample(
    services: Injected, caller: InjectedCaller, request: Request[Any, Any, Any]
) -> DatasetRow:
    """Add the conversation to a dataset, with an answer as its reference."""
    given = await body_as(request, SampleAddition)
    row = _prompt_of(given.messages)
    if given.reference is not None:
        row["reference"] = given.reference
    version = await add_rows(
        services.store,
        services.datasets,
        given.dataset,
        [row],
        source="the playground",
        provenance={"added_by": caller.actor},
    )
    return msgspec.structs.replace(version, statistics=())


@post("/pages/playground/judge", include_in_schema=False, status_code=202)
async def judge_answers(
    services: Injected, caller: InjectedCaller, request: Request[Any, Any, Any]
) -> JudgedRun:
    """Begin a run that scores answers which are there."""
    given = await body_as(request, JudgedAnswers)
    check_name(given.judge, "judge")
    if given.rubric not in STOCK:
        raise RequestError(f"rubric is one of {', '.join(STOCK)}.", param="rubric")
    prompt = _prompt_of(given.messages)
    rows = [
        {"id": str(number), **prompt, "answer": answer}
        for number, answer in enumerate(given.answers, 1)
    ]
    content = await off_loop(sum(map(len, given.answers)), lines_of, rows)

    async def chunks() -> AsyncIterator[bytes]:
        yield content

    version = await services.datasets.upload(chunks(), filename=f"{JUDGED}.jsonl", name=JUDGED)
    written = {
        "name": "answers of the playground",
        "dataset": f"{version.name}@{version.hash}",
        "routes": [PRECOMPUTED],
        "metrics": [{"name": "prometheus", "judge": given.judge, "rubric": given.rubric}],
    }
    run = await created_run(services, Document.of(written), key_id=caller.key_id)
    return JudgedRun(run.id)


def _prompt_of(messages: Conversation) -> dict[str, Any]:
    """Return the columns of a conversation: `input` for a single text, else `messages`."""
    [first, *others] = messages
    if not others and first.role == "user" and isinstance(first.content, str):
        return {"input": first.content}
    return {"messages": [msgspec.structs.asdict(message) for message in messages]}
