"""Studies of judges over HTTP: calibrated, killed and resumed, compared, rated, shown."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from router_process import ForkedProcess
from servers import gateway, scripted

from evaluators.document import RunDocument
from evaluators.judge.calibration import Item
from providers.errors import ConflictError, DatasetError, NotFoundError, RunDocumentError
from router.config.loading import parse
from router.evals.judges.studies import (
    CalibrationPlan,
    PairwisePlan,
    board_of,
    calibration_of,
    items_of,
    style_of,
)
from router.evals.judges.study_report import compared, html, sheets
from router.services import Services

WORDS = ["awful", "poor", "fair", "good", "great"]
FEEDBACK = "Feedback: The answer is {}, as it is what was asked for in part. [RESULT] {}"
USAGE = {"prompt_tokens": 500, "completion_tokens": 50}
# Says of every answer what its own word says; the other one is a point harsher, but for the worst.
HONEST = [
    {"match": rf"(?s)evaluate:\n.*{word}", "answer": FEEDBACK.format(word, n), "usage": USAGE}
    for n, word in enumerate(WORDS, 1)
]
HARSH = [
    {"match": rf"(?s)evaluate:\n.*{word}", "answer": FEEDBACK.format(word, max(1, n - 1))}
    for n, word in enumerate(WORDS, 1)
]
# The better of two answers, by their words.
BETTER = [
    {
        "match": rf"(?s)Response A:\n[^#]*{best}[^#]*###Response B:\n[^#]*{worse}",
        "answer": "[RESULT] A",
    }
    for n, best in enumerate(WORDS)
    for worse in WORDS[: n + 1]
] + [{"answer": "[RESULT] B"}]
MODELS = {
    "honest": HONEST,
    "harsh": HARSH,
    "better": BETTER,
    "plain": [{"answers": ["It is so.", "It is so and so.", "It is not quite so, I think."]}],
    "prose": [{"answers": ["So it is.", "So it is, I would say.", "- So it is.\n- I think."]}],
    "listing": [{"answers": ["# So\n- it is\n- **so**", "It is a list.", "1. It\n2. is\n3. so"]}],
    "likes-lists": [
        {"match": r"(?s)Response A:\n(?:[-#]|1\.)", "answer": "[RESULT] A"},
        {"match": r"(?s)Response B:\n(?:[-#]|1\.)", "answer": "[RESULT] B"},
        {"answers": ["[RESULT] A", "[RESULT] B", "[RESULT] B"]},
    ],
    "always-a": [{"answer": "Both are fine. [RESULT] A"}],
    "mute": [{"answer": "No comment."}],
    "slow": [{**HONEST[3], "match": None, "delay_s": 0.2}],
    **{f"says-{word}": [{"answer": f"It is {word}."}] for word in WORDS},
}
CONFIG = """
providers: {{up: {{kind: compatible, base_url: "{url}", api_key: sk-secret-key}}}}
prices: {{up/honest: {{input: 1.0, output: 10.0}}}}
"""
ROWS = [
    {
        "id": f"r{n}",
        "instruction": f"Question {n // 5}?",
        "response": f"This is {WORDS[n % 5]} number {n}.",
        "score": [1 + n % 5, 1 + n % 5] if n % 10 else [1, 2],
        "category": ("code", "prose")[n % 2],
        "model": f"m{n % 5}",
    }
    for n in range(40)
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "human.jsonl").write_text(lines)
    return tmp_path


@pytest.fixture
async def services(folder):
    with scripted(MODELS) as upstream:
        config = CONFIG.format(url=upstream.url)
        (folder / "evalrouter.yaml").write_text(config)
        async with Services(parse(config, "test.yaml", {})) as services:
            services.upstream = upstream
            yield services


def plan(**more):
    return CalibrationPlan(**{"judge": "up/honest", "dataset": "human.jsonl", **more})


async def calibrated(services, **more):
    study = await services.studies.calibration(plan(**more))
    return await services.studies.execute(study.id)


async def test_a_calibration(services, folder):
    study = await calibrated(services, repeats=3)
    found = calibration_of(study)
    assert (found.items, found.scored, found.unparsed) == (40, 40, 0)
    assert found.agreement["pearson"].estimate > 0.98
    assert found.agreement["within_one"].estimate == 1
    assert found.itself.alpha.estimate == 1
    assert found.people.exact.estimate == pytest.approx(36 / 40)
    assert {group.name: group.judge.estimate for group in found.models} == {
        f"m{n}": n + 1 for n in range(5)
    }
    [use] = study.report["use"]
    assert (use["calls"], use["failed"]) == (120, 0)
    assert use["cost_usd"] == pytest.approx(120 * (500 + 50 * 10) / 1e6)
    assert study.report["this_attempt"]["requests"] == 120
    shown = html(study)
    assert "Pearson" in shown
    assert "<script" not in shown
    assert {sheet.title for sheet in sheets(study)} >= {"By model", "By category"}
    assert isinstance(items_of(await services.store.study(study.id))[0], Item)


async def test_a_run_knows_that_its_judge_was_calibrated(services, folder):
    study = await calibrated(services, rubric="honesty")
    rows = "".join(json.dumps({"input": word}) + "\n" for word in WORDS)
    (folder / "data.jsonl").write_text(rows)
    for rubric, calibrated_for_it in (("honesty", True), ("reasoning", False)):
        document = {
            "dataset": "data.jsonl",
            "routes": ["baseline/echo"],
            "metrics": [{"name": "prometheus", "judge": "up/honest", "rubric": rubric}],
        }
        run = await services.runs.create(RunDocument(**document), base=Path())
        await services.jobs.execute(run.id)
        outcome = await services.runs.outcome(run.id)
        [judge] = outcome.judges
        assert judge.calibrated is calibrated_for_it
        told = [one for one in outcome.report.warnings if "calibrated" in one]
        if calibrated_for_it:
            assert judge.calibration == study.id
            assert judge.pearson > 0.9
            assert not told
        else:
            assert "(it has for another)" in told[0]


async def test_a_run_says_what_the_calibration_of_its_judge_found(services, folder):
    rows = [{**row, "instruction": f"{n}?", "score": 1 + n % 5} for n, row in enumerate(ROWS)]
    (folder / "human.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    study = await calibrated(services, judge="up/harsh", rubric="honesty")
    (folder / "data.jsonl").write_text(json.dumps({"input": "good"}) + "\n")
    document = {
        "dataset": "data.jsonl",
        "routes": ["baseline/echo"],
        "metrics": [{"name": "prometheus", "judge": "up/harsh", "rubric": "honesty"}],
    }
    run = await services.runs.create(RunDocument(**document), base=Path())
    await services.jobs.execute(run.id)
    outcome = await services.runs.outcome(run.id)
    [judge] = outcome.judges
    assert judge.calibrated
    [told] = [one for one in outcome.report.warnings if study.id in one]
    assert told.startswith("up/harsh gives 0.80 [")
    assert "less than people on average" in told


@pytest.mark.parametrize("column", ["question", "cluster", "idx"])
async def test_a_column_says_which_answers_belong_together(services, folder, column):
    # The instruction is another one for every row.
    rows = [
        {**row, "instruction": f"Turn {n}.", column: n // 2, "score": 1 + n % 5}
        for n, row in enumerate(ROWS)
    ]
    (folder / "human.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {} if column in {"question", "cluster"} else {column: "question"}
    found = calibration_of(await calibrated(services, columns=columns))
    pairwise = found.agreement["pairwise"]
    assert (pairwise.estimate, pairwise.n, found.units["pairwise"]) == (1, 20, "pairs")
    assert ("pairwise accuracy", "20 pairs") in {
        (row[0], row[2]) for row in sheets(await calibrated(services, columns=columns))[0].rows
    }


async def test_drift_and_another_judge(services):
    first = await calibrated(services)
    second = await calibrated(services)
    # A calibration never uses what another one was answered.
    assert len(services.upstream.log.requests) == 80
    same = compared(first, second)
    assert (same.n, same.difference.difference) == (40, 0)
    harsh = await calibrated(services, judge="up/harsh")
    moved = compared(first, harsh)
    assert moved.difference.difference == pytest.approx(-0.8)
    # Of eight questions, all with the same sign: no p-value is smaller.
    assert moved.difference.p_value == pytest.approx(2 / 2**8)
    mute = await calibrated(services, judge="up/mute", retries=1, limit=10)
    assert calibration_of(mute).unparsed == 10
    with pytest.raises(ConflictError, match="no scored answer in common"):
        compared(first, mute)


async def test_pairs_are_judged_in_both_orders(services, folder):
    rows = [
        {
            "id": str(n),
            "instruction": "Which?",
            "response_a": WORDS[n % 5],
            "response_b": WORDS[(n + 1) % 5],
            "label": "a" if n % 5 == 4 else "b",
        }
        for n in range(20)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    good = (await calibrated(services, judge="up/better", dataset="pairs.jsonl")).report["pairwise"]
    assert (good["accuracy"]["estimate"], good["flip_rate"]["estimate"]) == (1, 0)
    bad = (await calibrated(services, judge="up/always-a", dataset="pairs.jsonl")).report[
        "pairwise"
    ]
    assert (bad["accuracy"]["estimate"], bad["flip_rate"]["estimate"]) == (0.5, 1)
    assert bad["one_order"]["estimate"] == pytest.approx(4 / 20)
    mute = (await calibrated(services, judge="up/mute", dataset="pairs.jsonl")).report["pairwise"]
    assert (mute["unparsed"], mute["win_rate"]["estimate"]) == (20, None)


async def test_a_tournament_and_a_comparison_of_a_runs_routes(services, folder):
    rows = "".join(json.dumps({"input": f"Question {n}"}) + "\n" for n in range(10))
    (folder / "data.jsonl").write_text(rows)
    routes = tuple(f"up/says-{word}" for word in WORDS)
    document = RunDocument(dataset="data.jsonl", routes=routes, metrics=("length",))
    run = await services.runs.create(document, base=Path())
    await services.jobs.execute(run.id)
    wanted = PairwisePlan(judge="up/better", run=run.id, routes=routes)
    study = await services.studies.pairwise(wanted, "tournament")
    study = await services.studies.execute(study.id)
    board = board_of(study)
    assert list(board.ratings) == list(reversed(routes))
    assert board.games == 50
    assert len([one for one in services.upstream.log.requests if one.model == "better"]) <= 100
    assert (routes[-1], routes[0]) in board.surely
    two = PairwisePlan(judge="up/better", run=run.id, routes=(routes[0], routes[4]), limit=4)
    study = await services.studies.execute((await services.studies.pairwise(two, "comparison")).id)
    assert study.report["pairwise"]["losses"] == study.report["pairwise"]["pairs"] == 4
    for wrong, message in (
        ((routes[0],), "two different"),
        ((routes[0], "up/honest"), "did not ask 'up/honest'"),
        (routes[:3], "two different"),
    ):
        bad = PairwisePlan(judge="up/better", run=run.id, routes=wrong)
        with pytest.raises(RunDocumentError, match=message):
            await services.studies.pairwise(bad, "comparison")


async def test_a_tournament_at_equal_style(services, folder):
    rows = "".join(json.dumps({"input": f"Question {n}"}) + "\n" for n in range(30))
    (folder / "data.jsonl").write_text(rows)
    routes = ("up/plain", "up/listing", "up/prose")
    document = RunDocument(dataset="data.jsonl", routes=routes, metrics=("length",))
    run = await services.runs.create(document, base=Path())
    await services.jobs.execute(run.id)
    plan = PairwisePlan(judge="up/likes-lists", run=run.id, routes=routes)
    study = await services.studies.pairwise(plan, "tournament")
    study = await services.studies.execute(study.id)
    style = style_of(study)
    plain = board_of(study).ratings["up/listing"]
    assert plain.low > 1000
    assert style.ratings["up/listing"].estimate < plain.estimate
    assert style.effects["markdown"].estimate > 0
    [(_, _, at_equal_style, *_)] = [row for row in sheets(study)[0].rows if row[0] == "up/listing"]
    assert at_equal_style.startswith(f"{style.ratings['up/listing'].estimate:.0f} [")
    assert "What one standard deviation more is worth" in html(study)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "x", "score": 1}, "needs the text 'response'"),
        ({"instruction": "x", "response": "y", "score": "good"}, "score is a number"),
        ({"response": "y", "score": 1}, "needs the text 'instruction'"),
        (
            {"instruction": "x", "response_a": "y", "response_b": "z", "label": "maybe"},
            "label is a",
        ),
        ({"instruction": "x", "response": "y", "score": 1, "rubric": "nonsense"}, "rubric"),
        ({"instruction": "###Task Description:\nx", "score": 1}, "no absolute prompt"),
    ],
)
async def test_a_dataset_that_is_none_is_told_before_any_request(services, folder, row, message):
    (folder / "human.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DatasetError, match=message):
        await services.studies.calibration(plan())
    assert not services.upstream.log.requests


async def test_a_changed_dataset_is_not_gone_on_with(services, folder):
    study = await services.studies.calibration(plan())
    (folder / "human.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    with pytest.raises(ConflictError, match="not what it was"):
        await services.studies.execute(study.id)
    with pytest.raises(NotFoundError):
        await services.studies.execute("cal_none")


def command(*args):
    return ForkedProcess("judge", *args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_calibration_pays_for_no_finished_verdict_twice(folder):
    with scripted(MODELS) as upstream:
        (folder / "evalrouter.yaml").write_text(CONFIG.format(url=upstream.url))
        options = ("--judge", "up/slow", "--dataset", "human.jsonl", "--concurrency", "4")
        process = command("calibrate", *options, "--repeats", "3")
        while len(upstream.log.requests) < 24:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        _, told = process.communicate()
        study_id = re.search(r"cal_\w+", told)[0]
        resumed = command("resume", study_id, "--json", "--html", "report.html")
        out, err = resumed.communicate(timeout=100)
        assert resumed.returncode == 0, err
        study = json.loads(out)
        assert (study["id"], study["state"]) == (study_id, "completed")
        assert study["report"]["use"][0]["calls"] == 120
        assert study["report"]["this_attempt"]["requests"] < 120
        assert len(upstream.log.requests) <= 128
        assert (folder / "report.html").read_text().startswith("<section")
        # The server finds it in the same store.
        with gateway(CONFIG.format(url=upstream.url)) as url, httpx.Client(base_url=url) as http:
            view = http.get("/eval/judges/up/slow/calibration").json()
            assert view["study"]["id"] == study_id
            assert view["change"] is None
            listed = http.get("/eval/judges", params={"judge": "up/slow"}).json()["data"]
            assert [one["id"] for one in listed] == [study_id]
            assert http.get(f"/eval/judges/studies/{study_id}").json()["detail"]["items"]
            page = http.get(f"/eval/judges/studies/{study_id}/fragment")
            assert page.headers["content-type"].startswith("text/html")
            missing = http.get("/eval/judges/nobody/calibration")
            assert missing.status_code == 404
            assert "never been calibrated" in missing.json()["error"]["message"]
