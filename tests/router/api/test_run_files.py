"""A run's log and its rows over HTTP: read, followed and downloaded."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import time
from contextlib import aclosing

import httpx
import pytest
from click.testing import CliRunner
from servers import finished, gateway, scripted
from stores import a_run, some_samples, sqlite_store

from providers.errors import RateLimitError
from router.api import feeds
from router.api.export import MAX_DOWNLOADS, STALLED_S, Downloads
from router.api.following import Followers
from router.cli import main

SECRET = "sk-very-secret-0123456789"
CHATTY = f"""
import sys


def score(answer, references, row):
    print("scored", row["input"])
    print("{SECRET}", file=sys.stderr)
    return 1.0
"""
MODELS = {
    "echo": [{"answer": '=1+1 ü\n"quoted", line'}],
    "flaky": [{"status": 500, "times": 1}, {"answer": "fine"}],
    "busy": [
        {"status": 429, "headers": {"retry-after-ms": "1"}, "times": 2},
        {"answer": "fine"},
    ],
    "down": [{"status": 500, "body": {"error": {"message": f"broken {SECRET}", "type": "x"}}}],
    "slow": [{"answer": "late", "delay_s": 3600}],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    rows = ({"input": f"question {n}", "reference": "fine"} for n in range(3))
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with scripted(MODELS) as upstream:
        config = f"""
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
evaluation: {{roots: ["{folder}"]}}
datasets: {{roots: ["{folder}"]}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}", api_key: {SECRET}}}}}
routes:
  flaky: {{targets: [{{model: up/flaky}}], retries: {{attempts: 3, backoff: 0.001, budget: 100}}}}
"""
        (folder / "evalrouter.yaml").write_text(config)
        with gateway(config) as url, httpx.Client(base_url=url, timeout=60) as http:
            yield folder, http


def begun(http, folder, **changes):
    document = {"dataset": f"{folder}/d.jsonl", "routes": ["up/echo"], "metrics": ["length"]}
    answer = http.post("/eval", json={**document, **changes})
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def ended(http, run):
    finished(http, run)
    return run


def log_of(http, run, **params):
    return http.get(f"/eval/{run}/logs", params=params).json()["data"]


def events_of(http, path, **options):
    """Return the events of a stream until its end."""
    with http.stream("GET", path, **options) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = list(answer.iter_lines())
    names = [line[7:] for line in lines if line.startswith("event: ")]
    data = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    return list(zip(names, data, strict=True))


@pytest.fixture(scope="module")
def failing(server):
    """A run whose requests are repeated, and fail with a secret in the error."""
    folder, http = server
    return ended(http, begun(http, folder, routes=["flaky", "up/down", "up/echo"]))


def test_a_log_has_states_retries_and_errors_by_target(server, failing):
    _, http = server
    lines = log_of(http, failing)
    states = [line["text"] for line in lines if line["kind"] == "state"]
    assert states == ["queued", "running", "completed"]
    retries = [line for line in lines if line["kind"] == "retry" and line["source"] == "up/flaky"]
    assert sum(line["times"] for line in retries) == 1
    errors = [line for line in lines if line["kind"] == "error"]
    assert {line["source"] for line in errors} == {"up/down"}
    assert sum(line["times"] for line in errors) == 3
    assert "broken ***" in errors[0]["text"]
    assert [line["number"] for line in lines] == sorted({line["number"] for line in lines})


def test_a_rate_limit_that_is_waited_for_is_no_error_in_the_log(server):
    folder, http = server
    run = ended(http, begun(http, folder, routes=["up/busy"]))
    assert len(http.get(f"/eval/{run}/rows.jsonl").text.splitlines()) == 3
    lines = [line for line in log_of(http, run) if line["kind"] != "state"]
    assert {line["kind"] for line in lines} == {"retry"}
    assert {line["text"] for line in lines} == {"upstream_429 (status 429)"}
    assert sum(line["times"] for line in lines) == 2


def test_no_log_has_a_secret(server, failing):
    _, http = server
    assert SECRET not in http.get(f"/eval/{failing}/logs").text
    assert SECRET not in json.dumps(events_of(http, f"/eval/{failing}/logs?follow=true"))


def test_a_log_is_read_in_pages(server, failing):
    _, http = server
    lines, after = [], 0
    while after is not None:
        page = http.get(f"/eval/{failing}/logs", params={"limit": 2, "after": after}).json()
        lines += page["data"]
        after = page["next"]
    assert lines == log_of(http, failing, limit=1000)


def test_a_log_is_followed_to_the_end_of_its_run(server):
    folder, http = server
    run = begun(http, folder, routes=["up/echo"], limits={"seconds": 3600})
    events = events_of(http, f"/eval/{run}/logs?follow=true")
    assert events[-1][0] == "end"
    assert events[-1][1]["state"] == "completed"
    assert [line for name, line in events if name == "log"] == log_of(http, run)
    # Whoever comes back after a lost connection gets the rest only.
    known = events[0][1]["number"]
    for options in (
        {"params": {"follow": True, "after": known}},
        {"params": {"follow": True}, "headers": {"last-event-id": str(known)}},
    ):
        again = events_of(http, f"/eval/{run}/logs", **options)
        assert again == events[1:]


def test_a_cancelled_run_says_so(server):
    folder, http = server
    run = begun(http, folder, routes=["up/slow"])
    while "running" not in [line["text"] for line in log_of(http, run)]:
        time.sleep(0.02)
    assert http.post(f"/eval/{run}/cancel").status_code == 200
    ended(http, run)
    texts = [line["text"] for line in log_of(http, run)]
    assert texts[-2:] == ["to be cancelled", "cancelled"]
    assert http.delete(f"/eval/{run}").status_code == 204
    assert http.get(f"/eval/{run}/logs").status_code == 404


def test_what_a_metric_prints_is_in_the_log(server, monkeypatch):
    folder, _ = server
    monkeypatch.chdir(folder)
    (folder / "chatty.py").write_text(CHATTY)
    document = {"dataset": "d.jsonl", "routes": ["up/echo"], "metrics": ["file:chatty.py"]}
    (folder / "run.json").write_text(json.dumps(document))
    done = CliRunner().invoke(main, ["eval", "run", "run.json", "--json"])
    assert done.exit_code == 0, done.output
    run = json.loads(done.stdout)["run"]["id"]
    shown = CliRunner().invoke(main, ["eval", "logs", run, "--follow", "--json"]).stdout
    lines = [json.loads(line) for line in shown.splitlines()]
    output = [line["text"] for line in lines if line["kind"] == "output"]
    assert len([text for text in output if text.startswith("scored ")]) == 3
    assert output.count("***") == 3
    plain = CliRunner().invoke(main, ["eval", "logs", run]).stdout
    assert "state  completed" in plain
    assert SECRET not in shown + plain


async def test_thousands_of_followers_ask_the_database_once(tmp_path):
    async with sqlite_store(tmp_path / "e.db") as store:
        await store.add_run(a_run(), some_samples())
        followers = Followers(store)
        seen = []
        note = seen.append

        async def follow():
            async with followers.follow("run_1") as snapshots:
                async for snapshot in snapshots:
                    note(snapshot.run.state)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(follow()) for _ in range(feeds.MAX_FOLLOWERS)]
            while len(seen) < len(tasks):
                await asyncio.sleep(0)
            with pytest.raises(RateLimitError, match="follow runs"):
                followers.check_room()
            # One that leaves makes room.
            tasks[0].cancel()
            await asyncio.gather(tasks[0], return_exceptions=True)
            followers.check_room()
            polling = [task for task in asyncio.all_tasks() if "followers of" in task.get_name()]
            assert len(polling) == 1
            await store.update_run("run_1", state="completed")
        assert seen.count("completed") == len(tasks) - 1
        followers.check_room()


# rows


@pytest.fixture(scope="module")
def run(server):
    folder, http = server
    return ended(http, begun(http, folder, routes=["up/echo", "flaky"], name="rows"))


def test_rows_are_those_of_an_export(server, run, tmp_path):
    _, http = server
    manifest = http.post(f"/eval/{run}/export").json()
    assert http.get(f"/eval/{run}/export").json() == manifest
    for file in manifest["files"]:
        exported = http.get(f"/eval/{run}/export/{file['name']}")
        assert len(exported.content) == file["size"]
        if file["name"].startswith("rows."):
            downloaded = http.get(f"/eval/{run}/{file['name']}")
            assert downloaded.status_code == 200
            assert downloaded.headers["content-disposition"].endswith(
                f'{run}.{file["name"].partition(".")[2]}"'
            )
            if file["name"] == "rows.csv":
                assert downloaded.headers["content-type"] == "text/csv; charset=utf-8"
            if file["name"] != "rows.parquet":
                assert downloaded.content == exported.content
    download = http.get(f"/eval/{run}/rows.csv")
    assert download.headers["content-type"] == "text/csv; charset=utf-8"
    table = csv.DictReader(io.StringIO(download.text, newline=""))
    rows = list(table)
    assert len(rows) == 6
    assert '=1+1 ü\n"quoted", line' in {row["text"] for row in rows}
    assert all(float(row["score.words"]) > 0 for row in rows)
    lines = http.get(f"/eval/{run}/rows.jsonl").text.splitlines()
    assert len(lines) == 6


def test_parquet_has_the_rows_too(server, run):
    parquet = pytest.importorskip("pyarrow.parquet")
    _, http = server
    table = parquet.read_table(io.BytesIO(http.get(f"/eval/{run}/rows.parquet").content))
    assert table.num_rows == 6


@pytest.mark.parametrize("name", ["..%2Fmanifest.json", "secret.txt", "rows.csv%00", "e.db"])
def test_only_files_of_an_export_are_downloaded(server, run, name):
    _, http = server
    http.post(f"/eval/{run}/export")
    answer = http.get(f"/eval/{run}/export/{name}")
    assert answer.status_code in (400, 404)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_what_was_not_exported_is_not_there(server, failing):
    _, http = server
    answer = http.get(f"/eval/{failing}/export")
    assert answer.status_code == 404
    assert "POST" in answer.json()["error"]["message"]
    assert http.get(f"/eval/{failing}/export/rows.csv").status_code == 404


def test_rows_of_a_run_under_way_and_of_none(server):
    folder, http = server
    run = begun(http, folder, routes=["up/slow"])
    for kind in ("csv", "jsonl", "parquet"):
        assert http.get(f"/eval/{run}/rows.{kind}").status_code == 200
        assert http.get(f"/eval/run_nothing/rows.{kind}").status_code == 404
        assert http.head(f"/eval/{run}/rows.{kind}").status_code == 200
    assert http.get(f"/eval/{run}/rows.xlsx").status_code == 404
    http.post(f"/eval/{run}/cancel")


async def test_downloads_that_nobody_reads_give_way():
    now = 0.0
    downloads = Downloads(lambda: now)
    taken = []

    async def chunks():
        while True:
            yield b"a"

    async def send(name, reads):
        async with aclosing(downloads.bounded(chunks())) as sent:
            async for _ in sent:
                taken.append(name)
                await reads.acquire()

    reads = [asyncio.Semaphore(0) for _ in range(MAX_DOWNLOADS)]
    tasks = [asyncio.create_task(send(name, reads[name])) for name in range(MAX_DOWNLOADS)]
    while len(taken) < MAX_DOWNLOADS:
        await asyncio.sleep(0)
    with pytest.raises(RateLimitError):
        await anext(downloads.bounded(chunks()))
    now = STALLED_S
    reads[0].release()
    while taken.count(0) < 2:
        await asyncio.sleep(0)
    another = downloads.bounded(chunks())
    assert await anext(another) == b"a"
    assert await asyncio.wait({tasks[1]}) == ({tasks[1]}, set())
    assert tasks[1].cancelled()
    assert not any(task.done() for task in (tasks[0], *tasks[2:]))
    await another.aclose()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_as_many_tables_are_written_as_the_disk_can_take():
    downloads = Downloads()

    async def chunks():
        yield b"a"
        yield b"b"

    begun = [downloads.bounded(chunks()) for _ in range(MAX_DOWNLOADS)]
    for download in begun:
        assert await anext(download) == b"a"
    with pytest.raises(RateLimitError):
        await anext(downloads.bounded(chunks()))
    await begun[0].aclose()
    assert [chunk async for chunk in downloads.bounded(chunks())] == [b"a", b"b"]
    for download in begun:
        await download.aclose()
