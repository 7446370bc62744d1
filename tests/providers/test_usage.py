"""What hosts' counts of tokens mean: a row per host and dialect, and numbers that are none."""

import json

import msgspec
import pytest

from providers.http.sse import encode, read_end
from providers.kinds import KINDS
from providers.usage import (
    ABSENT,
    MAX_COUNT,
    USAGE_NAMES,
    TokenCounts,
    lacks_usage,
    read_usage,
    usage_of_answer,
    with_usage,
)

PLAIN = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
ROWS = {
    "plain": (PLAIN, TokenCounts(1000, 100, 1100)),
    "openai": (
        PLAIN | {"prompt_tokens_details": {"cached_tokens": 900, "audio_tokens": 0}},
        TokenCounts(1000, 100, 1100, 900),
    ),
    "openai, written": (
        PLAIN | {"prompt_tokens_details": {"cached_tokens": 500, "cache_write_tokens": 300}},
        TokenCounts(1000, 100, 1100, 500, 300),
    ),
    "our anthropic": (
        PLAIN | {"prompt_tokens_details": {"cached_tokens": 500, "cache_creation_tokens": 300}},
        TokenCounts(1000, 100, 1100, 500, 300),
    ),
    "more cached than there is": (
        PLAIN | {"prompt_tokens_details": {"cached_tokens": 10**9}},
        TokenCounts(1000, 100, 1100),
    ),
    "more cached than there is, moonshot": (
        PLAIN | {"cached_tokens": 1001},
        TokenCounts(1000, 100, 1100),
    ),
    "a total beyond belief": (PLAIN | {"total_tokens": 10**12}, TokenCounts(1000, 100, 1100)),
    "azure, null details": (PLAIN | {"prompt_tokens_details": None}, TokenCounts(1000, 100, 1100)),
    "groq, times beside tokens": (
        PLAIN | {"queue_time": 0.1, "prompt_time": 0.2, "total_time": 0.3},
        TokenCounts(1000, 100, 1100),
    ),
    "deepseek": (
        PLAIN | {"prompt_cache_hit_tokens": 900, "prompt_cache_miss_tokens": 100},
        TokenCounts(1000, 100, 1100, 900),
    ),
    "moonshot": (PLAIN | {"cached_tokens": 900}, TokenCounts(1000, 100, 1100, 900)),
    "litellm in front of anthropic": (
        PLAIN | {"cache_read_input_tokens": 900, "cache_creation_input_tokens": 0},
        TokenCounts(1000, 100, 1100, 900),
    ),
    "anthropic": (
        {
            "input_tokens": 100,
            "output_tokens": 100,
            "cache_read_input_tokens": 800,
            "cache_creation_input_tokens": 100,
        },
        TokenCounts(1000, 100, 1100, 800, 100),
    ),
    "cached tokens beside the prompt's, as the total says": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 100,
            "total_tokens": 1100,
            "cache_read_input_tokens": 900,
        },
        TokenCounts(1000, 100, 1100, 900),
    ),
    "openai's responses": (
        {
            "input_tokens": 1000,
            "output_tokens": 100,
            "total_tokens": 1100,
            "input_tokens_details": {"cached_tokens": 900},
        },
        TokenCounts(1000, 100, 1100, 900),
    ),
    "xai, reasoning beside the completion": (
        PLAIN | {"total_tokens": 3100, "completion_tokens_details": {"reasoning_tokens": 2000}},
        TokenCounts(1000, 2100, 3100),
    ),
    "openai, reasoning within the completion": (
        PLAIN | {"completion_tokens_details": {"reasoning_tokens": 90}},
        TokenCounts(1000, 100, 1100),
    ),
    "reasoning beside the completion, no total": (
        {
            "prompt_tokens": 1000,
            "completion_tokens": 100,
            "completion_tokens_details": {"reasoning_tokens": 2000},
        },
        TokenCounts(1000, 2100, 3100),
    ),
    "gemini, thoughts in the total alone": (
        PLAIN | {"total_tokens": 3100},
        TokenCounts(1000, 2100, 3100),
    ),
    "gemini, nothing but thoughts": (
        {"prompt_tokens": 1000, "total_tokens": 3100},
        TokenCounts(1000, 2100, 3100),
    ),
    "embedding": ({"prompt_tokens": 8, "total_tokens": 8}, TokenCounts(8, None, 8)),
    "no total": ({"prompt_tokens": 8, "completion_tokens": 2}, TokenCounts(8, 2, 10)),
    "a total that is too small": (PLAIN | {"total_tokens": 5}, TokenCounts(1000, 100, 1100)),
    "the prompt from the rest": (
        {"prompt_tokens": -1, "completion_tokens": 100, "total_tokens": 1100},
        TokenCounts(1000, 100, 1100),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_each_hosts_counts(name):
    usage, expected = ROWS[name]
    raw = json.dumps(usage).encode()
    assert read_usage(raw) == expected
    # Whatever answer they come in.
    assert usage_of_answer(msgspec.Raw(raw)) == expected
    assert usage_of_answer(ABSENT, msgspec.Raw(b'{"id":"r","usage":%b}' % raw)) == expected
    end = read_end(encode(b'{"choices":[],"usage":%b}' % raw))
    assert end.usage == expected


def test_every_row_of_names_is_tested():
    for names in USAGE_NAMES:
        name = (names.cached or names.prompt).rpartition(".")[2]
        assert any(name in json.dumps(usage) for usage, _ in ROWS.values()), names.hosts


# A number that is no count, and is unknown by itself.
ODD = [
    "1e400",
    "-1e400",
    "-1",
    "-9223372036854775809",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    str(MAX_COUNT + 1),
    "10.5",
    "10.0",
    "1e3",
    "true",
    '"10"',
    "null",
    "[]",
    "{}",
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens", "total_tokens"])
def test_an_odd_number_is_unknown_by_itself(name, odd):
    values = {one: str(value) for one, value in PLAIN.items()} | {name: odd}
    raw = "{" + ", ".join(f'"{one}": {value}' for one, value in values.items()) + "}"
    found = read_usage(raw.encode())
    # Each of the three follows from the other two.
    assert found == TokenCounts(1000, 100, 1100)


@pytest.mark.parametrize("odd", ODD)
def test_nothing_but_odd_numbers_is_no_usage(odd):
    raw = f'{{"prompt_tokens": {odd}, "completion_tokens": {odd}, "total_tokens": {odd}}}'
    assert read_usage(raw.encode()) is None


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "where",
    [
        '"prompt_tokens_details": {"cached_tokens": %s}',
        '"prompt_tokens_details": {"cache_write_tokens": %s}',
        '"prompt_tokens_details": %s',
        '"prompt_cache_hit_tokens": %s',
        '"cached_tokens": %s',
        '"cache_read_input_tokens": %s',
        '"completion_tokens_details": {"reasoning_tokens": %s}',
        '"cost": %s',
    ],
)
def test_an_odd_detail_costs_nothing_else(where, odd):
    raw = json.dumps(PLAIN)[:-1] + ", " + where % odd + "}"
    found = read_usage(raw.encode())
    assert found is not None
    assert found[:3] == (1000, 100, 1100)
    assert (found.cached, found.written) == (0, 0)


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_detail_leaves_the_one_beside_it(odd):
    details = f'{{"cached_tokens": 900, "cache_write_tokens": {odd}}}'
    raw = f'{json.dumps(PLAIN)[:-1]}, "prompt_tokens_details": {details}}}'
    found = read_usage(raw.encode())
    assert found == TokenCounts(1000, 100, 1100, 900)


@pytest.mark.parametrize("odd", [b'"\xff"', b'{"\xff": 1}'])
def test_bytes_that_are_no_text_cost_nothing_else(odd):
    raw = json.dumps(PLAIN).encode()[:-1] + b', "odd": %b}' % odd
    assert read_usage(raw) == TokenCounts(1000, 100, 1100)
    # The same where the usual shape does not fit.
    raw = raw.replace(b"1000", b"1e400")
    assert read_usage(raw) == TokenCounts(1000, 100, 1100)


@pytest.mark.parametrize("raw", [b"null", b"[]", b"7", b'"x"', b"{}", b"{", b"", b'{"a":NaN}'])
def test_no_usage(raw):
    assert read_usage(raw) is None


def test_the_largest_counts():
    largest = json.dumps({"prompt_tokens": MAX_COUNT, "completion_tokens": 0}).encode()
    assert read_usage(largest) == TokenCounts(MAX_COUNT, 0, MAX_COUNT)


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (None, '{"include_usage":true}'),
        ("null", '{"include_usage":true}'),
        ("{}", '{"include_usage":true}'),
        ('{"include_usage": false}', '{"include_usage":true}'),
        ('{"include_usage": null}', '{"include_usage":true}'),
        (
            '{"include_obfuscation":false}',
            '{"include_obfuscation":false,"include_usage":true}',
        ),
        (
            '{"include_usage": false ,"x":[1.0]}',
            '{"include_usage":true,"x":[1.0]}',
        ),
        ('{"include_usage": true}', None),
        # The host's to refuse.
        ('"all"', None),
        ("[]", None),
        ('{"include_usage": "yes"}', None),
    ],
)
def test_a_stream_is_asked_for_its_usage(options, sent):
    fields = {"model": msgspec.Raw(b'"m"')}
    if options is not None:
        fields["stream_options"] = msgspec.Raw(options.encode())
    assert lacks_usage(fields) == (sent is not None)
    if sent is not None:
        changed = with_usage(fields)
        assert bytes(changed["stream_options"]).decode() == sent
        assert changed["model"] == fields["model"]


def test_every_kind_over_http_can_be_told_not_to_ask():
    silent = {"baseline", "scripted", "recorded", "sentence_transformers"}
    for name, kind in KINDS.items():
        fields = {field.name for field in msgspec.structs.fields(kind.config)}
        assert ("stream_usage" in fields) != (name in silent), name
