"""The page that begins a run: its form, what it says of mistakes, its estimate, and the run."""

import html
import re

import httpx
import msgspec
import pytest
from page_elements import BROWSER, Elements, check_policy
from servers import gateway
from stores import add_keys

from router.evals.estimate import Estimate
from router.evals.estimate_text import total_time

ATTACK = "</textarea><script>alert(1)</script><img src=x onerror=alert(1)>\"'"
FORM = "/pages/runs/new"


def config_of(folder):
    return f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
evaluation: {{roots: ["{folder}"]}}
datasets: {{roots: ["{folder}"]}}
routes: {{r: {{targets: [{{model: baseline/echo}}]}}}}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A server with a dataset, and a client of it that is a browser."""
    folder = tmp_path_factory.mktemp("new_run")
    (folder / "d.jsonl").write_text('{"input": "One. Two.", "reference": "One."}\n' * 2)
    with (
        gateway(config_of(folder)) as url,
        httpx.Client(base_url=url, timeout=60, headers=BROWSER) as http,
    ):
        added = http.post("/datasets", json={"source": f"{folder}/d.jsonl", "name": "mine"})
        assert added.status_code == 201, added.text
        yield http, f"mine@{added.json()['hash'][:12]}"


def fields_of(page):
    """The values that a browser would send, by the names of fields."""
    values = {}
    for tag, attributes in Elements(page).elements:
        name = attributes.get("name")
        is_ticked = attributes.get("type") != "checkbox" or "checked" in attributes
        if tag == "input" and is_ticked:
            values.setdefault(name, []).append(attributes.get("value", ""))
    for name, value in re.findall(
        r'<textarea[^>]* name="(\w+)"[^>]*>\n(.*?)</textarea>', page, re.S
    ):
        values[name] = [html.unescape(value)]
    return values


def good(dataset, **changes):
    fields = {
        "dataset": dataset,
        "routes": ["r", "baseline/lead-1"],
        "metrics": ["exact_match"],
        "baseline": "baseline/lead-1",
        "name": "first",
        "tags": "a b",
        "limit": "1",
    }
    return fields | changes


def test_the_form_lists_what_there_is(world):
    http, dataset = world
    answer = http.get("/runs/new")
    check_policy(answer)
    values = [attributes.get("value") for _, attributes in Elements(answer.text).elements]
    for value in (dataset, "evalrouter:summaries", "r", "baseline/lead-3", "summarization"):
        assert value in values
    for value in ("exact_match", "prometheus:helpfulness", "judge:harm"):
        assert value in values
    assert "No dataset of your own yet" not in answer.text
    newest = http.get("/runs/new", params={"dataset": "mine"}).text
    assert f'<option value="{dataset}" selected>' in newest
    assert fields_of(newest)["other_dataset"] == [""]
    text = Elements(answer.text).text
    assert "for short answers that are right or wrong" in text
    assert "`" not in text
    # What needs an option is named as that, not with its error.
    assert "json_schema" not in values
    assert re.search(r"These need options: .*json_schema", text)
    joined = http.get("/runs/new", params={"experiment": "e 1"}).text
    assert fields_of(joined)["experiment"] == ["e 1"]
    filled = http.get("/runs/new", params={"dataset": dataset, "route": ["r", "other/x"]}).text
    assert f'<option value="{dataset}" selected>' in filled
    assert fields_of(filled)["routes"] == ["r"]
    assert fields_of(filled)["models"] == ["other/x"]


def test_mistakes_are_shown_at_their_fields_and_nothing_that_was_typed_is_lost(world):
    http, dataset = world
    typed = good(
        dataset,
        models=ATTACK,
        temperature="0",
        repeats="0",
        notes=f"two\nlines {ATTACK}",
        rest="margins: {x: -1}",
        prompt="{{ input }}",
        do="start",
    )
    answer = http.post(FORM, data=typed)
    assert answer.status_code == 400
    assert answer.headers["hx-push-url"] == "false"
    check_policy(answer)
    assert "<script>" not in answer.text
    shown = fields_of(answer.text)
    for name in ("models", "temperature", "repeats", "notes", "rest", "prompt", "tags", "limit"):
        assert shown[name] == [typed[name]], name
    assert shown["routes"] == typed["routes"]
    assert shown["metrics"] == typed["metrics"]
    assert f'<option value="{dataset}" selected>' in answer.text
    wrong = {
        attributes["name"]: attributes["aria-describedby"].split()[0]
        for _, attributes in Elements(answer.text).elements
        if "aria-invalid" in attributes
    }
    # A problem that is found later would be shown once these are mended.
    assert wrong == {"repeats": "repeats-error", "rest": "rest-error"}
    message = re.search(r'id="repeats-error">(.*?)</p>', answer.text)[1]
    assert "repeats: expected" in html.unescape(message)
    for changes, field in (
        ({"temperature": "hot"}, "temperature"),
        ({"other_dataset": "nothing.jsonl"}, "other_dataset"),
        ({"baseline": "s"}, "baseline"),
        ({"models": "no/such"}, "models"),
        ({"rest": "name: x"}, "name"),
        ({"gates": "nonsense"}, "gates"),
    ):
        answer = http.post(FORM, data=good(dataset, **changes))
        assert answer.status_code == 400, changes
        assert f'id="{field}-error"' in answer.text, changes
    both = http.post(FORM, data=good(dataset, baseline="s", gates="rougel > x"))
    assert 'id="baseline-error"' in both.text
    assert 'id="gates-error"' in both.text


def test_a_form_without_anything_says_what_is_missing(world):
    http, _ = world
    answer = http.post(FORM, data={"do": "start"})
    assert answer.status_code == 400
    for field in ("dataset", "routes", "metrics"):
        assert f'id="{field}-error"' in answer.text
        assert f'href="#{field}"' in answer.text


def test_the_estimate_is_that_of_the_api(world):
    http, dataset = world
    answer = http.post(FORM, data=good(dataset, do="estimate"))
    assert answer.status_code == 200
    text = " ".join(Elements(answer.text).text.split())
    document = {
        "dataset": dataset,
        "routes": ["r", "baseline/lead-1"],
        "metrics": ["exact_match"],
        "baseline": "baseline/lead-1",
        "limit": 1,
    }
    estimate = http.post("/eval?dry_run=true", json=document).json()
    assert f"{estimate['calls']} calls" in text
    assert "$0.00 of money" in text
    assert "baseline/lead-1" in text
    assert "What the run's verdicts would show with 80% probability" in text
    more = http.post(FORM, data=good("evalrouter:summaries", do="estimate", limit=""))
    assert re.search(r"at worst 0\.\d+\s+smallest difference", Elements(more.text).text)
    # Of a time that is not known of all routes, the least that it is.
    known = msgspec.convert(estimate, Estimate)
    first, second = known.targets
    first = msgspec.structs.replace(first, seconds=2.0)
    second = msgspec.structs.replace(second, seconds=None)
    known = msgspec.structs.replace(known, seconds=None, targets=[first, second])
    assert total_time(known) == "at least 2 s"
    assert total_time(msgspec.structs.replace(known, targets=[second])) == "unknown"
    assert http.get("/eval", params={"tag": "a"}).json()["data"] == []
    # What is named is the output that decides, which is not the first.
    answer = http.post(FORM, data=good(dataset, do="estimate", metrics=["f1", "exact_match"],
                                       rest="primary: exact_match"))  # fmt: skip
    assert "smallest difference that it would show in exact_match" in Elements(answer.text).text
    # Without a baseline, the first route is one; a run that is to have none promises nothing.
    answer = http.post(FORM, data=good(dataset, do="estimate", baseline=""))
    assert "What the run's verdicts would show" in Elements(answer.text).text
    none = good(dataset, do="estimate", baseline="", no_baseline="on")
    text = Elements(http.post(FORM, data=none).text).text
    assert "No baseline is named, so the run tests no differences" in text
    assert "smallest difference that it would show" not in text


def test_a_run_begins_and_its_form_comes_again(world):
    http, dataset = world
    answer = http.post(FORM, data=good(dataset, do="start", experiment="e1", draw="random"))
    assert answer.status_code == 303, answer.text
    run_id = answer.headers["location"].removeprefix("/runs/")
    run = http.get(f"/eval/{run_id}").json()["run"]
    assert (run["name"], run["tags"], run["experiment"]) == ("first", ["a", "b"], "e1")
    assert run["document"]["sample"] == {"n": 1, "seed": 0, "by": None}
    again = http.get("/runs/new", params={"like": run_id}).text
    shown = fields_of(again)
    assert shown["routes"] == ["r", "baseline/lead-1"]
    assert shown["metrics"] == ["exact_match"]
    assert (shown["name"], shown["tags"], shown["limit"]) == (["first"], ["a b"], ["1"])
    assert http.get("/runs/new?like=run_none").status_code == 404


def test_a_form_is_shown_as_a_document_and_back(world):
    http, dataset = world
    answer = http.post(FORM, data=good(dataset, do="document"))
    shown = fields_of(answer.text)
    [document] = shown["rest"]
    assert document.startswith(f"dataset: {dataset}\nroutes:\n- r\n- baseline/lead-1\n")
    assert "whole" in shown
    back = http.post(FORM, data={"whole": "on", "rest": document, "do": "fields"})
    shown = fields_of(back.text)
    assert (shown["routes"], shown["name"]) == (["r", "baseline/lead-1"], ["first"])
    wrong = http.post(FORM, data={"whole": "on", "rest": f"{document}x: [", "do": "fields"})
    assert wrong.status_code == 400
    assert fields_of(wrong.text)["rest"] == [f"{document}x: ["]
    assert 'id="rest-error"' in wrong.text
    begun = http.post(FORM, data={"whole": "on", "rest": document, "do": "start"})
    assert begun.status_code == 303


def test_a_form_reaches_no_further_than_a_request(world):
    http, dataset = world
    for changes in (
        {"other_dataset": "/etc/passwd"},
        {"rest": "execution: {address: 'ray://h:1'}"},
        {"other_metrics": "file:/tmp/x.py"},
    ):
        answer = http.post(FORM, data=good(dataset, do="start", **changes))
        assert answer.status_code == 400, changes
        assert "notice" in answer.text
    too_large = http.post(FORM, data=good(dataset, notes="x" * 70_000))
    assert too_large.status_code == 413


def test_only_administrators_begin_runs(tmp_path):
    keys = add_keys(tmp_path / "e.db", "admin", "viewer", "reviewer")
    with gateway(config_of(tmp_path)) as url, httpx.Client(base_url=url, timeout=60) as http:
        for role, status, may in (
            ("admin", 200, True),
            ("viewer", 200, False),
            ("reviewer", 403, False),
        ):
            headers = {"authorization": f"Bearer {keys[role]}"} | BROWSER
            page = http.get("/runs/new", headers=headers)
            assert ('<a href="/datasets">Upload one</a>' in page.text) == (status == 200)
            assert page.status_code == status
            assert ("Your key may look at runs" in page.text) == (role == "viewer")
            assert ('href="/runs/new"' in http.get("/runs", headers=headers).text) == may
            assert ('name="routes"' in page.text) == may
            sent = http.post(FORM, data={"do": "start"}, headers=headers)
            assert sent.status_code == (400 if may else 403)
