"""Executes studies of judges: calibrations, comparisons of two routes, tournaments.

    plan = CalibrationPlan(judge="laptop/prometheus", dataset="human.jsonl")
    study = await studies.calibration(plan)
    study = await studies.execute(study.id, live=live)
    study.report["calibration"]

A study works as a run does: every judgement is stored before it is read, and a study that is
resumed after a crash pays for no finished judgement twice. It never uses judgements that other
studies or runs have paid for.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from evaluators.base import Answer, Judgement, JudgeRequest, Sample
from evaluators.data.dataset_process import in_thread, open_dataset, rows
from evaluators.data.sampling import Rows
from evaluators.judge import pairwise
from evaluators.judge.calibration import Calibration, Item, calibrate
from evaluators.judge.cases import Case, read_cases
from evaluators.judge.graded import Graded, Grading, UnjudgeableError
from evaluators.judge.kinds import load_kind
from evaluators.judge.metrics import (
    Template,
    UseReference,
    kind_grading,
    prometheus_grading,
    row_rubrics_signature,
)
from evaluators.judge.pairwise import PairwiseComparison
from evaluators.judge.pairwise_judging import (
    SWAPPED,
    AnswerPair,
    PairwiseGrading,
    compare_pair,
    question_of,
    read_label,
)
from evaluators.judge.panel import Panel, Reading
from evaluators.judge.prometheus import SAMPLING, Style
from evaluators.judge.rubrics import Rubric, load
from evaluators.metrics.reference import last_user_text, references
from evaluators.stats.ratings import Game, Ratings, rate, schedule
from evaluators.stats.style_ratings import StyleControl, relative_difference, style_controlled
from evaluators.text.answers import AnswerRules, read_answer
from providers.base import HasModelFacts, Provider
from providers.errors import ConflictError, DatasetError, RunDocumentError
from router.evals.hardware_cost import hardware_costs
from router.evals.judges.requests import JudgeClient
from router.evals.requests import EvalRequester
from router.evals.stored_runs import find_run, stored_document
from router.gateway.spans import SpanSink, bounded
from router.records import Target, Trace, new_span_id
from router.store.judgements import JudgementRow
from router.store.protocol import Store
from router.store.studies import Study, StudyKind

VerdictReader = Callable[[JudgementRow], tuple[float | str | None, str]]
"""Returns a judgement's verdict, a score or a label; None with the reason for an unparsed one."""

_Case = TypeVar("_Case")
_Result = TypeVar("_Result")

_PREFIX: dict[StudyKind, str] = {"calibration": "cal", "comparison": "cmp", "tournament": "trn"}


class _Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options that every study has.

    Attributes:
        judge: the route that judges.
        rubric: a stock rubric, a file, or a rubric written in place; None for `helpfulness`, or
            for the rubrics that a dataset's rows have.
        style: the Prometheus whose texts and template are used.
        template: `chat`, or `raw` for a completions endpoint.
        parameters: instead of or besides the published sampling; null leaves one out.
        retries: how often a request is repeated when its verdict cannot be read.
        concurrency: the number of requests in flight at a time.
        limit: the number of rows to judge, from the first; None for all.
    """

    judge: str
    rubric: str | dict[str, Any] | None = None
    style: Style = "prometheus-2"
    template: Template = "chat"
    parameters: dict[str, Any] = {}
    retries: Annotated[int, msgspec.Meta(ge=0, le=10)] = 2
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 16
    limit: Rows | None = None


class CalibrationPlan(_Plan, frozen=True, kw_only=True):
    """Measure a judge against people.

    Attributes:
        dataset: a file of answers with scores, or of pairs with labels; see `cases.py`.
        columns: the file's column names, each to the name of `cases.py` that it stands for.
        kind: a judge of `evaluators/judge/built_in` instead of Prometheus.
        reference: as for the metric `prometheus`.
        repeats: the number of verdicts on each answer.
    """

    dataset: str
    columns: dict[str, str] = {}
    kind: str = ""
    reference: UseReference = "auto"
    repeats: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1


class PairwisePlan(_Plan, frozen=True, kw_only=True):
    """Let a judge compare the answers that a run has.

    Attributes:
        run: the run's id.
        routes: two for a comparison, two or more for a tournament.
        full: whether all pairs of routes meet on every sample.
        seed: the seed of the schedule.
    """

    run: str
    routes: tuple[str, ...]
    full: bool = False
    seed: int = 0


class StudyProgress(msgspec.Struct):
    """The progress of a study, which changes while it is executed.

    Attributes:
        cases: the number of cases.
        done: the number of cases that are judged.
        calls: the number of requests that this process sent.
        cost_usd: the cost of those requests, as far as it is known.
        seconds: the time that this process took for all verdicts; 0 until they are complete.
    """

    cases: int = 0
    done: int = 0
    calls: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0


class Studies:
    """The studies of a store.

    Args:
        store: has them.
        requester: sends requests to judges.
        providers: each provider by its name.
        traces: get the judges' spans; None where none are sent.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        requester: EvalRequester,
        providers: Mapping[str, Provider],
        *,
        traces: SpanSink | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._requester = requester
        self._providers = providers
        self._traces = traces
        self._now = now

    async def calibration(self, plan: CalibrationPlan) -> Study:
        """Check a calibration down to the last row, and store it; no request is sent yet.

        Raises:
            DatasetError, RunDocumentError, ModelNotFoundError: the message says what is wrong.
        """
        self._requester.check_route(plan.judge)
        path = str(Path.cwd() / plan.dataset)
        plan = msgspec.structs.replace(plan, dataset=path, rubric=_absolute(plan.rubric))
        cases, digest = await in_thread(_read, plan)
        if isinstance(cases[0], AnswerPair):
            grading = _pairwise_grading(plan).signature
        else:
            grading = _Gradings(plan, cases).signature
        return await self._add("calibration", plan, grading, Path(path).stem, hash=digest)

    async def pairwise(
        self, plan: PairwisePlan, kind: Literal["comparison", "tournament"]
    ) -> Study:
        """Check a comparison or a tournament, and store it; no request is sent yet.

        Raises:
            NotFoundError: the run does not exist.
            StoreError: the run's row cannot be read.
            RunDocumentError: too few routes, or one that is not in the run.
        """
        self._requester.check_route(plan.judge)
        run = await find_run(self._store, plan.run)
        for route in plan.routes:
            if route not in run.document["routes"]:
                raise RunDocumentError(
                    f"routes: {run.id} did not ask {route!r} but "
                    f"{', '.join(run.document['routes'])}",
                    param="routes",
                )
        several = len(set(plan.routes))
        if several != len(plan.routes) or several < 2 or (kind == "comparison" and several > 2):
            raise RunDocumentError(
                f"routes: a {kind} needs {'two' if kind == 'comparison' else 'two or more'} "
                "different routes",
                param="routes",
            )
        plan = msgspec.structs.replace(plan, run=run.id, rubric=_absolute(plan.rubric))
        return await self._add(kind, plan, _pairwise_grading(plan).signature, run.name)

    async def execute(self, study_id: str, *, live: StudyProgress | None = None) -> Study:
        """Send the requests that lack an answer, and return the study with its report.

        Raises:
            NotFoundError: the study does not exist.
            ConflictError: the study is completed, or its dataset has changed.
        """
        study = await self._store.study(study_id)
        if study.state == "completed":
            raise ConflictError(f"{study.id} is completed: see evalrouter judge show {study.id}")
        live = live or StudyProgress()
        before = sum(use.calls for use in await self._store.judge_use(study.id))
        if study.kind == "calibration":
            report, detail = await self._calibrate(study, live)
        else:
            report, detail = await self._compare(study, live)
        uses = await self._store.judge_use(study.id)
        calls = sum(use.calls for use in uses) - before
        report["use"] = [msgspec.to_builtins(use) for use in uses]
        report["this_attempt"] = {
            "requests": calls,
            "seconds": live.seconds,
            "requests_per_s": calls / live.seconds if live.seconds else None,
        }
        machines = await hardware_costs(self._store, study.id, self._requester.prices)
        report["hardware"] = [msgspec.to_builtins(machine) for machine in machines]
        report["models"] = await self._model_facts(study.id)
        study = msgspec.structs.replace(
            study,
            state="completed",
            finished_at=self._now(),
            report=report,
            detail=detail,
        )
        await self._store.set_study(study)
        return study

    async def _model_facts(self, study_id: str) -> dict[str, Any]:
        """Return what is known of the models that judged in a study, by target."""
        facts: dict[str, Any] = {}
        for served in await self._store.served(study_id):
            target = Target.parse(served.target)
            provider = self._providers.get(target.provider)
            if provider is not None and isinstance(provider, HasModelFacts):
                facts[served.target] = msgspec.to_builtins(await provider.facts(target.model))
        return facts

    async def reader(self, study: Study) -> VerdictReader:
        """Return what reads the verdicts of a study's judgements, as the study did.

        Raises:
            ConflictError: the dataset has changed since.
            DatasetError: the dataset can no longer be read.
        """
        if study.kind != "calibration":
            plan = msgspec.convert(study.document, PairwisePlan)
            return _PairReader(await self._pairs(plan), _pairwise_grading(plan)).read
        calibration, cases = await _cases_of(study)
        if isinstance(cases[0], AnswerPair):
            pairs = [case for case in cases if isinstance(case, AnswerPair)]
            return _PairReader(pairs, _pairwise_grading(calibration)).read
        gradings = _Gradings(calibration, cases)
        answers = {case.item.sample.id: case for case in cases if isinstance(case, Case)}

        def read(row: JudgementRow) -> tuple[float | str | None, str]:
            value, why = gradings.read(answers[row.sample_id], row.judgement)
            return value, why

        return read

    async def _calibrate(
        self, study: Study, live: StudyProgress
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        plan, cases = await _cases_of(study)
        live.cases = len(cases)
        client = self._client(study, plan, live)
        if isinstance(cases[0], AnswerPair):
            pairs = [pair for pair in cases if isinstance(pair, AnswerPair)]
            grading = _pairwise_grading(plan)
            comparisons = await _each(
                pairs, lambda pair: compare_pair(pair, grading, plan.judge, client), plan, live
            )
            return await _pairwise_report(comparisons)
        gradings = _Gradings(plan, cases)

        async def judge(case: Case) -> Item:
            return await gradings.item(case, client)

        answers = [case for case in cases if isinstance(case, Case)]
        items = await _each(answers, judge, plan, live)
        calibration: Calibration = await asyncio.to_thread(
            calibrate, items, low=gradings.low, high=gradings.high, scores=gradings.scores
        )
        read = sum(len(item.judge) for item in items)
        verdicts = {"wanted": len(items) * plan.repeats, "read": read}
        report = {"calibration": msgspec.to_builtins(calibration), "verdicts": verdicts}
        return report, {"items": msgspec.to_builtins(items)}

    async def _compare(
        self, study: Study, live: StudyProgress
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        plan = msgspec.convert(study.document, PairwisePlan)
        pairs = await self._pairs(plan)
        if not pairs:
            raise ConflictError(f"{plan.run} has no sample that two of the routes have answered")
        live.cases = len(pairs)
        client, grading = self._client(study, plan, live), _pairwise_grading(plan)
        comparisons = await _each(
            pairs, lambda pair: compare_pair(pair, grading, plan.judge, client), plan, live
        )
        report, detail = await _pairwise_report(comparisons)
        if study.kind == "tournament":
            decided = [comparison for comparison in comparisons if comparison.winner is not None]
            board = await asyncio.to_thread(rate, _games(decided))
            report = {"board": msgspec.to_builtins(board), "pairwise": report["pairwise"]}
            style = await asyncio.to_thread(_at_equal_style, decided)
            if style is not None:
                report["style"] = msgspec.to_builtins(style)
        return report, detail

    async def _pairs(self, plan: PairwisePlan) -> list[AnswerPair]:
        """Return the pairs to compare by the schedule, without those that lack an answer."""
        if await self._store.deleted_texts(plan.run):
            raise ConflictError(f"{plan.run}: the texts of some of its samples were deleted")
        samples: dict[str, Sample] = {}
        async for sample in self._store.samples(plan.run):
            if plan.limit is not None and len(samples) == plan.limit:
                break
            samples[sample.id] = sample
        texts: dict[tuple[str, str], str] = {}
        run = await self._store.run(plan.run)
        rules = AnswerRules() if run is None else stored_document(run).answer
        async for result in self._store.results(plan.run):
            cell, answer = result.cell, result.answer
            if cell.repeat == 0 and answer is not None and answer.text is not None:
                # Runs of earlier versions stored thoughts within the text.
                texts[cell.sample_id, cell.route] = read_answer(answer, rules).text or ""
        scheduled = schedule(plan.routes, list(samples), full=plan.full, seed=plan.seed)
        return [
            AnswerPair(
                id=sample_id,
                instruction=last_user_text(samples[sample_id]),
                first=texts[sample_id, first],
                second=texts[sample_id, second],
                reference=next(iter(references(samples[sample_id])), None),
                names=(first, second),
            )
            for first, second, sample_id in scheduled
            if (sample_id, first) in texts and (sample_id, second) in texts
        ]

    def _client(self, study: Study, plan: _Plan, live: StudyProgress) -> JudgeClient:
        def pay(answer: Answer) -> None:
            live.calls += 1
            live.cost_usd += answer.cost_usd or 0.0

        def trace_of(request: JudgeRequest) -> Trace | None:
            """Return the trace of a request to a judge: all of a study are one session."""
            if self._traces is None:
                return None
            trace = self._traces.contexts.of_evaluation("judgement", study.id, new_span_id())
            if trace is not None:
                trace.wants_bodies = self._traces.shows_content
                trace.attributes["session.id"] = trace.attributes["evalrouter.study"] = study.id
                trace.attributes["evalrouter.sample"] = bounded(request.sample_id)
                trace.attributes["evalrouter.metric"] = bounded(request.metric)
            return trace

        return JudgeClient(
            self._store,
            self._requester,
            study.id,
            concurrency=plan.concurrency,
            share=False,
            pay=pay,
            trace_of=trace_of,
        )

    async def _add(
        self, kind: StudyKind, plan: _Plan, grading: str, name: str, **more: Any
    ) -> Study:
        now = self._now()
        study = Study(
            id=f"{_PREFIX[kind]}_{int(now * 1000):011x}{uuid.uuid4().hex[:8]}",
            kind=kind,
            judges=(plan.judge,),
            grading=grading,
            name=name,
            document=msgspec.to_builtins(plan) | more,
            created_at=now,
        )
        await self._store.set_study(study)
        return study


class _Gradings:
    """Grades the answers of a calibration, all alike or each by the rubric of its row."""

    def __init__(self, plan: CalibrationPlan, cases: Sequence[Case | AnswerPair]) -> None:
        answers = [case for case in cases if isinstance(case, Case)]
        self._plan = plan
        self._by_row = (
            plan.rubric is None and not plan.kind and any(case.rubric for case in answers)
        )
        self._panel = Panel((plan.judge,), plan.repeats, plan.retries)
        self._made: dict[str, Graded] = {}
        gradings = [self._grading(case) for case in (answers if self._by_row else answers[:1])]
        ranges = {(grading.low, grading.high) for grading in gradings}
        if len(ranges) > 1:
            raise DatasetError(f"{plan.dataset}: the rows' rubrics have different scores: {ranges}")
        [(low, high)] = ranges
        self.low, self.high, self.scores = low, high, gradings[0].categories
        self.signature = gradings[0].signature
        if self._by_row:
            rubric = answers[0].rubric
            assert rubric is not None
            self.signature = self.signature.replace(
                f"rubric:{rubric.fingerprint()}",
                f"rubric:{row_rubrics_signature(int(low), int(high))}",
            )

    def read(self, case: Case, judgement: Judgement) -> Reading:
        """Return the verdict of a judgement of a case."""
        grading = self._grading(case)
        return grading.read(judgement, self._graded(case).request(case.item).text)

    async def item(self, case: Case, client: JudgeClient) -> Item:
        """Have the judge score a case; the item has its scores and people's."""
        try:
            polled = await self._graded(case).poll(case.item, client)
        except UnjudgeableError as error:
            raise DatasetError(f"{self._plan.dataset}: {case.item.sample.id}: {error}") from None
        return Item(
            id=case.item.sample.id,
            judge=polled.verdicts[self._plan.judge],
            people=case.people,
            question=case.question,
            category=case.category,
            model=case.model,
            words=len((case.item.answer.text or "").split()),
        )

    def _graded(self, case: Case) -> Graded:
        key = case.rubric.fingerprint() if self._by_row and case.rubric else ""
        if key not in self._made:
            self._made[key] = Graded("calibration", self._grading(case), self._panel)
        return self._made[key]

    def _grading(self, case: Case) -> Grading:
        plan = self._plan
        if plan.kind:
            return kind_grading(load_kind(plan.kind), parameters=plan.parameters)
        rubric = case.rubric if self._by_row else load(plan.rubric or "helpfulness")
        if rubric is None:
            raise DatasetError(
                f"{plan.dataset}: {case.item.sample.id} has no rubric, although others have"
            )
        return prometheus_grading(
            rubric,
            style=plan.style,
            template=plan.template,
            reference=plan.reference,
            parameters=plan.parameters,
        )


class _PairReader:
    """Reads the verdicts on pairs of answers."""

    def __init__(self, pairs: Sequence[AnswerPair], grading: PairwiseGrading) -> None:
        # In a tournament several pairs are about one sample: the prompt is one of theirs.
        self._prompts = {
            (pair.id, swapped): question_of(pair, grading, swapped=swapped).user
            for pair in pairs
            for swapped in (False, True)
        }

    def read(self, row: JudgementRow) -> tuple[float | str | None, str]:
        """Return the label of a judgement, or None and the reason."""
        prompt = self._prompts.get((row.sample_id, row.metric == SWAPPED), "")
        verdict = read_label(row.judgement.answer, prompt)
        return (None, "") if verdict is None else (verdict.label, verdict.why)


async def _cases_of(study: Study) -> tuple[CalibrationPlan, list[Case | AnswerPair]]:
    """Return the plan of a calibration and its cases.

    Raises:
        ConflictError: the dataset is not the one that the study began with.
    """
    document = dict(study.document)
    digest = document.pop("hash")
    plan = msgspec.convert(document, CalibrationPlan)
    cases, now = await in_thread(_read, plan)
    if now != digest:
        raise ConflictError(f"{plan.dataset} is not what it was when {study.id} began")
    return plan, cases


def _read(plan: CalibrationPlan) -> tuple[list[Case | AnswerPair], str]:
    """Return the cases, and the SHA-256 of the file that they were read from."""
    dataset = open_dataset(Path(plan.dataset), needs_prompt=False)
    cases = read_cases(rows(dataset), dataset.path, columns=plan.columns, limit=plan.limit)
    return cases, dataset.hash


def _pairwise_grading(plan: _Plan) -> PairwiseGrading:
    sent = {**SAMPLING, **plan.parameters}
    return PairwiseGrading(
        rubric=_rubric(plan.rubric),
        style=plan.style,
        raw=plan.template == "raw",
        retries=plan.retries,
        parameters={name: value for name, value in sent.items() if value is not None},
    )


def _rubric(named: str | dict[str, Any] | None) -> Rubric:
    return load("helpfulness" if named is None else named)


def _absolute(rubric: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    """Make the path of a file absolute, so that it means the same when the study is resumed."""
    if isinstance(rubric, str) and Path(rubric).is_file():
        return str(Path(rubric).absolute())
    return rubric


async def _each(
    cases: Iterable[_Case],
    judge: Callable[[_Case], Awaitable[_Result]],
    plan: _Plan,
    live: StudyProgress,
) -> list[_Result]:
    """Judge every case, with enough of them under way to use all of the concurrency; in order."""
    waiting = list(enumerate(cases))[::-1]
    began = time.monotonic()
    results: dict[int, _Result] = {}

    async def judge_waiting() -> None:
        while waiting:
            number, case = waiting.pop()
            results[number] = await judge(case)
            live.done += 1

    try:
        async with asyncio.TaskGroup() as group:
            # To store an answer takes a moment in which the next request can be sent.
            for _ in range(2 * plan.concurrency):
                group.create_task(judge_waiting())
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    live.seconds = time.monotonic() - began
    return [results[number] for number in range(len(results))]


async def _pairwise_report(
    comparisons: list[PairwiseComparison],
) -> tuple[dict[str, Any], dict[str, Any]]:
    report = await asyncio.to_thread(pairwise.summarise, comparisons)
    detail = {"bouts": msgspec.to_builtins(comparisons)}
    return {"pairwise": msgspec.to_builtins(report)}, detail


def _games(comparisons: Sequence[PairwiseComparison]) -> list[Game]:
    points = {"first": 1.0, "tie": 0.5, "second": 0.0}
    return [
        Game(comparison.first, comparison.second, points[comparison.winner], comparison.id)
        for comparison in comparisons
        if comparison.winner is not None
    ]


def _at_equal_style(comparisons: Sequence[PairwiseComparison]) -> StyleControl | None:
    """Rate as if all answers were equally long and had as much markdown."""
    return style_controlled(
        _games(comparisons),
        [
            (
                relative_difference(*comparison.words),
                relative_difference(*comparison.markdown),
            )
            for comparison in comparisons
        ],
        names=("length", "markdown"),
    )


def style_of(study: Study) -> StyleControl | None:
    """Return a tournament's ratings at equal style; None where no style differs."""
    style = study.report.get("style")
    return None if style is None else msgspec.convert(style, StyleControl)


def board_of(study: Study) -> Ratings:
    """Return a tournament's ratings."""
    return msgspec.convert(study.report["board"], Ratings)


def calibration_of(study: Study) -> Calibration:
    """Return a calibration's numbers. Raises ConflictError for a study without any."""
    if "calibration" not in study.report:
        raise ConflictError(f"{study.id} has no calibration of scores: it is {study.state}")
    return msgspec.convert(study.report["calibration"], Calibration)


def items_of(study: Study) -> list[Item]:
    """Return the items that a calibration was made of."""
    calibration_of(study)
    return msgspec.convert(study.detail["items"], list[Item])
