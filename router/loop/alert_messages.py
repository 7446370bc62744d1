"""What receivers are sent: the bodies of messages, and their signature.

    rendered(receiver, alerts, config.server.public_url, now)   # one body or more

Names in alerts may be anything. JSON carries them as they are, without control characters; in
Slack's markup nothing of them is a mention, a link or a format of Slack's.

Webhooks get Standard Webhooks (standardwebhooks.com): `webhook-id`, which stays the same however
often a message is sent, `webhook-timestamp`, and in `webhook-signature` the HMAC-SHA256 of both and
the body, with the bytes of the secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec

from providers.shortening import shortened
from router.config.alerts import AlertReceiver, ReceiverKind, signing_key
from router.store.alerts import Alert

# Alerts in one message. A webhook and an Alertmanager get several messages; Slack gets one, which
# ends with how many more there are.
MAX_ALERTS = 100
MAX_SLACK_LINES = 20
MAX_SLACK_CHARACTERS = 2900
MAX_TEXT = 500
# An Alertmanager takes an alert for over after so long without hearing of it.
ALERTMANAGER_FORGETS_S = 20 * 60.0
_TEST_ID = "al_test"

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_LABEL_NAME = re.compile(r"[^a-zA-Z0-9_]")
_MARKS: Mapping[str, str] = {"critical": ":red_circle:", "warning": ":large_orange_circle:"}


def plain(text: str, limit: int = MAX_TEXT) -> str:
    """Return a text as one line, without what is invisible or no Unicode, and not too long."""
    text = _CONTROL.sub("", text.encode("utf-8", "replace").decode().replace("\n", " "))
    return shortened(text, limit)


def rendered(
    receiver: AlertReceiver, alerts: Sequence[Alert], public_url: str, now: float
) -> Iterator[tuple[Sequence[Alert], str]]:
    """Yield the bodies of messages to a receiver, each with the alerts that it is about."""
    if receiver.kind == "slack":
        yield alerts, _json(_slack(alerts, public_url))
        return
    for start in range(0, len(alerts), MAX_ALERTS):
        part = alerts[start : start + MAX_ALERTS]
        if receiver.kind == "webhook":
            yield part, _json(_webhook(part, public_url, now, total=len(alerts)))
        else:
            yield part, _json([_for_alertmanager(alert, public_url, now) for alert in part])


def body_of_test(kind: ReceiverKind, name: str, public_url: str, now: float) -> str:
    """Return the body of a message that tests whether a receiver can be reached."""
    alert = Alert(
        id=_TEST_ID,
        fingerprint="test",
        rule="test",
        subject="errors",
        labels={"receiver": name},
        severity="info",
        # An Alertmanager shows it for as long as it lasts.
        state="firing",
        summary="This is a test of evalrouter's alerts. Nothing is wrong.",
        link="/alerts",
        since=now,
        fired_at=now,
        updated_at=now,
    )
    if kind == "slack":
        return _json(_slack([alert], public_url))
    if kind == "webhook":
        return _json(_webhook([alert], public_url, now, total=1, kind="alerts.test"))
    return _json([_for_alertmanager(alert, public_url, now, lasts=60.0)])


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def url_of(public_url: str, link: str) -> str:
    """Return the address of a path of this server; "" where it has no public address."""
    return f"{public_url.rstrip('/')}{link}" if public_url and link else ""


def _time(at: float | None) -> str | None:
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _webhook(
    alerts: Sequence[Alert],
    public_url: str,
    now: float,
    *,
    total: int,
    kind: str = "alerts.changed",
) -> dict[str, Any]:
    return {
        "type": kind,
        "timestamp": _time(now),
        "data": {
            "total": total,
            "alerts": [
                {
                    "id": alert.id,
                    "fingerprint": alert.fingerprint,
                    "status": alert.state,
                    "rule": alert.rule,
                    "subject": alert.subject,
                    "severity": alert.severity,
                    "labels": {name: plain(value) for name, value in alert.labels.items()},
                    "summary": plain(alert.summary),
                    "value": alert.value,
                    "threshold": alert.threshold,
                    "started_at": _time(alert.fired_at),
                    "ended_at": _time(alert.resolved_at),
                    "url": url_of(public_url, alert.link),
                    # A test is nobody's to look up.
                    "alert_url": url_of(
                        public_url, alert.link if alert.id == _TEST_ID else f"/alerts/{alert.id}"
                    ),
                }
                for alert in alerts
            ],
        },
    }


def _for_alertmanager(
    alert: Alert, public_url: str, now: float, *, lasts: float = ALERTMANAGER_FORGETS_S
) -> dict[str, Any]:
    """Return an alert as POST /api/v2/alerts of an Alertmanager takes it."""
    labels = {_label_name(name): plain(value) for name, value in alert.labels.items()}
    posted: dict[str, Any] = {
        "labels": labels
        | {"alertname": alert.rule, "severity": alert.severity, "service": "evalrouter"},
        "annotations": {"summary": plain(alert.summary)},
        "startsAt": _time(alert.fired_at or alert.since),
        "endsAt": _time(alert.resolved_at or now + lasts),
    }
    if url := url_of(public_url, alert.link or f"/alerts/{alert.id}"):
        posted["generatorURL"] = url
    return posted


def _label_name(name: str) -> str:
    name = _LABEL_NAME.sub("_", name)
    return f"_{name}" if name[:1].isdigit() else name or "_"


def _slack(alerts: Sequence[Alert], public_url: str) -> dict[str, Any]:
    firing = sum(alert.state == "firing" for alert in alerts)
    counts = [(firing, "firing"), (len(alerts) - firing, "over")]
    title = ", ".join(f"{number} {word}" for number, word in counts if number)
    lines = [f"*Alerts: {title}*"]
    length = len(lines[0])
    shown = 0
    for alert in alerts[:MAX_SLACK_LINES]:
        line = _slack_line(alert, public_url)
        if length + len(line) > MAX_SLACK_CHARACTERS:
            break
        lines.append(line)
        length += len(line) + 1
        shown += 1
    if shown < len(alerts):
        more = f"and {len(alerts) - shown} more"
        url = url_of(public_url, "/alerts")
        lines.append(f"<{_slack_url(url)}|{more}>" if url else more)
    text = "\n".join(lines)
    section = {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}
    fallback = f"Alerts: {title}"
    return {"text": fallback, "blocks": [section], "unfurl_links": False, "unfurl_media": False}


def _slack_line(alert: Alert, public_url: str) -> str:
    mark = ":white_check_mark:" if alert.state == "resolved" else _MARKS.get(alert.severity, "")
    name = _slack_text(alert.rule)
    if url := url_of(public_url, alert.link or f"/alerts/{alert.id}"):
        name = f"<{_slack_url(url)}|{name}>"
    over = "over: " if alert.state == "resolved" else ""
    return f"{mark or ':information_source:'} {name} ({alert.severity}) {over}" + _slack_text(
        alert.summary
    )


def _slack_url(url: str) -> str:
    return quote(url, safe="/:?&=%#[]@+,;~").replace("&", "&amp;")


def _slack_text(text: str) -> str:
    """Return a text that Slack shows as it is; see "Escaping text" in its documentation.

    Marks of formats are set apart by a space of no width, which breaks them.
    """
    text = plain(text, MAX_TEXT // 2)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([*_~`|@])", "\\1\u200b", text)


def signature_headers(
    receiver: AlertReceiver, message: str, body: bytes, now: float
) -> dict[str, str]:
    """Return the headers that a message is known by and that prove who sent it.

    Args:
        receiver: has the secret.
        message: the message's id.
        body: what is sent.
        now: when, seconds since the epoch.
    """
    headers = {"webhook-id": message, "webhook-timestamp": str(int(now))}
    key = signing_key(receiver.secret)
    if key is not None:
        signed = b".".join((message.encode(), headers["webhook-timestamp"].encode(), body))
        digest = hmac.new(key, signed, hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers
