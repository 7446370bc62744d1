"""What is read of a request from its bytes: what it needs of a target, and what it sticks by."""

import json

import msgspec
import pytest

from router.api.request_parsing import needs_of, parse, sticky_key, unit_key, user_of
from router.gateway.routing import Needs

IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]


def fields_of(path="chat/completions", **fields):
    _, _, envelope = parse(json.dumps({"model": "m", **fields}).encode(), path)
    return envelope


def chat(*messages, **fields):
    texts = [{"role": role, "content": text} for role, text in messages]
    return fields_of(messages=texts, **fields)


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        (fields_of(messages=[]), Needs()),
        (fields_of("completions", prompt="x" * 38), Needs(tokens=10)),
        (chat(("user", IMAGE)), Needs(vision=True, tokens=26)),
        # Text about images is no image.
        (chat(("user", '"image_url"')), Needs(tokens=11)),
        (fields_of(messages=[], image_url="image_url"), Needs()),
        (fields_of(messages=[], tools=[{}]), Needs(tools=True)),
        (fields_of(messages=[], tools=[]), Needs()),
        (fields_of(messages=[], tools=None), Needs()),
        ({"tools": msgspec.Raw(b"[ \n ]")}, Needs()),
        (fields_of(messages=[], functions=[{"name": "f"}]), Needs(tools=True)),
        (fields_of(messages=[], functions=[]), Needs()),
        (fields_of(messages=[], functions=None, function_call=None), Needs()),
        (fields_of(messages=[], function_call="auto", tool_choice="none"), Needs()),
        (fields_of(messages=[], function_call={"name": "f"}), Needs(tools=True)),
        (fields_of(messages=[], tool_choice="required"), Needs(tools=True)),
        (fields_of(messages=[], response_format={"type": "json_object"}), Needs()),
        (fields_of(messages=[], response_format={"type": "json_schema"}), Needs(json_schema=True)),
        (fields_of(messages=[], max_tokens=7), Needs(tokens=7)),
        (fields_of(messages=[], max_tokens=7, max_completion_tokens=9), Needs(tokens=9)),
        (fields_of(messages=[], max_tokens=7, max_completion_tokens=0), Needs(tokens=7)),
        (fields_of(messages=[], max_tokens="7"), Needs()),
        (fields_of(messages=[], max_tokens=-7), Needs()),
        (chat(("user", "x" * 70), max_tokens=5), Needs(tokens=30)),
    ],
)
def test_what_a_request_needs_is_read_from_its_bytes(fields, needs):
    assert needs_of(fields) == needs


SYSTEM, HELLO = ("system", "be kind"), ("user", "hello")


@pytest.mark.parametrize(
    ("sticky", "fields", "key"),
    [
        ("user", chat(HELLO, user="u1"), '"u1"'),
        ("user", chat(HELLO), None),
        ("conversation", chat(HELLO), '{"role": "user", "content": "hello"}'),
        ("conversation", chat(SYSTEM, HELLO), '{"role": "user", "content": "hello"}'),
        (
            "conversation",
            chat(("developer", "be brief"), HELLO, ("user", "more")),
            '{"role": "user", "content": "hello"}',
        ),
        ("conversation", chat(SYSTEM), None),
        ("conversation", fields_of(messages=["hello"]), None),
        ("conversation", fields_of("completions", prompt="hello"), None),
        ("header:X-Team", chat(HELLO), "red"),
        ("header:X-Other", chat(HELLO), None),
    ],
)
def test_what_a_request_sticks_by(sticky, fields, key):
    assert sticky_key(sticky, fields, {b"x-team": b"red"}) == key


GREETING, MORE = ("assistant", "Hi! How can I help?"), ("user", "more")
ANNOTATED = {"content": [{"type": "text", "text": "hello"}], "role": "user", "name": "Ann"}


@pytest.mark.parametrize(
    ("sticky", "fields", "key"),
    [
        ("", chat(HELLO, user="u1"), b"user u1"),
        ("user", chat(HELLO, user="u1"), b"user u1"),
        ("user", chat(HELLO), None),
        ("", chat(HELLO), b'"hello"'),
        ("conversation", chat(HELLO, user="u1"), b'"hello"'),
        # Assistants greet everybody alike.
        ("", chat(SYSTEM, GREETING, HELLO), b'"hello"'),
        ("", chat(SYSTEM, HELLO, GREETING, MORE), b'"hello"'),
        ("", fields_of(messages=[ANNOTATED, {"role": "user", "content": "more"}]),
         b'[{"type": "text", "text": "hello"}]'),
        ("", chat(SYSTEM, GREETING), None),
        ("", fields_of(messages=[{"role": "user"}]), None),
        ("", fields_of(messages=["hello"]), None),
        ("", fields_of(messages=[{"role": 1}]), None),
        ("", fields_of("completions", prompt="hello"), None),
        ("header:X-Team", chat(HELLO), b"header:X-Team red"),
        ("header:X-Other", chat(HELLO), None),
    ],
)  # fmt: skip
def test_what_a_rollout_sticks_to(sticky, fields, key):
    user, headers = user_of(fields), {b"x-team": b"red"}
    found = unit_key(sticky, user, fields, headers, by_whole_message=False)
    assert key == (None if found is None else bytes(found))


def test_an_older_rollout_sticks_to_the_first_message_as_json():
    fields = chat(SYSTEM, GREETING, HELLO)
    message = json.dumps({"role": "assistant", "content": GREETING[1]}).encode()
    key = unit_key("", "", fields, {}, by_whole_message=True)
    assert key == b"conversation " + message
    assert unit_key("", "u1", fields, {}, by_whole_message=True) == b"user u1"


@pytest.mark.parametrize(
    ("fields", "user"),
    [
        ({}, ""),
        ({"user": "u1"}, "u1"),
        ({"safety_identifier": "s1", "user": "u1"}, "s1"),
        ({"safety_identifier": "", "user": "u1"}, "u1"),
        ({"safety_identifier": None, "user": "u1"}, "u1"),
        ({"safety_identifier": ["s1"], "user": "u1"}, "u1"),
        ({"user": "  J\u00fcrgen\n"}, "  J\u00fcrgen\n"),
        ({"user": 42}, "42"),
        ({"user": True}, ""),
        ({"user": {"id": "u1"}}, ""),
        ({"user": "\u00fc" * 128}, "\u00fc" * 128),
        (
            {"user": "x" * 257},
            "sha256:15eb95a462ee20bd91a415ae2d4aed341288186ddaa2b37908f7d592f0c3f85f",
        ),
        ({"user": "x" * 9000}, ""),
    ],
)
def test_which_user_a_request_is_of(fields, user):
    assert user_of(chat(HELLO, **fields)) == user
