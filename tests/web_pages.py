"""What the tests of pages in a browser have in common."""

from __future__ import annotations

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
