"""A real server process: routes changed under load, reload, drain, workers, kill -9."""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import time
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import httpx
import pytest
from router_process import router_command
from servers import gateway, process, scripted

from providers.errors import ConfigError
from router.app import create_app
from router.config.loading import parse
from router.server import listen
from router.services import Services

MODELS = {
    "a": [{"answer": "from a", "delay_s": 0.005}],
    "b": [{"answer": "from b", "delay_s": 0.005}],
    "stream": [{"answer": " ".join("word" for _ in range(20)), "chunk_delay_s": 0.05}],
    "endless": [{"answer": " ".join("word" for _ in range(500)), "chunk_delay_s": 0.1}],
}


@pytest.fixture(scope="module")
def upstream():
    with scripted(MODELS) as server:
        yield server


def config_of(upstream, weights=(1, 0), extra=""):
    return f"""
server: {{port: 0, drain_seconds: 20{extra}}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}
routes:
  ab:
    targets: [{{model: up/a, weight: {weights[0]}}}, {{model: up/b, weight: {weights[1]}}}]
"""


def chat(model, **fields):
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}


def answer_of(http, url, model="ab"):
    reply = http.post(f"{url}/v1/chat/completions", json=chat(model))
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


@asynccontextmanager
async def running(app):
    """An app between the start and the end of its lifespan."""
    received, sent = asyncio.Queue(), asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan", "state": {}}, received.get, sent.put))
    for name in ("startup", "shutdown"):
        await received.put({"type": f"lifespan.{name}"})
        assert (await sent.get())["type"] == f"lifespan.{name}.complete"
        if name == "startup":
            yield
    await task


def task_names():
    return sorted(
        task.get_name() for task in asyncio.all_tasks() if "evalrouter" in task.get_name()
    )


async def test_each_background_task_runs_once_in_a_server(tmp_path):
    config = parse(f'storage: {{database: "sqlite:///{tmp_path}/e.db"}}', "test.yaml", {})
    services = Services(config)
    async with services:
        # A command that evaluates has no clients, so it reads no keys.
        assert "evalrouter-keys" not in task_names()
    async with running(create_app(Services(config))):
        names = task_names()
        assert "evalrouter-keys" in names
        assert len(names) == len(set(names))
    assert task_names() == []


def wait_for(condition):
    while not condition():
        time.sleep(0.02)


async def test_weights_change_under_load_without_a_failed_request(upstream, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with gateway(config_of(upstream)) as url:
        statuses, answers, stop = [], [], asyncio.Event()

        async def client(session):
            while not stop.is_set():
                async with session.post(f"{url}/v1/chat/completions", json=chat("ab")) as reply:
                    statuses.append(reply.status)
                    answers.append((await reply.json())["choices"][0]["message"]["content"])

        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            for _ in range(16):
                group.create_task(client(session))
            for weights in ((0, 1), (1, 1), (1, 0), (0, 1)):
                route = {
                    "targets": [
                        {"model": "up/a", "weight": weights[0]},
                        {"model": "up/b", "weight": weights[1]},
                    ]
                }
                async with session.put(f"{url}/routes/ab", json=route) as reply:
                    assert reply.status == 200
                # What is asked after the change was answered goes by the new weights.
                seen = len(answers)
                while len(answers) < seen + 100:
                    await asyncio.sleep(0.01)
                if weights == (0, 1):
                    assert set(answers[-50:]) == {"from b"}
            stop.set()
        assert set(statuses) == {200}
        assert set(answers) == {"from a", "from b"}


def test_a_route_set_at_run_time_outlives_the_process_until_it_is_removed(
    upstream, tmp_path, monkeypatch, http
):
    monkeypatch.chdir(tmp_path)
    route = {"targets": [{"model": "up/b"}]}
    with gateway(config_of(upstream)) as url:
        assert answer_of(http, url) == "from a"
        assert http.put(f"{url}/routes/ab", json=route).json()["source"] == "override"
        assert http.put(f"{url}/routes/new", json=route).status_code == 200
        assert answer_of(http, url, "new") == "from b"
    with gateway(config_of(upstream)) as url:
        assert answer_of(http, url) == "from b"
        assert [r["source"] for r in http.get(f"{url}/routes").json()["data"]] == ["override"] * 2
        assert http.delete(f"{url}/routes/ab").status_code == 204
        assert answer_of(http, url) == "from a"
        assert http.get(f"{url}/routes/ab").json()["source"] == "config"
        assert http.delete(f"{url}/routes/ab").status_code == 404
        assert http.get(f"{url}/routes/nope").status_code == 404


DAMAGE = {
    "text": "'not JSON'",
    "array": "'[1]'",
    "bytes": "x'00'",
    "encoding": "CAST(x'7bff' AS TEXT)",
    "nested": "replace(printf('%2000s', ''), ' ', '[')",
    "gone": """'{"targets": [{"model": "gone/x"}]}'""",
}


def test_damaged_routes_hide_no_others_and_can_be_removed(
    upstream, tmp_path, monkeypatch, http, caplog
):
    monkeypatch.chdir(tmp_path)
    route = {"targets": [{"model": "up/b"}]}
    with gateway(config_of(upstream)) as url:
        for name in ("ab", "good", *DAMAGE):
            assert http.put(f"{url}/routes/{name}", json=route).status_code == 200
    with closing(sqlite3.connect("evalrouter.db")) as db, db:
        for name, value in {"ab": "'not JSON'", **DAMAGE}.items():
            statement = f"UPDATE route_overrides SET route = {value} WHERE name = ?"
            assert db.execute(statement, (name,)).rowcount == 1
    with gateway(config_of(upstream)) as url:
        for name in ("ab", *DAMAGE):
            assert sum(f"the override of route {name} is" in line for line in caplog.messages) == 1
        assert answer_of(http, url) == "from a"
        assert answer_of(http, url, "good") == "from b"
        [ab, good, *damaged] = http.get(f"{url}/routes").json()["data"]
        assert (ab["name"], ab["source"], bool(ab["override_error"])) == ("ab", "config", True)
        assert ab["route"]["targets"][0]["model"] == "up/a"
        assert (good["name"], good["override_error"]) == ("good", "")
        assert sorted(view["name"] for view in damaged) == sorted(DAMAGE)
        for view in damaged:
            assert (view["source"], view["route"]) == ("override", None)
            named = "gone" if view["name"] == "gone" else "cannot be read"
            assert named in view["override_error"]
            assert http.get(f"{url}/routes/{view['name']}").json() == view
            assert http.delete(f"{url}/routes/{view['name']}").status_code == 204
        assert http.put(f"{url}/routes/ab", json=route).status_code == 200
        assert answer_of(http, url) == "from b"
        views = http.get(f"{url}/routes").json()["data"]
        assert [(view["name"], view["override_error"]) for view in views] == [
            ("ab", ""),
            ("good", ""),
        ]


@pytest.mark.parametrize(
    ("route", "told"),
    [
        ({"targets": []}, "length"),
        ({"targets": [{"model": "nope/x"}]}, "nope"),
        ({"targets": [{"model": "up/a", "wieght": 1}]}, "'weight'"),
        ({"targets": [{"model": "up/a", "weight": 0}]}, "weight"),
        ([], "object"),
    ],
)
def test_a_bad_route_changes_nothing(upstream, tmp_path, monkeypatch, http, route, told):
    monkeypatch.chdir(tmp_path)
    with gateway(config_of(upstream)) as url:
        reply = http.put(f"{url}/routes/ab", json=route)
        assert reply.status_code == 400
        assert told in reply.json()["error"]["message"]
        assert answer_of(http, url) == "from a"


def test_the_config_file_is_followed_and_sighup_reads_it_at_once(upstream, tmp_path, http):
    file = tmp_path / "evalrouter.yaml"
    file.write_text(config_of(upstream))
    with process(tmp_path) as (server, url):
        assert answer_of(http, url) == "from a"
        file.write_text(config_of(upstream, (0, 1)))
        wait_for(lambda: answer_of(http, url) == "from b")
        file.write_text("routes: {ab: {targets: nonsense}}")
        server.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert answer_of(http, url) == "from b"
        file.write_text(config_of(upstream))
        server.send_signal(signal.SIGHUP)
        wait_for(lambda: answer_of(http, url) == "from a")


async def test_sigterm_lets_200_open_streams_finish(upstream, tmp_path):
    (tmp_path / "evalrouter.yaml").write_text(config_of(upstream))
    with process(tmp_path) as (server, url):
        opened = asyncio.Semaphore(0)

        async def stream(session):
            body = chat("up/stream", stream=True)
            async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
                first = await reply.content.readany()
                opened.release()
                return first + await reply.content.read()

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            tasks = [asyncio.create_task(stream(session)) for _ in range(200)]
            for _ in range(200):
                await opened.acquire()
            server.send_signal(signal.SIGTERM)
            bodies = await asyncio.gather(*tasks)
        for body in bodies:
            assert body.endswith(b"data: [DONE]\n\n")
            events = [json.loads(e[6:]) for e in body.decode().split("\n\n") if e[6:7] == "{"]
            text = "".join(
                e["choices"][0]["delta"].get("content") or "" for e in events if e["choices"]
            )
            assert text == " ".join("word" for _ in range(20))
        assert await asyncio.to_thread(server.wait, 20) == 0


def test_draining_has_an_end(upstream, tmp_path):
    config = config_of(upstream).replace("drain_seconds: 20", "drain_seconds: 1")
    (tmp_path / "evalrouter.yaml").write_text(config)
    with process(tmp_path) as (server, url), httpx.Client(timeout=30) as http:
        with http.stream(
            "POST", f"{url}/v1/chat/completions", json=chat("up/endless", stream=True)
        ) as reply:
            chunks = reply.iter_raw()
            next(chunks)
            server.send_signal(signal.SIGTERM)
            last = [event for event in b"".join(chunks).split(b"\n\n") if event][-1]
            error = json.loads(last.removeprefix(b"data: "))["error"]
            assert error["code"] == "server_stopping"
        assert server.wait(20) == 0


def test_workers_share_the_port_and_a_dead_one_is_replaced(upstream, tmp_path, http):
    (tmp_path / "evalrouter.yaml").write_text(config_of(upstream))
    with process(tmp_path, "--workers", "2") as (server, url):
        wait_for(lambda: len(children(server.router_pid)) == 2)
        first = children(server.router_pid)
        assert answer_of(http, url) == "from a"
        os.kill(first[0], signal.SIGKILL)
        wait_for(lambda: len(set(children(server.router_pid)) - set(first)) == 1)
        wait_for(lambda: ready(url))
        with httpx.Client() as fresh:
            assert answer_of(fresh, url) == "from a"
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_workers_do_not_outlive_a_killed_supervisor(upstream, tmp_path):
    (tmp_path / "evalrouter.yaml").write_text(config_of(upstream))
    with process(tmp_path, "--workers", "2") as (server, _):
        wait_for(lambda: len(children(server.router_pid)) == 2)
        workers = children(server.router_pid)
        server.kill()
        server.wait()
        wait_for(lambda: not any(alive(pid) for pid in workers))


def ready(url):
    with httpx.Client() as http:
        try:
            return http.get(f"{url}/health/ready").status_code == 200
        except httpx.TransportError:
            return False


def children(pid):
    """Worker processes; multiprocessing's own resource tracker is none."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                found.append(int(child))
        except OSError:
            continue
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_address_in_use_is_said_plainly(upstream, tmp_path):
    (tmp_path / "evalrouter.yaml").write_text(config_of(upstream))
    with process(tmp_path) as (_, url):
        port = url.rpartition(":")[2]
        command = router_command("serve", "--port", port)
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "in use" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("database", ["a folder", "no database"])
def test_a_database_that_cannot_be_opened_is_said_in_a_line(tmp_path, workers, database):
    path = tmp_path / "e.db"
    if database == "a folder":
        path.mkdir()
    else:
        path.write_bytes(b"not a database" * 1000)
    config = tmp_path / "evalrouter.yaml"
    config.write_text(f'server: {{port: 0}}\nstorage: {{database: "sqlite:///{path}"}}\n')
    command = router_command("serve", "--config", config, "--workers", workers)
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 1
    assert "cannot start: cannot open" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_refused_with_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            listen("127.0.0.1", port)
    assert caught.value.message == (
        f"cannot listen on 127.0.0.1:{port}: address already in use; choose another address with "
        "--host and --port, or end what listens there"
    )
