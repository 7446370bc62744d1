"""The page of one request: its texts, what befell it, and what people do with it there."""

import re

import pytest
from page_elements import BROWSER, Elements, alert_of, check_policy, text_of
from servers import clients_of, finished, gateway
from stores import add_keys

from router.api.excerpts import MAX_PAGE, MAX_TEXT, Mark, excerpt, shown_messages

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"
LONG = "A word. " * 100_000


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Clients by the names of their keys, and the ids of records by what they are of."""
    folder = tmp_path_factory.mktemp("request_page")
    records = {}
    keys = add_keys(folder / "e.db", "client", "reviewer", "admin", "viewer", other="client")
    config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
evaluation: {{roots: ["{folder}"]}}
datasets: {{roots: ["{folder}"]}}
providers:
  baseline: {{kind: baseline}}
  refuses: {{kind: compatible, base_url: "http://127.0.0.1:9/v1"}}
routes:
  r:
    targets: [{{model: refuses/x}}]
    fallback: [baseline/echo]
    retries: {{attempts: 1}}
    record: full
  s: {{targets: [{{model: baseline/lead-3}}], record: full}}
  bare: {{targets: [{{model: baseline/echo}}], record: metadata}}
"""
    with gateway(config) as url, clients_of(url, keys) as clients:
        tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        parts = [{"type": "text", "text": "Look."}, image]
        for name, model, messages, more in (
            ("attack", "r", [user(f"{ATTACK} ann@example.org")], {"temperature": 0.5}),
            ("long", "s", [user(LONG)], {}),
            ("stream", "s", [user("One. Two. Three. Four.")], {"stream": True}),
            ("right to left", "s", [user("\u202e\u0645\u0631\u062d\u0628\u0627.")], {}),
            ("bare", "bare", [user("no text of this")], {}),
            ("not stored", "s", [user("no text of this either")], {"store": False}),
            ("tools", "s", [user("x"), {"role": "assistant", "content": None, "tool_calls": [call]},
                            {"role": "tool", "tool_call_id": "c", "content": "42"},
                            user(parts)], {"tools": [tool]}),
            ("refused", "nothing/there", [user("x")], {}),
            ("to delete", "s", [user("Delete me.")], {}),
        ):  # fmt: skip
            body = {"model": model, "messages": messages, **more}
            answer = clients["client"].post("/v1/chat/completions", json=body)
            records[name] = answer.headers["x-evalrouter-record"]
        completion = {"model": "baseline/echo", "prompt": "a prompt"}
        answer = clients["client"].post("/v1/completions", json=completion)
        records["completion"] = answer.headers["x-evalrouter-record"]
        for record in records.values():
            while clients["admin"].get(f"/traffic/{record}").status_code == 404:
                pass
        yield clients, records


def user(content):
    return {"role": "user", "content": content}


def page_of(world, request, name="admin"):
    clients, records = world
    answer = clients[name].get(f"/traffic/{records[request]}", headers=BROWSER)
    assert answer.status_code == 200, answer.text
    check_policy(answer)
    return answer.text


def send(world, request, form, who="admin", /, **fields):
    clients, records = world
    path = f"/pages/traffic/{records[request]}/{form}"
    return clients[who].post(path, data=fields, headers=BROWSER)


def forms(page):
    return set(re.findall(r'action="/pages/traffic/\w+/(\w+)"', page))


def test_texts_are_texts_and_what_befell_the_request_is_said(world):
    page = page_of(world, "attack")
    assert not [tag for tag, _ in Elements(page).elements if tag in {"img", "iframe"}]
    text = text_of(page)
    assert text.count(f"{ATTACK} ann@example.org") == 2
    assert "temperature 0.5" in text
    assert "baseline/echo answered" in text
    assert "It was sent to refuses/x first, which did not answer: this is a fallback." in text
    assert "upstream_unreachable" in text
    assert "The answer ended because of: stop." in text


def test_a_text_of_a_megabyte_is_cut_and_all_of_it_is_a_link_away(world):
    page = page_of(world, "long")
    assert len(page) < 100_000
    assert f"Only the beginning of {len(LONG):,} characters is shown." in text_of(page)
    [path] = set(re.findall(r'<a href="(/pages/traffic/\w+/bodies/request)">All of it', page))
    whole = world[0]["client"].get(path, headers=BROWSER)
    assert whole.headers["content-type"].startswith("text/plain")
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert LONG in whole.text
    assert world[0]["other"].get(path).status_code == 404
    assert world[0]["admin"].get(path.replace("/request", "/nothing")).status_code == 400


def test_streams_tools_parts_and_completions_are_read(world):
    text = text_of(page_of(world, "stream"))
    assert "One. Two. Three." in text.partition("Answer")[2]
    assert "The answer was streamed." in text
    text = text_of(page_of(world, "tools"))
    for words in ("calls f", '{"a": 1}', "Look.", "image_url", '"tool_call_id": "c"', "tools"):
        assert words in text
    assert 'dir="auto">\u202e' in page_of(world, "right to left")
    text = text_of(page_of(world, "completion"))
    assert "Request to baseline/echo" in text


def test_why_texts_are_missing_is_said(world):
    assert "what the config or the route says of record was not full" in page_of(world, "bare")
    assert "because the client sent \u201cstore\u201d: false" in page_of(world, "not stored")
    for request in ("bare", "not stored"):
        page = page_of(world, request)
        assert "no text of this" not in page
        # What needs the texts is not offered.
        assert forms(page) == {"feedback", "delete"}
        path = f"/pages/traffic/{world[1][request]}/bodies/request"
        assert world[0]["admin"].get(path).status_code == 404
    assert "model_not_found" in page_of(world, "refused")


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("admin", {"feedback", "dataset", "replay", "delete"}),
        ("client", {"feedback", "dataset"}),
        ("viewer", set()),
    ],
)
def test_what_a_role_may_not_do_is_not_offered_and_not_done(world, name, offered):
    assert forms(page_of(world, "attack", name)) == offered
    for form in {"feedback", "dataset", "replay", "delete"} - offered:
        assert send(world, "attack", form, name).status_code == 403


def test_a_client_has_no_page_of_a_request_of_others(world):
    clients, records = world
    for path in (f"/traffic/{records['attack']}", "/traffic/req_nothing"):
        answer = clients["other"].get(path, headers=BROWSER)
        assert answer.status_code == 404
        check_policy(answer)
    for form in ("feedback", "dataset"):
        assert send(world, "attack", form, "other").status_code == 404


def test_feedback_is_given_and_shown(world):
    for kind, value, shown in (
        ("yes", "", "yes"),
        ("number", "0.25", "0.25"),
        ("text", ATTACK, ATTACK),
        ("correction", "One.\r\nTwo.", "One. Two."),
    ):
        fields = {"name": f"about-{kind}", "kind": kind, "value": value, "comment": "why not"}
        answer = send(world, "stream", "feedback", "client", **fields)
        assert answer.status_code == 303, answer.text
        text = text_of(page_of(world, "stream", "client"))
        assert f"about-{kind}" in text
        assert shown in text
    rows = world[0]["client"].get("/feedback", params={"request_id": world[1]["stream"]}).json()
    assert {row["name"]: row["value"] for row in rows["data"]} == {
        "about-yes": True,
        "about-number": 0.25,
        "about-text": ATTACK,
        "about-correction": "One.\nTwo.",
    }
    by_name = {row["name"]: row["id"] for row in rows["data"]}
    gone = f"feedback/{by_name['about-text']}/delete"
    assert send(world, "stream", gone, "other").status_code == 404
    assert send(world, "stream", gone, "viewer").status_code == 403
    assert send(world, "stream", gone, "client").status_code == 303
    assert send(world, "stream", gone, "client").status_code == 404
    assert "about-text" not in page_of(world, "stream", "client")
    for fields, words in (
        ({"name": "n", "kind": "number", "value": "many"}, "'many' is not a number."),
        ({"name": "n", "kind": "text", "value": " "}, "Say what the value is."),
        ({"name": "n", "kind": "", "value": "typed"}, "Choose yes, no"),
        ({"name": "", "kind": "text", "value": "typed"}, "name"),
    ):
        answer = send(world, "attack", "feedback", **fields, comment="kept words")
        assert answer.status_code == 400
        assert words in alert_of(answer.text)
        assert "kept words" in answer.text


def test_a_request_becomes_a_row_of_a_dataset(world):
    answer = send(world, "attack", "dataset", "admin", dataset="mine", to="version")
    assert answer.headers["location"].startswith("/datasets/mine@")
    shown = world[0]["admin"].get("/datasets/mine").json()
    assert len(shown["preview"]) == 1
    assert "[EMAIL_" in str(shown["preview"])
    fields = {"dataset": "plain", "to": "version", "as_it_is": "on"}
    assert send(world, "attack", "dataset", "admin", **fields).status_code == 303
    assert "ann@example.org" in str(world[0]["admin"].get("/datasets/plain").json()["preview"])
    # As the API has it for a client.
    assert send(world, "attack", "dataset", "client", **fields).status_code == 403
    assert send(world, "attack", "dataset", "client", dataset="own").status_code == 303
    answer = send(world, "attack", "dataset", "admin", dataset="../x", to="version")
    assert answer.status_code == 400
    assert 'value="../x"' in answer.text
    assert alert_of(answer.text)


def test_a_request_waits_for_a_review_once(world):
    fields = {"dataset": "reviewed", "to": "review"}
    answer = send(world, "attack", "dataset", "admin", **fields)
    assert answer.headers["location"] == "/review"
    rows = world[0]["reviewer"].get("/review").json()["data"]
    assert world[1]["attack"] in {row["source"]["id"] for row in rows}
    answer = send(world, "attack", "dataset", "admin", **fields)
    assert answer.status_code == 409
    assert "same words as another row" in alert_of(answer.text)


def test_a_request_is_replayed_beside_its_recorded_answer(world):
    answer = send(world, "stream", "replay", **{"route:s": "on", "others": "baseline/echo, s"})
    run_id = answer.headers["location"].removeprefix("/runs/")
    outcome = finished(world[0]["admin"], run_id)
    routes = [route["route"] for route in outcome["report"]["routes"]]
    assert routes == ["dataset/answer", "s", "baseline/echo"]
    rows = world[0]["admin"].get(f"/eval/{run_id}/samples").json()["data"]
    texts = {row["route"]: row["answer"]["text"] for row in rows}
    assert texts["dataset/answer"] == texts["s"] == "One. Two. Three."
    assert texts["baseline/echo"] == "One. Two. Three. Four."
    for fields, words in (({}, "Choose at least one route."), ({"others": "no/such"}, "no/such")):
        answer = send(world, "stream", "replay", **fields)
        assert 400 <= answer.status_code < 500
        assert words in alert_of(answer.text)


def test_a_request_is_deleted(world):
    answer = send(world, "to delete", "delete")
    assert answer.headers["location"] == "/traffic"
    path = f"/traffic/{world[1]['to delete']}"
    answer = world[0]["admin"].get(path, headers=BROWSER)
    assert answer.status_code == 404
    assert "has no record" in answer.text
    assert send(world, "to delete", "delete").status_code == 404


def test_marks_are_in_their_places_and_texts_within_their_limits():
    text = excerpt(
        "Mail [EMAIL] now", [Mark(5, 12, "email"), Mark(8, 10, "inner"), Mark(90, 99, "")]
    )
    assert [tuple(piece) for piece in text.pieces] == [
        ("Mail ", ""),
        ("[EMAIL]", "email"),
        (" now", ""),
    ]
    cut = excerpt("x" * 30 + "yy", [Mark(28, 32, "m")], limit=30)
    assert (cut.characters, cut.is_cut) == (32, True)
    assert [tuple(piece) for piece in cut.pieces] == [("x" * 28, ""), ("xx", "m")]
    assert excerpt("\ud800").pieces[0].text == "?"
    many = [user("x" * (MAX_TEXT + 1))] * 10
    shown = shown_messages(many)
    assert len(shown.shown) == MAX_PAGE // MAX_TEXT
    assert shown.left_out == 10 - len(shown.shown)
    odd = [{"role": 5, "content": [3, {"type": "text"}], "tool_calls": [None], "x": 1}]
    assert shown_messages(odd).shown[0].role == "5"
