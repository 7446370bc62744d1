"""Datasets in a real browser: a file is chosen or dropped, looked at, mapped and stored."""

from __future__ import annotations

import json
import time

import httpx
import pytest
from playwright.sync_api import expect
from web_pages import ATTACK, RIGHT_TO_LEFT, check_axe, check_width, sign_in

ROWS = [{"id": n, "question": f"{n}? {ATTACK}", "right": RIGHT_TO_LEFT} for n in range(30)]
DROP = """content => {
    const file = new DataTransfer();
    file.items.add(new File([content], "dropped.jsonl"));
    const event = new DragEvent("drop", {dataTransfer: file, bubbles: true, cancelable: true});
    document.querySelector(".drop").dispatchEvent(event);
}"""


def lines(rows):
    return "".join(f"{json.dumps(row)}\n" for row in rows)


@pytest.fixture(params=["light", "dark", "360 px"])
def admin(request, chromium, world):
    url, keys = world
    width = 360 if request.param == "360 px" else 1280
    scheme = "dark" if request.param == "dark" else "light"
    context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab = context.new_page()
    tab.complaints = []
    tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
    sign_in(tab, url, keys["admin"])
    yield tab
    assert tab.complaints == []
    context.close()


def check(tab):
    check_axe(tab)
    assert tab.title() != "taken"
    check_width(tab)


def test_a_file_is_looked_at_mapped_stored_and_compared(admin, world):
    url, _ = world
    tab = admin
    tab.goto(f"{url}/datasets")
    file = {"name": "rows.jsonl", "mimeType": "", "buffer": b'{"question": "a"}\n{"question": \n'}
    tab.get_by_label("Choose a file").set_input_files(file)
    expect(tab.get_by_role("alert")).to_contain_text("rows.jsonl:2: not JSON")
    tab.get_by_label("Name", exact=True).fill("browsed")
    expect(tab.get_by_role("button", name="Save the dataset")).to_be_hidden()
    for number, rows in enumerate((ROWS, ROWS[1:])):
        tab.goto(f"{url}/datasets")
        name = "browsed" if number else "dropped"
        tab.evaluate(DROP, lines(rows))
        expect(tab.get_by_role("region", name="First rows")).to_contain_text(ATTACK)
        tab.get_by_label("question", exact=True).select_option("question=input")
        # The keyboard stays where it was, though the rows were looked at once more.
        expect(tab.get_by_text("Choose the column that holds the text")).to_have_count(0)
        tab.get_by_label("right", exact=True).select_option("right=reference")
        expect(tab.get_by_text("No column holds the right answer")).to_have_count(0)
        check(tab)
        tab.get_by_label("Name", exact=True).fill(name)
        tab.keyboard.press("Tab")
        expect(tab.locator("#preview strong")).to_have_text(name)
        tab.get_by_role("button", name="Save the dataset").click()
        expect(tab.get_by_role("heading", name=name, exact=True)).to_be_visible()
    tab.goto(f"{url}/datasets/dropped")
    check(tab)
    tab.get_by_role("link", name="Next rows").click()
    expect(tab.get_by_role("region", name="Rows").locator("tbody tr")).to_have_count(10)
    tab.on("dialog", lambda dialog: dialog.accept())
    tab.get_by_role("button", name="Delete this version").click()
    expect(tab).to_have_url(f"{url}/datasets")
    tab.goto(f"{url}/datasets/browsed")
    tab.get_by_role("button", name="Delete this version").click()
    expect(tab).to_have_url(f"{url}/datasets")


def test_what_is_wrong_with_a_dataset_of_requests_is_said_and_what_was_typed_stays(admin, world):
    url, _ = world
    tab = admin
    tab.goto(f"{url}/from-traffic?route=r")
    check(tab)
    tab.get_by_label("Name of the dataset").fill("made")
    tab.get_by_label("Only where").fill("nothing ==")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("alert")).to_contain_text("where")
    expect(tab.get_by_label("Only where")).to_have_value("nothing ==")
    tab.get_by_label("Since").fill("1s")
    tab.get_by_label("Only where").fill("")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("alert")).to_contain_text("No request of 'r'")
    body = {"model": "r", "messages": [{"role": "user", "content": "To be counted."}]}
    headers = {"authorization": f"Bearer {world[1]['admin']}"}
    assert httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers).status_code == 200
    # Its record is stored a moment later.
    while not httpx.get(f"{url}/traffic?route=r", headers=headers).json()["data"]:
        time.sleep(0.05)
    tab.get_by_label("Name of the dataset").fill("")
    tab.get_by_label("Since").fill("")
    tab.get_by_role("button", name="Count the requests").click()
    expect(tab.locator("#from-traffic-count, [role=alert]").first).to_contain_text("can be")
    expect(tab.get_by_label("Route, or provider/model")).to_have_value("r")
    check(tab)
