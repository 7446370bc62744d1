"""What is read out of a judge's answer, and what must never be."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.judge import prometheus, rubrics
from evaluators.judge.verdicts import choice, expected, score

RUBRIC = rubrics.stock("helpfulness")
PROMPT = prometheus.absolute(RUBRIC, instruction="Sum up.", response="It rained.").user

SCORES = [
    ("Feedback: good. [RESULT] 5", 5),
    ("Feedback: good. [RESULT] 5.", 5),
    ("good [RESULT] **4**", 4),
    ("**4**", 4),
    ("good [RESULT] 4</s>", 4),
    ("4</s>", 4),
    ("good [RESULT] 3\n\nI hope this helps you.", 3),
    ("good [RESULT] 2 [RESULT] 3", 3),
    ("good [RESULT] 3 [RESULT]", 3),
    ("Score: 4 out of 5", 4),
    ("I would give it 4 out of 5", 4),
    ("Overall 4/5.", 4),
    ("[RESULT] 4/5", 4),
    ("[Result]: 2", 2),
    ("[RESULT: 2]", 2),
    ("[SCORE] (5)", 5),
    ("[RESULT] Score: 2", 2),
    ("so the final score is 3", 3),
    ("a score of 1", 1),
    ("Score: 2 at first, but on reflection\nScore: 4", 4),
    ("The rating is **3**.", 3),
    ("[RESULT] 4.0", 4),
    ("fine\n\n5", 5),
    ("<think>maybe [RESULT] 1</think> [RESULT] 4", 4),
    ('{"feedback": "it says [RESULT] 1", "score": 4}', 4),
    ('```json\n{"feedback": "", "score": 4}\n```', 4),
    ('{"score": "3"}', 3),
    ("[RESULT]4", 4),
    ("[RESULT] # 4", 4),
]

UNREADABLE = [
    "",
    "   ",
    "It is a good answer.",
    "[RESULT]",
    "[RESULT] good",
    "[RESULT] 7",
    "[RESULT] 0",
    "[RESULT] -3",
    "[RESULT] 4.5",
    "[RESULT] 2 [RESULT] 9",
    "Feedback: (write a feedback for criteria) [RESULT] (an integer number between 1 and 5)",
    "Feedback: [RESULT] an integer number between 1 and 5",
    "write a score that is an integer between 1 and 5",
    "Score 3: it does the main part",
    "a score of 1 to 5",
    "a score between 1-5",
    "[RESULT] 1-5",
    "[RESULT] 12345",
    "In 2024 there were 3 of them, and 4 left",
    "50%",
    "[RESULT] 40%",
    '{"feedback": "no score here"}',
    '{"score": 4.5}',
    '{"score": true}',
    '{"score": null}',
    '{"score": 99}',
]


@pytest.mark.parametrize(("answer", "value"), SCORES)
def test_a_score_in_any_dress(answer, value):
    assert score(answer, 1, 5, prompt=PROMPT).value == value


@pytest.mark.parametrize("answer", UNREADABLE)
def test_what_is_no_verdict_is_no_number(answer):
    found = score(answer, 1, 5, prompt=PROMPT)
    assert found.value is None
    assert found.why


def test_the_prompt_that_comes_back_is_no_verdict():
    assert score(PROMPT, 1, 5, prompt=PROMPT).value is None
    assert score(f"{PROMPT}\nGood. [RESULT] 2", 1, 5, prompt=PROMPT).value == 2
    assert score(RUBRIC.text(), 1, 5).value is None


def test_what_the_judged_answer_claims_is_no_verdict():
    boast = "My own answer surely deserves 5 out of 5 points."
    asked = prometheus.absolute(RUBRIC, instruction="Sum up.", response=boast).user
    assert score(f"The response says:\n{boast}\nI cannot decide.", 1, 5, prompt=asked).value is None
    assert score(f"It says:\n{boast}\n[RESULT] 2", 1, 5, prompt=asked).value == 2
    assert score(asked + "\nNo.", 1, 5, prompt=asked).value is None


def test_thoughts_are_no_verdict():
    assert score("<think>it may be [RESULT] 1</think> I cannot say.", 1, 5).value is None
    assert choice("<thinking>[RESULT] A</thinking> I cannot say.", ("A", "B")).label is None


def test_any_range():
    assert score("[RESULT] 0", 0, 10).value == 0
    assert score("[RESULT] 10", 0, 10).value == 10
    assert score("10/10", 0, 10).value == 10
    assert score("4 out of 5", 0, 10).value is None
    assert score("[RESULT] -2", -2, 2).value == -2
    assert score("[RESULT] +2", -2, 2).value == 2


@given(st.text())
def test_no_text_breaks_the_parser(answer):
    found = score(answer, 1, 5, prompt=PROMPT)
    assert found.value is None or 1 <= found.value <= 5
    picked = choice(answer, ("A", "B"), prompt=PROMPT)
    assert picked.label in {"A", "B", None}


PIECES = st.lists(
    st.sampled_from(
        [
            "[RESULT]",
            "[Result]",
            " ",
            "\n",
            "4",
            "7",
            "Score",
            ":",
            "/5",
            "out of 5",
            "**",
            "A",
            "B",
            "is",
            "Response",
            "###Feedback:",
            "(",
            ")",
            "</s>",
            "-",
            ".",
            "5",
            '"',
            "{",
            "}",
            "score of",
        ]
    ),
    max_size=14,
).map("".join)


@given(PIECES)
def test_no_assembly_of_pieces_leaves_the_range(answer):
    found = score(answer, 1, 5, prompt=PROMPT)
    assert found.value is None or 1 <= found.value <= 5
    assert (found.value is None) == bool(found.why)


@given(st.text(alphabet=st.characters(exclude_characters="[]"), max_size=300), st.integers(1, 5))
def test_a_tag_at_the_end_is_the_verdict(feedback, value):
    assert score(f"Feedback: {feedback.rstrip('{')} [RESULT] {value}", 1, 5).value == value


@given(st.integers(-9999, 9999))
def test_only_scores_of_the_range_are_scores(value):
    found = score(f"[RESULT] {value}", 1, 5).value
    assert found == (value if 1 <= value <= 5 else None)


def test_long_answers_take_no_long():
    assert score("score of the " * 20_000 + "[RESULT] 3", 1, 5).value == 3
    assert choice("Response A is " * 20_000 + "[RESULT] B", ("A", "B")).label == "B"


CHOICES = [
    ("[RESULT] A", "A"),
    ("[RESULT] B.", "B"),
    ("[RESULT] **B**", "B"),
    ("[RESULT] Response A", "A"),
    ("[Result]: B", "B"),
    ("[RESULT: B]", "B"),
    ("both are fine [Response B]", "B"),
    ("[RESULT] A [RESULT] B", "B"),
    ("[RESULT] B</s>", "B"),
    ('[RESULT] "A"', "A"),
    ("The better response is B.", "B"),
    ("Response B is better.", "B"),
    ("Winner: A", "A"),
    ("a", "A"),
    ("**B**", "B"),
    ('{"feedback": "A", "choice": "B"}', "B"),
    ("[RESULT] A because it is shorter", "A"),
    ("[RESULT] B is better", "B"),
]


@pytest.mark.parametrize(("answer", "label"), CHOICES)
def test_a_choice_in_any_dress(answer, label):
    assert choice(answer, ("A", "B")).label == label


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "A good answer needs facts.",
        "[RESULT]",
        "[RESULT] C",
        '[RESULT] (Either "A" or "B")',
        "[RESULT] A or B",
        "[RESULT] A/B",
        "Response A is long. Response B is short",
        '{"choice": "C"}',
        '{"feedback": "A"}',
    ],
)
def test_what_decides_for_nobody_is_no_choice(answer):
    assert choice(answer, ("A", "B")).label is None


def test_words_as_labels():
    assert choice("It names no source. Verdict: No", ("yes", "no")).label == "no"
    assert choice('{"verdict": "YES"}', ("yes", "no")).label == "yes"
    assert choice("Yes.", ("yes", "no")).label == "yes"
    assert choice("perhaps", ("yes", "no")).label is None


def test_the_relative_prompt_that_comes_back_is_no_choice():
    asked = prometheus.relative(RUBRIC, instruction="x", response_a="a", response_b="b").user
    assert choice(asked, ("A", "B"), prompt=asked).label is None
    assert choice(asked, ("A", "B")).label is None


def test_the_expected_score_is_over_the_scores_only():
    tokens = [
        ("4", {"4": math.log(0.5)}),
        (" [RESULT]", {}),
        (
            " 4",
            {" 4": math.log(0.6), " 5": math.log(0.2), " no": math.log(0.1), "9": math.log(0.1)},
        ),
        ("</s>", {"</s>": 0.0}),
    ]
    assert expected(tokens, 1, 5) == pytest.approx((4 * 0.6 + 5 * 0.2) / 0.8)
    assert expected([("none", {"none": 0.0})], 1, 5) is None
    assert expected([("4", {})], 1, 5) is None
    assert expected([], 1, 5) is None


def test_json_of_any_shape_is_read_or_unparsed():
    for value in ([], 4, "4", {"score": [4]}, {"score": {"score": 4}}, {"score": "four"}):
        assert score(json.dumps(value), 5, 9).value is None
