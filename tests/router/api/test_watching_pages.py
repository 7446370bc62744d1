"""The pages of shadows, watches, schedules and alerts: what they show, and what people do there."""

from __future__ import annotations

import html
import json
import re
import time

import pytest
from page_elements import BROWSER, check_policy, check_sorts, text_of
from servers import client_of, gateway
from stores import add_keys, in_store

from router.store.alerts import Alert, AlertChanges

ATTACK = "<script>alert(1)</script>"
LISTS = ("/shadows", "/watches", "/schedules", "/alerts")
PAGES = ("/routes/chat/shadow", "/watches/steady", "/schedules/nightly", "/alerts/al_1")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watching")
    rows = [{"input": f"First {n}. Then more."} for n in range(5)]
    (folder / "d.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    async def fill(store):
        alert = {
            "fingerprint": "f", "rule": "gone", "subject": "breaker", "labels": {"target": ATTACK},
            "severity": "critical", "state": "resolved", "summary": ATTACK, "link": "/traffic",
        }  # fmt: skip
        now = time.time()
        alerts = [
            Alert(id=f"al_{n}", since=now - n, resolved_at=now, updated_at=now, **alert)
            for n in (1, 2)
        ]
        assert await store.claim_lease("tell", "a", 30.0)
        await store.change_alerts(
            AlertChanges(alerts=tuple(alerts)), lease="tell", owner="a", max_waiting=3
        )

    in_store(folder / "e.db", fill)
    keys = add_keys(folder / "e.db", "admin", "viewer", "reviewer")
    config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
evaluation: {{roots: ["{folder}"]}}
datasets: {{roots: ["{folder}"]}}
routes:
  chat:
    targets: [{{model: baseline/echo}}]
    record: full
    share_bodies_with: [baseline]
    shadow: {{targets: [baseline/lead-3], metrics: [length]}}
watches:
  steady: {{target: baseline/echo, compare: text, prompts: ["One. Two."], cron: "0 0 1 1 *",
           reference_probes: 6, live: null}}
schedules:
  nightly:
    run: {{dataset: "{folder}/d.jsonl", routes: [chat], metrics: [length]}}
    cron: "0 0 1 1 *"
    gates: ["words >= 1", "words >= 1000"]
alerts: {{rules: {{failing: {{subject: errors, above: 0.5}}}}}}
"""
    with gateway(config) as url:
        yield url, keys


def as_role(world, role):
    url, keys = world
    return client_of(url, keys[role], BROWSER)


@pytest.fixture
def browser(world):
    with as_role(world, "admin") as http:
        yield http


def as_json(browser, path):
    return browser.get(path, headers={"accept": "application/json"}).json()


def test_each_is_listed_and_has_a_page(browser):
    for path in (*LISTS, *PAGES):
        page = browser.get(path)
        assert page.status_code == 200, path
        check_policy(page)
        assert ATTACK not in page.text
    for path, page in zip(LISTS, PAGES, strict=True):
        assert f'href="{page}"' in browser.get(path).text
        assert browser.get(f"{path}?export=csv").headers["content-type"].startswith("text/csv")
        assert browser.get(f"{path}?sort=x").status_code == 400
        check_sorts(browser, path)
    for path in ("/routes/no/shadow", "/watches/no", "/schedules/no", "/alerts/no"):
        assert browser.get(path).status_code == 404
    assert "No alert is in this state" in browser.get("/alerts?state_is=firing").text


def test_roles_see_what_the_api_shows_them_and_only_admins_change_it(world):
    for role, refused in (("viewer", ()), ("reviewer", ("shadow", "alert"))):
        with as_role(world, role) as http:
            for path in (*LISTS, *PAGES):
                page = http.get(path)
                assert page.status_code == (403 if any(part in path for part in refused) else 200)
                assert 'action="/pages' not in page.text
            for path in PAGES:
                sent = http.post(f"/pages{path}", data={"do": "run", "reason": "x"})
                assert sent.status_code == 403


@pytest.mark.parametrize("path", PAGES)
def test_what_the_page_does_not_have_is_refused(browser, path):
    answer = browser.post(f"/pages{path}", data={"do": "explode", "reason": ""})
    assert answer.status_code == 400
    assert 'role="alert"' in answer.text
    assert answer.headers["hx-push-url"] == "false"


def test_a_shadow_is_paused_with_a_reason_and_resumed(browser):
    path = "/pages/routes/chat/shadow"
    answer = browser.post(path, data={"do": "pause"})
    assert (answer.status_code, 'role="alert"' in answer.text) == (400, True)
    assert browser.post(path, data={"do": "pause", "reason": ATTACK}).status_code == 303
    page = browser.get("/routes/chat/shadow")
    assert "Paused" in text_of(page.text)
    assert "by admin" in text_of(page.text)
    assert html.escape(ATTACK) in page.text
    assert browser.post(path, data={"do": "resume"}).status_code == 303
    assert as_json(browser, "/routes/chat/shadow")["state"] != "paused"


def test_a_watch_is_probed_and_gets_a_new_reference_with_a_reason(browser):
    path = "/pages/watches/steady"
    for _ in range(6):
        assert browser.post(path, data={"do": "probe"}).status_code == 303
    shown = text_of(browser.get("/watches/steady").text)
    assert "probe 6 of 6" in shown
    assert "held out 2 of 2" in shown
    answer = browser.post(path, data={"do": "pin", "reason": " "})
    assert (answer.status_code, "Say why" in answer.text) == (400, True)
    assert browser.post(path, data={"do": "pin", "reason": "it is better"}).status_code == 303
    page = browser.get("/watches/steady")
    assert "Compared with reference 2" in text_of(page.text)
    assert "it is better" in page.text


def test_a_schedule_is_run_paused_and_its_run_accepted(browser):
    path = "/pages/schedules/nightly"
    assert browser.post(path, data={"do": "run", "reason": "now"}).status_code == 303
    while as_json(browser, "/schedules/nightly")["schedule"]["running"]:
        pass
    page = browser.get("/schedules/nightly")
    shown = text_of(page.text)
    assert "✓ words >= 1 (chat)" in shown
    assert "✗ words >= 1000 (chat)" in shown
    assert "words of chat over time" in shown
    accept = re.search(r'value="(accept [^"]+)"', page.text)[1]
    answer = browser.post(path, data={"do": accept, "reason": ""})
    assert (answer.status_code, "Say why" in answer.text) == (400, True)
    assert browser.post(path, data={"do": accept, "reason": "wanted"}).status_code == 303
    assert "the last accepted one" in text_of(browser.get("/schedules/nightly").text)
    for act, words in (("pause", "Paused"), ("resume", "due next")):
        assert browser.post(path, data={"do": act, "reason": "holidays"}).status_code == 303
        assert words in text_of(browser.get("/schedules/nightly").text)
    answer = browser.post(path, data={"do": "resume", "reason": "holidays"})
    assert (answer.status_code, "not paused" in answer.text) == (409, True)
    assert 'value="holidays"' in answer.text
    assert "✗ words >= 1000" in text_of(browser.get("/schedules").text)


def test_an_alert_says_what_to_do_and_is_silenced_for_hours(browser):
    page = browser.get("/alerts/al_1")
    shown = text_of(page.text)
    assert "The target fails in a row" in shown
    assert 'href="/traffic"' in page.text
    assert 'href="/alerts/al_2"' in page.text
    path = "/pages/alerts/al_1"
    for hours in ("", "x", "0", "-1", "nan", "99999"):
        answer = browser.post(path, data={"do": "silence", "hours": hours, "reason": "seen"})
        assert answer.status_code == 400, hours
        assert f'value="{hours}"' in answer.text
        assert 'value="seen"' in answer.text
    fields = {"do": "silence", "hours": "2", "reason": "seen"}
    assert browser.post(path, data=fields | {"reason": ""}).status_code == 400
    assert browser.post(path, data=fields).status_code == 303
    shown = text_of(browser.get("/alerts/al_1").text)
    assert "Silenced until" in shown
    assert "by key admin" in shown
    assert browser.post(path, data={"do": "end", "reason": "over"}).status_code == 303
    assert "Silenced until" not in text_of(browser.get("/alerts/al_1").text)
