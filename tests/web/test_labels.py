"""Judges and labels in a real browser: answers are scored by keyboard alone, and axe is clean."""

from __future__ import annotations

import json

import httpx
import pytest
from playwright.sync_api import expect
from servers import begun, finished, gateway, scripted
from web_pages import ATTACK, RIGHT_TO_LEFT, check_axe, check_width

MODELS = {
    "echo": [{}],
    "judge": [{"match": "(?s)evaluate:\n.*", "answer": "[RESULT] 4"}],
}


@pytest.fixture(scope="module")
def judged(world, tmp_path_factory):
    """A server with a run that a judge scored; after `world`, as the browser is."""
    folder = tmp_path_factory.mktemp("judged")
    rows = [{"id": f"s{n}", "input": f"{n} {ATTACK} {RIGHT_TO_LEFT}"} for n in range(12)]
    (folder / "d.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with scripted(MODELS) as upstream:
        config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
evaluation: {{roots: ["{folder}"]}}
datasets: {{roots: ["{folder}"]}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}
"""
        with gateway(config) as url, httpx.Client(base_url=url, timeout=60) as http:
            metrics = [{"name": "prometheus", "judge": "up/judge"}]
            document = {"dataset": f"{folder}/d.jsonl", "routes": ["up/echo"], "metrics": metrics}
            run = begun(http, document | {"name": ATTACK})
            finished(http, run)
            yield url, run


@pytest.mark.parametrize("kind", ["light", "dark", "360 px"])
def test_answers_are_scored_skipped_and_taken_back_by_keyboard_alone(chromium, judged, kind):
    url, run = judged
    context = chromium.new_context(
        viewport={"width": 360 if kind == "360 px" else 1280, "height": 800},
        color_scheme="dark" if kind == "dark" else "light",
    )
    tab = context.new_page()
    for path in ("/judges", f"/runs/{run}/labels"):
        tab.goto(url + path)
        check(tab)
    before = len(httpx.get(f"{url}/eval/{run}/labels").json()["data"])
    tab.get_by_role("link", name="Label answers").focus()
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("heading", name="The answer")).to_be_visible()
    check(tab)
    first = tab.locator("section[aria-labelledby=answered]").inner_text()
    tab.keyboard.press("3")
    expect(tab.get_by_text("You gave 3.")).to_be_visible()
    assert tab.locator("section[aria-labelledby=answered]").inner_text() != first
    check(tab)
    tab.keyboard.press("s")
    expect(tab.get_by_text("You gave 3.")).to_have_count(0)
    tab.go_back()
    expect(tab.get_by_text("You gave 3.")).to_be_visible()
    tab.keyboard.press("u")
    expect(tab.get_by_text("You gave 3.")).to_have_count(0)
    expect(tab.locator("section[aria-labelledby=answered]")).to_have_text(
        first, use_inner_text=True
    )
    assert len(httpx.get(f"{url}/eval/{run}/labels").json()["data"]) == before
    context.close()


def check(tab):
    check_axe(tab)
    assert tab.title() != "taken"
    check_width(tab)
