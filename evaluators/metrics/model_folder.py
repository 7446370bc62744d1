"""The folder of a local language model, and how many tokens the model takes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

# Models of these kinds number positions from behind the padding's, so they take two tokens fewer.
_OFFSET_BY_TWO = ("roberta", "xlm-roberta", "camembert", "longformer", "mpnet")

_UNKNOWN = 512


def fingerprint(folder: Path) -> str:
    """Return a digest of the model's config and its files' sizes.

    It tells two models in folders of one name apart.

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
    """Return the error for a model that cannot be loaded, with the first line of the reason."""
    lines = str(error).strip().splitlines() or [""]
    kind = "folder" if Path(model).is_dir() else "hub name (is the Hugging Face hub in reach?)"
    return RuntimeError(f"no model at the {kind} {model}: {type(error).__name__}: {lines[0]}")


def max_tokens(reported: int, config: Any) -> int:
    """Return how many tokens a model takes: its tokenizer's limit, at most its positions."""
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return reported if reported < 1_000_000 else _UNKNOWN
    if getattr(config, "model_type", "") in _OFFSET_BY_TWO:
        positions -= 2
    return min(reported, positions)
