"""Runs the conformance suite against a configured provider, for the command line and the API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from providers import wire
from providers.base import Call, Provider, ProviderConfig, Secret
from providers.compatible import CompatibleConfig
from providers.conformance.checks import CHECKS
from providers.conformance.suite import CheckResult, ConformanceReport, ExaminedHost, examine
from providers.errors import ConfigError, NotFoundError, closest
from providers.http.transport import Transport
from providers.kinds import build
from providers.masking import Masks
from providers.names import check_name

S = TypeVar("S", bound=msgspec.Struct)

WRONG_KEY = "sk-evalrouter-wrong-key"
# Too long for every model that runs on a machine of one's own; only with --long.
LONG_WORDS = 200_000
LISTING_S = 5.0


async def examine_provider(
    name: str,
    *,
    providers: Mapping[str, Provider],
    configs: Mapping[str, ProviderConfig],
    transport: Transport,
    masks: Masks,
    model: str = "",
    long: bool = False,
    on_result: Callable[[CheckResult], None] = lambda _: None,
) -> ConformanceReport:
    """Examine a provider by all checks of `providers/conformance/checks.py`.

    Args:
        name: the provider's name in the config.
        providers: all providers by their names.
        configs: their entries in the config, by their names.
        transport: sends the requests with a wrong key.
        masks: hides the config's secrets where the host echoes them.
        model: the model to examine; "" takes the first that the provider lists.
        long: whether to send the prompt that is too long, which may cost money.
        on_result: is called with each result as it comes.

    Raises:
        NotFoundError: the config has no provider of that name.
        ConfigError: the provider lists no models, so one has to be named.
        RequestError: `model` cannot be a name.
    """
    check_name(model, "model")
    if name not in providers:
        raise NotFoundError(f"no provider {name!r}.{closest(name, providers)}")
    provider, config = providers[name], configs[name]
    host = ExaminedHost(
        provider,
        model or await _first_model(provider, config),
        wrong_key=_with_wrong_key(name, config, transport),
        long_words=LONG_WORDS if long else 0,
    )
    report = await examine(
        host,
        CHECKS,
        kind=config.kind,
        on_result=lambda result: on_result(_masked(result, CheckResult, masks)),
    )
    return _masked(report, ConformanceReport, masks)


def _masked(result: S, kind: type[S], masks: Masks) -> S:
    """Return a result or a report without the secrets that the host echoed."""
    return msgspec.json.decode(masks.mask(wire.encode(result)), type=kind)


def _with_wrong_key(
    name: str, config: ProviderConfig, transport: Transport
) -> Callable[[], Provider] | None:
    if not isinstance(config, CompatibleConfig) or not config.api_key:
        return None
    wrong = msgspec.structs.replace(config, api_key=Secret(WRONG_KEY))
    return lambda: build(name, wrong, transport)


async def _first_model(provider: Provider, config: ProviderConfig) -> str:
    if config.models:
        return config.models[0]
    call = Call(path="models", model="", envelope={}, connect_timeout=LISTING_S)
    reply = await provider.send(call)
    try:
        body = await reply.read()
    finally:
        await reply.aclose()
    try:
        models = wire.read_models(body) if reply.status == 200 else []
    except wire.UNREADABLE:
        models = []
    if not models:
        raise ConfigError(f"{provider.name} lists no models: name one with --model")
    return models[0]
