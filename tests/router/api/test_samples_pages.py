"""The pages of a run's samples: sorted and filtered lists, and one sample with its answers."""

import asyncio
import csv
import html
import io
import re

import httpx
import pytest
from page_elements import BROWSER, check_policy, text_of
from servers import gateway
from stores import a_run, add_keys, answered, failed, in_store

from evaluators.base import Answer, Cell, Judgement, Sample, Score, Usage, Verdict
from providers.base import Translation
from router.store.judgements import JudgementRow
from router.store.people_labels import PeopleLabel

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"
RIGHT_TO_LEFT = "\u202e\u0645\u0631\u062d\u0628\u0627"
A, B = ATTACK, "b/second"
ROWS = 130


def _document(**fields):
    return {"dataset": "d.jsonl", "routes": [A, B], "baseline": B, "metrics": ["f1"]} | fields


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Runs as they would be stored: with samples of all kinds, without scores, empty."""
    folder = tmp_path_factory.mktemp("samples")

    async def fill(store):
        samples = [
            Sample(
                id=f"s/{n}" if n > 1 else ATTACK,
                messages=(
                    {"role": "system", "content": ATTACK},
                    {"role": "user", "content": f"Question {n} {RIGHT_TO_LEFT}"},
                ),
                references=("It is a good answer here.",),
                fields={"topic": ("odd" if n % 2 else "even"), "text": ATTACK},
            )
            for n in range(1, ROWS + 1)
        ]
        run = a_run(
            "run_all",
            name=ATTACK,
            state="completed",
            cells=2 * ROWS,
            dataset_rows=ROWS,
            finished_at=1.0,
            document=_document(repeats=2, parameters={"temperature": 0.5}),
        )
        await store.add_run(run, samples)
        scores = {
            Cell(route, sample.id, 0): (f"It is a bad answer {n}.", value)
            for n, sample in enumerate(samples, 1)
            for route, value in ((A, 0.5), (B, n / ROWS))
            if (n, route) not in {(3, A), (4, B)}
        }
        await asyncio.gather(
            *(answered(store, cell, text=text, run_id=run.id) for cell, (text, _) in scores.items())
        )
        await store.keep_scores(
            run.id, {cell: [Score(output="f1", value=value)] for cell, (_, value) in scores.items()}
        )
        await failed(store, Cell(A, "s/3", 0), run.id)
        await _odd_answer(store, run.id)
        other = a_run("run_none", document=_document(metrics=[], baseline=None), dataset_rows=2)
        await store.add_run(other, samples[:2])
        await store.add_run(a_run("run_empty", document=_document(), dataset_rows=0), [])
        many = [f"r{n}" for n in range(30)]
        document = _document(routes=many, baseline=None, repeats=2)
        wide = a_run("run_wide", document=document, dataset_rows=1)
        await store.add_run(wide, samples[:1])
        await answered(store, Cell("r29", ATTACK, 0), run_id=wide.id, text="of the last")

    in_store(folder / "e.db", fill)
    keys = add_keys(folder / "e.db", "admin", "reviewer", "viewer", "client")
    config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
providers: {{baseline: {{kind: baseline}}}}
"""
    with gateway(config) as url, httpx.Client(base_url=url, timeout=60) as http:
        yield http, keys


async def _odd_answer(store, run_id):
    """The second route's answer to the fourth sample: cut off, translated, judged, a megabyte."""
    cell = Cell(B, "s/4", 0)
    await store.begin(run_id, cell, "hash", "p/m")
    answer = Answer(
        text="It is a good answer here. " + "x" * 1_000_000,
        thinking=ATTACK,
        shortfall="truncated",
        target="p/m",
        model=ATTACK,
        usage=Usage(prompt_tokens=1234, completion_tokens=5),
        cost_usd=0.0123,
        first_byte_s=0.25,
        total_s=1.5,
        attempts=2,
        translation=Translation(dropped={"seed": f"no {ATTACK}"}, renamed={"stop": "stops"}),
    )
    attempts = [
        {"target": "p/slow", "result": ATTACK, "status": 503, "seconds": 0.1},
        {"target": "p/m", "result": "ok", "status": 200, "seconds": 0.2},
    ]
    await store.keep_answer(run_id, cell, "hash", answer, attempts)
    verdict = Verdict(judge=ATTACK, repeat=0, attempt=0, request_hash="j", value=4.0)
    score = Score(output="f1", value=0.25, note=ATTACK, error="", verdicts=(verdict,))
    await store.keep_scores(run_id, {cell: [score]})
    judged = Judgement(answer=Answer(text=f"Quite good {ATTACK}"), tokens=(), request_hash="j")
    await store.keep_judgement(
        JudgementRow(
            owner=run_id,
            metric="f1",
            judge=ATTACK,
            sample_id="s/4",
            repeat=0,
            attempt=0,
            request_hash="j",
            at=1.0,
            judgement=judged,
        )
    )
    label = PeopleLabel(
        output="f1", cell=cell, answer_hash="h", scores=(3.0, 4.5), chance=None, at=1.0
    )
    await store.keep_labels(run_id, "f1", B, [label])


def get(world, path, status=200, role="admin", **options):
    http, keys = world
    headers = BROWSER | {"authorization": f"Bearer {keys[role]}"}
    answer = http.get(path, headers=headers, **options)
    assert answer.status_code == status, answer.text
    if status != 303 and answer.headers["content-type"].startswith("text/html"):
        check_policy(answer)
        assert "<script>alert" not in answer.text
        assert "<img" not in answer.text
    return answer


def positions(page):
    return [int(n) for n in re.findall(r'aria-label="Sample (\d+)"', page)]


def link(page, words):
    """The address of the link with these words."""
    found = re.search(rf'<a href="([^"]*)"[^>]*>{re.escape(words)}</a>', page)
    return html.unescape(found[1]) if found else None


def test_a_list_has_a_row_for_each_sample_and_pages_by_position(world):
    page = get(world, "/runs/run_all/samples").text
    assert positions(page) == list(range(1, 101))
    assert "130 samples of d.jsonl · scores are f1, higher is better" in text_of(page)
    # The first route is A, the baseline is B: the second sample's scores, and the difference.
    assert f"2 s/2 Question 2 {RIGHT_TO_LEFT} 0.500 0.015 +0.485" in text_of(page)
    later = get(world, link(page, "Next page")).text
    assert positions(later) == list(range(101, 131))
    assert link(later, "Next page") is None
    downwards = get(world, "/runs/run_all/samples?sort=-position").text
    assert positions(downwards) == list(range(130, 30, -1))
    assert positions(get(world, link(downwards, "Next page")).text) == list(range(30, 0, -1))


def test_samples_are_sorted_by_how_much_one_route_beats_the_other(world):
    page = get(world, "/runs/run_all/samples").text
    best = get(world, link(page, "Where A beats B by most")).text
    # The third has no score of A; the fourth has 0.25 of B.
    assert positions(best)[:3] == [1, 2, 5]
    assert positions(best).index(4) == 30
    assert "+0.492" in text_of(best)
    rest = positions(get(world, link(best, "Next page")).text)
    assert len(rest) == 29
    assert rest[-1] == 130
    worst = get(world, link(page, "Where B beats A by most")).text
    assert positions(worst)[:2] == [130, 129]
    swapped = get(world, f"/runs/run_all/samples?a={B}&sort=-gain").text
    assert positions(swapped)[:2] == [130, 129]
    assert "+0.500" in text_of(swapped)


def test_filters_are_combined_and_kept(world):
    def found(query):
        return positions(get(world, f"/runs/run_all/samples?{query}").text)

    assert found("failed=true") == [3]
    assert found("short=true") == [4]
    assert found("failed=true&short=true") == []
    assert found("column=topic&value=even")[:3] == [2, 4, 6]
    assert found("column=topic&value=even&sort=-gain")[:3] == [2, 6, 8]
    assert found("q=QUESTION 13 ") == [13]
    assert found("q=answer 77.&sort=gain") == [77]
    page = get(world, "/runs/run_all/samples?failed=true&short=true").text
    assert "No sample was found" in text_of(page)
    assert "checked" in page
    csv_link = link(
        get(world, "/runs/run_all/samples?failed=true").text, "Save as CSV (at most 10,000 rows)"
    )
    rows = list(csv.DictReader(io.StringIO(get(world, csv_link).text)))
    assert [row["id"] for row in rows] == ["s/3"]
    assert rows[0]["problems"].endswith(": failed")
    assert rows[0][f"score {B}"] == str(3 / ROWS)
    everything = get(world, "/runs/run_all/samples?export=csv").text
    assert len(list(csv.DictReader(io.StringIO(everything)))) == ROWS


def test_a_sample_is_found_by_its_id(world):
    answer = get(world, "/runs/run_all/samples?sample=s/9", 303)
    assert answer.headers["location"] == "/runs/run_all/samples/9"
    assert "no sample with the id" in text_of(
        get(world, "/runs/run_all/samples?sample=x", 400).text
    )


def test_what_an_address_cannot_show_is_said(world):
    for query, words in (
        ("output=x", "it has f1"),
        ("a=x", "this run has no route 'x'"),
        (f"a={B}&b={B}", "cannot be compared with itself"),
        ("sort=id", "sorted by position, or by gain"),
        ("after=-1", "the position of a sample"),
        ("after=" + "9" * 16, "the position of a sample"),
    ):
        assert words in text_of(get(world, f"/runs/run_all/samples?{query}", 400).text)
    for path in (
        "/runs/none/samples",
        "/runs/run_all/samples/0",
        "/runs/run_all/samples/131",
        "/runs/run_all/samples/x",
    ):
        get(world, path, 404)
    for query in ("repeat=2", "repeat=-1", "first=2", "against=x", "against=route:x", "sort=x"):
        get(world, f"/runs/run_all/samples/1?{query}", 400)
    for query in ("part=x", "repeat=x"):
        get(world, f"/runs/run_all/samples/1/text?{query}", 400)
    for query in (
        "part=thinking&route=b/second",
        "part=answer&route=x",
        "part=reference&number=-1",
    ):
        get(world, f"/runs/run_all/samples/1/text?{query}", 404)


def test_next_and_previous_follow_the_list(world):
    page = get(world, "/runs/run_all/samples?sort=-gain&column=topic&value=even").text
    first = html.unescape(re.search(r'href="([^"]*/samples/2\?[^"]*)"', page)[1])
    seen, path = [], first
    for _ in range(3):
        sample = get(world, path).text
        seen.append(int(re.search(r"<h1>Sample (\d+) of", sample)[1]))
        path = link(sample, "Next")
    assert seen == [2, 6, 8]
    assert 'data-key="j"' in sample
    assert link(get(world, first).text, "Previous") is None
    assert "/samples/6?" in link(
        get(world, path).text.replace("samples/8", "samples/6"), "Previous"
    )
    # In the dataset's order, to both ends.
    assert link(get(world, "/runs/run_all/samples/1").text, "Previous") is None
    assert link(get(world, "/runs/run_all/samples/130").text, "Next") is None
    middle = get(world, "/runs/run_all/samples/50").text
    assert link(middle, "Next") == "/runs/run_all/samples/51"
    assert link(middle, "Previous") == "/runs/run_all/samples/49"


def test_a_sample_has_all_answers_with_what_differs(world):
    page = get(world, "/runs/run_all/samples/2").text
    text = text_of(page)
    assert f"Question 2 {RIGHT_TO_LEFT}" in text
    assert "It is a good answer here." in text
    assert '<div class="text" dir="auto">It is a <del>good </del><ins>bad </ins>answer ' in page
    assert "f1: A is better than B by 0.485" in text
    assert "f1 0.500 0.015" in text
    assert '"temperature": 0.5' in text
    same = get(world, f"/runs/run_all/samples/2?against=route:{B}").text
    assert "<del>" not in same.partition('<div class="answers">')[2]
    assert "<ins>" not in get(world, "/runs/run_all/samples/2?against=nothing").text
    # Most of this answer is not in the reference: it is marked on request only.
    assert 'dir="auto">It is a good answer here. x' in get(world, "/runs/run_all/samples/4").text
    asked = get(world, "/runs/run_all/samples/4?against=reference").text
    assert 'dir="auto">It is a good answer here. <ins>x' in asked
    assert "against=reference" in link(asked, "Next")
    second = text_of(get(world, "/runs/run_all/samples/2?repeat=1").text)
    assert second.count("No request was sent yet.") == 2


def test_an_answer_says_how_it_came_about_and_what_judges_and_people_say(world):
    page = get(world, "/runs/run_all/samples/4").text
    text = text_of(page)
    for words in (
        "1,234 and 5",
        "$0.012",
        "250 ms",
        "1.50 s",
        "1 field was not sent, 1 was changed",
        "sent as stops",
        "Answers like this one were cut off at max_tokens.",
        "on f1: 4 Quite good <script>",
        "People's f1: 3.0, 4.5",
        "Attempts of the request",
        "p/slow",
    ):
        assert words in text, words
    assert "Failed:" in text_of(get(world, "/runs/run_all/samples/3").text)


def test_long_texts_are_cut_with_a_link_to_the_whole(world):
    answer = get(world, "/runs/run_all/samples/4")
    assert len(answer.text) < 60_000
    assert "The first 6,000 of 1,000,026 characters" in text_of(answer.text)
    whole = get(world, link(answer.text, "The whole text"))
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in whole.headers["content-security-policy"]
    assert len(whole.text) == 1_000_026
    request = get(world, link(answer.text, "The request as JSON"))
    assert request.json()["messages"][0]["content"] == ATTACK
    assert request.json()["temperature"] == 0.5


def test_runs_without_scores_samples_or_with_many_routes(world):
    page = get(world, "/runs/run_none/samples").text
    assert positions(page) == [1, 2]
    assert "Where A beats B" not in page
    assert "This run has no samples" in text_of(get(world, "/runs/run_empty/samples").text)
    wide = text_of(get(world, "/runs/run_wide/samples").text)
    assert "18 more routes have no column here" in wide
    sample = get(world, "/runs/run_wide/samples/1").text
    assert "of the last" not in sample
    last = get(world, link(get(world, link(sample, "18 more routes")).text, "6 more routes")).text
    assert "of the last" in last
    assert "of the last" in get(world, "/runs/run_wide/samples/1?a=r29").text
    second = get(world, "/runs/run_wide/samples/1?repeat=1").text
    more = get(world, link(second, "18 more routes")).text
    assert '<option value="1" selected>2 of 2</option>' in more
    assert "repeat=1" in link(more, "The first routes")


def note(world, role, position=7, status=303, **fields):
    http, keys = world
    headers = BROWSER | {"authorization": f"Bearer {keys[role]}"}
    path = f"/pages/runs/run_all/samples/{position}/note"
    answer = http.post(path, data=fields, headers=headers)
    assert answer.status_code == status, answer.text
    return answer


def test_people_write_notes_that_others_see(world):
    answer = note(world, "admin", label=" very  bad ", note=ATTACK, query="sort=-gain&q=a")
    assert answer.headers["location"] == "/runs/run_all/samples/7?sort=-gain&q=a#notes"
    note(world, "reviewer", label="good")
    page = get(world, "/runs/run_all/samples/7", role="reviewer").text
    text = text_of(page)
    assert re.search(r"very bad <script>.*admin, \d{4}-\d\d-\d\d \d\d:\d\d UTC", text)
    assert re.search(r"good reviewer, \d{4}", text)
    assert 'name="label" value="good"' in page
    listed = get(world, "/runs/run_all/samples?noted=true").text
    assert positions(listed) == [7]
    assert "very bad good" in text_of(listed)
    # Nobody else can write, and nothing that was typed is lost.
    for role in ("viewer", "client"):
        note(world, role, status=403, label="x")
    assert "Your note" not in get(world, "/runs/run_all/samples/7", role="viewer").text
    refused = note(world, "admin", status=400, label="w" * 61, note="stays", query="q=Question")
    assert "A label has at most 60 characters; this one has 61." in text_of(refused.text)
    assert "stays</textarea>" in refused.text
    assert refused.headers["hx-push-url"] == "false"
    assert "q=Question" in link(refused.text, "Next")
    assert "at most 4,000" in text_of(note(world, "admin", status=400, note="n" * 4001).text)
    note(world, "admin", position=131, status=404, label="x")
    note(world, "admin")
    text = text_of(get(world, "/runs/run_all/samples/7").text)
    assert "very bad" not in text
    assert "good reviewer" in text


def api(world, role, method, position=9, status=200, **body):
    """Send a request for the notes of a sample; a DELETE has its parameters in the address."""
    http, keys = world
    sent = {"params": body} if method == "DELETE" else {"json": body} if body else {}
    path = f"/eval/run_all/samples/{position}/notes"
    headers = {"authorization": f"Bearer {keys[role]}"}
    answer = http.request(method, path, headers=headers, **sent)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


def test_programs_read_and_write_the_notes_of_the_page(world):
    written = api(world, "admin", "PUT", label=" very  bad ", note=ATTACK)
    assert (written["label"], written["author"], written["position"]) == ("very bad", "admin", 9)
    api(world, "reviewer", "PUT", label="good", before=0)
    listed = api(world, "viewer", "GET")["data"]
    assert [(each["author"], each["label"]) for each in listed] == [
        ("admin", "very bad"), ("reviewer", "good"),
    ]  # fmt: skip
    assert "very bad" in text_of(get(world, "/runs/run_all/samples/9").text)
    # The same rules as on the page: of two at once, the later is told.
    told = api(world, "admin", "PUT", status=409, label="x", before=0)
    assert "another note on this sample meanwhile" in told["error"]["message"]
    api(world, "admin", "DELETE", status=409, before=1.5)
    mended = api(world, "admin", "PUT", note="mended", before=written["at"])
    api(world, "admin", "DELETE", status=204, before=mended["at"])
    api(world, "admin", "DELETE", status=404)
    api(world, "reviewer", "DELETE", status=204)
    assert api(world, "admin", "GET")["data"] == []


def test_notes_that_cannot_be_are_refused(world):
    for body in ({"label": " ", "note": "\n"}, {"label": "w" * 61}, {"note": "n" * 4001},
                 {"labels": "x"}, {"label": 1}, {"label": "x", "before": "soon"}):  # fmt: skip
        assert api(world, "admin", "PUT", status=400, **body)["error"]["param"]
    api(world, "admin", "DELETE", status=400, before="soon")
    for position in (0, 131, "first", "9" * 40, "-1"):
        api(world, "admin", "GET", position, 404)
        api(world, "admin", "PUT", position, 404, label="x")
        api(world, "admin", "DELETE", position, 404)
    for role in ("viewer", "client"):
        api(world, role, "PUT", status=403, label="x")
        api(world, role, "DELETE", status=403)
    api(world, "client", "GET", status=404)


def test_a_note_is_not_lost_to_an_address_that_cannot_be_read(world):
    many = "&".join(f"p{n}=1" for n in range(60))
    assert note(world, "admin", label="x", query=many).headers["location"].endswith("/7#notes")
    for query in ("output=zz&sort=bad", "a=nowhere", many):
        refused = note(world, "admin", status=400, note="n" * 4001, query=query)
        assert "at most 4,000" in text_of(refused.text)
        assert "n" * 4001 in refused.text
    note(world, "admin")


def test_of_two_tabs_with_one_note_the_later_is_told(world):
    def before(page):
        return re.search(r'name="before" value="([^"]*)"', page)[1]

    path = "/runs/run_all/samples/8"
    none = before(get(world, path).text)
    note(world, "admin", position=8, label="first", before=none)
    told = note(world, "admin", position=8, status=409, label="second", note="kept", before=none)
    assert "You have written another note on this sample meanwhile." in text_of(told.text)
    assert "first admin" in text_of(told.text)
    assert 'name="label" value="second"' in told.text
    assert "kept</textarea>" in told.text
    # A note that is too long meanwhile does not take the other one for its own.
    long = note(world, "admin", position=8, status=400, note="n" * 4001, before=none)
    assert before(long.text) == none
    note(world, "admin", position=8, status=409, before=none)
    note(world, "admin", position=8, label="second", before=before(told.text))
    shown = get(world, path).text
    assert "second admin" in text_of(shown)
    note(world, "admin", position=8, before=before(shown))
    assert "second admin" not in text_of(get(world, path).text)
    note(world, "admin", position=8, status=400, before="soon")


def test_a_clients_key_sees_no_samples_of_others(world):
    for path in ("samples", "samples/1", "samples/1/text?part=request"):
        get(world, f"/runs/run_all/{path}", 404, role="client")
