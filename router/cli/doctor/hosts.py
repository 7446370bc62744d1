"""Checks of the providers: whether they answer, take the key, and have the models of the routes."""

from __future__ import annotations

import asyncio
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from providers.base import Call, ChecksKey, Lifecycle, Provider, ProviderConfig, Reply
from providers.compatible import CompatibleConfig
from providers.errors import EvalrouterError, InputError, closest
from providers.http.transport import Transport
from providers.kinds import make
from providers.local_servers.llamafile import LlamafileConfig, command_of
from providers.wire import UNREADABLE, read_listed
from router.cli.doctor.findings import Finding
from router.config.providers import BUILT_IN
from router.config.schema import Config
from router.gateway.model_lists import Listing, is_listed, listing_of, retirement_of
from router.loop.retirements import DAY_S, WARNED_DAYS, shutdown_sentence, targets_in_use

_SLOW_S = 3.0
# A clock that is further off than this is worth a look; S3 refuses requests at 900.
_OFF_S, _TOO_FAR_OFF_S = 30.0, 300.0
_HERE = frozenset({"baseline", "recorded", "scripted"})


class Listed(NamedTuple):
    """What a provider answered.

    Attributes:
        models: what it lists; None where it lists nothing.
        clock_offset_s: how far its clock is ahead of ours; None where it does not say.
        listing: the list with the models' ends.
    """

    models: tuple[str, ...] | None = None
    clock_offset_s: float | None = None
    listing: Listing | None = None


class ProviderChecks:
    """The providers of a config, checked one by one.

    Args:
        config: the config.
        variables: provider to the environment variable that has its key, where one is known.
        limit_s: seconds that each may take.
    """

    def __init__(self, config: Config, variables: Mapping[str, str], limit_s: float) -> None:
        self._limit_s = limit_s
        self._config = config
        self._variables = variables
        self._listed: dict[str, Listed] = {}

    def names(self) -> list[str]:
        """Return the providers to check: those that the config or the environment names."""
        return [
            name
            for name, provider in self._config.providers.items()
            if provider is not BUILT_IN.get(name)
        ]

    def check(self, name: str) -> Iterator[Finding]:
        """Yield what is known of a provider once it was requested to list its models."""
        yield from asyncio.run(self._check(name))

    async def _check(self, name: str) -> list[Finding]:
        config = self._config.providers[name]
        transport = Transport(self._config.http)
        await transport.open()
        try:
            provider = make(name, config, transport)
            if config.kind in _HERE:
                return [Finding(name, "ok", f"{config.kind}: runs in evalrouter itself")]
            if isinstance(config, LlamafileConfig) and (command := command_of(name, config)):
                return [_managed(name, command)]
            if isinstance(provider, Lifecycle):
                await provider.open()
            try:
                async with asyncio.timeout(self._limit_s):
                    return [await self._requested(name, config, provider)]
            finally:
                if isinstance(provider, Lifecycle):
                    await provider.close()
        except TimeoutError:
            message = f"no answer within {self._limit_s:g} s"
            return [Finding(name, "failure", message, _unreachable(config))]
        except InputError as error:
            message = error.message.removeprefix(f"providers.{name}: ")
            return [Finding(name, "failure", message, f"correct providers.{name}")]
        except EvalrouterError as error:
            message = error.message.removeprefix(f"{name}: ")
            return [Finding(name, "failure", message, _unreachable(config))]
        finally:
            await transport.close()

    async def _requested(self, name: str, config: ProviderConfig, provider: Provider) -> Finding:
        began = time.monotonic()
        reply = await provider.send(Call(path="models", model="", envelope={}))
        body = await _read(reply)
        seconds = time.monotonic() - began
        offset = _offset(reply)
        self._listed[name] = Listed(None, offset)
        status = reply.status
        if status < 400 and isinstance(provider, ChecksKey):
            checked = await provider.check_key()
            if checked is not None:
                await _read(checked)
                status = checked.status if checked.status in (401, 403) else status
        # Gemini answers 400 to a wrong key.
        if status in (401, 403) or (status == 400 and config.kind == "gemini"):
            return self._refused(name, config, status)
        if status != 200:
            message = f"reachable, but its list of models has status {status}"
            return Finding(name, "warning", message, _wrong_address(config))
        try:
            listing = listing_of(read_listed(body), 0.0)
        except UNREADABLE:
            message = "reachable, but what it lists is no list of models"
            return Finding(name, "warning", message, _wrong_address(config))
        models = listing.models
        self._listed[name] = Listed((*models, *config.models), offset, listing)
        what = f"{len(models)} model{'s' * (len(models) != 1)} in {seconds * 1000:.0f} ms"
        if seconds > _SLOW_S:
            return Finding(name, "warning", f"slow: it lists {what}", "see what keeps it busy")
        return Finding(name, "ok", f"lists {what}")

    def _refused(self, name: str, config: ProviderConfig, status: int) -> Finding:
        variable = self._variables.get(name)
        key = f"the key in {variable}" if variable else f"the api_key of providers.{name}"
        if isinstance(config, CompatibleConfig) and not config.api_key:
            remedy = f"set {variable}" if variable else f"set providers.{name}.api_key"
            return Finding(
                name, "failure", f"it needs a key, and has none (status {status})", remedy
            )
        remedy = f"put a key there that {name} accepts"
        return Finding(name, "failure", f"{key} was refused (status {status})", remedy)

    # after all of them

    def routes(self) -> Iterator[Finding]:
        """Yield the targets that their providers do not list, or that all is well."""
        wrong = []
        for name, route in self._config.routes.items():
            for model in (*(target.model for target in route.targets), *route.fallback):
                provider, _, rest = model.partition("/")
                listed = self._listed.get(provider, Listed()).models
                if listed and not is_listed(self._config.providers[provider].kind, listed, rest):
                    message = f"{name}: {provider} lists no model {rest!r}.{closest(rest, listed)}"
                    wrong.append(Finding("routes", "warning", message, "correct the model's name"))
        if not self._config.routes:
            yield Finding("routes", "ok", "none; requests name PROVIDER/MODEL")
        elif not wrong:
            yield Finding("routes", "ok", ", ".join(self._config.routes))
        yield from wrong

    def retirements(self) -> Iterator[Finding]:
        """Yield the models of routes and watches that will be shut down soon."""
        for target, users in sorted(targets_in_use(self._config).items()):
            provider, _, model = target.partition("/")
            config = self._config.providers.get(provider)
            if config is None:
                continue
            end = retirement_of(config.kind, model, self._listed.get(provider, Listed()).listing)
            days = math.inf if end is None else (end.at - time.time()) / DAY_S
            if end is not None and days <= WARNED_DAYS:
                yield Finding(
                    "models",
                    "warning",
                    f"{shutdown_sentence(target, end.date, days, users)}: {end.source}",
                    f"see evalrouter drift retirements --target {target}",
                )

    def clock(self, database: float | None) -> Finding:
        """Return how far this machine's clock is off, by the hosts and the database's server."""
        offsets = [
            listed.clock_offset_s
            for listed in self._listed.values()
            if listed.clock_offset_s is not None
        ]
        if database is not None:
            offsets.append(database)
        if not offsets:
            return Finding("clock", "note", "not compared: no host said what time it is")
        offset = sorted(offsets)[len(offsets) // 2]
        message = f"{abs(offset):.0f} s {'behind' if offset > 0 else 'ahead of'} other machines"
        if abs(offset) > _TOO_FAR_OFF_S:
            return Finding("clock", "failure", message, "set it, by NTP for example")
        if abs(offset) > _OFF_S:
            return Finding("clock", "warning", message, "set it, by NTP for example")
        return Finding("clock", "ok", "agrees with other machines")


async def _read(reply: Reply) -> bytes:
    try:
        return await reply.read()
    finally:
        await reply.aclose()


def _offset(reply: Reply) -> float | None:
    """Return how far a host's clock is ahead of ours, by its `Date`."""
    try:
        return parsedate_to_datetime(reply.headers.get("date", "")).timestamp() - time.time()
    except (ValueError, OverflowError, OSError):
        return None


def _managed(name: str, command: list[str]) -> Finding:
    """Return whether a server that starts with its first request could be started."""
    if shutil.which(command[0]) is None:
        remedy = f"correct providers.{name}, or install it"
        return Finding(name, "failure", f"{command[0]}: no such program", remedy)
    return Finding(name, "ok", f"starts with its first request: {' '.join(command[:3])}")


def _unreachable(config: ProviderConfig) -> str:
    url = getattr(config, "base_url", "")
    where = f" at {url}" if url else ""
    match config.kind:
        case "ollama":
            return f"start it{where}: ollama serve"
        case "llamafile" | "llama_cpp" | "vllm":
            return f"start the server{where}, or correct its base_url"
        case "ray_serve":
            return f"start the models{where}: evalrouter models serve CONFIG"
        case _:
            return f"see whether the network reaches it{where}"


def _wrong_address(config: ProviderConfig) -> str:
    url = getattr(config, "base_url", "")
    return f"see whether base_url is right: {url}" if url else ""
