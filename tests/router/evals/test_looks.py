"""Runs that are a second look at samples of an earlier one, however they came about."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import evalrouter, gateway, scripted

from providers.offline.scripted import ScriptedServer

MODELS: dict[str, list[dict[str, Any]]] = {
    "m": [{"match": "Say [0-9]*[147]$", "answer": "no"}, {}],
    "other": [{}],
    "changed": [{"times": 9, "answer": "x"}, {}],
}


class Server:
    """A server with a dataset in its working directory, and its upstream."""

    def __init__(self, url: str, http: httpx.Client, folder: Path, upstream: ScriptedServer):
        self.url, self.http, self.folder, self.upstream = url, http, folder, upstream

    def write(self, rows: int, say: str = "Say") -> None:
        lines = (
            {"id": f"s{n}", "input": f"{say} {n}", "reference": f"Say {n}"} for n in range(rows)
        )
        (self.folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))

    def wait(self, run_id: str) -> dict[str, Any]:
        with self.http.stream("GET", f"{self.url}/eval/{run_id}/events") as events:
            assert "event: end" in list(events.iter_lines())
        return self.show(run_id)

    def show(self, run_id: str) -> dict[str, Any]:
        outcome: dict[str, Any] = self.http.get(f"{self.url}/eval/{run_id}").json()
        return outcome

    def run(self, **changes: object) -> dict[str, Any]:
        document = {"dataset": "data.jsonl", "routes": ["up/m"], "metrics": ["exact_match"]}
        made = self.http.post(f"{self.url}/eval", json=document | changes)
        assert made.status_code == 202, made.text
        return self.wait(made.json()["id"])

    def post(self, run_id: str, action: str, **body: object) -> dict[str, Any]:
        made = self.http.post(f"{self.url}/eval/{run_id}/{action}", json=body)
        assert made.status_code == 202, made.text
        return self.wait(run_id)


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Server]:
    monkeypatch.chdir(tmp_path)
    with scripted(MODELS) as upstream, httpx.Client(timeout=60) as http:
        config = f"""
server: {{port: 0}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}
"""
        (tmp_path / "evalrouter.yaml").write_text(config)
        with gateway(config) as url:
            made = Server(url, http, tmp_path, upstream)
            made.write(12)
            yield made


def id_of(outcome: dict[str, Any]) -> str:
    run_id: str = outcome["run"]["id"]
    return run_id


def reason(outcome: dict[str, Any]) -> str:
    """Return why the report's numbers hold whenever one looks; "" where they need not."""
    report = outcome["report"]
    found = [one for one in report["warnings"] if "hold whenever one looks" in one]
    assert report["always_valid"] == bool(found)
    return found[0] if found else ""


def test_a_new_run_over_more_of_the_same_samples_is_an_extension(server):
    first = server.run(limit=5)
    assert reason(first) == ""
    longer = server.run(limit=9)
    assert f"answers that {id_of(first)} showed before it was created" in reason(longer)
    assert server.upstream.log.total == 9
    # The first ran before there was anything to see, and still says so.
    assert reason(server.show(id_of(first))) == ""
    # Also one with fewer samples, and one with the samples of the second.
    assert reason(server.run(limit=4))
    assert id_of(first) in reason(server.run(limit=9))
    done = evalrouter("eval", "show", id_of(longer))
    assert "whenever one looks" in " ".join(done.stdout.split())


def test_the_same_samples_once_more_are_no_other_look(server):
    first = server.run(limit=5)
    assert reason(server.run(limit=5)) == ""
    other = [{"name": "exact_match", "normalize": False}]
    assert reason(server.run(limit=5, metrics=other, routes=["up/m", "up/other"])) == ""
    # Extending the first does not change what the others were.
    same = server.run(limit=5)
    server.post(id_of(first), "extend", limit=8)
    assert reason(server.show(id_of(same))) == ""
    assert "was extended" in reason(server.show(id_of(first)))
    # What is as long as it is because somebody looked is so in a copy too.
    assert id_of(first) in reason(server.run(limit=8))


def test_more_repeats_are_more_of_the_same(server):
    first = server.run(limit=5)
    assert id_of(first) in reason(server.run(limit=5, repeats=2))


def test_a_file_that_has_grown(server):
    first = server.run()
    server.write(20)
    assert id_of(first) in reason(server.run())
    server.write(20, say="Tell")
    assert reason(server.run()) == ""


def test_free_targets_answer_alike_without_the_cache(server):
    first = server.run(limit=5, routes=["baseline/echo"])
    longer = server.run(limit=9, routes=["baseline/echo"])
    assert longer["report"]["routes"][0]["cached"] == 0
    assert id_of(first) in reason(longer)
    rows = [{"id": n, "input": f"Say {n}", "answer": f"{n}", "reference": "1"} for n in range(9)]
    (server.folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = server.run(limit=5, routes=["dataset/answer"])
    assert id_of(first) in reason(server.run(limit=9, routes=["dataset/answer"]))


def test_new_answers_to_more_samples_are_new(server):
    """Drift against a longer reference: what has changed since was not to be seen before."""
    server.run(limit=9, routes=["up/changed"])
    changed = server.run(limit=5, routes=["up/changed"], cache=False)
    assert reason(changed) == ""
    # Where it still answers alike, what it answers could be seen.
    assert id_of(changed) in reason(server.run(limit=4, routes=["up/changed"], cache=False))


def test_answers_of_a_deleted_run(server):
    first = server.run(limit=5)
    longer = server.run(limit=9)
    same = server.run(limit=9, routes=["up/other"])
    copy = server.run(limit=9, routes=["up/other"])
    for outcome in (first, same):
        assert server.http.delete(f"{server.url}/eval/{id_of(outcome)}").status_code < 300

    def shown(outcome: dict[str, Any]) -> str:
        return reason(json.loads(evalrouter("eval", "show", id_of(outcome), "--json").stdout))

    assert f"answers of {id_of(first)}, of which nothing is known" in shown(longer)
    # All that was to be seen of the other is in its copy.
    assert shown(copy) == ""


def test_comparisons_and_gates_of_such_runs_use_the_same_numbers(server):
    body = {"routes": ["up/m", "up/other"], "baseline": "up/other"}
    gates = ["exact_match non_inferior baseline by 0.5"]
    first = server.run(limit=5, gates=gates, cache=True, **body)
    longer = server.run(limit=9, gates=gates, cache=True, **body)
    assert reason(longer)
    # The message of each gate says which numbers decided.
    bodies = [server.run(limit=limit, gates=gates, cache=False, **body) for limit in (12, 10)]
    assert ["whenever one looks" in one["gates"][0]["why"] for one in bodies] == [True, True]
    assert "whenever one looks" not in first["gates"][0]["why"]
    compared = server.http.get(f"{server.url}/eval/compare", params={"runs": id_of(longer)}).json()
    assert compared["always_valid"]
    assert any(id_of(first) in one for one in compared["warnings"])
    assert compared["contrasts"][0]["method"] == "betting"
    planned = server.http.get(f"{server.url}/eval/compare", params={"runs": id_of(first)}).json()
    assert not planned["always_valid"]
    shown = json.loads(evalrouter("eval", "compare", id_of(longer), "--json").stdout)
    assert shown["always_valid"]


def test_a_rule_that_did_not_end_the_run_was_looked_at_all_the_same(server):
    outcome = server.run(stop_when={"half_width": 0.01})
    assert outcome["run"]["stopped"] == ""
    assert "was looked at after every answer" in reason(outcome)


def test_a_run_ends_as_decided_only_where_its_report_says_so(server):
    """Many outputs, few samples: corrected for all of them, nothing would be shown."""
    server.write(200)
    outcome = server.run(
        routes=["up/m", "up/other"],
        baseline="up/other",
        metrics=["exact_match", "f1", "contains", "rouge", "length"],
        stop_when={"decided": "exact_match"},
        gates=["exact_match equivalent baseline by 0.9"],
        limits={"concurrency": 1},
    )
    stopped = outcome["run"]["stopped"]
    assert stopped.startswith("exact_match is decided: up/m is worse than")
    comparisons = outcome["report"]["comparisons"]
    [decided] = [one for one in comparisons if one["output"] == "exact_match"]
    assert decided["verdict"] == "worse"
    assert f"(n {decided['n']}, always-valid p {decided['p_holm']:.2g})" in stopped
    assert decided["p_holm"] == decided["p_value"] < 0.05 < 7 * decided["p_value"]
    [gate] = outcome["gates"]
    assert gate["found"] == pytest.approx(decided["low"])
    # Comparing the routes once more says the same.
    compared = server.http.get(
        f"{server.url}/eval/compare", params={"runs": id_of(outcome)}
    ).json()["contrasts"]
    assert [one["verdict"] for one in compared if one["output"] == "exact_match"] == ["worse"]


def test_a_run_with_another_primary_output_cannot_decide(server):
    body = {
        "dataset": "data.jsonl",
        "routes": ["up/m", "up/other"],
        "metrics": ["exact_match", "f1"],
        "baseline": "up/other",
        "primary": "f1",
        "stop_when": {"decided": "exact_match"},
    }
    error = server.http.post(f"{server.url}/eval", json=body).json()["error"]
    assert error["param"] == "stop_when.decided"
    assert "by its primary output, f1" in error["message"]
