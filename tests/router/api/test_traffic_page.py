"""The pages of requests and of feedback: real requests of clients with keys and without."""

import csv
import html
import io
import re
import time
from itertools import pairwise
from urllib.parse import urlencode

import pytest
from page_elements import BROWSER, Elements, check_policy, check_sorts, text_of
from servers import clients_of, gateway
from stores import add_keys

from router.client import Client

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"
PAGES = ("/traffic", "/traffic?live=true", "/traffic/totals", "/traffic/totals?by=key", "/feedback")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Clients by the names of their keys, and the records of what they sent."""
    folder = tmp_path_factory.mktemp("traffic_page")
    keys = add_keys(folder / "e.db", "admin", ann="client", bob="client")
    config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
providers:
  baseline: {{kind: baseline}}
  refuses: {{kind: compatible, base_url: "http://127.0.0.1:9/v1"}}
routes:
  r: {{targets: [{{model: baseline/echo}}]}}
  f: {{targets: [{{model: refuses/x}}], fallback: [baseline/lead-3], retries: {{attempts: 1}}}}
"""
    with gateway(config) as url, clients_of(url, keys) as clients:
        records = [
            send(clients[name], model, text, **more)
            for name, model, text, more in (
                ("ann", "r", "one", {"user": ATTACK}),
                ("ann", "f", "two", {}),
                ("bob", "r", "three", {"user": "\u202eeve"}),
                ("bob", "nothing/there", "four", {}),
            )
        ]
        for name, value in (("thumb", True), ("words", ATTACK)):
            given = clients["ann"].post(
                "/feedback",
                json={"request_id": records[0], "name": name, "value": value, "comment": ATTACK},
            )
            assert given.status_code == 201, given.text
        while len(clients["admin"].get("/traffic").json()["data"]) < len(records):
            pass
        yield clients, records


def send(client, model, text, **more):
    messages = [{"role": "user", "content": text}]
    answer = client.post(
        "/v1/chat/completions", json={"model": model, "messages": messages, **more}
    )
    return answer.headers["x-evalrouter-record"]


def page_of(world, path, name="admin", status=200):
    answer = world[0][name].get(path, headers=BROWSER)
    assert answer.status_code == status, answer.text
    check_policy(answer)
    return answer.text


def shown(page):
    """The records that a list links to, newest first."""
    return re.findall(r'<a href="/traffic/(req_\w+)"', page)


def test_a_browser_gets_pages_with_texts_and_not_markup(world):
    for path in PAGES:
        page = page_of(world, path)
        assert not [tag for tag, _ in Elements(page).elements if tag in {"img", "iframe"}]
        assert (
            world[0]["admin"]
            .get(path.partition("?")[0])
            .headers["content-type"]
            .startswith("application/json")
        )
    assert ATTACK in Elements(page_of(world, "/traffic")).text
    assert ATTACK in Elements(page_of(world, "/feedback")).text


def test_requests_are_listed_newest_first_with_what_befell_them(world):
    _, records = world
    page = page_of(world, "/traffic")
    assert shown(page) == records[::-1]
    text = text_of(page)
    assert "2 attempts, not refuses/x" in text
    assert "model_not_found" in text
    assert "thumb 1 (1)" in text
    assert "<bdi>\u202eeve</bdi>" in page


@pytest.mark.parametrize(
    ("query", "places"),
    [
        ("route=r", [2, 0]),
        ("target=baseline/lead-3", [1]),
        ("status=4xx", [3]),
        ("status=error&route=r", []),
        ("key=bob", [3, 2]),
        ("user=%E2%80%AEeve", [2]),
        ("class=eval", []),
        ("since=1h&until=1d", []),
        ("since=1h", [3, 2, 1, 0]),
    ],
)
def test_requests_are_filtered_as_the_api_filters_them(world, query, places):
    page = page_of(world, f"/traffic?{query}")
    assert shown(page) == [world[1][place] for place in places]
    assert places or "No request is left that matches" in page
    # The same requests are followed, added up and saved.
    link = re.search(r'href="(/traffic\?[^"]*live=true[^"]*)"', page)[1].replace("&amp;", "&")
    assert shown(page_of(world, link)) == shown(page)


def test_a_filter_that_means_nothing_is_explained_and_stays_in_its_field(world):
    for query, words in (
        ("status=9", "status is a number"),
        ("since=yesterday", "since is seconds"),
        ("key=carl", "There is no key"),
        ("after=x", "after is the number"),
    ):
        page = page_of(
            world, f"/traffic?route=kept&{query}", status=404 if "carl" in query else 400
        )
        assert words in text_of(page)
        assert 'name="route" value="kept"' in page
        if not query.startswith("after"):
            name, value = query.split("=")
            assert f'name="{name}" value="{value}"' in page
    page = page_of(world, "/feedback?since=yesterday&route=kept", status=400)
    assert "since is seconds" in page
    assert 'value="kept"' in page


def test_a_key_sees_its_own_requests_and_feedback(world):
    _, records = world
    assert shown(page_of(world, "/traffic", "ann")) == [records[1], records[0]]
    page = page_of(world, "/traffic?key=bob", "ann", status=403)
    assert not shown(page)
    assert "2 requests in the last 15 minutes" in text_of(page_of(world, "/traffic/totals", "bob"))
    assert "No feedback yet" in page_of(world, "/feedback", "bob")
    assert "thumb" in page_of(world, "/feedback", "ann")


def test_pages_follow_each_other_by_number(world):
    clients, records = world
    rows = clients["admin"].get("/traffic").json()["data"]
    page = page_of(world, f"/traffic?after={rows[1]['number']}")
    assert shown(page) == records[1::-1]
    assert "First page" in page


def test_what_a_list_shows_is_saved_as_csv(world):
    clients, records = world
    answer = clients["admin"].get("/traffic?route=r&export=csv", headers=BROWSER)
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["id"] for row in rows] == [records[2], records[0]]
    assert rows[1]["user"] == ATTACK
    assert rows[1]["feedback"] == "thumb 1 (1), words - (1)"
    answer = clients["admin"].get("/feedback?export=csv", headers=BROWSER)
    assert {row["name"] for row in csv.DictReader(io.StringIO(answer.text))} == {"thumb", "words"}
    assert clients["admin"].get("/traffic?status=9&export=csv").status_code == 400


def test_totals_over_time_are_a_table_and_add_up_to_the_requests(world):
    page = page_of(world, "/traffic/totals?since=1h&by=route")
    counts = [int(each) for each in re.findall(r'data-requests="(\d+)"', page)]
    assert len(counts) == 30
    assert sum(counts) == 4
    assert sum(int(each) for each in re.findall(r'data-failures="(\d+)"', page)) == 1
    assert "4 requests in the last hour" in text_of(page)
    assert re.search(r"route=r&amp;since=1h|since=1h&amp;route=r", page)
    starts = [float(each) for each in re.findall(r'data-at="([\d.]+)"', page)]
    assert {late - early for early, late in pairwise(starts)} == {120.0}
    assert starts[-1] <= time.time() < starts[-1] + 121
    assert "1 request in" in text_of(page_of(world, "/traffic/totals?route=f"))
    assert "bob" in text_of(page_of(world, "/traffic/totals?by=key"))


def test_a_list_that_is_followed_is_sent_again_with_a_new_request_of_its_filter(world):
    clients, _ = world
    with clients["admin"].stream("GET", "/pages/live/traffic?route=r&user=live") as answer:
        check = answer.headers["content-type"]
        assert check.startswith("text/event-stream")
        lines = answer.iter_lines()
        assert "No request has come yet" in event(lines)
        send(clients["bob"], "f", "of another route", user="live")
        record = send(clients["bob"], "r", "of the filter", user="live")
        assert shown(event(lines)) == [record]
    assert clients["admin"].get("/pages/live/traffic?status=9").status_code == 400


def test_requests_over_time_go_on_with_a_list_that_is_followed(world):
    clients, _ = world
    with clients["admin"].stream("GET", "/pages/live/traffic?user=charted&since=7d") as answer:
        lines = answer.iter_lines()
        assert "0 requests in the last 7 days" in text_of(event(lines))
        send(clients["bob"], "r", "one more", user="charted")
        while "1 request in the last 7 days" not in text_of(event(lines)):
            pass
    # What no chart begins with is left to the list.
    page = page_of(world, "/traffic?since=3h&until=1m&user=charted")
    [path] = re.findall(r'hx-get="([^"]*)"', page)
    assert page_of(world, path.replace("&amp;", "&"))
    assert "since=3h" not in path


def test_who_follows_sees_their_own_requests_of_their_own_filter(world):
    clients, records = world
    for name, query, places in (
        ("admin", "", [0, 1, 2, 3]),
        ("ann", "", [0, 1]),
        ("admin", "?route=f&until=0s", [1]),
    ):
        # All at once, because what is the same is made once.
        with (
            clients["admin"].stream("GET", "/pages/live/traffic") as everything,
            clients[name].stream("GET", f"/pages/live/traffic{query}") as followed,
        ):
            assert set(records) <= set(shown(event(everything.iter_lines())))
            seen = shown(event(followed.iter_lines()))
        assert {record for record in records if record in seen} == {records[n] for n in places}


def event(lines):
    data = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").strip())
        elif data and not line:
            break
    return "\n".join(data)


@pytest.fixture(scope="module")
def stored_world(tmp_path_factory):
    """As `world`, of a server that stores bodies."""
    folder = tmp_path_factory.mktemp("stored_traffic")
    keys = add_keys(folder / "e.db", "admin", ann="client", bob="client")
    config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
providers: {{baseline: {{kind: baseline}}}}
routes:
  r: {{targets: [{{model: baseline/echo}}], record: full}}
  quiet: {{targets: [{{model: baseline/echo}}]}}
"""
    with gateway(config) as url, clients_of(url, keys) as clients:
        records = [
            send(clients["ann"], "r", f"Refund {ATTACK}\n {'please ' * 40}"),
            send(clients["bob"], "r", "two", metadata={"team": "billing"}),
            send(clients["ann"], "quiet", "refund three"),
            send(clients["bob"], "r", "four"),
        ]
        while len(clients["admin"].get("/traffic").json()["data"]) < len(records):
            pass
        given = clients["bob"].post(
            "/feedback", json={"request_id": records[3], "name": "thumb", "value": False}
        )
        assert given.status_code == 201, given.text
        yield clients, records


@pytest.mark.parametrize(
    ("query", "places"),
    [
        ({"text": "REFUND"}, [0]),
        ({"metadata": "team=billing"}, [1]),
        ({"where": "has feedback.thumb"}, [3]),
        ({"where": "feedback.thumb == false and route == 'r'", "text": "four"}, [3]),
        ({"where": "not has feedback.thumb", "route": "r"}, [1, 0]),
        ({"where": "total_s < 0"}, []),
    ],
)
def test_requests_are_looked_through_for_what_they_say(stored_world, query, places):
    clients, records = stored_world
    found = [records[place] for place in places]
    page = page_of(stored_world, f"/traffic?{urlencode(query)}")
    assert shown(page) == found
    assert "looked through, back to" in page
    for name, value in query.items():
        assert f'name="{name}" value="{html.escape(value).replace("&#x27;", "&#39;")}"' in page
    assert "live=true" not in page
    assert "/traffic/totals" not in page
    answer = clients["admin"].get("/traffic", params=query).json()
    assert [row["id"] for row in answer["data"]] == found
    assert (answer["next"], answer["search"]["stopped"]) == (None, False)
    assert answer["search"]["looked"] == (3 if "route" in query else 4)
    saved = clients["admin"].get("/traffic", params=query | {"export": "csv"}, headers=BROWSER)
    assert [row["id"] for row in csv.DictReader(io.StringIO(saved.text))] == found
    with Client(str(clients["admin"].base_url), api_key=key_of_client(clients["admin"])) as client:
        assert [row["id"] for row in client.traffic.list(**query)] == found


def key_of_client(client):
    return client.headers["authorization"].removeprefix("Bearer ")


def test_a_page_of_what_was_found_leads_to_the_next(stored_world):
    clients, records = stored_world
    first = clients["admin"].get("/traffic", params={"where": "total_s > 0", "limit": 3}).json()
    assert [row["id"] for row in first["data"]] == records[:0:-1]
    assert (first["search"]["looked"], first["search"]["stopped"]) == (3, False)
    rest = {"where": "total_s > 0", "limit": 3, "before": first["next"]}
    last = clients["admin"].get("/traffic", params=rest).json()
    assert ([row["id"] for row in last["data"]], last["next"]) == ([records[0]], None)
    assert clients["admin"].get("/traffic").json()["search"] is None


def test_what_cannot_be_looked_for_is_explained(stored_world):
    clients, _ = stored_world
    for query, param in (("where=colour+%3D%3D+1", "where"), ("metadata=%3Dx", "metadata")):
        answer = clients["admin"].get(f"/traffic?{query}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        page = page_of(stored_world, f"/traffic?{query}&text=kept", status=400)
        assert 'name="text" value="kept"' in page


def test_a_client_finds_its_own_requests_only(stored_world):
    clients, records = stored_world
    for name, places in (("ann", [0]), ("bob", [])):
        answer = clients[name].get("/traffic", params={"text": "refund"}).json()
        assert [row["id"] for row in answer["data"]] == [records[place] for place in places]
    # What others say of a request is none of its concern.
    answer = clients["ann"].get("/traffic", params={"where": "has feedback.thumb"}).json()
    assert answer["data"] == []


def test_the_list_shows_the_beginnings_of_prompts(stored_world):
    for path in ("/traffic", "/traffic?live=true"):
        page = page_of(stored_world, path)
        beginning = f"Refund {ATTACK} please"
        assert beginning in Elements(page).text
        assert "\u2026</bdi>" in page
        assert "refund three" not in page
        assert "<bdi>four</bdi>" in page


def test_feedback_is_listed_in_both_directions(world):
    check_sorts(world[0]["admin"], "/feedback")
