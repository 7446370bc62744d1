"""Thoughts are split off answers, and what an answer falls short of is read from it."""

import pytest

from evaluators.base import Answer
from evaluators.text.answers import AnswerRules, check_rules, read_answer
from evaluators.text.thoughts import split_thoughts
from providers.errors import RunDocumentError

RULES = AnswerRules()


@pytest.mark.parametrize(
    ("text", "rest", "thinking", "unfinished"),
    [
        ("Paris", "Paris", "", False),
        (" Paris\n", " Paris\n", "", False),
        ("<think>\nBerlin?\n</think>\n\nParis", "Paris", "Berlin?", False),
        ("<thinking>no</thinking>Paris", "Paris", "no", False),
        ("[THINK]no[/THINK]Paris", "Paris", "no", False),
        ("◁think▷no◁/think▷Paris", "Paris", "no", False),
        (
            "<|channel|>analysis<|message|>no<|end|><|start|>assistant<|channel|>final<|message|>Yes",
            "Yes",
            "no",
            False,
        ),
        # Templates of some models begin the thought themselves.
        ("Berlin?</think>Paris", "Paris", "Berlin?", False),
        ("<think>a</think>Rome<think>b</think>Paris", "Paris", "a</think>Rome<think>b", False),
        ("<think></think>\n\nParis", "Paris", "", False),
        ("<think>Berlin, or", "", "Berlin, or", True),
        ("<think>a</think> <think>b", "", "a\nb", True),
        ("Paris. <think>Or not", "Paris.", "Or not", False),
        # Nothing follows: the answer came first, or there is none.
        ("Paris. <think>Or not</think>\n", "Paris.", "Or not", False),
        ("<think>Berlin</think>\n", "", "Berlin", True),
        ("<|start|>assistant<|channel|>analysis<|message|>no<|end|>", "", "no", True),
        ("<|channel|>final<|message|>Yes<|return|>", "Yes", "", False),
        ("<Think >no</think >Paris", "Paris", "no", False),
        ("<think time='3'>no</think>Paris", "Paris", "no", False),
        (
            "<|begin_of_thought|>no<|end_of_thought|>\n\n<|begin_of_solution|>Yes",
            "Yes",
            "no",
            False,
        ),
        ("<|START_THINKING|>no<|END_THINKING|><|START_RESPONSE|>Yes", "Yes", "no", False),
        ("<|channel>thought\nno<channel|>Paris", "Paris", "no", False),
        ("The <thinker> of Rodin", "The <thinker> of Rodin", "", False),
        ("<|end|>" * 3, "<|end|>" * 3, "", False),
        ("<think>" + "<|end|>" * 50_000, "", "", True),
        ("Write `<think>` in front", "Write `<think>` in front", "", False),
        ("", "", "", False),
    ],
)
def test_thoughts(text, rest, thinking, unfinished):
    assert split_thoughts(text) == (rest, thinking, unfinished)


def test_a_pattern_of_ones_own():
    rules = AnswerRules(strip_thinking=r"\(thought:.*?\)")
    check_rules(rules)
    read = read_answer(Answer(text="(thought: a\nb) Paris (thought: c)"), rules)
    assert (read.text, read.thinking) == ("Paris", "(thought: a\nb)\n(thought: c)")
    assert read_answer(Answer(text="<think>a</think>b"), rules).text == "<think>a</think>b"
    read = read_answer(Answer(text="(thought: a)"), rules)
    assert (read.text, read.shortfall) == ("", "unfinished")
    endless = AnswerRules(strip_thinking=r"(a|a|a)+(b|b)+(a|a)+$")
    long = "a" * 60 + "b" * 60 + "c"
    read = read_answer(Answer(text=long), endless)
    assert (read.text, read.shortfall) == (long, "unsplit")
    assert read_answer(read, rules).shortfall == ""
    with pytest.raises(RunDocumentError, match=r"answer.strip_thinking: '\(' is not a regular"):
        check_rules(AnswerRules(strip_thinking="("))


def test_reading_again_changes_nothing_and_other_rules_begin_with_the_whole_text():
    whole = "<think>Berlin?</think>Paris"
    read = read_answer(Answer(text=whole, thinking="sent apart"), RULES)
    assert (read.text, read.whole_text) == ("Paris", whole)
    assert read.thinking == "sent apart\nBerlin?"
    assert read_answer(read, RULES) == read
    kept = read_answer(read, AnswerRules(strip_thinking=False))
    assert (kept.text, kept.whole_text) == (whole, None)
    assert read_answer(Answer(text=None, error="down"), RULES).text is None


@pytest.mark.parametrize(
    ("answer", "shortfall"),
    [
        (Answer(text="a", finish_reason="stop"), ""),
        (Answer(text="a"), ""),
        (Answer(text="", finish_reason="stop"), ""),
        (Answer(text="", finish_reason="length"), "truncated"),
        (Answer(text="a", finish_reason="MAX_TOKENS"), "truncated"),
        (Answer(text="<think>a", finish_reason="length"), "truncated"),
        (Answer(text="<think>a", finish_reason="stop"), "unfinished"),
        (Answer(text="<think>a</think>", finish_reason="stop"), "unfinished"),
        (Answer(text="", thinking="a", finish_reason="stop"), "unfinished"),
        (Answer(text="b", thinking="a", finish_reason="stop"), ""),
        (Answer(text="", finish_reason="content_filter"), "filtered"),
        (Answer(text="No.", shortfall="refused", finish_reason="stop"), "refused"),
    ],
)
def test_shortfalls(answer, shortfall):
    assert read_answer(answer, RULES).shortfall == shortfall
