"""The pages of rollouts: started, watched and decided in a browser, by the rules of the API."""

from __future__ import annotations

import html
import re

import pytest
from page_elements import BROWSER, Elements, check_policy, check_sorts, text_of
from servers import client_of, gateway
from stores import add_keys

ATTACK = "<script>alert(1)</script>"
START = {
    "candidate": "baseline/lead-3",
    "steps": "10, 50",
    "step_hours": "1",
    "cycle_hours": "1",
    "reason": ATTACK,
    "force": "yes",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rollouts")
    keys = add_keys(folder / "e.db", "admin", "viewer", "reviewer", "client")
    config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
routes:
  chat: {{targets: [{{model: baseline/echo}}]}}
  other: {{targets: [{{model: baseline/lead-1}}], rollout: {{steps: [5, 20], alpha: 0.1}}}}
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


@pytest.fixture
def rollout(browser):
    """The address of a rollout that has just begun; it is rolled back afterwards."""
    answer = browser.post("/pages/routes/chat/rollout", data=START)
    assert answer.status_code == 303, text_of(answer.text)
    yield answer.headers["location"]
    if {"running", "holding", "paused", "promoted"} & {state_of(browser)}:
        browser.post("/routes/chat/rollout/rollback", json={"reason": "over"})


def state_of(browser):
    accept = {"accept": "application/json"}
    return browser.get("/routes/chat/rollout", headers=accept).json()["rollout"]["state"]


def decision(browser, rollout, act, reason, **changed):
    """Send the form of a rollout's page."""
    page = browser.get(rollout)
    revision = re.search(r'name="revision" value="(\d+)"', page.text)[1]
    fields = {"do": act, "reason": reason, "revision": revision} | changed
    return browser.post(f"/pages{rollout}", data=fields)


def test_a_rollout_is_started_and_shown(browser, rollout):
    page = browser.get(rollout)
    check_policy(page)
    shown = text_of(page.text)
    assert "baseline/lead-3 on chat" in shown
    assert "10 % of the requests to the candidate" in shown
    assert "10 % (now) → 50 %" in shown
    assert "by key admin" in shown
    assert ATTACK not in page.text
    assert html.escape(ATTACK) in page.text
    check_sorts(browser, "/rollouts")
    listed = browser.get("/rollouts", params={"route": "chat", "shown": "active"})
    check_policy(listed)
    assert f'href="{rollout}"' in listed.text
    assert "No such rollout" in browser.get("/rollouts?route=other").text
    assert "A rollout is under way" in browser.get("/routes/chat").text
    started = browser.get("/routes/chat/rollout")
    assert "One is under way" in started.text
    assert f'href="{rollout}"' in started.text
    assert browser.get("/rollouts?export=csv").text.startswith("id,route,candidate")


def test_links_of_alerts_lead_to_the_rollout(browser, rollout):
    answer = browser.get("/routes/chat/rollout", params={"rollout": rollout.rpartition("/")[2]})
    assert (answer.status_code, answer.headers["location"]) == (303, rollout)
    for path in ("/rollouts/nothing", "/routes/chat/rollout?rollout=nothing", "/routes/no/rollout"):
        assert browser.get(path).status_code == 404


def test_people_decide_with_a_reason_about_what_they_have_seen(browser, rollout):
    answer = decision(browser, rollout, "pause", " ")
    assert (answer.status_code, "say why" in answer.text) == (400, True)
    assert decision(browser, rollout, "pause", "slow").status_code == 303
    assert state_of(browser) == "paused"
    page = browser.get(rollout)
    assert "by a person" in text_of(page.text)
    assert "Resume" in page.text
    # A decision comes after the page was loaded.
    answer = decision(browser, rollout, "promote", "as good", revision="1")
    assert answer.status_code == 409
    assert "look at it again" in text_of(answer.text)
    assert reasons(answer.text) == {"reason-stop": "decided by hand", "reason-go": "as good"}
    assert decision(browser, rollout, "resume", "fine").status_code == 303
    assert decision(browser, rollout, "resume", "fine").status_code == 409
    assert decision(browser, rollout, "promote", "as good").status_code == 303
    assert state_of(browser) == "promoted"
    assert "as good" in text_of(browser.get(rollout).text)
    versions = browser.get("/routes/chat/versions?version=2")
    assert "as good" in text_of(versions.text)
    assert "target baseline/lead-3.weight - 1" in text_of(versions.text)
    assert decision(browser, rollout, "rollback", "bad").status_code == 303
    assert state_of(browser) == "rolled_back"
    assert "Decide" not in browser.get(rollout).text


def reasons(page):
    """Return what a rollout's page has in its fields for reasons, all of them required."""
    fields = [each for tag, each in Elements(page).elements if each.get("name") == "reason"]
    assert all("required" in each for each in fields)
    return {each["id"]: each.get("value") for each in fields}


def test_a_candidate_is_stopped_with_the_reason_that_is_filled_in(browser, rollout):
    page = browser.get(rollout).text
    assert page.count("(required;") == 2
    filled = reasons(page)
    assert filled["reason-go"] == ""
    assert decision(browser, rollout, "rollback", filled["reason-stop"]).status_code == 303
    assert state_of(browser) == "rolled_back"


def test_only_the_newest_rollout_is_decided_about(browser, rollout):
    decision(browser, rollout, "rollback", "first")
    browser.post("/pages/routes/chat/rollout", data=START)
    fields = {"do": "pause", "reason": "x", "revision": "1"}
    answer = browser.post(f"/pages{rollout}", data=fields)
    assert (answer.status_code, "is the newest rollout of chat" in answer.text) == (400, True)
    for wrong in ({"do": "explode"}, {"revision": "x"}, {}):
        sent = {} if not wrong else fields | wrong
        assert browser.post(f"/pages{rollout}", data=sent).status_code == 400


@pytest.mark.parametrize(
    ("wrong", "field", "message"),
    [
        ({"steps": "10, x"}, "steps", "Stages: 'x' is no number."),
        ({"steps": "50, 10"}, "steps", "each step must be larger"),
        ({"candidate": "baseline/lead-1"}, "candidate", "its incumbent"),
        ({"candidate": "nothing/x"}, "candidate", "no provider"),
        ({"candidate": ""}, "candidate", "name one"),
        ({"margin": "nan"}, "margin", "is no number"),
        ({"margin": "2", "rest": "signals: []"}, "margin", "have their own margins"),
        ({"step_hours": "-1"}, "step_hours", "step_seconds"),
        ({"rest": "alpha: 3"}, "rest", "alpha"),
        ({"rest": "alhpa: 0.1"}, "rest", "Did you mean"),
        ({"rest": "["}, "", "not valid YAML"),
        ({"rest": "x"}, "rest", "have the form"),
    ],
)
def test_a_mistake_is_named_at_its_field_and_nothing_is_lost(browser, wrong, field, message):
    answer = browser.post("/pages/routes/other/rollout", data=START | wrong)
    assert answer.status_code == 400
    assert message in text_of(answer.text)
    elements = Elements(answer.text).elements
    assert {each.get("name") for _, each in elements if "aria-invalid" in each} == {field} - {""}
    inputs = {each.get("name"): each.get("value") for tag, each in elements if tag == "input"}
    for name in ("candidate", "steps", "reason"):
        assert inputs[name] == (START | wrong)[name]
    assert f"{wrong.get('rest', '')}</textarea>" in answer.text


def test_the_form_has_the_routes_own_settings_and_says_what_its_traffic_cannot_show(browser):
    page = browser.get("/routes/other/rollout")
    assert 'value="5, 20"' in page.text
    answer = browser.post("/pages/routes/other/rollout", data=START | {"force": ""})
    assert answer.status_code == 409
    # What can be done is said in the words of the form.
    [box] = re.findall(r'<label for="force">(.+?)</label>', answer.text)
    assert f"To start it all the same, tick “{html.unescape(box)}” below." in text_of(answer.text)
    assert "--force" not in answer.text
    margin = START | {"margin": "3"}
    begun = browser.post("/pages/routes/other/rollout", data=margin).headers["location"]
    shown = text_of(browser.get(begun).text)
    assert "errors (goal) margin 0.03" in shown
    assert "alpha 0.1" in shown
    browser.post("/routes/other/rollout/rollback", json={"reason": "over"})


def test_roles_see_it_and_only_admins_decide(world, rollout):
    for role in ("viewer", "reviewer"):
        with as_role(world, role) as http:
            for path in ("/rollouts", rollout, "/routes/chat/rollout"):
                page = http.get(path)
                assert page.status_code == 200
                assert '<form method="post" action="/pages' not in page.text
            for path in (f"/pages{rollout}", "/pages/routes/chat/rollout"):
                assert http.post(path, data=START).status_code == 403
    with as_role(world, "client") as http:
        assert http.get(rollout).status_code == 403


def test_how_it_stands_is_sent_when_it_changes(browser, rollout):
    with browser.stream("GET", f"/pages/live{rollout}") as stream:
        lines = stream.iter_lines()
        assert "running" in next(line for line in lines if "<strong>" in line)
        browser.post("/routes/chat/rollout/pause", json={"reason": "live"})
        assert next(line for line in lines if "by a person" in line)
    assert browser.get("/pages/live/rollouts/nothing").status_code == 404


def test_a_signal_says_which_arm_lacks_requests(browser, rollout):
    request = {"model": "chat", "messages": [{"role": "user", "content": "One. Two."}]}
    with browser.stream("GET", f"/pages/live{rollout}") as stream:
        lines = stream.iter_lines()
        browser.post("/v1/chat/completions", json=request)
        # The only request of all lacks the other arm's; which one it was is drawn.
        line = next(line for line in lines if "more requests of" in line)
    assert re.search(r"needs 50 more requests of the (candidate|control)<", line)
