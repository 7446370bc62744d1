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
from router.api.page_layout import action, done, page, rendered
from router.api.paging import MAX_OFFSET
from router.api.sign_in import read_fields
from router.evals.judges.label_plans import PlannedLabels, plan_run_labels
from router.evals.judges.labelling_in_turn import (
    Labelling,
    judged_scores,
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
    if judged.outputs:
        labelling = await open_labelling(
            services.store,
            judged.run.id,
            route=route or judged.routes[0],
            output=output or judged.outputs[0],
        )
        try:
            target_width = _width(width, labelling)
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
        outputs=judged.outputs,
        routes=judged.routes,
        labelling=labelling,
        planned=planned,
        width=width or (f"{target_width:g}" if target_width else ""),
        problem=problem,
        fewest=FEWEST_LABELS,
        may_label=caller.reach_of("PUT /eval/{run_id}/labels") == "all",
        query=""
        if labelling is None
        else urlencode({"route": labelling.route, "output": labelling.output}),
    )


def _width(text: str, labelling: Labelling) -> float:
    """Return the width of an interval; without one, a tenth of the scale."""
    if not text:
        return (labelling.high - labelling.low) / 10
    try:
        width = float(text)
    except ValueError:
        width = math.nan
    if not math.isfinite(width) or width <= 0:
        raise RunDocumentError("width: not a number above 0", param="width")
    return width


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
    query = {"route": labelling.route, "output": labelling.output, "after": after}
    if given:
        query["given"] = given
    return f"/runs/{labelling.run.id}/labels/next?{urlencode(query)}"


@action("/pages/runs/{run_id:str}/labels/score")
async def give_score(
    services: Injected,
    caller: InjectedCaller,
    request: Request[Any, Any, Any],
    run_id: FromPath[str],
) -> Response[Any]:
    """Store a person's score of an answer, and lead to the next."""
    fields = {**_FIELDS, **await read_fields(request)}
    labelling = await open_labelling(
        services.store, run_id, route=fields["route"], output=fields["output"]
    )
    place, position = _count(fields, "place"), _count(fields, "position")
    try:
        score = _score(fields["score"])
        label = await score_task(services.store, labelling, position, fields["answer"], score)
    except EvalrouterError as error:
        response = await _page(services, caller, labelling, after=place, error=error)
        response.status_code = error.status
        return response
    given = f"{place}:{position}:{label.at!r}:{score:g}"
    return done(_next_path(labelling, place + 1, given))


@action("/pages/runs/{run_id:str}/labels/undo")
async def undo_score(
    services: Injected,
    caller: InjectedCaller,
    request: Request[Any, Any, Any],
    run_id: FromPath[str],
) -> Response[Any]:
    """Take a person's last score back, and lead to its answer."""
    fields = {**_FIELDS, **await read_fields(request)}
    labelling = await open_labelling(
        services.store, run_id, route=fields["route"], output=fields["output"]
    )
    place, position = _count(fields, "place"), _count(fields, "position")
    try:
        await take_back(services.store, labelling, position, _score(fields["at"]))
    except EvalrouterError as error:
        response = await _page(services, caller, labelling, after=place, error=error)
        response.status_code = error.status
        return response
    return done(_next_path(labelling, place, ""))


def _count(fields: Mapping[str, str], name: str) -> int:
    number = number_from_digits(fields[name])
    if number is None:
        raise RunDocumentError(f"{name}: not a number", param=name)
    return number


def _score(text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise RunDocumentError("score: not a number", param="score")
    return score
