"""Lists the kinds of provider: `kind:` in the config is looked up here, and only here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from providers.anthropic import Anthropic, AnthropicConfig
from providers.azure import Azure, AzureConfig
from providers.base import Provider, ProviderConfig
from providers.compatible import HOSTS, Compatible, CompatibleConfig
from providers.gemini import Gemini
from providers.http.transport import Transport
from providers.huggingface import HuggingFace
from providers.local_servers.llama_cpp import LlamaCpp
from providers.local_servers.llamafile import Llamafile, LlamafileConfig
from providers.masking import Masks
from providers.mistral import Mistral, MistralConfig
from providers.offline.baseline import Baseline, BaselineConfig
from providers.offline.recorded import Recorded, RecordedConfig
from providers.offline.recording import Recorder
from providers.offline.scripted import Scripted, ScriptedConfig
from providers.ollama import Ollama
from providers.openai import OpenAI, OpenAIConfig
from providers.ray_serve import RayServe


class ProviderKind(NamedTuple):
    """How to read a provider's config and how to make the provider of it.

    `build` takes (name, config, transport); it is typed loosely because each kind's config class
    is its own, and `config` beside it says which.

    Attributes:
        reasoning: whether the settings `reasoning` of a provider and of a target change anything;
            other kinds have rules of their own for every model.
    """

    config: type[ProviderConfig]
    build: Callable[[str, Any, Transport], Provider]
    reasoning: bool = False


def _in_process(make: Callable[[str, Any], Provider]) -> Callable[[str, Any, Transport], Provider]:
    return lambda name, config, _transport: make(name, config)


KINDS: Mapping[str, ProviderKind] = {
    "baseline": ProviderKind(BaselineConfig, _in_process(Baseline)),
    "scripted": ProviderKind(ScriptedConfig, _in_process(Scripted)),
    "recorded": ProviderKind(RecordedConfig, _in_process(Recorded)),
    "anthropic": ProviderKind(AnthropicConfig, Anthropic),
    "openai": ProviderKind(OpenAIConfig, OpenAI, reasoning=True),
    "azure": ProviderKind(AzureConfig, Azure, reasoning=True),
    "mistral": ProviderKind(MistralConfig, Mistral),
    "gemini": ProviderKind(CompatibleConfig, Gemini),
    "huggingface": ProviderKind(CompatibleConfig, HuggingFace, reasoning=True),
    "llama_cpp": ProviderKind(LlamafileConfig, LlamaCpp),
    "llamafile": ProviderKind(LlamafileConfig, Llamafile),
    "ollama": ProviderKind(CompatibleConfig, Ollama),
    "ray_serve": ProviderKind(CompatibleConfig, RayServe, reasoning=True),
    **{
        host.kind: ProviderKind(
            CompatibleConfig,
            partial(
                Compatible,
                default_url=host.base_url,
                rules=host.rules,
                key_path=host.key_path,
            ),
            reasoning=True,
        )
        for host in HOSTS
    },
}


def make(name: str, config: ProviderConfig, transport: Transport) -> Provider:
    """Return the provider of a config entry, inside a recorder where the entry sets `record`.

    Raises:
        ConfigError: the entry contradicts itself.
    """
    provider = KINDS[config.kind].build(name, config, transport)
    if not config.record:
        return provider
    return Recorder(provider, Path(config.record), Masks(config))
