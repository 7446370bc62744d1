"""The page of a route: what it shows, what a change would bring, and that no change is lost."""

from __future__ import annotations

import html
import re

import httpx
import pytest
from page_elements import BROWSER, Elements, check_policy, text_of
from servers import client_of, gateway
from stores import add_keys

ATTACK = "<script>alert(1)</script>"
CHAT = """{
  targets: [{model: baseline/echo, weight: 70}, {model: baseline/lead-3, weight: 30}],
  fallback: [baseline/lead-1], retries: {attempts: 2}}"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("routes")
    keys = add_keys(folder / "e.db", "admin", "viewer", "reviewer")
    config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
prices: {{baseline/echo: {{input: 1, output: 1}}, baseline/lead-3: {{input: 1, output: 1}}}}
routes: {{chat: {CHAT}, busy: {{targets: [{{model: baseline/echo}}], strategy: least_busy}}}}
"""
    with gateway(config) as url:
        yield url, keys


@pytest.fixture
def browser(world):
    """A browser of an administrator; the routes are the config file's again afterwards."""
    url, keys = world
    with client_of(url, keys["admin"], BROWSER) as http:
        yield http
        for name in ("chat", "busy"):
            http.delete(f"/routes/{name}")


def as_json(browser, path):
    return browser.get(path, headers={"accept": "application/json"}).json()


def form(browser, name="chat", **fields):
    """Return the fields of the form of weights as the page has it, some of them changed."""
    text = browser.get(f"/routes/{name}").text
    inputs = [each for tag, each in Elements(text).elements if tag == "input" and each.get("name")]
    shown = {}
    for each in inputs:
        shown.setdefault(each["name"], each.get("value", ""))
    return shown | fields


def send(browser, name="chat", **fields):
    return browser.post(f"/pages/routes/{name}", data=form(browser, name, **fields))


def weights(browser, name="chat"):
    return [t["weight"] for t in as_json(browser, f"/routes/{name}")["route"]["targets"]]


def test_a_page_shows_what_a_route_does_now_and_did_lately(browser):
    for n in range(20):
        message = {"role": "user", "content": f"One {n}. Two."}
        body = {"model": "chat", "messages": [message], "user": str(n)}
        assert browser.post("/v1/chat/completions", json=body).status_code == 200
    answer = browser.get("/routes/chat")
    while "No request in the last hour" in answer.text:
        answer = browser.get("/routes/chat")
    check_policy(answer)
    shown = text_of(answer.text)
    assert "baseline/echo 70 70.0 % closed 0 0" in shown
    assert "baseline/lead-1 fallback - no request yet" in shown
    assert "retries.attempts 2" in shown
    assert "As the config file has it" in shown
    assert browser.get("/routes/nothing").status_code == 404
    assert "varies" in browser.get("/routes/busy").text


def test_the_effect_of_weights_is_shown_and_nothing_is_saved(browser):
    answer = send(browser, **{"weight.0": "10", "do": "weights preview"})
    check_policy(answer)
    shown = text_of(answer.text)
    assert answer.status_code == 200
    assert answer.headers["hx-push-url"] == "false"
    assert "baseline/echo 70.0 % 25.0 %" in shown
    assert "baseline/lead-3 30.0 % 75.0 %" in shown
    # Twenty requests are too few for an interval, and the page says so.
    assert shown.count("cannot be said") == 1
    assert "Failed requests, of 1,000 0.0 (at most " in shown
    assert 'name="weight.0" inputmode="decimal" autocomplete="off" value="10"' in answer.text
    assert weights(browser) == [70.0, 30.0]


def test_what_cannot_be_estimated_says_why(browser):
    shown = text_of(send(browser, "busy", do="weights preview").text)
    assert "least_busy chooses by more than the route says" in shown


def test_saved_weights_are_a_version_with_its_reason_that_can_be_gone_back_to(browser):
    answer = send(browser, **{"weight.0": "10", "do": "weights save", "reason": ATTACK})
    assert (answer.status_code, answer.headers["location"]) == (303, "/routes/chat")
    assert weights(browser) == [10.0, 30.0]
    newest, before = as_json(browser, "/routes/chat/versions")["data"][:2]
    assert newest["reason"] == ATTACK
    assert newest["actor"].startswith("key admin")
    page = browser.get(f"/routes/chat/versions?version={newest['number']}")
    check_policy(page)
    assert ATTACK not in page.text
    assert html.escape(ATTACK) in page.text
    assert "target baseline/echo.weight 70 10" in text_of(page.text)
    assert "What version" in text_of(page.text)
    page = browser.get(f"/routes/chat/versions?version={before['number']}")
    change = "target baseline/echo.weight 10 70"
    assert f"Now (version {newest['number']}) Version {before['number']} {change}" in text_of(
        page.text
    )
    assert " null" not in text_of(page.text)
    # The list leads back, too, but not to what is now.
    assert page.text.count(f'aria-label="Go back to version {before["number"]}"') == 1
    assert f'aria-label="Go back to version {newest["number"]}"' not in page.text
    fields = {
        each["name"]: each.get("value", "")
        for tag, each in reversed(Elements(page.text).elements)
        if tag == "input" and each.get("name")
    }
    answer = browser.post("/pages/routes/chat/versions", data=fields)
    assert answer.status_code == 303
    assert weights(browser) == [70.0, 30.0]
    newest = as_json(browser, "/routes/chat/versions")["data"][0]
    assert newest["reason"] == f"back to version {before['number']}"
    for number in ("0", "x", "99999"):
        assert browser.post(
            "/pages/routes/chat/versions", data=fields | {"number": number}
        ).status_code in (400, 404)


def test_another_change_is_reported_and_what_was_typed_stays(browser):
    typed = form(browser, **{"weight.0": "11", "do": "weights save"})
    written = {"do": "document save", "document": "targets: [{model: baseline/echo}]"}
    document = form(browser) | written
    browser.put("/routes/chat", json={"targets": [{"model": "baseline/echo"},
                                                  {"model": "baseline/lead-3"}]})  # fmt: skip
    answer = browser.post("/pages/routes/chat", data=typed)
    assert answer.status_code == 409
    assert "was changed by key admin" in text_of(answer.text)
    assert 'value="11"' in answer.text
    assert weights(browser) == [1.0, 1.0]
    answer = browser.post("/pages/routes/chat", data=document)
    assert answer.status_code == 409
    assert "targets: [{model: baseline/echo}]</textarea>" in answer.text
    # The form has the version of now, so that saving again is meant.
    version = re.search(r'name="version" value="(\w+)"', answer.text)[1]
    assert browser.post("/pages/routes/chat", data=typed | {"version": version}).status_code == 303
    assert weights(browser) == [11.0, 30.0]


def test_a_mistake_is_named_at_its_field_and_nothing_typed_is_lost(browser):
    for wrong in ("", "x", "-1", "nan", "1e999"):
        answer = send(browser, **{"weight.1": wrong, "do": "weights save"})
        assert answer.status_code == 400
        assert "The weight of baseline/lead-3 is a number from 0 on." in text_of(answer.text)
        [field] = [each for _, each in Elements(answer.text).elements if "aria-invalid" in each]
        assert field["name"] == "weight.1"
    answer = send(browser, **{"weight.0": "0", "weight.1": "0", "do": "weights save"})
    assert (answer.status_code, "every weight is 0" in answer.text) == (400, True)
    for text, message in (
        ("targets: [{model: baseline/echo}]\nretry: 3", "Did you mean"),
        ("targets: [{model: nothing/x}]", "no provider"),
        ("targets: {", "not valid YAML"),
        ("[]", "a route must be an object"),
        ("", "must be an object"),
    ):
        answer = send(browser, do="document save", document=text)
        assert answer.status_code == 400
        assert message in text_of(answer.text)
        assert f"{text}</textarea>" in answer.text
    assert weights(browser) == [70.0, 30.0]


def test_a_document_is_saved_and_dropped_again(browser):
    document = "targets:\r\n- model: baseline/lead-3\r\n  weight: 2\r\n"
    shown = text_of(send(browser, do="document preview", document=document).text)
    assert "baseline/lead-3 30.0 % 100.0 %" in shown
    assert send(browser, do="document save", document=document).status_code == 303
    page = browser.get("/routes/chat")
    assert "Set at run time" in page.text
    assert "What else is set" not in page.text
    assert "Drop what was set at run time" in page.text
    answer = send(browser, do="undo", version="0" * 16)
    assert answer.status_code == 409
    assert send(browser, do="undo").status_code == 303
    assert weights(browser) == [70.0, 30.0]


def test_a_viewer_sees_it_all_and_changes_nothing(world):
    url, keys = world
    for role, status in (("viewer", 200), ("reviewer", 403)):
        headers = BROWSER | {"authorization": f"Bearer {keys[role]}"}
        for path in ("/routes/chat", "/routes/chat/versions"):
            page = httpx.get(url + path, headers=headers)
            assert page.status_code == status
            assert "<form method" not in page.text
        for path in ("/pages/routes/chat", "/pages/routes/chat/versions"):
            sent = httpx.post(url + path, headers=headers, data={"do": "undo", "number": "1"})
            assert sent.status_code == 403


def test_the_health_of_targets_is_sent_when_it_changes(browser):
    with browser.stream("GET", "/pages/live/routes/chat") as stream:
        lines = stream.iter_lines()
        assert "baseline/echo" in next(line for line in lines if "baseline/echo" in line)
    assert browser.get("/pages/live/routes/nothing").status_code == 404
