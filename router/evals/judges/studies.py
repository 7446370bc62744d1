"""Studies of judges: calibrations against people, comparisons of two routes, tournaments.

    study = await studies.begin(CalibrationPlan(judge="laptop/prometheus", dataset="human.jsonl"))
    study = await studies.execute(study.id, live=live)
    study.report["calibration"]

A study asks as a run does: every judgement is kept before it is read, and one that is carried out
again after a crash pays for no finished judgement twice. It never uses what others have paid for.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from evaluators.base import Answer, Sample
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
)
from evaluators.judge.pairwise import PairwiseComparison
from evaluators.judge.pairwise_judging import AnswerPair, PairwiseGrading, compare_pair
from evaluators.judge.panel import Panel
from evaluators.judge.prometheus import SAMPLING, Style
from evaluators.judge.rubrics import Rubric, load
from evaluators.metrics.reference import last_user_text, references
from evaluators.stats.ratings import Game, Ratings, rate, schedule
from providers.errors import ConflictError, DatasetError, NotFoundError, RunDocumentError
from router.evals.hardware_cost import hardware_costs
from router.evals.judges.requests import JudgeClient
from router.evals.requests import EvalRequester
from router.store.protocol import Store
from router.store.studies import Study, StudyKind

_Case = TypeVar("_Case")
_Found = TypeVar("_Found")

_PREFIX: dict[StudyKind, str] = {"calibration": "cal", "comparison": "cmp", "tournament": "trn"}
OWN_RUBRICS = "its own"


class _Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every study says.

    Attributes:
        judge: the route that judges.
        rubric: a stock rubric, a file, or a rubric written in place; None for `helpfulness`, or
            for the rubrics that a dataset's rows have.
        style: which Prometheus' texts and template.
        template: `chat`, or `raw` for a completions endpoint.
        parameters: instead of or besides the published sampling; null leaves one out.
        retries: how often a judge is asked again when its verdict cannot be read.
        concurrency: requests in flight at a time.
        limit: only the first so many rows; None for all.
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
        columns: its own column names to those that are known.
        kind: a judge of `evaluators/judge/built_in` instead of Prometheus.
        reference: as for the metric `prometheus`.
        repeats: how often each answer is judged.
    """

    dataset: str
    columns: dict[str, str] = {}
    kind: str = ""
    reference: UseReference = "auto"
    repeats: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1


class PairwisePlan(_Plan, frozen=True, kw_only=True):
    """Let a judge compare the answers that a run has.

    Attributes:
        run: its id.
        routes: two for a comparison, two or more for a tournament.
        full: whether all pairs meet on every sample.
        seed: of the schedule.
    """

    run: str
    routes: tuple[str, ...]
    full: bool = False
    seed: int = 0


class StudyProgress(msgspec.Struct):
    """How far a study is; changes as it goes.

    Attributes:
        cases: how many there are.
        done: how many are judged.
        calls: requests that were sent by this process.
        cost_usd: what they cost, as far as it is known.
        seconds: how long this process took for all verdicts, once they are there.
    """

    cases: int = 0
    done: int = 0
    calls: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0


class Studies:
    """The studies of a store."""

    def __init__(
        self, store: Store, asker: EvalRequester, *, now: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._asker = asker
        self._now = now

    async def calibration(self, plan: CalibrationPlan) -> Study:
        """Check a calibration down to the last row, and keep it; nothing is asked yet.

        Raises:
            DatasetError, RunDocumentError, ModelNotFoundError: what is wrong, and where.
        """
        self._asker.check_route(plan.judge)
        path = str(Path.cwd() / plan.dataset)
        plan = msgspec.structs.replace(plan, dataset=path, rubric=_absolute(plan.rubric))
        cases, digest = await in_thread(_read, plan)
        if isinstance(cases[0], AnswerPair):
            grading = _duelling(plan).signature
        else:
            grading = _Gradings(plan, cases).signature
        return await self._keep("calibration", plan, grading, Path(path).stem, hash=digest)

    async def duels(self, plan: PairwisePlan, kind: Literal["comparison", "tournament"]) -> Study:
        """Check a comparison or a tournament, and keep it; nothing is asked yet.

        Raises:
            NotFoundError: no such run.
            RunDocumentError: a route that the run did not ask, or too few.
        """
        self._asker.check_route(plan.judge)
        run = await self._store.run(plan.run)
        if run is None:
            raise NotFoundError(f"There is no run {plan.run!r}.")
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
        return await self._keep(kind, plan, _duelling(plan).signature, run.name)

    async def execute(self, study_id: str, *, live: StudyProgress | None = None) -> Study:
        """Ask what is not asked yet, and report; the study with its report.

        Raises:
            NotFoundError: no such study.
            ConflictError: it is completed, or its dataset is not what it was.
        """
        study = await self._store.study(study_id)
        if study.state == "completed":
            raise ConflictError(f"{study.id} is completed: see evalrouter judge show {study.id}")
        live = live or StudyProgress()
        before = sum(use.calls for use in await self._store.judge_use(study.id))
        if study.kind == "calibration":
            report, detail = await self._calibrate(study, live)
        else:
            report, detail = await self._duel(study, live)
        use = await self._store.judge_use(study.id)
        calls = sum(one.calls for one in use) - before
        report["use"] = [msgspec.to_builtins(one) for one in use]
        report["this_attempt"] = {
            "requests": calls,
            "seconds": live.seconds,
            "requests_per_s": calls / live.seconds if live.seconds else None,
        }
        machines = await hardware_costs(self._store, study.id, self._asker.prices)
        report["hardware"] = [msgspec.to_builtins(one) for one in machines]
        study = msgspec.structs.replace(
            study,
            state="completed",
            finished_at=self._now(),
            report=report,
            detail=detail,
        )
        await self._store.set_study(study)
        return study

    async def _calibrate(
        self, study: Study, live: StudyProgress
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        document = dict(study.document)
        digest = document.pop("hash")
        plan = msgspec.convert(document, CalibrationPlan)
        cases, now = await in_thread(_read, plan)
        if now != digest:
            raise ConflictError(f"{plan.dataset} is not what it was when {study.id} began")
        live.cases = len(cases)
        bench = self._bench(study, plan, live)
        if isinstance(cases[0], AnswerPair):
            pairs = [one for one in cases if isinstance(one, AnswerPair)]
            how = _duelling(plan)
            bouts = await _each(
                pairs, lambda one: compare_pair(one, how, plan.judge, bench), plan, live
            )
            return await _bouts_report(bouts)
        gradings = _Gradings(plan, cases)

        async def one(case: Case) -> Item:
            return await gradings.item(case, bench)

        answers = [case for case in cases if isinstance(case, Case)]
        items = await _each(answers, one, plan, live)
        found: Calibration = await asyncio.to_thread(
            calibrate, items, low=gradings.low, high=gradings.high, scores=gradings.scores
        )
        read = sum(len(item.judge) for item in items)
        verdicts = {"wanted": len(items) * plan.repeats, "read": read}
        report = {"calibration": msgspec.to_builtins(found), "verdicts": verdicts}
        return report, {"items": msgspec.to_builtins(items)}

    async def _duel(
        self, study: Study, live: StudyProgress
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        plan = msgspec.convert(study.document, PairwisePlan)
        pairs = await self._pairs(plan)
        if not pairs:
            raise ConflictError(f"{plan.run} has no sample that two of the routes have answered")
        live.cases = len(pairs)
        bench, how = self._bench(study, plan, live), _duelling(plan)
        bouts = await _each(
            pairs, lambda one: compare_pair(one, how, plan.judge, bench), plan, live
        )
        report, detail = await _bouts_report(bouts)
        if study.kind == "tournament":
            board = await asyncio.to_thread(rate, _games(bouts))
            report = {"board": msgspec.to_builtins(board), "pairwise": report["pairwise"]}
        return report, detail

    async def _pairs(self, plan: PairwisePlan) -> list[AnswerPair]:
        """The answers to compare, by the schedule; what a route did not answer is left out."""
        samples: dict[str, Sample] = {}
        async for sample in self._store.samples(plan.run):
            if plan.limit is not None and len(samples) == plan.limit:
                break
            samples[sample.id] = sample
        texts: dict[tuple[str, str], str] = {}
        async for one in self._store.results(plan.run):
            cell, answer = one.cell, one.answer
            if cell.repeat == 0 and answer is not None and answer.text is not None:
                texts[cell.sample_id, cell.route] = answer.text
        wanted = schedule(plan.routes, list(samples), full=plan.full, seed=plan.seed)
        return [
            AnswerPair(
                id=sample_id,
                instruction=last_user_text(samples[sample_id]),
                first=texts[sample_id, first],
                second=texts[sample_id, second],
                reference=next(iter(references(samples[sample_id])), None),
                names=(first, second),
            )
            for first, second, sample_id in wanted
            if (sample_id, first) in texts and (sample_id, second) in texts
        ]

    def _bench(self, study: Study, plan: _Plan, live: StudyProgress) -> JudgeClient:
        def pay(answer: Answer) -> None:
            live.calls += 1
            live.cost_usd += answer.cost_usd or 0.0

        return JudgeClient(
            self._store, self._asker, study.id, concurrency=plan.concurrency, share=False, pay=pay
        )

    async def _keep(
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
    """How the answers of a calibration are graded: all alike, or each by its row's own rubric."""

    def __init__(self, plan: CalibrationPlan, cases: Sequence[Case | AnswerPair]) -> None:
        answers = [case for case in cases if isinstance(case, Case)]
        self._plan = plan
        self._own = plan.rubric is None and not plan.kind and any(one.rubric for one in answers)
        self._panel = Panel((plan.judge,), plan.repeats, plan.retries)
        self._made: dict[str, Graded] = {}
        gradings = [self._grading(case) for case in (answers if self._own else answers[:1])]
        ranges = {(one.low, one.high) for one in gradings}
        if len(ranges) > 1:
            raise DatasetError(f"{plan.dataset}: the rows' rubrics have different scores: {ranges}")
        [(low, high)] = ranges
        self.low, self.high, self.scores = low, high, gradings[0].categories
        self.signature = gradings[0].signature
        if self._own:
            rubric = answers[0].rubric
            assert rubric is not None
            self.signature = self.signature.replace(
                f"rubric:{rubric.fingerprint()}", f"rubric:{OWN_RUBRICS}"
            )

    async def item(self, case: Case, bench: JudgeClient) -> Item:
        """A case with what the judge says of it."""
        key = case.rubric.fingerprint() if self._own and case.rubric else ""
        if key not in self._made:
            self._made[key] = Graded("calibration", self._grading(case), self._panel)
        try:
            polled = await self._made[key].poll(case.item, bench)
        except UnjudgeableError as error:
            raise DatasetError(f"{self._plan.dataset}: {case.item.sample.id}: {error}") from None
        return Item(
            id=case.item.sample.id,
            judge=polled.verdicts[self._plan.judge],
            people=case.people,
            question=case.instruction,
            category=case.category,
            model=case.model,
            words=len((case.item.answer.text or "").split()),
        )

    def _grading(self, case: Case) -> Grading:
        plan = self._plan
        if plan.kind:
            return kind_grading(load_kind(plan.kind), parameters=plan.parameters)
        rubric = case.rubric if self._own else load(plan.rubric or "helpfulness")
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


def _read(plan: CalibrationPlan) -> tuple[list[Case | AnswerPair], str]:
    """The cases and the SHA-256 of what they were read from."""
    dataset = open_dataset(Path(plan.dataset), needs_prompt=False)
    cases = read_cases(rows(dataset), dataset.path, columns=plan.columns, limit=plan.limit)
    return cases, dataset.hash


def _duelling(plan: _Plan) -> PairwiseGrading:
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
    """With the path of a file made absolute, so that it means the same when it is resumed."""
    if isinstance(rubric, str) and Path(rubric).is_file():
        return str(Path(rubric).absolute())
    return rubric


async def _each(
    cases: Iterable[_Case],
    judge: Callable[[_Case], Awaitable[_Found]],
    plan: _Plan,
    live: StudyProgress,
) -> list[_Found]:
    """What comes of every case, in order, with enough of them under way to fill all places."""
    waiting = list(enumerate(cases))[::-1]
    began = time.monotonic()
    found: dict[int, _Found] = {}

    async def work() -> None:
        while waiting:
            number, case = waiting.pop()
            found[number] = await judge(case)
            live.done += 1

    try:
        async with asyncio.TaskGroup() as group:
            # Keeping an answer takes a moment in which its place is free for the next one.
            for _ in range(2 * plan.concurrency):
                group.create_task(work())
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    live.seconds = time.monotonic() - began
    return [found[number] for number in range(len(found))]


async def _bouts_report(bouts: list[PairwiseComparison]) -> tuple[dict[str, Any], dict[str, Any]]:
    report = await asyncio.to_thread(pairwise.summarise, bouts)
    return {"pairwise": msgspec.to_builtins(report)}, {"bouts": msgspec.to_builtins(bouts)}


def _games(bouts: Sequence[PairwiseComparison]) -> list[Game]:
    points = {"first": 1.0, "tie": 0.5, "second": 0.0}
    return [
        Game(bout.first, bout.second, points[bout.winner], bout.id)
        for bout in bouts
        if bout.winner is not None
    ]


def board_of(study: Study) -> Ratings:
    """A tournament's ratings."""
    return msgspec.convert(study.report["board"], Ratings)


def calibration_of(study: Study) -> Calibration:
    """A calibration's numbers. Raises ConflictError for one of pairs, or without a report."""
    if "calibration" not in study.report:
        raise ConflictError(f"{study.id} has no calibration of scores: it is {study.state}")
    return msgspec.convert(study.report["calibration"], Calibration)


def items_of(study: Study) -> list[Item]:
    """What a calibration was made of."""
    calibration_of(study)
    return msgspec.convert(study.detail["items"], list[Item])
