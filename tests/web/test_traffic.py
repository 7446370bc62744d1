"""Requests and the review queue in a real browser: followed live, and reviewed by keyboard."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect
from servers import client_of
from web_pages import ATTACK, RIGHT_TO_LEFT, check_axe, check_width, sign_in

TEXTS = (f"{ATTACK} mail ann@example.org", f"{RIGHT_TO_LEFT} bob@example.org", "Third of the rows.")


@pytest.fixture(scope="module")
def requests(world):
    """Records of two requests, and rows of the dataset `web` that wait for a review."""
    url, keys = world
    with client_of(url, keys["admin"]) as http:
        records = [ask(http, text) for text in TEXTS[:2]]
        rows = [{"messages": [{"role": "user", "content": text}]} for text in TEXTS]
        added = http.post("/review", json={"rows": rows, "dataset": "web"})
        assert added.status_code == 201, added.text
        for record in records:
            while http.get(f"/traffic/{record}").status_code == 404:
                pass
        yield records, [arrival["id"] for arrival in added.json()["data"]], http


def ask(http, text):
    body = {"model": "r", "messages": [{"role": "user", "content": text}]}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    return answer.headers["x-evalrouter-record"]


@pytest.fixture
def reviewer(chromium, world):
    """A tab where an administrator is signed in."""
    url, keys = world
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    tab = context.new_page()
    tab.complaints = []
    tab.on("console", lambda message: tab.complaints.append(message.text))
    tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
    sign_in(tab, url, keys["admin"])
    yield tab
    context.close()


def test_pages_fit_pass_axe_and_run_no_text(tab, world, requests, request):
    url, _ = world
    records, rows, _ = requests
    for path in (
        "/traffic",
        "/traffic/totals?since=1h&by=route",
        f"/traffic/{records[0]}",
        "/feedback",
        "/review?dataset=web&state=all",
        f"/review/{rows[0]}",
        f"/review/{rows[1]}",
    ):
        tab.goto(url + path)
        assert tab.title() != "taken"
        expect(tab.locator("h1")).to_be_visible()
        if "no JavaScript" in request.node.name:
            continue
        check_width(tab)
        check_axe(tab)
    assert tab.complaints == []
    assert {address.startswith(url) for address in tab.foreign} == {True}


def test_requests_over_time_are_drawn_from_the_numbers_of_their_table(reviewer, world, requests):
    url, _ = world
    reviewer.goto(f"{url}/traffic")
    chart = reviewer.locator("[data-chart]")
    expect(chart.locator("canvas")).to_be_visible()
    expect(chart).to_have_attribute(
        "aria-label", re.compile(r"^\d+ requests over time, \d+ failed")
    )
    reviewer.locator("summary", has_text="numbers").click()
    expect(reviewer.locator("#over-time-numbers tbody tr")).to_have_count(30)
    # The legend has sums where no bar is pointed at.
    expect(chart.locator(".u-legend")).to_contain_text(re.compile(r"Requests:?\s*\d"))
    expect(chart.locator(".u-legend")).not_to_contain_text("--")
    expect(reviewer).to_have_title(re.compile("^Traffic"))


def test_filters_are_folded_where_there_is_little_room(reviewer, world, requests):
    url, _ = world
    reviewer.goto(f"{url}/traffic")
    expect(reviewer.get_by_label("Route or model")).to_be_visible()
    reviewer.set_viewport_size({"width": 360, "height": 800})
    expect(reviewer.get_by_label("Route or model")).to_be_hidden()
    reviewer.locator("summary", has_text="Filter").press("Enter")
    reviewer.get_by_label("Route or model").fill("r")
    reviewer.get_by_role("button", name="Filter").press("Enter")
    expect(reviewer).to_have_url(re.compile("route=r"))
    expect(reviewer.get_by_label("Route or model")).to_be_visible()


def test_requests_are_followed_and_wait_while_someone_reads_further_down(reviewer, world, requests):
    url, _ = world
    *_, http = requests
    reviewer.goto(f"{url}/traffic?route=r")
    reviewer.keyboard.press("l")
    expect(reviewer).to_have_url(re.compile("live=true"))
    listed = reviewer.get_by_role("region", name="Requests", exact=True).locator("tbody tr")
    record = ask(http, "Followed.")
    expect(listed.first).to_have_attribute("id", record)
    reviewer.locator("summary", has_text="numbers").click()
    drawn = reviewer.locator("[data-chart]").get_attribute("aria-label")
    record = ask(http, "Counted.")
    chart = reviewer.locator("[data-chart]")
    expect(chart).not_to_have_attribute("aria-label", drawn, timeout=15000)
    expect(listed.first).to_have_attribute("id", record)
    expect(reviewer.locator("#over-time-numbers")).to_be_visible()
    # The page has to be long enough for reading further down.
    reviewer.set_viewport_size({"width": 360, "height": 200})
    reviewer.evaluate("window.scrollTo(0, 400)")
    later = ask(http, "Not yet.")
    expect(reviewer.locator("#tail-state")).to_contain_text("Paused while you read")
    expect(listed.first).to_have_attribute("id", record)
    reviewer.evaluate("window.scrollTo(0, 0)")
    expect(listed.first).to_have_attribute("id", later)
    expect(reviewer.locator("#tail-state")).to_contain_text("as they come")


def test_rows_are_reviewed_by_keyboard_alone(reviewer, world, requests):
    url, _ = world
    _, (one, two, three), http = requests
    reviewer.goto(f"{url}/review?dataset=web")
    reviewer.keyboard.press("j")
    expect(reviewer).to_have_url(re.compile(one))
    expect(reviewer.locator("mark").first).to_have_attribute("title", "email: placeholder")
    reviewer.keyboard.press("j")
    expect(reviewer).to_have_url(re.compile(two))
    reviewer.keyboard.press("k")
    expect(reviewer).to_have_url(re.compile(one))
    reviewer.keyboard.press("e")
    reviewer.get_by_role("textbox", name="Reference").fill("First line\nar and j are no keys here")
    reviewer.get_by_role("button", name="Save", exact=True).press("Enter")
    expect(reviewer.get_by_text("version 2")).to_be_visible()
    row = http.get(f"/review/{one}").json()
    assert row["content"]["reference"] == "First line\nar and j are no keys here"
    assert row["content"]["messages"][0]["content"].startswith(ATTACK)
    reviewer.keyboard.press("a")
    expect(reviewer).to_have_url(re.compile(two))
    reviewer.keyboard.press("r")
    expect(reviewer).to_have_url(re.compile(three))
    reviewer.keyboard.press("e")
    reviewer.get_by_role("textbox", name="Reference").fill("Third")
    reviewer.get_by_role("button", name="Save and accept").press("Enter")
    expect(reviewer.get_by_text("No row is left that matches")).to_be_visible()
    states = [http.get(f"/review/{row}").json()["state"] for row in (one, two, three)]
    assert states == ["accepted", "rejected", "accepted"]
    reviewer.goto(f"{url}/review/{two}")
    reviewer.keyboard.press("u")
    expect(reviewer.locator("h1")).to_have_text("Row to review")
    assert reviewer.complaints == []


def test_a_second_reviewer_keeps_what_they_typed(reviewer, world, requests):
    url, _ = world
    *_, http = requests
    added = http.post(
        "/review",
        json={"rows": [{"messages": [{"role": "user", "content": "Both read it."}]}]},
    )
    row = added.json()["data"][0]["id"]
    reviewer.goto(f"{url}/review/{row}")
    reviewer.keyboard.press("e")
    reviewer.get_by_role("textbox", name="Reference").fill("typed for long")
    assert http.patch(f"/review/{row}", json={"reference": "quicker"}).status_code == 200
    reviewer.get_by_role("button", name="Save", exact=True).click()
    expect(reviewer.get_by_role("alert")).to_contain_text("has been changed since version 1")
    expect(reviewer.get_by_role("textbox", name="Reference")).to_have_value("typed for long")
    expect(reviewer.get_by_role("region", name="Reference")).to_have_text("quicker")
    expect(reviewer).to_have_url(f"{url}/review/{row}")


def test_feedback_is_given_on_the_page_of_a_request(reviewer, world, requests):
    url, _ = world
    records, _, http = requests
    reviewer.goto(f"{url}/traffic/{records[0]}")
    reviewer.get_by_label("Your feedback").select_option("number")
    reviewer.get_by_label("Number, words").fill("much")
    reviewer.get_by_role("button", name="Give feedback").click()
    expect(reviewer.get_by_role("alert")).to_have_text("'much' is not a number.")
    reviewer.get_by_label("Number, words").fill("0.5")
    reviewer.get_by_role("button", name="Give feedback").click()
    expect(reviewer.get_by_role("region", name="Feedback thumb")).to_have_text("0.5")
    assert http.get(f"/traffic/{records[0]}").json()["feedback"][0]["mean"] == 0.5
