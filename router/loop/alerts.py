"""What alerts are about: conditions, and the sources that tell which of them hold now.

    class DriftSource:                       # a source asks nothing but what it has at hand
        subjects = ("drift",)
        tells_all = True

        async def conditions(self) -> Sequence[AlertCondition]:
            return [AlertCondition(subject="drift", labels={"watch": "nightly"}, summary="...")]

The config's rules say which conditions become alerts, from when on, and who is told: a rule with
`subject: drift` is about every condition with that subject whose labels match its filters. Every
few seconds one process (`alert_controller.py`) asks all sources, and compares what they say with
the alerts that are stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from router.config.alerts import AlertSubject, Severity


class AlertCondition(msgspec.Struct, frozen=True, kw_only=True):
    """Something that an alert is about.

    Attributes:
        subject: what it is about; a rule with the same `subject` makes an alert of it.
        labels: what tells it from the others with that subject, such as `route`, `target` or
            `watch`; names to values. They stay the same as long as it holds.
        summary: what is wrong, in a sentence; names from outside are welcome in it.
        severity: of alerts whose rule gives none.
        link: a path of this server that shows more, such as `/schedules/nightly`; "" for none.
        since: when it began, seconds since the epoch; None for when it was first seen.
        value: the number that is compared with the rule's threshold; None where there is none.
        rule: the name of the one rule that it was looked at for; "" for every rule with that
            subject.
        holds: whether it holds; None where too little is known to say. An alert that is firing goes
            on then, and none begins.
    """

    subject: AlertSubject
    labels: Mapping[str, str]
    summary: str
    severity: Severity = "warning"
    link: str = ""
    since: float | None = None
    value: float | None = None
    rule: str = ""
    holds: bool | None = True


class AlertSource(Protocol):
    """Tells which conditions hold now.

    Attributes:
        subjects: what its conditions may be about.
        tells_all: whether a condition that it does not return holds no longer. Otherwise nothing is
            known of that one, and its alert goes on until the source returns it with `holds` false.
    """

    subjects: Sequence[AlertSubject]
    tells_all: bool

    async def conditions(self) -> Sequence[AlertCondition]:
        """Return the conditions that hold now, quickly: this is called every few seconds.

        Where it raises, nothing is known of its conditions, and their alerts go on.
        """
        ...
