"""Which kinds of provider there are: `kind:` in the config is looked up here, and only here."""

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


class Kind(NamedTuple):
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


KINDS: Mapping[str, Kind] = {
    "baseline": Kind(BaselineConfig, _in_process(Baseline)),
    "scripted": Kind(ScriptedConfig, _in_process(Scripted)),
    "recorded": Kind(RecordedConfig, _in_process(Recorded)),
    "anthropic": Kind(AnthropicConfig, Anthropic),
    "openai": Kind(OpenAIConfig, OpenAI, reasoning=True),
    "azure": Kind(AzureConfig, Azure, reasoning=True),
    "mistral": Kind(MistralConfig, Mistral),
    "gemini": Kind(CompatibleConfig, Gemini),
    "huggingface": Kind(CompatibleConfig, HuggingFace, reasoning=True),
    "llama_cpp": Kind(LlamafileConfig, LlamaCpp),
    "llamafile": Kind(LlamafileConfig, Llamafile),
    "ollama": Kind(CompatibleConfig, Ollama),
    "ray_serve": Kind(CompatibleConfig, RayServe, reasoning=True),
    **{
        host.kind: Kind(
            CompatibleConfig,
            partial(Compatible, default_url=host.base_url, rules=host.rules),
            reasoning=True,
        )
        for host in HOSTS
    },
}


def make(name: str, config: ProviderConfig, transport: Transport) -> Provider:
    """The provider of a config entry, with a recorder around it where the entry asks for one.

    Raises:
        ConfigError: the entry contradicts itself.
    """
    provider = KINDS[config.kind].build(name, config, transport)
    if not config.record:
        return provider
    return Recorder(provider, Path(config.record), Masks(config))
