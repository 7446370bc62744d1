"""`/mcp` as HTTP: who gets in, what is refused, what ends with the request."""

import asyncio
import json
import subprocess
import sys

import pytest
from servers import gateway

from router.api.mcp_requests import MAX_REQUESTS, McpRequests
from router.api.origins import Hosts, Origins
from router.config.loading import parse
from router.gateway.key_administration import create
from router.gateway.keys import Keys
from router.store.sqlite import SqliteStore

JSON = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
# The package's way to write what a client of the newest protocol sends with each request.
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


async def key_in(path):
    store = SqliteStore(path)
    await store.open()
    try:
        return (await create(store, "k", now=0.5, role="viewer"))[0]
    finally:
        await store.close()


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """A server without keys, one that needs them, and a key of that one."""
    folder = tmp_path_factory.mktemp("mcp")
    key = asyncio.run(key_in(folder / "keys.db"))
    config = "server: {{allow_origins: ['https://ours.example']}}\nstorage: {{database: 'sqlite:///{}'}}\n"
    with (
        gateway(config.format(folder / "e.db")) as open_url,
        gateway(config.format(folder / "keys.db")) as closed_url,
    ):
        yield open_url, closed_url, key


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, None),
        ({"origin": "https://ours.example"}, None),
        ({"origin": "https://evil.example"}, "other_origin"),
        ({"origin": "null"}, "other_origin"),
        ({"sec-fetch-site": "cross-site"}, "other_origin"),
        ({"host": "evil.example"}, "host_not_allowed"),
        # A name that resolves to 127.0.0.1, and the page that has it.
        ({"host": "evil.example:4000", "origin": "http://evil.example:4000"}, "host_not_allowed"),
    ],
)
def test_pages_of_other_sites_get_nowhere(http, servers, headers, code):
    open_url, closed_url, key = servers
    answer = http.post(f"{open_url}/mcp", json=LIST, headers=JSON | headers)
    assert answer.status_code == (200 if code is None else 403), answer.text
    if code is not None:
        assert answer.json()["error"]["code"] == code
    # Not even with a key that the page may have from somewhere.
    headers |= {"authorization": f"Bearer {key}"}
    answer = http.post(f"{closed_url}/mcp", json=LIST, headers=JSON | headers)
    assert answer.status_code == (403 if code == "other_origin" else 200), answer.text


def test_a_key_is_needed_where_others_need_one(http, servers):
    _, url, key = servers
    for headers in ({}, {"authorization": "Bearer er-wrong"}, {"cookie": f"evalrouter={key}"}):
        answer = http.post(f"{url}/mcp", json=LIST, headers=JSON | headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    for headers in ({"x-api-key": key}, {"api-key": key}):
        answer = http.post(f"{url}/mcp", json=LIST, headers=JSON | headers)
        assert answer.status_code == 200, answer.text


def test_only_post_is_answered_and_bodies_are_bounded(http, servers):
    url = servers[0]
    for method in ("GET", "DELETE", "PUT", "HEAD"):
        answer = http.request(method, f"{url}/mcp", headers=JSON)
        assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS, POST")
    large = LIST | {"params": {"x": "x" * 5_000_000}}
    assert http.post(f"{url}/mcp", json=large, headers=JSON).status_code == 413
    for body in (b"", b"{", b"[]", b"[1]", b'"x"', b"\xff", b"[" * 100_000):
        answer = http.post(f"{url}/mcp", content=body, headers=JSON)
        assert answer.status_code == 400, (body[:9], answer.text)
    page = http.post(f"{url}/mcp", json=LIST, headers={"accept": "text/html"})
    assert page.status_code == 406
    preflight = {"origin": "https://ours.example", "access-control-request-method": "POST"}
    assert http.options(f"{url}/mcp", headers=preflight).status_code == 204


class Api:
    """The server that tools call: it names the key's operations, and never ends a run's events."""

    def __init__(self):
        self.following = asyncio.Event()
        self.ended = asyncio.Event()

    async def __call__(self, scope, receive, send):
        if scope["path"].endswith("/events"):
            try:
                start = {"type": "http.response.start", "status": 200, "headers": []}
                await send(start)
                news = {"state": "running", "cells": 9, "answered": 1, "failed": 0, "scored": 0}
                event = f"event: progress\ndata: {json.dumps(news)}\n\n".encode()
                await send({"type": "http.response.body", "body": event, "more_body": True})
                self.following.set()
                await asyncio.Event().wait()
            finally:
                self.ended.set()


class Request:
    """A request to `/mcp` that is under way, and can be left."""

    def __init__(self, app, message, headers):
        self._left = asyncio.Event()
        self._body = json.dumps(message).encode()
        self.sent = []
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": "/mcp",
            "raw_path": b"/mcp",
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "server": ("localhost", 80),
            "client": ("127.0.0.1", 1),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        self._task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self):
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        self.sent.append(message)

    async def leave(self):
        self._left.set()
        await self._task


def follow(version):
    """A call of `follow_run`, and its headers, in one of the protocol's two eras."""
    meta = META if version == "2026-07-28" else {}
    arguments = {"run": "run_1", "wait_s": 300}
    params = {"name": "follow_run", "arguments": arguments, "_meta": meta | {"progressToken": 7}}
    headers = JSON | {"host": "localhost", "mcp-protocol-version": version}
    if meta:
        headers |= {"mcp-method": "tools/call", "mcp-name": "follow_run"}
    return LIST | {"method": "tools/call", "params": params}, headers


@pytest.mark.parametrize("version", ["2025-11-25", "2026-07-28"])
async def test_what_a_tool_does_ends_with_its_request(version):
    config = parse("", "", {}).server
    api = Api()
    app = McpRequests(
        api, keys=Keys(), hosts=Hosts(config), origins=Origins(()), max_body_bytes=10_000
    )
    message, headers = follow(version)
    request = Request(app, message, headers)
    await api.following.wait()
    while not any(b"notifications/progress" in each.get("body", b"") for each in request.sent):
        await asyncio.sleep(0)
    assert not api.ended.is_set()
    await request.leave()
    await asyncio.wait_for(api.ended.wait(), 30)


async def test_requests_at_a_time_are_bounded():
    config = parse("", "", {}).server
    api = Api()
    app = McpRequests(
        api, keys=Keys(), hosts=Hosts(config), origins=Origins(()), max_body_bytes=10_000
    )
    message, headers = follow("2026-07-28")
    requests = [Request(app, message, headers) for _ in range(MAX_REQUESTS)]
    await api.following.wait()
    while not all(request.sent for request in requests):
        await asyncio.sleep(0)
    refused = Request(app, message, headers)
    while len(refused.sent) < 2:
        await asyncio.sleep(0)
    assert refused.sent[0]["status"] == 429
    assert dict(refused.sent[0]["headers"])[b"retry-after"] == b"5"
    await requests.pop().leave()
    again = Request(app, message, headers)
    while not again.sent:
        await asyncio.sleep(0)
    assert again.sent[0]["status"] == 200
    for request in (*requests, again):
        await request.leave()


WITHOUT = """
import sys
sys.modules["mcp"] = None
"""


def test_without_the_package_it_is_said_what_to_install(tmp_path):
    program = WITHOUT + "from router.cli import main; main(['mcp'])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.strip() == (
        "error: evalrouter mcp needs the extra 'mcp': pip install 'evalrouter[mcp]'"
    )


def test_a_server_without_the_package_does_all_but_that(tmp_path):
    program = (
        WITHOUT
        + f"""
import httpx
sys.path.insert(0, "tests")
from servers import gateway
with gateway("storage: {{database: 'sqlite:///{tmp_path}/e.db'}}") as url:
    for path, json in (("/v1/chat/completions", {{"model": "baseline/echo", "messages": [
            {{"role": "user", "content": "hi"}}]}}), ("/mcp", {LIST})):
        answer = httpx.post(url + path, json=json, timeout=60)
        print(answer.status_code, answer.json().get("error", {{}}).get("message"))
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "200 None",
        "501 /mcp needs the extra 'mcp': pip install 'evalrouter[mcp]'",
    ]


def test_the_package_is_imported_only_for_what_needs_it(tmp_path):
    program = f"""
import sys
import httpx
sys.path.insert(0, "tests")
from servers import gateway
with gateway("storage: {{database: 'sqlite:///{tmp_path}/e.db'}}") as url:
    print(httpx.get(url + "/key").json()["role"], httpx.get(url + "/mcp").status_code)
    print(sorted(name for name in sys.modules if name.split(".")[0] in ("mcp", "mcp_types")))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["admin 405", "[]"]
