"""The pages in a real browser: nothing is blocked, nothing overflows, and axe finds no fault.

Debian's Chromium; `make test-web`.
"""

from __future__ import annotations

import asyncio
import json
import shutil

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright
from servers import gateway
from stores import a_run

from router.gateway.key_administration import create
from router.store.sqlite import SqliteStore

CHROMIUM = shutil.which("chromium")
OPTIONS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
RUN = "/runs/{run}"
PAGES = ("/", "/routes", "/runs", RUN, "/experiments", "/datasets", "/login", "/nothing")
ATTACK = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"
LONG = "x" * 300
RIGHT_TO_LEFT = "\u202e\u0645\u0631\u062d\u0628\u0627"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")


@pytest.fixture(scope="module")
def chromium(world):
    """After `world`, whose loop of asyncio could not begin within the browser's."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    keys = {}
    rows = [{"input": f"First {n}. Then more.", "reference": f"First {n}."} for n in range(30)]
    (folder / "d.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    async def fill():
        store = SqliteStore(folder / "e.db")
        await store.open()
        for n in range(150):
            name = (ATTACK, LONG, RIGHT_TO_LEFT, f"nightly {n}")[min(n, 3)]
            fields = {"name": name, "dataset": name, "experiment": f"e{n % 3}"}
            await store.add_run(a_run(f"run_{n:04}", **fields), [])
        for role in ("admin", "viewer"):
            keys[role], _ = await create(store, role, now=1.0, role=role)
        await store.close()

    asyncio.run(fill())
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
        with httpx.Client(base_url=url, timeout=60) as http:
            http.headers["authorization"] = f"Bearer {keys['admin']}"
            begun = http.post("/eval", json=document)
            assert begun.status_code == 202, begun.text
            keys["run"] = begun.json()["id"]
            while not http.get(f"/eval/{keys['run']}").json()["run"]["finished_at"]:
                pass
        yield url, keys


def sign_in(tab, url, key):
    tab.goto(f"{url}/runs")
    tab.get_by_label("Key").fill(key)
    tab.keyboard.press("Enter")
    expect(tab).to_have_url(f"{url}/runs")


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


def test_pages_fit_load_nothing_from_elsewhere_and_nothing_of_them_is_blocked(tab, world):
    url, keys = world
    for path in PAGES:
        tab.goto(url + path.format(run=keys["run"]))
        assert tab.title() != "taken"
        if tab.context.browser and tab.evaluate("true"):
            overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert tab.evaluate(overflow) <= 0, path
    blocked = [text for text in tab.complaints if "404" not in text]
    assert blocked == []
    assert {address.startswith(url) for address in tab.foreign} == {True}


def test_pages_pass_axe(tab, world, request):
    if "no JavaScript" in request.node.name:
        pytest.skip("axe is a script")
    url, _ = world
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
    for path in PAGES:
        tab.goto(url + path)
        result = Axe().run(tab, options=options)
        assert result.violations_count == 0, f"{path}: {result.generate_report()}"


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
    for name in ("htmx.min.js", "hx-sse.min.js", "idiomorph.min.js", "uPlot.iife.min.js"):
        tab.add_script_tag(url=f"{url}/static/{version}/{name}")
    assert tab.evaluate("[typeof htmx, typeof Idiomorph, typeof uPlot]") == [
        "object",
        "object",
        "function",
    ]
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
