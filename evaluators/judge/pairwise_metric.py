"""Scores an answer by whether a judge finds it better than the one that its sample brings along.

    {name: pairwise, judge: openai/gpt-4o, rubric: helpfulness}

The sample's own answer is the dataset's column `answer`, or in a shadow what the client got. The
judge sees both answers in both orders: only the same winner in both counts as one, anything else is
a tie (Zheng et al. 2023, arXiv:2306.05685). So the mean is the win rate, and the difference from
the run's `dataset/answer`, which ties with itself, is how far it is from one half.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from evaluators.base import AskJudge, Output, Sample, Scorable, Score
from evaluators.judge import prometheus, rubrics
from evaluators.judge.metrics import Few, RubricName
from evaluators.judge.pairwise import Winner
from evaluators.judge.pairwise_judging import AnswerPair, PairwiseGrading, compare_pair
from evaluators.metrics.reference import last_user_text, unscored
from evaluators.text.words import is_blank
from providers.errors import RunDocumentError

_VALUES: dict[Winner, float] = {"first": 1.0, "tie": 0.5, "second": 0.0}
_MISSING = "the sample brings no answer along to compare with"


class PairwiseMetric:
    """Whether a judge prefers the answer to the sample's own, in both orders."""

    needs_reference = False
    source = "Kim et al. 2024, Prometheus 2, arXiv:2405.01535; Zheng et al. 2023, arXiv:2306.05685"
    calls = 2

    def __init__(
        self,
        *,
        judge: str,
        rubric: RubricName | dict[Any, Any] = "helpfulness",
        style: prometheus.Style = "prometheus-2",
        retries: Few = 2,
        parameters: dict[str, Any] = {},  # noqa: B006  (never changed)
    ) -> None:
        if not judge:
            raise RunDocumentError("judge: name a route", param="judge")
        loaded = rubrics.load(rubric)
        sent = {
            name: value
            for name, value in {**prometheus.SAMPLING, **parameters}.items()
            if value is not None
        }
        self.judges = (judge,)
        self._judge = judge
        self._how = PairwiseGrading(loaded, style=style, retries=retries, parameters=sent)
        self.name = f"pairwise:{loaded.name or 'rubric'}"
        self.grading = f"pairwise|{self._how.signature}"
        self.signature = f"{self.grading}|judges:{judge}|retries:{retries}"
        self.outputs = (
            Output(
                name="win_rate",
                description="Share of the pairs in which the judge prefers the answer to the "
                "sample's own in both orders; a tie counts half.",
            ),
            Output(
                name="win_rate_flipped",
                higher_is_better=None,
                description="Share of the pairs in which the judge named the same position in "
                "both orders.",
            ),
        )

    def sample_error(self, sample: Sample) -> str:
        """Return why no answer to a sample can be compared; "" where one can."""
        return _MISSING if sample.answer is None else ""

    async def judge(self, items: Sequence[Scorable], ask: AskJudge) -> list[tuple[Score, ...]]:
        """Return one tuple of scores for each answer; all answers are judged at the same time."""
        return list(await asyncio.gather(*(self._compare(item, ask) for item in items)))

    async def _compare(self, item: Scorable, ask: AskJudge) -> tuple[Score, ...]:
        sample, text = item.sample, item.answer.text or ""
        if sample.answer is None:
            return unscored(self.outputs, _MISSING)
        if text == sample.answer:
            return self._scores("tie")
        if is_blank(text) or is_blank(sample.answer):
            # No judge is needed to see which of them says something.
            return self._scores(_not_blank(text, sample.answer))
        pair = AnswerPair(
            id=sample.id, instruction=last_user_text(sample), first=text, second=sample.answer
        )
        compared = await compare_pair(pair, self._how, self._judge, ask)
        if compared.winner is None:
            return unscored(self.outputs, "a verdict is missing, or could not be read")
        return self._scores(
            compared.winner,
            flipped=compared.forward is not None
            and compared.forward == compared.backward
            and compared.forward != "tie",
        )

    def _scores(self, winner: Winner, *, flipped: bool = False) -> tuple[Score, ...]:
        rate, flips = self.outputs
        return (
            Score(output=rate.name, value=_VALUES[winner]),
            Score(output=flips.name, value=float(flipped)),
        )


def _not_blank(first: str, second: str) -> Winner:
    """Return which of two texts says something; a tie where both or neither do."""
    if is_blank(first) == is_blank(second):
        return "tie"
    return "second" if is_blank(first) else "first"
