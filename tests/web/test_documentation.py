"""The documentation of the API in a real browser: operations are shown, and can be tried."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from web_pages import check_width, sign_in


@pytest.fixture
def admin_tab(chromium, world):
    """A tab where an administrator is signed in."""
    url, keys = world
    context = chromium.new_context()
    tab = context.new_page()
    sign_in(tab, url, keys["admin"])
    yield tab
    context.close()


def test_operations_are_shown_and_nothing_is_blocked_or_from_elsewhere(tab, world, request):
    url, _ = world
    tab.goto(f"{url}/docs")
    if "no JavaScript" in request.node.name:
        expect(tab.get_by_text("Where none runs, read OpenAPI as YAML")).to_be_visible()
        return
    operation = tab.get_by_role("button", name="GET /v1/models List routes and models")
    expect(operation).to_be_visible()
    operation.focus()
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("button", name="Try it out")).to_be_visible()
    check_width(tab)
    assert tab.complaints == []
    assert {address.startswith((url, "data:")) for address in tab.foreign} == {True}


def test_what_changes_something_can_be_tried_by_a_session(admin_tab, world):
    url, _ = world
    admin_tab.goto(f"{url}/docs#/alerts/test_receiver")
    operation = admin_tab.locator("[id$=test_receiver]")
    operation.get_by_role("button", name="Try it out").click()
    with admin_tab.expect_response("**/alerts/test") as answered:
        operation.get_by_role("button", name="Execute").click()
    # Without the session's token it would be 403.
    assert answered.value.status == 404
    assert "receiver" in answered.value.text()


def test_the_page_around_the_operations_passes_axe(tab, world, request):
    """Swagger UI itself is as its authors made it."""
    if "no JavaScript" in request.node.name:
        pytest.skip("axe is a script")
    url, _ = world
    tab.goto(f"{url}/docs")
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
    result = Axe().run(tab, context={"exclude": [["#operations"]]}, options=options)
    assert result.violations_count == 0, result.generate_report()
