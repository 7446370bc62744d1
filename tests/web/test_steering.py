"""Routes, rollouts and what watches them in a real browser: by keyboard, and in two tabs."""

from __future__ import annotations

import json
import re

import httpx
import pytest
from playwright.sync_api import expect
from servers import gateway
from web_pages import ATTACK, LONG, RIGHT_TO_LEFT, check_axe, check_width


@pytest.fixture(scope="module")
def steered(chromium, tmp_path_factory):
    """A server without keys, with a rollout, a shadow, a watch, a schedule, alerts and versions."""
    folder = tmp_path_factory.mktemp("steering")
    rows = [{"input": f"First {n}. Then more."} for n in range(5)]
    (folder / "d.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
evaluation: {{roots: ["{folder}"]}}
datasets: {{roots: ["{folder}"]}}
providers:
  baseline: {{kind: baseline}}
  refuses: {{kind: compatible, base_url: "http://127.0.0.1:9/v1"}}
routes:
  chat:
    targets:
      - {{model: baseline/echo, weight: 70}}
      - {{model: "refuses/{LONG[:200]}", weight: 0}}
  two: {{targets: [{{model: baseline/echo, weight: 70}}, {{model: baseline/lead-3, weight: 30}}]}}
  bad:
    targets: [{{model: refuses/x}}]
    retries: {{attempts: 1}}
    breaker: {{failures: 1, open: 600}}
  beside:
    targets: [{{model: baseline/echo}}]
    record: full
    share_bodies_with: [baseline]
    shadow: {{targets: [baseline/lead-3], metrics: [length]}}
watches:
  steady: {{target: baseline/echo, compare: text, prompts: ["One. Two."], cron: "0 0 1 1 *",
           reference_probes: 6}}
schedules:
  nightly:
    run: {{dataset: "{folder}/d.jsonl", routes: [two], metrics: [length]}}
    cron: "0 0 1 1 *"
    gates: ["words >= 1", "words >= 1000"]
alerts: {{every_seconds: 1, rules: {{broken: {{subject: breaker}}}}}}
"""
    with gateway(config) as url, httpx.Client(base_url=url, timeout=60) as http:
        body = {"model": "bad", "messages": [{"role": "user", "content": "x"}]}
        http.post("/v1/chat/completions", json=body)
        for name in ("two", "beside"):
            http.post("/v1/chat/completions", json=body | {"model": name})
        reason = f"{ATTACK} {RIGHT_TO_LEFT} {LONG}"
        begun = http.post(
            "/routes/chat/rollout",
            json={"candidate": "baseline/lead-3", "reason": reason[:2000], "force": True},
        )
        assert begun.status_code == 201, begun.text
        route = http.get("/routes/two").json()["route"] | {"traffic_days": 7}
        http.put("/routes/two", json=route, params={"reason": reason[:2000]}).raise_for_status()
        for _ in range(6):
            http.post("/watches/steady/probe").raise_for_status()
        http.post("/schedules/nightly/run", json={}).raise_for_status()
        while http.get("/schedules/nightly").json()["schedule"]["running"]:
            pass
        while not (alerts := http.get("/alerts").json()["data"]):
            pass
        yield url, begun.json()["id"], alerts[0]["id"]


@pytest.fixture
def pages(steered):
    _, rollout, alert = steered
    return (
        "/routes", "/routes/two", "/routes/chat", "/routes/two/versions?version=2", "/rollouts",
        f"/rollouts/{rollout}", "/routes/two/rollout", "/shadows", "/routes/beside/shadow",
        "/watches", "/watches/steady", "/schedules", "/schedules/nightly", "/alerts",
        f"/alerts/{alert}",
    )  # fmt: skip


@pytest.fixture
def open_tab(chromium):
    """Opens tabs of a browser; keeps what their consoles say."""
    contexts = []

    def opened(**options):
        contexts.append(chromium.new_context(**options))
        tab = contexts[-1].new_page()
        tab.complaints = []
        tab.on("console", lambda message: tab.complaints.append(message.text))
        tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.on("dialog", lambda dialog: dialog.accept())
        return tab

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("kind", ["light", "dark", "360 px", "2560 px"])
def test_pages_fit_and_pass_axe(steered, pages, open_tab, kind):
    width = {"360 px": 360, "2560 px": 2560}.get(kind, 1280)
    tab = open_tab(
        viewport={"width": width, "height": 800},
        color_scheme="dark" if kind == "dark" else "light",
    )
    # All of them where they look most different; what has colours and plots elsewhere.
    chosen = pages if kind in ("light", "360 px") else [pages[1], pages[5], pages[10], pages[12]]
    for path in chosen:
        tab.goto(steered[0] + path)
        assert "taken" not in tab.title()
        check_width(tab)
        # What is folded is looked at, too.
        tab.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
        check_axe(tab)
    assert tab.complaints == []


def test_pages_read_and_forms_work_without_javascript(steered, pages, open_tab):
    tab = open_tab(java_script_enabled=False)
    for path in pages:
        tab.goto(steered[0] + path)
        expect(tab.locator("h1")).to_be_visible()
    tab.goto(f"{steered[0]}/routes/two")
    tab.get_by_label("baseline/lead-3").fill("31")
    tab.get_by_role("button", name="Save").first.click()
    expect(tab.get_by_label("baseline/lead-3")).to_have_value("31")
    expect(tab).to_have_url(f"{steered[0]}/routes/two")


def test_weights_are_changed_with_the_keyboard_alone(steered, open_tab):
    tab = open_tab()
    tab.goto(f"{steered[0]}/routes/two")
    for _ in range(60):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.name") == "weight.0":
            break
    tab.keyboard.type("20")
    tab.keyboard.press("Enter")
    # The first button of the form shows the effect; nothing is saved.
    expect(tab.get_by_text("What this would bring")).to_be_visible()
    expect(tab).to_have_url(f"{steered[0]}/routes/two")
    expect(tab.get_by_label("baseline/echo")).to_have_value("20")
    while tab.evaluate("document.activeElement.value") != "weights save":
        tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    expect(tab).to_have_url(f"{steered[0]}/routes/two")
    expect(tab.get_by_text("What this would bring")).to_be_hidden()
    expect(tab.get_by_label("baseline/echo")).to_have_value("20")


def test_of_two_tabs_the_second_shows_the_change_and_loses_nothing(steered, open_tab):
    first, second = open_tab(), open_tab()
    for tab in (first, second):
        tab.goto(f"{steered[0]}/routes/two")
    first.get_by_label("baseline/echo").fill("40")
    first.get_by_role("button", name="Save").first.click()
    expect(first).to_have_url(f"{steered[0]}/routes/two")
    second.get_by_label("baseline/echo").fill("50")
    second.get_by_role("button", name="Save").first.click()
    expect(second.get_by_role("alert")).to_contain_text("was changed")
    expect(second.get_by_label("baseline/echo")).to_have_value("50")
    second.get_by_role("button", name="Save").first.click()
    expect(second.get_by_role("alert")).to_be_hidden()
    first.goto(f"{steered[0]}/routes/two")
    expect(first.get_by_label("baseline/echo")).to_have_value("50")


def test_a_decision_in_one_tab_is_seen_in_another(steered, open_tab):
    url, rollout, _ = steered
    watching, deciding = open_tab(), open_tab()
    for tab in (watching, deciding):
        tab.goto(f"{url}/rollouts/{rollout}")
    expect(watching.locator(".cards strong").first).to_have_text(re.compile("running|holding"))
    # Nothing has to be typed to stop it.
    deciding.get_by_role("button", name="Pause").click()
    expect(deciding.get_by_role("button", name="Resume")).to_be_visible()
    expect(watching.locator(".cards strong").first).to_have_text("paused", timeout=60_000)
