"""The pages on which people label the answers of a run, to correct its judge.

`/runs/ID/labels` says how many labels are there and how many are needed, and
`/runs/ID/labels/next` shows one answer at a time, without what the judge says of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode

from litestar import Request, Response
from litestar.params import FromPath, FromQuery, QueryParameter

from evaluators.stats.prediction_powered import FEWEST_LABELS
from providers.errors import EvalrouterError, RunDocumentError
from router.api.access import Caller, InjectedCaller
from router.api.form_numbers import number_from_digits
from router.api.injection import Injected
from router.api.page_layout import action, done, form_again, page, rendered
from router.api.paging import MAX_OFFSET
from router.api.sign_in import read_fields
from router.evals.judges.label_plans import PlannedLabels, plan_run_labels
from router.evals.judges.labelling_in_turn import (
    Labelling,
    judged_scores,
    labelling_of,
    next_task,
    open_labelling,
    score_task,
    take_back,
)
from router.services import Services

# Characters of a text that the page has.
MAX_TEXT = 20_000
# Answers of a run whose plan is made without a request for it.
_PLANNED_UNREQUESTED = 2_000
_FIELDS = {
    "route": "",
    "output": "",
    "position": "",
    "place": "",
    "answer": "",
    "score": "",
    "at": "",
}


class LabelForm(NamedTuple):
    """What a form about one answer brings.

    Attributes:
        labelling: what is labelled.
        place: the answer's place in the person's order, from 0.
        position: its sample's, from 1.
        fields: all that the form has.
    """

    labelling: Labelling
    place: int
    position: int
    fields: Mapping[str, str]


class LabelText(NamedTuple):
    """A text of a sample: who or what says it, its beginning, and whether there is more."""

    name: str
    text: str
    is_cut: bool


@page("/runs/{run_id:str}/labels")
async def labels_page(
    *,
    services: Injected,
    caller: InjectedCaller,
    run_id: FromPath[str],
    route: FromQuery[str] = "",
    output: FromQuery[str] = "",
    width: FromQuery[str] = "",
) -> Response[str]:
    """Show how many labels there are, and how many make the interval as narrow as `width`."""
    judged = await judged_scores(services.store, run_id)
    labelling: Labelling | None = None
    planned: PlannedLabels | None = None
    target_width = 0.0
    problem = ""
    outputs = tuple(judged.metrics)
    if outputs:
        labelling = await labelling_of(
            services.store, judged, route=route or judged.routes[0], output=output or outputs[0]
        )
        try:
            # Without a width, a tenth of the scale.
            target_width = _float(width) if width else (labelling.high - labelling.low) / 10
            if width or judged.run.cells <= _PLANNED_UNREQUESTED:
                planned = await _plan(services, labelling, target_width)
        except EvalrouterError as error:
            problem = error.message
    return await rendered(
        "labels.html",
        caller,
        title=f"Labels of {judged.run.name}",
        current="/judges",
        run=judged.run,
        outputs=outputs,
        routes=judged.routes,
        labelling=labelling,
        planned=planned,
        width=width or (f"{target_width:g}" if target_width else ""),
        problem=problem,
        fewest=FEWEST_LABELS,
        may_label=caller.reach_of("PUT /eval/{run_id}/labels") == "all",
        query="" if labelling is None else _query(labelling),
    )


async def _plan(services: Services, labelling: Labelling, width: float) -> PlannedLabels:
    return await plan_run_labels(
        services.store,
        labelling.run.id,
        width=width,
        output=labelling.output,
        route=labelling.route,
        even=True,
    )


@page("/runs/{run_id:str}/labels/next")
async def next_answer(
    *,
    services: Injected,
    caller: InjectedCaller,
    run_id: FromPath[str],
    route: FromQuery[str] = "",
    output: FromQuery[str] = "",
    after: Annotated[int, QueryParameter(ge=0, le=MAX_OFFSET)] = 0,
    given: FromQuery[str] = "",
) -> Response[str]:
    """Show the next answer; `after` counts the places before it.

    `given` is the last score that can be taken back: its place, position, time and value.
    """
    labelling = await open_labelling(
        services.store, run_id, route=route or None, output=output or None
    )
    return await _page(services, caller, labelling, after=after, given=given)


async def _page(
    services: Services,
    caller: Caller,
    labelling: Labelling,
    *,
    after: int,
    given: str = "",
    error: EvalrouterError | None = None,
) -> Response[str]:
    task = await next_task(services.store, labelling, person=caller.key_id, after=after)
    texts: list[LabelText] = []
    references: list[LabelText] = []
    answer: LabelText | None = None
    if task is not None:
        texts = [
            _shown(str(message.get("role", "")), message.get("content"))
            for message in task.sample.messages[-20:]
        ]
        references = [_shown("", text) for text in task.sample.references[:5]]
        answer = _shown("", task.answer)
    parts = given.split(":")
    return await rendered(
        "label.html",
        caller,
        title=f"Label {labelling.run.name}",
        current="/judges",
        run=labelling.run,
        labelling=labelling,
        task=task,
        after=after,
        texts=texts,
        references=references,
        answer=answer,
        given=parts if len(parts) == 4 else None,
        keys=_keys(labelling),
        overview=f"/runs/{labelling.run.id}/labels?{_query(labelling)}",
        following=_next_path(labelling, (task.place if task else after) + 1, ""),
        again=_next_path(labelling, 0, ""),
        query=_query(labelling),
        error=error,
    )


def _shown(name: str, content: Any) -> LabelText:
    """Return the text of a message; of parts, their texts and kinds."""
    if isinstance(content, list):
        content = "\n".join(
            str(part.get("text") or f"[{part.get('type', 'a part')}]")
            for part in content
            if isinstance(part, dict)
        )
    text = content if isinstance(content, str) else ""
    return LabelText(name, text[:MAX_TEXT], len(text) > MAX_TEXT)


def _keys(labelling: Labelling) -> Mapping[float, str]:
    """Return the key of each score: its digit, or its place where the scores are no digits."""
    scores = labelling.scores
    if all(score.is_integer() and 0 <= score <= 9 for score in scores):
        return {score: f"{score:g}" for score in scores}
    return {score: str(place) for place, score in enumerate(scores[:9], 1)}


def _query(labelling: Labelling) -> str:
    return urlencode({"route": labelling.route, "output": labelling.output})


def _next_path(labelling: Labelling, after: int, given: str) -> str:
    place: dict[str, str | int] = {"after": after}
    if given:
        place["given"] = given
    return f"/runs/{labelling.run.id}/labels/next?{_query(labelling)}&{urlencode(place)}"


@action("/pages/runs/{run_id:str}/labels/score")
async def give_score(
    services: Injected,
    caller: InjectedCaller,
    request: Request[Any, Any, Any],
    run_id: FromPath[str],
) -> Response[Any]:
    """Store a person's score of an answer, and lead to the next."""
    form = await _form(services, request, run_id)
    try:
        score = _score(form.fields["score"])
        label = await score_task(
            services.store, form.labelling, form.position, form.fields["answer"], score
        )
    except EvalrouterError as error:
        return await _refused(services, caller, form, error)
    given = f"{form.place}:{form.position}:{label.at!r}:{score:g}"
    return done(_next_path(form.labelling, form.place + 1, given))


@action("/pages/runs/{run_id:str}/labels/undo")
async def undo_score(
    services: Injected,
    caller: InjectedCaller,
    request: Request[Any, Any, Any],
    run_id: FromPath[str],
) -> Response[Any]:
    """Take a person's last score back, and lead to its answer."""
    form = await _form(services, request, run_id)
    try:
        at = _score(form.fields["at"])
        await take_back(services.store, form.labelling, form.position, at)
    except EvalrouterError as error:
        return await _refused(services, caller, form, error)
    return done(_next_path(form.labelling, form.place, ""))


async def _form(services: Services, request: Request[Any, Any, Any], run_id: str) -> LabelForm:
    fields = {**_FIELDS, **await read_fields(request)}
    labelling = await open_labelling(
        services.store, run_id, route=fields["route"], output=fields["output"]
    )
    place, position = _count(fields, "place"), _count(fields, "position")
    return LabelForm(labelling, place, position, fields)


def _count(fields: Mapping[str, str], name: str) -> int:
    number = number_from_digits(fields[name])
    if number is None:
        raise RunDocumentError(f"{name}: not a number", param=name)
    return number


async def _refused(
    services: Services, caller: Caller, form: LabelForm, error: EvalrouterError
) -> Response[str]:
    """Return the page with the answer that a form is about, and what is wrong with the form."""
    shown = await _page(services, caller, form.labelling, after=form.place, error=error)
    return form_again(shown, error.status)


def _score(text: str) -> float:
    score = _float(text)
    if not math.isfinite(score):
        raise RunDocumentError("score: not a number", param="score")
    return score


def _float(text: str) -> float:
    """Return the number that was typed; NaN for another text."""
    try:
        return float(text)
    except ValueError:
        return math.nan
