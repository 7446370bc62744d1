"""The page that compares runs: verdicts in words, samples that moved, and what changed."""

import asyncio
import html
import re

import httpx
import pytest
from page_elements import BROWSER, check_policy, text_of
from servers import gateway
from stores import a_run, add_keys, answered, in_store

from evaluators.base import Cell, Sample, Score

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"
A, B = ATTACK, "b/second"
SAMPLES = 20
METRICS = {"f1": "f1|v1", "length": "length|v1"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Runs as they would be stored: two over one dataset, one over another, one that is large."""
    folder = tmp_path_factory.mktemp("compare")
    document = {
        "dataset": "d.jsonl",
        "routes": [A, B],
        "baseline": B,
        "metrics": ["f1", "length"],
        "prompt": "Answer the question briefly",
        "parameters": {"temperature": 0.5},
    }

    async def fill(store):
        hotter = document | {
            "prompt": f"Answer the question at length {ATTACK}",
            "parameters": {"temperature": 0.9, "top_p": 0.5},
        }
        runs = {
            "run_one": {"document": document, "name": "first"},
            "run_two": {"document": hotter, "name": ATTACK, "metrics": METRICS | {"f1": "f1|v2"}},
            "run_else": {"document": document, "name": "first", "dataset_hash": "cd" * 32},
            "run_large": {"document": document, "name": "large", "cells": 5_000},
            "run_lone": {"document": document | {"routes": [A], "baseline": None}},
        }
        for run_id, fields in runs.items():
            samples = [Sample(id=f"s/{n}" if n else ATTACK, messages=()) for n in range(SAMPLES)]
            values = {"state": "completed", "finished_at": 1.0, "cells": 2 * SAMPLES}
            values |= {"metrics": METRICS}
            await store.add_run(a_run(run_id, **values | fields | {"dataset_rows": 20}), samples)
            cells = {
                Cell(route, sample.id, 0): (n, route)
                for n, sample in enumerate(samples)
                for route in fields["document"]["routes"]
            }
            await asyncio.gather(
                *(answered(store, cell, text=f"{cell}", run_id=run_id) for cell in cells)
            )
            await store.keep_scores(
                run_id,
                {
                    cell: [
                        Score(output="f1", value=_score(run_id, n, route)),
                        Score(output="words", value=5.0),
                    ]
                    for cell, (n, route) in cells.items()
                },
            )

    in_store(folder / "e.db", fill)
    keys = add_keys(folder / "e.db", "viewer", "client")
    config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
providers: {{baseline: {{kind: baseline}}}}
"""
    with gateway(config) as url, httpx.Client(base_url=url, timeout=60) as http:
        yield http, keys


def _score(run_id, n, route):
    """A is better than B by 0.2 to 0.39, but for the last sample; the second run is worse in A."""
    if route == B:
        return 0.1
    if n == SAMPLES - 1:
        return 0.0
    return 0.3 + n / 100 - (0.25 if run_id == "run_two" else 0.0)


def get(world, query="", status=200, role="viewer", path="/compare"):
    http, keys = world
    headers = BROWSER | {"authorization": f"Bearer {keys[role]}"}
    answer = http.get(f"{path}{query}", headers=headers)
    assert answer.status_code == status, answer.text
    check_policy(answer)
    assert "<script>alert" not in answer.text
    assert "<img" not in answer.text
    return answer.text


def test_routes_of_one_run_are_compared_in_words_with_the_api_s_numbers(world):
    http, keys = world
    page = get(world, "?a=run_one")
    text = text_of(page)
    headers = {"authorization": f"Bearer {keys['viewer']}"}
    contrast = http.get("/eval/compare?runs=run_one", headers=headers).json()["contrasts"][0]
    numbers = "{:+.3f} [{:+.3f}, {:+.3f}]".format(
        *(contrast[name] for name in ("difference", "low", "high"))
    )
    assert f"{A} is better than {B} in f1. {numbers}, 20 pairs of samples, p <0.001" in text
    assert f"f1 of each sample: {A} less {B}" in text
    assert "above 0 (better): 19 · equal: 0 · below 0: 1" in text
    assert "Other tests of f1, not corrected" in text
    assert "What changed between the runs" not in text
    # Of one pair, the table of scores has its names once.
    scores = page.partition("<h2>All scores</h2>")[2].partition("</table>")[0]
    assert f"{A} compared with {B}" in text_of(scores)
    assert (text_of(scores).count(B), "Compared with" in scores) == (1, False)
    # Another score, by the link of its row; a difference that is none has no verdict.
    link = html.unescape(re.search(r'href="([^"]*show=1)"', page)[1])
    assert f"{A} differs from {B} in words, a score without a better direction" in text_of(
        get(world, path=link)
    )


def test_samples_that_moved_most_lead_to_their_pages(world):
    http, keys = world
    page = get(world, "?a=run_one")
    gained, lost = page.partition("Samples that moved most")[2].split("<ol>")[1:3]
    assert [int(n) for n in re.findall(r"s/(\d+)</bdi>", gained)] == list(range(18, 8, -1))
    assert re.findall(r"s/(\d+)</bdi>", lost) == ["19"]
    assert "+0.380" in gained
    assert "-0.100" in lost
    link = html.unescape(re.search(r'href="([^"]*sample=s%2F18[^"]*)"', gained)[1])
    headers = BROWSER | {"authorization": f"Bearer {keys['viewer']}"}
    answer = http.get(link, headers=headers)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/runs/run_one/samples/19?output=f1&a=")
    every = re.search(r'href="([^"]*)">All samples, sorted', page)[1]
    assert 'aria-sort="descending"' in get(world, path=html.unescape(every))


def test_two_runs_show_what_changed_between_their_documents(world):
    page = get(world, "?a=run_one&b=run_two")
    text = text_of(page)
    assert f"{A} of A is better than {A} of B in f1. +0.237 [" in text
    # A verdict for each route, and which run is which: their names may be the same.
    assert f"{B} of A is not shown to differ from {B} of B in f1" in text
    assert f"Afirst, 1970-01-01 00:00 UTC, run_one B{ATTACK}, 1970-01-01" in text
    assert "Changedprompt, parameters.temperature, metric f1" in text
    assert "The prompts differ: the difference is of prompt and route together." in text
    assert "parameters.temperature 0.5 0.9" in text
    assert "parameters.top_p - 0.5" in text
    assert "Answer the question <del>briefly</del><ins>at length" in page
    assert "metric f1 f1|v1 f1|v1f1|v2" in text
    assert "sha256 of the dataset" not in text
    # Routes of different runs; samples are on the pages of both.
    crossed = get(world, f"?a=run_one&b=run_two&route_a={B}&route_b={B}")
    assert f"{B} of A is not shown to differ from {B} of B in f1" in text_of(crossed)
    assert page.count("sample=s%2F18") == 2


def test_runs_on_other_datasets_are_paired_as_one_says(world):
    refused = text_of(get(world, "?a=run_one&b=run_else", 409))
    assert "The runs are on different datasets" in refused
    assert "Pair samples by" in refused
    page = get(world, "?a=run_one&b=run_else&join=position")
    text = text_of(page)
    assert f"{A} of A is not shown to differ from {A} of B in f1" in text
    assert text.count("run_one") < 4
    assert "sha256 of the dataset abab" in text


def test_many_answers_are_read_when_requested_and_then_known(world):
    page = get(world, "?a=run_large")
    assert "This reads 5,000 answers" in text_of(page)
    assert "What it shows" not in text_of(page)
    link = html.unescape(re.search(r'href="([^"]*)">Compare them', page)[1])
    assert "What it shows" in text_of(get(world, path=link))
    assert "What it shows" in text_of(get(world, "?a=run_large"))


def test_what_cannot_be_compared_is_said_and_nothing_chosen_is_lost(world):
    for query, status, words in (
        ("?a=none", 404, "There is no run 'none'"),
        ("?a=run_lone", 200, "This run has one route. Choose another run"),
        ("?a=run_one&route_a=x&route_b=x", 400, "has no route 'x'"),
        ("?a=run_one&route_a=x", 400, "has no route 'x'"),
        ("?a=run_one&show=9", 400, "show: from 0 to"),
    ):
        assert words in text_of(get(world, query, status))
    assert '<option value="run_lone" selected>' in get(world, "?a=run_lone")
    assert "Choose one run to compare its routes" in text_of(get(world))
    get(world, "?a=run_one", 403, role="client")


def test_runs_are_chosen_in_their_list(world):
    page = get(world, path="/runs")
    assert 'action="/compare"' in page
    assert page.count('<option value="run_two">') == 2
    assert "/compare?a=run_one" in get(world, path="/runs/run_one")
    theirs = get(world, path="/runs", role="client")
    assert "/compare" not in theirs
