"""Signing in with a browser: cookies, forms that are the session's own, and where it leads."""

from __future__ import annotations

import re
import time
from typing import NamedTuple

import httpx
import pytest
from page_elements import BROWSER, csrf_token, sign_in
from servers import gateway
from stores import add_keys, in_store

from router.api.sign_in import cookie_of, local_path
from router.gateway.key_administration import revoke
from router.gateway.keys import Keys
from router.gateway.sessions import Sessions

ROLES = ("client", "reviewer", "admin", "viewer")


class World(NamedTuple):
    url: str
    other_url: str
    keys: dict[str, str]
    path: str


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sessions")
    path = folder / "e.db"

    keys = add_keys(path, *ROLES, gone="admin")
    config = f"{{storage: {{database: 'sqlite:///{path}', artifacts: '{folder}'}}}}"
    https = config[:-1] + ", server: {public_url: 'https://router.test'}}"
    with gateway(config) as url, gateway(https) as other_url:
        yield World(url, other_url, keys, path)


def browser(url):
    return httpx.Client(base_url=url, headers=BROWSER, timeout=60)


def test_a_page_leads_to_the_form_which_leads_back(world):
    with browser(world.url) as http:
        answer = http.get("/runs/x", params={"limit": "5"})
        assert answer.status_code == 303
        assert answer.headers["location"] == "/login?next=%2Fruns%2Fx%3Flimit%3D5"
        form = http.get(answer.headers["location"])
        assert 'name="next" value="/runs/x?limit=5"' in form.text
        assert form.headers["cache-control"] == "no-store"
        answer = sign_in(http, world.keys["admin"], "/runs/x?limit=5")
        assert (answer.status_code, answer.headers["location"]) == (303, "/runs/x?limit=5")
        assert http.get("/").status_code == 200


def test_paths_of_the_api_have_errors_as_json_without_a_session(world):
    with browser(world.url) as http:
        for path in ("/eval", "/metrics", "/eval/metrics", "/nothing"):
            answer = http.get(path)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
    answer = httpx.get(world.url)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


def test_the_cookie_is_for_this_server_only_and_no_script_sees_it(world):
    for url, secure in ((world.url, False), (world.other_url, True)):
        with browser(url) as http:
            token = csrf_token(http.get("/login").text)
            cookies = {"cookie": f"evalrouter_login={token}"}
            data = {"key": world.keys["admin"], "csrf_token": token}
            answer = http.post("/login", data=data, headers=cookies)
            [cookie] = [
                value
                for value in answer.headers.get_list("set-cookie")
                if value.startswith("evalrouter_session=")
            ]
            parts = {part.strip().lower() for part in cookie.split(";")[1:]}
            assert {"httponly", "samesite=lax", "path=/"} <= parts
            assert ("secure" in parts) is secure
            assert not {part for part in parts if part.startswith("domain")}
            assert world.keys["admin"] not in cookie


@pytest.mark.parametrize("role", ROLES)
def test_a_session_may_read_what_its_key_may(world, role):
    with browser(world.url) as http:
        assert sign_in(http, world.keys[role]).status_code == 303
        for path in ("/keys", "/eval", "/v1/models", "/eval/judges"):
            by_key = httpx.get(
                world.url + path, headers={"authorization": f"Bearer {world.keys[role]}"}
            )
            # Some of these are pages, too.
            by_session = http.get(path, headers={"accept": "application/json"})
            assert by_session.status_code == by_key.status_code
            assert by_session.status_code == 403 or by_session.json() == by_key.json()


def test_an_error_keeps_the_navigation_of_who_is_signed_in(world):
    with browser(world.url) as http:
        sign_in(http, world.keys["client"])
        for path, status in (("/nothing/here", 404), ("/keys", 403), ("/runs/nothing", 404)):
            answer = http.get(path)
            assert answer.status_code == status
            assert '<a href="/runs">Runs</a>' in answer.text
            assert '<a href="/settings">' not in answer.text
            assert "Sign out" in answer.text
            # The form to sign out is the session's own.
            assert csrf_token(answer.text)


def test_home_shows_a_client_nothing_of_others(world):
    by_admin = {"authorization": f"Bearer {world.keys['admin']}"}
    body = {"model": "baseline/lead-3", "messages": [{"role": "user", "content": "One. Two."}]}
    sent = httpx.post(f"{world.url}/v1/chat/completions", json=body, headers=by_admin, timeout=60)
    assert sent.status_code == 200
    while not httpx.get(f"{world.url}/traffic", headers=by_admin).json()["data"]:
        time.sleep(0.05)
    counts = {}
    for role in ("admin", "client"):
        with browser(world.url) as http:
            sign_in(http, world.keys[role])
            home = http.get("/").text
        counts[role] = int(re.search(r"<strong>(\d+)</strong> requests", home)[1])
        assert ('href="/alerts?state_is=firing"' in home) is (role == "admin")
        assert ("baseline/…" in home) is (role == "admin")
    assert counts["admin"] > 0
    assert counts["client"] == 0


def test_a_key_in_a_header_comes_before_the_session(world):
    with browser(world.url) as http:
        sign_in(http, world.keys["admin"])
        headers = {"authorization": f"Bearer {world.keys['client']}"}
        assert http.get("/keys", headers=headers).status_code == 403
        headers = {"authorization": "Bearer er-none"}
        assert http.get("/keys", headers=headers).status_code == 401


def test_a_change_needs_the_token_of_the_session(world):
    with browser(world.url) as http, browser(world.url) as other:
        sign_in(http, world.keys["admin"])
        sign_in(other, world.keys["admin"])
        token, others = (csrf_token(each.get("/").text) for each in (http, other))
        form = {"content-type": "application/x-www-form-urlencoded"}
        for headers, content in (
            ({}, b"{}"),
            ({"x-csrf-token": ""}, b"{}"),
            ({"x-csrf-token": others}, b"{}"),
            (form, f"csrf_token={others}".encode()),
            (form, b""),
            (form | {"x-csrf-token": "x"}, f"csrf_token={token}".encode()),
            ({"content-type": "text/plain"}, f"csrf_token={token}".encode()),
        ):
            answer = http.post("/keys", headers=headers, content=content)
            assert answer.status_code == 403, headers
            assert answer.json()["error"]["code"] == "csrf_token"
        for method in ("PUT", "PATCH", "DELETE"):
            answer = http.request(method, "/experiments/x" if method != "PUT" else "/routes/x")
            assert answer.json()["error"]["code"] == "csrf_token"
        # What the handler says of the body.
        headers = {"x-csrf-token": token}
        assert http.post("/keys", headers=headers, content=b"{}").status_code == 400
        assert http.delete("/experiments/x", headers=headers).status_code == 404
        for site in ({"origin": "https://evil.test"}, {"sec-fetch-site": "cross-site"}):
            answer = http.post("/keys", headers=headers | site, content=b"{}")
            assert answer.json()["error"]["code"] == "other_origin"


def test_a_session_calls_models_with_its_token_and_its_key_pays(world):
    body = {"model": "baseline/echo", "messages": [{"role": "user", "content": "hi"}]}
    path = "/v1/chat/completions"
    with browser(world.url) as http, browser(world.url) as other:
        assert http.post(path, json=body).status_code == 401
        sign_in(http, world.keys["client"])
        sign_in(other, world.keys["admin"])
        token, others = (csrf_token(each.get("/").text) for each in (http, other))
        for headers in ({}, {"x-csrf-token": ""}, {"x-csrf-token": others}):
            answer = http.post(path, json=body, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "csrf_token")
        headers = {"x-csrf-token": token}
        for site in ({"origin": "https://evil.test"}, {"sec-fetch-site": "cross-site"}):
            answer = http.post(path, json=body, headers=headers | site)
            assert answer.json()["error"]["code"] == "other_origin"
        # Some key is presented, and is none.
        for given in ({"authorization": "Bearer x"}, {"x-api-key": "x"}, {"api-key": "x"}):
            answer = http.post(path, json=body, headers=headers | given)
            assert answer.json()["error"]["code"] == "invalid_api_key"
        answer = http.post(path, json=body, headers=headers)
        assert (answer.status_code, answer.headers["x-evalrouter-target"]) == (200, body["model"])
        record = f"/traffic/{answer.headers['x-evalrouter-record']}"
        as_json = {"accept": "application/json"}
        while (found := http.get(record, headers=as_json)).status_code == 404:
            time.sleep(0.02)
        keys = {
            listed["key"]["id"]: listed["key"]["name"]
            for listed in other.get("/keys", headers=as_json).json()["data"]
        }
        assert keys[found.json()["key_id"]] == "client"
        sign_out = {"csrf_token": token}
        assert http.post("/logout", data=sign_out).status_code == 303
        assert http.post(path, json=body, headers=headers).status_code == 401


def test_signing_in_from_another_sites_page_is_refused(world):
    with browser(world.url) as http:
        token = csrf_token(http.get("/login").text)
        data = {"key": world.keys["admin"], "csrf_token": token}
        for site in ({"origin": "https://evil.test"}, {"sec-fetch-site": "cross-site"}):
            answer = http.post("/login", data=data, headers=site)
            assert answer.json()["error"]["code"] == "other_origin"
        for data in (
            {"key": world.keys["admin"]},
            {"key": world.keys["admin"], "csrf_token": token[:-1]},
            {"key": world.keys["admin"], "csrf_token": "é"},
        ):
            # The form that is shown then has another token.
            answer = http.post("/login", data=data, headers={"cookie": f"evalrouter_login={token}"})
            assert answer.status_code == 400
            assert "evalrouter_session" not in answer.headers.get("set-cookie", "")
    with browser(world.url) as http:
        data = {"key": world.keys["admin"], "csrf_token": token}
        assert http.post("/login", data=data).status_code == 400


def test_a_new_session_ends_the_former_one_of_the_browser(world):
    with browser(world.url) as http:
        sign_in(http, world.keys["admin"])
        former = http.cookies["evalrouter_session"]
        sign_in(http, world.keys["admin"])
        assert http.cookies["evalrouter_session"] != former
        assert http.get("/keys").status_code == 200
        cookie = {"cookie": f"evalrouter_session={former}"}
    assert httpx.get(f"{world.url}/keys", headers=cookie).status_code == 401


def test_a_page_exchanges_a_token_that_is_old_for_a_new_one(world):
    async def begin(store):
        key = next(row for row in (await store.keys()).by_hash.values() if row.name == "viewer")
        two_hours_ago = Sessions(store, Keys(), clock=lambda: time.time() - 2 * 3600)
        return (await two_hours_ago.begin(key)).token

    former = in_store(world.path, begin)
    with browser(world.url) as http:
        http.cookies["evalrouter_session"] = former
        assert "set-cookie" not in http.get("/eval").headers
        answer = http.get("/")
        assert answer.status_code == 200
        assert "Sign out" in answer.text
        renewed = answer.cookies["evalrouter_session"]
        assert renewed not in ("", former)
        http.cookies.clear()
        http.cookies["evalrouter_session"] = renewed
        assert http.get("/keys").status_code == 200
        assert "set-cookie" not in http.get("/").headers


def test_signing_out_ends_the_session_in_every_process(world):
    with browser(world.url) as http:
        sign_in(http, world.keys["viewer"])
        cookie = {"cookie": f"evalrouter_session={http.cookies['evalrouter_session']}"}
        assert httpx.get(f"{world.other_url}/keys", headers=cookie).status_code == 200
        token = csrf_token(http.get("/").text)
        assert http.post("/logout").status_code == 403
        assert httpx.get(f"{world.other_url}/keys", headers=cookie).status_code == 200
        answer = http.post("/logout", data={"csrf_token": token})
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")
        assert "evalrouter_session" not in http.cookies
        for url in (world.url, world.other_url):
            assert httpx.get(f"{url}/keys", headers=cookie).status_code == 401
        assert http.post("/logout").status_code == 303


def test_a_session_ends_with_its_key(world):
    with browser(world.url) as http:
        sign_in(http, world.keys["gone"])
        assert http.get("/keys").status_code == 200
        in_store(world.path, lambda store: revoke(store, "gone", time.time()))
        while http.get("/keys").status_code == 200:
            time.sleep(0.05)
        assert http.get("/").headers["location"] == "/login?next=%2F"
        answer = sign_in(http, world.keys["gone"])
        assert answer.status_code == 401
        assert "This API key was revoked." in answer.text


def test_a_viewer_changes_nothing_even_with_the_token(world):
    with browser(world.url) as http:
        sign_in(http, world.keys["viewer"])
        headers = {"x-csrf-token": csrf_token(http.get("/").text)}
        for method, path in (
            ("POST", "/keys"),
            ("DELETE", "/traffic"),
            ("POST", "/v1/chat/completions"),
        ):
            answer = http.request(method, path, headers=headers, content=b"{}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "read_only")
    answer = httpx.post(
        f"{world.url}/v1/chat/completions",
        headers={"authorization": f"Bearer {world.keys['viewer']}"},
        json={"model": "baseline/echo", "messages": [{"role": "user", "content": "hi"}]},
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "read_only")


def test_too_many_failures_are_refused_but_not_those_who_know_their_key(world):
    # An address of loopback that no other test has.
    transport = httpx.HTTPTransport(local_address="127.0.0.77")
    with httpx.Client(base_url=world.url, headers=BROWSER, transport=transport) as http:
        for key in ("er-wrong", "", "é" * 1000, *["x"] * 7):
            answer = sign_in(http, key)
            assert answer.status_code == 401
            assert key not in answer.text or len(key) < 2
        answer = sign_in(http, "er-wrong")
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["content-type"].startswith("text/html")
    with browser(world.url) as http:
        assert sign_in(http, world.keys["admin"]).status_code == 303


def test_a_form_that_is_too_large_is_refused(world):
    with browser(world.url) as http:
        assert sign_in(http, "x" * 70_000).status_code == 413
        assert sign_in(http, "x" * 2_000_000).status_code == 413
        many = {f"f{number}": "" for number in range(1100)}
        assert sign_in(http, "x", **many).status_code == 413


def test_without_keys_the_pages_are_open_and_the_form_leads_home(tmp_path):
    config = f"{{storage: {{database: 'sqlite:///{tmp_path}/e.db', artifacts: '{tmp_path}'}}}}"
    with gateway(config) as url, browser(url) as http:
        assert http.get("/").status_code == 200
        assert http.get("/login").headers["location"] == "/"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/runs?x=1", "/runs?x=1"),
        ("/", "/"),
        ("", "/"),
        ("//evil.test", "/"),
        ("/\\evil.test", "/"),
        ("/a\\b", "/"),
        ("\\\\evil.test", "/"),
        ("https://evil.test", "/"),
        ("javascript:alert(1)", "/"),
        ("/\tevil", "/"),
        ("/a\r\nset-cookie: x=1", "/"),
        ("/\n/evil.test", "/"),
        (" //evil.test", "/"),
        ("evil.test", "/"),
        ("/" + "x" * 3000, "/"),
        ("/é", "/"),
    ],
)
def test_no_next_leads_to_another_site(target, path, world):
    assert local_path(target) == path
    with browser(world.url) as http:
        assert sign_in(http, world.keys["viewer"], target).headers["location"] == path


STRANGE_COOKIES = (
    'prefs={"a":1}',
    "a[b]=1",
    "a=b c",
    "\xe9=1",
    "a;",
    "k@x=1",
    "a=1;;b=2",
    "expires=1",
    "path",
    'a="',
    "=",
    "evalrouter_session_old=y",
)


def test_a_cookie_is_found_whatever_the_others_are():
    for value, found in (
        (b"a=1; evalrouter_session=x", "x"),
        (b'evalrouter_session="x"', "x"),
        (b" evalrouter_session = x ;", "x"),
        (b"evalrouter_session=x=y", "x=y"),
        (b"evalrouter_session=x; evalrouter_session=y", "x"),
        (b"evalrouter_session", ""),
        (b"", ""),
        (b"\xff=\xff; ;;=", ""),
        (b"other=1", ""),
    ):
        assert cookie_of({b"cookie": value}, "evalrouter_session") == found
    for other in STRANGE_COOKIES:
        for value in (f"{other}; evalrouter_session=x", f"evalrouter_session=x; {other}"):
            assert cookie_of({b"cookie": value.encode("latin-1")}, "evalrouter_session") == "x"


def test_cookies_of_other_programs_on_the_host_do_not_keep_a_user_out(world):
    others = "; ".join(STRANGE_COOKIES).encode("latin-1")
    with browser(world.url) as http:
        form = http.get("/login", headers={"cookie": others})
        cookie = others + b"; evalrouter_login=" + form.cookies["evalrouter_login"].encode()
        data = {"key": world.keys["viewer"], "csrf_token": csrf_token(form.text)}
        http.cookies.clear()
        answer = http.post("/login", data=data, headers={"cookie": cookie})
        assert answer.status_code == 303
        cookie = others + b"; evalrouter_session=" + answer.cookies["evalrouter_session"].encode()
        http.cookies.clear()
        assert http.get("/", headers={"cookie": cookie}).status_code == 200


def test_an_upload_of_a_session_needs_the_token_in_the_header(world):
    """A form of the type multipart/form-data is not read before it is let in."""
    with browser(world.url) as http:
        sign_in(http, world.keys["admin"])
        token = csrf_token(http.get("/").text)
        files = {"file": ("rows.jsonl", b'{"input": "hi"}\n')}
        for headers, fields in (
            ({}, {}),
            ({}, {"csrf_token": token}),
            ({"x-csrf-token": ""}, {"csrf_token": token}),
            ({"x-csrf-token": token[:-1]}, {}),
        ):
            refused = http.post(
                "/datasets", data={"name": "stolen"} | fields, files=files, headers=headers
            )
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "csrf_token")
        headers = {"accept": "application/json"}
        assert "stolen" not in http.get("/datasets", headers=headers).text
        headers["x-csrf-token"] = token
        stored = http.post("/datasets", data={"name": "mine"}, files=files, headers=headers)
        assert stored.status_code == 201, stored.text
