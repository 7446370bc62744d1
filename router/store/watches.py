"""Watches: what targets answered in their references and probes, and what hosts claim to be.

A watch has one *reference* at a time: what its target answered in its first probes, or when a
person pinned it. What comes after a reference is compared with it, and the next reference ends it.
A probe says how far its answers were from the reference, and how much evidence of a change that
adds up to; its signal is `probe`, or the live signal whose period it is.

The versions that hosts claim, and what live answers were like hour by hour, are counted by every
process and added up here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

# What stands for further versions of a target that has `MAX_VERSIONS` already.
OTHERS = "(others)"
MAX_VERSIONS = 200
HOUR_S = 3600.0

# `anchor` and `held_out` make the reference. `missing` is one without all of its answers.
ProbeKind = Literal["anchor", "held_out", "probe", "missing"]
PROBE = "probe"


class WatchReference(msgspec.Struct, frozen=True, kw_only=True):
    """What a watch's target is compared with.

    Attributes:
        watch: the watch's name.
        number: from 1.
        target: `provider/model` that answered.
        made_for: a hash of what is sent and how it is compared.
        dataset, dataset_hash: the dataset's version as an address, and the hash of its file; ""
            without one.
        created_at: when it was begun, seconds since the epoch.
        created_by: who pinned it, "" for the first probes.
        reason: why, as that person said.
        pinned_at: when it had all of its probes; None before.
        drift_at: when something was first found to have changed since; None while nothing was.
        drift_signal: what that was.
        anchor: what answers look like, JSON types; {} where it was deleted.
    """

    watch: str
    number: int
    target: str
    made_for: str
    dataset: str = ""
    dataset_hash: str = ""
    created_at: float
    created_by: str = ""
    reason: str = ""
    pinned_at: float | None = None
    drift_at: float | None = None
    drift_signal: str = ""
    anchor: dict[str, Any] = {}


class WatchProbe(msgspec.Struct, frozen=True, kw_only=True):
    """One probe, or one period of a live signal.

    Attributes:
        number: a row's own, ascending; 0 before it is stored.
        watch, reference: what it belongs to.
        signal: `probe` or a live signal.
        kind: `anchor` and `held_out` are of the reference; `missing` counts for nothing.
        at: when it began, or when the period did.
        distance: from the reference; None of an anchor, and where something is missing.
        p_value: the share of distances so far that are as large.
        e_value: the evidence of a change so far.
        value: the mean of a live signal's period.
        requests, answered: how many were sent, or were there, and how many of them count.
        cost_usd: what it cost, as far as prices are known.
        model, system_fingerprint: as the host reported them last.
        why: what is missing; "" for nothing.
        detail: the parts that are furthest from the reference, JSON types.
    """

    number: int = 0
    watch: str
    reference: int
    signal: str = PROBE
    kind: ProbeKind
    at: float
    distance: float | None = None
    p_value: float | None = None
    e_value: float | None = None
    value: float | None = None
    requests: int = 0
    answered: int = 0
    cost_usd: float = 0.0
    model: str = ""
    system_fingerprint: str = ""
    why: str = ""
    detail: dict[str, Any] = {}


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """What a target claimed to be in some of its answers.

    Attributes:
        target: `provider/model`.
        model: the model that the host named; `(others)` for all further ones of a target that has
            200 already, and "" where it named none.
        system_fingerprint: likewise.
        first_at, last_at: when it was first and last seen, seconds since the epoch.
        requests: how many answers had it.
    """

    target: str
    model: str
    system_fingerprint: str
    first_at: float
    last_at: float
    requests: int


class LiveHour(msgspec.Struct, frozen=True, kw_only=True):
    """What a target's live answers were like in an hour.

    Attributes:
        target: `provider/model`.
        hour: its beginning, seconds since the epoch.
        requests: those that the target answered.
        refusals: how many of them it refused or filtered.
        tokens, counted: tokens of answers, and of how many they are known.
        cost_usd, priced: US dollars, and of how many requests they are known.
    """

    target: str
    hour: float
    requests: int = 0
    refusals: int = 0
    tokens: int = 0
    counted: int = 0
    cost_usd: float = 0.0
    priced: int = 0


class LanguageCount(NamedTuple):
    """How many of the sampled answers of a target were in a language, in an hour."""

    target: str
    hour: float
    language: str
    answers: int


class SignalCount(NamedTuple):
    """What a reference has of a signal: how many values, and the last one's evidence and time."""

    values: int
    e_value: float | None
    last_at: float


class WatchStore(Protocol):
    """Stores references and probes of watches, and counts of answers."""

    async def begin_reference(self, reference: WatchReference) -> None:
        """Add a reference, which takes the place of the one before.

        Raises:
            ConflictError: its number is not the next one.
        """
        ...

    async def watch_references(self, watch: str | None = None) -> list[WatchReference]:
        """Return references without their anchors, of one watch or of all, newest first."""
        ...

    async def watch_reference(self, watch: str) -> WatchReference | None:
        """Return the present reference of a watch; None without one."""
        ...

    async def add_watch_probe(
        self,
        probe: WatchProbe,
        *,
        counted: int,
        changes: Mapping[str, Any] = {},
        registered: str = "",
    ) -> None:
        """Add a probe, and set fields of its reference.

        Args:
            probe: the probe.
            counted: how many probes of its signal that count its reference had.
            changes: fields of the reference.
            registered: the hash of the registered dataset whose rows were sent; "" for none.

        Raises:
            ConflictError: its reference is not the present one, or has another number of probes of
                the signal that count than `counted`; or rows that were sent have been deleted
                meanwhile, so that nothing of the answers to them may be stored.
        """
        ...

    async def watch_probes(
        self,
        watch: str,
        *,
        signal: str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[WatchProbe]:
        """Return probes, newest first, of one signal or of all, with numbers below `before`."""
        ...

    async def watch_signals(self, watch: str) -> dict[str, SignalCount]:
        """Return what the present reference has of each signal, as far as it counts."""
        ...

    async def watch_values(self, watch: str, reference: int, signal: str) -> list[WatchProbe]:
        """Return a reference's probes of a signal that count, oldest first.

        Only anchors have their `detail`.
        """
        ...

    async def watch_spending(self, watch: str, since: float) -> float:
        """Return what probes have cost since then, in US dollars."""
        ...

    async def count_answers(
        self,
        versions: Sequence[ModelVersion],
        hours: Sequence[LiveHour],
        languages: Sequence[LanguageCount],
    ) -> None:
        """Add to the counts of versions, hours and languages."""
        ...

    async def forget_hours(self, before: float) -> None:
        """Delete the counts of hours that began before."""
        ...

    async def model_versions(self, target: str | None = None) -> list[ModelVersion]:
        """Return the versions of one target or of all: by target, the last seen first."""
        ...

    async def live_hours(self, target: str, since: float, until: float) -> list[LiveHour]:
        """Return the hours of a target that began from `since` on and before `until`."""
        ...

    async def live_languages(self, target: str, since: float, until: float) -> dict[str, int]:
        """Return how many sampled answers of a target in these hours were in which language."""
        ...
