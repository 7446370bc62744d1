"""Scores answers by judges' verdicts: `Graded` is the metric, `Grading` its prompt and reader.

`metrics.py` makes them. A second output is the share of verdicts that could not be read, which are
never numbers. With repeats, another one is the deviation between them; with two or more verdicts
per answer, another one is Krippendorff's alpha over all answers, between the judges or between one
judge's repeats. Several judges have Fleiss' kappa as well. Where people have scored a random part
of the answers, the first output is the mean corrected by their scores.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import msgspec

from evaluators.base import Answer, AskJudge, Judgement, Output, Sample, Scorable, Score
from evaluators.judge.panel import Combine, Panel, PanelRequest, PanelResult, Read, Reading, poll
from evaluators.judge.people_scores import people_scores
from evaluators.stats.agreement import (
    alpha_of_sums,
    alpha_statistics,
    fleiss_of_sums,
    fleiss_statistics,
)
from evaluators.stats.prediction_powered import ppi_of_sums, ppi_statistics


class Grading(NamedTuple):
    """A way to judge answers, whoever the judge is.

    Attributes:
        name: the name of the score.
        low: the lowest score.
        high: the highest score.
        higher_is_better: as in Output.
        description: one sentence for a reader of the report.
        source: the paper that the method is from.
        signature: everything that changes the verdicts.
        ask: returns the messages (or, as a text, the prompt) for an answer; raises
            UnjudgeableError.
        read: returns the verdict that a judgement has.
        parameters: fields that are sent with every request.
        needs_reference: whether a sample without a reference cannot be judged.
        categories: every verdict that is possible.
        columns: what changes the verdicts of a run besides the signature, as the columns of its
            dataset that are read; a calibration holds for others as well.
        check: raises UnjudgeableError for a sample of which no answer can be judged; None where
            that is known with the answer only.
    """

    name: str
    low: float
    high: float
    higher_is_better: bool | None
    description: str
    source: str
    signature: str
    ask: Callable[[Sample, Answer], Sequence[dict[str, str]] | str]
    read: Read
    parameters: Mapping[str, Any]
    needs_reference: bool
    categories: tuple[float, ...]
    columns: str = ""
    check: Callable[[Sample], object] | None = None


class PeopleColumns(NamedTuple):
    """The columns of a dataset with what people say of its answers.

    Attributes:
        scores: the column with a number or a list of numbers, empty where people scored nothing.
        chance: the column with the probability with which a row was chosen for people; None where
            it was the same for all.
    """

    scores: str
    chance: str | None = None


CORRECTED = "_corrected"
"""The end of the names of corrected outputs."""


class CorrectedGrading(NamedTuple):
    """A metric as a report shows it where people have scored answers of a run.

    Attributes:
        name, outputs, signature: as in `evaluators.base.Declared`, the corrected output first.
        score_name: the name of the judge's raw score.
    """

    name: str
    outputs: tuple[Output, ...]
    signature: str
    score_name: str


class GradedDeclaration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What has to be known of a Graded to read its scores, without its prompt: it is only data.

    Attributes:
        metric: the metric's name in run documents, without the score's.
        name, low, high, higher_is_better, description, source, signature, needs_reference,
            categories, columns: as in Grading.
        judges, repeats, retries, combine: as in Panel.
        people: the columns of PeopleColumns; None where the run has none.
    """

    metric: str
    name: str
    low: float
    high: float
    higher_is_better: bool | None
    description: str
    source: str
    signature: str
    needs_reference: bool
    categories: tuple[float, ...]
    columns: str
    judges: tuple[str, ...]
    repeats: int
    retries: int
    combine: Combine
    people: tuple[str, str | None] | None


class UnjudgeableError(Exception):
    """A sample lacks something that the prompt needs; the message names it."""


class Graded:
    """Scores answers by a grading and a panel of judges.

    See `evaluators.base.JudgeMetric` and `evaluators.base.SampleCheck`.
    """

    def __init__(
        self, metric: str, grading: Grading, panel: Panel, people: PeopleColumns | None = None
    ) -> None:
        self.name = f"{metric}:{grading.name}"
        self.judges = panel.judges
        self.calls = panel.calls
        self.needs_reference = grading.needs_reference
        self.source = grading.source
        self.grading = grading.signature
        self.signature = (
            f"{grading.signature}{grading.columns}|judges:{','.join(panel.judges)}|repeats:{panel.repeats}"
            f"|retries:{panel.retries}|combine:{panel.combine}"
            f"{f'|people:{people.scores}|chance:{people.chance or None}' if people else ''}"
        )
        self.outputs = _outputs(grading, panel, people)
        self._grading = grading
        self._panel = panel
        self._people = people

    def declaration(self) -> GradedDeclaration:
        """Return what `declared` takes."""
        grading, panel, people = self._grading, self._panel, self._people
        return GradedDeclaration(
            metric=self.name.removesuffix(f":{grading.name}"),
            name=grading.name,
            low=grading.low,
            high=grading.high,
            higher_is_better=grading.higher_is_better,
            description=grading.description,
            source=grading.source,
            signature=grading.signature,
            needs_reference=grading.needs_reference,
            categories=grading.categories,
            columns=grading.columns,
            judges=panel.judges,
            repeats=panel.repeats,
            retries=panel.retries,
            combine=panel.combine,
            people=None if people is None else (people.scores, people.chance),
        )

    @classmethod
    def declared(cls, declaration: GradedDeclaration) -> Self:
        """Return a metric whose scores can be read, and that can judge nothing."""
        grading = Grading(
            name=declaration.name,
            low=declaration.low,
            high=declaration.high,
            higher_is_better=declaration.higher_is_better,
            description=declaration.description,
            source=declaration.source,
            signature=declaration.signature,
            ask=_refuse,
            read=_unread,
            parameters={},
            needs_reference=declaration.needs_reference,
            categories=declaration.categories,
            columns=declaration.columns,
        )
        panel = Panel(
            judges=declaration.judges,
            repeats=declaration.repeats,
            retries=declaration.retries,
            combine=declaration.combine,
        )
        people = None if declaration.people is None else PeopleColumns(*declaration.people)
        return cls(declaration.metric, grading, panel, people)

    @property
    def score_name(self) -> str:
        """Return the name of the judge's raw score."""
        return self._grading.name

    @property
    def people(self) -> PeopleColumns | None:
        """Return the columns with what people say; None where the run has none."""
        return self._people

    @property
    def scale(self) -> tuple[float, float]:
        """Return the lowest and the highest score."""
        return self._grading.low, self._grading.high

    @property
    def gives_shares(self) -> bool:
        """Whether every verdict is 0 or 1, so that the mean is a share."""
        return set(self._grading.categories) == {0.0, 1.0}

    def corrected_by_labels(self) -> CorrectedGrading:
        """Return the metric with the output that labels of a run's answers add to it."""
        outputs = self.outputs
        if self._people is None:
            outputs = (*_headline(self._grading, corrected=True), *outputs[1:])
        return CorrectedGrading(self.name, outputs, self.signature, self.score_name)

    def sample_error(self, sample: Sample) -> str:
        """Return why no answer to a sample can be judged; "" where one can."""
        try:
            if self._grading.check is not None:
                self._grading.check(sample)
        except UnjudgeableError as error:
            return str(error)
        return ""

    async def judge(self, items: Sequence[Scorable], ask: AskJudge) -> list[tuple[Score, ...]]:
        """Return one tuple of scores for each answer; all answers are judged at the same time."""
        return list(await asyncio.gather(*(self._judge_answer(item, ask) for item in items)))

    async def _judge_answer(self, item: Scorable, ask: AskJudge) -> tuple[Score, ...]:
        try:
            request = self.request(item)
        except UnjudgeableError as error:
            return tuple(
                Score(output=output.name, value=None, error=str(error)) for output in self.outputs
            )
        result = await poll(self._panel, ask, request, self._grading.read)
        scores = self._scores(result)
        if self._people is None:
            return scores
        return (self._corrected(item, result, self._people), *scores)

    def request(self, item: Scorable) -> PanelRequest:
        """Return the request that every judge gets about an answer. Raises UnjudgeableError."""
        prompt = self._grading.ask(item.sample, item.answer)
        return PanelRequest(
            metric=self.name,
            sample_id=item.sample.id,
            messages=() if isinstance(prompt, str) else tuple(prompt),
            prompt=prompt if isinstance(prompt, str) else None,
            parameters=self._grading.parameters,
            answer=item.answer.text or "",
        )

    async def poll(self, item: Scorable, ask: AskJudge) -> PanelResult:
        """Return the verdicts of the panel on one answer. Raises UnjudgeableError."""
        return await poll(self._panel, ask, self.request(item), self._grading.read)

    def _scores(self, result: PanelResult) -> tuple[Score, ...]:
        note = f"a judge's target failed: {result.why}"[:200] if result.failed else ""
        given = self._panel.calls - result.failed
        values: dict[str, tuple[float | None, tuple[float, ...]]] = {
            "": (result.value, ()),
            "_unparsed": (result.unparsed / given if given else None, ()),
            "_deviation": (result.deviation, ()),
            "_alpha": _alpha(result),
            "_fleiss": _fleiss(result, self._grading.categories),
        }
        prefix = len(self._grading.name)
        scores = []
        for output in self.outputs[self._people is not None :]:
            value, sums = values[output.name[prefix:]]
            error = "" if value is not None else result.why or "fewer than two verdicts"
            has_note = value is not None and output.name == self._grading.name
            scores.append(
                Score(
                    output=output.name,
                    value=value,
                    statistics=sums,
                    error=error,
                    note=note if has_note else "",
                    verdicts=result.readings if output.name == self._grading.name else (),
                )
            )
        return tuple(scores)

    def _corrected(self, item: Scorable, result: PanelResult, columns: PeopleColumns) -> Score:
        """Return what an answer says of people's mean, with their score of it or without."""
        name = self.outputs[0].name
        if result.value is None:
            return Score(output=name, value=None, error=result.why)
        if item.answer.text != item.sample.answer:
            why = f"people's scores ({columns.scores}) are of the dataset's answer, not of this one"
            return Score(output=name, value=None, error=why)
        fields = item.sample.fields
        try:
            people = people_score(fields.get(columns.scores))
            chance = None if columns.chance is None else 1.0
            if people is not None and columns.chance is not None:
                chance = _chance(fields.get(columns.chance))
        except ValueError as error:
            return Score(output=name, value=None, error=f"people's scores: {error}")
        unit = item.sample.cluster or item.sample.id
        return corrected_score(name, result.value, people, unit=unit, chance=chance)


_NO_PROMPT = "the metric is only declared, without its prompt"


def _refuse(_sample: Sample, _answer: Answer) -> str:
    raise UnjudgeableError(_NO_PROMPT)


def _unread(_judgement: Judgement, _judge: str) -> Reading:
    return Reading(None, _NO_PROMPT)


def corrected_name(score_name: str) -> str:
    """Return the name of the output with the corrected mean of a judge's score."""
    return f"{score_name}{CORRECTED}"


def raw_name(name: str) -> str:
    """Return the name of the raw score that a corrected output is of; other names as they are."""
    return name.removesuffix(CORRECTED)


def corrected_score(
    output: str, judge: float, people: float | None, *, unit: str, chance: float | None
) -> Score:
    """Return what an answer says of people's mean, with their score of it or without.

    Args:
        output: the corrected output's name.
        judge: the judge's score.
        people: people's score; None without one.
        unit: the answer's cluster, or its sample where that stands alone.
        chance: the probability with which it was chosen for people (any without a score); None
            where it was the same for all.
    """
    # Answers that belong together are in one fold.
    fold = zlib.crc32(unit.encode(errors="replace"))
    return Score(
        output=output,
        value=judge if people is None else people,
        statistics=ppi_statistics(judge, people, fold, probability=chance),
    )


def _chance(value: Any) -> float:
    try:
        chance = float(value)
    except (TypeError, ValueError):
        chance = math.nan
    if not 0 < chance <= 1:
        raise ValueError(f"{value!r} is no probability above 0")
    return chance


def people_score(value: Any) -> float | None:
    """Return the mean of people's scores in a column; None for an empty one.

    Raises:
        ValueError: it has something else than numbers.
    """
    scores = people_scores(value)
    return statistics.fmean(scores) if scores else None


def _alpha(result: PanelResult) -> tuple[float | None, tuple[float, ...]]:
    """Return 0 with an answer's statistics, which sum to alpha; None for fewer than 2 verdicts."""
    several = [values for values in result.verdicts.values() if values]
    rated = several[0] if len(result.verdicts) == 1 and several else ()
    if len(result.verdicts) > 1:
        rated = tuple(sum(values) / len(values) for values in several)
    return (0.0, alpha_statistics(rated)) if len(rated) > 1 else (None, ())


def _fleiss(
    result: PanelResult, categories: Sequence[float]
) -> tuple[float | None, tuple[float, ...]]:
    """Do as `_alpha` does, with each judge's median verdict; None unless every judge gave one."""
    if len(result.verdicts) < 2 or not all(result.verdicts.values()):
        return None, ()
    labels = [statistics.median_low(values) for values in result.verdicts.values()]
    # An expected score is no label: the nearest one is.
    nearest = [min(categories, key=lambda category: abs(category - label)) for label in labels]
    return 0.0, fleiss_statistics(nearest, categories)


def _headline(grading: Grading, *, corrected: bool) -> list[Output]:
    """Return the judge's score, behind the corrected one where people have scored answers."""
    name = grading.name
    outputs = []
    if corrected:
        outputs.append(
            Output(
                name=corrected_name(name),
                low=grading.low,
                high=grading.high,
                higher_is_better=grading.higher_is_better,
                corpus=ppi_of_sums,
                corrects=name,
                description=f"{grading.description} The mean that people would give, from their "
                "scores of some answers and the judge's of all (PPI++).",
            )
        )
    outputs.append(
        Output(
            name=name,
            low=grading.low,
            high=grading.high,
            higher_is_better=grading.higher_is_better,
            description=f"{'Raw, as the judge scores: ' if corrected else ''}{grading.description}",
            raw=corrected,
        )
    )
    return outputs


def _outputs(grading: Grading, panel: Panel, people: PeopleColumns | None) -> tuple[Output, ...]:
    name = grading.name
    outputs = _headline(grading, corrected=people is not None)
    outputs.append(
        Output(
            name=f"{name}_unparsed",
            higher_is_better=None,
            description="Share of the judges' verdicts that could not be read.",
        )
    )
    if panel.repeats > 1:
        outputs.append(
            Output(
                name=f"{name}_deviation",
                higher_is_better=None,
                high=None,
                description="Standard deviation between a judge's repeats.",
            )
        )
    if panel.calls > 1:
        between = "judges" if len(panel.judges) > 1 else "repeats of the judge"
        outputs.append(
            Output(
                name=f"{name}_alpha",
                higher_is_better=None,
                low=-1.0,
                corpus=alpha_of_sums,
                description=f"Krippendorff's alpha (interval) between the {between}.",
            )
        )
    if len(panel.judges) > 1:
        outputs.append(
            Output(
                name=f"{name}_fleiss",
                higher_is_better=None,
                low=-1.0,
                corpus=fleiss_of_sums,
                description="Fleiss' kappa between the judges.",
            )
        )
    return tuple(outputs)
