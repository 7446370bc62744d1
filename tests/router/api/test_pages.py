"""The pages: their policy, their errors, and texts that would be markup."""

import csv
import html
import io
import re

import httpx
import pytest
from page_elements import BROWSER, Elements, check_policy
from servers import begun, finished, gateway
from stores import a_run, in_store

from router.api.page_layout import duration, money, number
from router.api.page_tables import MAX_EXPORTED, TableColumn, csv_response
from router.api.static_files import WEB

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    (folder / "d.jsonl").write_text('{"input": "hi"}\n')
    config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
evaluation: {{roots: ["{folder}"]}}
datasets: {{roots: ["{folder}"]}}
routes:
  r: {{targets: [{{model: baseline/echo}}]}}
  b: {{targets: [{{model: baseline/echo}}], strategy: round_robin}}
  a: {{targets: [{{model: baseline/lead-3}}], strategy: least_busy}}
"""
    with gateway(config) as url:
        document = {"dataset": f"{folder}/d.jsonl", "routes": ["r"], "name": ATTACK}
        with httpx.Client(base_url=url, timeout=60) as http:
            finished(http, begun(http, document | {"metrics": ["length"]}))
        yield url


@pytest.fixture(scope="module")
def run_id(url):
    [run] = httpx.get(f"{url}/eval").json()["data"]
    return run["id"]


LISTS = ("/routes", "/runs", "/experiments", "/datasets", "/traffic", "/feedback", "/review")


def test_pages_and_errors_are_sent_with_the_policy(url, run_id):
    for path, status in (
        ("/", 200),
        *((path, 200) for path in LISTS),
        ("/routes?sort=x", 400),
        ("/runs?state_is=x", 400),
        ("/datasets?after=nothing", 400),
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
    targets = set()
    with httpx.Client(base_url=url, headers=BROWSER, timeout=60) as http:
        for path in ("/", *LISTS, f"/runs/{run_id}"):
            for _, attributes in Elements(http.get(path).text).elements:
                targets.add(attributes.get("href") or attributes.get("src") or "#")
        for target in targets:
            if not target.startswith("#"):
                assert http.get(target).status_code == 200, target


def test_programs_get_errors_as_json(url):
    for path in ("/nothing", "/runs/nothing", "/eval/nothing"):
        assert set(httpx.get(url + path).json()) == {"error"}
    # A path of the API has them so for a browser, too.
    assert set(httpx.get(f"{url}/eval/nothing", headers=BROWSER).json()) == {"error"}


def test_a_browser_gets_a_page_where_a_program_gets_json(url):
    for path in ("/routes", "/experiments", "/datasets", "/traffic", "/feedback", "/review"):
        program, browser = httpx.get(url + path), httpx.get(url + path, headers=BROWSER)
        assert program.json()["object"] == "list"
        assert browser.headers["content-type"] == "text/html; charset=utf-8"
        for answer in (program, browser):
            assert "accept" in re.split(r",\s*", answer.headers["vary"])
    # A page of the same name as a program's list, of which there is only one.
    assert httpx.get(f"{url}/eval", headers=BROWSER).json()["object"] == "list"


def rows_of(answer):
    body = re.search(r"<tbody>(.*?)</tbody>", answer.text, re.DOTALL)
    return [] if body is None else re.findall(r"<tr><td>(?:<a [^>]*>)?(.*?)<", body[1])


def test_routes_are_sorted_and_filtered(url):
    def shown(query):
        return rows_of(httpx.get(f"{url}/routes?{query}", headers=BROWSER))

    assert shown("") == shown("sort=name") == ["a", "b", "r"]
    assert shown("sort=-name") == ["r", "b", "a"]
    assert shown("sort=-strategy") == ["r", "b", "a"]
    assert shown("q=lead") == ["a"]
    assert shown("q=ECHO&sort=name&after=b") == ["r"]
    answer = httpx.get(f"{url}/routes?q=zz", headers=BROWSER)
    assert rows_of(answer) == []
    assert "No route has this" in answer.text
    page = httpx.get(f"{url}/routes?sort=name", headers=BROWSER)
    assert 'aria-sort="ascending"><a href="/routes?sort=-name"' in page.text


def test_a_table_is_saved_as_csv_with_its_filter_and_without_formulas(url):
    answer = httpx.get(f"{url}/routes?q=lead&export=csv", headers=BROWSER)
    assert answer.headers["content-type"].startswith("text/csv")
    assert "attachment" in answer.headers["content-disposition"]
    rows = list(csv.reader(io.StringIO(answer.text)))
    assert rows[0] == ["name", "strategy", "targets", "fallback", "source", "error"]
    assert [row[0] for row in rows[1:]] == ["a"]
    [_, run] = csv.reader(io.StringIO(httpx.get(f"{url}/runs?export=csv").text))
    assert run[0] == ATTACK
    column = [TableColumn("a", "A")]
    text = csv_response("x", column, [{"a": "=1+1"}, {"a": -1}, {"a": "@x"}]).content
    assert text.split() == [b"a", b"'=1+1", b"-1", b"'@x"]


@pytest.mark.parametrize(
    ("rows", "name"),
    [(MAX_EXPORTED, "x.csv"), (MAX_EXPORTED + 1, f"x-first-{MAX_EXPORTED}-rows.csv")],
)
def test_the_name_of_a_file_says_that_it_lacks_rows(rows, name):
    answer = csv_response("x", [TableColumn("a", "A")], ({"a": n} for n in range(rows)))
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert len(answer.content.split()) == MAX_EXPORTED + 1


def test_empty_tables_say_what_to_do(tmp_path):
    config = f"storage: {{database: 'sqlite:///{tmp_path}/e.db', artifacts: '{tmp_path}'}}"
    with gateway(config) as url:
        for path, command in (
            ("/", "evalrouter eval run"),
            ("/", '<a href="/runs/new">Start a run</a> over two routes'),
            ("/routes", "PUT /routes/NAME"),
            ("/runs", "evalrouter eval run"),
            ("/experiments", "experiment: NAME"),
            ("/datasets", "evalrouter dataset add"),
        ):
            answer = httpx.get(url + path, headers=BROWSER)
            assert command in answer.text
            assert rows_of(answer) == [] or path == "/"


def test_runs_are_paged_by_key_in_both_directions(tmp_path):
    async def add(store):
        for n in range(205):
            await store.add_run(a_run(f"run_{n:04}", name=f"n{n}", created_at=float(n)), [])

    in_store(tmp_path / "e.db", add)
    config = f"storage: {{database: 'sqlite:///{tmp_path}/e.db', artifacts: '{tmp_path}'}}"
    with gateway(config) as url:
        for sort, names in (
            ("-created", [f"n{n}" for n in range(204, -1, -1)]),
            ("created", [f"n{n}" for n in range(205)]),
            ("name", sorted(f"n{n}" for n in range(205))),
            # None has ended.
            ("-finished", [f"n{n}" for n in range(204, -1, -1)]),
        ):
            seen, address = [], f"/runs?sort={sort}"
            while address:
                answer = httpx.get(url + address, headers=BROWSER)
                seen.append(rows_of(answer))
                found = re.search(r'href="([^"]*)" rel="next"', answer.text)
                address = html.unescape(found[1]) if found else ""
            assert [len(page) for page in seen] == [100, 100, 5]
            assert [name for page in seen for name in page] == names
            exported = httpx.get(f"{url}/runs?sort={sort}&export=csv").text
            assert [row[0] for row in csv.reader(io.StringIO(exported))][1:] == names


def test_texts_are_no_markup(url, run_id):
    for path in ("/", "/runs", f"/runs/{run_id}"):
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


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0, "0.00 ms"),
        (0.0000907, "0.09 ms"),
        (0.0042, "4.2 ms"),
        (0.25, "250 ms"),
        (0.99949, "999 ms"),
        (0.9996, "1.00 s"),
        (1.5, "1.50 s"),
        (42.0, "42.0 s"),
        (99.96, "100 s"),
        (3723.0, "3,723 s"),
    ],
)
def test_times_below_a_second_are_in_milliseconds(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (None, "-"),
        (0.0, "$0.00"),
        (0.0000907, "$0.000091"),
        (0.5, "$0.50"),
        (12.5, "$12.50"),
        (1234.5, "$1,234"),
    ],
)
def test_money_has_one_form(usd, text):
    assert money(usd) == text
