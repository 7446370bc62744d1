"""The pages in a real browser: nothing is blocked, nothing overflows, and axe finds no fault.

Debian's Chromium; `make test-web`.
"""

from __future__ import annotations

import httpx
import pytest
from playwright.sync_api import expect
from web_pages import ATTACK, LONG, check_axe, check_menu, check_plots, check_width, sign_in

RUN = "/runs/{run}"
SAMPLES, SAMPLE, COMPARE = f"{RUN}/samples?sort=-gain", f"{RUN}/samples/2?a=s", "/compare?a={run}"
PAGES = (
    "/",
    "/playground",
    "/routes",
    "/runs",
    "/runs/new",
    RUN,
    f"{RUN}?column=topic",
    f"{RUN}/log",
    SAMPLES,
    SAMPLE,
    COMPARE,
    "/experiments",
    "/datasets",
    "/login",
    "/nothing",
)


def test_pages_fit_load_nothing_from_elsewhere_and_nothing_of_them_is_blocked(tab, world):
    url, keys = world
    for path in PAGES:
        tab.goto(url + path.format(run=keys["run"]))
        assert tab.title() != "taken"
        if tab.context.browser and tab.evaluate("true"):
            check_width(tab)
            check_plots(tab)
            check_menu(tab)
    blocked = [text for text in tab.complaints if "404" not in text]
    assert blocked == []
    assert {address.startswith(url) for address in tab.foreign} == {True}


def test_pages_pass_axe(tab, world, request):
    if "no JavaScript" in request.node.name:
        pytest.skip("axe is a script")
    url, keys = world
    for path in PAGES:
        tab.goto(url + path.format(run=keys["run"]))
        check_axe(tab)


def test_a_table_is_sorted_filtered_and_paged(tab, world):
    url, _ = world
    tab.goto(f"{url}/runs")
    expect(tab.locator("tbody tr")).to_have_count(100)
    tab.get_by_role("link", name="Next page").click()
    expect(tab.locator("tbody tr")).to_have_count(51)
    tab.get_by_role("link", name="Created (UTC)").click()
    expect(tab.locator("th[aria-sort=ascending]")).to_have_count(1)
    expect(tab.locator("tbody tr").first).to_contain_text(ATTACK)
    tab.get_by_label("Experiment").fill("e1")
    tab.get_by_role("button", name="Filter").click()
    expect(tab.locator("tbody tr")).to_have_count(50)
    expect(tab.locator("tbody tr").first).to_contain_text(LONG)
    tab.get_by_label("Experiment").fill("none")
    tab.get_by_role("button", name="Filter").click()
    expect(tab.get_by_text("No run is left that matches")).to_be_visible()


def test_a_score_of_a_run_is_chosen_and_its_numbers_are_shown(tab, world):
    url, keys = world
    tab.goto(url + RUN.format(run=keys["run"]))
    picture = tab.get_by_role("img", name="rouge1 by route", exact=True)
    expect(picture).to_be_visible()
    tab.get_by_label("Score in the plots").select_option("exact_match")
    tab.get_by_role("button", name="Show").click()
    expect(tab).to_have_url(f"{url}{RUN.format(run=keys['run'])}?output=exact_match")
    expect(tab.get_by_role("img", name="exact_match by route", exact=True)).to_be_visible()
    numbers = tab.get_by_role("region", name="Numbers: exact_match by route", exact=True)
    expect(numbers).to_be_hidden()
    tab.locator("figure summary").first.focus()
    tab.keyboard.press("Enter")
    expect(numbers).to_be_visible()
    expect(numbers.get_by_role("rowheader")).to_have_count(4)
    # Its colours are those of the stylesheet, in either scheme.
    if tab.evaluate("true"):
        dark = tab.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
        ink = tab.locator(".plot-label").first.evaluate("e => getComputedStyle(e).fill")
        assert ink == ("rgb(236, 236, 236)" if dark else "rgb(27, 27, 27)")


def test_the_keyboard_alone_leads_to_the_content_and_out_again(tab, world):
    url, _ = world
    tab.goto(f"{url}/runs")
    tab.keyboard.press("Tab")
    expect(tab.get_by_role("link", name="Skip to the content")).to_be_focused()
    tab.keyboard.press("Enter")
    assert tab.url.endswith("#content")
    tab.keyboard.press("Tab")
    expect(tab.get_by_label("State")).to_be_focused()
    tab.get_by_role("button", name="Sign out").focus()
    tab.keyboard.press("Enter")
    expect(tab).to_have_url(f"{url}/login")
    tab.goto(f"{url}/routes")
    expect(tab).to_have_url(f"{url}/login?next=%2Froutes")


def test_htmx_with_its_extension_runs_under_the_policy_and_not_what_a_text_says(chromium, world):
    """A page of ours that loads the vendored scripts: no inline style, no eval."""
    url, keys = world
    context = chromium.new_context()
    tab = context.new_page()
    complaints = []
    tab.on("console", lambda message: complaints.append(message.text))
    sign_in(tab, url, keys["admin"])
    version = tab.locator("link[rel=stylesheet]").first.get_attribute("href").split("/")[2]
    for name in ("htmx.min.js", "hx-sse.min.js", "uPlot.iife.min.js"):
        tab.add_script_tag(url=f"{url}/static/{version}/{name}")
    assert tab.evaluate("[typeof htmx, typeof uPlot]") == ["object", "function"]
    assert tab.evaluate("htmx.config.includeIndicatorCSS") is False
    assert tab.evaluate("document.adoptedStyleSheets.length") == 0
    assert complaints == []
    # What a text could bring along, if it were markup.
    tab.evaluate(
        """() => {
        const div = document.createElement('div');
        div.setAttribute('hx-on:click', "document.title = 'taken'");
        div.textContent = 'probe';
        document.querySelector('main').prepend(div); htmx.process(div);
        }"""
    )
    # Not from within `evaluate`, where the browser's developer tools allow what the policy forbids.
    with tab.expect_event("console") as refused:
        tab.get_by_text("probe", exact=True).click()
    assert "default-src" in refused.value.text
    assert tab.title() != "taken"
    assert httpx.get(f"{url}/static/{version}/htmx.min.js").status_code == 200
    context.close()
