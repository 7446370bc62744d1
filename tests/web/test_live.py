"""Parts of pages that go on by themselves, a server that is lost, and what one key does."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import expect
from servers import client_of
from web_pages import sign_in


@pytest.fixture
def watched(chromium, world):
    """The home page, open for an administrator, and a client of the same server."""
    url, keys = world
    context = chromium.new_context()
    tab = context.new_page()
    sign_in(tab, url, keys["admin"])
    tab.goto(url)
    with client_of(url, keys["admin"]) as http:
        yield tab, http
    context.close()


def ask(http):
    messages = [{"role": "user", "content": "One. Two."}]
    body = {"model": "r", "messages": messages}
    assert http.post("/v1/chat/completions", json=body).status_code == 200


def test_the_home_page_counts_requests_as_they_come(watched):
    tab, http = watched
    before = int(tab.locator(".cards strong").first.inner_text())
    ask(http)
    expect(tab.locator(".cards strong").first).to_have_text(str(before + 1))


def test_a_page_follows_what_goes_on_however_late_its_scripts_come(watched):
    tab, http = watched

    def late(route):
        # Longer than htmx waits before it begins.
        time.sleep(0.5)
        route.continue_()

    tab.route("**/hx-sse.min.js", late)
    tab.reload()
    before = int(tab.locator(".cards strong").first.inner_text())
    ask(http)
    expect(tab.locator(".cards strong").first).to_have_text(str(before + 1))


def test_a_page_says_that_its_server_is_lost_until_it_is_back(watched):
    tab, _ = watched
    request = "htmx.ajax('GET', '/runs', {target: '#connection', swap: 'none'})"
    expect(tab.locator("#connection")).to_be_hidden()
    tab.context.set_offline(True)
    tab.evaluate(request)
    expect(tab.locator("#connection")).to_be_visible()
    tab.context.set_offline(False)
    tab.evaluate(request)
    expect(tab.locator("#connection")).to_be_hidden()
