"""Describes the JSON bodies of the HTTP API, from the Structs that they are read as."""

from __future__ import annotations

import re

import msgspec

from evaluators.document import RunDocument
from router.api.request_bodies import BODIES
from router.config.schema import Config
from tooling.keys import section, structs_below, summary

_LINK = re.compile(r"\]\(#(\w+)\)")


def bodies() -> str:
    """Return a section for each body, with the operations that take it, and its keys."""
    elsewhere = {
        kind: page
        for page, first in (("config.md", Config), ("run-document.md", RunDocument))
        for kind in structs_below(first)
    }
    operations: dict[type[msgspec.Struct], list[str]] = {}
    without = []
    for operation, body in BODIES.items():
        if body.kind is None:
            without.append(f"`{operation}`")
        else:
            may = "" if body.required else " (may be left out)"
            operations.setdefault(body.kind, []).append(f"`{operation}`{may}")
    parts = []
    described: set[type[msgspec.Struct]] = set()
    for kind, takers in operations.items():
        title = ", ".join(takers)
        if page := elsewhere.get(kind):
            anchor = "" if kind is RunDocument else f"#{kind.__name__.lower()}"
            keys = f"Its keys: [{kind.__name__}]({page}{anchor})."
            parts.append(f"### {title}\n\n{summary(kind)} {keys}\n")
            continue
        parts.append(section(kind, title))
        for inner in structs_below(kind)[1:]:
            if inner not in elsewhere and inner not in described:
                described.add(inner)
                parts.append(section(inner, level=4))
    pages = {kind.__name__.lower(): page for kind, page in elsewhere.items()}
    text = _LINK.sub(lambda link: f"]({pages.get(link[1], '')}#{link[1]})", "\n".join(parts))
    return f"{text}\nThese take none, or `{{}}`: {', '.join(without)}.\n"
