"""The dataset that ships with evalrouter. `evalrouter demo` (`router/cli/demo.py`) uses it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

# What a run document may name in place of a path.
SHIPPED: Mapping[str, Path] = {"evalrouter:summaries": Path(__file__).parent / "summaries.jsonl"}
