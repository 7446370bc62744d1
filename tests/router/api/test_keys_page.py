"""The pages of keys: what is shown of them, new ones, which are shown once, and their end."""

from __future__ import annotations

import csv
import html
import io
import re
import time
from typing import NamedTuple

import httpx
import pytest
from page_elements import BROWSER, Elements, browsers, check_policy, csrf_token
from servers import gateway, scripted
from stores import in_store

from router.gateway.key_administration import create
from router.store.keys import KeySpend

ROLES = ("client", "reviewer", "admin", "viewer")


class World(NamedTuple):
    url: str
    keys: dict[str, str]
    ids: dict[str, str]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys_page")
    keys, ids = {}, {}

    async def fill(store):
        for role in ROLES:
            keys[role], row = await create(store, role, now=1.0, role=role)
            ids[role] = row.id
        fields = {"budget_usd": 25.0, "rpm": 600, "routes": ("r", "up/down"), "expires_at": 4e9}
        keys["app"], row = await create(store, "app", now=2.0, **fields)
        ids["app"] = row.id
        spend = KeySpend(key_id=row.id, since=0.0, usd=5.5, tokens=10, requests=3, unpriced=2)
        await store.add_key_spend([spend])
        keys["old"], row = await create(store, "old", now=2.0, expires_at=3.0)

    in_store(folder / "e.db", fill)
    with scripted({"m": [{"answer": "one two"}], "down": [{"status": 400}]}) as upstream:
        config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}
routes: {{r: {{targets: [{{model: up/m}}]}}}}
prices: {{up/m: {{input: 100000, output: 100000}}}}
"""
        with gateway(config) as url:
            yield World(url, keys, ids)


@pytest.fixture
def browser(world):
    """Makes browsers that are signed in."""
    with browsers(world.url, world.keys) as sign_in:
        yield sign_in


def create_key(http, **fields):
    token = csrf_token(http.get("/keys").text)
    return http.post("/pages/keys", data={"csrf_token": token, "role": "client"} | fields)


def test_a_program_gets_the_keys_as_json_and_a_browser_the_page(world, browser):
    listed = httpx.get(
        f"{world.url}/keys", headers={"authorization": f"Bearer {world.keys['admin']}"}
    )
    assert {one["key"]["name"] for one in listed.json()["data"]} >= {"app", "old"}
    page = browser("admin").get("/keys")
    check_policy(page)
    text = Elements(page.text).text
    for shown in ("app", "r, up/down", "600 requests/min", "$5.50 of $25.00", "expired"):
        assert shown in text
    assert "2 without a price" in text
    for secret in world.keys.values():
        assert secret not in page.text
    for role in ("client", "reviewer"):
        assert browser(role).get("/keys").status_code == 403


def test_keys_are_sorted_filtered_and_exported(browser):
    http = browser("viewer")

    def names(query):
        text = http.get(f"/keys?{query}&export=csv").text
        return [row[0] for row in csv.reader(io.StringIO(text))][1:]

    assert names("sort=-spent_usd&state_is=active")[0] == "app"
    assert names("state_is=expired&sort=name") == ["old"]
    assert names("role_is=viewer&sort=name") == ["viewer"]
    assert names("q=APP&sort=name") == ["app"]
    assert http.get("/keys?sort=limits").status_code == 400
    assert "No key is left that matches" in http.get("/keys?q=nothing").text


def test_a_new_key_is_shown_once_and_in_no_address(world, browser):
    http = browser("admin")
    fields = {"name": "made", "routes": "r, later\nup/m", "rpm": "60", "tpm": "", "parallel": " 2 "}
    fields |= {"budget_usd": "$1.50", "budget_period": "month", "expires": "30d"}
    made = create_key(http, **fields)
    assert made.status_code == 200
    assert made.headers["cache-control"] == "no-store"
    assert "location" not in made.headers
    check_policy(made)
    secret = re.search(r'<code id="secret">(er-[\w-]+)</code>', made.text)[1]
    assert "no route &#39;later&#39; exists" in made.text
    headers = {"authorization": f"Bearer {secret}"}
    assert httpx.get(f"{world.url}/v1/models", headers=headers).status_code == 200
    for path in ("/keys", "/pages/keys"):
        assert secret not in http.get(path).text
    admin = {"authorization": f"Bearer {world.keys['admin']}"}
    [row] = [
        one["key"]
        for one in httpx.get(f"{world.url}/keys", headers=admin).json()["data"]
        if one["key"]["name"] == "made"
    ]
    assert row["routes"] == ["r", "later", "up/m"]
    assert (row["rpm"], row["tpm"], row["parallel"]) == (60, None, 2)
    assert (row["budget_usd"], row["budget_period"]) == (1.5, "month")
    assert abs(row["expires_at"] - time.time() - 30 * 86400) < 3600


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "a key's name has 1 to 64 letters"),
        ({"name": "two words"}, "a key's name has"),
        ({"name": "app"}, "there is a key 'app' already"),
        ({"name": "x", "rpm": "many"}, "rpm: 'many' is not a whole number"),
        ({"name": "x", "rpm": "0"}, "rpm"),
        (
            {"name": "x", "rpm": "9" * 5000},
            "rpm: a number has at most 15 digits; this one has 5,000",
        ),
        ({"name": "x", "rpm": "9" * 15}, "rpm"),
        ({"name": "x", "rpm": "1_0"}, "rpm: '1_0' is not a whole number"),
        ({"name": "x", "budget_usd": "ten"}, "budget_usd: 'ten' is not a number"),
        ({"name": "x", "budget_usd": "nan"}, "budget"),
        ({"name": "x", "expires": "soon"}, "'soon' is not a time"),
        ({"name": "x", "role": "king"}, "role"),
        ({"name": "x", "role": "admin", "routes": "r"}, "cannot be confined"),
        ({"name": "x", "routes": "nobody/m"}, "no provider 'nobody'"),
    ],
)
def test_what_is_wrong_with_a_new_key_is_said_and_nothing_typed_is_lost(browser, fields, message):
    answer = create_key(browser("admin"), expires=fields.pop("expires", "90d"), **fields)
    assert answer.status_code == 400
    assert message in html.unescape(answer.text)
    assert 'id="secret"' not in answer.text
    elements = Elements(answer.text).elements
    for name, value in fields.items():
        if name not in ("role", "routes"):
            assert ("input", name, value) in {
                (tag, attributes.get("name"), attributes.get("value"))
                for tag, attributes in elements
            }
    assert fields.get("routes", "") in answer.text


def change_form(http, key_id):
    """The form's fields as a browser would send them."""
    form = http.get(f"/keys/{key_id}").text
    form = form[form.index(f'action="/pages/keys/{key_id}/change"') :]
    form = form[: form.index("</form>")]
    fields = {
        attributes["name"]: attributes.get("value", "")
        for tag, attributes in Elements(form).elements
        if tag == "input" and (attributes.get("type") != "radio" or "checked" in attributes)
    }
    fields["routes"] = html.unescape(re.search(r"<textarea[^>]*>([^<]*)<", form)[1])
    fields["budget_period"] = re.search(r'<option value="(\w+)" selected', form)[1]
    return fields


def test_a_key_is_changed_by_its_form(world, browser):
    http, other = browser("admin"), browser("admin")
    create_key(http, name="shape", rpm="60", routes="r up/m", budget_usd="1.5", expires="30d")
    key_id = re.search(r'<a href="/keys/(key_\w+)">shape</a>', http.get("/keys").text)[1]
    headers = {"authorization": f"Bearer {world.keys['admin']}"}

    def stored():
        return httpx.get(f"{world.url}/keys/{key_id}", headers=headers).json()

    def send(**fields):
        return http.post(f"/pages/keys/{key_id}/change", data=change_form(http, key_id) | fields)

    before = stored()
    unchanged = send()
    assert (unchanged.status_code, unchanged.headers["location"]) == (303, f"/keys/{key_id}")
    assert stored() == before
    late = change_form(other, key_id)
    done = send(name="form", rpm="", tpm="7", routes="r", budget_usd="$2.50", budget_period="week")
    assert done.status_code == 303
    row = stored()["key"]
    assert (row["name"], row["rpm"], row["tpm"], row["routes"]) == ("form", None, 7, ["r"])
    assert (row["budget_usd"], row["budget_period"]) == (2.5, "week")
    assert row["expires_at"] == before["key"]["expires_at"]
    page = http.get(f"/keys/{key_id}")
    check_policy(page)
    text = Elements(page.text).text
    for change in ("name: shape → form", "rpm: 60 → none", "routes: r, up/m → r"):
        assert change in text
    assert "key admin (key_" in text
    refused = send(rpm="many", name="again")
    assert refused.status_code == 400
    assert 'value="again"' in refused.text
    assert 'role="alert">rpm' in refused.text
    conflict = other.post(f"/pages/keys/{key_id}/change", data=late | {"name": "late"})
    assert conflict.status_code == 409
    assert "changed meanwhile" in conflict.text
    assert stored()["key"]["name"] == "form"
    assert send(expires="", role="viewer", routes="").status_code == 303
    assert (stored()["key"]["expires_at"], stored()["key"]["role"]) == (None, "viewer")
    assert browser("viewer").post(f"/pages/keys/{key_id}/change", data=late).status_code == 403
    token = csrf_token(http.get("/keys").text)
    http.post(f"/pages/keys/{key_id}/revoke", data={"csrf_token": token})
    assert f"/pages/keys/{key_id}/change" not in http.get(f"/keys/{key_id}").text
    gone = http.post(f"/pages/keys/{key_id}/change", data=late | {"csrf_token": token})
    assert gone.status_code == 409


def test_when_a_key_was_used_is_shown(world, browser):
    http = browser("viewer")
    headers = {"authorization": f"Bearer {world.keys['admin']}"}
    while httpx.get(f"{world.url}/keys/viewer", headers=headers).json()["used_at"] is None:
        time.sleep(0.02)
    assert "<dt>Last used</dt><dd>never</dd>" in http.get(f"/keys/{world.ids['app']}").text
    rows = list(csv.DictReader(io.StringIO(http.get("/keys?sort=-used_at&export=csv").text)))
    by_name = {row["name"]: row["used_at"] for row in rows}
    assert by_name["old"] == ""
    assert by_name["viewer"]
    assert rows[0]["used_at"]


def test_a_viewer_sees_keys_and_no_form(world, browser):
    http = browser("viewer")
    for path in ("/keys", f"/keys/{world.ids['app']}"):
        page = http.get(path)
        assert page.status_code == 200
        actions = {attributes.get("action") for tag, attributes in Elements(page.text).elements}
        assert not {one for one in actions if one and one.startswith("/pages/keys")}
    token = csrf_token(http.get("/keys").text)
    for path in ("/pages/keys", f"/pages/keys/{world.ids['app']}/revoke"):
        answer = http.post(path, data={"csrf_token": token, "name": "x"})
        assert answer.status_code == 403


def test_a_form_without_the_token_creates_nothing(browser):
    http = browser("admin")
    assert http.post("/pages/keys", data={"name": "stolen"}).status_code == 403
    assert "stolen" not in http.get("/keys").text


def test_a_key_is_revoked_with_its_sessions(world, browser):
    http = browser("admin")
    create_key(http, name="gone", role="admin")
    secret = create_key(http, name="gone2", role="admin").text
    world.keys["gone2"] = re.search(r'<code id="secret">(er-[\w-]+)<', secret)[1]
    other = browser("gone2")
    assert other.get("/keys").status_code == 200
    key_id = re.search(r'<a href="/keys/(key_\w+)">gone2</a>', http.get("/keys").text)[1]
    page = http.get(f"/keys/{key_id}")
    assert 'data-confirm="Revoke the key gone2?"' in page.text
    own = other.get(f"/keys/{key_id}")
    assert "You are signed in with it." in own.text
    done = http.post(f"/pages/keys/{key_id}/revoke", data={"csrf_token": csrf_token(page.text)})
    assert (done.status_code, done.headers["location"]) == (303, "/keys")
    assert other.get("/keys").headers["location"].startswith("/login")
    assert "/revoke" not in http.get(f"/keys/{key_id}").text
    again = http.post(f"/pages/keys/{key_id}/revoke", data={"csrf_token": csrf_token(page.text)})
    assert again.status_code == 404
    assert http.get("/keys/key_nothing").status_code == 404


def test_all_browsers_of_a_key_are_signed_out_and_the_key_stays(world, browser):
    http, one, other = (browser(name) for name in ("admin", "reviewer", "reviewer"))
    address = f"/keys/{world.ids['reviewer']}"
    page = http.get(address)
    assert int(re.search(r"(\d+) browsers are signed in with it", page.text)[1]) >= 2
    form = {"csrf_token": csrf_token(page.text)}
    assert http.post(f"/pages{address}/sign-out").status_code == 403
    assert one.get("/experiments").status_code == 200
    done = http.post(f"/pages{address}/sign-out", data=form)
    assert (done.status_code, done.headers["location"]) == (303, address)
    for signed_out in (one, other):
        assert signed_out.get("/experiments").headers["location"].startswith("/login")
    assert "0 browsers are signed in with it" in http.get(address).text
    assert browser("reviewer").get("/experiments").status_code == 200
    assert http.post("/pages/keys/key_nothing/sign-out", data=form).status_code == 404


def test_usage_of_a_key_is_added_up_by_hours_and_days(world, browser):
    headers = {"authorization": f"Bearer {world.keys['app']}"}
    body = {"messages": [{"role": "user", "content": "hi"}]}
    for model, status in (("r", 200), ("r", 200), ("up/down", 400)):
        sent = httpx.post(
            f"{world.url}/v1/chat/completions", json=body | {"model": model}, headers=headers
        )
        assert sent.status_code == status
    http = browser("viewer")
    while "<strong>3</strong> requests" not in usage(http, world, "app", "day"):
        time.sleep(0.02)
    for period, words in (("day", "24 hours"), ("week", "7 days"), ("month", "30 days")):
        page = http.get(f"/keys/{world.ids['app']}?usage={period}")
        check_policy(page)
        assert f"requests in {words}" in page.text
        assert '<strong class="worse">1</strong> of them failed' in page.text
        # Of all, and of those that failed.
        assert page.text.count("<rect") in (2, 3, 4)
        assert usage(http, world, "app", period) in page.text
    assert "hx-get" in http.get(f"/keys/{world.ids['app']}").text
    assert http.get(f"/keys/{world.ids['app']}?usage=year").status_code == 400
    none = usage(http, world, "reviewer", "day")
    assert "<strong>0</strong> requests" in none
    assert "<rect" not in none


def usage(http, world, name, period):
    return http.get(f"/pages/keys/{world.ids[name]}/usage?period={period}").text.strip()


def test_the_first_key_should_be_an_administrators(tmp_path):
    config = f"storage: {{database: 'sqlite:///{tmp_path}/e.db', artifacts: '{tmp_path}'}}"
    with gateway(config) as url, httpx.Client(base_url=url, headers=BROWSER, timeout=60) as http:
        page = http.get("/keys").text
        assert "Make the first one an administrator" in page
        assert 'value="admin" checked' in page
        made = http.post("/pages/keys", data={"name": "boss", "role": "admin"})
        assert made.status_code == 200
        assert 'href="/login">Sign in with this one' in made.text
        assert http.get("/keys").headers["location"] == "/login?next=%2Fkeys"
