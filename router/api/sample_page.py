"""The page of one sample: what was sent, all answers side by side, and what scored them how.

Texts are cut, with a link to the whole. Next and previous follow the list that the address shows.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, urlencode

import msgspec
from litestar import Request, Response
from litestar.params import FromPath, FromQuery

from evaluators.base import Answer, Sample, Score
from evaluators.reports.cells import ABSENT
from evaluators.reports.scores import OutputInfo, three_digits
from evaluators.text.answers import SHORTFALLS
from providers.errors import ConflictError, EvalrouterError, NotFoundError, RequestError
from router.api.access import InjectedCaller
from router.api.form_numbers import number_from_digits
from router.api.injection import Injected
from router.api.page_layout import (
    action,
    done,
    duration,
    form_again,
    money,
    page,
    rendered,
    text_response,
)
from router.api.samples_page import (
    MAX_ROUTES,
    POSITION,
    SampleParameters,
    SampleView,
    SliceKey,
    query_of,
    sample_view,
    score_cell,
)
from router.api.sign_in import read_fields
from router.evals.judges.run_export import ExportedJudgement, judgements_of_run
from router.evals.requests import request_fields
from router.evals.sample_notes import MAX_LABEL, MAX_NOTE, note_problem
from router.records import Attempt
from router.services import Services
from router.store.people_labels import PeopleLabel
from router.store.results import ScoredAnswer
from router.store.sample_views import SampleNote, field_text
from router.web.plots.attempts import attempts_waterfall
from router.web.plots.figure import Plot
from router.web.word_diff import DiffPiece, word_diff

# Characters of a text that the page has.
MAX_TEXT = 6_000
# Of each of several texts, such as a conversation's messages.
MAX_PART = 2_000
MAX_PARTS = 20
# The share of two texts that they have in common, from which on differences are marked by default.
_ALIKE = 0.6
REFERENCE, NOTHING = "reference", "nothing"
# Compare with the reference, and mark only answers that are much like it.
WHERE_ALIKE = ""
Part = Literal["answer", "whole", "thinking", "request", "reference"]
_MAX_PARAMETERS = 30
NOTE_PATH = "/pages/runs/{run_id:str}/samples/{position:str}/note"


class CutText(NamedTuple):
    """A text as the page has it.

    Attributes:
        text: its beginning.
        length: how many characters it has.
        link: the address of the whole; "" where it is not cut.
    """

    text: str
    length: int
    link: str


class SampleMessage(NamedTuple):
    """A message of the request: its role, its text, and what else is in it (images, tools)."""

    role: str
    text: CutText
    others: str


class ShownScore(NamedTuple):
    """A score of an answer: its cell, why it could not be computed, and remarks."""

    value: str
    error: str
    note: str


class ShownAnswer(NamedTuple):
    """A route's answer.

    Attributes:
        route: the route.
        state: "" for an answer, else `not yet`, `in flight` or `failed`.
        answer: the answer; None before there is one.
        text: its text; None without one.
        pieces: the text's differences from what it is compared with; empty where it is not.
        shortfall: what befell it, in words; "" for nothing.
        thinking: the model's thoughts; None for none.
        facts: its target, tokens, cost and times, each with its name.
        changed: fields of the request that were not sent as they are, each with what was done.
        dropped: fields that were not sent, each with why.
        attempts: a plot of the requests that were sent; None where one was, and it succeeded.
        judgements: what judges answered about it.
        labels: what people's scores are, by the judge's output.
    """

    route: str
    state: str
    answer: Answer | None = None
    text: CutText | None = None
    pieces: Sequence[DiffPiece] = ()
    shortfall: str = ""
    thinking: CutText | None = None
    facts: Sequence[tuple[str, str]] = ()
    changed: Sequence[tuple[str, str]] = ()
    dropped: Sequence[tuple[str, str]] = ()
    attempts: Plot | None = None
    judgements: Sequence[tuple[ExportedJudgement, CutText | None]] = ()
    labels: Sequence[PeopleLabel] = ()


@page("/runs/{run_id:str}/samples/{position:str}")
async def sample_page(
    *,
    services: Injected,
    caller: InjectedCaller,
    run_id: FromPath[str],
    position: FromPath[str],
    output: FromQuery[str] = "",
    a: FromQuery[str] = "",
    b: FromQuery[str] = "",
    failed: FromQuery[bool] = False,
    short: FromQuery[bool] = False,
    noted: FromQuery[bool] = False,
    column: FromQuery[str] = "",
    value: FromQuery[str] = "",
    slice_key: SliceKey = "",
    q: FromQuery[str] = "",
    sort: FromQuery[str] = POSITION,
    against: FromQuery[str] = WHERE_ALIKE,
    repeat: FromQuery[int] = 0,
    first: FromQuery[int] = 0,
) -> Response[str]:
    """Show one sample, with the parameters of the list and some of its own.

    `against` is what differences are marked from: `reference`, `nothing` or `route:NAME`; empty
    for the reference where an answer is much like it.
    `repeat` is the number of the answers, from 0. `first` is the number of the first route that is
    shown.
    """
    view = await sample_view(
        services,
        run_id,
        SampleParameters(output, a, b, failed, short, noted, column, value, slice_key, q, sort),
    )
    return await _sample_page(
        services, caller, view, place_of(position), against=against, repeat=repeat, first=first
    )


async def _sample_page(
    services: Services,
    caller: InjectedCaller,
    view: SampleView,
    position: int,
    *,
    against: str = WHERE_ALIKE,
    repeat: int = 0,
    first: int = 0,
    typed: Mapping[str, str] | None = None,
    error: str = "",
) -> Response[str]:
    """Return the page; `typed` is what a note has that was refused, and `error` why."""
    run, document = view.run, view.document
    sample = await services.store.sample_at(run.id, position)
    if sample is None:
        raise NotFoundError(f"{run.name} has no sample {position}.")
    if not 0 <= repeat < document.repeats:
        raise RequestError(f"repeat: from 0 to {document.repeats - 1}.", param="repeat")
    if not 0 <= first < len(view.routes):
        raise RequestError(f"first: from 0 to {len(view.routes) - 1}.", param="first")
    routes = view.routes[first : first + MAX_ROUTES]
    base = _base_route(view, against)
    read = [*routes, *([base] if base and base not in routes else [])]
    results = await services.store.results_at(run.id, position, routes=read, repeat=repeat)
    judgements = await judgements_of_run(services.store, run.id, results)
    labels = await services.store.labels(run.id, sample_id=sample.id)
    before, after = await asyncio.gather(
        services.samples.find(
            run, view.query, after=position, limit=1, backwards=True, within=view.within
        ),
        services.samples.find(run, view.query, after=position, limit=1, within=view.within),
    )
    notes = await services.store.notes(run.id, position)
    written = next((note for note in notes if note.key_id == caller.key_id), None)
    path = f"/runs/{run.id}/samples"
    here = {**view.parameters, "against": against, "repeat": str(repeat) if repeat else ""}
    link = _Links(f"{path}/{position}", repeat)
    shown = await asyncio.to_thread(
        _shown, sample, results, judgements.of_cells, labels, routes, base, against, repeat, link
    )
    return await rendered(
        "sample.html",
        caller,
        title=f"Sample {position} of {run.name}",
        current="/runs",
        of=view,
        run=run,
        sample=sample,
        position=position,
        path=path,
        list_path=f"{path}{query_of(view.parameters)}",
        previous=_path_of(path, before.positions, here),
        next=_path_of(path, after.positions, here),
        here=lambda **changes: f"{path}/{position}{query_of({**here, **changes})}",
        repeat=repeat,
        repeats=document.repeats,
        first=first,
        last=first + len(routes),
        against=against,
        base=base,
        answers=shown,
        scores=_score_table(view.outputs, results, routes),
        gain=_gain(view, results),
        messages=_messages(sample, link),
        more_messages=max(0, len(sample.messages) - MAX_PARTS),
        references=[
            _cut(text, f"{link.path}/text?{urlencode({'part': 'reference', 'number': number})}")
            for number, text in enumerate(sample.references[:MAX_PARTS])
        ],
        fields=[
            (name, _cut(field_text(value), "", MAX_PART // 4))
            for name, value in list(sample.fields.items())[:MAX_PARTS]
        ],
        parameters=_cut(
            json.dumps(
                {
                    name: value
                    for name, value in request_fields(sample, document.parameters).items()
                    if name != "messages"
                },
                ensure_ascii=False,
                indent=1,
            ),
            link.to("request"),
            MAX_PART,
        ),
        request=link.to("request"),
        notes=notes,
        typed={**_typed(written), **(typed or {})},
        error=error,
        note_path=f"/pages{path}/{position}/note",
        here_query=query_of(here).removeprefix("?"),
        may_note=caller.reach_of(f"POST {NOTE_PATH.replace(':str', '')}") != "no",
        max_label=MAX_LABEL,
        max_note=MAX_NOTE,
    )


def place_of(position: str) -> int:
    """Return the position that a path names. Raises NotFoundError."""
    number = number_from_digits(position)
    if number is None:
        raise NotFoundError("A sample is named by its place in the run: a number from 1.")
    return number


class _Links(NamedTuple):
    """The addresses of a sample's whole texts."""

    path: str
    repeat: int

    def to(self, part: Part, route: str = "") -> str:
        of = {"part": part, "route": route, "repeat": str(self.repeat) if self.repeat else ""}
        return f"{self.path}/text{query_of(of)}"


def _path_of(path: str, positions: Sequence[int], here: Mapping[str, str]) -> str:
    """Return the address of the first of the samples; "" without any."""
    return f"{path}/{positions[0]}{query_of(here)}" if positions else ""


def _typed(note: SampleNote | None) -> Mapping[str, str]:
    if note is None:
        return {"label": "", "note": "", "before": ""}
    return {"label": note.label, "note": note.note, "before": repr(note.at)}


def _base_route(view: SampleView, against: str) -> str:
    """Return the route that answers are compared with; "" for none. Raises RequestError."""
    kind, _, route = against.partition(":")
    if against in {WHERE_ALIKE, REFERENCE, NOTHING}:
        return ""
    if kind != "route" or route not in view.document.routes:
        raise RequestError(
            "against: `reference`, `nothing`, or `route:` and the name of a route of this run.",
            param="against",
        )
    return route


def _cut(text: str, link: str, limit: int = MAX_TEXT) -> CutText:
    is_cut = len(text) > limit
    return CutText(text[:limit] if is_cut else text, len(text), link if is_cut else "")


def _shown(  # noqa: PLR0917 - what a page has of each answer
    sample: Sample,
    results: Sequence[ScoredAnswer],
    judgements: Sequence[Sequence[ExportedJudgement]],
    labels: Sequence[PeopleLabel],
    routes: Sequence[str],
    base: str,
    against: str,
    repeat: int,
    link: _Links,
) -> list[ShownAnswer]:
    by_route = {result.cell.route: result for result in results}
    judged = {
        result.cell.route: of_cell for result, of_cell in zip(results, judgements, strict=True)
    }
    compared: str | None = None
    if base:
        answer = by_route[base].answer if base in by_route else None
        compared = None if answer is None else answer.text
    elif against != NOTHING and sample.references:
        compared = sample.references[0]
    return [
        _answer(
            route,
            by_route.get(route),
            None if route == base or compared is None else compared[:MAX_TEXT],
            against == WHERE_ALIKE,
            [
                (each, None if each.feedback is None else _cut(each.feedback, "", MAX_PART))
                for each in judged.get(route, ())[:MAX_PARTS]
            ],
            [each for each in labels if (each.cell.route, each.cell.repeat) == (route, repeat)],
            link,
        )
        for route in routes
    ]


def _answer(  # noqa: PLR0917 - what a page has of one answer
    route: str,
    result: ScoredAnswer | None,
    compared: str | None,
    only_if_alike: bool,
    judgements: Sequence[tuple[ExportedJudgement, CutText | None]],
    labels: Sequence[PeopleLabel],
    link: _Links,
) -> ShownAnswer:
    if result is None or result.answer is None:
        state = "not yet" if result is None else "in flight"
        return ShownAnswer(route, state, judgements=judgements, labels=labels)
    answer, translation = result.answer, result.answer.translation
    text: CutText | None = None
    pieces: Sequence[DiffPiece] = ()
    if answer.text is not None:
        text = _cut(answer.text, link.to("answer", route))
        if compared is not None:
            pieces = word_diff(compared, text.text)
            if only_if_alike and not _alike(pieces):
                pieces = ()
    renamed = [(name, f"sent as {other}") for name, other in translation.renamed.items()]
    return ShownAnswer(
        route=route,
        state="failed" if answer.text is None else "",
        answer=answer,
        text=text,
        pieces=pieces,
        shortfall=SHORTFALLS.get(answer.shortfall, answer.shortfall),
        thinking=_cut(answer.thinking, link.to("thinking", route), MAX_PART)
        if answer.thinking
        else None,
        facts=list(_facts(answer, result)),
        changed=[*renamed, *translation.converted.items()],
        dropped=list(translation.dropped.items()),
        attempts=_attempts(answer, result),
        judgements=judgements,
        labels=labels,
    )


def _alike(pieces: Iterable[DiffPiece]) -> bool:
    """Return whether two texts have so much in common that one can be read with its differences."""
    lengths = Counter[str]()
    for piece in pieces:
        lengths[piece.kind] += len(piece.text)
    compared = lengths["same"] + (lengths["added"] + lengths["removed"]) / 2
    return compared > 0 and lengths["same"] >= _ALIKE * compared


def _attempts(answer: Answer, result: ScoredAnswer) -> Plot | None:
    attempts = [msgspec.convert(each, Attempt) for each in result.attempts]
    if len(attempts) < 2:
        return None
    return attempts_waterfall(
        attempts, first_byte_s=answer.first_byte_s, total_s=answer.total_s or 0.0
    )


def _facts(answer: Answer, result: ScoredAnswer) -> Iterable[tuple[str, str]]:
    if answer.target:
        yield "Target", answer.target
    if answer.model:
        yield "Model", answer.model
    if answer.system_fingerprint:
        yield "Fingerprint", answer.system_fingerprint
    if answer.finish_reason:
        yield "Finish reason", answer.finish_reason
    usage = answer.usage
    if usage.prompt_tokens is not None or usage.completion_tokens is not None:
        counts = (
            ABSENT if n is None else f"{n:,}"
            for n in (usage.prompt_tokens, usage.completion_tokens)
        )
        yield (
            "Tokens, in and out",
            f"{' and '.join(counts)}{' (estimated)' if answer.estimated else ''}",
        )
    if answer.cost_usd is not None:
        yield "Cost", money(answer.cost_usd, estimated=answer.estimated)
    for name, value in (("First byte", answer.first_byte_s), ("Whole answer", answer.total_s)):
        if value is not None:
            yield name, duration(value)
    if answer.cached:
        yield "From the run cache", answer.cached_from or "yes"
    elif answer.attempts != 1 or result.interrupted:
        yield "Requests sent", f"{answer.attempts:,}"
    if result.interrupted:
        yield "Cut off by a crash", f"{result.interrupted:,} times, and sent again"


def _messages(sample: Sample, link: _Links) -> list[SampleMessage]:
    return [_message(message, link) for message in sample.messages[:MAX_PARTS]]


def _message(message: Mapping[str, Any], link: _Links) -> SampleMessage:
    content = message.get("content")
    texts: list[str] = [content] if isinstance(content, str) else []
    others = [name for name in message if name not in {"role", "content"}]
    for part in content if isinstance(content, list) else ():
        text = part.get("text") if isinstance(part, dict) else None
        if isinstance(text, str):
            texts.append(text)
        else:
            others.append(str(part.get("type", "part")) if isinstance(part, dict) else "part")
    return SampleMessage(
        str(message.get("role", "")),
        _cut("\n".join(texts), link.to("request"), MAX_PART),
        ", ".join(others)[:MAX_PART],
    )


def _score_table(
    outputs: Sequence[OutputInfo], results: Sequence[ScoredAnswer], routes: Sequence[str]
) -> list[tuple[str, list[ShownScore | None]]]:
    """Return each score's name, and its cell of each route."""
    by_route = {
        result.cell.route: {score.output: score for score in result.scores} for result in results
    }
    infos: dict[str, OutputInfo | None] = {info.name: info for info in outputs}
    # Of metrics that are not installed, or that the document does not have any more.
    for scores in by_route.values():
        for name in scores:
            infos.setdefault(name, None)
    table = []
    for name, info in infos.items():
        cells = [by_route.get(route, {}).get(name) for route in routes]
        if any(cell is not None for cell in cells):
            table.append((name, [_score(info, cell) for cell in cells]))
    return table


def _score(info: OutputInfo | None, score: Score | None) -> ShownScore | None:
    if score is None:
        return None
    value = score_cell(info, score.value)
    if info is None and score.value is not None:
        value = f"{score.value:,.{three_digits(score.value)}f}"
    if score.passed is not None:
        value += " (passed)" if score.passed else " (not passed)"
    return ShownScore(value, score.error[:MAX_PART], score.note[:MAX_PART])


def _gain(view: SampleView, results: Sequence[ScoredAnswer]) -> str:
    """Return by how much one route is better in the answers that are shown; "" if unknown."""
    if view.output is None or not view.b:
        return ""
    values = {
        result.cell.route: score.value
        for result in results
        for score in result.scores
        if score.output == view.output.name
    }
    ours, theirs = values.get(view.a), values.get(view.b)
    if ours is None or theirs is None:
        return ""
    if ours == theirs:
        return f"A and B are the same ({score_cell(view.output, ours)})"
    names = ("A", "B") if ours > theirs else ("B", "A")
    if view.output.higher_is_better is False:
        names = names[::-1]
    by = score_cell(view.output, abs(ours - theirs))
    if view.output.higher_is_better is None:
        return f"{names[0]} has {by} more than {names[1]}"
    return f"{names[0]} is better than {names[1]} by {by}"


@page("/runs/{run_id:str}/samples/{position:str}/text")
async def sample_text(
    *,
    services: Injected,
    run_id: FromPath[str],
    position: FromPath[str],
    part: FromQuery[Part] = "request",
    route: FromQuery[str] = "",
    repeat: FromQuery[int] = 0,
    number: FromQuery[int] = 0,
) -> Response[bytes]:
    """Send the whole of a text of which the page has the beginning."""
    run = await services.runs.find(run_id)
    place = place_of(position)
    missing = NotFoundError(f"{run.name} has no such text of sample {place}.")
    sample = await services.store.sample_at(run.id, place)
    if sample is None:
        raise missing
    text: str | None = None
    if part == "request":
        parameters = dict(run.document.get("parameters") or {})
        fields = request_fields(sample, parameters)
        text = await asyncio.to_thread(json.dumps, fields, ensure_ascii=False, indent=1)
    elif part == "reference":
        texts = sample.references[number : number + 1] if number >= 0 else ()
        text = texts[0] if texts else None
    else:
        results = await services.store.results_at(run.id, place, routes=[route], repeat=repeat)
        for answer in [result.answer for result in results if result.answer is not None]:
            names = {
                "answer": answer.text,
                "whole": answer.whole_text,
                "thinking": answer.thinking or None,
            }
            text = names[part]
    if text is None:
        raise missing
    return text_response(text)


@action(NOTE_PATH)
async def keep_note(
    services: Injected,
    caller: InjectedCaller,
    request: Request[Any, Any, Any],
    run_id: FromPath[str],
    position: FromPath[str],
) -> Response[Any]:
    """Store the sender's label and note on a sample; without any text, delete them."""
    fields = await read_fields(request)
    run, place = await services.runs.find(run_id), place_of(position)
    label = " ".join(fields.get("label", "").split())
    note = fields.get("note", "").replace("\r\n", "\n").strip()
    query = _parameters_of(fields.get("query", ""))
    status = HTTPStatus.BAD_REQUEST
    error = note_problem(label, note)
    if not error:
        name = caller.key.name if caller.key is not None else ""
        written = SampleNote(
            position=place,
            key_id=caller.key_id,
            author=name,
            label=label,
            note=note,
            at=time.time(),
        )
        try:
            await services.store.keep_note(run.id, written, before=_moment(fields.get("before")))
        except ConflictError as conflict:
            error = f"{conflict.message} It is above. Save again to put this one in its place."
            status = HTTPStatus.CONFLICT
    if error:
        typed = {"label": label, "note": note}
        if status != HTTPStatus.CONFLICT:
            typed["before"] = fields.get("before", "")
        shown = await _note_again(services, caller, run.id, place, query, typed=typed, error=error)
        return form_again(shown, status)
    return done(f"/runs/{run.id}/samples/{place}{query_of(query)}#notes")


def _parameters_of(query: str) -> dict[str, str]:
    """Return the parameters of the page that a note is from; none where they cannot be read."""
    try:
        return dict(parse_qsl(query, max_num_fields=_MAX_PARAMETERS))
    except ValueError:
        return {}


def _moment(text: str | None) -> float | None:
    """Return when the note that a form shows was written, 0 for none; None if it does not say."""
    if text is None:
        return None
    try:
        return float(text or 0)
    except ValueError:
        raise RequestError(
            "before: when the note on the page was written", param="before"
        ) from None


async def _note_again(
    services: Services,
    caller: InjectedCaller,
    run_id: str,
    place: int,
    query: Mapping[str, str],
    *,
    typed: Mapping[str, str],
    error: str,
) -> Response[str]:
    """Return the page with a note that was refused, as its address shows it where that can be."""
    usual = SampleParameters()
    shown: dict[str, Any] = {
        name: query[name] == "true" if isinstance(value, bool) else query[name]
        for name, value in usual._asdict().items()
        if name in query
    }
    try:
        view = await sample_view(services, run_id, usual._replace(**shown))
        return await _sample_page(services, caller, view, place, typed=typed, error=error)
    except EvalrouterError:
        # Whatever the address is, what was typed is not lost.
        view = await sample_view(services, run_id, usual)
        return await _sample_page(services, caller, view, place, typed=typed, error=error)
