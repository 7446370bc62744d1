"""The address of a server as commands take it: with or without `/v1` at its end."""

from __future__ import annotations

from providers.errors import ConfigError
from router.config.providers import wrong_with_url


def root_of(url: str) -> str:
    """Return an address without `/v1`.

    Raises:
        ConfigError: it is no URL of a server.
    """
    if wrong := wrong_with_url(url):
        raise ConfigError(f"--url {wrong}")
    return url.rstrip("/").removesuffix("/v1")
