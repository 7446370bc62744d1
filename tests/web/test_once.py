"""A form that was sent is not sent again before its answer, in a real browser."""

from __future__ import annotations

import json
import re

import httpx
import pytest
from playwright.sync_api import expect
from servers import gateway
from web_pages import sign_in

# A machine that does other things as well takes its time.
expect.set_options(timeout=30_000)


@pytest.fixture
def tab(chromium):
    context = chromium.new_context()
    tab = context.new_page()
    tab.sent = []
    tab.on("request", lambda sent: tab.sent.append((sent.method, sent.url)))
    yield tab
    context.close()


def posts(tab, path):
    return [url for method, url in tab.sent if method == "POST" and url.endswith(path)]


def test_a_double_click_creates_one_key_and_shows_its_secret(tab, world):
    url, keys = world
    sign_in(tab, url, keys["admin"])
    tab.goto(f"{url}/keys")
    tab.locator("details summary").first.click()
    tab.get_by_label("Name", exact=True).fill("not a name")
    create = tab.get_by_role("button", name="Create the key")
    create.dblclick()
    # What is refused can be mended and sent again.
    expect(tab.get_by_role("alert")).to_contain_text("a key's name has")
    expect(create).not_to_have_attribute("aria-disabled", "true")
    assert len(posts(tab, "/pages/keys")) == 1
    tab.get_by_label("Name", exact=True).fill("clicked-twice")
    create.dblclick()
    expect(tab.locator("#secret")).to_be_visible()
    assert len(posts(tab, "/pages/keys")) == 2


def test_a_server_that_is_lost_and_back_is_asked_again(tab, world):
    url, keys = world
    sign_in(tab, url, keys["admin"])
    tab.goto(f"{url}/keys")
    tab.locator("details summary").first.click()
    tab.get_by_label("Name", exact=True).fill("sent-again")
    create = tab.get_by_role("button", name="Create the key")
    tab.context.set_offline(True)
    create.click()
    expect(tab.locator("#connection")).to_be_visible()
    expect(create).not_to_have_attribute("aria-disabled", "true")
    tab.context.set_offline(False)
    create.click()
    expect(tab.locator("#secret")).to_be_visible()


@pytest.fixture
def url(tmp_path):
    rows = [{"input": f"First {n}. Then more.", "reference": f"First {n}."} for n in range(3)]
    (tmp_path / "d.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    config = f"""
storage: {{database: "sqlite:///{tmp_path}/e.db", artifacts: "{tmp_path}/artifacts"}}
datasets: {{roots: ["{tmp_path}"]}}
evaluation: {{roots: ["{tmp_path}"]}}
providers: {{baseline: {{kind: baseline}}}}
"""
    with gateway(config) as url:
        yield url


def test_a_double_click_starts_one_run(tab, url, tmp_path):
    tab.goto(f"{url}/runs/new")
    tab.get_by_label("baseline/lead-1", exact=True).check()
    tab.get_by_label("rouge").check()
    tab.get_by_label("Number of samples").fill("2")
    tab.get_by_role("button", name="Start the run").dblclick()
    expect(tab).to_have_url(re.compile(r"/runs/run_"))
    assert len(httpx.get(f"{url}/eval").json()["data"]) == 1


def test_a_double_click_keeps_a_conversation_once(tab, url):
    tab.goto(f"{url}/playground?route=baseline/lead-1&prompt=Why")
    tab.get_by_label("Dataset").fill("kept")
    tab.get_by_role("button", name="Keep as sample").dblclick()
    expect(tab.locator("#keeping-state")).to_contain_text("which has 1 row.")
    assert len(posts(tab, "/pages/playground/sample")) == 1


def test_a_form_that_loads_a_page_is_sent_once_and_again_after_the_back_button(tab, world):
    url, keys = world
    tab.goto(f"{url}/runs")
    tab.get_by_label("Key").fill("wrong")
    tab.get_by_role("button", name="Sign in").dblclick()
    expect(tab.get_by_role("alert")).to_be_visible()
    assert len(posts(tab, "/login")) == 1
    tab.go_back()
    tab.get_by_label("Key").fill(keys["viewer"])
    tab.get_by_role("button", name="Sign in").click()
    expect(tab.get_by_role("button", name="Sign out")).to_be_visible()
