"""Personal data and secrets in texts of all scripts, and in every part of a conversation."""

import random
import re
import sys

import msgspec
import pytest

from router.config.review import PersonalData, Review
from router.loop.checks import check
from router.loop.checks.folding import fold
from router.loop.checks.placeholders import placeholder
from router.loop.checks.secrets_in_text import secrets_in_text
from router.loop.checks.texts import TextMasking

KEY = b"k" * 32
_LETTERS = re.compile(r"_[a-p]{10}\]")


def masked(text, **actions):
    """Return a text after the check, placeholders without their letters."""
    return _LETTERS.sub("]", TextMasking(PersonalData(**actions), KEY).mask(text, "text").text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to ann@example.org.", "Write to [EMAIL]."),
        ("o'brien+x@mail.co.uk, bob@a.io", "[EMAIL], [EMAIL]"),
        ("jörg.müller@münchen.de", "[EMAIL]"),
        ("пользователь@пример.рф", "[EMAIL]"),
        ("请联系zhang@example.com谢谢", "请联系[EMAIL]谢谢"),
        ("김@example.com으로", "[EMAIL]으로"),
        ("ann (at) example (dot) org", "[EMAIL]"),
        ("a\u200bnn@exa\u00admple.org", "[EMAIL]"),
        ("ａｎｎ＠ｅｘａｍｐｌｅ．ｏｒｇ", "[EMAIL]"),  # noqa: RUF001
        ('"Ann B" <"ann b"@example.org>', '"Ann B" <[EMAIL]>'),
        ("https://x.org/?to=ann%40example.org&y", "https://x.org/?to=[EMAIL]&y"),
        ("+49 171 2345678", "[PHONE]"),
        ("0171/2345678 oder 0044 20 7946 0958", "[PHONE] oder [PHONE]"),
        ("Ring (415) 555-2671 now", "Ring [PHONE] now"),
        ("call me: 555-0123", "call me: [PHONE]"),
        ("電話: 03-1234-5678", "電話: [PHONE]"),
        ("هاتف ٠٠٩٦٦٥٠١٢٣٤٥٦٧", "هاتف [PHONE]"),
        ("फ़ोन +९१ ९८७६५ ४३२१०", "फ़ोन [PHONE]"),
        ("+33 6\u00a012\u201134\u201056\u00a078", "[PHONE]"),
        ("in 2024 0171 2345678", "in 2024 [PHONE]"),
        ("DE89 3704 0044 0532 0130 00 and more", "[IBAN] and more"),
        ("gb29nwbk60161331926819", "[IBAN]"),
        ("card 4111-1111-1111-1111 exp 12/27", "card [CARD] exp 12/27"),
        ("no 12 4111 1111 1111 1111", "no 12 [CARD]"),
        ("378282246310005", "[CARD]"),
        ("\uff14\uff11\uff11\uff11 \uff11\uff11\uff11\uff11 1111 1111", "[CARD]"),
        ("٤١١١١١١١١١١١١١١١", "[CARD]"),
        ("ssn 078-05-1120", "ssn [NATIONAL_ID]"),
        ("My SSN is 536904399", "My SSN is [NATIONAL_ID]"),
        ("Steuer-ID 36574261809", "Steuer-ID [NATIONAL_ID]"),
        ("José, 12345678Z", "José, [NATIONAL_ID]"),
        ("PESEL 44051401359", "PESEL [NATIONAL_ID]"),
        ("身份证11010519491231002X", "身份证[NATIONAL_ID]"),
        ("RSSMRA85T10A562S", "[NATIONAL_ID]"),
        ("CPF 390.533.447-05", "CPF [NATIONAL_ID]"),
        ("from 10.1.2.3 and 2001:db8::1", "from [IP] and [IP]"),
        ("http://192.0.2.7:8080/", "http://[IP]:8080/"),
        ("password: hunter2", "password: [SECRET]"),
        ("Das Passwort ist Sommer2024!", "Das Passwort ist [SECRET]!"),
        ("密码：abc12345", "密码：[SECRET]"),  # noqa: RUF001
        ("Bearer abcdefghijkl.mnop", "Bearer [SECRET]"),
        (f"ghp_{'a1' * 18}", "[SECRET]"),
        ("AKIAIOSFODNN7EXAMPLE", "[SECRET]"),
        (f"sk_live_{'a1' * 12}xyz", "[SECRET]"),
        (f"eyJ{'a' * 40}.eyJ{'b' * 9000}.{'c' * 43}", "[SECRET]"),
        ("-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----.", "[SECRET]."),
        ("-----BEGIN PRIVATE KEY-----\nMHcCAQ", "[SECRET]"),
        (f"![x](data:image/png;base64,{'iVBO' * 3000}) y", "![x]([MEDIA]) y"),
    ],
)
def test_personal_data_is_replaced(text, expected):
    assert masked(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "on 2024-01-15 at 12:30:45",
        "The years 1990-2005, pages 123-4567",
        "3.14159265358979 and 12,345,678 of 1234567",
        "order 20240115 no 4711",
        "std::vector, bed::face, ::1 and 127.0.0.1",
        "my password is wrong; password: required",
        'api_key = "<your key>"',
        "@app.route and pkg@1.2.3",
        "4111 1111 1111 1112",  # the last digit is wrong
        "DE88370400440532013000",
        "tokens: many, secret garden",
        "[EMAIL] and [PHONE]",
        "नमस्ते दुनिया 你好 مرحبا",
    ],
)
def test_other_texts_stay_as_they_are(text):
    assert masked(text) == text


def test_a_value_has_one_placeholder_however_it_is_written():
    texts = TextMasking(PersonalData(), KEY)
    for forms in (
        ("ann@example.org", "ANN@Example.ORG", "ann [at] example [dot] org"),
        ("+49 171 2345678", "0171-2345678", "+49(171)2345678", "0049 171 2345678"),
        ("DE89370400440532013000", "de89 3704 0044 0532 0130 00"),
        ("4111111111111111", "4111 1111 1111 1111", "٤١١١١١١١١١١١١١١١"),
        ("2001:db8::1", "2001:DB8:0:0:0:0:0:1"),
    ):
        assert len({texts.mask(form, "").text for form in forms}) == 1
    assert texts.mask("ann@example.org", "").text != texts.mask("bob@example.org", "").text


def test_placeholders_of_another_key_are_others():
    one, other = (
        TextMasking(PersonalData(), key).mask("ann@example.org", "").text for key in (KEY, b"o")
    )
    assert one != other
    assert placeholder("email", "ann@example.org", KEY) == one


def test_what_was_masked_is_not_masked_again():
    text = "ann@example.org 0171 2345678 4111111111111111 password: hunter2"
    texts = TextMasking(PersonalData(), KEY)
    first = texts.mask(text, "").text
    assert texts.mask(first, "") == (first, ())


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("placeholder", "x [EMAIL_hmnfoahgno] y"),
        ("mask", "x [EMAIL] y"),
        ("drop", "x [EMAIL] y"),
        ("keep", "x ann@example.org y"),
    ],
)
def test_the_config_says_what_happens(action, expected):
    config = Review(personal_data=PersonalData(email=action))
    checked = check([{"role": "user", "content": "x ann@example.org y"}], config, key=KEY)
    assert checked.messages[0]["content"] == expected
    [finding] = checked.findings
    place = expected[finding.start : finding.end]
    assert place == expected.removeprefix("x ").removesuffix(" y")
    assert (finding.kind, finding.action, finding.place) == ("email", action, "messages[0].content")
    assert checked.is_dropped == (action == "drop")


def test_values_that_overlap_are_replaced_together():
    # The user of an address, and the password of a URL, are also part of an e-mail address.
    text = "https://ann:hunter22@example.org/ 4111111111111111@example.org"
    assert "hunter" not in masked(text)
    # The telephone number ends before the password does.
    assert masked("password: abc0171-2345678xyzzy!") == "password: [SECRET]!"
    assert "4111" not in masked(text, card="keep")
    assert "4111" not in masked(text, email="keep")
    assert masked(text, email="keep", card="keep", secret="keep", phone="keep") == text


def test_every_part_of_a_conversation_is_searched():
    arguments = r'{"to": "\u0061nn@example.org", "card": 4111111111111111, "n": [1, true, null]}'
    messages = [
        {"role": "system", "content": "You help ann@example.org.", "name": "ann@example.org"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Is it 0171 2345678?"},
                {"type": "image_url", "image_url": {"url": "https://x.org/ann.png?key=1"}},
                {"type": "input_audio", "input_audio": {"data": "UklGRg", "format": "wav"}},
                {"type": "odd", "inner": {"ann@example.org": ["ann@example.org"]}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "ann@example.org",
            "tool_calls": [
                {
                    "id": "call_ann@example.org",
                    "type": "function",
                    "function": {"name": "send", "arguments": arguments},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_ann@example.org", "content": '{"ssn": 536904399}'},
    ]
    checked = check(messages, Review(), key=KEY, texts={"answer": "ann@example.org"})
    text = msgspec.json.encode([checked.messages, checked.texts]).decode()
    for value in ("ann", "0171", "4111", "536904399", "UklGRg"):
        assert value not in text
    plain = msgspec.json.decode(_LETTERS.sub("]", text))[0]
    assert plain[1]["content"][:3] == [
        {"type": "text", "text": "Is it [PHONE]?"},
        {"type": "text", "text": "[IMAGE]"},
        {"type": "text", "text": "[AUDIO]"},
    ]
    call = plain[2]["tool_calls"][0]
    assert msgspec.json.decode(call["function"]["arguments"]) == {
        "to": "[EMAIL]",
        "card": "[CARD]",
        "n": [1, True, None],
    }
    assert call["id"] == plain[3]["tool_call_id"] == "[EMAIL]"
    places = {finding.place for finding in checked.findings}
    assert {"messages[0].name", "messages[1].content[3].inner.key[0]", "answer"} <= places
    # The findings say where and what, and never the value.
    listed = msgspec.json.encode(checked.findings).decode()
    assert not re.search(r"ann@|2345678|4111|5369", listed)


def test_arguments_without_findings_stay_byte_for_byte():
    call = {"function": {"name": "f", "arguments": '{ "a" :1.0, "b": "x" }'}}
    messages = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    assert check(messages, Review(), key=KEY).messages == messages


@pytest.mark.parametrize("name", ["password", "api_key", "db_password", "accessToken"])
def test_the_name_of_a_field_tells_that_its_value_is_secret(name):
    arguments = msgspec.json.encode({name: "hunter2-hunter2"}).decode()
    call = {"function": {"name": "login", "arguments": arguments}}
    checked = check([{"role": "assistant", "tool_calls": [call]}], Review(), key=KEY)
    assert "hunter" not in str(checked.messages)


def test_what_is_nested_too_deep_is_left_out():
    deep = "ann@example.org"
    for _ in range(500):
        deep = [deep]
    checked = check([{"role": "user", "content": deep}], Review(), key=KEY)
    assert "ann" not in str(checked.messages)
    text = "[" * 5000 + '"ann@example.org"'
    checked = check([{"role": "user", "content": text}], Review(), key=KEY)
    assert "ann" not in checked.messages[0]["content"]


@pytest.mark.parametrize(
    "piece",
    [
        *("1", "1 2 3 ", "@", "a@b.c", ":", "1:", "eyJ", "sk-", "xoxb-1-", "password:", "DE12"),
        *("-----BEGIN RSA PRIVATE KEY-----", "data:x;base64,", '{"a":', "[EMAIL]", "//", "\uff11"),
        *("key   ", "(((1"),
    ],
)
def test_hostile_texts_take_time_in_proportion_to_their_length(piece):
    """Count the lines of Python that are executed; patterns see a window of the text at a time."""
    texts = TextMasking(PersonalData(), KEY)
    texts.mask("warm 0171 2345678 up", "")
    lines = [_lines(texts, (piece * 8000)[:length]) for length in (6000, 12000)]
    assert lines[1] < 3 * lines[0] + 2000


def test_a_token_of_many_secrets_is_copied_a_few_times():
    text = "xoxb-1-" * 3000
    values = [span.value for span in secrets_in_text(fold(text))]
    assert masked(text) == "[SECRET]"
    assert sum(map(len, values)) < 10 * len(text)


def _lines(texts, text):
    count = 0

    def trace(*_):
        nonlocal count
        count += 1
        return trace

    sys.settrace(trace)
    try:
        texts.mask(text, "")
    finally:
        sys.settrace(None)
    return count


def test_a_value_is_noticed_wherever_it_is_in_a_long_text():
    for place in (0, 4080, 4090, 4096, 8180, 8192):
        text = "x" * (place - 1) + " " * (place > 0) + "DE89 3704 0044 0532 0130 00, bye"
        assert masked(text).endswith("[IBAN], bye")
        assert len(masked(text)) == place + len("[IBAN], bye")


def test_folded_characters_are_traced_back():
    rng = random.Random(5)
    alphabet = "ab1@ \u200b\u00ad４ﬁ①٣–\u00a0é漢\U0001d7ce"  # noqa: RUF001
    for _ in range(200):
        text = "".join(rng.choices(alphabet, k=rng.randrange(1, 12)))
        folded = fold(text)
        for place in range(len(folded.text)):
            start, end = folded.original(place, place + 1)
            assert end == start + 1
            assert folded.text[place] in fold(text[start]).text
