r"""The config as people may see it: without secrets, and with `${NAME}` in place of its value.

shown = ShownConfig(config, source)
shown.sections()            # {"providers": "openai:\n  kind: openai\n  api_key: ***\n", ...}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import yaml

from providers.base import Secret
from providers.errors import ConfigError
from providers.masking import Masks
from router.config.documents import UNREAD, read_text, read_yaml
from router.config.environment import REFERENCE
from router.config.providers import BUILT_IN
from router.config.schema import Config

HIDDEN = "***"
# Of a section; a page is no place for more.
MAX_CHARACTERS = 50_000

_CREDENTIAL = re.compile(r"key|token|secret|passw|authorization|cookie|credential", re.IGNORECASE)


class ShownConfig:
    """What a config says, beyond the defaults.

    Args:
        config: as it is in use.
        source: the file that it was read from, which is read again for the variables in it; None
            for a config without a file.
    """

    def __init__(self, config: Config, source: Path | None) -> None:
        self._config = config
        self._masks = Masks(config)
        self._written: Any = None
        if source is not None:
            try:
                document, _ = read_yaml(
                    read_text(source, error=ConfigError), str(source), error=ConfigError
                )
            except ConfigError:
                # It has changed since it was read, so what was a variable is not known.
                self._written = UNREAD
            else:
                self._written = document.data

    def sections(self) -> dict[str, str]:
        """Return the sections that are not as by default, as YAML.

        Providers that are there without being configured are not among them.
        """
        texts: dict[str, str] = {}
        if self._written is UNREAD:
            return texts
        for field in msgspec.structs.fields(Config):
            value = getattr(self._config, field.name)
            written = _within(self._written, field.name)
            if field.name == "providers":
                value = {
                    name: provider
                    for name, provider in value.items()
                    if provider != BUILT_IN.get(name) or _within(written, name) is not None
                }
            if value == _default_of(field):
                continue
            plain = self._plain(value, written, field.name)
            text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
            text = self._masks.mask_text(text.removesuffix("...\n"))
            if len(text) > MAX_CHARACTERS:
                text = f"{text[:MAX_CHARACTERS]}\n# and {len(text) - MAX_CHARACTERS:,} characters"
            texts[field.name] = text
        return texts

    def _plain(self, value: Any, written: Any, name: str) -> Any:
        """Return a part of the config as it is shown, beside what the file says in its place."""
        if isinstance(written, str) and REFERENCE.search(written):
            # The file's own text, but not what stands in it as a default of a secret.
            if isinstance(value, Secret) or _CREDENTIAL.search(name):
                return REFERENCE.sub(lambda match: f"${{{match['name']}}}", written)
            return without_credentials(written)
        if isinstance(value, Secret):
            return HIDDEN if value else ""
        if isinstance(value, msgspec.Struct):
            return {
                field.encode_name: self._plain(
                    getattr(value, field.name),
                    _within(written, field.encode_name),
                    field.encode_name,
                )
                for field in msgspec.structs.fields(value)
                if field.required or getattr(value, field.name) != _default_of(field)
            }
        if isinstance(value, Mapping):
            return {
                str(key): self._plain(inner, _within(written, key), str(key))
                for key, inner in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [
                self._plain(inner, _within(written, place), name)
                for place, inner in enumerate(value)
            ]
        if isinstance(value, str):
            return HIDDEN if value and _CREDENTIAL.search(name) else without_credentials(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        return msgspec.to_builtins(value, enc_hook=str)


def without_credentials(text: str) -> str:
    """Return a text without the user, the password and the query of a URL."""
    if "://" not in text:
        return text
    try:
        parts = urlsplit(text)
    except ValueError:
        return HIDDEN
    _, user, host = parts.netloc.rpartition("@")
    place = f"{HIDDEN}{user}{host}" if user else host
    query = f"?{HIDDEN}" if parts.query or parts.fragment else ""
    return f"{parts.scheme}://{place}{parts.path}{query}"


def _within(written: Any, step: str | int) -> Any:
    if isinstance(written, dict):
        return written.get(step)
    if isinstance(written, list) and isinstance(step, int) and step < len(written):
        return written[step]
    return None


def _default_of(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default
