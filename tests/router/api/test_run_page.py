"""The page of a run: real runs, in every state and size, with texts that would be markup."""

import html
import json
import re

import httpx
import pytest
from page_elements import BROWSER, Elements, check_policy, text_of
from servers import begun, finished, gateway
from stores import a_run, answered, failed, in_store, some_samples, sqlite_store

from evaluators.base import Cell, Sample, Score
from router.api.run_page import Distribution, read_distribution

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"
MANY = [f"r{n:02}" for n in range(40)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A server, and runs by name: made by it, or stored as they would be half-way."""
    folder = tmp_path_factory.mktemp("run_page")
    rows = [{"input": f"First {n}. Then more.", "reference": f"First {n}."} for n in range(30)]
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "one.jsonl").write_text(json.dumps(rows[0]) + "\n")
    ids = {}

    async def fill(store):
        samples = [
            Sample(id=f"s{n}", messages=({"role": "user", "content": "x"},)) for n in range(3)
        ]
        document = {"dataset": "d.jsonl", "routes": [ATTACK, "b"], "metrics": ["exact_match"]}
        for name, cells in (("half", 6), ("none yet", 6), ("large", 2001)):
            fields = {"name": name, "state": "paused", "document": document, "notes": ATTACK}
            fields |= {"cells": cells, "experiment": ATTACK}
            run = a_run(f"run_{name.replace(' ', '_')}", **fields)
            await store.add_run(run, samples)
            ids[name] = run.id
        half = ids["half"]
        await answered(store, Cell(ATTACK, "s0", 0), run_id=half, text=ATTACK)
        score = Score(output="exact_match", value=1.0)
        await store.keep_scores(half, {Cell(ATTACK, "s0", 0): [score]})
        await failed(store, Cell("b", "s0", 0), run_id=half)

    in_store(folder / "e.db", fill)
    routes = "\n".join(f"  {name}: {{targets: [{{model: baseline/echo}}]}}" for name in MANY)
    config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
evaluation: {{roots: ["{folder}"]}}
datasets: {{roots: ["{folder}"]}}
providers:
  baseline: {{kind: baseline}}
  judges: {{kind: scripted, script: {{broken: [{{status: 400}}]}}}}
  refuses: {{kind: compatible, base_url: "http://127.0.0.1:9/v1", timeout: {{connect: 1}}}}
routes:
{routes}
"""
    data = {"dataset": f"{folder}/d.jsonl", "metrics": ["exact_match", "f1"]}
    two = data | {"routes": ["baseline/echo", "baseline/lead-1"], "baseline": "baseline/echo"}
    judged = {"name": "prometheus", "judge": "judges/broken", "rubric": "helpfulness"}
    documents = {
        "two": two | {"gates": ["f1 >= 0.5", "exact_match >= 2"]},
        "no baseline": data | {"routes": two["routes"]},
        "one": data | {"routes": ["baseline/echo"], "dataset": f"{folder}/one.jsonl"},
        "no scores": data | {"routes": ["baseline/echo"], "metrics": []},
        "many": data | {"routes": MANY, "baseline": MANY[0], "dataset": f"{folder}/one.jsonl"},
        "primary": two | {"primary": "f1"},
        "equivalent": two
        | {"routes": MANY[:2], "baseline": MANY[0], "margins": {"exact_match": 0.5, "f1": 0.5}},
        "worse": two | {"baseline": "baseline/lead-1"},
        "three": two | {"baseline": "baseline/lead-1", "routes": [*two["routes"], "r00"]},
        "three, another baseline": two | {"routes": [*two["routes"], "r00"]},
        "counted": two | {"metrics": ["length"]},
        "equal": two | {"routes": [MANY[0], MANY[1]], "baseline": MANY[0]},
        "unscored failures": data | {"routes": ["refuses/x"], "metrics": []},
        "unjudged": two | {"metrics": ["f1", judged], "primary": "helpfulness"},
        "failing": data | {"routes": ["baseline/echo", "refuses/x"]},
    }
    with gateway(config) as url, httpx.Client(base_url=url, timeout=60) as http:
        for name, document in documents.items():
            ids[name] = begun(http, document | {"name": name})
        for name in documents:
            finished(http, ids[name])
        yield http, ids


def page_of(world, name, query=""):
    http, ids = world
    answer = http.get(f"/runs/{ids[name]}{query}", headers=BROWSER)
    assert answer.status_code == 200, answer.text
    check_policy(answer)
    return answer.text


def titles(page):
    return [html.unescape(each) for each in re.findall(r"<figcaption>(.*?)</figcaption>", page)]


def test_what_is_compared_is_said_in_words_with_its_numbers(world):
    for name, verdict, sign in (("two", "better", "1.000"), ("worse", "worse", "-1.000")):
        text = text_of(page_of(world, name))
        assert "2 comparisons with the baseline" in text
        assert f"2 {verdict}: the difference is in the {verdict} direction" in text
        assert re.search(rf"is {verdict} than baseline/\S+ in exact_match \([+]?{sign} \[", text)
        assert "30 samples, p <0.001" in text
    text = text_of(page_of(world, "equivalent"))
    assert "2 equivalent: the difference is shown to be smaller than the margin" in text
    assert "is equivalent to r00 in exact_match, within \u00b10.5" in text
    text = text_of(page_of(world, "equal"))
    assert "2 not shown: no difference is shown; that does not show that there is none" in text
    assert "is not shown to differ from r00 in exact_match" in text


def test_the_best_route_is_named_first(world):
    text = text_of(page_of(world, "two"))
    best = "baseline/lead-1 is best: exact_match 1.000, then 0.000 (baseline/echo)."
    assert best in text
    assert "It is better than baseline/echo, the baseline. " in text
    # Where the baseline is best, of two routes and of three.
    text = text_of(page_of(world, "worse"))
    assert best in text
    assert "baseline/echo is shown to be worse (p <0.001)." in text
    three = page_of(world, "three")
    assert "Both others are shown to be worse (p" in text_of(three)
    page = page_of(world, "three, another baseline")
    assert "not tested against the others" in text_of(page)
    link = html.unescape(re.search(r'href="([^"]*)">Compare all with', page)[1])
    compared = world[0].get(link, headers=BROWSER).text
    assert "r00 is worse than baseline/lead-1" in text_of(compared)
    assert "r00, r01 are equally best: exact_match 0.000." in text_of(page_of(world, "equal"))
    assert "baseline/lead-1 is best" in text_of(page_of(world, "no baseline"))
    assert "is best" not in text_of(page_of(world, "one"))


def test_a_judge_without_a_score_is_named_first(world):
    text = text_of(page_of(world, "unjudged"))
    named = (
        "prometheus:helpfulness gave no score: all 60 answers have no helpfulness, "
        "helpfulness_unparsed, for example: judges/broken: scripted error 400"
    )
    assert -1 < text.find(f"The judge judges/broken of {named}") < text.index("What it shows")
    http, ids = world
    warnings = http.get(f"/eval/{ids['unjudged']}").json()["report"]["warnings"]
    assert warnings[0] == f"The metric {named}"
    # It is said of the metric, and not of each route again.
    assert not [each for each in warnings[1:] if "answers have no" in each]
    assert "gave no score" not in text_of(page_of(world, "two"))


def test_what_is_not_judged_is_named(world):
    text = text_of(page_of(world, "counted"))
    assert "2 not judged: for words, characters, higher is neither better nor worse" in text or (
        "2 not judged: for characters, words, higher is neither better nor worse" in text
    )


def test_every_score_and_difference_has_its_interval(world):
    http, ids = world
    report = http.get(f"/eval/{ids['two']}").json()["report"]
    text = text_of(page_of(world, "two"))
    for route in report["routes"]:
        for score in route["scores"]:
            numbers = [score[key] for key in ("estimate", "low", "high")]
            assert "{:,.3f} [{:,.3f}, {:,.3f}]".format(*numbers) in text
    for each in report["comparisons"]:
        numbers = [each[key] for key in ("difference", "low", "high")]
        assert "{:+,.3f} [{:+,.3f}, {:+,.3f}]".format(*numbers) in text


def test_the_score_of_the_plots_is_in_the_address(world):
    first = page_of(world, "two")
    assert titles(first)[:2] == [
        "exact_match by route",
        "exact_match: difference from baseline/echo",
    ]
    assert "Distribution of exact_match by route" in titles(first)
    second = page_of(world, "two", "?output=f1")
    assert titles(second)[:2] == ["f1 by route", "f1: difference from baseline/echo"]
    assert "Distribution of f1 by route" in titles(second)
    assert not [title for title in titles(second) if "exact_match" in title]
    assert '<option value="f1" selected>' in second
    # Without one in the address, the run's primary score.
    assert titles(page_of(world, "primary"))[0] == "f1 by route"
    http, ids = world
    for name, known in (("two", "exact_match, f1"), ("no scores", "none")):
        answer = http.get(f"/runs/{ids[name]}?output=%3Cb%3E", headers=BROWSER)
        assert answer.status_code == 400
        assert f"it has {known}" in Elements(answer.text).text
        assert "<b>" not in answer.text


def test_gates_show_what_was_found(world):
    text = text_of(page_of(world, "two"))
    http, ids = world
    gates = http.get(f"/eval/{ids['two']}").json()["gates"]
    passed = sum(gate["passed"] for gate in gates)
    assert f"{passed} of {len(gates)} gates passed" in text
    assert "exact_match >= 2 baseline/lead-1 failed 1.000 [0.886, 1.000] 2.000" in text
    assert "f1 >= 0.5 baseline/lead-1 passed 1.000 [" in text


def test_failures_are_counted_by_kind_with_an_interval(world):
    http, ids = world
    [_, route] = http.get(f"/eval/{ids['failing']}").json()["report"]["routes"]
    # After some failures in a row the run sends no more.
    failures = route["failed"]
    low = failures / (failures + 1.959964**2)
    expected = f"refuses/x upstream_unreachable {failures} 100.0% [{100 * low:.1f}%, 100.0%]"
    assert failures
    assert expected in text_of(page_of(world, "failing"))
    assert "Failures by kind" not in text_of(page_of(world, "two"))


def test_without_a_baseline_or_scores_the_page_says_so(world):
    page = page_of(world, "no baseline")
    text = text_of(page)
    assert "The run has no baseline, so no differences were tested; whether intervals" in text
    # It is said once: the run's name, in the title and the heading, is "no baseline" too.
    assert len(re.findall("(?i)no baseline|no differences", text)) == 2 + 2
    assert "<option>baseline/lead-1</option>" in page
    http, ids = world
    chosen = {"a": ids["no baseline"], "route_b": "baseline/lead-1"}
    compared = http.get("/compare", params=chosen, headers=BROWSER)
    assert "baseline/echo is worse than baseline/lead-1" in text_of(compared.text)
    one = page_of(world, "one")
    assert "One route was scored" in text_of(one)
    assert "A single sample has no interval" in text_of(one)
    without = page_of(world, "no scores")
    assert "This run has no scores" in text_of(without)
    assert f"evalrouter eval rescore {world[1]['no scores']} --metrics NAME" in text_of(without)
    assert titles(without) == []
    # What to know of a run is there without scores, too.
    assert "Before you believe these numbers" in text_of(page_of(world, "unscored failures"))


def test_a_run_under_way_says_how_far_it_is(world):
    for name, answers in (("half", 1), ("none yet", 0)):
        page = page_of(world, name)
        assert f"This run is paused: {answers} of 6 answers are there" in text_of(page)
        assert "exact_match by route" in titles(page)[0]
    assert "This run is" not in text_of(page_of(world, "two"))


def test_forty_routes_are_all_on_the_page(world):
    page = page_of(world, "many")
    text = text_of(page)
    assert "39 routes that are not shown to be better or worse" in text
    for name in MANY[1:]:
        assert f"{name} is not shown to differ from r00 in exact_match" in text
        # Of differences by score, of scores, and of the plots' tables.
        assert page.count(f'<th scope="row">{name}') >= 5
    assert len(page) < 600_000


def test_texts_of_others_are_text_in_every_section(world):
    page = page_of(world, "half")
    elements = Elements(page)
    assert "img" not in {tag for tag, _ in elements.elements}
    assert "<script>" not in page
    # A route's name, in the plot, its table and the page's; the notes; the experiment.
    assert elements.text.count(ATTACK) >= 5


def test_tables_have_headings_with_a_scope(world):
    for name in ("two", "failing", "half", "no scores", "many"):
        headings = [
            attributes for tag, attributes in Elements(page_of(world, name)).elements if tag == "th"
        ]
        assert headings
        assert {attributes.get("scope") for attributes in headings} <= {"col", "row"}
        assert None not in {attributes.get("scope") for attributes in headings}


def test_many_answers_are_read_when_requested(world):
    """A run of more answers than are read at once."""
    page = page_of(world, "large")
    assert "Distribution of exact_match by route" not in titles(page)
    link = html.unescape(re.search(r'href="([^"]*)">Show the distribution', page)[1])
    answer = world[0].get(link, headers=BROWSER)
    assert "Distribution of exact_match by route" in titles(answer.text)


@pytest.mark.parametrize(("limit", "values", "is_part"), [(3, [0.5], True), (4, [0.5, 1.0], False)])
async def test_a_distribution_is_of_the_first_answers(tmp_path, limit, values, is_part):
    """A sample counts once, by the mean of its repeats; a failed answer has no score."""
    async with sqlite_store(tmp_path / "e.db") as store:
        run = a_run()
        await store.add_run(run, some_samples(2))
        cells = [Cell("r", "s0", 0), Cell("r", "s0", 1), Cell("r", "s1", 1)]
        for cell, value in zip(cells, (0.0, 1.0, 1.0), strict=True):
            await answered(store, cell)
            await store.keep_scores("run_1", {cell: [Score(output="x", value=value)]})
        await failed(store, Cell("r", "s1", 0))
        read = await read_distribution(store, run, "x", limit=limit)
    assert read == Distribution({"r": values}, limit, is_part)
