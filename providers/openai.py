"""OpenAI itself: the compatible wire, headers that say who pays, and its reasoning models' limits.

What a reasoning model takes is in `providers/translation/reasoning.py`; other models get what came,
untouched but for the names that other hosts and SDKs put into messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from providers.base import Call, Path
from providers.compatible import RESPONSES, Compatible, CompatibleConfig, converted
from providers.http.transport import Transport
from providers.translation import reasoning
from providers.translation.nested import has_foreign, without_foreign
from providers.translation.translate import Edits, Rules

BASE_URL = "https://api.openai.com/v1"

# What Prometheus' published sampling, and requests to the Messages API, may have.
_FOREIGN: Mapping[str, str] = {
    "repetition_penalty": reasoning.NO_SUCH_PARAMETER,
    "top_k": reasoning.NO_SUCH_PARAMETER,
}
_FOREIGN_RULES = Rules(lacking=_FOREIGN, neutral={"repetition_penalty": (1,)})
_EFFORT = "reasoning_effort"
# Claude Code names an effort in every request, whatever model it is sent to.
_UNREASONING_RULES = _FOREIGN_RULES.with_more(
    Rules(lacking={_EFFORT: "this model does not reason"}, neutral={_EFFORT: ("none",)})
)


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
        speaks: frozenset[Path] = RESPONSES,
    ) -> None:
        super().__init__(
            name,
            config,
            transport,
            default_url=default_url,
            speaks=speaks,
            # What is behind another address may be a proxy that keeps nothing.
            keeps_responses=not config.base_url,
        )
        self._is_openais_host = not config.base_url
        # A proxy in front of another host may take them.
        self._refuses_foreign = self._is_openais_host
        if config.organization:
            self._headers["openai-organization"] = config.organization
        if config.project:
            self._headers["openai-project"] = config.project

    def rules(self, call: Call) -> Rules | None:
        """Return the rules of a reasoning model, or of fields that OpenAI lacks; else None."""
        if call.path != "chat/completions":
            return None
        if self.reasons(call):
            rules = reasoning.rules_of(call)
            return rules.with_more(_FOREIGN_RULES) if self._lacks(call) else rules
        if self._lacks(call) or (self._is_openais_host and _EFFORT in call.envelope):
            return _UNREASONING_RULES
        return None

    def _lacks(self, call: Call) -> bool:
        """Return whether the host is OpenAI's own and has no parameter of one of the names."""
        # A proxy in front of another host may know it.
        return self._is_openais_host and not _FOREIGN.keys().isdisjoint(call.envelope)

    def reasons(self, call: Call) -> bool:
        """Return whether the model reasons: as the config says, else by its name."""
        configured = self.configured_reasoning(call)
        return reasoning.is_named_so(call.model) if configured is None else configured

    def fit_nested(self, call: Call, edits: Edits) -> Call:
        """Leave out what OpenAI's own API refuses within messages and tools."""
        call = super().fit_nested(call, edits)
        if not self._refuses_foreign:
            return call
        for name in ("messages", "tools"):
            raw = call.envelope.get(name)
            if raw is not None and has_foreign(bytes(raw)):
                fit = partial(without_foreign, path=name)
                call = converted(call, name, fit, edits)
        return call
