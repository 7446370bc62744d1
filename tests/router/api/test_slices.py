"""Slices of a run's score over HTTP, with the SDK, and on the command line."""

import asyncio
import json

import httpx
import pytest
from click.testing import CliRunner
from page_elements import BROWSER, Elements, check_policy, text_of
from servers import gateway
from stores import a_run, answered, failed, in_store

from evaluators.base import Cell, Sample, Score
from providers.errors import InputError
from router.cli import main
from router.client import AsyncClient, Client

ATTACK = "<script>alert(1)</script>"
LONG = "x" * 10_000
ROUTES = ["a/first", "b/second"]
ROWS = 120


def fields_of(n):
    """A row's columns: few values, many numbers, markup, lists and objects, nulls."""
    fields = {
        "topic": (ATTACK, "code", "math")[n % 3],
        "meta": {"level": n % 4, "tags": ["x"] if n % 2 else [{"b": 1, "a": None}]},
        "length": n,
        "id": f"s{n}",
        "sometimes": None if n % 10 else "here",
        "cluster": f"c{n // 2}",
        LONG[:300]: "wide",
    }
    if n == 7:
        fields["late"] = "once"
    return fields


def value_of(n, route):
    return float((n * 7 + 3 * (route == ROUTES[1])) % 10 < 6)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run that has ended, one under way, one without scores and one without samples."""
    folder = tmp_path_factory.mktemp("slices")
    document = {"dataset": "d.jsonl", "routes": ROUTES, "baseline": ROUTES[0]}
    document |= {"metrics": ["exact_match", "f1"]}

    async def fill(store):
        samples = [
            Sample(id=f"s{n}", messages=(), references=("x",), fields=fields_of(n))
            for n in range(ROWS)
        ]
        ended = {"state": "completed", "finished_at": 1.0, "document": document}
        run = a_run("run_all", dataset_rows=ROWS, cells=2 * ROWS, **ended)
        await store.add_run(run, samples)
        half = a_run("run_half", dataset_rows=ROWS, cells=2 * ROWS, document=document)
        await store.add_run(half, samples)
        none = a_run("run_none", dataset_rows=ROWS, document=document | {"metrics": []})
        await store.add_run(none, samples)
        await store.add_run(a_run("run_empty", dataset_rows=0, document=document), [])
        for run_id, count in (("run_all", ROWS), ("run_half", 40)):
            cells = {
                Cell(route, f"s{n}", 0): value_of(n, route)
                for n in range(count)
                for route in ROUTES
                if (n, route) != (5, ROUTES[1])
            }
            await asyncio.gather(*(answered(store, cell, run_id=run_id) for cell in cells))
            await store.keep_scores(
                run_id,
                {
                    cell: [Score(output="exact_match", value=value), Score(output="f1", value=0.5)]
                    for cell, value in cells.items()
                },
            )
        await failed(store, Cell(ROUTES[1], "s5", 0), "run_all")

    in_store(folder / "e.db", fill)
    config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
providers: {{baseline: {{kind: baseline}}}}
"""
    (folder / "evalrouter.yaml").write_text(config)
    with gateway(config) as url, httpx.Client(base_url=url, timeout=60) as http:
        yield http, url, folder


def slices(world, run="run_all", **query):
    answer = world[0].get(f"/eval/{run}/slices", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refusal(world, run="run_all", **query):
    answer = world[0].get(f"/eval/{run}/slices", params=query)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error["param"], error["message"]


def counts(report):
    return [(one["name"], one["samples"]) for one in report["slices"]]


def test_the_slices_add_up_to_the_runs_report(world):
    report = slices(world, column="topic")
    assert counts(report) == [(ATTACK, 40), ("code", 40), ("math", 40)]
    outcome = world[0].get("/eval/run_all").json()["report"]
    for place, route in enumerate(outcome["routes"]):
        whole, [score, _] = report["whole"][place], route["scores"]
        assert route["route"] == whole["route"]
        for name in ("estimate", "low", "high", "method", "n", "clusters", "effective_clusters"):
            assert whole[name] == score[name], name
        parts = [one["scores"][place] for one in report["slices"]]
        assert sum(part["n"] for part in parts) == whole["n"]
        mean = sum(part["n"] * part["estimate"] for part in parts) / whole["n"]
        assert mean == pytest.approx(whole["estimate"])
    assert [one["n"] for one in report["whole"]] == [ROWS, ROWS - 1]
    assert report["whole"][0]["clusters"] == ROWS / 2
    assert report["output"]["name"] == "exact_match"
    assert report["warnings"][0].startswith("Slices are exploratory")


def test_the_score_can_be_chosen(world):
    report = slices(world, column="topic", output="f1")
    assert {one["scores"][0]["estimate"] for one in report["slices"]} == {0.5}
    assert refusal(world, column="topic", output="f2")[0] == "output"


def test_columns_are_named_by_paths_and_values_may_be_anything(world):
    assert counts(slices(world, column="meta.level")) == [(str(n), 30) for n in range(4)]
    assert counts(slices(world, column="meta.tags")) == [
        ('["x"]', 60),
        ('[{"a":null,"b":1}]', 60),
    ]
    assert [name for name, _ in counts(slices(world, column="meta"))][:2] == [
        '{"level":0,"tags":[{"a":null,"b":1}]}',
        '{"level":1,"tags":["x"]}',
    ]
    ranges = slices(world, column="length")
    assert counts(ranges) == [(f"{low} to {low + 23}", 24) for low in range(0, ROWS, 24)]
    assert counts(slices(world, column="sometimes")) == [("here", 12), ("no value", 108)]
    # A column that few rows have.
    assert counts(slices(world, column="late")) == [("once", 1), ("no value", ROWS - 1)]


def test_a_column_that_is_not_there_is_refused_with_those_that_are(world):
    param, message = refusal(world, column="tpoic")
    assert param == "column"
    assert "no column 'tpoic'" in message
    assert "topic, meta, length, id, sometimes, cluster, xxx" in message
    assert "late" in message
    for column in (LONG, "a." * 5_000, "meta.", "", "meta.level.deeper"):
        param, message = refusal(world, column=column)
        assert param == "column"
        assert len(message) < 500
    answer = world[0].get("/eval/run_all/slices")
    assert answer.status_code == 400
    assert "query parameter 'column'" in answer.json()["error"]["message"]
    assert world[0].get("/eval/run_x/slices?column=topic").status_code == 404


def test_a_column_that_makes_no_slices_says_why(world):
    param, message = refusal(world, column="id")
    assert param == "column"
    assert "'id' makes no slices: it has 120 different values and none of them twice" in message


def test_a_run_without_scores_or_samples_says_so(world):
    assert refusal(world, "run_none", column="topic") == (
        "output",
        "This run has no scores: its document names no metrics.",
    )
    param, message = refusal(world, "run_empty", column="topic")
    assert param == "column"
    assert "no samples" in message


def test_a_run_under_way_has_slices_of_what_is_there(world):
    report = slices(world, "run_half", column="topic")
    assert [one["n"] for one in report["whole"]] == [40, 39]
    assert report["samples"] == ROWS
    assert counts(report) == [(ATTACK, 40), ("code", 40), ("math", 40)]
    assert report["always_valid"]
    assert "is queued" in report["warnings"][-1]


async def test_the_sdk_has_the_same(world):
    expected = slices(world, column="meta.level", output="f1")
    async with AsyncClient(world[1]) as client:
        assert await client.runs.slices("run_all", "meta.level", output="f1") == expected
        with pytest.raises(InputError, match="no column 'nope'"):
            await client.runs.slices("run_all", "nope")
    with Client(world[1]) as client:
        assert client.runs.slices("run_all", "topic") == slices(world, column="topic")


def show(world, *args, code=0):
    config = str(world[2] / "evalrouter.yaml")
    done = CliRunner().invoke(main, ["eval", "show", "run_all", *args, "--config", config])
    assert done.exit_code == code, done.output
    return done


def test_the_command_shows_them_as_a_table_or_json(world):
    shown = show(world, "--by", "topic").stdout
    assert "exact_match ↑ by topic, 120 samples" in shown
    assert "Differences from a/first" in shown
    assert ATTACK in shown
    assert "Slices are exploratory" in shown
    as_json = json.loads(show(world, "--by", "topic", "--output", "f1", "--json").stdout)
    assert as_json == slices(world, column="topic", output="f1")


def test_the_command_refuses_in_one_line(world, tmp_path):
    done = show(world, "--by", "nope", code=2)
    assert done.stderr.startswith(
        "error: The samples of this run have no column 'nope'. They have:"
    )
    assert done.stderr.count("\n") == 1
    assert "--by" in show(world, "--output", "f1", code=2).stderr
    done = show(world, "--by", "topic", "--junit", str(tmp_path / "j.xml"), code=2)
    assert "--junit" in done.stderr


def page(world, path, code=200):
    answer = world[0].get(path, headers=BROWSER)
    assert answer.status_code == code, answer.text
    check_policy(answer)
    assert ATTACK not in answer.text
    return answer.text


def attributes(text, tag, name):
    return [found[name] for each, found in Elements(text).elements if each == tag and name in found]


def test_a_runs_page_offers_columns_and_shows_slices(world):
    empty = page(world, "/runs/run_all")
    suggested = ["topic", "meta.level", "meta.tags", "length", "sometimes", "cluster"]
    assert [
        value for value in attributes(empty, "option", "value") if value in suggested
    ] == suggested
    links = [link for link in attributes(empty, "a", "href") if "column=" in link]
    assert [link.partition("column=")[2] for link in links] == [
        f"{name}#slices" for name in suggested
    ]
    text = page(world, links[0].removesuffix("#slices"))
    report = slices(world, column="topic")
    words = text_of(text)
    for one in report["slices"]:
        score = one["scores"][0]
        interval = f"{score['estimate']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
        assert f"{one['name']} 40 {interval}" in words
    assert "exact_match of a/first by topic" in words
    assert "exact_match of b/second by topic" in words
    assert "exact_match of b/second: difference from a/first" in words
    assert "Slices are exploratory" in words
    # The choice of a score keeps the column.
    kept = [
        found.get("value")
        for each, found in Elements(text).elements
        if each == "input" and found.get("name") == "column"
    ]
    assert kept == ["topic", "topic"]


def test_a_runs_page_says_what_is_wrong_with_a_column_and_shows_the_rest(world):
    text = text_of(page(world, "/runs/run_all?column=nope"))
    assert "no column 'nope'. They have: topic, meta" in text
    assert "Answers and files" in text
    assert "makes no slices" in text_of(page(world, "/runs/run_all?column=id"))
    page(world, f"/runs/run_all?column={LONG}")
    text = text_of(page(world, "/runs/run_all?column=late"))
    assert "few samples: 1" in text


def test_each_slice_leads_to_its_samples_in_both_orders(world):
    text = page(world, "/runs/run_all?column=topic")
    links = [link for link in attributes(text, "a", "href") if "slice=" in link]
    assert len(links) == 3
    shown = page(world, links[1])
    rows = [link for link in attributes(shown, "a", "href") if "/samples/" in link]
    expected = [n + 1 for n in range(ROWS) if n % 3 == 1]
    positions = [int(link.split("/")[4].split("?")[0]) for link in rows]
    assert list(dict.fromkeys(positions)) == expected
    chosen = [found.get("value") for each, found in Elements(shown).elements if "selected" in found]
    assert links[1].partition("slice=")[2] in chosen
    # The page of a sample leads to the next one of the slice.
    sample = page(world, rows[0])
    following = [link for link in attributes(sample, "a", "href") if "/samples/5?" in link]
    assert following
    assert "slice=" in following[0]
    # Sorted by differences, and with another filter.
    by_gain = page(world, f"{links[1]}&sort=-gain")
    sorted_rows = {
        int(link.split("/")[4].split("?")[0])
        for link in attributes(by_gain, "a", "href")
        if "/samples/" in link
    }
    assert sorted_rows == set(expected) - {6}
    failed_ones = page(world, links[2] + "&failed=true")
    assert [
        link.split("/")[4].split("?")[0]
        for link in attributes(failed_ones, "a", "href")
        if "/samples/" in link
    ][:1] == ["6"]


def test_a_slice_that_does_not_exist_is_refused(world):
    text = page(world, f"/runs/run_all/samples?column=topic&slice={LONG}", 400)
    assert "no slice" in text
    assert len(text) < 20_000
    page(world, "/runs/run_all/samples?column=nope&slice=missing", 400)
    # Without a column it says nothing.
    page(world, "/runs/run_all/samples?slice=missing")
