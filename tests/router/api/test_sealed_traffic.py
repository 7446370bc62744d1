"""A server seals old requests by itself, and its paths show and delete them as before."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing

import httpx
import pytest
from sealed_requests import COUNT, records
from servers import gateway
from stores import sqlite_store


def test_a_server_seals_old_requests_and_shows_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def fill():
        async with sqlite_store(tmp_path / "s.db") as store:
            await store.keep_traffic(records())

    def live() -> int:
        with closing(sqlite3.connect(tmp_path / "s.db")) as db:
            return db.execute("SELECT count(*) FROM traffic").fetchone()[0]

    asyncio.run(fill())
    storage = "database: 'sqlite:///s.db', artifacts: files, traffic_days: 0, seal_after_days: 1"
    with gateway(f"storage: {{{storage}}}") as url, httpx.Client(base_url=url, timeout=60) as http:
        while live():
            time.sleep(0.05)
        assert list(tmp_path.glob("files/traffic/*/*.parquet"))
        ids: list[str] = []
        page: dict = {"next": None}
        while page["next"] is not None or not ids:
            before = {} if page["next"] is None else {"before": page["next"]}
            page = http.get("/traffic", params={"limit": 400, **before}).json()
            ids += [row["id"] for row in page["data"]]
        assert ids == [record.id for record in reversed(records())]
        errors = http.get("/traffic?status=error&route=x&limit=500").json()["data"]
        assert len(errors) == sum(r.route == "x" and r.status >= 400 for r in records())
        totals = http.get("/traffic/totals?since=0&by=route").json()
        assert sum(total["requests"] for total in totals["data"]) == COUNT
        assert totals["complete"]
        assert http.get("/traffic/req_20").json()["response"] == "answer 20" * 20
        done = {"related": 0, "complete": True, "elsewhere": []}
        assert http.delete("/traffic/req_20").json() == {"deleted": 1, **done}
        assert http.get("/traffic/req_20").status_code == 404
        assert http.delete("/traffic/req_20").status_code == 404
        gone = sum(record.user == "user_9" for record in records())
        assert http.delete("/traffic?user=user_9").json() == {"deleted": gone, **done}
        assert http.get("/traffic?user=user_9").json()["data"] == []


@pytest.mark.parametrize("days", ["-1", "often", "nan"])
def test_a_number_of_days_that_is_none_is_refused(days):
    from providers.errors import ConfigError
    from router.config.loading import parse

    with pytest.raises(ConfigError, match="seal_after_days"):
        parse(f"storage: {{seal_after_days: {days}}}", "c.yaml", {})
