"""Drift from night to night: what a run has measured, and what it took from another run."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import httpx
import pytest
from servers import evalrouter, gateway, scripted

from providers.offline.scripted import ScriptedServer

ROWS = 40
GOOD: list[dict[str, Any]] = [{}]
# Wrong answers to three in ten.
WORSE: list[dict[str, Any]] = [{"match": "Say [0-9]*[147]$", "answer": "no"}, {}]
JUDGES = {"strict": [{"answer": "Bad. [RESULT] 2"}], "kind": [{"answer": "Good. [RESULT] 4"}]}


def write_rows(path: Path, rows: int, **changed: str) -> None:
    lines = ({"id": f"s{n}", "input": f"Say {n}", "reference": f"Say {n}"} for n in range(rows))
    texts = [json.dumps(line | {"reference": changed.get(line["id"], line["reference"])})
             for line in lines]  # fmt: skip
    path.write_text("\n".join(texts))


class Nights:
    """A folder with a dataset and a database, and upstreams that come and go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_rows(folder / "data.jsonl", ROWS)

    @contextmanager
    def upstream(self, rules: list[dict[str, Any]]) -> Iterator[ScriptedServer]:
        """The upstream of a night, behind the same name as that of every other."""
        with scripted({"m": rules, "other": rules} | JUDGES) as server:
            (self.folder / "evalrouter.yaml").write_text(
                f"providers: {{up: {{kind: compatible, base_url: '{server.url}'}}}}\n"
                "routes: {judge: {targets: [{model: up/strict}]}}\n"
            )
            yield server

    def run(self, *args: object, check: int = 0, **changes: object) -> dict[str, Any]:
        document = {"dataset": "data.jsonl", "routes": ["up/m"], "metrics": ["exact_match"]}
        (self.folder / "run.json").write_text(json.dumps(document | changes))
        done = evalrouter("eval", "run", "run.json", "--json", *args, check=check)
        outcome: dict[str, Any] = json.loads(done.stdout)
        return outcome

    def compare(self, a: str, b: str, *args: object, check: int = 0) -> dict[str, Any]:
        done = evalrouter("eval", "compare", a, b, "--json", *args, check=check)
        comparisons: dict[str, Any] = json.loads(done.stdout)
        return comparisons


@pytest.fixture
def nights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Nights(tmp_path)


def id_of(outcome: dict[str, Any]) -> str:
    run_id: str = outcome["run"]["id"]
    return run_id


# from night to night


def test_the_drift_of_a_changed_upstream_is_found_and_that_of_an_unchanged_one_is_not(nights):
    gates = ["exact_match >= 0.9"]
    with nights.upstream(GOOD) as server:
        first = id_of(nights.run(gates=gates))
        assert server.log.total == ROWS
    with nights.upstream(WORSE) as server:
        assert nights.run("--dry-run", gates=gates)["calls"] == ROWS
        outcome = nights.run(gates=gates, check=1)
        assert server.log.total == ROWS  # nobody wrote `cache: false`
        assert [gate["passed"] for gate in outcome["gates"]] == [False]
        second = id_of(outcome)
        third = id_of(nights.run(gates=["exact_match >= 0.5"]))
    found = nights.compare(second, first, "--fail-on", "worse", check=1)
    [contrast] = found["contrasts"]
    assert (contrast["n"], contrast["shared"], contrast["verdict"]) == (ROWS, 0, "worse")
    found = nights.compare(third, second, "--fail-on", "different")
    [contrast] = found["contrasts"]
    assert (contrast["n"], contrast["shared"]) == (ROWS, 0)
    assert contrast["verdict"] == "no difference shown"
    nights.compare(first, second, "--fail-on", "worse")
    nights.compare(first, second, "--fail-on", "different", check=1)


def test_a_run_that_took_its_answers_from_the_cache_says_so_and_gets_no_verdict(nights):
    with nights.upstream(GOOD) as server:
        first = id_of(nights.run())
        assert server.log.total == ROWS
    with nights.upstream(WORSE) as server:
        outcome = nights.run()
        assert server.log.total == 0
        [route] = outcome["report"]["routes"]
        assert (route["cached"], route["cached_from"]) == (ROWS, {first: ROWS})
        [warning] = [text for text in outcome["report"]["warnings"] if "nothing" in text]
        assert f"{ROWS} of {ROWS} answers are of {first}" in warning
        second = id_of(outcome)
        third = id_of(nights.run("--no-cache"))
        assert server.log.total == ROWS
    found = nights.compare(second, first)
    [contrast] = found["contrasts"]
    assert (contrast["n"], contrast["n_a"], contrast["n_b"]) == (0, ROWS, ROWS)
    assert contrast["shared"] == ROWS
    assert contrast["difference"] is contrast["p_value"] is contrast["verdict"] is None
    [warning] = [text for text in found["warnings"] if "share" in text]
    assert f"answers to {ROWS} samples" in warning
    assert first in warning
    assert not any("No sample is common" in text for text in found["warnings"])
    options = ("--fail-on", "worse")
    table = evalrouter("eval", "compare", second, first, *options, check=1, COLUMNS="140")
    assert "not measured" in table.stdout
    assert "exact_match of up/m was not measured" in table.stderr
    # What the third night measured is compared with either.
    for before in (first, second):
        [contrast] = nights.compare(third, before)["contrasts"]
        assert (contrast["n"], contrast["shared"], contrast["verdict"]) == (ROWS, 0, "worse")


def test_a_chain_of_copies_is_one_answer(nights):
    with nights.upstream(GOOD) as server:
        runs = [id_of(nights.run(experiment="e")) for _ in range(3)]
        assert server.log.total == ROWS
    for a, b in ((1, 0), (2, 1), (2, 0), (0, 2)):
        [contrast] = nights.compare(runs[a], runs[b])["contrasts"]
        assert (contrast["n"], contrast["shared"]) == (0, ROWS)
    board = json.loads(evalrouter("experiment", "show", "e", "--json").stdout)
    [note] = [note for note in board["notes"] if "measured once" in note]
    assert f"up/m of {runs[2]} (from {runs[0]})" in note
    entries = board["boards"][0]["entries"]
    assert sorted(len(entry["cached_from"]) for entry in entries) == [0, 1, 1]
    evalrouter("eval", "export", runs[2])
    rows = [
        json.loads(line)
        for path in nights.folder.rglob("rows.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert {row["result"]["answer"]["cached_from"] for row in rows} == {runs[0]}


def test_a_copy_of_a_run_that_nothing_names_any_more(nights):
    """As versions before `cached_from` left them: the first run was deleted."""
    with nights.upstream(GOOD):
        runs = [id_of(nights.run(repeats=2)) for _ in range(3)]
        fresh = id_of(nights.run("--no-cache", repeats=2))
    with closing(sqlite3.connect("evalrouter.db")) as connection, connection:
        connection.execute("UPDATE answers SET cached_from = NULL")
    [contrast] = nights.compare(runs[2], runs[1])["contrasts"]
    assert (contrast["n"], contrast["shared"]) == (0, ROWS)
    [contrast] = nights.compare(fresh, runs[1])["contrasts"]
    assert (contrast["n"], contrast["shared"]) == (ROWS, 0)
    outcome = json.loads(evalrouter("eval", "show", runs[2], "--json").stdout)
    assert outcome["report"]["routes"][0]["cached_from"] == {"unknown": 2 * ROWS}


# gates


def test_no_gate_counts_answers_of_another_run(nights):
    gates = [
        "exact_match >= 0.1",
        "exact_match >= baseline",
        "exact_match non_inferior baseline by 0.9",
        "exact_match equivalent baseline by 0.9",
        "p95(exact_match) >= 0.1",
        "p95(latency) < 100",
        "coverage >= 0.5",
    ]
    both = {"routes": ["up/m", "up/other"], "baseline": "up/other", "gates": gates}
    both |= {"metrics": ["exact_match", "latency"], "cache": True}
    with nights.upstream(GOOD):
        first = nights.run(**both)
        assert {gate["passed"] for gate in first["gates"]} == {True}
        outcome = nights.run("--junit", "gates.xml", **both, check=1)
    assert [gate["gate"] for gate in outcome["gates"] if not gate["passed"]] == gates
    for gate in outcome["gates"]:
        assert f"{ROWS} of {ROWS} answers of up/m were not measured" in gate["why"]
        assert id_of(first) in gate["why"]
    failures = list(Xml.parse("gates.xml").getroot().iter("failure"))
    assert len(failures) == len(gates)
    assert all("not measured by this run" in one.attrib["message"] for one in failures)
    # The report still shows what it has.
    assert outcome["report"]["routes"][0]["scores"][0]["estimate"] == 1.0


def test_gates_count_what_the_run_measured_itself(nights):
    gates = ["exact_match >= 0.9", "coverage >= 0.5"]
    with nights.upstream(GOOD):
        nights.run(limit=10)
    with nights.upstream(WORSE) as server:
        outcome = nights.run(gates=["exact_match >= 0.75", "coverage >= 0.7"], cache=True, check=1)
        assert server.log.total == ROWS - 10
        score, coverage = outcome["gates"]
        assert (score["passed"], score["found"]) == (False, pytest.approx(0.7))
        assert (coverage["passed"], coverage["found"]) == (True, 0.75)
        assert outcome["report"]["routes"][0]["scores"][0]["estimate"] == pytest.approx(31 / 40)
        # Its own answers stay its own, however often it is scored, and with more repeats.
        again = nights.run(limit=10, gates=gates, check=1)
    with nights.upstream(GOOD) as server:
        for command in (["rescore"], ["extend", "--repeats", "2"]):
            done = evalrouter("eval", *command, id_of(again), "--json", check=1)
            extended = json.loads(done.stdout)
            assert extended["report"]["routes"][0]["cached_from"] == {}
            assert "not measured" not in json.dumps(extended["gates"])
        assert server.log.total == 10


def test_equal_prompts_of_one_run_are_its_own(nights):
    equal = [{"id": f"s{n}", "input": f"Say {n // 2}", "reference": "x"} for n in range(ROWS)]
    (nights.folder / "data.jsonl").write_text("\n".join(map(json.dumps, equal)))
    with nights.upstream([{"answer": "x"}]) as server:
        outcome = nights.run(gates=["coverage >= 1"], cache=True, limits={"concurrency": 1})
        assert server.log.total == ROWS // 2
    [route] = outcome["report"]["routes"]
    assert (route["cached"], route["cached_from"]) == (ROWS // 2, {})
    assert not any("nothing" in text for text in outcome["report"]["warnings"])


def test_over_http_and_on_the_page(nights):
    with nights.upstream(GOOD):
        text = (nights.folder / "evalrouter.yaml").read_text()
        with gateway(f"server: {{port: 0}}\n{text}") as url, httpx.Client(timeout=60) as http:

            def run(**changes: object) -> str:
                document = {"dataset": "data.jsonl", "routes": ["up/m"], "metrics": ["exact_match"]}
                made = http.post(f"{url}/eval", json=document | changes).json()
                with http.stream("GET", f"{url}/eval/{made['id']}/events") as events:
                    assert "event: end" in list(events.iter_lines())
                run_id: str = made["id"]
                return run_id

            first, second = run(), run(gates=["exact_match > 0.5"], cache=True)
            [contrast] = http.get(f"{url}/eval/compare?runs={second},{first}").json()["contrasts"]
            assert (contrast["shared"], contrast["verdict"]) == (ROWS, None)
            outcome = http.get(f"{url}/eval/{second}").json()
            assert outcome["gates"][0]["passed"] is False
            page = http.get(f"{url}/runs/{second}").text
            assert "not measured by this run" in page
            fresh = run(gates=["exact_match > 0.5"])
            assert http.get(f"{url}/eval/{fresh}").json()["gates"][0]["passed"] is True


# the same answers, scored differently


def test_metrics_are_compared_over_the_same_answers(nights):
    upper = {"prompt": "{{ input | upper }}"}
    with nights.upstream(GOOD) as server:
        first = id_of(nights.run(**upper, metrics=["exact_match", "length"]))
        strict = {"name": "exact_match", "normalize": False}
        second = id_of(nights.run(**upper, metrics=[strict, "length"]))
        assert server.log.total == ROWS
    found = nights.compare(second, first)
    contrasts = {contrast["output"]: contrast for contrast in found["contrasts"]}
    exact = contrasts.pop("exact_match")
    assert (exact["n"], exact["shared"]) == (ROWS, 0)
    assert exact["verdict"] == "worse"
    assert {(other["n"], other["shared"]) for other in contrasts.values()} == {(0, ROWS)}
    [warning] = [text for text in found["warnings"] if "share" in text]
    assert "scored differently by exact_match" in warning


def test_judges_are_compared_over_the_same_answers(nights):
    judged = {"metrics": [{"name": "prometheus", "judge": "judge", "rubric": "helpfulness"}]}
    with nights.upstream(GOOD) as server:
        first, second = (id_of(nights.run(**judged)) for _ in range(2))
        found = nights.compare(second, first)["contrasts"]
        assert {(contrast["n"], contrast["shared"]) for contrast in found} == {(0, ROWS)}
        config = nights.folder / "evalrouter.yaml"
        config.write_text(config.read_text().replace("up/strict", "up/kind"))
        third = id_of(nights.run(**judged))
        assert server.log.total == 3 * ROWS
    contrast = nights.compare(third, first)["contrasts"][0]
    assert (contrast["n"], contrast["shared"], contrast["verdict"]) == (ROWS, 0, "better")


def test_changed_references_are_compared_and_the_others_are_not(nights):
    write_rows(nights.folder / "grown.jsonl", ROWS + 10, s1="one", s2="two")
    with nights.upstream(GOOD):
        first, second = id_of(nights.run()), id_of(nights.run(dataset="grown.jsonl"))
    found = nights.compare(second, first, "--join", "id")
    [contrast] = found["contrasts"]
    assert (contrast["n"], contrast["losses"], contrast["shared"]) == (2, 2, ROWS - 2)
    for join in ("id", "position"):
        [contrast] = nights.compare(first, second, "--join", join)["contrasts"]
        assert contrast["shared"] == ROWS - 2
