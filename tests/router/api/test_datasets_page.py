"""The pages of datasets: upload with a preview, rows of versions, their differences and labels."""

import html
import json
import time

import httpx
import pytest
from page_elements import BROWSER, Elements, check_policy, check_sorts
from servers import finished, gateway

ATTACK = "<script>alert(1)</script>"
ROWS = [{"id": str(n), "input": f"Question {n}", "reference": f"Answer {n}"} for n in range(45)]


def lines(rows):
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    (folder / "d.jsonl").write_bytes(lines(ROWS))
    config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
evaluation: {{roots: ["{folder}"]}}
datasets: {{roots: ["{folder}"], max_bytes: 300000}}
record: full
routes:
  r: {{targets: [{{model: baseline/echo}}]}}
"""
    with gateway(config) as url, httpx.Client(base_url=url, headers=BROWSER, timeout=60) as http:
        http.folder = folder
        yield http


def preview(http, content, filename="rows.jsonl", *, part=False, **fields):
    return http.post(
        f"/pages/datasets/preview?part={str(part).lower()}",
        data=fields,
        files={"file": (filename, content)},
    )


def store(http, content, filename="rows.jsonl", **fields):
    return http.post("/pages/datasets/upload", data=fields, files={"file": (filename, content)})


def stored(http, content, name, **fields):
    answer = store(http, content, name=name, **fields)
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def test_a_file_is_looked_at_and_nothing_of_it_is_stored(url):
    answer = preview(url, lines([{"q": ATTACK, "n": 1}, {"q": "b", "n": 2}]), name="looked-at")
    assert answer.status_code == 200
    found = Elements(answer.text)
    assert "2 rows, all of which can be read" in found.text
    assert "the dataset looked-at" in " ".join(found.text.split())
    assert ATTACK in found.text
    assert "script" not in {tag for tag, _ in found.elements}
    options = [attributes["value"] for tag, attributes in found.elements if tag == "option"]
    assert {"", "q=input", "q=reference", "n=id"} <= set(options)
    assert "Choose the column that holds the text" in found.text
    assert url.get("/datasets/looked-at", headers={"accept": "*/*"}).status_code == 404


def test_a_chosen_column_is_what_is_sent(url):
    content = lines([{"q": "a", "in": {"deep": "x"}}])
    answer = preview(url, content, name="mapped", column=["q=input", "in.deep=reference"])
    assert "Choose the column that holds the text" not in answer.text
    found = Elements(answer.text)
    selected = {
        attributes["value"]
        for tag, attributes in found.elements
        if tag == "option" and "selected" in attributes
    }
    assert selected == {"q=input", "in.deep=reference"}
    path = stored(url, content, "mapped", column=["q=input", "in.deep=reference"])
    page = Elements(url.get(path).text).text
    assert "Question" not in page
    assert "reference" in page
    again = preview(url, content, name="mapped", column=["q=input", "in.deep=reference"])
    assert "It is a version of" in again.text


def test_a_column_that_is_read_as_another_is_shown_once(url):
    content = lines([{"text": "What is it?", "gold": "A cat", "b": {"deep": "x"}, "n": 1}])
    columns = ["text=input", "gold=reference", "b.deep=id"]
    for page in (
        preview(url, content, name="once", column=columns).text.partition("<table>")[2],
        url.get(stored(url, content, "once", column=columns)).text,
    ):
        headings = [" ".join(each.split()) for each in page.split("<bdi>") if "</bdi></th>" in each]
        titles = [each.partition("<")[0] for each in headings]
        assert {"text → input", "gold → reference", "b.deep → id", "b", "n"} == set(titles)
        rows = page.partition("<tbody>")[2].partition("</tbody>")[0]
        assert rows.count("What is it?") == 1


@pytest.mark.parametrize(
    ("filename", "content", "says"),
    [
        ("rows.txt", b"x", "must end in one of"),
        ("rows.jsonl", b"", "has no rows"),
        (
            "rows.jsonl",
            b"<!doctype html><html><body>Sign in</body></html>",
            "rows.jsonl:1: not JSON",
        ),
        ("rows.csv", b"PK\x03\x04\x00\x00\xff\xfe", "rows.csv"),
        ("rows.jsonl", '{"input": "ä"}\n'.encode("latin-1"), "rows.jsonl:1"),
        ("rows.jsonl", lines(ROWS) + b'{"input": "x"\n', "rows.jsonl:46: not JSON"),
    ],
)
def test_what_is_no_dataset_is_refused_with_its_line(url, filename, content, says):
    answer = preview(url, content, filename)
    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert says in Elements(answer.text).text
    assert "/tmp" not in answer.text
    check_policy(answer)


def test_a_broken_row_is_found_when_a_file_is_stored_too(url):
    answer = store(url, b"input,reference\na,b\nc\n", "rows.csv")
    assert answer.status_code == 400
    assert "rows.csv:3: the row has 1 cells" in Elements(answer.text).text


def test_the_beginning_of_a_large_file_is_looked_at_up_to_its_last_line(url):
    content = lines({"input": "x" * 100} for _ in range(300))
    answer = preview(url, content[:10_000], part=True)
    assert answer.status_code == 200, answer.text
    assert "only the beginning was looked at" in answer.text
    assert "The first 5 rows" in answer.text
    csv = b"input;n\n" + b'"a\nb";1\n' * 2000
    shown = preview(url, csv[:10_001], "rows.csv", part=True, delimiter="semicolon")
    assert shown.status_code == 200, shown.text
    unknown = preview(url, content[:10_000], part=True, column=["input=what"])
    assert "cannot be mapped to" in Elements(unknown.text).text
    long = preview(url, b'{"input": "' + b"x" * 1000, part=True)
    assert "its first line is longer" in Elements(long.text).text


def test_a_file_over_the_limit_is_refused(url):
    answer = store(url, lines([{"input": "x" * 400_000}]))
    assert answer.status_code == 413
    assert "datasets.max_bytes" in answer.text


def test_a_version_shows_its_rows_a_page_at_a_time(url):
    path = stored(url, lines(ROWS), "paged")
    first = url.get(path)
    check_policy(first)
    text = Elements(first.text).text
    assert "Question 0" in text
    assert "Question 19" in text
    assert "Question 20" not in text
    second = Elements(url.get(f"{path}?after=40").text).text
    assert "Question 40" in second
    assert "Question 44" in second
    assert "Question 39" not in second
    assert "Next rows" not in second
    assert "No row is left" in url.get(f"{path}?after=45").text
    page = url.get(f"{path}/rows?after=19&limit=2").json()
    assert [row["number"] for row in page["data"]] == [20, 21]
    assert page["data"][0]["fields"] == ROWS[19]
    assert page["next"] == 21
    assert url.get(f"{path}/rows?after=44").json()["next"] is None
    check_sorts(url, "/datasets")


def test_long_texts_are_cut_and_their_row_leads_to_the_whole(url):
    long = "y" * 100_000
    path = stored(
        url, lines([{"input": long, "messages": [{"role": "user", "content": long}]}]), "long"
    )
    answer = url.get(path)
    assert len(answer.text) < 20_000
    assert url.get(f"{path}/rows?after=0&limit=1").json()["data"][0]["fields"]["input"] == long


def test_two_versions_are_compared_by_their_ids(url):
    old = stored(url, lines(ROWS), "versions")
    changed = [{**ROWS[0], "reference": "Better"}, *ROWS[2:], {"id": "new", "input": ATTACK}]
    new = stored(url, lines(changed), "versions")
    answer = url.get(f"{new}?compare={old.partition('@')[2]}")
    text = " ".join(Elements(answer.text).text.split())
    for words in ("1 added", "1 removed", "1 changed", "43 the same", ATTACK, "Better"):
        assert words in text
    # The older version is always the one before.
    assert f"From {old.partition('@')[2]} to {new.partition('@')[2]}" in text
    other_way = url.get(f"{old}?compare={new.partition('@')[2]}")
    assert "1 added" in " ".join(Elements(other_way.text).text.split())
    assert url.get(f"{new}?compare=0000").status_code == 404


def test_runs_with_a_version_are_listed_and_their_answers_can_be_its_references(url):
    path = stored(url, lines([{"input": "One. Two."}, {"input": "Three."}]), "unlabelled")
    name = path.rpartition("/")[2]
    refused = url.post(
        f"/pages/datasets/{name}/label", data={"route": "nowhere", "prompt": "{{ input }}!"}
    )
    assert refused.status_code == 400
    assert refused.headers["hx-push-url"] == "false"
    assert "nowhere" in refused.text
    assert "{{ input }}!" in refused.text
    begun = url.post(f"/pages/datasets/{name}/label", data={"route": "r"})
    assert begun.status_code == 303, begun.text
    run = begun.headers["location"].rpartition("/")[2]
    finished(url, run)
    page = url.get(path).text
    assert f"/runs/{run}" in page
    assert "Store as references" in page
    labelled = url.post(f"/pages/datasets/{name}/labelled", data={"run": run})
    assert labelled.status_code == 303, labelled.text
    assert "labelled by r" in url.get(labelled.headers["location"]).text
    wrong = url.post(f"/pages/datasets/{name}/labelled", data={"run": "nothing"})
    assert wrong.status_code == 404
    assert wrong.headers["hx-push-url"] == "false"
    assert "There is no run" in wrong.text


def test_a_version_is_deleted(url):
    path = stored(url, lines([{"input": "gone"}]), "to-delete")
    assert url.post(f"/pages{path}/delete").headers["location"] == "/datasets"
    assert url.get(path).status_code == 404


def test_an_address_is_confined_and_what_was_typed_stays(url):
    outside = url.post(
        "/pages/datasets/register",
        data={"source": "/etc/passwd", "name": "kept", "columns": "a=input"},
    )
    assert outside.status_code == 400
    # The form's own address is no page that a browser could load again.
    assert outside.headers["hx-push-url"] == "false"
    assert "outside what requests may name" in outside.text
    assert 'value="kept"' in outside.text
    assert ">a=input</textarea>" in outside.text
    added = url.post(
        "/pages/datasets/register", data={"source": f"{url.folder}/d.jsonl", "name": "from-a-path"}
    )
    assert added.headers["location"].startswith("/datasets/from-a-path@")


def test_versions_are_listed_by_key_in_every_order(url):
    for n in range(3):
        for name in ("listed-a", "listed-b"):
            stored(url, lines([{"input": f"{n}"}]), name)
    rows = url.get("/datasets?q=LISTED-&export=csv&sort=name").text.splitlines()[1:]
    assert [row.partition(",")[0] for row in rows] == ["listed-a"] * 3 + ["listed-b"] * 3
    assert "listed" not in url.get("/datasets?q=listed%25").text.partition("<tbody>")[2]
    assert "No dataset is left that matches" in url.get("/datasets?q=a_b").text
    assert url.get("/datasets?sort=source").status_code == 400


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("9" * 5000, "a number has at most 15 digits; this one has 5,000"),
        ("²", "'²' is not a whole number"),
        ("-1", "'-1' is not a whole number"),
    ],
)
def test_what_is_no_number_of_rows_is_said_and_what_was_typed_stays(url, typed, said):
    name = stored(url, lines([{"input": "One."}]), "to-number").rpartition("/")[2]
    for path, fields in (
        (f"/pages/datasets/{name}/label", {"limit": typed, "prompt": "kept: {{ input }}"}),
        ("/pages/from-traffic", {"sample": typed, "where": "kept: x"}),
    ):
        answer = url.post(path, data={"route": "r", **fields})
        assert answer.status_code == 400
        assert said in html.unescape(answer.text)
        assert "kept: " in answer.text


def test_a_dataset_of_requests_is_made_without_the_script(url):
    body = {"model": "r", "messages": [{"role": "user", "content": "One. Two."}]}
    assert url.post("/v1/chat/completions", json=body).status_code == 200
    form = url.get("/from-traffic?route=r&name=live")
    check_policy(form)
    assert 'value="live"' in form.text
    while url.get("/traffic", headers={"accept": "*/*"}).json()["data"] == []:
        pass
    refused = url.post("/pages/from-traffic", data={"name": "live", "route": "r", "where": "x ="})
    assert refused.status_code == 400
    assert 'value="x ="' in refused.text
    assert "feedback.thumbs" not in form.text
    record = url.get("/traffic", headers={"accept": "*/*"}).json()["data"][0]["id"]
    for name, value in (("thumb", False), ('time "to" answer', 2.5), ("note", "slow")):
        body = {"request_id": record, "name": name, "value": value}
        assert url.post("/feedback", json=body).status_code == 201
    offered = [
        attributes["value"]
        for tag, attributes in Elements(url.get("/from-traffic").text).elements
        if tag == "option" and "feedback" in attributes["value"]
    ]
    assert len(offered) == 3
    for where in offered:
        data = {"route": "r", "where": where, "count": "1"}
        counted = url.post("/pages/from-traffic", data=data)
        assert counted.status_code == 200, counted.text
        assert "1 of 1 request can be rows" in " ".join(Elements(counted.text).text.split())
    none = url.post("/pages/from-traffic", data={"route": "r", "where": "turns > 2", "count": "1"})
    assert none.status_code == 409
    assert "requests that do not meet the condition" in none.text
    assert url.get("/datasets/live", headers={"accept": "*/*"}).status_code == 404
    made = url.post("/pages/from-traffic", data={"name": "live", "route": "r", "mask": "1"})
    assert made.status_code == 303, made.text
    page = url.get(made.headers["location"]).text
    first, _, folded = page.partition("<tbody>")[2].partition("</tbody>")[0].partition("<details>")
    assert "One. Two." in first
    assert '{"role"' not in first
    assert record not in first
    assert record in folded
    # Moments are dates, in rows and among what columns hold.
    assert page.count(time.strftime("%Y-%m-%d", time.gmtime())) >= 3
    assert "e+09" not in page
    unmasked = url.get("/from-traffic?where=x").text
    assert 'name="mask" value="1" checked' in unmasked
