"""`evalrouter traffic`: list, delete and seal."""

import asyncio
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import click.testing
import pytest
from stores import sqlite_store

from router.cli import main
from router.records import Record, Target
from router.sealing.job import LEASE
from router.store.traffic import TrafficFilter


async def fill(path):
    async with sqlite_store(path) as store:
        await store.keep_traffic(
            [
                Record(id=f"req_{n}", at=2e9, route="ab"[n % 2], key_id=f"key_{n % 3}", keep="full",
                       user="ann" if n == 8 else "",
                       target=Target("p", "m"), request=b"{}")
                for n in range(12)
            ]
        )  # fmt: skip


async def listed(path):
    async with sqlite_store(path) as store:
        return [row.id for row in await store.traffic(TrafficFilter())]


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evalrouter.yaml").write_text("storage: {database: 'sqlite:///a.db'}\n")
    asyncio.run(fill(tmp_path / "a.db"))
    return tmp_path / "a.db"


def test_requests_are_listed(path):
    def run(*args, code=0):
        result = click.testing.CliRunner().invoke(main, ["traffic", "list", *args])
        assert result.exit_code == code, result.output
        return result.stdout if code == 0 else result.stderr

    def ids(*args):
        return [row["id"] for row in json.loads(run(*args, "--json"))]

    assert ids("--limit", "2") == ["req_11", "req_10"]
    assert ids("--user", "ann") == ["req_8"]
    assert ids("--route", "b", "--where", "user == '' and id in ['req_3', 'req_4']") == ["req_3"]
    assert ids("--text", "refund", "--until", "2001-01-01") == []
    assert "req_11" in run()
    assert "No request matches" in run("--status", "4xx")
    for args in (
        ("--where", "colour == 1"),
        ("--status", "9"),
        ("--since", "yesterday"),
        ("--key", "nobody"),
        ("--route", ""),
        ("--metadata", "=x"),
    ):
        assert run(*args, code=2).count("\n") == 1


def test_what_is_selected_is_deleted_and_nothing_else(path):
    def run(*args, code=0):
        result = click.testing.CliRunner().invoke(main, ["traffic", "delete", *args])
        assert result.exit_code == code, result.output
        return result.stdout if code == 0 else result.stderr

    assert "which requests to delete" in run(code=2)
    assert run("req_5") == "1 request deleted\n"
    assert run("req_5") == "0 requests deleted\n"
    assert json.loads(run("--key", "key_1", "--route", "a", "--json")) == {
        "deleted": 2,
        "related": 0,
        "elsewhere": [],
    }
    assert json.loads(run("--target", "p/other", "--json")) == {
        "deleted": 0,
        "related": 0,
        "elsewhere": [],
    }
    assert run("--user", "ann", "--route", "b") == "0 requests deleted\n"
    assert run("--user", "ann") == "1 request deleted\n"
    # A provider's recording has texts without ids.
    Path("bug.jsonl").write_text("{}\n")
    Path("evalrouter.yaml").write_text(
        "storage: {database: 'sqlite:///a.db'}\nproviders:\n"
        "  up: {kind: compatible, base_url: 'http://127.0.0.1:9', record: bug.jsonl}\n"
        "  other: {kind: compatible, base_url: 'http://127.0.0.1:9', record: none.jsonl}\n"
    )
    elsewhere = json.loads(run("req_5", "--json"))["elsewhere"]
    assert elsewhere == ["providers.up.record: bug.jsonl"]
    result = click.testing.CliRunner().invoke(main, ["traffic", "delete", "req_5"])
    assert "texts of requests may also be in providers.up.record: bug.jsonl" in result.stderr
    for option in ("--user", "--key", "--route", "--target"):
        assert f"{option} must not be empty" in run(option, "", code=2)
    assert asyncio.run(listed(path)) == [f"req_{n}" for n in (11, 9, 7, 6, 3, 2, 1, 0)]


def test_old_requests_are_moved_into_files_and_still_deleted(path, tmp_path):
    def run(*args, code=0):
        result = click.testing.CliRunner().invoke(main, ["traffic", *args])
        assert result.exit_code == code, result.output
        return result.stdout if code == 0 else result.stderr

    day = time.time() // 86400 * 86400 - 3 * 86400
    folder = f"artifacts/traffic/{datetime.fromtimestamp(day, UTC):%Y-%m-%d}"

    async def add():
        async with sqlite_store(path) as store:
            await store.keep_traffic(
                [Record(id=f"old_{n}", at=day + n, user="ann", route="a") for n in range(5)]
            )

    asyncio.run(add())
    assert "after how many days" in run("seal", code=2)
    assert run("seal", "--after-days", "0.5").startswith("5 requests moved into 1 file (")
    assert json.loads(run("seal", "--after-days", "1", "--json"))["requests"] == 0
    assert [name for name in asyncio.run(listed(path)) if name.startswith("old")] == []
    assert len(list(tmp_path.glob(f"{folder}/*.parquet"))) == 1
    assert run("delete", "old_3") == "1 request deleted\n"
    assert json.loads(run("delete", "--user", "ann", "--json")) == {
        "deleted": 5,
        "related": 0,
        "elsewhere": [],
    }
    assert list(tmp_path.glob(f"{folder}/*.parquet")) == []


def test_two_do_not_seal_at_once(path):
    async def claim():
        async with sqlite_store(path) as store:
            assert await store.claim_lease(LEASE, "another", 60.0)

    asyncio.run(claim())
    result = click.testing.CliRunner().invoke(main, ["traffic", "seal", "--after-days", "1"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "another process is sealing requests" in result.stderr
