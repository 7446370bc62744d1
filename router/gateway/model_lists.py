"""The providers' lists of models, read in the background: which models there are, and until when.

lists = ModelLists(providers, config.providers)
await lists.of(["openai"])         # {"openai": Listing(models=("gpt-4o", ...), ...)}
await lists.close()
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from providers.base import Call, Provider, ProviderConfig
from providers.errors import EvalrouterError, closest
from providers.names import MAX_NAME_BYTES
from providers.off_loop import off_loop
from providers.retirements import READ_ON, known_retirement
from providers.wire import UNREADABLE, HostModel, read_listed

# Seconds that a host may take for its list, and that a client waits where no list has come yet.
LISTING_S = 10.0
FIRST_S = 0.5
# Seconds that a list is good for, and until one that could not be read is tried again.
FRESH_S = 60.0
RETRY_S = 10.0
# The models of one provider that are listed; a host may list any number.
MAX_LISTED = 10_000


class Listing(NamedTuple):
    """The list of a provider's models as it was last read.

    Attributes:
        models: the models' names at the provider; where the list could not be read, those of the
            last time that it could.
        why: why the list could not be read; "" when it could.
        read_at: when, seconds of the monotonic clock.
        ends: the models of which the host says when they end.
    """

    models: tuple[str, ...]
    why: str
    read_at: float
    ends: Mapping[str, HostModel] = {}


def listing_of(listed: Sequence[HostModel], read_at: float) -> Listing:
    """Return a list as it was read at a moment."""
    ends = {row.id: row for row in listed if row.retires_at is not None}
    return Listing(tuple(row.id for row in listed), "", read_at, ends)


class Retirement(NamedTuple):
    """When a model will be, or was, shut down.

    Attributes:
        at: seconds since the epoch.
        source: who says so.
        replacement: the model that its host names in its place; "" for none.
    """

    at: float
    source: str
    replacement: str = ""

    @property
    def date(self) -> str:
        """The day, UTC, as OpenAI writes it in `shutdown_date`."""
        return f"{datetime.fromtimestamp(self.at, UTC):%Y-%m-%d}"


def retirement_of(kind: str, model: str, listing: Listing | None) -> Retirement | None:
    """Return when a model of a kind of provider ends, by its host's list or what is known else."""
    row = None if listing is None else listing.ends.get(model)
    if row is not None and row.retires_at is not None:
        replacement = row.replacement if len(row.replacement.encode()) <= MAX_NAME_BYTES else ""
        return Retirement(row.retires_at, "the host's list of models", replacement)
    known = known_retirement(kind, model)
    if known is None:
        return None
    return Retirement(known.at, f"{known.source} (read on {READ_ON})")


# Kinds whose lists have every model that a key may use. Others have names that no list has, as
# Azure's deployments, Anthropic's aliases, OpenRouter's variants, or are not known to be complete.
_LISTS_ALL = frozenset(
    {"gemini", "llama_cpp", "mistral", "ollama", "openai", "ray_serve", "recorded", "vllm"}
)


def is_listed(kind: str, listed: Collection[str], model: str) -> bool:
    """Return whether a host that lists these models answers to this one, as far as is known."""
    match kind:
        case "azure" | "llamafile":
            # Deployments are not listed; llama.cpp's server answers to any name.
            return True
        case "gemini":
            return f"models/{model}" in listed or model in listed
        case "ollama":
            return f"{model}:latest" in listed or model in listed
        case "openai":
            # Checkpoints of fine-tuned models are not listed.
            return model in listed or model.startswith("ft:")
        case _:
            return model in listed


_NOT_YET = Listing((), "its list is still being read", 0.0)


class ModelLists:
    """The providers' lists of models, read in the background.

    A list is read when it is first needed, and again once it is older than `FRESH_S`. Meanwhile the
    last one is shown. Each provider gets one such request at a time, however many clients wait.

    Args:
        providers: name to provider.
        configured: name to its config.
        clock: tells the seconds of a monotonic clock.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        configured: Mapping[str, ProviderConfig],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._providers = providers
        self._configured = configured
        self._clock = clock
        self._listings: dict[str, Listing] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Stop reading."""
        tasks = list(self._reading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def of(self, names: Collection[str]) -> dict[str, Listing]:
        """Return providers' lists; waits `FIRST_S` at most, and only for those never read."""
        for name in names:
            self._read_if_due(name)
        first = [self._reading[name] for name in names if name not in self._listings]
        if first:
            await asyncio.wait(first, timeout=FIRST_S)
        return {name: self._listings.get(name, _NOT_YET) for name in names}

    def unlisted(self, target: str) -> str:
        """Return why there is no such target, by the lists that are at hand; "" otherwise.

        Those are the config's `models`, and the last list of a host that lists all its models.
        Nothing is sent for it.
        """
        provider, _, model = target.partition("/")
        config = self._configured.get(provider)
        if config is None:
            return ""
        listed = config.models
        where = f" Name it in providers.{provider}.models if there is one."
        if not listed and config.kind in _LISTS_ALL:
            listing = self._listings.get(provider)
            listed = () if listing is None or listing.why else listing.models
            where = ""
        if not listed or is_listed(config.kind, listed, model):
            return ""
        return f"{provider} lists no model {model!r}.{closest(model, listed)}{where}"

    def _read_if_due(self, name: str) -> None:
        if name in self._reading:
            return
        known = self._listings.get(name)
        if known is not None:
            lasts = RETRY_S if known.why else FRESH_S
            if self._clock() - known.read_at < lasts:
                return
        task = self._reading[name] = asyncio.create_task(self._read(name))
        task.add_done_callback(lambda _: self._reading.pop(name))

    async def _read(self, name: str) -> None:
        listed, why = await self._request(name)
        known = self._listings.get(name)
        if why and known is not None:
            self._listings[name] = known._replace(why=why, read_at=self._clock())
            return
        self._listings[name] = listing_of(listed, self._clock())._replace(why=why)

    async def _request(self, name: str) -> tuple[list[HostModel], str]:
        """Return a provider's models, and why they cannot be listed or ""."""
        configured = self._configured[name].models
        if configured:
            return [HostModel(model, None, "") for model in configured], ""
        call = Call(path="models", model="", envelope={}, connect_timeout=LISTING_S)
        reply: Any = None
        try:
            async with asyncio.timeout(LISTING_S):
                reply = await self._providers[name].send(call)
                body = await reply.read()
            if reply.status != 200:
                return [], f"status {reply.status}"
            listed = await off_loop(len(body), read_listed, body)
        except TimeoutError:
            return [], f"no list within {LISTING_S:g} s"
        except EvalrouterError as error:
            return [], error.message
        except UNREADABLE:
            return [], "its list is not OpenAI's"
        finally:
            if reply is not None:
                await reply.aclose()
        return [row for row in listed if len(row.id.encode()) <= MAX_NAME_BYTES][:MAX_LISTED], ""
