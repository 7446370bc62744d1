"""The pages of experiments: a leaderboard, tags and notes."""

import json

import httpx
import pytest
from page_elements import BROWSER, Elements, check_policy
from servers import begun, finished, gateway

ATTACK = "<script>alert(1)</script>"
PROGRAM = {"accept": "*/*"}


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiments")
    rows = [{"input": f"One {n}. Two.", "reference": f"One {n}."} for n in range(8)]
    (folder / "d.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
evaluation: {{roots: ["{folder}"]}}
datasets: {{roots: ["{folder}"]}}
"""
    with gateway(config) as url, httpx.Client(base_url=url, headers=BROWSER, timeout=60) as http:
        document = {
            "dataset": f"{folder}/d.jsonl",
            "routes": ["baseline/echo", "baseline/lead-1"],
            "baseline": "baseline/echo",
            "metrics": ["exact_match"],
            "experiment": "e",
            "name": ATTACK,
        }
        http.run = begun(http, document)
        finished(http, http.run)
        yield http


def test_an_experiment_has_a_leaderboard_of_its_runs(http):
    page = http.get("/experiments/e")
    check_policy(page)
    text = Elements(page.text).text
    for words in ("exact_match", "baseline/lead-1", ATTACK, "better", "from baseline/echo"):
        assert words in text
    assert f"/runs/{http.run}" in page.text
    part = http.get("/pages/experiments/e/leaderboard")
    assert "<html" not in part.text
    assert "exact_match" in part.text
    assert http.get("/experiments/e", headers=PROGRAM).json()["boards"]
    assert http.get("/experiments/nothing").status_code == 404
    assert 'href="/experiments/e"' in http.get("/experiments").text


def test_tags_and_notes_are_changed_and_what_is_wrong_is_said_beside_what_was_typed(http):
    path = "/pages/experiments/e/change"
    changed = http.post(path, data={"tags": "a, b", "notes": ATTACK})
    assert changed.headers["location"] == "/experiments/e"
    page = http.get("/experiments/e")
    assert ATTACK in Elements(page.text).text
    assert 'value="a, b"' in page.text
    refused = http.post(path, data={"tags": "c" * 3000, "notes": "kept"})
    assert refused.status_code == 400
    assert 'role="alert"' in refused.text
    assert ">kept</textarea>" in refused.text


def test_an_experiment_is_deleted_and_its_runs_stay(http):
    assert http.post("/pages/experiments/e/delete").headers["location"] == "/experiments"
    assert http.get("/experiments/e").status_code == 404
    assert http.get(f"/runs/{http.run}").status_code == 200
