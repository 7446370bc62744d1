"""The generated parts of the reference pages, and where they stand.

`PARTS` maps a name to the function that returns its text. A page contains it between two comments:

    <!-- generated: NAME -->
    ...
    <!-- end -->
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from tooling import commands, conformance, http_api, keys, mcp_tools, metrics, request_bodies
from tooling.markdown import UndocumentedError

PART = re.compile(r"<!-- generated: (?P<name>[a-z-]+) -->\n(?P<text>.*?)<!-- end -->", re.DOTALL)

PARTS: Mapping[str, Callable[[], str]] = {
    "access": http_api.access,
    "bodies": request_bodies.bodies,
    "cli": commands.cli,
    "config": keys.config,
    "conformance": conformance.table_of_reports,
    "errors": http_api.error_codes,
    "kinds": keys.kinds,
    "mcp-arguments": mcp_tools.arguments,
    "mcp-tools": mcp_tools.overview,
    "metrics": metrics.metrics,
    "metric-texts": metrics.metric_texts,
    "paths": http_api.paths,
    "run-document": keys.run_document,
}


def regenerated(page: str) -> str:
    """Return a page with the current text of its generated parts."""
    return PART.sub(_regenerated, page)


def _regenerated(part: re.Match[str]) -> str:
    name = part["name"]
    if name not in PARTS:
        raise UndocumentedError(f"no generated part is named {name!r}: it is one of {[*PARTS]}")
    return f"<!-- generated: {name} -->\n{PARTS[name]()}<!-- end -->"


def outdated(folder: Path) -> dict[Path, str]:
    """Return the pages of a folder that do not match the code, with the text they should have."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))}
    current = {path: regenerated(text) for path, text in texts.items()}
    return {path: text for path, text in current.items() if text != texts[path]}
