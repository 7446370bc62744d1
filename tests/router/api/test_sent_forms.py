"""Forms that are sent twice and obeyed once."""

import asyncio
import re

import httpx
import pytest
from litestar import Response
from page_elements import BROWSER, csrf_token, sign_in, text_of
from servers import gateway
from stores import add_keys, sqlite_store

from providers.errors import ConflictError, RequestError
from router.api.sent_forms import REMEMBERED_S, SentForms


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two servers on one database, and the key of an administrator."""
    folder = tmp_path_factory.mktemp("sent")
    (folder / "d.jsonl").write_text('{"input": "One."}\n')
    secret = add_keys(folder / "e.db", "admin")["admin"]
    config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
evaluation: {{roots: ["{folder}"]}}
datasets: {{roots: ["{folder}"]}}
"""
    with gateway(config) as one, gateway(config) as other:
        yield (one, other), secret, folder


@pytest.fixture
def browsers(world):
    """Two connections of one browser, each with another server."""
    urls, secret, _ = world
    with httpx.Client(base_url=urls[0], headers=BROWSER, timeout=60) as http:
        sign_in(http, secret)
        cookies = dict(http.cookies)
        with httpx.Client(base_url=urls[1], headers=BROWSER, cookies=cookies, timeout=60) as other:
            yield http, other


def hidden(page):
    ids = re.findall('name="form_id" value="([^"]+)"', page)
    return {"csrf_token": csrf_token(page), "form_id": ids[0]}


def test_two_posts_of_one_form_make_one_key_and_both_show_it(browsers):
    http, other = browsers
    form = hidden(http.get("/keys").text) | {"name": "twice", "role": "client"}
    pages = [http.post("/pages/keys", data=form).text for _ in range(2)]
    [secret] = {re.search('id="secret">([^<]+)<', page)[1] for page in pages}
    assert http.get("/keys", params={"q": "twice"}).text.count(">twice</a>") == 1
    # Another process does not have the secret; it says what has happened.
    late = other.post("/pages/keys", data=form)
    assert late.status_code == 409
    assert "sent twice, and obeyed once" in text_of(late.text)
    # What a person has changed is another form, and so is the next page's.
    assert http.post("/pages/keys", data=form | {"name": "next"}).status_code == 200
    again = http.post("/pages/keys", data=form | hidden(http.get("/keys").text))
    assert again.status_code == 400
    assert secret not in again.text


def test_two_posts_of_one_form_start_one_run(browsers, world):
    http, other = browsers
    form = hidden(http.get("/runs/new").text) | {
        "other_dataset": f"{world[2]}/d.jsonl", "routes": "baseline/echo", "metrics": "length",
        "do": "start",
    }  # fmt: skip
    answers = [http.post("/pages/runs/new", data=form) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 303], text_of(answers[0].text)
    assert len({answer.headers["location"] for answer in answers}) == 1
    late = other.post("/pages/runs/new", data=form)
    assert late.status_code == 409
    json = {"accept": "application/json"}
    assert len(http.get("/eval", headers=json).json()["data"]) == 1


@pytest.fixture
async def store(tmp_path):
    async with sqlite_store(tmp_path / "e.db") as store:
        yield store


async def test_a_form_in_flight_is_waited_for_and_its_sender_may_leave(store):
    forms, begun, go_on = SentForms(store, "a"), [], asyncio.Event()

    async def obey():
        begun.append(1)
        await go_on.wait()
        return Response("made")

    first, second = (asyncio.create_task(forms.once("k", {"form_id": "f"}, obey)) for _ in range(2))
    while not begun:
        await asyncio.sleep(0)
    first.cancel()
    go_on.set()
    assert (await second).content == "made"
    assert begun == [1]
    # Another person's form, or one without an id, is another one.
    await forms.once("other", {"form_id": "f"}, obey)
    await forms.once("k", {}, obey)
    assert begun == [1, 1, 1]


async def test_what_was_refused_may_be_sent_again_and_what_is_old_too(store):
    now = [0.0]
    forms, other = (SentForms(store, name, clock=lambda: now[0]) for name in "ab")
    answers = [RequestError("wrong"), Response("wrong", status_code=400), *map(Response, "123")]

    async def obey():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def send(forms):
        return (await forms.once("k", {"form_id": "f"}, obey)).content

    with pytest.raises(RequestError):
        await send(forms)
    assert await send(forms) == "wrong"
    assert await send(forms) == await send(forms) == "1"
    with pytest.raises(ConflictError, match="sent twice"):
        await send(other)
    now[0] += REMEMBERED_S + 1
    assert await send(forms) == "2"
