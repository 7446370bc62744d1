"""`alerts:` of the config: what is refused, where, and that nothing shows a secret."""

from __future__ import annotations

import pytest

from providers.errors import ConfigError
from router.config.loading import parse

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def read(alerts, more=""):
    text = f"routes: {{r: {{targets: [{{model: baseline/echo}}]}}}}\nalerts: {alerts}\n{more}"
    return parse(text, "x.yaml", {})


def rule(text):
    return f"{{rules: {{a: {{{text}}}}}}}"


def receiver(text):
    return f"{{receivers: {{a: {{{text}}}}}}}"


@pytest.mark.parametrize(
    ("alerts", "place", "reason"),
    [
        (rule("above: 1"), "rules.a", "subject"),
        (rule("subject: erors, above: 0.1"), "rules.a.subject", "is not one of"),
        (rule("subject: errors"), "rules.a.above", "needs a threshold"),
        (rule("subject: errors, above: 1.5"), "rules.a.above", "below 1"),
        (rule("subject: errors, above: .nan"), "rules.a.above", "finite"),
        (rule("subject: errors, above: .inf"), "rules.a.above", "finite"),
        (rule("subject: errors, above: -0.1"), "rules.a.above", "> 0.0"),
        (rule("subject: errors, above: 0"), "rules.a.above", "> 0.0"),
        (rule("subject: breaker, above: 1"), "rules.a.above", "has no threshold"),
        (rule("subject: breaker, window_seconds: 60"), "rules.a.window_seconds", "not measured"),
        (rule("subject: drift, min_requests: 3"), "rules.a.min_requests", "count requests"),
        (rule("subject: errors, above: 0.1, window_seconds: 1"), "rules.a.window_seconds", ">= 10"),
        (rule("subject: errors, above: 0.1, quantile: 0.5"), "rules.a.quantile", "no quantile"),
        (rule("subject: duration, above: 1, quantile: 1"), "rules.a.quantile", "< 1.0"),
        (rule("subject: errors, above: 0.1, for_seconds: -1"), "rules.a.for_seconds", ">= 0.0"),
        (rule("subject: errors, above: 0.1, by: [user]"), "rules.a.by[0]", "is not one of route"),
        (rule("subject: errors, above: 0.1, by: [key, key]"), "rules.a.by[1]", "twice"),
        (rule("subject: budget, by: [route]"), "rules.a.by", "labels of its own"),
        (rule("subject: budget, routes: [r]"), "rules.a.routes", "a key's"),
        (rule("subject: drift, keys: [ann]"), "rules.a.keys", "not about keys"),
        (rule("subject: spend, above: 1, labels: {a: b}"), "rules.a.labels", "those of by"),
        (rule("subject: drift, labels: {zz: '1'}"), "rules.a.labels.zz", "no label 'zz'"),
        (rule("subject: drift, labels: {wach: w}"), "rules.a.labels.wach", "mean 'watch'?"),
        (rule("subject: drift, labels: {watch: w}"), "rules.a.labels.watch", "no watch 'w'"),
        (rule("subject: drift, labels: {signal: x}"), "rules.a.labels.signal", "not one of probe"),
        (rule("subject: schedule, labels: {schedule: s}"), "rules.a.labels.schedule", "no sched"),
        (rule("subject: schedule, labels: {problem: x}"), "rules.a.labels.problem", "not one of"),
        (rule("subject: rollout, labels: {decision: x}"), "rules.a.labels.decision", "not one of"),
        (rule("subject: rollout, labels: {route: rr}"), "rules.a.labels.route", "no route 'rr'"),
        (rule("subject: breaker, labels: {route: r}"), "rules.a.labels.route", "no label 'route'"),
        (rule("subject: drift, routes: [r]"), "rules.a.routes", "drift has no route"),
        (rule("subject: schedule, targets: [baseline/echo]"), "rules.a.targets", "has no target"),
        (rule("subject: shadow, routes: [rr]"), "rules.a.routes[0]", "no route 'rr'"),
        (rule("subject: breaker, targets: [nobody/x]"), "rules.a.targets[0]", "no model"),
        (rule('subject: breaker, targets: ["baseline/a\\n"]'), "rules.a.targets[0]", "no model"),
        (rule("subject: breaker, receivers: [ops]"), "rules.a.receivers[0]", "no receiver 'ops'"),
        (rule("subject: breaker, on: x"), "rules.a.on", "unknown key"),
        ('{rules: {"a b": {subject: breaker}}}', "rules.a b", "must be a name"),
        (receiver("kind: webhook"), "receivers.a", "url"),
        (receiver("kind: mail, url: 'http://h'"), "receivers.a.kind", "is not one of"),
        (receiver("kind: slack, url: 'h/x'"), "receivers.a.url", "http:// or https://"),
        (receiver("kind: slack, url: 'file:///etc/passwd'"), "receivers.a.url", "must begin"),
        (receiver("kind: slack, url: 'http://u:p@h/'"), "receivers.a.url", "user's name"),
        (receiver("kind: slack, url: 'http://h:99999/'"), "receivers.a.url", "port"),
        (receiver('kind: slack, url: "http://h/\\r\\nx: y"'), "receivers.a.url", "characters"),
        (receiver("kind: webhook, url: 'http://h', secret: abc"), "receivers.a.secret", "whsec_"),
        (
            receiver("kind: webhook, url: 'http://h', secret: 'whsec_c2hvcnQ='"),
            "receivers.a.secret",
            "24 to 64",
        ),
        (
            receiver(f"kind: slack, url: 'http://h', secret: {SECRET}"),
            "receivers.a.secret",
            "checks no signatures",
        ),
        (
            receiver('kind: webhook, url: "http://h", headers: {x: "a\\nb"}'),
            "receivers.a.headers.x",
            "no header can have",
        ),
        ("{every_seconds: 0}", "every_seconds", ">= 0.1"),
        ("{group_seconds: .nan}", "group_seconds", "finite"),
        ("[1]", "", "object"),
    ],
)
def test_what_is_refused(alerts, place, reason):
    with pytest.raises(ConfigError) as caught:
        read(alerts)
    assert f"alerts{place and '.'}{place}" in caught.value.message
    assert reason in caught.value.message
    assert SECRET not in caught.value.message


def test_a_private_address_may_be_written_there():
    read(receiver("kind: webhook, url: 'http://169.254.169.254/x'"))
    read(receiver("kind: webhook, url: 'http://localhost:9/x'"))


def test_nothing_shows_an_address_or_a_secret():
    config = read(
        receiver(f"kind: webhook, url: 'https://h.example/T0K3N', secret: {SECRET},"
                 " headers: {authorization: 'Bearer T0K3N'}")
    )  # fmt: skip
    assert "T0K3N" not in repr(config)
    assert SECRET not in repr(config)


@pytest.mark.parametrize("url", ["ftp://h", "http://h/?q=1", "http://h/<x>", "http://", "h"])
def test_a_public_address_is_one(url):
    with pytest.raises(ConfigError, match="public_url"):
        read("{}", f"server: {{public_url: '{url}'}}")
