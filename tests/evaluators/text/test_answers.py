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
            "no<|end|><|start|>assistant",
            False,
        ),
        # Templates of some models begin the thought themselves.
        ("Berlin?</think>Paris", "Paris", "Berlin?", False),
        ("<think>a</think>Rome<think>b</think>Paris", "Paris", "a</think>Rome<think>b", False),
        ("<think></think>\n\nParis", "Paris", "", False),
        ("<think>Berlin, or", "", "Berlin, or", True),
        ("<think>a</think> <think>b", "", "a\nb", True),
        ("Paris. <think>Or not", "Paris.", "Or not", False),
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
    endless = AnswerRules(strip_thinking="(a+)+$")
    assert read_answer(Answer(text="a" * 40 + "b"), endless).text == "a" * 40 + "b"
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
        (Answer(text="", finish_reason="content_filter"), "filtered"),
        (Answer(text="No.", shortfall="refused", finish_reason="stop"), "refused"),
    ],
)
def test_shortfalls(answer, shortfall):
    assert read_answer(answer, RULES).shortfall == shortfall
