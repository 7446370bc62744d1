"""Lists the kinds of provider: `kind:` in the config is looked up here, and only here.

A package adds a kind by an entry point of the group `evalrouter.providers` that names a
ProviderKind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from providers.anthropic import Anthropic, AnthropicConfig
from providers.azure import Azure, AzureConfig
from providers.base import Provider, ProviderConfig
from providers.compatible import HOSTS, Compatible, CompatibleConfig
from providers.errors import ConfigError, EvalrouterError
from providers.gemini import Gemini
from providers.http.transport import Transport
from providers.huggingface import HuggingFace
from providers.local_servers.llama_cpp import LlamaCpp
from providers.local_servers.llamafile import Llamafile, LlamafileConfig
from providers.local_servers.sentence_transformers import (
    SentenceTransformers,
    SentenceTransformersConfig,
)
from providers.masking import Masks
from providers.mistral import Mistral, MistralConfig
from providers.offline.baseline import Baseline, BaselineConfig
from providers.offline.recorded import Recorded, RecordedConfig
from providers.offline.recording import Recorder
from providers.offline.scripted import Scripted, ScriptedConfig
from providers.ollama import Ollama
from providers.openai import OpenAI, OpenAIConfig
from providers.plugins import PluginError, Plugins, find
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
    "sentence_transformers": ProviderKind(SentenceTransformersConfig, SentenceTransformers),
    "ray_serve": ProviderKind(CompatibleConfig, RayServe, reasoning=True),
    **{
        host.kind: ProviderKind(
            CompatibleConfig,
            partial(
                Compatible,
                default_url=host.base_url,
                rules=host.rules,
                key_path=host.key_path,
                speaks=host.speaks,
            ),
            reasoning=True,
        )
        for host in HOSTS
    },
}


ENTRY_POINTS: Literal["evalrouter.providers"] = "evalrouter.providers"


def installed_kinds() -> Plugins:
    """Return the kinds that packages install; none of them is imported."""
    return find(ENTRY_POINTS, built_in=KINDS)


def kind_of(name: str) -> ProviderKind | None:
    """Return a built-in kind or one that a package installs; None where there is none.

    Raises:
        PluginError: a package installs it, and it cannot be used.
    """
    if name in KINDS:
        return KINDS[name]
    plugin = installed_kinds().get(name)
    if plugin is None:
        return None
    kind = plugin.load()
    if not isinstance(kind, ProviderKind):
        raise plugin.error("its entry point must name a providers.kinds.ProviderKind")
    if not (isinstance(kind.config, type) and issubclass(kind.config, ProviderConfig)):
        raise plugin.error("its config must be a class below providers.base.ProviderConfig")
    if not callable(kind.build):
        raise plugin.error("its build must be callable")
    return kind


def build(name: str, config: ProviderConfig, transport: Transport) -> Provider:
    """Return the provider of a config entry, as its kind makes it.

    Raises:
        ConfigError: the entry contradicts itself, or a package's kind cannot make a provider.
    """
    if config.kind in KINDS:
        return KINDS[config.kind].build(name, config, transport)
    try:
        return _build_installed(name, config, transport)
    except PluginError as error:
        raise ConfigError(f"providers.{name}: {error}") from error


def _build_installed(name: str, config: ProviderConfig, transport: Transport) -> Provider:
    plugin, kind = installed_kinds().get(config.kind), kind_of(config.kind)
    assert plugin is not None, "the config was read with it"
    assert kind is not None, "the config was read with it"
    try:
        provider = kind.build(name, config, transport)
    except EvalrouterError:
        raise
    except (Exception, SystemExit) as error:
        raise plugin.error(error) from error
    if not callable(getattr(provider, "send", None)):
        raise plugin.error("what it builds has no method 'send'; see providers.base.Provider")
    return provider


def make(name: str, config: ProviderConfig, transport: Transport) -> Provider:
    """Return the provider of a config entry, inside a recorder where the entry sets `record`.

    Raises:
        ConfigError: the entry contradicts itself.
    """
    provider = build(name, config, transport)
    if not config.record:
        return provider
    return Recorder(provider, Path(config.record), Masks(config))
