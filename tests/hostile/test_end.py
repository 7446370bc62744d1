"""The end of the server: whatever is under way is ended with an error, and what is known is stored.

No test here says how long that takes; each waits for the process, with much patience.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from raw_client import RawClient, chat, request
from raw_host import HOLD, READ, raw_host
from server_process import ServerProcess, descendants, is_alive, serving, starting, wait_for
from servers import scripted

CHAT = "/v1/chat/completions"
MODELS = {
    "endless": [{"answer": "word " * 2_000_000, "chunks": 2000}],
    "slow": [{"answer": " ".join("word" for _ in range(5000)), "chunk_delay_s": 0.05}],
    "late": [{"answer": "late", "delay_s": 600}],
    "short": [{"answer": " ".join("word" for _ in range(60)), "chunk_delay_s": 0.05}],
    "two seconds": [{"answer": "fine", "delay_s": 2}],
    "m": [{"answer": "fine"}],
}
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{{ '' }}{% endfor %}{% endfor %}"


@pytest.fixture(scope="module")
def upstream():
    with scripted(MODELS) as server:
        yield server


@pytest.fixture(scope="module")
def hung():
    with raw_host([READ, HOLD]) as host:
        yield host


def prepare(folder: Path, upstream, hung, drain_seconds: float = 1) -> None:
    (folder / "evalrouter.yaml").write_text(f"""
server: {{port: 0, drain_seconds: {drain_seconds}}}
storage: {{database: "sqlite:///{folder}/e.db"}}
datasets: {{private_addresses: true}}
providers:
  up: {{kind: compatible, base_url: "{upstream.url}"}}
  hung: {{kind: compatible, base_url: "{hung.url}"}}
""")
    (folder / "data.jsonl").write_text(
        "".join(json.dumps({"input": f"q {n}", "reference": "x"}) + "\n" for n in range(8))
    )


def run_document(route: str, prompt: str = "{{ input }}") -> dict[str, object]:
    return {
        "dataset": "data.jsonl",
        "routes": [route],
        "prompt": prompt,
        "metrics": ["exact_match"],
    }


@contextlib.contextmanager
def in_background(send: Callable[[], httpx.Response]) -> Iterator[list[httpx.Response]]:
    """A request that is under way; its response once the block is over."""
    found: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: found.append(send()))
    thread.start()
    try:
        yield found
    finally:
        thread.join()


def stream(model: str, request_id: str) -> bytes:
    body = chat(model, stream=True)
    return request("POST", CHAT, f"x-request-id: {request_id}", body=body)


def begun(client: RawClient, sent: bytes) -> None:
    client.send(sent)
    assert client.socket.recv(1, socket.MSG_PEEK)


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(folder / "e.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return db.execute(query).fetchall()


def last_event(body: bytes) -> dict[str, str]:
    event = body.rstrip().rpartition(b"data: ")[2]
    found: dict[str, str] = json.loads(event)["error"]
    return found


def ends_whatever_is_under_way(folder: Path, server: ServerProcess, hung, end) -> None:
    url = server.url
    with contextlib.ExitStack() as stack:
        read, waiting, upload, body, head, events = (
            stack.enter_context(RawClient(url)) for _ in range(6)
        )
        unread = stack.enter_context(RawClient(url, receive_buffer=4096))
        run = httpx.post(f"{url}/eval", json=run_document("up/late"), timeout=60).json()
        template = stack.enter_context(
            in_background(
                lambda: httpx.post(f"{url}/eval", json=run_document("up/m", LOOP), timeout=120)
            )
        )
        asked = len(hung.requests)
        dataset = stack.enter_context(
            in_background(
                lambda: httpx.post(
                    f"{url}/datasets",
                    json={"source": f"{hung.url}/x.jsonl", "name": "x"},
                    timeout=120,
                )
            )
        )
        begun(read, stream("up/slow", "req-read"))
        begun(unread, stream("up/endless", "req-unread"))
        waiting.send(request("POST", CHAT, "x-request-id: req-hung", body=chat("hung/x")))
        upload.send(
            b"PUT /datasets/y?filename=y.jsonl HTTP/1.1\r\nhost: localhost\r\n"
            b'content-length: 100000\r\n\r\n{"input": "'
        )
        body.send(request("POST", CHAT, "x-request-id: req-body", body=chat("up/m"))[:-5])
        head.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: local")
        begun(events, request("GET", f"/eval/{run['id']}/events"))
        wait_for(lambda: len(hung.requests) == asked + 2)
        wait_for(lambda: rows(folder, "SELECT 1 FROM answers"))
        processes = [server.pid, *descendants(server.pid)]
        end()
        assert server.wait() == 0
        for client in (read, events):
            assert last_event(client.response().body)["code"] == "server_stopping"
        for client in (waiting, upload, body):
            response = client.response()
            assert (response.status, response.error["code"]) == (503, "server_stopping")
        assert head.is_cut()
    for [response] in (template, dataset):
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "server_stopping"
    wait_for(lambda: not any(is_alive(pid) for pid in processes))
    assert "Traceback" not in server.log
    assert rows(folder, "SELECT state, owner FROM runs") == [("queued", "")]
    assert records(folder) == {"req-read", "req-unread", "req-hung", "req-body"}


@pytest.mark.parametrize(("name", "count"), [("SIGTERM", "1"), ("SIGINT", "2")])
def test_whatever_is_under_way_ends(tmp_path, upstream, hung, name, count):
    prepare(tmp_path, upstream, hung)
    with serving(tmp_path, "--workers", count) as server:
        ends_whatever_is_under_way(
            tmp_path, server, hung, lambda: server.signal(getattr(signal, name))
        )


def test_a_pool_that_does_not_close_its_connections_does_not_delay_the_end(
    tmp_path, upstream, hung
):
    prepare(tmp_path, upstream, hung, 600)
    with serving(tmp_path) as server, RawClient(server.url) as idle, RawClient(server.url) as used:
        idle.send(request())
        assert idle.response().status == 200
        begun(used, stream("up/short", "req-short"))
        server.signal(signal.SIGTERM)
        assert used.response().body.endswith(b"data: [DONE]\n\n")
        assert server.wait() == 0


@pytest.mark.parametrize(("name", "count"), [("SIGTERM", "1"), ("SIGINT", "1"), ("SIGTERM", "2")])
def test_a_second_signal_ends_the_drain(tmp_path, upstream, hung, name, count):
    prepare(tmp_path, upstream, hung, 600)
    with serving(tmp_path, "--workers", count) as server, RawClient(server.url) as client:
        begun(client, stream("up/slow", "req-slow"))
        server.signal(getattr(signal, name))
        wait_for(lambda: not server.is_ready())
        # What comes within a second is taken for the same one: Ctrl-C reaches workers twice.
        time.sleep(1.2)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert last_event(client.response().body)["code"] == "server_stopping"


def test_ctrl_c_reaches_workers_twice_and_still_drains(tmp_path, upstream, hung):
    prepare(tmp_path, upstream, hung, 60)
    with serving(tmp_path, "--workers", "2") as server, RawClient(server.url) as client:
        begun(client, stream("up/short", "req-short"))
        for pid in server.pids:
            os.kill(pid, signal.SIGINT)
        wait_for(lambda: not server.is_ready())
        assert client.response().body.endswith(b"data: [DONE]\n\n")
        assert server.wait() == 0


def test_workers_without_a_supervisor_end_although_a_client_does_not_read(tmp_path, upstream, hung):
    prepare(tmp_path, upstream, hung)
    with (
        serving(tmp_path, "--workers", "2") as server,
        RawClient(server.url, receive_buffer=4096) as client,
    ):
        begun(client, stream("up/endless", "req-unread"))
        workers = server.workers
        assert len(workers) == 2
        server.process.kill()
        server.wait()
        wait_for(lambda: not any(is_alive(pid) for pid in workers))


def test_a_start_that_hangs_can_be_ended(tmp_path, upstream, hung):
    prepare(tmp_path, upstream, hung, 600)
    with serving(tmp_path):
        pass
    with locked(tmp_path), starting(tmp_path) as server:
        server.signal(signal.SIGTERM)
        server.wait()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(folder / "e.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


def records(folder: Path) -> set[object]:
    return {name for (name,) in rows(folder, "SELECT request_id FROM traffic")}


@pytest.mark.parametrize("count", ["1", "2"])
def test_a_locked_database_does_not_keep_the_process(tmp_path, upstream, hung, count):
    prepare(tmp_path, upstream, hung)
    with serving(tmp_path, "--workers", count) as server:
        document = run_document("up/two seconds")
        run = httpx.post(f"{server.url}/eval", json=document, timeout=60).json()["id"]
        wait_for(lambda: rows(tmp_path, "SELECT 1 FROM answers"))
        with locked(tmp_path):
            headers = {"x-request-id": "req-locked"}
            reply = httpx.post(server.url + CHAT, content=chat("up/m"), headers=headers, timeout=60)
            assert reply.status_code == 200
            processes = [server.pid, *descendants(server.pid)]
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
        wait_for(lambda: not any(is_alive(pid) for pid in processes))
        assert "Traceback" not in server.log
        assert "1 request record(s) were never written" in server.log
    # The run is the next server's.
    with serving(tmp_path) as server:
        wait_for(
            lambda: httpx.get(f"{server.url}/eval/{run}").json()["run"]["state"] == "completed"
        )


def test_a_lock_that_ends_within_the_drain_costs_nothing(tmp_path, upstream, hung):
    prepare(tmp_path, upstream, hung, 60)
    with serving(tmp_path) as server:
        with locked(tmp_path):
            headers = {"x-request-id": "req-locked"}
            reply = httpx.post(server.url + CHAT, content=chat("up/m"), headers=headers, timeout=60)
            assert reply.status_code == 200
            server.signal(signal.SIGTERM)
            wait_for(lambda: not server.is_ready())
            # Longer than the last writes are given where the time is over.
            time.sleep(2)
        assert server.wait() == 0
        assert "never written" not in server.log
    assert records(tmp_path) == {"req-locked"}
