"""What tests read of pages: elements, text, and the policy that they are sent with; signing in."""

import csv
import html
import io
import re
from contextlib import ExitStack, contextmanager
from html.parser import HTMLParser

import httpx

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


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


def text_of(page):
    """Return a page's words, with a space between cells."""
    return re.sub(r"\s+", " ", Elements(page.replace("</t", " </t")).text)


def alert_of(page):
    """Return what a page says went wrong."""
    return html.unescape(re.search(r'role="alert">(.*?)</p>', page)[1])


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


def check_sorts(http, path):
    """Check that a list has the same rows the other way round where a heading is clicked twice."""
    page = http.get(path, headers=BROWSER).text
    headings = re.findall(r'<th scope="col"[^>]*><a href="([^"]*)"', page)
    columns = {re.search(r"sort=-?(\w+)", heading)[1] for heading in headings}
    assert columns, path

    def rows(sort):
        address = f"{path}{'&' if '?' in path else '?'}sort={sort}&export=csv"
        return list(csv.reader(io.StringIO(http.get(address, headers=BROWSER).text)))[1:]

    for column in columns:
        ascending = rows(column)
        assert ascending
        assert ascending == rows(f"-{column}")[::-1], (path, column)


def csrf_token(text):
    """Return the token of a page's forms."""
    return re.search(r'name="csrf_token" value="([\w-]+)"', text)[1]


def sign_in(http, key, target="/", **fields):
    """Sign in with the form, as a browser does; return the answer."""
    form = http.get("/login", params={"next": target})
    data = {"key": key, "next": target, "csrf_token": csrf_token(form.text)} | fields
    return http.post("/login", data=data)


@contextmanager
def browsers(url, keys):
    """Give a function that signs in with the key of a name; it returns a browser's client."""
    with ExitStack() as opened:

        def browser(name):
            http = httpx.Client(base_url=url, headers=BROWSER, timeout=60)
            opened.enter_context(http)
            assert sign_in(http, keys[name]).status_code == 303
            return http

        yield browser
