"""Adds the notebook to the site as a page: mkdocs calls `on_files` (`hooks:` in mkdocs.yml)."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parents[1] / "walkthrough.ipynb"


def on_files(files: Any, config: Any) -> Any:
    """Add the page and its pictures to the site's files."""
    from mkdocs.structure.files import File  # noqa: PLC0415  # the site's, not everybody's

    text, pictures = page(json.loads(NOTEBOOK.read_text(encoding="utf-8")))
    files.append(File.generated(config, "walkthrough.md", content=text))
    for name, picture in pictures.items():
        files.append(File.generated(config, name, content=picture))
    return files


def page(notebook: dict[str, Any]) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by the names that the page has for them."""
    pictures: dict[str, bytes] = {}
    parts: list[str] = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += _outputs(cell, pictures)
    return "\n\n".join(parts) + "\n", pictures


def _outputs(cell: dict[str, Any], pictures: dict[str, bytes]) -> Iterator[str]:
    for output in cell["outputs"]:
        if text := "".join(output.get("text", ())):
            yield f"```text\n{text.rstrip()}\n```"
        if picture := output.get("data", {}).get("image/png"):
            name = f"assets/walkthrough-{len(pictures) + 1}.png"
            pictures[name] = base64.b64decode("".join(picture))
            yield f"![What the cell above plots]({name})"
