"""What receivers are sent: hostile names in each form, and the signature."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from providers.base import Secret
from router.config.alerts import AlertReceiver
from router.loop.alert_messages import body_of_test, rendered, signature_headers, url_of
from router.store.alerts import Alert

NASTY = (
    'a<!channel> <https://evil.example|click> *b* _c_ ~d~ `e` & "f" @here \x1b[31m\x00\u202eg\nh'
)
NOW = 1_000_000.0


def receiver(kind="webhook", secret=""):
    return AlertReceiver(kind=kind, url=Secret("https://example.com"), secret=Secret(secret))


def an_alert(number=1, **fields):
    return Alert(
        **{
            "id": f"al_{number}",
            "fingerprint": "f",
            "rule": "r",
            "subject": "errors",
            "labels": {"route": NASTY},
            "severity": "critical",
            "state": "firing",
            "summary": NASTY,
            "link": "/traffic?route=a%3Cb&target=x",
            "since": 1.0,
            "fired_at": 1.0,
            "updated_at": 1.0,
        }
        | fields
    )


def bodies(kind, *alerts, public_url="https://r.example.com"):
    return [json.loads(body) for _, body in rendered(receiver(kind), alerts, public_url, NOW)]


def test_slack_shows_names_as_they_are():
    [body] = bodies("slack", an_alert())
    [block] = body["blocks"]
    text = block["text"]["text"]
    assert block["text"]["verbatim"] is True
    line = text.split("\n")[1]
    # Only our own link is one.
    assert line.count("<") == line.count(">") == 1
    assert "<https://r.example.com/traffic?route=a%3Cb&amp;target=x|r>" in line
    assert "&lt;!channel&gt;" in line
    assert "&amp;" in line
    for mark in ("*", "_", "~", "`", "@"):
        at = line.rindex(mark)
        assert line[at + 1] == "\u200b", mark
    assert not any(c < " " for c in line)
    assert "\u202e" not in line
    assert body["text"] == "Alerts: 1 firing"


def test_slack_says_how_many_more_there_are():
    alerts = [an_alert(n, summary="x" * 2000) for n in range(60)]
    alerts += [an_alert(n, state="resolved", summary="short") for n in range(60, 70)]
    [body] = bodies("slack", *alerts)
    text = body["blocks"][0]["text"]["text"]
    assert len(text) < 3000
    assert text.startswith("*Alerts: 60 firing, 10 over*")
    shown = text.count(":red_circle:")
    assert text.endswith(f"<https://r.example.com/alerts|and {70 - shown} more>")


def test_a_webhook_gets_names_without_what_is_invisible():
    [body] = bodies("webhook", an_alert())
    [alert] = body["data"]["alerts"]
    assert alert["labels"]["route"].startswith("a<!channel> <https://evil.example|click> *b*")
    assert alert["summary"].endswith("@here [31mg h")
    assert alert["url"] == "https://r.example.com/traffic?route=a%3Cb&target=x"


def test_half_of_a_pair_is_sent_as_a_question_mark():
    [body] = bodies("webhook", an_alert(summary="half \ud800"))
    assert body["data"]["alerts"][0]["summary"] == "half ?"


def test_an_alertmanager_gets_labels_that_it_takes():
    alert = an_alert(labels={"a-b": "v", "9": "n", "severity": "mine", "alertname": "mine"})
    [[posted]] = bodies("alertmanager", alert)
    assert posted["labels"] == {
        "a_b": "v",
        "_9": "n",
        "alertname": "r",
        "severity": "critical",
        "service": "evalrouter",
    }
    assert posted["startsAt"] == "1970-01-01T00:00:01.000Z"
    assert posted["endsAt"] == "1970-01-12T14:06:40.000Z"
    assert posted["generatorURL"].startswith("https://r.example.com/traffic")
    [[posted]] = bodies("alertmanager", an_alert(state="resolved", resolved_at=5.0), public_url="")
    assert posted["endsAt"] == "1970-01-01T00:00:05.000Z"
    assert "generatorURL" not in posted


def test_without_a_public_address_nothing_links_anywhere():
    assert url_of("", "/alerts") == ""
    [body] = bodies("slack", an_alert(summary="s"), public_url="")
    assert "<" not in body["blocks"][0]["text"]["text"]


@pytest.mark.parametrize("kind", ["webhook", "slack", "alertmanager"])
def test_a_test_says_that_it_is_one(kind):
    assert "Nothing is wrong" in body_of_test(kind, "ops", "", NOW)


def test_a_test_links_to_what_there_is():
    body = json.loads(body_of_test("webhook", "ops", "https://router.example.com", NOW))
    [alert] = body["data"]["alerts"]
    assert alert["alert_url"] == alert["url"] == "https://router.example.com/alerts"


def test_the_signature_is_that_of_the_standard():
    """The example of standardwebhooks.com, as its reference implementation signs it."""
    headers = signature_headers(
        receiver(secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        b'{"test": 2432232314}',
        1614265330.9,
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_the_check_of_the_page_is_right():
    """The function that docs/how-to/alerts.md gives to receivers."""
    page = Path("docs/how-to/alerts.md").read_text()
    names = {}
    [code] = re.findall(r"```python\n(import base64.*?)```", page, re.DOTALL)
    exec(code, names)
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    now = time.time()
    headers = signature_headers(receiver(secret=secret), "msg_1", b"{}", now)
    assert names["is_genuine"](secret, headers, b"{}")
    assert not names["is_genuine"](secret, headers, b"{ }")
    assert not names["is_genuine"](secret, headers | {"webhook-id": "msg_2"}, b"{}")
    late = signature_headers(receiver(secret=secret), "msg_1", b"{}", now - 400)
    assert not names["is_genuine"](secret, late, b"{}")
