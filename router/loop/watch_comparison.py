"""Compares a probe, or a period of live answers, with a watch's reference.

    comparison = ReferenceComparison(watch, reference, history)
    probe, changes = comparison.of_probe(probe, sent, values)

The first values of a reference say what is usual, the others how much that varies; every later
value is ranked among all that were held out or came after, see `evaluators.stats.drift`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import msgspec

from evaluators.stats.drift import DriftEvidence, DriftTest, alpha_of
from router.config.watches import LiveWatch, WatchSettings
from router.loop.watch_probes import WatchRequests, anchor_of, measure
from router.store.watches import PROBE, ProbeKind, WatchProbe, WatchReference

# A probe with what it is, and the fields of its reference that it changes.
Compared = tuple[WatchProbe, dict[str, Any]]


class ReferenceComparison:
    """What one signal of a watch has seen since its reference was begun.

    Args:
        watch: the watch.
        reference: its reference.
        history: the signal's values of that reference, oldest first.
    """

    def __init__(
        self, watch: WatchSettings, reference: WatchReference, history: Sequence[WatchProbe]
    ) -> None:
        self._watch = watch
        self._reference = reference
        self._history = history

    def of_probe(self, probe: WatchProbe, sent: WatchRequests, values: list[list[Any]]) -> Compared:
        """Return a complete probe. It may take a while: call it on a thread."""
        watch, reference = self._watch, self._reference
        anchors = anchors_of(watch.reference_probes)
        if len(self._history) < anchors:
            draws = [*reference.anchor.get("draws", ()), values]
            anchor = {"draws": draws} if len(draws) < anchors else anchor_of(watch, draws)
            return msgspec.structs.replace(probe, kind="anchor"), {"anchor": anchor}
        measured = measure(watch, sent, reference.anchor, values)
        probe = msgspec.structs.replace(probe, detail={"furthest": measured.furthest})
        return self._added(probe, measured.distance, watch.reference_probes)

    def of_period(self, probe: WatchProbe, live: LiveWatch) -> Compared:
        """Return a period whose mean is `probe.value`."""
        anchors = anchors_of(live.periods)
        if len(self._history) < anchors:
            return msgspec.structs.replace(probe, kind="anchor"), {}
        usual = math.fsum(each.value or 0.0 for each in self._history[:anchors]) / anchors
        return self._added(probe, abs((probe.value or 0.0) - usual), anchors + live.periods)

    def _added(self, probe: WatchProbe, distance: float, needed: int) -> Compared:
        evidence = self._evidence(probe, distance)
        kind: ProbeKind = "held_out" if len(self._history) < needed else "probe"
        changes: dict[str, Any] = {}
        if probe.signal == PROBE and len(self._history) + 1 == needed:
            changes["pinned_at"] = probe.at
        has_changed = evidence.e_value >= threshold_of(self._watch, self._reference.number)
        if has_changed and self._reference.drift_at is None:
            changes |= {"drift_at": probe.at, "drift_signal": probe.signal}
        added = msgspec.structs.replace(
            probe, kind=kind, distance=distance, p_value=evidence.p_value, e_value=evidence.e_value
        )
        return added, changes

    def _evidence(self, probe: WatchProbe, distance: float) -> DriftEvidence:
        """Return what a distance adds to those before it."""
        test = DriftTest()
        earlier = [each.distance for each in self._history if each.distance is not None]
        for place, before in enumerate(earlier):
            test.add(before, tie=_tie(probe, place))
        return test.add(distance, tie=_tie(probe, len(earlier)))


def anchors_of(size: int) -> int:
    """Return how many values say what is usual, for a reference of a size."""
    return max(1, size // 5)


def threshold_of(watch: WatchSettings, reference: int) -> float:
    """Return the e-value from which on a signal of a watch has changed since a reference."""
    return 1 / alpha_of(watch.alpha / watch.tests, reference)


def usual_language(history: Sequence[WatchProbe]) -> str:
    """Return the language that most answers of the first period had; "" before it."""
    return next((str(probe.detail.get("language", "")) for probe in history), "")


def _tie(probe: WatchProbe, place: int) -> float:
    """Return a number from 0 to 1 that depends on nothing that is measured."""
    text = f"{probe.watch}|{probe.reference}|{probe.signal}|{place}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53
