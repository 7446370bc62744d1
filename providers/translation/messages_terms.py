"""Names that mean the same in chat completions and in Anthropic's Messages API. No IO.

Both directions read them here: `providers/anthropic.py` and `anthropic_answers.py` serve chat
completions from the Messages API, `messages_requests.py` and `messages_answers.py` the Messages API
from chat completions.
"""

from __future__ import annotations

from collections.abc import Mapping

# The Messages API's `stop_reason` as the `finish_reason` of a chat completion.
FINISH_REASONS: Mapping[str, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}

# And back. Hosts that stand in front of Claude may give Anthropic's own word; it stays.
STOP_REASONS: Mapping[str, str] = {
    **{reason: reason for reason in FINISH_REASONS},
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}

# `tool_choice` of chat completions as the type of Anthropic's, and back.
CHOICE_TYPES: Mapping[str, str] = {"auto": "auto", "none": "none", "required": "any"}
CHOICE_WORDS: Mapping[str, str] = {kind: word for word, kind in CHOICE_TYPES.items()}

# Values of `reasoning_effort` that are values of `output_config.effort` as well.
EFFORTS = ("low", "medium", "high", "xhigh", "max")

# The smallest `thinking.budget_tokens` that counts as an effort. Anthropic takes 1,024 and more.
_BUDGETS = ((16_384, "high"), (4_096, "medium"))


def effort_of_budget(tokens: int) -> str:
    """Return the `reasoning_effort` for so many tokens of thinking.

    Low below 4,096, medium below 16,384, else high. Claude Code's own steps (4,000, 10,000 and
    31,999 tokens) come out as the three.
    """
    return next((effort for least, effort in _BUDGETS if tokens >= least), "low")
