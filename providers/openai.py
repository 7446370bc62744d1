"""OpenAI itself: the compatible wire, headers that say who pays, and its reasoning models' limits.

Reasoning models (o1, o3, o4, gpt-5 and later) refuse `max_tokens` and every sampling parameter.
From gpt-5.1 on, they take sampling parameters as long as they do not reason: that is what
`reasoning_effort: none` says, and what they do by default. Other models get what came, untouched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from providers.base import Call
from providers.compatible import Compatible, CompatibleConfig
from providers.translate import Rules
from providers.transport import Transport

BASE_URL = "https://api.openai.com/v1"

# Fine-tuned models are called ft:MODEL:...; a chat model of the gpt-5 family reasons as well, but
# says so by another name and takes the default temperature only.
_REASONING = re.compile(r"(?:ft:)?(?:o[1-9]\b|gpt-(?:[5-9]|\d\d))")
_TAKES_EFFORT_NONE = re.compile(r"(?:ft:)?gpt-(?:5\.[1-9]|[6-9]|\d\d)")
_NEVER_WITHOUT = re.compile(r"-(?:chat|codex|pro)\b")

_WHY = "OpenAI's reasoning models refuse it"
_LIMITS: Mapping[str, tuple[object, ...]] = {
    "temperature": (1,),
    "top_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
}
_REASONING_RULES = Rules(
    renamed={"max_tokens": "max_completion_tokens"},
    lacking={**dict.fromkeys(_LIMITS, _WHY), "repetition_penalty": "OpenAI has no such parameter"},
    neutral=_LIMITS,
)
# Prometheus' published sampling has it.
_FOREIGN: Mapping[str, str] = {"repetition_penalty": "OpenAI has no such parameter"}
_FOREIGN_RULES = Rules(lacking=_FOREIGN, neutral={"repetition_penalty": (1,)})
_NEWER_RULES = Rules(renamed={"max_tokens": "max_completion_tokens"})


class OpenAIConfig(CompatibleConfig, frozen=True, kw_only=True):
    """OpenAI, or a proxy in front of it.

    Attributes:
        organization: sent as `OpenAI-Organization` when not empty.
        project: sent as `OpenAI-Project` when not empty.
    """

    organization: str = ""
    project: str = ""


class OpenAI(Compatible):
    """OpenAI's API."""

    def __init__(
        self,
        name: str,
        config: OpenAIConfig,
        transport: Transport,
        *,
        default_url: str = BASE_URL,
    ) -> None:
        super().__init__(name, config, transport, default_url=default_url)
        self._own_host = not config.base_url
        if config.organization:
            self._headers["openai-organization"] = config.organization
        if config.project:
            self._headers["openai-project"] = config.project

    def rules(self, call: Call) -> Rules | None:
        """None but for a reasoning model, or for what only other hosts know."""
        if call.path != "chat/completions" or not _REASONING.match(call.model):
            # A proxy in front of another host may know it.
            foreign = self._own_host and not _FOREIGN.keys().isdisjoint(call.envelope)
            return _FOREIGN_RULES if foreign else None
        return _NEWER_RULES if _reasons_not(call) else _REASONING_RULES


def _reasons_not(call: Call) -> bool:
    """Whether a reasoning model is asked not to reason, so that it samples as others do."""
    if not _TAKES_EFFORT_NONE.match(call.model) or _NEVER_WITHOUT.search(call.model):
        return False
    effort = call.envelope.get("reasoning_effort", msgspec.Raw(b"null"))
    return bytes(effort).strip() in (b"null", b'"none"')
