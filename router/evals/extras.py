"""Which extras of evalrouter are installed here."""

from __future__ import annotations

import importlib.metadata
import re

# Extras that users have no use for.
_DEVELOPMENT = frozenset(
    {"deploy", "dev", "dist", "docs", "fuzz", "local-test", "mutants", "notebook", "web"}
)
_REQUIREMENT = re.compile(r"(?P<package>[A-Za-z0-9._-]+).*\bextra == ['\"](?P<extra>[\w-]+)['\"]")


def missing_packages() -> dict[str, list[str]]:
    """Return the packages that each extra lacks; none for those that are installed."""
    try:
        requirements = importlib.metadata.requires("evalrouter") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    missing: dict[str, list[str]] = {}
    for match in filter(None, map(_REQUIREMENT.match, requirements)):
        if match["extra"] not in _DEVELOPMENT:
            lacking = missing.setdefault(match["extra"], [])
            if not installed_version(match["package"]):
                lacking.append(match["package"])
    return missing


def installed_version(package: str) -> str:
    """Return the version of a package; "" where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
