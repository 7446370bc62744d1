"""The pages of requests and of feedback: real requests of clients with keys and without."""

import csv
import io
import re
import time
from itertools import pairwise

import pytest
from page_elements import BROWSER, Elements, check_policy, text_of
from servers import clients_of, gateway
from stores import add_keys

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
