"""Streams of events end with the session or the key that they were begun with."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import NamedTuple

import httpx
import pytest
from page_elements import BROWSER, csrf_token, sign_in
from servers import gateway, scripted
from stores import add_keys, in_store

from router.gateway.key_administration import revoke
from router.store.runs import ENDED

HOME = "/pages/live/home"


class World(NamedTuple):
    urls: tuple[str, str]
    keys: dict[str, str]
    path: str


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two servers of one database."""
    folder = tmp_path_factory.mktemp("streams")
    (folder / "d.jsonl").write_text(json.dumps({"input": "x"}))

    keys = add_keys(folder / "e.db", "admin", leaver="admin", stayer="admin")
    with scripted({"slow": [{"answer": "late", "delay_s": 3600}]}) as upstream:
        config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
datasets: {{roots: ["{folder}"]}}
evaluation: {{roots: ["{folder}"]}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}", api_key: x}}}}
"""
        with gateway(config) as url, gateway(config) as other:
            yield World((url, other), keys, folder / "e.db")


@contextmanager
def following(url, path, headers):
    """Give the lines of a stream, behind its first event."""
    with httpx.stream("GET", f"{url}{path}", headers=headers, timeout=30) as answer:
        assert answer.status_code == 200, answer.read()
        lines = answer.iter_lines()
        while next(lines):
            pass
        yield lines


def test_parts_of_pages_end_in_every_process_when_a_user_signs_out(world):
    leaver, stayer = (httpx.Client(base_url=world.urls[0], headers=BROWSER) for _ in range(2))
    with leaver, stayer:
        cookies = []
        for http, name in ((leaver, "leaver"), (stayer, "stayer")):
            sign_in(http, world.keys[name])
            cookies.append({"cookie": f"evalrouter_session={http.cookies['evalrouter_session']}"})
        with (
            following(world.urls[1], HOME, cookies[1]) as stays,
            following(world.urls[1], HOME, cookies[0]) as theirs,
            following(world.urls[0], HOME, cookies[0]) as ours,
        ):
            token = csrf_token(leaver.get("/").text)
            assert leaver.post("/logout", data={"csrf_token": token}).status_code == 303
            for lines in (ours, theirs):
                # Without an error: the stream has a proper end.
                assert [line for line in lines if line.startswith("event: error")] == []
            token = csrf_token(stayer.get("/").text)
            assert stayer.post("/logout", data={"csrf_token": token}).status_code == 303
            list(stays)


def test_streams_of_a_run_and_of_pages_end_when_their_key_is_revoked(world):
    secret = add_keys(world.path, revoked="admin")["revoked"]
    admin = {"authorization": f"Bearer {world.keys['admin']}"}
    revoked = {"authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=world.urls[0], headers=admin, timeout=60) as http:
        document = {"dataset": f"{world.path.parent}/d.jsonl", "routes": ["up/slow"]}
        run = http.post("/eval", json=document | {"metrics": ["length"]}).json()["id"]
        while http.get("/keys", headers=revoked).status_code == 401:
            pass
        with (
            following(world.urls[0], f"/eval/{run}/events", revoked) as progress,
            following(world.urls[0], f"/eval/{run}/logs?follow=true", revoked) as log,
            following(world.urls[0], f"/pages/live/runs/{run}", revoked) as part,
            following(world.urls[0], f"/eval/{run}/events", admin) as stays,
        ):
            in_store(world.path, lambda store: revoke(store, "revoked", now=2.0))
            for lines in (progress, log, part):
                assert "event: end" not in list(lines)
            assert http.get(f"/eval/{run}").json()["run"]["state"] not in ENDED
            assert http.post(f"/eval/{run}/cancel").status_code < 300
            assert "event: end" in list(stays)


def test_what_was_begun_without_a_key_ends_when_the_first_key_is_created(tmp_path):
    config = f"{{storage: {{database: 'sqlite:///{tmp_path}/e.db', artifacts: '{tmp_path}'}}}}"
    with gateway(config) as url, following(url, HOME, BROWSER) as lines:
        add_keys(tmp_path / "e.db", "admin")
        list(lines)
        assert httpx.get(f"{url}{HOME}").status_code == 401
