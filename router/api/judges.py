"""`/eval/judges`: studies of judges; `/eval/{id}/judgements`: what judges answered."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import MediaType, Request, get, put
from litestar.params import FromPath, FromQuery
from litestar.response import Response

from evaluators.judge.calibration import JudgeChange
from providers.errors import NotFoundError, RunDocumentError
from router.api.bodies import body_as
from router.api.injection import Injected
from router.api.page_layout import html_response
from router.api.paging import Offset, PageSize
from router.evals.judges.label_plans import RunLabelPlan, label_plan, plan_run_labels
from router.evals.judges.people_labels import LabelledAnswers, StoredLabels, keep_run_labels
from router.evals.judges.rubric_use import rubric_marks
from router.evals.judges.study_report import compared, html
from router.store.judgements import JudgementRow
from router.store.people_labels import PeopleLabel
from router.store.studies import Study, StudyKind


class StudyList(msgspec.Struct):
    """Studies, newest first, without their detail."""

    data: list[Study]
    object: str = "list"


class CalibrationView(msgspec.Struct):
    """A judge's newest calibration.

    Attributes:
        study: the calibration with its report.
        change: the change of the judge's scores since the calibration before it that had the same
            grading and dataset; None without one.
        earlier: that calibration's id, "" without one.
    """

    study: Study
    change: JudgeChange | None
    earlier: str


class JudgementPage(msgspec.Struct):
    """A page of judgements. `next` is the `after` of the next page; None at the end."""

    data: list[JudgementRow]
    next: int | None
    object: str = "list"


@get("/eval/judges", tags=["judges"], summary="List studies of judges")
async def list_studies(
    services: Injected,
    judge: FromQuery[str | None] = None,
    kind: FromQuery[StudyKind | None] = None,
    rubric: FromQuery[str | None] = None,
    limit: PageSize = 50,
) -> StudyList:
    """List calibrations, comparisons and tournaments, newest first.

    `rubric` selects those that used a rubric: a stock one's name, or the twelve digits after
    `rubric:` in the `grading` of another study.
    """
    graded = () if rubric is None else rubric_marks(rubric)
    studies = await services.store.studies(kind=kind, judge=judge, graded=graded, limit=limit)
    return StudyList(studies)


@get("/eval/judges/studies/{study_id:str}", tags=["judges"], summary="Show a study of judges")
async def show_study(services: Injected, study_id: FromPath[str]) -> Study:
    """Show a study with its report and its document."""
    return await services.store.study(study_id)


@get(
    "/eval/judges/studies/{study_id:str}/fragment",
    tags=["judges"],
    summary="A study of judges as HTML",
    media_type=MediaType.HTML,
)
async def study_fragment(services: Injected, study_id: FromPath[str]) -> Response[str]:
    """Show a study as a section to be put into a page."""
    return html_response(html(await services.store.study(study_id)))


@get("/eval/judges/{name:str}/calibration", tags=["judges"], summary="A judge's newest calibration")
async def judge_calibration(services: Injected, name: FromPath[str]) -> CalibrationView:
    """Show the calibration of a judge that is a route; `provider/model` has a path of its own."""
    return await _newest(services, name)


@get(
    "/eval/judges/{provider:str}/{model:str}/calibration",
    tags=["judges"],
    summary="A model's newest calibration",
)
async def model_calibration(
    services: Injected, provider: FromPath[str], model: FromPath[str]
) -> CalibrationView:
    """Show the calibration of a judge that is `provider/model`."""
    return await _newest(services, f"{provider}/{model}")


@get("/eval/{run_id:str}/judgements", tags=["judges"], summary="Page through what judges said")
async def list_judgements(
    services: Injected,
    run_id: FromPath[str],
    sample_id: FromQuery[str | None] = None,
    limit: PageSize = 100,
    after: Offset = 0,
) -> JudgementPage:
    """Page through judges' answers, in the order they came, as they were before they were read."""
    run = await services.runs.find(run_id)
    judgements = await services.store.judgements(
        run.id, sample_id=sample_id, limit=limit, after=after
    )
    more = judgements[-1][0] if len(judgements) == limit else None
    return JudgementPage([row for _, row in judgements], more)


class LabelList(msgspec.Struct):
    """People's labels of a run, by output, route, sample and repeat."""

    data: list[PeopleLabel]
    object: str = "list"


@get("/eval/{run_id:str}/labels", tags=["judges"], summary="List people's labels of a run")
async def list_labels(services: Injected, run_id: FromPath[str]) -> LabelList:
    """List what people say of the run's answers."""
    run = await services.runs.find(run_id)
    return LabelList(await services.store.labels(run.id))


@put("/eval/{run_id:str}/labels", tags=["judges"], summary="Store people's labels of a run")
async def keep_labels(
    services: Injected, request: Request[Any, Any, Any], run_id: FromPath[str]
) -> StoredLabels:
    """Store people's scores of a route's answers, all at once, in place of those before.

    From then on, the run's report has the judge's mean and differences corrected by them. A label
    is refused where its `answer` is not the text that the route gave, and the whole request where
    it lacks labels that the run has, unless it says `replace`.
    """
    given = await body_as(request, LabelledAnswers, error=RunDocumentError)
    return await keep_run_labels(services.store, run_id, given)


@get(
    "/eval/{run_id:str}/label-plan",
    tags=["judges"],
    summary="Plan which answers people should score",
    media_type=MediaType.JSON,
)
async def show_label_plan(  # noqa: PLR0917 - one for each query parameter
    services: Injected,
    run_id: FromPath[str],
    width: FromQuery[float],
    route: FromQuery[str | None] = None,
    output: FromQuery[str | None] = None,
    people: FromQuery[str | None] = None,
    seed: FromQuery[int] = 0,
) -> Response[RunLabelPlan]:
    """Plan the labels that make a judge's corrected 95% interval as narrow as `width`.

    The answer says which answers to label now (`label_next`), how many labels are needed in all,
    and with which probability each answer has one then (`chance`). Its `labels`, with people's
    scores filled in, are those that `PUT /eval/{id}/labels` takes. `seed` is of the draw; the same
    one gives the same plan.
    """
    planned = await plan_run_labels(
        services.store, run_id, width=width, output=output, route=route, people=people, seed=seed
    )
    # On a thread: all answers of a run may be many megabytes.
    encoded: Any = await asyncio.to_thread(lambda: msgspec.json.encode(label_plan(planned)))
    return Response(encoded)


async def _newest(services: Injected, judge: str) -> CalibrationView:
    known = [
        study
        for study in await services.store.studies(kind="calibration", judge=judge, limit=1000)
        if study.state == "completed"
    ]
    if not known:
        raise NotFoundError(
            f"{judge!r} has never been calibrated: evalrouter judge calibrate --judge {judge}"
        )
    study, *older = known
    alike = [
        earlier
        for earlier in older
        if earlier.grading == study.grading
        and earlier.document.get("hash") == study.document.get("hash")
        and "calibration" in earlier.report
        and "calibration" in study.report
    ]
    if not alike:
        return CalibrationView(study, None, "")
    earlier = await services.store.study(alike[0].id)
    change = compared(earlier, await services.store.study(study.id))
    return CalibrationView(study, change, earlier.id)
