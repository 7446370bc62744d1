"""Claims and decisions: what is read, what is counted, and what must not be guessed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.base import Answer, Judgement, Sample, Scorable
from evaluators.judge.rag import Rag, read_claims, read_decisions
from evaluators.metrics.registry import build

PASSAGES = ["Lyon lies on the Rhone.", "Paris is the capital.", "Bread is good."]
SAMPLE = Sample(
    id="q1",
    messages=({"role": "user", "content": "What is the capital of France?"},),
    references=("Paris. It lies on the Seine.",),
    fields={"context": PASSAGES},
)
ANSWER = Answer(text="Paris is the capital. It has a river. I like bread.")
CLAIMS = ["Paris is the capital of France.", "Paris has a river.", "The author likes bread."]


class Judge:
    """Answers by which step it is asked."""

    def __init__(self, **answers):
        self.asked = []
        self.answers = {
            "claims": json.dumps({"claims": CLAIMS}),
            "of_reference": json.dumps(
                {"claims": ["Paris is the capital.", "Paris is on the Seine."]}
            ),
            "supported": json.dumps({"verdicts": ["yes", "no", "no"]}),
            "recalled": json.dumps({"verdicts": ["yes", "no"]}),
            "relevant": json.dumps({"verdicts": ["yes", "yes", "no"]}),
            "useful": json.dumps({"verdicts": ["no", "yes", "no"]}),
            **answers,
        }

    async def __call__(self, inquiry):
        self.asked.append(inquiry)
        prompt = inquiry.messages[1]["content"]
        if "Break the text down" in prompt:
            step = "of_reference" if "Seine" in prompt else "claims"
        elif "numbered passages" in prompt:
            step = "useful"
        elif "helps to answer" in prompt:
            step = "relevant"
        else:
            step = "recalled" if "Seine" in prompt else "supported"
        said = self.answers[step]
        if said is None:
            return Judgement(answer=Answer(text=None, error="down"))
        if isinstance(said, Answer):
            return Judgement(answer=said)
        return Judgement(answer=Answer(text=said))


async def scored(judge, sample=SAMPLE, answer=ANSWER):
    metric = build({"name": "rag", "judge": "up/judge"})
    [scores] = await metric.judge([Scorable(sample, answer)], judge)
    assert [one.output for one in scores] == [one.name for one in metric.outputs]
    return {one.output: one for one in scores}


async def test_the_four_measures():
    judge = Judge()
    found = await scored(judge)
    assert found["faithfulness"].value == pytest.approx(1 / 3)
    assert found["answer_relevance"].value == pytest.approx(2 / 3)
    assert found["context_recall"].value == 0.5
    assert found["context_precision"].value == 0.5
    assert found["rag_unparsed"].value == 0
    assert len(judge.asked) == Rag.calls
    supported = [one for one in judge.asked if "follows from the context" in str(one.messages)]
    assert "1. Paris is the capital of France.\n2. Paris has a river." in str(
        supported[0].messages[1]["content"]
    )


@pytest.mark.parametrize(
    ("said", "value"),
    [(["yes", "no", "yes"], (1 + 2 / 3) / 2), (["no"] * 3, 0.0), (["yes"] * 3, 1.0)],
)
async def test_useful_passages_should_come_first(said, value):
    found = await scored(Judge(useful=json.dumps({"verdicts": said})))
    assert found["context_precision"].value == pytest.approx(value)


async def test_what_cannot_be_read_is_asked_again_and_never_a_number():
    judge = Judge(supported="I would say most of them.")
    found = await scored(judge)
    assert found["faithfulness"].value is None
    assert "could not be read" in found["faithfulness"].error
    assert found["answer_relevance"].value == pytest.approx(2 / 3)
    assert found["rag_unparsed"].value == pytest.approx(1 / 6)
    assert len(judge.asked) == Rag.calls + 2


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (Answer(text="<think>- yes\n- no\n- no"), None),
        (Answer(text="<think>- yes</think>- yes\n- no\n- no"), 1 / 3),
        (Answer(text="- yes\n- no\n- no", finish_reason="length"), None),
        (Answer(text='{"verdicts": ["yes", "no", "no"', finish_reason="length"), None),
        (Answer(text='{"verdicts": [1, 0, 0]}\n\n', finish_reason="length"), 1 / 3),
        (Answer(text=None, error="thoughts only", error_code="no_text"), None),
    ],
)
async def test_a_step_that_was_cut_off_has_no_decisions(answer, value):
    judge = Judge(supported=answer)
    found = await scored(judge)
    assert found["faithfulness"].value == (None if value is None else pytest.approx(value))
    again = 2 if value is None else 0
    assert len(judge.asked) == Rag.calls + again
    assert found["rag_unparsed"].value == (pytest.approx(1 / 6) if again else 0)


async def test_a_wrong_number_of_decisions_is_no_decision():
    found = await scored(Judge(supported=json.dumps({"verdicts": ["yes", "yes"]})))
    assert found["faithfulness"].value is None


async def test_a_judge_that_is_down():
    found = await scored(Judge(claims=None))
    assert found["faithfulness"].value is None
    assert "down" in found["faithfulness"].error
    assert found["context_recall"].value == 0.5


async def test_without_reference_context_or_claims():
    alone = Sample(id="q", messages=SAMPLE.messages, fields=SAMPLE.fields)
    found = await scored(Judge(), alone)
    assert (found["context_recall"].error, found["context_precision"].error) == (
        "no reference",
    ) * 2
    assert found["faithfulness"].value is not None
    bare = Sample(id="q", messages=SAMPLE.messages, references=SAMPLE.references)
    assert {one.error for one in (await scored(Judge(), bare)).values()} == {"no column 'context'"}
    nothing = await scored(Judge(claims='{"claims": []}'))
    assert (nothing["faithfulness"].value, nothing["faithfulness"].error) == (None, "no claim")


@pytest.mark.parametrize(
    ("answer", "claims"),
    [
        ('{"claims": ["a", "b"]}', ["a", "b"]),
        ('```json\n{"claims": ["a"]}\n```', ["a"]),
        ('Here you are: {"claims": ["a"]} Anything else?', ["a"]),
        ("1. a thing\n2. another", ["a thing", "another"]),
        ("- a\n* b", ["a", "b"]),
        ('{"claims": []}', []),
        ('{"claims": [1]}', None),
        ("none at all", None),
        ("", None),
    ],
)
def test_claims_are_read(answer, claims):
    assert read_claims(answer) == claims


@pytest.mark.parametrize(
    ("answer", "decisions"),
    [
        ('{"verdicts": ["yes", "No."]}', [True, False]),
        ('{"verdicts": [1, 0]}', [True, False]),
        ('{"verdicts": [true, false]}', [True, False]),
        ("1. Yes\n2. no", [True, False]),
        ('{"verdicts": ["yes", "perhaps"]}', None),
        ('{"verdicts": ["yes"]}', None),
        ('{"verdicts": [2, 0]}', None),
        ("yes", None),
    ],
)
def test_decisions_are_read(answer, decisions):
    assert read_decisions(answer, 2) == decisions


@given(st.text(), st.integers(0, 5))
def test_no_text_breaks_the_parsers(answer, count):
    read_claims(answer)
    found = read_decisions(answer, count)
    assert found is None or len(found) == count
