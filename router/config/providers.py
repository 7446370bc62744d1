"""`providers:` of the config: the hosts that answer, each of the class that its kind names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from providers.base import ProviderConfig, Secret
from providers.compatible import CompatibleConfig
from providers.errors import closest
from providers.kinds import KINDS, installed_kinds, kind_of
from providers.offline.baseline import BaselineConfig
from providers.plugins import PluginError
from router.config.documents import UNREAD, Document, DocumentPath, Problem
from router.config.section import IN_PLACE, NAME, SectionReader

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")
_NO_HEADER = "has characters that no header can have, such as a line break at its end"
# What says where a request ends or goes.
_FRAMING_HEADERS = frozenset(
    {"connection", "content-length", "expect", "host", "te", "trailer", "transfer-encoding"}
    | {"upgrade"}
)

# By name; None for a provider that is configured and wrong.
Providers = Mapping[str, ProviderConfig | None]

# The environment variable that usually has the key for a kind of provider.
KEY_VARIABLES: Mapping[str, str] = {
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "gemini": "GEMINI_API_KEY",
    "groq": "GROQ_API_KEY",
    "mistral": "MISTRAL_API_KEY",
    "openrouter": "OPENROUTER_API_KEY",
    "together": "TOGETHER_API_KEY",
}

# The floor every evaluation should beat is always at hand. The other one says how to start the
# engine for local models when it does not run.
BUILT_IN: dict[str, ProviderConfig] = {
    "baseline": BaselineConfig(kind="baseline"),
    "hf": CompatibleConfig(kind="huggingface"),
}


def read_providers(
    reader: SectionReader, environ: Mapping[str, str]
) -> dict[str, ProviderConfig | None] | None:
    """Return the providers by name, None for each that is wrong; None for a section that is.

    Those whose keys are in `environ` are among them.
    """
    entries = reader.named("providers")
    if entries is None:
        return None
    providers = {name: _read_provider(reader, name, entry) for name, entry in entries.items()}
    for name, provider in providers.items():
        if isinstance(provider, CompatibleConfig):
            reader.add(provider_problems(reader.document, name, provider))
    providers |= _with_keys_in(reader, environ, providers)
    return providers | {name: BUILT_IN[name] for name in BUILT_IN if name not in providers}


def _with_keys_in(
    reader: SectionReader, environ: Mapping[str, str], configured: Providers
) -> dict[str, ProviderConfig | None]:
    """Return the providers, named as their kinds, that only a key in the environment stands for."""
    kinds = {provider.kind for provider in configured.values() if provider is not None}
    providers: dict[str, ProviderConfig | None] = {}
    for kind, variable in KEY_VARIABLES.items():
        value = environ.get(variable)
        if not value or kind in kinds or kind in configured:
            continue
        if _HEADER_VALUE.fullmatch(value):
            settings: dict[str, Any] = {"kind": kind, "api_key": Secret(value)}
            providers[kind] = KINDS[kind].config(**settings)
        else:
            reader.refuse(("providers",), f"{variable} {_NO_HEADER}")
            providers[kind] = None
    return providers


def _read_provider(reader: SectionReader, name: str, entry: Any) -> ProviderConfig | None:
    place = ("providers", name)
    if entry is UNREAD:
        return None
    if not NAME.fullmatch(name):
        reader.refuse(place, "a provider's name has letters, digits and . _ : - only")
        return None
    if name == IN_PLACE:
        reader.refuse(place, "the name stands for the section models:; choose another")
        return None
    kind = entry.get("kind") if isinstance(entry, dict) else None
    if kind is UNREAD:
        return None
    if kind is None:
        reader.refuse(place, f"needs a kind: {', '.join(sorted(_known_kinds()))}")
        return None
    try:
        provider_kind = kind_of(kind) if isinstance(kind, str) else None
    except PluginError as error:
        reader.refuse((*place, "kind"), str(error))
        return None
    if provider_kind is None:
        near = closest(str(kind), _known_kinds())
        reader.refuse((*place, "kind"), f"unknown kind {kind!r}.{near}")
        return None
    return reader.convert(place, provider_kind.config)


def _known_kinds() -> list[str]:
    return [*KINDS, *installed_kinds().usable]


def provider_problems(
    document: Document, name: str, provider: CompatibleConfig
) -> Iterator[Problem]:
    """Yield what types cannot say: URLs that must be URLs, headers that must be headers."""
    place = ("providers", name)
    if provider.kind == "compatible" and not provider.base_url:
        yield document.problem((*place, "base_url"), "a compatible host needs one")
    if provider.base_url and (wrong := wrong_with_url(provider.base_url)):
        yield document.problem((*place, "base_url"), wrong)
    if provider.reasoning is not None:
        yield from reasoning_problems(document, place, name, provider)
    yield from token_problems(document, (*place, "api_key"), provider.api_key)
    yield from header_problems(document, place, provider.headers)


def reasoning_problems(
    document: Document, place: DocumentPath, name: str, provider: ProviderConfig
) -> Iterator[Problem]:
    """Refuse a setting that would change nothing. Kinds without a host may stand for any."""
    kind = kind_of(provider.kind) if isinstance(provider, CompatibleConfig) else None
    if kind is not None and not kind.reasoning:
        yield document.problem(
            (*place, "reasoning"),
            f"changes nothing, since the provider {name!r} is of the kind {provider.kind!r}, "
            "which has rules of its own for every model; leave it out",
        )


def token_problems(document: Document, place: DocumentPath, token: Secret) -> Iterator[Problem]:
    """Refuse a secret that is sent in a header and cannot be."""
    if not _HEADER_VALUE.fullmatch(token.reveal()):
        yield document.problem(place, _NO_HEADER)


def header_problems(
    document: Document, place: DocumentPath, headers: Mapping[str, Secret]
) -> Iterator[Problem]:
    """Refuse what would break a request's head. Values are secrets, so they are not shown."""
    for name, value in headers.items():
        header = (*place, "headers", name)
        if not _HEADER_NAME.fullmatch(name):
            yield document.problem(header, "not a header's name")
        elif name.lower() in _FRAMING_HEADERS:
            yield document.problem(header, "evalrouter sends this itself")
        elif not _HEADER_VALUE.fullmatch(value.reveal()):
            yield document.problem(header, "has characters that no header can have")


_API_PATHS = ("/chat/completions", "/completions", "/embeddings", "/models", "/messages")


def wrong_with_address(url: str, *, instead: str = "headers") -> str:
    """Return why no request can be sent to a URL; "" when one can.

    `instead` is what a user's name in it could be written in.
    """
    if not url.isascii() or not url.isprintable() or " " in url:
        return "has characters that a URL cannot have; escape them (%20)"
    try:
        parts = urlsplit(url)
        # Reading it is what checks it.
        port = parts.port
    except ValueError:
        return "is not a URL: its host or port cannot be read"
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return "must begin with http:// or https:// and a host"
    if "@" in parts.netloc:
        return f"has a user's name in it, which would not be sent; use {instead}"
    return ""


def wrong_with_url(url: str) -> str:
    """Return why requests cannot be sent below a base URL; "" when they can."""
    if wrong := wrong_with_address(url, instead="api_key or headers"):
        return wrong
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        return "must end with a path: paths of the API follow it"
    for path in _API_PATHS:
        if parts.path.rstrip("/").endswith(path):
            return f"must end before {path}, which follows it in requests"
    return ""
