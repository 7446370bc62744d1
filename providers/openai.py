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

# Prometheus' published sampling has it.
_FOREIGN: Mapping[str, str] = {"repetition_penalty": "OpenAI has no such parameter"}
_FOREIGN_RULES = Rules(lacking=_FOREIGN, neutral={"repetition_penalty": (1,)})


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
        super().__init__(name, config, transport, default_url=default_url, speaks=speaks)
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
            return reasoning.rules_of(call)
        # A proxy in front of another host may know it.
        foreign = self._is_openais_host and not _FOREIGN.keys().isdisjoint(call.envelope)
        return _FOREIGN_RULES if foreign else None

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
