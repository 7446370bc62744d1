"""Tells which family a model belongs to: a judge tends to prefer what its own family wrote.

    family("openai/gpt-4o-mini-2024-07-18")     -> "GPT"
    family("laptop/prometheus-7b-v2.0")         -> "Mistral"

Panickssery et al. 2024, arXiv:2404.13076, measure that preference.
"""

from __future__ import annotations

import re

# Names of families as they appear in models' names; a fine-tuned model counts to its base.
_FAMILIES = (
    ("Llama", r"llama|vicuna|alpaca|wizardlm|tulu|nemotron|prometheus-?(?:7b|13b)?-?v1"),
    ("Mistral", r"mi[sx]tral|codestral|ministral|magistral|zephyr|prometheus"),
    ("GPT", r"gpt|chatgpt|davinci|\bo[1-9]\b"),
    ("Claude", r"claude"),
    ("Gemini", r"gemini|gemma|palm"),
    ("Qwen", r"qwen|qwq"),
    ("DeepSeek", r"deepseek"),
    ("Phi", r"\bphi-?\d"),
    ("Command", r"command-?[ar]|\baya\b"),
    ("Grok", r"grok"),
    ("Granite", r"granite"),
    ("OLMo", r"olmo"),
    ("T5", r"\bt5|flan"),
    ("BART", r"\bbart"),
)
_PATTERNS = tuple((name, re.compile(pattern, re.IGNORECASE)) for name, pattern in _FAMILIES)


def family(*names: str) -> str:
    """Return the family that the first name with a family in it has; "" when no name has one.

    Args:
        names: a model's names, the most exact one first.
    """
    for name in names:
        for family_name, pattern in _PATTERNS:
            if pattern.search(name):
                return family_name
    return ""
