"""Takes secrets out of bodies, before they are stored. No IO: bytes in, bytes out.

Three things are taken for secrets: strings under keys that name one (`api_key`, `authorization`,
`token`, ...), also where the JSON is itself inside a string (the arguments of a tool call); what
follows `Bearer` or `Basic`; and what has the shape of a well-known kind of key. This finds what
people put there by habit or by mistake. It cannot find a password in a sentence, nor a key that a
stream splits over two events: what must not be written down at all belongs to a route with
`record: none` or `metadata`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

HIDDEN = b"***"

_NAME = (
    rb"(?:[\w.-]*(?:api[_-]?key|authorization|secret|passw(?:or)?d|passphrase|credentials?"
    rb"|private[_-]?key|cookie)|[\w.-]+token)"
)
_PLAIN = rb'(?:[^"\\]|\\.)'
_IN_STRING = rb'(?:[^"\\]|\\\\\\"|\\\\|\\[^"\\])'
_KEYS = tuple(
    re.compile(pattern, re.DOTALL | re.IGNORECASE)
    for pattern in (
        # "name": "value"
        rb'("' + _NAME + rb'"\s*:\s*")' + _PLAIN + rb"+",
        # \"name\": \"value\"
        rb'(\\"' + _NAME + rb'\\"\s*:\s*\\")' + _IN_STRING + rb"+",
        # Log probabilities have a "token", too, but a short one.
        rb'("token"\s*:\s*")' + _PLAIN + rb"{16,}",
        rb'(\\"token\\"\s*:\s*\\")' + _IN_STRING + rb"{16,}",
    )
)
_SCHEMES = re.compile(rb"((?:[Bb]earer|BEARER|[Bb]asic|BASIC)\s+)[A-Za-z0-9._~+/=-]{8,}")

_LETTERS = rb"[A-Za-z0-9_-]"
_PREFIXES = {
    # OpenAI, Anthropic, OpenRouter, and our own.
    **dict.fromkeys((b"sk-", b"pk-", b"rk-", b"er-"), _LETTERS + rb"{16,}"),
    # Groq, Hugging Face, xAI.
    **dict.fromkeys((b"gsk_", b"hf_", b"xai-"), _LETTERS + rb"{16,}"),
    # GitHub and GitLab.
    **dict.fromkeys((b"ghp_", b"gho_", b"ghs_", b"glpat-"), _LETTERS + rb"{16,}"),
    b"github_pat_": rb"\w{20,}",
    # Slack.
    **dict.fromkeys((b"xoxa-", b"xoxb-", b"xoxp-", b"xoxr-", b"xoxs-"), _LETTERS + rb"{10,}"),
    # AWS.
    **dict.fromkeys((b"AKIA", b"ASIA"), rb"[A-Z0-9]{16}"),
    # Google.
    b"AIza": _LETTERS + rb"{35}",
    # JSON web tokens.
    b"eyJ": _LETTERS + rb"{8,}\.eyJ" + _LETTERS + rb"{8,}\.[A-Za-z0-9_-]+",
}
# One pattern each, beginning with a literal and looking back only then: that is ten times as fast
# as one pattern of alternatives. What goes on before the prefix (`desk-...`) is no key.
_SHAPES = tuple(
    re.compile(prefix + rb"(?<!" + _LETTERS + prefix + rb")" + rest)
    for prefix, rest in _PREFIXES.items()
)
_IN_URL = re.compile(rb"(://[^\s/:@\"\\]{1,256}:)[^\s/@\"\\]{1,256}@")


def redact(body: bytes) -> bytes:
    """Return the body with `***` in the place of secrets; JSON stays JSON."""
    for pattern in _KEYS:
        body = pattern.sub(rb"\1" + HIDDEN, body)
    body = _SCHEMES.sub(rb"\1" + HIDDEN, body)
    body = _IN_URL.sub(rb"\1" + HIDDEN + b"@", body)
    for pattern in _SHAPES:
        body = pattern.sub(HIDDEN, body)
    return body


def secret_spans(text: bytes) -> Iterator[tuple[int, int]]:
    """Yield where a text that need not be JSON has secrets, as far as no key names them."""
    for match in _SCHEMES.finditer(text):
        yield match.end(1), match.end()
    for match in _IN_URL.finditer(text):
        yield match.end(1), match.end() - 1
    for pattern in _SHAPES:
        for match in pattern.finditer(text):
            yield match.span()
