"""JSON of hosts with numbers that nothing can hold."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.host_json import MAX_VALUES, decode, decode_object

ODD = ["1e400", "-1e400", "1.5E+999", "9" * 5000, "-" + "9" * 5000]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("@", None),
        ("[1, @, 2]", [1, None, 2]),
        ('{"a": @, "b": -0.5e3, "c": 12345678901234567890}', {"a": None, "b": -500.0}),
        ('{"a": {"b": [@, "c"]}}', {"a": {"b": [None, "c"]}}),
        (r'{"a": "\\", "b": "@ \" @", "c": @}', {"a": "\\", "c": None}),
        ('{"1e400": "9", "a": @}', {"1e400": "9", "a": None}),
    ],
)
def test_a_number_that_nothing_can_hold_is_null_by_itself(text, found, odd):
    decoded = decode(text.replace("@", odd).encode())
    if isinstance(found, dict):
        decoded = {name: decoded[name] for name in found}
    assert decoded == found


def test_strings_stay_as_they_are():
    text = f'{{"a": "1e400 {"9" * 5000} \\"1e400", "b": 1e400}}'
    assert decode(text.encode())["a"] == f'1e400 {"9" * 5000} "1e400'


NO_JSON = {
    "nothing": "",
    "half": '{"a": 1e400',
    "zero first": '{"a": 01, "b": 1e400}',
    "comma": "[1e400,]",
    "half a string": '"1e400',
    "half a string of quotes": '{"a": ' + r'"\"' * 200_000,
    "not a number": "NaN",
    "minus": "[1e400, -]",
    "two": "1e4001e400",
    "half a pair": '{"a": "\ud800", "b": 1e400}',
}


@pytest.mark.parametrize("name", NO_JSON)
def test_what_is_no_json_stays_none(name):
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        decode(NO_JSON[name].encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("text", ["[]", "1e400", '"a"', "null"])
def test_what_is_no_object(text):
    with pytest.raises(msgspec.ValidationError, match="object"):
        decode_object(text.encode())


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**63), max_value=2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_other_values_stay_as_they_are(value):
    try:
        text = json.dumps([value], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    assert decode(text) == [value]
    # The same where something else is odd.
    assert decode(text[:-1] + b", 1e400]") == [value, None]


FLOOD = {
    "lists": b"[%b[]]" % (b"[]," * MAX_VALUES),
    "nested lists": b"[" + b",".join([b"[[[[[]]]]]"] * (MAX_VALUES // 5)) + b"]",
    "objects": b"[%b{}]" % (b"{}," * MAX_VALUES),
    "keys": b"{" + b",".join(b'"%x":0' % n for n in range(MAX_VALUES)) + b"}",
}


@pytest.mark.parametrize("name", FLOOD)
def test_a_flood_of_values_is_not_decoded(name):
    with pytest.raises(msgspec.DecodeError, match=f"over {MAX_VALUES:,} lists, objects and keys"):
        decode(FLOOD[name])


def test_long_texts_and_many_numbers_are_read():
    text = "a, [b] {c}: " * 100_000
    numbers = [0.5] * MAX_VALUES
    assert decode(json.dumps([text, numbers, [numbers]]).encode()) == [text, numbers, [numbers]]
