"""Takes the config's own secrets out of what hosts echo: error messages, answers, headers.

A host knows what it was sent, so `of(provider)` is what its good answers are searched for; errors,
which are rare and small, are searched for every secret of the config.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import msgspec

from providers.base import Secret

HIDDEN = b"***"
# Shorter ones are words that any text has ("test", "none"): masking them would hide nothing.
SHORTEST_IN_ERRORS, SHORTEST_IN_ANSWERS = 6, 8

# No log shows a value of `headers`; good answers are searched only for those that give access.
_CREDENTIAL = re.compile(r"auth|key|token|secret|passw|cookie|credential", re.IGNORECASE)


class Masks:
    """The secrets of a config, ready to be searched for.

    Args:
        config: the whole config. A provider's own secrets are masked in its answers, all secrets
            in errors.
    """

    def __init__(self, config: msgspec.Struct | None = None) -> None:
        self._of: dict[str, tuple[bytes, ...]] = {}
        everything: set[str] = set()
        if config is not None:
            everything |= {text for _, text in _secrets(config, "")}
            for name, provider in getattr(config, "providers", {}).items():
                mine = {text for field, text in _secrets(provider, "") if _lets_in(field)}
                if forms := _forms(mine, SHORTEST_IN_ANSWERS):
                    self._of[name] = forms
        self._everything = _forms(everything, SHORTEST_IN_ERRORS)

    def of(self, provider: str) -> tuple[bytes, ...]:
        """Return what the provider's host must not echo in an answer, in every way of writing."""
        return self._of.get(provider, ())

    def mask(self, data: bytes) -> bytes:
        """Return the bytes without any secret of the config."""
        return hide(data, self._everything)

    def mask_text(self, text: str) -> str:
        """Return the text without any secret of the config."""
        data = text.encode("utf-8", "surrogateescape")
        masked = self.mask(data)
        return text if masked is data else masked.decode("utf-8", "surrogateescape")


def hide(data: bytes, secrets: tuple[bytes, ...]) -> bytes:
    """Return the bytes with these replaced by `***`; the same object if they have none."""
    for secret in secrets:
        if secret in data:
            data = data.replace(secret, HIDDEN)
    return data


def _secrets(value: Any, field: str) -> Iterator[tuple[str, str]]:
    """Yield every secret below a part of the config, with the name of the field that has it."""
    if isinstance(value, Secret):
        yield field, value.reveal()
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _secrets(getattr(value, name), name)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _secrets(inner, str(name))
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _secrets(inner, field)
    elif isinstance(value, str) and "://" in value:
        yield from _of_url(value)


def _of_url(url: str) -> Iterator[tuple[str, str]]:
    try:
        parts = urlsplit(url)
        given = parts.username or "", parts.password or ""
        query = parse_qsl(parts.query)
    except ValueError:
        return
    for name, text in query:
        if _lets_in(name):
            yield name, text
    userinfo = ":".join(map(unquote, given))
    # A user's name alone is how some hosts take a key.
    for part in (*given, *map(unquote, given), _basic(userinfo) if any(given) else ""):
        if part:
            yield "password", part


def _basic(userinfo: str) -> str:
    return base64.b64encode(userinfo.encode()).decode()


def _lets_in(field: str) -> bool:
    return _CREDENTIAL.search(field) is not None


def _forms(secrets: set[str], shortest: int) -> tuple[bytes, ...]:
    """Return every way in which a host may write these, the longest first."""
    forms: set[bytes] = set()
    for secret in secrets:
        # Of `Bearer sk-...` the second word is the secret.
        for text in {secret, *secret.split()[1:]}:
            if len(text) < shortest:
                continue
            # The environment may hold bytes that are not UTF-8.
            plain = text.encode("utf-8", "surrogateescape")
            in_json = plain.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
            forms |= {plain, in_json, in_json.replace(b"/", b"\\/"), quote(plain, safe="").encode()}
    return tuple(sorted(forms, key=lambda form: (-len(form), form)))
