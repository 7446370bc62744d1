"""Reads how many tokens a request took from a host's answer, whatever names it uses. No IO.

    read_usage(b'{"prompt_tokens": 1000, "completion_tokens": 100, "cached_tokens": 900}')
    # TokenCounts(prompt=1000, completion=100, total=1100, cached=900, written=0)

This is the only place where a host's counts become numbers of ours. A count is a whole number from
0 to 2**53; anything else (a fraction, a string, a negative number) is unknown, by itself: the
other counts beside it still hold.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from providers import host_json
from providers.wire import UNREADABLE

# More than any model takes and gives in one request: a total, or a count of reasoning tokens, that
# is so far above the other counts is wrong.
MAX_REMAINDER = 10_000_000
# Above this, a JSON number is not exact for every reader, and no request comes near it.
MAX_COUNT = 2**53

# The value of a field of type Raw that is absent.
ABSENT = msgspec.Raw(b"null")

_decode = msgspec.json.Decoder(Any).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_options = msgspec.json.Decoder(dict[str, msgspec.Raw] | None).decode
_encode = msgspec.json.Encoder().encode
_INCLUDE = msgspec.Raw(b'{"include_usage":true}')
_TRUE = msgspec.Raw(b"true")
_OFF = (b"false", b"null")


def lacks_usage(envelope: Mapping[str, msgspec.Raw]) -> bool:
    """Return whether a stream's usage has to be requested, because the client did not.

    A value of the wrong type is the host's to refuse.
    """
    raw = envelope.get("stream_options")
    if raw is None:
        return True
    try:
        options = _decode_options(raw)
    except UNREADABLE:
        return False
    return not options or bytes(options.get("include_usage", b"null")).strip() in _OFF


def with_usage(envelope: Mapping[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """Return the fields of a request with a request for the usage; other options stay.

    Only for a request that `lacks_usage`.
    """
    raw = envelope.get("stream_options")
    options = None if raw is None else _decode_options(raw)
    requested = msgspec.Raw(_encode({**options, "include_usage": _TRUE})) if options else _INCLUDE
    return {**envelope, "stream_options": requested}


class TokenCounts(NamedTuple):
    """The tokens of one request.

    Attributes:
        prompt: tokens of the prompt, cached and written ones included; None when unknown.
        completion: tokens of the answer, reasoning included; None when unknown.
        total: the sum; None when either is unknown and the host gives no total.
        cached: tokens of the prompt that the host's cache had.
        written: tokens of the prompt that the host put into its cache.
    """

    prompt: int | None = None
    completion: int | None = None
    total: int | None = None
    cached: int = 0
    written: int = 0


class UsageNames(NamedTuple):
    """The names under which some hosts report usage; a dot leads into an object.

    Attributes:
        hosts: the hosts that use these names.
        prompt, completion: the prompt's and the answer's tokens.
        cached, written: tokens of the prompt that were read from and written into the host's cache.
        apart: whether `prompt` includes neither cached nor written tokens.
    """

    hosts: str
    prompt: str = "prompt_tokens"
    completion: str = "completion_tokens"
    cached: str = ""
    written: str = ""
    apart: bool = False


# Read from the top: the first row whose names are present counts. The names differ, so one list
# serves every provider, and a proxy of the kind `compatible` in front of any of these hosts.
USAGE_NAMES = (
    UsageNames(
        "OpenAI, Azure, Mistral, Gemini, Groq, xAI, vLLM, OpenRouter",
        cached="prompt_tokens_details.cached_tokens",
        written="prompt_tokens_details.cache_write_tokens",
    ),
    UsageNames(
        "the provider kind anthropic",
        cached="prompt_tokens_details.cached_tokens",
        written="prompt_tokens_details.cache_creation_tokens",
    ),
    UsageNames("DeepSeek", cached="prompt_cache_hit_tokens"),
    UsageNames("Moonshot", cached="cached_tokens"),
    UsageNames(
        "LiteLLM in front of Anthropic",
        cached="cache_read_input_tokens",
        written="cache_creation_input_tokens",
    ),
    UsageNames(
        "OpenAI's responses",
        prompt="input_tokens",
        completion="output_tokens",
        cached="input_tokens_details.cached_tokens",
    ),
    UsageNames(
        "Anthropic",
        prompt="input_tokens",
        completion="output_tokens",
        cached="cache_read_input_tokens",
        written="cache_creation_input_tokens",
        apart=True,
    ),
)


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cache_creation_tokens: int = 0


class _Usual(msgspec.Struct, gc=False):
    """The usage of nearly every answer, and the names that make one unusual."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _Details | None = None
    prompt_cache_hit_tokens: Any = None
    cached_tokens: Any = None
    cache_read_input_tokens: Any = None
    cache_creation_input_tokens: Any = None


_decode_usual = msgspec.json.Decoder(_Usual).decode


def read_usage(raw: bytes | msgspec.Raw) -> TokenCounts | None:
    """Return the tokens in the JSON of a `usage`; None when it has none."""
    # The usual shape takes a tenth of the time this way, and every request passes here.
    try:
        usual = _decode_usual(raw)
    except UNREADABLE:
        return _read_any(raw)
    prompt, completion, total = usual.prompt_tokens, usual.completion_tokens, usual.total_tokens
    details = usual.prompt_tokens_details
    cached = written = 0
    if details is not None:
        cached = details.cached_tokens
        written = details.cache_write_tokens or details.cache_creation_tokens
        if cached < 0 or written < 0 or cached + written > prompt:
            return _read_any(raw)
    if (
        prompt < 0
        or completion < 0
        or total != prompt + completion
        or total > MAX_COUNT
        or usual.prompt_cache_hit_tokens
        or usual.cached_tokens
        or usual.cache_read_input_tokens
        or usual.cache_creation_input_tokens
    ):
        return _read_any(raw)
    return TokenCounts(prompt, completion, total, cached, written)


def _read_any(raw: bytes | msgspec.Raw) -> TokenCounts | None:
    """Read usage of any shape, name by name."""
    try:
        fields = _decode(raw)
    except UNREADABLE:
        fields = _field_by_field(raw)
    return tokens_of(fields)


class _Groq(msgspec.Struct):
    usage: msgspec.Raw = ABSENT


_decode_groq = msgspec.json.Decoder(_Groq).decode


def usage_of_answer(usage: msgspec.Raw, x_groq: msgspec.Raw = ABSENT) -> TokenCounts | None:
    """Return the tokens in an answer's `usage`, or in the object where Groq puts it."""
    counts = None if usage is ABSENT else read_usage(usage)
    if counts is not None or x_groq is ABSENT:
        return counts
    try:
        inner = _decode_groq(x_groq).usage
    except UNREADABLE:
        return None
    return read_usage(inner)


def tokens_of(usage: Any) -> TokenCounts | None:
    """Return the tokens in a decoded `usage`; None when it has none."""
    if not isinstance(usage, dict):
        return None
    prompt = completion = None
    cached = written = 0
    for names in USAGE_NAMES:
        read = (_at(usage, names.cached) if names.cached else None) or 0
        put = (_at(usage, names.written) if names.written else None) or 0
        cached = cached or read
        written = written or put
        if prompt is None or (names.apart and "prompt_tokens" not in usage):
            prompt = _at(usage, names.prompt)
            if names.apart and prompt is not None:
                prompt += read + put
        if completion is None:
            completion = _at(usage, names.completion)
    total = _at(usage, "total_tokens")
    if prompt is None and completion is None and total is None:
        return None
    counts = _completed(usage, TokenCounts(prompt, completion, total, cached, written))
    if counts.prompt is not None and counts.cached + counts.written > counts.prompt:
        # More than there is: nothing is known of either.
        return counts._replace(cached=0, written=0)
    return counts


def _completed(usage: dict[str, Any], counts: TokenCounts) -> TokenCounts:
    """Return the counts with what follows from the total, which may have more than the others."""
    prompt, completion, total, cached, written = counts
    if total is not None and total - (prompt or 0) - (completion or 0) > MAX_REMAINDER:
        total = None
    if prompt is None:
        if completion is not None and total is not None and total > completion:
            prompt = total - completion
        return TokenCounts(prompt, completion, total, cached, written)
    if completion is None:
        # An embedding has no completion, and hosts leave the count out.
        if total is None:
            total = prompt
        elif total > prompt:
            completion = total - prompt
        return TokenCounts(prompt, completion, total, cached, written)
    reasoning = _at(usage, "completion_tokens_details.reasoning_tokens") or 0
    if total is None and completion < reasoning <= MAX_REMAINDER:
        completion += reasoning
    beside = 0 if total is None else total - prompt - completion
    if beside > 0 and beside == cached + written:
        prompt += beside
    elif beside > 0:
        # Reasoning: xAI and Gemini count it in the total alone.
        completion += beside
    return TokenCounts(prompt, completion, prompt + completion, cached, written)


def count_of(value: Any) -> int | None:
    """Return a host's count; None where the value cannot be one."""
    # Not bool, which is an int in Python.
    return value if type(value) is int and 0 <= value <= MAX_COUNT else None


def _at(usage: dict[str, Any], path: str) -> int | None:
    name, _, rest = path.partition(".")
    value = usage.get(name)
    if rest:
        value = value.get(rest) if isinstance(value, dict) else None
    return count_of(value)


def _field_by_field(raw: bytes | msgspec.Raw) -> Any:
    """Return the fields that can be read: one that cannot does not hide the others.

    `host_json.decode` reads each of them. It does not read the object as a whole, where bytes that
    are not UTF-8, in a field that is no count, would cost all counts.
    """
    try:
        fields = _decode_fields(raw)
    except UNREADABLE:
        return None
    readable = {}
    for name, value in fields.items():
        with contextlib.suppress(*UNREADABLE):
            readable[name] = host_json.decode(value)
    return readable
