"""Rules of scripted hosts that answer with log probabilities, which may change at a moment."""

from __future__ import annotations

import random


def body(logprobs: dict | None, *, text: str = "a", **fields) -> dict:
    """An answer of one token, with its alternatives."""
    content = None
    if logprobs is not None:
        others = [{"token": token, "logprob": value} for token, value in logprobs.items()]
        content = [{"token": text, "logprob": others[0]["logprob"], "top_logprobs": others}]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
        "logprobs": {"content": content},
    }
    usage = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
    return {"id": "r", "object": "chat.completion", "model": "a-1", "choices": [choice],
            "usage": usage} | fields  # fmt: skip


def noisy(count: int, *, shift: float = 0.0, seed: int = 1, **fields) -> list[dict]:
    """Rules that answer once each, with log probabilities that vary by a tenth of a nat."""
    draws = random.Random(seed)
    return [
        {
            "times": 1,
            "body": body(
                {"a": -0.5 - shift + draws.gauss(0, 0.1), "b": -1.5 + draws.gauss(0, 0.1)}, **fields
            ),
        }
        for _ in range(count)
    ]
