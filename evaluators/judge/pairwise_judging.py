"""Asks a judge which of two answers is better, in both orders.

    comparison = await compare_pair(pair, grading, judge, ask)

The prompt is Prometheus' relative one, which any chat model understands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from evaluators.base import Answer, AskJudge, JudgeRequest
from evaluators.judge import prometheus, verdicts
from evaluators.judge.markdown import elements
from evaluators.judge.pairwise import Label, PairwiseComparison, Winner
from evaluators.judge.plain_text import text_of
from evaluators.judge.prometheus import JudgePrompt, Style
from evaluators.judge.prompts import fingerprint
from evaluators.judge.rubrics import Rubric
from evaluators.judge.verdicts import LabelVerdict

_encode = msgspec.json.Encoder(order="sorted").encode

SWAPPED = "swapped"
"""The metric of a judgement about a pair whose first answer is B."""


class AnswerPair(NamedTuple):
    """Two answers to the same question.

    Attributes:
        id: the question's id.
        instruction: the question.
        first: one answer.
        second: the other answer.
        reference: an answer to compare with; None without one.
        names: the names of the two that answered.
        people: the answer that people found better; None where that is not known.
        category: the kind of question.
        question: what pairs that belong together have in common, "" where each stands alone.
    """

    id: str
    instruction: str
    first: str
    second: str
    reference: str | None = None
    names: tuple[str, str] = ("first", "second")
    people: Winner | None = None
    category: str = ""
    question: str = ""


class PairwiseGrading(NamedTuple):
    """A way to compare two answers.

    Attributes:
        rubric: the question about the answers.
        style: the Prometheus whose texts and template are used.
        raw: whether the template is applied here, for a completions endpoint.
        retries: how often a request is repeated when its verdict cannot be read.
        parameters: fields that are sent with every request.
    """

    rubric: Rubric
    style: Style = "prometheus-2"
    raw: bool = False
    retries: int = 2
    parameters: Mapping[str, Any] = prometheus.SAMPLING

    @property
    def signature(self) -> str:
        """Return everything that changes the verdicts, as one text."""
        return (
            f"{self.style}|relative|template:{'raw' if self.raw else 'chat'}"
            f"|rubric:{fingerprint(self.rubric.heading())}"
            f"|prompts:{fingerprint(*prometheus.texts(self.style, 'relative'))}"
            f"|sent:{fingerprint(_encode(self.parameters).decode())}|orders:both|v:2"
        )


async def compare_pair(
    pair: AnswerPair, how: PairwiseGrading, judge: str, ask: AskJudge
) -> PairwiseComparison:
    """Have the judge compare two answers in both orders; an unreadable verdict counts as None."""
    forward, backward = await asyncio.gather(
        _verdict(pair, how, judge, ask, swapped=False),
        _verdict(pair, how, judge, ask, swapped=True),
    )
    return PairwiseComparison(
        id=pair.id,
        first=pair.names[0],
        second=pair.names[1],
        forward=forward,
        backward=backward,
        words=(len(pair.first.split()), len(pair.second.split())),
        people=pair.people,
        category=pair.category,
        question=pair.question,
        markdown=(elements(pair.first), elements(pair.second)),
    )


def question_of(pair: AnswerPair, how: PairwiseGrading, *, swapped: bool) -> JudgePrompt:
    """Return the prompt about a pair, with the first answer as A unless they are swapped."""
    first, second = (pair.second, pair.first) if swapped else (pair.first, pair.second)
    return prometheus.relative(
        how.rubric,
        instruction=pair.instruction,
        response_a=first,
        response_b=second,
        reference=pair.reference,
        style=how.style,
    )


def read_label(answer: Answer, prompt: str) -> LabelVerdict | None:
    """Return the verdict of a judge's answer about a pair; None for a failed request."""
    text = text_of(answer)
    if text is None:
        return None
    return verdicts.choice(text, ("A", "B"), prompt=prompt, finish_reason=answer.finish_reason)


async def _verdict(
    pair: AnswerPair, how: PairwiseGrading, judge: str, ask: AskJudge, *, swapped: bool
) -> Label | None:
    question = question_of(pair, how, swapped=swapped)
    for attempt in range(1 + how.retries):
        judgement = await ask(
            JudgeRequest(
                judge=judge,
                metric=SWAPPED if swapped else "pairwise",
                sample_id=pair.id,
                messages=() if how.raw else tuple(prometheus.messages(question, how.style)),
                prompt=prometheus.raw(question, how.style) if how.raw else None,
                parameters=dict(how.parameters),
                attempt=attempt,
                answer=pair.first,
            )
        )
        verdict = read_label(judgement.answer, question.user)
        if verdict is None:
            return None
        if verdict.label == "A":
            return "A"
        if verdict.label == "B":
            return "B"
    return None
