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
