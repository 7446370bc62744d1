"""The pages: their policy, their errors, and texts that would be markup."""

import re
from html.parser import HTMLParser

import httpx
import pytest
from servers import gateway

from router.api.page_layout import number
from router.api.static_files import WEB

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
ATTACK = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    (folder / "d.jsonl").write_text('{"input": "hi"}\n')
    config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
evaluation: {{roots: ["{folder}"]}}
datasets: {{roots: ["{folder}"]}}
routes: {{r: {{targets: [{{model: baseline/echo}}]}}}}
"""
    with gateway(config) as url:
        document = {"dataset": f"{folder}/d.jsonl", "routes": ["r"], "name": ATTACK}
        begun = httpx.post(f"{url}/eval", json=document | {"metrics": ["length"]}, timeout=60)
        assert begun.status_code == 202, begun.text
        with httpx.Client(timeout=60) as http:
            while not http.get(f"{url}/eval/{begun.json()['id']}").json()["run"]["finished_at"]:
                pass
        yield url


@pytest.fixture(scope="module")
def run_id(url):
    [run] = httpx.get(f"{url}/eval").json()["data"]
    return run["id"]


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def check_policy(answer):
    policy = dict(
        part.strip().split(" ", 1)
        for part in answer.headers["content-security-policy"].split(";")
        if part.strip()
    )
    assert policy["default-src"] == "'self'"
    assert policy["img-src"] == "'self' data: blob:"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["form-action"] == "'self'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert {"accept", "cookie"} <= set(re.split(r",\s*", answer.headers["vary"]))
    for tag, attributes in Elements(answer.text).elements:
        # The policy would stop these, and then the page would not do what it should.
        assert tag != "style"
        assert tag != "script" or attributes.get("src", "").startswith("/static/")
        assert not {name for name in attributes if name == "style" or name.startswith("on")}
        for name in ("src", "href", "action"):
            assert not re.match(r"(?i)[a-z]+:|//", attributes.get(name) or "")


def test_pages_and_errors_are_sent_with_the_policy(url, run_id):
    for path, status in (
        ("/", 200),
        (f"/runs/{run_id}", 200),
        ("/runs/nothing", 404),
        ("/nothing", 404),
        ("/?x=1", 400),
    ):
        answer = httpx.get(url + path, headers=BROWSER)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        check_policy(answer)


def test_what_a_page_refers_to_is_there(url, run_id):
    for path in ("/", f"/runs/{run_id}"):
        elements = Elements(httpx.get(url + path).text).elements
        targets = {attributes.get("href") or attributes.get("src") for _, attributes in elements}
        for target in targets - {None}:
            if not target.startswith("#"):
                assert httpx.get(url + target).status_code == 200, target


def test_programs_get_errors_as_json(url):
    for path in ("/nothing", "/runs/nothing", "/eval/nothing"):
        assert set(httpx.get(url + path).json()) == {"error"}
    # A path of the API has them so for a browser, too.
    assert set(httpx.get(f"{url}/eval/nothing", headers=BROWSER).json()) == {"error"}


def test_texts_are_no_markup(url, run_id):
    for path in ("/", f"/runs/{run_id}"):
        page = Elements(httpx.get(url + path).text)
        assert ATTACK in page.text
        assert "img" not in {tag for tag, _ in page.elements}
    answer = httpx.get(f"{url}/{ATTACK}", headers=BROWSER)
    assert "&lt;script&gt;" in answer.text
    check_policy(answer)


def test_the_templates_have_no_script_and_no_style_of_their_own():
    templates = list(WEB.glob("*.html"))
    assert templates
    for path in templates:
        text = path.read_text()
        assert not re.search(r"<style|<script(?![^>]* src=)|\sstyle=|\son\w+=|javascript:", text)
        assert "|safe" not in text.replace(" ", "")
        # These need `eval`, which the policy forbids.
        assert not re.search(r"hx-on|hx-vals=.js:|hx-trigger=\"[^\"]*\[", text)


@pytest.mark.parametrize(
    ("value", "text", "signed"),
    [
        (None, "-", "-"),
        (0.12345, "0.123", "+0.123"),
        (-12.34, "-12.34", "-12.34"),
        (123.46, "123.5", "+123.5"),
    ],
)
def test_numbers(value, text, signed):
    assert number(value) == text
    assert number(value, sign=True) == signed
