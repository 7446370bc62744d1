"""What the engine of this process reads of a request: bounds of every number."""

import json

import msgspec
import pytest

from providers.errors import RequestError
from serve.engines.requests import read

MESSAGES = [{"role": "user", "content": "a"}]
NEVER = [b"1" + b"0" * 30, b"1" + b"0" * 400, b"1e400", b'"5"', b"true", b"0.5", b"[]", b"{}"]
NUMBERS = {
    "max_tokens": [b"0", b"-1", b"10000001"],
    "max_completion_tokens": [b"0", b"-1", b"10000001"],
    "n": [b"0", b"129"],
    "top_k": [b"-2", b"10000001"],
    "seed": [b"9223372036854775808", b"-9223372036854775809"],
    "top_logprobs": [b"-1", b"21"],
    "temperature": [b"-0.1", b"2.1"],
    "top_p": [b"0", b"1.1"],
    "frequency_penalty": [b"2.1"],
    "presence_penalty": [b"-2.1"],
}


def envelope(**fields):
    raw = {name: msgspec.Raw(value) for name, value in fields.items()}
    return raw | {"messages": msgspec.Raw(json.dumps(MESSAGES).encode())}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_out_of_its_bounds_is_refused_by_name(name):
    # Of these, the numbers that are no whole ones may be what a field is.
    whole = name in ("max_tokens", "max_completion_tokens", "n", "top_k", "seed", "top_logprobs")
    for value in [*(one for one in NEVER if whole or one != b"0.5"), *NUMBERS[name]]:
        with pytest.raises(RequestError) as raised:
            read("chat/completions", envelope(**{name: value}))
        assert raised.value.param == name


def test_the_ends_of_the_bounds_are_within_them():
    found = read(
        "chat/completions",
        envelope(max_tokens=b"10000000", top_k=b"10000000", seed=b"-9223372036854775808"),
    )
    assert (found.sampling.max_tokens, found.sampling.top_k) == (10_000_000, 10_000_000)
    assert found.sampling.seed == -(2**63)
    assert read("chat/completions", envelope(top_k=b"-1")).sampling.top_k == 0


@pytest.mark.parametrize("name", ["tools", "best_of", "audio", "response_format"])
@pytest.mark.parametrize("value", [b"1e400", b'"\\ud83d"', b"[[" + b"1" * 5000 + b"]]"])
def test_a_field_that_it_lacks_and_cannot_read_is_refused(name, value):
    with pytest.raises(RequestError) as raised:
        read("chat/completions", envelope(**{name: value}))
    assert (raised.value.param, raised.value.code) == (name, "unsupported_parameter")
