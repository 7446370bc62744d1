"""What the tests of pages in a browser have in common."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

ATTACK = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"
LONG = "x" * 300
RIGHT_TO_LEFT = "\u202e\u0645\u0631\u062d\u0628\u0627"


def sign_in(tab: Page, url: str, key: str) -> None:
    """Sign in with a key, as a person does; ends on the runs."""
    tab.goto(f"{url}/runs")
    tab.get_by_label("Key").fill(key)
    tab.keyboard.press("Enter")
    expect(tab).to_have_url(f"{url}/runs")


def check_axe(tab: Page) -> None:
    """Check that axe, a script, finds no fault in what a tab shows."""
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    result = Axe().run(tab, options={"runOnly": rules})
    assert result.violations_count == 0, f"{tab.url}: {result.generate_report()}"


def check_width(tab: Page) -> None:
    """Check that nothing makes the page wider than its tab."""
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert tab.evaluate(overflow) <= 0, tab.url


def check_plots(tab: Page) -> None:
    """Check that no text of a picture is smaller than 11 px as it is shown."""
    sizes = tab.evaluate(
        """[...document.querySelectorAll("svg text")].map(
            text => parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a)"""
    )
    assert min(sizes, default=11.0) > 10.9, tab.url


def check_menu(tab: Page) -> None:
    """Check that the menu is one line, of which the page's own entry is in sight."""
    tops = tab.evaluate(
        """[...document.querySelectorAll("header nav a")].map(
            link => Math.round(link.getBoundingClientRect().top))"""
    )
    assert len(set(tops)) <= 1, tab.url
    seen = tab.evaluate(
        """[...document.querySelectorAll("header [aria-current]")].every(link => {
            const place = link.getBoundingClientRect();
            return place.left >= 0 && place.right <= innerWidth; })"""
    )
    assert seen, tab.url
