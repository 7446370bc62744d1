"""The playground: its form, and what becomes of answers."""

import json

import httpx
import pytest
from page_elements import BROWSER, Elements, check_policy
from servers import finished, gateway
from stores import add_keys, in_store

from router.gateway.key_administration import create

CONVERSATION = [{"role": "user", "content": "What is the capital of France?"}]
LONGER = [{"role": "system", "content": "Be brief."}, *CONVERSATION]
ATTACK = "<script>alert(1)</script>\"'"


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    """A client of a server with a judge."""
    folder = tmp_path_factory.mktemp("playground")
    config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
server: {{max_body_bytes: 1000000}}
providers:
  baseline: {{kind: baseline}}
  demo:
    kind: scripted
    script:
      prometheus:
        - {{match: "(?s)evaluate:\\n[^#]*Paris", answer: "Feedback: Right. [RESULT] 5"}}
        - {{answer: "Feedback: Wrong. [RESULT] 1"}}
routes: {{r: {{targets: [{{model: baseline/echo}}]}}, s: {{targets: [{{model: baseline/lead-3}}]}}}}
"""
    with gateway(config) as url, httpx.Client(base_url=url, timeout=60) as http:
        yield http


def form_of(http, query=""):
    answer = http.get(f"/playground{query}", headers=BROWSER)
    assert answer.status_code == 200, answer.text
    check_policy(answer)
    return Elements(answer.text).elements


def values(elements, name):
    return [each.get("value") for _, each in elements if each.get("name") == name]


def test_the_form_is_as_the_address_says(http):
    # The last one is of the template of a column.
    assert values(form_of(http), "route") == ["r", "s", ""]
    query = "?route=s&route=demo/x&temperature=0.5&seed=7&prompt=hi"
    elements = form_of(http, query)
    assert values(elements, "route") == ["s", "demo/x", ""]
    assert (values(elements, "temperature"), values(elements, "seed")) == (["0.5"], ["7"])
    assert len(values(form_of(http, f"?{'route=a&' * 20}seed=1"), "route")) == 8 + 1
    assert ("form", "1000000") in [(tag, each.get("data-max-bytes")) for tag, each in elements]
    answer = http.get("/playground", params={"prompt": ATTACK, "route": ATTACK}, headers=BROWSER)
    assert "<script>alert" not in answer.text
    assert ATTACK in Elements(answer.text).text


def test_an_answer_is_shown_as_markdown(http):
    path = "/pages/playground/markdown"
    answer = http.post(path, json={"text": "**a** <b onclick=x>"})
    assert answer.status_code == 200
    assert answer.json() == {
        "html": "<p><strong>a</strong> [HTML]</p>\n",
        "hidden_pictures": 0,
    }
    for body, status in (({}, 400), ({"text": 1}, 400), ({"text": "a", "x": 1}, 400)):
        assert http.post(path, json=body).status_code == status
    answer = http.post(path, json={"text": "a" * 100_001})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "text")


def test_a_conversation_becomes_a_row_of_a_new_version(http):
    def keep(messages, **more):
        body = {"dataset": "kept", "messages": messages} | more
        return http.post("/pages/playground/sample", json=body)

    first = keep(CONVERSATION, reference="Paris")
    assert (first.status_code, first.json()["rows"]) == (201, 1)
    second = keep(LONGER)
    assert (second.json()["name"], second.json()["rows"]) == ("kept", 2)
    content = http.get("/datasets/kept/content").text
    rows = [json.loads(line) for line in content.splitlines()]
    assert len({row.pop("id") for row in rows}) == 2
    assert rows == [
        {"input": CONVERSATION[0]["content"], "reference": "Paris"},
        {"messages": LONGER},
    ]
    shown = http.get("/datasets/kept").json()
    assert len(shown["versions"]) == 2
    assert shown["dataset"]["provenance"]["of"]["hash"] == first.json()["hash"]


def test_rows_of_a_dataset_in_another_format_are_kept(http):
    csv = "question,reference,id\nWhy?,Because.,q1\n"
    query = {"filename": "d.csv", "column": "question=input"}
    assert http.put("/datasets/table", params=query, content=csv).status_code == 200
    body = {"dataset": "table", "messages": CONVERSATION}
    assert http.post("/pages/playground/sample", json=body).json()["rows"] == 2
    first, second = http.get("/datasets/table", params={"rows": 5}).json()["preview"]
    assert (first["id"], first["input"], first["reference"]) == ("q1", "Why?", "Because.")
    assert second["input"] == CONVERSATION[0]["content"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"dataset": "../x"}, "name"),
        ({"dataset": ""}, "name"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages[0].content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"reference": ""}, "reference"),
        ({"other": 1}, "other"),
    ],
)
def test_what_is_no_sample_is_refused(http, change, param):
    body = {"dataset": "refused", "messages": CONVERSATION} | change
    answer = http.post("/pages/playground/sample", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert http.get("/datasets/refused").status_code == 404


def test_a_judge_scores_the_answers_in_a_run(http):
    body = {
        "messages": LONGER,
        "answers": ["Paris.", "London."],
        "judge": "demo/prometheus",
        "rubric": "helpfulness",
    }
    begun = http.post("/pages/playground/judge", json=body)
    assert begun.status_code == 202, begun.text
    run = begun.json()["run"]
    shown = finished(http, run)["run"]
    assert (shown["state"], shown["name"]) == ("completed", "answers of the playground")
    rows = http.get(f"/eval/{run}/samples").json()["data"]
    assert [(row["answer"]["text"], row["scores"][0]["value"]) for row in rows] == [
        ("Paris.", 5.0),
        ("London.", 1.0),
    ]
    said = http.get(f"/eval/{run}/judgements").json()["data"]
    assert {each["sample_id"]: each["judgement"]["answer"]["text"] for each in said} == {
        "1": "Feedback: Right. [RESULT] 5",
        "2": "Feedback: Wrong. [RESULT] 1",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"judge": ""},
        {"judge": "nothing/x"},
        {"rubric": "/etc/passwd"},
        {"answers": []},
        {"answers": ["a"] * 9},
        {"answers": [""]},
    ],
)
def test_what_cannot_be_judged_is_refused(http, change):
    body = {"messages": CONVERSATION, "answers": ["a"], "judge": "r", "rubric": "honesty"}
    answer = http.post("/pages/playground/judge", json=body | change)
    assert 400 <= answer.status_code < 500, answer.text
    assert set(answer.json()) == {"error"}


def test_who_may_send_and_keep(tmp_path):
    secrets = add_keys(tmp_path / "e.db", "reviewer", "admin", "viewer")
    secrets["client"], _ = in_store(
        tmp_path / "e.db",
        lambda store: create(store, "client", now=1.0, role="client", routes=["s"]),
    )
    config = f"""
storage: {{database: "sqlite:///{tmp_path}/e.db", artifacts: "{tmp_path}/artifacts"}}
routes: {{r: {{targets: [{{model: baseline/echo}}]}}, s: {{targets: [{{model: baseline/lead-3}}]}}}}
"""
    with gateway(config) as url, httpx.Client(base_url=url, headers=BROWSER) as http:
        assert http.get("/playground").headers["location"] == "/login?next=%2Fplayground"
        for role, secret in secrets.items():
            http.headers["authorization"] = f"Bearer {secret}"
            elements = form_of(http)
            ids = {attributes.get("id") for _, attributes in elements}
            assert ({"judge", "keep"} <= ids) is (role == "admin")
            assert ("playground" in ids) is (role != "viewer")
            # Without its script, no button of the page looks as if it did something.
            buttons = [each for tag, each in elements if tag == "button"]
            assert all({"disabled", "hidden"} & set(each) for each in buttons), buttons
            names = [each["value"] for tag, each in elements if tag == "option" and "value" in each]
            assert ("r" in names) is (role in {"reviewer", "admin"})
            answer = http.post("/pages/playground/sample", json={})
            assert answer.status_code == (400 if role == "admin" else 403)
