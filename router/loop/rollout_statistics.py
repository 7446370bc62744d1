"""The statistics of a rollout as the store has them: the rules' state, and what they said last."""

from __future__ import annotations

import msgspec

from router.loop.rollout_rules import RolloutState, SignalReading


class Statistics(msgspec.Struct, kw_only=True):
    """What is stored of a rollout's statistics, as JSON.

    Attributes:
        until: the moment up to which the rules have observed, seconds since the epoch.
        rules: their state.
        rule: the rule of the last decision, so that a hold for another reason is one of its own.
        readings: of the last round, for whoever looks at it.
        imbalance: the e-value against the planned assignment, likewise.
    """

    until: float
    rules: RolloutState
    rule: str = ""
    readings: tuple[SignalReading, ...] = ()
    imbalance: float = 1.0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Statistics).decode


def text_of(statistics: Statistics) -> str:
    """Return statistics as the store takes them."""
    return _encode(statistics).decode()


def statistics_of(text: str) -> Statistics | None:
    """Read statistics as the store has them; None where nothing was counted yet."""
    return _decode(text) if text else None
