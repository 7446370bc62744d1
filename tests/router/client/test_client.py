"""The Python SDK against real servers: every method, refusals, reconnection, pandas."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pandas as pd
import pytest
from generate_synchronous_client import SOURCE, TARGET, synchronous
from router_process import router_command
from servers import gateway, process, reserved_port, scripted

from providers import errors
from router.client import AsyncClient, Client, Rows

ROWS = [{"id": f"s{n}", "input": f"Say {n}", "reference": f"Say {n}"} for n in range(12)]
MODELS = {
    "echo": [{}],
    "wrong": [{"answer": "nothing of the kind"}],
    "slow": [{"delay_s": 0.2}],
    "judge": [{"answer": "Feedback: Fine. [RESULT] 4"}],
    "some": [{"match": "Say (3|7)$", "status": 400}, {}],
}
DOCUMENT = {
    "dataset": "data.jsonl",
    "routes": ["up/wrong", "up/echo"],
    "baseline": "up/wrong",
    "metrics": ["exact_match", "length"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with scripted(MODELS) as upstream:
        (tmp_path / "evalrouter.yaml").write_text(
            "server: {port: 0}\n"
            f'providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}\n'
        )
        yield tmp_path


@pytest.fixture
def url(folder):
    with gateway((folder / "evalrouter.yaml").read_text()) as url:
        yield url


@pytest.fixture
def client(url):
    with Client(url) as client:
        yield client


def test_judgements_are_rows(client):
    metric = {"name": "prometheus", "judge": "up/judge", "repeats": 2}
    run = client.runs.create(DOCUMENT, metrics=[metric])
    client.runs.wait(run["id"])
    judgements = client.runs.judgements(run["id"], page=7)
    assert len(list(judgements)) == 48
    frame = judgements.to_pandas()
    assert set(frame["feedback"]) == {"Feedback: Fine. [RESULT] 4"}
    assert set(frame["repeat"]) == {0, 1}
    assert len(list(client.runs.judgements(run["id"], sample_id="s3"))) == 4
    samples = client.runs.samples(run["id"]).to_pandas()
    assert samples["score.helpfulness.up/judge.0"].eq(4).all()
    assert samples["score.helpfulness.up/judge.1"].eq(4).all()


def test_people_write_notes_on_samples(client):
    run = client.runs.create(DOCUMENT)
    first = client.runs.note(run["id"], 1, "Not so.", label="wrong", before=0)
    assert client.runs.notes(run["id"], 1) == [first]
    with pytest.raises(errors.ConflictError):
        client.runs.note(run["id"], 1, label="right", before=0)
    client.runs.delete_note(run["id"], 1, before=first["at"])
    assert client.runs.notes(run["id"], 1) == []


def test_people_label_a_runs_answers(client):
    run = client.runs.create(DOCUMENT, metrics=[{"name": "prometheus", "judge": "up/judge"}])
    client.runs.wait(run["id"])
    rows = [row for row in client.runs.samples(run["id"]) if row["route"] == "up/echo"]
    labels = [
        {"sample_id": row["sample"]["id"], "answer": row["answer"]["text"], "scores": [2, 3]}
        for row in rows[:10]
    ]
    stored = client.runs.label(run["id"], labels, route="up/echo")
    assert (stored["output"], stored["labels"], stored["answers"]) == ("helpfulness", 10, 12)
    assert len(client.runs.labels(run["id"])) == 10
    [corrected] = [
        one["estimate"]
        for one in client.runs.scores(run["id"])
        if (one["route"], one["output"]) == ("up/echo", "helpfulness_corrected")
    ]
    assert corrected == 2.5
    with pytest.raises(errors.ConflictError):
        client.runs.label(run["id"], labels[:2], route="up/echo")
    assert client.runs.label(run["id"], labels[:2], route="up/echo", replace=True)["labels"] == 2
    plan = client.runs.label_plan(run["id"], width=0.5, route="up/echo")
    assert (plan["run"], plan["width"], plan["answers"]) == (run["id"], 0.5, 12)
    for label in plan["labels"]:
        label["scores"] = [3] if label["sample_id"] in plan["label_next"] else label["scores"]
    stored = client.runs.label(run["id"], plan["labels"], route="up/echo", replace=True)
    assert stored["labels"] == 2 + len(plan["label_next"])
    with pytest.raises(errors.RunDocumentError, match="width"):
        client.runs.label_plan(run["id"], width=-1, route="up/echo")


def test_importing_it_loads_nothing_of_the_server():
    code = (
        "import sys, router.client\n"
        "heavy = {'litestar', 'numpy', 'scipy', 'pandas', 'aiohttp', 'sqlite3', 'uvicorn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_run_from_document_to_report(client):
    run = client.runs.create(DOCUMENT, name="first", tags=["a"], experiment="study")
    seen = []
    outcome = client.runs.wait(run["id"], progress=seen.append)
    assert outcome["run"]["state"] == "completed"
    assert seen[-1]["state"] == "completed"
    assert seen[-1]["answered"] == seen[-1]["cells"] == 24
    # One that has ended is not waited for.
    assert client.runs.wait(run["id"][:14])["run"]["id"] == run["id"]
    [listed] = client.runs.list(tag="a", state="completed", experiment="study")
    assert listed["name"] == "first"
    assert client.runs.list(tag="b") == []
    scores = client.runs.scores(run["id"])
    best = next(
        one for one in scores if (one["route"], one["output"]) == ("up/echo", "exact_match")
    )
    assert (best["estimate"], best["verdict"], best["difference"]) == (1.0, "better", 1.0)
    assert best["baseline"] == "up/wrong"


def test_samples_are_read_page_by_page(client):
    run = client.runs.create(DOCUMENT)
    client.runs.wait(run["id"])
    samples = client.runs.samples(run["id"], page=5)
    rows = list(samples)
    assert [(one["sample"]["id"], one["route"]) for one in rows[:2]] == [
        ("s0", "up/echo"),
        ("s0", "up/wrong"),
    ]
    assert len(rows) == len(list(samples)) == 24
    assert {one["answer"]["text"] for one in client.runs.samples(run["id"], route="up/wrong")} == {
        "nothing of the kind"
    }


def test_results_become_dataframes(client):
    run = client.runs.create(DOCUMENT, routes=["up/wrong", "up/some"], experiment="study")
    client.runs.wait(run["id"])
    scores = client.runs.scores(run["id"]).to_pandas()
    assert isinstance(scores, pd.DataFrame)
    shown = scores.set_index(["route", "output"])["estimate"]
    assert shown["up/some", "exact_match"] == 1.0
    samples = client.runs.samples(run["id"]).to_pandas()
    assert len(samples) == 24
    ours = samples[samples["route"] == "up/some"]
    assert ours["error"].notna().sum() == 2
    assert ours["score.exact_match"].mean() == 1.0
    assert list(ours["row.input"][:2]) == ["Say 0", "Say 1"]
    board = client.experiments.entries("study").to_pandas()
    assert set(board["output"]) >= {"exact_match", "words"}
    runs = client.runs.list().to_pandas()
    assert runs["document.baseline"][0] == "up/wrong"


def test_without_pandas_the_extra_is_named(tmp_path):
    (tmp_path / "pandas.py").write_text("raise ImportError('not here')")
    code = "from router.client import Rows\nRows([{'a': 1}]).to_pandas()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"},
    )
    assert "MissingExtraError: A DataFrame needs the extra 'pandas'" in done.stderr


def test_a_document_from_a_file_and_an_estimate(client, folder):
    (folder / "nightly.yaml").write_text(
        "dataset: data.jsonl\nroutes: [up/echo]\nmetrics: [length]\nname: nightly\n"
    )
    estimate = client.runs.estimate("nightly.yaml", limit=4)
    assert (estimate["samples"], estimate["calls"]) == (4, 4)
    assert client.runs.list() == []
    run = client.runs.create(folder / "nightly.yaml", limit=4)
    assert (run["name"], run["dataset_rows"]) == ("nightly", 4)
    client.runs.wait(run["id"])
    with pytest.raises(errors.RunDocumentError, match=r"gone\.yaml: No such file"):
        client.runs.create("gone.yaml")
    (folder / "list.yaml").write_text("- a\n")
    with pytest.raises(errors.RunDocumentError, match=r"must be an object \(got an array\)"):
        client.runs.create("list.yaml")
    (folder / "broken.yaml").write_text("a: [")
    with pytest.raises(errors.RunDocumentError, match="not YAML"):
        client.runs.create("broken.yaml")


def test_stopped_and_changed(client):
    document = DOCUMENT | {"routes": ["up/slow"], "baseline": None, "limits": {"concurrency": 1}}
    run_id = client.runs.create(document)["id"]
    with pytest.raises(TimeoutError, match=f"{run_id} is still going on"):
        client.runs.wait(run_id, timeout=0.05)
    assert client.runs.cancel(run_id)["id"] == run_id
    assert client.runs.wait(run_id)["run"]["state"] == "cancelled"
    client.runs.resume(run_id)
    client.runs.pause(run_id)
    assert client.runs.wait(run_id)["run"]["state"] == "paused"
    client.runs.resume(run_id, retry_failed=True, limits={"concurrency": 12})
    assert client.runs.wait(run_id)["run"]["state"] == "completed"
    client.runs.rescore(run_id, ["chrf"])
    outcome = client.runs.wait(run_id)
    assert "chrf" in outcome["run"]["metrics"]
    client.runs.extend(run_id, repeats=2)
    assert client.runs.wait(run_id)["report"]["routes"][0]["answered"] == 24
    assert client.runs.export(run_id)
    client.runs.delete(run_id)
    with pytest.raises(errors.NotFoundError):
        client.runs.report(run_id)


def test_comparisons_experiments_and_tasks(client):
    first = client.runs.create(DOCUMENT, routes=["up/echo"], baseline=None, experiment="study")
    second = client.runs.create(DOCUMENT, routes=["up/wrong"], baseline=None, experiment="study")
    for run in (first, second):
        client.runs.wait(run["id"])
    found = client.compare(first["id"], second["id"], route_a="up/echo", route_b="up/wrong")
    contrast = next(one for one in found["contrasts"] if one["output"] == "exact_match")
    assert contrast["difference"] == 1.0
    assert Rows(found["contrasts"]).to_pandas()["n"].eq(12).all()
    changed = client.experiments.change("study", tags=["paper"])
    assert changed["tags"] == ["paper"]
    assert client.experiments.change("study", notes="n")["tags"] == ["paper"]
    assert [one["name"] for one in client.experiments.list(tag="paper")] == ["study"]
    assert client.experiments.leaderboard("study")["experiment"]["runs"] == 2
    assert client.experiments.delete("study", runs=True) == 2
    assert client.runs.list() == []
    assert "summarization" in {one["name"] for one in client.tasks()}
    [rouge] = [one for one in client.metrics() if one["name"] == "rouge"]
    assert rouge["outputs"] == ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    assert not [one for one in client.plugins() if one["package"] == "evalrouter"]


def test_records_of_requests_are_deleted(client, url):
    body = {"model": "up/echo", "messages": [{"role": "user", "content": "hi"}]}
    for n in range(3):
        sent = httpx.post(
            f"{url}/v1/chat/completions", json=body, headers={"x-request-id": f"mine {n}"}
        )
        assert sent.status_code == 200
    while len(httpx.get(f"{url}/traffic").json()["data"]) < 3:
        time.sleep(0.01)
    assert client.traffic.delete("mine 1") == {"deleted": 1, "related": 0, "elsewhere": []}
    with pytest.raises(errors.NotFoundError):
        client.traffic.delete("mine 1")
    with pytest.raises(errors.InputError, match="not of both"):
        client.traffic.delete("mine 1", route="up/echo")
    with pytest.raises(errors.RequestError, match="which requests to delete"):
        client.traffic.delete()
    assert client.traffic.delete(route="up/echo", **{"class": "live"})["deleted"] == 2
    assert client.traffic.delete(route="up/echo")["deleted"] == 0


def test_datasets(client, folder):
    (folder / "local.csv").write_text("article,reference\nA text.,A.\nMore text.,B.\n")
    kept = client.datasets.upload(folder / "local.csv", name="texts", columns={"article": "input"})
    assert (kept["name"], kept["rows"]) == ("texts", 2)
    named = f"texts@{kept['hash']}"
    shown = client.datasets.show(named, rows=1)
    assert len(shown["preview"]) == 1
    assert shown["versions"] == [kept["hash"]]
    path = client.datasets.download("texts", folder / "back.csv")
    assert path.read_bytes() == (folder / "local.csv").read_bytes()
    run = client.runs.create(DOCUMENT, dataset=named, routes=["up/echo"], baseline=None)
    assert client.runs.wait(run["id"])["run"]["dataset_hash"] == kept["hash"]
    assert client.datasets.register("data.jsonl", name="rows")["rows"] == 12
    assert [one["name"] for one in client.datasets.list("rows")] == ["rows"]
    assert client.datasets.delete("texts", every=True) == [named]
    with pytest.raises(errors.NotFoundError):
        client.datasets.download("texts", folder / "gone.csv")
    assert not (folder / "gone.csv").exists()
    with pytest.raises(errors.InputError, match="no such file"):
        client.datasets.upload(folder / "gone.csv")


def test_refusals_are_the_servers_own_exceptions(client, url):
    with pytest.raises(errors.RunDocumentError) as wrong:
        client.runs.create(DOCUMENT, metrics=["rougee"])
    assert (wrong.value.param, wrong.value.status) == ("metrics[0]", 400)
    assert "Did you mean 'rouge'" in wrong.value.message
    with pytest.raises(errors.NotFoundError):
        client.runs.report("run_none")
    with pytest.raises(errors.NotFoundError):
        list(client.runs.samples("a/../b"))
    with pytest.raises(errors.NotFoundError):
        client.runs.wait("run_none")
    with pytest.raises(errors.DatasetError):
        client.runs.create(DOCUMENT, dataset="gone.jsonl")
    run = client.runs.create(DOCUMENT, routes=["up/slow"], baseline=None)
    with pytest.raises(errors.ConflictError):
        client.runs.delete(run["id"])
    client.runs.cancel(run["id"])
    with pytest.raises(errors.UpstreamConnectError), Client("http://127.0.0.1:1") as nobody:
        nobody.tasks()
    with pytest.raises(errors.UpstreamConnectError), Client("no address") as nowhere:
        nowhere.tasks()
    with pytest.raises(errors.UpstreamConnectError), Client("no address") as nowhere:
        nowhere.runs.wait("run")


def test_a_server_that_asks_for_keys(url, folder):
    made = subprocess.run(
        router_command("key", "create", "me", "--admin", "--json"),
        capture_output=True,
        text=True,
        check=True,
    )
    key = json.loads(made.stdout)["key"]
    with gateway((folder / "evalrouter.yaml").read_text()) as locked:
        with Client(locked) as client, pytest.raises(errors.AuthenticationError):
            client.runs.list()
        with Client(locked, api_key=key) as client:
            assert client.runs.list() == []
            assert key not in repr(client)


def serve_bytes(answer):
    """A server that answers one connection with these bytes, then closes it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer_one():
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(answer)
        connection.close()
        listener.close()

    threading.Thread(target=answer_one).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_an_upload_says_how_long_it_is_and_whose(folder, kind):
    """So that a server refuses a file that is too large before it has all of it."""
    headers, path = {}, folder / "data.jsonl"

    async def answer(reader, writer):
        await reader.readline()
        while line := (await reader.readline()).strip():
            name, _, value = line.decode().lower().partition(": ")
            headers[name] = value
        await reader.readuntil(path.read_bytes())
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        if kind is Client:
            with Client(url, api_key="er-1") as client:
                await asyncio.to_thread(client.datasets.upload, path)
        else:
            async with AsyncClient(url, api_key="er-1") as client:
                await client.datasets.upload(path)
    assert headers["authorization"] == "bearer er-1"
    assert headers["content-length"] == str(path.stat().st_size)
    assert "transfer-encoding" not in headers


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            errors.UpstreamProtocolError,
            "did not answer with JSON",
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello",
            errors.UpstreamConnectError,
            "http://",
        ),
        (b"HTTP/1.1 502 Bad\r\ncontent-length: 4\r\n\r\nnope", errors.EvalrouterError, "HTTP 502"),
        (b"HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\n[]", errors.NotFoundError, "HTTP 404"),
        (b"nonsense\r\n\r\n", errors.UpstreamConnectError, "http://"),
    ],
)
def test_what_is_no_evalrouter_is_told(answer, kind, told):
    with Client(serve_bytes(answer)) as client, pytest.raises(kind, match=told):
        client.tasks()


@pytest.fixture
def port():
    with reserved_port() as port:
        yield str(port)


def test_waiting_goes_on_when_the_server_is_restarted(folder, port):
    seen = []
    with Client(f"http://127.0.0.1:{port}") as client:
        with process(folder, "--port", port) as (server, _):
            run = client.runs.create(
                DOCUMENT, routes=["up/slow"], baseline=None, limits={"concurrency": 1}
            )
            thread_result = []
            waiting = threading.Thread(
                target=lambda: thread_result.append(
                    client.runs.wait(run["id"], progress=seen.append)
                )
            )
            waiting.start()
            while not any(one["answered"] for one in seen):
                waiting.join(0.02)
            server.send_signal(signal.SIGKILL)
            server.wait()
        with process(folder, "--port", port):
            waiting.join(60)
    [outcome] = thread_result
    assert outcome["run"]["state"] == "completed"
    assert outcome["report"]["routes"][0]["answered"] == 12


async def test_the_other_client_does_the_same(url, folder):
    async with AsyncClient(url) as client:
        kept = await client.datasets.upload(folder / "data.jsonl", name="rows")
        run = await client.runs.create(
            DOCUMENT, dataset=f"rows@{kept['hash']}", experiment="study", name="awaited"
        )
        seen = []
        outcome = await client.runs.wait(run["id"], progress=seen.append)
        assert outcome["run"]["state"] == seen[-1]["state"] == "completed"
        rows = [row async for row in client.runs.samples(run["id"], page=7)]
        assert len(rows) == 24
        assert len(await client.runs.samples(run["id"]).to_pandas()) == 24
        assert (await client.runs.scores(run["id"])).to_pandas()["n"].eq(12).all()
        assert [one["name"] for one in await client.runs.list(experiment="study")] == ["awaited"]
        assert len(await client.experiments.entries("study")) == 6
        assert (await client.compare(run["id"]))["contrasts"]
        path = await client.datasets.download("rows", folder / "back.jsonl")
        assert path.read_bytes() == (folder / "data.jsonl").read_bytes()
        slow = await client.runs.create(
            DOCUMENT, routes=["up/slow"], baseline=None, limits={"concurrency": 1}
        )
        with pytest.raises(TimeoutError):
            await client.runs.wait(slow["id"], timeout=0.05)
        waiting = asyncio.create_task(client.runs.wait(slow["id"]))
        await client.runs.cancel(slow["id"])
        assert (await waiting)["run"]["state"] == "cancelled"
        with pytest.raises(errors.NotFoundError):
            await client.runs.report("run_none")


def test_the_synchronous_client_is_generated_from_the_asynchronous_one():
    committed = TARGET.read_text(encoding="utf-8")
    assert committed == synchronous(SOURCE.read_text(encoding="utf-8")), "run `make client`"
    assert committed.startswith("# Generated from `asynchronous.py` by `make client`")
    assert not re.search(r"async(?!hronous)|await\b(?!ed)", committed.partition('"""\n')[2])


def test_names_and_keywords_are_replaced_and_nothing_else():
    source = '''"""A module."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator


class AsyncOne:
    async def __aiter__(self) -> AsyncIterator[str]:
        """For `async for` over an AsyncOne."""
        async for row in await self.aread(time.time()):
            yield row
        await asyncio.sleep(1)
        await asyncio.to_thread(self.path.open, "await it")
'''
    assert (
        synchronous(source).partition("annotations\n")[2]
        == '''
import time
from collections.abc import Iterator


class One:
    def __iter__(self) -> Iterator[str]:
        """For `for` over an One."""
        yield from self.read(time.time())
        time.sleep(1)
        self.path.open("await it")
'''
    )
