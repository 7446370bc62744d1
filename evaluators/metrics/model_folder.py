"""What the metrics that hold a language model need to know of its folder and its limits."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

# Models of these kinds number positions from behind the padding's, so they take two tokens fewer.
_OFFSET_BY_TWO = ("roberta", "xlm-roberta", "camembert", "longformer", "mpnet")

_UNKNOWN = 512


def fingerprint(folder: Path) -> str:
    """Tells two models in folders of one name apart: their config, and their files' sizes.

    It does not read the weights, which may be gigabytes.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}:{path.stat().st_size};".encode())
    config = folder / "config.json"
    if config.is_file():
        digest.update(config.read_bytes())
    return digest.hexdigest()[:12]


def not_loaded(model: str, error: Exception) -> RuntimeError:
    """What to raise where a model cannot be loaded: which it is, and the first line of why."""
    lines = str(error).strip().splitlines() or [""]
    kind = "folder" if Path(model).is_dir() else "hub name (is the Hugging Face hub in reach?)"
    return RuntimeError(f"no model at the {kind} {model}: {type(error).__name__}: {lines[0]}")


def most_tokens(said: int, config: Any) -> int:
    """How many tokens a model takes: as its tokenizer says, but never more than its positions."""
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return said if said < 1_000_000 else _UNKNOWN
    if getattr(config, "model_type", "") in _OFFSET_BY_TWO:
        positions -= 2
    return min(said, positions)
