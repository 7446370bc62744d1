"""What can be a name, and how an error says of one that it cannot."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.errors import RequestError, RunDocumentError, closest
from providers.names import MAX_NAME_BYTES, as_name, check_name


@pytest.mark.parametrize(
    "name",
    ["a", "a" * 256, "é" * 128, "😀" * 64, "größe 模型", "👨‍👩‍👧", 'a"b\\c{d}', "a\u200cb", ""],
)
def test_these_can_be_names(name):
    check_name(name, "model")


@pytest.mark.parametrize(
    ("name", "words", "code"),
    [
        ("a" * 257, "257 characters", "string_above_max_length"),
        ("é" * 129, "258 bytes", "string_above_max_length"),
        ("😀" * 65, "260 bytes", "string_above_max_length"),
        ("\ud800" * 10**6, "1,000,000 characters", "string_above_max_length"),
        *(
            (f"ab{one}c", f"U+{ord(one):04X} at 2", "invalid_value")
            for one in "\x00\t\n\r\x1b\x1f\x7f\x80\x85\x9f\u2028\u2029\ud800\udbff\udc00\udfff"
        ),
    ],
)
def test_these_cannot_and_the_error_says_why(name, words, code):
    with pytest.raises(RequestError) as caught:
        check_name(name, "model")
    error = caught.value
    assert (error.status, error.code, error.param) == (400, code, "model")
    assert error.message.startswith("model: ")
    assert words in error.message
    assert len(error.message.encode()) < 200


def test_an_error_of_a_document_keeps_its_code():
    with pytest.raises(RunDocumentError) as caught:
        check_name("\x00", "f.yaml:3: tags[0]", RunDocumentError, param="tags[0]")
    assert (caught.value.code, caught.value.param) == ("invalid_run", "tags[0]")
    assert caught.value.message.startswith("f.yaml:3: tags[0]: ")


@given(st.text(st.characters(exclude_categories=())))
def test_what_a_name_is_made_of_can_be_one(text):
    made = as_name(text)
    check_name(made, "name")
    if len(text.encode("utf-8", "surrogatepass")) <= MAX_NAME_BYTES and text.isprintable():
        assert made == text


def test_what_is_far_longer_than_any_name_is_compared_with_none():
    assert closest("echoo", ["echo"]) == " Did you mean 'echo'?"
    assert closest("echo" * 10**6, ["echo"]) == " Known: echo."
