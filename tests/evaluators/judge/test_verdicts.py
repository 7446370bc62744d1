"""What is read out of a judge's answer, and what must never be."""

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evaluators.judge import prometheus, rubrics
from evaluators.judge.verdicts import LabelVerdict, ScoreVerdict, choice, expected, score

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
    ('{"rating": {"score": 4}}', 4),
    ("<answer>4</answer>", 4),
    ("Score \u2192 4", 4),
    ("Score:\u200b4", 4),
    ("\u202bScore: 4\u202c", 4),
    ("| Criterion | Score |\n|---|---|\n| Helpfulness | 4 |", 4),
    ("Here you are.\n  | Quality | 4 |\nThat is all.", 4),
    ("| Clarity | 3 |\n| Accuracy | 5 |\n| Overall | 4 |", 4),
    ("Clarity: 3/5\nAccuracy: 5/5\nAverage: 4", 4),
    ("Clarity: 4/5\nAccuracy: 4/5", 4),
    ("Score: 4\nConfidence: 5", 4),
    ("\\boxed{4/5}", 4),
    ("Nota: 4", 4),
    ("Ocena: 4", 4),
    ("\u0627\u0644\u062a\u0642\u064a\u064a\u0645: \u0664", 4),
    ("\u6211\u7ed9\u8fd9\u4e2a\u56de\u7b544\u5206\u3002", 4),
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
    "Score: 3 \u2192 4 after reconsidering",
    "Score: 3 -> 4",
    "Score: 1e0",
    "\\boxed{\\frac{1}{2}}",
    "Clarity: 3/5\nAccuracy: 5/5",
    "Clarity score: 4\nOverall score: 3.5",
    "Score: 3. [RESULT] 4.5",
    "\u5982\u679c\u66f4\u8be6\u7ec6\uff0c\u6211\u4f1a\u7ed95\u5206\u3002",
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
@example(feedback="it is not", value=1)
@example(feedback="to reach a score of 5, an answer would need", value=2)
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


# Whole verdicts: the value, and why there is none.

NO_VERDICT = ScoreVerdict(None, "no verdict")


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("[RESULT] 4", ScoreVerdict(4, "")),
        ("[RESULT] 7", ScoreVerdict(None, "out of range: 7")),
        ("[RESULT] 0", ScoreVerdict(None, "out of range: 0")),
        ("[RESULT] -3", ScoreVerdict(None, "out of range: -3")),
        ("", NO_VERDICT),
        ("none", NO_VERDICT),
        # A tag counts more than words, words more than a number that stands alone.
        ("[RESULT] 2\nScore: 3\n4", ScoreVerdict(2)),
        ("Score: 3\n4", ScoreVerdict(3)),
        ("Score: 3\n4 out of 5\n2", ScoreVerdict(4)),
        ("4 out of 5, so the score is 3\n2", ScoreVerdict(3)),
        ("3 out of 10\n2", ScoreVerdict(2)),
        ("the last\n\n 2 \n", ScoreVerdict(2)),
        ("2\nthe last", NO_VERDICT),
        # Ranges and several numbers are no verdict.
        ("Score: 1 to 5", NO_VERDICT),
        ("Score: 1 TO 5", NO_VERDICT),
        ("Score: 3 and 4", NO_VERDICT),
        ("Score: 3 or 4", NO_VERDICT),
        ("Score: 1\u20135", NO_VERDICT),
        ("Score: 1 \u2014 5", NO_VERDICT),
        ("Score: 1 - -5", NO_VERDICT),
        # A judge's thoughts and fences.
        ("<think>[RESULT] 1</THINK>[RESULT] 2", ScoreVerdict(2)),
        ("<thinking>\n[RESULT] 1\n</Thinking>\n", NO_VERDICT),
        ("[RESULT] 3 <think>it may be 4", ScoreVerdict(3)),
        ('```json\n{\n "score": 4\n}\n```', ScoreVerdict(4)),
        ('```\n{"score": 4}\n```\n', ScoreVerdict(4)),
        ('```json\n{"score": 4,\n"feedback": "[RESULT] 2"}\n```', ScoreVerdict(4)),
        ('```\n{"score": 4,\n"feedback": "[RESULT] 2"}\n```', ScoreVerdict(4)),
        ('  {"score": 4}  ', ScoreVerdict(4)),
        ("4 OUT OF 5", ScoreVerdict(4)),
        ('```json\n{"score": 4}\n``` but [RESULT] 2', ScoreVerdict(2)),
        ('{"score": 4} but [RESULT] 2', ScoreVerdict(2)),
        ("{score: 4}", ScoreVerdict(4)),
        # Fields of JSON: the first of these that holds a number.
        ('{"result": 4}', ScoreVerdict(4)),
        ('{"rating": 4}', ScoreVerdict(4)),
        ('{"verdict": 4}', ScoreVerdict(4)),
        ('{"grade": 4}', ScoreVerdict(4)),
        ('{"SCORE": 4}', ScoreVerdict(4)),
        ('{"points": 4, "reason": "[RESULT] 3"}', NO_VERDICT),
        ('{"grade": 1, "verdict": 2, "rating": 3, "result": 4, "score": 5}', ScoreVerdict(5)),
        ('{"grade": 1, "verdict": 2, "rating": 3, "result": 4}', ScoreVerdict(4)),
        ('{"grade": 1, "verdict": 2, "rating": 3}', ScoreVerdict(3)),
        ('{"grade": 1, "verdict": 2}', ScoreVerdict(2)),
        ('{"score": "fine", "grade": 2}', ScoreVerdict(2)),
        ('{"score": null, "grade": 2}', ScoreVerdict(2)),
        ('{"score": true, "grade": 2}', ScoreVerdict(2)),
        ('{"score": " +3 "}', ScoreVerdict(3)),
        ('{"score": "-3"}', ScoreVerdict(None, "out of range: -3")),
        ('{"score": "12345"}', NO_VERDICT),
        ('{"score": "4.0"}', ScoreVerdict(4)),
        ('{"score": "4.5"}', NO_VERDICT),
        ('{"score": 4.0}', ScoreVerdict(4)),
        ('{"score": 4.5, "grade": 2}', NO_VERDICT),
        ('{"score": 9}', ScoreVerdict(None, "out of range: 9")),
    ],
)
def test_a_verdict_and_its_reason(answer, verdict):
    assert score(answer, 1, 5) == verdict


def test_the_ends_of_the_range_are_scores():
    assert [score(f"[RESULT] {n}", 2, 4).value for n in range(1, 6)] == [None, 2, 3, 4, None]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("[RESULT] A", LabelVerdict("A", "")),
        ("[RESULT] C", LabelVerdict(None, "no verdict")),
        ("", LabelVerdict(None, "no verdict")),
        ('{"choice": "C"}', LabelVerdict(None, "no such choice")),
        ('{"choice": " b "}', LabelVerdict("B")),
        ('{"result": "B"}', LabelVerdict("B")),
        ('{"verdict": "B"}', LabelVerdict("B")),
        ('{"better": "B"}', LabelVerdict("B")),
        ('{"winner": "B"}', LabelVerdict("B")),
        ('{"answer": "B"}', LabelVerdict("B")),
        ('{"label": "B"}', LabelVerdict("B")),
        ('{"LABEL": "B", "reason": "A"}', LabelVerdict("B")),
        ('{"reason": "A"}', LabelVerdict(None, "no verdict")),
        ('{"choice": "A", "label": "B"}', LabelVerdict("B")),
        ('{"label": "B", "choice": "A"}', LabelVerdict("A")),
        ('{"choice": null}', LabelVerdict(None, "no such choice")),
        # Tags, brackets, words, and a letter that stands alone, in this order.
        ("[RESULT] A\n[Response B] the better is B.", LabelVerdict("A")),
        ("[CHOICE] A", LabelVerdict("A")),
        ("[verdict]: A", LabelVerdict("A")),
        ("[Response A] the better is B.", LabelVerdict("A")),
        ("[assistant A] the better is B.", LabelVerdict("A")),
        ("[answer A] the better is B.", LabelVerdict("A")),
        ("Winner: A. Response B is better.", LabelVerdict("A")),
        ("I prefer A.", LabelVerdict("A")),
        ("I preferred A.", LabelVerdict("A")),
        ("I choose A.", LabelVerdict("A")),
        ("Option A wins.\nB", LabelVerdict("A")),
        ("Assistant A was clearly the better.\nB", LabelVerdict("A")),
        ("Response A is much stronger.\nB", LabelVerdict("A")),
        ("Response A is a bit long.\nB", LabelVerdict("B")),
        ("Answer: option **B**", LabelVerdict("B")),
        ("so\nresponse b", LabelVerdict("B")),
        ("so b", LabelVerdict(None, "no verdict")),
        ("so\nB</s>", LabelVerdict("B")),
        ('so\n"B"', LabelVerdict("B")),
        ("<think>[RESULT] A</think>\nB", LabelVerdict("B")),
    ],
)
def test_a_choice_and_its_reason(answer, found):
    assert choice(answer, ("A", "B")) == found


@pytest.mark.parametrize(
    ("labels", "answer", "label"),
    [
        (("pas", "pass"), "pass", "pass"),
        (("pas", "pass"), "pas", "pas"),
        (("no", "not sure"), "Verdict: not sure", "not sure"),
        (("no", "not sure"), "Verdict: NO", "no"),
        (("a+", "a"), "Verdict: A+ because", None),
        (("c.d", "e"), "Verdict: cxd", None),
        (("XXXX", "B"), "", None),
        # A single letter has to be in upper case, unless it stands alone; words do not.
        (("A", "B"), "Verdict: a", None),
        (("A", "bad"), "Verdict: a", "A"),
        (("A", "B"), "a", "A"),
    ],
)
def test_labels_of_any_length(labels, answer, label):
    assert choice(answer, labels).label == label


# What comes back of the prompt, and how much is read.


@pytest.mark.parametrize(
    ("prompt", "answer", "value"),
    [
        # A line of twelve characters is an echo; a shorter one may be the judge's own.
        ("Say this:\n Score is: 4. ", "Score is: 4.", None),
        ("Say this:\n Score is: 4 ", "Score is: 4", 4),
        ("Say this:\n Score is: 4. ", "  Score is: 4.  \nScore is: 2.", 2),
        ("Say this:\n Score is: 4. ", "so Score is: 4.", 4),
        # The whole prompt, wherever it stands.
        (" [RESULT] 4 ", "you said [RESULT] 4 and I [RESULT] 2", 2),
        (" [RESULT] 4 ", "you said [RESULT] 4 and I do not", None),
        ("Judge it.", "Judge it.4", 4),
        ("  \n ", "[RESULT] 4", 4),
        ("", "[RESULT] 4", 4),
        ("", "XXXX4", None),
    ],
)
def test_what_comes_back_of_the_prompt(prompt, answer, value):
    assert score(answer, 1, 5, prompt=prompt).value == value
    if not prompt:
        assert score(answer, 1, 5).value == value
        assert choice("XXXXA", ("A", "B")).label is None


def test_an_answer_is_read_from_its_end():
    assert score("4" + " " * 99_999, 1, 5).value == 4
    assert score("4" + " " * 100_000, 1, 5).value is None


# The score by probabilities.


@pytest.mark.parametrize(
    ("tokens", "value"),
    [
        ([("4", {"4": 0.0})], 4.0),
        ([("4", {"4": math.log(0.5), "2": math.log(0.25)})], (4 * 0.5 + 2 * 0.25) / 0.75),
        ([("4", {"4": math.log(0.25), " 4": math.log(0.25), "1": math.log(0.5)})], 2.5),
        ([("\u01204", {"\u01204": math.log(0.5), "\u25812": math.log(0.5)})], 3.0),
        ([("4", {"+4": math.log(0.5), "2": math.log(0.5)})], 3.0),
        # The last token that is a score, and no other.
        ([("2", {"2": 0.0}), ("4", {"4": 0.0}), (".", {".": 0.0})], 4.0),
        ([("2", {"2": 0.0}), ("9", {"9": 0.0}), ("0", {"4": 0.0})], 2.0),
        ([("2", {"2": 0.0}), ("5", {"5": 0.0})], 5.0),
        ([("2", {"2": 0.0}), ("1", {"1": 0.0})], 1.0),
        # What cannot be: a probability above 1, or of 0.
        ([("4", {"4": 0.5, "2": 0.0})], 3.0),
        ([("4", {"4": -math.inf})], None),
        ([("2", {"2": 0.0}), ("4", {"4": -math.inf})], None),
        ([("4", {"x": 0.0})], None),
        ([("4.5", {"4": 0.0})], None),
        ([("X4", {"4": 0.0})], None),
        ([("00004", {"4": 0.0})], None),
    ],
)
def test_the_expected_score(tokens, value):
    assert expected(tokens, 1, 5) == (None if value is None else pytest.approx(value))


# Forms that judges use, besides those that they are asked for.


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        # The scale beside the word.
        ("Score (1-5): 4", 4),
        ("Score [1\u20135]: 4", 4),
        ("**Score** (on a scale of 1 to 5): **4**", 4),
        ("Rating (1 = worst, 5 = best): 2", 2),
        ("Score (out of 5): 4", 4),
        ("Score out of 5: 4", 4),
        ("Score (max. 5): 4", 4),
        ("On a scale from 1 to 5, the score is 3.", 3),
        ("The score, on a 1-5 scale, is\nScore: 3", 3),
        ("Score (1-5)", None),
        ("Score (1-5): between 3 and 4", None),
        ("[RESULT] (1-5) 4", 4),
        # Other widths, scripts and languages.
        ("Score\uff1a 4", 4),
        ("Score: \uff14", 4),
        ("\uff3bRESULT\uff3d \uff14", 4),
        ("\u3010RESULT\u3011 4", 4),
        ("Score: \u0664", 4),
        ("Score: \U0001d7d2", 4),
        ("\u8bc4\u5206\uff1a4", 4),
        ("\u6700\u7ec8\u8bc4\u5206\uff1a\uff14\u5206", 4),
        ("\u5f97\u5206\u4e3a 4 \u5206\uff08\u6ee1\u5206 5 \u5206\uff09", 4),
        ("\u30b9\u30b3\u30a2\uff1a4", 4),
        ("\uc810\uc218: 4", 4),
        ("Bewertung: 4", 4),
        ("Puntuaci\u00f3n: 4", 4),
        ("Score: 4\u00bd", None),
        ("Score: 4,5", None),
        ("Score: 4\u00b2", None),
        # TeX.
        ("so \\boxed{4}", 4),
        ("so $\\boxed{\\text{4}}$.", 4),
        ("\\boxed{4/5}", 4),
        ("\\boxed{4.5}", None),
        ("\\boxed{2} at first, then \\boxed{3}", 3),
        ("Score: $4$", 4),
        ("Score: \\(4\\)", 4),
        ("The score is \\textbf{4}", 4),
        # Fields.
        ('{"score": "4/5"}', 4),
        ('{"score": "4 / 5"}', 4),
        ('{"score": "4 out of 5"}', 4),
        ('{"score": "4 - good"}', 4),
        ('{"score": "4 (good)"}', 4),
        ('{"score": "4/10"}', None),
        ('{"score": "3 or 4"}', None),
        ('{"Overall Score": 4}', 4),
        ('{"final_rating": "\uff14"}', 4),
        ('So: {"score": "4/5"}', 4),
        ("<score>4</score>", 4),
        ("| Score | 4 |", 4),
        # Sentences.
        ("I would give this response a 4.", 4),
        ("I'd rate it a 4 because it is short.", 4),
        ("I give it **4** points.", 4),
        ("It deserves a 4.", 4),
        ("I would give three examples and 4 sources.", None),
        ("The overall score for this response would be a 4.", 4),
        ("4 stars out of 5", 4),
        ("Fine.\n4 points", 4),
        ("Score \u2014 4", 4),
        # Another scale.
        ("Score: 4/10", None),
        ("[RESULT] 3/4", None),
        # The overall score, whatever else is said afterwards.
        ("So the overall score is 2. To reach a score of 5, add details.", 2),
        ("Final score: 2\nAn answer with a score of 5 has sources.", 2),
        ("Total: 3. Clarity has a score of 5.", 3),
        ("Overall, the clarity is good. Score: 4", 4),
        # Scores that are only spoken of.
        ("The score is 2. To get a score of 5, add details.", 2),
        ("Score: 2. It would have a score of 4 if it named its sources.", 2),
        ("Score: 2. A better answer would get a score of 5.", 2),
        ("Score: 2. A score of 5 would require sources.", 2),
        ("Score: 2, which is not a score of 3.", 2),
        ("To reach a score of 5, add details.", None),
        ("[RESULT] 2. To get a [RESULT] 5, add details.", 2),
        ("Based on the rubric the response would receive a score of 3.", 3),
        ("Score: 3\n\nFor a score of 4, it needs sources.", 3),
        ("A perfect answer has a score of 5; this one has a score of 3.", 3),
        ("This one has a score of 3; a perfect answer has a score of 5.", 3),
        ("Score: 4, although a score of 5 is possible", 4),
        ("Score: 2. After revision the score would be 4.", 2),
        ("I rate it 4/5. The earlier draft had a score of 2.", 4),
        ("It needs a score of 4 or higher.", None),
        ("The model answered 3 of 5 questions.", None),
        ("The score is a solid 4.", 4),
        ("Final answer: 4", 4),
        ("\u603b\u52065\u5206\uff0c\u5f974\u5206", 4),
        # A list after the verdict is no range.
        ("[RESULT] 4\n\n- 3 typos", 4),
    ],
)
def test_forms_that_judges_use(answer, value):
    assert score(answer, 1, 5).value == value


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("so \\boxed{B}", "B"),
        ("\\boxed{\\text{B}}", "B"),
        ("\\boxed{Bad}", None),
        ("\uff3bRESULT\uff3d \uff22", "B"),
        ("[RESULT] $B$", "B"),
        ('{"Choice": "B"}', "B"),
        ('{"choice": "\uff22"}', "B"),
    ],
)
def test_forms_of_a_choice_that_judges_use(answer, label):
    assert choice(answer, ("A", "B")).label == label


# Answers without an end.

CUT_OFF = ScoreVerdict(None, "cut off")
THINKING = ScoreVerdict(None, "still thinking")


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("The first half would deserve score 5 if the second half", CUT_OFF),
        ("Score: 4", CUT_OFF),
        ("4", CUT_OFF),
        ("", CUT_OFF),
        ('{"feedback": "It has a score of 4 and', CUT_OFF),
        ("Good. [RESULT] 4", ScoreVerdict(4)),
        ("Good. [RESULT] 4\nIn more detail, a score of 5 is", ScoreVerdict(4)),
        ("Good. [RESULT] 4 On second thoughts: [RESULT]", CUT_OFF),
        ("Good. [RESULT] 9", ScoreVerdict(None, "out of range: 9")),
        ('{"score": 4}\n\n', ScoreVerdict(4)),
        ("<think>a score of 3. Let me look", THINKING),
    ],
)
@pytest.mark.parametrize("finish_reason", ["length", "LENGTH", "max_tokens", "content_filter"])
def test_an_answer_that_was_cut_off_has_no_verdict_but_a_tagged_one(answer, verdict, finish_reason):
    assert score(answer, 1, 5, finish_reason=finish_reason) == verdict


def test_a_number_that_was_cut_off_may_be_the_beginning_of_another():
    assert score("[RESULT] 1", 1, 10, finish_reason="length") == CUT_OFF
    assert score("[RESULT] 1.", 1, 10, finish_reason="length").value == 1
    assert score("[RESULT] 2", 1, 10, finish_reason="length").value == 2
    assert score("[RESULT] 1", 1, 9, finish_reason="length").value == 1
    assert score("[RESULT] 1", 1, 10, finish_reason="stop").value == 1


@pytest.mark.parametrize(
    "thoughts",
    [
        "<think>maybe score 1",
        "<think>maybe [RESULT] 1",
        "Let me see. <think>the score is 4",
        "<think>one</think><think>Score: 4",
        "<THINKING>\nScore: 4",
        "<thought>Score: 4",
        "[THINK]Score: 4",
        "\u25c1think\u25b7Score: 4",
        "<seed:think>Score: 4",
        "<|channel|>analysis<|message|>Score: 4",
    ],
)
def test_a_judge_that_still_thinks_has_no_verdict(thoughts):
    assert score(thoughts, 1, 5) == THINKING
    assert choice(thoughts + "\nB", ("A", "B")) == LabelVerdict(None, "still thinking")


@pytest.mark.parametrize(
    "thoughts",
    [
        "<think>[RESULT] 1</think>",
        "[THINK]Score: 4[/THINK]",
        "<|channel|>analysis<|message|>Score: 4<|end|><|channel|>final<|message|>",
        "Score: 1 and so on</think>",
    ],
)
def test_what_comes_after_the_thoughts_is_the_answer(thoughts):
    assert score(f"{thoughts} Score: 2", 1, 5).value == 2
    assert score(f"{thoughts} I cannot say.", 1, 5) == NO_VERDICT


def test_a_judge_may_speak_of_tags():
    assert score('It leaks a "<think>" tag. [RESULT] 2', 1, 5).value == 2
    assert score("It leaks `<think>`. Score: 2", 1, 5).value == 2


def test_a_choice_that_was_cut_off():
    cut = LabelVerdict(None, "cut off")
    assert choice("Response B is better", ("A", "B"), finish_reason="length") == cut
    assert choice("B", ("A", "B"), finish_reason="length") == cut
    assert choice("Fine. [RESULT] B", ("A", "B"), finish_reason="length").label == "B"


@pytest.mark.parametrize(
    "piece", [" ", "\n", "(", "[RESULT] ", "score ", "to get 4 ", "(1 - ", "a "]
)
def test_no_repetition_takes_long(piece):
    score(piece * (100_000 // len(piece)), 1, 5)
    choice(piece * (100_000 // len(piece)), ("A", "B"))
