"""The pages of judges: studies, label plans, and answers that people label one after the other."""

import html
import json
import re
import threading

import httpx
import msgspec
import pytest
from page_elements import BROWSER, Elements, check_policy, check_sorts
from servers import begun, client_of, finished, gateway, scripted
from stores import in_store

from evaluators.judge.calibration import Item, calibrate
from router.store.studies import Study

ROLES = {"root": "admin", "ann": "reviewer", "bob": "reviewer", "eve": "viewer"}
MODELS = {
    "echo": [{}],
    "judge": [
        {"match": "(?s)evaluate:\n.*even", "answer": "[RESULT] 4"},
        {"match": "(?s)evaluate:\n.*odd", "answer": "[RESULT] 2"},
    ],
}
LONG = "\u0645\u0631\u062d\u0628\u0627 " * 5000
ROWS = [
    {
        "id": f"s{n}",
        "input": f"<b>s{n}</b> is {'odd' if n % 2 else 'even'}. {LONG if n == 3 else ''}",
    }
    for n in range(24)
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    (folder / "d.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    with scripted(MODELS) as upstream:
        config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
evaluation: {{roots: ["{folder}"]}}
datasets: {{roots: ["{folder}"]}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}
"""
        with gateway(config) as url, httpx.Client(base_url=url, timeout=60) as http:
            document = {
                "dataset": f"{folder}/d.jsonl",
                "routes": ["up/echo", "baseline/echo"],
                "metrics": [{"name": "prometheus", "judge": "up/judge"}],
            }
            run = begun(http, document)
            finished(http, run)
            keys = {}
            for name, role in ROLES.items():
                headers = {"authorization": f"Bearer {keys['root']}"} if keys else {}
                made = http.post("/keys", json={"name": name, "role": role}, headers=headers)
                assert made.status_code == 201, made.text
                keys[name] = made.json()["secret"]
            yield url, run, keys, folder


@pytest.fixture
def ann(server):
    with client(server, "ann") as http:
        yield http


def client(server, name):
    return client_of(server[0], server[2][name], BROWSER)


def path(run, route="up/echo", **query):
    query = httpx.QueryParams({"route": route, "output": "helpfulness", **query})
    return f"/runs/{run}/labels/next?{query}"


def fields(page):
    return {
        attributes["name"]: attributes.get("value", "")
        for tag, attributes in Elements(page.text).elements
        if tag == "input" and attributes.get("type") == "hidden"
    }


def sample(page):
    return re.search(r"<b>(s\d+)</b>", html.unescape(page.text))[1]


def give(http, run, page, score, **changes):
    """Send the form that an answer has, and return where it leads."""
    data = {**fields(page), "score": score, **changes}
    return http.post(f"/pages/runs/{run}/labels/score", data=data)


def labels(http, run, route="up/echo"):
    found = http.get(f"/eval/{run}/labels", headers={"accept": "*/*"}).json()["data"]
    return {label["cell"][1]: label["scores"] for label in found if label["cell"][0] == route}


def test_an_answer_is_shown_with_its_rubric_and_without_what_the_judge_says(server, ann):
    _, run, _, _ = server
    page = ann.get(path(run))
    assert page.status_code == 200, page.text
    check_policy(page)
    found = Elements(page.text)
    assert "<b>s" in found.text
    assert "b" not in {tag for tag, _ in found.elements}
    buttons = [one for tag, one in found.elements if tag == "button" and one.get("name") == "score"]
    assert [one["value"] for one in buttons] == ["1.0", "2.0", "3.0", "4.0", "5.0"]
    assert [one["data-key"] for one in buttons] == ["1", "2", "3", "4", "5"]
    assert "RESULT" not in page.text
    # What a score of 5 means.
    assert "helpful" in found.text.lower()


def test_a_score_is_kept_taken_back_and_corrects_nothing_twice(server, ann):
    _, run, _, _ = server
    page = ann.get(path(run))
    labelled = sample(page)
    answer = give(ann, run, page, "3.0")
    assert answer.status_code == 303, answer.text
    following = ann.get(answer.headers["location"])
    assert labels(ann, run)[labelled] == [3.0]
    assert sample(following) != labelled
    assert "You gave 3" in following.text
    undone = ann.post(f"/pages/runs/{run}/labels/undo", data=fields(following) | undo_of(following))
    assert undone.status_code == 303, undone.text
    assert labelled not in labels(ann, run)
    assert sample(ann.get(undone.headers["location"])) == labelled
    again = ann.post(f"/pages/runs/{run}/labels/undo", data=fields(following) | undo_of(following))
    assert again.status_code == 409
    assert again.headers["hx-push-url"] == "false"
    assert "taken back already" in again.text


def undo_of(page):
    form = re.search(r'action="[^"]*/labels/undo".*?</form>', page.text, re.DOTALL)[0]
    return fields(type("Part", (), {"text": form}))


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"score": "6"}, 400, "score: one of 1, 2, 3, 4, 5, not 6"),
        ({"score": "nan"}, 400, "score: not a number"),
        ({"score": "3", "answer": "0" * 64}, 409, "another text by now"),
        ({"score": "3", "position": "99"}, 404, "no answer to sample 99"),
    ],
)
def test_what_is_no_score_is_refused_and_the_answer_stays(server, ann, changes, status, says):
    _, run, _, _ = server
    page = ann.get(path(run))
    answer = give(ann, run, page, **({"score": ""} | changes))
    assert answer.status_code == status
    assert answer.headers["hx-push-url"] == "false"
    assert says in Elements(answer.text).text
    assert sample(answer) == sample(page)


def test_two_people_at_once_read_different_answers_and_lose_none(server):
    _, run, _, _ = server
    done = {"ann": [], "bob": []}

    def work(name):
        with client(server, name) as http:
            address = path(run, "baseline/echo")
            for _ in range(5):
                page = http.get(address)
                done[name].append(sample(page))
                address = give(http, run, page, "4.0").headers["location"]

    people = [threading.Thread(target=work, args=(name,)) for name in done]
    for one in people:
        one.start()
    for one in people:
        one.join()
    with client(server, "ann") as http:
        found = labels(http, run, "baseline/echo")
    assert len(set(done["ann"])) == len(set(done["bob"])) == 5
    both = set(done["ann"]) & set(done["bob"])
    assert sum(map(len, found.values())) == 10
    assert {name for name, scores in found.items() if len(scores) == 2} == both


def test_a_skipped_answer_comes_again_only_from_the_beginning(server, ann):
    _, run, _, _ = server
    page = ann.get(path(run))
    skipped = sample(page)
    [address] = re.findall(r'href="([^"]*)" data-key="s"', page.text)
    seen = set()
    address = html.unescape(address)
    for _ in range(40):
        page = ann.get(address)
        if "No answer is left for you" in page.text:
            break
        seen.add(sample(page))
        address = html.unescape(re.findall(r'href="([^"]*)" data-key="s"', page.text)[0])
    assert "No answer is left for you" in page.text
    assert len(seen) == len(ROWS) - 1 - len(labels(ann, run))
    assert skipped not in seen
    assert sample(ann.get(path(run, after=0))) == skipped


def test_long_texts_are_cut_and_lead_to_the_whole(server, ann):
    _, run, _, _ = server
    address = path(run)
    for _ in range(len(ROWS)):
        page = ann.get(address)
        if sample(page) == "s3":
            break
        address = html.unescape(re.findall(r'href="([^"]*)" data-key="s"', page.text)[0])
    assert len(page.text) < 120_000
    whole = re.findall(r'href="([^"]*part=answer[^"]*)"', page.text)[0]
    assert LONG.strip() in ann.get(html.unescape(whole)).text


def test_the_overview_says_how_many_labels_are_needed(server, ann):
    _, run, _, _ = server
    assert f'href="/runs/{run}/labels"' in ann.get(f"/runs/{run}").text
    page = ann.get(f"/runs/{run}/labels")
    check_policy(page)
    assert "still needed" in page.text
    assert "24</strong> answers that the judge scored" in page.text
    assert "not a number above 0" in ann.get(f"/runs/{run}/labels?width=-1").text
    assert ann.get(f"/runs/{run}/labels?route=nothing").status_code == 400
    with client(server, "eve") as viewer:
        assert "Your key may not label" in viewer.get(f"/runs/{run}/labels").text
        refused = viewer.post(f"/pages/runs/{run}/labels/score", data={"route": "up/echo"})
        assert refused.status_code == 403


def test_labels_of_a_plan_are_not_mixed_with_others(server, ann):
    _, run, _, _ = server
    kept = ann.get(f"/eval/{run}/labels", headers={"accept": "*/*"}).json()["data"]
    rows = ann.get(
        f"/eval/{run}/samples?route=up/echo&limit=100", headers={"accept": "*/*"}
    ).json()["data"]
    planned = [
        {"sample_id": row["sample"]["id"], "answer": row["answer"]["text"], "chance": 0.5}
        for row in rows
    ]
    body = {"labels": planned, "route": "up/echo", "replace": True}
    assert ann.put(f"/eval/{run}/labels", json=body).status_code == 200, kept
    assert "drawn by a plan" in ann.get(f"/runs/{run}/labels?route=up%2Fecho").text
    answer = give(ann, run, ann.get(path(run)), "3.0")
    assert answer.status_code == 409
    assert "drawn by a plan" in answer.text
    ann.put(f"/eval/{run}/labels", json={"labels": [], "route": "up/echo", "replace": True})


def test_a_study_says_whether_its_judge_can_be_trusted(server, ann):
    _, run, _, folder = server
    items = [
        Item(id=str(n), judge=(float(1 + n % 5),), people=(float(1 + (n * n) % 5),))
        for n in range(40)
    ]
    report = {
        "calibration": msgspec.to_builtins(calibrate(items, low=1, high=5)),
        "use": [],
        "hardware": [],
        "this_attempt": {"requests_per_s": 0},
    }
    study = Study(
        id="cal_1",
        kind="calibration",
        judges=("<i>judge</i>",),
        grading="g",
        name="d",
        state="completed",
        created_at=1.0,
        report=report,
        detail={"items": msgspec.to_builtins(items)},
    )

    async def add(store):
        await store.set_study(study)
        await store.set_study(
            msgspec.structs.replace(study, id="cal_2", state="running", report={})
        )

    in_store(folder / "e.db", add)
    listed = ann.get("/judges")
    check_policy(listed)
    check_sorts(ann, "/judges")
    assert "<i>judge</i>" in Elements(listed.text).text
    assert f"/runs/{run}/labels" in listed.text
    page = ann.get("/judges/studies/cal_1")
    check_policy(page)
    assert "agrees poorly with people" in page.text
    assert "What people say at each score" in Elements(page.text).text
    assert "Pearson" in page.text
    assert "Nothing has been measured yet" in ann.get("/judges/studies/cal_2").text
    assert ann.get("/judges/studies/none").status_code == 404
