"""Words by Unicode's boundaries, normal forms, and names of languages."""

# ruff: noqa: RUF001  # the texts are in other scripts on purpose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.text.language_names import language_code
from evaluators.text.normal_form import normalizer
from evaluators.text.words import (
    has_words,
    is_unspaced,
    letters_and_digits,
    without_invisible,
    words,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paris is big.", ["Paris", "is", "big."]),
        ("state-of-the-art 3.5 can't", ["state-of-the-art", "3.5", "can't"]),
        ("北京是首都。", ["北", "京", "是", "首", "都"]),
        ("iPhone手机 5€", ["iPhone", "手", "机", "5€"]),
        ("コーヒーを飲む", ["コーヒー", "を", "飲", "む"]),
        ("กาแฟเย็น", ["ก", "า", "แ", "ฟ", "เ", "ย็", "น"]),
        ("서울에서 왔다", ["서울에서", "왔다"]),
        ("བོད་སྐད་ཡིག།", ["བོད", "སྐད", "ཡིག"]),
        ("北京👍🏽、≈5+", ["北", "京", "👍🏽", "≈", "5"]),
        ("家族は👨\u200d👩\u200d👧だ", ["家", "族", "は", "👨\u200d👩\u200d👧", "だ"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


@given(st.text(alphabet=st.characters(max_codepoint=0x24F)))
def test_latin_words_are_what_blank_space_separates(text):
    assert words(text) == text.split()


def test_what_nobody_sees_is_dropped_and_joiners_stay():
    assert without_invisible("\u200fשלום\u200f\u00ad\ufeff") == "שלום"
    assert without_invisible("ភ្នំ\u200bពេញ") == "ភ្នំពេញ"
    for text in ("👨\u200d👩", "می\u200cخواهم", "plain"):
        assert without_invisible(text) == text


def test_runs_of_letters_keep_their_marks():
    assert letters_and_digits("हिन्दी, भाषा!") == ["हिन्दी", "भाषा"]
    assert letters_and_digits("it's 北京") == ["it", "s", "北", "京"]


@pytest.mark.parametrize(
    ("text", "part", "expected"),
    [
        ("It is Paris.", "Paris", True),
        ("42", "4", False),
        ("13.5", "3.5", False),
        ("5%", "5", True),
        ("party", "art", False),
        ("cart art", "art", True),
        ("我在北京工作", "北京", True),
        ("ประเทศไทย", "ไทย", True),
        # Half of a character is no word.
        ("กี่", "ก", False),
        ("서울에서 왔다", "서울", True),
        ("한서울", "서울", False),
        ("a ```x```", "```", True),
        ("a  b", " b", True),
        ("", "x", False),
    ],
)
def test_a_part_between_word_boundaries(text, part, expected):
    assert has_words(text, part) is expected


def test_scripts_without_blanks():
    assert is_unspaced("今天天气 OK")
    assert is_unspaced("ประเทศไทย")
    assert is_unspaced("བོད་སྐད་ཡིག")
    assert not is_unspaced("서울에서 왔다")
    assert not is_unspaced("My name is 王")
    assert not is_unspaced("")


def test_normal_forms():
    assert normalizer("nfc")("e\u0301") == "é"
    assert normalizer("nfc")("Ａ") == "Ａ"
    assert normalizer("nfkc")("Ａ１") == "A1"
    assert normalizer("none")("e\u0301") == "e\u0301"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("zh", "zh"),
        ("zh-Hant-TW", "zh"),
        ("zho_Hans", "zh"),
        ("Chinese", "zh"),
        ("Simplified Chinese", "zh"),
        ("Cantonese (Hong Kong)", "zh"),
        ("Japanese", "ja"),
        ("Lao", "lo"),
        ("Brazilian Portuguese", "pt"),
        ("Klingon", ""),
        ("", ""),
    ],
)
def test_names_of_languages(name, code):
    assert language_code(name) == code
