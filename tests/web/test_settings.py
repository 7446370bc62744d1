"""The pages of settings in a browser: they fit, axe finds no fault, and a provider is examined."""

from __future__ import annotations

from playwright.sync_api import expect
from web_pages import check_axe, check_width, sign_in

PAGES = ("", "/config", "/prices", "/metrics", "/roles", "/providers/baseline")


def test_settings_fit_and_pass_axe(tab, world, request):
    url, _ = world
    for path in PAGES:
        tab.goto(f"{url}/settings{path}")
        expect(tab.get_by_role("navigation", name="Settings")).to_be_visible()
        check_width(tab)
        # Axe is a script of the page.
        if "no JavaScript" not in request.node.name:
            check_axe(tab)
    assert tab.complaints == []


def test_a_provider_is_examined_by_keyboard(chromium, world):
    url, keys = world
    context = chromium.new_context(viewport={"width": 360, "height": 800})
    tab = context.new_page()
    sign_in(tab, url, keys["admin"])
    tab.goto(f"{url}/settings/providers/baseline")
    tab.get_by_label("Model").fill("echo")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("region", name="Checks")).to_be_visible()
    expect(tab).to_have_url(f"{url}/settings/providers/baseline?model=echo")
    check_axe(tab)
    check_width(tab)
    context.close()
