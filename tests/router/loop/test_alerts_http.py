"""Alerts over HTTP, on the command line and in the SDK, with a server that looks by itself."""

from __future__ import annotations

import io
import json
import re

import pytest
from alert_receiver import SECRET, alert_receiver
from click.testing import CliRunner
from msgspec.structs import asdict
from rich.console import Console
from server_process import wait_for
from servers import gateway

from providers.errors import NotFoundError
from router.cli import main
from router.cli.alerts import print_alert, print_alerts
from router.client import Client
from router.loop.alert_administration import AlertReport, AlertView
from router.store.alerts import Alert

CONFIG = """
server: {{port: 0, public_url: "https://router.example.com"}}
storage: {{database: "sqlite:///{folder}/e.db"}}
providers:
  up: {{kind: scripted, script: {{down: [{{status: 503}}]}}}}
routes:
  r: {{targets: [{{model: up/down}}], retries: {{attempts: 1}}}}
alerts:
  every_seconds: 0.2
  group_seconds: 0
  receivers:
    ops: {{kind: webhook, url: "{url}/hook?token=s3cr3t-token", secret: "{secret}"}}
    gone: {{kind: slack, url: "http://127.0.0.1:9/T000/s3cr3t-token"}}
  rules:
    failing:
      {{subject: errors, above: 0.5, window_seconds: 10, min_requests: 3, severity: critical,
        receivers: [ops]}}
    budget: {{subject: budget, keys: [nobody]}}
"""


@pytest.fixture
def receiver():
    with alert_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def silenced_url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("silenced")
    config = CONFIG.format(folder=folder, url="http://127.0.0.1:9", secret=SECRET)
    with gateway(config) as url:
        yield f"{url}/alerts/al_1/silence"


@pytest.fixture
def client(url):
    with Client(url) as client:
        yield client


@pytest.fixture
def url(tmp_path, receiver):
    config = CONFIG.format(folder=tmp_path, url=receiver.url, secret=SECRET)
    (tmp_path / "evalrouter.yaml").write_text(config)
    with gateway(config) as url:
        yield url


def run(folder, *args):
    config = ("--config", str(folder / "evalrouter.yaml"))
    return CliRunner().invoke(main, ["alerts", *args, *config])


def test_from_requests_that_fail_to_a_receiver_and_silence(http, url, client, receiver, tmp_path):
    page = http.get(f"{url}/alerts").json()
    assert page["data"] == []
    assert page["rules"][1]["problem"] == "no key is named nobody"
    assert page["receivers"][0] == {
        "name": "ops",
        "kind": "webhook",
        "signed": True,
        "waiting": 0,
    }
    body = {"model": "r", "messages": [{"role": "user", "content": "hi"}]}
    for _ in range(3):
        assert http.post(f"{url}/v1/chat/completions", json=body).status_code == 503
    wait_for(lambda: receiver.received)
    [request] = receiver.received
    assert request.is_signed()
    [told] = request.json["data"]["alerts"]
    assert told["summary"] == (
        "3 of 3 requests for r failed in the last 10 seconds: 100%, more than 50%"
    )
    assert told["url"] == "https://router.example.com/traffic?route=r"
    [alert] = client.alerts.list(state="firing")
    wait_for(lambda: client.alerts.list()[0]["deliveries"][0]["state"] == "delivered")
    report = client.alerts.show(alert["id"])
    assert report["history"] == []
    [delivery] = report["alert"]["deliveries"]
    assert (delivery["attempts"], delivery["status"]) == (1, 204)
    silenced = client.alerts.silence(alert["id"], "we know", seconds=600)
    assert silenced["silence"] == "we know"
    assert silenced["silenced_by"] == "a client without a key"
    metrics = http.get(f"{url}/metrics").text
    assert 'evalrouter_alerts{rule="failing",severity="critical",state="firing"} 1.0' in metrics
    assert 'evalrouter_alert_messages_total{outcome="delivered",receiver="ops"} 1.0' in metrics

    listed = run(tmp_path, "list")
    assert listed.exit_code == 0, listed.output
    assert "firing (silenced)" in listed.output
    assert "the rule budget: no key is named nobody" in listed.output
    assert json.loads(run(tmp_path, "list", "--json").output)["data"][0]["id"] == alert["id"]
    shown = run(tmp_path, "show", alert["id"])
    assert "ops: changes delivered" in shown.output
    assert "silenced until" in shown.output
    ended = run(tmp_path, "silence", alert["id"], "mended", "--for", "0s")
    assert ended.output == "failing is not silenced\n"
    assert run(tmp_path, "silence", alert["id"], "x", "--for", "soon").exit_code == 2
    assert run(tmp_path, "show", "al_none").exit_code == 2
    for text in (
        metrics,
        listed.output,
        shown.output,
        json.dumps(http.get(f"{url}/alerts").json()),
    ):
        assert "s3cr3t" not in text
        assert SECRET not in text


def test_a_test_alert_says_what_became_of_it(http, url, client, receiver, tmp_path):
    receiver.failures.append(500)
    failed = client.alerts.test("ops")
    assert (failed["state"], failed["status"]) == ("failed", 500)
    assert "s3cr3t" not in failed["error"]
    assert client.alerts.test("ops")["state"] == "delivered"
    assert receiver.received[1].json["type"] == "alerts.test"
    gone = client.alerts.test("gone")
    assert (gone["state"], gone["error"]) == ("failed", "gone: connection refused")
    ran = run(tmp_path, "test", "ops")
    assert (ran.exit_code, ran.output) == (0, "ops: test delivered\n")
    ran = run(tmp_path, "test", "gone")
    assert (ran.exit_code, ran.output) == (1, "gone: test failed: gone: connection refused\n")
    ran = run(tmp_path, "test", "opss")
    assert ran.exit_code == 2
    assert "ops" in ran.output


def test_bad_requests_are_refused(client):
    with pytest.raises(NotFoundError, match="al_x"):
        client.alerts.show("al_x")
    with pytest.raises(NotFoundError, match="al_x"):
        client.alerts.silence("al_x", "why", seconds=1)
    with pytest.raises(NotFoundError, match="Known: gone, ops"):
        client.alerts.test("nobody")


@pytest.mark.parametrize(
    "body",
    [
        '{"reason": "r"}',
        '{"seconds": 1}',
        '{"reason": "", "seconds": 1}',
        '{"reason": "r", "seconds": -1}',
        '{"reason": "r", "seconds": 1e300}',
        '{"reason": "r", "seconds": 1, "until": 2}',
        '{"reason": "r", "until": 1e300}',
        '{"reason": "r", "until": NaN}',
        '{"reason": "r", "until": -1}',
        '{"reason": "r", "seconds": 1, "more": 2}',
        "[]",
    ],
)
def test_a_silence_needs_a_reason_and_an_end(http, silenced_url, body):
    answer = http.post(silenced_url, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def an_alert(number, **fields):
    return Alert(
        id=f"al_{number}",
        fingerprint="f",
        rule="failing",
        subject="errors",
        labels={"route": "r"},
        severity="critical",
        summary=f"{number} of 3 requests failed: " + "many, " * 30 + "all",
        link="",
        updated_at=1.0,
        **fields,
    )


def view_of(alert):
    known = AlertView.__struct_fields__
    fields = {name: value for name, value in asdict(alert).items() if name in known}
    silence = {"silenced_until": None, "silence": "", "silenced_by": ""}
    return AlertView(**fields, **silence, url="", deliveries=[])


EARLIER = view_of(an_alert(1, state="resolved", since=1e6, fired_at=1e6, resolved_at=1e6 + 60))
LATER = view_of(an_alert(2, state="firing", since=2e6, fired_at=2e6))


def printed(show, *args, **options):
    console = Console(file=io.StringIO(), emoji=False, **options)
    show(*args, console=console)
    return console.file.getvalue()


def test_an_alert_says_which_others_were_before_and_which_later():
    of_earlier = printed(print_alert, AlertReport(alert=EARLIER, history=[LATER]))
    assert of_earlier.splitlines()[-1].endswith(", firing (al_2)")
    assert of_earlier.splitlines()[-1].startswith("  later: since 1970-01-2")
    of_later = printed(print_alert, AlertReport(alert=LATER, history=[EARLIER]))
    assert of_later.splitlines()[-1].startswith("  before: 1970-01-1")
    assert " to 1970-01-1" in of_later.splitlines()[-1]


def test_a_list_of_alerts_is_as_wide_as_a_terminal_and_whole_in_a_file():
    terminal = printed(print_alerts, [LATER, EARLIER], force_terminal=True, width=80)
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", terminal).splitlines())) <= 80
    assert " ".join(terminal.split()).count("many, " * 30 + "all") == 2
    whole = printed(print_alerts, [LATER, EARLIER], width=80)
    assert [line.count("many, ") for line in whole.splitlines()] == [0, 30, 30]
