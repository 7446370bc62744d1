"""The pages of keys in a browser: one is created, copied and revoked, also by keyboard alone."""

from __future__ import annotations

import httpx
import pytest
from playwright.sync_api import expect
from web_pages import check_axe, check_width, sign_in


@pytest.fixture(params=["light 1280", "dark 360", "no JavaScript"])
def admin(request, chromium, world):
    """A tab where an administrator is signed in."""
    context = chromium.new_context(
        viewport={"width": 360 if "360" in request.param else 1280, "height": 800},
        color_scheme="dark" if "dark" in request.param else "light",
        java_script_enabled=request.param != "no JavaScript",
        permissions=["clipboard-read", "clipboard-write"],
    )
    tab = context.new_page()
    url, keys = world
    sign_in(tab, url, keys["admin"])
    yield tab, url, request.param
    context.close()


def check_with_axe(tab, kind):
    if kind != "no JavaScript":
        check_axe(tab)
        check_width(tab)


def test_a_key_is_created_used_and_revoked(admin):
    tab, url, kind = admin
    name = f"app-{kind.replace(' ', '-')}"
    tab.goto(f"{url}/keys")
    # By keyboard alone.
    tab.locator("details summary").first.focus()
    tab.keyboard.press("Enter")
    check_with_axe(tab, kind)
    tab.get_by_label("Name", exact=True).focus()
    tab.keyboard.type("not a name")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("alert")).to_contain_text("a key's name has")
    field = tab.get_by_label("Name", exact=True)
    expect(field).to_have_value("not a name")
    check_with_axe(tab, kind)
    field.fill(name)
    tab.get_by_label("Budget in US dollars").fill("2.5")
    tab.get_by_role("button", name="Create the key").press("Enter")
    secret = tab.locator("#secret")
    expect(secret).to_be_visible()
    key = secret.inner_text()
    assert key not in tab.url
    headers = {"authorization": f"Bearer {key}"}
    assert httpx.get(f"{url}/v1/models", headers=headers).status_code == 200
    check_with_axe(tab, kind)
    copy = tab.get_by_role("button", name="Copy")
    if kind == "no JavaScript":
        expect(copy).to_be_hidden()
    else:
        copy.press("Enter")
        expect(tab.get_by_role("button", name="Copied")).to_be_visible()
        assert tab.evaluate("navigator.clipboard.readText()") == key
    # Loaded again, the page has it no more, and nothing is created twice.
    tab.goto(tab.url)
    expect(tab.locator("#secret")).to_have_count(0)
    tab.get_by_role("link", name=name).click()
    expect(tab.get_by_role("heading", name=f"Key {name}")).to_be_visible()
    if kind == "no JavaScript":
        tab.get_by_role("link", name="Last 24 hours").click()
    expect(tab.get_by_role("img", name="Requests of the last 24 hours")).to_be_visible()
    check_with_axe(tab, kind)
    questions = []
    tab.on("dialog", lambda dialog: (questions.append(dialog.message), dialog.accept()))
    tab.get_by_role("button", name=f"Revoke {name}").press("Enter")
    expect(tab).to_have_url(f"{url}/keys")
    assert questions == ([] if kind == "no JavaScript" else [f"Revoke the key {name}?"])
    assert httpx.get(f"{url}/v1/models", headers=headers).status_code == 401
