"""Makes one rectangle of prompts of different lengths, as models read them."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def padded(
    prompts: Sequence[Sequence[int]], pad: int, *, left: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token numbers and mask, both of shape (prompts, longest).

    Args:
        prompts: the tokens of each.
        pad: the token that fills the shorter ones.
        left: whether they are filled at their beginning, and not at their end.
    """
    longest = max(map(len, prompts))
    rows, mask = [], []
    for ids in prompts:
        missing = longest - len(ids)
        padding, hidden = [pad] * missing, [0] * missing
        rows.append(padding + list(ids) if left else list(ids) + padding)
        mask.append(hidden + [1] * len(ids) if left else [1] * len(ids) + hidden)
    return torch.tensor(rows), torch.tensor(mask)
