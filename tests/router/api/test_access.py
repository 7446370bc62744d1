"""The table of who may call what: it is whole, closed, and what the server does."""

from __future__ import annotations

import asyncio
import importlib
import json
import pkgutil
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from litestar import Litestar, get
from litestar.handlers import HTTPRouteHandler
from servers import gateway, scripted

import router.api
from providers.errors import ConflictError, RequestError
from router.api.access import ACCESS, ADMINS, OWN_REQUESTS, OWN_RUNS, PUBLIC, AccessCheck, reach_of
from router.api.guard import Guard
from router.api.origins import Hosts, Origins
from router.api.page_layout import Pages
from router.api.request_parsing import PATHS
from router.client import Client
from router.config.loading import parse
from router.gateway.key_administration import create
from router.gateway.keys import Keys
from router.gateway.sessions import Sessions
from router.store.sqlite import SqliteStore

ROLES = {"none": None} | {role: role for role in ("client", "reviewer", "admin", "viewer")}


def handlers() -> set[str]:
    """Return the operation of every handler of every module of the API."""
    found = set()
    for module in pkgutil.iter_modules(router.api.__path__, "router.api."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, HTTPRouteHandler):
                for path in value.paths:
                    plain = re.sub(r"\{(\w+):\w+\}", r"{\1}", path)
                    found |= {f"{method} {plain}" for method in value.http_methods}
    return found


def test_every_operation_is_in_the_table_and_nothing_else():
    assert handlers() | {f"POST {path}" for path in PATHS} == set(ACCESS)


def test_a_later_role_may_do_what_an_earlier_one_may():
    order = ("no", "own", "all")
    for operation, access in ACCESS.items():
        ranks = [order.index(reach) for reach in access]
        assert ranks == sorted(ranks), operation


def test_what_is_open_without_a_key_is_little():
    assert [name for name, access in ACCESS.items() if access == PUBLIC] == [
        "GET /health/live",
        "GET /health/ready",
        "GET /static/{files_version}/{name}",
        "GET /login",
        "POST /login",
        "POST /logout",
    ]


class World(NamedTuple):
    url: str
    keys: dict[str, str]
    ids: dict[str, str]
    runs: dict[str, str]
    requests: dict[str, str]
    http: httpx.Client

    def send(self, method: str, path: str, name: str, **options: Any) -> httpx.Response:
        headers = {} if name == "none" else {"authorization": f"Bearer {self.keys[name]}"}
        with self.http.stream(method, self.url + path, headers=headers, **options) as answer:
            # A live part of a page goes on until its reader leaves.
            if answer.is_error or not path.startswith("/pages/live/"):
                answer.read()
        return answer


async def make_keys(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    store = SqliteStore(path)
    await store.open()
    keys, ids = {}, {}
    try:
        for name, role in (
            ("client", "client"),
            ("other", "client"),
            ("reviewer", "reviewer"),
            ("admin", "admin"),
            ("viewer", "viewer"),
        ):
            keys[name], row = await create(store, name, now=0.5, role=role)
            ids[name] = row.id
    finally:
        await store.close()
    return keys, ids


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("access")
    keys, ids = asyncio.run(make_keys(folder / "e.db"))
    (folder / "d.jsonl").write_text('{"input": "hi"}\n{"input": "ho"}\n')
    with scripted({"echo": [{}]}) as upstream, httpx.Client(timeout=60) as http:
        config = f"""
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
evaluation: {{roots: ["{folder}"]}}
datasets: {{roots: ["{folder}"]}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}
routes: {{r: {{targets: [{{model: up/echo}}], record: full}}}}
"""
        with gateway(config) as url:
            world = World(url, keys, ids, {}, {}, http)
            document = {"dataset": f"{folder}/d.jsonl", "routes": ["r"], "metrics": ["length"]}
            for name in ("client", "other", "admin"):
                query = {} if name == "admin" else {"key": name}
                begun = world.send("POST", "/eval", "admin", json=document, params=query)
                assert begun.status_code == 202, begun.text
                assert begun.json()["key_id"] == ids[name]
                world.runs[name] = begun.json()["id"]
                body = {"model": "r", "messages": [{"role": "user", "content": "hi"}]}
                answer = world.send("POST", "/v1/chat/completions", name, json=body)
                world.requests[name] = answer.headers["x-request-id"]
            for run in world.runs.values():
                while not world.send("GET", f"/eval/{run}", "admin").json()["run"]["finished_at"]:
                    time.sleep(0.02)
                exported = world.send("POST", f"/eval/{run}/export", "admin")
                assert exported.status_code == 200, exported.text
            for request in world.requests.values():
                while world.send("GET", f"/traffic/{request}", "admin").status_code == 404:
                    time.sleep(0.02)
            yield world


def test_the_server_does_what_the_table_says(world):
    """No name of a path exists, and bodies are empty, so that nothing is done anywhere."""
    for operation in ACCESS:
        method, path = operation.split(" ")
        path = re.sub(r"\{\w+\}", "nothing", path.replace("{position}", "0"))
        for name, role in ROLES.items():
            answer = world.send(method, path, name)
            refused = 401 if role is None else 403
            expected = reach_of(operation, role) == "no"
            assert (answer.status_code == refused) is expected, (operation, name, answer.text)
            if expected:
                error = answer.json()["error"]
                # Anthropic's errors have no code.
                assert error.get("code", error["type"]) in (
                    "authentication_error",
                    "permission_error",
                    "invalid_api_key",
                    "admin_required",
                    "reviewer_required",
                    "read_only",
                )


def test_a_key_is_told_what_it_may_do(world):
    for name, role in ROLES.items():
        if role is None:
            continue
        shown = world.send("GET", "/key", name).json()
        assert shown["operations"] == {
            operation: reach_of(operation, role)
            for operation in ACCESS
            if reach_of(operation, role) != "no" and "/pages/" not in operation
        }
        assert (shown["id"], shown["name"]) == (world.ids[name], name)
        assert (shown["role"], shown["required"]) == (role, True)


def test_options_and_head_are_as_closed_as_the_rest(world):
    assert world.send("OPTIONS", "/keys", "none").status_code == 401
    assert world.send("OPTIONS", "/keys", "client").status_code == 403
    assert world.send("OPTIONS", "/keys", "admin").status_code == 204
    assert world.send("OPTIONS", "/eval", "client").status_code == 204
    assert world.send("HEAD", "/keys", "client").status_code == 403
    assert world.send("HEAD", f"/eval/{world.runs['other']}", "client").status_code == 404
    assert world.send("HEAD", f"/eval/{world.runs['client']}", "client").status_code == 200


def test_clients_see_their_own_runs_only(world):
    reads = [name for name, access in ACCESS.items() if access == OWN_RUNS and "{run_id}" in name]
    assert len(reads) > 4
    for operation in reads:
        method, path = operation.split(" ")
        for owner in ("client", "other", "admin"):
            own = path.replace("{run_id}", world.runs[owner]).replace("{name}", "rows.csv")
            own = own.replace("{position}/text", "1/text?part=request").replace("{position}", "1")
            own = own.replace("/slices", "/slices?column=input")
            for name in ("client", "reviewer", "admin"):
                seen = owner == name or name != "client"
                answer = world.send(method, own, name)
                assert answer.status_code == (200 if seen else 404), (operation, owner, name)
                if not seen:
                    assert world.ids[owner] not in answer.text
    for name, count in (("client", 1), ("other", 1), ("reviewer", 3), ("admin", 3)):
        listed = world.send("GET", "/eval", name).json()["data"]
        assert len(listed) == count
        assert name in ("reviewer", "admin") or listed[0]["id"] == world.runs[name]


def test_a_part_of_an_id_tells_nothing_of_others(world):
    for part in ("run_", world.runs["other"][:-1], world.runs["client"][:-1], "r"):
        answer = world.send("GET", f"/eval/{part}", "client")
        assert answer.status_code == 404
        assert answer.json()["error"]["message"] == f"There is no run {part!r}."


@pytest.mark.parametrize(
    "form",
    [
        "/eval/{run}/",
        "//eval//{run}",
        "/eval%2F{run}",
        "/eval/{run}%2Fsamples",
        "/eval/%72un_{rest}",
        "/eval/./{run}",
        "/eval/x/../{run}",
        "/eval/%2e%2e/eval/{run}",
        "/v1/models/../../eval/{run}",
        "/v1/models/%2e%2e/%2e%2e/eval/{run}",
        "/models/../eval/{run}",
        "/health/live/../../eval/{run}",
        "/health/%2e%2e/eval/{run}",
        "/health/live%2F..%2F..%2Feval%2F{run}",
        "/v1/v1/eval/{run}",
        "/eval/{run};x=1",
        "/eval/{run}%00",
        "/EVAL/{run}",
        "/runs/{run}?x=/health/live",
    ],
)
def test_no_form_of_a_path_leads_to_anothers_run(world, form):
    run = world.runs["other"]
    path = form.format(run=run, rest=run.removeprefix("run_"))
    for name, refusals in (("none", (400, 401)), ("client", (400, 403, 404, 405))):
        with httpx.Client() as http:
            headers = {} if name == "none" else {"authorization": f"Bearer {world.keys[name]}"}
            request = http.build_request("GET", world.url, headers=headers)
            # As it stands: httpx would resolve the dots.
            request.url = request.url.copy_with(raw_path=path.encode())
            answer = http.send(request)
        assert answer.status_code in refusals, (name, path, answer.text)
        assert world.ids["other"] not in answer.text


def test_clients_see_their_own_requests_only(world):
    assert {name for name, access in ACCESS.items() if access == OWN_REQUESTS} == {
        "GET /traffic",
        "GET /traffic/totals",
        "GET /traffic/{request_id}",
        "POST /feedback",
        "GET /feedback",
        "GET /feedback/{feedback_id}",
        "DELETE /feedback/{feedback_id}",
        "POST /v1/feedback",
        "PUT /v1/feedback/{feedback_id}",
        "POST /api/public/scores",
        "POST /api/public/ingestion",
        # Pages; test_traffic_page.py and test_request_page.py have what a client sees there.
        "GET /pages/traffic",
        "GET /pages/traffic/totals",
        "GET /pages/live/traffic",
        "GET /pages/feedback",
        "GET /pages/traffic/{request_id}",
        "GET /pages/traffic/{request_id}/bodies/{name}",
        "POST /pages/traffic/{request_id}/feedback",
        "POST /pages/traffic/{request_id}/feedback/{feedback_id}/delete",
    }
    for name in ("client", "other", "reviewer"):
        for owner, request in world.requests.items():
            expected = 200 if owner == name else 404
            assert world.send("GET", f"/traffic/{request}", name).status_code == expected
        rows = world.send("GET", "/traffic", name).json()["data"]
        assert {row["key_id"] for row in rows} <= {world.ids[name]}
        totals = world.send("GET", "/traffic/totals?by=key", name).json()["data"]
        assert sum(row["requests"] for row in totals) == (0 if name == "reviewer" else 1)
        for path in ("/traffic", "/traffic/totals"):
            query = {"key": world.ids["admin"]}
            assert world.send("GET", path, name, params=query).status_code == 403
            query = {"key": world.ids[name]}
            assert world.send("GET", path, name, params=query).status_code == 200
    rows = world.send("GET", "/traffic?class=live", "admin").json()["data"]
    assert {world.ids[name] for name in world.requests} <= {row["key_id"] for row in rows}


def test_a_request_of_the_same_id_hides_no_other(world):
    """Clients may choose the id of a request."""
    body = {"model": "r", "messages": [{"role": "user", "content": "hi"}]}
    for name in ("client", "other"):
        headers = {"authorization": f"Bearer {world.keys[name]}", "x-request-id": "the-same"}
        answer = world.http.post(f"{world.url}/v1/chat/completions", json=body, headers=headers)
        request = answer.headers["x-request-id"]
        while world.send("GET", f"/traffic/{request}", name).status_code == 404:
            time.sleep(0.02)
    for name in ("client", "other"):
        row = world.send("GET", f"/traffic/{request}", name).json()
        assert row["key_id"] == world.ids[name]
        query = {"key": world.ids[name]}
        assert world.send("GET", f"/traffic/{request}", "admin", params=query).json() == row
        assert world.send("GET", f"/traffic/{row['id']}", "admin").json() == row
        rows = world.send("GET", "/traffic", "admin", params=query | {"request_id": request}).json()
        assert row.pop("feedback_rows") == []
        assert rows["data"] == [row | {"request": None, "response": None}]
    # The administrator has sent none of that name.
    assert world.send("GET", f"/traffic/{request}", "admin").status_code == 404
    assert world.send("GET", f"/traffic?request_id={request}", "admin").json()["data"] == []
    # Nobody finds another's request, by whichever of its names.
    other = world.send("GET", f"/traffic/{request}", "other").json()
    for path in (f"/traffic/{other['id']}", f"/traffic/{request}?key={world.ids['other']}"):
        assert world.send("GET", path, "client").status_code in {403, 404}
    body["metadata"] = {}
    headers = {"authorization": f"Bearer {world.keys['client']}", "x-request-id": other["id"]}
    answer = world.http.post(f"{world.url}/v1/chat/completions", json=body, headers=headers)
    while world.send("GET", f"/traffic/{other['id']}", "client").status_code == 404:
        time.sleep(0.02)
    assert world.send("GET", f"/traffic/{other['id']}", "other").json() == other
    assert world.send("GET", f"/traffic/{other['id']}", "admin").json() == other


async def test_a_route_that_is_not_in_the_table_is_refused(tmp_path):
    @get("/about")
    async def about() -> str:
        return "secret"

    store = SqliteStore(tmp_path / "e.db")
    await store.open()
    try:
        keys = Keys()
        secret, _ = await create(store, "boss", now=0.5, role="admin")
        keys.replace_rows(await store.keys())
        config = parse("", "", {})
        app = Litestar(route_handlers=[about], guards=[AccessCheck(store)], openapi_config=None)
        guard = Guard(
            app,
            keys=keys,
            sessions=Sessions(store, keys),
            pages=Pages(()),
            server=config.server,
            hosts=Hosts(config.server),
            origins=Origins(()),
        )
        transport = httpx.ASGITransport(app=guard)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            assert (await http.get("/about")).status_code == 401
            answer = await http.get("/about", headers={"authorization": f"Bearer {secret}"})
    finally:
        await store.close()
    assert answer.status_code != 200
    assert "secret" not in answer.text
    assert reach_of("GET /about", "admin") == "no"
    assert reach_of("GET /keys", "admin") == ADMINS.admin


# keys over HTTP


def test_a_key_is_created_used_and_revoked_over_http(world):
    body = {"name": "made", "role": "reviewer", "rpm": 5, "routes": ["r", "later"], "expires": "1h"}
    made = world.send("POST", "/keys", "admin", json=body)
    assert made.status_code == 201, made.text
    created = made.json()
    assert created["key"]["role"] == "reviewer"
    assert [warning for warning in created["warnings"] if "later" in warning]
    headers = {"authorization": f"Bearer {created['secret']}"}
    assert world.http.get(f"{world.url}/eval", headers=headers).status_code == 200
    listed = world.send("GET", "/keys", "admin")
    assert created["key"] in [row["key"] for row in listed.json()["data"]]
    assert created["secret"] not in listed.text
    assert world.send("POST", "/keys", "admin", json=body).status_code == 409
    assert world.send("DELETE", "/keys/made", "admin").json()["revoked_at"] is not None
    assert world.http.get(f"{world.url}/eval", headers=headers).status_code == 401
    assert world.send("DELETE", "/keys/made", "admin").status_code == 404


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({}, "name"),
        ({"name": "x", "role": "boss"}, "role"),
        ({"name": "x", "admin": True}, "admin"),
        ({"name": "x", "rpm": 0}, "rpm"),
        ({"name": "x", "role": "admin", "routes": ["r"]}, "administration"),
        ({"name": "x", "routes": ["nobody/m"]}, "nobody"),
        ({"name": "x", "expires": "soon"}, "soon"),
        ({"name": "two words"}, "letters"),
        ({"name": "x", "budget_usd": -1}, "budget"),
    ],
)
def test_keys_that_cannot_be_are_refused(world, body, part):
    answer = world.send("POST", "/keys", "admin", json=body)
    assert answer.status_code == 400
    assert part in answer.json()["error"]["message"]


def test_a_key_is_changed_over_http(world):
    made = world.send("POST", "/keys", "admin", json={"name": "moved", "rpm": 5}).json()
    changed = world.send(
        "PATCH", "/keys/moved", "admin",
        json={"name": "elsewhere", "rpm": None, "tpm": 7, "routes": ["r", "later"],
              "expires": "1h"},
    )  # fmt: skip
    assert changed.status_code == 200, changed.text
    row = changed.json()["key"]
    assert (row["name"], row["rpm"], row["tpm"]) == ("elsewhere", None, 7)
    assert row["expires_at"] is not None
    assert [warning for warning in changed.json()["warnings"] if "later" in warning]
    headers = {"authorization": f"Bearer {made['secret']}"}
    assert world.http.get(f"{world.url}/experiments", headers=headers).status_code == 403
    body = {"role": "reviewer", "routes": None, "expires": None}
    assert world.send("PATCH", f"/keys/{row['id']}", "admin", json=body).status_code == 200
    assert world.http.get(f"{world.url}/experiments", headers=headers).status_code == 200
    shown = world.send("GET", "/keys/elsewhere", "admin")
    assert shown.json()["key"]["role"] == "reviewer"
    newest, first = shown.json()["versions"]
    assert newest["changes"]["role"] == ["client", "reviewer"]
    assert first["changes"]["name"] == ["moved", "elsewhere"]
    assert first["actor"].startswith("key admin (key_")
    assert made["secret"] not in shown.text
    # Nothing changes.
    assert (
        world.send("PATCH", "/keys/elsewhere", "admin", json={}).json()["key"]
        == (shown.json()["key"])
    )
    for role in ("client", "reviewer", "viewer"):
        assert world.send("PATCH", "/keys/elsewhere", role, json={"rpm": 1}).status_code == 403
    assert world.send("GET", "/keys/elsewhere", "viewer").status_code == 200
    for path in ("/keys/moved", "/keys/key_nothing"):
        assert world.send("GET", path, "admin").status_code == 404
        assert world.send("PATCH", path, "admin", json={"rpm": 1}).status_code == 404
    taken = world.send("PATCH", "/keys/elsewhere", "admin", json={"name": "client"})
    assert taken.status_code == 409
    secret = world.send("PATCH", f"/keys/{made['secret']}", "admin", json={"rpm": 1})
    assert secret.status_code == 400
    assert made["secret"] not in secret.text
    world.send("DELETE", "/keys/elsewhere", "admin")
    assert world.send("PATCH", f"/keys/{row['id']}", "admin", json={"rpm": 1}).status_code == 404


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"id": "key_1"}, "id"),
        ({"role": "boss"}, "role"),
        ({"role": None}, "role"),
        ({"name": None}, "name"),
        ({"name": "two words"}, "64 letters"),
        ({"rpm": 0}, "rpm"),
        ({"budget_usd": -1}, "budget"),
        ({"budget_period": "year"}, "budget_period"),
        ({"expires": "yesterday"}, "not a time"),
        ({"expires": "2001-01-01"}, "expired already"),
        ({"role": "admin", "routes": ["r"]}, "confined"),
        ({"routes": ["nobody/m"]}, "no provider"),
    ],
)
def test_changes_of_keys_that_cannot_be_are_refused(world, body, part):
    before = world.send("GET", "/keys/client", "admin").json()
    answer = world.send("PATCH", "/keys/client", "admin", json=body)
    assert answer.status_code == 400
    assert part in answer.json()["error"]["message"]
    after = world.send("GET", "/keys/client", "admin").json()
    assert (after["key"], after["versions"]) == (before["key"], before["versions"])


def test_a_run_for_a_key_that_does_not_exist_is_refused(world):
    answer = world.send("POST", "/eval?key=clien", "admin", json={})
    assert answer.status_code == 404
    assert "'client'" in answer.json()["error"]["message"]


def events(answer: httpx.Response) -> list[tuple[str, Any]]:
    """Return the names and the data of the events that an answer is."""
    assert answer.status_code == 200, answer.text
    blocks = [block.split("\r\n") for block in answer.text.split("\r\n\r\n") if "event:" in block]
    return [
        (event.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for event, data in blocks
    ]


def from_traffic(world, key, **fields):
    body = {"name": "live", "route": "r", **fields}
    return world.send("POST", "/datasets/from-traffic", key, json=body)


def test_a_key_makes_datasets_of_its_own_requests_and_sees_no_others(world):
    [*_, (kind, made)] = events(from_traffic(world, "client"))
    assert kind == "end"
    own = len(world.send("GET", "/traffic?route=r&status=200", "client").json()["data"])
    assert made["funnel"]["rows"] == own
    content = world.send("GET", "/datasets/live/content", "client").text.splitlines()
    assert len(content) == own
    assert json.loads(content[0])["messages"] == [{"role": "user", "content": "hi"}]
    [listed] = world.send("GET", "/datasets", "client").json()["data"]
    assert listed["hash"] == made["dataset"]["hash"]
    assert world.send("GET", "/datasets/live", "client").status_code == 200

    assert world.send("GET", "/datasets", "other").json()["data"] == []
    for path in ("/datasets/live", "/datasets/live/content", "/datasets/liv", "/datasets/d"):
        answer = world.send("GET", path, "other")
        name = path.split("/")[2]
        assert answer.status_code == 404
        assert answer.json()["error"]["message"] == f"There is no dataset {name!r}."
    refused = from_traffic(world, "other")
    assert refused.status_code == 409
    assert "take another name" in refused.json()["error"]["message"]

    [*_, (_, of_all)] = events(from_traffic(world, "reviewer", name="all"))
    assert of_all["funnel"]["rows"] > own
    assert world.send("DELETE", "/datasets/live", "client").status_code == 403


def test_only_admins_get_texts_without_masking(world):
    for key in ("client", "reviewer"):
        answer = from_traffic(world, key, mask=False)
        assert answer.status_code == 403
        assert answer.json()["error"]["param"] == "mask"
    [*_, (kind, made)] = events(from_traffic(world, "admin", name="raw", mask=False))
    assert kind == "end"
    assert made["dataset"]["provenance"]["from_traffic"]["masked"] is False


def test_reviewers_let_requests_wait_for_a_review(world):
    answer = from_traffic(world, "client", review=True)
    assert answer.status_code == 403
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == ("review", "reviewer_required")
    [*_, (kind, made)] = events(from_traffic(world, "reviewer", name="seen", review=True))
    assert (kind, made["dataset"]) == ("end", None)
    listed = world.send("GET", "/review?dataset=seen", "reviewer").json()["data"]
    assert len(listed) == made["funnel"]["rows"] > 0
    assert listed[0]["origin"] == "traffic"
    with Client(world.url, api_key=world.keys["admin"]) as client:
        again = client.datasets.from_traffic("again", "r", review=True)
    assert again["dataset"] is None


def test_a_selection_is_refused_as_any_other_request(world):
    for fields, param in (
        ({"where": "status =="}, "where"),
        ({"sample": 0}, "sample"),
        ({"since": "soon"}, "since"),
        ({"unknown": 1}, "unknown"),
    ):
        answer = from_traffic(world, "admin", **fields)
        assert answer.status_code == 400
        assert param in (answer.json()["error"]["param"] or answer.json()["error"]["message"])
    answer = from_traffic(world, "admin", route="nobody")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no_rows")


def test_the_sdk_makes_a_dataset_and_raises_what_the_server_answers(world):
    seen: list[Any] = []
    with Client(world.url, api_key=world.keys["admin"]) as client:
        made = client.datasets.from_traffic("sdk", "r", sample=2, progress=seen.append)
        assert made["dataset"]["rows"] == 2
        assert all(set(news) == {"records", "rows"} for news in seen)
        with pytest.raises(ConflictError, match="No request of 'nobody'"):
            client.datasets.from_traffic("sdk", "nobody")
        with pytest.raises(RequestError) as error:
            client.datasets.from_traffic("sdk", "r", where="no_field < 1")
    assert error.value.param == "where"
