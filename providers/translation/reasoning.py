"""Which models of OpenAI's are reasoning models, and what those refuse.

Reasoning models (o1, o3, o4, gpt-5 and later) refuse `max_tokens` and every sampling parameter.
From gpt-5.1 on, they take sampling parameters as long as they do not reason: that is what
`reasoning_effort: none` says, and what they do by default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from providers.base import Call
from providers.translation.translate import Rules

# A model's name may stand behind a prefix: of a gateway (`openai/o3-mini`), of a fine-tuned model
# (`ft:gpt-5:...`), of a deployment (`prod-o3-mini`). `gpt-35-turbo` is Azure's name for 3.5.
_BEGINS = r"(?:^|[^a-z0-9])"
_GPT = r"gpt-?(?:[5-9](?!\d)|[125]\d(?!\d))"
_REASONING = re.compile(_BEGINS + r"(?:o[1-9](?![a-z0-9])|" + _GPT + ")")
_TAKES_EFFORT_NONE = re.compile(_BEGINS + r"gpt-?(?:5\.?[1-9]|[6-9](?!\d)|[12]\d(?!\d))")
# A chat model of the gpt-5 family reasons as well, and takes the default temperature only.
_NEVER_WITHOUT = re.compile(r"-(?:chat|codex|pro)\b")

NO_SUCH_PARAMETER = "OpenAI has no such parameter"
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
REASONING_RULES = Rules(
    renamed={"max_tokens": "max_completion_tokens"},
    lacking={**dict.fromkeys(_LIMITS, _WHY), "repetition_penalty": NO_SUCH_PARAMETER},
    neutral=_LIMITS,
)
NEWER_RULES = Rules(renamed={"max_tokens": "max_completion_tokens"})


def is_named_so(model: str) -> bool:
    """Return whether a model's name is that of a reasoning model of OpenAI's."""
    return _REASONING.search(model.lower()) is not None


def rules_of(call: Call) -> Rules:
    """Return what a reasoning model refuses of a call."""
    return NEWER_RULES if _does_not_reason(call) else REASONING_RULES


def _does_not_reason(call: Call) -> bool:
    """Return whether the call has the model not reason, so that it samples as others do."""
    model = call.model.lower()
    if not _TAKES_EFFORT_NONE.search(model) or _NEVER_WITHOUT.search(model):
        return False
    effort = call.envelope.get("reasoning_effort", msgspec.Raw(b"null"))
    return bytes(effort).strip() in (b"null", b'"none"')
