"""The metric `pairwise`: an answer against the one that its sample brings along."""

import pytest

from evaluators.base import Answer, Judgement, JudgeMetric, Sample, SampleCheck, Scorable
from evaluators.metrics.registry import build


def item(text: str, own: str | None) -> Scorable:
    messages = ({"role": "user", "content": "What is the capital of France?"},)
    return Scorable(Sample(id="1", messages=messages, answer=own), Answer(text=text))


class Judge:
    """A judge that prefers the answer with a text in it, or else always the same position."""

    def __init__(self, prefers: str = "", position: str = "A", error: str | None = None) -> None:
        self.prefers = prefers
        self.position = position
        self.error = error
        self.prompts: list[str] = []

    async def __call__(self, request) -> Judgement:
        prompt = request.messages[-1]["content"]
        self.prompts.append(prompt)
        if self.error:
            return Judgement(answer=Answer(text=None, error=self.error, error_code="down"))
        named = self.position
        if self.prefers:
            first, second = prompt.index("###Response A:"), prompt.index("###Response B:")
            named = "A" if first < prompt.index(self.prefers) < second else "B"
        return Judgement(answer=Answer(text=f"Feedback: so. [RESULT] {named}"))


async def scores(text, own, judge):
    metric = build({"name": "pairwise", "judge": "up/judge"})
    [found] = await metric.judge([item(text, own)], judge)
    return [score.value for score in found], found[0].error


@pytest.mark.parametrize(
    ("judge", "expected", "requests"),
    [
        (Judge(prefers="Paris"), [1.0, 0.0], 2),
        (Judge(prefers="Lyon"), [0.0, 0.0], 2),
        # The same position twice has seen no difference.
        (Judge(position="A"), [0.5, 1.0], 2),
    ],
)
async def test_the_winner_in_both_orders_counts(judge, expected, requests):
    assert await scores("It is Paris.", "It is Lyon.", judge) == (expected, "")
    assert len(judge.prompts) == requests


@pytest.mark.parametrize(
    ("text", "own", "expected"),
    [("Paris", "Paris", 0.5), ("", "Paris", 0.0), ("Paris", " \n", 1.0), ("", " ", 0.5)],
)
async def test_no_judge_is_needed_for_the_same_text_or_none(text, own, expected):
    judge = Judge()
    assert (await scores(text, own, judge))[0] == [expected, 0.0]
    assert not judge.prompts


async def test_a_judge_that_fails_gives_no_score():
    values, error = await scores("Paris", "Lyon", Judge(error="down"))
    assert values == [None, None]
    assert error


async def test_a_sample_without_an_answer_is_refused():
    metric = build({"name": "pairwise", "judge": "up/judge"})
    assert isinstance(metric, JudgeMetric)
    assert isinstance(metric, SampleCheck)
    assert metric.sample_error(item("x", "y").sample) == ""
    assert metric.sample_error(item("x", None).sample)
    assert (await scores("Paris", None, Judge()))[0] == [None, None]
