"""Imports the modules here that need the package `mcp`, which is an extra."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from providers.errors import MissingExtraError

_PACKAGES = frozenset({"mcp", "mcp_types"})


def load(module: str, what: str) -> Any:
    """Return a module of `router.mcp`; it takes a second or two to import.

    Args:
        module: its name there.
        what: what needs it, for people.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        return import_module(f"router.mcp.{module}")
    except ModuleNotFoundError as problem:
        if (problem.name or "").partition(".")[0] not in _PACKAGES:
            raise
        raise MissingExtraError(what, "mcp") from None
