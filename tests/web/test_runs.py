"""From an empty server to a compared pair of routes, in a browser alone; and steering a run."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect
from servers import gateway
from web_pages import check_axe, check_width

# A machine that does other things as well takes its time.
expect.set_options(timeout=30_000)


@pytest.fixture(params=["light", "dark 360 px"])
def empty(request, chromium, tmp_path):
    """A tab at an empty server, whose model `up/held` never answers its fourth request."""
    config = f"""
storage: {{database: "sqlite:///{tmp_path}/e.db", artifacts: "{tmp_path}/artifacts"}}
providers:
  baseline: {{kind: baseline}}
  up: {{kind: scripted, script: {{held: [{{times: 3}}, {{times: 1, delay_s: 600}}, {{}}]}}}}
"""
    narrow = "360" in request.param
    context = chromium.new_context(
        viewport={"width": 360 if narrow else 1280, "height": 800},
        color_scheme="dark" if narrow else "light",
    )
    with gateway(config) as url:
        tab = context.new_page()
        tab.complaints = []
        tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.goto(url)
        yield tab
        assert tab.complaints == []
        context.close()


def check(tab):
    """What is shown passes axe and fits."""
    check_axe(tab)
    check_width(tab)


def test_an_empty_server_leads_to_a_compared_pair_without_a_terminal(empty):
    tab = empty
    check(tab)
    tab.get_by_role("link", name="Start a run", exact=True).click()
    tab.get_by_label("Number of samples").fill("many")
    tab.get_by_label("Notes").fill("typed")
    tab.get_by_label("Number of samples").press("Enter")
    # The first mistakes, each at its field; what was typed is still there.
    expect(tab.get_by_role("alert")).to_contain_text("routes: tick at least one")
    expect(tab.get_by_label("Notes")).to_have_value("typed")
    check(tab)
    tab.get_by_label("baseline/lead-1", exact=True).check()
    tab.get_by_label("baseline/lead-3", exact=True).check()
    tab.get_by_label("rouge").check()
    tab.get_by_label("Baseline", exact=True).fill("baseline/lead-1")
    tab.get_by_role("button", name="Estimate").click()
    expect(tab.get_by_label("Number of samples")).to_have_attribute("aria-invalid", "true")
    tab.get_by_label("Number of samples").fill("20")
    tab.get_by_role("button", name="Estimate").click()
    expect(tab.get_by_role("heading", name="What it would take")).to_be_in_viewport()
    expect(tab.get_by_role("region", name="Smallest differences")).to_be_visible()
    assert tab.url.endswith("/runs/new")
    check(tab)
    tab.get_by_role("button", name="Show it as one document").click()
    expect(tab.get_by_label("The run document")).to_have_value(re.compile(r"limit: 20\n"))
    check(tab)
    tab.get_by_role("button", name="Show it in fields").click()
    expect(tab.get_by_label("Number of samples")).to_have_value("20")
    tab.get_by_role("button", name="Start the run").click()
    # Without loading the page again.
    expect(tab.get_by_text("is better than baseline/lead-1 in rouge1")).to_be_visible()
    check(tab)


def test_a_run_is_followed_cancelled_resumed_and_deleted(empty):
    tab = empty
    tab.goto(f"{tab.url}runs/new?route=up/held&route=baseline/lead-3")
    tab.get_by_label("exact_match").check()
    tab.get_by_text("Other keys of the run document").click()
    tab.get_by_label("As YAML or JSON").fill("limits: {concurrency: 2}")
    tab.get_by_role("button", name="Start the run").click()
    expect(tab.get_by_text("This run is running")).to_be_visible()
    tab.evaluate("window.loadedOnce = true")
    # All answers but one, which its model holds back.
    expect(tab.locator("progress")).to_have_attribute("value", "135")
    check(tab)
    tab.on("dialog", lambda dialog: dialog.accept())
    # Without the pointer.
    tab.get_by_role("button", name="Cancel").press("Enter")
    expect(tab.get_by_role("button", name="Pause")).to_be_hidden()
    tab.get_by_text("Resume, score again, extend, delete").click()
    tab.get_by_label("New limit of its cost").fill("-1")
    tab.get_by_role("button", name="Resume").click()
    expect(tab.get_by_role("alert")).to_contain_text("limits.cost_usd")
    expect(tab.get_by_label("New limit of its cost")).to_have_value("-1")
    check(tab)
    tab.get_by_label("New limit of its cost").fill("")
    tab.get_by_role("button", name="Resume").click()
    # Its end comes by itself, with the forms of a run that has stopped.
    expect(tab.get_by_text("Start a run like this one")).to_be_visible()
    assert tab.evaluate("window.loadedOnce") is True
    tab.goto(f"{tab.url}/log")
    expect(tab.get_by_text("completed")).to_be_visible()
    check(tab)
    tab.go_back()
    tab.get_by_text("Score again, extend, delete").click()
    tab.get_by_role("button", name="Delete").click()
    expect(tab.get_by_text("No run yet")).to_be_visible()
    check(tab)
