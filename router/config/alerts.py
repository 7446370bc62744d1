"""`alerts:` of the config: the rules by which alerts begin, and where messages about them go."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Literal

import msgspec

from providers.base import NotNegative, Positive, Secret
from providers.errors import closest
from router.config.documents import Document, DocumentPath, Problem
from router.config.providers import Providers, header_problems, wrong_with_address
from router.config.routes import target_problem
from router.config.section import NAME, Section
from router.config.watches import LIVE_SIGNALS, VERSION_NAMES

# What an alert tells of a rollout: its state.
DECISIONS = ("paused", "rolling_back", "rolled_back", "aborted", "promoted")
# What a rule may be about. Those of MEASURED are compared with a threshold.
AlertSubject = Literal[
    "errors",
    "first_byte",
    "duration",
    "spend",
    "budget",
    "burn",
    "breaker",
    "rollout",
    "shadow",
    "drift",
    "retirement",
    "schedule",
]
Severity = Literal["info", "warning", "critical"]
ReceiverKind = Literal["webhook", "slack", "alertmanager"]
GroupLabel = Literal["route", "target", "key"]

# Subjects that are measured over a window, with the window's usual length.
WINDOWS: Mapping[AlertSubject, float] = {
    "errors": 300.0,
    "first_byte": 300.0,
    "duration": 300.0,
    "spend": 86400.0,
    "burn": 3600.0,
}
# Subjects with a threshold, and the one that they have where the rule gives none.
THRESHOLDS: Mapping[AlertSubject, float | None] = {
    "errors": None,
    "first_byte": None,
    "duration": None,
    "spend": None,
    "budget": 0.9,
    "burn": 2.0,
}
# Requests without which nothing is known.
_FEWEST: Mapping[AlertSubject, int] = {"errors": 20, "first_byte": 20, "duration": 20}
_ABOUT_KEYS = frozenset({"budget", "burn"})
_WITH_QUANTILE = frozenset({"first_byte", "duration"})
# The labels of conditions that are not measured, each with the values that are known beforehand.
LABELS: Mapping[AlertSubject, Mapping[str, tuple[str, ...]]] = {
    "breaker": {"target": ()},
    "rollout": {"route": (), "candidate": (), "decision": DECISIONS, "rollout": ()},
    "shadow": {"route": ()},
    "drift": {
        "watch": (),
        "target": (),
        "signal": ("probe", *LIVE_SIGNALS, *VERSION_NAMES, "no_data"),
    },
    "retirement": {"target": ()},
    "schedule": {"schedule": (), "problem": ("run", "gate", "missed", "skipped")},
}
MAX_RULES = 200
MAX_RECEIVERS = 50

_Few = msgspec.Meta(max_length=100)
_Window = Annotated[float, msgspec.Meta(ge=10, le=31 * 86400)]
_Limit = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class AlertReceiver(Section, frozen=True, kw_only=True):
    """Where messages about alerts go.

    Attributes:
        kind: `webhook` (JSON, signed with `secret`), `slack` (an incoming webhook of Slack's, or
            of a service that takes the same) or `alertmanager` (its API v2).
        url: where it listens; for an Alertmanager without the path `/api/v2/alerts`. Nothing shows
            it, because whoever knows it can send there. It may be an address of a private network;
            redirects are never followed.
        secret: of a webhook: `whsec_` and 24 to 64 random bytes in base64. Without one nothing is
            signed.
        headers: sent with every message, such as `Authorization`.
        timeout_seconds: how long an answer may take.
        max_age_seconds: how long a message that does not arrive is sent again.
        resolved: whether it gets a message when an alert is over.
    """

    kind: ReceiverKind
    url: Secret
    secret: Secret = Secret("")
    headers: dict[str, Secret] = msgspec.field(default_factory=dict)
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=60)] = 10.0
    max_age_seconds: Positive = 6 * 3600.0
    resolved: bool = True


class AlertRule(Section, frozen=True, kw_only=True):
    """When there is an alert.

    Attributes:
        subject: what it is about. `errors`: the share of requests that fail, by a fault that is not
            the client's; `first_byte`, `duration`: seconds to the first or the last byte of
            answers; `spend`: US dollars; `budget`: the share of a key's budget that is used;
            `burn`: how many times faster than evenly over its period a key uses its budget;
            `breaker`: a target's breaker is open; `rollout`: what was decided about a rollout, or
            it waits for a person; `shadow`: a shadow is blocked; `drift`: a watch finds a model
            changed; `retirement`: a model will be shut down; `schedule`: a scheduled run failed, or
            its gate did.
        above: the alert begins where the value is larger.
        window_seconds: what the value is measured over: the last so many seconds. Of `burn` also
            over the last twelfth of it, and both have to be above.
        min_requests: with fewer in the window, nothing is known: no alert begins, and none ends.
        quantile: of `first_byte` and `duration`: which share of the requests must not take longer.
        for_seconds: how long it has to go on before a message is sent.
        by: an alert for each `route`, `target` or `key`; none of them for all together.
        routes, targets, keys: only of these routes, targets (`provider/model`) and names of keys;
            none for all.
        labels: other labels that it must have, such as `watch: nightly`.
        severity: `info`, `warning` or `critical`; None for what the condition says.
        receivers: the receivers of its messages: without this key all; with an empty list no
            receiver, and the alert only shows in the list.
    """

    subject: AlertSubject
    above: _Limit | None = None
    window_seconds: _Window | None = None
    min_requests: Annotated[int, msgspec.Meta(ge=1, le=10**9)] | None = None
    quantile: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.95
    for_seconds: NotNegative = 0.0
    by: Annotated[tuple[GroupLabel, ...], _Few] | None = None
    routes: Annotated[tuple[str, ...], _Few] = ()
    targets: Annotated[tuple[str, ...], _Few] = ()
    keys: Annotated[tuple[str, ...], _Few] = ()
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    severity: Severity | None = None
    receivers: Annotated[tuple[str, ...], _Few] | None = None

    def threshold(self) -> float:
        """Return what the value is compared with; 0 for a subject without a threshold."""
        return (THRESHOLDS.get(self.subject) or 0.0) if self.above is None else self.above

    def window(self) -> float:
        """Return the seconds that the value is measured over; 0 for a subject without a window."""
        usual = WINDOWS.get(self.subject, 0.0)
        return usual if self.window_seconds is None else self.window_seconds

    def fewest(self) -> int:
        """Return the number of requests without which nothing is known."""
        return _FEWEST.get(self.subject, 1) if self.min_requests is None else self.min_requests

    def groups(self) -> tuple[GroupLabel, ...]:
        """Return what there is an alert for each of."""
        if self.subject in _ABOUT_KEYS:
            return ("key",)
        if self.by is None:
            return () if self.subject == "spend" else ("route",)
        return self.by

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether the rule is about a condition with these labels."""
        return (
            all(label in labels for label, names in self._filters() if names)
            and self.allows(labels)
            and all(labels.get(name) == value for name, value in self.labels.items())
        )

    def allows(self, labels: Mapping[str, str]) -> bool:
        """Return whether none of these labels has a value that the rule is not about."""
        return all(
            not names or labels.get(label, names[0]) in names for label, names in self._filters()
        )

    def _filters(self) -> tuple[tuple[GroupLabel, tuple[str, ...]], ...]:
        return ("route", self.routes), ("target", self.targets), ("key", self.keys)


class Alerts(Section, frozen=True, kw_only=True):
    """When alerts begin, and where messages about them go.

    Attributes:
        receivers: name to AlertReceiver.
        rules: name to AlertRule.
        every_seconds: how often it is looked whether anything is wrong.
        group_seconds: how long a message waits for others to join it.
        repeat_seconds: how often the message about an alert that goes on is repeated; 0 for never.
        days: how many days alerts that are over, and messages, stay in the list.
    """

    receivers: dict[str, AlertReceiver] = msgspec.field(default_factory=dict)
    rules: dict[str, AlertRule] = msgspec.field(default_factory=dict)
    every_seconds: Annotated[float, msgspec.Meta(ge=0.1, le=60)] = 5.0
    group_seconds: NotNegative = 10.0
    repeat_seconds: NotNegative = 4 * 3600.0
    days: Positive = 30.0

    def receivers_of(self, rule: AlertRule) -> tuple[str, ...]:
        """Return the names of a rule's receivers."""
        names = self.receivers if rule.receivers is None else rule.receivers
        return tuple(dict.fromkeys(names))


def signing_key(secret: Secret) -> bytes | None:
    """Return the bytes of a webhook's secret; None where it is not one."""
    text = secret.reveal()
    if not text.startswith("whsec_"):
        return None
    encoded = text.removeprefix("whsec_")
    try:
        # Some write it without the padding.
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if 24 <= len(key) <= 64 else None


def alert_problems(
    document: Document,
    alerts: Alerts,
    providers: Providers | None,
    named: Mapping[str, Collection[str]],
) -> Iterator[Problem]:
    """Yield what types cannot say.

    Args:
        document: the config.
        alerts: its section `alerts`.
        providers: None where they cannot be read.
        named: the names that the config has of each label's kind: `route`, `watch`, `schedule`.
    """
    for section, entries, limit in (
        ("receivers", alerts.receivers, MAX_RECEIVERS),
        ("rules", alerts.rules, MAX_RULES),
    ):
        if len(entries) > limit:
            yield document.problem(("alerts", section), f"has more than {limit}")
        for name in entries:
            if not NAME.fullmatch(name):
                yield document.problem(
                    ("alerts", section, name),
                    "must be a name of letters, digits, '.', '_', ':' and '-'",
                )
    for name, receiver in alerts.receivers.items():
        yield from _receiver_problems(document, ("alerts", "receivers", name), receiver)
    for name, rule in alerts.rules.items():
        place = ("alerts", "rules", name)
        yield from _rule_problems(document, place, rule)
        for n, receiver_name in enumerate(rule.receivers or ()):
            if receiver_name not in alerts.receivers:
                near = closest(receiver_name, alerts.receivers)
                yield document.problem(
                    (*place, "receivers", n), f"no receiver {receiver_name!r}.{near}"
                )
        if providers is not None:
            yield from _filter_problems(document, place, rule, providers, named["route"])
        yield from _label_problems(document, place, rule, named)


def _filter_problems(
    document: Document,
    place: DocumentPath,
    rule: AlertRule,
    providers: Providers,
    routes: Collection[str],
) -> Iterator[Problem]:
    for n, route in enumerate(rule.routes):
        if route not in routes and target_problem(route, providers):
            near = closest(route, routes)
            yield document.problem((*place, "routes", n), f"no route {route!r}.{near}")
    for n, target in enumerate(rule.targets):
        if target_problem(target, providers):
            yield document.problem(
                (*place, "targets", n), f"{target!r} is no model of a provider of the config"
            )


def _label_problems(
    document: Document,
    place: DocumentPath,
    rule: AlertRule,
    named: Mapping[str, Collection[str]],
) -> Iterator[Problem]:
    """Yield labels that no condition of the rule's subject has, so that it would match none."""
    labels = LABELS.get(rule.subject)
    if labels is None:
        return
    for key, label, given in (
        ("routes", "route", rule.routes),
        ("targets", "target", rule.targets),
    ):
        if given and label not in labels:
            yield document.problem((*place, key), f"{rule.subject} has no {label}")
    for name, value in rule.labels.items():
        at = (*place, "labels", name)
        if name not in labels:
            near = closest(name, labels)
            yield document.problem(at, f"{rule.subject} has no label {name!r}.{near}")
        elif labels[name] and value not in labels[name]:
            words = ", ".join(labels[name])
            yield document.problem(at, f"{value!r} is not one of {words}")
        elif name in named and value not in named[name]:
            near = closest(value, named[name])
            yield document.problem(at, f"no {name} {value!r}.{near}")


def _receiver_problems(
    document: Document, place: DocumentPath, receiver: AlertReceiver
) -> Iterator[Problem]:
    if wrong := wrong_with_address(receiver.url.reveal()):
        yield document.problem((*place, "url"), wrong)
    if receiver.secret:
        if receiver.kind != "webhook":
            yield document.problem((*place, "secret"), f"{receiver.kind} checks no signatures")
        elif signing_key(receiver.secret) is None:
            yield document.problem(
                (*place, "secret"), "must be whsec_ and 24 to 64 random bytes in base64"
            )
    yield from header_problems(document, place, receiver.headers)


def _rule_problems(document: Document, place: DocumentPath, rule: AlertRule) -> Iterator[Problem]:
    subject = rule.subject
    if subject not in THRESHOLDS:
        problem = f"{subject} has no threshold" if rule.above is not None else ""
    elif rule.above is None and THRESHOLDS[subject] is None:
        problem = f"{subject} needs a threshold"
    elif subject == "errors" and rule.threshold() >= 1:
        problem = "must be below 1, a share of the requests"
    else:
        problem = ""
    if problem:
        yield document.problem((*place, "above"), problem)
    is_of_keys = subject in _ABOUT_KEYS
    # What says nothing about the rule's subject, and why.
    for key, is_useless, why in (
        ("window_seconds", subject not in WINDOWS, f"{subject} is not measured over a window"),
        ("min_requests", subject not in WINDOWS, f"{subject} does not count requests"),
        ("by", subject not in WINDOWS or is_of_keys, f"{subject} has labels of its own"),
        ("labels", subject in WINDOWS or is_of_keys, f"{subject} has no labels but those of by"),
        ("routes", subject == "budget", "a budget is a key's"),
        ("targets", subject == "budget", "a budget is a key's"),
        ("keys", subject not in WINDOWS and not is_of_keys, f"{subject} is not about keys"),
    ):
        if is_useless and getattr(rule, key):
            yield document.problem((*place, key), why)
    if rule.quantile != 0.95 and subject not in _WITH_QUANTILE:
        yield document.problem((*place, "quantile"), f"{subject} has no quantile")
    for n, label in enumerate(rule.by or ()):
        if label in (rule.by or ())[:n]:
            yield document.problem((*place, "by", n), f"{label} is there twice")
