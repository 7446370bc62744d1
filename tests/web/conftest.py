"""A real browser, Debian's Chromium, and a server with runs, keys and names that are attacks."""

from __future__ import annotations

import json
import shutil

import pytest
from playwright.sync_api import sync_playwright
from servers import begun, client_of, finished, gateway
from stores import a_run, add_keys, in_store
from web_pages import ATTACK, LONG, RIGHT_TO_LEFT, sign_in

CHROMIUM = shutil.which("chromium")
OPTIONS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def chromium(world):
    """After `world`, whose loop of asyncio could not begin within the browser's."""
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    rows = [
        {
            "input": f"First {n}. Then more.",
            "reference": f"First {n}.",
            "topic": (ATTACK, LONG, RIGHT_TO_LEFT)[n % 3],
        }
        for n in range(30)
    ]
    (folder / "d.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    async def fill(store):
        for n in range(150):
            name = (ATTACK, LONG, RIGHT_TO_LEFT, f"nightly {n}")[min(n, 3)]
            fields = {"name": name, "dataset": name, "experiment": f"e{n % 3}"}
            await store.add_run(a_run(f"run_{n:04}", **fields), [])

    in_store(folder / "e.db", fill)
    keys = add_keys(folder / "e.db", "admin", "viewer")
    config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
evaluation: {{roots: ["{folder}"]}}
datasets: {{roots: ["{folder}"]}}
providers:
  baseline: {{kind: baseline}}
  refuses: {{kind: compatible, base_url: "http://127.0.0.1:9/v1"}}
routes: {{r: {{targets: [{{model: baseline/echo}}]}}, s: {{targets: [{{model: baseline/lead-3}}]}}}}
"""
    document = {
        "dataset": f"{folder}/d.jsonl",
        "name": ATTACK,
        "notes": LONG,
        "routes": ["r", "s", "baseline/lead-1", f"refuses/{LONG[:200]}"],
        "baseline": "r",
        "metrics": ["rouge", "exact_match", "length"],
        "gates": ["rougeL >= 0.5"],
    }
    with gateway(config) as url:
        with client_of(url, keys["admin"]) as http:
            keys["run"] = begun(http, document)
            finished(http, keys["run"])
        yield url, keys


@pytest.fixture(params=["light", "dark", "360 px", "2560 px", "no JavaScript"])
def tab(request, chromium, world):
    """A tab of a browser of each kind, where a viewer is signed in."""
    width = {"360 px": 360, "2560 px": 2560}.get(request.param, 1280)
    context = chromium.new_context(
        viewport={"width": width, "height": 800},
        color_scheme="dark" if request.param == "dark" else "light",
        java_script_enabled=request.param != "no JavaScript",
    )
    tab = context.new_page()
    tab.complaints = []
    tab.on("console", lambda message: tab.complaints.append(message.text))
    tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
    tab.foreign = []
    tab.on("request", lambda sent: tab.foreign.append(sent.url))
    url, keys = world
    sign_in(tab, url, keys["viewer"])
    yield tab
    context.close()
