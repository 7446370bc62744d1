"""Conditions on recorded requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.errors import RequestError
from router.loop.conditions import (
    FIELDS,
    MAX_CHARACTERS,
    MAX_DEPTH,
    FeedbackValue,
    RequestText,
    Subject,
    parse_condition,
)
from router.records import Attempt, Record, Target
from router.store.columns.traffic import traffic_columns, traffic_of

RECORD = Record(
    id="req_1",
    at=1_700_000_000.5,
    route="chat",
    target=Target("openai", "gpt-4o"),
    status=200,
    user="ann",
    key_id="key_1",
    stream=True,
    finish_reason="stop",
    prompt_tokens=100,
    completion_tokens=20,
    total_tokens=120,
    cost_usd=0.0125,
    total_s=1.5,
    attempts=[Attempt("openai/gpt-4o", "ok", 200, 1.0)],
)
ROW = traffic_of(traffic_columns(7, RECORD))
SUBJECT = Subject(
    ROW,
    {
        "thumb": FeedbackValue(-1, "wrong Price"),
        "solved": FeedbackValue(False),
        "better": FeedbackValue("The price is 3."),
        "odd name": FeedbackValue(0.5),
    },
    RequestText("What is the PRICE?", "It is 4.", turns=2, length=60, language="en"),
)


@pytest.mark.parametrize(
    "source",
    [
        "feedback.thumb < 0",
        "feedback.thumb <= -1",
        "feedback.thumb == -1.0",
        "feedback.solved == false",
        "feedback.solved = false",
        "feedback.solved != true",
        "feedback.solved < 0.5",
        "feedback.better contains 'price is'",
        "feedback.thumb.comment contains 'price'",
        'feedback."odd name" > .25',
        "has feedback.thumb",
        "not has feedback.missing",
        "has feedback.thumb.comment and not has feedback.solved.comment",
        "feedback.missing == null",
        "feedback.thumb != null",
        "null != cost_usd",
        "first_byte_s == null",
        "status == 200 and cost_usd > 0.01",
        "status >= 400 or tokens > 100",
        "status >= 400 or status < 300 and user == 'bob' or user == \"ann\"",
        "(status >= 400 or status < 300) and user == 'ann'",
        "not (status >= 400)",
        "not not stream",
        "stream and not cached",
        "stream == true",
        "target in ['a/m', 'openai/gpt-4o']",
        "target in ('openai/gpt-4o')",
        "status not in [400, 500]",
        "feedback.thumb in [-1, 'no']",
        "at > 1.7e9",
        "completion_tokens < prompt_tokens",
        "'openai/gpt-4o' == target",
        "target contains 'OPENAI/'",
        "prompt contains 'price' and answer contains '4.'",
        "turns == 2 and length < 100 and language == 'en'",
        "attempts == 1",
        "error_code == '' and not has error_code",
        "prompt != 'it\\'s'",
        "key=='key_1'and(route=='chat')",
        "prompt contains ''",
    ],
)
def test_conditions_that_hold(source):
    assert parse_condition(source).holds(SUBJECT)
    # What does not hold, does by its negation.
    assert not parse_condition(f"not ({source})").holds(SUBJECT)


@pytest.mark.parametrize(
    "source",
    [
        "feedback.missing < 0",
        "feedback.missing != 1",
        "feedback.better != 1",
        "feedback.better < 3",
        "feedback.thumb contains '1'",
        "feedback.thumb == null",
        "first_byte_s < 5",
        "first_byte_s != 5",
        "has first_byte_s",
        "status in []",
        "user contains 'bob'",
    ],
)
def test_conditions_that_do_not_hold(source):
    assert not parse_condition(source).holds(SUBJECT)


@pytest.mark.parametrize(
    ("source", "at", "why"),
    [
        ("", 1, "expected a field or a value, not the end"),
        ("   ", 4, "expected a field or a value, not the end"),
        ("status ==", 10, "expected a field or a value, not the end"),
        ("status == 200 and", 18, "expected a field or a value, not the end"),
        ("statsu == 200", 1, "no field 'statsu'. Did you mean 'status'?"),
        ("status == '200'", 11, "status is a number, and '200' is a text"),
        ("user < 5", 8, "user is a text, and 5 is a number"),
        ("user in ['a', 5]", 15, "user is a text, and 5 is a number"),
        ("stream < true", 8, "stream has no order"),
        ("cost_usd < null", 10, "null has no order"),
        ("status contains '2'", 1, "status is no text"),
        ("status", 1, "status is no condition; compare it, as in status == ..."),
        ("feedback.thumb", 1, "feedback.thumb is no condition"),
        ("feedback < 0", 10, "expected '.' and a name after feedback"),
        ("feedback.thumb.color == 1", 16, "feedback has a value and a comment, but no 'color'"),
        ("feedback.", 10, "expected a name"),
        ("status == 200 user", 15, "expected 'and', 'or' or the end"),
        ("status == 200)", 14, "expected 'and', 'or' or the end"),
        ("(status == 200", 15, "expected ')' to close the parenthesis"),
        ("status in 200", 11, "expected a list"),
        ("status in [200 201]", 16, "expected ',' or ']'"),
        ("status in [200, null]", 17, "a list has texts, numbers"),
        ("status in [prompt_tokens]", 12, "a list has texts, numbers"),
        ("status not 5", 12, "expected 'in' after 'not'"),
        ("status & 1", 8, "'&' is not understood"),
        ("user == 'ann", 9, "a text without its closing quote"),
        ("user == 5x", 9, "'5' is not understood"),
        ("__import__('os').system('x')", 1, "no field '__import__'"),
        ("user.__class__ == 'x'", 5, "user has no parts"),
        ("has 5", 1, "has needs a field"),
        ("true", 1, "true is no condition"),
        ("and == 1", 1, "expected a field or a value, not 'and'"),
    ],
)
def test_mistakes_are_named_with_their_place(source, at, why):
    with pytest.raises(RequestError) as error:
        parse_condition(source)
    assert error.value.param == "where"
    assert f"where, character {at} " in error.value.message
    assert why in error.value.message


def test_length_depth_and_lists_are_bounded():
    assert parse_condition("(" * (MAX_DEPTH - 1) + "stream" + ")" * (MAX_DEPTH - 1)).holds(SUBJECT)
    for source in (
        "(" * MAX_DEPTH + "stream" + ")" * MAX_DEPTH,
        "not " * 900 + "stream",
        "stream or " * 4000 + "stream",
        f"status in [{','.join(['1'] * 500)}]",
    ):
        with pytest.raises(RequestError, match="where"):
            parse_condition(source)
    # Without nesting, a condition may be as long as may be.
    parse_condition(" or ".join(["stream"] * (MAX_CHARACTERS // 10)))


def test_a_condition_says_what_it_reads():
    condition = parse_condition("feedback.a < 0 or has feedback.b.comment and status == 200")
    assert condition.feedback == {"a", "b"}
    assert condition.fields == {"status"}
    assert not condition.reads_text
    assert parse_condition("language in ['de', 'fr']").reads_text


def test_what_is_not_known_of_texts_is_missing():
    plain = Subject(ROW)
    for name in (name for name, field in FIELDS.items() if field.of_text):
        assert parse_condition(f"{name} == null").holds(plain)
        assert not parse_condition(f"{name} == null").holds(SUBJECT)


@given(
    st.text(
        alphabet="()[]'\".,=<>! and or not in has contains null feedback status 15-x\\\n",
        max_size=60,
    )
)
def test_any_text_is_a_condition_or_a_mistake(source):
    try:
        condition = parse_condition(source)
    except RequestError:
        return
    assert condition.holds(SUBJECT) in (True, False)
