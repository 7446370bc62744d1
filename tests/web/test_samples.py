"""A run's samples and comparisons in a real browser: by keyboard, with notes, without scripts."""

from __future__ import annotations

import re

from playwright.sync_api import expect
from web_pages import sign_in


def test_samples_are_stepped_through_by_keyboard_in_the_list_s_order(tab, world):
    url, keys = world
    tab.goto(f"{url}/runs/{keys['run']}/samples?a=s&b=r")
    tab.get_by_role("link", name="Where A beats B by most").click()
    expect(tab.locator("th[aria-sort=descending]")).to_have_text(re.compile("A better by"))
    shown = tab.locator("tbody tr td:first-child")
    order = [shown.nth(n).inner_text() for n in range(3)]
    tab.locator("tbody tr").first.get_by_role("link").first.click()
    expect(tab.get_by_role("heading", level=1)).to_have_text(f"Sample {order[0]} of 30")
    with_scripts = tab.evaluate("typeof htmx") == "object"
    for key, position in (("j", order[1]), ("j", order[2]), ("k", order[1])):
        if with_scripts:
            tab.keyboard.press(key)
        else:
            tab.locator(f"[data-key={key}]").click()
        expect(tab.get_by_role("heading", level=1)).to_have_text(f"Sample {position} of 30")
    expect(tab.locator("ins, del").first).to_be_visible()


def test_a_label_is_written_by_one_and_seen_by_others(chromium, world):
    url, keys = world
    contexts = [chromium.new_context() for _ in range(2)]
    admin, viewer = [context.new_page() for context in contexts]
    sign_in(admin, url, keys["admin"])
    sign_in(viewer, url, keys["viewer"])
    page = f"{url}/runs/{keys['run']}/samples/3"
    complaints = []
    admin.on("console", lambda message: complaints.append(message.text))
    admin.goto(page)
    # A field that somebody made taller: its style is not copied, which the policy would refuse.
    admin.evaluate("document.getElementById('note').style.height = '200px'")
    admin.keyboard.press("l")
    expect(admin.get_by_label("Your label")).to_be_focused()
    admin.keyboard.type("too long")
    admin.get_by_label("Your note").fill("<b>The</b> second sentence\nis not in the text.")
    admin.keyboard.press("Tab")
    admin.keyboard.press("Enter")
    expect(admin.locator(".notes")).to_contain_text("<b>The</b> second sentence")
    assert complaints == []
    viewer.goto(page)
    expect(viewer.locator(".notes")).to_contain_text("too long")
    expect(viewer.locator(".notes")).to_contain_text("admin,")
    expect(viewer.get_by_label("Your note")).to_have_count(0)
    viewer.goto(f"{url}/runs/{keys['run']}/samples?noted=true")
    expect(viewer.locator("tbody tr")).to_have_count(1)
    for context in contexts:
        context.close()


def test_routes_are_chosen_and_compared_and_lead_to_their_samples(tab, world):
    url, keys = world
    tab.goto(f"{url}/compare?a={keys['run']}")
    tab.get_by_label("Route").first.select_option("s")
    tab.get_by_label("Route").last.select_option("r")
    tab.get_by_role("button", name="Compare").click()
    expect(tab.get_by_role("img", name="rouge1 of each sample: s less r")).to_be_visible()
    expect(tab.locator("tbody tr[aria-current]")).to_have_count(1)
    tab.get_by_role("link", name=re.compile("Show exact_match of s")).click()
    expect(tab.get_by_text(re.compile("s is .* r in exact_match"))).to_be_visible()
    tab.get_by_role("link", name="All samples, sorted").click()
    expect(tab.locator("tbody tr")).to_have_count(30)
