"""Experiments: what may stand in one table, what is told apart, and that runs outlive them."""

import json

import pytest
from servers import evalrouter, gateway, scripted

ROWS = [{"id": f"s{n}", "input": f"Say {n}", "reference": f"Say {n}"} for n in range(30)]
MODELS = {
    "echo": [{}],
    "wrong": [{"answer": "nothing of the kind"}],
    "some": [{"match": "Say (3|7)$", "status": 400}, {}],
    "dead": [{"status": 400}],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:20]))
    return tmp_path


@pytest.fixture
def url(folder):
    with scripted(MODELS) as upstream:
        (folder / "evalrouter.yaml").write_text(
            "server: {port: 0}\n"
            f'providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}\n'
        )
        with gateway((folder / "evalrouter.yaml").read_text()) as url:
            yield url


@pytest.fixture
def run(http, url):
    def run(**changes):
        document = {
            "dataset": "data.jsonl",
            "routes": ["up/wrong", "up/echo"],
            "baseline": "up/wrong",
            "metrics": ["exact_match", "length"],
            "experiment": "study",
        } | changes
        made = http.post(f"{url}/eval", json=document)
        assert made.status_code == 202, made.text
        run_id = made.json()["id"]
        http.get(f"{url}/eval/{run_id}/events")
        return run_id

    return run


def board_of(shown, output, n=0):
    return [table for table in shown["boards"] if table["output"]["name"] == output][n]


def test_comparable_runs_stand_in_one_table_best_first(run, http, url):
    first = run(name="first")
    second = run(name="second", routes=["up/wrong", "up/some"], parameters={"seed": 1})
    run(experiment="another")
    run(experiment="")
    shown = http.get(f"{url}/experiments/study").json()
    assert shown["experiment"]["runs"] == 2
    board = board_of(shown, "exact_match")
    assert board["apart"] == ""
    assert board["samples"] == 30
    entries = [
        (entry["rank"], entry["run"], entry["route"], entry["estimate"])
        for entry in board["entries"]
    ]
    assert entries == [
        (1, "first", "up/echo", 1.0),
        (1, "second", "up/some", 1.0),
        (3, "first", "up/wrong", 0.0),
        (3, "second", "up/wrong", 0.0),
    ]
    # What it says of differences is what the run's own report says.
    report = http.get(f"{url}/eval/{first}").json()["report"]
    [compared] = [
        comparison for comparison in report["comparisons"] if comparison["output"] == "exact_match"
    ]
    best = board["entries"][0]
    assert best["baseline"] == "up/wrong"
    assert best["verdict"] == compared["verdict"] == "better"
    for ours, theirs in [("difference", "difference"), ("difference_low", "low"),
                         ("difference_high", "high"), ("p_holm", "p_holm")]:  # fmt: skip
        assert best[ours] == compared[theirs]
    assert board["entries"][2]["verdict"] is None
    notes = " ".join(shown["notes"])
    assert "with 2 runs and 2 comparisons" in notes
    assert "Ranks are not tests" in notes
    # `some` failed on two samples, which is said and not averaged in.
    assert board["entries"][1]["coverage"] == pytest.approx(28 / 30)
    assert second in notes
    assert first not in notes
    # Neither direction of a length is better.
    assert {entry["rank"] for entry in board_of(shown, "words")["entries"]} == {None}


def test_what_is_not_comparable_is_set_apart_with_the_reason(run, http, url):
    for _ in range(2):
        run()
    run(dataset="other.jsonl")
    run(limit=20)
    run(metrics=[{"name": "exact_match", "normalize": False}])
    run(columns={"input": "prompt"}, prompt="{{ prompt }}")
    run(sample={"n": 30})
    shown = http.get(f"{url}/experiments/study").json()
    boards = [table for table in shown["boards"] if table["output"]["name"] == "exact_match"]
    assert [len(board["entries"]) for board in boards] == [4, 2, 2, 2, 2, 2]
    reasons = sorted(board["apart"] for board in boards)
    assert reasons[0] == ""
    assert reasons[1].startswith("another dataset: sha256 ")
    assert reasons[2].startswith("measured otherwise: exact_match|")
    assert reasons[3] == "other columns of the dataset are its input or reference"
    assert reasons[4] == "other samples of the dataset: 20 instead of 30 rows"
    assert reasons[5] == "other samples of the dataset: 30 instead of 30 rows"


def test_runs_without_scores_are_listed_with_the_reason(run, http, url):
    good = run()
    dead = run(routes=["up/dead"], baseline=None)
    shown = http.get(f"{url}/experiments/study").json()
    [left] = shown["left_out"]
    assert left["run_id"] == dead
    assert left["reason"]
    assert {entry["run_id"] for entry in board_of(shown, "exact_match")["entries"]} == {good}


def test_tags_and_notes_of_runs_and_experiments(run, http, url):
    tagged = run(tags=["nightly", "v:2"], notes="With the new prompt.")
    run(experiment="another", tags=["nightly"])
    shown = http.get(f"{url}/eval/{tagged}").json()["run"]
    assert (shown["tags"], shown["notes"]) == (["nightly", "v:2"], "With the new prompt.")

    def listed(**filters):
        return [run["id"] for run in http.get(f"{url}/eval", params=filters).json()["data"]]

    assert len(listed(tag="nightly")) == 2
    assert listed(tag="nightly", experiment="study") == listed(tag="v:2") == [tagged]
    assert listed(tag="night") == listed(experiment="study", state="failed") == []

    change = {"tags": ["paper", "paper"], "notes": "For the paper."}
    changed = http.patch(f"{url}/experiments/study", json=change).json()
    assert (changed["tags"], changed["notes"]) == (["paper"], "For the paper.")
    http.patch(f"{url}/experiments/study", json={"notes": ""})
    [experiment] = http.get(f"{url}/experiments", params={"tag": "paper"}).json()["data"]
    assert (experiment["name"], experiment["tags"], experiment["notes"]) == ("study", ["paper"], "")
    assert experiment["states"] == {"completed": 1}
    names = [experiment["name"] for experiment in http.get(f"{url}/experiments").json()["data"]]
    assert names == ["another", "study"]


def test_deleting_an_experiment_keeps_its_runs_unless_asked(run, http, url):
    remaining = run()
    http.patch(f"{url}/experiments/study", json={"notes": "n"})
    assert http.delete(f"{url}/experiments/study").json() == {"name": "study", "deleted_runs": 0}
    assert http.get(f"{url}/experiments/study").status_code == 404
    assert http.get(f"{url}/eval/{remaining}").json()["run"]["experiment"] == ""
    gone = run()
    answer = http.delete(f"{url}/experiments/study", params={"runs": "true"})
    assert answer.json() == {"name": "study", "deleted_runs": 1}
    assert http.get(f"{url}/eval/{gone}").status_code == 404
    assert http.get(f"{url}/eval/{remaining}").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("GET", "studdy", None, 404, "no experiment 'studdy'. Did you mean 'study'?"),
        ("DELETE", "none", None, 404, "no experiment 'none'"),
        ("PATCH", "none", {"notes": ""}, 404, "no experiment 'none'"),
        ("PATCH", "study", {"tags": ["a b"]}, 400, "tags[0]: expected `str` matching"),
        ("PATCH", "study", {"note": "x"}, 400, "Did you mean 'notes'?"),
        ("PATCH", "study", [1], 400, "must be an object (got an array)"),
    ],
)
def test_bad_requests(run, http, url, method, path, body, status, message):
    run(limit=1)
    answer = http.request(method, f"{url}/experiments/{path}", json=body)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"experiment": "a b"}, "experiment"),
        ({"experiment": "../a"}, "experiment"),
        ({"experiment": "x" * 101}, "experiment"),
        ({"tags": ["a", ""]}, "tags[1]"),
        ({"notes": 3}, "notes"),
    ],
)
def test_bad_names_in_a_document(http, url, changes, param):
    document = {"dataset": "data.jsonl", "routes": ["up/echo"], "metrics": ["length"]} | changes
    answer = http.post(f"{url}/eval", json=document)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_on_the_command_line(run, folder):
    run(name="first [draft]")
    second = json.loads(
        evalrouter(
            "eval", "run", "--dataset", "data.jsonl", "--routes", "baseline/echo,baseline/lead-1",
            "--metrics", "exact_match", "--experiment", "study", "--tag", "cli", "--json",
        ).stdout
    )["run"]["id"]  # fmt: skip
    shown = evalrouter("experiment", "show", "study").stdout
    assert "first [draft]" in shown
    assert "exact_match ↑" in shown
    assert "▲ better, ▼ worse than its run's baseline, ≈ equivalent to it" in shown
    assert "Ranks are not tests" in shown
    assert json.loads(evalrouter("experiment", "show", "study", "--json").stdout)["boards"]
    evalrouter("experiment", "note", "study", "Read [this].")
    evalrouter("experiment", "tag", "study", "a", "b")
    assert "b, c" in evalrouter("experiment", "tag", "study", "c", "--remove", "a").stdout
    listed = evalrouter("experiment", "list", "--tag", "b").stdout
    assert "Read [this]." in listed
    assert "No experiments yet." in evalrouter("experiment", "list", "--tag", "a").stdout
    runs = json.loads(evalrouter("eval", "list", "--tag", "cli", "--json").stdout)
    assert [run["id"] for run in runs] == [second]
    assert (
        "did you mean 'study'" in evalrouter("experiment", "show", "studi", check=2).stderr.lower()
    )
    assert "its runs stay" in evalrouter("experiment", "delete", "study").stdout
    assert "No experiments yet." in evalrouter("experiment", "list").stdout
    assert len(json.loads(evalrouter("eval", "list", "--json").stdout)) == 2
